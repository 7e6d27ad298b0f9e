"""Videos of plain grey pictures, whose grey level tells their number."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

NUM = 48
B_FRAMES = {"crf": "5", "x264-params": "bframes=3:b-adapt=0:scenecut=0"}


def grey(number: int) -> int:
    return 5 * number + 8


def flat(number: int, height: int = 32, width: int = 48) -> np.ndarray:
    return np.full((height, width, 3), grey(number), np.uint8)


def numbers_of(frames: np.ndarray) -> list[int]:
    """Which of the flat frames these are."""
    return [round((float(frame.mean()) - 8) / 5) for frame in frames]


def encode(
    path: Path,
    pictures: Sequence[np.ndarray],
    *,
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
    gop: int = 12,
    ticks: Sequence[int] | None = None,
    **options: str,
) -> Path:
    """A video with presentation times in 1/30 s `ticks`, by default one each."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=30, options=options)
        stream.height, stream.width = pictures[0].shape[:2]
        stream.pix_fmt, stream.gop_size = pix_fmt, gop
        stream.codec_context.time_base = Fraction(1, 30)
        for number, picture in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = ticks[number] if ticks else number, Fraction(1, 30)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path
