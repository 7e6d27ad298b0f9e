"""The page of affect over time shows the pictures and numbers of its table, escaped and without network access."""

from __future__ import annotations

import base64
import json

import cv2
import numpy as np
import pandas as pd
import pytest
from matplotlib.text import Text
from pages import Outline

from svfap.data.video import write_video
from svfap.errors import UserError
from svfap.predict import page as affect_page
from svfap.predict.figure import MAX_TRACKS
from svfap.predict.figure import timeline as draw_timeline
from svfap.predict.page import clock, write_affect_page
from svfap.predict.timeline import Timeline, shares, spread, strongest_changes

EVIL = "</script><script>alert(1)</script><img src=x onerror=alert(2)>"


def windows(starts, values, names=("prob_a", "prob_b"), length=2.0, **more) -> pd.DataFrame:
    starts = np.asarray(starts, float)
    first = {"video": "v", **more, "start_s": starts, "end_s": starts + length}
    return pd.DataFrame(first | dict(zip(names, np.asarray(values, float).T, strict=True)))


def page(path, table, videos=None):
    """The file's text, its outline, and the data embedded in it."""
    write_affect_page(path, table, videos or {})
    text = path.read_text(encoding="utf-8")
    data = text.split('<script type="application/json" id="affect-data">')[1].split("</script>")[0]
    return text, Outline(text), json.loads(data)


def timeline(starts, ends, values) -> Timeline:
    table = pd.DataFrame(values).assign(start_s=starts, end_s=ends)
    return Timeline.of_table(table, table.columns[:-2])


def pictures(outline, alt):
    """Decoded pictures, RGB, by the beginning of their description."""
    uris = [a["src"] for t, a in outline.tags if t == "img" and a["alt"].startswith(alt)]
    jpegs = [base64.b64decode(uri.removeprefix("data:image/jpeg;base64,"), validate=True) for uri in uris]
    return [cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)[..., ::-1] for jpeg in jpegs]


def test_embedded_numbers_equal_the_table(tmp_path):
    values = np.random.default_rng(0).dirichlet(np.ones(2), 6)
    one = windows([0, 2, 4], values[:3], track=1)
    two = windows([1, 3, 9], values[3:], track=7.0)  # as pandas reads a column that has holes elsewhere
    table = pd.concat([two, one]).sample(frac=1, random_state=1)
    table["confidence"] = [0.5, np.nan, 0.75, 0.5, 0.5, 0.5]
    _, outline, data = page(tmp_path / "p.html", table)
    assert data["names"] == ["a", "b"] and data["probabilities"] is True
    faces = {face["heading"]: face for face in data["videos"][0]["faces"]}
    assert set(faces) == {"Face 1", "Face 7"} == set(outline.texts["h3"])
    for heading, track in (("Face 1", 1), ("Face 7", 7)):
        rows = table[table["track"] == track].sort_values("start_s")
        face = faces[heading]
        assert face["start"] == rows["start_s"].tolist() and face["end"] == rows["end_s"].tolist()
        np.testing.assert_allclose(np.array(face["values"]).T, rows[["prob_a", "prob_b"]], atol=6e-6)
        assert face["confidence"] == [None if np.isnan(c) else c for c in rows["confidence"]]
    assert faces["Face 1"]["firsts"] == [0] and faces["Face 7"]["firsts"] == [0, 2]


def test_shares_sum_to_one_and_are_weighted_by_duration(tmp_path):
    line = timeline([0, 1, 10], [1, 4, 16], [[0.9, 0.1, 0], [0.2, 0.8, 0], [0.6, 0.4, 0]])
    table = shares(line, ["a", "b", "c"])
    assert table["share"].tolist() == pytest.approx([7 / 10, 3 / 10, 0]) and table["share"].sum() == pytest.approx(1)
    assert table["time_s"].tolist() == pytest.approx([7, 3, 0])
    assert table["mean"].tolist() == pytest.approx([(0.9 + 0.6 + 3.6) / 10, (0.1 + 2.4 + 2.4) / 10, 0])
    rows = windows([0, 1, 10], [[0.9, 0.1], [0.2, 0.8], [0.6, 0.4]]).assign(end_s=[1, 4, 16])
    _, outline, _ = page(tmp_path / "p.html", rows)
    assert outline.row("a") == ["a", "70.0%", "7.0", "0.510"] and outline.row("b") == ["b", "30.0%", "3.0", "0.490"]


