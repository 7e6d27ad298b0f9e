"""Confidence intervals of scores and of differences of scores: a bootstrap over subjects.

Clips of one person are alike, so people are drawn, not clips. All scores here are functions of sums over clips (`SubjectScore`):
a drawn sample of people needs only the sums of each person, and two models are compared on the same drawn people.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.stats import norm
from scipy.stats import t as student

from svfap.console import counted
from svfap.errors import UserError

Sums = NDArray[np.float64]
NUM_RESAMPLES, LEVEL = 2000, 0.95
FEW = 10  # subjects below which the bootstrap's intervals may be far too narrow


@dataclass(frozen=True)
class SubjectScore:
    """A score as a function of sums over subjects.

    sums: (S, ...) float64, those of each subject. combine: maps sums over drawn subjects (R, ...) to R scores.
    """

    sums: Sums
    combine: Callable[[Sums], NDArray[np.float64]]

    @property
    def value(self) -> float:
        """The score of all subjects together."""
        return float(self.combine(self.sums.sum(axis=0, keepdims=True))[0])


class Interval(NamedTuple):
    """A score, or a difference of scores, with the bounds of its confidence interval."""

    value: float
    low: float
    high: float


def subject_scores(
    targets: ArrayLike, outputs: ArrayLike, subjects: Sequence[str] | NDArray, names: Sequence[str]
) -> dict[str, SubjectScore]:
    """The scores of predictions, by the keys of `svfap.evaluation.metrics.flat_scores`.

    targets: (N,) int class indices, or (N, K) values. outputs: (N, K) scores of classes or values; or (runs, N, K): then a
    score is the mean over the runs' scores. subjects: (N,) names. names: of the K classes or dimensions.

    Classification: `uar`, `war`, `weighted_f1`, `macro_f1`, and `accuracy_<class>` for classes that occur. Regression: `ccc`,
    `pcc`, `mae`, `rmse`, `accuracy` (1 - MAE), and `ccc_within_people`: CCC after each subject's mean is subtracted from
    targets and outputs, so that only differences within a person count; each is the mean over dimensions, and with several
    dimensions `ccc_<dimension>` and so on are the scores of each. Raises `UserError` for shapes that do not fit.
    """
    truth, given = np.asarray(targets), np.asarray(outputs, np.float64)
    given = given[None] if given.ndim == 2 else given
    people, _ = pd.factorize(np.asarray(subjects, dtype=object))
    expected = (len(truth), len(names))
    if given.ndim != 3 or given.shape[1:] != expected or len(people) != len(truth) or not len(truth):
        raise UserError(f"outputs: shape {np.shape(outputs)} does not fit {len(truth)} targets of {len(names)} names")
    if truth.ndim == 1:
        return _classification(truth, given, people, names)
    if truth.shape != expected:
        raise UserError(f"targets: shape {truth.shape} does not fit {len(names)} dimensions")
    truth = truth.astype(np.float64)
    centre = truth.mean(axis=0)
    moments = _moments(truth - centre, given - centre, people)
    within = _moments(_centred(truth, people), np.stack([_centred(run, people) for run in given]), people)
    known = {"ccc": ccc, "pcc": pcc, "mae": _mae, "rmse": _rmse, "accuracy": lambda sums: 1 - _mae(sums)}
    scores = {}
    for key, combine in (*known.items(), ("ccc_within_people", ccc)):
        sums = within if key == "ccc_within_people" else moments
        scores[key] = SubjectScore(sums, lambda s, f=combine: f(s).mean(axis=(1, 2)))  # type: ignore[misc]
        for k, name in enumerate(names if len(names) > 1 else ()):
            scores[f"{key}_{name}"] = SubjectScore(
                sums[:, :, k : k + 1],
                lambda s, f=combine: f(s).mean(axis=(1, 2)),  # type: ignore[misc]
            )
    return scores


def interval(
    score: SubjectScore,
    reference: SubjectScore | None = None,
    *,
    num_resamples: int = NUM_RESAMPLES,
    level: float = LEVEL,
    seed: int = 0,
) -> Interval:
    """Confidence interval of a score, or of its difference to `reference`, by drawing subjects with replacement.

    The difference is paired: both scores are of the same drawn subjects. Quantiles of the percentile interval are widened by
    the factor √(S/(S-1)) and Student's t for S subjects (the expanded percentile interval of Hesterberg, The American
    Statistician, 2015), since the plain one is too narrow for few subjects. Deterministic for a seed.

    Raises `UserError` for fewer than two subjects, and if the two scores are not of the same number of subjects.
    """
    number = len(score.sums)
    if reference is not None and len(reference.sums) != number:
        raise UserError(f"the scores to compare are of {number} and {len(reference.sums)} subjects")
    drawn, value = drawn_scores(score, num_resamples, seed), score.value
    if reference is not None:
        drawn, value = drawn - drawn_scores(reference, num_resamples, seed), value - reference.value
    tail = norm.cdf(np.sqrt(number / (number - 1)) * student.ppf((1 - level) / 2, number - 1))
    low, high = np.quantile(drawn[~np.isnan(drawn)], [tail, 1 - tail])
    return Interval(value, float(low), float(high))


def bootstrap_p(
    score: SubjectScore, reference: SubjectScore, *, num_resamples: int = NUM_RESAMPLES, seed: int = 0
) -> float:
    """Two-sided p of the test that two scores are equal: 1 less the level of the `interval` of their difference that ends at 0.

    Not below `least_p`, of R resamples. Raises `UserError` as `interval`.
    """
    number = len(score.sums)
    if len(reference.sums) != number:
        raise UserError(f"the scores to compare are of {number} and {len(reference.sums)} subjects")
    drawn = drawn_scores(score, num_resamples, seed) - drawn_scores(reference, num_resamples, seed)
    drawn = drawn[~np.isnan(drawn)]
    if not drawn.any():
        return 1.0
    # Half of the draws that are exactly 0 lie on either side.
    below = ((drawn < 0).sum() + (drawn == 0).sum() / 2 + 0.5) / (len(drawn) + 1)
    return _p(min(below, 1 - below), number)


def least_p(num_subjects: int, num_resamples: int = NUM_RESAMPLES) -> float:
    """The least p that `bootstrap_p` can give, where all drawn differences have one sign: .25, .11, .06, .04 of 2 to 5 subjects.

    The ends of an `interval` from few subjects are the extremes of the drawn differences, so that it may exclude 0 all the same.
    """
    return _p(0.5 / (num_resamples + 1), num_subjects)


def _p(tail: float, num_subjects: int) -> float:
    """Two-sided p for a share of the drawn differences beyond 0, corrected for few subjects."""
    number = num_subjects
    return float(min(1.0, 2 * student.cdf(norm.ppf(tail) / np.sqrt(number / (number - 1)), number - 1)))


def drawn_scores(score: SubjectScore, num_resamples: int = NUM_RESAMPLES, seed: int = 0) -> NDArray[np.float64]:
    """The score of each of R samples of subjects drawn with replacement, (R,).

    Scores of the same number of subjects are of the same samples for a seed, so they may be subtracted. NaN: the recall of a
    class that a sample has no clip of; intervals leave it out. Raises `UserError` for fewer than two subjects.
    """
    number = len(score.sums)
    if number < 2:
        raise UserError("a confidence interval over subjects needs at least 2 subjects")
    return score.combine(_drawn(_counts(number, num_resamples, seed), score.sums))


def intervals(
    scores: Mapping[str, SubjectScore], reference: Mapping[str, SubjectScore] | None = None, **how: float
) -> dict[str, Interval]:
    """`interval` of each score by its key, or of the differences to the scores of a reference that has the same keys."""
    return {
        key: interval(score, None if reference is None else reference[key], **how)  # type: ignore[arg-type]
        for key, score in scores.items()
    }


def interval_note(intervals: Mapping[str, Any]) -> str:
    """What the intervals of a test set are over and what is to be minded, as a sentence without its full stop.

    intervals: as `svfap.evaluation.predictions.score_intervals` returns them.
    """
    note = f"95% intervals are of {NUM_RESAMPLES} bootstrap samples of the {counted(intervals['num_units'], intervals['unit'])}"
    if intervals.get("caution"):
        note += f"; {intervals['caution']}"
    return note + (f"; from fewer than {FEW} they are not to be trusted" if intervals["num_units"] < FEW else "")


def ccc(sums: Sums) -> NDArray[np.float64]:
    """Concordance correlation (Eq. 14) from moments (..., 8) as `_moments` gives them; 0 where it is not defined."""
    mean_t, mean_p, var_t, var_p, covariance = _statistics(sums)
    spread = var_t + var_p + (mean_t - mean_p) ** 2
    return _ratio(2 * np.where((var_t > 0) & (var_p > 0), covariance, 0.0), spread)


def pcc(sums: Sums) -> NDArray[np.float64]:
    """Pearson's correlation from moments (..., 8); 0 where it is not defined."""
    _, _, var_t, var_p, covariance = _statistics(sums)
    return _ratio(covariance, np.sqrt(var_t * var_p))


