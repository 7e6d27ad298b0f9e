"""Which videos fit the readers and which are scored: whole people, never the same ones in both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from svfap.data.manifest import TEXT_COLUMNS, Manifest, read_manifest
from svfap.data.prepared import PreparedDataset, read_dataset
from svfap.data.split import units_of
from svfap.data.targets import with_frame_values
from svfap.errors import UserError
from svfap.probe.config import ProbeConfig
from svfap.probe.readers import Fold, group_folds


@dataclass(frozen=True)
class Parts:
    """Videos with labels or values, and what fits and is scored.

    manifest: all videos. splits: pairs of rows, those that fit and those that are scored; the latter are distinct over the
    pairs. people: (N,) the person of each row, or where it is not known another unit that a split does not divide, such as
    the file. known: whether all people are known. kind: what most of the units are, in words. title: of the data.
    """

    manifest: Manifest
    splits: Sequence[Fold]
    people: NDArray[np.object_]
    known: bool
    kind: str
    title: str
    frame_level: bool = False

    @property
    def names(self) -> tuple[str, ...]:
        """The classes or dimensions."""
        return self.manifest.label_names or self.manifest.dimensions or ()

    def with_splits(self, splits: Sequence[Fold]) -> Parts:
        """The same videos, divided otherwise."""
        return replace(self, splits=splits)

    def targets(self) -> NDArray[Any]:
        """Classes (N,) int64 or values (N, K) float64 of the videos."""
        labels = self.manifest.labels
        if labels is not None and self.manifest.dimensions is None:
            return labels
        return self.manifest.table[list(self.names)].to_numpy(np.float64)


def read_parts(config: ProbeConfig) -> Parts:
    """The videos that the settings name.

    Raises `UserError` for data that cannot be used, for people in both parts, and without subjects where a manifest alone is
    to be divided by people.
    """
    if config.dataset is not None:
        prepared = read_dataset(config.dataset)
        how = manifest_options(config, prepared)
        fold = prepared.fold(config.fold)
        if fold.test is None:
            raise UserError(f"{config.dataset}: fold {fold.name} has no test part; give `manifest` and `test_manifest`")
        root = config.root or prepared.root
        fit = [read_manifest(path, root=root, **how) for path in (fold.train, fold.val) if path is not None]
        test = read_manifest(fold.test, root=root, **how)
        title = prepared.title + (f", fold {fold.name}" if len(prepared.folds) > 1 else "")
        return make_parts(fit, [test], title, frame_level=how["frame_level"])
    assert config.manifest is not None
    how = manifest_options(config, None)
    first = read_manifest(config.manifest, root=config.root, split=config.split, **how)
    names = {"label_names": first.label_names} if first.label_names else {"dimensions": first.dimensions}
    how |= names
    title, level = config.manifest.name, how["frame_level"]
    if config.cross_validates:
        parts = make_parts([first], [], title, frame_level=level)
        if not parts.known and not config.by_video:
            raise UserError(
                f"{config.manifest}: no subject for all rows, so people cannot be kept apart; add a column 'subject', give a "
                "test part, or accept --by_video (the same person may then be in both parts, and scores too high)"
            )
        labels = None if first.dimensions is not None else first.labels
        splits = group_folds(parts.people, labels, config.num_folds, config.seed)
        return parts.with_splits(splits)
    if config.test_manifest is not None:
        test = read_manifest(config.test_manifest, root=config.root, **how)
    else:
        test = read_manifest(config.manifest, root=config.root, split=config.test_split, **how)
    return make_parts([first], [test], title, frame_level=level)


def make_parts(fit: Sequence[Manifest], test: Sequence[Manifest], title: str, *, frame_level: bool = False) -> Parts:
    """The parts of manifests that fit and manifests that are scored. Raises `UserError` for people in both."""
    manifest = joined([*fit, *test])
    if frame_level:
        manifest = with_frame_values(manifest)
    number = sum(map(len, fit))
    units = units_of(manifest.table, manifest.root)
    people = np.array(units.names, dtype=object)[units.of]
    subjects = manifest.subjects
    known = subjects is not None and all(subjects)
    shared = sorted(set(people[:number]) & set(people[number:]))
    # A group, such as a film, may well be in both parts of an official split.
    if shared := [name for name in shared if not str(name).startswith("group ")]:
        raise UserError(
            f"{title}: {shared[0]} is in both the part that fits the readers and the part that is scored "
            f"({len(shared)} such); people must be in one of them only, so choose other parts"
        )
    rows = np.arange(len(manifest))
    splits = [(rows[:number], rows[number:])] if test else []
    return Parts(manifest, splits, people, known, units.kind, title, frame_level)


def joined(manifests: Sequence[Manifest]) -> Manifest:
    """The rows of several manifests of the same classes or dimensions as one."""
    first = manifests[0]
    if len(manifests) == 1:
        return first
    tables = [each.table if each.root == first.root else _absolute(each) for each in manifests]
    table = pd.concat(tables, ignore_index=True)
    for name in set(TEXT_COLUMNS) & set(table.columns):
        table[name] = table[name].fillna("")
    if "frame_numbers" in table:
        numbers = [each if isinstance(each, np.ndarray) else None for each in table["frame_numbers"]]
        table["frame_numbers"] = pd.Series(numbers, table.index, dtype=object)
    validity = first.invalid_marks, first.label_range
    return Manifest(first.path, first.root, table, first.label_names, first.dimensions, *validity)


def _absolute(manifest: Manifest) -> pd.DataFrame:
    """The table with absolute paths, for another root."""
    table = manifest.table.copy()
    root = manifest.root.absolute()
    for name in {"path", "frame_values"} & set(table.columns):
        table[name] = [str(root / Path(text)) if text else "" for text in table[name]]
    return table


def manifest_options(config: ProbeConfig, prepared: PreparedDataset | None) -> dict[str, Any]:
    """The arguments of `read_manifest`. Raises `UserError` for settings that do not go with the dataset."""
    values = bool(config.dimensions or config.frame_level)
    task = config.task or ("regression" if values else "classification")
    frame_level, label_range, names = config.frame_level, config.label_range, config.dimensions
    if prepared is not None:
        if prepared.task == "unlabelled":
            raise UserError(f"{config.dataset}: {prepared.title} has no labels to read")
        if (config.task or values) and task != prepared.task:
            raise UserError(f"task={task}: {prepared.title} is for {prepared.task}")
        task, frame_level = prepared.task, frame_level or (prepared.frame_level and prepared.task == "regression")
        label_range, names = label_range or prepared.label_range, names or list(prepared.label_names) or None
        if stray := [name for name in config.dimensions or () if name not in prepared.label_names]:
            known = ", ".join(prepared.label_names)
            raise UserError(f"dimensions: {prepared.title} has no {stray[0]!r}; it has {known}")
    how: dict[str, Any] = {"task": task, "frame_level": frame_level}
    if names:
        how["label_names" if task == "classification" else "dimensions"] = names
    return how | {"invalid_marks": config.invalid_marks, "label_range": label_range}
