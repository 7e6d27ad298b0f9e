"""Sliding windows over a stream of frames, in memory that does not grow with the video."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Window:
    """One clip of a video: frames (T, H, W, 3) uint8, the index and time of each, and the time the clip ends."""

    frames: np.ndarray
    indices: np.ndarray
    times_s: np.ndarray
    end_s: float

    @property
    def start_s(self) -> float:
        return float(self.times_s[0])


def iter_windows(
    stream: Iterable[tuple[float, np.ndarray]],
    clip_length: int,
    stride: int,
    hop: int,
    prepare: Callable[[np.ndarray], np.ndarray],
) -> Iterator[Window]:
    """Cut a stream of (time in seconds, frame) into windows of `clip_length` frames, `stride` apart, one every `hop`.

    The same frames as `svfap.data.clips.window_indices`: the last window ends at the last frame, and a video shorter than
    a window is padded with its last frame. `prepare` shrinks a frame (H, W, 3) before it is kept; at most one window's
    span is held.
    """
    span = (clip_length - 1) * stride + 1
    kept: deque[tuple[float, np.ndarray]] = deque(maxlen=span)
    next_start, last_start = 0, -1
    count = 0

    def window(start: int) -> Window:
        indices = np.minimum(start + stride * np.arange(clip_length), count - 1)
        picked = [kept[i - (count - len(kept))] for i in indices]
        interval = (kept[-1][0] - kept[0][0]) / (len(kept) - 1) if len(kept) > 1 else 0.0
        end = kept[min(start + span, count) - 1 - (count - len(kept))][0] + interval
        return Window(np.stack([f for _, f in picked]), indices, np.array([t for t, _ in picked]), end)

    for time_s, frame in stream:
        kept.append((time_s, prepare(frame)))
        count += 1
        if count == next_start + span:
            yield window(next_start)
            last_start, next_start = next_start, next_start + hop
    final = max(count - span, 0)
    if count and final != last_start:
        yield window(final)
