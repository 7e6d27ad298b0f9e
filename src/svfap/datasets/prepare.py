"""Write a prepared dataset: manifests of its folds, lists of problems, and `dataset.json`."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import fields, replace
from itertools import compress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from svfap.console import progress_bar
from svfap.data.prepared import Fold, PreparedDataset, read_dataset, replacing_dataset, write_dataset_file
from svfap.data.split import hold_out
from svfap.data.suffixes import VIDEO_SUFFIXES
from svfap.datasets.config import PrepareConfig
from svfap.datasets.dataset import ALIGNED, ClipRow, Dataset, Part, Pictures, Release, get_dataset
from svfap.datasets.splits import units_of_rows
from svfap.errors import UserError
from svfap.files import make_folder, printable, writing_atomically

PROBLEMS = ("missing", "unknown_label", "repeated", "count_mismatch")  # a complete dataset has none of these notes


def prepare(dataset: str | Dataset, config: PrepareConfig) -> PreparedDataset:
    """Read a dataset's release, check it, and write the manifests of its protocol.

    Writes into `config.out` a manifest for each part of each fold, `missing.csv`, `extra.csv`, … (path, why) with what was
    found, and last `dataset.json`. Clips that cannot be used are left out of the manifests; see `is_complete`.

    dataset: a name in `svfap.datasets.dataset.NAMES`, or a description. config: the dataset's own settings, such as
    `svfap.datasets.dfew.DfewConfig`; a plain `PrepareConfig` leaves the dataset's own options at their defaults.
    Returns what `read_dataset` reads of it, with the findings in `notes`. Raises `UserError` for an unexpected layout, an
    annotation that cannot be parsed, a part without clips, or an `out` that holds another dataset; TypeError for another's
    settings.
    """
    dataset = get_dataset(dataset) if isinstance(dataset, str) else dataset
    if type(config) is PrepareConfig:
        config = dataset.config(**vars(config))
    elif not isinstance(config, dataset.config):
        raise TypeError(f"{dataset.name} takes {dataset.config.__name__}, not {type(config).__name__}")
    release, out = Release(config, find_faces=dataset.pictures is not None), config.out
    make_folder(out)
    dataset = dataset.adapt(dataset, release)
    with replacing_dataset(out, dataset.name):
        return _write(dataset, release, out)


def _write(dataset: Dataset, release: Release, out: Path) -> PreparedDataset:
    """The manifests, the findings and `dataset.json`."""
    with progress_bar() as bar:
        task = bar.add_task(dataset.title, total=sum(dataset.expected.values()) or None, note="")
        writer = _Writer(dataset, release, lambda note: bar.update(task, advance=1, note=note))
        for part in dataset.read(release):
            writer.add(part)
    for folder, depth in release.watched:
        for path in release.entries(folder, depth):
            if path not in writer.used and path not in release.findings["left_out"]:
                release.note("extra", path, "in none of the annotations that are used")
    for kind, found in release.findings.items():
        with writing_atomically(out / f"{kind}.csv") as file:
            rows = ([printable(text) for text in row] for row in [("path", "why"), *found.items()])
            csv.writer(file, lineterminator="\n").writerows(rows)
    listed, official = writer.listed | release.counted, {**dataset.expected, **release.official}
    shared = {field.name for field in fields(Dataset)} & {field.name for field in fields(PreparedDataset)} - {
        "pictures"
    }
    prepared = PreparedDataset(
        **{name: getattr(dataset, name) for name in shared},
        pictures=writer.pictures(),
        root=release.root,
        folds=tuple(writer.folds.values()),
        pretrain=Path("pretrain.csv") if "pretrain" in writer.listed else None,
        counts=writer.written,
        notes={
            "protocol": dataset.protocol,
            "validation": writer.validation(),
            "listed": listed,
            "official": official,
            "faces": release.faces,
            "placeholders": writer.num_placeholders,
            **{kind: len(found) for kind, found in release.findings.items()},
            "count_mismatch": {
                name: {"official": number, "found": listed.get(name, 0)}
                for name, number in official.items()
                if number != listed.get(name, 0)
            },
        },
    )
    write_dataset_file(out, prepared)
    return read_dataset(out)


def is_complete(prepared: PreparedDataset) -> bool:
    """Whether nothing was missing, unknown or repeated, and every count is the official one."""
    return not any(prepared.notes[name] for name in PROBLEMS)


class _Writer:
    """Writes the manifest of each part as it is read.

    advance: called with a part's name for each listed clip. listed: manifest -> clips that the annotations list.
    written: manifest -> rows. used: paths in the annotations. folds: name -> its manifests. num_placeholders: clips
    whose file is no video.
    """

    def __init__(self, dataset: Dataset, release: Release, advance: Callable[[str], None]) -> None:
        self.dataset, self.release, self.advance = dataset, release, advance
        self.config: PrepareConfig = release.config
        self.listed: dict[str, int] = {}
        self.written: dict[str, int] = {}
        self.folds: dict[str, Fold] = {}
        self.used: set[str] = set()
        self.num_placeholders = 0
        self._shown: set[Pictures | None] = set()  # what the written clips show
        self._seen: set[tuple[object, ...]] = set()
        self._subjects: dict[tuple[str, str], set[str]] = {}  # (fold, part) -> its subjects
        self._validation_kinds: set[str] = set()

    def add(self, part: Part) -> None:
        """Write a part's manifest; for a training part also that of the validation part split off from it."""
        rows = self._usable(part)
        no_validation = self.config.validation == "none" or self.dataset.has_validation
        if part.part == "train" and not no_validation and (usable := list(rows)):
            held_out = self._hold_out(part, usable)
            self._write(part, compress(usable, ~held_out))
            self._write(replace(part, part="val"), compress(usable, held_out))
        else:
            self._write(part, rows)

    def validation(self) -> str:
        """A description of how the validation parts were made."""
        if self.dataset.has_validation:
            return "the dataset's own"
        share = f"{self.config.val_fraction:g} of training, seed {self.config.seed}"
        return f"{' or '.join(sorted(self._validation_kinds))}: {share}" if self._validation_kinds else "none"

    def _usable(self, part: Part) -> Iterator[ClipRow]:
        """The rows that can be used; notes the others. Rows of a large unlabelled part are not kept in memory."""
        streams = part.on_disk and part.part == "pretrain"
        note = self.release.note
        self.listed[part.name] = 0
        for row in part.rows:
            self.listed[part.name] += 1
            self.advance(part.name)
            if not streams:
                self.used.add(row.path)
            frame_values = row.extra.get("frame_values")
            if reason := self._file_error(part, row):
                note("missing", row.path, reason)
            elif frame_values and not self.release.has(frame_values):
                note("missing", frame_values, f"labels per frame of {row.path}")
            elif reason := self._label_error(row):
                note("unknown_label", row.path, reason)
            elif not streams and self._repeats(part, row):
                note("repeated", row.path, f"listed again for {part.name}")
            else:
                yield self._with_pictures(row)

    def _file_error(self, part: Part, row: ClipRow) -> str | None:
        """Why a row has no clip, if so. Only files too small to be a video are opened."""
        release = self.release
        if printable(row.path) != row.path:
            return "its name is not UTF-8 text, which manifests are; rename it"
        if release.faces is not None:
            return None if release.face_frames(row.path) else f"no face frames of it in {release.faces}"
        if not part.on_disk and not release.has(row.path):
            return f"listed for {part.name}"
        if reason := release.placeholder(row.path):
            self.num_placeholders += row.path not in release.findings["missing"]
            return reason
        return None

    def _with_pictures(self, row: ClipRow) -> ClipRow:
        """The row with its face frames, if those are used; remembers whether it shows a face or a whole frame."""
        release, dataset = self.release, self.dataset
        if release.faces is not None:
            self._shown.add("faces")
            # A box is in pixels of the release's clip.
            extra = {name: cell for name, cell in row.extra.items() if name != "box"}
            return replace(row, path=release.face_frames(row.path) or row.path, extra=extra)
        shown = dataset.pictures
        if row.path.endswith(ALIGNED) or row.path.startswith(tuple(f"{media}/" for media in dataset.face_media)):
            shown = "faces"
        elif shown == "frames" and not row.path.lower().endswith(VIDEO_SUFFIXES):
            shown = None  # frames that someone took from the release's videos, whole or cropped
        self._shown.add(shown)
        return row

    def pictures(self) -> Pictures | None:
        """What the clips show: whole frames if any of them does, faces if all do; None if that is not known."""
        return "frames" if "frames" in self._shown else "faces" if self._shown == {"faces"} else None

    def _label_error(self, row: ClipRow) -> str | None:
        """What is wrong with a row's label or values, if anything."""
        dataset = self.dataset
        if not dataset.clip_truth:
            return None if "frame_values" in row.extra else "has no file of labels per frame"
        if dataset.task == "classification" and row.label not in dataset.label_names:
            return f"label '{row.label}' is none of {', '.join(dataset.label_names)}"
        if dataset.task == "regression" and row.values is not None:
            least, greatest = dataset.label_range or (-math.inf, math.inf)
            for name in dataset.label_names:
                value = row.values.get(name, math.nan)
                if not (math.isfinite(value) and least <= value <= greatest):
                    return f"{name} is {value:g}, not a number from {least:g} to {greatest:g}"
        return None

    def _repeats(self, part: Part, row: ClipRow) -> bool:
        """Whether this fold already has the clip, in training or test, or another fold already tests it."""
        clip = (row.path, *(row.extra.get(name) for name in ("start_s", "end_s", "box")))
        keys = {("fold", part.fold, *clip)} | ({("test", *clip)} if part.part == "test" else set())
        if keys & self._seen:
            return True
        self._seen |= keys
        return False

    def _hold_out(self, part: Part, rows: Sequence[ClipRow]) -> NDArray[np.bool_]:
        """(rows,) bool, true for those that become validation."""
        config = self.config
        known = any(row.subject for row in rows)
        if config.validation == "subject" and not known:
            raise UserError(f"validation=subject: {self.dataset.title} names no subjects; use stratified or none")
        number_of = {name: number for number, name in enumerate(self.dataset.label_names)}
        labels = np.array([number_of.get(row.label or "", 0) for row in rows], np.int64)
        units = units_of_rows(rows, config.root, ignore_subjects=config.validation == "stratified")
        whole = units.num < len(rows)
        held_out = hold_out(len(rows), config.val_fraction, config.seed, units, labels)
        if not held_out.any() or held_out.all():
            few = f"only one {units.kind} is" if whole else f"{len(rows)} clips are"
            raise UserError(f"{part.name}: {few} too few to split off a validation part; use --validation none")
        self._validation_kinds.add(f"by {units.kind}" if whole else "stratified")
        return held_out

    def _write(self, part: Part, rows: Iterable[ClipRow]) -> None:
        """Write one manifest and add it to its fold.

        Raises `UserError` if no row can be used, or if test shares a subject though the protocol forbids it.
        """
        truth = {"classification": ("label",), "regression": self.dataset.label_names, "unlabelled": ()}
        labelled = part.part != "pretrain" and self.dataset.clip_truth
        columns = (*(truth[self.dataset.task] if labelled else ()), *self.dataset.columns)
        file, subjects = Path(f"{part.name}.csv"), set()
        self.written[part.name] = 0
        with writing_atomically(self.config.out / file) as stream:
            writer = csv.DictWriter(stream, ("path", *columns), extrasaction="ignore", lineterminator="\n")
            writer.writeheader()
            for row in rows:
                self.written[part.name] += 1
                if part.part != "pretrain" and row.subject:
                    subjects.add(row.subject)
                cells = {name: getattr(row, name) for name in ("path", "label", "subject", "group")}
                writer.writerow(cells | dict(row.values or {}) | dict(row.extra))
        if not self.written[part.name]:
            reasons = [item for kind in PROBLEMS[:3] for item in self.release.findings[kind].items()]
            example = ", e.g. {}: {}".format(*reasons[0]) if reasons else ""
            listed = self.listed.get(part.name, 0)
            raise UserError(f"{self.release.root}: no clip of {part.name} ({listed} listed) can be used{example}")
        if part.part == "pretrain":
            return
        name = part.fold or "1"
        if self.dataset.subject_independent:
            for (fold, other), other_subjects in self._subjects.items():
                if fold == name and "test" in (part.part, other) and (shared := subjects & other_subjects):
                    raise UserError(f"{part.name}: subject {min(shared)} is in {other} too")
            self._subjects[name, part.part] = subjects
        paths: dict[str, Any] = {part.part: file}
        self.folds[name] = replace(self.folds[name], **paths) if name in self.folds else Fold(name, **paths)
