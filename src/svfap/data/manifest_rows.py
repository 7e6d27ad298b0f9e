"""The rows of a manifest's file: which columns it may have, and how each is parsed."""

from __future__ import annotations

import csv
import re
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from svfap.console import say_once
from svfap.data.delimited import SEPARATORS, header_of, separator_of, split_line
from svfap.data.find import on_disk, same_text
from svfap.data.prepared import no_manifest, root_of
from svfap.errors import UserError
from svfap.remote import place_of

TEXT_COLUMNS = ("subject", "split", "group", "frame_values", "source")
SPAN_COLUMNS = ("start_s", "end_s")
BOX_COLUMNS = ("box_x", "box_y", "box_w", "box_h")
CLIP_COLUMNS = ("source", "track", "source_start_s", "source_end_s", "face_px")  # written by `svfap crop`
RESERVED = ("path", "label", "box", *SPAN_COLUMNS, *TEXT_COLUMNS, *CLIP_COLUMNS)
MAX_INFERRED_CLASSES = 10_000
NUM_LOOKED_FOR = 20  # paths that must not all be missing
# First lines of lists such as "file label" are headers: these words name no class and no video.
LABEL_WORDS = {"label", "labels", "class", "emotion", "expression", "category", "target"}
PATH_WORDS = {"path", "paths", "file", "files", "filename", "file_name", "video", "video_name", "clip", "name"}


class ManifestError(UserError):
    """A manifest that cannot be used; the message names the file, row and column, and says how to fix it."""


class LabelError(ManifestError):
    """A label that is none of the known classes."""


