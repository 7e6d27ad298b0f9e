"""What a model keeps of its training videos: their frame rate and how faces were cut out, and that training samples alike."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import svfap
from svfap.data.prepared import Fold, PreparedDataset, write_dataset_file
from svfap.data.video import write_video
from svfap.evaluation.config import EvaluateConfig
from svfap.evaluation.evaluate import evaluate
from svfap.train.config import FinetuneConfig, PretrainConfig
from svfap.train.finetune import FinetuneTask, finetune
from svfap.train.pretrain import PretrainTask

CROP = {"margin": 0.5, "align": True, "border": "reflect", "detector": "haar", "size_px": 32, "fps": None}
KEPT = {"margin": 0.5, "align": True, "border": "reflect", "detector": "haar"}


def clock_face(path: Path, fps: float, duration_s: float = 2.0, start: float = 0.0) -> None:
    """A video whose brightness shows the time: 60 levels a second."""
    times = start + np.arange(round(fps * duration_s)) / fps
    levels = np.clip(40 + 60 * times, 0, 255).astype(np.uint8)
    write_video(path, [np.full((32, 32, 3), level, np.uint8) for level in levels], fps, crf=1)


@pytest.fixture(scope="module")
def videos(tmp_path_factory) -> Path:
    """Eight videos of 8 pictures a second, and two of 24 and 40, all of 2 s: one clip at 8 a second."""
    folder = tmp_path_factory.mktemp("videos")
    rates = {**{f"slow{number}": 8 for number in range(8)}, "fast": 24, "faster": 40}
    for number, (name, fps) in enumerate(rates.items()):
        clock_face(folder / f"{name}.mp4", fps, start=0.1 * number)
    rows = [{"path": f"{name}.mp4", "valence": 0.1 * number} for number, name in enumerate(rates)]
    pd.DataFrame(rows).to_csv(folder / "all.csv", index=False)
    pd.DataFrame(rows[:8]).to_csv(folder / "slow.csv", index=False)
    pd.DataFrame(rows[7:]).to_csv(folder / "mixed.csv", index=False)
    return folder


def settings(videos: Path, out: Path, manifest: str = "slow", **more: Any) -> dict[str, Any]:
    small = {"preset": "svfap_debug", "sampling_stride": 1, "batch_size": 4, "num_workers": 0, "precision": "fp32"}
    return {"manifest": videos / f"{manifest}.csv", "out": out, "epochs": 1, "warmup_epochs": 0, **small, **more}


def finetuning(videos: Path, out: Path, manifest: str = "slow", **more: Any) -> FinetuneConfig:
    return FinetuneConfig(task="regression", **settings(videos, out, manifest, **{"val_fraction": 0, **more}))


@pytest.mark.parametrize("pretraining", [True, False])
def test_the_model_says_what_its_videos_were_like(videos, tmp_path, pretraining):
    def task(manifest: str, **more: Any) -> FinetuneTask | PretrainTask:
        if pretraining:
            return PretrainTask(PretrainConfig(**settings(videos, tmp_path / "run", manifest, **more)))
        return FinetuneTask(finetuning(videos, tmp_path / "run", manifest, **more))

    shared, several, asked = task("slow"), task("mixed"), task("mixed", fps=12)
    assert [made.model.config.frame_rate for made in (shared, several, asked)] == [8, None, 12]
    assert [made.dataset.fps for made in (shared, several, asked)] == [8, None, 12]
    assert shared.model.config.face_crop == {}
    (videos / "crop.json").write_text(json.dumps(CROP))
    try:
        assert task("slow").model.config.face_crop == KEPT
    finally:
        (videos / "crop.json").unlink()


def test_the_crop_of_a_dataset_is_found_in_its_folder(videos, tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "crop.json").write_text(json.dumps(CROP))
    (tmp_path / "data" / "train.csv").write_text((videos / "slow.csv").read_text())
    folds = (Fold("1", Path("train.csv"), Path("train.csv")),)
    names: dict[str, Any] = {"name": "folder", "title": "Own", "task": "regression", "label_names": ("valence",)}
    write_dataset_file(tmp_path / "data", PreparedDataset(root=videos, folds=folds, sampling_stride=1, **names))
    config = finetuning(videos, tmp_path / "run", dataset=tmp_path / "data")
    task = FinetuneTask(FinetuneConfig(**{**vars(config), "manifest": None}))
    assert task.model.config.face_crop == KEPT


def test_a_model_of_several_manifests_names_all_with_their_terms_and_their_crop(videos, tmp_path, capsys):
    rows = pd.read_csv(videos / "slow.csv").assign(path=lambda table: str(videos) + "/" + table["path"])
    for name, margin, licence in (
        *(("a", 0.5, "for research"), ("b", 0.5, ""), ("c", 0.7, "")),
        *(("own/x", 0.5, ""), ("own/y", 0.5, "")),
    ):
        folder = tmp_path / name
        folder.mkdir(parents=True)
        rows.to_csv(folder / "train.csv", index=False)
        if name != "c":
            described = PreparedDataset(
                "folder",
                f"Data {name[:3]}",
                "regression",
                Path("."),
                ("valence",),
                (Fold("1", Path("train.csv")),),
                licence=licence,
            )
            write_dataset_file(folder, described)
        (folder / "crop.json").write_text(json.dumps({**CROP, "margin": margin}))

    def model(*given: str) -> Any:
        manifests = [str(tmp_path / name) for name in given]
        config = finetuning(videos, tmp_path / "run")
        return FinetuneTask(FinetuneConfig(**{**vars(config), "manifest": manifests})).model.config

    several = model("a/train.csv:3", "b/train.csv:1")
    assert several.face_crop == KEPT and several.provenance["num_videos"] == 16
    assert several.provenance["finetuned_on"] == "a/train.csv:3, b/train.csv:1"
    assert several.provenance["dataset"] == "Data a, Data b"
    assert several.provenance["licence"] == "Data a: for research; Data b: not stated"
    assert model("own/x/train.csv", "own/y/train.csv", "a/train.csv").provenance["dataset"] == (
        "Data own (x/train.csv), Data own (y/train.csv), Data a"
    )
    capsys.readouterr()
    other = model("b/train.csv", "c/train.csv")
    assert other.face_crop == {} and "cut out in different ways" in " ".join(capsys.readouterr().err.split())
    assert other.provenance["dataset"] == "Data b, c/train.csv" and "licence" not in other.provenance


def test_the_crop_is_that_of_the_clips_wherever_the_manifest_lies(videos, tmp_path, capsys):
    for name, crop in (
        ("x", CROP),
        ("same", {**CROP, "size_px": 64}),
        ("other", {**CROP, "margin": 0.2}),
        ("none", None),
    ):
        (tmp_path / name / "clips" / "a").mkdir(parents=True)
        for video in ("slow0.mp4", "slow1.mp4"):
            (tmp_path / name / "clips" / "a" / video).hardlink_to(videos / video)
        if crop is not None:
            (tmp_path / name / "crop.json").write_text(json.dumps(crop))
    (tmp_path / "x" / "lists").mkdir()

    def kept(file: str, *folders: str) -> dict[str, Any]:
        manifest = tmp_path / file
        lines = [f"{folder}/clips/a/slow{n}.mp4,0.{n}\n" for folder in folders for n in (0, 1)]
        manifest.write_text("path,valence\n" + "".join(lines))
        config = finetuning(tmp_path, tmp_path / "run", manifest.with_suffix("").relative_to(tmp_path).as_posix())
        return FinetuneTask(config).model.config.face_crop

    assert kept("own.csv", "x") == kept("x/lists/own.csv", "..") == kept("own.csv", "x", "same") == KEPT
    assert kept("own.csv", "none") == {} and "different ways" not in capsys.readouterr().err
    for other, shown in (("other", tmp_path / "other" / "crop.json"), ("none", "folders without one")):
        assert kept("own.csv", "x", other) == {}
        listed = f"the training clips were cut out in different ways ({tmp_path / 'x' / 'crop.json'}, {shown})"
        assert listed in capsys.readouterr().err


def test_clips_of_all_videos_span_the_same_time(videos, tmp_path):
    """At 8 frames a second, 16 frames of a video of 2 s are all of them: the brightness rises by 60 x 15 / 8 levels."""
    task = FinetuneTask(finetuning(videos, tmp_path / "run", "mixed", fps=8, rand_augment=False, flip_rate=0))
    for index in range(3):
        levels = task.dataset[index].clips[0].mean(axis=(1, 2, 3))
        assert levels[-1] - levels[0] == pytest.approx(60 * 15 / 8, abs=6)
        assert np.diff(levels) == pytest.approx(60 / 8, abs=4)


def test_validation_and_evaluation_see_the_same_frames(videos, tmp_path):
    """Of videos as long as a clip both take the one clip that there is, whatever the rate of the file."""
    config = finetuning(videos, tmp_path / "run", fps=8, val_manifest=videos / "mixed.csv", base_lr=0.5)
    validation = finetune(config).metrics["last_validation"]
    assert svfap.load_model(tmp_path / "run").config.frame_rate == 8

    def tested(**more: Any) -> dict[str, Any]:
        test = EvaluateConfig(model=str(tmp_path / "run"), manifest=videos / "mixed.csv", precision="fp32", **more)
        return evaluate(test).metrics

    assert tested()["mae"] == pytest.approx(validation["mae"], abs=1e-6)
    assert tested(fps="own")["mae"] != pytest.approx(validation["mae"], abs=1e-6)


@pytest.mark.parametrize(
    "then, now, differing",
    [
        ({}, {"frame_rate": 8, "face_crop": KEPT}, []),
        ({"frame_rate": 8, "face_crop": KEPT}, {"frame_rate": 8, "face_crop": KEPT}, []),
        ({"face_crop": KEPT}, {"face_crop": {"margin": 0.5}}, []),  # of an earlier version, which kept the margin only
        ({"frame_rate": 25}, {"frame_rate": 8}, ["frames a second in training: 25 then, 8 now"]),
        ({"frame_rate": 25}, {}, ["frames a second in training: 25 then, not known now"]),
        ({"face_crop": {"margin": 0.3}}, {}, ["face crops of training: margin 0.3 then, not known now"]),
        (
            {"frame_rate": 25, "face_crop": {"margin": 0.3}},
            {"frame_rate": 8, "face_crop": {"margin": 0.5}},
            [
                "frames a second in training: 25 then, 8 now",
                "face crops of training: margin 0.3 then, margin 0.5 now",
            ],
        ),
    ],
)
def test_initial_weights_of_other_videos_are_warned_of(then, now, differing, videos, tmp_path, capsys):
    initial, out = tmp_path / "pretrained", tmp_path / "run"
    svfap.create_model("svfap_debug", "pretraining", **then).save_pretrained(initial)
    if "face_crop" in now:
        (videos / "crop.json").write_text(json.dumps(now["face_crop"]))
    try:
        FinetuneTask(finetuning(videos, out, "slow" if "frame_rate" in now else "mixed", init=str(initial)))
    finally:
        (videos / "crop.json").unlink(missing_ok=True)
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning:")]
    warning = f"warning: the videos are not like those that init={initial} was trained on ({'; '.join(differing)})"
    assert lines == ([warning] if differing else [])
