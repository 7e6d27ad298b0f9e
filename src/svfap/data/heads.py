"""Manifests of several heads: the same rows with the labels of each, of which a row may lack some."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from svfap.console import counted, say
from svfap.data.delimited import header_of
from svfap.data.find import on_disk
from svfap.data.manifest import Manifest, read_whole_manifest
from svfap.data.manifest_rows import ManifestError
from svfap.data.mixing import read_manifests
from svfap.data.targets import labelled_rows
from svfap.head_settings import about_head
from svfap.weighted import WeightedPath

MOST_LISTED = 5


class NoLabels(ManifestError):
    """A manifest of which no row has a label of a head."""


def read_heads(
    paths: Sequence[WeightedPath],
    heads: Mapping[str, Mapping[str, Any]],
    required: Collection[str] = (),
    **columns: Any,
) -> Manifest:
    """Read one manifest, or join several, with the labels of each head in `Manifest.heads`.

    heads: name -> the arguments of `read_manifest` that say what its labels are. columns: its other arguments. A row may lack the
    labels of some heads; rows without any are left out, with a message. required: heads that some row must have a label of.
    Raises `ManifestError`, for such a head `NoLabels`.
    """
    manifest = read_manifests(paths, task="unlabelled", partial=True, **columns)
    known = np.zeros(len(manifest), bool)
    for name, labels in heads.items():
        frame_level = labels.get("frame_level", False)
        with about_head(name):
            head = read_manifests(paths, partial=True, **labels, **columns)
            rows = labelled_rows(head, frame_level)
            if name in required and not rows.any():
                why = _why_none([each.path for each in paths], columns.get("root"), head, frame_level)
                raise NoLabels(f"no row of {manifest.path} has a label of it: {why}")
        manifest.heads[name] = head
        known |= rows
    if not known.all():
        left_out = manifest.table["path"][~known].tolist()
        if manifest.mixture is not None:  # whose paths are absolute
            left_out = [Path(path).name for path in left_out]
        listed = ", ".join(left_out[:MOST_LISTED]) + (", …" if len(left_out) > MOST_LISTED else "")
        number = counted(len(left_out), "video")
        say(f"{manifest.path}: {number} of {len(manifest)} left out, without a label of any head: {listed}")
    return manifest.subset(np.flatnonzero(known))


def with_labels(manifest: Manifest, frame_level: bool, head: str) -> Manifest:
    """The rows of a manifest that have a label of this head; says how many have none. Raises `NoLabels` if none has one."""
    rows = labelled_rows(manifest, frame_level)
    if not rows.any():
        why = _why_none([manifest.path], manifest.root, manifest, frame_level)
        raise NoLabels(f"{manifest.path}: no row has a label of head {head}: {why}")
    if not rows.all():
        say(f"{manifest.path}: {(~rows).sum()} of {counted(len(rows), 'video')} have no label of head {head}")
    return manifest.subset(np.flatnonzero(rows))


def _why_none(paths: Sequence[Path], root: Path | None, head: Manifest, frame_level: bool) -> str:
    """Why no row of these manifests has a label of a head, which they were read for: what is missing, and where."""
    wanted = head.dimensions or (head.label_column,)
    found: dict[str, list[str]] = {}  # the columns of each file that may have the labels
    for path in paths:
        manifest, text = read_whole_manifest(path, root=root)
        if not frame_level:
            found["the file" if len(paths) == 1 else str(path)] = list(text.columns)
        elif file := next((sample.frame_values for sample in manifest if sample.frame_values is not None), None):
            found[f"files of frame_values, such as {file.name},"] = header_of(on_disk(file), wanted)
    if not found:
        return "it is frame-level, and there are no files in a column frame_values, where its labels would be"
    where, columns = max(found.items(), key=lambda item: len(set(wanted) & set(item[1])))
    absent = [name for name in wanted if name not in columns]
    if not absent:
        return f"{_columns(wanted)} {'is' if len(wanted) == 1 else 'are'} empty"
    verb = "have" if frame_level else "has"
    setting = "`label_column`" if head.dimensions is None else "`dimensions`"
    return f"{where} {verb} no {_columns(absent)}; there are {', '.join(columns)}; add what is missing, or correct {setting}"


def _columns(names: Sequence[str]) -> str:
    return f"column{'' if len(names) == 1 else 's'} {', '.join(names)}"
