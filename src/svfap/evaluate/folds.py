"""Cross-validation: the predictions of all folds are put together and scored once, as in the paper (Sec. IV-B)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from svfap.data.manifest import read_manifest
from svfap.data.prepared import Fold, PreparedDataset
from svfap.errors import UserError
from svfap.evaluate.metrics import average_groups, flat_scores, score, score_frames
from svfap.evaluate.predictions import (
    FRAMES_FILE,
    PREDICTIONS_FILE,
    UNREADABLE_FILE,
    LabelledOutputs,
    labelled_outputs,
    output_columns,
    read_predictions,
    truth_columns,
)
from svfap.metric_table import SupervisedTask


class IncompleteFolds(UserError):
    """Folds that are not evaluated, or not on all their videos."""


@dataclass(frozen=True)
class FoldPredictions:
    """The predictions of one fold's model on its test part.

    table: one row per video that could be read, as in `predictions.csv`; its column `group`, where it has one, says which
    videos are averaged and scored once ('': the video by itself). num_expected: videos of the test part. frames: as in
    `frames.csv`, of a frame-level model; else None.
    """

    name: str
    table: pd.DataFrame
    num_expected: int
    frames: pd.DataFrame | None = None


def read_fold(dataset: PreparedDataset, fold: Fold, folder: Path) -> FoldPredictions:
    """Read `predictions.csv`, and `frames.csv` of a frame-level model, of an evaluation on the test part of a fold.

    Groups are those of the manifest. Without `predictions.csv` the table is empty. Raises `UserError` where videos, classes
    or dimensions are not those of the dataset.
    """
    assert fold.test is not None
    names: dict[str, Any] = {"label_names" if dataset.task == "classification" else "dimensions": dataset.label_names}
    manifest = read_manifest(fold.test, root=dataset.root, task=dataset.task, frame_level=dataset.frame_level, **names)
    groups = {sample.key: sample.group or "" for sample in manifest}
    file = folder / PREDICTIONS_FILE
    if not file.is_file():
        return FoldPredictions(fold.name, pd.DataFrame(), len(groups))
    table = _read(file, dataset)
    stray = table["path"][~table["path"].isin(list(groups)) | table["path"].duplicated()]
    if len(stray):
        raise UserError(
            f"{file}: {stray.iloc[0]} is not, or not once, in {fold.test}; evaluate fold {fold.name} on its own test part"
        )
    frames = None
    if (file := folder / FRAMES_FILE).is_file():
        frames = _read(file, dataset)
        if set(frames["path"]) != set(table["path"]) or frames.duplicated(["path", "frame"]).any():
            raise UserError(
                f"{file}: its frames are not, or not once, those of {PREDICTIONS_FILE}; evaluate the fold again"
            )
    table = table.assign(group="" if dataset.frame_level else table["path"].map(groups))
    return FoldPredictions(fold.name, table, len(groups), frames)


def _read(file: Path, dataset: PreparedDataset) -> pd.DataFrame:
    table = read_predictions(file)
    task, names = dataset.task, dataset.label_names
    needed = {"path", *truth_columns(task, names), *output_columns(task, names)}
    needed |= {"frame"} if file.name == FRAMES_FILE else set()
    if missing := needed - set(table.columns):
        raise UserError(f"{file}: has no column {', '.join(sorted(missing))}; its model is not one for {dataset.title}")
    return table


def pool_predictions(folds: Sequence[FoldPredictions], task: SupervisedTask, names: Sequence[str]) -> dict[str, Any]:
    """Score the predictions of several folds together.

    folds: those with predictions; the others only add to `num_expected`. names: classes or dimensions.

    Returns:
        The metrics of the task, with `num_expected` and `num_evaluated` videos. Where the tables have groups, the outputs
        of each group of a fold are averaged and every group is scored once; `num_groups` counts them. If there are frames,
        `frames` holds the metrics of the frames of all videos.

    Raises:
        UserError: a video in two folds; several labels in a group; frames of some folds only; no predictions.
    """
    found = [fold for fold in folds if len(fold.table)]
    if not found:
        raise UserError("no fold is evaluated; there is nothing to pool")
    table = pd.concat([fold.table.assign(fold=fold.name) for fold in found], ignore_index=True)
    repeated = table[table["path"].duplicated(keep=False)]
    if len(repeated):
        first = repeated["path"].iloc[0]
        listed = " and ".join(repeated["fold"][repeated["path"] == first])
        raise UserError(f"{first}: is in the test parts of folds {listed}; a video can be pooled only once")
    frames = [fold.frames for fold in found if fold.frames is not None]
    if frames and len(frames) < len(found):
        without = ", ".join(fold.name for fold in found if fold.frames is None)
        raise UserError(
            f"fold {without}: has no {FRAMES_FILE} as the other folds have; evaluate with a frame-level model again"
        )
    counts: dict[str, Any] = {
        "num_expected": sum(fold.num_expected for fold in folds),
        "num_evaluated": len(table),
    }
    where = f"fold {', '.join(fold.name for fold in found)}"
    _, _, targets, outputs = _arrays(table, where, task, names)
    if "group" in table and table["group"].fillna("").any():
        group = table["group"].fillna("")
        name = table["fold"] + "/" + group.where(group != "", table["path"])
        groups, outputs, targets = average_groups(name.tolist(), outputs, targets)
        counts["num_groups"] = len(groups)
    if frames:
        videos = [_arrays(rows, where, task, names) for one in frames for _, rows in one.groupby("path", sort=False)]
        counts["frames"] = score_frames(task, [v.targets for v in videos], [v.outputs for v in videos], names)
    return {**score(task, targets, outputs, names), **counts}


def _arrays(table: pd.DataFrame, where: str, task: SupervisedTask, names: Sequence[str]) -> LabelledOutputs:
    arrays = labelled_outputs(table, where, task, names)
    assert arrays is not None  # tables are not empty
    return arrays


def score_folds(
    dataset: PreparedDataset, folders: Mapping[str, Path], allow_incomplete: bool = False
) -> dict[str, Any]:
    """Score the predictions of all folds together, and those of each fold by themselves.

    folders: name of the fold -> folder of its evaluation (see `svfap.evaluate.evaluate.evaluate`).

    Returns:
        `pooled`, and `folds` (name -> the same for one fold): see `pool_predictions`. `mean`, `sd`: of every score over the
        folds that have it (names as in `flat_scores`; n - 1 in the denominator; `sd` is empty for a single fold).
        `incomplete`, `notes`: sentences about missing folds or videos, and about classes and dimensions without a score.

    Raises:
        IncompleteFolds: a fold is not evaluated, or videos of it could not be read, unless `allow_incomplete`.
        UserError: no fold is evaluated; predictions that do not belong to the dataset; see also `pool_predictions`.
    """
    folds = [read_fold(dataset, fold, folders[fold.name]) for fold in dataset.folds]
    incomplete = []
    for fold in folds:
        folder = folders[fold.name]
        if fold.table.empty:
            incomplete.append(f"fold {fold.name} is not evaluated (no predictions in {folder})")
        elif count := fold.num_expected - len(fold.table):
            incomplete.append(
                f"fold {fold.name}: {count} of {fold.num_expected} videos could not be read (see {folder / UNREADABLE_FILE})"
            )
    if incomplete and not allow_incomplete:
        raise IncompleteFolds(
            f"{dataset.title}: cannot pool: {'; '.join(incomplete)}. Finish or correct them, or pool the rest with "
            "--allow_incomplete true"
        )
    assert dataset.task != "unlabelled"
    pooled = pool_predictions(folds, dataset.task, dataset.label_names)
    by_fold = {
        fold.name: pool_predictions([fold], dataset.task, dataset.label_names) for fold in folds if len(fold.table)
    }
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


def _notes(scored: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """What is left out of the scores of each entry and why."""
    scored = {**scored, **{f"{where}, frames": one["frames"] for where, one in scored.items() if "frames" in one}}
    absent = [
        f"{where}: no {'frame' if where.endswith(', frames') else 'video'} of {', '.join(metrics['classes_absent'])}, "
        "which UAR leaves out"
        for where, metrics in scored.items()
        if metrics.get("classes_absent")
    ]
    constant = [
        f"{where}: truth or prediction of {', '.join(metrics['degenerate'])} is constant, so PCC and CCC count as 0"
        for where, metrics in scored.items()
        if metrics.get("degenerate")
    ]
    return absent + constant
