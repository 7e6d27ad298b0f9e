"""Shot changes in a stream of frames."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import cv2
import numpy as np

THUMBNAIL_PX = (32, 18)
MIN_CONTRAST = 0.05  # so that noise on a uniform picture is no change
CHANGED_PART = 0.7  # of the picture, at least, changes with the shot; a hand before the camera hides less
LEAST_CHANGE = 0.12  # of that part, relative to the contrast
BLACK = 0.06  # of 1; bars beside or above a picture are darker
LEAST_LIT = 0.25  # of the picture; where less is lit, the scene is dark and has no bars


@dataclass(frozen=True)
class ShotFrame:
    """A frame, its number and time from the start of the video, and the number of its shot, from 0."""

    index: int
    time_s: float
    frame: np.ndarray
    shot: int


def iter_shots(
    frames: Iterable[tuple[float, np.ndarray]], threshold: float = 0.5, flash_s: float = 0.25
) -> Iterator[ShotFrame]:
    """Number the shots of a stream of (time_s, uint8 RGB (H, W, 3)); every frame is yielded once and in order.

    A new shot begins where two successive frames differ by more than `threshold` (see `difference`), unless within
    `flash_s` seconds the picture is as before: a flash. A hand that covers a face is no change of shot. To decide this, up
    to `flash_s` seconds of frames are held back after a change, and none otherwise. Slow fades are no change of shot.
    """
    waiting: deque[tuple[int, float, np.ndarray, np.ndarray]] = deque()
    before: np.ndarray | None = None  # the picture that the next frame is compared with
    shot = 0

    def like(thumbnail: np.ndarray) -> bool:
        return before is None or difference(thumbnail, before) <= threshold

    def decided(ended: bool) -> Iterator[ShotFrame]:
        nonlocal before, shot
        while waiting:
            index, time_s, frame, thumbnail = waiting[0]
            if like(thumbnail):
                before = thumbnail
            elif not any(like(later) for _, _, _, later in waiting):  # otherwise a flash, and `before` stays
                if not ended and waiting[-1][1] - time_s < flash_s:
                    return
                before, shot = thumbnail, shot + 1
            waiting.popleft()
            yield ShotFrame(index, time_s, frame, shot)

    for index, (time_s, frame) in enumerate(frames):
        waiting.append((index, time_s, frame, _thumbnail(frame)))
        yield from decided(ended=False)
    yield from decided(ended=True)


def difference(a: np.ndarray, b: np.ndarray) -> float:
    """Mean absolute difference between two small pictures (H, W), relative to their contrast (mean standard deviation).

    It is 0 where a change leaves more than 30% of the picture as it was: something moved in front of the camera. Black
    bars beside, above or below both pictures do not count.
    """
    lit = np.maximum(a, b) > BLACK
    rows, columns = lit.any(axis=1), lit.any(axis=0)
    if rows.mean() * columns.mean() >= LEAST_LIT:
        a, b = a[rows][:, columns], b[rows][:, columns]
    change, contrast = np.abs(a - b), (a.std() + b.std()) / 2 + MIN_CONTRAST
    if np.quantile(change, 1 - CHANGED_PART) < LEAST_CHANGE * contrast:
        return 0.0
    return float(change.mean() / contrast)


def _thumbnail(frame: np.ndarray) -> np.ndarray:
    """(18, 32) float32, 0 to 1. Every n-th pixel is used first, which is faster and enough."""
    step = max(min(frame.shape[:2]) // 120, 1)
    grey = cv2.cvtColor(np.ascontiguousarray(frame[::step, ::step]), cv2.COLOR_RGB2GRAY)
    return np.asarray(cv2.resize(grey, THUMBNAIL_PX, interpolation=cv2.INTER_AREA), np.float32) / 255
