"""Readers of frozen features: linear, nearest neighbours. Arrays in, predictions out; no files, no encoder.

All readers, these and the attentive one, have the same signature. train_x: (N, D) features, or (N, T, D) tokens for the
attentive reader. train_y: (N,) integer classes, or (N, K) values. train_groups: (N,) the person, or another unit, of each
sample: every free setting of a reader is chosen on people whose samples it was not fitted on, by the score that is reported,
UAR or CCC. test_x: (M, D) or (M, T, D). They return (M, K) float64: scores of classes, whose largest is the prediction, or
values. The test part has no influence on the fit; features are standardised by the training part. Arguments that do not fit
raise `UserError`, which names them.

Every class has the same weight in the fit, whatever its frequency, as UAR has it. Wide features, with more entries than there
are samples, are replaced by their coordinates in the span of the samples, which is exact for a linear reader with an L2
penalty; beyond `MAX_SPAN` samples by a random projection to `MAX_SPAN` numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.linear_model import Ridge

from svfap.errors import UserError
from svfap.probe.samples import (
    NUM_FOLDS,
    Array,
    Values,
    group_folds,
    pieces,
    require_features,
    require_least,
    score_of,
    targets_of,
)

STRENGTHS = np.logspace(-5, 3, 17)  # of the L2 penalty, in units of the features' total variance
NEIGHBOURS = (5, 10, 20, 50)
TEMPERATURE = 0.07  # of the neighbours' votes, as in DINO
MAX_SPAN = 2048
COLUMNS = 4096  # of wide features that are standardised at a time


def linear_probe(
    train_x: Array,
    train_y: ArrayLike,
    train_groups: ArrayLike,
    test_x: Array,
    *,
    num_classes: int | None = None,
    num_folds: int = NUM_FOLDS,
    seed: int = 0,
) -> Values:
    """Ridge regression on standardised features, of classes as one-hot vectors; see the top of this module.

    The strength of the penalty is chosen from `STRENGTHS`, for each dimension of a regression by itself. num_classes: K;
    default: as many as there are in `train_y`. Raises `UserError` for shapes that do not fit, and for a single group.
    """
    train_x, test_x = require_features(2, train_x=train_x, test_x=test_x)
    require_least(num_folds=(num_folds, 2))
    y, targets, weights = targets_of(train_x, train_y, train_groups, num_classes)
    train, test = _narrow(train_x, test_x, seed)

    def path(a: Array, b: Array, fit: NDArray[np.int64]) -> Values:
        """The predictions for b by every strength, fitted on the samples `fit` of a: (strengths, samples, K)."""
        number = targets.shape[1]
        ridge = Ridge(alpha=np.repeat(STRENGTHS * len(fit), number), solver="svd")
        ridge.fit(a[fit], np.tile(targets[fit], len(STRENGTHS)), weights[fit])
        return ridge.predict(b).reshape(len(b), len(STRENGTHS), number).transpose(1, 0, 2)

    chosen = _choose(lambda fit, held_out: path(train, train[held_out], fit), y, targets, train_groups, num_folds, seed)
    final = path(train, test, np.arange(len(train)))
    return np.stack([final[best, :, k] for k, best in enumerate(chosen)], axis=1)


def knn_probe(
    train_x: Array,
    train_y: ArrayLike,
    train_groups: ArrayLike,
    test_x: Array,
    *,
    num_classes: int | None = None,
    neighbours: int | None = None,
    num_folds: int = NUM_FOLDS,
    seed: int = 0,
) -> Values:
    """The nearest neighbours by the cosine of standardised features; see the top of this module.

    Neighbours vote for their class, or average their values, with the weights exp(cosine / 0.07), as in DINO. neighbours:
    their number k, at least 1; default: chosen from `NEIGHBOURS`. Raises `UserError` as `linear_probe` does.
    """
    train_x, test_x = require_features(2, train_x=train_x, test_x=test_x)
    require_least(num_folds=(num_folds, 2), neighbours=(neighbours, 1))
    y, targets, weights = targets_of(train_x, train_y, train_groups, num_classes)
    train, test = (_unit(x) for x in _standardised(train_x, test_x))

    def votes(bank: NDArray[np.int64], queries: Array, numbers: Sequence[int]) -> Values:
        """The predictions by every number of neighbours: (numbers, queries, K)."""
        parts = [_vote(train[bank], targets[bank], weights[bank], part, numbers) for part in pieces(queries)]
        return np.concatenate(parts, axis=1)

    everything = np.arange(len(train))
    if neighbours is not None and neighbours > len(train):
        raise UserError(f"neighbours={neighbours}: only {len(train)} samples fit the reader; give fewer")
    if neighbours is not None:
        return votes(everything, test, [neighbours])[0]
    chosen = _choose(
        lambda bank, held_out: votes(bank, train[held_out], NEIGHBOURS), y, targets, train_groups, num_folds, seed
    )
    final = votes(everything, test, NEIGHBOURS)
    return np.stack([final[best, :, k] for k, best in enumerate(chosen)], axis=1)


def _choose(
    predict: Callable[[NDArray[np.int64], NDArray[np.int64]], Values],
    y: Array,
    targets: Values,
    groups: ArrayLike,
    num_folds: int,
    seed: int,
) -> NDArray[np.int64]:
    """The best of several settings for each of the K outputs, by the score of predictions for held-out people.

    predict: from (fit, held_out) indices to the predictions of all settings, (settings, held out, K).
    """
    found: Values | None = None
    for fit, held_out in group_folds(groups, y, num_folds, seed):
        predicted = predict(fit, held_out)
        found = np.zeros((len(predicted), *targets.shape)) if found is None else found
        found[:, held_out] = predicted
    assert found is not None
    scores = np.stack([score_of(y, targets, each) for each in found])  # settings, K
    # Of settings that are as good, the one in the middle: those at the ends are extreme.
    ties = [np.flatnonzero(column >= column.max() - 1e-12) for column in scores.T]
    return np.array([tied[len(tied) // 2] for tied in ties])


def _standardised(train: Array, test: Array) -> tuple[Values, Values]:
    """Both parts with the training part's mean 0 and deviation 1, in float64; constant columns become 0."""
    known, new = np.asarray(train, np.float64), np.asarray(test, np.float64)
    mean, deviation = known.mean(axis=0), known.std(axis=0)
    constant = deviation <= 1e-6 * np.abs(mean) + 1e-12
    factor = np.where(constant, 0.0, 1 / np.where(constant, 1.0, deviation))
    return (known - mean) * factor, (new - mean) * factor


