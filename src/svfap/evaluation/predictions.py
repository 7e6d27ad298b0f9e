"""The predictions of a model on a test set: tables of videos, groups and frames, written, read, and scored.

`predictions.csv` has one row per video, `groups.csv` one per group of videos, `frames.csv` one per frame. Columns:
    path (group in groups.csv); frame in frames.csv (number in the video, from 0); of videos where known subject and group
    classification: label, prediction (both as names), and prob_<class> for every class
    regression: target_<dimension> for every dimension, then pred_<dimension> for every dimension
`features.npz` holds `features` (N, D) float32 and `paths` (N,).
"""

from __future__ import annotations

import io
import math
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from svfap.console import counted
from svfap.data.split import units_of
from svfap.errors import UserError
from svfap.evaluation import metrics
from svfap.evaluation.confidence import LEVEL, interval, subject_scores
from svfap.evaluation.config import EVALUATION_FOLDER
from svfap.files import write_atomically
from svfap.metric_table import SupervisedTask, interval_text, metric_heading, metric_keys

PREDICTIONS_FILE, GROUPS_FILE, FRAMES_FILE = "predictions.csv", "groups.csv", "frames.csv"
FEATURES_FILE, UNREADABLE_FILE, METRICS_FILE = "features.npz", "unreadable.csv", "metrics.json"
# read as text even if they look like numbers
TEXT_COLUMNS = ("path", "label", "prediction", "subject", "group", "fold")


class Drawn(NamedTuple):
    """What a bootstrap draws. names: (N,) object, for each row. kind: what most are, in words. caution: why they are not people,
    and what that does to intervals; '' where they are.
    """

    names: NDArray[np.object_]
    kind: str
    caution: str


class LabelledOutputs(NamedTuple):
    """A predictions table as arrays.

    names: K classes or dimensions. targets: (N,) int64 class indices or (N, K) float64 values. outputs: (N, K) float64
    probabilities or values.
    """

    task: SupervisedTask
    names: tuple[str, ...]
    targets: NDArray[Any]
    outputs: NDArray[np.float64]


@dataclass(frozen=True)
class EvaluationPredictions:
    """The predictions for a test set of `num_expected` videos.

    names: classes or dimensions. videos: as in `predictions.csv`, one row per video that could be read, in the order of the
    manifest. frames: as in `frames.csv`, of a frame-level model; else None. features: (N, D) float32, one row per video, if
    the model returns them. unreadable: path -> why the video could not be read. source: named in error messages.
    num_unannotated: further videos, which are not expected because none of their frames that were shown is annotated.
    settings: those of the evaluation, as in `metrics.json`; empty where they are not known.
    """

    task: SupervisedTask
    names: Sequence[str]
    videos: pd.DataFrame
    num_expected: int
    frames: pd.DataFrame | None = None
    features: NDArray[np.float32] | None = None
    unreadable: Mapping[str, str] = field(default_factory=dict)
    source: str = "predictions"
    num_unannotated: int = 0
    settings: Mapping[str, Any] = field(default_factory=dict)

    def arrays(self, table: pd.DataFrame) -> tuple[NDArray[Any], NDArray[np.float64]]:
        """Targets and outputs of a table of videos, groups or frames, which has rows; see `LabelledOutputs`."""
        found = labelled_outputs(table, self.source, self.task, self.names)
        assert found is not None
        return found.targets, found.outputs


def evaluated_heads(folder: Path) -> list[Path]:
    """The folders of the evaluations of a run's heads, of each in one of its name; none of a run with one output."""
    return sorted(file.parent for file in folder.glob(f"{EVALUATION_FOLDER}/*/{PREDICTIONS_FILE}"))


