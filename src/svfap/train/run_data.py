"""The rows that a run is trained and validated on, so that it is resumed with the same ones only."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from svfap.console import counted
from svfap.data.find import on_disk
from svfap.files import write_atomically
from svfap.formats import stamped, upgrade

if TYPE_CHECKING:
    from svfap.data.manifest import Manifest

DIGEST_BYTES = 6  # of each row
BOX_AND_SPAN = ("start_s", "end_s", "box_x", "box_y", "box_w", "box_h")


@dataclass(frozen=True)
class Part:
    """The training or the validation videos.

    rows: their number. digests: 12 hexadecimal digits for each row, one row after another; None: not known.
    """

    rows: int
    digests: str | None = None

    def first_other_row(self, before: Part) -> int | None:
        """The first row, from 1, that is not the same as before; None if there is none or it is not known."""
        now, then = (re.findall(f".{{{2 * DIGEST_BYTES}}}", part.digests or "") for part in (self, before))
        return next((row for row, (a, b) in enumerate(zip(now, then, strict=False), 1) if a != b), None)


@dataclass(frozen=True)
class Share:
    """One of several manifests of training. rows: of it in training. weight: of its share of the samples that are drawn."""

    rows: int
    weight: float | None = None

    def __str__(self) -> str:
        videos = counted(self.rows, "video")
        return videos if self.weight is None else f"{videos} with weight {self.weight:g}"


@dataclass(frozen=True)
class RunData:
    """The rows of a run. names: its classes or dimensions, in order. validation: None without a validation part. mixture: of
    several training manifests, in order.
    """

    names: tuple[str, ...]
    training: Part
    validation: Part | None = None
    mixture: tuple[Share, ...] = ()

    def differences(self, before: RunData) -> list[str]:
        """What has changed since `before`, as text for the user."""
        found = []
        if self.names != before.names:
            found.append(f"classes or dimensions: {', '.join(before.names)} then, {', '.join(self.names)} now")
        if self.mixture != before.mixture:
            mixed_then, mixed_now = (", ".join(map(str, data.mixture)) or "one" for data in (before, self))
            found.append(f"training manifests: {mixed_then} then, {mixed_now} now")
        for name, then, now in (
            ("training", before.training, self.training),
            ("validation", before.validation, self.validation),
        ):
            num_then, num_now = ("none" if part is None else part.rows for part in (then, now))
            if num_then != num_now:
                found.append(f"{name} videos: {num_then} then, {num_now} now")
            if then and now and (row := now.first_other_row(then)):
                found.append(f"row {row} of the {name} videos is another one or has another label")
        return found

    def write(self, file: Path) -> None:
        """Write the data as JSON. Raises `UserError`."""
        write_atomically(file, json.dumps(stamped("run data", asdict(self))) + "\n")


def read_run_data(file: Path) -> RunData:
    """Read what `RunData.write` wrote. Raises `UserError` for a version of the format that is not known."""
    content = upgrade("run data", json.loads(file.read_text()), file, RunData.__dataclass_fields__)
    parts = {name: part and Part(**part) for name, part in content.items() if name in ("training", "validation")}
    mixture = tuple(Share(**share) for share in content.get("mixture", ()))
    return RunData(names=tuple(content["names"]), mixture=mixture, **parts)


def run_data(training: Manifest, validation: Manifest | None, frame_level: bool = False) -> RunData:
    """The data of a run with these videos. frame_level: labels in files of values per frame count as well."""
    names = training.label_names or training.dimensions or ()
    for name, head in training.heads.items():
        names += tuple(f"{name}/{each}" for each in head.label_names or head.dimensions or ())
    validated = None if validation is None else part_of(validation, frame_level)
    mixture: tuple[Share, ...] = ()
    if training.mixture is not None:
        weights = training.mixture.weights or (None,) * len(training.mixture.paths)
        mixture = tuple(Share(len(part), weight) for part, weight in zip(training.parts, weights, strict=True))
    return RunData(names, part_of(training, frame_level), validated, mixture)


def part_of(manifest: Manifest, frame_level: bool = False) -> Part:
    """Number and digests of a manifest's rows: path, time span, box, labels and group.

    Where the videos lie does not matter: the folder that all paths begin with, of a joined manifest those of each of its
    manifests, is left out.
    """
    rows = [row for part in manifest.parts for row in zip(*_columns(part, frame_level), strict=True)]
    return Part(len(manifest), "".join(_digest("\n".join(row).encode("utf-8", "surrogateescape")) for row in rows))


def _columns(manifest: Manifest, frame_level: bool) -> Iterator[list[str]]:
    """The columns that identify a row, as text."""
    table = manifest.table
    paths = table["path"].astype(str).tolist()
    folder = os.path.commonprefix(paths).rfind("/") + 1  # noqa: RUF071 - cut at a slash
    yield [path[folder:] for path in paths]
    for name in BOX_AND_SPAN:
        if name in table:
            yield [repr(value) for value in table[name].astype(float).tolist()]
    for labels in (manifest, *manifest.heads.values()):
        if labels.label_names is not None and "label" in labels.table:
            names = (*labels.label_names, "")  # -1: none
            yield [names[label] for label in labels.table["label"].tolist()]
        for name in labels.dimensions or ():
            if name in labels.table:
                yield [repr(value) for value in labels.table[name].astype(float).tolist()]
    if (groups := manifest.groups) is not None:
        yield [str(group) for group in groups]
    for labels in (manifest, *manifest.heads.values()):
        if frame_level and "frame_numbers" in labels.table:
            yield ["" if numbers is None else _digest(numbers.tobytes()) for numbers in labels.table["frame_numbers"]]
    if frame_level and "frame_values" in table:
        content = cache(lambda name: _digest_of_file(manifest.root / name) if name else "")
        yield [content(str(name)) for name in table["frame_values"]]


def _digest(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=DIGEST_BYTES).hexdigest()


def _digest_of_file(file: Path) -> str:
    try:
        return _digest(on_disk(file).read_bytes())
    except OSError:  # training counts the video as unreadable
        return ""
