"""Geometry of boxes (x, y, width, height in pixels): overlap, motion, and smoothing over time."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

PATH_POINTS = 31  # samples of a path that are used to smooth it at one time


def shared_area(a: Floats, b: Floats) -> Floats:
    """Area of the intersection of every box of a (N, 4) with every box of b (M, 4): (N, M)."""
    start = np.maximum(a[:, None, :2], b[None, :, :2])
    stop = np.minimum(a[:, None, :2] + a[:, None, 2:], b[None, :, :2] + b[None, :, 2:])
    return np.asarray(np.prod(np.maximum(stop - start, 0), axis=2))


def overlap(a: Floats, b: Floats) -> Floats:
    """Intersection over union of every box of a (N, 4) with every box of b (M, 4): (N, M), from 0 to 1."""
    shared = shared_area(a, b)
    union = np.prod(a[:, 2:], axis=1)[:, None] + np.prod(b[:, 2:], axis=1)[None] - shared
    return np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)


def predicted(times: Floats, boxes: Floats, time: float) -> Floats:
    """Extrapolate boxes (N, 4) at `times` (N,), in seconds, to one time: constant velocity by least squares, mean size; (4,)."""
    centres, size = boxes[:, :2] + boxes[:, 2:] / 2, boxes[:, 2:].mean(axis=0)
    centre = _line_at(times, centres, np.ones_like(times), time)
    return np.concatenate([centre - size / 2, size])


def smoothed(times: Floats, values: Floats, time: float, half_s: float) -> Floats:
    """Values (N, K) at ascending `times` (N,), smoothed and evaluated at one time within them: (K,).

    Values are interpolated linearly. A line is then fitted to the result within `half_s` seconds before and after the
    time, weighted by a Hann window (local linear regression; Cleveland, JASA 1979): there is no lag, and no bias at the
    first and the last time. half_s=0 only interpolates.
    """
    first, last = max(times[0], time - half_s), min(times[-1], time + half_s)
    if last <= first:
        return _between(times, values, np.array([time]))[0]
    points = np.linspace(first, last, PATH_POINTS)
    weights = 0.5 + 0.5 * np.cos(np.pi * (points - time) / half_s)
    return _line_at(points, _between(times, values, points), weights, time)


def _between(times: Floats, values: Floats, at: Floats) -> Floats:
    """Linear interpolation of values (N, K): (len(at), K)."""
    return np.stack([np.interp(at, times, column) for column in values.T], axis=1)


def _line_at(times: Floats, values: Floats, weights: Floats, time: float) -> Floats:
    """The weighted least-squares line through values (N, K), evaluated at one time: (K,)."""
    weights = weights / weights.sum()
    middle, mean = weights @ times, weights @ values
    spread = weights @ (times - middle) ** 2
    slope = (weights * (times - middle)) @ (values - mean) / spread if spread > 0 else 0.0
    return np.asarray(mean + slope * (time - middle))
