"""Regression losses (Eq. 13, 14), the scaling of labels, and class weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch.nn.functional as F
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from svfap.errors import UserError

EPS = 1e-8  # added to variances: predictions or labels with a deviation below 1e-4 count as nearly constant
ACTIVATION_RANGES = {"none": (-1.0, 1.0), "tanh": (-1.0, 1.0), "sigmoid": (0.0, 1.0)}


def annotated_only(outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Outputs (N, K), targets (N, K) and the weight of each row, (N, 1): 0 with a NaN in the targets, else 1.

    Outputs and targets of rows without weight are zero, so that no NaN comes out of them. All rows stay: the host need not
    wait for their number.
    """
    known = targets.isfinite().all(dim=1, keepdim=True)
    return outputs.where(known, 0), targets.where(known, 0), known.to(outputs.dtype)


def mse_loss(predictions: Tensor, targets: Tensor, weights: Tensor | None = None) -> Tensor:
    """Mean squared error over batch and dimensions (Eq. 13); arguments as for `ccc_loss`."""
    if weights is None:
        return F.mse_loss(predictions, targets)
    return _mean((predictions - targets).square(), weights).mean()


def cross_entropy(
    logits: Tensor, targets: Tensor, class_weights: Tensor | None = None, weights: Tensor | None = None
) -> Tensor:
    """Cross-entropy of logits (N, K) with soft targets (N, K), averaged over rows by `weights`, (N, 1) (Eq. 12)."""
    if weights is None:
        return F.cross_entropy(logits, targets, class_weights)
    return _mean(F.cross_entropy(logits, targets, class_weights, reduction="none")[:, None], weights).mean()


def ccc_loss(predictions: Tensor, targets: Tensor, weights: Tensor | None = None) -> Tensor:
    """1 - CCC of each dimension over the batch, averaged over dimensions (Eq. 14; Lin 1989).

    predictions, targets: (N, K) float32. weights: of the rows, (N, 1); default: all the same. Population moments. Where both
    are constant it is 1, with a gradient of zero.
    """
    predicted_mean, target_mean, predicted_variance, target_variance, covariance = _moments(
        predictions, targets, weights
    )
    spread = predicted_variance + target_variance + (predicted_mean - target_mean).square()
    return 1 - (2 * covariance / (spread + EPS)).mean()


def pcc_loss(predictions: Tensor, targets: Tensor, weights: Tensor | None = None) -> Tensor:
    """1 - PCC of each dimension over the batch, averaged over dimensions (Eq. 14).

    Arguments as for `ccc_loss`. Where either is constant it is 1, with a finite gradient.
    """
    _, _, predicted_variance, target_variance, covariance = _moments(predictions, targets, weights)
    return 1 - (covariance / ((predicted_variance + EPS) * (target_variance + EPS)).sqrt()).mean()


REGRESSION_LOSSES: dict[str, Callable[..., Tensor]] = {"mse": mse_loss, "ccc": ccc_loss, "pcc": pcc_loss}


def _mean(values: Tensor, weights: Tensor | None) -> Tensor:
    """Over the first axis: (N, K) -> (K,). weights: (N, 1); zero if they all are."""
    if weights is None:
        return values.mean(dim=0)
    return (values * weights).sum(dim=0) / weights.sum().clamp(min=1)


def _moments(
    predictions: Tensor, targets: Tensor, weights: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Means, population variances and covariance over the first axis, each (K,)."""
    predicted_mean, target_mean = _mean(predictions, weights), _mean(targets, weights)
    predicted, target = predictions - predicted_mean, targets - target_mean
    variances = _mean(predicted.square(), weights), _mean(target.square(), weights)
    return predicted_mean, target_mean, *variances, _mean(predicted * target, weights)


def label_scale(
    values: ArrayLike, how: str, activation: str = "none", label_range: tuple[float, float] | None = None,
    dimensions: Sequence[str] = (),
) -> tuple[tuple[float, ...], tuple[float, ...]]:  # fmt: skip
    """Scale and offset of each dimension, such that labels = activated output × scale + offset; empty for how="none".

    values: (N, K) training labels. how: "standardize", by their mean and standard deviation, or "range", which maps the
    range of the activation ([-1, 1] if it is unbounded) to `label_range`, by default their lowest and highest value.
    Raises `UserError` for labels that do not vary, and for standardised labels with a bounded activation.
    """
    if how == "none":
        return (), ()
    numbers = np.asarray(values, np.float64)
    if how == "standardize":
        if activation != "none":
            reason = f"standardised labels exceed the range of {activation}"
            raise UserError(f"label_scaling=standardize: {reason}; use range, or output_activation=none")
        scale, offset = numbers.std(axis=0), numbers.mean(axis=0)
    else:
        low, high = ACTIVATION_RANGES[activation]
        least, most = numbers.min(axis=0), numbers.max(axis=0)
        if label_range is not None:
            least, most = (np.full_like(least, end) for end in label_range)
        scale = (most - least) / (high - low)
        offset = least - low * scale
    for number, name in enumerate(dimensions):
        if not scale[number] > 1e-9 * abs(offset[number]):
            raise UserError(f"label_scaling={how}: the training labels of {name} do not vary; leave that dimension out")
    return tuple(scale.tolist()), tuple(offset.tolist())


def balanced_weights(counts: NDArray[np.float64]) -> NDArray[np.float32]:
    """(num_classes,) weights inverse to how often each class is drawn, 1 on average over samples; 0 for absent classes."""
    present = counts > 0
    weights = np.zeros(len(counts), np.float32)
    weights[present] = counts.sum() / (present.sum() * counts[present])
    return weights
