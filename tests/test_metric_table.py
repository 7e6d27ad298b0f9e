"""The table of metrics lists exactly the computed metrics, with their order, units and headings."""

from __future__ import annotations

import numpy as np
import pytest

from svfap.evaluation.metrics import classification_metrics, regression_metrics
from svfap.metric_table import (
    METRICS,
    interval_text,
    is_percent,
    main_metric,
    metric_heading,
    metric_keys,
    metric_limits,
    metric_name,
    metric_scale,
    metric_text,
)
from svfap.paper import RESULTS


def test_listed_metrics_are_the_computed_metrics():
    classes = classification_metrics([0, 1], np.eye(2), ["a", "b"])
    values = regression_metrics([[0.0], [1.0]], [[0.0], [2.0]], ["v"])
    for task, scores in (("classification", classes), ("regression", values)):
        computed = {key for key, value in scores.items() if isinstance(value, float)}
        assert set(metric_keys(task)) == computed
        assert metric_keys(task) == tuple(key for key in METRICS if METRICS[key].task == task)
    assert metric_keys() == (*metric_keys("classification"), *metric_keys("regression"))


def test_metric_keys_selects_by_property_in_table_order():
    assert metric_keys("classification", tables=True)[:4] == ("uar", "war", "weighted_f1", "macro_f1")
    assert "micro_f1" not in metric_keys(tables=True)  # it equals WAR
    assert metric_keys(summary=True) == ("uar", "war", "ccc", "pcc")
    assert metric_keys("regression", higher_is_better=True) == ("ccc", "pcc", "accuracy")
    assert [main_metric(task) for task in ("classification", "regression")] == ["uar", "ccc"]
    assert all(METRICS[key].higher_is_better for key in metric_keys(summary=True))  # the best epoch has the highest


@pytest.mark.parametrize(
    ("key", "limits"),
    [
        ("uar", (0, 1)),
        ("course/frame_ccc", (-1, 1)),
        ("mood/war", (0, 1)),
        ("mean_score", (-1, 1)),
        ("", (-np.inf, np.inf)),
    ],
)
def test_limits_of_metrics_of_heads_and_frames_too(key, limits):
    assert metric_limits(key) == limits


def test_direction_of_each_metric():
    worse = regression_metrics([[0.0], [1.0], [2.0]], [[2.0], [0.5], [1.0]], ["v"])
    better = regression_metrics([[0.0], [1.0], [2.0]], [[0.1], [1.0], [1.9]], ["v"])
    for key in metric_keys("regression"):
        assert (better[key] > worse[key]) == METRICS[key].higher_is_better


@pytest.mark.parametrize(
    ("key", "heading", "text"),
    [
        ("uar", "UAR, %", "12.35"),
        ("weighted_f1", "Weighted F1, %", "12.35"),
        ("frame_war", "frames: WAR, %", "12.35"),
        ("accuracy", "1 − MAE", "0.1235"),
        ("ccc_arousal", "CCC arousal", "0.1235"),
        ("frame_pcc_arousal", "frames: PCC arousal", "0.1235"),
        ("num_samples", "num samples", "0.1235"),
    ],
)
def test_names_units_and_numbers(key, heading, text):
    assert metric_heading(key) == heading
    assert metric_text(key, 0.12346) == text
    assert metric_name(key) == heading.removesuffix(", %")
    assert (metric_scale(key), is_percent(key)) == ((100, True) if heading.endswith("%") else (1, False))


def test_paper_results_use_listed_metrics():
    keys = {key for models in RESULTS.values() for scores in models.values() for key in scores}
    assert {key if key in METRICS else key.split("_")[0] for key in keys} <= set(METRICS)


def test_what_rounds_to_zero_has_no_sign():
    assert interval_text("uar", -0.0001, -0.012, 0.0004, signed=True) == "0.0 [−1.2, 0.0]"
    assert interval_text("uar", 0.012, -0.0006, 0.02, signed=True) == "+1.2 [−0.1, +2.0]"
    assert interval_text("ccc", -0.0001, np.nan, np.nan) == "0.000"
