"""Prediction with faces: windows of every track, any source, constant memory, rows that survive a broken-off run."""

from __future__ import annotations

import csv
import json
import re
import resource
import socket
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from expected_windows import window_indices
from fake_faces import LABELS, SIDE, SIZE, Spots, film, frames, model

from svfap.cli.main import main
from svfap.data.video import VideoError, open_video
from svfap.errors import UserError
from svfap.faces.config import FaceCropConfig, TrackConfig
from svfap.faces.crop import crop_face
from svfap.faces.track import TrackedFace, TrackedFrame, track_faces
from svfap.predict import predictor
from svfap.predict import reader as pipeline
from svfap.predict.predictor import Predictor
from svfap.predict.reader import Reader, prefetched
from svfap.predict.table import TableWriter
from svfap.predict.timeline import Timeline
from svfap.predict.windows import iter_windows
from svfap.predict.writing import write_table

pytestmark = pytest.mark.usefixtures("blank_figures")

COLUMNS = [
    "track",
    "start_s",
    "end_s",
    "first_frame",
    "last_frame",
    "box_x",
    "box_y",
    "box_w",
    "box_h",
    "label",
    *[f"prob_{n}" for n in LABELS],
    "confidence",
]
STILL = [[(30, 20)]] * 50


def predict(net=None, **kwargs) -> Predictor:
    return Predictor(net or model(), "cpu", "fp32", **{"faces": Spots(), "hop_s": None, **kwargs})


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("predict")


