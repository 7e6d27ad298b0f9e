"""Manifests, lists of videos with their labels: a CSV with a header, or the published formats of `path label` lines."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, overload

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from svfap.data.find import missing
from svfap.data.manifest_rows import (
    BOX_COLUMNS,
    NUM_LOOKED_FOR,
    SPAN_COLUMNS,
    TEXT_COLUMNS,
    ManifestError,
    ManifestRows,
)
from svfap.data.packed import is_there
from svfap.files import printable

Task = Literal["classification", "regression", "unlabelled"]


@dataclass(frozen=True)
class Sample:
    """One row. `key` is unique: the path as written, then `#t=start,end` and `#xywh=x,y,w,h` if the row has them."""

    path: Path
    key: str
    label: int | None
    values: tuple[float, ...] | None
    start_s: float | None
    end_s: float | None
    subject: str | None
    split: str | None
    box: tuple[float, float, float, float] | None  # x, y, w, h in pixels of the video
    frame_values: Path | None  # CSV with one row per frame: a column per dimension, or `label`
    group: str | None
    frame_numbers: NDArray[np.float64] | None = None  # (frames, dimensions), if value columns have a number per frame


@dataclass(frozen=True, eq=False)
class Mixture:
    """The manifests that one was joined of (see `svfap.data.mixing`).

    of: (N,) int64, the number of each sample's manifest. paths: of the manifests. weights: of their shares of the samples that
    are drawn in training; None: every sample is drawn equally often.
    """

    of: NDArray[np.int64]
    paths: tuple[Path, ...]
    weights: tuple[float, ...] | None = None

    @property
    def shares(self) -> NDArray[np.float64] | None:
        """The weights, with sum 1."""
        return None if self.weights is None else np.array(self.weights) / sum(self.weights)


class Manifest(Sequence[Sample]):
    """Samples in the order of the file. Each `Sample` is created on access; millions of rows are kept as a table.

    path: the manifest's file; of a joined one all of them, for messages. root: folder that paths are relative to.
    label_names: of the classes, in order (classification). dimensions: names of the values (regression). table: one row per
    sample, with the columns `path` (as written; of a joined manifest absolute), `label` (int64), the dimensions (float64), and
    those of start_s, end_s, subject, split, group, frame_values, box_x, ..., box_h that the file has. If value columns have a
    number per frame, `frame_numbers` has an array (frames, dimensions) or None, and the dimensions have the means.
    invalid_marks, label_range, label_column, partial: as in `read_manifest`. mixture: of a joined manifest. heads: name -> the
    same rows with the labels of one of several heads; of these the manifest itself has none (see `svfap.data.heads`).
    """

    def __init__(
        self,
        path: Path,
        root: Path,
        table: pd.DataFrame,
        label_names: tuple[str, ...] | None = None,
        dimensions: tuple[str, ...] | None = None,
        invalid_marks: tuple[float, ...] = (),
        label_range: tuple[float, float] | None = None,
        mixture: Mixture | None = None,
        label_column: str = "label",
        partial: bool = False,
        heads: Mapping[str, Manifest] | None = None,
    ) -> None:
        self.path, self.root, self.table, self.mixture = path, root, table, mixture
        self.label_column, self.partial, self.heads = label_column, partial, dict(heads or {})
        self.label_names, self.dimensions = label_names, dimensions
        self.invalid_marks, self.label_range = invalid_marks, label_range
        self._columns = {str(name): table[name].array for name in table.columns}

    def __len__(self) -> int:
        return len(self.table)

    @overload
    def __getitem__(self, index: int) -> Sample: ...
    @overload
    def __getitem__(self, index: slice) -> Manifest: ...
    def __getitem__(self, index: int | slice) -> Sample | Manifest:
        if isinstance(index, slice):
            return self.subset(range(*index.indices(len(self))))
        row = {name: column[index] for name, column in self._columns.items()}
        texts = {name: str(row[name]) for name in TEXT_COLUMNS if row.get(name)}
        numbers = {name: float(row[name]) for name in (*SPAN_COLUMNS, *BOX_COLUMNS) if not pd.isna(row.get(name))}
        key = path = str(row["path"])
        start_s, end_s = numbers.get("start_s"), numbers.get("end_s")
        if start_s is not None or end_s is not None:
            key += f"#t={start_s or 0:.10g},{'' if end_s is None else f'{end_s:.10g}'}"
        box = None
        if "box_x" in numbers:
            box = numbers["box_x"], numbers["box_y"], numbers["box_w"], numbers["box_h"]
            key += "#xywh=" + ",".join(f"{side:.10g}" for side in box)
        return Sample(
            path=self.root / path,
            key=key,
            label=int(row["label"]) if "label" in row else None,
            values=tuple(float(row[name]) for name in self.dimensions or () if name in row) or None,
            start_s=start_s,
            end_s=end_s,
            subject=texts.get("subject"),
            split=texts.get("split"),
            box=box,
            frame_values=self.root / texts["frame_values"] if "frame_values" in texts else None,
            group=texts.get("group"),
            frame_numbers=row.get("frame_numbers"),
        )

    def subset(self, indices: Sequence[int] | NDArray[np.int64]) -> Manifest:
        """The samples at these positions, in this order."""
        rows = np.asarray(indices, np.int64)
        mixture = None if self.mixture is None else replace(self.mixture, of=self.mixture.of[rows])
        heads = {name: head.subset(rows) for name, head in self.heads.items()}
        return self.with_rows(self.table.take(rows).reset_index(drop=True), mixture, heads)

    def with_rows(
        self, table: pd.DataFrame, mixture: Mixture | None = None, heads: Mapping[str, Manifest] | None = None
    ) -> Manifest:
        """A manifest of other rows with labels of the same kind."""
        kind = self.label_names, self.dimensions, self.invalid_marks, self.label_range
        return Manifest(self.path, self.root, table, *kind, mixture, self.label_column, self.partial, heads)

    def of_head(self, name: str) -> Manifest:
        """The rows with the labels of a head; '' is the only one."""
        return self.heads[name] if name else self

    @property
    def parts(self) -> list[Manifest]:
        """The samples of each of the manifests that this one was joined of; of another one itself."""
        if self.mixture is None:
            return [self]
        found, heads = [], {name: head.parts for name, head in self.heads.items()}
        for number, path in enumerate(self.mixture.paths):
            table = self.table[self.mixture.of == number].reset_index(drop=True)
            part = self.with_rows(table, heads={name: parts[number] for name, parts in heads.items()})
            part.path = path
            found.append(part)
        return found

    @property
    def subjects(self) -> NDArray[np.object_] | None:
        """Subject of each sample, (N,), '' if unknown; None if no sample has one."""
        return self._texts("subject")

    @property
    def groups(self) -> NDArray[np.object_] | None:
        """Group of each sample, (N,), '' if it has none; None if no sample has one."""
        return self._texts("group")

    @property
    def folders(self) -> list[Path]:
        """The folders that the videos lie in, each once."""
        return [self.root / folder for folder in dict.fromkeys(map(os.path.dirname, self.table["path"]))]

    @property
    def labels(self) -> NDArray[np.int64] | None:
        """Label of each sample, (N,) int64; None without labels."""
        return self.table["label"].to_numpy(np.int64) if "label" in self.table else None

    def require_files(self) -> None:
        """Raise `ManifestError` if none of up to 20 paths, spread over the rows, exists: then all are written wrongly."""
        rows = np.unique(np.linspace(0, len(self) - 1, NUM_LOOKED_FOR).astype(int)).tolist() if len(self) else []
        if rows and not any(is_there(self[row].path) for row in rows):
            how = "" if len(rows) == 1 else f"none of the {len(rows)} paths looked at exists, such as "
            first, why, searched = printable(self[0].path), missing(self[0].path), printable(self.root.absolute())
            raise ManifestError(
                f"{self.path}: {how}{first}: {why}. Paths are relative to {searched}; correct them, or where the command "
                "has --root name their folder with it (in Python: root)"
            )

    def _texts(self, column: str) -> NDArray[np.object_] | None:
        if column not in self.table:
            return None
        texts = self.table[column].to_numpy(dtype=object)
        return texts if any(texts) else None


def read_manifest(
    path: str | Path,
    *,
    root: str | Path | None = None,
    task: Task = "classification",
    label_names: Sequence[str] | None = None,
    dimensions: Sequence[str] | None = None,
    split: str | None = None,
    frame_level: bool = False,
    invalid_marks: Sequence[float] = (),
    label_range: tuple[float, float] | None = None,
    label_column: str = "label",
    partial: bool = False,
) -> Manifest:
    """Read a manifest.

    The CSV, with commas, semicolons or tabs, has a header with these columns: path (of a video, a folder of frames or an
    image, relative to `root`; default: the root of the prepared dataset that the manifest belongs to, else its own folder);
    label (a class name, or an integer from 0) or one column per dimension; and optionally start_s, end_s, subject, split,
    group, source, box ("x y w h" in pixels) and frame_values (a CSV with one row per frame). With frame_level a value column
    may have a number per frame, separated by spaces, and the column label is not needed if every row has frame_values. Lines
    `path label` or `path number_of_frames label` without a header are read, too.

    label_names: the classes in order; default: the sorted names found, or 0 to the largest integer.
    dimensions: the value columns; default: every other column whose first or most entries are numbers.
    split: keep only the rows whose column `split` has this value.
    invalid_marks: numbers that mean "not annotated"; frames with one are left out (see `svfap.data.targets`).
    label_range: least and greatest value (regression); frames with a value outside are left out.
    label_column: the column of classes, here and in files of frame_values.
    partial: rows may lack the label, or all values; they have the label -1, or NaN. A file that lacks a column has no labels.
    With frame_level labels are those of files of frame_values, or of cells with a number per frame; never those of clips.
    Raises `ManifestError`, also for a value of a whole clip that is a mark or outside the range. Prints a message if classes
    are counted from 1, have holes, or differ only in case. `Manifest.require_files` checks whether the videos exist.
    """
    marks = tuple(float(mark) for mark in invalid_marks)
    parser = ManifestRows(Path(path), root, marks, label_range, label_column, partial)
    parser.choose(split)
    names = dims = None
    if task == "classification":
        names = parser.read_labels(label_names, frame_level)
    elif task == "regression":
        dims = parser.read_values(dimensions, frame_level)
    table = parser.table[parser.chosen].reset_index(drop=True)
    kind = names, dims, marks, label_range
    return Manifest(parser.path, parser.root, table, *kind, label_column=label_column, partial=partial)


def read_whole_manifest(
    path: str | Path, *, root: str | Path | None = None, split: str | None = None
) -> tuple[Manifest, pd.DataFrame]:
    """The samples without their labels, and all columns of the file as text with one row per sample; see `read_manifest`.

    split: keep only the rows whose column `split` has this value; default: all rows. Raises `ManifestError`.
    """
    parser = ManifestRows(Path(path), root)
    if split is not None:
        parser.choose(split)
    table, text = (rows[parser.chosen].reset_index(drop=True) for rows in (parser.table, parser.text))
    return Manifest(parser.path, parser.root, table), text
