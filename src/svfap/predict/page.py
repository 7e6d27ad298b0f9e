"""One self-contained HTML page of affect over time: for each person pictures, an interactive timeline, shares and changes."""

from __future__ import annotations

import base64
import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from svfap.errors import UserError
from svfap.files import write_atomically
from svfap.predict.pictures import cut_pictures
from svfap.predict.table import BOX, PROBABILITY, TIMES, value_columns, value_name
from svfap.predict.timeline import Change, Timeline, shares, spread, strongest_changes
from svfap.predict.windows import Box
from svfap.view.figures.base import PALETTE
from svfap.view.page import data_uri, package_text, render

MAX_PICTURES = 24  # in the strip of a person
MAX_PAGE_PICTURES = 1500  # about 8 MB; each strip gets shorter in a page of many persons
MAX_PERSONS = 30  # of a video
NUM_CHANGES = 5


@dataclass
class _Person:
    """One track of one video, ready to be shown."""

    heading: str
    name: str
    timeline: Timeline
    confidence: np.ndarray | None
    boxes: np.ndarray | None
    changes: list[Change]
    pictures: dict[float, str] = field(default_factory=dict)  # by time in seconds
    strip: list[float] = field(default_factory=list)  # times of the pictures in the strip

    def box_at(self, time_s: float) -> Box | None:
        row = self.timeline.row_at(time_s)
        return None if self.boxes is None or row is None else tuple(self.boxes[row].tolist())


