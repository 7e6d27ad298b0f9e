"""Sliding windows over a stream of frames or of followed faces, in memory that does not grow with the video."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from svfap.data.augment import center_crop
from svfap.data.manifest import Sample
from svfap.data.sample import frames_between, inside_box, span_of
from svfap.data.video import VideoSource
from svfap.faces.track import TrackedFace, TrackedFrame
from svfap.model.config import ModelConfig

Box = tuple[float, float, float, float]


class Snapshot(NamedTuple):
    """What is kept of one frame: its time, a crop (H, W, 3) uint8, where it was cut out, and the detector's confidence."""

    time_s: float
    picture: np.ndarray
    box: Box | None = None  # x, y, width, height in pixels of the frame; None: the frame itself
    confidence: float = 1.0


@dataclass(frozen=True)
class Window:
    """One clip of T frames, cut from a run: the whole video, or a part of a track without a gap.

    Attributes:
        frames: (T, H, W, 3) uint8.
        indices: (T,) int64, number of each frame from the start of the run.
        times_s: (T,) float64, time of each frame in seconds.
        end_s: the time at which the last frame ends.
        fresh: (T,) bool, frames that are in no earlier window, without the repeats that pad a short run.
        track: the face's number; 0 if no faces were searched for.
        box: at the clip's centre, in pixels; None without faces. boxes: (T) of each frame.
        confidence: the detector's, mean over all frames that the clip spans. confidences: (T,) of each frame.
    """

    frames: np.ndarray
    indices: np.ndarray
    times_s: np.ndarray
    end_s: float
    fresh: np.ndarray
    track: int
    box: Box | None
    boxes: list[Box | None]
    confidence: float
    confidences: np.ndarray

    @property
    def start_s(self) -> float:
        return float(self.times_s[0])


class Windower:
    """Cuts one run of frames into windows of `clip_length` frames, `stride` frames apart.

    A window starts every `hop` frames from the first on. The last window ends at the last frame, so it may start earlier
    than a hop after the one before; a run shorter than a window is padded with its last frame. Memory holds the frames
    that one window spans.
    """

    def __init__(self, clip_length: int, stride: int, hop: int, track: int = 0) -> None:
        self.clip_length, self.stride, self.hop, self.track = clip_length, stride, hop, track
        self.span = (clip_length - 1) * stride + 1
        self._kept: deque[Snapshot] = deque(maxlen=self.span)
        self._count, self._next_start, self._last_start, self._shown = 0, 0, -1, -1

    def push(self, snapshot: Snapshot) -> Iterator[Window]:
        """Add the next frame; yields the window that it completes, if any."""
        self._kept.append(snapshot)
        self._count += 1
        if self._count == self._next_start + self.span:
            yield self._window(self._next_start)
            self._next_start += self.hop

    def finish(self) -> Iterator[Window]:
        """End the run; yields the window of its last frames unless it was yielded before."""
        final = max(self._count - self.span, 0)
        if self._count and final != self._last_start:
            yield self._window(final)

    def _window(self, start: int) -> Window:
        kept, before = list(self._kept), self._count - len(self._kept)
        indices = np.minimum(start + self.stride * np.arange(self.clip_length), self._count - 1)
        picked = [kept[i - before] for i in indices]
        interval = (kept[-1].time_s - kept[0].time_s) / (len(kept) - 1) if len(kept) > 1 else 0.0
        fresh = (indices > self._shown) & (np.diff(indices, prepend=-1) > 0)
        self._last_start, self._shown = start, int(indices[-1])
        return Window(
            frames=np.stack([snapshot.picture for snapshot in picked]),
            indices=indices,
            times_s=np.array([snapshot.time_s for snapshot in picked]),
            end_s=kept[-1].time_s + interval,
            fresh=fresh,
            track=self.track,
            box=kept[len(kept) // 2].box,
            boxes=[snapshot.box for snapshot in picked],
            confidence=float(np.mean([snapshot.confidence for snapshot in kept])),
            confidences=np.array([snapshot.confidence for snapshot in picked]),
        )


def iter_windows(
    stream: Iterable[tuple[float, np.ndarray]],
    clip_length: int,
    stride: int,
    hop: int,
    prepare: Callable[[np.ndarray], np.ndarray],
) -> Iterator[Window]:
    """Cut a stream of (time in seconds, uint8 RGB (H, W, 3)) into windows; `prepare` crops a frame before it is kept."""
    windower = Windower(clip_length, stride, hop)
    for time_s, frame in stream:
        yield from windower.push(Snapshot(time_s, prepare(frame)))
    yield from windower.finish()


def hop_frames(config: ModelConfig, hop_s: float | None, fps: float) -> int:
    """Frames from the start of one window to the next; hop_s=None: no overlap."""
    return config.num_frames * config.sampling_stride if hop_s is None else max(round(hop_s * fps), 1)


def video_windows(
    video: VideoSource, config: ModelConfig, hop_s: float | None = None, sample: Sample | None = None
) -> Iterator[Window]:
    """The windows of a video of one face: the centre square of its pictures, within the sample's box and times.

    Times are those of the video; frames are numbered from the sample's first. Raises `VideoError` if no frame is within
    the sample's times or no pixel within its box.
    """
    first, stop = (0, video.num_frames) if sample is None else span_of(video, sample)

    def prepare(frame: np.ndarray) -> np.ndarray:
        inside = frame[None] if sample is None else inside_box(frame[None], sample)
        return center_crop(inside, config.img_size)[0]

    frames = frames_between(video, first, stop)
    hop = hop_frames(config, hop_s, video.fps)
    return iter_windows(frames, config.num_frames, config.sampling_stride, hop, prepare)


def iter_face_windows(
    frames: Iterable[TrackedFrame],
    clip_length: int,
    stride: int,
    hop: int,
    crop: Callable[[np.ndarray, TrackedFace], np.ndarray],
) -> Iterator[Window]:
    """Cut each track into windows; a frame without the face ends the track's run, and a new one starts where it is back.

    `crop` cuts a face out of its frame. Memory holds the crops that one window spans for each face in view.
    """
    runs: dict[int, Windower] = {}
    for item in frames:
        for track in runs.keys() - {face.track for face in item.faces}:
            yield from runs.pop(track).finish()
        for face in item.faces:
            windower = runs.setdefault(face.track, Windower(clip_length, stride, hop, face.track))
            yield from windower.push(Snapshot(item.time_s, crop(item.frame, face), face.box, face.confidence))
    for windower in runs.values():
        yield from windower.finish()
