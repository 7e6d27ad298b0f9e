"""Readers applied to the parts of a dataset: fitted on the people of one, their outputs and scores for those of the other."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from svfap.errors import UserError
from svfap.evaluation.confidence import SubjectScore, subject_scores
from svfap.evaluation.metrics import average_views
from svfap.model.layers import steps_to_frames
from svfap.probe.parts import Parts, require_classes
from svfap.probe.samples import Values
from svfap.probe.tokens import Tokens

MAIN = {"classification": ("uar", "war"), "regression": ("ccc", "ccc_within_people", "pcc")}


def readable(parts: Parts, tokens: Tokens) -> Parts:
    """The parts without the videos that could not be read. Raises `UserError` if nothing, or one class, is left of one."""
    there = np.unique(tokens.rows)
    splits = [(fit[np.isin(fit, there)], test[np.isin(test, there)]) for fit, test in parts.splits]
    for name, rows in zip(("fits the readers", "is scored"), zip(*splits, strict=True), strict=True):
        if not all(map(len, rows)):
            first = ": ".join(next(iter(tokens.unreadable.items()), (parts.title, "it is empty")))
            raise UserError(f"{parts.title}: no video of the part that {name} can be read; {first}")
    left = parts.with_splits(splits)
    require_classes(left)
    return left


def read_clips(
    reader: Callable[..., Values], tokens: Tokens, name: str, parts: Parts, flat: bool = True
) -> tuple[NDArray[np.int64], Values]:
    """Fit a reader on the views of the videos of each split and apply it to those that are scored.

    Each view is a sample; the outputs of the views of a video are averaged. flat: as in `Tokens`, False for the attentive
    reader. Returns the rows of the manifest (N,) and the outputs (runs, N, K).
    """
    targets, rows, found = parts.targets(), [], []
    for fit, test in parts.splits:
        known, new = (np.flatnonzero(np.isin(tokens.rows, part)) for part in (fit, test))
        of = tokens.rows[known]
        x, queries = (tokens.of_clips(name, clips, flat) for clips in (known, new))
        outputs = reader(x, targets[of], parts.people[of], queries)
        averaged = _averaged(tokens.rows[new], outputs.reshape(-1, *outputs.shape[-2:]), tokens.weights[new])
        rows.append(averaged[0])
        found.append(averaged[1])
    return np.concatenate(rows), np.concatenate(found, axis=1)


def read_frames(
    reader: Callable[..., Values], tokens: Tokens, name: str, parts: Parts, flat: bool = True
) -> tuple[NDArray[np.int64], Values, Values]:
    """As `read_clips`, for values of frames: every time step of a view is a sample, whose target is the mean of its frames.

    The outputs of the time steps are interpolated linearly to the frames, as `Perceiver` does, and those of a frame that is in
    several views are averaged. Returns the row (F,) of each annotated frame, the outputs (runs, F, K) and values (F, K).
    """
    assert tokens.values is not None
    found = []
    for fit, test in parts.splits:
        known, new = (np.flatnonzero(np.isin(tokens.rows, part)) for part in (fit, test))
        x, queries = (tokens.of_steps(name, clips, flat) for clips in (known, new))
        num_steps, (_, num_frames, num_values) = x.shape[1], tokens.values.shape
        targets, annotated = _step_targets(tokens.values[known], num_steps)
        if not annotated.any() or not np.isfinite(tokens.values[new]).all(axis=2).any():
            raise UserError(f"{parts.title}: no frame that is shown of a part is annotated; there is nothing to read")
        people = np.repeat(parts.people[tokens.rows[known]][:, None], num_steps, axis=1)
        samples = queries.reshape(-1, *queries.shape[2:])
        outputs = reader(x[annotated], targets[annotated], people[annotated], samples)
        frames = _interpolated(outputs.reshape(-1, len(new), num_steps, num_values), num_frames)
        values, shown = tokens.values[new], np.isfinite(tokens.values[new]).all(axis=2)
        # A number for each frame of each video.
        places = tokens.rows[new][:, None] * (tokens.frames.max() + 1) + tokens.frames[new]
        weights = np.repeat(tokens.weights[new][:, None], num_frames, axis=1)
        place, averaged = _averaged(places[shown], frames[:, shown], weights[shown])
        _, truth = _averaged(places[shown], values[shown][None].astype(np.float64), None)
        found.append((place // (tokens.frames.max() + 1), averaged, truth[0]))
    rows, read, truths = zip(*found, strict=True)
    return np.concatenate(rows), np.concatenate(read, axis=1), np.concatenate(truths)


def read_outputs(
    reader: Callable[..., Values], tokens: Tokens, name: str, parts: Parts, flat: bool = True
) -> tuple[NDArray[np.int64], Values, NDArray[Any]]:
    """`read_clips`, or `read_frames` for values of frames: rows (N,), outputs (runs, N, K), and targets (N,) or (N, K)."""
    if parts.frame_level:
        return read_frames(reader, tokens, name, parts, flat)
    rows, outputs = read_clips(reader, tokens, name, parts, flat)
    return rows, outputs, parts.targets()[rows]


def read_scores(
    reader: Callable[..., Values], tokens: Tokens, name: str, parts: Parts, flat: bool = True
) -> dict[str, SubjectScore]:
    """The scores of a reader, by key, as sums over the people that are scored; see `read_outputs`.

    Scores within people are left out where people are not known.
    """
    rows, outputs, truth = read_outputs(reader, tokens, name, parts, flat)
    scores = subject_scores(truth, outputs, _drawn_units(parts, rows), parts.names)
    shown = [key for key in MAIN[parts.task] if parts.known or "within_people" not in key]
    shown += [f"{key}_{name}" for key in shown for name in parts.names]
    return {key: score for key, score in scores.items() if key in shown}


def read_chance(
    x: NDArray[Any], y: NDArray[Any], groups: NDArray[Any], queries: NDArray[Any], *, num_classes: int | None = None
) -> Values:
    """A reader that looks at no features: always the most frequent class, or always the same value."""
    if y.ndim == 2:
        return np.zeros((len(queries), y.shape[1]))
    counts = np.bincount(y, minlength=num_classes or 0)
    return np.eye(len(counts))[np.full(len(queries), counts.argmax())]


def _drawn_units(parts: Parts, rows: NDArray[np.int64]) -> NDArray[Any]:
    """What the bootstrap draws: the people of the rows, or the videos where there is a single person."""
    people = parts.people[rows]
    return people if len(set(people)) > 1 else rows.astype(str).astype(object)


def _averaged(
    index: NDArray[np.int64], outputs: Values, weights: NDArray[np.int64] | None
) -> tuple[NDArray[np.int64], Values]:
    """Average outputs (runs, V, K) with the same index (V,): the N numbers, ascending, and (runs, N, K)."""
    runs, _, num_outputs = outputs.shape
    flat = outputs.transpose(1, 0, 2).reshape(len(index), -1)
    numbers, means = average_views(index, flat, weights)
    return numbers, means.reshape(-1, runs, num_outputs).transpose(1, 0, 2)


def _step_targets(values: NDArray[np.float32], num_steps: int) -> tuple[Values, NDArray[np.bool_]]:
    """Means (V, T', K) of the annotated frames of each time step of values (V, T, K), and which steps (V, T') have any."""
    steps = values.reshape(len(values), num_steps, -1, values.shape[2])
    annotated = np.asarray(np.isfinite(steps).all(axis=3))
    totals = np.where(annotated[..., None], steps, 0).sum(axis=2, dtype=np.float64)
    counts = annotated.sum(axis=2)
    return totals / np.maximum(counts, 1)[..., None], counts > 0


def _interpolated(steps: Values, num_frames: int) -> Values:
    """(runs, V, T', K) at time steps -> (runs, V, T, K) at frames."""
    frames = steps_to_frames(torch.from_numpy(steps.reshape(-1, *steps.shape[2:])), num_frames)
    return frames.reshape(*steps.shape[:2], num_frames, steps.shape[3]).numpy()