def test_overlapping_windows_share_their_overlap_and_instants_count_alike():
    line = timeline([0, 1, 2], [4, 5, 6], [[1, 0], [0, 1], [1, 0]])
    assert line.edges.tolist() == [[0, 2.5], [2.5, 3.5], [3.5, 6]] and line.firsts.tolist() == [0]
    assert shares(line, ["a", "b"])["share"].tolist() == pytest.approx([5 / 6, 1 / 6])
    instants = timeline([0, 5, 9], [0, 5, 9], [[1, 0], [0, 1], [1, 0]])
    assert instants.firsts.tolist() == [0, 1, 2] and instants.covered_s == 0
    assert shares(instants, ["a", "b"])["share"].tolist() == pytest.approx([2 / 3, 1 / 3])
    assert [line.row_at(t) for t in (0, 2.6, 6, 6.1)] == [0, 1, 2, None]


def test_dimensions_are_summed_up_over_time(tmp_path):
    line = timeline([0, 1], [1, 4], [[-1.0], [1.0]])
    assert spread(line, ["valence"]).iloc[0, 1:].tolist() == pytest.approx([0.5, np.sqrt(0.75), -1, 1])
    rows = windows([0, 2], [[-0.5, 3], [0.5, 3]], ("valence", "arousal"))
    _, outline, data = page(tmp_path / "p.html", rows.assign(confidence=0.9, note="words"))
    assert outline.row("valence") == ["valence", "0.000", "0.500", "-0.500", "0.500"]
    assert data["names"] == ["valence", "arousal"] and data["probabilities"] is False
    assert data["range"][0] < -0.5 and data["range"][1] > 3
    assert any(text.startswith("A value is the model's estimate") for text in outline.texts["p"])
    assert not any(text.startswith("A probability is") for text in outline.texts["p"])


def test_the_strongest_changes_are_found_and_never_across_a_gap():
    values = [[0.9, 0.1, 0], [0.7, 0.3, 0], [0.1, 0.2, 0.7], [0.1, 0.3, 0.6], [1, 0, 0], [0.6, 0.4, 0]]
    line = timeline([0, 2, 4, 6, 20, 22], [2, 4, 6, 8, 22, 24], values)
    found = strongest_changes(line, 5, True)
    assert [change.time_s for change in found] == [4, 22, 2, 6]
    assert [change.distance for change in found] == pytest.approx([0.7, 0.4, 0.2, 0.1])
    assert (found[0].before_s, found[0].after_s) == (3, 5)
    np.testing.assert_allclose(found[0].before, values[1])
    np.testing.assert_allclose(found[0].after, values[2])
    assert [change.time_s for change in strongest_changes(line, 1, True)] == [4]
    differences, sd = np.abs(np.subtract(values[2], values[1])), np.std(values, axis=0)  # rows of equal length
    assert strongest_changes(line, 1, False)[0].distance == pytest.approx((differences / sd).mean())


def test_changes_of_dimensions_do_not_depend_on_their_units():
    times, first = np.arange(8) * 2.0, np.array([0, 0, 0, 0, 50.0, 50, 50, 50])
    second = np.array([0.1, 0.1, 0.4, 0.4, 0.4, 0.4, 0.4, 0.4])
    found = strongest_changes(timeline(times, times + 2, np.stack([first, second], 1)), 5, False)
    in_other_units = strongest_changes(timeline(times, times + 2, np.stack([first / 100, second], 1)), 5, False)
    assert [change.time_s for change in found] == [change.time_s for change in in_other_units] == [4, 8]
    assert [change.labels[0] for change in found] == [1, 0]
    still = strongest_changes(timeline(times, times + 2, np.stack([second, 0.005 * second], 1)), 1, False)[0]
    assert still.labels == (0, 0)  # noise below what is shown is not blown up


