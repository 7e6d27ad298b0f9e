"""Predictions of all folds put together and scored once, the paper's rule for cross-validation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from svfap.data.manifest import read_manifest
from svfap.data.prepared import Fold, PreparedDataset
from svfap.errors import UserError
from svfap.evaluate.metrics import (
    REGRESSION_SCORES,
    average_groups,
    classification_metrics,
    frame_metrics,
    regression_metrics,
)

CLASSIFICATION_SCORES = ("uar", "war", "weighted_f1", "micro_f1", "macro_f1")


class IncompleteFolds(UserError):
    """Folds that are not evaluated, or not on all their videos."""


@dataclass(frozen=True)
class FoldPredictions:
    """What one fold's model said about its test part.

    table: one row per video that could be read: `path`, `fold`, `group` ('' where the manifest has none), the truth in
    `label` or `target_<name>`, and `prob_<name>` or `pred_<name>`. num_expected: videos of the manifest. frames: one row per
    frame that a frame-level model was shown: `path`, `frame`, truth and prediction as above; None of any other model.
    """

    name: str
    table: pd.DataFrame
    num_expected: int
    frames: pd.DataFrame | None = None


def read_fold(dataset: PreparedDataset, fold: Fold, folder: Path) -> FoldPredictions:
    """Read `predictions.csv`, and `frames.csv` of a frame-level model, of an evaluation on the fold's test part.

    Where there is no `predictions.csv`, the table is empty.

    Raises `UserError` where it tells of other videos, classes or dimensions than the dataset's.
    """
    words: dict[str, Any] = {"task": dataset.task, "frame_level": dataset.frame_level, "root": dataset.root}
    words["label_names" if dataset.task == "classification" else "dimensions"] = dataset.label_names
    assert fold.test is not None
    groups = {sample.key: sample.group or "" for sample in read_manifest(fold.test, **words)}
    file = folder / "predictions.csv"
    if not file.is_file():
        return FoldPredictions(fold.name, pd.DataFrame(), len(groups))
    table = _read(file, ["path", *_columns(dataset)], dataset)
    stray = table["path"][~table["path"].isin(list(groups)) | table["path"].duplicated()]
    if len(stray):
        raise UserError(
            f"{file}: {stray.iloc[0]} is not, or not once, in {fold.test}; evaluate fold {fold.name} on its own test part"
        )
    frames = None
    if (file := folder / "frames.csv").is_file():
        frames = _read(file, ["path", "frame", *_columns(dataset)], dataset)
        if set(frames["path"]) != set(table["path"]) or frames.duplicated(["path", "frame"]).any():
            raise UserError(
                f"{file}: its frames are not, or not once, those of predictions.csv; evaluate the fold again"
            )
    table = table.assign(group=table["path"].map(groups), fold=fold.name)
    return FoldPredictions(fold.name, table, len(groups), frames)


def _read(file: Path, columns: list[str], dataset: PreparedDataset) -> pd.DataFrame:
    text = dict.fromkeys(("path", "label", "prediction"), str)
    table = pd.read_csv(file, dtype=text, keep_default_na=False)
    missing = set(columns) - set(table.columns)
    if missing:
        raise UserError(f"{file}: has no column {', '.join(sorted(missing))}; its model is not one for {dataset.title}")
    return table


def pool(dataset: PreparedDataset, folders: Mapping[str, Path], allow_incomplete: bool = False) -> dict[str, Any]:
    """Score the folds' predictions together, and each fold by itself.

    folders: fold -> folder of its evaluation (see `svfap.evaluate.evaluate.evaluate`).

    Returns:
        `pooled` and `folds` (name -> the same): the task's metrics, with `num_expected` and `num_evaluated` videos; where
        the manifests have groups, those of each group's mean scores, and `num_groups`; of frame-level models `frames`
        holds those of all frames of all videos (and folds) put together. `mean`, `sd`: of every score
        over the folds that have it (see `flat_scores`; n - 1 in the denominator; `sd` is empty for a single fold).
        `incomplete`, `notes`: lists of sentences about what is missing and what is degenerate.

    Raises:
        IncompleteFolds: a fold is not evaluated, or videos of it could not be read, unless `allow_incomplete`.
        UserError: no fold is evaluated; predictions that do not belong to the dataset; a video in two test parts; some
            folds' models are frame-level and others' not.
    """
    read = [read_fold(dataset, fold, folders[fold.name]) for fold in dataset.folds]
    found = [one for one in read if len(one.table)]
    incomplete = []
    for one in read:
        folder = folders[one.name]
        if one.table.empty:
            incomplete.append(f"fold {one.name} is not evaluated (no predictions in {folder})")
        elif count := one.num_expected - len(one.table):
            incomplete.append(
                f"fold {one.name}: {count} of {one.num_expected} videos could not be read (see {folder / 'unreadable.csv'})"
            )
    if incomplete and not allow_incomplete:
        raise IncompleteFolds(
            f"{dataset.title}: cannot pool: {'; '.join(incomplete)}. Finish or mend it, or pool the rest with "
            "--allow_incomplete true"
        )
    if not found:
        raise UserError(f"{dataset.title}: no fold is evaluated; there is nothing to pool")
    together = pd.concat([one.table for one in found], ignore_index=True)
    twice = together[together["path"].duplicated(keep=False)]
    if len(twice):
        first = twice["path"].iloc[0]
        names = " and ".join(twice["fold"][twice["path"] == first])
        raise UserError(f"{first}: is in the test parts of folds {names}; videos are pooled once")
    of_frames = [one.frames for one in found if one.frames is not None]
    if of_frames and len(of_frames) < len(found):
        folder = next(folders[one.name] for one in found if one.frames is None)
        raise UserError(f"{folder}: has no frames.csv as the other folds have; evaluate with a frame-level model again")
    folds = {one.name: _score(dataset, one.table, one.num_expected, one.frames) for one in found}
    frames = pd.concat(of_frames, ignore_index=True) if of_frames else None
    pooled = _score(dataset, together, sum(one.num_expected for one in read), frames)
    notes = (
        ["no evaluation holds frames.csv, so frames are not scored"] if dataset.frame_level and not of_frames else []
    )
    scores = pd.DataFrame({name: flat_scores(metrics) for name, metrics in folds.items()})
    return {
        "pooled": pooled,
        "folds": folds,
        "mean": scores.mean(axis=1).to_dict(),
        "sd": scores.std(axis=1, ddof=1).dropna().to_dict(),
        "incomplete": incomplete,
        "notes": notes + _notes({"pooled": pooled, **{f"fold {n}": one for n, one in folds.items() if len(folds) > 1}}),
    }


def flat_scores(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Scores by plain names: `uar`, `accuracy_<class>` of classes that occur; `pcc`, `pcc_<dimension>`, and so on.

    Those of frames have `frame_` before them.
    """
    if "frames" in metrics:
        clips = {name: value for name, value in metrics.items() if name != "frames"}
        return flat_scores(clips) | {f"frame_{name}": value for name, value in flat_scores(metrics["frames"]).items()}
    if "confusion" in metrics:
        present = {n: one for n, one in metrics["per_class"].items() if n not in metrics["classes_absent"]}
        per_class = {f"accuracy_{name}": float(one["accuracy"]) for name, one in present.items()}
        return {**{name: float(metrics[name]) for name in CLASSIFICATION_SCORES}, **per_class}
    flat = {name: float(metrics[name]) for name in REGRESSION_SCORES}
    for dimension, scores in metrics["per_dimension"].items():
        flat |= {f"{name}_{dimension}": float(scores[name]) for name in REGRESSION_SCORES}
    return flat


