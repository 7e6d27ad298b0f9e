"""Read frames of video files, folders of frames and images; write H.264 videos.

Only the requested frames are decoded: the packets of a file are listed once, without decoding; then decoding starts at
the keyframe before each group of requested frames, and frames that no other frame refers to are skipped.
"""

from __future__ import annotations

import os
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, suppress
from fractions import Fraction
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any, Self

import av
import cv2
import numpy as np
from av.stream import Disposition
from av.video.reformatter import VideoReformatter
from numpy.typing import NDArray

from svfap.data.find import missing, on_disk
from svfap.data.suffixes import PICTURE_SUFFIXES
from svfap.errors import UserError

PICTURE_FPS = 25.0  # of folders of frames and images, which have no frame rate
UNTIMED_FORMATS = ("avi", "mpeg")  # their time stamps are decoding times, or guessed between packs: wrong with B-frames

# A broken image raises a VideoError; OpenCV itself prints nothing.
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)

Pixels = NDArray[np.uint8]


class VideoError(UserError):
    """A video that cannot be read or written: its `path` and a `reason` in one line."""

    def __init__(self, path: Path | str, reason: str) -> None:
        super().__init__(path, reason)
        self.path, self.reason = Path(path), reason

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


class VideoSource(ABC):
    """A readable video; a context manager.

    Frame i, 0 <= i < num_frames, is the picture shown at i / fps seconds. With a constant frame rate this is the i-th
    picture of the file. With a variable frame rate `fps` is the average: a picture shown for long has several frame
    numbers, and one shown briefly may have none.
    """

    path: Path
    fps: float
    num_frames: int
    picture_names: Sequence[str] | None = None  # of the files, in order, if the video is a folder of frames

    @abstractmethod
    def read(self, indices: Sequence[int] | NDArray[np.int64]) -> Pixels:
        """Frames as uint8 RGB (len(indices), H, W, 3), rotation applied; indices in any order, repeats allowed.

        Raises IndexError for no indices and for indices out of range, `VideoError` if a frame cannot be decoded.
        """

    @abstractmethod
    def frames(self) -> Iterator[tuple[float, Pixels]]:
        """Yield every picture once, in order: (seconds since the first one, uint8 RGB (H, W, 3)). Constant memory."""

    def steady_frames(self) -> Iterator[tuple[float, Pixels]]:
        """Yield the frames 0, 1, ... of `read` in order: (number / fps, uint8 RGB (H, W, 3)). Constant memory."""
        return self.frames()

    def close(self) -> None:  # noqa: B027  a subclass may have nothing to close
        """Close the file."""

    @property
    def duration_s(self) -> float:
        return self.num_frames / self.fps

    @cached_property
    def height(self) -> int:  # in pixels, rotation applied; decodes the first frame
        return self.read([0]).shape[1]

    @cached_property
    def width(self) -> int:
        return self.read([0]).shape[2]

    def _checked(self, indices: Sequence[int] | NDArray[np.int64]) -> NDArray[np.int64]:
        numbers = np.asarray(indices, np.int64)
        if numbers.size == 0 or numbers.min() < 0 or numbers.max() >= self.num_frames:
            raise IndexError(f"{self.path}: frames {numbers.tolist()} requested of {self.num_frames}")
        return numbers

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def open_video(path: str | Path) -> VideoSource:
    """Open a video file, a folder of frames (in natural order: 2.jpg before 10.jpg) or an image (one frame).

    Folders and images have 25 frames per second. A truncated file has the frames that are still there. Raises `VideoError`
    if the file or folder is missing or empty, is not a video, or contains no pictures.
    """
    path = on_disk(Path(path))
    if path.is_dir():
        names = [entry.name for entry in os.scandir(path) if entry.name.lower().endswith(PICTURE_SUFFIXES)]
        names = sorted((name for name in names if not name.startswith(".")), key=natural_key)
        return _Pictures(path, [path / name for name in names])
    if not path.is_file():
        raise VideoError(path, missing(path))
    if path.stat().st_size == 0:
        raise VideoError(path, "the file is empty")
    if path.suffix.lower() in PICTURE_SUFFIXES:
        return _Pictures(path, [path])
    return _Container(path)


def natural_key(name: str) -> list[tuple[int, int, str]]:
    """Sort key that compares digits as numbers."""
    return [(0, int(p), p) if p.isdecimal() else (1, 0, p) for p in re.split(r"(\d+)", name.lower()) if p]