def _narrow(train: Array, test: Array, seed: int) -> tuple[Values, Values]:
    """Both parts standardised, their total variance 1, with at most `MAX_SPAN` or as many columns as there are samples."""
    (number, width), rng = train.shape, np.random.default_rng(seed)
    if width <= min(number, MAX_SPAN) or width <= 256:
        known, new = _standardised(train, test)
        return known / np.sqrt(width), new / np.sqrt(width)
    blocks = ((train[:, i : i + COLUMNS], test[:, i : i + COLUMNS]) for i in range(0, width, COLUMNS))
    if number > MAX_SPAN:
        known, new = np.zeros((number, MAX_SPAN)), np.zeros((len(test), MAX_SPAN))
        for part, other in (_standardised(*block) for block in blocks):
            projection = rng.standard_normal((part.shape[1], MAX_SPAN), np.float32) / np.sqrt(MAX_SPAN * width)
            known += part @ projection
            new += other @ projection
        return known, new
    gram, cross = np.zeros((number, number)), np.zeros((len(test), number))
    for part, other in (_standardised(*block) for block in blocks):
        gram += part @ part.T / width
        cross += other @ part.T / width
    values, vectors = np.linalg.eigh(gram)
    kept = values > 1e-9 * values[-1]
    roots, vectors = np.sqrt(values[kept]), vectors[:, kept]
    return vectors * roots, cross @ vectors / roots


def _unit(x: Values) -> Values:
    return np.asarray(x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12))


def _vote(bank: Values, targets: Values, weights: Values, queries: Values, numbers: Sequence[int]) -> Values:
    """Votes of the nearest of a bank (N, D) of unit vectors for queries (M, D), by each number of neighbours: (…, M, K)."""
    cosine = queries @ bank.T
    largest = min(max(numbers), len(bank))
    nearest = np.argpartition(-cosine, largest - 1, axis=1)[:, :largest]
    near = np.take_along_axis(cosine, nearest, axis=1)
    order = np.argsort(-near, axis=1, kind="stable")
    nearest, near = np.take_along_axis(nearest, order, axis=1), np.take_along_axis(near, order, axis=1)
    strength = np.exp((near - near[:, :1]) / TEMPERATURE) * weights[nearest]
    return np.stack(
        [
            (strength[:, :k, None] * targets[nearest[:, :k]]).sum(axis=1) / strength[:, :k].sum(axis=1, keepdims=True)
            for k in numbers
        ]
    )
