"""Write H.264 videos."""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import closing
from fractions import Fraction
from itertools import repeat
from pathlib import Path

import av
import numpy as np

from svfap.data.frames import Pixels, VideoError
from svfap.files import temporary_name

TICKS_PER_S = 90_000  # of time stamps that are given


def write_video(
    path: str | Path,
    frames: Iterable[Pixels],
    fps: float,
    *,
    times_s: Iterable[float] | None = None,
    gop: int = 12,
    crf: float = 18,
    preset: str = "veryfast",
    tune: str | None = None,
) -> None:
    """Write uint8 RGB frames (H, W, 3) of equal size as H.264 in yuv420p; the suffix selects the container.

    times_s: when each frame is shown, in seconds, strictly ascending; None: `fps` frames per second.
    gop: maximum distance of keyframes in frames; a small number makes random access fast. crf: quality, 0 (best) to 51.
    preset, tune: of x264. H.264 requires even sizes: an odd side is extended by repeating its last row or column. Equal frames
    give equal files. The file is complete or absent. Raises `VideoError` if it cannot be written, ValueError for no frames
    or frames of different size.
    """
    path = Path(path)
    part = temporary_name(path)
    try:
        with closing(
            VideoWriter(part, fps, timed=times_s is not None, gop=gop, crf=crf, preset=preset, tune=tune)
        ) as writer:
            for picture, time_s in zip(
                frames, repeat(None) if times_s is None else times_s, strict=times_s is not None
            ):
                writer.write(picture, time_s)
            writer.finish()
        os.replace(part, path)
    except (av.FFmpegError, OSError) as error:
        raise VideoError(path, f"cannot be written ({error.strerror or error})") from None
    finally:
        part.unlink(missing_ok=True)


class VideoWriter:
    """Writes a video like `write_video`, frame by frame; the file is complete after `finish`. timed: frames come with times."""

    def __init__(
        self,
        path: Path,
        fps: float,
        *,
        timed: bool = False,
        gop: int = 12,
        crf: float = 18,
        preset: str = "veryfast",
        tune: str | None = None,
    ) -> None:
        self._container = av.open(f"file:{path}", "w")
        # Without this x264 gives other bytes for the same pictures from run to run.
        options = {"crf": str(crf), "preset": preset, "x264-params": "cpu-independent=1"}
        options |= {} if tune is None else {"tune": tune}
        self._stream = self._container.add_stream("libx264", Fraction(fps).limit_denominator(10_000), options=options)
        self._stream.pix_fmt, self._stream.gop_size, self._stream.codec_context.thread_count = "yuv420p", gop, 1
        if timed:
            self._stream.codec_context.time_base = Fraction(1, TICKS_PER_S)
        self._shape: tuple[int, ...] | None = None

    def write(self, picture: Pixels, time_s: float | None = None) -> None:
        """Add a frame, uint8 RGB (H, W, 3), shown at `time_s` seconds if the writer is timed.

        Raises ValueError if its size is not that of the first one, FFmpegError.
        """
        height, width = picture.shape[:2]
        if self._shape is None:
            self._shape = (height, width, 3)
            self._stream.width, self._stream.height = width + width % 2, height + height % 2
        if picture.shape != self._shape or picture.dtype != np.uint8:
            raise ValueError(f"frames must be uint8 {self._shape}, got {picture.dtype} {picture.shape}")
        even = np.pad(picture, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
        frame = av.VideoFrame.from_ndarray(even, format="rgb24")
        if time_s is not None:
            frame.pts, frame.time_base = round(time_s * TICKS_PER_S), Fraction(1, TICKS_PER_S)
        self._container.mux(self._stream.encode(frame))

    def finish(self) -> None:
        """Flush the encoder and close the file. Raises FFmpegError, ValueError if there are no frames."""
        if self._shape is None:
            raise ValueError("there are no frames to write")
        self._container.mux(self._stream.encode(None))
        self.close()

    def close(self) -> None:
        """Close the file without finishing it."""
        self._container.close()
