"""No table is lost or mixed: one run at a time, complete tables kept, odd names, full disks; and each says how it was made."""

from __future__ import annotations

import json
import os
import re
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from fake_faces import SIDE, Spots, film, frames, model, two_films
from PIL import Image

import svfap
from svfap.cli.main import main
from svfap.errors import UserError
from svfap.files import only_writer
from svfap.predict import predictor
from svfap.predict.about import about_of
from svfap.predict.config import PredictConfig
from svfap.predict.predict import Predictions, predict_videos
from svfap.predict.predictor import Predictor
from svfap.predict.table import TableWriter, part_of, read_predictions
from svfap.predict.writing import write_table

pytestmark = pytest.mark.usefixtures("blank_figures")

ODD = os.fsdecode(b"caf\xe9.mp4")  # as from an archive made on Windows
SHOWN = r"caf\udce9.mp4"
Config = Callable[..., PredictConfig]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return two_films(tmp_path_factory.mktemp("videos"))


@pytest.fixture
def config(folder, tmp_path, monkeypatch) -> Config:
    monkeypatch.setattr(predictor, "make_detector", lambda name, model: Spots())
    monkeypatch.chdir(tmp_path)
    return lambda **more: PredictConfig(**{"model": str(folder / "model"), "precision": "fp32", **more})


@pytest.fixture
def no_work(monkeypatch) -> Callable[[], None]:
    """After the call, loading a model is an error of the test."""

    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("the model is loaded")

    return lambda: monkeypatch.setattr(predictor, "Predictor", refuse)


@contextmanager
def largest_file(num_bytes: int) -> Iterator[None]:
    """Writing beyond this size fails, as on a full disk."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


# one run at a time ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("taken", ["t.csv", "o.mp4", "p.html"])
def test_files_that_another_run_writes_are_refused_before_work(taken, folder, tmp_path, config, no_work):
    no_work()
    outputs = {"out": tmp_path / "t.csv", "overlay": tmp_path / "o.mp4", "report": tmp_path / "p.html"}
    with only_writer(tmp_path / taken), pytest.raises(UserError, match=f"{taken}: is being written by another run"):
        predict_videos([folder / "a.mp4"], config(**outputs))
    assert list(tmp_path.iterdir()) == []


def test_the_lock_is_held_while_rows_are_written(folder, tmp_path, config, monkeypatch):
    seen, real = [], Predictor.run

    def observed(self, names, on_frame=None):
        with pytest.raises(UserError, match="is being written by another run"):
            predict_videos([folder / "b.mp4"], config(out=tmp_path / "t.csv"))
        seen.append(names)
        yield from real(self, names, on_frame)

    monkeypatch.setattr(Predictor, "run", observed)
    done = predict_videos([folder / "a.mp4"], config(out=tmp_path / "t.csv"))
    assert seen == [[str(folder / "a.mp4")]]
    assert set(read_predictions(tmp_path / "t.csv")["video"]) == set(done.table["video"]) == {str(folder / "a.mp4")}


# what is there is kept -----------------------------------------------------------------------------------------------


def test_a_complete_table_is_replaced_only_on_request(folder, tmp_path, config, no_work):
    out = tmp_path / "t.csv"
    predict_videos([folder / "a.mp4"], config(out=out))
    before = out.read_bytes()
    with pytest.raises(UserError, match=r"t\.csv: exists; choose another --out, or --overwrite"):
        predict_videos([folder / "b.mp4"], config(out=out))
    assert out.read_bytes() == before
    done = predict_videos([folder / "b.mp4"], config(out=out, overwrite=True))
    assert set(read_predictions(out)["video"]) == set(done.table["video"]) == {str(folder / "b.mp4")}
    (tmp_path / "empty.csv").touch()  # made by `mktemp`: nothing is lost
    assert len(predict_videos([folder / "a.mp4"], config(out=tmp_path / "empty.csv")).table)
    no_work()
    again = predict_videos([folder / "b.mp4"], config(out=out, resume=True))
    assert again.was_complete and again.about == about_of(out)
    (picture,) = again.timelines.values()
    picture.unlink()  # killed before it was drawn
    (tmp_path / f".{out.name}.lock").touch()
    assert predict_videos([folder / "b.mp4"], config(out=out, resume=True)).was_complete and picture.exists()
    assert not (tmp_path / f".{out.name}.lock").exists()
    for videos, more, message in (
        (["a.mp4", "b.mp4"], {}, r"is complete, and was made of other videos, without .*a\.mp4"),
        (["b.mp4"], {"hop_s": 0.2}, r"was made with other settings \(hop_s: auto then, 0.2 now\)"),
    ):
        with pytest.raises(UserError, match=message):
            predict_videos([folder / name for name in videos], config(out=out, resume=True, **more))


def interrupted(folder: Path, out: Path, config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run over a.mp4 and b.mp4 that is stopped within b.mp4."""
    real = Predictor.run

    def broken(self, names, on_frame=None):
        for name, item in real(self, names, on_frame):
            if name == names[1]:
                raise KeyboardInterrupt
            yield name, item

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Predictor, "run", broken)
        predict_videos([folder / "a.mp4", folder / "b.mp4"], config(out=out))


