"""Several manifests read as one, with the shares of each in the samples that are drawn in training."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from svfap.console import counted, say
from svfap.data.find import same_text
from svfap.data.manifest import Manifest, Mixture, read_manifest
from svfap.data.manifest_rows import BOX_COLUMNS, SPAN_COLUMNS, TEXT_COLUMNS, ManifestError
from svfap.weighted import WeightedPath


def read_manifests(paths: Sequence[WeightedPath], **columns: Any) -> Manifest:
    """Read one manifest, or join several, in their order. columns: of `read_manifest`; `root` is that of all.

    The paths of a joined manifest are absolute. Without `label_names` or `dimensions` all must have the same; with `partial`,
    one may lack the labels. Raises `ManifestError`, also if no video of one of several exists, and for a video with different
    labels in two of them.
    """
    manifests = [read_manifest(each.path, **columns) for each in paths]
    if len(manifests) == 1:
        return manifests[0]
    for manifest in manifests:
        manifest.require_files()
    # Of partial manifests one without any class has no names.
    naming = [each for each in manifests if each.label_names or not each.partial] or manifests
    _require_same([(each.path, each.label_names) for each in naming], "classes", "label_names")
    _require_same([(each.path, each.dimensions) for each in manifests], "dimensions", "dimensions")
    first = naming[0]
    tables = [_absolute(manifest) for manifest in manifests]
    table = pd.concat(tables, ignore_index=True)
    for name in TEXT_COLUMNS:
        if name in table:
            table[name] = table[name].astype(object).where(table[name].notna(), "")
    if "label" in table:  # which may be in files of values per frame alone
        table["label"] = table["label"].fillna(-1).astype(np.int64)
    if "frame_numbers" in table:
        table["frame_numbers"] = table["frame_numbers"].astype(object).where(table["frame_numbers"].notna(), None)
    _require_one_truth(table, first)
    weights = tuple(each.weight for each in paths if each.weight is not None)
    of = np.repeat(np.arange(len(tables), dtype=np.int64), [*map(len, tables)])
    mixture = Mixture(of, tuple(each.path for each in paths), weights or None)
    all_paths = Path(", ".join(str(each.path) for each in paths))
    joined = first.with_rows(table, mixture)
    joined.path, joined.root = all_paths, Path()
    return joined


def say_mixture(manifest: Manifest, num_drawn: int) -> None:
    """Print, for a joined manifest, how many videos each of its manifests has, and its share of the `num_drawn` of an epoch."""
    mixture = manifest.mixture
    if mixture is None:
        return
    counts = np.bincount(mixture.of, minlength=len(mixture.paths))
    shares = counts / counts.sum() if mixture.shares is None else mixture.shares
    lines = [
        f"{path}: {counted(count, 'video')}, {share:.1%} of those drawn, each {_often(share * num_drawn / count)} an epoch"
        for path, count, share in zip(mixture.paths, counts.tolist(), shares.tolist(), strict=True)
        if count
    ]
    lines += [f"{path}: no video" for path, count in zip(mixture.paths, counts.tolist(), strict=True) if not count]
    say(f"training on {len(mixture.paths)} manifests: {'; '.join(lines)}")


def _often(times: float) -> str:
    """`once`, `2 times`, `0.5 times`"""
    shown = f"{times:.3g}"
    return "once" if shown == "1" else f"{shown} times"


def _absolute(manifest: Manifest) -> pd.DataFrame:
    """The table with absolute paths."""
    table = manifest.table.copy()
    for name in ("path", "frame_values"):
        if name in table:
            texts = [os.path.abspath(manifest.root / text) if text else "" for text in table[name]]
            table[name] = pd.Series(texts, table.index, dtype=object)
    return table


def _require_same(found: Sequence[tuple[Path, tuple[str, ...] | None]], what: str, setting: str) -> None:
    """Raise `ManifestError` if the names that one manifest has are not those of the first, in any order."""
    (first, names), *others = found
    for path, other in others:
        if set(map(same_text, other or ())) != set(map(same_text, names or ())):
            listed = "; ".join(f"{each} has {', '.join(own or ())}" for each, own in ((first, names), (path, other)))
            raise ManifestError(
                f"the manifests have different {what}: {listed}. Write them alike, or name those to learn with `{setting}`"
            )


def _require_one_truth(table: pd.DataFrame, manifest: Manifest) -> None:
    """Raise `ManifestError` for a sample that two rows give different labels."""
    sample = [name for name in ("path", *SPAN_COLUMNS, *BOX_COLUMNS) if name in table]
    for name in ("label", *(manifest.dimensions or ()), "frame_values"):
        if name not in table:
            continue
        missing = table[name].isna() | table[name].isin([-1] if name == "label" else [""])
        known = table if not manifest.partial else table[~missing]  # one row may have the labels that another lacks
        distinct = known[[*sample, name]].drop_duplicates()
        if (twice := distinct.duplicated(sample)).any():
            path = distinct["path"][twice].iloc[0]
            raise ManifestError(f"{path}: two rows of the manifests give it different labels; correct or remove one")