def _classification(
    truth: NDArray, outputs: NDArray[np.float64], people: NDArray, names: Sequence[str]
) -> dict[str, SubjectScore]:
    """Sums (S, runs, K, K): the confusion matrix of each subject, rows = truth."""
    num_runs, _, num_classes = outputs.shape
    shape = (int(people.max()) + 1, num_runs, num_classes, num_classes)
    cells = np.ravel_multi_index((people, np.arange(num_runs)[:, None], truth, outputs.argmax(axis=2)), shape)
    sums = np.bincount(cells.ravel(), minlength=math.prod(shape)).reshape(shape).astype(np.float64)
    scores = {key: SubjectScore(sums, function) for key, function in CONFUSION_SCORES.items()}
    for k in np.unique(truth).tolist():
        scores[f"accuracy_{names[k]}"] = SubjectScore(sums[:, :, k : k + 1], lambda s, k=k: _recall_of(s, k))  # type: ignore[misc]
    return scores


def _recall_of(rows: Sums, k: int) -> NDArray[np.float64]:
    """Recall of class k from its row of the confusion matrix, (R, runs, 1, K) -> (R,); NaN where no clip of it is drawn."""
    counts = rows.sum(axis=(2, 3))
    return np.where(counts > 0, rows[:, :, 0, k] / np.maximum(counts, 1), np.nan).mean(axis=1)


