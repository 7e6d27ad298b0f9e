"""One self-contained HTML page of affect over time: for each face pictures, an interactive timeline, shares and changes."""

from __future__ import annotations

import base64
import hashlib
import math
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from svfap.errors import UserError
from svfap.files import write_atomically
from svfap.predict.about import About
from svfap.predict.figure import label_colors
from svfap.predict.pictures import cut_pictures
from svfap.predict.table import BOX, PROBABILITY, TIMES, by_face, of_head, tables_of_heads, value_columns, value_name
from svfap.predict.timeline import AffectChange, Timeline, shares, spread, strongest_changes
from svfap.predict.windows import Box
from svfap.view.page import data_uri, package_text, render

MAX_PICTURES = 24  # in the strip of a face
MAX_PAGE_PICTURES = 1500  # about 8 MB; each strip gets shorter in a page of many faces
MAX_FACES = 30  # of a video
NUM_CHANGES = 5


@dataclass
class _Face:
    """One track of a video, or its whole picture, as page.html shows it."""

    id: str
    heading: str
    timeline: Timeline
    summary: list[dict[Hashable, Any]]  # the rows of `shares` or `spread`
    changes: list[AffectChange]
    confidence: np.ndarray
    """(N,) or (0,) if the table has none."""
    boxes: np.ndarray | None
    pictures: dict[float, str] = field(default_factory=dict)
    """Time in seconds -> data URI."""
    strip: list[float] = field(default_factory=list)
    """Times of the pictures in the strip."""

    def box_at(self, time_s: float) -> Box | None:
        row = self.timeline.row_at(time_s)
        return None if self.boxes is None or row is None else tuple(self.boxes[row].tolist())

    @property
    def mean_confidence(self) -> float | None:
        return float(np.nanmean(self.confidence)) if np.isfinite(self.confidence).any() else None


