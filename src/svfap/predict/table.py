"""The table of predictions: its columns, and files of it that are written row by row, so that a run can be resumed."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any, BinaryIO, Self

import pandas as pd

from svfap.errors import UserError
from svfap.files import printable
from svfap.metric_table import prefixed
from svfap.settings import check_same_settings

TIMES = ["start_s", "end_s"]  # of the window, in seconds from the first picture
FRAMES = ["first_frame", "last_frame"]  # numbers, from 0, of the window's pictures in the file
BOX = ["box_x", "box_y", "box_w", "box_h"]  # of the face at the window's centre, in pixels of the upright picture
LANDMARKS = [  # of the face at the window's centre, in the same pixels; right is the person's right
    f"{point}_{axis}" for point in ("right_eye", "left_eye", "nose", "right_mouth", "left_mouth") for axis in "xy"
]
PROBABILITY = "prob_"
LABEL = "label"  # the most probable, of several heads `<head>/label`
PERSON = "person"  # the name that a user gives to a track
BY_ROW = (".csv", ".jsonl")  # formats that rows are added to
NOT_VALUES = {"video", "track", PERSON, *TIMES, *FRAMES, *BOX, *LANDMARKS, "confidence"}


def value_columns(table: pd.DataFrame) -> list[str]:
    """The columns that hold predictions: those of probabilities (`prob_<label>`), else all numeric ones of dimensions."""
    names = [str(column) for column in table.columns]
    probabilities = [name for name in names if name.startswith(PROBABILITY)]
    numeric = pd.api.types.is_numeric_dtype
    return probabilities or [name for name in names if name not in NOT_VALUES and numeric(table[name])]


def value_name(column: str) -> str:
    """The label or dimension that a column of predictions is for, after its head if there are several: `mood/happy`."""
    return column.removeprefix(PROBABILITY).replace(f"/{PROBABILITY}", "/", 1)


def label_columns(values: Sequence[str]) -> dict[str, dict[str, str]]:
    """The columns of the most probable labels, with the columns of values that each is chosen from and their labels."""
    found = {}
    for head, columns in columns_by_head(values).items():
        start = f"{head}/{PROBABILITY}" if head else PROBABILITY
        if columns and all(name.startswith(start) for name in columns):
            found[prefixed(head, LABEL)] = {name: name.removeprefix(start) for name in columns}
    return found


def columns_by_head(columns: Sequence[str]) -> dict[str, list[str]]:
    """Columns of predictions by the head that their names begin with, before a slash; of a model with one head by ''."""
    if not all("/" in name and not name.startswith(PROBABILITY) for name in columns):
        return {"": list(columns)}
    heads: dict[str, list[str]] = {}
    for name in columns:
        heads.setdefault(name.partition("/")[0], []).append(name)
    return heads or {"": []}


def tables_of_heads(table: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """The table of each of several heads by its name, with the columns that a model with this one would give; of a model with
    one head '' and the table itself."""
    heads = columns_by_head(columns := value_columns(table))
    if "" in heads:
        return {"": table}
    labels = label_columns(columns)
    others = [name for name in table if name not in columns and name not in labels]
    parts = {}
    for head, names in heads.items():
        own = [name for name in labels if name in table and name.startswith(f"{head}/")] + names
        place = others.index("confidence") if "confidence" in others else len(others)
        order = [*others[:place], *own, *others[place:]]
        parts[head] = table[order].rename(columns={name: name.partition("/")[2] for name in own})
    return parts


def by_face(table: pd.DataFrame, merged: bool = True, across: bool = False) -> Iterator[tuple[str, pd.DataFrame]]:
    """The rows of each face of each video, with its name: that of the person, else `Face 1`, or `Whole picture`.

    merged: tracks of one person are one face; else each track by itself. across: also those of all videos.
    """
    if table.empty:
        return
    tracks = pd.Series("Whole picture", table.index)
    if "track" in table:
        tracks = table["track"].map(lambda track: f"Face {track:g}" if isinstance(track, float) else f"Face {track}")
    people = table[PERSON].fillna("") if PERSON in table and merged else pd.Series("", table.index)
    names = people.where(people != "", tracks)
    videos = table["video"] if "video" in table else pd.Series("", table.index)
    where = videos.where(people == "", "") if across else videos
    for (_, _, name), rows in table.groupby([where, people, names], sort=False):
        yield str(name), rows


def require_excel(*paths: Path | None) -> None:
    """Raise `UserError` if one of the files to write is .xlsx and the library for it is missing."""
    if any(path is not None and path.suffix == ".xlsx" for path in paths) and find_spec("openpyxl") is None:
        raise UserError("Excel files need openpyxl; pip install 'svfap[excel]', or write .csv")


def of_head(path: Path, head: str) -> Path:
    """The name of a file about one of several heads: `page_mood.html`; of a model with one head, '', the path itself."""
    return path.with_name(f"{path.stem}_{head}{path.suffix}") if head else path


def read_predictions(path: Path) -> pd.DataFrame:
    """A table that `predict_videos` has written, in any of its formats. Raises `UserError` if it is none."""
    try:
        if path.suffix == ".parquet":
            return pd.read_parquet(path)
        if path.suffix == ".xlsx":
            require_excel(path)
            return _typed(pd.read_excel(path, dtype={"video": str, PERSON: str}, keep_default_na=False, na_values=[""]))
        if path.suffix == ".json":
            return _typed(pd.DataFrame(json.loads(path.read_text("utf-8"))))
        return _read_rows(path, path.suffix == ".csv")
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: is not a readable table of predictions ({error})") from None


def part_of(out: Path) -> Path:
    """Where the rows of a table are until it is complete."""
    return out.with_name(f"{out.name}.part")


def _log_of(out: Path) -> Path:
    return out.with_name(f"{out.name}.part.log")


def _has_rows(out: Path) -> bool:
    """Whether there are rows in the part of a table."""
    with open(part_of(out), "rb") as file:
        if out.suffix == ".csv":
            file.readline()  # the header
        return file.read(1) != b""


def check_no_part(out: Path) -> None:
    """Raise `UserError` if an interrupted run has left rows, which a new run would lose."""
    part, log = part_of(out), _log_of(out)
    if not (part.exists() and log.exists()):
        return
    if _has_rows(out) or log.read_text("utf-8").count("\n") > 1:
        raise UserError(
            f"{part}: holds the rows of an interrupted run; continue it with --resume (in Python: resume=True), "
            "or delete the file to start again"
        )


class TableWriter:
    """The rows of a run, written to `OUT.part` as they are computed; it is renamed to OUT when the run is complete.

    The part is CSV for .csv, else JSON lines; tables in other formats are made from it at the end. `OUT.part.log` has the
    settings, then for each video that has ended the size of the part at that time, the frame rate and the digest. A resumed
    run truncates the part to the last such size, which drops the rows of the interrupted video. Names of videos are written
    as `svfap.files.printable` shows them. Only one process may write a table at a time (`svfap.files.only_writer`).

    Raises `UserError`: a part exists and `resume` is not set, the settings are others, or the file cannot be written.

    Attributes:
        ended: videos that were read to their end, or as far as they could be: printable name -> error, "" for none.
        rates: printable name -> frames per second that were used of it, as far as they are known.
        digests: printable name -> SHA-256 of its file; not of what is no file.
    """

    def __init__(self, out: Path, columns: Sequence[str], settings: Mapping[str, Any], resume: bool = False) -> None:
        self.out, self.part, self.columns = out, part_of(out), list(columns)
        self.ended: dict[str, str] = {}
        self.rates: dict[str, float] = {}
        self.digests: dict[str, str] = {}
        self._ends: dict[str, int] = {}  # size of the part when each video had ended, in that order
        self._log, self._is_csv = _log_of(out), out.suffix == ".csv"
        self._header = self._csv(self.columns).encode() if self._is_csv else b""
        settings = {"columns": self.columns, **settings}
        size = 0
        if not resume:
            check_no_part(out)
        elif self.part.exists() and self._log.exists():
            size = self._read_log(settings)
        with self._reporting():
            if size == 0:
                self._log.write_text(json.dumps({"settings": settings}) + "\n", "utf-8")
                self.part.write_bytes(self._header)
            else:
                os.truncate(self.part, size)
            self._file: BinaryIO = open(self.part, "ab")  # noqa: SIM115  closed when the block ends

    def add(self, video: str, row: Mapping[str, Any]) -> None:
        """Add a row, given without its column `video`."""
        cells = {"video": printable(video), **row}
        line = self._csv(cells.values()) if self._is_csv else json.dumps(cells) + "\n"
        with self._reporting():
            self._file.write(line.encode())
            self._file.flush()

    def end_video(self, video: str, error: str = "", fps: float | None = None, digest: str = "") -> None:
        """Record that all rows of this video are written. fps: frames per second that were used of it. digest: of its file."""
        size = self.part.stat().st_size
        line = {"video": printable(video), "size": size, "error": printable(error), "fps": fps, "sha256": digest}
        self._note(line)
        with self._reporting(), open(self._log, "a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def sort(self, videos: Iterable[str]) -> None:
        """Put the videos that have ended, and so the rows of the finished table, into this order."""
        names = [name for name in map(printable, videos) if name in self.ended]
        self.ended = {name: self.ended[name] for name in names}
        self.rates = {name: self.rates[name] for name in names if name in self.rates}
        self.digests = {name: self.digests[name] for name in names if name in self.digests}

    def finish(
        self,
        write: Callable[[pd.DataFrame, Path], object],
        refined: Callable[[pd.DataFrame], pd.DataFrame] | None = None,
    ) -> pd.DataFrame:
        """Put the complete table in place, and return it. write: for formats that are not written row by row, and for a table
        that is `refined` before."""
        self._file.close()
        whole = self.part if list(self.ended) == list(self._ends) else self._sorted()
        table = _read_rows(whole, self._is_csv, self.columns)
        if refined is not None or self.out.suffix not in BY_ROW:
            table = table if refined is None else refined(table)
            write(table, self.out)
            whole.unlink()
        else:
            with self._reporting():
                os.replace(whole, self.out)
        self.part.unlink(missing_ok=True)
        self._log.unlink()
        return table

    @property
    def is_empty(self) -> bool:
        return not _has_rows(self.out)

    def discard(self) -> None:
        """Delete what was written."""
        self._file.close()
        self.part.unlink()
        self._log.unlink()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        with suppress(OSError):  # a full disk was reported when the row was written
            self._file.close()

    def _sorted(self) -> Path:
        """A copy of the part with the videos in the order of `ended`."""
        starts = dict(zip(self._ends, [len(self._header), *self._ends.values()], strict=False))
        path = self.part.with_name(f"{self.part.name}.sorted")
        with self._reporting(), self.part.open("rb") as part, path.open("wb") as file:
            file.write(self._header)
            for name in self.ended:
                part.seek(starts[name])
                file.write(part.read(self._ends[name] - starts[name]))
        return path

    def _read_log(self, settings: dict[str, Any]) -> int:
        """Read which videos have ended; returns the size of the part at that time."""
        lines = [json.loads(line) for line in self._log.read_text("utf-8").splitlines() if line.endswith("}")]
        if not lines:  # the disk was full at the start
            return 0
        first = lines.pop(0)
        fix = "resume with the same settings, or delete the file to start again"
        check_same_settings(self.part, first["settings"], settings, fix)
        for line in lines:
            self._note(line)
        return max([len(self._header), *(line["size"] for line in lines)])

    def _note(self, line: dict[str, Any]) -> None:
        self.ended[line["video"]] = line["error"]
        self._ends[line["video"]] = line["size"]
        if line.get("fps"):
            self.rates[line["video"]] = line["fps"]
        if line.get("sha256"):
            self.digests[line["video"]] = line["sha256"]

    def _csv(self, cells: Iterable[Any]) -> str:
        line = io.StringIO()
        csv.writer(line, lineterminator="\n").writerow(cells)
        return line.getvalue()

    @contextmanager
    def _reporting(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            reason = error.strerror or error
            raise UserError(f"{self.part}: cannot be written ({reason}); the rows until then are kept") from None


def _read_rows(path: Path, is_csv: bool, columns: list[str] | None = None) -> pd.DataFrame:
    """Read a CSV file or JSON lines; columns: of JSON lines, which have no header."""
    with open(path, encoding="utf-8", newline="") as file:
        if not is_csv:
            rows = [json.loads(line) for line in file]
            columns = columns or (None if rows else ["video", *TIMES])  # without rows there are no names of columns
            return _typed(pd.DataFrame(rows, columns=columns))
        header, *rows = csv.reader(file)
        return _typed(pd.DataFrame(rows, columns=header))


def _typed(table: pd.DataFrame) -> pd.DataFrame:
    """Exact numbers, and names of videos, people and labels as text, even "0" and "NA"."""
    whole, texts = {"track", *FRAMES}, {"video", PERSON, *label_columns(_value_names(table))}
    return table.astype({name: "int64" if name in whole else "float64" for name in table if name not in texts})


def _value_names(table: pd.DataFrame) -> list[str]:
    """Names of the columns of values, whatever their types."""
    return [str(name) for name in table if name not in NOT_VALUES and str(name).rpartition("/")[2] != LABEL]