class _Pictures(VideoSource):
    """Image files as the frames of a video."""

    def __init__(self, path: Path, files: list[Path]) -> None:
        if not files:
            raise VideoError(path, f"the folder holds no pictures ({', '.join(PICTURE_SUFFIXES)})")
        self.path, self._files = path, files
        self.picture_names = [file.name for file in files] if path.is_dir() else None
        self.fps, self.num_frames = PICTURE_FPS, len(files)

    def read(self, indices: Sequence[int] | NDArray[np.int64]) -> Pixels:
        wanted, places = np.unique(self._checked(indices), return_inverse=True)
        return np.stack(list(self._load(wanted)))[places]

    def frames(self) -> Iterator[tuple[float, Pixels]]:
        for number, picture in enumerate(self._load(range(self.num_frames))):
            yield number / self.fps, picture

    def _load(self, numbers: Iterable[int]) -> Iterator[Pixels]:
        height, width = 0, 0
        for file in (self._files[number] for number in numbers):
            picture = _read_picture(file)
            if picture is None:
                raise VideoError(self.path, f"{file.name} cannot be decoded as a picture")
            h, w = picture.shape[:2]
            height, width = height or h, width or w
            if (h, w) != (height, width):
                raise VideoError(self.path, f"{file.name} is {w}x{h} px, frames before it are {width}x{height} px")
            yield picture


def _read_picture(file: Path) -> Pixels | None:
    """RGB (H, W, 3), EXIF orientation applied, without alpha; None if the file is broken or truncated."""
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


