"""When the pictures of a video are shown: time stamps put in order, the usual rate, and regular clocks.

Everything here is arithmetic on times, so that all readers share one notion of time.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

RATE_TOLERANCE = 0.05  # a rate asked for that is this close to the video's own means the video's own
MAX_HOLE_S = 0.5  # the tracker's max_gap_s
ROUNDING_S = 0.0006  # a little more than time stamps are off in containers that count milliseconds
SAME_S = 1e-7  # times closer than this are the same

Times = NDArray[np.float64]
T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class FrameGrid:
    """Which picture of a video is shown at each of the F frames of a regular clock.

    fps: frames of the clock per second. picture_of: (F,) int64, the number of the picture that is shown at each frame.
    times_s: (F,) float64, the time of each frame in seconds since the video's first picture. stretches: (first, stop) of the
    frames first, ..., stop - 1 without a hole or a joint, in order; they cover all frames.
    """

    fps: float
    picture_of: NDArray[np.int64]
    times_s: Times
    stretches: list[tuple[int, int]]

    @property
    def num_frames(self) -> int:
        return len(self.picture_of)

    def between(self, start_s: float | None, end_s: float | None) -> tuple[int, int]:
        """(first, stop): the frames first, ..., stop - 1 are shown at or after start_s and before end_s."""
        first = 0 if start_s is None else int(np.searchsorted(self.times_s, start_s - 1e-6))
        stop = self.num_frames if end_s is None else int(np.searchsorted(self.times_s, end_s - 1e-6))
        return first, stop

    def parted(self, before_s: float, after_s: float) -> bool:
        """Whether a stretch begins after the frame at before_s and not after that at after_s."""
        starts_s = self.times_s[[first for first, _ in self.stretches]]
        before, after = np.searchsorted(starts_s, np.array([before_s, after_s]) + SAME_S, side="right")
        return bool(before < after)

    def parts(self, first: int, stop: int) -> list[tuple[int, int]]:
        """The stretches, as far as they lie within the frames first, ..., stop - 1."""
        cut = [(max(start, first), min(end, stop)) for start, end in self.stretches]
        return [(start, end) for start, end in cut if start < end]


def alike(rate: float, other: float) -> bool:
    """Whether two frame rates count as the same."""
    return abs(rate / other - 1) <= RATE_TOLERANCE


def clock_rate(fps_of_video: float, fps: float | None) -> float:
    """The rate asked for, or the video's own if that is None or `alike`."""
    return fps_of_video if fps is None or alike(fps, fps_of_video) else fps


def longest_step(fps: float, max_hole_s: float = MAX_HOLE_S) -> float:
    """The longest time in seconds from one picture to the next, of `fps` per second, that is no hole."""
    return max(max_hole_s, 1.5 / fps) + 1e-6


def frame_grid(
    times_s: Sequence[float] | Times,
    fps_of_video: float,
    fps: float | None = None,
    max_hole_s: float = MAX_HOLE_S,
    joints: Iterable[int] = (),
) -> FrameGrid:
    """The clock of a video whose N pictures are shown at `times_s`, strictly ascending.

    fps_of_video: the usual rate of the pictures. fps: of the clock; see `clock_rate`. At each frame the latest picture is
    shown; at a constant rate and its own clock these are all the pictures, each once. max_hole_s: a longer interval between
    two pictures is a hole in which there are no frames, if it is also longer than 1.5 usual intervals. The clock starts anew
    after a hole, and at joints: the numbers of the pictures with which another recording begins.
    """
    times, usual_s, rate = np.asarray(times_s, np.float64), 1 / fps_of_video, clock_rate(fps_of_video, fps)
    rounding_s = _rounding(usual_s, rate)
    holes = np.flatnonzero(np.diff(times) > longest_step(fps_of_video, max_hole_s)) + 1
    starts = sorted({0, *holes.tolist(), *joints})
    pictures, shown_s = [], []
    for first, stop in pairwise([*starts, len(times)]):
        since_s = times[first:stop] - times[first]
        due_s = np.arange(stop - first) / rate
        if rate == fps_of_video and np.abs(since_s - due_s).max() < 0.5 * usual_s:
            numbers = np.arange(stop - first)
        else:
            due_s = np.arange(max(math.ceil((since_s[-1] + usual_s - rounding_s) * rate), 1)) / rate
            numbers = np.searchsorted(since_s, due_s + rounding_s, side="right") - 1
        pictures.append(first + numbers)
        shown_s.append(times[first] + due_s)
    ends = np.cumsum([0, *map(len, pictures)]).tolist()
    return FrameGrid(rate, np.concatenate(pictures), np.concatenate(shown_s), list(pairwise(ends)))


