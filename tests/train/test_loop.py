"""What single lines of the training loop are for: random draws, loader workers, gradients under fp16, the progress bar."""

from __future__ import annotations

import json
import multiprocessing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from rich.progress import Progress
from small_runs import PLAIN, finetuning, log, pretraining

from svfap.console import progress_bar
from svfap.device import make_accelerator
from svfap.errors import UserError
from svfap.train import loop, parallel
from svfap.train.finetune import FinetuneTask
from svfap.train.loop import TrainingRun
from svfap.train.pretrain import PretrainTask, pretrain
from svfap.train.stop import StopRequest


def run_of(faces: Path, out: Path, **settings: Any) -> TrainingRun:
    config = finetuning(faces, out, **{**PLAIN, **settings})
    return TrainingRun(FinetuneTask(config), config)


def first_batch(run: TrainingRun) -> dict[str, Any]:
    return next(iter(run._batches(0, 0)))


@pytest.mark.parametrize("kind", ["pretrain", "finetune"])
def test_initial_weights_depend_on_the_seed_alone(kind, faces, tmp_path):
    config, task = (pretraining, PretrainTask) if kind == "pretrain" else (finetuning, FinetuneTask)

    def weights(seed: int, drawn_before: int) -> torch.Tensor:
        torch.manual_seed(drawn_before)
        model = task(config(faces, tmp_path / "run", seed=seed)).model
        head = model.mask_token if kind == "pretrain" else model.head.weight
        return torch.cat([head.flatten(), model.encoder.tubelet_embed.weight.flatten()]).detach()

    first = weights(0, drawn_before=1)
    assert torch.equal(weights(0, drawn_before=2), first)
    assert not torch.equal(weights(1, drawn_before=1), first)


def test_the_head_that_is_new_to_pretrained_weights_depends_on_the_seed_alone(faces, tmp_path):
    PretrainTask(pretraining(faces, tmp_path / "run")).model.save_pretrained(tmp_path / "pretrained")

    def head(seed: int, drawn_before: int) -> torch.Tensor:
        torch.manual_seed(drawn_before)
        return FinetuneTask(
            finetuning(faces, tmp_path / "run", init=str(tmp_path / "pretrained"), seed=seed)
        ).model.head.weight

    assert torch.equal(head(0, drawn_before=1), head(0, drawn_before=2))
    assert not torch.equal(head(0, drawn_before=1), head(1, drawn_before=1))


def test_blocks_dropped_in_a_step_depend_on_seed_and_step_alone(faces, tmp_path):
    """Drop path draws from torch's global generator, which the loop seeds in each step."""
    run = run_of(faces, tmp_path / "run", drop_path_rate=0.5)
    run.task.model.head.weight.data.normal_()
    batch = first_batch(run)
    run.model.train()

    def loss(drawn_before: int) -> float:
        torch.manual_seed(drawn_before)
        return run._accumulate([batch])[0].item()

    first = loss(drawn_before=1)
    assert loss(drawn_before=2) == first
    run.state.step += 1
    assert loss(drawn_before=1) != first
    run.state.step -= 1
    run.config = replace(run.config, seed=1)
    assert loss(drawn_before=1) != first


def test_loader_workers_end_with_the_training(faces, tmp_path):
    """Even while the run is still referred to, as by a traceback that is kept."""
    config = finetuning(faces, tmp_path / "run", epochs=1, num_workers=1)
    run = TrainingRun(FinetuneTask(config), config)
    before = set(multiprocessing.active_children())
    assert run.train().finished
    assert set(multiprocessing.active_children()) <= before
    assert run.loader._loader is None


