"""Confidence intervals over subjects: scores as sums, coverage on simulated people, paired differences."""

from __future__ import annotations

import numpy as np
import pytest

from svfap.errors import UserError
from svfap.evaluation.confidence import SubjectScore, interval, intervals, subject_scores
from svfap.evaluation.metrics import classification_metrics, flat_scores, regression_metrics


@pytest.fixture
def people():
    rng = np.random.default_rng(0)
    return np.array([f"p{n}" for n in rng.integers(0, 12, 200)], object)


def test_scores_of_classes_are_those_of_the_metrics(people):
    rng = np.random.default_rng(1)
    labels, outputs = rng.integers(0, 3, 200), rng.random((200, 4))  # the fourth class does not occur
    known = classification_metrics(labels, outputs, list("abcd"))
    scores = subject_scores(labels, outputs, people, list("abcd"))
    flat = flat_scores(known)
    del flat["micro_f1"]
    assert "accuracy_d" not in flat and {key: score.value for key, score in scores.items()} == pytest.approx(flat)


def test_scores_of_values_are_those_of_the_metrics(people):
    rng = np.random.default_rng(1)
    targets = rng.normal(1000, 1, (200, 2))  # far from zero
    outputs = targets + rng.normal(size=(200, 2)) * [0.3, 2]
    known = regression_metrics(targets, outputs, ["v", "a"])
    scores = subject_scores(targets, outputs, people, ["v", "a"])
    for key in ("ccc", "pcc", "mae", "rmse", "accuracy"):
        assert scores[key].value == pytest.approx(known[key], abs=1e-9)
        assert scores[f"{key}_a"].value == pytest.approx(known["per_dimension"]["a"][key], abs=1e-9)


def test_a_constant_output_scores_nothing(people):
    targets = np.random.default_rng(0).normal(5, 1, (200, 1))
    scores = subject_scores(targets, np.full((200, 1), 5.0), people, ["v"])
    assert [scores[key].value for key in ("ccc", "pcc", "ccc_within_people")] == [0, 0, 0]
    assert scores["rmse"].value > scores["mae"].value > 0.5


def test_within_people_only_differences_of_a_person_count(people):
    rng = np.random.default_rng(2)
    inside, between = rng.normal(size=(200, 1)), {p: rng.normal() * 5 for p in set(people)}
    level = np.array([[between[p]] for p in people])
    inside -= np.array([inside[people == p].mean(axis=0) for p in people])
    who = subject_scores(inside + level, level + rng.normal(size=(200, 1)) * 0.01, people, ["v"])
    assert who["ccc"].value > 0.9 and abs(who["ccc_within_people"].value) < 0.05
    when = subject_scores(inside + level, inside, people, ["v"])
    assert when["ccc"].value < 0.2 and when["ccc_within_people"].value == pytest.approx(1)


def test_several_runs_have_the_mean_of_their_scores(people):
    rng = np.random.default_rng(3)
    labels, runs = rng.integers(0, 3, 200), rng.random((2, 200, 3))
    alone = [subject_scores(labels, run, people, list("abc"))["uar"].value for run in runs]
    assert subject_scores(labels, runs, people, list("abc"))["uar"].value == pytest.approx(np.mean(alone))


@pytest.mark.parametrize("num_people", [8, pytest.param(40, marks=pytest.mark.slow)])
def test_the_interval_covers_the_truth_as_often_as_it_says(num_people):
    """People differ in how well they are recognised: 70% on average; 5 correlated clips of each."""
    rng, covered, width, naive = np.random.default_rng(0), 0, [], []
    for trial in range(300):
        rate = rng.beta(7, 3, num_people)
        hits = rng.random((num_people, 5)) < rate[:, None]
        outputs = np.stack([hits.ravel(), ~hits.ravel()], axis=1).astype(float)
        subjects = np.repeat(np.arange(num_people), 5).astype(str)
        score = subject_scores(np.zeros(hits.size, int), outputs, subjects, ["a", "b"])["war"]
        found = interval(score, seed=trial, num_resamples=500)
        covered += found.low <= 0.7 <= found.high
        width.append(found.high - found.low)
        naive.append(np.ptp(interval(_by_clip(hits), seed=trial, num_resamples=500)[1:]))
    assert 0.915 <= covered / 300 <= 0.985
    assert np.mean(width) > 1.1 * np.mean(naive)  # than if clips were independent


def _by_clip(hits):
    return SubjectScore(np.stack([hits.ravel(), np.ones(hits.size)], axis=1), lambda s: s[:, 0] / s[:, 1])


def test_a_paired_difference_is_surer_than_its_two_scores(people):
    rng = np.random.default_rng(4)
    targets = np.repeat(rng.normal(size=(20, 1)), 10, axis=0)
    subjects = np.repeat(np.arange(20), 10).astype(str)
    shared = targets + rng.normal(size=(200, 1))
    a, b = (subject_scores(targets, shared + rng.normal(size=(200, 1)) * s, subjects, ["v"]) for s in (0.1, 0.8))
    one, other = interval(a["ccc"]), interval(b["ccc"])
    difference = intervals(a, b)["ccc"]
    assert difference.value == pytest.approx(one.value - other.value)
    assert difference.high - difference.low < (one.high - one.low) / 2
    assert interval(a["ccc"], a["ccc"]) == (0, 0, 0)
    assert one == interval(a["ccc"]) != interval(a["ccc"], seed=1)


def test_what_cannot_be_scored(people):
    with pytest.raises(UserError, match="at least 2 subjects"):
        interval(subject_scores(np.array([0, 1]), np.eye(2), ["a", "a"], ["x", "y"])["uar"])
    with pytest.raises(UserError, match="does not fit"):
        subject_scores(np.array([0, 1]), np.eye(3), ["a", "a"], ["x", "y"])
    few = subject_scores(np.array([0, 1]), np.eye(2), ["a", "b"], ["x", "y"])["uar"]
    with pytest.raises(UserError, match="2 and 12 subjects"):
        interval(few, subject_scores(np.zeros(200, int), np.zeros((200, 2)), people, ["x", "y"])["uar"])
