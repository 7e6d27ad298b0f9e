"""Several videos at a time: the same files as one after another, one failure is one failure, and a stop leaves nothing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pandas as pd
import pytest
from fake_faces import Spots, film, frames, two_films

import svfap.jobs.run as jobs_module
from svfap.cli.main import main
from svfap.errors import UserError
from svfap.jobs.task import Task, do
from svfap.predict import predictor
from svfap.predict.about import about_of
from svfap.predict.config import PredictConfig
from svfap.predict.draw import Painter
from svfap.predict.predict import predict_videos
from svfap.predict.table import part_of

pytestmark = pytest.mark.usefixtures("blank_figures")

Config = Callable[..., PredictConfig]


class Known(Spots):
    name = "haar"  # processes are told the detector's name


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = two_films(tmp_path_factory.mktemp("videos"))
    (folder / "text.mp4").write_text("no video")
    film(folder / "none.mp4", frames([[]] * 20))
    return folder


@pytest.fixture
def videos(folder) -> list[Path]:
    return [folder / name for name in ("a.mp4", "text.mp4", "b.mp4", "none.mp4")]


@pytest.fixture
def config(folder, tmp_path, monkeypatch) -> Config:
    monkeypatch.setattr(predictor, "make_detector", lambda name, model: Known())
    monkeypatch.chdir(tmp_path)
    return lambda **more: PredictConfig(**{"model": str(folder / "model"), "precision": "fp32", **more})


@pytest.fixture
def backwards(monkeypatch) -> list[str]:
    """In place of processes: the tasks are done in this one, the last first. Returns the keys of those that are done."""
    done: list[str] = []

    def run(work, tasks, jobs) -> Iterator[tuple[Task, str | None]]:
        for task in reversed(list(tasks)):
            done.append(task.key)
            yield task, do(work, task)

    monkeypatch.setattr(jobs_module, "run_local", run)
    return done


def below(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def made(out: Path) -> dict:
    return {key: value for key, value in json.loads(about_of(out).read_text("utf-8")).items() if key != "date"}


@pytest.mark.parametrize("suffix", ["csv", pytest.param("parquet", marks=pytest.mark.slow)])
def test_every_file_is_as_of_videos_one_after_another(suffix, videos, tmp_path, config, backwards):
    outs = [tmp_path / name / f"t.{suffix}" for name in ("one", "many")]
    one, many = (predict_videos(videos, config(out=out, num_workers=n)) for out, n in zip(outs, (0, 2), strict=True))
    assert backwards == list(map(str, reversed(videos)))
    assert outs[0].read_bytes() == outs[1].read_bytes() and below(outs[0].parent) == below(outs[1].parent)
    assert made(outs[0]) == made(outs[1]) and many.failures == one.failures and len(many.failures) == 1
    pd.testing.assert_frame_equal(many.table, one.table)
    assert set(many.timelines) == {str(videos[0]), str(videos[2])}


def test_overlays_are_drawn_in_processes_too_with_the_boxes_that_were_found(
    videos, tmp_path, config, backwards, monkeypatch
):
    searched, painted, detect = [], [], Known.detect
    monkeypatch.setattr(Known, "detect", lambda self, frame: searched.append(1) or detect(self, frame))
    paint = Painter.paint
    monkeypatch.setattr(
        Painter, "paint", lambda self, frame, faces: painted.append((frame.sum(), faces)) or paint(self, frame, faces)
    )
    found = {}
    for name, number in (("one", 0), ("two", 2)):
        done = predict_videos(videos, config(out=None, overlay=tmp_path / name / "o.mp4", num_workers=number))
        found[name] = (len(searched), {Path(video).name: file.name for video, file in done.overlays.items()})
        drawn = sorted(map(str, painted))
        assert drawn and below(tmp_path / name) == {"o_1_a.mp4", "o_3_b.mp4", "o_4_none.mp4"}
        searched.clear(), painted.clear()
        found[name] += (drawn,)
    assert found["one"] == found["two"]
    assert backwards == [*map(str, reversed(videos)), *(str(videos[n]) for n in (3, 2, 0))]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Painter, "paint", lambda *arguments: 1 / 0)
        done = predict_videos(videos, config(out=None, overlay=tmp_path / "o.mp4", num_workers=2))
    assert done.overlays == {} and done.failures[str(videos[0])] == f"{videos[0]}: ZeroDivisionError: division by zero"
    assert below(tmp_path) == {f"{name}/{file}" for name in found for file in found[name][1].values()}


@pytest.mark.slow
def test_two_processes_write_the_same_table(videos, folder, tmp_path, monkeypatch, capfd):
    """With real processes, which know no detector of tests: whole pictures, so that there is something to predict."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # as this process has
    arguments = ["predict", *map(str, videos), "--model", str(folder / "model"), "--faces", "none", "--out"]
    for out, more in (("one.csv", []), ("two.csv", ["--num_workers", "2"])):
        assert main([*arguments, str(tmp_path / out), *more]) == 1
        said = capfd.readouterr().err
        assert said.count("error: ") == 1 and f"svfap predict: error: {videos[1]}: not a readable video" in said
    assert (tmp_path / "one.csv").read_bytes() == (tmp_path / "two.csv").read_bytes()
    assert not list(tmp_path.glob(".*"))


def test_each_process_loads_the_model_once(videos, config, backwards, monkeypatch):
    loaded, load = [], predictor.load_for_inference
    monkeypatch.setattr(predictor, "load_for_inference", lambda name: loaded.append(name) or load(name))
    predict_videos(videos, config(out=None, num_workers=2))
    assert len(loaded) == 2  # the main process, and the one in which the tasks are done


