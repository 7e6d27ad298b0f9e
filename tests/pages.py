"""Helpers for tests of pages and figures: small records of a run, and a parser of HTML pages."""

from __future__ import annotations

import base64
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd

from svfap.data.video import write_video

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
NAMES = ["happy", "sad", "surprise"]
ALLOWED = ("#", *(f"data:{kind};base64," for kind in ("image/png", "image/jpeg", "video/mp4")))
LABELS, PREDICTED = [0, 0, 0, 0, 1, 1, 2, 2], [0, 0, 0, 1, 1, 1, 2, 0]
RECORDS = [
    {"kind": "train", "epoch": 0, "step": 1, "loss": 9.0, "lr": 1e-3},
    {"kind": "train", "epoch": 0, "step": 2, "loss": 3.0, "lr": 2e-3},
    {"kind": "val", "epoch": 0, "step": 2, "uar": 0.5, "war": 0.25, "loss": 1.5},
    # Stopped and resumed: step 2 was repeated, and the later record counts.
    {"kind": "train", "epoch": 0, "step": 2, "loss": 2.0, "lr": 2e-3},
    {"kind": "val", "epoch": 0, "step": 2, "uar": 0.6, "war": 0.25, "loss": 1.25},
    {"kind": "train", "epoch": 1, "step": 3, "loss": 1.0, "lr": 1e-3},
]

WINDOWS = pd.DataFrame(
    {"start_s": [0.0, 2.0, 4.0], "end_s": [2.0, 4.0, 6.0], "prob_a": [0.9, 0.2, 0.1], "prob_b": [0.1, 0.8, 0.9]}
)


class Outline(HTMLParser):
    """Contents of a page: tags with attributes, and the text of headings, cells and captions."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, list[str]] = {}
        self.rows: list[list[str]] = []
        self._open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag == "tr":
            self.rows.append([])
        if tag == "td":
            self.rows[-1].append("")
        if tag in ("h1", "h2", "h3", "th", "td", "caption", "figcaption", "pre", "p", "summary", "title"):
            self._open.append(tag)
            self.texts.setdefault(tag, []).append("")

    def handle_data(self, data):
        if self._open:
            self.texts[self._open[-1]][-1] += data
            if self._open[-1] == "td":
                self.rows[-1][-1] += data

    def handle_endtag(self, tag):
        if self._open and self._open[-1] == tag:
            self._open.pop()

    def kind(self, kind):
        """Contents of all images of a media type."""
        sources = [a["src"] for t, a in self.tags if t == "img" and a["src"].startswith(f"data:{kind};")]
        return [base64.b64decode(source.split("base64,")[1], validate=True) for source in sources]

    def row(self, first):
        """The cells of the first table row whose first cell is this text."""
        return next(row for row in self.rows if row[:1] == [first])

    def media(self, tag):
        return [base64.b64decode(a["src"].split("base64,")[1], validate=True) for t, a in self.tags if t == tag]


def read_page(path: Path) -> tuple[str, Outline]:
    text = path.read_text(encoding="utf-8")
    return text, Outline(text)


def film(path: Path) -> None:
    write_video(path, [np.full((16, 32, 3), 15 * i, np.uint8) for i in range(8)], 8)


def assert_self_contained(text: str, outline: Outline) -> None:
    assert "http://" not in text and "https://" not in text and "@import" not in text and "url(" not in text
    for tag, attributes in outline.tags:
        assert tag not in ("script", "link", "iframe", "object", "base")
        assert all(not name.startswith("on") for name in attributes)
        for name in ("src", "href", "srcset", "poster"):
            assert (attributes.get(name) or "#").startswith(ALLOWED)
