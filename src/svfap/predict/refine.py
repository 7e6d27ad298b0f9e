"""What users do to a finished table: name people, smooth, subtract each person's usual values, round."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from svfap.data.delimited import separator_of
from svfap.errors import UserError
from svfap.predict.config import RefineSettings
from svfap.predict.table import (
    PERSON,
    TIMES,
    by_face,
    label_columns,
    value_columns,
)
from svfap.predict.timeline import JITTER_S, ROUNDING_S, Timeline

TIME_DECIMALS = 3  # at least, so that frames stay apart


def refine(table: pd.DataFrame, settings: RefineSettings) -> pd.DataFrame:
    """The table with people named, values smoothed, a baseline subtracted, and numbers rounded, in this order.

    table: of predictions, with column `video`; it is not changed. Without any setting the result is equal to it. The column
    `label` is chosen anew from smoothed probabilities. Raises `UserError` for a list that does not fit the table, for a person
    with two tracks in view together, and for a baseline of probabilities alone.
    """
    table = table.copy()
    if settings.persons is not None:
        _name(table, settings.persons)
    if PERSON in table and "track" in table:
        _check_people(table, str(settings.persons or f"column `{PERSON}`"))
    values = value_columns(table)
    if settings.smooth_s and values:
        table[values] = table[values].astype(float)
        for _, rows in by_face(table, merged=False):
            table.loc[rows.index, values] = _smoothed(rows, values, settings.smooth_s)
        for name, columns in label_columns(values).items():
            if name in table:
                table[name] = table[list(columns)].idxmax(axis=1).map(columns)
    if settings.baseline is not None:
        _subtract(table, values, settings.baseline)
    return rounded(table, settings.decimals)


def check_lists(settings: RefineSettings, videos: Iterable[str]) -> None:
    """Raise `UserError` for lists that cannot be read or name other videos, as far as that is known before a prediction.

    videos: their names as in the table.
    """
    known = set(videos)
    if settings.persons is not None:
        _check_videos(settings.persons, _read_list(settings.persons, ["video", PERSON]), known)
    if settings.baseline not in (None, "median"):
        file = Path(str(settings.baseline))
        spans = _read_list(file, ["video", *TIMES])
        _check_videos(file, spans, known)
        for number, span in spans.iterrows():
            _seconds(file, number, span)


def dimensions(values: list[str]) -> list[str]:
    """Columns that a baseline can be subtracted from: all but probabilities. Raises `UserError` if there are none."""
    labelled = {name for columns in label_columns(values).values() for name in columns}
    if found := [name for name in values if name not in labelled]:
        return found
    raise UserError(
        "baseline: the model gives probabilities alone. What is left after a subtraction is no probability, and a label "
        "chosen from it would be that which changes most; use it for dimensions and measures"
    )


def rounded(table: pd.DataFrame, decimals: int | None) -> pd.DataFrame:
    """The table with this many decimals; times keep at least three. None: as it is."""
    if decimals is None:
        return table
    floats = [str(name) for name in table if pd.api.types.is_float_dtype(table[name])]
    table = table.round({name: max(decimals, TIME_DECIMALS) if name in TIMES else decimals for name in floats})
    table[floats] += 0.0  # no -0.0
    return table


def steps(settings: RefineSettings) -> dict[str, Any]:
    """What `refine` does with these settings, as far as it does anything: name -> value."""
    given = {
        "persons": settings.persons and str(settings.persons),
        "smooth_s": settings.smooth_s or None,
        "baseline": settings.baseline,
        "decimals": settings.decimals,
    }
    return {name: value for name, value in given.items() if value is not None}


def in_words(done: dict[str, Any]) -> str:
    """Sentences for a methods section about `steps`."""
    texts: dict[str, Callable[[Any], str]] = {
        "persons": lambda file: "Tracks were assigned to people by hand.",
        "smooth_s": lambda span: (
            f"Values were smoothed within each track by a centred moving average over {span:g} s that does not cross gaps."
        ),
        "baseline": lambda kind: (
            "Of each value the person's median over "
            + ("the whole recording" if kind == "median" else "a neutral span")
            + " was subtracted; probabilities were left as they are."
        ),
        "decimals": lambda number: f"Numbers were rounded to {number} decimals.",
    }
    return " ".join(text(done[name]) for name, text in texts.items() if name in done)


def _smoothed(rows: pd.DataFrame, columns: list[str], span_s: float) -> np.ndarray:
    """(N, K) the mean over `span_s` around each row's centre of what the rows of its piece stand for; see `Timeline.edges`."""
    smooth = rows[columns].to_numpy(float, copy=True)
    line = Timeline.of_table(rows, columns)
    for piece in line.pieces:
        values = line.values[piece]
        ends = np.maximum.accumulate(np.append(line.edges[piece.start, 0], line.edges[piece, 1]))
        if ends[-1] <= ends[0]:
            continue
        integral = np.concatenate([np.zeros((1, values.shape[1])), np.cumsum(values * np.diff(ends)[:, None], axis=0)])
        middle = np.clip((ends[1:] + ends[:-1]) / 2, ends[0], ends[-1])
        first = np.maximum(np.minimum(middle - span_s / 2, ends[:-1]), ends[0])
        last = np.minimum(np.maximum(middle + span_s / 2, ends[1:]), ends[-1])
        upto, since = (np.stack([np.interp(at, ends, column) for column in integral.T], 1) for at in (last, first))
        length = (last - first)[:, None]
        smooth[line.rows[piece]] = np.where(length > 0, (upto - since) / np.maximum(length, 1e-12), values)
    return smooth