def _columns(dataset: PreparedDataset) -> list[str]:
    if dataset.task == "classification":
        return ["label", *(f"prob_{name}" for name in dataset.label_names)]
    return [f"{kind}_{name}" for kind in ("target", "pred") for name in dataset.label_names]


def _score(
    dataset: PreparedDataset, table: pd.DataFrame, num_expected: int, frames: pd.DataFrame | None
) -> dict[str, Any]:
    counts: dict[str, Any] = {"num_expected": num_expected, "num_evaluated": len(table)}
    names = list(dataset.label_names)
    targets, outputs = _arrays(dataset, table)
    if (table["group"] != "").any() and not dataset.frame_level:
        own = table["group"].where(table["group"] != "", table["path"])  # a video without a group is one of its own
        groups, outputs, targets = average_groups((table["fold"] + "/" + own).tolist(), outputs, targets)
        counts["num_groups"] = len(groups)
    classes = dataset.task == "classification"
    if frames is not None and classes:
        counts["frames"] = classification_metrics(*_arrays(dataset, frames), names)
    elif frames is not None:
        videos = [_arrays(dataset, video) for _, video in frames.groupby("path", sort=False)]
        counts["frames"] = frame_metrics([truth for truth, _ in videos], [said for _, said in videos], names)
    return {**(classification_metrics if classes else regression_metrics)(targets, outputs, names), **counts}


def _arrays(dataset: PreparedDataset, table: pd.DataFrame) -> tuple[NDArray[Any], NDArray[np.float64]]:
    """Targets, (N,) class indices or (N, K) values, and outputs (N, K)."""
    names = list(dataset.label_names)
    if dataset.task == "classification":
        place = {name: number for number, name in enumerate(names)}
        targets = np.array([place[label] for label in table["label"]], np.int64)
        return targets, table[[f"prob_{name}" for name in names]].to_numpy(np.float64)
    targets, outputs = (table[[f"{kind}_{n}" for n in names]].to_numpy(np.float64) for kind in ("target", "pred"))
    return targets, outputs


def _notes(scored: Mapping[str, Mapping[str, Any]]) -> list[str]:
    frames = {f"{where}, frames": metrics["frames"] for where, metrics in scored.items() if "frames" in metrics}
    scored = {**scored, **frames}
    absent = [
        f"{where}: {'none' if where in frames else 'no video'} of {', '.join(metrics['classes_absent'])}, which UAR leaves out"
        for where, metrics in scored.items()
        if metrics.get("classes_absent")
    ]
    constant = [
        f"{where}: truth or prediction of {', '.join(metrics['degenerate'])} never varies, so PCC and CCC count as 0"
        for where, metrics in scored.items()
        if metrics.get("degenerate")
    ]
    return absent + constant
