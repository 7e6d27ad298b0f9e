"""Figures carry the right numbers; the page is one file, safe and whole."""

from __future__ import annotations

import base64
import html
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from svfap.data.video import open_video, write_video
from svfap.errors import UserError
from svfap.evaluate.metrics import (
    classification_metrics,
    frame_metrics,
    predictions_table,
    regression_metrics,
    write_metrics,
)
from svfap.report import figures as draw
from svfap.report.page import RUN_FILES, Section, run_report, write_page

NAMES = ["happy", "sad", "surprise"]
LABELS, PREDICTED = [0, 0, 0, 0, 1, 1, 2, 2], [0, 0, 0, 1, 1, 1, 2, 0]


@pytest.fixture(autouse=True)
def coarse(monkeypatch):
    """Fewer pixels, for speed."""
    monkeypatch.setattr(draw, "DPI", 50)


# Figures -------------------------------------------------------------------------------------------------------------


def legend_texts(figure: Figure) -> list[str]:
    legends = [axes.get_legend() for axes in figure.axes] + figure.legends
    return [text.get_text() for legend in legends if legend for text in legend.get_texts()]


def line(axes, label):
    return next(line for line in axes.get_lines() if line.get_label() == label).get_xydata()


def test_confusion_cells_hold_share_and_count():
    figure = draw.confusion_matrix([[3, 1, 0], [0, 2000, 0], [0, 0, 0]], NAMES, title="Scratch")
    axes = figure.axes[0]
    cells = {}
    for text in axes.texts:
        column, row = (round(place) for place in text.get_position())
        cells.setdefault((row, column), []).append(text.get_text())
    assert cells[0, 0] == ["75%", "3"] and cells[0, 1] == ["25%", "1"] and cells[1, 0] == ["0%", "0"]
    assert cells[1, 1] == ["100%", "2,000"]
    assert cells[2, 2] == ["", "0"]  # a class without samples has no share
    assert [t.get_text() for t in axes.get_yticklabels()] == NAMES == [t.get_text() for t in axes.get_xticklabels()]
    assert (axes.get_ylabel(), axes.get_xlabel()) == ("True", "Predicted")
    np.testing.assert_allclose(axes.images[0].get_array(), [[0.75, 0.25, 0], [0, 1, 0], [0, 0, 0]])
    assert figure.get_suptitle() == "Scratch"
    with pytest.raises(UserError, match="does not fit 3 label names"):
        draw.confusion_matrix([[1, 0], [0, 1]], NAMES)


def test_scatter_holds_points_scores_and_one_panel_a_dimension():
    rng = np.random.default_rng(0)
    truth = rng.normal(size=(30, 4))
    predicted = 0.5 * truth + rng.normal(size=(30, 4))
    figure = draw.regression_scatter(truth, predicted, list("wxyz"))
    shown = [axes for axes in figure.axes if axes.get_visible()]
    scores = regression_metrics(truth, predicted, list("wxyz"))["per_dimension"]
    assert len(shown) == 4
    for k, (axes, name) in enumerate(zip(shown, "wxyz", strict=True)):
        assert axes.get_title(loc="left") == name
        np.testing.assert_allclose(axes.collections[0].get_offsets(), np.stack([truth[:, k], predicted[:, k]], 1))
        assert f"CCC {scores[name]['ccc']:.3f}\nPCC {scores[name]['pcc']:.3f}" in axes.texts[0].get_text()
        (x0, x1), (y0, y1) = axes.get_lines()[0].get_data()
        assert (x0, x1) == (y0, y1) == axes.get_xlim() == axes.get_ylim()


RECORDS = [
    {"kind": "train", "epoch": 0, "step": 1, "loss": 9.0, "lr": 1e-3},
    {"kind": "train", "epoch": 0, "step": 2, "loss": 3.0, "lr": 2e-3},
    {"kind": "val", "epoch": 0, "step": 2, "uar": 0.5, "war": 0.25, "loss": 1.5},
    # Stopped and resumed: step 2 was done again, and the later record counts.
    {"kind": "train", "epoch": 0, "step": 2, "loss": 2.0, "lr": 2e-3},
    {"kind": "val", "epoch": 0, "step": 2, "uar": 0.6, "war": 0.25, "loss": 1.25},
    {"kind": "train", "epoch": 1, "step": 3, "loss": 1.0, "lr": 1e-3},
]


