"""Which videos fit the readers and which are scored: whole people, never the same ones in both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from svfap.console import counted
from svfap.data.manifest import Manifest, read_manifest
from svfap.data.manifest_rows import TEXT_COLUMNS, LabelError, ManifestError
from svfap.data.prepared import PreparedDataset, read_dataset
from svfap.data.split import units_of
from svfap.data.targets import frame_dimensions, with_frame_values
from svfap.errors import UserError
from svfap.metric_table import SupervisedTask
from svfap.probe.config import ProbeConfig
from svfap.probe.samples import Fold, group_folds


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

    @property
    def task(self) -> SupervisedTask:
        return "classification" if self.manifest.dimensions is None else "regression"

    @property
    def num_classes(self) -> int | None:
        """Of all videos, also where the part that fits has no video of the last class; None for values."""
        return len(self.names) if self.task == "classification" else None

    def units(self, rows: NDArray[np.int64]) -> str:
        """What keeps these rows apart, in words: "people"; or "subjects", "groups", "sources", "files", whichever there are."""
        if self.known:
            return "people"
        words = {name.split(" ")[0] for name in map(str, self.people[rows])} & {"subject", "group", "source"}
        other = any(not str(name).startswith(tuple(f"{word} " for word in words)) for name in self.people[rows])
        return " and ".join(f"{word}s" for word in [*sorted(words), *(["file"] if other else [])])

    def described(self, rows: NDArray[np.int64]) -> str:
        """How many videos these rows are, and of how many people: "49 videos of 7 people"."""
        unit, number = self.units(rows), len(set(self.people[rows]))
        return f"{counted(len(rows), 'video')} of {counted(number, 'person' if unit == 'people' else unit, unit)}"

    def with_splits(self, splits: Sequence[Fold]) -> Parts:
        """The same videos, divided otherwise."""
        return replace(self, splits=splits)

    def targets(self) -> NDArray[Any]:
        """Classes (N,) int64 or values (N, K) float64 of the videos."""
        labels = self.manifest.labels
        if labels is not None and self.task == "classification":
            return labels
        return self.manifest.table[list(self.names)].to_numpy(np.float64)


def read_parts(config: ProbeConfig) -> Parts:
    """The videos that the settings name.

    Raises `UserError` for data that cannot be used: for people or files in both parts, for a manifest in which only some rows
    have a subject, without subjects where a manifest alone is to be divided by people, for too few people to choose a reader's
    settings on, and for a single class.
    """
    parts = _of_dataset(config) if config.dataset is not None else _of_manifests(config)
    for fit, _ in parts.splits:
        require_people(f"{config.dataset or config.manifest}", parts, fit, 2)
    require_classes(parts)
    return parts


def _of_dataset(config: ProbeConfig) -> Parts:
    assert config.dataset is not None
    prepared = read_dataset(config.dataset)
    how = manifest_options(config, prepared)
    fold = prepared.fold(config.fold)
    if fold.test is None:
        raise UserError(f"{config.dataset}: fold {fold.name} has no test part; give `manifest` and `test_manifest`")
    root = config.root or prepared.root
    fit = [read_manifest(path, root=root, **how) for path in (fold.train, fold.val) if path is not None]
    test = read_manifest(fold.test, root=root, **how)
    _require_subjects(*fit, test)
    title = prepared.title + (f", fold {fold.name}" if len(prepared.folds) > 1 else "")
    return make_parts(fit, [test], title, frame_level=how["frame_level"])


def _of_manifests(config: ProbeConfig) -> Parts:
    assert config.manifest is not None
    how = manifest_options(config, None)
    first = read_manifest(config.manifest, root=config.root, split=config.split, **how)
    title, level = config.manifest.name, how["frame_level"]
    if level:
        how["dimensions"] = frame_dimensions(first, config.dimensions)
        first = read_manifest(config.manifest, root=config.root, split=config.split, **how)
    how |= {"label_names": first.label_names} if first.label_names else {"dimensions": first.dimensions}
    if not config.by_video:
        _require_subjects(first)
    if config.cross_validates:
        parts = make_parts([first], [], title, frame_level=level)
        if not parts.known and not config.by_video:
            raise UserError(
                f"{config.manifest}: no subject for all rows, so people cannot be kept apart; add a column 'subject', give a "
                "test part, or accept --by_video (the same person may then be in both parts, and scores too high)"
            )
        require_people(f"{config.manifest}", parts, np.arange(len(first)), 3)
        labels = None if first.dimensions is not None else first.labels
        splits = group_folds(parts.people, labels, config.num_folds, config.seed)
        return parts.with_splits(splits)
    try:
        test = read_manifest(config.test_manifest or config.manifest, root=config.root, split=config.test_split, **how)
    except LabelError as error:
        raise LabelError(f"{error}. The classes are those of the part that fits the readers, {first.path}") from None
    _require_subjects(test)
    scored = config.test_manifest.name if config.test_manifest else f"its split {config.test_split}"
    title += f", split {config.split}," if config.split else ""
    return make_parts([first], [test], f"{title} and {scored}", frame_level=level)


def require_classes(parts: Parts) -> None:
    """Raise `UserError` if all videos that fit readers, or all that are scored, are of one class."""
    if parts.task == "regression":
        return
    labels, scored = parts.targets(), np.concatenate([test for _, test in parts.splits])
    for what, rows in [*(("fits the readers", fit) for fit, _ in parts.splits), ("is scored", scored)]:
        if len(found := set(labels[rows])) == 1:
            name = parts.names[found.pop()]
            raise UserError(
                f"{parts.title}: all videos of the part that {what} are of class '{name}'; at least 2 classes are needed"
            )


def _require_subjects(*manifests: Manifest) -> None:
    """Raise `ManifestError` for a manifest in which only some rows have a subject."""
    for manifest in manifests:
        subjects = manifest.subjects
        if subjects is not None and (missing := np.flatnonzero(subjects == "")).size:
            more = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
            raise ManifestError(
                f"{manifest.path}: row of {manifest[int(missing[0])].key}{more}, column 'subject': is empty, and other rows "
                "have one; name the person shown in every row, or remove the column (people are then not known)"
            )


def require_people(where: str, parts: Parts, rows: NDArray[np.int64], least: int) -> None:
    """Raise `UserError` that names the data if these rows show fewer people, or units in their place, than that."""
    if (number := len(set(parts.people[rows]))) < least:
        where += ", column 'subject'" if parts.known else ""
        unit = "people" if parts.known else f"{parts.kind}s"
        why = "to fit readers on some and choose their settings on others" + ", and to score further ones" * (least > 2)
        raise UserError(f"{where}: videos of at least {least} {unit} are needed, not of {number}, {why}")


def make_parts(fit: Sequence[Manifest], test: Sequence[Manifest], title: str, *, frame_level: bool = False) -> Parts:
    """The parts of manifests that fit and that are scored. Raises `UserError` for people or files in both."""
    manifest = joined([*fit, *test])
    if frame_level:
        manifest = with_frame_values(manifest)
    number = sum(map(len, fit))
    units, files = (units_of(table, manifest.root) for table in (manifest.table, manifest.table[["path"]]))
    people = np.array(units.names, dtype=object)[units.of]
    subjects = manifest.subjects
    known = subjects is not None and all(subjects)
    paths = np.array(files.names, dtype=object)[files.of]
    pieces = manifest.table[[name for name in ("start_s", "box_x") if name in manifest.table]].notna().any(axis=1)
    # A group, and different pieces of a file, such as of a film, may well be in both parts of an official split.
    groups = np.array([str(name).startswith("group ") for name in people])
    if shared := _in_both(people, groups, number) or _in_both(paths, pieces.to_numpy(), number):
        raise UserError(
            f"{title}: {shared[0]} is in both the part that fits the readers and the part that is scored "
            f"({len(shared)} such); people and files must be in one of them only, so choose other parts"
        )
    rows = np.arange(len(manifest))
    splits = [(rows[:number], rows[number:])] if test else []
    return Parts(manifest, splits, people, known, units.kind, title, frame_level)


def _in_both(names: NDArray[np.object_], may: NDArray[np.bool_], number: int) -> list[object]:
    """Names that occur among the first `number` and after them, unless all of these rows `may`."""
    fit, test = {*names[:number]}, {*names[number:]}
    return sorted(fit & test & {*names[~may]}, key=str)


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
            given = "task" if config.task else "dimensions" if config.dimensions else "frame_level"
            fix = f"give the manifest of one of its parts as `manifest` for {task}"
            raise UserError(f"{given}: is for {task}, and {prepared.title} for {prepared.task}; leave it out, or {fix}")
        task, frame_level = prepared.task, frame_level or (prepared.frame_level and prepared.task == "regression")
        label_range, names = label_range or prepared.label_range, names or list(prepared.label_names) or None
        if stray := [name for name in config.dimensions or () if name not in prepared.label_names]:
            known = ", ".join(prepared.label_names)
            raise UserError(f"dimensions: {prepared.title} has no {stray[0]!r}; it has {known}")
    if not frame_level and (config.invalid_marks or config.label_range):
        given = "invalid_marks" if config.invalid_marks else "label_range"
        raise UserError(f"{given}: is about values of frames; give it with `frame_level`, or leave it out")
    how: dict[str, Any] = {"task": task, "frame_level": frame_level}
    if names:
        how["label_names" if task == "classification" else "dimensions"] = names
    return how | {"invalid_marks": config.invalid_marks, "label_range": label_range}
