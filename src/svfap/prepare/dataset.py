"""What the datasets share: how one is described, and how its release is looked through."""

from __future__ import annotations

import csv
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from svfap.errors import UserError

KINDS = ("missing", "extra", "unknown_label", "repeated", "left_out")  # each a CSV of this name beside the manifests
CLUTTER = {"thumbs.db", "desktop.ini", "__macosx"}


@dataclass(frozen=True, slots=True)
class Row:
    """One clip. `path`: relative to the release's root, with forward slashes; `label`: the class's name;
    `values`: dimension -> number; `more`: further columns of the manifest (`frame_values`, `start_s`, `end_s`, `box`), and
    the cells of dimensions that have a number per frame (`values` holds their means)."""

    path: str
    label: str | None = None
    values: Mapping[str, float] | None = None
    subject: str | None = None
    group: str | None = None
    more: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Part:
    """Rows of one manifest: `fold_<fold>_<part>.csv`, or `<part>.csv` where the dataset has a single split (fold None).

    on_disk: the rows were made from what lies on disk, so that none can be missing.
    """

    part: Literal["train", "val", "test", "pretrain"]
    rows: Iterable[Row]
    fold: str | None = None
    on_disk: bool = False

    @property
    def name(self) -> str:
        return self.part if self.fold is None else f"fold_{self.fold}_{self.part}"


@dataclass(frozen=True)
class Settings:
    """Settings of every dataset."""

    validation: Literal["auto", "subject", "stratified", "none"] = "auto"
    """how a validation part is carved from training: by subject (auto: where subjects are known), stratified by class, or
    none (the paper's protocol: all of training is trained on and the last epoch counts); an official one is used as it is"""
    val_fraction: float = 0.1
    """share of training that becomes validation"""
    seed: int = 0
    """of everything drawn at random"""
    allow_missing: bool = False
    """exit with 0 though clips are missing, labels are unknown or counts differ from the official ones"""


@dataclass(frozen=True)
class NoOptions:
    """Of a dataset that needs no settings of its own."""


@dataclass(frozen=True)
class Dataset:
    """The description of a dataset.

    read: release -> the parts in order, each fold's train (and val) before its test.
    adapt: for what depends on options or on the files: the description and the release -> the final description.
    options: a frozen dataclass with defaults; its fields become flags of `svfap prepare NAME`.
    label_names: classes in the paper's order, or the dimensions. metrics: names as in `svfap.evaluate.metrics`.
    clip_truth: whether clips have a label or values of their own; else they stand in the files of `frame_values` alone.
    columns: which of subject, group, frame_values, start_s, end_s, box its rows have.
    expected: manifest's name (`fold_1_train`, `test`) -> official number of clips, before validation is carved.
    has_validation: the protocol has a validation part of its own (every fold yields a `val`), so none is carved.
    subject_independent: no subject may stand in both training and test of a fold.
    """

    name: str
    title: str
    summary: str  # one line for the list of datasets
    source: str  # where to get it
    licence: str
    layout: str  # the tree expected under --root
    protocol: str
    checked: str  # what is checked beyond the files' being there
    read: Callable[[Release], Iterable[Part]]
    task: Literal["classification", "regression", "unlabelled"] = "classification"
    label_names: tuple[str, ...] = ()
    metrics: tuple[str, ...] = ("uar", "war")
    sampling_stride: int = 4
    output_activation: str = "none"
    label_range: tuple[float, float] | None = None
    frame_level: bool = False
    clip_truth: bool = True
    columns: tuple[str, ...] = ()
    expected: Mapping[str, int] = field(default_factory=dict)
    has_validation: bool = False
    subject_independent: bool = False
    options: type = NoOptions
    adapt: Callable[[Dataset, Release], Dataset] = lambda dataset, release: dataset


