"""The table of a prediction, on disk row by row: what a run that breaks off has made is kept, and `resume` goes on."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO, Self

import pandas as pd

from svfap.errors import UserError
from svfap.files import write_atomically

WHOLE_FORMATS: dict[str, Callable[[pd.DataFrame], str | bytes]] = {
    ".json": lambda table: table.to_json(orient="records", indent=2, double_precision=15),
    ".parquet": lambda table: table.to_parquet(index=False),
}
TABLE_SUFFIXES = (".csv", ".jsonl", *WHOLE_FORMATS)


class RowWriter:
    """Rows go to `OUT.part`, which becomes OUT once all videos are done; a context manager.

    `OUT.part.log` holds the settings, then each video that has ended with the size of `OUT.part` then; so a resumed run
    drops the rows of the video that it broke off in, does that one again, and leaves alone those in `self.ended`:
    video -> why it could not be read to its end, "" if it could. The part is CSV for .csv, else JSON lines; .json and
    .parquet are made of it at the end. Raises `UserError`: unknown suffix, a part in the way, other settings than those
    of the run to go on with, a full disk.
    """

    def __init__(self, out: Path, columns: Sequence[str], settings: Mapping[str, Any], resume: bool = False) -> None:
        check_out(out)
        self.out, self.columns = out, list(columns)
        self.part, self.log = part_of(out), part_of(out).with_name(f"{out.name}.part.log")
        self.ended: dict[str, str] = {}
        size = 0
        if self.part.exists() and self.log.exists():
            size = self._recall({"columns": self.columns, **settings}, resume)
        try:
            if size == 0:
                self.log.write_text(json.dumps({"settings": {"columns": self.columns, **settings}}) + "\n", "utf-8")
                self.part.write_bytes(self._header())
            else:
                os.truncate(self.part, size)
            self._file: BinaryIO = open(self.part, "ab")  # noqa: SIM115  closed when the block ends
        except OSError as error:
            raise self._full(error) from None

    def add(self, video: str, row: Mapping[str, Any]) -> None:
        """Write a row, without its column `video`."""
        cells = {"video": video, **row}
        line = self._csv(cells.values()) if self.out.suffix == ".csv" else json.dumps(cells) + "\n"
        try:
            self._file.write(line.encode())
            self._file.flush()
        except OSError as error:
            raise self._full(error) from None

    def end_video(self, video: str, error: str = "") -> None:
        """All rows of this video are there."""
        self.ended[video] = error
        line = {"video": video, "size": self.part.stat().st_size, "error": error}
        try:
            with open(self.log, "a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
        except OSError as reason:
            raise self._full(reason) from None

    def finish(self) -> pd.DataFrame:
        """Put the table in place whole, and return it."""
        self._file.close()
        table = _read(self.part, self.out.suffix == ".csv", self.columns)
        if (convert := WHOLE_FORMATS.get(self.out.suffix)) is not None:
            write_atomically(self.out, convert(table))
            self.part.unlink()
        else:
            try:
                os.replace(self.part, self.out)
            except OSError as error:
                raise self._full(error) from None
        self.log.unlink()
        return table

    @property
    def is_empty(self) -> bool:
        """No row has been written."""
        return self.part.stat().st_size <= len(self._header())

    def discard(self) -> None:
        """Leave nothing behind."""
        self._file.close()
        self.part.unlink()
        self.log.unlink()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        with suppress(OSError):  # of a full disk we have heard already
            self._file.close()

    def _recall(self, settings: dict[str, Any], resume: bool) -> int:
        """Learn from the log which videos have ended; returns the size of the part then."""
        first, *lines = [json.loads(line) for line in self.log.read_text("utf-8").splitlines() if line.endswith("}")]
        before = first["settings"]
        if not resume:
            if not lines and self.is_empty:
                return 0
            raise UserError(
                f"{self.part}: holds the rows of a run that broke off; go on with --resume true, or remove it to begin anew"
            )
        for name, value in settings.items():
            if before.get(name) != value:
                raise UserError(
                    f"--resume: {self.part} was made with {name}={before.get(name)}, not {value}; "
                    "give the same settings, or remove it to begin anew"
                )
        self.ended = {line["video"]: line["error"] for line in lines}
        return max([len(self._header()), *(line["size"] for line in lines)])

    def _header(self) -> bytes:
        return self._csv(self.columns).encode() if self.out.suffix == ".csv" else b""

    def _csv(self, cells: Any) -> str:
        line = io.StringIO()
        csv.writer(line, lineterminator="\n").writerow(cells)
        return line.getvalue()

    def _full(self, error: OSError) -> UserError:
        return UserError(f"{self.part}: cannot be written ({error.strerror or error}); the rows until then are kept")


def part_of(out: Path) -> Path:
    return out.with_name(f"{out.name}.part")


def check_out(out: Path) -> None:
    """Raises `UserError` unless a table can have this name."""
    if out.suffix not in TABLE_SUFFIXES:
        raise UserError(f"--out {out}: the suffix must be one of {', '.join(TABLE_SUFFIXES)}")
    if out.is_dir():
        raise UserError(f"--out {out}: is a folder; give the name of a file")


def _read(part: Path, is_csv: bool, columns: list[str]) -> pd.DataFrame:
    with open(part, encoding="utf-8", newline="") as file:
        if not is_csv:
            return pd.DataFrame([json.loads(line) for line in file], columns=columns)
        table = pd.DataFrame(list(csv.reader(file))[1:], columns=columns)
    # A video's name stays text, even "0" and "NA"; and these conversions are exact.
    return table.astype({name: "int64" if name == "track" else "float64" for name in columns if name != "video"})
