"""Figures carry the right numbers."""

from __future__ import annotations

import cv2
import matplotlib
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from pages import NAMES, RECORDS, WINDOWS

from svfap.errors import UserError
from svfap.evaluation.metrics import regression_metrics
from svfap.predict.figure import timeline
from svfap.view.figures.base import PALETTE, STYLE, figure_bytes, save_figure
from svfap.view.figures.clips import reconstruction_grid
from svfap.view.figures.curves import fold_curves, loss_curves
from svfap.view.figures.scores import class_bars, comparison_bars, confusion_matrix, regression_scatter


@pytest.fixture(autouse=True)
def coarse(monkeypatch):
    """Fewer pixels, for speed."""
    monkeypatch.setitem(STYLE, "figure.dpi", 50)


def legend_texts(figure: Figure) -> list[str]:
    legends = [axes.get_legend() for axes in figure.axes] + figure.legends
    return [text.get_text() for legend in legends if legend for text in legend.get_texts()]


def line(axes, label):
    return next(line for line in axes.get_lines() if line.get_label() == label).get_xydata()


def test_confusion_cells_hold_share_and_count():
    figure = confusion_matrix([[3, 1, 0], [0, 2000, 0], [0, 0, 0]], NAMES, title="Scratch")
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
        confusion_matrix([[1, 0], [0, 1]], NAMES)


def test_scatter_holds_points_scores_and_one_panel_a_dimension():
    rng = np.random.default_rng(0)
    truth = rng.normal(size=(30, 4))
    predicted = 0.5 * truth + rng.normal(size=(30, 4))
    scores = regression_metrics(truth, predicted, list("wxyz"))["per_dimension"]
    figure = regression_scatter(truth, predicted, scores)
    shown = [axes for axes in figure.axes if axes.get_visible()]
    assert len(shown) == 4
    for k, (axes, name) in enumerate(zip(shown, "wxyz", strict=True)):
        assert axes.get_title(loc="left") == name
        np.testing.assert_allclose(axes.collections[0].get_offsets(), np.stack([truth[:, k], predicted[:, k]], 1))
        assert f"CCC {scores[name]['ccc']:.3f}\nPCC {scores[name]['pcc']:.3f}" in axes.texts[0].get_text()
        (x0, x1), (y0, y1) = axes.get_lines()[0].get_data()
        assert (x0, x1) == (y0, y1) == axes.get_xlim() == axes.get_ylim()


@pytest.mark.parametrize("first_epoch", [0, 1])  # logs of version 0.2 count epochs from 0
def test_loss_curves_hold_the_log(first_epoch):
    figure = loss_curves([{**record, "epoch": record["epoch"] + first_epoch} for record in RECORDS])
    loss, validation, rate = figure.axes
    np.testing.assert_allclose(line(loss, "training"), [[0.5, 9], [1, 2], [1.5, 1]])
    np.testing.assert_allclose(line(loss, "validation"), [[1, 1.25]])
    np.testing.assert_allclose(line(validation, "UAR"), [[1, 60]])
    np.testing.assert_allclose(line(validation, "WAR"), [[1, 25]])
    np.testing.assert_allclose(rate.get_lines()[0].get_ydata(), [1e-3, 2e-3, 1e-3])
    assert legend_texts(figure) == ["training", "validation", "learning rate", "UAR", "WAR"]
    assert validation.get_ylabel() == "Validation, %"


