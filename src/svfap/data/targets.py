"""Training targets: labels or values of clips, and of single pictures for frame-level models.

Row i of a file of values, and number i of a cell, belong to picture i of the video in order of presentation. A picture is not
annotated if its cell is empty or one of `invalid_marks`, if any of its values lies outside `label_range`, or if its
class is -1. It then has the target NaN in all dimensions, or the label -1; losses and scores leave it out. So has a clip
without a label, in a manifest whose rows may lack it.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from svfap.console import say, track
from svfap.data.delimited import separator_of, split_line
from svfap.data.find import on_disk, same_text
from svfap.data.manifest import Manifest, Sample, read_whole_manifest
from svfap.data.manifest_rows import ManifestError, integer, is_invalid
from svfap.data.video import VideoError, VideoSource
from svfap.errors import UserError
from svfap.files import file_digest

Targets = NDArray[Any]  # float32 values or int64 labels


def frame_targets(manifest: Manifest, sample: Sample) -> Targets | None:
    """Targets of all R rows of a video: values (R, K) float32, NaN if not annotated, or labels (R,) int64, -1 if not.

    They come from the manifest's cells if these have a number per frame, else from the sample's `frame_values` file: its
    columns named after the dimensions, or its column `label`. None if the sample has one target for all its frames. Raises
    `VideoError` if the file cannot be read or has other columns.
    """
    try:
        if manifest.dimensions is not None:
            values = _values(manifest, sample)
            return None if values is None else _annotated(manifest, values)
        if sample.frame_values is None:
            return None
        column = manifest.label_column
        table = read_frame_values(sample.frame_values, [column], dtype=str, keep_default_na=False)
        if column in table:
            return _classes(manifest, table[column])
        if sample.label is None:
            raise ValueError(f"no column '{column}'")
        return None
    except (ValueError, OSError) as error:
        reason = " ".join(str(error).split())
        raise VideoError(sample.path, f"{_where(sample)}: {reason}") from None


def _values(manifest: Manifest, sample: Sample) -> NDArray[np.float64] | None:
    """Values (R, K) float64 of a regression as written, of the cells or the file. Raises ValueError, OSError."""
    if sample.frame_numbers is not None or manifest.dimensions is None or sample.frame_values is None:
        return sample.frame_numbers
    columns = list(manifest.dimensions)
    table = read_frame_values(sample.frame_values, columns)
    absent = [name for name in columns if name not in table]
    if absent:
        raise ValueError(f"no column '{absent[0]}'; there are {', '.join(table.columns)}")
    return table[columns].to_numpy(np.float64)


def with_frame_values(manifest: Manifest) -> Manifest:
    """The manifest of a regression with the values of all its `frame_values` files in the table, so that none is read again.

    Files that cannot be read are left to `frame_targets`, which says why.
    """
    if "frame_values" not in manifest.table:
        return manifest
    numbers: list[NDArray[np.float64] | None] = []
    for sample in track(manifest, "reading values per frame"):
        try:
            numbers.append(_values(manifest, sample))
        except (ValueError, OSError):
            numbers.append(None)
    return manifest.with_rows(
        manifest.table.assign(frame_numbers=pd.Series(numbers, manifest.table.index, dtype=object))
    )


def read_frame_values(path: Path, columns: Sequence[str], **options: Any) -> pd.DataFrame:
    """A file of values per frame, with commas, semicolons or tabs; options: of `pandas.read_csv`. Raises ValueError, OSError."""
    text = on_disk(path).read_text(encoding="utf-8-sig").rstrip()
    header = text.partition("\n")[0]
    separator = separator_of(header, columns)
    options |= {"decimal": "," if separator == ";" else "."}
    one_column = len(split_line(header, separator)) == 1  # then an empty line is an empty cell
    options |= {"sep": separator, "skipinitialspace": True, "skip_blank_lines": not one_column}
    table: pd.DataFrame = pd.read_csv(StringIO(text), **options)
    return table.rename(columns=lambda name: str(name).strip())


def frame_dimensions(manifest: Manifest, chosen: Sequence[str] | None = None) -> list[str]:
    """The dimensions of a manifest for which its files of values per frame, of which the first is read, have a column.

    chosen: dimensions that must be there. Raises `ManifestError` for a file that cannot be read or has no such columns.
    """
    wanted = list(chosen or manifest.dimensions or ())
    file = next((sample.frame_values for sample in manifest if sample.frame_values is not None), None)
    if file is None or (chosen and "frame_numbers" in manifest.table):
        return wanted
    try:
        columns = list(read_frame_values(file, wanted).columns)
    except (OSError, ValueError) as error:
        raise ManifestError(f"{file}: values per frame cannot be read ({error})") from None
    found = [name for name in columns if name in (wanted or columns)]
    if not found or (chosen and set(chosen) - set(found)):
        missing = next(name for name in wanted if name not in found)
        raise ManifestError(
            f"{manifest.path}: its files of values per frame, such as {file.name}, have no column '{missing}'; there are "
            f"{', '.join(columns)}; name those to read with `dimensions`"
        )
    return wanted if chosen else found


def frame_values_digest(manifest: Path, root: Path) -> str | None:
    """Digest of the contents of a manifest's `frame_values` files, in 16 hexadecimal digits; None if it names none.

    root: folder that their paths are relative to. A missing file counts, too. Raises `ManifestError`.
    """
    table = read_whole_manifest(manifest, root=root)[0].table
    if "frame_values" not in table:
        return None
    files = [on_disk(root / name) for name in dict.fromkeys(table["frame_values"]) if name]
    digests = [file_digest(file) if file.is_file() else "" for file in files]
    return hashlib.sha256("\n".join(digests).encode()).hexdigest()[:16]


def picture_targets(manifest: Manifest, sample: Sample, video: VideoSource) -> Targets | None:
    """Targets of all N pictures of an open video: values (N, K) float32 or labels (N,) int64; see `frame_targets`.

    If a folder of frames has fewer pictures than rows, because frames without a face were not saved, the numbers in the
    pictures' names tell their rows: number n is row n - 1, counted from 0, or row n if a picture has the number 0. Raises
    `VideoError` with both counts if rows and pictures do not fit.
    """
    targets = frame_targets(manifest, sample)
    if targets is None or len(targets) == video.num_frames:
        return targets
    numbers = _numbers_in(video.picture_names or ())
    if numbers is not None:
        rows = numbers if numbers[0] == 0 else numbers - 1
        some_are_missing = rows[-1] >= len(rows)  # otherwise the rows are of other pictures
        if some_are_missing and rows[-1] < len(targets):
            return targets[rows]
    raise VideoError(sample.path, f"{_where(sample)}: {len(targets)} rows, {video.num_frames} pictures")


def target_of(manifest: Manifest, sample: Sample) -> Targets:
    """Target of a whole clip, values (K,) float32 or a label () int64; NaN or -1 if it has none."""
    if manifest.dimensions is not None and manifest.partial and sample.values is None:
        return np.full(len(manifest.dimensions), np.nan, np.float32)
    if manifest.dimensions is not None:
        return np.array(sample.values or (), np.float32)
    return np.array(-1 if manifest.partial and sample.label is None else sample.label, np.int64)


def all_targets(manifest: Manifest, frame_level: bool) -> Targets:
    """All targets of a manifest, of clips or with frame_level of frames: labels (N,) int64 or values (N, K) float32.

    Leaves out clips without a target. frame_level: leaves out frames without a target, with a message, and videos without a
    readable `frame_values` file.
    Raises `UserError` if nothing is left.
    """
    if not frame_level:
        of_clips = np.stack([target_of(manifest, sample) for sample in manifest])
        return of_clips[is_annotated(of_clips)]
    found, reason, num_rows = [], "", 0
    in_table = "frame_numbers" in manifest.table
    if manifest.partial:
        manifest = manifest.subset(np.flatnonzero(labelled_rows(manifest, frame_level)))
    for sample in manifest if in_table else track(manifest, "reading values per frame"):
        try:
            targets = frame_targets(manifest, sample)
        except VideoError as error:
            reason = error.reason
        else:
            targets = target_of(manifest, sample)[None] if targets is None else targets
            num_rows += len(targets)
            found.append(targets[is_annotated(targets)])
    if not any(map(len, found)):
        raise UserError(f"{manifest.path}: no video has values per frame; {reason or 'all are empty'}")
    targets = np.concatenate(found)
    if num_invalid := num_rows - len(targets):
        say(f"{manifest.path}: {num_invalid} of {num_rows} frames are not annotated; loss and scores leave them out")
    return targets


def labelled_rows(manifest: Manifest, frame_level: bool) -> NDArray[np.bool_]:
    """Which rows of a manifest have a label, or all values; with frame_level also those with a file or cells of frames, of a
    partial one these alone."""
    table, names = manifest.table, ["label"] if manifest.dimensions is None else list(manifest.dimensions)
    known = np.zeros(len(table), bool)
    if set(names) <= set(table.columns):
        known = (table[names] >= 0 if names == ["label"] else table[names].notna()).all(axis=1).to_numpy(bool)
    for name in ("frame_values", "frame_numbers"):
        if frame_level and name in table:
            known = known | table[name].map(lambda cell: cell is not None and len(cell) > 0).to_numpy(bool)
    return known


def is_annotated(targets: Targets) -> NDArray[np.bool_]:
    """Which of N targets are known, (N,) bool. targets: (N,) int64 labels, or (N, K) values."""
    return np.asarray(targets >= 0 if targets.ndim == 1 else np.isfinite(targets).all(axis=1))


def require_values(manifest: Manifest, values: NDArray[np.float32], bounds: tuple[float, float] | None = None) -> None:
    """Raise `UserError` for values (N, K) that look like a mark of what is not annotated, or lie outside of `bounds`.

    A mark, as the -5 of Aff-Wild2, is a whole number in all dimensions at once that is further from all other values than
    these are from each other. With a label_range marks are not looked for. bounds: the range of the model's outputs.
    """
    mark = _unlike_the_rest(values) if manifest.label_range is None else None
    if mark is not None:
        others = values[values != mark]
        raise UserError(
            f"{manifest.path}: {mark:g} looks like a mark of what is not annotated, since all other values are from "
            f"{others.min():g} to {others.max():g}; declare it, invalid_marks=[{mark:g}], or if it is a value, label_range"
        )
    if bounds is None:
        return
    for number, name in enumerate(manifest.dimensions or ()):
        least, most = float(values[:, number].min()), float(values[:, number].max())
        if least < bounds[0] - 1e-6 or most > bounds[1] + 1e-6:
            raise UserError(
                f"{manifest.path}: {name} is from {least:g} to {most:g}, but the outputs of this activation are from "
                f"{bounds[0]:g} to {bounds[1]:g}; set label_scaling=range, or output_activation=none, or `label_range` to leave "
                "out frames with other values"
            )


def _unlike_the_rest(values: NDArray[np.float32]) -> float | None:
    """The least or the greatest value if it looks like a mark; see `require_values`."""
    for mark in (float(values.min()), float(values.max())):
        marked = np.asarray(values == mark).all(axis=1)
        rest = values[~marked]
        # One value of a single dimension may be an outlier.
        enough = marked.sum() >= (2 if values.shape[1] == 1 else 1)
        if enough and mark.is_integer() and len(rest) and 0 < np.ptp(rest) < np.abs(rest - mark).min():
            return mark
    for column in values.T if values.shape[1] > 1 else ():
        # Whole numbers among whole numbers may be ratings.
        found = _unlike_the_rest(column[:, None])
        if found is not None and (column[column != found] % 1 != 0).any():
            return found
    return None


def _annotated(manifest: Manifest, values: NDArray[np.float64]) -> NDArray[np.float32]:
    """Values (R, K) float32, NaN in all dimensions of a row in which one is invalid."""
    invalid = np.asarray(is_invalid(values, manifest.invalid_marks, manifest.label_range).any(axis=1))
    return np.where(invalid[:, None], np.nan, values).astype(np.float32)


def _classes(manifest: Manifest, texts: pd.Series) -> NDArray[np.int64]:
    """Labels (R,) from names or numbers of classes; -1 for '', -1, and marks."""
    names = manifest.label_names or ()
    class_of = {same_text(name): number for number, name in enumerate(names)}
    for text in map(str, texts.unique()):
        number = integer(text.strip())
        if text.strip() == "" or number == -1 or number in manifest.invalid_marks:
            class_of.setdefault(text.strip(), -1)
        elif number is not None and 0 <= number < len(names):
            class_of.setdefault(text.strip(), number)
    classes = texts.str.strip().map(same_text).map(class_of)
    if classes.isna().any():
        unknown = texts[classes.isna()].iloc[0].strip()
        raise ValueError(f"'{unknown}' is not a known label; known are {', '.join(names)}")
    return np.asarray(classes, np.int64)


def _numbers_in(names: Sequence[str]) -> NDArray[np.int64] | None:
    """The numbers of pictures, (N,) ascending: the last digits in their names that all have and that ascend."""
    digits = [re.findall(r"[0-9]+", Path(name).stem) for name in names]
    if not digits or len({len(found) for found in digits}) > 1:
        return None
    for place in reversed(range(len(digits[0]))):
        texts = [found[place] for found in digits]
        if max(map(len, texts)) > 18:  # beyond int64
            continue
        numbers = np.array(texts, np.int64)
        if (np.diff(numbers) > 0).all():
            return numbers
    return None


def _where(sample: Sample) -> str:
    return "values per frame" + ("" if sample.frame_values is None else f" {sample.frame_values.name}")
