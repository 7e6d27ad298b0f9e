"""Divide a manifest: validation, test and training parts without a shared subject, and fractions of training."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from svfap.data.manifest import Manifest, ManifestError


def carve_validation(manifest: Manifest, fraction: float, seed: int) -> tuple[Manifest, Manifest]:
    """Split into (training, validation) with about `fraction` of the samples in the latter; the same for the same seed.

    Where subjects are known none lies on both sides (a sample of unknown subject counts as one of its own); otherwise
    each class keeps its share. Raises ManifestError where one part would be empty.
    """
    if not 0 < fraction < 1:
        raise ManifestError(f"{manifest.path}: validation fraction {fraction} is not between 0 and 1")
    held_out = hold_out(len(manifest), fraction, seed, manifest.subjects, manifest.labels)
    if not held_out.any() or held_out.all():
        few = "only one subject" if manifest.subjects is not None else f"{len(manifest)} samples are too few"
        raise ManifestError(f"{manifest.path}: {few} to divide; give a validation manifest or split")
    return manifest.subset(np.flatnonzero(~held_out)), manifest.subset(np.flatnonzero(held_out))


def take_fraction(manifest: Manifest, fraction: float, seed: int) -> Manifest:
    """About `fraction` of each class's samples, one at least, in the manifest's order (Fig. 7; Table 1 without classes).

    One seeded order of the samples serves every fraction, so for the same seed a larger part holds the smaller ones.
    Raises ManifestError where the fraction is not above 0 and at most 1.
    """
    if not 0 < fraction <= 1:
        raise ManifestError(f"{manifest.path}: fraction {fraction} must be above 0 and at most 1")
    strata = pd.Series(manifest.labels if manifest.labels is not None else np.zeros(len(manifest), np.int64))
    shuffled = strata[np.random.default_rng(seed).permutation(len(manifest))]
    rank = shuffled.groupby(shuffled).cumcount().sort_index().to_numpy()  # place within its class, in the seeded order
    counts = strata.map(strata.value_counts()).to_numpy()
    return manifest.subset(np.flatnonzero(rank < np.maximum(np.floor(counts * fraction + 0.5), 1)))


def hold_out(
    num: int,
    fraction: float,
    seed: int,
    subjects: NDArray[np.object_] | None = None,
    labels: NDArray[np.int64] | None = None,
) -> NDArray[np.bool_]:
    """(num,) bool, true for about `fraction` of the samples: whole subjects where known, else a share of each class.

    subjects: (num,) names, '' where unknown. labels: (num,). All false or all true where there is nothing to divide.
    """
    rng = np.random.default_rng(seed)
    if subjects is not None:
        return _hold_out_subjects(subjects, fraction, rng)
    return _hold_out_stratified(np.zeros(num, np.int64) if labels is None else labels, fraction, rng)


def _hold_out_subjects(subjects: NDArray[np.object_], fraction: float, rng: np.random.Generator) -> NDArray[np.bool_]:
    own = np.array([text or f"\0{row}" for row, text in enumerate(subjects)], object)
    codes, names = pd.factorize(own)
    order = rng.permutation(len(names))
    totals = np.cumsum(np.bincount(codes, minlength=len(names))[order])
    # One to all but one of the subjects: as many as come closest to the fraction.
    num_held = 1 + int(np.argmin(np.abs(totals[:-1] - fraction * len(own)))) if len(names) > 1 else 0
    return np.isin(codes, order[:num_held])


def _hold_out_stratified(labels: NDArray[np.int64], fraction: float, rng: np.random.Generator) -> NDArray[np.bool_]:
    num = len(labels)
    shuffled = rng.permutation(num)
    by_class = shuffled[np.argsort(labels[shuffled], kind="stable")]
    # Every 1/fraction-th along the classes gives each class its share, and the total exactly.
    steps = np.floor(np.arange(num + 1) * fraction + 0.5)
    held_out = np.zeros(num, bool)
    held_out[by_class[np.diff(steps) > 0]] = True
    if num > 1 and held_out.any() == held_out.all():  # none or all of them
        held_out[by_class[num // 2]] ^= True
    return held_out