def test_a_table_holds_no_video_that_its_run_does_not_name(folder, tmp_path, config, monkeypatch):
    out = tmp_path / "t.csv"
    interrupted(folder, out, config, monkeypatch)
    with pytest.raises(UserError, match=r"holds the rows of .*a\.mp4, which is not among the videos of this run"):
        predict_videos([folder / "b.mp4"], config(out=out, resume=True))
    assert not out.exists()
    done = predict_videos([folder / "a.mp4", folder / "b.mp4"], config(out=out, resume=True))
    whole = predict_videos([folder / "a.mp4", folder / "b.mp4"], config(out=tmp_path / "whole.csv"))
    pd.testing.assert_frame_equal(done.table, whole.table, rtol=1e-4)
    videos = [str(folder / "a.mp4"), str(folder / "b.mp4")]
    assert json.loads(about_of(out).read_text())["rates"] == dict.fromkeys(videos, 25.0)


def test_another_model_under_the_same_name_does_not_go_on(folder, tmp_path, config, monkeypatch):
    place = tmp_path / "model"
    model().save_pretrained(place)
    out, ours = tmp_path / "t.csv", lambda **more: config(model=str(place), **more)
    interrupted(folder, out, ours, monkeypatch)
    other = model()
    other.head.bias.data += 1
    other.save_pretrained(place)
    with pytest.raises(UserError, match=r"was made with other settings \(weights: \w{16} then, \w{16} now\)"):
        predict_videos([folder / "a.mp4", folder / "b.mp4"], ours(out=out, resume=True))


# names ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "json", "parquet"])
def test_names_that_are_not_utf8_in_tables(suffix, folder, tmp_path, config):
    (tmp_path / ODD).write_bytes((folder / "a.mp4").read_bytes())
    out = tmp_path / f"t.{suffix}"
    done = predict_videos([ODD, folder / "b.mp4"], config(out=out))
    assert done.failures == {} and done.videos == (ODD, str(folder / "b.mp4"))
    assert len(done.rows_of(ODD)) == 3
    table = read_predictions(out)
    assert table["video"].tolist()[:3] == [SHOWN] * 3
    assert (table["video"] == str(folder / "b.mp4")).sum() == 6
    assert predict_videos([ODD], config(out=out, resume=True)).was_complete
    assert json.loads(about_of(out).read_text("utf-8"))["rates"][SHOWN] == 25


def test_names_that_are_not_utf8_in_page_overlay_and_timeline_and_when_resumed(folder, tmp_path, config, capsys):
    (tmp_path / ODD).write_bytes((folder / "a.mp4").read_bytes())
    videos = [ODD, str(folder / "b.mp4")]
    arguments = ["--model", str(folder / "model"), "--precision", "fp32", "--out", "t.csv", "--report", "p.html"]
    assert main(["predict", *videos, *arguments, "--overlay", "o.mp4"]) == 0
    said = capsys.readouterr().err
    assert f"{SHOWN}: 3 rows of 1 face" in said and "Traceback" not in said
    assert {path.name for path in tmp_path.iterdir()} == {
        *(ODD, "t.csv", "t.csv.about.json", "p.html"),
        *("t_1_caf_.png", "t_2_b.png", "o_1_caf_.mp4", "o_2_b.mp4"),
    }
    text = (tmp_path / "p.html").read_text("utf-8")
    assert f"<h2>{SHOWN}</h2>" in text and "pictures are missing" not in text
    with TableWriter(tmp_path / "u.csv", ["video", "joy"], {}) as writer:
        writer.add(ODD, {"joy": 0.5})
        writer.end_video(ODD, f"{ODD}: broken", 25.0)
    with TableWriter(tmp_path / "u.csv", ["video", "joy"], {}, resume=True) as writer:
        assert writer.ended == {SHOWN: f"{SHOWN}: broken"} and writer.rates == {SHOWN: 25.0}
        assert writer.finish(write_table)["video"].tolist() == [SHOWN]


