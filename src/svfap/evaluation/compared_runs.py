"""The runs of a comparison: what each predicted on its test set, put in the same order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from svfap.console import counted
from svfap.data.prepared import read_dataset
from svfap.errors import UserError
from svfap.evaluation.confidence import SubjectScore, subject_scores
from svfap.evaluation.config import EVALUATION_FOLDER, FOLDS_FILE
from svfap.evaluation.folds import has_groups, metrics_in, missing_in, put_together, read_fold
from svfap.evaluation.pool import evaluation_of, folds_of
from svfap.evaluation.predictions import (
    FRAMES_FILE,
    GROUPS_FILE,
    METRICS_FILE,
    PREDICTIONS_FILE,
    Drawn,
    EvaluationPredictions,
    drawn_units,
    evaluated_heads,
    group_table,
    labelled_outputs,
    read_predictions,
    require_whole,
    task_and_names,
)
from svfap.metric_table import SupervisedTask


@dataclass(frozen=True)
class CommonRows:
    """Predictions of all runs for the same videos, groups or frames, in the same order.

    unit: what the N rows are. targets: (N,) or (N, K). outputs: folder -> (N, K). people: what a bootstrap draws. missing:
    sentence about what was left out.
    """

    task: SupervisedTask
    names: tuple[str, ...]
    unit: str
    targets: NDArray[Any]
    outputs: Mapping[Path, NDArray[np.float64]]
    people: Drawn
    missing: str = ""

    @property
    def num_people(self) -> int:
        return len(set(self.people.names))

    def scores(self, folder: Path) -> dict[str, SubjectScore]:
        """The scores of a run as sums over people."""
        return subject_scores(self.targets, self.outputs[folder], self.people.names, self.names)

    def hits(self, folder: Path) -> NDArray[np.bool_]:
        """Which rows a run classifies rightly."""
        return self.outputs[folder].argmax(axis=1) == self.targets


def read_run(folder: Path) -> tuple[EvaluationPredictions, list[str]]:
    """The predictions of a run on its test set, or of all folds of one; and what they lack, in sentences. Raises `UserError`."""
    if (folder / FOLDS_FILE).is_file():
        dataset = read_dataset(folds_of(folder)[1])
        dataset.require_tests(folder)
        places = {fold.name: evaluation_of(folder, fold) for fold in dataset.folds}
        folds = {fold.name: read_fold(dataset, fold, places[fold.name]) for fold in dataset.folds}
        lacking = [missing_in(f"{folder}, fold {name}", fold, places[name]) for name, fold in folds.items()]
        try:
            return put_together(folds), [*filter(None, lacking)]
        except UserError as error:
            raise UserError(f"{folder}: {error}") from None
    place = place_of_evaluation(folder)
    if not (place / PREDICTIONS_FILE).is_file():
        if heads := evaluated_heads(folder):
            listed = ", ".join(map(str, heads))
            raise UserError(f"{folder}: has several heads; name the evaluation of one, of {listed}")
        raise UserError(
            f"{folder}: holds no {PREDICTIONS_FILE} of `svfap evaluate`, itself or in evaluation/; evaluate it first"
        )
    videos = read_predictions(place / PREDICTIONS_FILE)
    known = task_and_names(videos)
    if known is None or videos.empty:
        raise UserError(
            f"{place / PREDICTIONS_FILE}: has no labels or values to compare with; evaluate it on a labelled test set"
        )
    metrics, frames = metrics_in(place), None
    if "num_expected" not in metrics:
        raise UserError(f"{place / METRICS_FILE}: is not there or not that of an evaluation; evaluate the run again")
    require_whole(place / PREDICTIONS_FILE, videos, ["path"], metrics.get("num_evaluated"))
    if (file := place / FRAMES_FILE).is_file():
        frames = read_predictions(file)
        require_whole(file, frames, ["path", "frame"], metrics.get("frames", {}).get("num_samples"))
    if not (place / GROUPS_FILE).is_file():
        videos = videos.drop(columns="group", errors="ignore") if frames is None else videos.assign(group="")
    found = EvaluationPredictions(
        *known, videos, metrics["num_expected"], frames, source=str(folder), settings=metrics.get("settings", {})
    )
    return found, [*filter(None, [missing_in(str(folder), found, place)])]


def place_of_evaluation(folder: Path) -> Path:
    """Where the evaluation of a run is: in the folder itself, or in evaluation/."""
    inner = folder / EVALUATION_FOLDER
    return inner if not (folder / PREDICTIONS_FILE).is_file() and (inner / PREDICTIONS_FILE).is_file() else folder


def _scored(predictions: EvaluationPredictions) -> tuple[pd.DataFrame, str, list[str]]:
    """The table that was scored, what its rows are, and the columns that tell them apart."""
    if predictions.frames is not None:
        return predictions.frames, "frame", ["path", "frame"]
    if has_groups(predictions.videos):
        return group_table(predictions), "group", ["group"]
    return predictions.videos, "video", ["path"]


def aligned(read: Mapping[Path, EvaluationPredictions], lacks: Sequence[str], allow_incomplete: bool) -> CommonRows:
    """The rows that all runs have. lacks: what runs lack, in sentences. Raises `UserError` for runs of other test sets."""
    (first, one), *others = read.items()
    table, unit, keys = _scored(one)
    indexed = {first: table.set_index(keys)}
    for folder, other in others:
        if (other.task, set(other.names)) != (one.task, set(one.names)):
            raise UserError(
                f"{folder}: predicts {', '.join(other.names)}, and {first} {', '.join(one.names)}; only runs with the same "
                "classes or dimensions can be compared"
            )
        scored, kind, _ = _scored(other)
        if kind != unit:
            raise UserError(f"{folder}: scores {kind}s, and {first} {unit}s; evaluate both in the same way")
        indexed[folder] = scored.set_index(keys)
    common = indexed[first].index
    for each in indexed.values():
        common = common[common.isin(each.index)]
    missing = ""
    if lacks or any(len(each) != len(common) for each in indexed.values()):
        sizes = ", ".join(f"{folder} {len(each)}" for folder, each in indexed.items())
        missing = f"common to all: {counted(len(common), unit)} ({sizes})"
        missing += "".join(f"; {text}" for text in lacks)
        if not allow_incomplete or common.empty:
            fix = (
                "are these of one test set?"
                if common.empty
                else "evaluate all on the same ones, or give `allow_incomplete`"
            )
            raise UserError(f"the runs are not of the same {unit}s: {missing}; {fix}")
    outputs, targets = {}, None
    for folder, each in indexed.items():
        chosen = each.loc[common].reset_index()
        arrays = labelled_outputs(chosen, folder, one.task, one.names)
        assert arrays is not None
        truth, values = arrays.targets, arrays.outputs
        if targets is not None and not np.allclose(truth, targets):
            wrong = np.flatnonzero(~np.isclose(truth, targets).reshape(len(truth), -1).all(axis=1))[0]
            raise UserError(
                f"{folder}: has another label of {chosen[keys[0]][wrong]} than {first}; evaluate both with the same"
            )
        outputs[folder], targets = values, truth
    people = drawn_units(indexed[first].loc[common].reset_index(), one.videos)
    if len(set(people.names)) < 2:
        raise UserError(f"{first}: a single {people.kind} is too few to compare")
    assert targets is not None
    return CommonRows(one.task, tuple(one.names), unit, targets, outputs, people, missing)