def _uar(confusion: Sums) -> NDArray[np.float64]:
    recalls, counts, _ = _per_class(confusion)
    return (recalls.sum(axis=2) / (counts > 0).sum(axis=2)).mean(axis=1)


def _war(confusion: Sums) -> NDArray[np.float64]:
    return (_diagonal(confusion).sum(axis=2) / confusion.sum(axis=(2, 3))).mean(axis=1)


def _weighted_f1(confusion: Sums) -> NDArray[np.float64]:
    _, counts, f1 = _per_class(confusion)
    return ((f1 * counts).sum(axis=2) / counts.sum(axis=2)).mean(axis=1)


def _macro_f1(confusion: Sums) -> NDArray[np.float64]:
    """Over classes that occur or are predicted, as `classification_metrics`."""
    _, counts, f1 = _per_class(confusion)
    seen = (counts + confusion.sum(axis=2)) > 0
    return (f1.sum(axis=2) / seen.sum(axis=2)).mean(axis=1)


CONFUSION_SCORES: dict[str, Callable[[Sums], NDArray[np.float64]]] = {
    "uar": _uar, "war": _war, "weighted_f1": _weighted_f1, "macro_f1": _macro_f1,
}  # fmt: skip


def _per_class(confusion: Sums) -> tuple[Sums, Sums, Sums]:
    """Recall, count and F1 of each class, (..., K), from confusion matrices (..., K, K); 0 where they are not defined."""
    hits, counts, predicted = _diagonal(confusion), confusion.sum(axis=-1), confusion.sum(axis=-2)
    return hits / np.maximum(counts, 1), counts, 2 * hits / np.maximum(counts + predicted, 1)


def _diagonal(confusion: Sums) -> Sums:
    return np.diagonal(confusion, axis1=-2, axis2=-1)


def _moments(truth: NDArray[np.float64], outputs: NDArray[np.float64], people: NDArray) -> Sums:
    """(S, runs, K, 8): number, and sums of t, p, t², p², t·p, |p - t| and (p - t)², of targets t (N, K) and outputs p (runs,
    N, K).
    """
    t, p = np.broadcast_arrays(truth, outputs)
    error = p - t
    columns = [np.ones_like(t), t, p, t * t, p * p, t * p, np.abs(error), error**2]
    return _sum_by(people, np.stack(columns, axis=3).transpose(1, 0, 2, 3))


def _mae(sums: Sums) -> NDArray[np.float64]:
    return sums[..., 6] / sums[..., 0]


def _rmse(sums: Sums) -> NDArray[np.float64]:
    return np.sqrt(sums[..., 7] / sums[..., 0])


def _statistics(sums: Sums) -> tuple[NDArray[np.float64], ...]:
    number = sums[..., 0]
    mean_t, mean_p, tt, pp, tp = (sums[..., i] / number for i in range(1, 6))
    return mean_t, mean_p, _variance(tt, mean_t), _variance(pp, mean_p), tp - mean_t * mean_p


def _variance(squares: NDArray[np.float64], mean: NDArray[np.float64]) -> NDArray[np.float64]:
    """Variance from the mean of squares and the mean; 0 where it is rounding."""
    variance = squares - mean**2
    return np.where(variance > 1e-12 * squares, variance, 0.0)


def _ratio(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.where(b > 0, a / np.where(b > 0, b, 1), 0.0)


def _centred(values: NDArray[np.float64], people: NDArray) -> NDArray[np.float64]:
    """Values (N, K) less the mean of their subject."""
    return values - pd.DataFrame(values).groupby(people).transform("mean").to_numpy()


def _sum_by(people: NDArray, table: NDArray[np.float64]) -> Sums:
    """Sums of (N, ...) over the clips of each subject: (S, ...)."""
    sums = pd.DataFrame(table.reshape(len(table), -1)).groupby(people).sum().to_numpy()
    return sums.reshape(-1, *table.shape[1:])


@lru_cache(maxsize=4)
def _counts(number: int, num_resamples: int, seed: int) -> NDArray[np.float64]:
    """How often each of S subjects is in each of R drawn samples: (R, S)."""
    return (
        np.random.default_rng(seed).multinomial(number, np.full(number, 1 / number), num_resamples).astype(np.float64)
    )


def _drawn(counts: NDArray, sums: Sums) -> Sums:
    """Sums of R drawn samples, (R, ...): counts (R, S) say how often each subject is drawn."""
    return (counts @ sums.reshape(len(sums), -1)).reshape(-1, *sums.shape[1:])
