"""Sliding windows over tracked faces, in memory that does not grow with the video."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from svfap.faces.track import TrackedFace, TrackedFrame
from svfap.model.config import ModelConfig
from svfap.settings import Hop

Box = tuple[float, float, float, float]  # x, y, width, height in pixels of the frame
USUAL_HOP_S = 0.5  # of models of windows


@dataclass(frozen=True)
class Window:
    """One clip of T frames, cut from consecutive frames of a track.

    Attributes:
        frames: (T, H, W, 3) uint8.
        indices: (T,) int64, number of each frame, from 0 at the start of these consecutive frames.
        pictures: (T,) int64, number of each frame in the stream, from 0; as `Reader` gives them, of the picture in the file.
        times_s: (T,) float64, time of each frame in seconds.
        end_s: the time at which the last frame ends.
        fresh: (T,) bool, frames that are in no earlier window; False for the repeats that pad a short clip.
        track: number of the face; 0: the whole picture.
        box: of the face at the clip's centre. boxes: (T) of each frame.
        landmarks: (5, 2) in pixels of the frame, at the clip's centre, or None. all_landmarks: (T) of each frame.
        confidence: the detector's, mean over all frames that the clip spans. confidences: (T) of each frame.
    """

    frames: np.ndarray
    indices: np.ndarray
    pictures: np.ndarray
    times_s: np.ndarray
    end_s: float
    fresh: np.ndarray
    track: int
    box: Box
    boxes: list[Box]
    landmarks: np.ndarray | None
    all_landmarks: list[np.ndarray | None]
    confidence: float
    confidences: list[float]

    @property
    def start_s(self) -> float:
        return float(self.times_s[0])

    def spans(self, number: int) -> Iterator[tuple[int, float, float]]:
        """(first of its T frames, start_s, end_s) of each of `number` equal parts, without those that are all padding."""
        num_frames, length = len(np.unique(self.indices)), len(self.indices) // number
        for first in range(0, num_frames, length):
            after = first + length
            yield first, float(self.times_s[first]), float(self.times_s[after]) if after < num_frames else self.end_s


class _FaceCrop(NamedTuple):
    pixels: np.ndarray  # (H, W, 3) uint8
    number: int
    time_s: float
    box: Box
    landmarks: np.ndarray | None
    confidence: float


class _Windower:
    """Cuts consecutive frames of a track into windows; see `iter_windows`. Memory holds the frames that one window spans."""

    def __init__(self, clip_length: int, stride: int, hop: int, frame_s: float, track: int) -> None:
        self.clip_length, self.stride, self.hop, self.frame_s, self.track = clip_length, stride, hop, frame_s, track
        self.span = (clip_length - 1) * stride + 1
        self._kept: deque[_FaceCrop] = deque(maxlen=self.span)
        self._count, self._next_start, self._last_start, self._last_shown = 0, 0, -1, -1

    def push(self, crop: _FaceCrop) -> Iterator[Window]:
        """Add the next frame; yields the window that it completes, if any."""
        self._kept.append(crop)
        self._count += 1
        if self._count == self._next_start + self.span:
            yield self._window(self._next_start)
            self._next_start += self.hop

    def finish(self) -> Iterator[Window]:
        """Yield the window of the last frames unless it was yielded before."""
        final = max(self._count - self.span, 0)
        if final != self._last_start:
            yield self._window(final)

    def _window(self, start: int) -> Window:
        kept, before = list(self._kept), self._count - len(self._kept)
        indices = window_indices(self._count, self.clip_length, self.stride, start)
        shown = [kept[i - before] for i in indices]
        interval_s = (kept[-1].time_s - kept[0].time_s) / (len(kept) - 1) if len(kept) > 1 else self.frame_s
        fresh = (indices > self._last_shown) & (np.diff(indices, prepend=-1) > 0)
        self._last_start, self._last_shown = start, int(indices[-1])
        middle = kept[len(kept) // 2]
        return Window(
            frames=np.stack([crop.pixels for crop in shown]),
            indices=indices,
            pictures=np.array([crop.number for crop in shown]),
            times_s=np.array([crop.time_s for crop in shown]),
            end_s=kept[-1].time_s + interval_s,
            fresh=fresh,
            track=self.track,
            box=middle.box,
            boxes=[crop.box for crop in shown],
            landmarks=middle.landmarks,
            all_landmarks=[crop.landmarks for crop in shown],
            confidence=float(np.mean([crop.confidence for crop in kept])),
            confidences=[crop.confidence for crop in shown],
        )


def iter_windows(
    frames: Iterable[TrackedFrame],
    clip_length: int,
    stride: int,
    hop: int,
    crop: Callable[[np.ndarray, TrackedFace], np.ndarray],
    parted: Callable[[float, float], bool] | None = None,
    frame_s: float = 0.0,
) -> Iterator[Window]:
    """Cut each track into windows of `clip_length` frames, `stride` frames apart.

    A window starts every `hop` frames. The last window ends at the last frame, so it may start less than a hop after the
    one before; fewer frames than a window are padded with the last one. A frame without the face ends the track's windows,
    and new ones start where it is found again. Memory holds the crops that one window spans for each face in view.

    crop: cuts a face out of its frame, uint8 RGB (H, W, 3). parted: whether windows must end between frames at
    these two times, as in a pause of the recording (`VideoSource.parted`). frame_s: how long a frame lasts, for windows of a
    single one; of others it is known.
    """
    runs: dict[int, _Windower] = {}
    last_s = 0.0
    for item in frames:
        is_parted = parted is not None and parted(last_s, item.time_s)
        in_view = set() if is_parted else {face.track for face in item.faces}
        last_s = item.time_s
        for track in sorted(runs.keys() - in_view):
            yield from runs.pop(track).finish()
        for face in item.faces:
            run = runs.setdefault(face.track, _Windower(clip_length, stride, hop, frame_s, face.track))
            pixels = crop(item.frame, face)
            yield from run.push(_FaceCrop(pixels, item.index, item.time_s, face.box, face.landmarks, face.confidence))
    for run in runs.values():
        yield from run.finish()


def window_indices(num_frames: int, clip_length: int, stride: int, start: int) -> NDArray[np.int64]:
    """(clip_length,) frames of the window that starts at `start`; beyond the end the last frame is repeated."""
    return np.minimum(start + stride * np.arange(clip_length), num_frames - 1)


def middle_indices(num_frames: int, clip_length: int, stride: int) -> NDArray[np.int64]:
    """(clip_length,) frames of the window in the middle; of a video that one window spans, the frames of that window."""
    spare = num_frames - (clip_length - 1) * stride - 1
    return window_indices(num_frames, clip_length, stride, max(spare, 0) // 2)


def whole_pictures(frames: Iterable[tuple[float, np.ndarray]]) -> Iterator[TrackedFrame]:
    """Frames (time in seconds, uint8 RGB (H, W, 3)), each as one face: the whole picture, as track 0."""
    for index, (time_s, frame) in enumerate(frames):
        height, width = frame.shape[:2]
        yield TrackedFrame(index, time_s, frame, (TrackedFace(0, (0.0, 0.0, width, height), 1.0, None, True),), 0)


def hop_frames(config: ModelConfig, hop_s: Hop, fps: float) -> int:
    """Frames from the start of one window to the next; fps: of the frames that windows are cut from.

    hop_s=None: no overlap. auto: half a second, at most a window; of models that give a row per frame, where an overlap would
    add no rows, a window.
    """
    window = config.num_frames * config.sampling_stride
    if hop_s == "auto":
        by_frame = config.num_frames == 1 or any(shape.frame_level for shape in config.outputs.values())
        return window if by_frame else min(frames_of_hop(USUAL_HOP_S, fps), window)
    return window if hop_s is None else frames_of_hop(hop_s, fps)


def frames_of_hop(hop_s: float, fps: float) -> int:
    """The whole number of frames that is nearest to a hop in seconds, at least one."""
    return max(round(hop_s * fps), 1)