def test_messages_are_shown_once_and_by_the_main_process(folder, tmp_path, config, backwards, capfd):
    for name in ("x.mp4", "y.mp4"):
        film(tmp_path / name, frames([[(30, 20)]] * 30), ticks=[6 * i for i in range(30)])  # 4 pictures per second
    predict_videos([tmp_path / "x.mp4", tmp_path / "y.mp4", folder / "a.mp4"], config(out=None, num_workers=2))
    said = " ".join(capfd.readouterr().err.split())
    assert said.count("said once for all files of this rate") == 1 and str(tmp_path / "y.mp4") in said


@pytest.mark.parametrize("first", [pytest.param(0, marks=pytest.mark.slow), 2])
def test_an_interrupted_run_is_resumed_by_either_kind(first, videos, tmp_path, config, backwards, monkeypatch, capsys):
    whole, out = tmp_path / "whole.csv", tmp_path / "t.csv"
    predict_videos(videos, config(out=whole))
    one_at_a_time, several = predictor.Predictor.run, jobs_module.run_local

    def stopped(self, names, *listeners):
        for name, item in one_at_a_time(self, names, *listeners):
            yield name, item
            if len(names) > 1 and item is None:
                raise KeyboardInterrupt

    def stopped_processes(work, tasks, jobs):
        for number, result in enumerate(several(work, tasks, jobs)):
            if number == 2:
                raise KeyboardInterrupt
            yield result

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(predictor.Predictor, "run", stopped)
        patch.setattr(jobs_module, "run_local", stopped_processes)
        predict_videos(videos, config(out=out, num_workers=first))
    assert "continue with --resume" in " ".join(capsys.readouterr().err.split())
    backwards.clear()
    predict_videos(videos, config(out=out, num_workers=2 - first, resume=True))
    assert out.read_bytes() == whole.read_bytes() and not part_of(out).exists()
    assert len(backwards) == (3 if first == 0 else 0)
    assert {path.name for path in tmp_path.iterdir() if path.name.startswith((".", "t.csv"))} == {
        "t.csv", "t.csv.about.json"
    }  # fmt: skip


def test_a_process_that_dies_or_takes_too_long_fails_its_video_alone(videos, tmp_path, config, backwards, monkeypatch):
    several = jobs_module.run_local

    def dying(work, tasks, jobs):
        for task in list(tasks):
            died = task.key == str(videos[2])
            yield (task, "took longer than 9 s") if died else next(several(work, iter([task]), jobs))

    monkeypatch.setattr(jobs_module, "run_local", dying)
    done = predict_videos(videos, config(out=tmp_path / "t.csv", item_timeout_s=9.0))
    assert done.failures[str(videos[2])] == f"{videos[2]}: took longer than 9 s" and len(done.failures) == 2
    assert set(done.table["video"]) == {str(videos[0])}


def test_one_video_is_predicted_in_this_process(videos, config, backwards):
    assert len(predict_videos(videos[:1], config(out=None, num_workers=2)).table) == 3
    assert backwards == []
    predict_videos(videos[:1], config(out=None, item_timeout_s=60.0))
    assert backwards == [str(videos[0])]


def test_what_processes_cannot_do_is_refused_at_once(videos, config):
    with pytest.raises(UserError, match=r"rtsp://host/live: Ctrl-C ends a live source, but not one in another process"):
        predict_videos(["rtsp://host/live", videos[0]], config(out=None, num_workers=2))
    with pytest.raises(UserError, match="engine=ray: needs `out`"):
        config(out=None, engine="ray")


@pytest.mark.slow
def test_ctrl_c_ends_all_processes_and_leaves_only_the_rows(folder, tmp_path):
    """Ctrl-C of a terminal goes to all processes."""
    videos = [
        str(film(tmp_path / f"{n}.mp4", frames([[(30, 20)]] * count))) for n, count in enumerate((30, 9000, 9000))
    ]
    command = [sys.executable, "-m", "svfap", "predict", *videos, "--model", str(folder / "model"), "--faces", "none"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "TMPDIR": str(tmp_path)}
    run = subprocess.Popen(
        [*command, "--hop_s", "0.04", "--num_workers", "2", "--out", "t.csv"],
        env=environment, cwd=tmp_path, stderr=subprocess.PIPE, text=True, start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip
    try:
        log = tmp_path / "t.csv.part.log"
        deadline = time.monotonic() + 120
        while not (log.exists() and videos[0] in log.read_text()):
            assert time.monotonic() < deadline and run.poll() is None
            time.sleep(0.05)
        os.killpg(run.pid, signal.SIGINT)
        said = run.communicate(timeout=60)[1]
    finally:
        run.kill()
    assert run.returncode == 130 and "Traceback" not in said and "continue with --resume" in " ".join(said.split())
    while _is_left(run.pid):  # Python's resource tracker ends after the others
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert {path.name for path in tmp_path.iterdir()} == {"0.mp4", "1.mp4", "2.mp4", "t.csv.part", "t.csv.part.log"}


def _is_left(group: int) -> bool:
    """Whether a process of the group is left."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def test_the_command_takes_the_options_of_jobs(videos, folder, tmp_path, config, backwards):
    arguments = ["--model", str(folder / "model"), "--precision", "fp32", "--out", str(tmp_path / "t.csv")]
    assert main(["predict", *map(str, videos), *arguments, "--num_workers", "2"]) == 1
    assert len(backwards) == len(videos)
