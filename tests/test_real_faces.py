"""benchmarks/real_faces.py on a corpus in which the brightness of a frame is its label; its folds, its tables, and resuming."""

from __future__ import annotations

import importlib
import sys
from functools import partial
from itertools import product
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
from conftest import SHARED

from svfap.data.writing import write_video
from svfap.synth.camera import render_clip
from svfap.synth.config import RenderConfig

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"
PEOPLE = {f"person{number}": "train" for number in range(6)} | {"val0": "val", "test0": "test", "test1": "test"}
ROWS, FPS = 14, 25  # labelled frames of each video, five a second; the last clip of four is not full


@pytest.fixture
def benchmark(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    yield importlib.import_module("real_faces")
    for name in ("real_faces", "learning"):
        del sys.modules[name]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    """A video of each of the people: neutral first, then happy; the labels of a frame follow its brightness and its hue."""
    folder, rng = tmp_path_factory.mktemp("corpus"), np.random.default_rng(0)
    config = RenderConfig(size_px=64, fps=10, num_frames=2 * ROWS)
    videos, frames, windows = [], [], []
    for number, (person, split) in enumerate(PEOPLE.items()):
        path = f"clips/{person}.mp4"
        gains = rng.uniform(0.3, 1.0, ROWS) * np.where(np.arange(ROWS) < 7, 0.5, 1.0)
        pictures, _ = render_clip(config, number, number, "happy")
        shown = np.arange(ROWS * 5) // 5  # the row of labels of each picture
        bright = pictures[2 * shown] * gains[shown, None, None, None]
        (folder / "clips").mkdir(exist_ok=True)
        write_video(folder / path, bright.astype(np.uint8), FPS)
        videos.append({"path": path, "subject": person, "split": split, "seconds": ROWS / 5})
        values = {"mp_mouth_open": gains, "mp_smile_width": 2 - gains, "mp_brow_height": gains**2}
        values["mp_eye_open"] = rng.random(ROWS)
        table = pd.DataFrame({"clip": path, "t_s": np.arange(ROWS) / 5, "good": 1, **values})
        table.loc[3, ["good", "mp_mouth_open"]] = 0, 99.0
        frames.append(table)
        for first, last, label in ((0, 7, "neutral"), (7, ROWS, "happy")):
            here = table.iloc[first:last].query("good == 1")
            means = {name.removeprefix("mp_"): here[name].mean() for name in values}
            windows.append({"path": path, "start_s": first / 5, "end_s": last / 5, "label": label, **means})
    pd.DataFrame(videos).to_csv(folder / "corpus.csv", index=False)
    pd.concat(frames).to_csv(folder / "teacher.csv", index=False)
    pd.DataFrame(windows).to_csv(folder / "windows.csv", index=False)
    return folder


def test_frames_are_read_with_their_labels(benchmark, corpus):
    read = benchmark.read_corpus(corpus)
    assert read.clips.shape == (len(PEOPLE) * 4, 8, benchmark.SIZE, benchmark.SIZE, 3)
    brightness = read.clips[:, ::2].mean(axis=(2, 3, 4))
    here = read.people == "person0"
    shown, labels = brightness[here].ravel(), read.values[here][..., 0].ravel()
    known = np.isfinite(labels)
    assert known.sum() == ROWS - 1 and not known[3] and not known[ROWS:].any()  # of one the teachers disagree
    assert np.corrcoef(shown[known], labels[known])[0, 1] > 0.99
    assert read.happy[here].ravel().tolist() == [0] * 7 + [1] * 7 + [-1] * 2
    pairs = read.clips[here].reshape(-1, 2, *read.clips.shape[2:]).astype(float)
    assert np.abs(pairs[:, 0] - pairs[:, 1]).mean() < 2  # both frames of a time step are within the time of the label


def test_everybody_is_scored_once_and_not_seen_before(benchmark, corpus):
    read = benchmark.read_corpus(corpus)
    folds = [benchmark.scored_people(read, fold) for fold in benchmark.FOLDS]
    assert sorted(name for fold in folds for name in fold) == sorted(PEOPLE)
    assert folds[0] == ["test0", "test1", "val0"] and [len(fold) for fold in folds[1:]] == [3, 3]
    dark = np.isin(read.people, folds[1])
    read.clips[dark], kept = 0, read.clips.copy()
    try:
        others = sorted(set(PEOPLE) - set(folds[1]))
        assert benchmark.real_videos(read, others, 40, seed=0).mean(axis=(1, 2, 3, 4)).min() > 5
        assert benchmark.real_videos(read, folds[1], 5, seed=0).max() == 0
        assert set(read.people[benchmark.fitted_on(read, others)]) == set(others)
    finally:
        read.clips[:] = kept


def test_fine_tuning_reads_each_time_step(benchmark, corpus, tmp_path):
    """The label is the brightness of the frame, so it is learnt in a few steps, and differs within each clip."""
    read = benchmark.read_corpus(corpus)
    everything = np.arange(len(read.clips))
    settings = benchmark.Settings(batch_size=8)
    source = benchmark.pretrained_on(benchmark.CONDITIONS["none"], read, [], settings, 0, tmp_path)
    outputs = benchmark.tuned(source, read, everything, everything, 40, 2e-3, settings, 0)
    frames = benchmark.frame_table(read, everything, outputs)
    scores = {name: score.value for name, score in benchmark.scores_of(frames).items()}
    assert scores["ccc_within_people_mouth_open"] > 0.5


@pytest.mark.slow
def test_conditions_are_run_once_and_tabulated(benchmark, corpus, tmp_path, monkeypatch, capsys):
    names = ["pixels", "none", "both, pixels", "none, as many updates"]
    options = ["--corpus", str(corpus), "--out", str(tmp_path), "--steps", "2", "--tune_steps", "1", "--videos", "9"]

    monkeypatch.setattr(benchmark, "attentive_probe", partial(benchmark.attentive_probe, epochs=1))
    here = lambda one, wanted, jobs: [one(*each) for each in wanted]  # noqa: E731
    monkeypatch.setattr(benchmark, "do_all", here)  # not in processes, which would not see the other patch

    def main(*more: str) -> str:
        monkeypatch.setattr(sys, "argv", ["real_faces.py", *names, *options, *more])
        benchmark.main()
        return capsys.readouterr().out

    text = main()
    files = {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*") if file.is_file()}
    assert sum(file.parent == tmp_path for file in files) == 12
    encoders = {file.parent.name for file in files if file.suffix == ".safetensors"}
    assert encoders == {f"both__pixels-0-{fold}" for fold in benchmark.FOLDS}
    assert main().split("CCC", 1)[1] == text.split("CCC", 1)[1]
    assert {file: file.stat().st_mtime_ns for file in files} == files
    assert "- none, fine-tuning: 9 people, 117 frames, 18 windows, seeds: 1, CPU seconds" in text
    with pytest.raises(SystemExit, match="other settings"):
        main("--steps", "3")

    tables = benchmark.tables(tmp_path, names)
    assert list(tables) == ["frames, all", "frames, within people", "windows, all", "windows, within people"]
    rows = [("", benchmark.RIDGE)]
    rows += product(("none", "both, pixels"), benchmark.READERS[1:])
    rows += [("none, as many updates", benchmark.TUNED), ("", "constant")]
    for table in tables.values():
        assert list(zip(table["pre-trained on"], table["read by"], strict=True)) == rows
    ridge = {name: table.iloc[0] for name, table in tables.items()}
    for what in ("all", "within people"):  # what the pixels say is found in frames and windows
        for measure in ("mouth_open", "smile_width", "brow_height"):
            assert float(ridge[f"frames, {what}"][measure].split()[0]) > 0.6
    assert float(ridge["frames, within people"]["eye_open"].split()[0].replace("−", "-")) < 0.5  # noise
    assert float(ridge["windows, all"]["UAR, %"].split()[0]) >= 75
    compared = tables["frames, all"]["mean − none"].str.startswith(("+", "−")).tolist()
    assert compared == [False] * 5 + [True] * 5 + [False]

    lines = [line.split(" | ") for line in main("--losses").splitlines()[2:] if line]
    assert [line[0] for line in lines] == ["| both, pixels"] * 2, "the others have no pre-training"
    assert [line[1] for line in lines] == ["training people", "people never seen"]
    assert all(float(line[2]) >= float(line[3]) > 0 for line in lines), "two updates teach nothing"
    with pytest.raises(SystemExit, match="elsewhere: holds no pre-training of these conditions"):
        main("--losses", "--out", str(tmp_path / "elsewhere"))

    alone = benchmark.tables(tmp_path, names, "test")["frames, all"]
    assert alone.iloc[0]["mean"] != ridge["frames, all"]["mean"]
    first = benchmark.finished(tmp_path, names, (0,))["none", benchmark.PROBE]["frames"][0]
    assert set(first["subject"]) == {"val0", "test0", "test1"}
    parts = benchmark.finished(tmp_path, names)["none", benchmark.PROBE]["frames"]
    assert len(parts) == 1 and len(parts[0]) == len(PEOPLE) * (ROWS - 1)


def test_a_corpus_must_be_given(benchmark, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["real_faces.py", "none", "--corpus", str(tmp_path / "nowhere")])
    with pytest.raises(SystemExit):
        benchmark.main()
    assert f"--corpus: {tmp_path / 'nowhere'} has no corpus.csv; give the folder" in capsys.readouterr().err


def test_a_reader_that_none_of_the_conditions_has_is_an_error(benchmark, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["real_faces.py", "none", "--readers", benchmark.RIDGE, benchmark.PROBE])
    with pytest.raises(SystemExit):
        benchmark.main()
    assert f"{benchmark.RIDGE!r} reads none of the chosen conditions; add one of 'pixels'" in capsys.readouterr().err


@pytest.mark.slow
def test_windows_of_the_real_corpus_are_the_means_of_their_frames(benchmark):
    folder = SHARED / "real"
    if not folder.is_dir():
        pytest.skip(f"{folder} does not exist: not tested on the real corpus")
    read = benchmark.read_corpus(folder)
    rows = np.arange(len(read.clips))
    frames = benchmark.frame_table(read, rows, np.concatenate([read.values, read.happy[..., None]], axis=2))
    windows = benchmark.window_table(read, frames)
    assert len(windows) == len(read.windows)
    for name in benchmark.MEASURES:
        np.testing.assert_allclose(windows[name], windows[f"label_{name}"], atol=1e-4)
    for row in windows[windows["label"] != ""].itertuples():
        assert row.happy == ("neutral", "happy").index(row.label)
    assert cv2.getNumThreads() == 1
