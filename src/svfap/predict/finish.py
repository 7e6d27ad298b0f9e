"""`svfap table`: a finished table refined, in other formats, and its summary, with how it was made."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from svfap.errors import UserError
from svfap.files import check_new
from svfap.predict.about import content_of_about, videos_read, write_refined_about
from svfap.predict.annotations import ANNOTATIONS, lasting
from svfap.predict.config import TABLE_SUFFIXES, TableConfig
from svfap.predict.refine import refine, rounded, steps
from svfap.predict.summary import summarize
from svfap.predict.table import TIMES, read_predictions, require_excel
from svfap.predict.writing import numbered, write_table


def finish_table(table: Path, config: TableConfig) -> list[Path]:
    """Refine a table of `predict_videos` and write what `config` asks for; returns the files. The table is not changed.

    Raises `UserError` for a table that is none, for settings that do not fit it, and for files that exist.
    """
    if table.suffix not in TABLE_SUFFIXES:
        raise UserError(f"{table}: is no table of predictions ({', '.join(TABLE_SUFFIXES)})")
    require_excel(config.out, config.summary)
    rows = read_predictions(table)
    if missing := [name for name in ("video", *TIMES) if name not in rows]:
        raise UserError(f"{table}: is no table of predictions; it has no column {', '.join(missing)}")
    before = content_of_about(table).get("refined", [])
    if config.smooth_s and (smoothed := [done["smooth_s"] for done in before if "smooth_s" in done]):
        raise UserError(
            f"smooth_s: {table} is smoothed over {smoothed[0]:g} s already; give the table as it was before"
        )
    files: list[Path] = []
    if config.out is not None:
        files = [config.out]
        if config.out.suffix in ANNOTATIONS:
            files = list(numbered(config.out, lasting(rows, dict.fromkeys(rows["video"]))).values())
    for file in [*files, *filter(None, [config.summary])]:
        if file.exists() and file.samefile(table):
            raise UserError(f"{file}: is the table itself; give another name")
        check_new(file, config.overwrite)
    refined = refine(rows, replace(config, decimals=None))
    written: list[Path] = []
    if config.out is not None:
        written += write_table(rounded(refined, config.decimals), config.out)
        written.append(write_refined_about(table, config.out, steps(config)))
    if config.summary is not None:
        short = summarize(refined, videos_read(table))
        written += write_table(rounded(short, config.decimals), config.summary)
    return written
