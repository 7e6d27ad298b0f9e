"""The figures of runs and predictions, each a function from numbers to a matplotlib `Figure`."""

from svfap.report.figures.base import PALETTE, PERCENT, jpeg_bytes, metric_name, png_bytes, save_figure
from svfap.report.figures.clips import clip_sheet, reconstruction_grid
from svfap.report.figures.curves import fold_curves, loss_curves, timeline
from svfap.report.figures.scores import class_bars, comparison_bars, confusion_matrix, regression_scatter

__all__ = [
    "PALETTE",
    "PERCENT",
    "class_bars",
    "clip_sheet",
    "comparison_bars",
    "confusion_matrix",
    "fold_curves",
    "jpeg_bytes",
    "loss_curves",
    "metric_name",
    "png_bytes",
    "reconstruction_grid",
    "regression_scatter",
    "save_figure",
    "timeline",
]
