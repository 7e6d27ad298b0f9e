"""Split a manifest: training and held-out parts that share no subject, and fractions of the training samples."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from svfap.data.manifest import Manifest, ManifestError


def carve_validation(manifest: Manifest, fraction: float, seed: int) -> tuple[Manifest, Manifest]:
    """Split into (training, validation), with about `fraction` of the samples in validation; deterministic for a seed.

    If subjects are known no subject is in both parts (each sample without a subject counts as a subject of its own);
    otherwise the split is stratified by class. Raises `ManifestError` if a part would be empty.
    """
    if not 0 < fraction < 1:
        raise ManifestError(f"{manifest.path}: validation fraction {fraction} is not between 0 and 1")
    held_out = hold_out(len(manifest), fraction, seed, manifest.subjects, manifest.labels)
    if not held_out.any() or held_out.all():
        few = "only one subject" if manifest.subjects is not None else f"{len(manifest)} samples are too few"
        raise ManifestError(f"{manifest.path}: {few} to divide; give a validation manifest or split")
    return manifest.subset(np.flatnonzero(~held_out)), manifest.subset(np.flatnonzero(held_out))


def take_fraction(manifest: Manifest, fraction: float, seed: int) -> Manifest:
    """About `fraction` of the samples of each class, at least one, in the manifest's order (Fig. 7; Table 1 without classes).

    For the same seed a larger fraction contains the smaller ones. Raises `ManifestError` if the fraction is not above 0 and
    at most 1.
    """
    if not 0 < fraction <= 1:
        raise ManifestError(f"{manifest.path}: fraction {fraction} must be above 0 and at most 1")
    strata = pd.Series(manifest.labels if manifest.labels is not None else np.zeros(len(manifest), np.int64))
    shuffled = strata[np.random.default_rng(seed).permutation(len(manifest))]
    rank = shuffled.groupby(shuffled).cumcount().sort_index().to_numpy()  # rank within its class in the shuffled order
    counts = strata.map(strata.value_counts()).to_numpy()
    return manifest.subset(np.flatnonzero(rank < np.maximum(np.floor(counts * fraction + 0.5), 1)))


def hold_out(
    num: int,
    fraction: float,
    seed: int,
    subjects: NDArray[np.object_] | None = None,
    labels: NDArray[np.int64] | None = None,
) -> NDArray[np.bool_]:
    """Choose about `fraction` of `num` samples: (num,) bool. Whole subjects if they are known, else stratified by class.

    subjects: (num,) names, '' if unknown. labels: (num,) int64. All or no samples are chosen if they cannot be divided.
    """
    rng = np.random.default_rng(seed)
    if subjects is not None:
        codes, names = pd.factorize(np.array([text or f"\0{row}" for row, text in enumerate(subjects)], object))
        order = rng.permutation(len(names))
        totals = np.cumsum(np.bincount(codes, minlength=len(names))[order])
        # The number of subjects, from one to all but one, whose samples come closest to the fraction.
        num_held = 1 + int(np.argmin(np.abs(totals[:-1] - fraction * num))) if len(names) > 1 else 0
        return np.isin(codes, order[:num_held])
    by_class = rng.permutation(num)
    if labels is not None:
        by_class = by_class[np.argsort(labels[by_class], kind="stable")]
    # Every (1 / fraction)-th sample in order of class: each class gets its share, and the total is exact.
    steps = np.floor(np.arange(num + 1) * fraction + 0.5)
    held_out = np.zeros(num, bool)
    held_out[by_class[np.diff(steps) > 0]] = True
    if num > 1 and held_out.any() == held_out.all():  # none or all were chosen
        held_out[by_class[num // 2]] ^= True
    return held_out
