"""Which frames of a video make a clip: pre-training, training, validation, multi-view testing.

All functions are pure arithmetic on frame numbers and return int64 indices in [0, num_frames).
`stride` is the distance in frames between two frames of a clip, so a clip spans clip_length * stride frames.
Pre-training, training and testing follow the published recipe (Sec. IV-B), including its unusual treatment of short videos.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Indices = NDArray[np.int64]


def pretrain_indices(
    num_frames: int, clip_length: int, stride: int, num_clips: int, rng: np.random.RandomState
) -> Indices:
    """Random clips of every stride-th frame, (num_clips, clip_length).

    With span = clip_length * stride, a clip may start at any of the first num_frames - span + 1 frames. These are divided
    into num_clips equal parts, and one clip starts in each; with fewer starts than clips, the starts are drawn from all of
    them and sorted. A video shorter than span gives clips that start at 0, and draws nothing from `rng`.
    A clip that would reach the video's last frame or go beyond it repeats the frame before; the last frame itself is
    never shown, except in a video of one frame.
    """
    _check(num_frames, clip_length, stride)
    if num_clips < 1:
        raise ValueError(f"num_clips must be at least 1, got {num_clips}")
    span = clip_length * stride
    part = (num_frames - span + 1) // num_clips
    if part > 0:
        starts = part * np.arange(num_clips) + rng.randint(part, size=num_clips)
    elif num_frames > max(num_clips, span):
        starts = np.sort(rng.randint(num_frames - span + 1, size=num_clips))
    else:
        starts = np.zeros(num_clips, dtype=np.int64)
    most_steps = np.maximum((num_frames - 2 - starts) // stride, 0)
    return starts[:, None] + stride * np.minimum(np.arange(clip_length), most_steps[:, None])


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

    Every stride-th frame is taken, the last of them repeated up to clip_length if there are too few; segment s is
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