def _read_table(path: Path, root: Path) -> pd.DataFrame:
    """All columns as text, '' if empty; the index has the line numbers of the file."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            num_blank, first = next(((n, line) for n, line in enumerate(file) if line.strip()), (0, ""))
        if not first:
            raise ManifestError(f"{path}: the file is empty; expected a header with a column 'path'")
        separator = separator_of(first, ["path"])
        header = split_line(first, separator)
        if "path" in header:
            first_row = num_blank + 2
            with warnings.catch_warnings():
                warnings.simplefilter("error", pd.errors.ParserWarning)  # otherwise surplus fields are dropped
                table = pd.read_csv(
                    path,
                    sep=separator,
                    header=num_blank,
                    dtype=str,
                    encoding="utf-8-sig",
                    keep_default_na=False,  # "NA" and "None" may be names of classes
                    skipinitialspace=True,
                    skip_blank_lines=False,  # so that rows keep their line numbers
                    index_col=False,
                ).rename(columns=lambda name: str(name).strip())
        elif len(first.split()) > 1 and (len(split_line(first, ",")) == 1 or first.split()[-1].isdecimal()):
            first_row, table = 1, _read_list(path, root)
        else:
            found = f"no column 'path' among {_listed(header)}"
            raise ManifestError(f"{path}: {found}; rename the column of files, or add a header path,label")
    except (FileNotFoundError, IsADirectoryError):
        raise ManifestError(f"{place_of(path)}: {no_manifest(path)}") from None
    except PermissionError:
        raise ManifestError(f"{path}: permission denied; make the file readable") from None
    except UnicodeError:
        raise ManifestError(f"{path}: is not UTF-8 text; save it as CSV in UTF-8") from None
    except pd.errors.ParserWarning:
        what = SEPARATORS[separator]
        raise ManifestError(f"{path}: rows have more fields than the header; quote names with {what}") from None
    except (pd.errors.ParserError, csv.Error) as error:
        raise ManifestError(f"{path}: is not a CSV table ({' '.join(str(error).split())}); correct that line") from None
    table = table.fillna("").apply(lambda column: column.str.strip())
    if separator == ";":  # and a comma for the decimal point
        for name in table.columns.difference(["path", "label", *TEXT_COLUMNS]):
            table[name] = table[name].str.replace(r"(?<=\d),(?=\d)", ".", regex=True)
    table.index = pd.RangeIndex(first_row, first_row + len(table))
    table = table[(table != "").any(axis=1)]
    if table.empty:
        raise ManifestError(f"{path}: holds a header and no rows; add one row per video")
    return table


def _read_list(path: Path, root: Path) -> pd.DataFrame:
    """The columns path and label of a file without a header: lines `path label`, or `path number_of_frames label`."""
    lines = pd.Series(path.read_text(encoding="utf-8-sig").splitlines(), dtype=str).str.strip()
    given = lines[lines != ""]
    words = given.iloc[0].lower().split()
    if not words[-1].isdecimal() and (words[0] in PATH_WORDS or words[-1] in LABEL_WORDS):
        what = "is a header without a column 'path' that commas, semicolons or tabs separate"
        raise ManifestError(f"{path}: the first line, '{given.iloc[0]}', {what}; write it as path,label")
    table = lines.str.rsplit(n=1, expand=True).rename(columns={0: "path", 1: "label"})
    three = given.str.fullmatch(r".*\S\s+[0-9]+\s+[0-9]+")
    paths = table["path"][three[three].index]
    if three.all() and not any(on_disk(root / text).exists() for text in paths[:NUM_LOOKED_FOR]):
        say_once(f"{path}: lines of three columns; read as path, number of frames (ignored), label")
        table["path"] = table["path"].str.replace(r"\s+[0-9]+$", "", regex=True)
    return table


class ManifestRows:
    """The rows of one file: the columns that identify a sample are parsed at once, the targets by `read_labels` or `read_values`.

    text: all columns as text, '' if empty; the index has the line numbers of the file. table: the columns parsed so far (see
    `Manifest`), with the same index. chosen: (rows,) bool; the other rows need no targets.
    """

    def __init__(
        self,
        path: Path,
        root: str | Path | None,
        invalid_marks: tuple[float, ...] = (),
        label_range: tuple[float, float] | None = None,
        label_column: str = "label",
        partial: bool = False,
    ) -> None:
        self.label_column, self.partial = label_column, partial
        self.path, self.root = path, Path(root) if root is not None else root_of(path)
        self.validity = invalid_marks, label_range
        self.text = _read_table(path, self.root)
        self.text["path"] = self.text["path"].str.removeprefix("./")
        self._refuse(self.text["path"] == "", "path", "is empty; give a file or remove the row")
        self.table = self.text[["path", *(name for name in TEXT_COLUMNS if name in self.text)]].copy()
        self.chosen = np.ones(len(self.text), bool)
        self._read_spans()
        self._read_boxes()
        again = self.table.duplicated([name for name in ("path", *SPAN_COLUMNS, *BOX_COLUMNS) if name in self.table])
        if again.any():
            name = self.table["path"][again].iloc[0]
            self._refuse(again, "path", f"'{name}' is listed before; remove it or give another start_s, end_s or box")

    def choose(self, split: str | None) -> None:
        """Choose the rows of one split; None is for files with a single one."""
        splits = sorted(set(self.table["split"])) if "split" in self.table else []
        if split is None:
            if len(splits) > 1:
                raise ManifestError(f"{self.path}: holds several parts, {_listed(splits)}; say which one with `split`")
        elif not splits:
            raise ManifestError(f"{self.path}: no column 'split' to choose '{split}' from; add it or give no `split`")
        elif split not in splits:
            raise ManifestError(f"{self.path}: no row with split '{split}'; there are {_listed(splits)}")
        else:
            self.chosen = (self.table["split"] == split).to_numpy(bool)

    def read_labels(self, label_names: Sequence[str] | None, frame_level: bool) -> tuple[str, ...]:
        """Add the int64 column `label` (-1 if missing in a row that is not chosen); return the class names."""
        path, known, column = self.path, tuple(label_names or ()), self.label_column
        of_frames = self.partial and frame_level
        if of_frames:
            self._leave_out_other_files([column])
        if column not in self.text and frame_level and "frame_values" in self.table:
            self._require("frame_values", "give a file of labels")
            if not known and (self.table["frame_values"] != "").any():
                fix = "name them with `label_names`"
                raise ManifestError(f"{path}: labels are only in the frame_values files; {fix}")
        elif column not in self.text and not self.partial:
            raise ManifestError(f"{path}: no column '{column}'; add one with a class name or an integer from 0")
        if column not in self.text or (of_frames and known):
            return known
        self._require(column, "give a class or remove the row")
        labels = self.text[column].map(same_text)
        given = [str(text) for text in labels.unique() if text.lower() not in ("", "nan")]
        numbers = {text: number for text in given if (number := integer(text)) is not None}
        class_of = {same_text(name): number for number, name in enumerate(known)}
        unknown = [text for text in given if text not in class_of]
        if unknown and len(numbers) == len(given):
            limit, found = len(known) or MAX_INFERRED_CLASSES, set(numbers.values())
            for text, number in numbers.items():
                if not 0 <= number < limit:
                    what = f"{text} is out of range; labels are 0 to {limit - 1}"
                    what += ", not counted from 1" if number == limit and 0 not in found else ""
                    self._refuse(labels == text, column, what, LabelError)
            class_of = numbers
            if not known:
                known = tuple(map(str, range(max(found) + 1)))
                if holes := sorted(set(range(max(found))) - found):
                    outputs = f"{len(known)} outputs for {len(found)} classes"
                    outputs += "; if classes are counted from 1, subtract 1 or write names" if holes[0] == 0 else ""
                    say_once(f"{path}: no row has label {_listed(holes)}: {outputs}")
        elif unknown and known:
            what = f"'{unknown[0]}' is not a known label; known are {_listed(known)}"
            self._refuse(labels == unknown[0], column, what, LabelError)
        elif unknown and numbers:
            text = next(iter(numbers))
            self._refuse(labels == text, column, f"'{text}' is a number among names; use one or the other")
        elif unknown:
            known = tuple(sorted(unknown))
            class_of = {name: number for number, name in enumerate(known)}
            for alike in same_up_to_case(known):
                say_once(
                    f"{path}: classes {', '.join(alike)} differ only in case; correct the labels if they are one class"
                )
        if not of_frames:
            self.table["label"] = labels.map(class_of).fillna(-1).astype(np.int64)
        return known

    def read_values(self, dimensions: Sequence[str] | None, frame_level: bool) -> tuple[str, ...]:
        """Add a float64 column per dimension, and `frame_numbers` if cells have numbers per frame; return the dimensions."""
        text, path = self.text, self.path
        names = tuple(dimensions or ())
        if dimensions is None:
            names = self._numeric(frame_level)
            if not names:
                fix = "add one per dimension"
                if "frame_values" in self.table:
                    fix += ", or name those of the files of values per frame with `dimensions`"
                raise ManifestError(f"{path}: no column of numbers to learn; {fix}")
        of_frames = self.partial and frame_level
        if of_frames and "frame_values" in self.table:
            self._leave_out_other_files(names)
            return names
        absent = [name for name in names if name not in text]
        if absent and not (frame_level or self.partial) and "frame_values" in self.table and self._numeric(frame_level):
            fix = "or are they values of frames, in files? Then set `frame_level`"
            raise ManifestError(
                f"{path}: no column '{absent[0]}' for that dimension; there are {_listed(text.columns)}; {fix}"
            )
        if len(absent) == len(names) and "frame_values" in self.table and not self.partial:
            self._require("frame_values", "give a file of values")
            return names  # all values are in files
        if absent and self.partial:
            if len(absent) < len(names) and not of_frames:
                say_once(f"{path}: {_lacking(absent, names)}")
            return names
        if absent:
            found = _listed(text.columns)
            raise ManifestError(f"{path}: no column '{absent[0]}' for that dimension; there are {found}")
        if of_frames and not any(text[name].str.contains(" ").any() for name in names):
            return names  # values of whole clips
        missing = pd.DataFrame({name: self._missing(name) for name in names})
        for name in names:
            some = missing[name] & ~missing.all(axis=1)
            self._refuse(some & self.partial, name, "is missing, while the row has another dimension; give all or none")
        if frame_level and any(text[name].str.contains(" ").any() for name in names):
            self._read_frame_numbers(names)
        else:
            for name in names:
                self.table[name] = self._numbers(name)
        clips = self.chosen  # rows with one value for the whole clip
        if "frame_numbers" in self.table:
            clips = clips & self.table["frame_numbers"].isna()
        for name in names:
            values, (marks, label_range) = self.table[name], self.validity
            self._require(name, "give a number or remove the row", clips)
            invalid = clips & ~missing[name] & is_invalid(values.to_numpy(np.float64), marks, label_range)
            if invalid.any():
                value = values[invalid].iloc[0]
                reason = "a mark of what is not annotated" if value in marks else f"outside label_range {label_range}"
                self._refuse(invalid, name, f"{value:g} is {reason}; correct it or remove the row")
        if of_frames:
            self.table = self.table.drop(columns=list(names))
        return names

    def _numeric(self, several: bool) -> tuple[str, ...]:
        """Columns of numbers that are no others' place. several: a cell may have a number for each frame."""
        free = [name for name in self.text.columns if name not in RESERVED]
        return tuple(name for name in free if _is_numeric(self.text[name][self.chosen], several))

    def _leave_out_other_files(self, names: Sequence[str]) -> None:
        """Empty the cells of frame_values files that lack one of these columns: they have labels of other heads.

        Files that cannot be read stay, for training to count them.
        """
        if "frame_values" not in self.table:
            return
        others: set[str] = set()
        for name in filter(None, dict.fromkeys(self.table["frame_values"][self.chosen])):
            try:
                columns = header_of(on_disk(self.root / name), names)
            except (OSError, ValueError):
                continue
            if columns and (absent := [column for column in names if column not in columns]):
                if len(absent) < len(names) and not others:
                    say_once(f"{self.path}: files of frame_values such as {name}: {_lacking(absent, names)}")
                others.add(name)
        self.table["frame_values"] = self.table["frame_values"].where(~self.table["frame_values"].isin(others), "")

    def _read_frame_numbers(self, names: tuple[str, ...]) -> None:
        """Add the column `frame_numbers`, and for each dimension the mean of its valid frames, the value of the clip."""
        cells = self.text[list(names)].map(_floats)
        for name in names:
            self._require(name, "give a number or remove the row")
            wrong = cells[name].map(lambda cell: not np.isfinite(cell).all()) & (self.text[name] != "")
            self._refuse(wrong, name, "is not made of finite numbers; give one per frame, separated by spaces")
        lengths = cells.map(len)
        wrong = lengths.nunique(axis=1) - lengths.eq(1).any(axis=1) > 1
        self._refuse(wrong, names[-1], f"number of frames is not the same in all of {_listed(names)}")
        rows = [np.stack(np.broadcast_arrays(*row), axis=1) for row in cells.itertuples(index=False, name=None)]
        per_frame = [row if len(row) > 1 else None for row in rows]
        self.table["frame_numbers"] = pd.Series(per_frame, cells.index, dtype=object)
        means = np.stack([self._valid_mean(row) if len(row) > 1 else row[0] for row in rows])
        for name, column in zip(names, means.T, strict=True):
            self.table[name] = column

    def _valid_mean(self, numbers: NDArray[np.float64]) -> NDArray[np.float64]:
        """Mean of the frames (F, dimensions) that are annotated; NaN if none is."""
        valid = ~is_invalid(numbers, *self.validity).any(axis=1)
        return numbers[valid].mean(axis=0) if valid.any() else np.full(numbers.shape[1], np.nan)

    def _read_spans(self) -> None:
        for name in SPAN_COLUMNS:
            if name in self.text:
                self.table[name] = self._numbers(name)
                self._refuse(self.table[name] < 0, name, "is negative; times count from the start of the video")
        if "end_s" in self.table:
            start = self.table["start_s"].fillna(0.0) if "start_s" in self.table else 0.0
            what = "is not after start_s; the span must have a length"
            self._refuse(self.table["end_s"] <= start, "end_s", what)

    def _read_boxes(self) -> None:
        if "box" not in self.text or (self.text["box"] == "").all():
            return
        parts = self.text["box"].str.split(expand=True)
        sides = parts.reindex(columns=range(4)).apply(pd.to_numeric, errors="coerce").astype(np.float64)
        right = (parts.notna().sum(axis=1) == 4) & np.isfinite(sides).all(axis=1) & (sides[[2, 3]] > 0).all(axis=1)
        what = "is not 'x y w h' in pixels with a positive width and height"
        self._refuse((self.text["box"] != "") & ~right, "box", what)
        self.table[list(BOX_COLUMNS)] = sides.to_numpy()

    def _numbers(self, column: str) -> pd.Series:
        """The column as float64, NaN if empty. Raises `ManifestError` for anything but a finite number."""
        numbers = pd.to_numeric(self.text[column], errors="coerce").astype(np.float64)
        wrong = (self.text[column] != "") & ~np.isfinite(numbers)
        self._refuse(wrong, column, "is not a finite number; correct or remove the row")
        return numbers

    def _require(self, column: str, fix: str, rows: pd.Series | NDArray[np.bool_] | bool = True) -> None:
        """Raise `ManifestError` for a chosen row among these without this column, unless rows may lack it."""
        if not self.partial:
            self._refuse(self._missing(column) & rows, column, f"is missing; {fix}")

    def _missing(self, column: str) -> pd.Series:
        """The chosen rows with an empty cell or `nan`."""
        return self.text[column].str.lower().isin(["", "nan"]) & self.chosen

    def _refuse(
        self, wrong: pd.Series | NDArray[np.bool_], column: str, what: str, kind: type[ManifestError] = ManifestError
    ) -> None:
        """Raise a `ManifestError` naming the first wrong row, if there is any."""
        rows = self.text.index[wrong]
        if len(rows):
            more = f" (and {len(rows) - 1} more)" if len(rows) > 1 else ""
            raise kind(f"{self.path}: row {rows[0]}{more}, column '{column}': {what}")


