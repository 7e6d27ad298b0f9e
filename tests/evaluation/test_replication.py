"""Intervals over pre-trainings and people, and tests against a reference row: on simulated tables whose truth is known."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from svfap.errors import UserError
from svfap.evaluation.confidence import SubjectScore, interval
from svfap.evaluation.replication import difference, holm, row_estimate, table_differences

PEOPLE, CLIPS, RESAMPLES = 60, 7, 150
TABLES = 250


def mean_of(sums):
    return sums[..., 0] / sums[..., 1]


def row_of(scores):
    """P scores (P, S) of S people, each the mean over CLIPS clips."""
    return [SubjectScore(np.stack([CLIPS * each, np.full(len(each), CLIPS)], axis=1), mean_of) for each in scores]


def simulated(rng, num_rows=4, trained=0.03, seeds=0.02, person=0.1, person_row=0.03, person_run=0.08, means=0.0):
    """A table (R, 3, S): every person's score in each row and pre-training. The parameters are standard deviations: of the
    interaction of row and seed, of seeds, and per person in common, of a row, and of a single run.
    """
    shape = (num_rows, 3, PEOPLE)
    rows = np.broadcast_to(np.reshape(means, (-1, 1, 1)), (num_rows, 1, 1))
    parts = [(np.reshape(trained, (-1, 1, 1)), (num_rows, 3, 1)), (seeds, (1, 3, 1)), (person, (1, 1, PEOPLE)),
             (person_row, (num_rows, 1, PEOPLE)), (person_run, shape)]  # fmt: skip
    return 0.5 + rows + sum(scale * rng.standard_normal(size) for scale, size in parts)


def true_error(trained=0.03, person_row=0.03, person_run=0.08):
    """Standard error of a difference between two rows."""
    return math.sqrt(2 * (trained**2 / 3 + person_row**2 / PEOPLE + person_run**2 / (3 * PEOPLE)))


def called_different(table):
    found = table_differences([row_of(row) for row in table], 0, RESAMPLES)
    return [p < 0.05 for p in holm([each.p for each in found[1:]])], found


@pytest.mark.parametrize(
    "how",
    [
        {},  # pre-trainings scatter most
        {"trained": 0.005, "person_row": 0.1},  # people matter most
        {"num_rows": 7},
        {"num_rows": 2},
        {"num_rows": 2, "trained": 0.015},  # two pairs often agree by chance
    ],
)
def test_rows_without_a_difference_are_called_different_in_one_table_of_twenty(how):
    rng = np.random.default_rng(0)
    wrong = [any(called_different(simulated(rng, **how))[0]) for _ in range(TABLES)]
    assert 0.015 <= np.mean(wrong) <= 0.09  # four binomial standard errors about 0.05, cut at the lower end


def test_rows_that_scatter_unlike_are_called_different_in_at_most_one_table_of_ten_or_so():
    """The assumption that is stated: three times the scatter in the reference."""
    rng = np.random.default_rng(1)
    wrong = [any(called_different(simulated(rng, trained=[0.09, 0.03, 0.03, 0.03]))[0]) for _ in range(TABLES)]
    assert np.mean(wrong) <= 0.15


def test_true_differences_are_found_and_the_interval_covers_them():
    rng, error = np.random.default_rng(2), true_error()
    found = {3: [], 5: []}
    for size in found:
        for _ in range(TABLES):
            different, estimates = called_different(simulated(rng, means=[0, 0, 0, size * error]))
            last = estimates[3]
            found[size].append((different[2], last.p < 0.05, last.low < size * error < last.high, last.standard_error))
    holm3, plain3, covered, _ = np.mean(found[3], axis=0)
    assert holm3 > 0.38 and plain3 > 0.6
    assert np.mean(found[5], axis=0)[0] > 0.85
    assert 0.91 < covered < 0.985
    assert math.sqrt(np.mean(np.square([one[3] for one in found[3]]))) == pytest.approx(error, rel=0.1)


def test_the_interval_of_a_row_covers_the_mean_over_pretrainings_and_people():
    rng = np.random.default_rng(3)
    found = [row_estimate(row_of(simulated(rng, num_rows=1)[0]), RESAMPLES) for _ in range(TABLES)]
    assert 0.91 < np.mean([one.low < 0.5 < one.high for one in found]) <= 0.995
    people_alone = [interval(row_of(simulated(rng, num_rows=1)[0])[0], num_resamples=RESAMPLES) for _ in range(TABLES)]
    assert np.mean([one.low < 0.5 < one.high for one in people_alone]) < 0.75, (
        "one pre-training's interval is too narrow"
    )


def test_numbers_by_hand():
    """Scores without people's error: s² and t alone."""
    flat = [
        row_of(np.full((3, PEOPLE), 1.0) * np.array(scores)[:, None]) for scores in ([0.5, 0.4, 0.6], [0.6, 0.4, 0.8])
    ]
    row = row_estimate(flat[0])
    assert row.value == pytest.approx(0.5) and row.standard_error == pytest.approx(0.1 / math.sqrt(3))
    assert row.high - row.value == pytest.approx(4.302653 * 0.1 / math.sqrt(3), rel=1e-5)
    other = difference(flat[1], flat[0])
    assert other.value == pytest.approx(0.1) and other.standard_error == pytest.approx(0.1 / math.sqrt(3))
    assert other.p == pytest.approx(0.2254, abs=1e-3)  # t = √3 with 2 degrees of freedom


