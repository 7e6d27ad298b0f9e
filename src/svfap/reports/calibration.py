"""Calibration of a classifier on a page: reliability diagram and expected calibration error (ECE)."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.figure import Figure

from svfap.evaluation.reliability import NUM_BINS, Reliability, reliability
from svfap.reports.runs import Run
from svfap.view.figures.base import MUTED, PALETTE, new_figure, styled
from svfap.view.page import Picture, Section


@styled
def reliability_diagram(result: Reliability) -> Figure:
    """Accuracy over confidence for each bin, and below it the number of videos in each bin."""
    num_bins = len(result.count)
    width = 1 / num_bins
    centres = (np.arange(num_bins) + 0.5) * width
    filled = result.count > 0
    figure, (axes, below) = new_figure(4.8, 5.2, 2, 1, heights=(3.2, 1))
    axes.bar(centres[filled], result.accuracy[filled], width * 0.94, color=PALETTE[4], zorder=2, label="accuracy")
    gaps = result.confidence[filled] - result.accuracy[filled]
    style: dict[str, Any] = {"color": PALETTE[5], "edgecolor": PALETTE[5], "hatch": "////", "linewidth": 0.8}
    style |= {"alpha": 0.22, "zorder": 2, "label": "gap to confidence"}
    axes.bar(centres[filled], gaps, width * 0.94, result.accuracy[filled], **style)
    axes.plot([0, 1], [0, 1], color=MUTED, linewidth=1.2, linestyle=(0, (4, 3)), zorder=3, label="perfect")
    axes.set(xlim=(0, 1), ylim=(0, 1), ylabel="Fraction correct")
    axes.tick_params(axis="x", labelbottom=False)
    axes.legend(loc="upper left", title=f"ECE {result.ece:.3f}", alignment="left")
    bars = below.bar(centres, result.count, width * 0.94, color=PALETTE[7], zorder=2)
    below.bar_label(bars, [f"{n:,}" if n else "" for n in result.count], padding=1, fontsize=7)
    below.margins(y=0.25)
    below.set(xlim=(0, 1), xlabel="Confidence: probability of the class predicted", ylabel="Videos")
    return figure


def calibration_section(run: Run) -> Section | None:
    """Reliability diagram and ECE of a classifier; None without test predictions."""
    found = run.labelled("classification")
    if found is None:
        return None
    result = reliability(found.targets, found.outputs)
    confidence, accuracy = (np.average(values, weights=result.count) for values in (result.confidence, result.accuracy))
    verdict = f"On average, the model is {'over' if confidence > accuracy else 'under'}confident."
    if abs(confidence - accuracy) <= 0.01:
        verdict = "On average, the confidence equals the accuracy."
    numbers = {
        "ECE": f"{result.ece:.4f}",
        "ECE of a perfectly calibrated model": f"{result.chance:.4f}",
        "its 95th percentile": f"{result.chance_95:.4f}",
        "mean confidence, %": f"{100 * confidence:.1f}",
        "accuracy, %": f"{100 * accuracy:.1f}",
    }
    note = (
        f"{NUM_BINS} bins of equal width. The bars of a perfectly calibrated model end on the diagonal; with this number of "
        f"videos its ECE is {result.chance:.3f} on average, by chance. {verdict}"
    )
    alt = f"Reliability diagram: ECE {result.ece:.3f}, mean confidence {confidence:.0%}, accuracy {accuracy:.0%}"
    figure = Picture(reliability_diagram(result), alt, note)
    return Section("Calibration", tables={"Expected calibration error": [numbers]}, figures={"Reliability": figure})
