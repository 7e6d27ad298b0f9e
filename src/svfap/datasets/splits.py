"""Splits that are made here, not by a dataset's authors: no subject, group, source or file is in two parts."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

from svfap.data.split import Units, hold_out, units_of
from svfap.datasets.dataset import ClipRow
from svfap.errors import UserError


def units_of_rows(rows: Sequence[ClipRow], root: Path, *, ignore_subjects: bool = False) -> Units:
    """The units that a split of these rows may not divide; see `svfap.data.split.units_of`."""
    columns = {name: [getattr(row, name) or "" for row in rows] for name in ("path", "subject", "group")}
    table = pd.DataFrame(columns | {"source": [row.extra.get("source", "") for row in rows]}, dtype=object)
    return units_of(table, root, ignore_subjects=ignore_subjects)


def folds_of_rows(rows: Sequence[ClipRow], root: Path, folds: int, seed: int) -> NDArray[np.int64]:
    """The fold, from 1, that tests each row, (N,) int64: classes in equal shares. Raises `UserError` for too few rows."""
    units, labels = units_of_rows(rows, root), _labels(rows)
    whole = units.num < len(rows)
    if folds > units.num:
        raise UserError(f"folds={folds}: there are only {units.num} {f'{units.kind}s' if whole else 'clips'}")
    if folds > (largest := np.bincount(labels).max()):
        raise UserError(f"folds={folds}: no class has that many clips, the largest {largest}; make fewer folds")
    fold_of = np.zeros(len(rows), np.int64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # about classes with fewer clips than folds
        splitter = (StratifiedGroupKFold if whole else StratifiedKFold)(folds, shuffle=True, random_state=seed)
        for fold, (_, tested) in enumerate(splitter.split(labels, labels, units.of), 1):
            fold_of[tested] = fold
    return fold_of


def tested_rows(rows: Sequence[ClipRow], root: Path, fraction: float, seed: int) -> NDArray[np.bool_]:
    """(N,) bool, true for about `fraction` of the rows; see `svfap.data.split.hold_out`. Raises `UserError` for too few rows."""
    if not fraction:
        return np.zeros(len(rows), bool)
    units = units_of_rows(rows, root)
    tested = hold_out(len(rows), fraction, seed, units, _labels(rows))
    if not tested.any() or tested.all():
        few = f"only one {units.kind}" if units.num < len(rows) else "too few clips"
        raise UserError(f"test_fraction: {few} to divide; give `split_column` or --test_fraction 0")
    return tested


def _labels(rows: Sequence[ClipRow]) -> NDArray[np.int64]:
    return np.unique([row.label or "" for row in rows], return_inverse=True)[1]