def _lacking(absent: Sequence[str], names: Sequence[str]) -> str:
    columns = "column" if len(absent) == 1 else "columns"
    return f"no {columns} {', '.join(absent)}, so no labels of a head with {', '.join(names)}"


def _is_numeric(column: pd.Series, several: bool) -> bool:
    """Whether the first entry or most entries are numbers, so that a typo is reported. several: an entry may have several."""
    given = column[~column.str.lower().isin(["", "nan"])]
    given = given.str.split(n=1).str[0] if several else given
    numbers = pd.to_numeric(given, errors="coerce").notna()
    return bool(len(given)) and bool(numbers.iloc[0] or numbers.mean() > 0.5)


def _floats(text: str) -> NDArray[np.float64]:
    """The numbers of a cell; a single NaN if it is empty or contains anything else."""
    try:
        return np.array(text.split() or ["nan"], np.float64)
    except ValueError:
        return np.array([np.nan])


def integer(text: str) -> int | None:
    """1 for '1' and '1.0' (integers are written like this in tables with gaps); None for other texts and codes as '01'."""
    return int(text.removesuffix(".0")) if re.fullmatch(r"-?(0|[1-9][0-9]*)(\.0)?", text) else None


def same_up_to_case(names: Iterable[str]) -> list[list[str]]:
    """Groups of two or more names that differ only in case."""
    alike: dict[str, list[str]] = {}
    for name in names:
        alike.setdefault(name.casefold(), []).append(name)
    return [found for found in alike.values() if len(found) > 1]


def _listed(names: Iterable[object], limit: int = 20) -> str:
    texts = [str(name) or "(empty)" for name in names]
    return ", ".join(texts[:limit]) + (f", and {len(texts) - limit} more" if len(texts) > limit else "")


def is_invalid(
    values: NDArray[np.float64], invalid_marks: Sequence[float], label_range: tuple[float, float] | None
) -> NDArray[np.bool_]:
    """Which values, of any shape, are no annotation: missing, infinite, a mark, or outside label_range."""
    invalid = ~np.isfinite(values) | np.isin(values, np.asarray(invalid_marks, np.float64))
    if label_range is not None:
        low, high = label_range
        rounding = 1e-6 * (high - low)  # of values that were stored as float32 or as text
        invalid |= (values < low - rounding) | (values > high + rounding)
    return invalid
