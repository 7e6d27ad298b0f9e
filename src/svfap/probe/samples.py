"""What fits a reader and what it reads: checks of the arrays, targets and weights, folds of people, scores."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.model_selection import GroupKFold, StratifiedGroupKFold

from svfap.errors import UserError
from svfap.evaluation.confidence import subject_scores

Array = NDArray[Any]
Values = NDArray[np.float64]
Fold = tuple[NDArray[np.int64], NDArray[np.int64]]
NUM_FOLDS = 5
ROWS = 1024  # samples looked at, or compared with the training part, at a time


def group_folds(groups: ArrayLike, y: ArrayLike | None = None, num_folds: int = NUM_FOLDS, seed: int = 0) -> list[Fold]:
    """Folds (indices of the training part, indices of the held-out part) that divide no group; each sample is held out once.

    groups: (N,). y: (N,) integer classes are spread evenly over the folds; other targets are not looked at. Fewer groups
    than num_folds give as many folds as there are groups. Raises `UserError` for a single group.
    """
    names, of = np.unique(np.asarray(groups).astype(str), return_inverse=True)
    if len(names) < 2:
        raise UserError(
            "a reader is chosen on people that it was not fitted on; the training part needs at least 2 people"
        )
    number = min(num_folds, len(names))
    nothing = np.zeros((len(of), 1))
    if y is not None and is_classes(np.asarray(y)):
        # Not all classes need occur as often as there are folds.
        folds = StratifiedGroupKFold(number, shuffle=True, random_state=seed).split(
            nothing, _few(np.asarray(y), number), of
        )
    else:
        folds = GroupKFold(number, shuffle=True, random_state=seed).split(nothing, None, of)
    return [(train, held_out) for train, held_out in folds if len(train) and len(held_out)]


def require_features(num_axes: int, **parts: ArrayLike) -> list[Array]:
    """The features that fit and those that are read, by the names of the arguments, as arrays. Raises `UserError`."""
    found = {name: np.asarray(part) for name, part in parts.items()}
    for name, x in found.items():
        if x.ndim != num_axes or not np.issubdtype(x.dtype, np.number):
            form = "(N, D)" if num_axes == 2 else "(N, T, D)"
            raise UserError(f"{name}: must be numbers {form}, not {x.dtype} of shape {x.shape}")
        if not all(np.isfinite(piece).all() for piece in pieces(x)):
            raise UserError(f"{name}: has numbers that are not finite; leave these samples out")
    (first, train), (second, test) = found.items()
    if train.shape[1:] != test.shape[1:]:
        raise UserError(f"{second}: has samples of shape {test.shape[1:]}, and {first} of {train.shape[1:]}")
    return [train, test]


def require_least(**given: tuple[int | None, int]) -> None:
    """Raise `UserError` for an argument, name -> (value, least), that is given and below its least value."""
    for name, (value, least) in given.items():
        if value is not None and value < least:
            raise UserError(f"{name}={value}: must be at least {least}")


def targets_of(
    x: Array, y: ArrayLike, groups: ArrayLike, num_classes: int | None
) -> tuple[Array, Values, NDArray[np.float64]]:
    """The targets as given, as (N, K) numbers, and the weights (N,) of the samples, 1 on average. Raises `UserError`."""
    given = np.asarray(y)
    if len(given) != len(x) or len(np.asarray(groups)) != len(x) or not len(x):
        raise UserError(
            f"train_y, train_groups: {len(x)} samples, {len(given)} targets and {len(np.asarray(groups))} groups do not fit "
            "together"
        )
    if not is_classes(given):
        numbers = np.issubdtype(given.dtype, np.number)
        if not numbers or given.ndim != 2 or not np.isfinite(given).all():
            fix = "" if numbers else "; number the classes: names, train_y = np.unique(train_y, return_inverse=True)"
            what = f"{given.dtype} of shape {given.shape}"
            raise UserError(f"train_y: must be integer classes (N,) or finite values (N, K), not {what}{fix}")
        return given, given.astype(np.float64), np.ones(len(given))
    if len(np.unique(given)) < 2:
        raise UserError("train_y: holds a single class; there is nothing to tell apart")
    number = max(int(given.max()) + 1, num_classes or 0)
    if given.min() < 0:
        raise UserError("train_y: a class is negative; leave samples without a label out")
    counts = np.bincount(given, minlength=number)
    return given, np.eye(number)[given], (len(given) / (np.count_nonzero(counts) * counts[given]))


def score_of(y: Array, targets: Values, predictions: Values) -> Values:
    """(K,) scores of predictions (N, K) or (1, N, K): UAR, the same for all classes, or the CCC of each dimension."""
    names = [str(k) for k in range(targets.shape[1])]
    scores = subject_scores(y if is_classes(y) else targets, predictions, np.zeros(len(y), int).astype(str), names)
    if is_classes(y):
        return np.full(len(names), scores["uar"].value)
    return np.array([scores[f"ccc_{name}" if len(names) > 1 else "ccc"].value for name in names])


def is_classes(y: Array) -> bool:
    return y.ndim == 1 and np.issubdtype(y.dtype, np.integer)


def _few(y: Array, number: int) -> Array:
    """Classes with fewer samples than folds as one, since scikit-learn refuses and warns of them."""
    counts = np.bincount(y)
    merged = np.where(counts[y] < number, -1, y)
    return merged if (np.unique(merged, return_counts=True)[1] >= number).all() else np.zeros_like(y)


def pieces(x: Array) -> Iterator[Array]:
    yield from (x[i : i + ROWS] for i in range(0, len(x), ROWS))
