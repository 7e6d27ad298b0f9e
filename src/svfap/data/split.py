"""Split a manifest into training and held-out parts by whole subjects, groups or files; take a fraction of its samples."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from svfap.console import say
from svfap.data.find import same_text
from svfap.data.manifest import Manifest
from svfap.data.manifest_rows import ManifestError
from svfap.files import printable

UNITS = {"subject": "subject", "group": "group", "source": "source", "path": "file"}  # column -> what it names
MAX_DRAWS, MAX_SWAPS, MAX_COMPARED = 50, 100, 200


class Units(NamedTuple):
    """What a split does not divide.

    of: (N,) int64, the unit of each sample, from 0. kind: what most are, in words. names: of the units, such as "subject 7".
    """

    of: NDArray[np.int64]
    kind: str
    names: Sequence[str]

    @property
    def num(self) -> int:
        return int(self.of.max()) + 1 if len(self.of) else 0


def units_of(table: pd.DataFrame, root: Path, *, ignore_subjects: bool = False) -> Units:
    """The units of a table's rows: rows with the same subject; without one the same group, else source, else path.

    table: as `Manifest.table`; the columns `subject`, `group` and `source` (the video a face was cropped from, as
    `svfap crop` writes it) may be missing, and '' is unknown. A row without a subject or group gets that of another row of
    the same file. root: folder that paths are relative to. ignore_subjects: leave out the column `subject`.
    """
    path = table["path"].map(lambda text: printable(os.path.abspath(root / same_text(text))))
    file, unit, kind = path, path, "path"
    for column in ("source", "group", "subject"):
        if column not in table or (column == "subject" and ignore_subjects):
            continue
        text = table[column].astype(object).where(table[column] != "")
        if column != "source":
            text = text.fillna(file.map(text.groupby(file).first()))
        if text.notna().any():
            kind = column
            unit = (UNITS[column] + " " + text).fillna(unit)
        file = unit if column == "source" else file
    number, names = pd.factorize(unit)
    return Units(number.astype(np.int64), UNITS[kind], list(names))


def carve_validation(manifest: Manifest, fraction: float, seed: int) -> tuple[Manifest, Manifest]:
    """Split into (training, validation), with about `fraction` of the samples in validation; deterministic for a seed.

    No subject, group, source or file is in both parts; see `units_of` and `hold_out`. Raises `ManifestError` if a part would
    be empty.
    """
    if not 0 < fraction < 1:
        raise ManifestError(f"{manifest.path}: validation fraction {fraction} is not between 0 and 1")
    units = units_of(manifest.table, manifest.root)
    held_out = hold_out(len(manifest), fraction, seed, units, _strata(manifest))
    if not held_out.any() or held_out.all():
        few = f"only one {units.kind}" if units.num < len(manifest) else f"{len(manifest)} samples are too few"
        raise ManifestError(f"{manifest.path}: {few} to divide; give a validation manifest or split")
    return manifest.subset(np.flatnonzero(~held_out)), manifest.subset(np.flatnonzero(held_out))


def take_fraction(manifest: Manifest, fraction: float, seed: int) -> Manifest:
    """About `fraction` of the samples of each class, at least one, in the manifest's order (Fig. 7; Table 1 without classes).
    Of a joined manifest, of each class of each of its manifests.

    Samples are drawn one by one, not as whole units. For the same seed a larger fraction contains the smaller ones. Raises
    `ManifestError` if the fraction is not above 0 and at most 1.
    """
    if not 0 < fraction <= 1:
        raise ManifestError(f"{manifest.path}: fraction {fraction} must be above 0 and at most 1")
    found = _strata(manifest)
    strata = pd.Series(np.zeros(len(manifest), np.int64) if found is None else found)
    shuffled = strata[np.random.default_rng(seed).permutation(len(manifest))]
    rank = shuffled.groupby(shuffled).cumcount().sort_index().to_numpy()  # rank within its class in the shuffled order
    counts = strata.map(strata.value_counts()).to_numpy()
    return manifest.subset(np.flatnonzero(rank < np.maximum(np.floor(counts * fraction + 0.5), 1)))


def _strata(manifest: Manifest) -> NDArray[np.int64] | None:
    """Of each sample its class, with several heads its classes together, of a joined manifest its class in its manifest; None
    where there is nothing to tell apart."""
    labels, mixture = manifest.labels, manifest.mixture
    if found := [head.labels for head in manifest.heads.values() if head.labels is not None]:
        labels = np.unique(np.stack(found, axis=1), axis=0, return_inverse=True)[1].ravel()
    if mixture is None:
        return labels
    return mixture.of if labels is None else (labels + 1) * len(mixture.paths) + mixture.of


def hold_out(
    num: int, fraction: float, seed: int, units: Units | None = None, labels: NDArray[np.int64] | None = None
) -> NDArray[np.bool_]:
    """Choose about `fraction` of `num` samples: (num,) bool. Whole units, each class in its share as far as possible.

    If every sample is a unit, or units is None, the number of samples and each class's share are exact. Otherwise units are
    drawn at random several times, the draw with the nearest numbers of samples and classes is taken, and swaps with other
    units improve it. A unit larger than the part asked for stays in the other part, unless there is no smaller one. A message
    names it if the part is far from what was asked for, or nothing else stays. labels: (num,) int64. All or no samples are
    chosen if there is one unit.
    """
    if units is not None and units.num < num:
        smaller = _whole_units(units, min(fraction, 1 - fraction), seed, labels)
        held_out = ~smaller if fraction > 0.5 else smaller
        if units.num > 1:
            _say_too_large(units, held_out, fraction * num, is_alone=len(np.unique(units.of[~smaller])) == 1)
        return held_out
    rng = np.random.default_rng(seed)
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


def _whole_units(units: Units, fraction: float, seed: int, labels: NDArray[np.int64] | None) -> NDArray[np.bool_]:
    """(N,) bool: units that hold about `fraction`, at most one half, of the samples; none if there is a single unit."""
    if units.num < 2:
        return np.zeros(len(units.of), bool)
    rng, sizes = np.random.default_rng(seed), np.bincount(units.of)
    classes = np.zeros(len(units.of), np.int64) if labels is None else np.unique(labels, return_inverse=True)[1]
    counts = np.zeros((units.num, classes.max() + 1), np.int64)
    np.add.at(counts, (units.of, classes), 1)
    wanted = fraction * counts.sum(axis=0)
    best, least = np.empty(0, np.int64), np.inf
    for _ in range(MAX_DRAWS):
        drawn = _fill(rng.permutation(units.num), sizes, wanted.sum())
        # A part that a single unit dominates is worse: it says little about others.
        distance = _distance(counts[drawn].sum(axis=0), wanted) + max(sizes[drawn].max() / sizes[drawn].sum() - 0.5, 0)
        if distance < least:
            best, least = drawn, distance
        if least == 0:
            break
    return np.isin(units.of, _swapped(best, counts, wanted, rng))


def _say_too_large(units: Units, held_out: NDArray[np.bool_], due: float, is_alone: bool) -> None:
    """Name the largest unit if far more or fewer samples than `due` are held out, or if it is alone in the larger part."""
    held, sizes, kind = int(held_out.sum()), np.bincount(units.of), units.kind
    is_far = not due / 1.5 <= held <= due * 1.5 and abs(held - due) > 1
    if is_far or (is_alone and units.num > 2):
        text = f"{held} of {len(held_out)} samples are set aside" + (f", in place of {due:.0f}" if is_far else "")
        text += f": no {kind} is divided, and the largest has {sizes.max()} ({units.names[int(sizes.argmax())]})"
        text += ", alone in its part; " if is_alone else "; "
        text += "if it is several people, name each apart; else " if kind == "subject" else ""
        say(f"{text}leave out some of its samples, or choose the parts yourself")


def _fill(order: NDArray[np.int64], sizes: NDArray[np.int64], wanted: float) -> NDArray[np.int64]:
    """The units in this order that fit into `wanted` samples; one more if that comes nearer, or if none fits the smallest."""
    taken, space, rest = [], wanted, order
    while len(rest := rest[sizes[rest] <= space]):
        fitting = rest[: np.searchsorted(np.cumsum(sizes[rest]), space, side="right")]
        taken.append(fitting)
        space, rest = space - int(sizes[fitting].sum()), rest[len(fitting) :]
    if not taken:
        return order[[sizes[order].argmin()]]
    drawn = np.concatenate(taken)
    others = order[~np.isin(order, drawn)]
    nearer = others[(sizes[others] < 2 * space) & (sizes[others] - space <= wanted / 2) & (sizes[others] <= wanted)]
    return np.append(drawn, nearer[0]) if len(nearer) and len(others) > 1 else drawn


def _swapped(
    drawn: NDArray[np.int64], counts: NDArray[np.int64], wanted: NDArray[np.float64], rng: np.random.Generator
) -> NDArray[np.int64]:
    """The drawn units after swaps with others that bring the classes nearer, and the number of samples no further away."""
    drawn = drawn.copy()
    for _ in range(MAX_SWAPS):
        held = counts[drawn].sum(axis=0)
        inside = rng.permutation(len(drawn))[:MAX_COMPARED]  # places in `drawn`
        outside = rng.permutation(np.setdiff1d(np.arange(len(counts)), drawn))[:MAX_COMPARED]
        swapped = held + counts[outside][None] - counts[drawn[inside]][:, None]  # (inside, outside, classes)
        distance = _distance(swapped, wanted)
        distance[np.abs(swapped.sum(axis=-1) - wanted.sum()) > abs(held.sum() - wanted.sum())] = np.inf
        row, column = np.unravel_index(distance.argmin(), distance.shape)
        if distance[row, column] >= _distance(held, wanted):
            break
        drawn[inside[row]] = outside[column]
    return drawn


def _distance(held: NDArray[np.int64], wanted: NDArray[np.float64]) -> NDArray[np.float64]:
    """How far numbers of samples of each class, (..., classes), are from those that are wanted, (classes,).

    A class may be off by one sample, as a number of whole samples must be, but not absent if one is due.
    """
    total = (held.sum(axis=-1) / wanted.sum() - 1) ** 2
    off = np.maximum(np.abs(held - wanted) - 1, 0)
    absent = ((held == 0) & (wanted >= 1)).sum(axis=-1)
    return np.asarray(total + (off**2 / wanted).sum(axis=-1) / wanted.sum() + absent)
