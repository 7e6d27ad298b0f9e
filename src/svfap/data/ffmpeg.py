"""Files and live streams opened with FFmpeg: which video stream is read, and how its pictures are shown."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.container import InputContainer
from av.stream import Disposition
from av.video.reformatter import Interpolation, VideoReformatter

from svfap.data.frames import Pixels, VideoError, placeholder

NOT_SHOWN = Disposition.attached_pic | Disposition.timed_thumbnails
SQUARE = 0.01  # pixels whose sides differ by less than this count as square
LONGEST_PIXEL = 5.0  # a pixel's sides differ by this factor at most; what states more is an error in the file


_max_pixels: int | None = None


def limit_pictures(max_pixels: int | None) -> None:
    """From now on, larger pictures of videos are taken for damaged in this process, before there is memory for them."""
    global _max_pixels
    _max_pixels = max_pixels


def open_container(path: Path) -> InputContainer:
    """Open a media file. Raises `VideoError`."""
    # With this prefix FFmpeg interprets no protocol or number pattern in the name.
    name = f"file:{path}"
    try:
        name.encode()
        source: Any = name
    except UnicodeEncodeError:  # a name that is not UTF-8
        source = path.open("rb")
    try:
        return av.open(source, metadata_errors="replace")
    except (av.FFmpegError, OSError) as error:
        if source is not name:
            source.close()
        reason = placeholder(path) or f"not a readable video ({error.strerror or error})"
        raise VideoError(path, reason) from None


def video_stream(container: InputContainer) -> av.VideoStream | None:
    """The stream that players show: the one marked as default, the largest of several; never a cover picture.

    None if there is none that can be decoded.
    """
    streams = [stream for stream in container.streams.video if stream.codec_context is not None]
    shown = max((stream for stream in streams if not stream.disposition & NOT_SHOWN), key=_rank, default=None)
    if shown is not None and _max_pixels is not None:
        shown.codec_context.options = {**shown.codec_context.options, "max_pixels": str(_max_pixels)}
    return shown


def _rank(stream: av.VideoStream) -> tuple[bool, int, int]:
    return bool(stream.disposition & Disposition.default), stream.width * stream.height, -stream.index


class Upright:
    """Turns FFmpeg's pictures into RGB pictures as they are shown.

    Non-square pixels are made square by stretching their shorter side; a picture of another size than the first one is scaled
    to that size; then the rotation of the display matrix is applied, rounded to a quarter turn.
    """

    def __init__(self, path: Path | str, stream: av.VideoStream) -> None:
        self._path = path
        ratio = float(stream.sample_aspect_ratio or 1)
        self._ratio = ratio if abs(ratio - 1) > SQUARE and 1 / LONGEST_PIXEL <= ratio <= LONGEST_PIXEL else 1.0
        self._matrix: Sequence[int] | None = None
        # One converter for all pictures: its setup takes 50 times as long as a conversion.
        self._converter = VideoReformatter()
        self.size: tuple[int, int] | None = None  # width and height of the first picture, before it is turned

    def learn(self, frame: av.VideoFrame) -> None:
        """Take the size and the rotation of all pictures from the first one."""
        wide, tall = max(self._ratio, 1.0), max(1 / self._ratio, 1.0)
        self.size = max(round(frame.width * wide), 1), max(round(frame.height * tall), 1)
        data: Any = frame.side_data.get("DISPLAYMATRIX")
        self._matrix = None if data is None else np.frombuffer(data, np.int32).tolist()

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of the upright pictures, once the first one is known."""
        assert self.size is not None
        is_turned = self._matrix is not None and abs(self._matrix[1]) > abs(self._matrix[0])
        return self.size if is_turned else self.size[::-1]

    def __call__(self, frame: av.VideoFrame) -> Pixels:
        """uint8 RGB (H, W, 3). Raises `VideoError` for pixel formats that cannot be converted."""
        if self.size is None:
            self.learn(frame)
        assert self.size is not None
        is_scaled = (frame.width, frame.height) != self.size
        how = Interpolation.BICUBIC if is_scaled else Interpolation.BILINEAR  # the latter for colours alone
        try:
            rgb = self._converter.reformat(frame, *self.size, format="rgb24", interpolation=how, threads=1)
        except (av.FFmpegError, ValueError) as error:
            raise VideoError(self._path, f"pictures in {frame.format.name} cannot be converted ({error})") from None
        picture = np.asarray(rgb.to_ndarray(), np.uint8)
        return picture if self._matrix is None else upright(picture, self._matrix)


def upright(picture: Pixels, matrix: Sequence[int]) -> Pixels:
    """Rotate and mirror a picture (H, W, 3) by a display matrix (a, b, u, c, d, ...): (x, y) is shown at (ax + cy, bx + dy).

    Other angles are rounded to a quarter turn.
    """
    a, b, c, d = matrix[0], matrix[1], matrix[3], matrix[4]
    if abs(b) > abs(a):
        picture, a, d = picture.swapaxes(0, 1), c, b
    return picture[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1]


def packets_of(container: InputContainer, stream: Any) -> Iterator[Any]:
    """The packets of a stream. PyAV raises IndexError at packets of a stream that a damaged file announces midway."""
    while True:
        try:
            yield from container.demux(stream)
            return
        except IndexError:
            continue  # with the next packet
