"""`svfap.predict.predict.predict_videos`: the command's work from Python, and mistakes that are reported at once."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from unicodedata import normalize

import cv2
import numpy as np
import pandas as pd
import pytest
from fake_faces import Spots, two_films

from svfap.errors import UserError
from svfap.predict import predictor
from svfap.predict.config import PredictConfig
from svfap.predict.draw import Painter
from svfap.predict.overlay import write_overlay
from svfap.predict.predict import predict_videos
from svfap.predict.predictor import Predictor
from svfap.predict.table import TableWriter, part_of, read_predictions
from svfap.predict.writing import write_table

pytestmark = pytest.mark.usefixtures("blank_figures")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return two_films(tmp_path_factory.mktemp("videos"))


@pytest.fixture
def config(folder, tmp_path, monkeypatch):
    """Settings of a run that writes into an empty folder."""
    monkeypatch.setattr(predictor, "make_detector", lambda name, model: Spots())
    monkeypatch.chdir(tmp_path)
    return lambda **more: PredictConfig(**{"model": str(folder / "model"), "precision": "fp32", **more})


def test_the_result_holds_the_table_and_every_file(folder, tmp_path, config, capsys):
    videos = [folder / "a.mp4", folder / "none.mp4", str(folder / "b.mp4"), folder / "a.mp4"]
    out, overlay, report = (tmp_path / "x" / name for name in ("t.parquet", "o.mkv", "p.html"))
    done = predict_videos(videos, config(out=out, overlay=overlay, report=report))
    a, none, b = done.videos
    assert (a, none, b) == tuple(map(str, videos[:3]))
    assert done.failures == {none: f"{none}: no such file or folder"}
    assert sorted(done.written) == sorted(path for path in out.parent.iterdir())
    assert {path.name for path in done.written} == {
        "t.parquet", "t.parquet.about.json", "p.html", "t_1_a.png", "t_3_b.png", "o_1_a.mkv", "o_3_b.mkv"
    }  # fmt: skip
    assert set(done.timelines) == set(done.overlays) == {a, b}
    pd.testing.assert_frame_equal(read_predictions(out), done.table)
    alone = Predictor(folder / "model", "cpu", "fp32", faces=Spots())(b)
    pd.testing.assert_frame_equal(done.rows_of(b).reset_index(drop=True), alone, check_dtype=False, atol=1e-5)
    assert done.values == ["prob_joy", "prob_anger", "prob_calm"]
    assert "table:" not in capsys.readouterr().err  # the summary is the command's


def test_one_picture_imports_only_what_it_needs(folder, tmp_path):
    """Each of these takes a tenth of the command's time or more."""
    picture = np.zeros((64, 64, 3), np.uint8)
    cv2.imwrite(str(tmp_path / "a.png"), picture)
    code = (
        "import sys; from svfap.cli.main import main; code = main(sys.argv[1:]); "
        "print(code, {'torch._dynamo', 'sympy', 'scipy', 'sklearn', 'accelerate', 'tensorboard', 'jinja2', 'transformers'} "
        "& sys.modules.keys())"
    )
    command = ["predict", str(tmp_path / "a.png"), "--model", str(folder / "model"), "--faces", "none"]
    command += ["--out", str(tmp_path / "a.csv")]
    done = subprocess.run([sys.executable, "-c", code, *command], capture_output=True, text=True, check=True)
    assert done.stdout == "0 set()\n" and (tmp_path / "a.png").exists()


@pytest.fixture
def painted(monkeypatch):
    """What is drawn into overlays, in order: before the encoder, whose threads may change a level here and there."""
    pictures: list[np.ndarray] = []

    def paint(self, picture, faces, paint=Painter.paint):
        pictures.append(paint(self, picture, faces))
        return pictures[-1]

    monkeypatch.setattr(Painter, "paint", paint)
    return pictures


def test_the_overlay_shows_the_boxes_of_the_prediction_without_another_detection(
    folder, tmp_path, config, painted, monkeypatch
):
    detector, runs = Spots(), []
    monkeypatch.setattr(predictor, "make_detector", lambda name, model: detector)
    monkeypatch.setattr(Spots, "detect", lambda self, frame, detect=Spots.detect: runs.append(1) or detect(self, frame))
    videos = [folder / "a.mp4", folder / "b.mp4"]
    done = predict_videos(videos, config(out=None))
    without, runs[:] = len(runs), []
    done = predict_videos(videos, config(out=None, overlay=tmp_path / "o.mp4"))
    assert len(runs) == without and len(done.overlays) == 2 and len(painted) == 80
    for video in done.videos:
        reader = Predictor(folder / "model", "cpu", "fp32", faces=detector).reader
        write_overlay(video, done.rows_of(video), reader, tmp_path / "again.mp4")
    assert len(runs) == 2 * without
    np.testing.assert_array_equal(painted[:80], painted[80:])


