"""Whatever can be read as a video: files, folders of frames and images, and live sources (webcams, network streams)."""

from __future__ import annotations

import math
import sys
from array import array
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Self

import av

from svfap.data.ffmpeg import Upright, packets_of, video_stream
from svfap.data.timing import clock_rate, longest_step, steady
from svfap.data.video import PICTURE_FPS, Pixels, VideoError, VideoSource, open_video
from svfap.files import file_digest

FASTEST_FPS = 240
WEBCAMS = {"linux": ("/dev/video{}", "v4l2"), "darwin": ("{}", "avfoundation"), "win32": ("video={}", "dshow")}


def is_live(video: str | Path) -> bool:
    """Whether this is a webcam's number ("0") or an address ("rtsp://…", "http://…"), and no existing file or folder."""
    name = str(video)
    return not Path(name).exists() and (name.isdecimal() or "://" in name)


def digest_of(video: str | Path) -> str:
    """SHA-256 of a video file's bytes, as `sha256sum` prints it; "" for what is no file, or cannot be read."""
    with suppress(OSError):
        return file_digest(Path(video), 64) if Path(video).is_file() else ""
    return ""


def open_source(
    video: str | Path, timeout_s: float = 10.0, frames_fps: float | None = None
) -> VideoSource | LiveSource:
    """Open a file, folder or image (`svfap.data.video.open_video`), a webcam's number or a stream's address.

    timeout_s: stop reading a stream after this many seconds without data. frames_fps: pictures per second of a folder of
    frames; None: 25. Raises `VideoError`.
    """
    if is_live(video):
        return LiveSource(str(video), timeout_s)
    return open_video(video, frames_fps or PICTURE_FPS)


class StreamError(VideoError):
    """A live source that cannot be opened or breaks off; its address is shown as it was given."""

    def __str__(self) -> str:
        return f"{self.args[0]}: {self.reason}"


class LiveSource:
    """A webcam or stream, which can be read once, as pictures arrive. Raises `StreamError`.

    picture_of: of each frame that `steady_frames` has yielded the number of its picture, from 0; 8 bytes each.
    """

    num_frames = None

    def __init__(self, name: str, timeout_s: float) -> None:
        self.name, self.timeout_s = name, timeout_s
        self.picture_of = array("q")
        address, kind = name, None
        if name.isdecimal():
            pattern, kind = WEBCAMS.get(sys.platform, WEBCAMS["linux"])
            address = pattern.format(name)
        try:
            self._container = av.open(address, format=kind, timeout=timeout_s, metadata_errors="replace")
        except (av.FFmpegError, OSError) as error:
            raise self._failed(error, "cannot be opened") from None
        stream = video_stream(self._container)
        if stream is None:
            self._container.close()
            raise StreamError(name, "holds no video stream")
        self._stream = stream
        stream.thread_type = "SLICE"  # threads per frame would delay several frames
        # The average counts pauses; the usual rate may be no rate at all but the unit of the time stamps, as 1000.
        usual, average = stream.guessed_rate or 0, stream.average_rate or 0
        self.fps = float((usual if 0 < usual <= FASTEST_FPS else average) or PICTURE_FPS)

    def parted(self, before_s: float, after_s: float) -> bool:
        """Whether there is a hole between the frames at these times."""
        return after_s - before_s > longest_step(self.fps)

    def steady_frames(self, fps: float | None = None) -> Iterator[tuple[float, Pixels]]:
        """(seconds from the first picture, uint8 RGB (H, W, 3)) as they arrive, all of the size of the first one.

        fps: repeat and leave out pictures for this rate, as `svfap.data.timing.steady`. Times increase. Raises `StreamError`.
        """
        numbered: Iterator[tuple[float, tuple[int, Pixels]]]
        numbered = ((time_s, (number, picture)) for number, (time_s, picture) in enumerate(self._pictures()))
        if fps is not None and clock_rate(self.fps, fps) != self.fps:
            numbered = steady(numbered, self.fps, fps)
        for time_s, (number, picture) in numbered:
            self.picture_of.append(number)
            yield time_s, picture

    def _pictures(self) -> Iterator[tuple[float, Pixels]]:
        first: float | None = None
        last = -math.inf
        upright = Upright(self.name, self._stream)
        for count, frame in enumerate(self._decoded()):
            time = count / self.fps if frame.time is None else float(frame.time)
            first = time if first is None else first
            if time <= last:  # sent twice or out of order
                continue
            last = time
            yield time - first, upright(frame)
        if first is None:
            raise StreamError(self.name, "ended without a picture")

    def _decoded(self) -> Iterator[av.VideoFrame]:
        try:
            for packet in packets_of(self._container, self._stream):
                with suppress(av.error.InvalidDataError):  # a damaged packet affects only its own picture
                    yield from packet.decode()
        except (av.FFmpegError, OSError) as error:
            raise self._failed(error, "broke off") from None

    def _failed(self, error: Exception, what: str) -> StreamError:
        if isinstance(error, av.error.ExitError):
            return StreamError(self.name, f"no data for {self.timeout_s:g} s (timeout_s)")
        return StreamError(self.name, f"{what} ({getattr(error, 'strerror', None) or error})")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._container.close()
