"""What a dataset needs: its description (`Dataset`), rows and parts, and access to the files of its release."""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from pathlib import PurePosixPath
from typing import Any, Literal

from svfap.datasets.config import PrepareConfig
from svfap.errors import UserError

NAMES = (
    *("dfew", "ferv39k", "mafw", "crema_d", "ravdess", "enterface05"),
    *("werewolf_xl", "avcaffe", "chalearn", "voxceleb2", "folder"),
)
FINDINGS = ("missing", "extra", "unknown_label", "repeated", "left_out")  # each a CSV of this name beside the manifests
IGNORED = {"thumbs.db", "desktop.ini", "__macosx"}


@dataclass(frozen=True, slots=True)
class ClipRow:
    """One clip, which becomes one row of a manifest.

    path: relative to the release's root, with forward slashes. label: name of the class. values: dimension -> number.
    subject: the person in the clip. group: clips whose predictions are averaged. extra: further columns of the manifest
    (`frame_values`, `start_s`, `end_s`, `box`, or a dimension with one number per frame, whose mean is in `values`).
    """

    path: str
    label: str | None = None
    values: Mapping[str, float] | None = None
    subject: str | None = None
    group: str | None = None
    extra: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Part:
    """Rows of one manifest: `fold_<fold>_<part>.csv`, or `<part>.csv` where the dataset has a single split (fold None).

    on_disk: the rows were made from the files found, so none can be missing.
    """

    part: Literal["train", "val", "test", "pretrain"]
    rows: Iterable[ClipRow]
    fold: str | None = None
    on_disk: bool = False

    @property
    def name(self) -> str:
        return self.part if self.fold is None else f"fold_{self.fold}_{self.part}"


@dataclass(frozen=True)
class Dataset:
    """The description of a dataset.

    summary: one line for the list of datasets. source: where to get it. layout: the tree expected under --root.
    checked: what is checked beyond the existence of files.
    read: release -> its parts in order, each fold's train (and val) before its test.
    label_names: classes in the paper's order, or the dimensions. metrics: names as in `svfap.evaluation.metrics`.
    clip_truth: whether each clip has a label or values; otherwise only its frames have, in the files of `frame_values`.
    columns: which of subject, group, frame_values, start_s, end_s, box its rows have.
    expected: name of a manifest (`fold_1_train`, `test`) -> official number of clips, before validation is split off.
    has_validation: the protocol has an official validation part (every fold yields a `val`), so none is split off.
    subject_independent: no subject may be in both training and test of a fold.
    config: its settings; the fields become options of `svfap prepare NAME`.
    frame_rate, face_crop: of the clips that the authors of SVFAP trained on, as in `ModelConfig`, for their checkpoints.
    Only what is documented stands there; see docs/checkpoints.md.
    adapt: (description, release) -> the final description, where it depends on settings or on files.
    """

    name: str
    title: str
    summary: str
    source: str
    licence: str
    layout: str
    protocol: str
    checked: str
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
    config: type[PrepareConfig] = PrepareConfig
    frame_rate: float | None = None
    face_crop: Mapping[str, Any] = field(default_factory=dict)
    adapt: Callable[[Dataset, Release], Dataset] = lambda dataset, release: dataset


def get_dataset(name: str) -> Dataset:
    """The description of one of `NAMES`: `DATASET` of the module of that name. Raises `UserError` for another name."""
    if name not in NAMES:
        raise UserError(f"dataset={name}: is none of {', '.join(NAMES)}")
    dataset: Dataset = import_module(f"svfap.datasets.{name}").DATASET
    return dataset


