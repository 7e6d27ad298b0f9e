"""Frames that are not annotated: left out of the loss, of class weights, label scales, validation and evaluation."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import svfap
from svfap.data import targets
from svfap.data.manifest_rows import ManifestError
from svfap.data.prepared import Fold, PreparedDataset
from svfap.data.video import write_video
from svfap.errors import UserError
from svfap.evaluation.config import EvaluateConfig
from svfap.evaluation.evaluate import evaluate
from svfap.evaluation.folds import read_fold, score_folds
from svfap.train.config import FinetuneConfig, PretrainConfig
from svfap.train.finetune import FinetuneTask, finetune
from svfap.train.parallel import _progress
from svfap.train.pretrain import PretrainTask

QUICK = dict(preset="svfap_debug", sampling_stride=1, warmup_epochs=0.5, precision="fp32", num_workers=0, epochs=1)
PLAIN = dict(mixup=0, cutmix=0, smoothing=0, rand_augment=False, flip_rate=0, erase_rate=0)
VALUES = dict(task="regression", dimensions=["valence", "arousal"], frame_level=True)
NUM_FRAMES, MARK = 20, -5.0


@pytest.fixture(scope="module")
def videos(tmp_path_factory) -> Path:
    """Six videos; of video n the frames from 14 - 2 n on are marked -5 or -1, so all of the clip of 16 frames in none."""
    folder = tmp_path_factory.mktemp("marked")
    rng = np.random.default_rng(0)
    rows = {"values": ["path,frame_values"], "classes": ["path,frame_values"]}
    for n in range(6):
        write_video(folder / f"{n}.mp4", rng.integers(0, 255, (NUM_FRAMES, 32, 32, 3)).astype(np.uint8), 25)
        valid = np.arange(NUM_FRAMES) < 14 - 2 * n
        valence = np.where(valid, np.linspace(-0.5, 0.5, NUM_FRAMES), MARK)
        arousal = np.where(valid, (n - 3) / 10, MARK)
        pd.DataFrame({"valence": valence, "arousal": arousal}).to_csv(folder / f"v{n}.csv", index=False)
        pd.DataFrame({"label": np.where(valid, np.arange(NUM_FRAMES) % 3, -1)}).to_csv(
            folder / f"c{n}.csv", index=False
        )
        rows["values"].append(f"{n}.mp4,v{n}.csv")
        rows["classes"].append(f"{n}.mp4,c{n}.csv")
    pd.DataFrame({"valence": [MARK] * NUM_FRAMES, "arousal": [MARK] * NUM_FRAMES}).to_csv(
        folder / "none.csv", index=False
    )
    rows["part"] = [*rows["values"][:4], "4.mp4,none.csv"]
    for name, lines in rows.items():
        (folder / f"{name}.csv").write_text("\n".join(lines) + "\n")
    return folder


def task_of(videos: Path, out: Path, manifest: str, **options: object) -> FinetuneTask:
    words = {**QUICK, **PLAIN, "manifest": videos / f"{manifest}.csv", "val_fraction": 0, "batch_size": 3, "out": out}
    return FinetuneTask(FinetuneConfig(**{**words, **options}))


def batch_of(task: FinetuneTask, *numbers: int) -> dict:
    return task.dataset.collate([task.dataset[number] for number in numbers])


def loss_of(task: FinetuneTask, batch: dict, outputs: torch.Tensor) -> torch.Tensor:
    return task.losses(lambda clips: outputs, batch, torch.Generator().manual_seed(0))[0]


@pytest.mark.parametrize("loss", ["mse", "ccc"])
def test_the_loss_of_values_is_over_annotated_frames(videos, tmp_path, loss):
    task = task_of(videos, tmp_path, "values", **VALUES, invalid_marks=[MARK], loss=loss)
    batch = batch_of(task, 0, 2, 5)
    known = batch["values"].isfinite().all(-1)
    assert 0 < known.sum() < known.numel()
    outputs = torch.randn(3, 16, 2, generator=torch.Generator().manual_seed(1), requires_grad=True)
    found = loss_of(task, batch, outputs)
    predicted, truth = outputs[known], batch["values"][known]
    assert truth.abs().max() <= 0.5
    if loss == "mse":
        assert found.item() == pytest.approx(((predicted - truth) ** 2).mean().item(), rel=1e-6)
    found.backward()
    assert (outputs.grad[known] != 0).any()
    assert (outputs.grad[~known] == 0).all()


def test_the_loss_of_classes_is_over_annotated_frames(videos, tmp_path):
    options = dict(frame_level=True, label_names=["a", "b", "c"])
    task = task_of(videos, tmp_path, "classes", **options, class_weights="balanced")
    counts = np.zeros(3)
    for n in range(6):
        counts += np.bincount(np.arange(14 - 2 * n) % 3, minlength=3)
    assert task.heads[0].class_weights.tolist() == pytest.approx((counts.sum() / 3 / counts).tolist())
    plain = task_of(videos, tmp_path, "classes", **options)
    batch = batch_of(plain, 0, 3, 4)
    known = batch["label"] >= 0
    assert 0 < known.sum() < known.numel()
    logits = torch.randn(3, 16, 3, generator=torch.Generator().manual_seed(1))
    expected = F.cross_entropy(logits[known], batch["label"][known])
    assert loss_of(plain, batch, logits).item() == pytest.approx(expected.item(), rel=1e-5)
    mixed = task_of(videos, tmp_path, "classes", **options, mixup=0.8)
    assert loss_of(mixed, batch, logits).isfinite()


def test_a_batch_without_annotated_frames_has_no_gradient(videos, tmp_path):
    task = task_of(videos, tmp_path, "part", **VALUES, invalid_marks=[MARK])
    batch = batch_of(task, 3)
    assert batch["keys"] == ["4.mp4"]  # not unreadable
    outputs = torch.randn(1, 16, 2, requires_grad=True)
    loss = loss_of(task, batch, outputs)
    loss.backward()
    assert loss.item() == 0
    assert (outputs.grad == 0).all()


def test_a_step_without_annotated_frames_has_no_loss_in_the_log(videos, tmp_path, monkeypatch):
    real, steps = FinetuneTask.counts, []

    def counts(self, batch):
        steps.append(1)
        return [0] if len(steps) == 2 else real(self, batch)

    monkeypatch.setattr(FinetuneTask, "counts", counts)
    out = tmp_path / "run"
    options = {**QUICK, **PLAIN, **VALUES, "manifest": videos / "values.csv", "val_fraction": 0, "batch_size": 2}
    finetune(FinetuneConfig(**options, invalid_marks=[MARK], out=out))
    shown = [json.loads(line)["loss"] for line in (out / "log.jsonl").read_text().splitlines() if '"train"' in line]
    assert shown[1] is None and shown[0] > 0 and shown[2] > 0
    events = EventAccumulator(str(out / "tensorboard")).Reload()
    assert [event.step for event in events.Scalars("train/loss")] == [1, 3]
    assert _progress(FinetuneConfig(out=out)) == (1, f"loss {shown[2]:.4f}")


def test_scales_are_those_of_annotated_frames(videos, tmp_path):
    task = task_of(videos, tmp_path, "values", **VALUES, invalid_marks=[MARK], label_scaling="standardize")
    tables = [pd.read_csv(videos / f"v{n}.csv") for n in range(6)]
    every = pd.concat(tables).query("valence > -1")
    assert task.model.config.output_offset == pytest.approx(every.mean().tolist(), abs=1e-6)
    assert task.model.config.output_scale == pytest.approx(every.std(ddof=0).tolist(), rel=1e-5)


def test_a_mark_that_is_not_declared_stops_training_and_evaluation(videos, tmp_path):
    with pytest.raises(UserError, match=r"-5 looks like a mark .* declare it, invalid_marks=\[-5\]"):
        task_of(videos, tmp_path, "values", **VALUES)
    svfap.create_model(
        "svfap_debug", "regression", label_names=("valence", "arousal"), num_outputs=2, frame_level=True
    ).save_pretrained(tmp_path / "model")
    with pytest.raises(UserError, match="-5 looks like a mark"):
        evaluate(EvaluateConfig(model=str(tmp_path / "model"), manifest=videos / "values.csv", out=tmp_path / "out"))


def test_values_that_the_activation_cannot_reach_stop_training(videos, tmp_path):
    rows = "".join(f"{videos}/{n}.mp4,{n / 10 - 0.2:g}\n" for n in range(6))
    (tmp_path / "m.csv").write_text("path,valence\n" + rows)
    words = dict(task="regression", batch_size=2)
    with pytest.raises(
        UserError, match=r"valence is from -0\.2 to 0\.3, but the outputs .* are from 0 to 1; set label_"
    ):
        task_of(tmp_path, tmp_path, "m", **words, output_activation="sigmoid")
    task_of(tmp_path, tmp_path, "m", **words, output_activation="tanh")
    task_of(tmp_path, tmp_path, "m", **words, output_activation="sigmoid", label_scaling="range")


def test_training_validation_and_evaluation_leave_them_out(videos, tmp_path):
    words = {**QUICK, **VALUES, "manifest": videos / "values.csv", "val_manifest": videos / "part.csv", "batch_size": 3}
    result = finetune(FinetuneConfig(**words, invalid_marks=[MARK], out=tmp_path / "run"))
    validation = result.metrics["last_validation"]
    assert (validation["num_expected"], validation["num_evaluated"], validation["num_unannotated"]) == (3, 3, 1)
    assert result.metrics["num_unreadable"] == 0
    net = svfap.load_model(tmp_path / "run")
    words = dict(model=str(tmp_path / "run"), num_segments=1, num_crops=1, precision="fp32")
    found = evaluate(EvaluateConfig(**words, manifest=videos / "part.csv", invalid_marks=[MARK], out=tmp_path / "out"))
    ranged = evaluate(
        EvaluateConfig(**words, manifest=videos / "part.csv", label_range=(-1, 1), out=tmp_path / "ranged")
    )
    assert found.metrics["frames"] == ranged.metrics["frames"]
    rows = pd.read_csv(tmp_path / "out/frames.csv")
    assert rows["path"].unique().tolist() == ["0.mp4", "1.mp4", "2.mp4"]
    for n in range(3):
        frames = rows[rows["path"] == f"{n}.mp4"]
        assert frames["frame"].tolist() == list(range(14 - 2 * n))  # of the 16 that were shown
        np.testing.assert_allclose(frames["target_arousal"], (n - 3) / 10, atol=1e-6)
    assert found.metrics["frames"]["num_samples"] == len(rows) == 14 + 12 + 10
    table = pd.read_csv(tmp_path / "out/predictions.csv")
    means = rows.groupby("path").mean()
    for name in ("target_valence", "pred_valence"):
        np.testing.assert_allclose(table[name], means[name], atol=1e-5)
    assert len(np.load(tmp_path / "out/features.npz")["features"]) == 3
    assert (found.metrics["num_expected"], found.metrics["num_evaluated"]) == (3, 3)
    assert found.unreadable == {}
    assert net.config.frame_level

    # A fold without these videos is complete.
    names = ("valence", "arousal")
    fold = Fold("1", videos / "values.csv", videos / "part.csv")
    dataset = PreparedDataset("own", "Own", "regression", videos, names, (fold,), frame_level=True)
    read = read_fold(dataset, fold, tmp_path / "out")
    assert (read.num_expected, len(read.videos), read.num_unannotated) == (3, 3, 1)
    assert score_folds(dataset, {"1": tmp_path / "out"})["incomplete"] == []
    assert json.loads((tmp_path / "out/metrics.json").read_text())["num_unannotated"] == 1


def test_an_evaluation_reads_each_file_of_values_once(videos, tmp_path, monkeypatch):
    svfap.create_model(
        "svfap_debug", "regression", label_names=("valence", "arousal"), num_outputs=2, frame_level=True,
        sampling_stride=1,
    ).save_pretrained(tmp_path / "model")  # fmt: skip
    words = dict(model=str(tmp_path / "model"), manifest=videos / "values.csv", precision="fp32")

    def counted(path, *args, **kwargs):
        read.append(path.name)
        return real(path, *args, **kwargs)

    read: list[str] = []
    real = targets.read_frame_values
    monkeypatch.setattr(targets, "read_frame_values", counted)
    evaluate(EvaluateConfig(**words, invalid_marks=[MARK], out=tmp_path / "out"))
    assert sorted(read) == [f"v{n}.csv" for n in range(6)]
    frames = pd.read_csv(tmp_path / "out/frames.csv")
    for n in range(6):
        written = pd.read_csv(videos / f"v{n}.csv")["valence"][: 14 - 2 * n]
        np.testing.assert_allclose(frames["target_valence"][frames["path"] == f"{n}.mp4"], written, atol=1e-6)
    with pytest.raises(UserError, match="-5 looks like a mark of what is not annotated"):
        evaluate(EvaluateConfig(**words, out=tmp_path / "marks"))


def test_nothing_that_is_shown_is_annotated(videos, tmp_path):
    late = [MARK] * 18 + [0.5, -0.5]  # the middle and both segments of 16 frames show frames 0 to 17 at most
    pd.DataFrame({"valence": late, "arousal": late}).to_csv(tmp_path / "late.csv", index=False)
    (tmp_path / "m.csv").write_text(f"path,frame_values\n{videos}/0.mp4,late.csv\n")
    svfap.create_model(
        "svfap_debug", "regression", label_names=("valence", "arousal"), num_outputs=2, frame_level=True,
        sampling_stride=1,
    ).save_pretrained(tmp_path / "model")  # fmt: skip
    words = dict(model=str(tmp_path / "model"), manifest=tmp_path / "m.csv", num_segments=1, out=tmp_path / "out")
    with pytest.raises(UserError, match=r"m\.csv: no frame that was shown is annotated; there is nothing to score"):
        evaluate(EvaluateConfig(**words, invalid_marks=[MARK], precision="fp32"))


def test_all_files_missing_is_one_error_before_training(tmp_path):
    (tmp_path / "m.csv").write_text("path,label\n" + "".join(f"v/{n}.mp4,{'ab'[n % 2]}\n" for n in range(30)))
    words = {**QUICK, "manifest": tmp_path / "m.csv", "batch_size": 2, "out": tmp_path / "out"}
    for task, config in ((FinetuneTask, FinetuneConfig), (PretrainTask, PretrainConfig)):
        with pytest.raises(ManifestError, match=rf"none of the 20 paths looked at exists, such as {tmp_path}/v/0\.mp4"):
            task(config(**words))
