"""`svfap evaluate --model RUN`: the test part of what the run was trained on; and its test videos against the contract."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import pytest
import torch
import yaml

import svfap
from svfap.cli.main import main
from svfap.data.manifest import read_manifest
from svfap.data.prepared import Fold, PreparedDataset, read_dataset, write_dataset_file
from svfap.data.split import carve_validation
from svfap.data.video import write_video
from svfap.errors import UserError
from svfap.evaluation.config import EvaluateConfig, PoolConfig
from svfap.evaluation.evaluate import evaluate
from svfap.evaluation.pool import pool
from svfap.evaluation.seen import Seen, seen_by

pytestmark = pytest.mark.usefixtures("blank_figures")


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """Two folds of 2 and 4 test videos of 25 and 50 pictures a second, one manifest with a split, and a run's model."""
    folder = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    for number in range(6):
        frames = rng.integers(0, 255, (2, 4, 4, 3), np.uint8).repeat(8, 1).repeat(8, 2)
        write_video(folder / f"{number}.mp4", [frames[k // 8 % 2] for k in range(40)], 50 if number == 5 else 25)
    rows = pd.DataFrame({"path": [f"{k}.mp4" for k in range(6)], "label": ["joy", "calm"] * 3})
    for name, numbers in (("1", [0, 1]), ("2", [2, 3, 4, 5])):
        rows.drop(index=numbers).to_csv(folder / f"fold_{name}_train.csv", index=False)
        rows.loc[numbers].to_csv(folder / f"fold_{name}_test.csv", index=False)
    folds = tuple(Fold(name, Path(f"fold_{name}_train.csv"), Path(f"fold_{name}_test.csv")) for name in "12")
    names: dict[str, Any] = {"title": "Own", "task": "classification", "label_names": ("calm", "joy")}
    write_dataset_file(folder, PreparedDataset("folder", root=Path("."), folds=folds, **names))
    rows.assign(split=["train"] * 3 + ["test"] * 3).to_csv(folder / "all.csv", index=False)
    return folder


def run(folder: Path, model: dict[str, Any] | None = None, **settings: Any) -> Path:
    """A folder as training leaves it, as far as evaluation reads it."""
    torch.manual_seed(0)
    names = {"label_names": ("calm", "joy"), "sampling_stride": 1, **(model or {})}
    made = svfap.create_model("svfap_debug", "classification", **names)
    for parameter in made.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.25)
    made.save_pretrained(folder / "best")
    (folder / "config.yaml").write_text(yaml.safe_dump({"format_version": 1, **settings}))
    return folder


def names_in(folder: Path) -> list[str]:
    return pd.read_csv(folder / "predictions.csv")["path"].tolist()


def test_a_run_is_evaluated_on_the_test_part_of_its_fold(data, tmp_path, capsys):
    here = run(tmp_path / "run", dataset=str(data), fold="1", manifest=str(data / "fold_1_train.csv"), root=str(data))
    assert main(["evaluate", "--model", str(here), "--precision", "fp32"]) == 0
    assert f"evaluating on the run's own test part: {data}, fold 1" in capsys.readouterr().err.replace("\n", "")
    assert names_in(here / "evaluation") == ["0.mp4", "1.mp4"]
    assert json.loads((here / "evaluation" / "metrics.json").read_text())["fold"] == "1"
    other = evaluate(EvaluateConfig(model=str(here / "best"), fold="2", out=tmp_path / "out"))
    assert names_in(other.out) == ["2.mp4", "3.mp4", "4.mp4", "5.mp4"]


def test_of_a_manifest_with_a_split_the_rows_for_testing_are_taken(data, tmp_path):
    here = run(tmp_path / "run", manifest=str(data / "all.csv"), split="train", root=None)
    assert names_in(evaluate(EvaluateConfig(model=str(here))).out) == ["3.mp4", "4.mp4", "5.mp4"]


def test_a_run_without_a_test_part_is_refused(data, tmp_path):
    here = run(tmp_path / "run", manifest=str(data / "fold_1_train.csv"), dataset=None, split=None)
    with pytest.raises(UserError, match=r"knows no test part, as it was trained on all rows of \S+; give `manifest`"):
        evaluate(EvaluateConfig(model=str(here)))
    several = run(tmp_path / "several", dataset=[f"{data}:2", "other:1"], manifest=["a.csv:2", "b.csv:1"])
    with pytest.raises(UserError, match=rf"was trained on several, {data}, other; say which to test on with `dataset`"):
        evaluate(EvaluateConfig(model=str(several)))
    (here / "config.yaml").unlink()
    with pytest.raises(UserError, match=r"give either `manifest` .* is not the folder of a run"):
        EvaluateConfig(model=str(here))
    (tmp_path / "gone").mkdir()
    shutil.copy(data / "dataset.json", tmp_path / "gone")
    here = run(tmp_path / "moved", dataset=str(tmp_path / "elsewhere"), fold="1")
    with pytest.raises(UserError, match=r"elsewhere: holds no dataset\.json"):
        evaluate(EvaluateConfig(model=str(here)))


# the contract ------------------------------------------------------------------------------------------------------------


def scores(folder: Path, manifest: Path, capsys, **settings: Any) -> tuple[np.ndarray, str]:
    """Probabilities of an evaluation, and what was said."""
    out = evaluate(EvaluateConfig(model=str(folder), manifest=manifest, precision="fp32", **settings)).out
    return pd.read_csv(out / "predictions.csv").filter(like="prob_").to_numpy(), " ".join(
        capsys.readouterr().err.split()
    )


def test_videos_are_sampled_at_the_rate_of_the_training(data, tmp_path, capsys):
    manifest = data / "fold_2_test.csv"
    trained = run(tmp_path / "trained", {"frame_rate": 25.0})
    unknown = run(tmp_path / "unknown")
    by_time, told = scores(trained, manifest, capsys)
    assert "1 of 4 videos looked at: 50/s in the file, sampled at 25/s as in the model's training" in told
    own, told = scores(trained, manifest, capsys, fps="own")
    assert "50/s in the file, all used, while the model's training had 25/s" in told
    np.testing.assert_array_equal(own[:3], by_time[:3])
    assert np.abs(own[3] - by_time[3]).max() > 1e-6
    frames, told = scores(unknown, manifest, capsys)
    assert "50/s in the file; the model does not say its frame rate; a window here lasts 0.32 s" in told
    np.testing.assert_array_equal(frames, own)
    chosen, _ = scores(unknown, manifest, capsys, fps=25.0)
    np.testing.assert_array_equal(chosen, by_time)
    metrics = json.loads((unknown / "evaluation" / "metrics.json").read_text())
    assert metrics["fps"] == "25.0"


def test_folders_of_frames_have_the_rate_that_the_user_states(data, tmp_path, capsys):
    (tmp_path / "clip").mkdir()
    rng = np.random.default_rng(0)
    for number in range(60):
        cv2.imwrite(str(tmp_path / "clip" / f"{number}.png"), rng.integers(0, 255, (32, 32, 3), np.uint8))
    (tmp_path / "test.csv").write_text("path,label\nclip,joy\n")
    trained = run(tmp_path / "trained", {"frame_rate": 10.0})
    as_25, told = scores(trained, tmp_path / "test.csv", capsys)
    assert "folders of frames are read as 25 pictures per second; --frames_fps says otherwise" in told
    as_20, told = scores(trained, tmp_path / "test.csv", capsys, frames_fps=20)
    assert "read as 25" not in told
    assert "20/s in the file, sampled at 10/s" in told
    assert np.abs(as_20 - as_25).max() > 1e-6


def test_test_clips_that_were_cut_out_otherwise_are_told(data, tmp_path, capsys):
    manifest = data / "fold_1_test.csv"
    here = run(tmp_path / "run", {"face_crop": {"margin": 0.3, "align": False}})
    assert "nothing says how those of" in scores(here, manifest, capsys)[1]
    (data / "crop.json").write_text(json.dumps({"margin": 0.6, "align": False, "border": "reflect"}))
    try:
        told = scores(here, manifest, capsys)[1]
    finally:
        (data / "crop.json").unlink()
    assert f"{data}: the faces were cut out with margin 0.6, those of the model's training with 0.3" in told
    assert told.count("cut out with") == 1


def test_the_crop_of_test_clips_is_found_above_them(data, tmp_path, capsys):
    (tmp_path / "x" / "clips").mkdir(parents=True)
    (tmp_path / "x" / "clips" / "0.mp4").hardlink_to(data / "0.mp4")
    (tmp_path / "x" / "crop.json").write_text('{"margin": 0.6}')
    (tmp_path / "own.csv").write_text("path,label\nx/clips/0.mp4,joy\n")
    here = run(tmp_path / "run", {"face_crop": {"margin": 0.3}})
    told = scores(here, tmp_path / "own.csv", capsys)[1]
    assert f"{tmp_path / 'x'}: the faces were cut out with margin 0.6" in told and "nothing says" not in told


@pytest.mark.parametrize("pictures", ["frames", None])
def test_what_is_known_of_a_datasets_pictures_is_said_once_for_all_folds(data, tmp_path, capsys, pictures):
    whole = tmp_path / "whole"
    shutil.copytree(data, whole)
    write_dataset_file(whole, replace(read_dataset(whole), root=Path("."), pictures=pictures))
    for fold in "12":
        run(tmp_path / fold, {"face_crop": {"margin": 0.3}})
    told = scores(tmp_path / "1", whole / "fold_1_test.csv", capsys)[1]
    pool(PoolConfig(models=str(tmp_path / "{fold}"), dataset=whole, out=tmp_path / "out", precision="fp32"))
    told += capsys.readouterr().err
    assert told.count("the clips of Own are whole frames, not faces") == (pictures == "frames")
    assert told.count(f"nothing says how those of {whole} were cut") == (pictures is None)


def seen(trained: int = 0, chose: int = 0, same_file: int = 0) -> dict[str, int]:
    return {"trained": trained, "chose": chose, "same_file": same_file}


def test_videos_that_a_model_was_trained_on_are_told(data, tmp_path, capsys):
    """Fold 1 trains on videos 2 to 5, which fold 2 tests; by its split `all.csv` trains on 0 to 2 and validates on 3 to 5."""
    trained = run(tmp_path / "run", dataset=str(data), fold="1", manifest=str(data / "fold_1_train.csv"))
    told = "was trained on 4 of the 4 test videos"
    for fold, number in (("1", None), ("2", 4)):
        done = evaluate(EvaluateConfig(model=str(trained), dataset=data, fold=fold, out=tmp_path / "out"))
        assert done.metrics.get("seen_in_training") == (number and {str(trained): seen(number)})
        assert (told in " ".join(capsys.readouterr().err.split())) == bool(number)
    split = {"manifest": str(data / "all.csv"), "split": "train", "val_split": "test"}
    other = run(tmp_path / "other", **split)
    with torch.no_grad():
        (model := svfap.load_model(other)).head.bias.fill_(1)
    model.save_pretrained(other / "best")
    both = EvaluateConfig(model=[str(trained), str(other)], dataset=data, fold="2", out=tmp_path / "out")
    assert evaluate(both).metrics["seen_in_training"] == {str(trained): seen(4), str(other): seen(1, chose=3)}
    told = " ".join(capsys.readouterr().err.split())
    assert f"{other} was trained on 1 of the 4 test videos" in told
    assert f"3 of the 4 test videos were validation videos of {other} and chose its best epoch" in told
    gone = run(tmp_path / "gone", manifest=str(data / "moved.csv"))
    assert "seen_in_training" not in evaluate(EvaluateConfig(model=str(gone), dataset=data, fold="2")).metrics


def test_videos_of_all_of_several_manifests_are_known(data, tmp_path):
    first, second = (str(data / f"fold_{name}_train.csv") for name in "12")  # of videos 2 to 5, and of 0 and 1
    ones, twos = (read_manifest(data / f"fold_{name}_test.csv") for name in "12")
    several = {"manifest": [f"{first}:2", f"{second}:1"], "task": "classification", "label_names": ["calm", "joy"]}
    assert seen_by(several, ones) == Seen(trained=2) and seen_by(several, twos) == Seen(trained=4)
    validated = {**several, "manifest": first, "val_manifest": [second, str(data / "fold_2_test.csv")]}
    assert seen_by(validated, ones) == Seen(chose=2) and seen_by(validated, twos) == Seen(trained=4)
    gone = {**several, "manifest": [f"{first}:2", f"{data}/moved.csv:1"], "val_fraction": 0.5}
    assert seen_by(gone, ones) == Seen() and seen_by(gone, twos) == Seen(trained=4)


def test_parts_of_a_file_are_told_apart_by_their_times_and_faces(tmp_path):
    def manifest(name: str, *rows: str) -> Path:
        (tmp_path / name).write_text("\n".join(["path,label,start_s,end_s,box,subject", *rows]) + "\n")
        return tmp_path / name

    training = manifest(
        "train.csv", "a.mp4,x,0,2,,p", "b.mp4,y,5,,,p", "c.mp4,x,,,0 0 8 8,q", "d.mp4,y,,,,r", "e.mp4,x,,,,s"
    )
    test = read_manifest(
        manifest(
            "test.csv",
            *("a.mp4,x,1,3,,", "a.mp4,y,2,4,,", "b.mp4,x,0,5,,", "b.mp4,y,7,8,,"),  # trained, same file twice, trained
            *(
                "c.mp4,x,,,0 0 8 8,",
                "c.mp4,x,,,9 0 8 8,",
                "c.mp4,y,0,1,,",
                "new.mp4,x,,,,",
            ),  # trained, same file, trained, new
        )
    )
    run = {"manifest": str(training), "task": "classification", "val_fraction": 0.0, "fraction": 1.0, "seed": 0}
    assert seen_by(run, test) == Seen(trained=4, same_file=3)
    assert seen_by({"manifest": str(training), "fraction": 1.0, "seed": 0}, test) == Seen(
        trained=4, same_file=3
    )  # unlabelled
    assert seen_by({**run, "manifest": str(test.path), "val_manifest": str(training)}, test) == Seen(trained=8)
    carved = {**run, "val_fraction": 0.3}
    training, held_out = carve_validation(read_manifest(training), 0.3, 0)
    everything = read_manifest(tmp_path / "train.csv")
    assert seen_by(carved, everything) == Seen(trained=len(training), chose=len(held_out)) and len(held_out)
    assert seen_by({**run, "fraction": 0.4}, everything) == Seen(trained=2)
    (tmp_path / "train.csv").write_text("path,label\n")
    assert seen_by(run, test) == Seen()


def test_what_is_said_of_seen_videos():
    assert [*Seen(trained=1, same_file=2).warnings("m", 3)] == [
        "m was trained on 1 of the 3 test videos; scores on these say nothing about new ones",
        "2 of the 3 test videos are other times or faces of files that m was trained or validated on; "
        "scores on these may be too good",
    ]
    assert [*Seen().warnings("m", 3)] == []
