"""A table of predictions for other programs: tiers for ELAN (EAF 3.0) and captions (WebVTT), for one video each."""

from __future__ import annotations

import html
import mimetypes
import os
import re
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

import numpy as np
import pandas as pd

import svfap
from svfap.errors import UserError
from svfap.predict.source import is_live
from svfap.predict.table import PERSON, by_face, label_columns, tables_of_heads, value_columns, value_name
from svfap.predict.timeline import Timeline

SCHEMA = "http://www.mpi.nl/tools/elan/EAFv3.0.xsd"
TIER_TYPE = "default-lt"
CUE_S = 0.5  # least time that a caption of values is shown


class Span(NamedTuple):
    """A time with a text, in whole milliseconds; it lasts at least one."""

    start_ms: int
    end_ms: int
    text: str


def eaf(rows: pd.DataFrame, video: str, out: Path) -> str:
    """The text of an .eaf file about one video: for each face a tier of labels, where there are any, and one of all values.

    The video is linked by its absolute address and by the one relative to `out`.
    """
    document = ElementTree.Element("ANNOTATION_DOCUMENT")
    document.attrib |= {
        "AUTHOR": f"SVFAP {svfap.__version__}",
        "DATE": datetime.now(UTC).isoformat(timespec="seconds"),
        "FORMAT": "3.0",
        "VERSION": "3.0",
        "xmlns:xsi": "http://www.w3.org/2001/XMLSchema-instance",
        "xsi:noNamespaceSchemaLocation": SCHEMA,
    }
    header = ElementTree.SubElement(document, "HEADER", MEDIA_FILE="", TIME_UNITS="milliseconds")
    if not is_live(video):
        kind = mimetypes.guess_type(video)[0] or "video/mp4"
        path = Path(video).absolute()
        relative = Path(os.path.relpath(path, out.absolute().parent))
        media = ElementTree.SubElement(header, "MEDIA_DESCRIPTOR", MEDIA_URL=path.as_uri(), MIME_TYPE=kind)
        media.set("RELATIVE_MEDIA_URL", f"./{relative.as_posix()}")
    tiers = list(_tiers(rows))
    spans = [span for _, _, tier in tiers for span in tier]
    ElementTree.SubElement(header, "PROPERTY", NAME="lastUsedAnnotationId").text = str(len(spans))
    order = ElementTree.SubElement(document, "TIME_ORDER")
    times = sorted({ms for span in spans for ms in span[:2]})
    slots = {ms: f"ts{number}" for number, ms in enumerate(times, 1)}
    for ms, slot in slots.items():
        ElementTree.SubElement(order, "TIME_SLOT", TIME_SLOT_ID=slot, TIME_VALUE=str(ms))
    number = 0
    for name, person, tier in tiers:
        names = {"TIER_ID": _plain(name), "LINGUISTIC_TYPE_REF": TIER_TYPE}
        element = ElementTree.SubElement(document, "TIER", names | ({"PARTICIPANT": _plain(person)} if person else {}))
        for span in tier:
            number += 1
            place = ElementTree.SubElement(
                ElementTree.SubElement(element, "ANNOTATION"),
                "ALIGNABLE_ANNOTATION",
                ANNOTATION_ID=f"a{number}",
                TIME_SLOT_REF1=slots[span.start_ms],
                TIME_SLOT_REF2=slots[span.end_ms],
            )
            ElementTree.SubElement(place, "ANNOTATION_VALUE").text = _plain(span.text)
    ElementTree.SubElement(
        document, "LINGUISTIC_TYPE", LINGUISTIC_TYPE_ID=TIER_TYPE, TIME_ALIGNABLE="true", GRAPHIC_REFERENCES="false"
    )
    ElementTree.indent(document)
    text = ElementTree.tostring(document, encoding="unicode")
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{text}\n'


