"""Test videos that a model has seen before: trained on, of the same files, or those that chose its best epoch."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from svfap.console import counted, silent
from svfap.data.heads import read_heads
from svfap.data.manifest import Manifest
from svfap.data.manifest_rows import BOX_COLUMNS, SPAN_COLUMNS
from svfap.data.mixing import read_manifests
from svfap.data.prepared import read_dataset
from svfap.data.split import carve_validation, take_fraction
from svfap.errors import UserError
from svfap.model.config import OF_LABELS
from svfap.weighted import WeightedPath, weighted_paths

Box = tuple[float, ...]


class Seen(NamedTuple):
    """How many test videos a run has seen; each counts once, in the first that holds.

    trained: the same time and face as of a training video. chose: as of a validation video. same_file: another time or face of
    the file of a training or validation video.
    """

    trained: int = 0
    chose: int = 0
    same_file: int = 0

    def warnings(self, model: str, number: int) -> Iterator[str]:
        """What to say of a model that is tested on `number` videos."""
        of = f"of the {counted(number, 'test video')}"
        if self.trained:
            yield f"{model} was trained on {self.trained} {of}; scores on these say nothing about new ones"
        if self.chose:
            yield (
                f"{self.chose} {of} were validation videos of {model} and chose its best epoch; scores on these are a little "
                "too good"
            )
        if self.same_file:
            yield (
                f"{self.same_file} {of} are other times or faces of files that {model} was trained or validated on; scores on "
                "these may be too good"
            )


def seen_by(run: Mapping[str, Any], videos: Manifest) -> Seen:
    """What a run has seen of test videos, as far as its manifests are still there and as they were. run: its settings."""
    try:
        with silent():
            training, validation = parts_of(run)
    except UserError:  # a manifest has changed since
        return Seen()
    files = {os.path.abspath(videos.root / path) for path in videos.table["path"]}
    trained, chose = (_pieces(part, files) for part in (training, validation))
    counts = dict.fromkeys(Seen._fields, 0)
    for file, piece in _rows(videos):
        if any(map(piece.shares, trained.get(file, ()))):
            counts["trained"] += 1
        elif any(map(piece.shares, chose.get(file, ()))):
            counts["chose"] += 1
        elif file in trained or file in chose:
            counts["same_file"] += 1
    return Seen(**counts)


def tested_by(run: Mapping[str, Any], videos: Manifest) -> int:
    """How many videos are of a run's own test part, the same time and face, as far as it is known and still there.

    It is the test part of its folds, or the rows of its manifests with `split` test. run: its settings.
    """
    files = {os.path.abspath(videos.root / path) for path in videos.table["path"]}
    tested: dict[str, list[_Piece]] = {}
    for manifest, split in _test_parts(run):
        with silent(), suppress(UserError):  # it has no rows for testing, or has changed since
            part = _there([WeightedPath(manifest)], root=run.get("root"), split=split, task="unlabelled")
            for file, pieces in _pieces(part, files).items():
                tested.setdefault(file, []).extend(pieces)
    return sum(any(map(piece.shares, tested.get(file, ()))) for file, piece in _rows(videos))


def _test_parts(run: Mapping[str, Any]) -> Iterator[tuple[Path, str | None]]:
    """The manifests of a run's test part, each with its `split`."""
    for folder, _ in weighted_paths(run.get("dataset")):
        with suppress(UserError):
            dataset = read_dataset(folder)
            if test := dataset.fold(None if len(dataset.folds) == 1 else run.get("fold")).test:
                yield test, None
    if run.get("dataset") is None and run.get("split") is not None:
        yield from ((each.path, "test") for each in weighted_paths(run.get("manifest")))


def parts_of(run: Mapping[str, Any]) -> tuple[Manifest | None, Manifest | None]:
    """Training and validation videos of a run, as training took them; None where there are none or the manifest is gone.

    run: its settings. Raises `UserError` for a manifest that has changed since.
    """
    manifests, val_manifests = (weighted_paths(run.get(name)) for name in ("manifest", "val_manifest"))
    settings: dict[str, Any] = {"root": run.get("root"), "task": "unlabelled"}
    if run.get("heads"):
        heads = {
            name: {key: head[key] for key in OF_LABELS if head.get(key) is not None}
            for name, head in run["heads"].items()
        }
        settings = {"root": run.get("root"), "heads": heads}
    if run.get("task") == "classification":  # whose classes decide which videos are drawn
        settings |= {name: run.get(name) for name in ("task", "label_names")}
        settings["frame_level"] = bool(run.get("frame_level"))
    training, is_whole = (
        _there(manifests, split=run.get("split"), **settings),
        all(each.path.is_file() for each in manifests),
    )
    validation = None
    if val_manifests or run.get("val_split") is not None:
        validation = _there(val_manifests or manifests, split=run.get("val_split"), **settings)
    elif training is not None and is_whole and run.get("val_fraction"):
        training, validation = carve_validation(training, run["val_fraction"], run.get("seed", 0))
    if training is not None and is_whole and run.get("fraction", 1) < 1:
        training = take_fraction(training, run["fraction"], run.get("seed", 0))
    return training, validation


def _there(manifests: list[WeightedPath], **columns: Any) -> Manifest | None:
    """Those of the manifests that are still there, as one; None if none is."""
    there = [each for each in manifests if each.path.is_file()]
    read = read_heads if "heads" in columns else read_manifests
    return read(there, **columns) if there else None


class _Piece(NamedTuple):
    """What a row shows of its file: from start to end in seconds, and a box in pixels, or None for whole pictures."""

    start: float
    end: float
    box: Box | None

    def shares(self, other: _Piece) -> bool:
        """Whether the times overlap and the faces are the same."""
        same = self.box is None or other.box is None or self.box == other.box
        return same and self.start < other.end and other.start < self.end


def _rows(videos: Manifest) -> Iterator[tuple[str, _Piece]]:
    """The file of each row, absolute, and what the row shows of it."""
    table = videos.table
    columns = [table[name] if name in table else [math.nan] * len(table) for name in (*SPAN_COLUMNS, *BOX_COLUMNS)]
    for path, start, end, *box in zip(table["path"], *columns, strict=True):
        times = 0.0 if math.isnan(start) else start, math.inf if math.isnan(end) else end
        yield os.path.abspath(videos.root / path), _Piece(*times, None if math.isnan(box[0]) else tuple(box))


def _pieces(part: Manifest | None, files: set[str]) -> dict[str, list[_Piece]]:
    """What the rows of a part show of these files."""
    found: dict[str, list[_Piece]] = {}
    for file, piece in _rows(part) if part is not None else ():
        if file in files:
            found.setdefault(file, []).append(piece)
    return found