def test_loss_curves_without_validation_have_one_panel_and_long_ones_are_smoothed():
    rng = np.random.default_rng(0)
    records = [{"kind": "train", "epoch": i // 50, "step": i, "loss": 5 + rng.normal()} for i in range(200)]
    figure = loss_curves(records)
    assert len(figure.axes) == 1
    raw, smooth = (lines.get_ydata() for lines in figure.axes[0].get_lines())
    np.testing.assert_allclose(raw, [r["loss"] for r in records])
    np.testing.assert_allclose(smooth[100], raw[96:105].mean())
    with pytest.raises(UserError, match="nothing to draw"):
        loss_curves([{"kind": "start"}])


def test_comparison_bars_have_the_heights_of_the_scores():
    results = {"scratch": {"uar": 0.4, "war": 0.5}, "pretrained": {"uar": 0.75}}
    figure = comparison_bars(results, ("uar", "war"))
    axes = figure.axes[0]
    heights = [[bar.get_height() for bar in container] for container in axes.containers]
    assert heights == [[pytest.approx(40), pytest.approx(50)], [pytest.approx(75)]]
    assert [t.get_text() for t in axes.texts] == ["40.0", "50.0", "75.0"]
    assert legend_texts(figure) == ["scratch", "pretrained"]
    assert [t.get_text() for t in axes.get_xticklabels()] == ["UAR", "WAR"]
    centres = [[bar.get_x() + bar.get_width() / 2 for bar in container] for container in axes.containers]
    assert centres[0][0] < 0 < centres[1][0] and 0.5 < centres[0][1] < 1  # side by side at their own metric


def test_timeline_stacks_probabilities_over_a_strip_of_the_top_label():
    figure = timeline(WINDOWS.iloc[::-1], title="clip.mp4")
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
    assert bars == [(PALETTE[0].lower(), [(0, 2)]), (PALETTE[1].lower(), [(2, 4), (4, 6)])]
    assert figure.get_suptitle() == "clip.mp4"


def test_timeline_draws_dimensions_as_lines():
    table = pd.DataFrame({"start_s": [0.0, 1.0], "end_s": [1.0, 2.0], "valence": [-0.5, 0.5], "arousal": [0.1, 0.2]})
    figure = timeline(table)
    assert len(figure.axes) == 1
    np.testing.assert_allclose(line(figure.axes[0], "valence"), [[0, -0.5], [0.5, -0.5], [1.5, 0.5], [2, 0.5]])
    assert legend_texts(figure) == ["valence", "arousal"]
    for bad, message in (
        (table.drop(columns="end_s"), "column end_s"),
        (table.iloc[:0], "no rows"),
        (table[["start_s", "end_s"]], "nothing to draw"),
    ):
        with pytest.raises(UserError, match=message):
            timeline(bad)


def test_reconstruction_grid_shows_the_frames_it_says():
    clips = [np.full((16, 8, 8, 3), 0, np.uint8) + np.arange(16, dtype=np.uint8)[:, None, None, None] for _ in "123"]
    clips = [clip + np.uint8(50 * k) for k, clip in enumerate(clips)]
    figure = reconstruction_grid(*clips, num_columns=4)
    shown = [int(axes.images[0].get_array()[0, 0, 0]) for axes in figure.axes]
    assert shown == [0, 5, 10, 15, 50, 55, 60, 65, 100, 105, 110, 115]
    assert [axes.get_title() for axes in figure.axes[:4]] == ["frame 1", "frame 6", "frame 11", "frame 16"]
    assert [axes.get_ylabel() for axes in figure.axes[::4]] == ["Original", "Masked", "Reconstructed"]
    with pytest.raises(UserError, match="Masked: shape"):
        reconstruction_grid(clips[0], clips[1][:8], clips[2])
    with pytest.raises(UserError, match="uint8"):
        reconstruction_grid(*(clip.astype(float) for clip in clips))


def test_figures_are_saved_by_suffix_and_the_same_each_time(tmp_path):
    def figure():
        return comparison_bars({"run": {"uar": 0.5}}, ("uar",))

    save_figure(figure(), tmp_path / "new" / "a.png")
    content = (tmp_path / "new" / "a.png").read_bytes()
    assert content == figure_bytes(figure(), "png")
    picture = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)
    assert picture.shape[1] == round(figure().get_figwidth() * STYLE["figure.dpi"]) and picture.std() > 10
    save_figure(figure(), tmp_path / "a.pdf")
    assert (tmp_path / "a.pdf").read_bytes().startswith(b"%PDF")
    with pytest.raises(UserError, match=r"\.png, \.pdf or \.svg"):
        save_figure(figure(), tmp_path / "a.gif")


def test_names_are_no_formulas_and_none_is_left_out_of_a_legend():
    for names in (["$\\frac$", "_hidden"], ["a$b", "c$d"]):
        figure = comparison_bars({name: {"uar": 0.5} for name in names}, ("uar",))
        assert [text.strip() for text in legend_texts(figure)] == names
        confusion = confusion_matrix([[1, 0], [0, 1]], names)
        for one in (figure, confusion):
            assert figure_bytes(one, "png").startswith(b"\x89PNG")


def test_class_bars_hold_recalls_folds_and_their_mean():
    recalls, counts = {"a": 0.5, "b": 1.0, "c": 0.0}, {"a": 4, "b": 2, "c": 0}
    figure = class_bars(recalls, counts, {"1": {"a": 0.25}, "2": {"a": 0.75, "b": 1.0}})
    axes = figure.axes[0]
    assert [bar.get_height() for bar in axes.containers[0]] == [50, 100]  # nothing for a class without videos
    dots = [point.tolist() for group in axes.collections for point in group.get_offsets()]
    assert dots == [[0, 25], [0, 75], [1, 100]]
    assert [t.get_text() for t in axes.get_xticklabels()] == ["a (4)", "b (2)", "c (0)"]
    assert line(axes, "UAR 75.0")[:, 1].tolist() == [75, 75]
    assert legend_texts(figure) == ["one fold", "UAR 75.0"]


def test_fold_curves_hold_every_log_in_its_colour():
    other = [{"kind": "train", "epoch": 0, "step": 1, "loss": 4.0}, {"kind": "val", "epoch": 0, "uar": 0.5}]
    figure = fold_curves({"1": RECORDS, "2": other})
    loss, validation = figure.axes
    np.testing.assert_allclose(line(loss, "1"), [[0.5, 9], [1, 2], [1.5, 1]])
    np.testing.assert_allclose(line(loss, "2"), [[1, 4]])
    np.testing.assert_allclose(line(validation, "1"), [[1, 60]])
    np.testing.assert_allclose(line(validation, "2"), [[1, 50]])
    assert validation.get_ylabel() == "Validation UAR, %"
    assert sorted(legend_texts(figure)) == ["1", "2"]
    with pytest.raises(UserError, match="nothing to draw"):
        fold_curves({"1": [{"kind": "start"}]})


def test_the_style_holds_when_a_figure_is_made_and_drawn_and_nowhere_else():
    def figure():
        return comparison_bars({"run": {"uar": 0.5}}, ("uar",), title="T")

    before = dict(matplotlib.rcParams)
    expected = figure_bytes(figure(), "png")
    assert dict(matplotlib.rcParams) == before
    ours = {"ytick.labelsize": 30, "axes.spines.top": True, "savefig.dpi": 20, "text.color": "red", "axes.grid": False}
    with matplotlib.rc_context(ours):
        made = figure()
        assert figure_bytes(made, "png") == expected
    assert figure_bytes(made, "png") == expected