# full disks ----------------------------------------------------------------------------------------------------------


def test_a_full_disk_at_the_start_or_while_rows_are_written_is_one_line_and_can_be_resumed(
    folder, tmp_path, config, capsys
):
    arguments = [str(folder / "a.mp4"), "--model", str(folder / "model"), "--precision", "fp32", "--out", "t.csv"]
    arguments += ["--hop_s", "0.04"]
    for size in (0, 1500):
        with largest_file(size):
            assert main(["predict", *arguments, "--resume"]) == 1
        errors = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
        assert len(errors) == 1 and "cannot be written (File too large); the rows until then are kept" in errors[0]
    assert part_of(tmp_path / "t.csv").exists()
    assert main(["predict", *arguments, "--resume"]) == 0
    whole = predict_videos(folder / "a.mp4", config(out=None, hop_s=0.04))
    pd.testing.assert_frame_equal(read_predictions(tmp_path / "t.csv"), whole.table, rtol=1e-4)


def test_a_full_disk_while_the_page_is_written_is_one_line(folder, tmp_path, config, capsys):
    arguments = [str(folder / "a.mp4"), "--model", str(folder / "model"), "--precision", "fp32", "--out", "t.csv"]
    (tmp_path / "p.html").write_text("before")
    with largest_file(30_000), pytest.MonkeyPatch.context() as patch:
        patch.setattr("svfap.view.figures.base.save_figure", lambda figure, path: None)  # the timeline is larger
        assert main(["predict", *arguments, "--report", "p.html"]) == 1
    said = capsys.readouterr().err
    assert "p.html: cannot be written (File too large)" in said and "Traceback" not in said
    assert (tmp_path / "p.html").read_text() == "before" and len(read_predictions(tmp_path / "t.csv")) == 3


# how it was made -----------------------------------------------------------------------------------------------------


def made(done: Predictions) -> dict:
    assert done.about is not None
    return json.loads(done.about.read_text("utf-8"))


def test_a_table_says_how_it_was_made(folder, tmp_path, config):
    (tmp_path / "text.mp4").write_text("no video")
    settings = {"hop_s": 0.2, "margin": 0.5, "report": tmp_path / "p.html"}
    done = predict_videos([folder / "a.mp4", tmp_path / "text.mp4"], config(out=tmp_path / "t.csv", **settings))
    about = made(done)
    assert about["svfap"] == svfap.__version__
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", about["date"])
    assert about["model"] == str(folder / "model") and re.fullmatch(r"[0-9a-f]{16}", about["weights"])
    assert (about["window_frames"], about["window_stride"], about["settings"]["hop_s"]) == (16, 1, 0.2)
    assert about["crop"] == {"size_px": 32, "margin": 0.5, "align": False, "border": "grey"}
    assert about["detector"] == "spots" and about["tracking"]["min_face_px"] == 32
    assert about["videos"] == [str(folder / "a.mp4"), str(tmp_path / "text.mp4")]
    assert about["rates"] == {str(folder / "a.mp4"): 25.0} and list(about["failures"]) == [str(tmp_path / "text.mp4")]
    sentence = (
        f"Affect was predicted with SVFAP {svfap.__version__} (Sun et al., 2024; model {folder / 'model'}, weights "
        f"{about['weights']}) in windows of 16 frames, consecutive frames at 25 frames per second (0.64 s), starting every "
        "0.2 s. The last window of a face ends at its last frame and may overlap the one before. "
        "Faces were detected with spots, tracked, and cut out as squares with a margin of 50% of the face box on every "
        "side (32 px; beyond the picture's edge filled with grey). Faces smaller than 32 px were left out. "
        "2 videos were given; 1 of them could not be read, or not to the end."
    )
    assert about["methods"] == sentence
    page = (tmp_path / "p.html").read_text("utf-8")
    assert f"<q>{sentence.replace(chr(39), '&#39;')}</q>" in page
    assert '<th scope="row">Window</th><td>16 frames, stride 1, 0.64 s</td>' in page
    assert '<th scope="row">Hop</th><td>0.2 s</td>' in page
    assert "detect_every default, max_gap_s 0.5" in page
    columns = (tmp_path / "t.csv").read_text().splitlines()[0]
    assert columns.startswith("video,track,start_s"), "the table itself stays plain CSV"


