"""The paper's metrics, and the files that hold them.

Classification: unweighted average recall (UAR), weighted average recall (WAR, plain accuracy), F1 scores.
Regression: MAE, RMSE, and the paper's eq. 14 and 15: PCC, CCC and accuracy as 1 - MAE.
Everything is numpy in and plain `float`, `int`, `list` and `dict` out, ready for JSON, and never NaN.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.stats import pearsonr
from sklearn.metrics import confusion_matrix, f1_score, precision_recall_fscore_support

from svfap.errors import UserError
from svfap.files import write_atomically

REGRESSION_SCORES = ("mae", "rmse", "pcc", "ccc", "accuracy")


def classification_metrics(labels: ArrayLike, probabilities: ArrayLike, label_names: Sequence[str]) -> dict[str, Any]:
    """Scores of single-label classification; the prediction is the most probable class (the first one in a tie).

    Args:
        labels: (N,) integers in [0, K).
        probabilities: (N, K) finite scores, one column per class.
        label_names: K distinct names.

    Returns:
        `uar`: recall averaged over the classes that occur in `labels`; the others stand in `classes_absent`.
        `war`: share of correct predictions. `weighted_f1`, `micro_f1`, `macro_f1`: as scikit-learn's, the
        macro average running over classes that occur in `labels` or among the predictions.
        `per_class`: name -> `accuracy` (recall), `precision`, `f1` (0.0 where undefined) and `count`.
        `confusion`: K lists of K counts, rows = truth. `num_samples`.

    Raises:
        UserError: empty input, shapes that do not fit, labels out of range, or non-finite scores.
    """
    scores = _matrix(probabilities, "probabilities")
    _check_names(label_names, scores.shape[1], "label_names", "probabilities")
    truth = _class_indices(labels, *scores.shape)
    num_classes = len(label_names)
    predicted = scores.argmax(axis=1)
    classes = np.arange(num_classes)
    precision, recall, f1, count = precision_recall_fscore_support(truth, predicted, labels=classes, zero_division=0)
    present = count > 0
    f1_average = {
        f"{average}_f1": float(f1_score(truth, predicted, average=average, zero_division=0))
        for average in ("weighted", "micro", "macro")
    }
    return {
        "uar": float(recall[present].mean()),
        "war": float((predicted == truth).mean()),
        **f1_average,
        "per_class": {
            name: {
                "accuracy": float(recall[i]),
                "precision": float(precision[i]),
                "f1": float(f1[i]),
                "count": int(count[i]),
            }
            for i, name in enumerate(label_names)
        },
        "classes_absent": [name for i, name in enumerate(label_names) if not present[i]],
        "confusion": confusion_matrix(truth, predicted, labels=classes).tolist(),
        "num_samples": len(truth),
    }


def regression_metrics(targets: ArrayLike, predictions: ArrayLike, dimensions: Sequence[str]) -> dict[str, Any]:
    """Scores of regression, per dimension and averaged over dimensions.

    Moments are population moments. Where targets or predictions are constant, PCC is undefined and set to 0.0, and so
    is CCC: its covariance is zero, and 0/0 (both constant and equal) is taken as 0.0, since agreement in variation
    cannot be shown where nothing varies. Such dimensions stand in `degenerate`.

    Args:
        targets, predictions: (N, K) finite numbers.
        dimensions: K distinct names.

    Returns:
        `mae`, `rmse`, `pcc`, `ccc`, `accuracy` (1 - MAE), each the mean over dimensions;
        `per_dimension`: name -> the same five; `degenerate`: list of names; `num_samples`.

    Raises:
        UserError: empty input, shapes that do not fit, NaN or infinity.
    """
    truth, predicted = _matrix(targets, "targets"), _matrix(predictions, "predictions")
    if truth.shape != predicted.shape:
        raise UserError(f"predictions: shape {predicted.shape} differs from the targets' {truth.shape}")
    _check_names(dimensions, truth.shape[1], "dimensions", "targets")
    per_dimension = {name: _score(truth[:, k], predicted[:, k]) for k, name in enumerate(dimensions)}
    constant = [_is_constant(truth[:, k]) or _is_constant(predicted[:, k]) for k in range(len(dimensions))]
    return {
        **_mean_scores(list(per_dimension.values())),
        "per_dimension": per_dimension,
        "degenerate": [name for name, flag in zip(dimensions, constant, strict=True) if flag],
        "num_samples": len(truth),
    }


def frame_metrics(
    targets: Sequence[ArrayLike], predictions: Sequence[ArrayLike], dimensions: Sequence[str]
) -> dict[str, Any]:
    """Scores of frame-level regression: all frames of all videos pooled and scored once.

    Args:
        targets, predictions: one (T_i, K) array per video.
        dimensions: K distinct names.

    Returns:
        What :func:`regression_metrics` gives for the pooled frames, and the second figure `video_mean`: the mean
        over videos of each video's own scores (the five, `per_dimension`, and `degenerate`: name -> number of
        videos where PCC and CCC count as 0.0 for want of variation); `num_videos`. `num_samples` counts frames.

    Raises:
        UserError: as :func:`regression_metrics`, naming the video by its position.
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
    pooled = regression_metrics(
        np.concatenate([np.asarray(t) for t in targets]),
        np.concatenate([np.asarray(p) for p in predictions]),
        dimensions,
    )
    video_mean = {
        **_mean_scores(videos),
        "per_dimension": {name: _mean_scores([v["per_dimension"][name] for v in videos]) for name in dimensions},
        "degenerate": {name: sum(name in v["degenerate"] for v in videos) for name in dimensions},
    }
    return {**pooled, "video_mean": video_mean, "num_videos": len(videos)}


