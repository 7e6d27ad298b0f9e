"""Agreement of predicted values with their targets: limits of agreement (Bland and Altman, The Lancet, 1986)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from svfap.console import counted
from svfap.evaluation.metrics import regression_metrics
from svfap.reports.runs import Run
from svfap.view.figures.base import INK, MUTED, panel_for_each, scatter, styled
from svfap.view.figures.scores import regression_scatter
from svfap.view.page import Picture, Section

LIMIT = 1.96  # standard deviations that contain 95% of normally distributed differences


def limits_of_agreement(targets: ArrayLike, predictions: ArrayLike, dimensions: Sequence[str]) -> list[dict[str, Any]]:
    """One row per dimension, from targets and predictions (N, K), N at least 2.

    A row has the mean difference (prediction - target), its standard deviation (N - 1 in the denominator), the limits at the
    mean ± `LIMIT` standard deviations, and the percentage of videos outside them.
    """
    difference = np.asarray(predictions, np.float64) - np.asarray(targets, np.float64)
    mean, spread = difference.mean(axis=0), difference.std(axis=0, ddof=1)
    lower, upper = mean - LIMIT * spread, mean + LIMIT * spread
    outside = ((difference < lower) | (difference > upper)).mean(axis=0)
    columns = {"mean difference": mean, "sd": spread, "lower limit": lower, "upper limit": upper}
    return [
        {"dimension": name, **{c: float(v[k]) for c, v in columns.items()}, "outside, %": f"{100 * outside[k]:.1f}"}
        for k, name in enumerate(dimensions)
    ]


@styled
def bland_altman(targets: ArrayLike, predictions: ArrayLike, dimensions: Sequence[str]) -> Figure:
    """Bland-Altman plots of targets and predictions (N, K): difference over mean, one panel per dimension."""
    truth, predicted = np.asarray(targets, np.float64), np.asarray(predictions, np.float64)
    limits = limits_of_agreement(truth, predicted, dimensions)
    figure, panels = panel_for_each(dimensions, 3.7, 3.2)
    for k, (axes, row) in enumerate(zip(panels, limits, strict=True)):
        middle, difference = (truth[:, k] + predicted[:, k]) / 2, predicted[:, k] - truth[:, k]
        scatter(axes, middle, difference, k)
        axes.axhline(0, color=MUTED, linewidth=0.8)
        lines = {"upper limit": f"+{LIMIT} sd", "mean difference": "mean", "lower limit": f"−{LIMIT} sd"}
        for key, name in lines.items():
            dashes = "-" if key == "mean difference" else (0, (4, 3))
            axes.axhline(row[key], color=INK, linewidth=1.2, linestyle=dashes)
            axes.text(
                0.99, row[key], f"{name} {row[key]:+.3f}", transform=axes.get_yaxis_transform(), ha="right", va="bottom",
                fontsize=8, bbox={"facecolor": "white", "alpha": 0.8, "edgecolor": "none", "pad": 1},
            )  # fmt: skip
        axes.margins(y=0.12)
        axes.set(xlabel="Mean of target and prediction", ylabel="Prediction − target" if k % 3 == 0 else "")
    return figure


def agreement_section(run: Run) -> Section | None:
    """Scatter plot, Bland-Altman plots and limits of agreement of a regression; None without test predictions."""
    found = run.labelled("regression")
    if found is None:
        return None
    names, values = found.names, (found.targets, found.outputs)
    scatter = Picture(
        regression_scatter(*values, regression_metrics(*values, names)["per_dimension"]),
        f"Predictions over targets of {counted(len(found.targets), 'video')}: {', '.join(names)}",
    )
    figures = {"Predictions over targets": scatter}
    if len(found.targets) < 2:
        return Section("Agreement", figures=figures)
    rows = limits_of_agreement(*values, names)
    means = "; ".join(f"{row['dimension']} {row['mean difference']:+.3f}" for row in rows)
    note = (
        f"95% of normally distributed differences lie between the dashed lines (mean ± {LIMIT} sd). "
        "A falling trend means that extreme values are underestimated."
    )
    figures["Bland–Altman: differences over means"] = Picture(
        bland_altman(*values, names), f"Bland-Altman plots; mean differences: {means}", note
    )
    return Section("Agreement", tables={"Limits of agreement (prediction − target)": rows}, figures=figures)
