"""Sliding windows defined in a few lines, as the reference that the product's streaming windows are checked against."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def window_indices(num_frames: int, clip_length: int, stride: int, hop: int) -> NDArray[np.int64]:
    """Frame numbers of all windows of a video, (num_windows, clip_length).

    A window has the frames start + stride * (0, 1, ..., clip_length - 1). A window starts every `hop` frames from 0 on, and
    the last one ends at the last frame. A video shorter than a window gives one window, padded with the last frame.
    """
    last_start = max(num_frames - ((clip_length - 1) * stride + 1), 0)
    starts = np.append(np.arange(0, last_start, hop, dtype=np.int64), last_start)
    return np.minimum(starts[:, None] + stride * np.arange(clip_length), num_frames - 1)
