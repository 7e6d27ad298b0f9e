"""One definition of a gap: an uninterrupted face is one piece in timeline, page and overlay; an absence makes two."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from spots import Spots, film, frames, model

from svfap.cli.main import main
from svfap.faces.track import TrackedFace, TrackedFrame
from svfap.predict import predictor
from svfap.predict.draw import Painter
from svfap.predict.figure import timeline
from svfap.predict.predictor import Predictor
from svfap.predict.timeline import Timeline
from svfap.predict.windows import iter_windows


def rows(times: np.ndarray, gone: tuple[float, float] = (0, 0), hop_s: float | None = None, **settings) -> pd.DataFrame:
    """The rows of a face seen at these times, except from gone[0] on until gone[1], as a predictor makes them."""
    net = model("regression", **{"label_names": ("valence",), "sampling_stride": 4, **settings})
    predict = Predictor(net, "cpu", "fp32", faces=Spots())
    face = TrackedFace(1, (0.0, 0.0, 1.0, 1.0), 0.9, None, True)
    stream = [
        TrackedFrame(i, time, np.zeros((1, 1, 3), np.uint8), () if gone[0] <= time < gone[1] else (face,), 0)
        for i, time in enumerate(times.tolist())
    ]
    fps = (len(times) - 1) / (times[-1] - times[0])
    hop = 16 * net.config.sampling_stride if hop_s is None else round(hop_s * fps)
    windows = iter_windows(stream, 16, net.config.sampling_stride, hop, lambda frame, face: frame)
    output = np.zeros((16, 1) if net.config.frame_level else 1)
    return pd.DataFrame([row for window in windows for row in predict._rows_of(window, output)])


def num_pieces(table: pd.DataFrame) -> int:
    return len(Timeline.of_table(table, ["valence"]).pieces)


def regular(seconds: float, fps: float) -> np.ndarray:
    return np.arange(round(seconds * fps)) / fps


def jittering(seconds: float, fps: float) -> np.ndarray:
    """A live source: pictures come up to 60 ms late."""
    times = regular(seconds, fps) + np.random.default_rng(0).uniform(0, 0.06, round(seconds * fps))
    return np.maximum.accumulate(times) + np.arange(len(times)) * 1e-6


@pytest.mark.parametrize("times", [regular, jittering])
@pytest.mark.parametrize("fps", [15, 25, 30, 60])
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"hop_s": 0.2},
        {"hop_s": 1.0},
        {"sampling_stride": 1},
        {"frame_level": True},
        {"frame_level": True, "hop_s": 0.2},
        {"frame_level": True, "sampling_stride": 1},
    ],
    ids=str,
)
def test_an_uninterrupted_face_is_one_piece_and_an_absence_makes_two(settings, fps, times):
    whole = rows(times(14, fps), **settings)
    assert len(whole) >= 4
    assert num_pieces(whole) == 1
    assert Timeline.of_table(whole, ["valence"]).covered_s == pytest.approx(14, abs=0.1)
    for start_s in (5.0, 6.3):
        cut = rows(times(14, fps), (start_s, start_s + 0.6), **settings)
        assert num_pieces(cut) == 2  # more than half a second: the tracker does not interpolate
        assert Timeline.of_table(cut, ["valence"]).row_at(start_s + 0.3) is None


def windows(*times: tuple[float, float], values: list[float] | None = None) -> pd.DataFrame:
    table = pd.DataFrame(times, columns=["start_s", "end_s"])
    return table.assign(valence=np.linspace(-1, 1, len(table)) if values is None else values)


def test_two_windows_with_a_short_absence_between_them_are_two_pieces():
    assert num_pieces(windows((0, 2.44), (3.0, 5.44))) == 2
    assert num_pieces(windows((0, 2.44), (2.56, 5.0))) == 1


def test_a_hop_longer_than_a_window_leaves_no_gaps_but_an_absence_does():
    starts = np.arange(6) * 5.0
    assert num_pieces(windows(*((start, start + 2.44) for start in starts))) == 1
    later = starts + 6.0 * (starts > 12)
    assert num_pieces(windows(*((start, start + 2.44) for start in later))) == 2


def test_short_appearances_at_irregular_times_are_pieces_of_their_own():
    starts = [0.0, 2.0, 5.1, 6.7, 9.0, 13.0]
    assert num_pieces(windows(*((start, start + 1) for start in starts))) == 6


def test_rows_without_values_leave_a_gap_where_no_other_row_covers_their_time():
    line = Timeline.of_table(windows((0, 1), (1, 2), (2, 3), values=[0, np.nan, 1]), ["valence"])
    assert line.firsts.tolist() == [0, 1] and line.rows.tolist() == [0, 2]
    frame = windows(*((i / 25, (i + 1) / 25) for i in range(10)), values=[0.0] * 4 + [np.nan] + [1.0] * 5)
    assert num_pieces(frame) == 2  # shorter than any jitter, but known to have no value
    covered = windows((0, 2), (0.2, 2.2), (0.4, 2.4), values=[0, np.nan, 1])
    assert num_pieces(covered) == 1
    nothing = Timeline.of_table(windows((0, 1), values=[np.nan]), ["valence"])
    assert nothing.pieces == [] and nothing.values_at(0.5) is None


def test_rows_come_in_any_order_and_values_move_between_centres():
    table = windows((0, 2), (2, 4), (9, 11), values=[0.0, 1.0, 5.0])
    line = Timeline.of_table(table.iloc[[2, 0, 1]], ["valence"])
    assert line.rows.tolist() == [1, 2, 0] and line.start.tolist() == [0, 2, 9]
    assert [line.values_at(t)[0] for t in (0, 1, 2, 2.5, 4, 9, 11)] == pytest.approx([0, 0, 0.5, 0.75, 1, 5, 5])
    assert line.values_at(5) is None and line.values_at(4.1, 0.2) is not None


@pytest.fixture
def drawn(monkeypatch) -> list[list]:
    """What the overlay draws into each frame."""
    seen, real = [], Painter.paint
    monkeypatch.setattr(
        Painter, "paint", lambda self, frame, faces: (seen.append(list(faces)), real(self, frame, faces))[1]
    )
    return seen


@pytest.mark.parametrize(("gone", "num_parts"), [((0, 0), 1), ((110, 130), 2)])
def test_figure_page_and_overlay_agree_with_default_settings(gone, num_parts, drawn, monkeypatch, tmp_path):
    """Ten seconds of one face, which in one case is away for 0.8 s."""
    monkeypatch.setattr(predictor, "make_detector", lambda name, model: Spots())
    net = model(sampling_stride=4)
    net.save_pretrained(tmp_path / "model")
    video = film(tmp_path / "v.mp4", frames([[] if gone[0] <= i < gone[1] else [(30, 20)] for i in range(250)]))
    arguments = ["--model", tmp_path / "model", "--out", tmp_path / "t.csv", "--report", tmp_path / "p.html"]
    assert main(["predict", *map(str, [video, *arguments, "--overlay", tmp_path / "o.mp4"])]) == 0
    table = pd.read_csv(tmp_path / "t.csv")
    assert table["track"].unique().tolist() == [1] and len(table) >= 4

    areas = [area.get_paths() for area in timeline(table).axes[0].collections]
    assert [len(paths) for paths in areas] == [num_parts] * 3

    text = Path(tmp_path / "p.html").read_text("utf-8")
    data = text.split('<script type="application/json" id="affect-data">')[1].split("</script>")[0]
    [face] = json.loads(data)["videos"][0]["faces"]
    assert len(face["firsts"]) == num_parts
    assert re.findall(r"(\d+) pieces with gaps between", text) == ["2"] * (num_parts == 2)
    shown = float(re.search(r"0:([\d.]+) in view between 0:00.0 and 0:10.0", text)[1])
    assert shown == pytest.approx(10 - (gone[1] - gone[0]) / 25, abs=0.2)

    values = [[face.values is not None for face in faces] for faces in drawn]
    assert len(values) == 250
    near = range(gone[0] - 4, gone[1] + 4) if num_parts == 2 else range(0)  # the detector runs every third frame
    assert all(value == [True] for number, value in enumerate(values) if number not in near)
    assert num_parts == 1 or values[120] == []
