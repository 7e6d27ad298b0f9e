"""Cross-validation: the predictions of all folds are put together and scored once, as in the paper (Sec. IV-B)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from svfap.console import counted
from svfap.data.manifest import read_manifest
from svfap.data.prepared import Fold, PreparedDataset
from svfap.errors import UserError
from svfap.evaluation import predictions as tables
from svfap.evaluation.metrics import flat_scores
from svfap.evaluation.predictions import (
    FRAMES_FILE,
    METRICS_FILE,
    PREDICTIONS_FILE,
    UNREADABLE_FILE,
    EvaluationPredictions,
    score_predictions,
)


class IncompleteFolds(UserError):
    """Folds that are not evaluated, or not on all their videos."""


def read_fold(dataset: PreparedDataset, fold: Fold, folder: Path) -> EvaluationPredictions:
    """Read `predictions.csv`, and `frames.csv` of a frame-level model, of an evaluation on the test part of a fold.

    Groups are those of the manifest. Without `predictions.csv` the table is empty. Raises `UserError` where videos, classes
    or dimensions are not those of the dataset.
    """
    assert fold.test is not None and dataset.task != "unlabelled"
    names: dict[str, Any] = {"label_names" if dataset.task == "classification" else "dimensions": dataset.label_names}
    manifest = read_manifest(fold.test, root=dataset.root, task=dataset.task, frame_level=dataset.frame_level, **names)
    groups = {sample.key: sample.group or "" for sample in manifest}
    videos, frames, metrics = pd.DataFrame(), None, metrics_in(folder)
    if (file := folder / PREDICTIONS_FILE).is_file():
        videos = _read(file, dataset)
        tables.require_whole(file, videos, ["path"], metrics.get("num_evaluated"))
        stray = videos["path"][~videos["path"].isin(list(groups))]
        if len(stray):
            raise UserError(
                f"{file}: {stray.iloc[0]} is not in {fold.test}; evaluate fold {fold.name} on its own test part"
            )
        videos["group"] = "" if dataset.frame_level else videos["path"].map(groups)
        if (file := folder / FRAMES_FILE).is_file():
            frames = _read(file, dataset)
            tables.require_whole(file, frames, ["path", "frame"], metrics.get("frames", {}).get("num_samples"))
            if set(frames["path"]) != set(videos["path"]):
                raise UserError(f"{file}: its frames are not those of {PREDICTIONS_FILE}; evaluate the fold again")
    left_out = metrics.get("num_unannotated", 0)
    return EvaluationPredictions(
        dataset.task, dataset.label_names, videos, len(groups) - left_out, frames, num_unannotated=left_out,
        settings=metrics.get("settings", {}),
    )  # fmt: skip


def metrics_in(folder: Path) -> dict[str, Any]:
    """What `metrics.json` of an evaluation holds; empty without one. Raises `UserError` for a damaged one."""
    file = folder / METRICS_FILE
    try:
        return dict(json.loads(file.read_text())) if file.is_file() else {}
    except (ValueError, TypeError, OSError) as error:
        raise UserError(f"{file}: cannot be read as JSON ({error}); evaluate again") from None


def differing_settings(found: Mapping[str, EvaluationPredictions]) -> str:
    """The settings in which evaluations, by name, differ, and which has what; '' for none. Unknown settings do not count."""
    known = {name: one.settings for name, one in found.items() if one.settings}
    parts = []
    for setting in dict.fromkeys(key for settings in known.values() for key in settings):
        names_of: dict[str, list[str]] = {}
        for name, settings in known.items():
            value = settings.get(setting)
            names_of.setdefault(json.dumps(value).strip('"') if value else "not set", []).append(name)
        if len(names_of) > 1:
            parts.append(f"{setting}: " + ", ".join(f"{value} for {', '.join(names_of[value])}" for value in names_of))
    return "; ".join(parts)


def _read(file: Path, dataset: PreparedDataset) -> pd.DataFrame:
    table = tables.read_predictions(file)
    task, names = dataset.task, dataset.label_names
    needed = {"path", *tables.truth_columns(task, names), *tables.output_columns(task, names)}
    needed |= {"frame"} if file.name == FRAMES_FILE else set()
    if missing := needed - set(table.columns):
        raise UserError(f"{file}: has no column {', '.join(sorted(missing))}; its model is not one for {dataset.title}")
    return table


def pool_predictions(folds: Mapping[str, EvaluationPredictions]) -> dict[str, Any]:
    """Score the predictions of several folds, by name, together: the metrics of `score_predictions`; see `put_together`.

    Raises `UserError`, also for several labels in a group.
    """
    together = put_together(folds)
    return score_predictions(together, has_groups(together.videos), intervals=True)


def has_groups(videos: pd.DataFrame) -> bool:
    """Whether the pooled videos of all folds are scored by group: some have one."""
    return "group" in videos and bool((videos["group"] != "").any())


def put_together(folds: Mapping[str, EvaluationPredictions]) -> EvaluationPredictions:
    """The predictions of several folds, by name, as one test set; the table of videos has the column `fold`.

    Folds without predictions only add to `num_expected`. Where the tables have a column `group` with names, these are
    prefixed by the fold, as the outputs of a group are averaged within a fold; a video without a group is one by itself.

    Raises:
        UserError: a video in two folds; folds that were evaluated with other settings; frames of some folds only; no predictions.
    """
    found = {name: fold for name, fold in folds.items() if len(fold.videos)}
    if not found:
        raise UserError("no fold is evaluated; there is nothing to pool")
    if differing := differing_settings({f"fold {name}": fold for name, fold in found.items()}):
        raise UserError(f"the folds were evaluated with other settings ({differing}); evaluate all with the same")
    table = pd.concat([fold.videos.assign(fold=name) for name, fold in found.items()], ignore_index=True)
    repeated = table[table["path"].duplicated(keep=False)]
    if len(repeated):
        first = repeated["path"].iloc[0]
        listed = " and ".join(repeated["fold"][repeated["path"] == first])
        raise UserError(f"{first}: is in the test parts of folds {listed}; a video can be pooled only once")
    without = [name for name, fold in found.items() if fold.frames is None]
    if without and len(without) < len(found):
        raise UserError(
            f"fold {', '.join(without)}: has no {FRAMES_FILE} as the other folds have; "
            "evaluate with a frame-level model again"
        )
    if "group" in table:
        table["group"] = table["group"].fillna("")
        if has_groups(table):
            table["group"] = table["fold"] + "/" + table["group"].where(table["group"] != "", table["path"])
    one = next(iter(found.values()))
    return EvaluationPredictions(
        one.task, one.names, table, sum(fold.num_expected for fold in folds.values()),
        None if without else pd.concat([fold.frames for fold in found.values()], ignore_index=True),
        source=f"fold {', '.join(found)}", num_unannotated=sum(fold.num_unannotated for fold in folds.values()),
        settings=one.settings,
    )  # fmt: skip


def score_folds(
    dataset: PreparedDataset, folders: Mapping[str, Path], allow_incomplete: bool = False
) -> dict[str, Any]:
    """Score the predictions of all folds together, and those of each fold by themselves.

    folders: name of the fold -> folder of its evaluation (see `svfap.evaluation.evaluate.evaluate`).

    Returns:
        `pooled`, and `folds` (name -> the same for one fold): see `pool_predictions`. `mean`, `sd`: of every score over the
        folds that have it (names as in `flat_scores`; n - 1 in the denominator; `sd` is empty for a single fold).
        `incomplete`, `notes`: sentences about missing folds or videos, and about classes and dimensions without a score.

    Raises:
        IncompleteFolds: a fold is not evaluated, or videos of it could not be read, unless `allow_incomplete`.
        UserError: no fold is evaluated; predictions that do not belong to the dataset; see also `pool_predictions`.
    """
    folds = {fold.name: read_fold(dataset, fold, folders[fold.name]) for fold in dataset.folds}
    incomplete = [text for name, fold in folds.items() if (text := missing_in(f"fold {name}", fold, folders[name]))]
    if incomplete and not allow_incomplete:
        raise IncompleteFolds(
            f"{dataset.title}: cannot pool: {'; '.join(incomplete)}. Finish or correct them, or pool the rest with "
            "--allow_incomplete true"
        )
    pooled = pool_predictions(folds)
    by_fold = {name: pool_predictions({name: fold}) for name, fold in folds.items() if len(fold.videos)}
    notes = []
    if dataset.frame_level and "frames" not in pooled:
        notes.append(f"no evaluation has a {FRAMES_FILE}, so frames are not scored")
    several = {f"fold {name}": metrics for name, metrics in by_fold.items() if len(by_fold) > 1}
    scores = pd.DataFrame({name: flat_scores(metrics) for name, metrics in by_fold.items()})
    return {
        "pooled": pooled,
        "folds": by_fold,
        "mean": scores.mean(axis=1).to_dict(),
        "sd": scores.std(axis=1, ddof=1).dropna().to_dict(),
        "incomplete": incomplete,
        "notes": notes + _notes({"pooled": pooled, **several}),
    }


def missing_in(name: str, found: EvaluationPredictions, folder: Path) -> str:
    """What an evaluation in a folder lacks, as a sentence about `name`; '' for nothing."""
    if found.videos.empty:
        return f"{name} is not evaluated (no predictions in {folder})"
    if (count := found.num_expected - len(found.videos)) > 0:
        return f"{name}: {count} of {counted(found.num_expected, 'video')} could not be read (see {folder / UNREADABLE_FILE})"
    return ""


def _notes(scored: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """What the scores of each entry leave out, and why."""
    notes = []
    units = [(name, "video", metrics) for name, metrics in scored.items()]
    units += [(f"{name}, frames", "frame", metrics["frames"]) for name, _, metrics in units if "frames" in metrics]
    for name, unit, metrics in units:
        if absent := metrics.get("classes_absent"):
            notes.append(f"{name}: no {unit} of {', '.join(absent)}, which UAR leaves out")
        if constant := metrics.get("degenerate"):
            notes.append(f"{name}: truth or prediction of {', '.join(constant)} is constant, so PCC and CCC count as 0")
    return notes