def steady(
    frames: Iterable[tuple[float, T]], fps_of_video: float, fps: float, max_hole_s: float = MAX_HOLE_S
) -> Iterator[tuple[float, T]]:
    """As `frame_grid`, for (time_s, picture) of a live source: later times are not known yet."""
    usual_s = 1 / fps_of_video
    rounding_s, hole_s = _rounding(usual_s, fps), longest_step(fps_of_video, max_hole_s)
    start_s, number = 0.0, 0
    shown: tuple[float, T] | None = None
    for time_s, picture in frames:
        if shown is not None:
            end_s = shown[0] + usual_s if time_s - shown[0] > hole_s else time_s
            while (due_s := start_s + number / fps) < end_s - rounding_s:
                yield due_s, shown[1]
                number += 1
        if shown is None or time_s - shown[0] > hole_s:
            start_s, number = time_s, 0
        shown = time_s, picture
    while shown is not None and (due_s := start_s + number / fps) < shown[0] + usual_s - rounding_s:
        yield due_s, shown[1]
        number += 1


def _rounding(usual_s: float, fps: float) -> float:
    return min(ROUNDING_S, 0.1 * usual_s, 0.1 / fps)


def usual_rate(times_s: Times, tick_s: float, stated: Iterable[float]) -> float:
    """Pictures per second, from the usual interval between them; 0 for fewer than two pictures.

    times_s: (N,) ascending. tick_s: time stamps are rounded to multiples of this. stated: rates that the file states, the
    likelier ones first; the first that agrees to within the rounding is preferred, since it is exact.
    """
    if len(times_s) < 2:
        return 0.0
    intervals = np.diff(times_s)
    median = float(np.median(intervals))
    is_usual = np.abs(intervals - median) <= max(1.001 * tick_s, 0.1 * median)
    usual_s = float(intervals[is_usual].mean()) if is_usual.any() else median
    num_runs = 1 + int(np.count_nonzero(np.diff(np.flatnonzero(is_usual)) > 1))
    error_s = (1.001 * tick_s * num_runs + 1e-9) / max(int(is_usual.sum()), 1)
    return next((rate for rate in stated if rate > 0 and abs(1 / rate - usual_s) <= error_s), 1 / usual_s)


def repaired(stamps_s: Times, usual_s: float | None = None) -> tuple[Times, list[int]]:
    """Strictly ascending times (N,) in seconds since the first, from the time stamps of pictures in order of presentation.

    A stamp that is missing (NaN), repeated or out of line is replaced by one between its neighbours. Where the stamps jump
    back for good, as in files that were joined, the next picture follows one interval later; the second result has the
    numbers of these pictures. usual_s: the interval where stamps do not tell; None: the median.
    """
    stamps = np.array(stamps_s, np.float64)
    known = np.flatnonzero(np.isfinite(stamps))
    steps = np.diff(stamps[known])
    joints: list[int] = []
    if usual_s is None:
        usual_s = float(np.median(steps[steps > 0])) if (steps > 0).any() else 1 / 25
    if len(known) == 0:
        return np.arange(len(stamps), dtype=np.float64) * usual_s, joints
    if len(known) < len(stamps) or (steps < SAME_S).any():
        stamps, joints = _lined_up(stamps, known, usual_s)
        stamps = _filled(stamps, usual_s)
    return np.asarray(stamps - stamps[0], np.float64), joints


def _lined_up(stamps: Times, known: NDArray[np.int64], usual_s: float) -> tuple[Times, list[int]]:
    """Ascending stamps: those out of line become NaN, and those after a jump back are shifted to follow on; the jumps."""
    out = np.full(len(stamps), np.nan)
    shift_s = 0.0
    joints: list[int] = []
    kept: list[int] = []  # places of the last two stamps that are in line
    for number, place in enumerate(known.tolist()):
        stamp = float(stamps[place]) + shift_s
        if kept and stamp < out[kept[-1]] + SAME_S:
            later = known[number + 1] if number + 1 < len(known) else None
            goes_on = later is not None and stamp + SAME_S < stamps[later] + shift_s <= out[kept[-1]]
            if goes_on and len(kept) > 1 and out[kept[-2]] + SAME_S < stamp:
                out[kept.pop()] = np.nan  # the one before was too late
            elif goes_on:
                interval_s = float(out[kept[-1]] - out[kept[0]]) / max(kept[-1] - kept[0], 1) or usual_s
                follows_s = float(out[kept[-1]]) + min(interval_s, MAX_HOLE_S) * (place - kept[-1])
                shift_s += follows_s - stamp
                stamp = follows_s
                joints.append(place)
            else:
                continue
        out[place] = stamp
        kept = [*kept[-1:], place]
    return out, joints


def _filled(stamps: Times, usual_s: float) -> Times:
    """Times in place of NaN: evenly between the neighbours, or a usual interval apart where that would reach into a hole."""
    known = np.flatnonzero(np.isfinite(stamps))
    first, last = int(known[0]), int(known[-1])
    stamps[:first] = stamps[first] - usual_s * np.arange(first, 0, -1)
    stamps[last + 1 :] = stamps[last] + usual_s * np.arange(1, len(stamps) - last)
    for before, after in pairwise(known.tolist()):
        if after - before > 1:
            step_s = (stamps[after] - stamps[before]) / (after - before)
            if step_s > longest_step(1 / usual_s):
                step_s = usual_s
            stamps[before + 1 : after] = stamps[before] + step_s * np.arange(1, after - before)
    return stamps
