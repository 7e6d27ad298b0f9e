"""Whether a classifier's probabilities can be taken at their word: reliability diagram and ECE."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray

from svfap.report.runs import Run, truth_and_outputs
from svfap.view.figures.base import MUTED, PALETTE, new_figure, styled
from svfap.view.page import Picture, Section

NUM_BINS = 15
NUM_DRAWS = 500


@dataclass(frozen=True)
class Calibration:
    """Top probabilities in `NUM_BINS` bins of equal width; the expected calibration error and what chance makes of it.

    count, confidence, accuracy: (bins,) videos, their mean top probability and share that is right; 0 where empty.
    ece: sum over bins of count / N × |accuracy - confidence| (Guo et al., ICML 2017). chance, chance_95: mean and 95th
    percentile of the ECE that a perfectly calibrated model with these very top probabilities has on N videos, which
    is above 0 because N is finite.
    """

    count: NDArray[np.int64]
    confidence: NDArray[np.float64]
    accuracy: NDArray[np.float64]
    ece: float
    chance: float
    chance_95: float


def calibrate(labels: ArrayLike, probabilities: ArrayLike, num_bins: int = NUM_BINS) -> Calibration:
    """Calibration of probabilities (N, K) against class indices (N,); a bin holds its upper edge, not its lower one."""
    scores = np.asarray(probabilities, np.float64)
    top, right = scores.max(axis=1), scores.argmax(axis=1) == np.asarray(labels)
    places = np.digitize(top, np.linspace(0, 1, num_bins + 1)[1:-1], right=True)
    count = np.bincount(places, minlength=num_bins)
    confidence, accuracy = (
        np.bincount(places, weights, minlength=num_bins) / np.maximum(count, 1) for weights in (top, right)
    )
    ece = float((count * np.abs(accuracy - confidence)).sum() / len(top))
    rng = np.random.default_rng(0)
    by_chance = [
        np.abs(np.bincount(places, (rng.random(len(top)) < top) - top, minlength=num_bins)).sum() / len(top)
        for _ in range(NUM_DRAWS)
    ]
    return Calibration(count, confidence, accuracy, ece, float(np.mean(by_chance)), float(np.quantile(by_chance, 0.95)))


@styled
def reliability_diagram(result: Calibration) -> Figure:
    """Accuracy over confidence, bin by bin, above the number of videos in each bin."""
    num_bins = len(result.count)
    width = 1 / num_bins
    centres = (np.arange(num_bins) + 0.5) * width
    filled = result.count > 0
    figure, (axes, below) = new_figure(4.8, 5.2, 2, 1, heights=(3.2, 1))
    axes.bar(centres[filled], result.accuracy[filled], width * 0.94, color=PALETTE[4], zorder=2, label="accuracy")
    gaps = result.confidence[filled] - result.accuracy[filled]
    axes.bar(
        centres[filled], gaps, width * 0.94, bottom=result.accuracy[filled], color=PALETTE[5], alpha=0.22,
        edgecolor=PALETTE[5], hatch="////", linewidth=0.8, zorder=2, label="gap to confidence",
    )  # fmt: skip
    axes.plot([0, 1], [0, 1], color=MUTED, linewidth=1.2, linestyle=(0, (4, 3)), zorder=3, label="perfect")
    axes.set(xlim=(0, 1), ylim=(0, 1))
    axes.tick_params(axis="x", labelbottom=False)
    axes.set_ylabel("Share that is right")
    axes.legend(loc="upper left", title=f"ECE {result.ece:.3f}", alignment="left")
    bars = below.bar(centres, result.count, width * 0.94, color=PALETTE[7], zorder=2)
    below.bar_label(bars, [f"{n:,}" if n else "" for n in result.count], padding=1, fontsize=7)
    below.set(xlim=(0, 1))
    below.margins(y=0.25)
    below.set(xlabel="Confidence: probability of the class predicted", ylabel="Videos")
    return figure


def calibration_section(run: Run) -> Section | None:
    """Diagram and numbers of a classifier's test predictions; None where there are none."""
    truth = None if run.predictions is None else truth_and_outputs(run.predictions, str(run.folder))
    if truth is None or truth.task != "classification":
        return None
    result = calibrate(truth.targets, truth.outputs)
    confidence = float((result.count * result.confidence).sum() / result.count.sum())
    accuracy = float((result.count * result.accuracy).sum() / result.count.sum())
    leaning = "more" if confidence > accuracy + 0.01 else "less" if confidence < accuracy - 0.01 else "as"
    numbers = {
        "ECE": f"{result.ece:.4f}",
        "of a perfectly calibrated model, by chance": f"{result.chance:.4f}",
        "95% of such are below": f"{result.chance_95:.4f}",
        "mean confidence, %": f"{100 * confidence:.1f}",
        "accuracy, %": f"{100 * accuracy:.1f}",
    }
    note = (
        f"{NUM_BINS} bins of equal width. A perfectly calibrated model is right as often as it says: its bars end on the "
        "diagonal, and its ECE goes to 0 as videos are added; on so many videos chance alone leaves "
        f"{result.chance:.3f} on average. On the whole, this one is {leaning} sure {'as' if leaning == 'as' else 'than'} right."
    )
    alt = f"Reliability diagram: ECE {result.ece:.3f}, mean confidence {confidence:.0%}, accuracy {accuracy:.0%}"
    figure = Picture(reliability_diagram(result), alt, note)
    return Section("Calibration", tables={"Expected calibration error": [numbers]}, figures={"Reliability": figure})
