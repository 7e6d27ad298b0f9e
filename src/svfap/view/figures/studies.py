"""Figures of experiments: every row's score with its interval, the reference row, trivial baselines, and the paper's scores."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from matplotlib.figure import Figure

from svfap.metric_table import metric_heading, metric_scale
from svfap.view.figures.base import INK, MUTED, PALETTE, legend_below, name_ticks, new_figure, styled


class Bar(NamedTuple):
    """A row's mean score, the bounds of its interval (NaN: none), and the score of each pre-training."""

    value: float
    low: float
    high: float
    each: Sequence[float]


@styled
def study_figure(
    panels: Mapping[str, Mapping[str, Bar]], metric: str, axis: str, *, reference: str, joined: bool = False,
    title: str = "", baselines: Mapping[str, Mapping[str, float]] | None = None, paper: Mapping[str, float] | None = None,
) -> Figure:  # fmt: skip
    """One panel per reader: each row's mean with its interval, each pre-training as a point; the reference in another colour,
    with a line at its mean.

    panels: title -> row -> score. axis: label of the axis of rows. joined: the rows are points along that axis, and joined by a
    line. baselines: title of a panel -> name -> value, drawn as lines. paper: row -> the paper's value, in the first panel.
    """
    num_rows = max(map(len, panels.values()))
    figure, axes = new_figure(max(4.6, 0.8 * num_rows + 1.6) * len(panels), 4.2, 1, len(panels), title=title)
    scale = metric_scale(metric)
    names = [*dict.fromkeys(label for lines in (baselines or {}).values() for label in lines)]
    for number, (panel, (name, rows)) in enumerate(zip(axes, panels.items(), strict=True)):
        places = range(len(rows))
        means = [scale * bar.value for bar in rows.values()]
        if joined:
            panel.plot(places, means, color=MUTED, linewidth=1, zorder=1)
        for place, (row, bar) in enumerate(rows.items()):
            marked = row == reference
            color, label = PALETTE[1 if marked else 0], "reference row" if marked else "row"
            label += "" if math.isnan(bar.low) else ", 95% interval"
            reach = [[scale * (bar.value - bar.low)], [scale * (bar.high - bar.value)]]
            bounds = None if math.isnan(bar.low) else reach
            panel.errorbar(place, means[place], bounds, fmt="o", ms=7, capsize=4, color=color, label=label, zorder=3)
            x, each = [place + 0.16] * len(bar.each), [scale * value for value in bar.each]
            panel.scatter(x, each, s=14, color=INK, alpha=0.6, linewidths=0, zorder=2, label="one pre-training")
            if marked:
                panel.axhline(means[place], color=color, linewidth=1, linestyle=(0, (4, 3)), zorder=0)
        for label, value in (baselines or {}).get(name, {}).items():
            color = PALETTE[(2 + names.index(label)) % len(PALETTE)]
            panel.axhline(scale * value, color=color, linewidth=1, linestyle=(0, (1, 2)), label=label, zorder=0)
        known = [
            (place, scale * (paper or {})[row])
            for place, row in enumerate(rows)
            if number == 0 and row in (paper or {})
        ]
        if known:
            style = {"facecolors": "none", "edgecolors": MUTED, "marker": "D", "s": 34}
            panel.scatter(*zip(*known, strict=True), label="the paper (DFEW, fold 1)", **style)
        panel.set(xlabel=axis, ylabel=metric_heading(metric))
        panel.set_title(name, loc="left")
        name_ticks(panel, list(rows), tilted=max(map(len, rows)) > 9 or num_rows > 5)
        panel.grid(axis="x", visible=False)
        panel.margins(x=0.1)
    legend_below(figure, 4)
    return figure
