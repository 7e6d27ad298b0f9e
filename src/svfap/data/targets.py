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
    """Targets of all F pictures of a video, in order of presentation: values (F, K) float32, NaN if missing, or labels (F,) int64, -1 if missing.

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
            names = manifest.label_names or ()
            numbers = [*enumerate(names)]
            class_of = {str(n): n for n, _ in numbers} | {name: n for n, name in numbers} | {"": -1}
            classes = table["label"].str.strip().map(class_of)
            if classes.isna().any():
                unknown = table["label"][classes.isna()].iloc[0].strip()
                raise ValueError(f"'{unknown}' is not a known label; known are {', '.join(names)}")
            return classes.to_numpy(np.int64)
        if sample.label is None:
            raise ValueError("no column 'label'")
        return None
    except (ValueError, OSError) as error:
        reason = " ".join(str(error).split())
        raise VideoError(sample.path, f"values per frame {sample.frame_values.name}: {reason}") from None


def target_of(manifest: Manifest, sample: Sample, frames: NDArray[np.int64] | None = None) -> Targets:
    """Target of a whole clip, values (K,) float32 or a label () int64; with frames (T,) their targets, (T, K) or (T,).

    frames: numbers of pictures, as in `VideoSource.read`. A sample with one target for all of them has it repeated. Raises `VideoError` if a frame has no target.
    """
    targets = None if frames is None else frame_targets(manifest, sample)
    if frames is None or targets is None:
        whole = sample.label if manifest.dimensions is None else sample.values or ()
        target = np.array(whole, np.int64 if manifest.dimensions is None else np.float32)
        return target if frames is None else np.repeat(target[None], len(frames), axis=0)
    where = "values per frame" + ("" if sample.frame_values is None else f" {sample.frame_values.name}")
    if frames.max() >= len(targets):
        raise VideoError(sample.path, f"{where}: {len(targets)} rows, but frame {frames.max()} is needed")
    chosen = targets[frames]
    if not _is_known(chosen).all():
        raise VideoError(sample.path, f"{where}: some are missing or not finite")
    return chosen


def _is_known(targets: Targets) -> NDArray[np.bool_]:
    """(F,) bool, false for frames without a label or with a missing value."""
    return np.asarray(targets >= 0 if targets.ndim == 1 else np.isfinite(targets).all(axis=1))


def all_targets(manifest: Manifest, frame_level: bool) -> Targets:
    """All targets of a manifest, of clips or with frame_level of frames: labels (N,) int64 or values (N, K) float32.

    frame_level: frames without a target are left out, and so are videos whose `frame_values` file cannot be read, which
    training counts as unreadable. Raises `UserError` if nothing is left.
    """
    if not frame_level:
        return np.stack([target_of(manifest, sample) for sample in manifest])
    found, reason = [], ""
    for sample in track(manifest, "reading values per frame"):
        try:
            targets = frame_targets(manifest, sample)
        except VideoError as error:
            reason = error.reason
        else:
            targets = target_of(manifest, sample)[None] if targets is None else targets
            found.append(targets[_is_known(targets)])
    if not any(map(len, found)):
        raise UserError(f"{manifest.path}: no video has values per frame; {reason or 'all are empty'}")
    return np.concatenate(found)
