"""The frames of a sample: within its time span, inside its box."""

from __future__ import annotations

from collections.abc import Iterator

from svfap.data.manifest import Sample
from svfap.data.video import Pixels, VideoError, VideoSource


def span_of(video: VideoSource, sample: Sample, fps: float | None = None) -> tuple[int, int]:
    """(first, stop): the frames first, ..., stop - 1 of `video.grid(fps)` are shown at or after start_s and before end_s.

    Raises `VideoError` if there is none.
    """
    first, stop = video.grid(fps).between(sample.start_s, sample.end_s)
    if first >= stop:
        raise VideoError(sample.path, f"no frame from start_s to end_s; the video lasts {video.duration_s:.2f} s")
    return first, stop


def frames_of(video: VideoSource, sample: Sample, fps: float | None) -> Iterator[tuple[float, Pixels]]:
    """Yield (time in seconds, frame (H, W, 3) uint8) of the frames of `video.grid(fps)` in a sample's time span and box.

    Raises `VideoError`.
    """
    for time_s, picture in video.steady_frames(fps, *span_of(video, sample, fps)):
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
