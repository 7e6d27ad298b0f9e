"""Manifests of several heads: the same rows with the labels of each, of which a row may lack some."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from svfap.console import counted, say
from svfap.data.manifest import Manifest, ManifestError
from svfap.data.mixing import read_manifests
from svfap.data.targets import labelled_rows
from svfap.weighted import WeightedPath

MOST_LISTED = 5


class NoLabels(ManifestError):
    """A manifest of which no row has a label of a head."""


def read_heads(paths: Sequence[WeightedPath], heads: Mapping[str, Mapping[str, Any]], **columns: Any) -> Manifest:
    """Read one manifest, or join several, with the labels of each head in `Manifest.heads`.

    heads: name -> the arguments of `read_manifest` that say what its labels are. columns: its other arguments. A row may lack the
    labels of some heads; rows without any are left out, with a message. Raises `ManifestError`, also for a head that no row has
    a label of.
    """
    manifest = read_manifests(paths, task="unlabelled", partial=True, **columns)
    known = np.zeros(len(manifest), bool)
    for name, labels in heads.items():
        try:
            head = read_manifests(paths, partial=True, **labels, **columns)
        except ManifestError as error:
            raise ManifestError(f"heads: {name}: {error}") from None
        rows = labelled_rows(head, labels.get("frame_level", False))
        if not rows.any():
            wanted = ", ".join(head.dimensions or (head.label_column,))
            raise NoLabels(
                f"heads: {name}: no row of {manifest.path} has a label of it; add the column {wanted}, or correct the head"
            )
        manifest.heads[name] = head
        known |= rows
    if not known.all():
        paths_left_out = manifest.table["path"][~known].tolist()
        listed = ", ".join(paths_left_out[:MOST_LISTED]) + (", …" if len(paths_left_out) > MOST_LISTED else "")
        number = counted(len(paths_left_out), "video")
        say(f"{manifest.path}: {number} of {len(manifest)} left out, without a label of any head: {listed}")
    return manifest.subset(np.flatnonzero(known))


def with_labels(manifest: Manifest, frame_level: bool, head: str) -> Manifest:
    """The rows of a manifest that have a label of this head; says how many have none. Raises `NoLabels` if none has one."""
    rows = labelled_rows(manifest, frame_level)
    if not rows.any():
        wanted = ", ".join(manifest.dimensions or (manifest.label_column,))
        raise NoLabels(f"{manifest.path}: no row has a label of head {head}, in the column {wanted}")
    if not rows.all():
        say(f"{manifest.path}: {(~rows).sum()} of {counted(len(rows), 'video')} have no label of head {head}")
    return manifest.subset(np.flatnonzero(rows))
