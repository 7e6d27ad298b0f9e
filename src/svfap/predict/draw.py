"""Face boxes, numbers of faces and bars drawn into pictures; sizes depend on the picture, text is on a darkened panel."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import cv2
import matplotlib
import numpy as np
from numpy.typing import ArrayLike
from PIL import Image, ImageColor, ImageDraw, ImageFont

from svfap.faces.boxes import shared_area
from svfap.predict.figure import label_colors
from svfap.predict.table import PROBABILITY, columns_by_head, value_name
from svfap.predict.windows import Box

FONT = Path(matplotlib.get_data_path()) / "fonts/ttf/DejaVuSans.ttf"
TEXT_SIZE = 0.028  # as a fraction of the picture's shorter side
MIN_TEXT_PX = 10
DARKEN = 0.35  # factor on the brightness under text, so that white text is legible on any picture
MAX_NAME = 14  # characters of a label
TRACK_COLOR = (255, 255, 255)


class FaceValues(NamedTuple):
    """What to draw for one face: its box in pixels (None: the whole picture) and its values (K,) (None: no prediction)."""

    track: int
    box: Box | None
    values: np.ndarray | None


class Painter:
    """Draws into pictures of one size.

    columns: of the table, `prob_<label>` or a dimension's name. value_ranges: (2,) or (K, 2), the values at the two ends of all
    bars or of each. Values of dimensions are written beside their bars.
    """

    def __init__(self, height: int, width: int, columns: Sequence[str], value_ranges: ArrayLike) -> None:
        self.text_px = max(round(TEXT_SIZE * min(height, width)), MIN_TEXT_PX)
        self.line_px = max(round(min(height, width) / 240), 1)
        self.probabilities = all(column.startswith(PROBABILITY) for column in columns)
        names = plain = [value_name(column) for column in columns]
        if "" not in columns_by_head(columns):  # the head is left out where no other has the name
            plain = [name.partition("/")[2] for name in names]
        names = [name if plain.count(short) > 1 else short for name, short in zip(names, plain, strict=True)]
        self.names = [name if len(name) <= MAX_NAME else f"{name[: MAX_NAME - 1]}…" for name in names]
        self.colors = [ImageColor.getrgb(color)[:3] for color in label_colors(len(columns))]
        self.value_ranges = np.broadcast_to(np.asarray(value_ranges, float), (len(columns), 2))
        # Of the longest number, so that panels keep their size.
        self.widest = max((f"{value:.2f}" for value in self.value_ranges.flat), key=len, default="")

    def paint(self, picture: np.ndarray, faces: Sequence[FaceValues]) -> np.ndarray:
        """A copy of the picture, uint8 RGB (H, W, 3), with the faces drawn in."""
        picture = picture.copy()
        # With many faces there is little room for each.
        text_px = max(round(self.text_px * (1.0 if len(faces) <= 2 else 0.8 if len(faces) <= 4 else 0.65)), 9)
        for face in faces:
            if face.box is not None:
                self._outline(picture, face)
        taken = [face.box for face in faces if face.box is not None]
        for face in faces:
            taken.append(self._panel(picture, face, text_px, taken))
        return picture

    def _outline(self, picture: np.ndarray, face: FaceValues) -> None:
        assert face.box is not None
        x, y, w, h = face.box
        corners = ((round(x), round(y)), (round(x + w), round(y + h)))
        top = None if face.values is None or not self.probabilities else int(face.values.argmax())
        color = TRACK_COLOR if top is None else self.colors[top]
        cv2.rectangle(picture, *corners, (0, 0, 0), 2 * self.line_px, cv2.LINE_AA)  # visible on any background
        cv2.rectangle(picture, *corners, color, self.line_px, cv2.LINE_AA)

    def _panel(self, picture: np.ndarray, face: FaceValues, text_px: int, taken: Sequence[Box]) -> Box:
        """Draw heading and bars, preferably where they hide no face; returns the panel's box."""
        heading = _text(self._heading(face), text_px)
        rows = [] if face.values is None else [_text(name, max(round(0.8 * text_px), 9)) for name in self.names]
        pad, bar = max(text_px // 3, 2), 4 * text_px
        names_width = max((row.shape[1] for row in rows), default=0)
        row_height = rows[0].shape[0] if rows else 0
        number_px = max(round(0.8 * text_px), 9)
        number_width = 0 if self.probabilities else pad + _text(self.widest, number_px).shape[1]
        width = max(heading.shape[1], names_width + pad + bar + number_width if rows else 0) + 2 * pad
        height = heading.shape[0] + len(rows) * row_height + 2 * pad
        x, y = self._place(picture.shape, face.box, width, height, taken)
        ground = picture[y : y + height, x : x + width]
        ground[:] = (ground * DARKEN).astype(np.uint8)
        _write(picture, heading, x + pad, y + pad)
        for k, row in enumerate(rows):
            assert face.values is not None
            top = y + pad + heading.shape[0] + k * row_height
            _write(picture, row, x + pad, top)
            left = x + 2 * pad + names_width
            self._bar(picture, float(face.values[k]), k, (left, top, bar, row_height))
            if not self.probabilities:
                number = _text(f"{round(float(face.values[k]), 2) + 0.0:.2f}", number_px)
                _write(picture, number, left + bar + number_width - number.shape[1], top)
        return x, y, width, height

    def _heading(self, face: FaceValues) -> str:
        parts = [f"Face {face.track}"] if face.track else []
        if face.values is not None and self.probabilities:
            top = int(face.values.argmax())
            parts.append(f"{self.names[top]} {100 * face.values[top]:.0f}%")
        return " · ".join(parts) or " "

    def _place(
        self, shape: Sequence[int], box: Box | None, width: int, height: int, taken: Sequence[Box]
    ) -> tuple[int, int]:
        """Upper left corner of the panel: beside, below, above or inside the box, where it covers least of `taken`."""
        gap = 2 * self.line_px
        if box is None:
            return gap, gap
        x, y, w, h = box
        corners = [(x + w + gap, y), (x - gap - width, y), (x, y + h + gap), (x, y - gap - height), (x + gap, y + gap)]
        inside = np.clip(corners, 0, np.maximum([shape[1] - width, shape[0] - height], 0)).astype(int)
        panels = np.column_stack([inside, np.tile([width, height], (len(inside), 1))])
        hidden = shared_area(panels, np.array(taken)).sum(axis=1) / (width * height)
        left, top = inside[np.round(10 * hidden).argmin()].tolist()  # in tenths, so that it does not move for less
        return left, top

    def _bar(self, picture: np.ndarray, value: float, k: int, area: tuple[int, int, int, int]) -> None:
        x, y, width, height = area
        low, high = self.value_ranges[k].tolist()
        ends = np.clip((np.array([0.0, value]) - low) / (high - low), 0, 1) * width
        top, bottom = y + round(0.25 * height), y + round(0.75 * height)
        ground = picture[top:bottom, x : x + width]
        ground[:] = np.minimum(ground + 45.0, 255).astype(np.uint8)
        first, last = sorted(ends.round().astype(int).tolist())
        picture[top:bottom, x + first : x + max(last, first + 1)] = self.colors[k]


@lru_cache(maxsize=4096)
def _text(text: str, size_px: int) -> np.ndarray:
    """Coverage of each pixel by the text: (H, W, 1) float32, 0 to 1; H depends on the size only."""
    font = ImageFont.truetype(str(FONT), size_px)
    ascent, descent = font.getmetrics()
    image = Image.new("L", (max(round(font.getlength(text)), 1), ascent + descent))
    ImageDraw.Draw(image).text((0, ascent), text, 255, font, anchor="ls")
    return np.asarray(image, np.float32)[..., None] / 255


def _write(picture: np.ndarray, text: np.ndarray, x: int, y: int) -> None:
    """Draw white text, clipped at the picture's edge."""
    ground = picture[y : y + text.shape[0], x : x + text.shape[1]]
    cover = text[: ground.shape[0], : ground.shape[1]]
    ground[:] = (ground * (1 - cover) + 255 * cover).astype(np.uint8)
