"""The frames of a sample: within its time span, inside its box."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import islice

from svfap.data.manifest import Sample
from svfap.data.video import Pixels, VideoError, VideoSource

READ_BYTES = 256 * 2**20  # size of the blocks of frames that are read from the middle of a video


def span_of(video: VideoSource, sample: Sample) -> tuple[int, int]:
    """(first, stop): the frames first, ..., stop - 1 are shown at or after start_s and before end_s.

    Raises `VideoError` if there is none.
    """
    first = math.ceil((sample.start_s or 0.0) * video.fps - 1e-6)
    end = video.num_frames if sample.end_s is None else math.ceil(sample.end_s * video.fps - 1e-6)
    stop = min(end, video.num_frames)
    if first >= stop:
        raise VideoError(sample.path, f"no frame from start_s to end_s; the video lasts {video.duration_s:.2f} s")
    return first, stop


def frames_between(video: VideoSource, first: int, stop: int) -> Iterator[tuple[float, Pixels]]:
    """Yield (time in seconds, frame (H, W, 3) uint8) of the frames first, ..., stop - 1, in constant memory.

    If `first` is not 0 the video is sought to, not decoded from its start. Raises `VideoError`.
    """
    if first == 0:
        yield from islice(video.steady_frames(), stop)
        return
    block = max(READ_BYTES // (video.width * video.height * 3), 1)
    for start in range(first, stop, block):
        numbers = range(start, min(start + block, stop))
        yield from zip((number / video.fps for number in numbers), video.read(numbers), strict=True)


def frames_of(video: VideoSource, sample: Sample, fps: float | None) -> Iterator[tuple[float, Pixels]]:
    """Yield (time in seconds, frame (H, W, 3) uint8) of a sample: within its time span, inside its box. Raises `VideoError`."""
    for time_s, picture in frames_between(video, *span_of(video, sample)):
        yield time_s, inside_box(picture[None], sample)[0]


def left_top(sample: Sample) -> tuple[int, int]:
    """The first column and row of the picture that are inside the sample's box."""
    x, y = (0.0, 0.0) if sample.box is None else sample.box[:2]
    return max(round(x), 0), max(round(y), 0)


def inside_box(pictures: Pixels, sample: Sample) -> Pixels:
    """Crop pictures (T, H, W, 3) to the sample's box, as far as it lies inside the picture; all of them without a box.

    Raises `VideoError` if the box lies outside the picture.
    """
    if sample.box is None:
        return pictures
    x, y, w, h = sample.box
    height, width = pictures.shape[1:3]
    left, top = left_top(sample)
    inside = pictures[:, top : max(round(y + h), 0), left : max(round(x + w), 0)]
    if inside.size == 0:
        raise VideoError(sample.path, f"the box {x:g} {y:g} {w:g} {h:g} lies outside the {width}x{height} px picture")
    return inside