def test_the_overlay_of_a_resumed_run_detects_what_the_run_before_did_not_keep(
    folder, tmp_path, config, painted, monkeypatch
):
    videos, overlay = [folder / "a.mp4", folder / "b.mp4"], tmp_path / "o.mp4"
    predict_videos(videos, config(out=tmp_path / "whole.csv", overlay=overlay))
    settings, run = config(out=tmp_path / "t.csv", overlay=overlay), Predictor.run

    def interrupted(self, names, on_frame, on_faces):
        for video, item in run(self, names, on_frame, on_faces):
            yield video, item
            if item is None:
                raise KeyboardInterrupt

    monkeypatch.setattr(Predictor, "run", interrupted)
    with pytest.raises(KeyboardInterrupt):
        predict_videos(videos, settings)
    monkeypatch.setattr(Predictor, "run", run)
    done = predict_videos(videos, replace(settings, resume=True))
    assert len(done.overlays) == 2
    np.testing.assert_array_equal(painted[:80], painted[80:])


def test_without_out_nothing_is_written(folder, tmp_path, config):
    done = predict_videos([folder / "a.mp4", folder / "b.mp4"], config(out=None))
    assert done.table["track"].nunique() == 2 and len(done.table) > 6
    assert (done.out, done.written, done.failures) == (None, [], {})
    assert list(tmp_path.iterdir()) == []
    written = predict_videos([folder / "a.mp4", folder / "b.mp4"], config(out=tmp_path / "t.csv"))
    pd.testing.assert_frame_equal(done.table, written.table)


def test_a_folder_stands_for_the_videos_in_it_and_one_video_needs_no_list(folder, config):
    found = predict_videos(folder, config(out=None))
    assert found.videos == (str(folder / "a.mp4"), str(folder / "b.mp4"))
    pd.testing.assert_frame_equal(found.table, predict_videos(found.videos, config(out=None)).table)
    alone = predict_videos(str(folder / "a.mp4"), config(out=None))
    assert alone.videos == (str(folder / "a.mp4"),) and len(alone.table) == len(found.rows_of(alone.videos[0]))


def test_a_packed_folder_is_told_from_one_of_frames(folder, tmp_path, config):
    for name in ("pack.json", "failures.csv", "val.csv"):
        (tmp_path / name).write_text("{}")
    (failure,) = predict_videos(tmp_path, config(out=None)).failures.values()
    assert failure == f"{tmp_path}: is a packed dataset; give one of its manifests, such as {tmp_path / 'val.csv'}"


def test_pictures_beside_the_videos_of_a_folder_are_told(folder, tmp_path, config, capsys):
    album = tmp_path / "album"
    shutil.copytree(folder, album, ignore=shutil.ignore_patterns("model"))
    for name in ("cover.jpg", "sub/1.png"):
        (album / name).parent.mkdir(exist_ok=True)
        (album / name).write_bytes(b"")
    assert len(predict_videos(album, config(out=None, model=str(folder / "model"))).videos) == 2
    assert f"{album}: 2 of its files are pictures, which are left out" in capsys.readouterr().err


def test_a_page_may_be_written_without_a_table(folder, tmp_path, config):
    done = predict_videos([folder / "a.mp4"], config(out=None, report=tmp_path / "p.html"))
    assert done.written == [tmp_path / "p.html"] == list(tmp_path.iterdir())


def test_names_in_another_unicode_form_are_found(folder, tmp_path, config):
    on_disk, typed = (normalize(form, "café") for form in ("NFD", "NFC"))
    (tmp_path / on_disk).mkdir()
    shutil.copy(folder / "a.mp4", tmp_path / on_disk / f"{on_disk}.mp4")
    (tmp_path / "list.csv").write_text(f"path\n{typed}/{typed}.mp4\n", encoding="utf-8")
    for source in (tmp_path / "list.csv", tmp_path / typed / f"{typed}.mp4", tmp_path / typed):
        done = predict_videos(source, config(out=None))
        assert len(done.videos) == 1 and not done.table.empty and done.failures == {}