def test_loss_curves_hold_the_log():
    figure = draw.loss_curves(RECORDS)
    loss, validation, rate = figure.axes
    np.testing.assert_allclose(line(loss, "training loss"), [[0.5, 9], [1, 2], [1.5, 1]])
    np.testing.assert_allclose(line(loss, "validation loss"), [[1, 1.25]])
    np.testing.assert_allclose(line(validation, "UAR"), [[1, 60]])
    np.testing.assert_allclose(line(validation, "WAR"), [[1, 25]])
    np.testing.assert_allclose(rate.get_lines()[0].get_ydata(), [1e-3, 2e-3, 1e-3])
    assert legend_texts(figure) == ["training loss", "validation loss", "learning rate", "UAR", "WAR"]
    assert validation.get_ylabel() == "Validation, %"


def test_loss_curves_without_validation_have_one_panel_and_long_ones_are_smoothed():
    rng = np.random.default_rng(0)
    records = [{"kind": "train", "epoch": i // 50, "step": i, "loss": 5 + rng.normal()} for i in range(200)]
    figure = draw.loss_curves(records)
    assert len(figure.axes) == 1
    raw, smooth = (lines.get_ydata() for lines in figure.axes[0].get_lines())
    np.testing.assert_allclose(raw, [r["loss"] for r in records])
    np.testing.assert_allclose(smooth[100], raw[96:105].mean())
    with pytest.raises(UserError, match="nothing to draw"):
        draw.loss_curves([{"kind": "start"}])


def test_comparison_bars_have_the_heights_of_the_scores():
    results = {"scratch": {"uar": 0.4, "war": 0.5}, "pretrained": {"uar": 0.75}}
    figure = draw.comparison_bars(results, ("uar", "war"))
    axes = figure.axes[0]
    heights = [[bar.get_height() for bar in container] for container in axes.containers]
    assert heights == [[pytest.approx(40), pytest.approx(50)], [pytest.approx(75)]]
    assert [t.get_text() for t in axes.texts] == ["40.0", "50.0", "75.0"]
    assert legend_texts(figure) == ["scratch", "pretrained"]
    assert [t.get_text() for t in axes.get_xticklabels()] == ["UAR", "WAR"]
    centres = [[bar.get_x() + bar.get_width() / 2 for bar in container] for container in axes.containers]
    assert centres[0][0] < 0 < centres[1][0] and 0.5 < centres[0][1] < 1  # side by side at their own metric


WINDOWS = pd.DataFrame(
    {"start_s": [0.0, 2.0, 4.0], "end_s": [2.0, 4.0, 6.0], "prob_a": [0.9, 0.2, 0.1], "prob_b": [0.1, 0.8, 0.9]}
)


def test_timeline_stacks_probabilities_over_a_strip_of_the_top_label():
    figure = draw.timeline(WINDOWS.iloc[::-1], title="clip.mp4")
    axes, strip = figure.axes
    first, second = (area.get_paths()[0].vertices for area in axes.collections)
    for time, low in ((1, 0.9), (3, 0.2), (5, 0.1)):
        assert sorted(first[np.isclose(first[:, 0], time)][:, 1]) == pytest.approx([0, low])
        assert sorted(second[np.isclose(second[:, 0], time)][:, 1]) == pytest.approx([low, 1])
    assert axes.get_xlim() == strip.get_xlim() == (0, 6)
    assert legend_texts(figure) == ["b", "a"]  # as stacked, top first
    bars = [
        (to_hex(c.get_facecolor()[0]), [tuple(np.round(p.get_extents().intervalx, 6)) for p in c.get_paths()])
        for c in strip.collections
        if len(c.get_paths())
    ]
    assert bars == [(draw.PALETTE[0].lower(), [(0, 2)]), (draw.PALETTE[1].lower(), [(2, 4), (4, 6)])]
    assert figure.get_suptitle() == "clip.mp4"


def test_timeline_draws_dimensions_as_lines():
    table = pd.DataFrame({"start_s": [0.0, 1.0], "end_s": [1.0, 2.0], "valence": [-0.5, 0.5], "arousal": [0.1, 0.2]})
    figure = draw.timeline(table)
    assert len(figure.axes) == 1
    np.testing.assert_allclose(line(figure.axes[0], "valence"), [[0, -0.5], [0.5, -0.5], [1.5, 0.5], [2, 0.5]])
    assert legend_texts(figure) == ["valence", "arousal"]
    for bad, message in (
        (table.drop(columns="end_s"), "column end_s"),
        (table.iloc[:0], "no rows"),
        (table[["start_s", "end_s"]], "nothing to draw"),
    ):
        with pytest.raises(UserError, match=message):
            draw.timeline(bad)


def test_reconstruction_grid_shows_the_frames_it_says():
    clips = [np.full((16, 8, 8, 3), 0, np.uint8) + np.arange(16, dtype=np.uint8)[:, None, None, None] for _ in "123"]
    clips = [clip + np.uint8(50 * k) for k, clip in enumerate(clips)]
    figure = draw.reconstruction_grid(*clips, num_columns=4)
    shown = [int(axes.images[0].get_array()[0, 0, 0]) for axes in figure.axes]
    assert shown == [0, 5, 10, 15, 50, 55, 60, 65, 100, 105, 110, 115]
    assert [axes.get_title() for axes in figure.axes[:4]] == ["frame 1", "frame 6", "frame 11", "frame 16"]
    assert [axes.get_ylabel() for axes in figure.axes[::4]] == ["Original", "Masked", "Reconstructed"]
    with pytest.raises(UserError, match="Masked: shape"):
        draw.reconstruction_grid(clips[0], clips[1][:8], clips[2])
    with pytest.raises(UserError, match="uint8"):
        draw.reconstruction_grid(*(clip.astype(float) for clip in clips))


def test_clip_sheet_shows_the_middle_frames_under_their_titles():
    clips = [np.full((5, 4, 4, 3), 10 * k, np.uint8) for k in range(3)]
    clips[1][2] = 99
    figure = draw.clip_sheet(clips, ["a", "b", "c"], num_columns=2)
    shown = [axes for axes in figure.axes if axes.get_visible()]
    assert [(a.get_title(), int(a.images[0].get_array()[0, 0, 0])) for a in shown] == [("a", 0), ("b", 99), ("c", 20)]
    with pytest.raises(UserError, match="one title a clip"):
        draw.clip_sheet(clips, ["a"])


def test_figures_are_saved_by_suffix_and_the_same_each_time(tmp_path):
    def figure():
        return draw.comparison_bars({"run": {"uar": 0.5}}, ("uar",))

    draw.save_figure(figure(), tmp_path / "new" / "a.png")
    content = (tmp_path / "new" / "a.png").read_bytes()
    assert content == draw.png_bytes(figure())
    picture = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)
    assert picture.shape[1] == round(figure().get_figwidth() * draw.DPI) and picture.std() > 10
    draw.save_figure(figure(), tmp_path / "a.pdf")
    assert (tmp_path / "a.pdf").read_bytes().startswith(b"%PDF")
    with pytest.raises(UserError, match=r"\.png, \.pdf or \.svg"):
        draw.save_figure(figure(), tmp_path / "a.gif")


# The page ------------------------------------------------------------------------------------------------------------


class Outline(HTMLParser):
    """What a page holds: tags with attributes, and the text of headings, cells and captions."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, list[str]] = {}
        self._open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag in ("h1", "h2", "th", "td", "caption", "figcaption", "pre", "p", "summary", "title"):
            self._open.append(tag)
            self.texts.setdefault(tag, []).append("")

    def handle_data(self, data):
        if self._open:
            self.texts[self._open[-1]][-1] += data

    def handle_endtag(self, tag):
        if self._open and self._open[-1] == tag:
            self._open.pop()

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
            assert (attributes.get(name) or "#").startswith(("#", "data:image/png;base64,", "data:video/mp4;base64,"))


def test_strings_are_escaped_wherever_they_stand(tmp_path):
    evil = '<script>alert("1")</script>'
    image = tmp_path / "a.png"
    draw.save_figure(draw.comparison_bars({"r": {"uar": 1}}, ("uar",)), image)
    section = Section(
        evil, f"one {evil}\n\ntwo", evil, {evil: [{evil: evil, "n": 1}]}, {f'" onload="x{evil}': image}, {evil: evil}
    )
    write_page(tmp_path / "page.html", evil, [section], subtitle=evil)
    text, outline = read_page(tmp_path / "page.html")
    assert "<script" not in text.lower()
    assert_self_contained(text, outline)
    assert text.count(html.escape(evil, quote=False).split('"')[0]) >= 12
    assert outline.texts["h1"] == outline.texts["title"] == [evil]
    assert outline.texts["th"] == [evil, "n"] and outline.texts["td"] == [evil, "1"]
    assert outline.texts["pre"] == [evil]
    assert outline.texts["p"] == [evil, f"one {evil}", "two", evil]


def test_pictures_and_films_are_embedded_whole(tmp_path):
    film(tmp_path / "film.mp4")
    figure = draw.comparison_bars({"run": {"uar": 0.5}}, ("uar",))
    write_page(tmp_path / "page.html", "T", [Section("S", figures={"bars": figure, "film": tmp_path / "film.mp4"})])
    text, outline = read_page(tmp_path / "page.html")
    assert_self_contained(text, outline)
    (picture,), (video,) = outline.media("img"), outline.media("video")
    assert picture == draw.png_bytes(figure)
    assert cv2.imdecode(np.frombuffer(picture, np.uint8), cv2.IMREAD_COLOR) is not None
    (tmp_path / "again.mp4").write_bytes(video)
    with open_video(tmp_path / "again.mp4") as source:
        assert (source.num_frames, source.width, source.height) == (8, 32, 16)
        np.testing.assert_allclose(source.read(range(8)).mean(axis=(1, 2, 3)), 15 * np.arange(8), atol=3)


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


# Reports of runs -----------------------------------------------------------------------------------------------------


def fake_run(folder: Path, *, predicted=PREDICTED, num_expected: int = 8) -> Path:
    """A run of classification with all that the other verbs write."""
    for name in RUN_FILES.values():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
    probabilities = np.eye(3)[predicted] * 0.7 + 0.1
    (folder / "config.yaml").write_text("preset: svfap_tiny\nnote: <b>bold</b>\n")
    (folder / "log.jsonl").write_text("".join(json.dumps(record) + "\n" for record in RECORDS))
    facts = {"finished": True, "epochs": 2, "best_epoch": 1, "chosen_by": "validation uar", "parameters": 1234567}
    (folder / "metrics.json").write_text(json.dumps({**facts, "seconds": 61.5, "last_validation": {"uar": 0.111}}))
    metrics = classification_metrics(LABELS, probabilities, NAMES)
    write_metrics(
        folder / "evaluation/metrics.json",
        {"model": "m", **metrics, "num_expected": num_expected, "num_evaluated": 8},
    )
    table = predictions_table([f"{i}.mp4" for i in range(8)], probabilities, NAMES, LABELS)
    table.to_csv(folder / "evaluation/predictions.csv", index=False)
    WINDOWS.assign(video="a.mp4").to_csv(folder / "prediction/affect.csv", index=False)
    clip = np.random.default_rng(0).integers(0, 255, (16, 16, 16, 3), dtype=np.uint8)
    (folder / "reconstruction/reconstruction.png").write_bytes(cv2.imencode(".png", clip[0])[1].tobytes())
    film(folder / "reconstruction/reconstruction.mp4")
    return folder


def test_a_report_of_two_runs_shows_all_they_hold(tmp_path, monkeypatch):
    confusions, bars = [], []
    monkeypatch.setattr(
        draw, "confusion_matrix", lambda c, names, f=draw.confusion_matrix: confusions.append((c, names)) or f(c, names)
    )
    monkeypatch.setattr(draw, "comparison_bars", lambda r, m, f=draw.comparison_bars: bars.append(r) or f(r, m))
    good = fake_run(tmp_path / "pretrained")
    poor = fake_run(tmp_path / "scratch", predicted=[0, 1, 2, 0, 1, 2, 0, 1], num_expected=10)
    run_report([good, poor, good], tmp_path / "out" / "report.html", "Demo")
    text, outline = read_page(tmp_path / "out" / "report.html")
    assert_self_contained(text, outline)
    assert outline.texts["h1"] == ["Demo"]
    assert outline.texts["h2"] == ["Contents", "Overview", "pretrained", "scratch"]
    # Recalls of the good run by hand: 3/4, 1, 1/2; six of eight are right.
    rows = [outline.texts["td"][i : i + 6] for i in (0, 6)]
    assert rows[0][:3] == ["pretrained", "75.00", "75.00"] and rows[0][5] == "8"
    assert rows[1][0] == "scratch" and rows[1][5] == "8 of 10"
    assert outline.texts["th"][:6] == ["run", "UAR, %", "WAR, %", "Weighted F1, %", "Macro F1, %", "videos"]
    start = outline.texts["td"].index("happy")
    assert outline.texts["td"][start : start + 5] == ["happy", "75.00", "75.00", "75.00", "4"]
    assert [name for name in outline.texts["td"] if name in NAMES] == NAMES * 2
    assert confusions[0] == ([[3, 1, 0], [0, 2, 0], [1, 0, 1]], NAMES) and len(confusions) == 2
    assert [round(run["war"], 6) for run in bars[0].values()] == [0.75, 0.375] and len(bars) == 1
    for fact in ("1,234,567", "61.5", "validation uar"):
        assert fact in outline.texts["td"]
    assert any("Only 8 of 10 test videos" in p for p in outline.texts["p"])
    captions = [
        "Training: loss and validation over epochs",
        "Confusion matrix: rows are the truth",
        "Affect over time in one video",
        "Reconstruction of masked frames",
        "Reconstruction of masked frames, as a film",
    ]
    assert outline.texts["figcaption"] == ["Classification on the test set", *captions, *captions]
    assert outline.texts["pre"] == ["preset: svfap_tiny\nnote: <b>bold</b>\n"] * 2
    assert outline.media("img")[4] == (good / "reconstruction/reconstruction.png").read_bytes()
    assert outline.media("video")[0] == (good / "reconstruction/reconstruction.mp4").read_bytes()


def test_a_report_of_regression_shows_scores_per_clip_and_per_frame(tmp_path):
    folder = tmp_path / "affect"
    (folder / "evaluation").mkdir(parents=True)
    rng = np.random.default_rng(0)
    truth = rng.normal(size=(20, 2))
    predicted = truth + 0.1 * rng.normal(size=(20, 2))
    predicted[:, 1] = 0.25
    names = ["valence", "arousal"]
    metrics = regression_metrics(truth, predicted, names)
    frames = frame_metrics([truth[:9], truth[9:]], [predicted[:9] * 2, predicted[9:]], names)
    write_metrics(folder / "evaluation/metrics.json", {**metrics, "frames": frames})
    table = predictions_table([str(i) for i in range(20)], predicted, names, truth, "regression")
    table.to_csv(folder / "evaluation/predictions.csv", index=False)
    run_report([folder], tmp_path / "report.html")
    _, outline = read_page(tmp_path / "report.html")
    cells = outline.texts["td"]
    assert f"{metrics['ccc']:.4f}" == cells[outline.texts["th"].index("CCC")]
    for scores in (metrics, frames):
        for name in names:
            assert f"{scores['per_dimension'][name]['mae']:.4f}" in cells
    assert any("set to 0: arousal" in p for p in outline.texts["p"])
    assert outline.texts["figcaption"] == ["Predictions over targets"]


@pytest.mark.parametrize("left", sorted(RUN_FILES))
def test_a_run_with_one_piece_alone_shows_that_and_leaves_out_the_rest(tmp_path, left):
    folder = fake_run(tmp_path / "run")
    for name, file in RUN_FILES.items():
        if name != left:
            (folder / file).unlink()
    run_report([folder], tmp_path / "report.html")
    _, outline = read_page(tmp_path / "report.html")
    captions = outline.texts.get("figcaption", [])
    expected = {
        "log": ["Training: loss and validation over epochs"],
        "metrics": ["Confusion matrix: rows are the truth"],
        "timeline": ["Affect over time in one video"],
        "picture": ["Reconstruction of masked frames"],
        "film": ["Reconstruction of masked frames, as a film"],
    }
    assert captions == expected.get(left, [])
    assert ("pre" in outline.texts) == (left == "config")
    assert ("1,234,567" in outline.texts.get("td", [])) == (left == "training")
    assert ("75.00" in outline.texts.get("td", [])) == (left == "metrics")


def test_the_timeline_of_several_videos_is_that_of_the_first(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(draw, "timeline", lambda table, f=draw.timeline: drawn.append(table) or f(table))
    folder = tmp_path / "run"
    (folder / "prediction").mkdir(parents=True)
    table = pd.DataFrame({"start_s": [0.0, 1.0], "end_s": [1.0, 2.0], "valence": [0.5, 0.75]})
    both = pd.concat([table.assign(video=12), table.assign(video=13, valence=9.0)])  # folders of frames, by number
    both[["video", "start_s", "end_s", "valence"]].to_csv(folder / "prediction/affect.csv", index=False)
    run_report([folder], tmp_path / "report.html")
    pd.testing.assert_frame_equal(drawn[0], table)


def test_runs_of_one_name_are_told_apart_by_their_folder(tmp_path):
    runs = [tmp_path / parent / "run" for parent in ("a", "b")]
    for run in runs:
        run.mkdir(parents=True)
        (run / "config.yaml").write_text("seed: 0\n")
    run_report(runs, tmp_path / "report.html")
    _, outline = read_page(tmp_path / "report.html")
    assert outline.texts["h2"][2:] == [f"run ({run})" for run in runs]


def test_a_cut_last_line_of_the_log_is_left_out(tmp_path):
    folder = fake_run(tmp_path / "run")
    with (folder / "log.jsonl").open("a") as file:
        file.write('{"kind": "train", "epoch": 7, "st')
    run_report([folder], tmp_path / "report.html")
    _, outline = read_page(tmp_path / "report.html")
    cells = outline.texts["td"]
    assert cells[cells.index("epochs trained") + 1] == "2"
    assert cells[cells.index("last training loss") + 1] == "1"


@pytest.mark.parametrize(
    "file, content, message",
    [
        ("log.jsonl", '{"kind": "tr\n{"kind": "val", "epoch": 0}\n', "line 1 is not JSON"),
        ("log.jsonl", "17\n", "line 1 is not a JSON object"),
        ("metrics.json", "{", "cannot be read as JSON"),
        ("evaluation/metrics.json", "[1]", "must hold a JSON object"),
        ("evaluation/predictions.csv", "", "cannot be read as CSV"),
    ],
)
def test_a_damaged_file_is_named(tmp_path, file, content, message):
    folder = fake_run(tmp_path / "run")
    (folder / file).write_text(content)
    with pytest.raises(UserError, match=f"{re.escape(file)}: {message}"):
        run_report([folder], tmp_path / "report.html")
    assert not (tmp_path / "report.html").exists()


def test_no_run_missing_run_and_empty_folder(tmp_path):
    (tmp_path / "empty").mkdir()
    for runs, message in (
        ([], "name at least one"),
        ([tmp_path / "gone"], "gone: no such run folder"),
        ([tmp_path / "empty"], "empty: holds none of config.yaml"),
    ):
        with pytest.raises(UserError, match=message):
            run_report(runs, tmp_path / "report.html")
    assert not (tmp_path / "report.html").exists()
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        run_report([fake_run(tmp_path / "run")], tmp_path / "file" / "report.html")
