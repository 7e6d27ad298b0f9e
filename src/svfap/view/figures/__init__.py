"""The figures of runs and predictions, each a function from numbers to a matplotlib `Figure`."""

from svfap.view.figures.base import PALETTE, jpeg_bytes, png_bytes, save_figure
from svfap.view.figures.clips import clip_sheet, reconstruction_grid
from svfap.view.figures.curves import fold_curves, loss_curves
from svfap.view.figures.scores import class_bars, comparison_bars, confusion_matrix, regression_scatter

__all__ = [
    "PALETTE",
    "class_bars",
    "clip_sheet",
    "comparison_bars",
    "confusion_matrix",
    "fold_curves",
    "jpeg_bytes",
    "loss_curves",
    "png_bytes",
    "reconstruction_grid",
    "regression_scatter",
    "save_figure",
]