def score_predictions(
    predictions: EvaluationPredictions, by_group: bool = False, intervals: bool = False
) -> dict[str, Any]:
    """The metrics of the task, `num_expected` and `num_evaluated` videos, and `num_groups` if by_group (see `group_table`).

    `frames` holds the metrics of the frames of all videos, if there are frames. intervals: also `intervals`, as in
    `score_intervals`. Raises `UserError`, also if there is no video.
    """
    task, names = predictions.task, predictions.names
    if predictions.videos.empty:
        if predictions.num_unannotated and not predictions.unreadable:
            raise UserError(f"{predictions.source}: no frame that was shown is annotated; there is nothing to score")
        first = ": ".join(next(iter(predictions.unreadable.items()), (predictions.source, "no predictions")))
        raise UserError(f"none of the {counted(predictions.num_expected, 'video')} can be read; the first: {first}")
    counts = {"num_expected": predictions.num_expected, "num_evaluated": len(predictions.videos)}
    if predictions.num_unannotated:
        counts["num_unannotated"] = predictions.num_unannotated
    table = predictions.videos
    if by_group:
        table = group_table(predictions)
        counts["num_groups"] = len(table)
    score = metrics.classification_metrics if task == "classification" else metrics.regression_metrics
    scores = {**score(*predictions.arrays(table), names), **counts}
    if intervals:
        scores["intervals"] = score_intervals(predictions, table)
    if predictions.frames is not None:
        targets, outputs = predictions.arrays(predictions.frames)
        if task == "classification":
            scores["frames"] = score(targets, outputs, names)
        else:
            videos = list(predictions.frames.groupby("path", sort=False).indices.values())
            scores["frames"] = metrics.frame_metrics([targets[v] for v in videos], [outputs[v] for v in videos], names)
        if intervals:
            scores["frames"]["intervals"] = score_intervals(predictions, predictions.frames)
    return scores


def scores_by(
    predictions: EvaluationPredictions, columns: Mapping[str, Mapping[str, str]], by_group: bool = False
) -> dict[str, dict[str, Any]]:
    """Column -> value -> the result of `score_predictions`, with intervals, for the videos with this value.

    columns: column -> video -> value.
    """
    found: dict[str, dict[str, Any]] = {}
    for name, value_of in columns.items():
        values, frames = predictions.videos["path"].map(value_of), predictions.frames
        found[name] = {}
        for value in sorted(set(values)):
            rows = predictions.videos[values == value].reset_index(drop=True)
            part = frames[frames["path"].map(value_of) == value].reset_index(drop=True) if frames is not None else None
            one = replace(predictions, videos=rows, frames=part, features=None, num_expected=len(rows), unreadable={})
            found[name][value] = score_predictions(replace(one, num_unannotated=0), by_group, intervals=True)
    return found


def by_table(name: str, by_value: Mapping[str, Mapping[str, Any]], task: str) -> pd.DataFrame:
    """The result of `scores_by` for one column as text: a row for each value; scores with intervals, and counts."""
    rows = []
    for value, scores in by_value.items():
        shown = scores.get("frames", scores) if task == "regression" else scores
        cells = {name: value or "(empty)", "videos": str(scores["num_evaluated"])}
        for key in metric_keys(task, summary=True):
            low, high = shown["intervals"]["scores"].get(key, (math.nan, math.nan))
            cells[metric_heading(key)] = interval_text(key, shown[key], low, high)
        rows.append({**cells, "drawn": counted(shown["intervals"]["num_units"], shown["intervals"]["unit"])})
    return pd.DataFrame(rows)


def score_intervals(predictions: EvaluationPredictions, table: pd.DataFrame) -> dict[str, Any]:
    """95% confidence intervals of the scores of a table, by a bootstrap over its units (see `drawn_units`).

    Returns `level`; `unit` and `num_units`: what was drawn; `caution`: why these are not people, if they are not; `scores`: key,
    as in `metrics.flat_scores`, -> [low, high]. No scores for a single unit.
    """
    units, unit, caution = drawn_units(table, predictions.videos)
    number = len(set(units))
    found: dict[str, Any] = {"level": LEVEL, "unit": unit, "num_units": number, "scores": {}}
    found |= {"caution": caution} if caution else {}
    if number > 1:
        scores = subject_scores(*predictions.arrays(table), units, predictions.names)
        if (
            predictions.task == "regression" and len(predictions.names) == 1
        ):  # the mean over dimensions is that of the one
            scores |= {f"{key}_{predictions.names[0]}": score for key, score in scores.items()}
        found["scores"] = {key: list(interval(one)[1:]) for key, one in scores.items() if "within_people" not in key}
    return found


