"""The expected sliding windows of a video, computed from its number of frames."""

from __future__ import annotations

import numpy as np


def window_indices(num_frames: int, clip_length: int, stride: int, hop: int) -> np.ndarray:
    """(num_windows, clip_length) int64 frame numbers: start + stride * (0, 1, ..., clip_length - 1).

    A window starts every `hop` frames; the last one ends at the last frame; a shorter video is padded with its last frame.
    """
    last_start = max(num_frames - ((clip_length - 1) * stride + 1), 0)
    starts = [*range(0, last_start, hop), last_start]
    return np.minimum(np.add.outer(starts, stride * np.arange(clip_length)), num_frames - 1)
