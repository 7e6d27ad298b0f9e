"""From a release to a prepared dataset: manifests of its folds, lists of what is not as it should be, `dataset.json`."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from svfap.console import progress_bar
from svfap.data.prepared import DATASET_FILE, Fold, PreparedDataset, read_dataset, write_dataset_file
from svfap.data.split import hold_out
from svfap.errors import UserError
from svfap.files import make_folder, writing_atomically
from svfap.prepare.dataset import Dataset, Part, Release, Row, Settings

PROBLEMS = ("missing", "unknown_label", "repeated", "count_mismatch")  # notes that a complete dataset has none of


def prepare(
    dataset: Dataset, root: Path, out: Path, options: Any = None, settings: Settings | None = None
) -> PreparedDataset:
    """Read the release in `root`; write manifests, `missing.csv` and the like, and, last, `dataset.json` into `out`.

    options: of the dataset's own type. The notes of the result hold what was found; see `is_complete`.
    Raises `UserError` where the layout is not as expected, an annotation cannot be understood, or a part has no clip.
    """
    settings = settings or Settings()
    if not 0 < settings.val_fraction < 1:
        raise UserError(f"val_fraction={settings.val_fraction}: must lie between 0 and 1")
    if not root.is_dir():
        raise UserError(f"--root {root}: is not a folder; give the folder of {dataset.title}")
    release = Release(root.absolute(), options or dataset.options(), settings.seed)
    make_folder(out)
    dataset = dataset.adapt(dataset, release)
    _clear(out, dataset.name)
    manifests = _Manifests(dataset, release, out, settings)
    with progress_bar() as bar:
        task = bar.add_task(dataset.title, total=sum(dataset.expected.values()) or None, note="")
        manifests.advance = lambda note: bar.update(task, advance=1, note=note)
        for part in dataset.read(release):
            manifests.add(part)
    for path in (path for folder, depth in release.watched for path in release.entries(folder, depth)):
        if path not in manifests.used and path not in release.findings["left_out"]:
            release.note("extra", path, "in none of the annotations that are used")
    for kind, found in release.findings.items():
        _write_csv(out / f"{kind}.csv", ("path", "why"), found.items())
    listed = {**manifests.listed, **{what: found for what, (found, _) in release.counts.items()}}
    official = {**dataset.expected, **{what: number for what, (_, number) in release.counts.items()}}
    prepared = PreparedDataset(
        **{name: getattr(dataset, name) for name in ("name", "title", "task", "label_names", "metrics", "licence")},
        **{name: getattr(dataset, name) for name in ("sampling_stride", "output_activation", "label_range")},
        frame_level=dataset.frame_level,
        root=release.root,
        folds=tuple(manifests.folds.values()),
        pretrain=Path("pretrain.csv") if "pretrain" in manifests.listed else None,
        counts=manifests.written,
        notes={
            "protocol": dataset.protocol,
            "validation": manifests.validation(),
            "listed": listed,
            "official": official,
            **{kind: len(found) for kind, found in release.findings.items()},
            "count_mismatch": {
                name: {"official": number, "found": listed.get(name, 0)}
                for name, number in official.items()
                if number != listed.get(name, 0)
            },
        },
    )
    write_dataset_file(out, prepared)
    return prepared


def is_complete(prepared: PreparedDataset) -> bool:
    """Whether nothing was missing, unknown or repeated, and every count is the official one."""
    return not any(prepared.notes[name] for name in PROBLEMS)


def _clear(out: Path, name: str) -> None:
    """Take away a former preparation of the same dataset, so that one that breaks off is not taken for whole."""
    if not (out / DATASET_FILE).exists():
        return
    former = read_dataset(out)
    if former.name != name:
        raise UserError(f"--out {out}: holds the dataset {former.name} already; give another folder")
    (out / DATASET_FILE).unlink()
    for path in (former.pretrain, *(path for fold in former.folds for path in (fold.train, fold.val, fold.test))):
        if path is not None:
            path.unlink(missing_ok=True)


class _Manifests:
    """Writes the parts as they come, and keeps count.

    listed: clips that the annotations list, by manifest; written: rows of each manifest; used: paths that were listed.
    """

    def __init__(self, dataset: Dataset, release: Release, out: Path, settings: Settings) -> None:
        self.dataset, self.release, self.out, self.settings = dataset, release, out, settings
        self.listed: dict[str, int] = {}
        self.written: dict[str, int] = {}
        self.folds: dict[str, Fold] = {}
        self.used: set[str] = set()
        self.advance: Callable[[str], None] = lambda note: None
        self._labels = {name: number for number, name in enumerate(dataset.label_names)}
        self._seen: set[tuple[str | None, ...]] = set()
        self._tested: set[tuple[str | None, ...]] = set()
        self._subjects: dict[tuple[str, str], set[str]] = {}
        self._ways: set[str] = set()

    def add(self, part: Part) -> None:
        """Write a part's manifest, and for a training part that of the validation part carved from it."""
        self.listed[part.name] = 0
        rows = self._usable(part)
        carves = part.part == "train" and self.settings.validation != "none" and not self.dataset.has_validation
        if carves and (kept := list(rows)):
            held_out = self._hold_out(part, kept)
            self._write(part, (row for row, held in zip(kept, held_out, strict=True) if not held))
            self._write(replace(part, part="val"), (row for row, held in zip(kept, held_out, strict=True) if held))
        else:
            self._write(part, rows)

    def validation(self) -> str:
        """How the validation parts came about, in words."""
        if self.dataset.has_validation:
            return "official"
        share = f"{self.settings.val_fraction:g} of training, seed {self.settings.seed}"
        return f"{' or '.join(sorted(self._ways))}: {share}" if self._ways else "none"

    def _usable(self, part: Part) -> Iterator[Row]:
        """The rows that can be used; the others are noted. What streams past is not remembered."""
        streams = part.on_disk and part.part == "pretrain"
        note = self.release.note
        for row in part.rows:
            self.listed[part.name] += 1
            self.advance(part.name)
            if not streams:
                self.used.add(row.path)
            side = row.more.get("frame_values")
            if not part.on_disk and not self.release.has(row.path):
                note("missing", row.path, f"listed for {part.name}")
            elif side and not self.release.has(side):
                note("missing", side, f"labels per frame of {row.path}")
            elif why := self._wrong(row):
                note("unknown_label", row.path, why)
            elif not streams and self._repeats(part, row):
                note("repeated", row.path, f"listed again for {part.name}")
            else:
                yield row

    def _wrong(self, row: Row) -> str | None:
        """What is wrong with a row's label or values."""
        if not self.dataset.clip_truth:
            return None if "frame_values" in row.more else "has no file of labels per frame"
        if self.dataset.task == "classification" and row.label not in self._labels:
            return f"label '{row.label}' is none of {', '.join(self.dataset.label_names)}"
        if self.dataset.task == "regression" and row.values is not None:
            least, greatest = self.dataset.label_range or (-math.inf, math.inf)
            for name in self.dataset.label_names:
                value = row.values.get(name, math.nan)
                if not (math.isfinite(value) and least <= value <= greatest):
                    return f"{name} is {value:g}, not a number from {least:g} to {greatest:g}"
        return None

    def _repeats(self, part: Part, row: Row) -> bool:
        """Whether another row of this fold, in training or test, is the same clip; or another fold tests it already."""
        clip = (row.path, *(row.more.get(name) for name in ("start_s", "end_s", "box")))
        if (part.fold, *clip) in self._seen or (part.part == "test" and clip in self._tested):
            return True
        self._seen.add((part.fold, *clip))
        if part.part == "test":
            self._tested.add(clip)
        return False

    def _hold_out(self, part: Part, rows: Sequence[Row]) -> NDArray[np.bool_]:
        """(rows,) bool, true for those that become validation."""
        way, fraction = self.settings.validation, self.settings.val_fraction
        subjects = np.array([row.subject or "" for row in rows], object)
        known = any(subjects)
        if way == "subject" and not known:
            raise UserError(f"validation=subject: {self.dataset.title} names no subjects; use stratified or none")
        labels = np.array([self._labels.get(row.label or "", 0) for row in rows], np.int64)
        by_subject = known and way != "stratified"
        held_out = hold_out(len(rows), fraction, self.settings.seed, subjects if by_subject else None, labels)
        if not held_out.any() or held_out.all():
            few = "only one subject is" if by_subject else f"{len(rows)} clips are"
            raise UserError(f"{part.name}: {few} too few to carve validation from; use --validation none")
        self._ways.add("by subject" if by_subject else "stratified")
        return held_out

    def _write(self, part: Part, rows: Iterable[Row]) -> None:
        """Write one manifest and enter it in its fold."""
        truth = {"classification": ("label",), "regression": self.dataset.label_names, "unlabelled": ()}
        labelled = part.part != "pretrain" and self.dataset.clip_truth
        columns = (*(truth[self.dataset.task] if labelled else ()), *self.dataset.columns)
        file, subjects = Path(f"{part.name}.csv"), set()
        self.written[part.name] = 0

        def cells() -> Iterator[list[object]]:
            for row in rows:
                self.written[part.name] += 1
                if part.part != "pretrain":
                    subjects.add(row.subject or "")
                known = {
                    "label": row.label,
                    "subject": row.subject,
                    "group": row.group,
                    **(row.values or {}),
                    **row.more,
                }
                yield [row.path, *(known.get(name) for name in columns)]

        _write_csv(self.out / file, ("path", *columns), cells())
        if not self.written[part.name]:
            reasons = [item for kind in PROBLEMS[:3] for item in self.release.findings[kind].items()]
            example = ", e.g. {}: {}".format(*reasons[0]) if reasons else ""
            listed = self.listed.get(part.name, 0)
            raise UserError(f"{self.release.root}: no clip of {part.name} ({listed} listed) can be used{example}")
        if part.part != "pretrain":
            self._enter(part, file, subjects - {""})

    def _enter(self, part: Part, file: Path, subjects: set[str]) -> None:
        """Enter a manifest in its fold; where the protocol is subject-independent, test shares no subject with the rest."""
        name = part.fold or "1"
        if self.dataset.subject_independent:
            for (fold, other), theirs in self._subjects.items():
                if fold == name and "test" in (part.part, other) and subjects & theirs:
                    raise UserError(f"{part.name}: subject {min(subjects & theirs)} stands in {other} too")
            self._subjects[name, part.part] = subjects
        paths: dict[str, Any] = {part.part: file}
        self.folds[name] = replace(self.folds[name], **paths) if name in self.folds else Fold(name, **paths)


def _write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    with writing_atomically(path) as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)