def test_backslashes_in_a_path_are_pointed_out(folder, config, monkeypatch):
    monkeypatch.chdir(folder.parent)
    with pytest.raises(UserError, match=r"a\.mp4, so write / in place of"):
        predict_videos(f"{folder.name}\\a.mp4", config(out=None))


def test_if_all_videos_fail_nothing_is_written(tmp_path, config):
    (tmp_path / "text.mp4").write_text("no video")
    done = predict_videos([tmp_path / "text.mp4"], config(out=tmp_path / "t.csv"))
    assert list(done.failures) == [str(tmp_path / "text.mp4")]
    assert done.table.empty and done.written == []
    assert [path.name for path in tmp_path.iterdir()] == ["text.mp4"]


def test_ctrl_c_ends_a_live_source_and_interrupts_a_file(folder, tmp_path, config, monkeypatch, capsys):
    rows = list(Predictor(folder / "model", "cpu", "fp32", faces=Spots()).stream(folder / "a.mp4"))

    def interrupted(self, names, on_frame):
        on_frame(names[0], 1, None, 25.0)
        yield from ((names[0], row) for row in rows)
        raise KeyboardInterrupt

    monkeypatch.setattr(Predictor, "run", interrupted)
    done = predict_videos(["rtsp://host/live"], config(out=tmp_path / "live.csv"))
    assert len(done.table) == len(rows) and set(done.table["video"]) == {"rtsp://host/live"} and done.failures == {}
    assert {path.name for path in done.written} == {"live.csv", "live.csv.about.json", "live.png"}
    with pytest.raises(KeyboardInterrupt):
        predict_videos([folder / "a.mp4"], config(out=tmp_path / "t.csv"))
    assert f"the rows so far are in {tmp_path / 't.csv.part'}" in " ".join(capsys.readouterr().err.split())
    assert part_of(tmp_path / "t.csv").read_text().count("a.mp4") == len(rows)


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "json", "parquet"])
def test_a_complete_table_is_read_and_not_made_again(suffix, folder, tmp_path, config, monkeypatch):
    settings = config(out=tmp_path / f"t.{suffix}", resume=True)
    first = predict_videos([folder / "a.mp4"], settings)
    monkeypatch.setattr(predictor, "Predictor", None)
    again = predict_videos([folder / "a.mp4"], settings)
    assert again.was_complete and not first.was_complete
    pd.testing.assert_frame_equal(again.table, first.table)


def test_resume_writes_the_summary_that_is_missing(folder, tmp_path, config, monkeypatch):
    settings = config(out=tmp_path / "t.csv", summary=tmp_path / "s.csv")
    predict_videos([folder / "a.mp4"], settings)
    first = (tmp_path / "s.csv").read_text()
    (tmp_path / "s.csv").unlink()
    monkeypatch.setattr(predictor, "Predictor", None)
    again = predict_videos([folder / "a.mp4"], replace(settings, resume=True))
    assert again.summary == tmp_path / "s.csv" and (tmp_path / "s.csv").read_text() == first


def test_lists_that_cannot_fit_are_refused_before_the_prediction(folder, tmp_path, config, monkeypatch):
    persons, spans = tmp_path / "people.csv", tmp_path / "spans.csv"

    def fails(**settings):
        with pytest.raises(UserError) as error:
            predict_videos(folder / "a.mp4", config(out=tmp_path / "t.csv", **settings))
        return str(error.value)

    with monkeypatch.context() as patch:
        patch.setattr(predictor.Predictor, "run", None)
        assert "gives probabilities alone" in fails(baseline="median")
        persons.write_text("video,track,person\nb.mp4,1,Anna\n")
        assert "people.csv: video b.mp4 is not among the videos" in fails(persons=persons)
        for line, message in (
            ("video,start,end", "no column start_s, end_s"),
            ("video,start_s,end_s\nb.mp4,0,1", "spans.csv: video b.mp4 is not among the videos"),
            (f"video,start_s,end_s\n{folder / 'a.mp4'},1,0", "spans.csv, line 2: start_s and end_s must be seconds"),
        ):
            spans.write_text(line)
            assert message in fails(baseline=str(spans))
    assert not list(tmp_path.glob("t.csv*"))
    persons.write_text(f"video,track,person\n{folder / 'a.mp4'},9,Anna\n")
    assert re.search(r"track 9 is not in the table.*All rows are in .*t\.csv\.part", fails(persons=persons))
    persons.write_text(f"video,track,person\n{folder / 'a.mp4'},1,Anna\n")
    monkeypatch.setattr(predictor.Predictor, "_read", lambda self, videos, *more: iter(()))  # nothing is left to read
    done = predict_videos(folder / "a.mp4", config(out=tmp_path / "t.csv", persons=persons, resume=True))
    assert "Anna" in set(done.table["person"]) and not done.failures


