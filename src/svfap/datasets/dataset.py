"""What a dataset needs: its description (`Dataset`), rows and parts, and access to the files of its release."""

from __future__ import annotations

import csv
import os
import re
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from pathlib import PurePosixPath
from typing import Any, Literal

from svfap.data.delimited import separator_of
from svfap.data.find import is_left_out, on_disk, walk
from svfap.data.suffixes import PICTURE_SUFFIXES, VIDEO_SUFFIXES
from svfap.datasets.config import PrepareConfig
from svfap.errors import UserError

Pictures = Literal["faces", "frames"]

NAMES = (
    *("dfew", "ferv39k", "mafw", "crema_d", "ravdess", "enterface05"),
    *("werewolf_xl", "avcaffe", "chalearn", "voxceleb2", "folder"),
)
FINDINGS = ("missing", "extra", "unknown_label", "repeated", "left_out")  # each a CSV of this name beside the manifests
FACE_FOLDERS = ("face_aligned", "openface")  # usual names of folders of face frames beside a release's videos
ALIGNED = "_aligned"  # OpenFace writes the face frames of CLIP into CLIP_aligned
PLACEHOLDER_BYTES = 1024  # a git-lfs pointer is smaller than this, a video is not


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
    pictures: what the clips of the release show: face crops ("faces") or whole frames ("frames"); None: not known.
    face_media: folders of the release that hold face crops though its other clips are whole frames.
    authors_fed: what the authors of SVFAP trained on, in one line.
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
    pictures: Pictures | None = None
    face_media: tuple[str, ...] = ()
    authors_fed: str = ""
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

    config: the dataset's settings (`Dataset.config`). find_faces: without `config.faces`, use one of `FACE_FOLDERS` in root if
    there is one. root: its folder, absolute. findings: kind -> path -> reason, in order of appearance. counted,
    official: what was counted -> number; see `count`. faces: folder of face frames to use in place of the release's clips, or
    None. Paths are relative to root, with forward slashes; those outside root are absolute.
    """

    def __init__(self, config: Any, find_faces: bool = True) -> None:
        self.config, self.root = config, config.root.absolute()
        self.findings: dict[str, dict[str, str]] = {kind: {} for kind in FINDINGS}
        self.counted: dict[str, int] = {}
        self.official: dict[str, int] = {}
        self.watched: list[tuple[str, int]] = []
        # The names in a folder, which is read once, however many clips are looked up in it.
        self.names = cache(lambda folder: frozenset(self._list(folder)))
        self.face_frames = cache(self._face_frames)
        self.faces = self._face_folder(find_faces)
        self._clip_of: dict[str, str] = {}  # folder of face frames -> the clip that it belongs to

    def _face_folder(self, find: bool) -> str | None:
        chosen: str | None = self.config.faces
        if chosen == "none":
            return None
        if chosen is None:
            return next((name for name in FACE_FOLDERS if find and (self.root / name).is_dir()), None)
        folder = self.root / chosen
        if not folder.is_dir():
            raise UserError(
                f"faces={chosen}: no folder of this name in {self.root}; give the folder of the face frames"
            )
        inside = folder.is_relative_to(self.root) and ".." not in folder.parts
        return (folder.relative_to(self.root) if inside else folder.resolve()).as_posix()

    def note(self, kind: str, path: str, reason: str) -> None:
        """Record a problem with a clip, once, however many folds list it. `kind`: one of `FINDINGS`."""
        self.findings[kind].setdefault(path, reason)

    def count(self, what: str, found: int, official: int) -> None:
        """Compare a count other than the clips of a manifest with the official one. `what`: such as 'train subjects'."""
        self.counted[what], self.official[what] = found, official

    def find(self, *candidates: str, what: str = "the release") -> str:
        """The first of these files or folders that exists. Raises `UserError` naming them and what was found instead."""
        for candidate in candidates:
            if (self.root / candidate).exists():
                return candidate
        parent = str(PurePosixPath(candidates[0]).parent)
        raise self.unexpected(" or ".join(f"'{candidate}'" for candidate in candidates), what, parent)

    def media(self, chosen: str | None, *candidates: str) -> str:
        """The folder of the clips: `chosen` if given, else the only one of `candidates` that exists, else that of the faces."""
        wanted = [str(PurePosixPath(chosen))] if chosen else candidates
        existing = [name for name in wanted if (self.root / name).is_dir()]
        if self.faces and not existing:
            inside = (f"{self.faces}/{name}" for name in wanted)
            return next((folder for folder in inside if (self.root / folder).is_dir()), self.faces)
        if len(existing) > 1:
            raise UserError(f"{self.root}: holds both {' and '.join(existing)}; say which with --media")
        return self.find(*(existing or wanted), what="the clips")

    def unexpected(self, wanted: str, what: str, folder: str = ".") -> UserError:
        """The error for an unexpected layout, which lists entries of `folder` or of its nearest parent that exists."""
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
        if name in self.names(folder or "."):
            return True
        return not path.isascii() and on_disk(self.root / path).exists()  # in another Unicode form

    def scan(self, folder: str) -> dict[str, bool]:
        """Path -> whether it is a folder, of what is directly in `folder`: sorted, without hidden and system files."""
        prefix = "" if folder == "." else f"{folder}/"
        names = sorted(self._list(folder).items())  # not cached, so that memory stays flat
        return {prefix + name: is_dir for name, is_dir in names if not is_left_out(name)}

    def clips(self, folder: str, depth: int = 1) -> Iterator[str]:
        """The same as `entries`, for clips: of the face frames only folders, as OpenFace leaves other files beside them."""
        of_faces = folder == self.faces or (self.faces and folder.startswith(f"{self.faces}/"))
        for path, is_dir in self.scan(folder).items():
            if path == self.faces or (of_faces and not is_dir):
                continue
            yield from (path,) if depth == 1 else self.clips(path, depth - 1)

    def frames_in(self, folder: str) -> str | None:
        """Where the pictures of a clip are: in its folder, in `CLIP_aligned` in it, or below its only folder; None if nowhere."""
        found = self.scan(folder)
        if any(path.lower().endswith(PICTURE_SUFFIXES) for path, is_dir in found.items() if not is_dir):
            return folder
        folders = [path for path, is_dir in found.items() if is_dir]
        inside = [path for path in folders if path.endswith(ALIGNED)] or folders
        return self.frames_in(inside[0]) if len(inside) == 1 else None

    def _face_frames(self, clip: str) -> str | None:
        """The folder with the face frames of a clip in `faces`, None if there is none.

        clip: path of its video or folder of frames. Its folders in the release may be repeated in `faces` or not:
        FACES/a/b/CLIP, FACES/b/CLIP or FACES/CLIP; each may be named CLIP_aligned, or hold one. Raises `UserError` if one
        folder would serve two clips.
        """
        assert self.faces is not None
        inside = PurePosixPath(clip)
        inside = inside.relative_to(self.faces) if inside.is_relative_to(self.faces) else inside
        parts = (*inside.parts[:-1], clip_name(clip))
        for start in range(len(parts)):
            for suffix in ("", ALIGNED):
                folder = str(PurePosixPath(self.faces, *parts[start:])) + suffix
                frames = self.frames_in(folder) if self.has(folder) else None
                if frames is not None:
                    if (other := self._clip_of.setdefault(frames, clip)) != clip:
                        raise UserError(
                            f"{self.root / frames}: could be the face frames of {other} and of {clip}; repeat the release's "
                            f"folders in {self.faces}"
                        )
                    return frames
        return None

    def placeholder(self, path: str) -> str | None:
        """What stands in place of a video: an empty or small file that is none, or a link to nothing; None for other files."""
        from svfap.data.frames import placeholder  # here, since numpy takes long to import

        file = self.root / path
        try:
            status = file.stat()
        except OSError:
            return "is a link to a file that is not there" if file.is_symlink() else None
        small = stat.S_ISREG(status.st_mode) and status.st_size < PLACEHOLDER_BYTES
        return placeholder(file) if small else None

    def entries(self, folder: str, depth: int = 1) -> Iterator[str]:
        """Sorted paths `depth` levels below `folder`, without hidden and system files."""
        for path in self.scan(folder):
            yield from (path,) if depth == 1 else self.entries(path, depth - 1)

    def clips_below(self, folder: str, pattern: re.Pattern[str]) -> dict[str, str]:
        """Clip -> path of its video or folder of frames, anywhere below `folder`; if there is none, below `faces`.

        pattern: matches the whole name of a file or folder; its first group is the clip. Raises `UserError` if a clip is
        found twice.
        """
        found: dict[str, str] = {}
        for path, is_dir in self.paths_below(folder, pattern):
            match = pattern.fullmatch(PurePosixPath(path).name)
            if match is None or (folder == self.faces and not is_dir):
                continue
            if (other := found.setdefault(match[1], path)) != path:
                raise UserError(
                    f"{self.root}: clip {match[1]} is both {other} and {path}; choose a folder with --media"
                )
        if not found and self.faces not in (None, folder):
            return self.clips_below(str(self.faces), pattern)
        return {clip: self.frames_in(path) or path for clip, path in found.items()}

    def paths_below(self, folder: str, clip: re.Pattern[str]) -> Iterator[tuple[str, bool]]:
        """(path, whether it is a folder) of all below `folder`, except `faces` and what is in folders named like a clip."""
        for place, folders, files in self.walk(folder):
            folders[:] = [name for name in folders if place + name != self.faces]
            yield from sorted([*((place + name, True) for name in folders), *((place + name, False) for name in files)])
            folders[:] = [name for name in folders if not clip.fullmatch(name)]

    def walk(self, folder: str) -> Iterator[tuple[str, list[str], list[str]]]:
        """Prefix of the paths in a folder, names of its folders and files, then of those below; see `svfap.data.find.walk`."""
        for place, folders, files in walk(self.root / folder, within=self.root):
            path = place.relative_to(self.root).as_posix()
            yield "" if path == "." else f"{path}/", folders, files

    def watch(self, folder: str, depth: int = 1) -> None:
        """Every path `depth` levels below `folder` should be a clip of some manifest: others are listed as extra."""
        if self.faces is None:
            self.watched.append((folder, depth))

    def lines(self, file: str) -> Iterator[tuple[int, str]]:
        """(line number from 1, stripped line) of a text file, without blank lines. Raises `UserError`."""
        for number, line in enumerate(self._text(file).splitlines(), 1):
            if line.strip():
                yield number, line.strip()

    def table(self, file: str, *columns: str) -> Iterator[tuple[int, dict[str, str]]]:
        """(line number, column -> text) of a file with a header, and with commas, semicolons or tabs.

        Raises `UserError` where one of `columns` is missing or a line has another number of cells than the header.
        """
        lines = self._text(file).splitlines()
        reader = csv.reader(lines, delimiter=separator_of(lines[0] if lines else "", columns))
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


def clip_name(path: str) -> str:
    """The name of a clip: of its video without suffix, or of its folder of frames without OpenFace's `_aligned`."""
    name = PurePosixPath(path)
    return name.stem if name.suffix.lower() in VIDEO_SUFFIXES else name.name.removesuffix(ALIGNED)


def cross_validation(rows: Sequence[tuple[ClipRow, int]], num_folds: int) -> Iterator[Part]:
    """Train and test of the folds 1 to `num_folds`. rows: each with the fold that tests it; the other folds train on it."""
    for fold in range(1, num_folds + 1):
        yield Part("train", [row for row, tested_in in rows if tested_in != fold], str(fold))
        yield Part("test", [row for row, tested_in in rows if tested_in == fold], str(fold))


def expected_per_fold(train: Sequence[int], test: Sequence[int]) -> dict[str, int]:
    """`Dataset.expected` from the official numbers of clips in the folds 1, 2, ..."""
    parts = (("train", train), ("test", test))
    return {f"fold_{fold}_{part}": count for part, counts in parts for fold, count in enumerate(counts, 1)}