def _name(table: pd.DataFrame, file: Path) -> None:
    """Add the column `person` by a list of videos, tracks and names."""
    listed = _read_list(file, ["video", "track", PERSON] if "track" in table else ["video", PERSON])
    keys = [name for name in ("video", "track") if name in listed]
    if (twice := listed.duplicated(keys)).any():
        raise UserError(f"{file}: {_shown(listed[twice].iloc[0], keys)} comes twice; give each one name")
    here = table[keys].astype(str).agg("\0".join, axis=1) if len(table) else pd.Series([], dtype=str)
    names = dict(zip(listed[keys].agg("\0".join, axis=1), listed[PERSON], strict=True))
    if missing := [key for key in names if key not in set(here)]:
        what = _shown(pd.Series(dict(zip(keys, missing[0].split("\0"), strict=True))), keys)
        raise UserError(f"{file}: {what} is not in the table; write videos as its column `video` does")
    if PERSON in table:
        del table[PERSON]
    people = here.map(names).fillna("").astype(object)
    table.insert(list(table).index(keys[-1]) + 1, PERSON, people)


def _check_people(table: pd.DataFrame, source: str) -> None:
    """Raise `UserError` if two tracks of one person in one video are in view together, also between their rows.

    Tracks that follow each other may overlap by the jitter of a live source's times. source: what names the people.
    """
    named = table[table[PERSON].fillna("") != ""]
    for (video, person), rows in named.groupby(["video", PERSON], sort=False):
        spans = sorted(span for track, own in rows.groupby("track") for span in _in_view(own, track))
        latest: dict[Any, tuple[float, float]] = {}
        for start_s, end_s, track in spans:
            for other, (since_s, until_s) in latest.items():
                shorter_s = min(end_s - start_s, until_s - since_s)
                if other != track and min(end_s, until_s) - start_s > min(JITTER_S, shorter_s / 2):
                    raise UserError(
                        f"{source}: {person} is track {other} and track {track} of {video}, which are both in view at "
                        f"{start_s:.2f} s; a person has one face at a time"
                    )
            latest[track] = start_s, end_s


def _in_view(rows: pd.DataFrame, track: Any) -> list[tuple[float, float, Any]]:
    """(start_s, end_s, track) of each time without a gap; rows without a duration, as of pictures, get a little."""
    line = Timeline.of_table(rows, [])
    ends = np.maximum(line.edges[:, 1], line.start + 2 * ROUNDING_S)
    return [(float(line.start[piece][0]), float(ends[piece].max()), track) for piece in line.pieces]


def _subtract(table: pd.DataFrame, values: list[str], baseline: str) -> None:
    """Subtract from each dimension the person's median, over all rows or over those of neutral spans."""
    if table.empty:
        return
    columns = dimensions(values)
    neutral = np.ones(len(table), bool) if baseline == "median" else _in_spans(table, Path(baseline))
    for name, rows in by_face(table, across=True):
        inside = rows[neutral[table.index.get_indexer(rows.index)]]
        if inside.empty:
            raise UserError(f"baseline={baseline}: no row of {name} of {rows['video'].iloc[0]} lies in a neutral span")
        table.loc[rows.index, columns] = rows[columns] - inside[columns].median()


def _in_spans(table: pd.DataFrame, file: Path) -> np.ndarray:
    """(N,) whether the middle of a row lies in a span of the list for its video, and its track or person if they are given."""
    spans = _read_list(file, ["video", *TIMES])
    middle = table[TIMES].mean(axis=1)
    inside = np.zeros(len(table), bool)
    for number, span in spans.iterrows():
        start_s, end_s = _seconds(file, number, span)
        rows = (table["video"] == span["video"]) & middle.between(start_s, end_s)
        for name in ("track", PERSON):
            if span.get(name, ""):
                if name not in table:
                    raise UserError(f"{file}: has {name}s, and the table has none")
                rows &= table[name].astype(str) == span[name]
        if not rows.any():
            raise UserError(f"{file}, line {number}: no row of the table lies in this span of {span['video']}")
        inside |= rows.to_numpy()
    return inside


def _seconds(file: Path, line: Any, span: pd.Series) -> tuple[float, float]:
    """Start and end of a neutral span. Raises `UserError`."""
    with suppress(ValueError):
        start_s, end_s = (float(span[name]) for name in TIMES)
        if start_s < end_s:
            return start_s, end_s
    raise UserError(f"{file}, line {line}: start_s and end_s must be seconds, the start before the end")


def _check_videos(file: Path, listed: pd.DataFrame, videos: set[str]) -> None:
    """Raise `UserError` if a list names a video that there is not."""
    if others := [name for name in listed["video"] if name not in videos]:
        raise UserError(
            f"{file}: video {others[0]} is not among the videos; write it as it was given, as in column `video`"
        )


def _read_list(file: Path, needed: list[str]) -> pd.DataFrame:
    """A CSV of texts with these columns. Raises `UserError`."""
    try:
        with file.open(encoding="utf-8-sig") as opened:
            separator = separator_of(opened.readline(), needed)
        listed = pd.read_csv(file, sep=separator, dtype=str, keep_default_na=False, encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        raise UserError(f"{file}: is not a readable CSV ({' '.join(str(error).split())})") from None
    listed.index += 2  # the line of the file
    if missing := [name for name in needed if name not in listed]:
        raise UserError(f"{file}: no column {', '.join(missing)}; found: {', '.join(map(str, listed.columns))}")
    if listed.empty:
        raise UserError(f"{file}: holds a header and no rows")
    return listed


def _shown(row: pd.Series, keys: list[str]) -> str:
    return ", ".join(f"{key} {row[key]}" for key in keys)
