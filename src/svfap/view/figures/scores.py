"""Figures of scores: confusion matrix, bars, predictions over targets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from svfap.errors import UserError
from svfap.metric_table import is_percent, metric_heading, metric_name, metric_scale
from svfap.view.figures.base import (
    BLUES,
    INK,
    MUTED,
    PALETTE,
    legend_below,
    legend_name,
    name_ticks,
    new_figure,
    panel_for_each,
    scatter,
    styled,
)


@styled
def confusion_matrix(confusion: ArrayLike, label_names: Sequence[str], title: str = "") -> Figure:
    """Confusion matrix (K, K) of counts, rows = truth: cells coloured and annotated by their share of the row."""
    counts = np.asarray(confusion)
    num_classes = len(label_names)
    if counts.shape != (num_classes, num_classes):
        raise UserError(f"confusion: shape {counts.shape} does not fit {num_classes} label names")
    totals = counts.sum(axis=1, keepdims=True)
    share = counts / np.maximum(totals, 1)
    side = max(4.2, 0.72 * num_classes + 1.6)
    figure, (axes,) = new_figure(side + 0.4, side, title=title)
    axes.imshow(share, cmap=BLUES, vmin=0, vmax=1)
    size = 9 if num_classes <= 8 else 7.5
    for row, column in np.ndindex(counts.shape):
        ink = "white" if share[row, column] > 0.45 else INK
        text = f"{share[row, column]:.0%}\n" if totals[row] else ""
        axes.text(column, row - 0.13, text.strip(), ha="center", va="center", color=ink, fontsize=size + 1)
        count = f"{counts[row, column]:,}"
        axes.text(column, row + 0.22, count, ha="center", va="center", color=ink, fontsize=size - 2)
    name_ticks(axes, label_names, tilted=max(map(len, label_names)) > 6, angle=40)
    axes.set_yticks(range(num_classes), label_names)
    # White lines between the cells.
    axes.set_xticks(np.arange(num_classes - 1) + 0.5, minor=True)
    axes.set_yticks(np.arange(num_classes - 1) + 0.5, minor=True)
    axes.grid(False)
    axes.grid(which="minor", color="white", linewidth=1.5)
    axes.tick_params(which="both", length=0)
    axes.spines[:].set_visible(False)
    axes.set(xlabel="Predicted", ylabel="True")
    return figure


@styled
def regression_scatter(
    targets: ArrayLike, predictions: ArrayLike, scores: Mapping[str, Mapping[str, float]], title: str = ""
) -> Figure:
    """Predictions over targets, both (N, K): one panel per dimension with the identity line and its CCC, PCC and MAE.

    scores: `per_dimension` of `regression_metrics`: K names, each with its `ccc`, `pcc` and `mae`.
    """
    dimensions = list(scores)
    truth, predicted = np.asarray(targets), np.asarray(predictions)
    figure, panels = panel_for_each(dimensions, 3.5, 3.7, title)
    for k, (axes, name) in enumerate(zip(panels, dimensions, strict=True)):
        low, high = (f(np.concatenate([truth[:, k], predicted[:, k]])) for f in (np.min, np.max))
        margin = 0.05 * (high - low) or 0.5
        limits = (low - margin, high + margin)
        axes.plot(limits, limits, color=MUTED, linewidth=1, linestyle=(0, (4, 3)), zorder=1)
        scatter(axes, truth[:, k], predicted[:, k], k)
        axes.set(xlim=limits, ylim=limits, aspect="equal")
        text = "\n".join(f"{metric_name(m)} {scores[name][m]:.3f}" for m in ("ccc", "pcc", "mae"))
        box = {"facecolor": "white", "alpha": 0.8, "edgecolor": "none", "pad": 2}
        axes.text(0.04, 0.96, text, transform=axes.transAxes, va="top", fontsize=8.5, bbox=box)
        axes.set(xlabel="Target", ylabel="Prediction" if k % 3 == 0 else "")
    return figure


@styled
def comparison_bars(results: Mapping[str, Mapping[str, float]], metrics: Sequence[str], title: str = "") -> Figure:
    """One group of bars per metric, one bar per run with its value; in percent if all metrics are percentages.

    results: run name -> metric -> value. A metric that a run lacks leaves a gap. metrics: the groups, in order.
    """
    percent = all(map(is_percent, metrics))
    scale = 100 if percent else 1
    width = 0.8 / max(len(results), 1)
    figure, (axes,) = new_figure(max(4.8, 1.2 + len(metrics) * (0.5 + 0.62 * len(results))), 3.8, title=title)
    for i, (name, values) in enumerate(results.items()):
        drawn = [(g, scale * values[metric]) for g, metric in enumerate(metrics) if metric in values]
        position = [g + (i - (len(results) - 1) / 2) * width for g, _ in drawn]
        color, label = PALETTE[i % len(PALETTE)], legend_name(name)
        bars = axes.bar(position, [height for _, height in drawn], width * 0.92, color=color, label=label, zorder=2)
        axes.bar_label(bars, fmt="%.1f" if percent else "%.3f", padding=2, fontsize=8.5)
    name_ticks(axes, [metric_name(metric) for metric in metrics])
    axes.tick_params(axis="x", length=0, labelsize=10)
    axes.grid(axis="x", visible=False)
    axes.margins(y=0.12)
    axes.axhline(0, color=MUTED, linewidth=0.8)
    axes.set_ylabel("%" if percent else "")
    legend_below(figure, min(len(results), 4))
    return figure


@styled
def class_bars(
    recalls: Mapping[str, float], counts: Mapping[str, int], folds: Mapping[str, Mapping[str, float]] | None = None
) -> Figure:
    """Recall of each class as a bar, with its number of videos, and UAR (their mean) as a line.

    recalls: class -> recall in [0, 1]. Classes without videos have no bar and do not count in UAR. counts: class -> number of
    test videos. folds: fold -> class -> recall, drawn as dots over the bars.
    """
    names = list(recalls)
    present = [k for k, name in enumerate(names) if counts[name]]
    figure, (axes,) = new_figure(max(4.8, 1.6 + 0.85 * len(names)), 3.8)
    heights = [100 * recalls[names[k]] for k in present]
    bars = axes.bar(present, heights, 0.66, color=PALETTE[4], zorder=2)
    for fold in (folds or {}).values():
        dots = [(k, 100 * fold[names[k]]) for k in present if names[k] in fold]
        style: dict[str, Any] = {"color": INK, "alpha": 0.55, "linewidths": 0, "zorder": 3, "label": "one fold"}
        axes.scatter([k for k, _ in dots], [recall for _, recall in dots], 14, **style)
    axes.bar_label(bars, fmt="%.1f", padding=2 if not folds else 9, fontsize=8.5)
    uar = float(np.mean(heights)) if heights else 0.0
    axes.axhline(uar, color=PALETTE[5], linewidth=1.4, linestyle=(0, (4, 3)), zorder=2, label=f"UAR {uar:.1f}")
    name_ticks(axes, [f"{name} ({counts[name]:,})" for name in names], tilted=True)
    axes.tick_params(axis="x", length=0)
    axes.grid(axis="x", visible=False)
    axes.set_ylim(0, 112)  # room for the numbers above full bars
    axes.set_yticks(range(0, 101, 20))
    axes.set_ylabel("Recall, %")
    legend_below(figure, 2)
    return figure


@styled
def score_intervals(rows: Mapping[str, tuple[str, float, float, float]], metric: str, title: str = "") -> Figure:
    """A horizontal bar for each row with its confidence interval, coloured by kind: name -> kind, value, low, high.

    Bounds that are NaN are not drawn. Values are in percent if the metric is a percentage.
    """
    kinds = list(dict.fromkeys(kind for kind, *_ in rows.values()))
    figure, (axes,) = new_figure(6.4, 1.4 + 0.34 * len(rows), title=title)
    for place, (kind, *numbers) in enumerate(rows.values()):
        value, low, high = (metric_scale(metric) * number for number in numbers)
        color = PALETTE[kinds.index(kind) % len(PALETTE)]
        axes.barh(place, value, 0.66, color=color, label=legend_name(kind), zorder=2)
        if np.isfinite([low, high]).all():
            axes.plot([low, high], [place, place], color=INK, linewidth=1.4, zorder=3)
    axes.set_yticks(range(len(rows)), list(rows))
    axes.invert_yaxis()
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="y", visible=False)
    axes.axvline(0, color=MUTED, linewidth=0.8)
    axes.set_xlabel(metric_heading(metric))
    legend_below(figure, min(len(kinds), 4))
    return figure
