"""How far probabilities of classes can be relied on: expected calibration error (ECE), and the temperature that corrects them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

NUM_BINS = 15
NUM_DRAWS = 500  # simulated test sets of a perfectly calibrated model
LOWEST, HIGHEST = 0.05, 20.0  # temperature


@dataclass(frozen=True)
class Reliability:
    """Top probabilities in bins of equal width, the expected calibration error, and its value for perfect calibration.

    count (bins,) int64: videos. confidence, accuracy (bins,) float64: their mean top probability and fraction of correct
    predictions; 0 in empty bins. ece: sum over bins of count / N × |accuracy - confidence| (Guo et al., ICML 2017).
    chance, chance_95: mean and 95th percentile of the ECE that a perfectly calibrated model with these top probabilities
    has on N videos; above 0 because N is finite.
    """

    count: NDArray[np.int64]
    confidence: NDArray[np.float64]
    accuracy: NDArray[np.float64]
    ece: float
    chance: float
    chance_95: float


def reliability(labels: ArrayLike, probabilities: ArrayLike, num_bins: int = NUM_BINS) -> Reliability:
    """Calibration of probabilities (N, K) against class indices (N,). A bin contains its upper edge, not its lower one."""
    scores = np.asarray(probabilities, np.float64)
    top, correct = scores.max(axis=1), scores.argmax(axis=1) == np.asarray(labels)
    places = np.digitize(top, np.linspace(0, 1, num_bins + 1)[1:-1], right=True)
    count = np.bincount(places, minlength=num_bins)
    confidence, accuracy = (
        np.bincount(places, weights, minlength=num_bins) / np.maximum(count, 1) for weights in (top, correct)
    )
    ece = float((count * np.abs(accuracy - confidence)).sum() / len(top))
    rng = np.random.default_rng(0)
    by_chance = [
        np.abs(np.bincount(places, (rng.random(len(top)) < top) - top, minlength=num_bins)).sum() / len(top)
        for _ in range(NUM_DRAWS)
    ]
    return Reliability(count, confidence, accuracy, ece, float(np.mean(by_chance)), float(np.quantile(by_chance, 0.95)))


def log_likelihood_loss(labels: ArrayLike, logits: ArrayLike, temperature: float = 1.0) -> float:
    """Mean of -log softmax(logits / temperature) at the labels, in nats. labels (N,) class indices, logits (N, K)."""
    logs = log_softmax(np.asarray(logits, np.float64) / temperature, axis=1)
    return float(-np.take_along_axis(logs, np.asarray(labels)[:, None], axis=1).mean())


def fit_temperature(labels: ArrayLike, logits: ArrayLike) -> float:
    """The temperature from `LOWEST` to `HIGHEST` with the least `log_likelihood_loss` (Guo et al., ICML 2017).

    labels (N,) class indices. logits (N, K), up to a constant in each row, such as log probabilities.
    The loss is convex in 1 / temperature, so there is one minimum.
    """
    found = minimize_scalar(
        lambda log: log_likelihood_loss(labels, logits, math.exp(log)),
        bounds=(math.log(LOWEST), math.log(HIGHEST)),
        method="bounded",
        options={"xatol": 1e-6},
    )
    return math.exp(found.x)


def is_at_bound(temperature: float) -> bool:
    """Whether a fitted temperature is the lowest or highest that is tried, so that the best one is beyond."""
    return not LOWEST * 1.001 < temperature < HIGHEST / 1.001
