"""Which frames of a video make a clip: training, validation, multi-view testing, sliding windows.

All functions are pure arithmetic on frame numbers and return int64 indices in [0, num_frames).
`stride` is the distance in frames between two frames of a clip, so a clip spans clip_length * stride frames.
Training and testing follow the published recipe, the odd treatment of short videos included.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Indices = NDArray[np.int64]


def train_indices(num_frames: int, clip_length: int, stride: int, rng: np.random.RandomState) -> Indices:
    """One random clip, (clip_length,).

    With span = clip_length * stride:
      num_frames > span:  end ~ randint(span, num_frames); clip_length evenly spaced points over [end - span, end],
                          truncated to integers and kept below end.
      otherwise:          num_frames // stride evenly spaced points over [0, num_frames], truncated and kept below
                          num_frames, then the last frame repeated. Draws nothing from `rng`.
    """
    _check(num_frames, clip_length, stride)
    span = clip_length * stride
    if num_frames <= span:
        return _short_clip(num_frames, clip_length, stride)
    return _spread(int(rng.randint(span, num_frames)), span, clip_length)


def validation_indices(num_frames: int, clip_length: int, stride: int) -> Indices:
    """The deterministic counterpart of `train_indices`, (clip_length,): the same points, in the middle of the video.

    With span = clip_length * stride, a longer video is sampled over [end - span, end] where
    end = (num_frames + span) // 2; a shorter one exactly as in training.
    """
    _check(num_frames, clip_length, stride)
    span = clip_length * stride
    if num_frames <= span:
        return _short_clip(num_frames, clip_length, stride)
    return _spread((num_frames + span) // 2, span, clip_length)


def test_indices(num_frames: int, clip_length: int, stride: int, num_segments: int) -> Indices:
    """Temporal views for testing, (num_segments, clip_length), spread evenly from the start to the end.

    Every stride-th frame is taken, the last of them repeated up to clip_length where there are too few; segment s is
    the window that starts at int(s * (number taken - clip_length) / (num_segments - 1)). A single segment starts at 0;
    segments of short videos coincide.
    """
    _check(num_frames, clip_length, stride)
    if num_segments < 1:
        raise ValueError(f"num_segments must be at least 1, got {num_segments}")
    taken = np.arange(0, num_frames, stride, dtype=np.int64)
    spare = max(len(taken) - clip_length, 0)
    starts = [int(s * spare / max(num_segments - 1, 1)) for s in range(num_segments)]
    positions = np.add.outer(starts, np.arange(clip_length))
    return taken[np.minimum(positions, len(taken) - 1)]


def _spread(end: int, span: int, clip_length: int) -> Indices:
    points = np.linspace(end - span, end, num=clip_length)
    return np.clip(points, end - span, end - 1).astype(np.int64)


def _short_clip(num_frames: int, clip_length: int, stride: int) -> Indices:
    points = np.linspace(0, num_frames, num=num_frames // stride)
    padded = np.pad(points, (0, clip_length - len(points)), constant_values=num_frames)
    return np.clip(padded, 0, num_frames - 1).astype(np.int64)


def _check(num_frames: int, clip_length: int, stride: int) -> None:
    if min(num_frames, clip_length, stride) < 1:
        raise ValueError(
            f"num_frames, clip_length and stride must be at least 1, got {num_frames}, {clip_length}, {stride}"
        )
