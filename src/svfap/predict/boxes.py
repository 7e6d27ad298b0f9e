"""Where the faces of a video were found, frame by frame, kept so that the overlay need not detect them again."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator

import numpy as np

from svfap.faces.track import TrackedFace, TrackedFrame

CELLS = 6  # of a row: index of the frame, track, box


class FaceBoxes:
    """Track and box of every face in every frame of one video: 48 bytes for each, 9 MB for two faces over an hour."""

    def __init__(self) -> None:
        self._rows = array("d")

    def add(self, item: TrackedFrame) -> None:
        """Keep the faces of the next frame."""
        for face in item.faces:
            self._rows.extend((item.index, face.track, *face.box))

    def on(self, frames: Iterable[tuple[float, np.ndarray]]) -> Iterator[TrackedFrame]:
        """The same frames (time in seconds, uint8 RGB (H, W, 3)), read again, with these faces; confidences are not kept."""
        rows = np.array(self._rows).reshape(-1, CELLS)
        for index, (time_s, frame) in enumerate(frames):
            first, after = np.searchsorted(rows[:, 0], (index, index + 1))
            faces = [
                TrackedFace(int(track), (x, y, w, h), np.nan, None, True)
                for _, track, x, y, w, h in rows[first:after].tolist()
            ]
            yield TrackedFrame(index, time_s, frame, tuple(faces), 0)