def average_views(sample_index: ArrayLike, outputs: ArrayLike) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Average the outputs of several views (temporal segments, crops) of the same video.

    Args:
        sample_index: (V,) integers, the video each view belongs to, in any order and number.
        outputs: (V, K) probabilities or values.

    Returns:
        `sample_ids` (N,), ascending, and the mean outputs (N, K) in float64.
    """
    index, values = np.asarray(sample_index), _matrix(outputs, "outputs")
    if index.shape != values.shape[:1]:
        raise UserError(f"sample_index: shape {index.shape} does not fit outputs of shape {values.shape}")
    sample_ids, position, count = np.unique(index, return_inverse=True, return_counts=True)
    total = np.zeros((len(sample_ids), values.shape[1]))
    np.add.at(total, position, values)
    return sample_ids.astype(np.int64), total / count[:, None]


def average_groups(
    groups: Sequence[str], outputs: ArrayLike, targets: ArrayLike
) -> tuple[list[str], NDArray[np.float64], NDArray[Any]]:
    """One entry per group of videos, such as all clips of a subject's task (AVCAffe's protocol), in order of appearance.

    Args:
        groups: N names.
        outputs: (N, K) probabilities or values; averaged over each group.
        targets: (N,) class indices, the same in all of a group, or (N, K) values, averaged like the outputs.

    Returns:
        The G names, outputs (G, K) float64, and targets (G,) or (G, K).

    Raises:
        UserError: shapes that do not fit, or a group with several labels.
    """
    codes, names = pd.factorize(np.asarray(groups, object))
    truth = np.asarray(targets)
    _, means = average_views(codes, outputs)
    if truth.ndim == 2:
        return list(names), means, average_views(codes, truth)[1]
    first = np.unique(codes, return_index=True)[1]
    stray = np.flatnonzero(truth != truth[first][codes])
    if len(stray):
        raise UserError(f"group '{names[codes[stray[0]]]}': its videos have several labels; one group has one")
    return list(names), means, truth[first]


def predictions_table(
    paths: Sequence[str | Path],
    outputs: ArrayLike,
    names: Sequence[str],
    truth: ArrayLike | None = None,
    task: Literal["classification", "regression"] = "classification",
) -> pd.DataFrame:
    """One row per video, ready for `predictions.csv`.

    Args:
        paths: N paths.
        outputs: (N, K) probabilities or predicted values.
        names: K label names or dimensions.
        truth: (N,) class indices or (N, K) target values; None leaves the column(s) out.

    Returns:
        Classification: `path, label, prediction, prob_<name>...` with labels by name.
        Regression: `path, target_<name>..., pred_<name>...`.
    """
    values = _matrix(outputs, "outputs")
    _check_names(names, values.shape[1], "names", "outputs")
    if len(paths) != len(values):
        raise UserError(f"paths: {len(paths)} paths for outputs of {len(values)} videos")
    columns: dict[str, Any] = {"path": [str(path) for path in paths]}
    if task == "classification":
        if truth is not None:
            columns["label"] = [names[i] for i in _class_indices(truth, *values.shape)]
        columns["prediction"] = [names[i] for i in values.argmax(axis=1)]
        columns |= {f"prob_{name}": values[:, k] for k, name in enumerate(names)}
    else:
        if truth is not None:
            target = _matrix(truth, "truth")
            if target.shape != values.shape:
                raise UserError(f"truth: shape {target.shape} differs from the outputs' {values.shape}")
            columns |= {f"target_{name}": target[:, k] for k, name in enumerate(names)}
        columns |= {f"pred_{name}": values[:, k] for k, name in enumerate(names)}
    return pd.DataFrame(columns)


def write_metrics(path: str | Path, metrics: Mapping[str, Any]) -> None:
    """Write `metrics` as indented JSON, atomically; numpy numbers and arrays become plain ones.

    Raises:
        UserError: a number that is NaN or infinite (JSON has no such token), or a place that cannot be written.
    """
    text = json.dumps(_plain(metrics, str(path)), indent=2, allow_nan=False, ensure_ascii=False)
    write_atomically(path, text + "\n")


def _score(truth: NDArray[np.float64], predicted: NDArray[np.float64]) -> dict[str, float]:
    """The five scores of one dimension, from (N,) and (N,)."""
    error = predicted - truth
    mae = float(np.abs(error).mean())
    if _is_constant(truth) or _is_constant(predicted):
        pcc = ccc = 0.0
    else:
        pcc = float(pearsonr(truth, predicted).statistic)
        covariance = np.mean((truth - truth.mean()) * (predicted - predicted.mean()))
        ccc = float(2 * covariance / (truth.var() + predicted.var() + error.mean() ** 2))
    return {"mae": mae, "rmse": float(np.sqrt(np.mean(error**2))), "pcc": pcc, "ccc": ccc, "accuracy": 1 - mae}


def _is_constant(values: NDArray[np.float64]) -> bool:
    """Whether (N,) values are equal up to float64 rounding, so that their correlation would be noise."""
    return bool(np.ptp(values) <= 1e-12 * np.abs(values).max())


def _mean_scores(scores: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    return {name: float(np.mean([score[name] for score in scores])) for name in REGRESSION_SCORES}


def _matrix(values: ArrayLike, name: str) -> NDArray[np.float64]:
    """`values` as a finite, non-empty (N, K) float64 array, or a UserError that names it."""
    matrix = np.asarray(values, dtype=np.float64)
    if matrix.ndim != 2:
        raise UserError(f"{name}: must have 2 axes (samples, outputs), not shape {matrix.shape}")
    if matrix.size == 0:
        raise UserError(f"{name}: empty, shape {matrix.shape}; there is nothing to score")
    bad = ~np.isfinite(matrix)
    if bad.any():
        row = int(bad.any(axis=1).argmax())
        raise UserError(
            f"{name}: {int(bad.sum())} values are NaN or infinite, the first in row {row}; mend or drop them"
        )
    return matrix


def _class_indices(labels: ArrayLike, num_samples: int, num_classes: int) -> NDArray[np.int64]:
    """`labels` as (num_samples,) int64 in [0, num_classes), or a UserError."""
    indices = np.asarray(labels)
    if indices.shape != (num_samples,):
        raise UserError(f"labels: shape {indices.shape} does not fit {num_samples} samples; give one label a sample")
    if not np.issubdtype(indices.dtype, np.integer):
        raise UserError(f"labels: class indices must be integers, not {indices.dtype}")
    if indices.min() < 0 or indices.max() >= num_classes:
        raise UserError(f"labels: values {indices.min()} to {indices.max()} leave the range 0 to {num_classes - 1}")
    return indices.astype(np.int64)


def _check_names(names: Sequence[str], num_columns: int, name: str, of: str) -> None:
    if len(names) != num_columns:
        raise UserError(f"{name}: {len(names)} names for {num_columns} columns of {of}")
    if len(set(names)) != len(names):
        raise UserError(f"{name}: a name stands twice in {', '.join(names)}; make them distinct")


def _plain(value: Any, where: str) -> Any:
    """`value` in JSON's own types; `where` is the dotted key for the error message."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item, f"{where}: {key}") for key, item in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        return _plain(value.tolist(), where)
    if isinstance(value, list | tuple):
        return [_plain(item, where) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        raise UserError(f"{where} is {value}, which JSON cannot hold; mend the score or leave it out")
    return str(value) if isinstance(value, Path) else value