def vtt(rows: pd.DataFrame, video: str, out: Path) -> str:
    """The text of a .vtt file about one video: for each face its label while it lasts, else its mean values of half a second."""
    cues = []
    for head, table in tables_of_heads(rows).items():
        columns = value_columns(table)
        for name, face in by_face(table):
            labelled = bool(label_columns(columns))
            who = ", ".join(filter(None, [name, head]))
            spans = _labels(face, columns) if labelled else _values(face, columns, CUE_S)
            cues += [Span(span.start_ms, span.end_ms, f"{who}: {span.text}") for span in spans]
    parts = [
        f"{_clock(cue.start_ms)} --> {_clock(cue.end_ms)}\n{html.escape(' '.join(cue.text.split()), quote=False)}\n"
        for cue in sorted(cues)
    ]
    return "\n".join(["WEBVTT\n", *parts])


def lasting(table: pd.DataFrame, videos: Iterable[str]) -> list[str]:
    """Of these videos those that take time, which single pictures do not. Raises `UserError` if there are none."""
    longest = (table["end_s"] - table["start_s"]).groupby(table["video"]).max()
    videos = list(videos)
    found = [video for video in videos if longest.get(video, 1.0) > 0]
    if videos and not found:
        raise UserError(f"{videos[0]}: is a single picture; tiers and captions show times, so they need a video")
    return found


ANNOTATIONS: dict[str, Callable[[pd.DataFrame, str, Path], str]] = {".eaf": eaf, ".vtt": vtt}


def _tiers(rows: pd.DataFrame) -> Iterator[tuple[str, str, list[Span]]]:
    """(name, person or "", spans that do not overlap) of each tier."""
    for head, table in tables_of_heads(rows).items():
        columns = value_columns(table)
        for name, face in by_face(table):
            person = str(face[PERSON].iloc[0]) if PERSON in face else ""
            start = ", ".join(filter(None, [name, head]))
            if label_columns(columns):
                yield f"{start}: label", person, _labels(face, columns)
            yield f"{start}: values", person, _values(face, columns)


def _labels(rows: pd.DataFrame, columns: list[str]) -> list[Span]:
    """Each time without a gap in which the most probable label stays the same."""
    line = Timeline.of_table(rows, columns)
    top = line.values.argmax(axis=1)
    begins = np.zeros(len(top), bool)
    begins[line.firsts] = True
    begins[1:] |= top[1:] != top[:-1]
    firsts = np.flatnonzero(begins)
    lasts = np.append(firsts[1:], len(top)) - 1
    ends = zip(firsts, lasts, strict=True)
    return [_span(line.edges[a, 0], line.edges[b, 1], value_name(columns[top[a]])) for a, b in ends]


def _values(rows: pd.DataFrame, columns: list[str], least_s: float = 0.0) -> list[Span]:
    """The values of each row, or their means over rows that together last for `least_s`."""
    line = Timeline.of_table(rows, columns)
    spans = []
    for piece in line.pieces:
        edges, first = line.edges[piece], 0
        for row in range(len(edges)):
            if row + 1 < len(edges) and edges[row, 1] - edges[first, 0] < least_s - 1e-6:
                continue
            mean = line.values[piece][first : row + 1].mean(axis=0)
            named = zip(columns, mean, strict=True)
            text = ", ".join(f"{value_name(column)} {round(value, 2) + 0.0:.2f}" for column, value in named)
            spans.append(_span(edges[first, 0], edges[row, 1], text))
            first = row + 1
    return spans


def _span(start_s: float, end_s: float, text: str) -> Span:
    start_ms = round(1000 * start_s)
    return Span(start_ms, max(round(1000 * end_s), start_ms + 1), text)


def _plain(text: str) -> str:
    """The text without characters that XML cannot hold."""
    return re.sub(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]", "\ufffd", text)


def _clock(ms: int) -> str:
    seconds, ms = divmod(ms, 1000)
    return f"{seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}.{ms:03d}"
