"""The predictions of one face over time: what is a gap, how long each label is the most probable, the strongest changes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, pairwise

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from svfap.predict.table import TIMES

Floats = NDArray[np.float64]

MIN_GAP_S = 0.35  # gaps are longer, as the tracker interpolates up to `TrackConfig.max_gap_s`, 0.5 s
STRIDE = 1 / 15  # of a window: the time from one sampled frame to the next in a clip of 16
JITTER_S = 0.1  # of a live source's times
MIN_ROWS = 4  # with fewer, no regular distance between windows is assumed
ROUNDING_S = 1e-3
LEAST_PROBABILITY, LEAST_SDS = 0.1, 1.0  # of a change: total variation; or standard deviations of one dimension
LEAST_SD = 0.01  # of a dimension, as it is shown in hundredths
MIN_SPAN_S = 1.0  # a change from one frame to the next would be noise


@dataclass(frozen=True)
class Timeline:
    """N rows of one track, or of a video without tracks, in order of time, and where it has gaps.

    A gap is time in which the face was not tracked. A window ends with its last sampled frame, and the next one starts a
    stride later, or more with a hop longer than a window. So there is a gap before a row only if the time since the row
    before it is longer than all of these: `MIN_GAP_S`; a stride, taken as 1/15 of the last row, with the jitter of live
    sources; and, if at least half of these times are alike, their median plus `MIN_GAP_S`. Rows without values are left
    out; time that no other row covers is then a gap, however short.

    Attributes:
        start, end: (N,) seconds of each row's window.
        values: (N, K) probabilities or values of dimensions, finite.
        firsts: (P,) rows before which there is a gap; the first row is one of them.
        edges: (N, 2) seconds that each row stands for. Without a gap between two rows, both end in the middle between the
            end of one and the start of the other, whether they overlap or not.
        rows: (N,) position of each row in the table that was given.
    """

    start: Floats
    end: Floats
    values: Floats
    firsts: NDArray[np.int64]
    edges: Floats
    rows: NDArray[np.int64]

    @classmethod
    def of_table(cls, table: pd.DataFrame, columns: Sequence[str]) -> Timeline:
        """From the rows of one track in any order, with `start_s`, `end_s` and these columns of values."""
        start, end = (table[name].to_numpy(float) for name in TIMES)
        values = table[list(columns)].to_numpy(float)
        order = np.lexsort((end, start))
        finite = np.isfinite(values[order]).all(axis=1)
        num_left_out = np.cumsum(~finite)[finite]
        rows = order[finite]
        start, end, values = start[rows], end[rows], values[rows]
        gap = _gaps(start, end, np.diff(num_left_out) > 0)
        middle = (start[1:] + end[:-1]) / 2
        edges = np.stack([start, end], axis=1)
        edges[1:, 0] = np.where(gap, start[1:], middle)
        edges[:-1, 1] = np.where(gap, end[:-1], middle)
        edges[:, 1] = edges.max(axis=1)
        firsts = np.flatnonzero(np.append(True, gap)[: len(start)])
        return cls(start, end, values, firsts, edges, rows)

    @property
    def first_s(self) -> float:
        """Start of the first row."""
        return float(self.edges[0, 0])

    @property
    def last_s(self) -> float:
        """End of the last row."""
        return float(self.edges[-1, 1])

    @cached_property
    def centers(self) -> Floats:
        """(N,) seconds of the windows' centres, where boxes are given."""
        return (self.start + self.end) / 2

    @property
    def durations(self) -> Floats:
        """(N,) seconds that each row stands for."""
        return np.asarray(self.edges[:, 1] - self.edges[:, 0])

    @property
    def covered_s(self) -> float:
        """Seconds without gaps."""
        return float(self.durations.sum())

    @property
    def is_still(self) -> bool:
        """Whether it is a single picture, which has no duration."""
        return len(self.start) == 1 and self.covered_s < ROUNDING_S

    @property
    def weights(self) -> Floats:
        """(N,) of the rows in a mean over time, with the sum 1; all equal if no row has a duration."""
        seconds = self.durations if self.covered_s > 0 else np.ones(len(self.start))
        return np.asarray(seconds / seconds.sum())

    @cached_property
    def pieces(self) -> list[slice]:
        """The rows from one gap to the next."""
        return [slice(a, b) for a, b in pairwise([*self.firsts.tolist(), len(self.start)])]

    def row_at(self, time_s: float) -> int | None:
        """The row that stands for this time; None in a gap."""
        row = max(int(np.searchsorted(self.edges[:, 0], time_s, side="right")) - 1, 0)
        return row if self.edges[row, 0] <= time_s <= self.edges[row, 1] else None

    def regular_times(self, number: int) -> list[float]:
        """Centres of at most `number` rows at about regular times from the first row to the last."""
        number = min(number, len(self.start))
        due = self.first_s + (np.arange(number) + 0.5) * (self.last_s - self.first_s) / number
        rows = dict.fromkeys(row for row in map(self.row_at, due) if row is not None)
        return [float(self.centers[row]) for row in rows]

    @cached_property
    def curve(self) -> tuple[Floats, Floats]:
        """Times (n,) and values (n, K) of points to be joined by lines; in each gap is a point whose values are NaN.

        Each row's values are at its centre; the first and the last of a piece extend to its ends.
        """
        times, values = [np.zeros(0)], [self.values[:0]]
        for piece in self.pieces:
            edges, part = self.edges[piece], self.values[piece]
            times += [edges[:1, 0], self.centers[piece], edges[-1:, 1], edges[-1:, 1]]
            values += [part[:1], part, part[-1:], np.full_like(part[:1], np.nan)]
        return np.concatenate(times)[:-1], np.concatenate(values)[:-1]

    def values_at(self, time_s: float, tolerance_s: float = 0.0) -> Floats | None:
        """(K,) values on the curve at this time; None in a gap, further than the tolerance from its ends."""
        for piece in self.pieces:
            first_s, last_s = self.edges[piece.start, 0], self.edges[piece.stop - 1, 1]
            if first_s - tolerance_s <= time_s <= last_s + tolerance_s:
                columns = self.values[piece].T
                return np.array([np.interp(time_s, self.centers[piece], column) for column in columns])
        return None