def write_affect_page(
    out: Path, table: pd.DataFrame, videos: Mapping[str, Path | None], about: About | None = None
) -> None:
    """Write one HTML file that shows a table of predictions and opens without network access, atomically.

    Args:
        table: one row per window or frame, with the columns of `svfap.Predictor` after `video`; track, box and confidence
            are optional. Rows without a value are gaps.
        videos: value of column `video` -> its file, from which pictures are cut; None: no pictures. A video without rows is
            shown as one without a face; one that cannot be read has no pictures, and the page says so.
        about: how the table was made, shown at the end.

    Raises:
        UserError: the table lacks columns or has values that are no finite numbers, or `out` cannot be written.
    """
    columns = _checked(table)
    probabilities = columns[0].startswith(PROBABILITY) if columns else True
    rows = {str(name): part for name, part in table.groupby("video", sort=False)} if len(table) else {}
    sections: list[dict[str, Any]] = []
    for number, key in enumerate(dict.fromkeys([*videos, *rows]), 1):
        name, notices = f"video-{number}", []
        faces = _faces(rows[key], columns, name) if key in rows else []
        if len(faces) > MAX_FACES:
            notices.append(f"{len(faces)} faces; the {MAX_FACES} in view for longest are shown.")
            longest = sorted(faces, key=lambda face: -face.timeline.covered_s)[:MAX_FACES]
            faces = [face for face in faces if face in longest]
        sections.append({"id": name, "heading": str(key), "parts": faces, "notices": notices})
    num_faces = sum(len(section["parts"]) for section in sections)
    num_pictures = max(1, min(MAX_PICTURES, MAX_PAGE_PICTURES // max(num_faces, 1)))
    for section in sections:
        if notice := _add_pictures(videos.get(section["heading"]), section["parts"], num_pictures):
            section["notices"].insert(0, notice)
    names, colors = [value_name(column) for column in columns], label_colors(len(columns))
    values, script = table[columns].to_numpy(float), package_text("predict/page.js")
    data = {
        "names": names,
        "colors": colors,
        "probabilities": probabilities,
        "range": [0.0, 1.0] if probabilities else _range(values),
        "videos": [
            {
                "id": section["id"],
                "faces": [_data(face, values) for face in section["parts"] if not face.timeline.is_still],
            }
            for section in sections
        ],
    }
    html = render(
        "predict/page.html",
        title=f"{(about.reads if about else 'affect').capitalize()} over time",
        sections=sections,
        names=names,
        color_of=dict(zip(names, colors, strict=True)),
        probabilities=probabilities,
        about=about,
        clock=clock,
        data=data,
        script=script,
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )
    write_atomically(out, html.encode(errors="replace"))


def write_affect_pages(
    out: Path, table: pd.DataFrame, videos: Mapping[str, Path | None], about: About | None = None
) -> dict[str, Path]:
    """Write a page about each head, see `of_head`: head -> file, '' of the only one. Raises `UserError`."""
    parts = tables_of_heads(table)
    pages = {head: of_head(out, head) for head in parts}
    for head, part in parts.items():
        write_affect_page(pages[head], part, videos, about)
    return pages


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


def _faces(rows: pd.DataFrame, columns: list[str], video: str) -> list[_Face]:
    """The tracks of a video in order of appearance, without those that have no value at all."""
    rows = rows.sort_values("start_s", kind="stable")
    names, probabilities = [value_name(column) for column in columns], columns[0].startswith(PROBABILITY)
    faces: list[_Face] = []
    for heading, part in by_face(rows):
        timeline = Timeline.of_table(part, columns)
        part = part.iloc[timeline.rows]
        if part.empty:
            continue
        faces.append(
            _Face(
                id=f"{video}-{len(faces) + 1}",
                heading=heading,
                timeline=timeline,
                summary=(shares if probabilities else spread)(timeline, names).to_dict("records"),
                changes=strongest_changes(timeline, NUM_CHANGES, probabilities),
                confidence=part["confidence"].to_numpy(float) if "confidence" in part else np.zeros(0),
                boxes=part[BOX].to_numpy(float) if set(BOX) <= set(part.columns) else None,
            )
        )
    return faces


def _add_pictures(path: Path | None, faces: list[_Face], number: int) -> str:
    """Cut the pictures of all faces of a video in one pass; returns why pictures are missing, "" if none is."""
    if path is None or not faces:
        return ""
    wanted: list[tuple[_Face, float]] = []
    for face in faces:
        face.strip = face.timeline.regular_times(number)
        beside = [time_s for change in face.changes for time_s in (change.before_s, change.after_s)]
        wanted += [(face, time_s) for time_s in dict.fromkeys([*face.strip, *beside])]
    jpegs, reason = cut_pictures(path, [(time_s, face.box_at(time_s)) for face, time_s in wanted])
    for (face, time_s), jpeg in zip(wanted, jpegs, strict=True):
        if jpeg:
            face.pictures[time_s] = data_uri("image/jpeg", jpeg)
    for face in faces:
        face.strip = [time_s for time_s in face.strip if time_s in face.pictures]
    return f"{'Some' if any(jpegs) else 'All'} pictures are missing: {reason}" if reason else ""


def _data(face: _Face, values: np.ndarray) -> dict[str, Any]:
    """The numbers of a face that page.js draws, to five digits of the largest of `values`, those of the whole table."""
    timeline, largest = face.timeline, max(np.nanmax(np.abs(values), initial=0.0), 1e-9)
    return {
        "id": face.id,
        "heading": face.heading,
        "start": np.round(timeline.start, 4).tolist(),
        "end": np.round(timeline.end, 4).tolist(),
        "firsts": timeline.firsts.tolist(),
        "values": np.round(timeline.values.T, int(5 - math.ceil(math.log10(largest)))).tolist(),
        "confidence": [None if math.isnan(value) else round(value, 3) for value in face.confidence.tolist()],
        "changes": [round(change.time_s, 4) for change in face.changes],
    }


def _range(values: np.ndarray) -> list[float]:
    """Of the vertical axis: a usual scale if the values lie within it, else theirs and a little more."""
    values = values[np.isfinite(values)]
    low, high = float(values.min(initial=np.inf)), float(values.max(initial=-np.inf))
    for scale in ([0.0, 1.0], [-1.0, 1.0]):
        if scale[0] <= low and high <= scale[1]:
            return scale
    room = 0.05 * (high - low) or 0.5
    return [low - room, high + room]


def clock(time_s: float) -> str:
    """Seconds as a player shows them: 75.24 -> 1:15.2, with hours if there are any."""
    minutes, tenths = divmod(round(float(time_s) * 10), 600)
    hours, minutes = divmod(minutes, 60)
    return (f"{hours}:{minutes:02d}:" if hours else f"{minutes}:") + f"{tenths / 10:04.1f}"
