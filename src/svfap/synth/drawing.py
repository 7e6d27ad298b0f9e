"""Moving shapes. Their geometry is computed for all frames at once, so that drawing a frame takes a few OpenCV calls."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

SHIFT = 4  # OpenCV's sub-pixel bits: coordinates are given in sixteenths of a pixel
FACE_SCALE = 0.43  # face unit (half a head's height) as a part of the image's side
AROUND = np.linspace(0.0, 2 * np.pi, 33)[:-1]
Array = np.ndarray | float


@dataclass(frozen=True)
class Shape:
    """A polygon (width_px 0) or a line. points int32 (T, n, 2), colours: one tuple per frame, visible (T,) bool."""

    points: np.ndarray
    colours: list[tuple[float, ...]]
    width_px: int
    visible: np.ndarray

    def draw(self, canvas: np.ndarray, frame: int) -> None:
        """Draw the shape as it is in `frame` onto uint8 `canvas`, in place."""
        if not self.visible[frame]:
            return
        points = [self.points[frame]]
        if self.width_px:
            cv2.polylines(canvas, points, False, self.colours[frame], self.width_px, cv2.LINE_AA, SHIFT)
        else:
            cv2.fillPoly(canvas, points, self.colours[frame], cv2.LINE_AA, SHIFT)


def surface(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Depth of the face at (x, y), towards the camera, in face units: half an ellipsoid."""
    return 0.75 * np.sqrt(np.maximum(0.0, 1.0 - (x / 0.85) ** 2 - (y / 1.2) ** 2))


def ellipse(x: Array, y: Array, width: float, height: float) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates of the points of an ellipse about (x, y) with these half axes."""
    return x + width * np.cos(AROUND), y + height * np.sin(AROUND)


def loop(there: np.ndarray, back: np.ndarray) -> np.ndarray:
    """One coordinate of a closed shape, (T or 1, 2n): forward along the points (T, n) of `there`, then back along `back`."""
    return np.concatenate(np.broadcast_arrays(np.atleast_2d(there), np.atleast_2d(back)[:, ::-1]), axis=-1)


class Drawing:
    """Collects shapes in painter's order. x and y are (n,) or (T, n) in face units, strengths (), (T,) or (T, 1)."""

    def __init__(self, pose: np.ndarray, size_px: int) -> None:
        self.size_px = size_px
        self.flat: list[Shape] = []
        self.soft: list[Shape] = []  # shadows and highlights, drawn in grey at half size and blurred
        self._num_frames = len(pose)
        shift_x, shift_y, log_scale, roll, yaw, pitch = pose.T[:, :, None]
        self._scale = FACE_SCALE * size_px * np.exp(log_scale)
        self._centre = size_px * (0.5 + FACE_SCALE * shift_x), size_px * (0.52 + FACE_SCALE * shift_y)
        self._roll, self._yaw, self._pitch = roll, yaw, pitch

    def to_pixels(self, x: Array, y: Array, z: Array) -> np.ndarray:
        """Pixel coordinates (T, n, 2) of face points: yaw and pitch shift points by their depth; then roll, scale and shift."""
        x, y = x * np.cos(self._yaw) + z * np.sin(self._yaw), y * np.cos(self._pitch) + z * np.sin(self._pitch)
        x, y = x * np.cos(self._roll) - y * np.sin(self._roll), x * np.sin(self._roll) + y * np.cos(self._roll)
        return np.stack([self._centre[0] + self._scale * x, self._centre[1] + self._scale * y], axis=-1)

    def head_affines(self, template_px: int, template_units: float) -> np.ndarray:
        """Affine maps (T, 2, 3) from a square template, `template_units` face units wide, to the pixels of this drawing."""
        corners = np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
        x, y = (corners - 0.5).T * template_units
        targets = self.to_pixels(x, y, 0.0).astype(np.float32)
        sources = (corners * template_px).astype(np.float32)
        return np.stack([cv2.getAffineTransform(sources, target) for target in targets])

    def fill(self, x: Array, y: Array, colour: np.ndarray, z: Array | None = None, show: Array = 1.0) -> None:
        """A filled polygon, on the surface of the face unless `z` is given; hidden in frames where `show` is not positive."""
        self.flat.append(self._shape(x, y, z, colour, 0.0, show))

    def line(
        self, x: Array, y: Array, colour: np.ndarray, width: float, z: Array | None = None, show: Array = 1.0
    ) -> None:
        """A line `width` face units thick (at least a pixel)."""
        self.flat.append(self._shape(x, y, z, colour, width, show))

    def shade(self, x: Array, y: Array, amount: Array, width: float = 0.0) -> None:
        """Darken (amount < 0) or lighten (> 0) softly: a polygon, or a line if `width` is given; 1 doubles the light."""
        strength = np.reshape(amount, (-1, 1))
        grey = np.clip(128.0 + 127.0 * strength, 0, 255)
        self.soft.append(self._shape(x, y, None, grey, width, np.abs(strength) - 0.01, 0.5))

    def _shape(
        self, x: Array, y: Array, z: Array | None, colour: np.ndarray, width: float, show: Array, scale: float = 1.0
    ) -> Shape:
        x, y = np.broadcast_arrays(x, y)
        pixels = self.to_pixels(x, y, surface(x, y) if z is None else z) * scale
        points = np.round(pixels * (1 << SHIFT)).astype(np.int32)
        width_px = max(1, round(width * FACE_SCALE * self.size_px * scale)) if width else 0
        visible = np.broadcast_to(np.reshape(show, -1) > 0, (self._num_frames,))
        colours = np.broadcast_to(np.clip(np.atleast_2d(colour), 0, 255), (self._num_frames, colour.shape[-1]))
        return Shape(points, [tuple(c) for c in colours.tolist()], width_px, visible)
