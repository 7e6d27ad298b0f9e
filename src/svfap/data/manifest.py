"""Lists of videos with their labels: a CSV with a header, or the published format of `path label` lines."""

from __future__ import annotations

import csv
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NoReturn, overload

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from svfap.errors import UserError

Task = Literal["classification", "regression", "unlabelled"]

TEXT_COLUMNS = ("subject", "split", "group", "frame_values")
SPAN_COLUMNS = ("start_s", "end_s")
BOX_COLUMNS = ("box_x", "box_y", "box_w", "box_h")
CLIP_COLUMNS = ("source", "track", "source_start_s", "source_end_s", "face_px")  # written by `svfap crop`
RESERVED = ("path", "label", "box", *SPAN_COLUMNS, *TEXT_COLUMNS, *CLIP_COLUMNS)
MAX_INFERRED_CLASSES = 10_000


class ManifestError(UserError):
    """A manifest that cannot be used; the message names the file, row and column, and says how to fix it."""


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
    frame_numbers: NDArray[np.float64] | None = None  # (frames, dimensions), where the value columns hold one per frame


class Manifest(Sequence[Sample]):
    """Samples in the order of the file. Each `Sample` is created on access; millions of rows are kept as a table.

    path: the manifest's file. root: folder that paths are relative to. label_names: of the classes, in order
    (classification). dimensions: names of the values (regression). table: one row per sample, with the columns `path` (as
    written), `label` (int64), the dimensions (float64), and those of start_s, end_s, subject, split, group, frame_values,
    box_x, ..., box_h that the file has. Where value columns have a number per frame, `frame_numbers` has an array (frames,
    dimensions) or None, and the dimensions have the means.
    """

    def __init__(
        self,
        path: Path,
        root: Path,
        table: pd.DataFrame,
        label_names: tuple[str, ...] | None = None,
        dimensions: tuple[str, ...] | None = None,
    ) -> None:
        self.path, self.root, self.table = path, root, table
        self.label_names, self.dimensions = label_names, dimensions
        self._columns = {str(name): table[name].array for name in table.columns}
        self._value_names = [name for name in dimensions or () if name in self._columns]

    def __len__(self) -> int:
        return len(self.table)

    @overload
    def __getitem__(self, index: int) -> Sample: ...
    @overload
    def __getitem__(self, index: slice) -> Manifest: ...
    def __getitem__(self, index: int | slice) -> Sample | Manifest:
        if isinstance(index, slice):
            return self.subset(range(*index.indices(len(self))))
        key = path = str(self._columns["path"][index])
        start_s, end_s = (self._number(name, index) for name in SPAN_COLUMNS)
        x, y, w, h = (self._number(name, index) for name in BOX_COLUMNS)
        box = None if x is None or y is None or w is None or h is None else (x, y, w, h)
        values = tuple(float(self._columns[name][index]) for name in self._value_names)
        frame_values = self._text("frame_values", index)
        if start_s is not None or end_s is not None:
            key += f"#t={start_s or 0:.10g},{'' if end_s is None else f'{end_s:.10g}'}"
        if box is not None:
            key += "#xywh=" + ",".join(f"{side:.10g}" for side in box)
        return Sample(
            path=self.root / path,
            key=key,
            label=int(self._columns["label"][index]) if "label" in self._columns else None,
            values=values or None,
            start_s=start_s,
            end_s=end_s,
            subject=self._text("subject", index),
            split=self._text("split", index),
            box=box,
            frame_values=self.root / frame_values if frame_values else None,
            group=self._text("group", index),
            frame_numbers=self._columns["frame_numbers"][index] if "frame_numbers" in self._columns else None,
        )

    def subset(self, indices: Sequence[int] | NDArray[np.int64]) -> Manifest:
        """The samples at these positions, in this order."""
        table = self.table.take(np.asarray(indices, np.int64)).reset_index(drop=True)
        return Manifest(self.path, self.root, table, self.label_names, self.dimensions)

    @property
    def subjects(self) -> NDArray[np.object_] | None:
        """Subject of each sample, (N,), '' if unknown; None if no sample has one."""
        return self._texts("subject")

    @property
    def groups(self) -> NDArray[np.object_] | None:
        """Group of each sample, (N,), '' if it has none; None if no sample has one."""
        return self._texts("group")

    @property
    def labels(self) -> NDArray[np.int64] | None:
        """Label of each sample, (N,) int64; None without labels."""
        return self.table["label"].to_numpy(np.int64) if "label" in self.table else None

    def _texts(self, column: str) -> NDArray[np.object_] | None:
        if column not in self.table:
            return None
        texts = self.table[column].to_numpy(dtype=object)
        return texts if any(texts) else None

    def _text(self, column: str, index: int) -> str | None:
        return (str(self._columns[column][index]) or None) if column in self._columns else None

    def _number(self, column: str, index: int) -> float | None:
        number = float(self._columns[column][index]) if column in self._columns else float("nan")
        return None if np.isnan(number) else number