class Release:
    """A downloaded release: finds folders, reads annotations, and collects problems.

    config: the dataset's settings (`Dataset.config`). root: its folder, absolute. findings: kind -> path -> reason, in order of
    appearance. counts: what was counted -> (found, official); see `count`. Paths are relative to root, with forward slashes.
    """

    def __init__(self, config: Any) -> None:
        self.config, self.root = config, config.root.absolute()
        self.findings: dict[str, dict[str, str]] = {kind: {} for kind in FINDINGS}
        self.counts: dict[str, tuple[int, int]] = {}
        self.watched: list[tuple[str, int]] = []
        # The names in a folder, which is read once, however many clips are looked up in it.
        self.names = cache(lambda folder: frozenset(self._list(folder)))

    def note(self, kind: str, path: str, reason: str) -> None:
        """Record a problem with a clip, once, however many folds list it. `kind`: one of `FINDINGS`."""
        self.findings[kind].setdefault(path, reason)

    def count(self, what: str, found: int, official: int) -> None:
        """Compare a count other than the clips of a manifest with the official one. `what`: such as 'train subjects'."""
        self.counts[what] = (found, official)

    def find(self, *candidates: str, what: str = "the release") -> str:
        """The first of these files or folders that exists. Raises `UserError` naming them and what was found instead."""
        for candidate in candidates:
            if (self.root / candidate).exists():
                return candidate
        parent = str(PurePosixPath(candidates[0]).parent)
        raise self.unexpected(" or ".join(f"'{candidate}'" for candidate in candidates), what, parent)

    def media(self, chosen: str | None, *candidates: str) -> str:
        """The folder of the clips: `chosen` if given, else the only one of `candidates` that exists."""
        existing = [name for name in candidates if (self.root / name).is_dir()]
        if chosen is None and len(existing) > 1:
            raise UserError(f"{self.root}: holds both {' and '.join(existing)}; say which with --media")
        return self.find(*([str(PurePosixPath(chosen))] if chosen else existing or candidates), what="the clips")

    def unexpected(self, wanted: str, what: str, folder: str = ".") -> UserError:
        """The error for an unexpected layout; it lists entries of `folder`, or of its nearest parent that exists."""
        folder, found = self._found(folder)
        return UserError(f"{self.root / folder}: looked for {wanted} ({what}) and found {found}")

    def _found(self, folder: str) -> tuple[str, str]:
        """`folder`, or its nearest parent that exists, and a text with its first entries."""
        while not (self.root / folder).is_dir():
            folder = str(PurePosixPath(folder).parent)
        names = sorted(self.names(folder))
        more = f", … ({len(names)} entries)" if len(names) > 6 else ""
        return folder, (", ".join(names[:6]) or "an empty folder") + more

    def _list(self, folder: str) -> dict[str, bool]:
        """Name -> whether it is a folder, of everything in `folder`; empty if there is no such folder."""
        try:
            with os.scandir(self.root / folder) as entries:
                return {entry.name: entry.is_dir() for entry in entries}
        except (FileNotFoundError, NotADirectoryError):
            return {}
        except OSError as error:
            raise UserError(f"{self.root / folder}: cannot be read ({error.strerror or error})") from None

    def has(self, path: str) -> bool:
        """Whether `path` exists."""
        folder, _, name = path.rpartition("/")
        return name in self.names(folder or ".")

    def scan(self, folder: str) -> dict[str, bool]:
        """Path -> whether it is a folder, of what is directly in `folder`: sorted, without hidden and system files."""
        prefix = "" if folder == "." else f"{folder}/"
        names = sorted(self._list(folder).items())  # not cached, so that memory stays flat
        return {prefix + name: is_dir for name, is_dir in names if name[0] != "." and name.lower() not in IGNORED}

    def entries(self, folder: str, depth: int = 1) -> Iterator[str]:
        """Sorted paths `depth` levels below `folder`, without hidden and system files."""
        for path in self.scan(folder):
            yield from (path,) if depth == 1 else self.entries(path, depth - 1)

    def clips_below(self, folder: str, pattern: re.Pattern[str]) -> dict[str, str]:
        """Clip -> path of its video or folder of frames, anywhere below `folder`.

        pattern: matches the whole name of a file or folder; its first group is the clip. Raises `UserError` if a clip is
        found twice.
        """
        found: dict[str, str] = {}
        for path in self.paths_below(folder, pattern):
            match = pattern.fullmatch(PurePosixPath(path).name)
            if match and found.setdefault(match[1], path) != path:
                both = f"{found[match[1]]} and {path}"
                raise UserError(f"{self.root}: clip {match[1]} is both {both}; choose a folder with --media")
        return found

    def paths_below(self, folder: str, clip: re.Pattern[str]) -> Iterator[str]:
        """All files and folders below `folder`, except the contents of folders named like a clip, which are frames."""
        for path, is_dir in self.scan(folder).items():
            yield path
            if is_dir and not clip.fullmatch(PurePosixPath(path).name):
                yield from self.paths_below(path, clip)

    def watch(self, folder: str, depth: int = 1) -> None:
        """Every path `depth` levels below `folder` should be a clip of some manifest: others are listed as extra."""
        self.watched.append((folder, depth))

    def lines(self, file: str) -> Iterator[tuple[int, str]]:
        """(line number from 1, stripped line) of a text file, without blank lines. Raises `UserError`."""
        for number, line in enumerate(self._text(file).splitlines(), 1):
            if line.strip():
                yield number, line.strip()

    def table(self, file: str, *columns: str) -> Iterator[tuple[int, dict[str, str]]]:
        """(line number, column -> text) of a CSV or TSV file with a header.

        Raises `UserError` where one of `columns` is missing or a line has another number of cells than the header.
        """
        reader = csv.reader(self._text(file).splitlines(), delimiter="\t" if file.lower().endswith(".tsv") else ",")
        header = [name.strip() for name in next(reader, [])]
        if missing := [name for name in columns if name not in header]:
            raise UserError(f"{self.root / file}: no column '{missing[0]}'; there are {', '.join(header) or 'none'}")
        for cells in reader:
            if not any(cell.strip() for cell in cells):
                continue
            if len(cells) != len(header):
                raise self.bad(file, reader.line_num, ",".join(cells), f"{len(header)} cells: {','.join(header)}")
            yield reader.line_num, {name: cell.strip() for name, cell in zip(header, cells, strict=True)}

    def bad(self, file: str, number: int, text: str, expected: str) -> UserError:
        """The error for a line of an annotation file that cannot be parsed."""
        return UserError(f"{self.root / file}: line {number}: expected {expected}, not {text[:80]!r}")

    def _text(self, file: str) -> str:
        try:
            return (self.root / file).read_text(encoding="utf-8-sig")
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
            folder, found = self._found(str(PurePosixPath(file).parent))
            raise UserError(f"{self.root / file}: no such file; found {found} in {self.root / folder}") from None
        except (OSError, UnicodeError) as error:
            raise UserError(f"{self.root / file}: cannot be read as UTF-8 text ({error})") from None


def cross_validation(rows: Sequence[tuple[ClipRow, str]], folds: Iterable[str]) -> Iterator[Part]:
    """Train and test of every fold. rows: each with the fold that tests it; the other folds train on it."""
    for fold in folds:
        yield Part("train", [row for row, tested_in in rows if tested_in != fold], fold)
        yield Part("test", [row for row, tested_in in rows if tested_in == fold], fold)


def expected_per_fold(train: Sequence[int], test: Sequence[int]) -> dict[str, int]:
    """`Dataset.expected` from the official numbers of clips in the folds 1, 2, ..."""
    parts = (("train", train), ("test", test))
    return {f"fold_{fold}_{part}": count for part, counts in parts for fold, count in enumerate(counts, 1)}
