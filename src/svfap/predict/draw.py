"""Boxes, ids and bars drawn into frames; sizes go with the picture, and text stands on its own dark ground."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import cv2
import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from svfap.predict.windows import Box

FONT = Path(matplotlib.get_data_path()) / "fonts/ttf/DejaVuSans.ttf"
TEXT_PART = 0.028  # of the picture's shorter side
MIN_TEXT_PX = 10
DARKEN = 0.35  # what is left of the brightness under text: white on it is legible on any picture
NAME_LENGTH = 14  # characters of a label
TRACK_COLOR = (255, 255, 255)


class Reading(NamedTuple):
    """What to draw of one face: its box (None: the whole picture) and its values (K,) (None: nothing was read)."""

    track: int
    box: Box | None
    values: np.ndarray | None


class Painter:
    """Draws into pictures of one size.

    labels: columns of the table, `prob_<name>` or a dimension's name; colors: "#rrggbb", taken in turn; span: the values
    at the two ends of a bar.
    """

    def __init__(
        self, height: int, width: int, labels: Sequence[str], colors: Sequence[str], span: tuple[float, float]
    ) -> None:
        self.text_px = max(round(TEXT_PART * min(height, width)), MIN_TEXT_PX)
        self.line_px = max(round(min(height, width) / 240), 1)
        self.probable = all(label.startswith("prob_") for label in labels)
        self.names = [_short(label.removeprefix("prob_")) for label in labels]
        self.colors = [_rgb(colors[k % len(colors)]) for k in range(len(labels))]
        self.span = span

    def paint(self, picture: np.ndarray, readings: Sequence[Reading]) -> np.ndarray:
        """A copy of the picture, uint8 RGB (H, W, 3), with what was read."""
        picture = picture.copy()
        # Many faces leave little room for each.
        text_px = max(round(self.text_px * (1.0 if len(readings) <= 2 else 0.8 if len(readings) <= 4 else 0.65)), 9)
        for reading in readings:
            if reading.box is not None:
                self._frame(picture, reading)
        taken = [reading.box for reading in readings if reading.box is not None]
        for reading in readings:
            taken.append(self._panel(picture, reading, text_px, taken))
        return picture

    def _frame(self, picture: np.ndarray, reading: Reading) -> None:
        assert reading.box is not None
        x, y, w, h = reading.box
        corners = ((round(x), round(y)), (round(x + w), round(y + h)))
        top = None if reading.values is None or not self.probable else int(reading.values.argmax())
        color = TRACK_COLOR if top is None else self.colors[top]
        cv2.rectangle(picture, *corners, (0, 0, 0), 2 * self.line_px, cv2.LINE_AA)  # seen on any ground
        cv2.rectangle(picture, *corners, color, self.line_px, cv2.LINE_AA)

    def _panel(self, picture: np.ndarray, reading: Reading, text_px: int, taken: Sequence[Box]) -> Box:
        """Draw the heading and the bars, where they hide no face if they can; returns where that is."""
        heading = _text(self._heading(reading), text_px)
        rows = [] if reading.values is None else [_text(name, max(round(0.8 * text_px), 9)) for name in self.names]
        pad, bar = max(text_px // 3, 2), 4 * text_px
        names_width = max((row.shape[1] for row in rows), default=0)
        row_height = rows[0].shape[0] if rows else 0
        width = max(heading.shape[1], names_width + pad + bar if rows else 0) + 2 * pad
        height = heading.shape[0] + len(rows) * row_height + 2 * pad
        x, y = self._place(picture.shape, reading.box, width, height, taken)
        ground = picture[y : y + height, x : x + width]
        ground[:] = (ground * DARKEN).astype(np.uint8)
        _write(picture, heading, x + pad, y + pad)
        for k, row in enumerate(rows):
            assert reading.values is not None
            top = y + pad + heading.shape[0] + k * row_height
            _write(picture, row, x + pad, top)
            self._bar(picture, float(reading.values[k]), k, (x + 2 * pad + names_width, top, bar, row_height))
        return x, y, width, height

    def _heading(self, reading: Reading) -> str:
        words = [str(reading.track)] if reading.track else []
        if reading.values is not None and self.probable:
            top = int(reading.values.argmax())
            words.append(f"{self.names[top]} {100 * reading.values[top]:.0f}%")
        return " · ".join(words) or " "

    def _place(
        self, shape: Sequence[int], box: Box | None, width: int, height: int, taken: Sequence[Box]
    ) -> tuple[int, int]:
        """Upper left corner: beside, below or above the box, or inside it, where it hides least of what is `taken`."""
        gap = 2 * self.line_px
        if box is None:
            return gap, gap
        x, y, w, h = box
        places = [(x + w + gap, y), (x - gap - width, y), (x, y + h + gap), (x, y - gap - height), (x + gap, y + gap)]
        last = (max(shape[1] - width, 0), max(shape[0] - height, 0))
        inside = [(int(np.clip(left, 0, last[0])), int(np.clip(top, 0, last[1]))) for left, top in places]

        def hidden(place: tuple[int, int]) -> int:  # in tenths of the panel: it shall not jump about for less
            return round(10 * sum(_shared((*place, width, height), other) for other in taken) / (width * height))

        return min(inside, key=hidden)

    def _bar(self, picture: np.ndarray, value: float, k: int, area: tuple[int, int, int, int]) -> None:
        x, y, width, height = area
        low, high = self.span
        ends = np.clip((np.array([0.0, value]) - low) / (high - low), 0, 1) * width
        top, bottom = y + round(0.25 * height), y + round(0.75 * height)
        ground = picture[top:bottom, x : x + width]
        ground[:] = np.minimum(ground + 45.0, 255).astype(np.uint8)
        first, last = sorted(ends.round().astype(int).tolist())
        picture[top:bottom, x + first : x + max(last, first + 1)] = self.colors[k]


def _shared(a: Box, b: Box) -> float:
    """Pixels that two boxes share."""
    across = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    down = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    return max(across, 0.0) * max(down, 0.0)


def _short(name: str) -> str:
    return name if len(name) <= NAME_LENGTH else name[: NAME_LENGTH - 1] + "…"


def _rgb(color: str) -> tuple[int, int, int]:
    return int(color[1:3], 16), int(color[3:5], 16), int(color[5:7], 16)


@lru_cache(maxsize=4096)
def _text(text: str, size_px: int) -> np.ndarray:
    """How much of each pixel the text covers: (H, W, 1) float32, 0 to 1; all of one size are equally high."""
    font = _font(size_px)
    ascent, descent = font.getmetrics()
    image = Image.new("L", (max(round(font.getlength(text)), 1), ascent + descent))
    ImageDraw.Draw(image).text((0, ascent), text, 255, font, anchor="ls")
    return np.asarray(image, np.float32)[..., None] / 255


@lru_cache(maxsize=32)
def _font(size_px: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(str(FONT), size_px)


def _write(picture: np.ndarray, text: np.ndarray, x: int, y: int) -> None:
    """White text, as far as it lies in the picture."""
    ground = picture[y : y + text.shape[0], x : x + text.shape[1]]
    cover = text[: ground.shape[0], : ground.shape[1]]
    ground[:] = (ground * (1 - cover) + 255 * cover).astype(np.uint8)