def test_changes_of_frames_are_those_of_a_second_not_of_noise():
    times = np.arange(500) * 0.04
    first = np.where(times < 10, 0.9, 0.1)
    first[[0, 100, 498]] = 0.0, 0.0, 1.0  # single frames
    line = timeline(times, times + 0.04, np.stack([first, 1 - first], 1))
    change = strongest_changes(line, 1, True)[0]
    assert change.time_s == pytest.approx(10) and change.distance == pytest.approx(0.8)
    assert (change.before_s, change.after_s) == pytest.approx((9.5, 10.5))


def test_small_changes_are_left_out():
    values = [[0.3349, 0.3331, 0.332], [0.3341, 0.3345, 0.3314], [0.6, 0.1, 0.3], [0.1, 0.6, 0.3]]
    found = strongest_changes(timeline([0, 2, 4, 6], [2, 4, 6, 8], values), 5, True)
    # At 2 s: the most probable label changes from the first (33%) to the second (33%). At 6 s: 60% of one to 60% of another.
    assert [change.time_s for change in found] == [6, 4]
    for difference, number in ((0.09, 0), (0.11, 1)):
        line = timeline([0, 2], [2, 4], [[0.5, 0.5], [0.5 + difference, 0.5 - difference]])
        assert len(strongest_changes(line, 5, True)) == number
    for difference, number in (
        (0.006, 0),
        (0.012, 1),
    ):  # of a dimension that hardly moves: hundredths are what is shown
        assert len(strongest_changes(timeline([0, 2], [2, 4], [[0.1], [0.1 + difference]]), 5, False)) == number
    values = [[0.0], [1.0], [1.0], [1.2], [1.2], [1.2], [1.2], [1.2]]
    found = strongest_changes(timeline(np.arange(8) * 2.0, np.arange(8) * 2.0 + 2, values), 5, False)
    assert [change.time_s for change in found] == [2], "at 6 s by half a standard deviation"


@pytest.mark.parametrize("probabilities", [True, False])
def test_a_picture_has_bars_and_no_timeline(probabilities, tmp_path):
    cv2.imwrite(str(tmp_path / "v.png"), np.full((64, 128, 3), (0, 200, 0), np.uint8))
    boxes = {"box_y": 20, "box_w": 24, "box_h": 24}
    names = ("prob_a", "prob_b") if probabilities else ("valence", "arousal")
    rows = pd.concat(
        [windows([0], [[0.7, 0.3]], names, 0.0, track=t, box_x=x, **boxes) for t, x in ((1, 20), (2, 84))]
    ).assign(confidence=0.9)
    text, outline, data = page(tmp_path / "p.html", rows, {"v": tmp_path / "v.png"})
    assert outline.texts["h3"] == ["Face 1", "Face 2"] and data["videos"][0]["faces"] == []
    assert len(pictures(outline, "Face 1")) == len(pictures(outline, "Face 2")) == 1
    shown = ["a", "", "70.0%"] if probabilities else ["valence", "0.700"]
    assert outline.row(shown[0]) == shown
    assert text.count("In one picture · confidence of the detector 0.90") == 2
    assert text.count('style="width:70.0%') == (2 if probabilities else 0)
    for word in ("in view between", "Strongest changes", 'class="lane"', 'class="legend"', "share of time"):
        assert word not in text.split("<main>")[1]
    for faces, height in ((rows, 2), (rows.iloc[:1], 1)):
        panels = draw_timeline(faces).axes
        assert len(panels) == height
        assert [bar.get_width() for bar in panels[0].patches] == [0.7, 0.3]
        assert [tick.get_text() for tick in panels[0].get_yticklabels()] == [
            name.removeprefix("prob_") for name in names
        ]
        assert panels[0].get_title(loc="left") == "Face 1"