def test_a_gradient_that_overflows_stops_the_run_except_under_fp16(faces, tmp_path, monkeypatch):
    """With fp16 the scaler of the gradients leaves such a step out and takes a smaller scale."""
    monkeypatch.setattr(loop, "STEPS_UNREAD", 1)  # losses are read at once, on a GPU too
    run = run_of(faces, tmp_path / "run")
    monkeypatch.setattr(run.accelerator, "clip_grad_norm_", lambda *_: torch.tensor(float("inf")))
    with pytest.raises(
        UserError, match=r"the gradient norm is inf at step 1, .* after step 0\. .*There is no checkpoint"
    ):
        run._step([first_batch(run)], 1, StopRequest())
    monkeypatch.setattr(Accelerator, "mixed_precision", "fp16")
    run._step([first_batch(run)], 1, StopRequest())
    assert 0 < run._last_loss < float("inf")
    (line,) = log(tmp_path / "run")
    assert line["grad_norm"] is None and line["loss"] == run._last_loss, "JSON has no infinity"
    assert run.state.step == 1


@pytest.fixture
def bars(monkeypatch) -> list[Progress]:
    """The progress bars that training shows."""
    shown: list[Progress] = []

    def recorded() -> Progress:
        shown.append(progress_bar())
        return shown[-1]

    for module in (loop, parallel):
        monkeypatch.setattr(module, "progress_bar", recorded)
    return shown


def test_the_progress_bar_counts_the_steps(faces, tmp_path, bars, monkeypatch):
    monkeypatch.setattr(loop, "STEPS_UNREAD", 1)
    pretrain(pretraining(faces, tmp_path / "run"))
    (shown,) = bars[0].tasks
    assert (shown.completed, shown.total) == (12, 12)
    assert shown.fields["note"].startswith(f"epoch 3, loss {log(tmp_path / 'run')[-1]['loss']:.4f}, ")
    pretrain(pretraining(faces, tmp_path / "run", resume=True))
    assert bars[1].tasks[0].completed == 12


def writes_a_log(config: Any) -> int:
    records = [{"kind": "train", "epoch": 1, "step": 1, "loss": 0.5}, {"kind": "val", "epoch": 1, "step": 1}]
    records.append({"kind": "train", "epoch": 2, "step": 2, "loss": 0.25})
    (config.out / "log.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    return 0


@pytest.mark.slow
def test_the_progress_bar_of_parallel_runs_counts_their_epochs(faces, tmp_path, bars):
    configs = [pretraining(faces, tmp_path / name, epochs=3) for name in ("a", "b")]
    assert parallel.run_parallel(writes_a_log, configs, 2, []) == 0
    assert [(shown.description, shown.completed, shown.total) for shown in bars[0].tasks] == [("a", 3, 3), ("b", 3, 3)]
    assert [shown.fields["note"] for shown in bars[0].tasks] == ["done", "done"]
    assert parallel._progress(configs[0]) == (1, "loss 0.2500")
    assert parallel._progress(pretraining(faces, tmp_path / "not_begun")) == (0, "starts")


def test_the_log_counts_epochs_from_1_and_a_log_from_0_is_continued(faces, tmp_path, monkeypatch):
    config = pretraining(faces, tmp_path / "run")
    assert pretrain(config).finished
    whole = (tmp_path / "run" / "log.jsonl").read_text()
    assert [line["epoch"] for line in log(tmp_path / "run")] == [1] * 4 + [2] * 4 + [3] * 4
    assert [line["epoch"] for line in log(tmp_path / "run", "val")] == [1, 2, 3]
    from_zero = [{**record, "epoch": record["epoch"] - 1} for record in map(json.loads, whole.splitlines())]
    (tmp_path / "run" / "log.jsonl").write_text("".join(json.dumps(record) + "\n" for record in from_zero))
    assert pretrain(replace(config, resume=True)).finished
    assert (tmp_path / "run" / "log.jsonl").read_text() == whole


def test_previews_hide_the_same_tubelets_each_time(faces, tmp_path):
    task = PretrainTask(pretraining(faces, tmp_path / "run", previews=2))
    shown = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        shown.append(task.pictures(make_accelerator(), task.model.eval())["reconstruction"])
    assert np.array_equal(*shown)