def drawn_units(table: pd.DataFrame, videos: pd.DataFrame) -> Drawn:
    """What a bootstrap draws, for each row of a table of videos, groups or frames.

    videos: as in `predictions.csv`. Units are those that splits do not divide, as `svfap.data.split.units_of` finds them:
    subjects; where they are not known groups, else files. If that is a single one, or rows of groups mix several, it is the
    groups or videos themselves.
    """
    key = "path" if "path" in table else "group"
    rows = table[key].to_numpy(object)
    files = videos["path"].str.replace(r"#(t|xywh)=[^#]*$", "", regex=True).str.replace(r"#t=[^#]*$", "", regex=True)
    found = units_of(videos.assign(path=files), Path("."))
    names = videos["path"] if key == "path" else videos["group"].where(videos["group"] != "", videos["path"])
    number = pd.Series(found.of).groupby(names.to_numpy()).agg(["min", "max"])
    known, mixed = found.kind == "subject", bool((number["min"] != number["max"]).any())
    itself = found.num < 2 or mixed
    kind = found.kind if not itself else "video" if key == "path" else "group"
    if not known:
        caution = f"people are not known, and where several {kind}s are of one person, the intervals are too narrow"
    elif mixed:
        caution = "groups hold several people, and where one person is in several groups, the intervals are too narrow"
    else:
        caution = f"all {kind}s are of one person, so the intervals say nothing about others" if itself else ""
    of = rows if itself else np.array(found.names, object)[number["min"].loc[rows].to_numpy()]
    return Drawn(of, kind, caution)


def group_table(predictions: EvaluationPredictions) -> pd.DataFrame:
    """The table of groups, as in `groups.csv`, from videos with a column `group`; see `metrics.average_groups`.

    A video without a group ('') forms one by itself, named by its path. Raises `UserError` for several labels in a group.
    """
    table = predictions.videos
    group_of = table["group"].where(table["group"] != "", table["path"])
    targets, outputs = predictions.arrays(table)
    groups, outputs, targets = metrics.average_groups(group_of.tolist(), outputs, targets)
    return predictions_table(groups, outputs, predictions.names, targets, predictions.task, key="group")


def truth_columns(task: str, names: Sequence[str]) -> list[str]:
    """The columns that hold the truth."""
    return ["label"] if task == "classification" else [f"target_{name}" for name in names]


def output_columns(task: str, names: Sequence[str]) -> list[str]:
    """The columns that hold the model's outputs, one per name."""
    return [f"{'prob' if task == 'classification' else 'pred'}_{name}" for name in names]


def task_and_names(table: pd.DataFrame) -> tuple[SupervisedTask, tuple[str, ...]] | None:
    """The task of a predictions table, and its classes or dimensions in the order of its columns; None without truth."""
    columns = [str(column) for column in table.columns]
    classes, dimensions = (
        tuple(column.removeprefix(prefix) for column in columns if column.startswith(prefix))
        for prefix in ("prob_", "target_")
    )
    if classes and "label" in columns:
        return "classification", classes
    return ("regression", dimensions) if dimensions else None


def predictions_table(
    paths: Sequence[str | Path],
    outputs: ArrayLike,
    names: Sequence[str],
    truth: ArrayLike | None = None,
    task: SupervisedTask = "classification",
    more: Mapping[str, ArrayLike] | None = None,
    key: str = "path",
) -> pd.DataFrame:
    """One row per video, group or frame; the columns are described at the top of this module.

    paths: N paths, or names of groups. outputs: (N, K) probabilities or predicted values. names: K classes or dimensions.
    truth: (N,) class indices or (N, K) target values; None leaves their columns out. more: further columns of N entries,
    such as `subject`, placed after the first one, whose name is `key`.

    Raises `UserError` for shapes that do not fit, names that are not distinct, and numbers that are not finite.
    """
    values = metrics.as_matrix(outputs, "outputs")
    metrics.check_names(names, values.shape[1], "names", "outputs")
    if len(paths) != len(values):
        raise UserError(f"paths: {len(paths)} paths for outputs of {len(values)} videos")
    columns: dict[str, Any] = {key: [str(path) for path in paths], **(more or {})}
    if truth is not None and task == "classification":
        columns["label"] = [names[i] for i in metrics.as_class_indices(truth, *values.shape)]
    elif truth is not None:
        target = metrics.as_matrix(truth, "truth")
        if target.shape != values.shape:
            raise UserError(f"truth: shape {target.shape} differs from the outputs' {values.shape}")
        columns |= dict(zip(truth_columns(task, names), target.T, strict=True))
    if task == "classification":
        columns["prediction"] = [names[i] for i in values.argmax(axis=1)]
    return pd.DataFrame({**columns, **dict(zip(output_columns(task, names), values.T, strict=True))})