def write_affect_page(
    out: Path,
    table: pd.DataFrame,
    videos: Mapping[str, Path | None],
    title: str = "Affect over time",
    notes: Sequence[str] = (),
) -> None:
    """Write one HTML file that shows a table of predictions and opens without network access, atomically.

    Args:
        table: one row per window or frame: `video`, optionally `track`, `start_s` and `end_s`, optionally `box_x`,
            `box_y`, `box_w`, `box_h` (pixels of the original frame, at the window's centre), then `prob_<label>` columns,
            or a numeric column per dimension; optionally `confidence` of the detector. Rows without a value are gaps.
        videos: value of column `video` -> its file, from which pictures are cut, or None: no pictures. A video without
            rows is shown as one without a face.
        notes: paragraphs below the title.

    Raises:
        UserError: the table lacks columns or holds what is no number, or `out` cannot be written. A video that cannot be
            read costs its pictures, and the page says so.
    """
    columns = _checked(table)
    probabilities = columns[0].startswith(PROBABILITY) if columns else True
    names = [value_name(column) for column in columns]
    rows = {str(name): part for name, part in table.groupby("video", sort=False)} if len(table) else {}
    keys = list(dict.fromkeys([*videos, *rows]))
    shown = [_persons(rows[key], columns, f"video-{k}") if key in rows else [] for k, key in enumerate(keys, 1)]
    num_persons = sum(min(len(persons), MAX_PERSONS) for persons in shown)
    num_pictures = max(1, min(MAX_PICTURES, MAX_PAGE_PICTURES // max(num_persons, 1)))
    views, data = [], []
    for number, (key, persons) in enumerate(zip(keys, shown, strict=True), 1):
        kept = sorted(persons, key=lambda person: -person.timeline.covered_s)[:MAX_PERSONS]
        kept = [person for person in persons if person in kept]
        notices = [_add_pictures(videos.get(key), kept, num_pictures)]
        if len(kept) < len(persons):
            notices.append(f"{len(persons)} persons; the {len(kept)} in view for longest are shown.")
        heading, name = str(key), f"video-{number}"
        cards = [_person_view(person, names, probabilities) for person in kept]
        views.append({"heading": heading, "id": name, "parts": cards, "notices": [n for n in notices if n]})
        data.append({"id": name, "persons": [_person_data(person, _decimals(table, columns)) for person in kept]})
    page = {"names": names, "colors": _colors(names), "probabilities": probabilities}
    page |= {"range": _range(table[columns].to_numpy(float), probabilities), "videos": data}
    script = package_text("predict/page.js")
    html = render(
        "predict/page.html",
        title=title,
        notes=notes,
        sections=views,
        names=names,
        color_of=dict(zip(names, _colors(names), strict=True)),
        probabilities=probabilities,
        data=page,
        script=script,
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )
    write_atomically(out, html.encode(errors="replace"))


def _checked(table: pd.DataFrame) -> list[str]:
    """The columns of probabilities or dimensions. Raises `UserError` for a table that cannot be shown."""
    missing = [name for name in ("video", *TIMES) if name not in table]
    if missing:
        raise UserError(f"predictions: no column {', '.join(missing)}; found: {', '.join(map(str, table.columns))}")
    names = [str(column) for column in table.columns]
    columns = value_columns(table)
    if len(table) and not columns:
        raise UserError("predictions: no prob_<label> column and no numeric column of a dimension")
    for name in [*TIMES, *columns, *({*BOX, "confidence"} & set(names))]:
        if not pd.api.types.is_numeric_dtype(table[name]) and len(table):
            raise UserError(f"predictions: column {name} holds what is no number")
        if np.isinf(table[name].to_numpy(float)).any() or (name in TIMES and table[name].isna().any()):
            raise UserError(f"predictions: column {name} holds what is not finite")
    if (table["end_s"] < table["start_s"]).any():
        raise UserError("predictions: end_s is before start_s in some rows")
    return columns


def _persons(rows: pd.DataFrame, columns: list[str], name: str) -> list[_Person]:
    """The tracks of a video in order of appearance; tracks without any value are none."""
    rows = rows.sort_values("start_s", kind="stable")
    tracks = rows.groupby("track", sort=False) if "track" in rows else [("", rows)]
    probabilities = columns[0].startswith(PROBABILITY)
    persons: list[_Person] = []
    for track, part in tracks:
        timeline = Timeline.of_table(part, columns)
        part = part.iloc[timeline.rows]
        if part.empty:
            continue
        confidence = part["confidence"].to_numpy(float) if "confidence" in part else None
        boxes = part[BOX].to_numpy(float) if set(BOX) <= set(part.columns) else None
        changes = strongest_changes(timeline, NUM_CHANGES, probabilities)
        shown = f"{track:g}" if isinstance(track, float) else str(track)  # a column that had holes holds 1.0 for 1
        heading = f"Person {shown}" if "track" in rows else "Whole picture"
        persons.append(_Person(heading, f"{name}-{len(persons) + 1}", timeline, confidence, boxes, changes))
    return persons


def _add_pictures(path: Path | None, persons: list[_Person], number: int) -> str:
    """Cut the pictures of all persons of a video in one pass; what to tell if there are none, or fewer."""
    if path is None or not persons:
        return ""
    wanted: list[tuple[_Person, float]] = []
    for person in persons:
        person.strip = _regular_times(person.timeline, number)
        beside = [time for change in person.changes for time in (change.before_s, change.after_s)]
        wanted += [(person, time) for time in dict.fromkeys([*person.strip, *beside])]
    jpegs, reason = cut_pictures(path, [(time, person.box_at(time)) for person, time in wanted])
    for (person, time), jpeg in zip(wanted, jpegs, strict=True):
        if jpeg:
            person.pictures[time] = data_uri("image/jpeg", jpeg)
    for person in persons:
        person.strip = [time for time in person.strip if time in person.pictures]
    if not reason:
        return ""
    return f"{'Some' if any(jpegs) else 'All'} pictures are missing: {reason}"


def _regular_times(timeline: Timeline, number: int) -> list[float]:
    """Centres of rows, where the boxes are, at about regular times from first to last."""
    first, last = timeline.edges[0, 0], timeline.edges[-1, 1]
    number = min(number, len(timeline.start))
    due = first + (np.arange(number) + 0.5) * (last - first) / number
    rows = [timeline.row_at(time) for time in due]
    return [float(timeline.centers[row]) for row in dict.fromkeys(row for row in rows if row is not None)]


def _person_view(person: _Person, names: list[str], probabilities: bool) -> dict[str, Any]:
    """What stands in the HTML itself, so that it is there without JavaScript and in print."""
    timeline = person.timeline
    first, last = timeline.edges[0, 0], timeline.edges[-1, 1]
    facts = [f"{clock(timeline.covered_s)} in view between {clock(first)} and {clock(last)}"]
    facts += [f"{len(timeline.firsts)} pieces with gaps between"] * (len(timeline.firsts) > 1)
    facts += [f"{len(timeline.start):,} row{'s' * (len(timeline.start) > 1)}"]
    if person.confidence is not None and np.isfinite(person.confidence).any():
        facts.append(f"mean confidence of the detector {np.nanmean(person.confidence):.2f}")
    return {
        "heading": person.heading,
        "id": person.name,
        "facts": " · ".join(facts),
        "strip": [(time, clock(time), person.pictures[time]) for time in person.strip],
        "summary": (shares if probabilities else spread)(timeline, names).to_dict("records"),
        "changes": [_change_view(person, change, names, probabilities) for change in person.changes],
    }


def _change_view(person: _Person, change: Change, names: list[str], probabilities: bool) -> dict[str, Any]:
    most = int(np.abs(change.after - change.before).argmax())
    tops = int(change.before.argmax()), int(change.after.argmax())
    if probabilities and tops[0] != tops[1]:
        sides = [f"{names[k]} {100 * v[k]:.0f}%" for k, v in zip(tops, (change.before, change.after), strict=True)]
    else:  # the one that changes most
        sides = [f"{100 * v[most]:.0f}%" if probabilities else f"{v[most]:.2f}" for v in (change.before, change.after)]
        sides[0] = f"{names[most]} {sides[0]}"
    return {
        "time_s": change.time_s,
        "clock": clock(change.time_s),
        "distance": f"{change.distance:.2f}",
        "sides": [
            (text, clock(time), person.pictures.get(time, ""))
            for text, time in zip(sides, (change.before_s, change.after_s), strict=True)
        ],
    }


def _person_data(person: _Person, decimals: int) -> dict[str, Any]:
    timeline = person.timeline
    confidence = [] if person.confidence is None else np.round(person.confidence, 3).tolist()
    return {
        "id": person.name,
        "heading": person.heading,
        "start": np.round(timeline.start, 4).tolist(),
        "end": np.round(timeline.end, 4).tolist(),
        "firsts": timeline.firsts.tolist(),
        "values": np.round(timeline.values.T, decimals).tolist(),
        "confidence": [None if math.isnan(value) else value for value in confidence],
        "changes": [round(change.time_s, 4) for change in person.changes],
    }


def _decimals(table: pd.DataFrame, columns: list[str]) -> int:
    """Enough for five digits of the largest value."""
    largest = np.nanmax(np.abs(table[columns].to_numpy(float)), initial=1e-9)
    return int(5 - math.ceil(math.log10(max(largest, 1e-9))))


def _range(values: np.ndarray, probabilities: bool) -> list[float]:
    """Of the vertical axis: a usual scale if the values lie within it, else theirs and a little more."""
    values = values[np.isfinite(values)]
    if probabilities or not values.size:
        return [0.0, 1.0]
    low, high = float(values.min()), float(values.max())
    for scale in ([0.0, 1.0], [-1.0, 1.0]):
        if scale[0] <= low and high <= scale[1]:
            return scale
    room = 0.05 * (high - low) or 0.5
    return [low - room, high + room]


def _colors(names: Sequence[str]) -> list[str]:
    return [PALETTE[k % len(PALETTE)] for k in range(len(names))]


def clock(time_s: float) -> str:
    """Seconds as read on a player: 75.24 -> 1:15.2, with hours where there are any."""
    tenths = round(float(time_s) * 10)
    minutes, seconds = divmod(tenths, 600)
    text = f"{seconds / 10:04.1f}"
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{text}" if hours else f"{minutes}:{text}"