def counted(hits):
    """Scores of recognised clips (P, S), the numbers of each person, of CLIPS clips each."""
    return row_of(np.asarray(hits) / CLIPS)


def test_pretrainings_that_agree_by_chance_leave_the_error_of_the_people():
    """Another person in each pre-training: equal scores, and a covariance over people that is negative."""
    lucky = counted(np.eye(PEOPLE)[:3])
    row = row_estimate(lucky)
    mean_of_people = np.eye(PEOPLE)[:3].mean(axis=0) / CLIPS
    assert row.standard_error == pytest.approx(mean_of_people.std(ddof=1) / math.sqrt(PEOPLE), rel=0.05)
    assert row.low < 0 < row.value < row.high
    found = difference(lucky, counted(np.zeros((3, PEOPLE))))
    assert found.low < 0 < found.value < found.high and found.p > 0.05
    few = row_estimate(row_of(np.array([[0.2, 0, 0, 0], [0, 0.2, 0, 0], [0, 0, 0.2, 0]])))
    assert few.high - few.value == pytest.approx(3.1824 * few.standard_error, rel=1e-3), "3 degrees of freedom"


def test_where_all_score_alike_there_is_nothing_to_estimate():
    alike, other = (counted(np.full((3, PEOPLE), hits)) for hits in (2, 3))
    for found in (row_estimate(alike), difference(other, alike)):
        assert found.value > 0 and all(map(math.isnan, found[1:]))


def test_an_interval_is_cut_at_the_range_of_the_score_and_that_of_a_difference_is_not():
    row = row_of(np.full((2, PEOPLE), 1.0) * np.array([[0.1], [0.3]]))
    assert row_estimate(row).low < 0 and row_estimate(row).high > 1
    cut = row_estimate(row, limits=(0.0, 1.0))
    assert (cut.low, cut.high) == (0, 1) and cut.standard_error == row_estimate(row).standard_error
    assert difference(row, counted(np.zeros((2, PEOPLE)))).low < 0


def test_the_same_runs_do_not_differ_and_do_not_count_twice():
    rows = [row_of(row) for row in simulated(np.random.default_rng(4))]
    alone = table_differences(rows, 0, RESAMPLES)
    twice = table_differences([*rows, rows[0], rows[2]], 0, RESAMPLES)
    assert twice[4] == (0, 0, 0, 0, 1) and twice[5] == twice[2] == alone[2]
    by_chance = table_differences([*rows[:3], [replace(score) for score in rows[0]]], 0, RESAMPLES)[3]
    assert by_chance.value == 0 and by_chance.low < 0 < by_chance.high, "other runs of the same scores may differ"


def test_one_pretraining_has_no_interval():
    rows = [row_of(row[:1]) for row in simulated(np.random.default_rng(5))]
    estimate = row_estimate(rows[0])
    assert estimate.value == pytest.approx(rows[0][0].value)
    assert all(map(math.isnan, estimate[1:]))
    assert all(math.isnan(each.p) for each in table_differences(rows, 0))


def test_rows_that_do_not_match_are_refused():
    rows = [row_of(row) for row in simulated(np.random.default_rng(6))]
    with pytest.raises(UserError, match="3, 2 pre-trainings"):
        table_differences([rows[0], rows[1][:2]], 0)
    fewer = row_of(np.zeros((3, PEOPLE - 1)))
    with pytest.raises(UserError, match="same subjects"):
        table_differences([rows[0], fewer], 0)


def test_holm():
    assert holm([0.01, 0.04, 0.03, math.nan]) == pytest.approx([0.03, 0.06, 0.06, math.nan], nan_ok=True)
    assert holm([0.5, 0.9]) == [1.0, 1.0] and holm([]) == []
