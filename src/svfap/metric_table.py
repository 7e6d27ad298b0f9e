"""The table of metrics: printed name, percentage or not, order in tables. `svfap.evaluation.metrics` computes the values."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

SupervisedTask = Literal["classification", "regression"]


@dataclass(frozen=True)
class Metric:
    """One row of the table.

    key: name in `metrics.json` and in logs. name: as printed. percent: a fraction that the field reports as a percentage.
    in_tables: shown in tables of results. in_summary: shown where one line has to do, such as at the end of training.
    limits: least and greatest value.
    """

    key: str
    name: str
    task: SupervisedTask
    percent: bool = False
    higher_is_better: bool = True
    in_tables: bool = True
    in_summary: bool = False
    limits: tuple[float, float] = (0.0, 1.0)


_TABLE = (
    Metric("uar", "UAR", "classification", percent=True, in_summary=True),
    Metric("war", "WAR", "classification", percent=True, in_summary=True),
    Metric("weighted_f1", "Weighted F1", "classification", percent=True),
    Metric("macro_f1", "Macro F1", "classification", percent=True),
    Metric("micro_f1", "Micro F1", "classification", percent=True, in_tables=False),  # equals WAR for single labels
    Metric("ccc", "CCC", "regression", in_summary=True, limits=(-1.0, 1.0)),
    Metric("pcc", "PCC", "regression", in_summary=True, limits=(-1.0, 1.0)),
    Metric("mae", "MAE", "regression", higher_is_better=False, limits=(0.0, math.inf)),
    Metric("rmse", "RMSE", "regression", higher_is_better=False, limits=(0.0, math.inf)),
    Metric("accuracy", "1 − MAE", "regression", limits=(-math.inf, 1.0)),
)
METRICS = {metric.key: metric for metric in _TABLE}  # in the order of tables; the main metric of a task first


def metric_keys(
    task: str | None = None, *, tables: bool = False, summary: bool = False, higher_is_better: bool = False
) -> tuple[str, ...]:
    """Keys in the order of tables, of one task or all; each flag keeps only the metrics that have the property."""
    return tuple(
        key
        for key, metric in METRICS.items()
        if task in (None, metric.task)
        and (metric.in_tables or not tables)
        and (metric.in_summary or not summary)
        and (metric.higher_is_better or not higher_is_better)
    )


MEAN_SCORE = "mean_score"  # of validation, over several heads


def prefixed(head: str, key: str) -> str:
    """The key of a metric of one of several heads: `expression/uar`; that of the only one, '', is as it is."""
    return f"{head}/{key}" if head else key


def main_metric(task: str) -> str:
    """Key of the metric that chooses the best epoch: `uar` or `ccc`. The higher the better."""
    return metric_keys(task, summary=True)[0]


def metric_name(key: str) -> str:
    """How a metric is printed: `uar` -> `UAR`, `ccc_arousal` -> `CCC arousal`, `frame_uar` -> `frames: UAR`, `mood/uar` ->
    `mood: UAR`."""
    if "/" in key:
        head, _, key = key.partition("/")
        return f"{head}: {metric_name(key)}"
    if key.startswith("frame_"):
        return f"frames: {metric_name(key.removeprefix('frame_'))}"
    if key in METRICS:
        return METRICS[key].name
    first, _, rest = key.partition("_")
    return f"{METRICS[first].name} {rest.replace('_', ' ')}" if first in METRICS else key.replace("_", " ")


def _metric_of(key: str) -> Metric | None:
    """The row of the table for a key, also for one of frames or of a head: `frame_uar`, `mood/uar`; else None."""
    return METRICS.get(key.rpartition("/")[2].removeprefix("frame_"))


def metric_limits(key: str) -> tuple[float, float]:
    """Least and greatest value of a metric; of `mean_score`, a mean of main metrics, the widest of theirs."""
    if key == MEAN_SCORE:
        low, high = zip(*(METRICS[main_metric(task)].limits for task in get_args(SupervisedTask)), strict=True)
        return min(low), max(high)
    metric = _metric_of(key)
    return (-math.inf, math.inf) if metric is None else metric.limits


def is_percent(key: str) -> bool:
    """Whether a metric is printed as a percentage. Those of one dimension (`ccc_arousal`) never are."""
    metric = _metric_of(key)
    return metric is not None and metric.percent


def metric_scale(key: str) -> int:
    """What a value is multiplied by before it is printed or drawn: 100 for percentages, else 1."""
    return 100 if is_percent(key) else 1


def metric_heading(key: str) -> str:
    """Name and unit, for a column or an axis: `UAR, %`, `CCC`."""
    return metric_name(key) + (", %" if is_percent(key) else "")


def metric_text(key: str, value: float) -> str:
    """A value as the field prints it: percentages with two decimals, the rest with four."""
    return format_percent(value) if is_percent(key) else f"{value:.4f}"


def interval_text(key: str, value: float, low: float, high: float, signed: bool = False) -> str:
    """A value with its interval: `45.3 [40.1, 50.2]`; the value alone without bounds (NaN), and nothing without a value.

    signed: of a difference, `+1.2 [−0.3, +2.7]`. What rounds to zero has no sign.
    """
    if math.isnan(value):
        return ""
    digits = 1 if is_percent(key) else 3

    def text(number: float) -> str:
        shown = round(metric_scale(key) * number, digits) or 0.0  # not -0.0
        return f"{shown:{'+' if signed and shown else ''}.{digits}f}".replace("-", "−")

    return text(value) + ("" if math.isnan(low) else f" [{text(low)}, {text(high)}]")


def p_text(p: float) -> str:
    """`0.021`, `< 0.001`; a dash where there is no test."""
    if math.isnan(p):
        return "–"
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def bounds_text(low: str, high: str) -> str:
    """The bounds of an interval, which are printed as values are: `[71.20, 75.03]`."""
    return f"[{low}, {high}]".replace("-", "−")


def format_percent(fraction: float) -> str:
    """0.7267 -> `72.67`."""
    return f"{100 * fraction:.2f}"
