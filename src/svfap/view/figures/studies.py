"""Figures of experiments: the scores of every row over seeds, and the paper's for comparison."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from svfap.metric_table import metric_heading, metric_scale
from svfap.view.figures.base import INK, MUTED, PALETTE, new_figure, styled

Scores = Mapping[str, Mapping[str, Sequence[float]]]  # row -> metric -> one score per seed
Reference = Mapping[str, Mapping[str, float]]


@styled
def study_bars(
    scores: Scores, metrics: Sequence[str], axis: str, title: str = "", reference: Reference | None = None
) -> Figure:
    """One panel per metric and one bar per row at the mean over seeds; seeds are points, the paper's value a diamond."""
    figure, panels = _panels(scores, metrics, axis, title)
    for panel, metric in zip(panels, metrics, strict=True):
        for place, row in enumerate(scores):
            values = _scaled(scores[row][metric], metric)
            panel.bar(place, values.mean(), width=0.6, color=PALETTE[0], alpha=0.85)
            _draw_seeds(panel, place, values)
        _draw_reference(panel, list(scores), metric, reference)
    return figure


@styled
def study_lines(
    scores: Scores, metrics: Sequence[str], axis: str, title: str = "", reference: Reference | None = None
) -> Figure:
    """As `study_bars`, for rows that are points along an axis: the means are joined by a line."""
    figure, panels = _panels(scores, metrics, axis, title)
    for panel, metric in zip(panels, metrics, strict=True):
        means = [_scaled(scores[row][metric], metric).mean() for row in scores]
        panel.plot(range(len(means)), means, color=PALETTE[0], marker="o", ms=6, label="mean over seeds")
        for place, row in enumerate(scores):
            _draw_seeds(panel, place, _scaled(scores[row][metric], metric))
        _draw_reference(panel, list(scores), metric, reference)
    return figure


def _panels(scores: Scores, metrics: Sequence[str], axis: str, title: str) -> tuple[Figure, list[Axes]]:
    figure, panels = new_figure(max(4.6, 1.0 * len(scores) + 1.6) * len(metrics), 3.9, 1, len(metrics), title=title)
    tilt: dict[str, Any] = {"rotation": 30, "ha": "right", "rotation_mode": "anchor"}
    for panel, metric in zip(panels, metrics, strict=True):
        panel.set(xlabel=axis, ylabel=metric_heading(metric))
        panel.set_xticks(range(len(scores)), list(scores), **(tilt if max(map(len, scores)) > 9 else {}))
        panel.grid(axis="x", visible=False)
        panel.margins(x=0.08)
    return figure, panels


def _scaled(values: Sequence[float], metric: str) -> np.ndarray:
    return np.asarray(values) * metric_scale(metric)


def _draw_seeds(panel: Axes, place: float, values: np.ndarray) -> None:
    if len(values) > 1:
        panel.scatter(np.full(len(values), place), values, s=16, color=INK, alpha=0.7, zorder=3, linewidths=0)


def _draw_reference(panel: Axes, rows: list[str], metric: str, reference: Reference | None) -> None:
    known = {row: values[metric] for row, values in (reference or {}).items() if metric in values}
    pairs = [(place, known[row]) for place, row in enumerate(rows) if row in known]
    if pairs:
        places, values = zip(*pairs, strict=True)
        style: dict[str, Any] = {"facecolors": "none", "edgecolors": MUTED, "marker": "D", "s": 34}
        panel.scatter(places, _scaled(values, metric), label="the paper (DFEW, fold 1)", **style)
        panel.legend(loc="best")