def _gaps(start: Floats, end: Floats, left_out: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """(N - 1,) whether there is a gap between a row and the next; left_out: (N - 1,) rows without values lie between."""
    uncovered = start[1:] - np.maximum.accumulate(end)[:-1]
    allowed = np.maximum(MIN_GAP_S, STRIDE * (end - start)[:-1] + JITTER_S)
    if len(start) >= MIN_ROWS:
        usual = np.median(uncovered)
        if (np.abs(uncovered - usual) <= JITTER_S).mean() >= 0.5:
            allowed = np.maximum(allowed, usual + MIN_GAP_S)
    late = uncovered > allowed
    return late | (left_out & (uncovered > ROUNDING_S))


def shares(timeline: Timeline, names: list[str]) -> pd.DataFrame:
    """One row per label: its `name`, the `share` of the covered time in which it is the most probable (shares sum to 1),
    that time in seconds (`time_s`), and its `mean` probability over the covered time."""
    leading = np.bincount(timeline.values.argmax(axis=1), timeline.weights, minlength=len(names))
    mean = timeline.weights @ timeline.values
    return pd.DataFrame({"name": names, "share": leading, "time_s": leading * timeline.covered_s, "mean": mean})


def spread(timeline: Timeline, names: list[str]) -> pd.DataFrame:
    """One row per dimension: its `name`, `mean` and standard deviation (`sd`) over the covered time, `min` and `max`."""
    weights, values = timeline.weights, timeline.values
    mean = weights @ values
    sd = np.sqrt(weights @ (values - mean) ** 2)
    return pd.DataFrame({"name": names, "mean": mean, "sd": sd, "min": values.min(axis=0), "max": values.max(axis=0)})


@dataclass(frozen=True)
class AffectChange:
    """A moment at which the predictions change.

    Attributes:
        time_s: when, in seconds.
        before_s, after_s: the middles of the two spans of time, just before and after, that are compared.
        before, after: (K,) mean values over these spans.
        distance: between the two, see `strongest_changes`.
        labels: the most probable before and after; if they are the same, and for dimensions, twice the one that changes most.
    """

    time_s: float
    before_s: float
    after_s: float
    before: Floats
    after: Floats
    distance: float
    labels: tuple[int, int]


def strongest_changes(timeline: Timeline, number: int, probabilities: bool) -> list[AffectChange]:
    """The `number` moments at which consecutive windows differ most, the strongest first, never across a gap.

    Compared are the means over the length of a window, at least `MIN_SPAN_S`, before and after the moment. The distance is total
    variation (half the sum of absolute differences) for probabilities. For dimensions, which may be different quantities, it is
    the mean of absolute differences, each divided by the dimension's standard deviation over the timeline, at least `LEAST_SD`.
    Of moments that are closer to each other than this length, the strongest is kept. Left out are changes of less than
    `LEAST_PROBABILITY`, of dimensions those that move none by `LEAST_SDS`, and what cannot be seen in hundredths.
    """
    span = max(MIN_SPAN_S, float(np.median(timeline.end - timeline.start)))
    kept: list[AffectChange] = []
    scale = np.ones(timeline.values.shape[1])
    if not probabilities:
        mean = timeline.weights @ timeline.values
        scale = np.maximum(np.sqrt(timeline.weights @ (timeline.values - mean) ** 2), LEAST_SD)
    found = (
        _changes(timeline.edges[piece], timeline.values[piece], span, probabilities, scale) for piece in timeline.pieces
    )
    for change in sorted(chain.from_iterable(found), key=lambda change: -change.distance):
        moved = np.abs(change.after - change.before) / scale
        is_large = change.distance >= LEAST_PROBABILITY if probabilities else moved.max() >= LEAST_SDS
        is_seen = is_large and any(f"{change.before[k]:.2f}" != f"{change.after[k]:.2f}" for k in change.labels)
        if is_seen and len(kept) < number and all(abs(change.time_s - other.time_s) > 0.99 * span for other in kept):
            kept.append(change)
    return kept


def _changes(edges: Floats, values: Floats, span: float, probabilities: bool, scale: Floats) -> list[AffectChange]:
    """All borders between two rows of a piece without gaps; scale: (K,) of the differences."""
    ends = np.append(edges[0, 0], edges[:, 1])
    integral = np.concatenate([np.zeros((1, values.shape[1])), np.cumsum(values * np.diff(ends)[:, None], axis=0)])

    def mean(start: Floats, stop: Floats) -> Floats:
        upto, since = (np.stack([np.interp(t, ends, column) for column in integral.T], 1) for t in (stop, start))
        return np.asarray((upto - since) / np.maximum(stop - start, 1e-9)[:, None])

    at = np.unique(ends[1:-1])
    at = at[(at - ends[0] > 0.49 * span) & (ends[-1] - at > 0.49 * span)]  # the first frame alone would be noise
    first, last = np.maximum(at - span, ends[0]), np.minimum(at + span, ends[-1])
    before, after = mean(first, at), mean(at, last)
    differences = np.abs(after - before) / scale
    distance = differences.sum(axis=1) / (2 if probabilities else values.shape[1])
    changes = []
    for k in np.flatnonzero(distance > 1e-6).tolist():
        most = int(differences[k].argmax())
        tops = int(before[k].argmax()), int(after[k].argmax())
        labels = tops if probabilities and tops[0] != tops[1] else (most, most)
        middles = float(first[k] + at[k]) / 2, float(at[k] + last[k]) / 2
        changes.append(AffectChange(float(at[k]), *middles, before[k], after[k], float(distance[k]), labels))
    return changes
