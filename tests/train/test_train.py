"""Runs of the real loop on small data: resuming to the last bit, stopping cleanly, and every reason to refuse."""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from forked import start as forked
from forked import under_torchrun
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import svfap
from svfap.errors import Interrupted, UserError
from svfap.train import loop
from svfap.train.config import FinetuneConfig, PretrainConfig
from svfap.train.finetune import FinetuneTask, finetune, read_parts
from svfap.train.loop import TrainingRun
from svfap.train.pretrain import PretrainTask, pretrain

QUICK = dict(preset="svfap_debug", sampling_stride=1, warmup_epochs=0.5, precision="fp32", num_workers=0)


def pretraining(faces, out, **words) -> PretrainConfig:
    return PretrainConfig(
        **{
            **QUICK,
            "manifest": faces / "pretrain.csv",
            "epochs": 3,
            "batch_size": 4,
            "base_lr": 0.2,
            "out": out,
            **words,
        }
    )


def finetuning(faces, out, **words) -> FinetuneConfig:
    quick = {**QUICK, "manifest": faces / "train.csv", "val_manifest": faces / "val.csv", "epochs": 2, "batch_size": 7}
    return FinetuneConfig(**{**quick, "out": out, **words})


def log(out: Path, kind: str = "train") -> list[dict]:
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return [line for line in lines if line["kind"] == kind]


def losses(out: Path) -> list[float | None]:
    return [line["loss"] for line in log(out)]


