"""How predicted values agree with their targets: Bland and Altman's limits of agreement (The Lancet, 1986)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from svfap.report.runs import Run, truth_and_outputs
from svfap.view.figures.base import INK, MUTED, PALETTE, new_figure, styled
from svfap.view.figures.scores import regression_scatter
from svfap.view.page import Picture, Section

LIMIT = 1.96  # standard deviations: 95% of differences that are normally distributed


def limits_of_agreement(targets: ArrayLike, predictions: ArrayLike, dimensions: Sequence[str]) -> list[dict[str, Any]]:
    """One row per dimension, from two (N, K): mean difference (prediction - target), its sample standard deviation
    (N - 1 below), the limits at ± `LIMIT` of them, and the share of videos outside. N must be at least 2."""
    difference = np.asarray(predictions, np.float64) - np.asarray(targets, np.float64)
    mean, spread = difference.mean(axis=0), difference.std(axis=0, ddof=1)
    lower, upper = mean - LIMIT * spread, mean + LIMIT * spread
    outside = ((difference < lower) | (difference > upper)).mean(axis=0)
    return [
        {
            "dimension": name,
            "mean difference": float(mean[k]),
            "sd": float(spread[k]),
            "lower limit": float(lower[k]),
            "upper limit": float(upper[k]),
            "outside, %": f"{100 * outside[k]:.1f}",
        }
        for k, name in enumerate(dimensions)
    ]


@styled
def bland_altman(targets: ArrayLike, predictions: ArrayLike, dimensions: Sequence[str]) -> Figure:
    """Differences over means of target and prediction, both (N, K), one panel per dimension, with mean and limits."""
    truth, predicted = np.asarray(targets, np.float64), np.asarray(predictions, np.float64)
    rows_of = limits_of_agreement(truth, predicted, dimensions)
    columns = min(len(dimensions), 3)
    rows = -(-len(dimensions) // columns)
    figure, panels = new_figure(3.7 * columns, 3.2 * rows, rows, columns)
    opacity = float(np.clip(60 / np.sqrt(len(truth)) / 8, 0.05, 0.8))
    for k, (axes, row) in enumerate(zip(panels, rows_of, strict=False)):
        middle, difference = (truth[:, k] + predicted[:, k]) / 2, predicted[:, k] - truth[:, k]
        axes.scatter(middle, difference, s=16, color=PALETTE[k % len(PALETTE)], alpha=opacity, linewidths=0)
        axes.axhline(0, color=MUTED, linewidth=0.8)
        for key, name in (
            ("upper limit", f"+{LIMIT} sd"),
            ("mean difference", "mean"),
            ("lower limit", f"−{LIMIT} sd"),
        ):
            dashed = key != "mean difference"
            axes.axhline(row[key], color=INK, linewidth=1.2, linestyle=(0, (4, 3)) if dashed else "-")
            axes.text(
                0.99, row[key], f"{name} {row[key]:+.3f}", transform=axes.get_yaxis_transform(), ha="right", va="bottom",
                fontsize=8, bbox={"facecolor": "white", "alpha": 0.8, "edgecolor": "none", "pad": 1},
            )  # fmt: skip
        axes.margins(y=0.12)
        axes.set_title(row["dimension"], loc="left")
        axes.set(xlabel="Mean of target and prediction", ylabel="Prediction − target" if k % columns == 0 else "")
    for axes in panels[len(dimensions) :]:
        axes.set_visible(False)
    return figure


def agreement_section(run: Run) -> Section | None:
    """Scatter, Bland-Altman plots and limits of a regression's test predictions; None where there are none."""
    truth = None if run.predictions is None else truth_and_outputs(run.predictions, str(run.folder))
    if truth is None or truth.task != "regression":
        return None
    names, values = truth.names, (truth.targets, truth.outputs)
    scatter = Picture(
        regression_scatter(*values, names),
        f"Predictions over targets of {len(truth.targets)} videos: {', '.join(names)}",
    )
    section = Section("Agreement", figures={"Predictions over targets": scatter})
    if len(truth.targets) > 1:
        rows = limits_of_agreement(*values, names)
        said = "; ".join(f"{r['dimension']} {r['mean difference']:+.3f}" for r in rows)
        note = (
            f"95% of differences lie between the dashed lines (mean ± {LIMIT} sd) where they are normally distributed. "
            "A slope of the cloud says that extreme values are predicted too tamely."
        )
        plot = Picture(bland_altman(*values, names), f"Bland-Altman plots; mean differences: {said}", note)
        section.figures = {**section.figures, "Bland–Altman: differences over means": plot}
        section.tables = {"Limits of agreement (prediction − target)": rows}
    return section
