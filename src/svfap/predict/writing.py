"""A finished table of predictions as a file: CSV, JSON, Parquet and Excel, or annotations of each video for ELAN and players."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from svfap.console import counted, say
from svfap.errors import UserError
from svfap.files import printable, write_atomically
from svfap.predict.annotations import ANNOTATIONS, lasting
from svfap.predict.table import require_excel

EXCEL_ROWS = 1_048_576


def write_table(table: pd.DataFrame, path: Path, videos: Sequence[str] | None = None) -> list[Path]:
    """Write a table of predictions in the format of the suffix, each file whole or not at all; returns the files.

    .eaf (ELAN) and .vtt (WebVTT): one file per video, see `numbered`, and none of single pictures. videos: in this order;
    default: those of the table. Raises `UserError`.
    """
    if path.suffix not in {*FORMATS, *ANNOTATIONS}:
        raise UserError(f"{path}: tables are written as {', '.join([*FORMATS, *ANNOTATIONS])}")
    if (annotate := ANNOTATIONS.get(path.suffix)) is None:
        write_atomically(path, FORMATS[path.suffix](table))
        return [path]
    names = list(dict.fromkeys(table["video"])) if videos is None else [printable(video) for video in videos]
    films = lasting(table, names)
    if pictures := len(names) - len(films):
        say(f"{path}: {counted(pictures, 'single picture')} left out; tiers and captions show times")
    files = numbered(path, films)
    for video, file in files.items():
        write_atomically(file, annotate(table[table["video"] == video], video, file))
    return list(files.values())


def numbered(path: Path, videos: Sequence[str]) -> dict[str, Path]:
    """A file for each video: `path` of a single one, else NAME_1_video, NAME_2_video, …"""
    stems = [re.sub(r"[^\w.-]+", "_", Path(video).stem) for video in videos]
    names = [f"{path.stem}_{number}_{stem}{path.suffix}" for number, stem in enumerate(stems, 1)]
    return {video: path.with_name(name) if len(videos) > 1 else path for video, name in zip(videos, names, strict=True)}


def _records(table: pd.DataFrame) -> list[dict[Any, Any]]:
    """The rows as JSON has them: what is missing is null."""
    return table.astype(object).where(table.notna(), None).to_dict("records")


def _excel(table: pd.DataFrame) -> bytes:
    """An Excel sheet; texts that begin with = are texts, no formulas."""
    require_excel(Path("a.xlsx"))
    if len(table) >= EXCEL_ROWS:
        raise UserError(f"{len(table)} rows are more than an Excel sheet holds ({EXCEL_ROWS}); write .csv or .parquet")
    from openpyxl.utils.exceptions import IllegalCharacterError

    content = io.BytesIO()
    try:
        with pd.ExcelWriter(content, engine="openpyxl") as writer:
            table.to_excel(writer, index=False, freeze_panes=(1, 0))
            for row in writer.sheets["Sheet1"].iter_rows():
                for cell in row:
                    if cell.data_type == "f":
                        cell.data_type = "s"
    except IllegalCharacterError as error:
        raise UserError(f"Excel files hold no control characters ({error}); write .csv") from None
    return content.getvalue()


FORMATS: dict[str, Callable[[pd.DataFrame], str | bytes]] = {
    ".csv": lambda table: table.to_csv(index=False, lineterminator="\n"),
    ".jsonl": lambda table: "".join(json.dumps(row) + "\n" for row in _records(table)),
    ".json": lambda table: table.to_json(orient="records", indent=2, double_precision=15),
    ".parquet": lambda table: table.to_parquet(index=False),
    ".xlsx": _excel,
}