def test_rows_without_values_are_gaps(tmp_path):
    rows = windows([0, 2, 4], [[0.9, 0.1], [np.nan, np.nan], [0.2, 0.8]])
    text, _, data = page(tmp_path / "p.html", rows)
    face = data["videos"][0]["faces"][0]
    assert face["start"] == [0, 4] and face["firsts"] == [0, 1] and face["changes"] == []
    assert "0:04.0 in view between 0:00.0 and 0:06.0 · 2 pieces with gaps between · 2 rows" in text


def test_pictures_are_cut_at_the_box_at_the_right_time(tmp_path):
    def frame(i):
        picture = np.zeros((64, 128, 3), np.uint8)
        picture[:, :64, 0], picture[:, 64:, 2] = (
            250 - 2 * i,
            50 + 2 * i,
        )  # red fades on the left, blue grows on the right
        return picture

    write_video(tmp_path / "v.mp4", [frame(i) for i in range(100)], 10, crf=8)
    boxes = {"box_y": 20, "box_w": 24, "box_h": 24}
    values = np.eye(2)[[0, 0, 0, 1, 1]]
    starts = np.arange(5) * 2.0
    left, right = (windows(starts, values, track=t, box_x=x, **boxes) for t, x in ((1, 20), (2, 84)))
    _, outline, _ = page(tmp_path / "p.html", pd.concat([left, right]), {"v": tmp_path / "v.mp4"})
    for face, channel, due in (("Face 1", 0, lambda i: 250 - 2 * i), ("Face 2", 2, lambda i: 50 + 2 * i)):
        found = pictures(outline, f"{face} at")
        assert len(found) == 5 + 2 and all(picture.shape == (128, 128, 3) for picture in found)
        for picture, time_s in zip(found, [1, 3, 5, 7, 9, 5, 7], strict=True):  # the strip, then before and after
            assert picture[..., channel].mean() == pytest.approx(due(10 * time_s), abs=8)
            assert np.delete(picture, channel, 2).mean() < 20
    whole = windows([0], [[1, 0]], length=2.0)
    _, outline, _ = page(tmp_path / "p.html", whole, {"v": tmp_path / "v.mp4"})
    assert [picture.shape for picture in pictures(outline, "Whole picture at")] == [(128, 256, 3)]


def test_videos_without_a_face_without_a_file_or_broken(tmp_path):
    (tmp_path / "broken.mp4").write_bytes(b"no video" * 99)
    rows = pd.concat([windows([0, 2], np.eye(2)).assign(video=name) for name in ("webcam", "broken", "gone")])
    videos = {
        "none": tmp_path / "none.mp4",
        "webcam": None,
        "broken": tmp_path / "broken.mp4",
        "gone": tmp_path / "x.mp4",
    }
    _, outline, _ = page(tmp_path / "p.html", rows, videos)
    assert outline.texts["h2"] == ["Contents", *videos, "What the numbers mean"]
    assert outline.texts["p"].count("No face was found in this video.") == 1
    notices = [text for text in outline.texts["p"] if text.startswith("All pictures are missing")]
    assert len(notices) == 2 and "broken.mp4: not a readable video" in notices[0] and "no such file" in notices[1]
    assert not [t for t, _ in outline.tags if t == "img"]
    _, outline, data = page(tmp_path / "p.html", rows.iloc[:0], {"none": None})
    assert "No face was found in this video." in outline.texts["p"] and data["videos"][0]["faces"] == []


