"""Figures of experiments: the scores of every row over seeds, and the paper's for comparison."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from svfap.metric_table import metric_heading, metric_scale
from svfap.view.figures.base import INK, MUTED, PALETTE, name_ticks, new_figure, styled


@styled
def study_figure(
    scores: Mapping[str, Mapping[str, Sequence[float]]], metrics: Sequence[str], axis: str, *, joined: bool = False,
    title: str = "", reference: Mapping[str, Mapping[str, float]] | None = None,
) -> Figure:  # fmt: skip
    """One panel per metric: for each row the mean over seeds as a bar, each seed as a point, the paper's value as a diamond.

    scores: row -> metric -> one score per seed. axis: label of the axis of rows. joined: the rows are points along that axis,
    so their means are joined by a line instead of drawn as bars. reference: row -> metric -> the paper's value.
    """
    figure, panels = new_figure(max(4.6, 1.0 * len(scores) + 1.6) * len(metrics), 3.9, 1, len(metrics), title=title)
    for panel, metric in zip(panels, metrics, strict=True):
        seeds = [metric_scale(metric) * np.asarray(row[metric]) for row in scores.values()]
        means = [values.mean() for values in seeds]
        if joined:
            panel.plot(range(len(means)), means, color=PALETTE[0], marker="o", ms=6, label="mean over seeds")
        else:
            panel.bar(range(len(means)), means, width=0.6, color=PALETTE[0], alpha=0.85)
        for place, values in enumerate(seeds):
            if len(values) > 1:
                panel.scatter([place] * len(values), values, s=16, color=INK, alpha=0.7, zorder=3, linewidths=0)
        paper = [(reference or {}).get(row, {}).get(metric) for row in scores]
        known = [(place, metric_scale(metric) * value) for place, value in enumerate(paper) if value is not None]
        if known:
            style = {"facecolors": "none", "edgecolors": MUTED, "marker": "D", "s": 34}
            panel.scatter(*zip(*known, strict=True), label="the paper (DFEW, fold 1)", **style)
            panel.legend(loc="best")
        panel.set(xlabel=axis, ylabel=metric_heading(metric))
        name_ticks(panel, list(scores), tilted=max(map(len, scores)) > 9)
        panel.grid(axis="x", visible=False)
        panel.margins(x=0.08)
    return figure
