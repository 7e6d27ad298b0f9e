"""The page is one file, safe and whole."""

from __future__ import annotations

import html

import cv2
import numpy as np
import pandas as pd
import pytest
from pages import assert_self_contained, film, read_page

from svfap.data.video import open_video
from svfap.errors import UserError
from svfap.view.figures.base import STYLE, figure_bytes, save_figure
from svfap.view.figures.scores import comparison_bars
from svfap.view.page import Card, Picture, Section, write_page


@pytest.fixture(autouse=True)
def coarse(monkeypatch):
    """Fewer pixels, for speed."""
    monkeypatch.setitem(STYLE, "figure.dpi", 50)


def test_strings_are_escaped_wherever_they_stand(tmp_path):
    evil = '<script>alert("1")</script>'
    image = tmp_path / "a.png"
    save_figure(comparison_bars({"r": {"uar": 1}}, ("uar",)), image)
    part = Section(
        evil, figures={evil: Picture(image, evil, evil)}, cards=[Card(b"jpeg", evil, [evil]), Card(None, evil, [])]
    )
    section = Section(
        evil,
        f"one {evil}\n\ntwo",
        evil,
        tables={evil: [{evil: evil, "n": 1}]},
        figures={f'" onload="x{evil}': image},
        details={evil: evil},
        parts=[part],
    )
    write_page(tmp_path / "page.html", evil, [section], subtitle=evil)
    text, outline = read_page(tmp_path / "page.html")
    assert "<script" not in text.lower()
    assert_self_contained(text, outline)
    assert text.count(html.escape(evil, quote=False).split('"')[0]) >= 20
    assert outline.texts["h1"] == outline.texts["title"] == outline.texts["h3"] == [evil]
    assert outline.texts["th"] == [evil, "n"] and outline.texts["td"] == [evil, "1"]
    assert outline.texts["pre"] == [evil]
    assert outline.texts["p"] == [evil, f"one {evil}", "two", evil, evil, evil]
    assert [a["alt"] for t, a in outline.tags if t == "img"] == [f'" onload="x{evil}', evil, evil]
    assert outline.kind("image/jpeg") == [b"jpeg"]
    assert [a["aria-label"] for t, a in outline.tags if a.get("class") == "missing"] == [evil]


def test_parts_stand_below_their_section_in_the_contents_too(tmp_path):
    sections = [Section("A", parts=[Section("A1", "x"), Section("A2")]), Section("B")]
    write_page(tmp_path / "page.html", "T", sections)
    _, outline = read_page(tmp_path / "page.html")
    assert (outline.texts["h2"], outline.texts["h3"]) == (["Contents", "A", "B"], ["A1", "A2"])
    links = [a["href"].removeprefix("#") for t, a in outline.tags if t == "a"]
    assert links == ["section-1", "section-1-1", "section-1-2", "section-2"]
    assert sorted(a["id"] for _, a in outline.tags if "id" in a) == sorted(links)


def test_pictures_and_films_are_embedded_whole(tmp_path):
    film(tmp_path / "film.mp4")
    figure = comparison_bars({"run": {"uar": 0.5}}, ("uar",))
    write_page(tmp_path / "page.html", "T", [Section("S", figures={"bars": figure, "film": tmp_path / "film.mp4"})])
    text, outline = read_page(tmp_path / "page.html")
    assert_self_contained(text, outline)
    (picture,), (video,) = outline.media("img"), outline.media("video")
    assert picture == figure_bytes(figure, "png")
    assert cv2.imdecode(np.frombuffer(picture, np.uint8), cv2.IMREAD_COLOR) is not None
    (tmp_path / "again.mp4").write_bytes(video)
    with open_video(tmp_path / "again.mp4") as source:
        assert (source.num_frames, source.width, source.height) == (8, 32, 16)
        levels = source.read(range(8)).mean(axis=(1, 2, 3))
        np.testing.assert_allclose(levels, 15 * np.arange(8), atol=7)  # nearer to its own than to another's


def test_a_picture_that_cannot_be_embedded_is_named(tmp_path):
    for name, message in (("gone.png", "gone.png: cannot be read"), ("a.gif", "only .png and .mp4")):
        with pytest.raises(UserError, match=message):
            write_page(tmp_path / "page.html", "T", [Section("S", figures={"x": tmp_path / name})])
    assert not (tmp_path / "page.html").exists()


def test_cells_are_written_for_readers(tmp_path):
    row = {
        "none": None,
        "nan": float("nan"),
        "big": 12345,
        "long": 98765.4,
        "small": 0.000123456,
        "yes": True,
        "t": "x",
    }
    write_page(tmp_path / "page.html", "T", [Section("S", tables={"cap": pd.DataFrame([row]), "empty": []})])
    _, outline = read_page(tmp_path / "page.html")
    assert outline.texts["td"] == ["–", "–", "12,345", "98,765", "0.0001235", "yes", "x"]
    assert outline.texts["caption"] == ["cap"]  # a table without rows is left out