def test_everything_is_escaped_and_nothing_is_fetched(tmp_path):
    rows = windows([0, 2], np.eye(2), (f"prob_{EVIL}", "prob_<!--<script>"), track=EVIL).assign(video=EVIL)
    text, outline, data = page(tmp_path / "p.html", rows, {EVIL: None})
    assert [t for t, _ in outline.tags].count("script") == 2 and not [t for t, _ in outline.tags if t == "img"]
    assert data["names"] == [EVIL, "<!--<script>"] and data["videos"][0]["faces"][0]["heading"] == f"Face {EVIL}"
    assert EVIL in outline.texts["h2"]
    policy = next(a["content"] for _, a in outline.tags if a.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'; img-src data:;")
    assert "http:" not in text and "https:" not in text and "url(" not in text and "@import" not in text
    for _, attributes in outline.tags:
        assert not any(name.startswith("on") for name in attributes)
        assert all((attributes.get(name) or "#").startswith(("#", "data:image/jpeg")) for name in ("src", "href"))


def test_only_the_faces_seen_longest_are_shown_and_it_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(affect_page, "MAX_FACES", 2)
    rows = pd.concat([windows(np.arange(n) * 2, [[1, 0]] * n, track=t) for t, n in ((1, 2), (2, 1), (3, 3))])
    _, outline, data = page(tmp_path / "p.html", rows)
    assert outline.texts["h3"] == ["Face 1", "Face 3"] and len(data["videos"][0]["faces"]) == 2
    assert "3 faces; the 2 in view for longest are shown." in outline.texts["p"]


def test_a_table_that_cannot_be_shown_is_refused_in_one_line(tmp_path):
    good = windows([0, 2], np.eye(2))
    for table, message in (
        (good.drop(columns="end_s"), "no column end_s"),
        (good.drop(columns=["prob_a", "prob_b"]), "no prob_<label> column"),
        (good.assign(prob_a="much"), "column prob_a holds what is no number"),
        (good.assign(prob_a=np.inf), "column prob_a holds what is not finite"),
        (good.assign(start_s=np.nan), "column start_s holds what is not finite"),
        (good.assign(end_s=-1.0), "end_s is before start_s"),
    ):
        with pytest.raises(UserError, match=message):
            write_affect_page(tmp_path / "p.html", table, {})
    assert not list(tmp_path.iterdir())


def test_times_read_as_on_a_player():
    assert [clock(t) for t in (0, 9.96, 75.24, 3599.97)] == ["0:00.0", "0:10.0", "1:15.2", "1:00:00.0"]


def test_only_the_lowest_panel_of_the_figure_has_times():
    table = pd.concat(windows([0, 2, 4], [[0.9, 0.1], [0.2, 0.8], [0.6, 0.4]], track=n) for n in (1, 2))
    panels = draw_timeline(table).axes
    shown = [panel.xaxis.get_tick_params()["labelbottom"] for panel in panels]
    assert shown == [False] * (len(panels) - 1) + [True]


@pytest.mark.parametrize(("num_faces", "title"), [(1, "t"), (MAX_TRACKS, "t"), (MAX_TRACKS + 2, None)])
def test_the_figure_tells_how_many_faces_it_leaves_out(num_faces, title):
    table = pd.concat(
        windows([0, 2, 4], [[0.9, 0.1], [0.2, 0.8], [0.6, 0.4]], track=n) for n in range(1, num_faces + 1)
    )
    expected = title or f"t ({MAX_TRACKS} faces with most rows; 2 more are in the table)"
    assert expected in [text.get_text() for text in draw_timeline(table, "t").findobj(Text)]


@pytest.mark.parametrize(
    ("values", "expected"),
    [([0, 1], [0, 1]), ([0.2, 0.4], [0, 1]), ([-1, 1], [-1, 1]), ([-0.1, 0.5], [-1, 1]), ([0, 1.5], [-0.075, 1.575]),
     ([-2, 0], [-2.1, 0.1]), ([3, 3], [2.5, 3.5]), ([np.nan, 0.5], [0, 1])],
)  # fmt: skip
def test_the_vertical_axis_has_a_usual_scale_if_the_values_fit(values, expected):
    assert affect_page._range(np.array(values, float)) == pytest.approx(expected)