def test_without_faces_and_at_several_rates(folder, tmp_path, config):
    slow = film(tmp_path / "slow.mp4", frames([[]] * 20), ticks=[2 * i for i in range(20)])
    done = predict_videos([folder / "a.mp4", slow], config(out=tmp_path / "t.json", faces="none", hop_s=None))
    about = made(done)
    assert (about["crop"], about["tracking"], about["detector"]) == ({}, {}, "")
    assert about["methods"].endswith(
        "in windows of 16 frames, consecutive frames at 12.5 to 25 frames per second (0.64 to 1.28 s), one after another. "
        "The last window of a face ends at its last frame and may overlap the one before. "
        "Each whole picture was used as a face, resized to the model's square input whatever its proportions. "
        "2 videos were given."
    )


def test_the_hop_is_told_in_whole_frames(folder, tmp_path, config):
    done = predict_videos(folder / "a.mp4", config(out=tmp_path / "t.csv", hop_s=0.5, report=tmp_path / "p.html"))
    np.testing.assert_allclose(np.diff(done.table[done.table["track"] == 1]["start_s"])[:2], 0.48, atol=1e-6)
    assert ", starting every 0.48 s. " in made(done)["methods"]
    assert '<th scope="row">Hop</th><td>0.48 s</td>' in (tmp_path / "p.html").read_text("utf-8")


def test_of_a_picture_no_frame_rate_is_said(folder, tmp_path, config):
    image = np.ascontiguousarray(next(frames([[(30, 20)]])))
    Image.fromarray(image).save(tmp_path / "face.png")
    done = predict_videos(tmp_path / "face.png", config(out=tmp_path / "t.csv", report=tmp_path / "p.html"))
    about = made(done)
    assert about["videos"] == [str(tmp_path / "face.png")] and about["rates"] == {}
    assert f"weights {about['weights']}) in single pictures. Faces were detected" in about["methods"]
    assert not {"Window", "Hop", "Frames per second"} & set(
        re.findall(r'<th scope="row">(.*?)</th>', (tmp_path / "p.html").read_text("utf-8"))
    )
    both = made(
        predict_videos([tmp_path / "face.png", folder / "a.mp4"], config(out=tmp_path / "both.csv", hop_s=None))
    )
    assert "(0.64 s), one after another and in single pictures. The last window" in both["methods"]
    assert predict_videos(tmp_path / "face.png", config(out=tmp_path / "t.csv", resume=True)).was_complete


# sources -------------------------------------------------------------------------------------------------------------


def test_a_manifest_stands_for_its_videos(folder, tmp_path, config):
    (folder / "list.csv").write_text("path,subject\na.mp4,1\nb.mp4,2\n")
    done = predict_videos(folder / "list.csv", config(out=None))
    assert done.videos == (str(folder / "a.mp4"), str(folder / "b.mp4")) and len(done.table) == 9
    (folder / "spans.csv").write_text("path,start_s,end_s\na.mp4,0,1\n")
    with pytest.raises(UserError, match=r"spans\.csv: has a span or a box of a\.mp4, and predict takes whole videos"):
        predict_videos(folder / "spans.csv", config(out=None))


@pytest.mark.parametrize(
    ("pause_s", "faces", "tracks", "pieces"), [(60, "auto", 2, 0), (1.2, "auto", 1, 2), (60, "none", 0, 2)]
)
def test_a_pause_of_the_recorder_is_a_gap(pause_s, faces, tracks, pieces, tmp_path, config):
    """72 pictures at 25 per second, a pause, 72 pictures: no row covers the pause, and the page shows two pieces or faces."""
    ticks = [i + (i >= 72) * round(25 * pause_s) for i in range(144)]
    video = film(tmp_path / "pause.mkv", frames([[(30, 20)]] * 144), ticks=ticks)
    done = predict_videos(video, config(out=None, faces=faces, hop_s=None, report=tmp_path / "p.html"))
    spans = done.table[["start_s", "end_s"]].to_numpy()
    assert len(spans) == 2 * 5
    assert spans[:5].max() == pytest.approx(2.88, abs=0.03)
    assert spans[5:].min() == pytest.approx(2.88 + pause_s, abs=0.03)
    assert (done.table["track"].nunique() if "track" in done.table else 0) == tracks
    text = (tmp_path / "p.html").read_text("utf-8")
    assert re.findall(r"(\d+) pieces with gaps between", text) == [str(pieces)] * (pieces > 0)


def test_boxes_are_those_of_large_spots(folder, config):
    """The fake faces are larger than the least size that a face must have by default."""
    assert PredictConfig(model="m").min_face_px < SIDE
    assert predict_videos(folder / "a.mp4", config(out=None)).table["track"].nunique() == 1
