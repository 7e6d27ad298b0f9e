"""Figures made of video frames."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from svfap.errors import UserError
from svfap.view.figures.base import INK, MUTED, hide_frame, new_figure, styled


@styled
def reconstruction_grid(
    original: NDArray[np.uint8], masked: NDArray[np.uint8], reconstruction: NDArray[np.uint8],
    titles: Sequence[str] = ("Original", "Masked", "Reconstructed"), num_columns: int = 8,
) -> Figure:  # fmt: skip
    """Three labelled rows of frames, each clip uint8 (T, H, W, 3); `num_columns` frames evenly spaced in time."""
    clips = (original, masked, reconstruction)
    for name, clip in zip(titles, clips, strict=True):
        if clip.ndim != 4 or clip.shape[-1] != 3 or clip.dtype != np.uint8 or not clip.size:
            raise UserError(f"{name}: a clip must be uint8 (T, H, W, 3), not {clip.dtype} {clip.shape}")
        if clip.shape != original.shape:
            raise UserError(f"{name}: shape {clip.shape} differs from the original's {original.shape}")
    num_frames, height, width = original.shape[:3]
    picked = np.unique(np.linspace(0, num_frames - 1, min(num_columns, num_frames)).round().astype(int))
    figure, panels = new_figure(1.3 * len(picked) + 0.4, 3 * 1.3 * height / width + 0.35, 3, len(picked), gap=0.02)
    for row, (name, clip) in enumerate(zip(titles, clips, strict=True)):
        for column, index in enumerate(picked):
            axes = panels[row * len(picked) + column]
            axes.imshow(clip[index], interpolation="none")
            hide_frame(axes)
            if row == 0:
                axes.set_title(f"frame {index + 1}", fontsize=8, color=MUTED, pad=3)
            if column == 0:
                axes.set_ylabel(name, fontsize=10, color=INK)
    return figure