class Release:
    """A downloaded release: finds folders, reads annotations, and collects what is not as it should be.

    root: the folder given; options: the dataset's own settings; seed: of everything random.
    findings: kind -> path -> why, in order of appearance. counts: what was counted -> (found, official); see `count`.
    """

    def __init__(self, root: Path, options: Any = None, seed: int = 0) -> None:
        self.root, self.options, self.seed = root, options, seed
        self.findings: dict[str, dict[str, str]] = {kind: {} for kind in KINDS}
        self.counts: dict[str, tuple[int, int]] = {}
        self.watched: list[tuple[str, int]] = []
        self.names = cache(self._names)  # one scan a folder, however many clips are looked up in it

    def note(self, kind: str, path: str, why: str) -> None:
        """Remember a clip that is not as it should be; once, however many folds list it. `kind`: of `KINDS`."""
        self.findings[kind].setdefault(path, why)

    def count(self, what: str, found: int, official: int) -> None:
        """Compare a number that is not of a manifest's clips with the official one. `what`: as 'train subjects'."""
        self.counts[what] = (found, official)

    def find(self, *candidates: str, what: str = "the release") -> str:
        """The one of these files or folders (relative to root) that is there.

        Raises `UserError` saying what was looked for and what was found.
        """
        for candidate in candidates:
            if (self.root / candidate).exists():
                return candidate
        parent = str(PurePosixPath(candidates[0]).parent)
        raise self.unexpected(" or ".join(f"'{candidate}'" for candidate in candidates), what, parent)

    def media(self, chosen: str | None, *candidates: str) -> str:
        """The folder of the clips: `chosen` where it is given, else the only one of `candidates` that is there."""
        there = [name for name in candidates if (self.root / name).is_dir()]
        if chosen is None and len(there) > 1:
            raise UserError(f"{self.root}: holds both {' and '.join(there)}; say which with --media")
        return self.find(*([str(PurePosixPath(chosen))] if chosen else there or candidates), what="the clips")

    def unexpected(self, wanted: str, what: str, folder: str = ".") -> UserError:
        """The error for a layout that is not as expected; what was found is of `folder`, or the nearest above it."""
        folder, found = self._found(folder)
        return UserError(f"{self.root / folder}: looked for {wanted} ({what}) and found {found}")

    def _found(self, folder: str) -> tuple[str, str]:
        """`folder`, or the nearest above it that is there, and its first entries in words."""
        while not (self.root / folder).is_dir():
            folder = str(PurePosixPath(folder).parent)
        names = sorted(self.names(folder))
        more = f", … ({len(names)} entries)" if len(names) > 6 else ""
        return folder, (", ".join(names[:6]) or "an empty folder") + more

    def _names(self, folder: str) -> frozenset[str]:
        try:
            with os.scandir(self.root / folder) as entries:
                return frozenset(entry.name for entry in entries)
        except (FileNotFoundError, NotADirectoryError):
            return frozenset()
        except OSError as error:
            raise UserError(f"{self.root / folder}: cannot be read ({error.strerror or error})") from None

    def has(self, path: str) -> bool:
        """Whether `path` (relative to root) is there."""
        folder, _, name = path.rpartition("/")
        return name in self.names(folder or ".")

    def entries(self, folder: str, depth: int = 1) -> Iterator[str]:
        """Paths, relative to root, `depth` levels below `folder`, sorted; hidden files and the like left out."""
        for name in sorted(self._names(folder)):  # not remembered: memory stays flat
            if name.startswith(".") or name.lower() in CLUTTER:
                continue
            path = name if folder == "." else f"{folder}/{name}"
            yield from (path,) if depth == 1 else self.entries(path, depth - 1)

    def scan(self, folder: str) -> tuple[list[str], list[str]]:
        """(files, folders) right below `folder`: paths relative to root, sorted; hidden files and the like left out."""
        try:
            with os.scandir(self.root / folder) as entries:
                found = {
                    e.name: e.is_dir() for e in entries if not e.name.startswith(".") and e.name.lower() not in CLUTTER
                }
        except OSError as error:
            raise UserError(f"{self.root / folder}: cannot be read ({error.strerror or error})") from None
        prefix = "" if folder == "." else f"{folder}/"
        return tuple([prefix + name for name in sorted(found) if found[name] == wanted] for wanted in (False, True))  # type: ignore[return-value]

    def watch(self, folder: str, depth: int = 1) -> None:
        """Whatever lies `depth` levels below `folder` should be a clip of some manifest: the rest is listed as extra."""
        self.watched.append((folder, depth))

    def lines(self, file: str) -> Iterator[tuple[int, str]]:
        """(line number from 1, stripped line) of a text file, blank lines left out. Raises `UserError`."""
        for number, line in enumerate(self._text(file).splitlines(), 1):
            if line.strip():
                yield number, line.strip()

    def table(self, file: str, *columns: str) -> Iterator[tuple[int, dict[str, str]]]:
        """(line number, column -> text) of a CSV or TSV file with a header. Raises `UserError` where columns or cells lack."""
        reader = csv.reader(self._text(file).splitlines(), delimiter="\t" if file.lower().endswith(".tsv") else ",")
        header = [name.strip() for name in next(reader, [])]
        if absent := [name for name in columns if name not in header]:
            raise UserError(f"{self.root / file}: no column '{absent[0]}'; there are {', '.join(header) or 'none'}")
        for cells in reader:
            if not any(cell.strip() for cell in cells):
                continue
            if len(cells) != len(header):
                raise self.bad(file, reader.line_num, ",".join(cells), f"{len(header)} cells: {','.join(header)}")
            yield reader.line_num, {name: cell.strip() for name, cell in zip(header, cells, strict=True)}

    def bad(self, file: str, number: int, text: str, expected: str) -> UserError:
        """The error for a line of an annotation file that cannot be understood."""
        return UserError(f"{self.root / file}: line {number}: expected {expected}, not {text[:80]!r}")

    def _text(self, file: str) -> str:
        try:
            return (self.root / file).read_text(encoding="utf-8-sig")
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
            folder, found = self._found(str(PurePosixPath(file).parent))
            raise UserError(f"{self.root / file}: no such file; found {found} in {self.root / folder}") from None
        except (OSError, UnicodeError) as error:
            raise UserError(f"{self.root / file}: cannot be read as UTF-8 text ({error})") from None


def cross_validation(rows: Sequence[Row], fold_of: Sequence[str], folds: Sequence[str]) -> Iterator[Part]:
    """Train and test of every fold, where each row is tested in one fold and trained on in the others.

    fold_of: for each row the fold it is tested in.
    """
    for fold in folds:
        for part, tested in (("train", False), ("test", True)):
            chosen = [row for row, own in zip(rows, fold_of, strict=True) if (own == fold) == tested]
            yield Part(part, chosen, fold)  # type: ignore[arg-type]
