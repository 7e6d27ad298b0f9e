"""Metrics against scikit-learn, scipy and cases worked by hand."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import pearsonr
from sklearn import metrics as sk

from svfap.errors import UserError
from svfap.evaluation.metrics import (
    average_views,
    classification_metrics,
    frame_metrics,
    never_predicted,
    regression_metrics,
    write_metrics,
)

NAMES = ["a", "b", "c"]
# Truth and predictions, worked by hand: recalls 2/3, 1/2, 1; precisions 2/3, 1/2, 1.
LABELS = [0, 0, 0, 1, 1, 2]
PREDICTED = [0, 0, 1, 1, 0, 2]


def one_hot(indices, num_classes=3):
    return np.eye(num_classes)[indices] * 0.8 + 0.2 / num_classes


def all_numbers(value):
    if isinstance(value, dict):
        return [number for item in value.values() for number in all_numbers(item)]
    if isinstance(value, list):
        return [number for item in value for number in all_numbers(item)]
    return [value] if isinstance(value, int | float) else []


# Classification ------------------------------------------------------------------------------------------------------


def test_classification_by_hand():
    scores = classification_metrics(LABELS, one_hot(PREDICTED), NAMES)
    assert scores["uar"] == pytest.approx((2 / 3 + 1 / 2 + 1) / 3)
    assert scores["war"] == pytest.approx(4 / 6)
    assert scores["micro_f1"] == pytest.approx(4 / 6)
    assert scores["macro_f1"] == pytest.approx((2 / 3 + 1 / 2 + 1) / 3)
    assert scores["weighted_f1"] == pytest.approx((3 * 2 / 3 + 2 * 1 / 2 + 1) / 6)
    assert scores["confusion"] == [[2, 1, 0], [1, 1, 0], [0, 0, 1]]
    assert scores["per_class"]["a"] == pytest.approx({"accuracy": 2 / 3, "precision": 2 / 3, "f1": 2 / 3, "count": 3})
    assert scores["classes_absent"] == [] and scores["num_samples"] == 6


@pytest.mark.parametrize("seed", range(3))
def test_classification_as_scikit_learn(seed):
    rng = np.random.default_rng(seed)
    names = [f"class {i}" for i in range(7)]
    labels = rng.choice(7, 200, p=(0.4, 0.2, 0.1, 0.1, 0.1, 0.06, 0.04))
    probabilities = rng.dirichlet(np.ones(7), 200)
    probabilities[np.arange(200), labels] += 0.2
    predicted = probabilities.argmax(1)
    scores = classification_metrics(labels, probabilities, names)
    assert scores["uar"] == pytest.approx(sk.balanced_accuracy_score(labels, predicted))
    assert scores["war"] == pytest.approx(sk.accuracy_score(labels, predicted))
    for average in ("weighted", "micro", "macro"):
        assert scores[f"{average}_f1"] == pytest.approx(sk.f1_score(labels, predicted, average=average))
    assert scores["confusion"] == sk.confusion_matrix(labels, predicted).tolist()
    recall = sk.recall_score(labels, predicted, average=None)
    precision = sk.precision_score(labels, predicted, average=None, zero_division=0)
    assert [c["accuracy"] for c in scores["per_class"].values()] == pytest.approx(recall.tolist())
    assert [c["precision"] for c in scores["per_class"].values()] == pytest.approx(precision.tolist())
    assert (
        len({round(scores[m], 6) for m in ("uar", "war", "weighted_f1", "macro_f1")}) == 4
    )  # this case tells the metrics apart


def test_absent_classes_are_named_and_left_out_of_the_average():
    scores = classification_metrics([0, 0, 0, 1], one_hot([0, 0, 2, 1]), NAMES)
    assert scores["classes_absent"] == ["c"]
    assert never_predicted(scores) == ""
    assert scores["uar"] == pytest.approx((2 / 3 + 1) / 2)
    assert scores["per_class"]["c"] == {"accuracy": 0.0, "precision": 0.0, "f1": 0.0, "count": 0}
    assert scores["confusion"] == [[2, 0, 1], [0, 1, 0], [0, 0, 0]]
    assert scores["macro_f1"] == pytest.approx((0.8 + 1 + 0) / 3)


def test_classes_that_are_never_predicted_are_named():
    few = classification_metrics(LABELS, one_hot([0, 0, 1, 1, 1, 1]), NAMES)
    assert never_predicted(few) == "The model never predicts c (1)."
    one = classification_metrics(LABELS, one_hot([1] * 6), NAMES)
    assert never_predicted(one) == "The model predicts b whatever it is shown."
    assert never_predicted({"ccc": 0.5}) == ""


def test_a_tie_goes_to_the_first_class_and_one_sample_is_enough():
    scores = classification_metrics([1], [[0.4, 0.4, 0.2]], NAMES)
    assert scores["war"] == scores["uar"] == 0.0
    assert scores["confusion"][1] == [1, 0, 0]


def test_results_are_plain_python():
    scores = classification_metrics(np.array(LABELS), np.float32(one_hot(PREDICTED)), NAMES)
    assert {type(number) for number in all_numbers(scores)} == {int, float}


@pytest.mark.parametrize(
    "labels, probabilities, names, message",
    [
        ([], np.zeros((0, 3)), NAMES, "empty"),
        ([0, 3], one_hot([0, 1]), NAMES, "0 to 2"),
        ([0, -1], one_hot([0, 1]), NAMES, "are outside the range"),
        ([0.0, 1.0], one_hot([0, 1]), NAMES, "integers"),
        ([0], one_hot([0, 1]), NAMES, "labels: shape"),
        ([0, 1], np.array([[0.1, np.nan, 0.9], [1, 0, 0]]), NAMES, "first in row 0"),
        ([0, 1], np.array([[1, 0, 0], [np.inf, 0, 0]]), NAMES, "first in row 1"),
        ([0, 1], [0.5, 0.5], NAMES, "2 axes"),
        ([0, 1], one_hot([0, 1]), ["a", "b"], "2 names for 3 columns"),
        ([0, 1], one_hot([0, 1]), ["a", "b", "a"], "twice"),
    ],
)
def test_bad_classification_input(labels, probabilities, names, message):
    with pytest.raises(UserError, match=message):
        classification_metrics(labels, probabilities, names)


# Regression ----------------------------------------------------------------------------------------------------------


def test_regression_by_hand():
    # Means 2 and 3, population variances 2/3 and 8/3, covariance 4/3, errors 0, 1, 2.
    scores = regression_metrics([[1], [2], [3]], [[1], [3], [5]], ["x"])
    assert scores["mae"] == pytest.approx(1.0)
    assert scores["accuracy"] == pytest.approx(0.0)
    assert scores["rmse"] == pytest.approx(math.sqrt(5 / 3))
    assert scores["pcc"] == pytest.approx(1.0)
    assert scores["ccc"] == pytest.approx(2 * (4 / 3) / (2 / 3 + 8 / 3 + 1))
    assert scores["degenerate"] == [] and scores["num_samples"] == 3
    assert scores["per_dimension"]["x"] == {m: scores[m] for m in ("mae", "rmse", "pcc", "ccc", "accuracy")}


def test_regression_as_scipy_and_scikit_learn_averaged_over_dimensions():
    rng = np.random.default_rng(3)
    truth = rng.normal(size=(50, 2)) * (1, 3)
    predicted = truth * (0.5, -0.2) + rng.normal(size=(50, 2)) + (0.3, 0)
    scores = regression_metrics(truth, predicted, ["x", "y"])
    for k, name in enumerate("xy"):
        mine = scores["per_dimension"][name]
        t, p = truth[:, k], predicted[:, k]
        assert mine["pcc"] == pytest.approx(pearsonr(t, p).statistic)
        assert mine["mae"] == pytest.approx(sk.mean_absolute_error(t, p))
        assert mine["rmse"] == pytest.approx(sk.mean_squared_error(t, p) ** 0.5)
        # Lin's formula by way of the correlation.
        assert mine["ccc"] == pytest.approx(
            2 * mine["pcc"] * t.std() * p.std() / (t.var() + p.var() + (t.mean() - p.mean()) ** 2)
        )
    for metric in ("mae", "rmse", "pcc", "ccc", "accuracy"):
        assert scores[metric] == pytest.approx(np.mean([scores["per_dimension"][n][metric] for n in "xy"]))
    assert scores["per_dimension"]["y"]["pcc"] < 0 < scores["per_dimension"]["x"]["pcc"]


def test_agreement_and_a_shift():
    x = np.linspace(-1, 1, 9)[:, None]
    assert regression_metrics(x, x, ["x"])["ccc"] == pytest.approx(1)
    assert regression_metrics(x, -x, ["x"])["ccc"] == pytest.approx(-1)
    shifted = regression_metrics(x, x + 1, ["x"])
    assert shifted["pcc"] == pytest.approx(1)
    assert shifted["ccc"] == pytest.approx(2 * x.var() / (2 * x.var() + 1))


@pytest.mark.parametrize("constant", ["predictions", "targets", "both", "almost"])
def test_constants_have_a_defined_score_and_are_listed(constant):
    varied, flat = np.array([[0.1], [0.5], [0.9]]), np.full((3, 1), 0.3)
    truth = {"predictions": varied, "targets": flat, "both": flat, "almost": varied}[constant]
    predicted = {"predictions": flat, "targets": varied, "both": flat, "almost": flat}[constant].copy()
    if constant == "almost":
        predicted[0] = np.nextafter(predicted[0], 1)  # rounding is no variation
    good = np.array([[1.0], [2.0], [3.0]])
    scores = regression_metrics(np.hstack([good, truth]), np.hstack([good, predicted]), ["fine", "flat"])
    assert scores["degenerate"] == ["flat"]
    assert scores["per_dimension"]["flat"]["pcc"] == scores["per_dimension"]["flat"]["ccc"] == 0.0
    assert scores["pcc"] == pytest.approx(0.5) and scores["ccc"] == pytest.approx(0.5)
    assert scores["per_dimension"]["flat"]["mae"] == pytest.approx(np.abs(predicted - truth).mean())
    assert all(math.isfinite(number) for number in all_numbers(scores))


def test_one_sample_is_degenerate_and_not_nan():
    scores = regression_metrics([[0.5]], [[0.25]], ["x"])
    assert scores["degenerate"] == ["x"] and scores["mae"] == 0.25 and scores["pcc"] == 0.0


@pytest.mark.parametrize(
    "targets, predictions, names, message",
    [
        (np.zeros((0, 1)), np.zeros((0, 1)), ["x"], "empty"),
        ([[1], [2]], [[1]], ["x"], "differs from the targets'"),
        ([[1], [np.nan]], [[1], [2]], ["x"], "targets: 1 values are NaN"),
        ([[1], [2]], [[1], [-np.inf]], ["x"], "predictions: 1 values are NaN or infinite, the first in row 1"),
        ([1, 2], [1, 2], ["x"], "2 axes"),
        ([[1, 2]], [[1, 2]], ["x"], "1 names for 2 columns"),
        ([[1, 2]], [[1, 2]], ["x", "x"], "twice"),
    ],
)
def test_bad_regression_input(targets, predictions, names, message):
    with pytest.raises(UserError, match=message):
        regression_metrics(targets, predictions, names)


# Per frame -----------------------------------------------------------------------------------------------------------


def test_frames_are_pooled_and_each_video_is_scored():
    rng = np.random.default_rng(0)
    truth = [rng.normal(size=(n, 2)) for n in (5, 20)]
    predicted = [truth[0] + 1.0, truth[1] * 0.5]
    scores = frame_metrics(truth, predicted, ["x", "y"])
    pooled = regression_metrics(np.concatenate(truth), np.concatenate(predicted), ["x", "y"])
    assert {key: scores[key] for key in pooled} == pooled
    assert scores["num_samples"] == 25 and scores["num_videos"] == 2
    each = [regression_metrics(t, p, ["x", "y"]) for t, p in zip(truth, predicted, strict=True)]
    for metric in ("mae", "ccc", "pcc"):
        assert scores["video_mean"][metric] == pytest.approx((each[0][metric] + each[1][metric]) / 2)
        by_name = [video["per_dimension"]["y"][metric] for video in each]
        assert scores["video_mean"]["per_dimension"]["y"][metric] == pytest.approx(np.mean(by_name))
    assert scores["video_mean"]["pcc"] == pytest.approx(1.0) != pytest.approx(scores["pcc"])


def test_frames_of_a_still_video_are_counted_as_degenerate():
    moving = np.arange(4.0)[:, None]
    scores = frame_metrics([moving, np.ones((3, 1))], [moving, np.full((3, 1), 2.0)], ["x"])
    assert scores["video_mean"]["degenerate"] == {"x": 1}
    assert scores["degenerate"] == []
    assert scores["video_mean"]["pcc"] == pytest.approx(0.5)


@pytest.mark.parametrize(
    "targets, predictions, message",
    [
        ([], [], "no video"),
        ([np.ones((2, 1))], [], "0 videos, but targets has 1"),
        ([np.ones((2, 1)), np.ones((3, 1))], [np.ones((2, 1)), np.ones((2, 1))], "video 1: predictions: shape"),
        ([np.ones((2, 1)), np.full((2, 1), np.nan)], [np.ones((2, 1))] * 2, "video 1: targets"),
    ],
)
def test_bad_frame_input_names_the_video(targets, predictions, message):
    with pytest.raises(UserError, match=message):
        frame_metrics(targets, predictions, ["x"])


# Views and file -------------------------------------------------------------------------------------------------------


def test_views_are_averaged_in_any_order_and_number():
    ids, outputs = average_views([7, 2, 7, 2, 7, 5], [[1, 0], [2, 2], [4, 0], [4, 0], [1, 3], [9, 9]])
    assert ids.tolist() == [2, 5, 7] and ids.dtype == np.int64
    np.testing.assert_allclose(outputs, [[3, 1], [9, 9], [2, 1]])
    assert outputs.dtype == np.float64
    with pytest.raises(UserError, match="sample_index"):
        average_views([1, 2], [[1.0]])


def test_metrics_file(tmp_path):
    path = tmp_path / "new" / "metrics.json"
    write_metrics(
        path, {"uar": np.float32(0.5), "n": np.int64(3), "c": np.eye(2, dtype=int), "où": Path("é"), "x": None}
    )
    assert json.loads(path.read_text()) == {"uar": 0.5, "n": 3, "c": [[1, 0], [0, 1]], "où": "é", "x": None}
    assert path.read_text().endswith("}\n")


@pytest.mark.parametrize("bad", [math.nan, np.float32("nan"), np.array([1.0, math.inf]), [0.1, -math.inf]])
def test_metrics_file_refuses_nan_and_keeps_the_old_one(tmp_path, bad):
    path = tmp_path / "metrics.json"
    write_metrics(path, {"uar": 0.5})
    with pytest.raises(UserError, match="scores: deep"):
        write_metrics(path, {"scores": {"deep": bad}})
    assert json.loads(path.read_text()) == {"uar": 0.5}
    assert list(tmp_path.iterdir()) == [path]


def test_metrics_file_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        write_metrics(tmp_path / "file" / "metrics.json", {})