def read_manifest(
    path: str | Path,
    *,
    root: str | Path | None = None,
    task: Task = "classification",
    label_names: Sequence[str] | None = None,
    dimensions: Sequence[str] | None = None,
    split: str | None = None,
    frame_level: bool = False,
) -> Manifest:
    """Read a manifest.

    The CSV has a header with these columns: path (of a video, a folder of frames or an image, relative to `root`, by
    default to the manifest's folder); label (a class name, or an integer from 0) or one column per dimension; and
    optionally start_s, end_s, subject, split, group, box ("x y w h" in pixels) and frame_values (a CSV with one row per
    frame). With frame_level a value column may have a number per frame, separated by spaces, and the column label is not
    needed if every row has frame_values. Lines `path label` without a header are read, too.

    label_names: the classes in order; default: the sorted names found, or 0 to the largest integer.
    dimensions: the value columns; default: every other column whose first or most entries are numbers.
    split: keep only the rows whose column `split` has this value.
    Raises `ManifestError`. Whether the videos exist is not checked.
    """
    path = Path(path)
    table, out = _read_samples(path)
    chosen = _choose_split(path, out, split)
    names = dims = None
    if task == "classification":
        names = _read_labels(path, table, out, chosen, label_names, frame_level)
    elif task == "regression":
        dims = _read_values(path, table, out, chosen, dimensions, frame_level)
    out = out[chosen].reset_index(drop=True)
    return Manifest(path, Path(root) if root is not None else path.parent, out, names, dims)


def read_whole_manifest(
    path: str | Path, *, root: str | Path | None = None, split: str | None = None
) -> tuple[Manifest, pd.DataFrame]:
    """The samples without their labels, and all columns of the file as text with one row per sample; see `read_manifest`.

    split: keep only the rows whose column `split` has this value; default: all rows. Raises `ManifestError`.
    """
    path = Path(path)
    table, out = _read_samples(path)
    chosen = np.ones(len(out), bool) if split is None else _choose_split(path, out, split)
    table, out = (rows[chosen].reset_index(drop=True) for rows in (table, out))
    return Manifest(path, Path(root) if root is not None else path.parent, out), table


