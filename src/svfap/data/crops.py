"""Frames of any size to squares of the model's size: uint8, in the loader's workers, so that little is copied to a device.

Resizing and crops are those of the published code; `docs/paper_map.md` lists the differences.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.random import RandomState

MULTI_SCALES = (1.0, 0.875, 0.75, 0.66)
# (x, y) in quarters of the free space: corners, middles of the edges, centre, quarter points.
CROP_POSITIONS = np.array([(0, 4, 0, 4, 2, 0, 4, 2, 2, 1, 3, 1, 3), (0, 0, 4, 4, 0, 2, 2, 4, 2, 1, 1, 3, 3)]).T


def crop_resize(frames: np.ndarray, left: int, top: int, width: int, height: int, size: int) -> np.ndarray:
    """Crop the same box from every frame and resize it: (T, H, W, 3) uint8 -> (T, size, size, 3) uint8.

    Bilinear with antialiasing, as in Pillow: equal where the picture grows, at most 2 of 255 levels off, and
    0.05 on average, where it shrinks.
    """
    box = np.ascontiguousarray(frames[:, top : top + height, left : left + width])
    if width == height == size:
        return box
    pixels = torch.from_numpy(box).permute(0, 3, 1, 2)
    resized = F.interpolate(pixels, (size, size), mode="bilinear", antialias=True)
    return resized.permute(0, 2, 3, 1).contiguous().numpy()


def fit_frames(frames: np.ndarray, size: int, fit: str = "squash") -> np.ndarray:
    """Frames of any shape as squares: (T, H, W, 3) uint8 -> (T, size, size, 3) uint8.

    fit: "squash" resizes the whole frame, whatever its proportions, as the published code does; "centre" keeps the
    proportions of the central square of the short side and drops the rest. Square frames come out alike.
    """
    height, width = frames.shape[1:3]
    if fit == "squash":
        return crop_resize(frames, 0, 0, width, height, size)
    return side_crops(frames, size, 1)[0][0]


def multi_scale_crop(
    frames: np.ndarray, size: int, rng: RandomState, scales: Sequence[float] = MULTI_SCALES
) -> np.ndarray:
    """The pre-training crop (Fig. 3), as in VideoMAE and TSN: a few scales and 13 fixed positions, no flip.

    Width and height are `scales` (in descending order) times the short side, at most one step of the list apart, and are set
    to `size` if they differ from it by less than 3 px and the frame is large enough (the published code pads it with
    black). (T, H, W, 3) uint8 -> (T, size, size, 3) uint8.
    """
    frame_height, frame_width = frames.shape[1:3]
    short = min(frame_height, frame_width)
    sides = [max(1, int(short * scale)) for scale in scales]
    sides = [size if abs(side - size) < 3 and size <= short else side for side in sides]
    pairs = [(w, h) for i, w in enumerate(sides) for j, h in enumerate(sides) if abs(i - j) <= 1]
    width, height = pairs[rng.randint(len(pairs))]
    across, down = CROP_POSITIONS[rng.randint(len(CROP_POSITIONS))]
    # A quarter is rounded down to whole pixels before it is multiplied, as published.
    left, top = across * ((frame_width - width) // 4), down * ((frame_height - height) // 4)
    return crop_resize(frames, left, top, width, height, size)


def side_crops(frames: np.ndarray, size: int, num_crops: int) -> list[tuple[np.ndarray, int]]:
    """`num_crops` squares of the short side, evenly spaced along the longer side from end to end; one crop: the centre.

    Coinciding squares, as in a square frame, are returned once, with their number.
    (T, H, W, 3) uint8 -> list of ((T, size, size, 3) uint8, number). Cropping before resizing saves work, and differs from
    resizing first by a fraction of a pixel.
    """
    height, width = frames.shape[1:3]
    short, free = min(height, width), abs(width - height)
    starts = [free // 2] if num_crops == 1 else [i * free // (num_crops - 1) for i in range(num_crops)]
    boxes = [((start, 0) if width > height else (0, start), starts.count(start)) for start in sorted(set(starts))]
    return [(crop_resize(frames, left, top, short, short, size), count) for (left, top), count in boxes]
