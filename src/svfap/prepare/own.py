"""Reads anyone's own data as the options of `folder` say, and splits it."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import PurePosixPath

import numpy as np
from numpy.typing import NDArray

from svfap.data.manifest import RESERVED
from svfap.data.split import hold_out
from svfap.data.video import PICTURE_SUFFIXES
from svfap.errors import UserError
from svfap.prepare.dataset import Dataset, Part, Release, Row, cross_validation
from svfap.prepare.folder import Options

VIDEO_SUFFIXES = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".flv", ".m4v", ".mpg", ".mpeg", ".wmv", ".mts", ".3gp")
PASSED_ON = ("start_s", "end_s", "box", "frame_values")


def describe(dataset: Dataset, release: Release) -> Dataset:
    """The description of own data, its `read` included."""
    options: Options = release.options
    _check(options)
    if options.unlabelled:
        return replace(dataset, task="unlabelled", metrics=(), read=_read_unlabelled)
    if options.table is not None:
        return _adapt_to_table(dataset, release)
    clips = {name: list(_walk(release, name, True)) for name in release.scan(".")[1]}
    rows = [Row(path, name) for name, paths in clips.items() for path in paths]
    if not rows:
        raise release.unexpected("one folder of videos per class", "or give --table or --unlabelled true")
    names = _listed(options.label_names) or _sorted(row.label for row in rows)
    return replace(dataset, label_names=names, read=lambda release: _split(release, rows, on_disk=True))


def _check(options: Options) -> None:
    if options.unlabelled and (options.table or options.label_names):
        raise UserError("unlabelled=true: takes neither table nor label_names")
    if options.table is None:
        for name in (
            "label_column",
            "value_columns",
            "frame_values_column",
            "subject_column",
            "group_column",
            "split_column",
        ):
            if getattr(options, name) is not None:
                raise UserError(f"{name}: columns come with a table; give --table FILE.csv")
    for name in ("label_names", "value_columns"):
        if len(set(names := _listed(getattr(options, name)))) < len(names):
            raise UserError(f"{name}: a name stands twice in {', '.join(names)}; make them distinct")
    if options.label_names and options.table and not (options.label_column or options.frame_values_column):
        raise UserError("label_names: are the classes of label_column; give that as well")
    if options.value_columns and (options.label_column or options.label_names):
        raise UserError("label_column or label_names, and value_columns: one dataset has one task; give one of them")
    if options.frame_values_column and not (options.value_columns or options.label_column or options.label_names):
        raise UserError("frame_values_column: say what its files hold, with value_columns or label_names")
    if options.folds is not None and (options.split_column or options.folds < 2):
        raise UserError("folds: give 2 or more, and no split_column")
    if not 0 <= options.test_fraction < 1:
        raise UserError(f"test_fraction={options.test_fraction}: must be at least 0 and below 1")


def _walk(release: Release, folder: str, pictures: bool = False) -> Iterator[str]:
    """Videos and folders of frames below a folder, at any depth; pictures: those right in it are clips of their own."""
    files, folders = release.scan(folder)
    if not pictures and folder != "." and any(name.lower().endswith(PICTURE_SUFFIXES) for name in files):
        yield folder
        return
    for path in files:
        if path.lower().endswith((*VIDEO_SUFFIXES, *PICTURE_SUFFIXES)):
            yield path
        else:
            release.note("extra", path, "is neither a video nor a folder of frames")
    for below in folders:
        yield from _walk(release, below)


def _read_unlabelled(release: Release) -> Iterator[Part]:
    yield Part("pretrain", (Row(path) for path in _walk(release, ".")), on_disk=True)


def _adapt_to_table(dataset: Dataset, release: Release) -> Dataset:
    options: Options = release.options
    file = str(options.table.absolute())  # type: ignore[union-attr]
    values = _listed(options.value_columns)
    side = options.frame_values_column
    in_cells = () if side else values  # else they are columns of the side files
    named = {"label": options.label_column, "subject": options.subject_column, "group": options.group_column}
    needed = [options.path_column, *in_cells, *(name for name in (*named.values(), options.split_column, side) if name)]
    numbered = list(release.table(file, *needed))
    per_frame = _are_per_frame(release, file, numbered, in_cells)
    lines = [cells for _, cells in numbered]
    if reserved := [name for name in values if name in RESERVED]:
        raise UserError(f"value_columns: '{reserved[0]}' has a meaning of its own in manifests; rename the column")
    if not lines:
        raise UserError(f"table={options.table}: holds a header and no rows")
    passed_on = {name: name for name in PASSED_ON if name in lines[0] and name not in needed}
    passed_on |= {"frame_values": side} if side else {}

    def text(cells: dict[str, str], column: str | None) -> str | None:
        return (cells[column] or None) if column else None

    rows = [
        Row(
            path=str(PurePosixPath(cells[options.path_column])),
            values={name: _number(cells[name]) for name in in_cells} or None,
            more={name: cells[column] for name, column in passed_on.items() if cells[column]}
            | ({name: " ".join(cells[name].split()) for name in in_cells} if per_frame else {}),
            **{name: text(cells, column) for name, column in named.items()},
        )
        for cells in lines
    ]
    columns = (*(name for name in ("subject", "group") if named[name]), *passed_on)
    if not (options.label_column or values or side):
        unlabelled = replace(dataset, task="unlabelled", metrics=(), columns=columns)
        return replace(unlabelled, read=lambda release: [Part("pretrain", rows)])
    splits = [cells[options.split_column] for cells in lines] if options.split_column else None
    if strange := sorted(set(splits or ()) - {"train", "val", "test"}):
        raise UserError(
            f"table={options.table}: column '{options.split_column}' holds {strange[0]!r}; use train, val, test"
        )
    if splits and "train" not in splits:
        raise UserError(f"table={options.table}: no row has 'train' in column '{options.split_column}'")
    final = replace(
        dataset,
        columns=columns,
        frame_level=per_frame or side is not None,
        clip_truth=bool(options.label_column or in_cells),
        has_validation="val" in (splits or ()),
        subject_independent=splits is None,  # a split of one's own is taken as it is
        read=lambda release: _split(release, rows, splits),
    )
    if values:
        return replace(final, task="regression", label_names=values, metrics=("pcc", "ccc"))
    return replace(final, label_names=_listed(options.label_names) or _sorted(row.label for row in rows))


def _are_per_frame(
    release: Release, file: str, lines: Sequence[tuple[int, dict[str, str]]], names: Sequence[str]
) -> bool:
    """Whether any cell of these columns holds several numbers. Raises `UserError` where a line has not as many in each."""
    several = False
    for number, cells in lines:
        lengths = {len(cells[name].split()) for name in names if math.isfinite(_number(cells[name]))} - {1}
        if len(lengths) > 1:
            found = ", ".join(cells[name] for name in names)
            raise release.bad(file, number, found, f"as many numbers in each of {', '.join(names)}")
        several = several or bool(lengths)
    return several


def _split(
    release: Release, rows: Sequence[Row], splits: Sequence[str] | None = None, on_disk: bool = False
) -> Iterator[Part]:
    """The parts: as `splits` says, of a cross-validation, or training and a share for test; by subject where known."""
    options: Options = release.options
    if splits is not None:
        for part in (part for part in ("train", "val", "test") if part in splits):
            yield Part(part, [row for row, own in zip(rows, splits, strict=True) if own == part])
        return
    subjects = np.array([row.subject or "" for row in rows], object)
    labels = np.unique([row.label or "" for row in rows], return_inverse=True)[1]
    known = any(subjects)
    if options.folds is not None:
        fold_of = _folds(labels, subjects if known else None, options.folds, release.seed)
        for each in cross_validation(rows, fold_of, [str(fold + 1) for fold in range(options.folds)]):
            yield replace(each, on_disk=on_disk)
        return
    tested = np.zeros(len(rows), bool)
    if options.test_fraction:
        tested = hold_out(len(rows), options.test_fraction, release.seed, subjects if known else None, labels)
        if not tested.any() or tested.all():
            raise UserError(
                "test_fraction: too few clips or subjects to divide; give split_column or --test_fraction 0"
            )
    yield Part("train", [row for row, test in zip(rows, tested, strict=True) if not test], on_disk=on_disk)
    if tested.any():
        yield Part("test", [row for row, test in zip(rows, tested, strict=True) if test], on_disk=on_disk)


def _folds(labels: NDArray[np.int64], subjects: NDArray[np.object_] | None, folds: int, seed: int) -> list[str]:
    """For each clip the fold it is tested in: classes in equal shares, and each subject in one fold."""
    from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold  # slow to import

    fold_of = np.zeros(len(labels), np.int64)
    own = [text or f"\0{row}" for row, text in enumerate(subjects)] if subjects is not None else None
    least = len(labels) if own is None else len(set(own))
    if folds > least:
        raise UserError(f"folds={folds}: there are only {least} {'clips' if own is None else 'subjects'}")
    if folds > (most := int(np.bincount(labels).max())):
        raise UserError(f"folds={folds}: no class has that many clips, the largest {most}; make fewer folds")
    splitter = StratifiedKFold if own is None else StratifiedGroupKFold
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of a class with fewer clips than folds
        parts = splitter(folds, shuffle=True, random_state=seed).split(labels, labels, own)
        for fold, (_, tested) in enumerate(parts, 1):
            fold_of[tested] = fold
    return [str(fold) for fold in fold_of]


def _number(text: str) -> float:
    """The mean of a cell's numbers; NaN where there is none, or something else: the row is then left out and listed."""
    try:
        numbers = [float(word) for word in text.split()]
    except ValueError:
        return math.nan
    return sum(numbers) / len(numbers) if numbers else math.nan


def _listed(names: list[str] | str | None) -> tuple[str, ...]:
    """Names given as a list, or as text with commas."""
    return tuple(name.strip() for name in (names.split(",") if isinstance(names, str) else names or ()))


def _sorted(names: Iterable[str | None]) -> tuple[str, ...]:
    """Distinct names, in the order of their numbers where all are numbers."""
    distinct = sorted({name for name in names if name})
    return tuple(sorted(distinct, key=int) if all(name.isdecimal() for name in distinct) else distinct)
