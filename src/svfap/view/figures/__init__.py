"""The figures of runs and predictions, each a function from numbers to a matplotlib `Figure`."""

from svfap.view.figures.base import PALETTE, PERCENT, jpeg_bytes, metric_name, png_bytes, save_figure
from svfap.view.figures.clips import clip_sheet, reconstruction_grid
from svfap.view.figures.curves import fold_curves, loss_curves
from svfap.view.figures.scores import class_bars, comparison_bars, confusion_matrix, regression_scatter

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
]
