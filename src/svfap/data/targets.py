"""Training targets: labels or values of clips, and of single frames for frame-level models."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from svfap.console import track
from svfap.data.manifest import Manifest, Sample
from svfap.data.video import VideoError
from svfap.errors import UserError

Targets = NDArray[Any]  # float32 values or int64 labels


def frame_targets(manifest: Manifest, sample: Sample) -> Targets | None:
    """Targets of all F frames of a video: values (F, K) float32, NaN if missing, or labels (F,) int64, -1 if missing.

    They are taken from the manifest's cells if these have a number per frame, else from the sample's `frame_values` file: its
    columns named after the dimensions, or its column `label`. None if the sample has one target for all its frames. Raises
    `VideoError` if the file cannot be read or has other columns.
    """
    if sample.frame_numbers is not None:
        return sample.frame_numbers.astype(np.float32)
    if sample.frame_values is None:
        return None
    try:
        if manifest.dimensions is not None:
            columns = list(manifest.dimensions)
            return pd.read_csv(sample.frame_values, usecols=columns)[columns].to_numpy(np.float32)
        table = pd.read_csv(sample.frame_values, dtype=str, keep_default_na=False, skipinitialspace=True)
        if "label" in table:
            return _class_indices(table["label"].str.strip(), manifest.label_names or ())
        if sample.label is None:
            raise ValueError("no column 'label'")
        return None
    except (ValueError, OSError) as error:
        reason = " ".join(str(error).split())
        raise VideoError(sample.path, f"values per frame {sample.frame_values.name}: {reason}") from None


def _class_indices(texts: pd.Series, label_names: tuple[str, ...]) -> NDArray[np.int64]:
    """Class indices of texts, each the name or the number of a class; -1 for an empty cell."""
    class_of = {str(number): number for number in range(len(label_names))}
    class_of |= {name: number for number, name in enumerate(label_names)} | {"": -1}
    unknown = texts[~texts.isin(list(class_of))]
    if len(unknown):
        raise ValueError(f"'{unknown.iloc[0]}' is not a known label; known are {', '.join(label_names)}")
    return np.asarray(texts.map(class_of), np.int64)


def targets_of_frames(manifest: Manifest, sample: Sample, frames: NDArray[np.int64]) -> Targets:
    """Targets of the given frames (T,): values (T, K) float32 or labels (T,) int64.

    A sample with one target for all its frames has it repeated. Raises `VideoError` if a frame has no target.
    """
    targets = frame_targets(manifest, sample)
    if targets is None:
        return np.repeat(clip_target(manifest, sample)[None], len(frames), axis=0)
    where = "" if sample.frame_values is None else f" {sample.frame_values.name}"
    if frames.max() >= len(targets):
        raise VideoError(
            sample.path, f"values per frame{where}: {len(targets)} rows, but frame {frames.max()} is needed"
        )
    chosen = targets[frames]
    if not np.isfinite(chosen).all() or (manifest.dimensions is None and chosen.min() < 0):
        raise VideoError(sample.path, f"values per frame{where}: some are missing or not finite")
    return chosen


def clip_target(manifest: Manifest, sample: Sample) -> Targets:
    """Target of a whole clip: values (K,) float32 or a label () int64."""
    if manifest.dimensions is not None:
        return np.array(sample.values or (), np.float32)
    return np.array(sample.label, np.int64)


def all_targets(manifest: Manifest, frame_level: bool) -> Targets:
    """All targets of a manifest, of clips or with frame_level of frames: labels (N,) int64 or values (N, K) float32.

    frame_level: frames without a target are left out, and so are videos whose `frame_values` file cannot be read, which
    training counts as unreadable. Raises `UserError` if nothing is left.
    """
    if not frame_level:
        return np.stack([clip_target(manifest, sample) for sample in manifest])
    found: list[Targets] = []
    reason = ""
    for sample in track(manifest, "reading values per frame"):
        try:
            targets = frame_targets(manifest, sample)
        except VideoError as error:
            reason = error.reason
            continue
        targets = clip_target(manifest, sample)[None] if targets is None else targets
        known = targets >= 0 if targets.ndim == 1 else np.isfinite(targets).all(axis=1)
        found.append(targets[known])
    if not sum(map(len, found)):
        raise UserError(f"{manifest.path}: no video has values per frame; {reason or 'all are empty'}")
    return np.concatenate(found)