def _read_table(path: Path) -> pd.DataFrame:
    """All columns as text, '' if empty; the index has the line numbers of the file."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            num_blank, first = next(((n, line) for n, line in enumerate(file) if line.strip()), (0, ""))
        if not first:
            raise ManifestError(f"{path}: the file is empty; expected a header with a column 'path'")
        header = [name.strip() for name in next(csv.reader([first]))]
        if "path" in header:
            table = _read_csv(path, num_blank)
            first_row = num_blank + 2
        elif len(first.split()) > 1 and (len(header) == 1 or first.split()[-1].isdecimal()):
            lines = pd.Series(path.read_text(encoding="utf-8-sig").splitlines(), dtype=str).str.strip()
            table = lines.str.rsplit(n=1, expand=True).rename(columns={0: "path", 1: "label"})
            first_row = 1
        else:
            raise ManifestError(f"{path}: no column 'path' among {_listed(header)}; rename the column of files")
    except (FileNotFoundError, IsADirectoryError):
        raise ManifestError(f"{path}: no such file; give the path of a manifest") from None
    except PermissionError:
        raise ManifestError(f"{path}: permission denied; make the file readable") from None
    except UnicodeError:
        raise ManifestError(f"{path}: is not UTF-8 text; save it as CSV in UTF-8") from None
    except pd.errors.ParserWarning:
        raise ManifestError(f"{path}: rows have more fields than the header; quote names with commas") from None
    except (pd.errors.ParserError, csv.Error) as error:
        raise ManifestError(f"{path}: is not a CSV table ({' '.join(str(error).split())}); correct that line") from None
    table = table.fillna("")
    table.index = pd.RangeIndex(first_row, first_row + len(table))
    for name in table.columns:
        table[name] = table[name].str.strip()
    table = table[(table != "").any(axis=1)]
    if table.empty:
        raise ManifestError(f"{path}: holds a header and no rows; add one row per video")
    return table


def _read_samples(path: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """All columns as text, and parsed the columns that identify a sample; both indexed by line number of the file."""
    table = _read_table(path)
    table["path"] = table["path"].str.removeprefix("./")
    _refuse(path, table, table["path"] == "", "path", "is empty; give a file or remove the row")
    out = pd.DataFrame({"path": table["path"]})
    for name in TEXT_COLUMNS:
        if name in table:
            out[name] = table[name]
    _read_spans(path, table, out)
    _read_boxes(path, table, out)
    _check_duplicates(path, out)
    return table, out


def _read_csv(path: Path, header_row: int) -> pd.DataFrame:
    with warnings.catch_warnings():
        warnings.simplefilter("error", pd.errors.ParserWarning)  # otherwise surplus fields are dropped
        table = pd.read_csv(
            path,
            header=header_row,
            dtype=str,
            encoding="utf-8-sig",
            keep_default_na=False,  # "NA" and "None" may be names of classes
            skipinitialspace=True,
            skip_blank_lines=False,  # so that rows keep their line numbers
            index_col=False,
        )
    return table.rename(columns=lambda name: str(name).strip())


def _refuse(path: Path, table: pd.DataFrame, wrong: pd.Series | NDArray[np.bool_], column: str, what: str) -> None:
    """Raise `ManifestError` naming the first wrong row, if there is any."""
    rows = np.flatnonzero(np.asarray(wrong, bool))
    if len(rows):
        more = f" (and {len(rows) - 1} more)" if len(rows) > 1 else ""
        raise ManifestError(f"{path}: row {table.index[rows[0]]}{more}, column '{column}': {what}")


def _numbers(path: Path, table: pd.DataFrame, column: str) -> pd.Series:
    """The column as float64, NaN if empty. Raises `ManifestError` for anything but a finite number."""
    numbers = pd.to_numeric(table[column], errors="coerce").astype(np.float64)
    given = table[column] != ""
    _refuse(path, table, given & ~np.isfinite(numbers), column, "is not a finite number; correct or remove the row")
    return numbers


def _read_spans(path: Path, table: pd.DataFrame, out: pd.DataFrame) -> None:
    for name in SPAN_COLUMNS:
        if name in table:
            out[name] = _numbers(path, table, name)
            _refuse(path, table, out[name] < 0, name, "is negative; times count from the start of the video")
    if "end_s" in out:
        start = out["start_s"].fillna(0.0) if "start_s" in out else 0.0
        _refuse(path, table, out["end_s"] <= start, "end_s", "is not after start_s; the span must have a length")


def _read_boxes(path: Path, table: pd.DataFrame, out: pd.DataFrame) -> None:
    if "box" not in table or (table["box"] == "").all():
        return
    what = "is not 'x y w h' in pixels with a positive width and height"
    given = table["box"] != ""
    parts = table["box"].str.split(expand=True)
    _refuse(path, table, given & (parts.notna().sum(axis=1) != 4), "box", what)
    sides = parts.iloc[:, :4].apply(pd.to_numeric, errors="coerce").astype(np.float64)
    wrong = ~np.isfinite(sides).all(axis=1) | (sides.iloc[:, 2:] <= 0).any(axis=1)
    _refuse(path, table, given & wrong, "box", what)
    out[list(BOX_COLUMNS)] = sides.to_numpy()


def _check_duplicates(path: Path, out: pd.DataFrame) -> None:
    what = [name for name in ("path", *SPAN_COLUMNS, *BOX_COLUMNS) if name in out]
    again = out.duplicated(what).to_numpy()
    if again.any():
        name = out["path"].iloc[int(np.argmax(again))]
        _refuse(path, out, again, "path", f"'{name}' is listed before; remove it or give another start_s, end_s or box")


def _choose_split(path: Path, out: pd.DataFrame, split: str | None) -> NDArray[np.bool_]:
    if split is None:
        parts = sorted(set(out["split"])) if "split" in out else []
        if len(parts) > 1:
            raise ManifestError(f"{path}: holds several parts, {_listed(parts)}; say which one with split")
        return np.ones(len(out), bool)
    if "split" not in out:
        raise ManifestError(f"{path}: no column 'split' to choose '{split}' from; add it or give no split")
    chosen = (out["split"] == split).to_numpy(bool)
    if not chosen.any():
        raise ManifestError(f"{path}: no row with split '{split}'; there are {_listed(sorted(out['split'].unique()))}")
    return chosen


def _read_labels(
    path: Path,
    table: pd.DataFrame,
    out: pd.DataFrame,
    chosen: NDArray[np.bool_],
    label_names: Sequence[str] | None,
    frame_level: bool,
) -> tuple[str, ...]:
    """Add the int64 column `label` (-1 where a row outside the chosen split has none); return the class names."""
    if "label" not in table and frame_level and "frame_values" in out:
        _refuse(path, table, (out["frame_values"] == "") & chosen, "frame_values", "is missing; give a file of labels")
        if not label_names:
            raise ManifestError(f"{path}: labels are only in the frame_values files; name them with label_names")
        return tuple(label_names)
    if "label" not in table:
        raise ManifestError(f"{path}: no column 'label'; add one with a class name or an integer from 0")
    codes, found = pd.factorize(table["label"])
    texts = [str(text) for text in found]
    given = [text for text in texts if text.lower() not in ("", "nan")]
    missing = np.array([text not in given for text in texts])[codes]
    _refuse(path, table, missing & chosen, "label", "is missing; give a class or remove the row")

    def refuse(text: str, what: str) -> NoReturn:
        _refuse(path, table, codes == texts.index(text), "label", what)
        raise AssertionError  # unreachable: the text is in some row

    known = tuple(label_names or ())
    numbers = {text: number for text in given if (number := _integer(text)) is not None}
    if not numbers and not known:
        known = tuple(sorted(given))
    class_of = {name: number for number, name in enumerate(known)}
    if set(given) <= set(known):
        pass
    elif len(numbers) == len(given):
        limit = len(known) or MAX_INFERRED_CLASSES
        for text, number in numbers.items():
            if not 0 <= number < limit:
                refuse(text, f"{text} is out of range; labels are 0 to {limit - 1}")
        known, class_of = known or tuple(str(number) for number in range(max(numbers.values()) + 1)), numbers
    elif known:
        stray = next(text for text in given if text not in known)
        refuse(stray, f"'{stray}' is not a known label; known are {_listed(known)}")
    else:
        stray = next(iter(numbers))
        refuse(stray, f"'{stray}' is a number among names; use one or the other")
    out["label"] = np.array([class_of.get(text, -1) for text in texts], np.int64)[codes]
    return known


def _is_numeric(column: pd.Series, several: bool) -> bool:
    """Whether a column is meant to be numeric: its first entry or most entries are numbers, so that a typo is reported.

    several: an entry may have several numbers separated by spaces; the first one decides.
    """
    given = column[~column.str.strip().str.lower().isin(["", "nan"])]
    given = given.str.split(n=1).str[0] if several else given
    numbers = pd.to_numeric(given, errors="coerce").notna()
    return bool(len(given)) and bool(numbers.iloc[0] or numbers.mean() > 0.5)


def _read_values(
    path: Path,
    table: pd.DataFrame,
    out: pd.DataFrame,
    chosen: NDArray[np.bool_],
    dimensions: Sequence[str] | None,
    frame_level: bool,
) -> tuple[str, ...]:
    """Add a float64 column per dimension, and `frame_numbers` if cells have numbers per frame; return the dimensions."""
    if dimensions is None:
        free = [name for name in table.columns if name not in RESERVED]
        names = tuple(name for name in free if _is_numeric(table[name][chosen], frame_level))
        if not names:
            raise ManifestError(f"{path}: no column of numbers to learn; add one per dimension or name the columns")
    else:
        names = tuple(dimensions)
    missing = [name for name in names if name not in table]
    if len(missing) == len(names) and "frame_values" in out:
        _refuse(path, table, (out["frame_values"] == "") & chosen, "frame_values", "is missing; give a file of values")
        return names  # all values are in files
    if missing:
        raise ManifestError(f"{path}: no column '{missing[0]}' for that dimension; there are {_listed(table.columns)}")
    if frame_level and any(table[name].str.contains(" ").any() for name in names):
        table = _read_frame_numbers(path, table, out, names)
    for name in names:
        numbers = _numbers(path, table, name)
        _refuse(path, table, numbers.isna() & chosen, name, "is missing; give a number or remove the row")
        out[name] = numbers
    return names


def _read_frame_numbers(path: Path, table: pd.DataFrame, out: pd.DataFrame, names: tuple[str, ...]) -> pd.DataFrame:
    """Add the column `frame_numbers`; return the table with each cell replaced by its mean, the value of the whole clip."""
    cells = table[list(names)].map(_floats)
    for name in names:
        wrong = cells[name].map(lambda cell: not np.isfinite(cell).all()) & (table[name] != "")
        _refuse(path, table, wrong, name, "is not made of finite numbers; give one per frame, separated by spaces")
    lengths = cells.map(len)
    wrong = lengths.nunique(axis=1) - lengths.eq(1).any(axis=1) > 1
    _refuse(path, table, wrong, names[-1], f"number of frames is not the same in all of {_listed(names)}")
    rows = [np.stack(np.broadcast_arrays(*row), axis=1) for row in cells.itertuples(index=False, name=None)]
    out["frame_numbers"] = pd.Series([row if len(row) > 1 else None for row in rows], out.index, dtype=object)
    means = cells.map(lambda cell: "" if np.isnan(cell).any() else str(cell.mean()))
    return table.assign(**{name: means[name] for name in names})


def _floats(text: str) -> NDArray[np.float64]:
    """The numbers of a cell; a single NaN if it is empty or contains anything else."""
    try:
        return np.array(text.split() or ["nan"], np.float64)
    except ValueError:
        return np.array([np.nan])


def _integer(text: str) -> int | None:
    """1 for '1' and '1.0' (integers are written like this in tables with gaps); None for other texts."""
    digits = text.removesuffix(".0")
    return int(digits) if digits.lstrip("-").isdecimal() and digits.isascii() and digits.count("-") <= 1 else None


def _listed(names: Iterable[str], limit: int = 20) -> str:
    names = [str(name) or "(empty)" for name in names]
    return ", ".join(names[:limit]) + (f", and {len(names) - limit} more" if len(names) > limit else "")
