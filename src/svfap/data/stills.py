"""Image files as the pictures of a video."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from svfap.data.frames import Pixels, VideoError, VideoSource, placeholder
from svfap.data.suffixes import PICTURE_SUFFIXES

# A broken image raises a VideoError; OpenCV itself prints nothing.
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)


class Stills(VideoSource):
    """Image files, `fps` of them per second; those of another size are scaled to the size of the first one."""

    def __init__(self, path: Path, files: list[Path], fps: float) -> None:
        if not files:
            raise VideoError(path, f"the folder holds no pictures ({', '.join(PICTURE_SUFFIXES)})")
        self.path, self._files, self.fps = path, files, fps
        self.picture_names = [file.name for file in files] if path.is_dir() else None
        self.times_s = np.arange(len(files)) / fps
        self._size: tuple[int, int] | None = None  # width and height in pixels

    def read(self, indices: Sequence[int] | NDArray[np.int64]) -> Pixels:
        wanted, places = np.unique(self._checked(indices), return_inverse=True)
        return np.stack(list(self._load(wanted)))[places]

    def frames(self, first: int = 0) -> Iterator[tuple[float, Pixels]]:
        yield from zip(self.times_s[first:].tolist(), self._load(range(first, self.num_frames)), strict=True)

    def _load(self, numbers: Iterable[int]) -> Iterator[Pixels]:
        for number in numbers:
            picture = self._decoded(number)
            if self._size is None:
                height, width = (picture if number == 0 else self._decoded(0)).shape[:2]
                self._size = width, height
            yield scaled(picture, self._size)

    def _decoded(self, number: int) -> Pixels:
        file = self._files[number]
        picture = _read_picture(file)
        if picture is None:
            reason = placeholder(file) or "cannot be decoded as a picture"
            raise VideoError(self.path, f"{file.name} {reason.replace('the video', 'the picture')}")
        return picture


def scaled(picture: Pixels, size: tuple[int, int]) -> Pixels:
    """A picture (H, W, 3) brought to `size`, width and height in pixels."""
    height, width = picture.shape[:2]
    if (width, height) == size:
        return picture
    smaller = size[0] < width or size[1] < height
    interpolation = cv2.INTER_AREA if smaller else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(np.ascontiguousarray(picture), size, interpolation=interpolation), np.uint8)


def _read_picture(file: Path) -> Pixels | None:
    """RGB (H, W, 3), upright, without alpha; None if the file is broken or truncated."""
    data = file.read_bytes()
    # Some versions of OpenCV fill the missing part of a JPEG with grey: require the end marker after the last scan.
    cut_jpeg = data.startswith(b"\xff\xd8") and data.rfind(b"\xff\xd9") < data.rfind(b"\xff\xda")
    cut_png = data.startswith(b"\x89PNG") and b"IEND" not in data
    if not data or cut_jpeg or cut_png:
        return None
    try:
        picture = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    except cv2.error:
        return None
    return None if picture is None else np.asarray(cv2.cvtColor(picture, cv2.COLOR_BGR2RGB), np.uint8)