@pytest.fixture(scope="module")
def pretrained(faces, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "pretrain"
    pretrain(pretraining(faces, out))
    return out


def test_pretraining_writes_a_whole_run(pretrained):
    assert [line["step"] for line in log(pretrained)] == list(range(1, 13))
    assert losses(pretrained)[-1] < losses(pretrained)[0]
    metrics = json.loads((pretrained / "metrics.json").read_text())
    assert metrics["finished"]
    assert metrics["best_epoch"] == 3  # counted from 1
    assert yaml.safe_load((pretrained / "config.yaml").read_text())["batch_size"] == 4
    assert (pretrained / "unreadable.csv").read_text() == "path,reason\n"
    last, best = (svfap.load_model(pretrained / name) for name in ("last", "best"))
    assert last.config == best.config
    assert all(torch.equal(a, b) for a, b in zip(last.state_dict().values(), best.state_dict().values(), strict=True))
    events = EventAccumulator(str(pretrained / "tensorboard")).Reload()
    assert len(events.Scalars("train/loss")) == 12
    assert events.Images("reconstruction")[-1].step == 12


def test_learning_rates_are_the_schedule(pretrained, faces):
    rates = [line["lr"] for line in log(pretrained)]
    peak = 0.2 * 4 / 256
    assert max(rates) == pytest.approx(peak)
    assert rates[0] == 0
    assert rates[-1] < 0.1 * peak


@pytest.mark.parametrize("kind", ["pretrain", pytest.param("finetune", marks=pytest.mark.slow)])
def test_a_resumed_run_repeats_the_losses_to_the_last_bit(kind, faces, tmp_path, monkeypatch):
    config, train = (pretraining, pretrain) if kind == "pretrain" else (finetuning, finetune)
    words = {"ema_decay": 0.9, "model": {"drop_path_rate": 0.3}}
    train(config(faces, tmp_path / "whole", **words))
    stop_after(monkeypatch, 6)  # in the middle of the second epoch
    result = train(config(faces, tmp_path / "broken", **words))
    assert (result.finished, result.step) == (False, 6)
    monkeypatch.undo()
    result = train(config(faces, tmp_path / "broken", **words, num_workers=1, resume=True))
    assert result.finished
    assert losses(tmp_path / "broken") == losses(tmp_path / "whole")
    for name in ("last", "best"):
        whole, broken = (svfap.load_model(tmp_path / run / name).state_dict() for run in ("whole", "broken"))
        assert all(torch.equal(whole[key], broken[key]) for key in whole), name
    assert log(tmp_path / "broken", "val") == log(tmp_path / "whole", "val")


def stop_after(monkeypatch, steps: int) -> None:
    """Ask the loop to stop as a signal would, after so many steps."""
    count = 0
    real = loop.TrainingRun._accumulate

    def counting(*args):
        nonlocal count
        count += 1
        if count == steps:
            os.kill(os.getpid(), signal.SIGTERM)
        return real(*args)

    monkeypatch.setattr(loop.TrainingRun, "_accumulate", counting)


def test_resuming_a_finished_run_changes_nothing(pretrained, faces, capsys):
    before = (pretrained / "last" / "model.safetensors").stat().st_mtime_ns
    result = pretrain(pretraining(faces, pretrained, resume=True))
    assert result.finished
    said = " ".join(capsys.readouterr().err.split())
    assert (
        "was finished already, after 3 epochs, where its learning rates end" in said and f"--init {pretrained}" in said
    )
    stored = json.loads((pretrained / "metrics.json").read_text())
    assert stored == {"format_version": 2, **result.metrics}
    assert (pretrained / "last" / "model.safetensors").stat().st_mtime_ns == before


def test_another_run_in_the_folder_is_not_overwritten(pretrained, faces):
    with pytest.raises(UserError, match="holds a run already"):
        pretrain(pretraining(faces, pretrained))
    with pytest.raises(UserError, match="other settings .batch_size: 4 then, 8 now"):
        pretrain(pretraining(faces, pretrained, batch_size=8, resume=True))


def test_a_crash_while_a_checkpoint_is_put_in_place_loses_nothing(faces, tmp_path, monkeypatch):
    stop_after(monkeypatch, 6)
    pretrain(pretraining(faces, tmp_path / "run"))
    monkeypatch.undo()
    (tmp_path / "run" / "last").rename(tmp_path / "run" / "last.old")  # between the two renames
    (tmp_path / "run" / "last.new").mkdir()
    steps, step = [], loop.TrainingRun._step
    monkeypatch.setattr(
        loop.TrainingRun, "_step", lambda run, *args: (steps.append(run.state.step), step(run, *args))[1]
    )
    pretrain(pretraining(faces, tmp_path / "run", resume=True))
    assert steps == list(range(6, 12))  # it goes on, and does not begin again
    assert len(losses(tmp_path / "run")) == 12


# Nothing is drawn but the order of the clips. The first step has a learning rate of 0, so there must be more for a loss to
# depend on a gradient; and the rate is so high that the classes of validation come apart (best and second differ by 0.02,
# runs that sum in another order by 0.000002): were all as likely as in a fresh model, rounding would choose.
PLAIN = dict(
    mixup=0,
    cutmix=0,
    rand_augment=False,
    crop_scale=(1.0, 1.0),
    erase_rate=0,
    flip_rate=0,
    drop_path_rate=0,
    epochs=2,
    base_lr=1.0,
    batch_size=14,
)


def test_accumulation_does_not_change_the_result(faces, tmp_path):
    # In double the sums of gradients agree closely, whatever the cut; masks are drawn by micro-batch, so classes are used.
    for parts in (1, 2):
        finetune(finetuning(faces, tmp_path / str(parts), **PLAIN, accumulate_steps=parts))
    np.testing.assert_allclose(losses(tmp_path / "1"), losses(tmp_path / "2"), rtol=1e-4)


def settings_file(file: Path, words: dict) -> Path:
    plain = {k: str(v) if isinstance(v, Path) else list(v) if isinstance(v, tuple) else v for k, v in words.items()}
    file.write_text(yaml.safe_dump(plain))
    return file


def test_torchrun_on_two_processes_matches_one(faces, tmp_path):
    finetune(finetuning(faces, tmp_path / "one", **PLAIN))
    file = settings_file(tmp_path / "run.yaml", vars(finetuning(faces, tmp_path / "two", **PLAIN)))
    under_torchrun(["finetune", "--config", str(file)], 2, tmp_path / "printed.txt")
    np.testing.assert_allclose(losses(tmp_path / "two"), losses(tmp_path / "one"), rtol=1e-4)
    two, one = log(tmp_path / "two", "val")[-1], log(tmp_path / "one", "val")[-1]
    assert two["num_evaluated"] == one["num_evaluated"] == 7
    assert two["war"] == one["war"]


def on_two_processes(file: Path) -> None:
    """Fine-tune by the command of torchrun with the settings of a YAML file."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--local-addr=127.0.0.1"]
    command += ["--nproc-per-node=2", "-m", "svfap", "finetune", "--config", str(file)]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.slow
def test_a_process_without_anything_to_validate_does_not_hang(faces, tmp_path):
    pd.read_csv(faces / "val.csv").iloc[:1].assign(path=lambda t: str(faces) + "/" + t["path"]).to_csv(
        tmp_path / "one.csv"
    )
    names = sorted(pd.read_csv(faces / "train.csv")["label"].unique())
    words = dict(val_manifest=tmp_path / "one.csv", label_names=names, epochs=1, batch_size=14)
    on_two_processes(settings_file(tmp_path / "run.yaml", vars(finetuning(faces, tmp_path / "run", **words))))
    assert log(tmp_path / "run", "val")[0]["num_evaluated"] == 1


def test_half_a_log_line_does_not_stop_resuming(faces, tmp_path, monkeypatch):
    stop_after(monkeypatch, 6)
    pretrain(pretraining(faces, tmp_path / "run", model={"stage_depths": (2, 2, 2)}))
    monkeypatch.undo()
    with (tmp_path / "run" / "log.jsonl").open("a") as file:
        file.write('{"kind": "train", "ep')
    pretrain(pretraining(faces, tmp_path / "run", model={"stage_depths": (2, 2, 2)}, max_unreadable=0.5, resume=True))
    assert [line["step"] for line in log(tmp_path / "run")] == list(range(1, 13))


def test_unreadable_validation_videos_are_listed(faces, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(faces, copy)
    bad = pd.read_csv(copy / "val.csv")["path"][0]
    (copy / bad).write_text("no video")
    result = finetune(finetuning(copy, tmp_path / "run", max_unreadable=0.1))
    assert result.metrics["num_unreadable"] == 1
    assert pd.read_csv(tmp_path / "run" / "unreadable.csv")["path"].tolist() == [bad]


def test_published_checkpoint_without_args_starts_a_run(faces, pretrained, tmp_path):
    state = svfap.export_published(svfap.load_model(pretrained))
    torch.save({"model": state}, tmp_path / "official.pth")
    task = FinetuneTask(finetuning(faces, tmp_path / "run", init=str(tmp_path / "official.pth")))
    name = "tubelet_embed.weight"
    assert torch.equal(task.model.encoder.state_dict()[name], state["encoder.patch_embed.proj.weight"])


def test_frame_level_takes_the_dimensions_of_the_side_files(faces, tmp_path):
    training, _ = read_parts(finetuning(faces, tmp_path, task="regression", frame_level=True))
    assert training.dimensions == ("valence", "arousal", "dominance")


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}


@pytest.mark.parametrize(
    "number", [signal.SIGTERM, *(pytest.param(n, marks=pytest.mark.slow) for n in (signal.SIGINT, signal.SIGHUP))]
)
def test_a_signal_saves_and_is_the_exit_status(number, faces, tmp_path):
    out = tmp_path / "run"
    words = ["--manifest", str(faces / "pretrain.csv"), "--preset", "svfap_debug", "--sampling_stride", "1"]
    words += ["--batch_size", "4", "--epochs", "400", "--num_workers", "1", "--out", str(out)]
    process = forked(["pretrain", *words], tmp_path / "printed.txt")
    try:
        deadline = time.monotonic() + 300
        while not (out / "log.jsonl").exists() or (out / "log.jsonl").read_text().count("\n") <= 6:
            assert process.is_alive() and time.monotonic() < deadline
            time.sleep(0.1)
        os.kill(process.pid, number)
        process.join(300)
    finally:
        process.kill()
    assert process.exitcode == 128 + number
    printed = (tmp_path / "printed.txt").read_text()
    assert "Traceback" not in printed
    assert "--resume" in printed
    state = json.loads((out / "last" / "state.json").read_text())
    assert state["step"] == log(out)[-1]["step"] < 1600


def test_short_epochs_are_saved_together(faces, tmp_path, monkeypatch):
    saved = []
    monkeypatch.setattr(
        TrainingRun, "_save", lambda self, save=TrainingRun._save: (saved.append(self.state.step), save(self))
    )
    pretrain(pretraining(faces, tmp_path / "short"))
    assert saved == [12], "its last step"
    monkeypatch.setattr(loop, "SAVE_EVERY_S", 0.0)
    pretrain(pretraining(faces, tmp_path / "each"))
    assert saved == [12, 4, 8, 12]


def test_a_non_finite_loss_stops_before_the_step(faces, tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "SAVE_EVERY_S", 0.0)
    real = PretrainTask.losses

    def losses(self, *args):
        return [loss * (float("nan") if len(log_or_none(tmp_path)) == 5 else 1) for loss in real(self, *args)]

    monkeypatch.setattr(PretrainTask, "losses", losses)
    with pytest.raises(UserError) as refused:
        pretrain(pretraining(faces, tmp_path / "run"))
    text = str(refused.value)
    assert text.startswith("training has diverged: the loss is nan at step 6, whose videos are in ")
    assert (
        "stopped after step 5. --resume would do the same again: start a new run in another folder with a lower" in text
    )
    assert f"from its weights with --init {tmp_path / 'run'}. " in text and "fp32" not in text, "it is in fp32"
    assert text.endswith(f"{tmp_path / 'run' / 'last'} is of step 4, when nothing was NaN or infinite yet")
    assert [line["step"] for line in log(tmp_path / "run")] == [1, 2, 3, 4, 5]
    file = json.loads((tmp_path / "run" / "non_finite_0.json").read_text())
    assert file["step"] == 6, "as the log would number it"
    named = file["paths"]
    assert len(named) == 4
    assert all((faces / path).exists() for path in named)
    weights = svfap.load_model(tmp_path / "run" / "last").state_dict()
    assert all(value.isfinite().all() for value in weights.values())
    assert json.loads((tmp_path / "run" / "last" / "state.json").read_text())["step"] == 4


def test_weights_that_are_not_finite_are_not_saved(faces, tmp_path):
    """The loss of the last step is that of the weights before it."""
    with pytest.raises(UserError, match="diverged: the weights are NaN or infinite; stopped after step 1"):
        pretrain(
            pretraining(faces, tmp_path / "run", epochs=1, batch_size=16, base_lr=1e45, warmup_epochs=0, clip_grad=1.0)
        )
    assert not (tmp_path / "run" / "last").exists()


def test_outputs_of_a_validation_that_are_not_finite_mean_that_training_has_diverged(faces, tmp_path, monkeypatch):
    def spoilt(self, accelerator, model, *args):
        if epochs:
            with torch.no_grad():
                model.head.bias.fill_(math.nan)
        epochs.append(1)
        return real(self, accelerator, model, *args)

    real, epochs = FinetuneTask.validate, []
    monkeypatch.setattr(loop, "SAVE_EVERY_S", 0.0)
    monkeypatch.setattr(FinetuneTask, "validate", spoilt)
    with pytest.raises(UserError) as refused:
        finetune(finetuning(faces, tmp_path / "run"))
    text = str(refused.value)
    assert text.startswith(
        "training has diverged: outputs for the validation videos are NaN or infinite; stopped after"
    )
    assert f"with --init {tmp_path / 'run'}. " in text, "what fine-tuning can start from"


def test_log_lines_are_strict_json(faces, tmp_path):
    """A scaler of fp16 skips steps whose gradient norm is infinite."""
    run = TrainingRun(FinetuneTask(finetuning(faces, tmp_path / "run")), finetuning(faces, tmp_path / "run"))
    written = []
    run._tracking.log = lambda step, numbers: written.extend(numbers)
    run._log("train", 1, 1, {"loss": 1.5, "grad_norm": math.inf})
    assert log(tmp_path / "run") == [{"kind": "train", "epoch": 1, "step": 1, "loss": 1.5, "grad_norm": None}]
    assert written == ["train/loss"]
    run.close("failed")


def test_a_second_ctrl_c_says_how_to_continue(faces, tmp_path, monkeypatch):
    def pressed(self):
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(TrainingRun, "_save", pressed)
    with pytest.raises(Interrupted, match="interrupted again, before the run was saved; --resume continues") as stopped:
        pretrain(pretraining(faces, tmp_path / "run"))
    assert stopped.value.number == signal.SIGINT


def log_or_none(tmp_path: Path) -> list[dict]:
    return log(tmp_path / "run") if (tmp_path / "run" / "log.jsonl").exists() else []


@pytest.fixture
def damaged(faces, tmp_path) -> Path:
    """The dataset with one training video replaced by text and one missing."""
    copy = tmp_path / "damaged"
    shutil.copytree(faces, copy)
    paths = pd.read_csv(copy / "train.csv")["path"]
    (copy / paths[3]).write_text("no video")
    (copy / paths[5]).unlink()
    return copy


def test_unreadable_videos_stop_training_when_too_many(damaged, tmp_path):
    with pytest.raises(UserError, match="more than max_unreadable=0.01 allows"):
        finetune(finetuning(damaged, tmp_path / "run"))
    assert 1 <= len(pd.read_csv(tmp_path / "run" / "unreadable.csv")) <= 2


def test_unreadable_videos_are_skipped_counted_and_listed(damaged, tmp_path):
    result = finetune(finetuning(damaged, tmp_path / "run", max_unreadable=0.1, batch_size=2))
    assert result.metrics["num_unreadable"] == 2
    listed = pd.read_csv(tmp_path / "run" / "unreadable.csv")
    paths = pd.read_csv(damaged / "train.csv")["path"]
    assert set(listed["path"]) == {paths[3], paths[5]}
    assert listed["reason"].str.len().min() > 5


def test_a_batch_of_unreadable_videos_alone_is_a_step_of_weight_zero(damaged, tmp_path):
    table = pd.read_csv(damaged / "train.csv").iloc[[3]]
    table.to_csv(damaged / "one.csv", index=False)
    words = dict(manifest=damaged / "one.csv", max_unreadable=1.0, batch_size=1, label_names=["surprise", *"abcdef"])
    words["label_names"] = [str(table["label"].iloc[0]), "other"]
    finetune(finetuning(damaged, tmp_path / "run", **{**words, "val_manifest": None, "val_fraction": 0.0}))
    assert losses(tmp_path / "run") == [None, None], "nothing was learnt, so there is no loss"


def test_finetuning_chooses_the_best_epoch_on_validation(faces, pretrained, tmp_path):
    result = finetune(finetuning(faces, tmp_path / "run", init=str(pretrained), epochs=4, base_lr=0.05))
    scores = [line["uar"] for line in log(tmp_path / "run", "val")]
    assert result.metrics["best_epoch"] == int(np.argmax(scores)) + 1
    model = svfap.load_model(tmp_path / "run")
    assert model.config.label_names == tuple(sorted(pd.read_csv(faces / "train.csv")["label"].unique()))
    assert model.config.sampling_stride == 1
    assert model.config.provenance["init"] == str(pretrained)


def test_initial_weights_are_the_pretrained_encoder(faces, pretrained, tmp_path):
    task = FinetuneTask(finetuning(faces, tmp_path / "run", init=str(pretrained)))
    source = svfap.load_model(pretrained).encoder.state_dict()
    for name, tensor in task.model.encoder.state_dict().items():
        assert torch.equal(tensor, source[name]), name


def test_regression_and_frame_level(faces, tmp_path):
    words = dict(task="regression", dimensions=["valence", "arousal"], output_activation="tanh", label_names=None)
    result = finetune(finetuning(faces, tmp_path / "clip", **words))
    assert set(result.metrics["last_validation"]["per_dimension"]) == {"valence", "arousal"}
    result = finetune(finetuning(faces, tmp_path / "frame", **words, frame_level=True))
    assert result.metrics["last_validation"]["frames"]["num_samples"] == 7 * 16
    model = svfap.load_model(tmp_path / "frame")
    assert model(torch.zeros(1, 3, 16, 32, 32)).shape == (1, 16, 2)


def test_validation_is_carved_by_subject_and_test_never_used(faces, tmp_path, capsys):
    training, validation = read_parts(finetuning(faces, tmp_path, val_manifest=None, val_fraction=0.25))
    subjects = [{sample.subject for sample in part} for part in (training, validation)]
    assert subjects[0]
    assert subjects[1]
    assert not subjects[0] & subjects[1]
    assert len(training) + len(validation) == 28


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"batch_size": 7, "accumulate_steps": 2}, "batch_size=7 is not a multiple"),
        ({"batch_size": 64}, "do not fill one batch of 64"),
        ({"precision": "fp16"}, "fp16 needs a GPU"),
        ({"loss": "ccc"}, "loss=ccc: is for regression"),
        ({"task": "regression", "class_weights": "balanced"}, "class_weights=balanced: is for classification"),
        ({"task": "regression", "loss": "pcc", "batch_size": 1}, "loss=pcc: needs at least 2 clips"),
        ({"label_range": (1.0, -1.0)}, "label_range"),
        ({"by_group": True}, "no column 'group', by which `by_group` averages"),
        ({"val_manifest": None, "val_split": "val"}, "`val_split` without `split`"),
        ({"init": "nowhere"}, "nowhere: no such folder"),
        ({"model": {"img_sise": 32}}, "did you mean 'img_size'"),
        ({"epochs": 0}, "epochs=0: must be at least 1"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"base_lr": -1.0}, "base_lr=-1.0"),
        ({"base_lr": float("nan")}, "base_lr=nan"),
        ({"seed": -1}, "seed=-1"),
        ({"repeats": 2}, "repeats=2 does not divide the 7 clips"),
        ({"accumulate_steps": 2}, "batch_size=7 is not a multiple of 1 process"),
        ({"batch_size": 700, "accumulate_steps": 100}, "accumulate_steps=100: a step takes"),
        ({"smoothing": 1.5}, "smoothing=1.5: must be from 0 to less than 1"),
        ({"crop_scale": (0.9, 0.5)}, "crop_scale"),
        ({"val_fraction": 1.0}, "val_fraction"),
    ],
)
def test_settings_that_do_not_fit(faces, tmp_path, words, message):
    if torch.cuda.is_available() and "precision" in words:
        pytest.skip("a GPU has fp16")
    with pytest.raises(UserError, match=message):
        finetune(finetuning(faces, tmp_path / "run", **words))
    assert not list((tmp_path / "run").glob("[!.]*"))  # no trace of a run


@pytest.mark.parametrize("words", [{"mask_ratio": 0.0}, {"mask_ratio": 1.0}, {"crop_scales": (1.5,)}, {"previews": -1}])
def test_settings_of_pretraining_that_do_not_fit(faces, tmp_path, words):
    with pytest.raises(UserError, match=next(iter(words))):
        pretraining(faces, tmp_path, **words)


def test_a_checkpoint_for_another_task_is_refused(faces, pretrained, tmp_path):
    from svfap.evaluation.config import EvaluateConfig
    from svfap.evaluation.evaluate import evaluate

    with pytest.raises(UserError, match="is a pretraining model"):
        evaluate(EvaluateConfig(model=str(pretrained), manifest=faces / "test.csv", out=tmp_path))
    with pytest.raises(UserError, match="not for prediction"):
        svfap.Predictor(pretrained)


def test_unwritable_folder_is_named(faces, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot write there"):
        pretrain(pretraining(faces, tmp_path / "file" / "run"))
