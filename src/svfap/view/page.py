"""Self-contained HTML pages: pictures, films and tables in a single file that needs no network."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from numbers import Integral, Real
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined
from matplotlib.figure import Figure

from svfap.errors import UserError
from svfap.files import write_atomically
from svfap.view.figures.base import figure_bytes

Table = pd.DataFrame | Sequence[Mapping[str, Any]]
MEDIA = {".png": "image/png", ".mp4": "video/mp4"}


@dataclass(frozen=True)
class Picture:
    """A figure, or the path of a `.png` or `.mp4`.

    alt: alternative text for readers who cannot see the picture; by default its caption. note: a remark below the picture.
    frames: the figure is made of video frames, so it is embedded as JPEG.
    """

    content: Figure | Path
    alt: str = ""
    note: str = ""
    frames: bool = False


@dataclass(frozen=True)
class Card:
    """A small JPEG, or None if there is no picture, above lines of text, the first one in bold."""

    jpeg: bytes | None
    alt: str
    lines: Sequence[str]


@dataclass
class Section:
    """One heading of a page and its content, in the order of the fields; every string is escaped.

    heading: also listed in the table of contents. text: blank lines separate paragraphs. notice: a highlighted warning.
    tables: caption -> DataFrame or list of dicts; numbers are aligned right, a table without rows is left out. figures:
    caption -> the picture or film to embed. cards: a grid of small pictures. details: caption -> preformatted text, collapsed
    until clicked. parts: subsections, one level deep.
    """

    heading: str
    text: str = ""
    notice: str = ""
    tables: Mapping[str, Table] = field(default_factory=dict)
    figures: Mapping[str, Figure | Path | Picture] = field(default_factory=dict)
    cards: Sequence[Card] = ()
    details: Mapping[str, str] = field(default_factory=dict)
    parts: Sequence[Section] = ()


def write_page(path: str | Path, title: str, sections: Sequence[Section], subtitle: str = "") -> None:
    """Write the sections as one HTML file with a table of contents, atomically.

    Raises `UserError` if a picture is missing or is neither PNG nor MP4, or `path` cannot be written.
    """
    views = [_view(section, f"section-{number}") for number, section in enumerate(sections, 1)]
    write_atomically(path, render("view/sections.html", title=title, subtitle=subtitle, sections=views).encode())


def render(template: str, **values: Any) -> str:
    """The page made by an HTML template of the package, named by its path, e.g. `predict/page.html`.

    Values are escaped. Inside a template, `file(path)` is the text of another file of the package.
    """
    options: dict[str, Any] = {"trim_blocks": True, "lstrip_blocks": True, "undefined": StrictUndefined}
    environment = Environment(loader=PackageLoader("svfap", ""), autoescape=True, **options)
    environment.globals["file"] = package_text
    environment.policies["json.dumps_kwargs"] = {"ensure_ascii": False, "allow_nan": False, "separators": (",", ":")}
    return environment.get_template(template).render(values)


def package_text(path: str) -> str:
    """The text of a style sheet or script of the package, e.g. `view/base.css`."""
    return files("svfap").joinpath(path).read_text(encoding="utf-8")


def _view(section: Section, name: str) -> dict[str, Any]:
    return {
        "id": name,
        "heading": section.heading,
        "paragraphs": [part.strip() for part in section.text.split("\n\n") if part.strip()],
        "notice": section.notice,
        "tables": [(caption, *_cells(table)) for caption, table in section.tables.items()],
        "figures": [_embed(caption, figure) for caption, figure in section.figures.items()],
        "cards": [(card, data_uri("image/jpeg", card.jpeg) if card.jpeg else "") for card in section.cards],
        "details": section.details,
        "parts": [_view(part, f"{name}-{number}") for number, part in enumerate(section.parts, 1)],
    }


def _cells(table: Table) -> tuple[list[str], list[list[tuple[str, bool]]]]:
    """Header and rows of a table as text; each cell is a pair of its text and whether it is a number."""
    frame = table if isinstance(table, pd.DataFrame) else pd.DataFrame(list(table), dtype=object)
    rows = [[_cell(value) for value in row] for row in frame.itertuples(index=False, name=None)]
    return [str(column) for column in frame.columns], rows


def _cell(value: Any) -> tuple[str, bool]:
    if pd.api.types.is_scalar(value) and pd.isna(value):
        return "–", True
    if isinstance(value, bool):
        return ("yes" if value else "no"), False
    if not isinstance(value, Real):
        return str(value), bool(re.fullmatch(r"[-+−]?[\d.,]+( ± [\d.,]+)?%?", str(value)))
    return format(value, "," if isinstance(value, Integral) else ",.0f" if abs(float(value)) >= 1000 else ".4g"), True


def _embed(caption: str, figure: Figure | Path | Picture) -> dict[str, Any]:
    """A picture or film as a data URI, with its display width in CSS pixels where known."""
    picture = figure if isinstance(figure, Picture) else Picture(figure)
    view = {"caption": caption, "alt": picture.alt or caption, "note": picture.note, "film": False, "width_px": None}
    if isinstance(picture.content, Figure):
        width_px = round(picture.content.get_figwidth() * 92)
        kind = "jpeg" if picture.frames else "png"
        return {**view, "uri": data_uri(f"image/{kind}", figure_bytes(picture.content, kind)), "width_px": width_px}
    path = Path(picture.content)
    if path.suffix.lower() not in MEDIA:
        raise UserError(f"{path}: only {' and '.join(MEDIA)} can be embedded")
    kind = MEDIA[path.suffix.lower()]
    try:
        return {**view, "uri": data_uri(kind, path.read_bytes()), "film": kind.startswith("video")}
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from None


def data_uri(kind: str, content: bytes) -> str:
    """Content of a media type as a `data:` URI."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
