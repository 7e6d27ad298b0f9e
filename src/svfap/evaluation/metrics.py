"""The paper's metrics (Sec. IV-B), and the file `metrics.json`.

Classification: unweighted average recall (UAR), weighted average recall (WAR, which is accuracy), and F1 scores.
Regression: MAE, RMSE, the Pearson and concordance correlation coefficients PCC and CCC (Eq. 14), and 1 - MAE (Eq. 15).
The functions take arrays and return `float`, `int`, `list` and `dict`, ready for JSON, and never NaN. Printed names, units
and order of the metrics are in `svfap.metric_table`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.stats import pearsonr
from sklearn.metrics import confusion_matrix, f1_score, precision_recall_fscore_support

from svfap.errors import UserError
from svfap.files import write_atomically
from svfap.metric_table import metric_keys


def classification_metrics(labels: ArrayLike, probabilities: ArrayLike, label_names: Sequence[str]) -> dict[str, Any]:
    """Scores of single-label classification; the prediction is the most probable class (the first one in a tie).

    labels: (N,) integers in [0, K). probabilities: (N, K) finite scores. label_names: K distinct names.

    Returns:
        `uar`: recall averaged over the classes that occur in `labels`; the others are listed in `classes_absent`. `war`:
        fraction of correct predictions. `weighted_f1`, `micro_f1`, `macro_f1`: as in scikit-learn; the macro average is over
        classes that occur in `labels` or among the predictions. `per_class`: name -> `accuracy` (recall), `precision`, `f1`
        (0.0 where undefined) and `count`. `confusion`: K lists of K counts, rows = truth. `num_samples`.

    Raises:
        UserError: empty input, shapes that do not fit, labels out of range, repeated names, or non-finite probabilities.
    """
    scores = as_matrix(probabilities, "probabilities")
    check_names(label_names, scores.shape[1], "label_names", "probabilities")
    truth, predicted = as_class_indices(labels, *scores.shape), scores.argmax(axis=1)
    classes = np.arange(len(label_names))
    precision, recall, f1, count = precision_recall_fscore_support(truth, predicted, labels=classes, zero_division=0)
    per_class = pd.DataFrame({"accuracy": recall, "precision": precision, "f1": f1, "count": count}, list(label_names))
    averages = ("weighted", "micro", "macro")
    return {
        "uar": float(recall[count > 0].mean()),
        "war": float((predicted == truth).mean()),
        **{f"{name}_f1": float(f1_score(truth, predicted, average=name, zero_division=0)) for name in averages},
        "per_class": per_class.to_dict("index"),
        "classes_absent": [name for name, videos in zip(label_names, count, strict=True) if not videos],
        "confusion": confusion_matrix(truth, predicted, labels=classes).tolist(),
        "num_samples": len(truth),
    }


def never_predicted(metrics: Mapping[str, Any]) -> str:
    """Which classes that occur in the test set the model never predicts, as a sentence; "" if there are none.

    metrics: of `classification_metrics`; "" for those of regression.
    """
    names, confusion = list(metrics.get("per_class", {})), np.array(metrics.get("confusion", []))
    if not confusion.size:
        return ""
    counts, predicted = confusion.sum(axis=1), confusion.sum(axis=0)
    never = [
        f"{name} ({count:,})"
        for name, count, times in zip(names, counts, predicted, strict=True)
        if count and not times
    ]
    if not never:
        return ""
    if np.count_nonzero(predicted) == 1:
        return f"The model predicts {names[predicted.argmax()]} whatever it is shown."
    return f"The model never predicts {', '.join(never)}."


def regression_metrics(targets: ArrayLike, predictions: ArrayLike, dimensions: Sequence[str]) -> dict[str, Any]:
    """Scores of regression, per dimension and averaged over dimensions, from targets and predictions (N, K), finite.

    Variances and covariances divide by N. Where targets or predictions are constant, PCC is undefined and set to 0.0; CCC
    is 0.0 because the covariance is 0, and is set to 0.0 where it is 0/0 (both constant and equal).

    Returns:
        `ccc`, `pcc` (Eq. 14), `mae`, `rmse` and `accuracy` (1 - MAE, Eq. 15), each the mean over dimensions;
        `per_dimension`: name -> the same five; `degenerate`: the dimensions with constants; `num_samples`.

    Raises:
        UserError: empty input, shapes that do not fit, NaN or infinity.
    """
    truth, predicted = as_matrix(targets, "targets"), as_matrix(predictions, "predictions")
    if truth.shape != predicted.shape:
        raise UserError(f"predictions: shape {predicted.shape} differs from the targets' {truth.shape}")
    check_names(dimensions, truth.shape[1], "dimensions", "targets")
    columns = {name: (truth[:, k], predicted[:, k]) for k, name in enumerate(dimensions)}
    per_dimension = {name: _score(*pair) for name, pair in columns.items()}
    return {
        **_mean_scores(list(per_dimension.values())),
        "per_dimension": per_dimension,
        "degenerate": [name for name, pair in columns.items() if any(map(_is_constant, pair))],
        "num_samples": len(truth),
    }


def frame_metrics(
    targets: Sequence[ArrayLike], predictions: Sequence[ArrayLike], dimensions: Sequence[str]
) -> dict[str, Any]:
    """Scores of frame-level regression, from one (T_i, K) array per video: the frames of all videos are pooled.

    Returns:
        The scores of `regression_metrics` on the pooled frames; `video_mean`, the mean over videos of the scores of each
        video (the five scores, `per_dimension`, and `degenerate`: name -> number of videos in which PCC and CCC count as
        0.0 because truth or prediction is constant); `num_videos`. `num_samples` counts frames.

    Raises:
        UserError: as `regression_metrics`, naming the video by its position.
    """
    if len(targets) != len(predictions):
        raise UserError(f"predictions: {len(predictions)} videos, but targets has {len(targets)}")
    if not len(targets):
        raise UserError("targets: empty; there is no video to score")
    videos = []
    for i, (truth, predicted) in enumerate(zip(targets, predictions, strict=True)):
        try:
            videos.append(regression_metrics(truth, predicted, dimensions))
        except UserError as error:
            raise UserError(f"video {i}: {error}") from None
    video_mean = {
        **_mean_scores(videos),
        "per_dimension": {name: _mean_scores([v["per_dimension"][name] for v in videos]) for name in dimensions},
        "degenerate": {name: sum(name in v["degenerate"] for v in videos) for name in dimensions},
    }
    pooled = regression_metrics(np.concatenate(targets), np.concatenate(predictions), dimensions)
    return {**pooled, "video_mean": video_mean, "num_videos": len(videos)}


def average_views(
    sample_index: ArrayLike, outputs: ArrayLike, weights: ArrayLike | None = None
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Average the outputs (V, K) of several views of the same video; sample_index: (V,) integers, the video of each view.

    weights: (V,) positive, of the views; None: all alike. Returns the videos (N,) int64, ascending, and their
    mean outputs (N, K) float64. Raises `UserError` for shapes that do not fit and outputs that are not finite.
    """
    index, values = np.asarray(sample_index), as_matrix(outputs, "outputs")
    if index.shape != values.shape[:1]:
        raise UserError(f"sample_index: shape {index.shape} does not fit outputs of shape {values.shape}")
    factors = np.ones(len(index)) if weights is None else np.asarray(weights, np.float64)
    if factors.shape != index.shape:
        raise UserError(f"weights: shape {factors.shape} does not fit sample_index of shape {index.shape}")
    sums = pd.DataFrame(values * factors[:, None]).groupby(index).sum()
    means = sums.div(pd.Series(factors).groupby(index).sum(), axis=0)
    return means.index.to_numpy(np.int64), means.to_numpy()