def read_predictions(file: Path) -> pd.DataFrame:
    """A predictions table with names as text: "01" stays "01", and "NA" may be a class. Raises `UserError`."""
    try:
        return pd.read_csv(file, dtype=dict.fromkeys(TEXT_COLUMNS, str), keep_default_na=False)
    except (OSError, ValueError) as error:
        raise UserError(f"{file}: cannot be read as CSV ({error})") from None


def require_whole(file: Path, table: pd.DataFrame, keys: Sequence[str], number: int | None) -> None:
    """Raise `UserError` unless a table of predictions has `number` rows, if that is known, each of another video or frame.

    keys: the columns that tell rows apart. number: as in `metrics.json`.
    """
    if missing := [key for key in keys if key not in table]:
        raise UserError(f"{file}: has no column {missing[0]}; evaluate again")
    twice = table[table.duplicated(list(keys))]
    if len(twice):
        which = ", ".join(f"{key} {twice.iloc[0][key]}" for key in keys)
        raise UserError(f"{file}: has several rows of {which}; it was changed after the evaluation, so evaluate again")
    if number is not None and number != len(table):
        raise UserError(
            f"{file}: has {counted(len(table), 'row')}, and {METRICS_FILE} says that {number:,} were written; it was cut off or "
            "changed, so evaluate again"
        )


def labelled_outputs(
    table: pd.DataFrame, where: object, task: SupervisedTask | None = None, names: Sequence[str] | None = None
) -> LabelledOutputs | None:
    """The arrays of a predictions table; None where it has no rows or no truth.

    task, names: what to read; by default what the columns hold. where: the file or folder, for error messages.
    Raises `UserError` for an unknown label, a missing column, or text where numbers should be.
    """
    if task is None or names is None:
        found = task_and_names(table)
        if found is None:
            return None
        task, names = found
    if table.empty:
        return None
    try:
        outputs = table[output_columns(task, names)].to_numpy(np.float64)
        if not np.isfinite(outputs).all():
            raise ValueError("a number is missing")
        if task == "classification":
            index_of = {name: index for index, name in enumerate(names)}
            targets = np.array([index_of[label] for label in table["label"]], np.int64)
        else:
            targets = table[truth_columns(task, names)].to_numpy(np.float64)
    except (ValueError, KeyError) as error:
        raise UserError(
            f"{where}: the columns of the predictions do not fit together ({error}); evaluate again"
        ) from None
    return LabelledOutputs(task, tuple(names), targets, outputs)


def write_csv(file: Path, table: pd.DataFrame) -> None:
    """Write a table atomically, without its index. Raises `UserError`."""
    write_atomically(file, table.to_csv(index=False))


def write_features(file: Path, paths: Sequence[str], features: NDArray[np.float32]) -> None:
    """Write `features.npz` atomically: `features` (N, D) and `paths` (N,). Raises `UserError`."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, features=features, paths=np.array(paths))
    write_atomically(file, buffer.getvalue())


def read_features(file: Path) -> tuple[list[str], NDArray[np.float32]]:
    """The N paths and (N, D) float32 features of `features.npz`. Raises `UserError` for a damaged file."""
    try:
        with np.load(file, allow_pickle=False) as content:
            paths = [str(path) for path in content["paths"]]
            features = np.asarray(content["features"], np.float32)
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise UserError(f"{file}: cannot be read as features and paths ({error}); evaluate again") from None
    if features.ndim != 2 or len(features) != len(paths) or not np.isfinite(features).all():
        raise UserError(
            f"{file}: {features.shape} features are not finite vectors of {len(paths)} paths; evaluate again"
        )
    return paths, features