@pytest.fixture(scope="module")
def one(folder) -> Path:
    """A face for 40 frames, none for 40, and again for 20, elsewhere."""
    places = [[(10 + i // 2, 20)] for i in range(40)] + [[]] * 40 + [[(60, 40)]] * 20
    return film(folder / "one.mp4", frames(places))


@pytest.fixture
def cli(monkeypatch, tmp_path) -> Callable[..., int]:
    """`svfap predict` with our detector and a debug model."""
    monkeypatch.setattr(predictor, "make_detector", lambda name, model: Spots())
    model().save_pretrained(tmp_path / "model")
    return lambda *arguments: main(
        ["predict", "--model", str(tmp_path / "model"), "--precision", "fp32", *map(str, arguments)]
    )


# windows -------------------------------------------------------------------------------------------------------------


def tracked(index: int, *tracks: int) -> TrackedFrame:
    faces = tuple(TrackedFace(t, (index, t, 1.0, 1.0), index / 100, None, True) for t in tracks)
    return TrackedFrame(index, index / 25, np.full((1, 1, 3), index % 256, np.uint8), faces, 0)


def test_windows_are_cut_from_each_track_and_end_at_its_gaps():
    stream = [tracked(i, *[1] * (i < 10 or 15 <= i < 18), *[2] * (i >= 4)) for i in range(20)]
    windows = list(iter_windows(stream, 4, 1, 4, lambda frame, face: frame + np.uint8(100 * face.track)))
    seen = [(w.track, (w.frames[:, 0, 0, 0].astype(int) - 100 * w.track).tolist()) for w in windows]
    assert [row for track, row in seen if track == 1] == [[0, 1, 2, 3], [4, 5, 6, 7], [6, 7, 8, 9], [15, 16, 17, 17]]
    assert [row for track, row in seen if track == 2] == [list(range(i, i + 4)) for i in (4, 8, 12, 16)]
    for window in windows:
        first, last = (window.frames[[0, -1], 0, 0, 0].astype(int) - 100 * window.track).tolist()
        assert window.start_s == first / 25
        assert window.end_s == pytest.approx((last + 1) / 25)
        assert window.box is not None and abs(window.box[0] - (first + last) / 2) <= 0.5
        assert [box[0] for box in window.boxes] == pytest.approx(np.round(window.times_s * 25))
        assert window.confidence == pytest.approx((first + last) / 200)
    assert [w.fresh.sum() for w in windows if w.track == 1] == [4, 4, 2, 3]  # each frame of the track once


def test_the_memory_of_ended_tracks_is_released():
    alive: list[int] = []
    stream = (tracked(i, i // 4 + 1) for i in range(400))  # a hundred people one after the other
    windows = iter_windows(stream, 16, 1, 16, lambda frame, face: frame)
    for _ in windows:
        alive.append(len(windows.gi_frame.f_locals["runs"]))
    assert len(alive) == 100
    assert max(alive) <= 1


def test_prefetched_items_come_in_order_and_errors_in_their_place():
    def source() -> Iterator[int]:
        yield from range(50)
        raise KeyError("at the end")

    got = []
    with pytest.raises(KeyError, match="at the end"):
        for item in prefetched(source(), 3):
            got.append(item)
    assert got == list(range(50))


def test_closing_stops_the_thread_and_closes_the_source():
    made, closed = [], threading.Event()

    def source() -> Iterator[int]:
        try:
            for i in range(10**9):
                made.append(i)
                yield i
        finally:
            closed.set()

    before = threading.active_count()
    items = prefetched(source(), 2)
    assert next(items) == 0
    items.close()
    assert closed.is_set()
    assert len(made) <= 5
    assert threading.active_count() == before


# prediction ----------------------------------------------------------------------------------------------------------


@torch.inference_mode()
def expected_of(video: Path, net, hop: int, crop: FaceCropConfig) -> list[list[float]]:
    """Rows computed plainly: all crops of each unbroken part of a track in memory, then its windows one by one."""
    with open_video(video) as source:
        followed = list(track_faces(source.steady_frames(), Spots(), TrackConfig(), 25))
    parts: list[list[tuple[float, TrackedFace, np.ndarray]]] = []
    for track in sorted({face.track for item in followed for face in item.faces}):
        last = -2
        for item in followed:
            for face in (face for face in item.faces if face.track == track):
                if item.index > last + 1:
                    parts.append([])
                last = item.index
                parts[-1].append((item.time_s, face, crop_face(item.frame, face.box, crop)))
    rows = []
    mean, std = (torch.tensor(x) for x in (net.config.pixel_mean, net.config.pixel_std))
    for part in parts:
        for window in window_indices(len(part), 16, 1, hop):
            clip = torch.from_numpy(np.stack([part[i][2] for i in window])) / 255
            probabilities = net(((clip - mean) / std).permute(3, 0, 1, 2)[None].float()).softmax(-1)[0]
            span = part[window[0] : window[-1] + 1]
            time, face, _ = span[len(span) // 2]
            assert time == pytest.approx((span[0][0] + span[-1][0]) / 2, abs=0.021)
            ends = (span[0][0], span[-1][0] + 0.04)
            rows.append(
                [face.track, *ends, *face.box, *probabilities.tolist(), np.mean([f.confidence for _, f, _ in span])]
            )
    return rows


@pytest.mark.parametrize(("hop_s", "hop"), [(None, 16), (0.2, 5)])
@pytest.mark.parametrize("batch_size", [1, 3])
def test_rows_are_the_model_on_the_crops_of_each_track(one, hop_s, hop, batch_size):
    net, crop = model(), FaceCropConfig(size_px=32, margin=0.2)
    table = predict(net, hop_s=hop_s, batch_size=batch_size, crop=FaceCropConfig(margin=0.2))(one)
    assert list(table.columns) == COLUMNS
    expected = expected_of(one, net, hop, crop)
    assert len(expected) >= 4
    np.testing.assert_allclose(
        table.drop(columns=["first_frame", "last_frame", "label"]).to_numpy(float), expected, atol=1e-4
    )
    np.testing.assert_allclose(table["first_frame"] / 25, table["start_s"], atol=1e-6)
    np.testing.assert_allclose((table["last_frame"] + 1) / 25, table["end_s"], atol=1e-6)
    assert table["track"].tolist() == sorted(table["track"])
    first = table.iloc[0]  # the face moves by half a pixel a frame, from x = 10 on
    assert first[["box_x", "box_y", "box_w", "box_h"]].tolist() == pytest.approx([10 + 4, 20, SIDE, SIDE], abs=1.5)
    gap = (table["end_s"] > 1.7) & (table["start_s"] < 3.1)
    assert not gap.any()  # nobody was there from 1.6 to 3.2 s
    assert len(Timeline.of_table(table, predict().values).pieces) == 2


def test_two_faces_have_rows_of_their_own(folder):
    places = [[(8, 10), (64, 40 - i // 4)] for i in range(50)]
    table = predict()(film(folder / "two.mp4", frames(places)))
    assert table.groupby("track").size().tolist() == [4, 4]
    means = table.groupby("track")["box_x"].mean()
    assert sorted(means) == pytest.approx([8, 64], abs=1.5)


def test_frame_level_models_give_a_row_per_frame_with_its_own_box(one):
    net = model("regression", label_names=("valence",), frame_level=True)
    table = predict(net, hop_s=0.2)(one)
    early = table[table["start_s"] < 2]
    assert 38 <= len(early) <= 42
    np.testing.assert_allclose(np.diff(early["start_s"]), 0.04, atol=1e-6)
    np.testing.assert_allclose(early["box_x"], 10 + early["start_s"] * 25 / 2, atol=1.5)
    assert early["start_s"].is_unique
    assert list(table.columns)[-2:] == ["valence", "confidence"]


def test_videos_come_in_order_and_their_rows_do_not_depend_on_each_other(folder, one):
    still = film(folder / "still.mp4", frames(STILL))
    alone = [predict(batch_size=5)(video) for video in (still, one)]
    seen = list(predict(batch_size=5).run([still, folder / "missing.mp4", one]))
    ends = [(video.name, item) for video, item in seen if not isinstance(item, dict)]
    assert [name for name, _ in ends] == ["still.mp4", "missing.mp4", "one.mp4"]
    assert [str(error) for _, error in ends[1:2]] == [f"{folder / 'missing.mp4'}: no such file or folder"]
    for video, table in zip((still, one), alone, strict=True):
        rows = pd.DataFrame([item for name, item in seen if name == video and isinstance(item, dict)])
        np.testing.assert_array_equal(rows, table)


@pytest.mark.slow
def test_memory_does_not_grow_with_length(monkeypatch):
    class Endless:
        fps, num_frames, picture_of = 25.0, None, range(10_000)

        def __init__(self, length: int) -> None:
            self.length = length

        def steady_frames(self, fps):
            two = list(frames([[(30, 20)], [(31, 20)]]))
            for number in range(self.length):
                yield number / 25, two[number % 2].copy()

        def parted(self, before_s, after_s):
            return False

        def __enter__(self):
            return self

        def __exit__(self, *error):
            pass

    monkeypatch.setattr(pipeline, "open_source", lambda video, timeout_s, frames_fps: Endless(int(video)))
    reader = Reader(
        model().config, None, Spots(), FaceCropConfig(size_px=32), TrackConfig(detect_every=8, smooth_s=0), 10
    )

    def peak(length: int) -> tuple[int, int]:
        tracemalloc.start()
        count = sum(1 for _ in reader.windows(str(length)))
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return most, count

    peak(50)  # what is loaded once
    (short, few), (long, many) = peak(300), peak(3000)
    assert (few, many) == (19, 188)
    assert short > 30 * SIZE[0] * SIZE[1] * 3  # the second of frames that the tracker holds is seen
    assert long < 1.1 * short + 50_000


# sources -------------------------------------------------------------------------------------------------------------


def interlaced(path: Path) -> Path:
    return film(path, frames(STILL), options={"flags": "+ilme+ildct", "x264-params": "tff=1"})


def turned(path: Path) -> Path:
    """A film that players turn by a quarter, as phones write them: a square at (30, 20) is shown at (28, 30)."""
    data = bytearray(film(path, frames(STILL)).read_bytes())
    at = data.index(b"tkhd") + 4 + 40
    data[at : at + 20] = np.array([0, 1 << 16, 0, -1 << 16, 0], ">i4").tobytes()
    path.write_bytes(bytes(data))
    return path


ODD: dict[str, Callable[[Path], Path]] = {
    "variable_rate.mp4": lambda p: film(p, frames(STILL), ticks=[i + (i > 20) * 5 + i // 7 for i in range(50)]),
    "ten_bit.mp4": lambda p: film(p, frames(STILL), pix_fmt="yuv420p10le"),
    "alpha.mkv": lambda p: film(p, frames(STILL), codec="ffv1", pix_fmt="yuva420p"),
    "interlaced.mp4": interlaced,
    "turned.mp4": turned,
    "one_frame.mp4": lambda p: film(p, frames(STILL[:1])),
    "odd_size.mkv": lambda p: film(p, frames(STILL, (71, 93)), codec="ffv1", pix_fmt="yuv444p"),
}


@pytest.mark.parametrize("name", ODD)
def test_odd_videos(name, tmp_path):
    table = predict()(ODD[name](tmp_path / name))
    place = [SIZE[0] - 20 - SIDE, 30] if name == "turned.mp4" else [30, 20]
    assert table["track"].unique().tolist() == [1]
    np.testing.assert_allclose(table[["box_x", "box_y"]], [place] * len(table), atol=1.5)
    length = {"one_frame.mp4": 0.04, "variable_rate.mp4": 61 / 25 + 0.05}.get(name, 2.0)
    assert table["end_s"].max() == pytest.approx(length, abs=0.05)
    assert len(table) == (1 if name == "one_frame.mp4" else 4)
    assert np.isfinite(table.drop(columns="label").to_numpy(float)).all()


@pytest.mark.parametrize("fps", [None, 10.0, 50.0])
@pytest.mark.parametrize("ticks", [None, [i + (i > 20) * 5 + i // 7 for i in range(50)]], ids=["steady", "variable"])
def test_frame_numbers_are_those_of_the_pictures_shown(ticks, fps, tmp_path):
    """That of a row of a single picture is the one shown at its start, whatever rate the frames are taken at."""
    table = Predictor("movement", "cpu", faces="none", fps=fps)(film(tmp_path / "a.mp4", frames(STILL), ticks=ticks))
    times_s = np.array(ticks or range(50)) / 25
    shown = np.searchsorted(times_s, table["start_s"] + 1e-3, side="right") - 1
    assert table["first_frame"].tolist() == table["last_frame"].tolist() == shown.tolist()
    assert table["last_frame"].max() >= 47


@contextmanager
def server(content: bytes) -> Iterator[str]:
    """An address that answers with this content and then says no more; b"": nothing at all."""
    stop = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(0.2)

        def serve() -> None:
            held = []
            while not stop.is_set():
                try:
                    connection, _ = listening.accept()
                except TimeoutError:
                    continue
                held.append(connection)
                if content:
                    connection.recv(4096)
                    head = b"HTTP/1.1 200 OK\r\nContent-Type: video/mp2t\r\nContent-Length: 99999999\r\n\r\n"
                    connection.sendall(head + content)
            for connection in held:
                connection.close()

        thread = threading.Thread(target=serve)
        thread.start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}/live.ts"
        stop.set()
        thread.join()


def test_a_stream_that_never_answers_times_out():
    with server(b"") as address, pytest.raises(VideoError) as error:
        predict(timeout_s=0.5)(address)
    assert str(error.value) == f"{address}: no data for 0.5 s (timeout_s)"


def test_a_stream_that_stalls_keeps_its_rows(folder, tmp_path, cli, capsys):
    whole = film(folder / "live.ts", frames([[(30, 20)]] * 200), options={"g": "10", "bf": "0"})
    with server(whole.read_bytes()) as address:
        assert cli(address, "--out", tmp_path / "live.csv", "--timeout_s", 1) == 1
    printed = capsys.readouterr().err
    assert f"svfap predict: error: {address}: no data for 1 s (timeout_s)\n" in printed
    assert "Traceback" not in printed
    table = pd.read_csv(tmp_path / "live.csv")
    assert set(table["video"]) == {address}
    assert table["end_s"].max() > 5  # of 8 s, less what FFmpeg holds back
    np.testing.assert_allclose(table["box_x"], 30, atol=1.5)
    assert (tmp_path / "live.png").exists()


@pytest.mark.parametrize("name", ["99", "http://127.0.0.1:9/none.mp4", "nonsense://here"])
def test_live_sources_that_cannot_be_opened(name):
    with pytest.raises(VideoError, match=re.escape(name) + ": cannot be opened") as error:
        predict()(name)
    assert "\n" not in str(error.value)


# the command ---------------------------------------------------------------------------------------------------------


def test_a_video_without_a_face_gives_an_empty_table(folder, tmp_path, cli, capsys):
    empty = film(folder / "empty.mp4", frames([[]] * 30))
    assert cli(empty, "--out", tmp_path / "empty.csv", "--summary", tmp_path / "short.csv") == 0
    assert pd.read_csv(tmp_path / "short.csv")[["video", "seen_s", "rows"]].values.tolist() == [[str(empty), 0, 0]]
    assert (tmp_path / "empty.csv").read_text() == ",".join(["video", *COLUMNS]) + "\n"
    assert f"{empty}: no face found" in capsys.readouterr().err
    assert not (tmp_path / "empty.png").exists()


def test_two_videos_with_one_name_are_kept_apart(tmp_path, cli):
    videos = [tmp_path / name / "x.mp4" for name in "ab"]
    for number, video in enumerate(videos):
        video.parent.mkdir()
        film(video, frames([[(10 + 40 * number, 20)]] * 20))
    assert cli(*videos, "--out", tmp_path / "t.json", "--overlay", tmp_path / "o.mp4") == 0
    table = pd.DataFrame(json.loads((tmp_path / "t.json").read_text()))
    assert dict(table.groupby("video")["box_x"].mean().round(-1)) == {str(videos[0]): 10, str(videos[1]): 50}
    written = {path.name for path in tmp_path.iterdir()} - {"a", "b", "model"}
    assert written == {"t.json", "t.json.about.json", "t_1_x.png", "t_2_x.png", "o_1_x.mp4", "o_2_x.mp4"}


@pytest.mark.parametrize("suffix", [".csv", pytest.param(".jsonl", marks=pytest.mark.slow), ".parquet"])
def test_an_interrupted_run_keeps_its_rows_and_can_be_resumed(suffix, one, folder, tmp_path, cli, monkeypatch, capsys):
    videos = [film(folder / f"v{i}.mp4", frames([[(20 + i, 20)]] * 40)) for i in range(2)]
    arguments = [videos[0], one, videos[1], "--out"]
    assert cli(*arguments, tmp_path / f"whole{suffix}") == 0
    out, real, ran = tmp_path / f"out{suffix}", Predictor.run, []

    def broken(self, names, on_frame=None):
        for number, (name, item) in enumerate(real(self, names, on_frame)):
            if number == 6:  # within the second video
                raise KeyboardInterrupt
            ran.append(name)
            yield name, item

    monkeypatch.setattr(Predictor, "run", broken)
    assert cli(*arguments, out) == 130
    part = (tmp_path / f"out{suffix}.part").read_text()
    assert part.count(str(videos[0])) >= 3 and str(one) in part
    assert not out.exists()
    assert "continue with --resume" in capsys.readouterr().err

    monkeypatch.setattr(Predictor, "run", lambda self, names, f=None: (ran.append(names), real(self, names, f))[1])
    assert cli(*arguments, out) == 1
    assert "holds the rows of an interrupted run; continue it with --resume" in capsys.readouterr().err
    assert cli(*arguments, out, "--resume", "--margin", 0.5) == 1
    assert "was made with other settings (margin: None then, 0.5 now)" in capsys.readouterr().err
    assert cli(*arguments, out, "--resume") == 0
    assert ran[-1] == [str(one), str(videos[1])]  # the first was finished
    read = {".csv": pd.read_csv, ".jsonl": lambda p: pd.read_json(p, lines=True), ".parquet": pd.read_parquet}[suffix]
    pd.testing.assert_frame_equal(read(out), read(tmp_path / f"whole{suffix}"), rtol=1e-4)
    assert not list(tmp_path.glob("*.part*"))
    assert cli(*arguments, out, "--resume") == 0
    assert "is complete; there is nothing to resume" in (said := capsys.readouterr().err) and "warning" not in said
    assert cli(*arguments, out, "--resume", "--report", tmp_path / "page.html") == 0
    assert "warning: overlay and report are written by the run that predicts" in capsys.readouterr().err
    table = out.read_bytes()
    assert cli(videos[0], folder / "another.mp4", "--out", out, "--resume") == 1
    assert (
        f"{out}: is complete, and was made of other videos, without {folder / 'another.mp4'}" in capsys.readouterr().err
    )
    assert cli(*arguments, out) == 1
    assert f"{out}: exists; choose another --out, or --overwrite to replace it" in capsys.readouterr().err
    assert out.read_bytes() == table


def test_rows_are_on_disk_as_they_come(tmp_path):
    with TableWriter(tmp_path / "t.csv", ["video", "start_s", "joy"], {}) as writer:
        writer.add('odd, "name".mp4', {"start_s": 0.1, "joy": 1 / 3})
        with open(tmp_path / "t.csv.part", newline="") as file:
            assert list(csv.reader(file))[1] == ['odd, "name".mp4', "0.1", repr(1 / 3)]
        writer.add("0", {"start_s": 0.2, "joy": float("nan")})
        writer.end_video("0")
        table = writer.finish(write_table)
    assert table["video"].tolist() == ['odd, "name".mp4', "0"]
    assert table["joy"][0] == 1 / 3
    assert [path.name for path in tmp_path.iterdir()] == ["t.csv"]


def test_a_full_disk_keeps_the_rows_written_before(tmp_path):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        with TableWriter(tmp_path / "t.jsonl", ["video", "joy"], {}) as writer:
            resource.setrlimit(resource.RLIMIT_FSIZE, (2000, limits[1]))
            with pytest.raises(UserError, match="cannot be written .*; the rows until then are kept"):
                for number in range(1000):
                    writer.add("a.mp4", {"joy": number})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    rows = (tmp_path / "t.jsonl.part").read_text().splitlines()
    assert 30 < len(rows) < 1000
    assert json.loads(rows[0]) == {"video": "a.mp4", "joy": 0}


def test_real_clips(clips, tmp_path):
    table = Predictor(model(), "cpu", "fp32", faces="haar")(clips / "single_face.mp4")
    assert table["track"].unique().tolist() == [1]
    assert table["end_s"].max() > 2


def test_small_faces_are_dropped_with_a_note(folder, tmp_path, cli, capsys):
    video = film(folder / "small.mp4", frames(STILL))
    assert cli(video, "--out", tmp_path / "t.csv", "--min_face_px", SIDE + 8) == 0
    said = capsys.readouterr().err
    assert f"{video}: dropped 1 face smaller than {SIDE + 8} px (min_face_px)\n" in said and "no face found" in said
    assert len(pd.read_csv(tmp_path / "t.csv")) == 0
    assert cli(video, "--out", tmp_path / "u.csv") == 0
    assert ": dropped" not in capsys.readouterr().err and len(pd.read_csv(tmp_path / "u.csv")) == 4