def average_groups(
    groups: Sequence[str], outputs: ArrayLike, targets: ArrayLike
) -> tuple[list[str], NDArray[np.float64], NDArray[Any]]:
    """Average over each group of videos, such as all clips of one task of a subject (AVCAffe), in order of appearance.

    groups: N names. outputs: (N, K) probabilities or values. targets: (N,) class indices, the same in all of a group, or (N, K)
    values, averaged like the outputs. Returns the G names, outputs (G, K) float64, and targets (G,) or (G, K). Raises
    `UserError` for shapes that do not fit, and for a group with several labels.
    """
    codes, names = pd.factorize(np.asarray(groups, object))
    truth = np.asarray(targets)
    _, means = average_views(codes, outputs)
    if truth.ndim == 2:
        return list(names), means, average_views(codes, truth)[1]
    first = np.unique(codes, return_index=True)[1]
    if len(stray := np.flatnonzero(truth != truth[first][codes])):
        raise UserError(
            f"group '{names[codes[stray[0]]]}': its videos have several labels; a group needs a single label"
        )
    return list(names), means, truth[first]


def flat_scores(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Scores under plain names: `uar`, `accuracy_<class>` for classes that occur; `pcc`, `pcc_<dimension>`, and so on.

    Scores of frames have the prefix `frame_`.
    """
    task = "classification" if "confusion" in metrics else "regression"
    # Stored metrics may lack a new one.
    flat = {key: float(metrics[key]) for key in metric_keys(task) if key in metrics}
    for name, scores in metrics.get("per_class", {}).items():
        if name not in metrics["classes_absent"]:
            flat[f"accuracy_{name}"] = float(scores["accuracy"])
    for name, scores in metrics.get("per_dimension", {}).items():
        flat |= {f"{key}_{name}": float(scores[key]) for key in metric_keys(task) if key in scores}
    if "frames" in metrics:
        flat |= {f"frame_{key}": value for key, value in flat_scores(metrics["frames"]).items()}
    return flat


def flat_intervals(metrics: Mapping[str, Any]) -> dict[str, tuple[float, float]]:
    """The confidence intervals of scores, low and high, under the names of `flat_scores`; empty if they are not known."""
    flat = {key: (low, high) for key, (low, high) in metrics.get("intervals", {}).get("scores", {}).items()}
    if "frames" in metrics:
        flat |= {f"frame_{key}": bounds for key, bounds in flat_intervals(metrics["frames"]).items()}
    return flat


def read_metrics(file: Path) -> dict[str, Any]:
    """What `write_metrics` wrote; empty if the file is not there or damaged."""
    try:
        metrics = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return metrics if isinstance(metrics, dict) else {}


def write_metrics(path: str | Path, metrics: Mapping[str, Any]) -> None:
    """Write `metrics` as indented JSON, atomically; numpy scalars and arrays become numbers and lists.

    Raises:
        UserError: a number that is NaN or infinite, which JSON cannot hold, or a file that cannot be written.
    """
    text = json.dumps(_plain(metrics, str(path)), indent=2, allow_nan=False, ensure_ascii=False)
    write_atomically(path, text + "\n")


def _score(truth: NDArray[np.float64], predicted: NDArray[np.float64]) -> dict[str, float]:
    """The five scores of one dimension, from (N,) truth and (N,) predictions."""
    error = predicted - truth
    mae = float(np.abs(error).mean())
    if _is_constant(truth) or _is_constant(predicted):
        pcc = ccc = 0.0
    else:
        pcc = float(pearsonr(truth, predicted).statistic)
        covariance = np.mean((truth - truth.mean()) * (predicted - predicted.mean()))
        ccc = float(2 * covariance / (truth.var() + predicted.var() + error.mean() ** 2))
    return {"ccc": ccc, "pcc": pcc, "mae": mae, "rmse": float(np.sqrt(np.mean(error**2))), "accuracy": 1 - mae}


def _is_constant(values: NDArray[np.float64]) -> bool:
    """Whether (N,) values are equal up to float64 rounding, so that their correlation would be noise."""
    return bool(np.ptp(values) <= 1e-12 * np.abs(values).max())


def _mean_scores(scores: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    return {name: float(np.mean([score[name] for score in scores])) for name in metric_keys("regression")}


def as_matrix(values: ArrayLike, name: str) -> NDArray[np.float64]:
    """`values` as a non-empty (N, K) float64 array of finite numbers. Raises `UserError` with `name`."""
    matrix = np.asarray(values, dtype=np.float64)
    if matrix.ndim != 2:
        raise UserError(f"{name}: must have 2 axes (samples, outputs), not shape {matrix.shape}")
    if matrix.size == 0:
        raise UserError(f"{name}: empty, shape {matrix.shape}; there is nothing to score")
    if len(rows := np.nonzero(~np.isfinite(matrix))[0]):
        raise UserError(
            f"{name}: {len(rows)} values are NaN or infinite, the first in row {rows[0]}; correct or remove them"
        )
    return matrix


def as_class_indices(labels: ArrayLike, num_samples: int, num_classes: int) -> NDArray[np.int64]:
    """`labels` as (num_samples,) int64 in [0, num_classes). Raises `UserError`."""
    indices = np.asarray(labels)
    if indices.shape != (num_samples,):
        raise UserError(f"labels: shape {indices.shape} does not fit {num_samples} samples; give one label per sample")
    if not np.issubdtype(indices.dtype, np.integer):
        raise UserError(f"labels: class indices must be integers, not {indices.dtype}")
    if indices.min() < 0 or indices.max() >= num_classes:
        raise UserError(
            f"labels: values {indices.min()} to {indices.max()} are outside the range 0 to {num_classes - 1}"
        )
    return indices.astype(np.int64)


def check_names(names: Sequence[str], num_columns: int, name: str, of: str) -> None:
    """Raise `UserError` unless there is one distinct name for each column."""
    if len(names) != num_columns:
        raise UserError(f"{name}: {len(names)} names for {num_columns} columns of {of}")
    if len(set(names)) != len(names):
        raise UserError(f"{name}: a name occurs twice in {', '.join(names)}; make them distinct")


def _plain(value: Any, where: str) -> Any:
    """`value` in the types of JSON; `where` is its key, for the error message."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item, f"{where}: {key}") for key, item in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        return _plain(value.tolist(), where)
    if isinstance(value, list | tuple):
        return [_plain(item, where) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        raise UserError(f"{where} is {value}, which JSON cannot hold; leave the score out")
    return str(value) if isinstance(value, Path) else value
