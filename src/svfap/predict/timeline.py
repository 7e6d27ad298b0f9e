"""Numbers of one face track over time: the time its rows cover, who leads for how long, and where it changes most."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

Floats = NDArray[np.float64]

GAP_S = 0.01  # uncovered time shorter than this is rounding
MIN_SPAN_S = 1.0  # a change from one frame to the next would be noise


@dataclass(frozen=True)
class Timeline:
    """N rows of one track in the order of their starts.

    Attributes:
        start, end: (N,) seconds of each row's window.
        values: (N, K) probabilities or dimensions, finite.
        firsts: rows before which there is a gap, the first row included.
        edges: (N, 2) seconds that each row stands for: its window, of which an overlap is shared evenly with the next row.
    """

    start: Floats
    end: Floats
    values: Floats
    firsts: NDArray[np.int64]
    edges: Floats

    @classmethod
    def of(cls, start: Floats, end: Floats, values: Floats) -> Timeline:
        """From rows with ascending starts."""
        touching = start[1:] <= end[:-1] + GAP_S
        middle = (start[1:] + end[:-1]) / 2
        edges = np.stack([start, end], axis=1)
        edges[1:, 0] = np.where(touching, middle, start[1:])
        edges[:-1, 1] = np.where(touching, middle, end[:-1])
        edges[:, 1] = edges.max(axis=1)
        return cls(start, end, values, np.flatnonzero(np.append(True, ~touching)), edges)

    @property
    def centers(self) -> Floats:
        """(N,) seconds of the windows' centres, where boxes are given."""
        return (self.start + self.end) / 2

    @property
    def weights(self) -> Floats:
        """(N,) seconds that each row stands for; equal where no row lasts at all."""
        seconds = self.edges[:, 1] - self.edges[:, 0]
        return seconds if seconds.sum() > 0 else np.ones_like(seconds)

    @property
    def covered_s(self) -> float:
        return float((self.edges[:, 1] - self.edges[:, 0]).sum())

    def row_at(self, time_s: float) -> int | None:
        """The row that stands for that time; None in a gap."""
        row = max(int(np.searchsorted(self.edges[:, 0], time_s, side="right")) - 1, 0)
        return row if self.edges[row, 0] <= time_s <= self.edges[row, 1] else None


def shares(timeline: Timeline, names: list[str]) -> pd.DataFrame:
    """Per label: `share` of the covered time in which it is the most probable (they sum to 1), the same in seconds
    (`time_s`), and its mean probability over the covered time (`mean`)."""
    weights = timeline.weights
    leading = np.bincount(timeline.values.argmax(axis=1), weights, minlength=len(names)) / weights.sum()
    mean = weights @ timeline.values / weights.sum()
    return pd.DataFrame({"name": names, "share": leading, "time_s": leading * timeline.covered_s, "mean": mean})


def spread(timeline: Timeline, names: list[str]) -> pd.DataFrame:
    """Per dimension: `mean` and standard deviation (`sd`) over the covered time, `min` and `max` of the rows."""
    weights, values = timeline.weights / timeline.weights.sum(), timeline.values
    mean = weights @ values
    sd = np.sqrt(weights @ (values - mean) ** 2)
    return pd.DataFrame({"name": names, "mean": mean, "sd": sd, "min": values.min(axis=0), "max": values.max(axis=0)})


@dataclass(frozen=True)
class Change:
    """A moment of change: `time_s`, the mean values (K,) just before and after, the middles of the two stretches of
    time they are means of, and how far apart they are."""

    time_s: float
    before_s: float
    after_s: float
    before: Floats
    after: Floats
    distance: float


def strongest_changes(timeline: Timeline, number: int, probabilities: bool) -> list[Change]:
    """The `number` moments at which consecutive windows differ most, the strongest first, never across a gap.

    Distance: total variation, half the sum of absolute differences, for probabilities; the mean absolute difference for
    dimensions. Compared are the means of as much time before and after as a window lasts, at least `MIN_SPAN_S`: for
    windows end to end these are the two windows; for frame-level or overlapping rows the mean of several. Moments closer
    than that count as one.
    """
    span = max(MIN_SPAN_S, float(np.median(timeline.end - timeline.start)))
    found: list[Change] = []
    for rows in np.split(np.arange(len(timeline.start)), timeline.firsts[1:]):
        found += _changes(timeline.edges[rows], timeline.values[rows], span, probabilities)
    kept: list[Change] = []
    for change in sorted(found, key=lambda change: -change.distance):
        if len(kept) < number and all(abs(change.time_s - other.time_s) > 0.99 * span for other in kept):
            kept.append(change)
    return kept


def _changes(edges: Floats, values: Floats, span: float, probabilities: bool) -> list[Change]:
    """Every border between two rows of a stretch without gaps."""
    ends = np.append(edges[0, 0], edges[:, 1])
    integral = np.concatenate([np.zeros((1, values.shape[1])), np.cumsum(values * np.diff(ends)[:, None], axis=0)])

    def mean(start: Floats, stop: Floats) -> Floats:
        upto, since = (np.stack([np.interp(t, ends, column) for column in integral.T], 1) for t in (stop, start))
        return np.asarray((upto - since) / np.maximum(stop - start, 1e-9)[:, None])

    at = np.unique(ends[1:-1])
    at = at[(at - ends[0] > 0.49 * span) & (ends[-1] - at > 0.49 * span)]  # the first frame alone would be noise
    first, last = np.maximum(at - span, ends[0]), np.minimum(at + span, ends[-1])
    before, after = mean(first, at), mean(at, last)
    distance = np.abs(after - before).sum(axis=1) / (2 if probabilities else values.shape[1])
    return [
        Change(float(t), float(f + t) / 2, float(t + n) / 2, b, a, float(d))
        for t, f, n, b, a, d in zip(at, first, last, before, after, distance, strict=True)
        if d > 1e-6
    ]


def runs_of(table: pd.DataFrame) -> list[pd.DataFrame]:
    """The rows of one track, or of a video without tracks, as unbroken runs in order of time; between them is a gap.

    A live source's times jitter: less than a tenth of a row's length is no gap.
    """
    table = table.sort_values(["start_s", "end_s"])
    reach = table["end_s"].cummax() + 0.1 * (table["end_s"] - table["start_s"]) + 1e-3
    after_a_gap = table["start_s"] > reach.shift(fill_value=float("inf"))
    return [run for _, run in table.groupby(after_a_gap.cumsum())]