class _Container(VideoSource):
    """A video file, read with FFmpeg."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._converter = VideoReformatter()
        self._matrix: Sequence[int] | None = None
        self._container, self._stream = self._opened()
        self._tick_s = float(self._stream.time_base or 1)
        self._times, self._keyframes, self._by_count = self._list_pictures()
        if len(self._times) == 0:
            self.close()
            raise VideoError(path, "holds no pictures")
        self.num_frames = len(self._times)
        self.fps, self._picture_of = self._grid()

    def _list_pictures(self) -> tuple[NDArray[np.int64], NDArray[np.int64], bool]:
        """List the packets without decoding them: (times, keyframes, by_count).

        times: (N,) int64, when each complete picture is shown, ascending, in ticks of the stream's time base. keyframes:
        int64 times at which decoding can start, ascending. by_count: both are ordinal numbers instead, because the container
        has no usable time stamps.
        """
        times, keyframes, last_dts = [], [], 0
        for packet in self._packets():
            if packet.is_corrupt:  # incomplete
                continue
            last_dts = packet.dts if packet.dts is not None else last_dts
            if packet.is_keyframe and packet.pts is not None:
                keyframes.append(packet.pts)
            if not packet.is_discard:  # pictures outside the edit list are decoded but not shown
                times.append(packet.pts)
        guessed = self._container.format.name in UNTIMED_FORMATS and self._stream.codec_context.has_b_frames
        if not times or guessed or None in times or len(set(times)) < len(times):
            return np.arange(len(times)), np.zeros(1, np.int64), True
        starts = np.sort(np.asarray(keyframes or times[:1], np.int64))
        shown = np.sort(np.asarray([time for time in times if time >= starts[0]], np.int64))
        # The first gap lies after the last decoding time: the file is truncated, and the B-frames in the gap are missing.
        gaps = np.diff(shown) > 1.5 * np.median(np.diff(shown)) if len(shown) > 2 else np.zeros(0, bool)
        if gaps.any() and shown[np.argmax(gaps) + 1] > last_dts:
            shown = shown[: np.argmax(gaps) + 1]
        return shown, starts, False

    def _grid(self) -> tuple[float, NDArray[np.int64]]:
        """(fps, picture_of): the average frame rate, and the ordinal of the picture shown at each frame number, (N,) int64."""
        times, numbers = self._times, np.arange(self.num_frames)
        stated = float(self._stream.average_rate or 0.0)
        span = int(times[-1] - times[0])
        if self._by_count or span == 0:
            return stated or PICTURE_FPS, numbers
        fps = (len(times) - 1) / (span * self._tick_s)
        due = times[0] + numbers * (span / (len(times) - 1))
        if np.abs(times - due).max() >= 0.5 * span / (len(times) - 1):
            return fps, np.searchsorted(times, due + 0.5, side="right") - 1
        # Time stamps in milliseconds are rounded: prefer the stated rate if both agree to within a tick.
        agree = stated > 0 and abs((len(times) - 1) / stated - span * self._tick_s) <= 1.001 * self._tick_s
        return stated if agree else fps, numbers

    def read(self, indices: Sequence[int] | NDArray[np.int64]) -> Pixels:
        wanted, places = np.unique(self._picture_of[self._checked(indices)], return_inverse=True)
        out: Pixels | None = None
        times = self._times[wanted]
        key_of = np.searchsorted(self._keyframes, times, side="right") - 1
        runs = (self._run(int(key), times[key_of == key].tolist()) for key in np.unique(key_of))
        for k, frame in enumerate(chain.from_iterable(runs)):
            picture = self._upright(frame)
            if out is None:
                out = np.empty((len(places), *picture.shape), np.uint8)
            elif picture.shape != out.shape[1:]:
                raise VideoError(self.path, f"changes its size from {out.shape[1:3]} to {picture.shape[:2]} midway")
            out[places == k] = picture
        assert out is not None
        return out

    def frames(self) -> Iterator[tuple[float, Pixels]]:
        whole, num_decoded = set(self._times.tolist()), 0
        seconds_per_tick = 1 / self.fps if self._by_count else self._tick_s
        self._start(None)
        for time, frame in self._decode():
            if time in whole:
                num_decoded += 1
                yield (time - int(self._times[0])) * seconds_per_tick, self._upright(frame)
        if num_decoded == 0:
            raise VideoError(self.path, "none of its pictures can be decoded")

    def steady_frames(self) -> Iterator[tuple[float, Pixels]]:
        shown_s = (self._times - self._times[0]) * (1 / self.fps if self._by_count else self._tick_s)
        held: Pixels | None = None
        number = 0
        for time_s, picture in self.frames():
            place = int(np.abs(shown_s - time_s).argmin())
            while number < self.num_frames and self._picture_of[number] <= place:
                late = self._picture_of[number] < place
                yield number / self.fps, held if late and held is not None else picture
                number += 1
            held = picture

    def close(self) -> None:
        self._container.close()

    def _run(self, key: int, run: list[int]) -> Iterator[av.VideoFrame]:
        """Yield the pictures at the times `run`, all of which can be decoded from keyframe number `key` on.

        A damaged picture in the middle of a file is replaced by the one before it, as players do. Raises `VideoError` for
        pictures after the last one that can be decoded.
        """
        wanted, remaining = frozenset(run), run[::-1]
        for start in (key, max(key - 1, 0), None):  # seeking may end up after the keyframe
            self._start(start)
            decoded = self._decode(wanted)
            first = next(decoded, None)
            if first is not None and first[0] <= run[0]:
                break
        shown: av.VideoFrame | None = None
        for time, frame in chain([first] if first else [], decoded):
            while shown is not None and remaining and time > remaining[-1]:
                remaining.pop()
                yield shown
            if remaining and time == remaining[-1]:
                remaining.pop()
                yield frame
            if not remaining:
                return
            if time < remaining[-1]:
                shown = frame
        number = int(np.searchsorted(self._times, remaining[-1])) + 1
        raise VideoError(self.path, f"damaged: picture {number} of {self.num_frames} cannot be decoded")

    def _decode(self, wanted: frozenset[int] | None = None) -> Iterator[tuple[int, av.VideoFrame]]:
        """Yield (time in ticks, picture) from the current position; with `wanted`, unneeded pictures are skipped."""
        context, count = self._stream.codec_context, 0
        for packet in chain(self._packets(), [None]):
            skippable = packet is not None and wanted is not None and not self._by_count and packet.pts not in wanted
            context.skip_frame = "NONREF" if skippable else "DEFAULT"
            try:
                frames = context.decode(packet)
            except av.FFmpegError:
                continue  # skip a damaged packet
            for frame in frames:
                time, count = count if self._by_count else frame.pts, count + 1
                if time is not None:
                    yield time, frame

    def _packets(self) -> Iterator[av.Packet[av.VideoStream]]:
        """Packets up to the end of the file, or to where it is cut off."""
        with suppress(av.FFmpegError, OSError):
            # An empty packet would signal the end of the stream to the decoder.
            yield from (packet for packet in self._container.demux(self._stream) if packet.size)

    def _upright(self, frame: av.VideoFrame) -> Pixels:
        if self._matrix is None:  # read once: this takes longer than the conversion
            data: Any = frame.side_data.get("DISPLAYMATRIX")
            self._matrix = (1, 0, 0, 0, 1) if data is None else np.frombuffer(data, np.int32).tolist()
        # One converter for all frames: its setup takes 50 times as long as a conversion.
        try:
            picture = self._converter.reformat(frame, format="rgb24", threads=1).to_ndarray()
        except (av.FFmpegError, ValueError) as error:
            raise VideoError(self.path, f"pictures in {frame.format.name} cannot be converted ({error})") from None
        return upright(np.asarray(picture, np.uint8), self._matrix)

    def _start(self, key: int | None) -> None:
        """Seek to keyframe number `key` or before it; None: reopen the file at its start, which is slow but always works."""
        if key is not None and not self._by_count:
            with suppress(av.FFmpegError):
                self._container.seek(int(self._keyframes[key]), stream=self._stream)
                return
        self._container.close()
        self._container, self._stream = self._opened()

    def _opened(self) -> tuple[av.container.InputContainer, av.VideoStream]:
        try:
            # With this prefix FFmpeg interprets no protocol or number pattern in the name.
            container = av.open(f"file:{self.path}", metadata_errors="replace")
        except (av.FFmpegError, OSError) as error:
            raise VideoError(self.path, f"not a readable video ({error.strerror or error})") from None
        streams = [s for s in container.streams.video if not s.disposition & Disposition.attached_pic]
        if not streams:
            container.close()
            raise VideoError(self.path, "holds no video stream")
        streams[0].codec_context.thread_count = 1  # videos are decoded in parallel instead
        return container, streams[0]


def upright(picture: Pixels, matrix: Sequence[int]) -> Pixels:
    """Rotate and mirror a picture (H, W, 3) by a display matrix (a, b, u, c, d, ...): (x, y) is shown at (ax + cy, bx + dy).

    Other angles are rounded to a quarter turn.
    """
    a, b, c, d = matrix[0], matrix[1], matrix[3], matrix[4]
    if abs(b) > abs(a):
        picture, a, d = picture.swapaxes(0, 1), c, b
    return picture[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1]


def write_video(
    path: str | Path, frames: Iterable[Pixels], fps: float, *, gop: int = 12, crf: float = 18, preset: str = "veryfast"
) -> None:
    """Write uint8 RGB frames (H, W, 3) of equal size as H.264 in yuv420p; the suffix selects the container.

    gop: maximum distance of keyframes in frames; a small number makes random access fast. crf: quality, 0 (best) to 51.
    preset: of x264. H.264 requires even sizes: an odd side is extended by repeating its last row or column. The file is
    complete or absent. Raises `VideoError` if it cannot be written, ValueError for no frames or frames of different size.
    """
    path = Path(path)
    part = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    try:
        with closing(VideoWriter(part, fps, gop=gop, crf=crf, preset=preset)) as writer:
            for picture in frames:
                writer.write(picture)
            writer.finish()
        os.replace(part, path)
    except (av.FFmpegError, OSError) as error:
        raise VideoError(path, f"cannot be written ({error.strerror or error})") from None
    finally:
        part.unlink(missing_ok=True)


class VideoWriter:
    """Writes a video like `write_video`, frame by frame; the file is complete after `finish`."""

    def __init__(self, path: Path, fps: float, *, gop: int = 12, crf: float = 18, preset: str = "veryfast") -> None:
        self._container = av.open(f"file:{path}", "w")
        options = {"crf": str(crf), "preset": preset}
        self._stream = self._container.add_stream("libx264", Fraction(fps).limit_denominator(10_000), options=options)
        self._stream.pix_fmt, self._stream.gop_size, self._stream.codec_context.thread_count = "yuv420p", gop, 1
        self._shape: tuple[int, ...] | None = None

    def write(self, picture: Pixels) -> None:
        """Add a frame, uint8 RGB (H, W, 3). Raises ValueError if its size is not that of the first one, FFmpegError."""
        height, width = picture.shape[:2]
        if self._shape is None:
            self._shape = (height, width, 3)
            self._stream.width, self._stream.height = width + width % 2, height + height % 2
        if picture.shape != self._shape or picture.dtype != np.uint8:
            raise ValueError(f"frames must be uint8 {self._shape}, got {picture.dtype} {picture.shape}")
        even = np.pad(picture, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
        self._container.mux(self._stream.encode(av.VideoFrame.from_ndarray(even, format="rgb24")))

    def finish(self) -> None:
        """Flush the encoder and close the file. Raises FFmpegError, ValueError if there are no frames."""
        if self._shape is None:
            raise ValueError("there are no frames to write")
        self._container.mux(self._stream.encode(None))
        self.close()

    def close(self) -> None:
        """Close the file without finishing it."""
        self._container.close()