def test_names_of_videos_stay_text_when_read(tmp_path):
    for name in ("t.csv", "t.jsonl", "t.json", "t.parquet"):
        with TableWriter(tmp_path / name, ["video", "track", "joy"], {}) as writer:
            writer.add("0", {"track": 1, "joy": 1 / 3})
            writer.add("NA", {"track": 2, "joy": float("nan")})
            table = writer.finish(write_table)
        read = read_predictions(tmp_path / name)
        assert read["video"].tolist() == ["0", "NA"] and np.isnan(read["joy"][1])
        assert read["joy"][0] == pytest.approx(1 / 3, rel=1e-14 if name == "t.json" else 0)
        pd.testing.assert_frame_equal(read, table, rtol=1e-14)
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(UserError, match=r"bad\.json: is not a readable table"):
        read_predictions(tmp_path / "bad.json")


def test_a_part_that_an_interrupted_run_left_is_never_overwritten(folder, tmp_path, config):
    out = tmp_path / "t.csv"
    with TableWriter(out, ["video", "joy"], {}) as writer:
        writer.add("a.mp4", {"joy": 1.0})
    for resume, message in ((False, "holds the rows of an interrupted run"), (True, "was made with other settings")):
        with pytest.raises(UserError, match=message):
            predict_videos([folder / "a.mp4"], config(out=out, resume=resume))
        assert part_of(out).read_text() == "video,joy\na.mp4,1.0\n"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"out": Path("t.txt")}, "out=t.txt: the suffix must be one of .csv, .jsonl, .json, .parquet, .xlsx"),
        ({"out": Path("folder.csv")}, "out=folder.csv: is a folder"),
        ({"overlay": Path("o.gif")}, "overlay=o.gif: the suffix must be one of .mp4, .mov, .mkv"),
        ({"report": Path("p.pdf")}, "report=p.pdf: the suffix must be one of .html"),
        ({"face_model": Path("none.onnx")}, "face_model=none.onnx: no such file"),
        ({"hop_s": 0.0}, "hop_s=0.0: must be more than 0"),
        ({"timeout_s": -1.0}, "timeout_s=-1.0: must be more than 0"),
        ({"batch_size": 0}, "batch_size=0: must be at least 1"),
        ({"detect_every": 0}, "detect_every=0: must be at least 1"),
        ({"margin": 3.0}, "margin=3.0: must be from 0 to 2"),
        ({"out": None, "resume": True}, "resume=True: without `out`"),
    ],
    ids=str,
)
def test_settings_that_cannot_be_used(settings, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("folder.csv").mkdir()
    with pytest.raises(UserError, match=message):
        PredictConfig(model="m", **settings)


def test_mistakes_are_found_before_torch_is_imported(folder, tmp_path):
    out = tmp_path / "t.csv"
    with TableWriter(out, ["video", "joy"], {}) as writer:
        writer.add("a.mp4", {"joy": 1.0})
    video, none = str(folder / "a.mp4"), str(tmp_path / "none")
    arguments = ["--model", str(folder / "model"), "--out"]
    cases = [
        (["predict", none, *arguments, str(tmp_path / "u.csv")], f"{none}: no such file or folder"),
        (["predict", video, "--model", none], f"model={none}: no such folder"),
        (["predict", video, *arguments, str(tmp_path / "t.txt")], "the suffix must be one of"),
        (["predict", video, *arguments, str(out)], "holds the rows of an interrupted run"),
        (["reconstruct", none, *arguments, str(tmp_path / "r")], f"{none}: no such file or folder"),
        (["reconstruct", f"{folder}\\a.mp4", *arguments, str(tmp_path / "r")], f"there is {video}, so write /"),
        (["reconstruct", video, "--model", none], f"model={none}: no such folder"),
    ]
    code = f"import sys; from svfap.cli.main import main\nfor arguments in {[case[0] for case in cases]}: main(arguments)\n"
    code += "print('torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stdout == "False\n"
    lines = done.stderr.splitlines()
    assert len(lines) == len(cases)
    for line, (arguments, message) in zip(lines, cases, strict=True):
        assert line.startswith(f"svfap {arguments[0]}: error: ") and message in line
