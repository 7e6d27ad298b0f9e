"""Square crops of faces, cut from the picture at full resolution."""

from __future__ import annotations

import math

import cv2
import numpy as np
from numpy.typing import NDArray

from svfap.faces.config import FaceCropConfig
from svfap.faces.detect import Pixels

GREY = (128, 128, 128)
BORDERS = {"grey": cv2.BORDER_CONSTANT, "replicate": cv2.BORDER_REPLICATE, "reflect": cv2.BORDER_REFLECT_101}


def crop_face(
    frame: Pixels,
    box: tuple[float, float, float, float],
    config: FaceCropConfig = FaceCropConfig(),  # noqa: B008 - frozen
    landmarks: NDArray[np.float32] | None = None,
) -> Pixels:
    """The square around a box (x, y, width, height in pixels of the frame), with its margin: (size_px, size_px, 3) uint8.

    frame: (H, W, 3) uint8. The square has the box's centre. Coordinates count from pixel edges, so the box (0, 0, W, H)
    of a square frame without margin is the whole frame. landmarks: (5, 2) as in `Face`, for `align`. Raises `ValueError`
    for a box without area.
    """
    x, y, w, h = box
    side = max(w, h) * (1 + 2 * config.margin)
    if not (math.isfinite(side) and side > 0):
        raise ValueError(f"box={box} has no size")
    angle = _roll(landmarks) if config.align and landmarks is not None else 0.0
    centre, scale = (x + w / 2, y + h / 2), config.size_px / side
    if (times := int(1 / scale)) >= 2:  # warping does not average when it shrinks, so blocks are averaged first
        frame, centre = _block_means(frame, centre, side * (0.72 if angle else 0.5), times)
        scale *= times
    return _warp(frame, centre, scale, angle, config)


def _warp(picture: Pixels, centre: tuple[float, float], scale: float, angle: float, config: FaceCropConfig) -> Pixels:
    """Rotate by -angle about the centre, scale, and move the centre to the middle of the crop."""
    cos, sin = scale * math.cos(angle), scale * math.sin(angle)
    turn = np.array([[cos, sin], [-sin, cos]])
    middle = config.size_px / 2
    # In OpenCV pixel centres have integer coordinates; here pixel edges have.
    shift = middle - 0.5 - turn @ (np.array(centre) - 0.5)
    matrix = np.column_stack([turn, shift])
    size, border = (config.size_px, config.size_px), BORDERS[config.border]
    return cv2.warpAffine(picture, matrix, size, flags=cv2.INTER_LINEAR, borderMode=border, borderValue=GREY)


def _block_means(
    frame: Pixels, centre: tuple[float, float], reach: float, times: int
) -> tuple[Pixels, tuple[float, float]]:
    """The frame within `reach` of the centre, as means of blocks of `times` x `times` pixels, and the centre in it."""
    starts, stops = [], []
    for middle, length in zip(centre, (frame.shape[1], frame.shape[0]), strict=True):
        start = min(max(math.floor(middle - reach) - times, 0), max(length - times, 0))
        stop = min(math.ceil(middle + reach) + times, length)
        starts.append(start)
        stops.append(start + max((stop - start) // times, 1) * times)
    inside = frame[starts[1] : stops[1], starts[0] : stops[0]]
    size = (max(inside.shape[1] // times, 1), max(inside.shape[0] // times, 1))
    small = cv2.resize(inside, size, interpolation=cv2.INTER_AREA)
    return small, ((centre[0] - starts[0]) / times, (centre[1] - starts[1]) / times)


def _roll(landmarks: NDArray[np.float32]) -> float:
    """Angle of the line between the eyes in radians, positive if the eye on the right of the picture is lower."""
    (right_x, right_y), (left_x, left_y) = landmarks[0], landmarks[1]
    return math.atan2(left_y - right_y, left_x - right_x)
