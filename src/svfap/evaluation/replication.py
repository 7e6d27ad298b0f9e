"""Scores of rows that are trained several times: intervals over trainings and subjects, and tests against a reference row.

The model of variance is that of Obuchowski and Rockette (Communications in Statistics, 1995) with the degrees of freedom of
Hillis (Statistics in Medicine, 2007), who compare treatments by several readers of the same cases. Here the treatments are the
rows of a table, the readers are pre-trainings with matched seeds, and the cases are the people of the test part:

    score of row i, pre-training p = mean of row i + effect of seed p + interaction of i and p + error of the test people

The error is common to all rows and pre-trainings, as they are tested on the same people. What differs between readings of the
same pre-training (fine-tunings, probes) is averaged before, and its rest is part of the interaction.

A row's mean over P pre-trainings has the squared standard error s² / P + c: s² is the variance of the row's P scores, and c the
covariance, over drawn people, of the scores of two of its pre-trainings. s² has that part of the people's error which differs
between pre-trainings, c the part which they share, so nothing is counted twice. Few pre-trainings may agree by chance, and c may
come out negative. So the squared standard error is never below the variance, over drawn people, of the mean over pre-trainings,
which its expectation is not below either; what is missing is added to c. For a difference to the reference row the same
holds of the P paired differences, but s² / 2 is the interaction's mean square over all R rows of the table, with (R - 1)(P - 1)
degrees of freedom: with 3 pre-trainings a variance of one pair alone, with 2 degrees of freedom, would show next to nothing. It
assumes that the rows scatter alike from pre-training to pre-training. Where the reference scatters three times as much as the
other rows, rows without a difference are called different in one table of ten instead of one of twenty.

Intervals and tests use Student's t, with the degrees of freedom of Satterthwaite for the sum of the two parts. With 4 rows, 3
pre-trainings and Holm's correction, a true difference of 3 standard errors is found in about half of the tables (without the
correction in 7 of 10), of 5 standard errors in 9 of 10.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t as student

from svfap.errors import UserError
from svfap.evaluation.confidence import LEVEL, NUM_RESAMPLES, SubjectScore, drawn_scores

SIGNIFICANCE = 0.05
Row = Sequence[SubjectScore]


class Estimate(NamedTuple):
    """A row's mean score, or its difference to another row's: interval, standard error, and p of the test against 0.

    All but the value are NaN for a single pre-training, which tells nothing of another one, and where all pre-trainings and
    people score alike, so that there is nothing to estimate an error from.
    """

    value: float
    low: float
    high: float
    standard_error: float
    p: float


def row_estimate(
    row: Row,
    num_resamples: int = NUM_RESAMPLES,
    seed: int = 0,
    limits: tuple[float, float] = (-math.inf, math.inf),
) -> Estimate:
    """The mean score of a row's P pre-trainings; see the top of this module.

    row: P scores, each the mean over the readings of a pre-training. limits: least and greatest value that the score may have;
    the interval is cut there. Raises `UserError` for fewer than two subjects.
    """
    scores, drawn = _scores(row), _drawn(row, num_resamples, seed)
    spread = float(scores.var(ddof=1)) if len(scores) > 1 else math.nan
    found = _estimate(scores, spread, len(scores) - 1, drawn, len(row[0].sums))
    return found._replace(low=max(found.low, limits[0]), high=min(found.high, limits[1]))


def difference(row: Row, reference: Row, num_resamples: int = NUM_RESAMPLES, seed: int = 0) -> Estimate:
    """Row less reference, by the scatter of this pair alone, with P - 1 degrees of freedom."""
    return table_differences([reference, row], 0, num_resamples, seed)[1]


def table_differences(
    rows: Sequence[Row], reference: int, num_resamples: int = NUM_RESAMPLES, seed: int = 0
) -> list[Estimate]:
    """Each row's difference to the row with the number `reference`, paired by pre-training seed and by test people.

    rows: R rows of P scores, those at the same place with the same seed. Rows of the same runs have the same objects: these do
    not differ, and count once in the common scatter. Raises `UserError` for rows of different length or other subjects.
    """
    if len({len(row) for row in rows}) > 1:
        raise UserError(
            f"the rows to compare have {', '.join(str(len(row)) for row in rows)} pre-trainings; all need as many"
        )
    if len({len(score.sums) for row in rows for score in row}) > 1:
        raise UserError("the rows to compare are not of the same subjects")
    scores = np.stack([_scores(row) for row in rows])
    drawn = [_drawn(row, num_resamples, seed) for row in rows]
    runs = [tuple(map(id, row)) for row in rows]
    distinct = scores[[runs.index(one) for one in dict.fromkeys(runs)]]
    residuals = distinct - distinct.mean(axis=0) - distinct.mean(axis=1, keepdims=True) + distinct.mean()
    dof = (len(distinct) - 1) * (scores.shape[1] - 1)
    spread = 2 * float((residuals**2).sum()) / dof if dof else math.nan
    found = []
    for number, row in enumerate(rows):
        if runs[number] == runs[reference] and scores.shape[1] > 1:
            found.append(Estimate(0.0, 0.0, 0.0, 0.0, 1.0))
            continue
        paired = scores[number] - scores[reference]
        found.append(_estimate(paired, spread, max(dof, 1), drawn[number] - drawn[reference], len(row[0].sums)))
    return found


def holm(p: Sequence[float]) -> list[float]:
    """p values after Holm's correction (Scandinavian Journal of Statistics, 1979) for as many tests; NaN stays and is no test."""
    values = np.asarray(p, np.float64)
    adjusted = np.full(len(values), math.nan)
    order = [int(i) for i in np.argsort(values, kind="stable") if not math.isnan(values[i])]
    largest = 0.0
    for rank, i in enumerate(order):
        largest = max(largest, min(1.0, float(values[i]) * (len(order) - rank)))
        adjusted[i] = largest
    return [float(value) for value in adjusted]


def _scores(row: Row) -> NDArray[np.float64]:
    return np.array([score.value for score in row])


def _drawn(row: Row, num_resamples: int, seed: int) -> NDArray[np.float64]:
    """Scores (resamples, P) of the same drawn people."""
    return np.stack([drawn_scores(score, num_resamples, seed) for score in row], axis=1)


def _estimate(
    scores: NDArray[np.float64], spread: float, dof: int, drawn: NDArray[np.float64], num_subjects: int
) -> Estimate:
    """Mean of P scores. spread: their variance s², with dof degrees of freedom. drawn: (resamples, P), of drawn people."""
    number, value = len(scores), float(scores.mean())
    if number == 1 or math.isnan(spread):
        return Estimate(value, math.nan, math.nan, math.nan, math.nan)
    covariance = np.cov(drawn.T) * num_subjects / (num_subjects - 1)  # the bootstrap's is that of a population
    shared = float((covariance.sum() - covariance.trace()) / (number * (number - 1)))
    trained, least = spread / number, float(covariance.mean())
    people = max(shared, least - trained, 0.0)
    error = math.sqrt(trained + people)
    if error < 1e-12:
        return Estimate(value, math.nan, math.nan, math.nan, math.nan)
    freedom = (trained + people) ** 2 / (trained**2 / dof + people**2 / (num_subjects - 1))
    reach = float(student.ppf((1 + LEVEL) / 2, freedom)) * error
    return Estimate(value, value - reach, value + reach, error, float(2 * student.sf(abs(value) / error, freedom)))
