"""A step on a GPU: nothing in it waits for the host, and what goes to the device and comes back."""

from __future__ import annotations

import math
from contextlib import nullcontext
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from host_waits import host_waits
from small_runs import PLAIN, finetuning, log, pretraining

from svfap import device
from svfap.data import rand_augment
from svfap.errors import UserError
from svfap.model.build import create_model
from svfap.model.layers import checkpoint_activations
from svfap.model.masking import tube_mask
from svfap.train import loop
from svfap.train.finetune import FinetuneTask, finetune
from svfap.train.loop import TrainingRun
from svfap.train.losses import annotated_only
from svfap.train.pretrain import PretrainTask, pretrain
from svfap.train.stop import StopRequest

VALUES = dict(task="regression", dimensions=["valence", "arousal"])
RUNS: dict[str, tuple[Any, dict[str, Any]]] = {
    "pixels": (pretraining, {}),
    "difference": (pretraining, dict(target="difference", ema_decay=0.9, repeats=2, checkpoint_activations=True)),
    "classes": (finetuning, dict(class_weights="balanced", ema_decay=0.9, clip_grad=1.0, batch_size=6, accumulate_steps=2)),
    "odd batch": (finetuning, dict(mixup=0.8, cutmix=0, drop_path_rate=0.3)),
    "values": (finetuning, dict(**VALUES, label_scaling="standardize", loss="ccc")),
    "values of frames": (finetuning, dict(**VALUES, label_scaling="range", output_activation="tanh", frame_level=True)),
    "several heads": (
        finetuning,
        dict(heads={"mood": {"task": "classification"}, "affect": dict(VALUES, weight=0.5, label_scaling="range")}),
    ),
}  # fmt: skip


def run_of(faces, out, config, **settings) -> TrainingRun:
    config = config(faces, out, **settings)
    task = FinetuneTask(config) if config.__class__.__name__ == "FinetuneConfig" else PretrainTask(config)
    return TrainingRun(task, task.config)


# waiting -------------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(torch.cuda.is_available(), reason="follows tensors on the host; the test below asks CUDA")
@pytest.mark.parametrize("name", RUNS)
def test_the_host_waits_for_nothing_in_a_step(name, faces, tmp_path, monkeypatch):
    config, settings = RUNS[name]
    run = run_of(faces, tmp_path / "run", config, **settings)
    monkeypatch.setattr(run, "_read_every", 10)
    batches, stop = iter(run._batches(0, 0)), StopRequest()
    micro = [next(batches) for _ in range(run.config.accumulate_steps)]
    run.model.train()
    run._step(micro, 1, stop)  # the first one makes the optimiser's state and moves constants to the device
    with host_waits(run, monkeypatch) as found:
        for _ in range(2):
            run._step(micro, 1, stop)
        assert found == []
        run._read()  # of three steps at once
    assert found == ["tolist"]
    assert [line["step"] for line in log(tmp_path / "run")] == [1, 2, 3]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("name", RUNS)
def test_cuda_reports_no_wait_in_a_step(name, faces, tmp_path):
    config, settings = RUNS[name]
    run = run_of(faces, tmp_path / "run", config, precision="auto", **settings)
    batches, stop = iter(run._batches(0, 0)), StopRequest()
    micro = [next(batches) for _ in range(run.config.accumulate_steps)]
    run.model.train()
    for _ in range(2):
        run._step(micro, 1, stop)
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(3):
            run._step(micro, 1, stop)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    run._read()


def test_a_wait_is_noticed(faces, tmp_path, monkeypatch):
    """What would wait is found, so the test above can fail."""
    run = run_of(faces, tmp_path / "run", finetuning)
    weight = run.task.model.head.weight
    with host_waits(run, monkeypatch) as found, torch.no_grad():
        weight.add(1)
        assert found == []
        weight.sum().item()
        weight.tolist()
        (weight * 2)[weight > 0]
        weight * weight.new_tensor([2.0] * weight.shape[1])
        weight[[1, 0]]
        if (weight > 3).any():
            pytest.fail("no weight is that large")
    names = [name.removeprefix("aten.").split(".")[0] for name in found]
    assert names == ["_local_scalar_dense", "tolist", "index", "mul", "index", "_local_scalar_dense"]


def test_histograms_without_waiting_are_those_of_bincount():
    numbers = torch.randint(0, 50, (400,), dtype=torch.int32, generator=torch.Generator().manual_seed(0))
    assert torch.equal(rand_augment._scattered_counts(numbers, 60), torch.bincount(numbers, minlength=60))


def test_rows_that_are_not_annotated_leave_no_nan_behind():
    outputs = torch.ones(3, 2, requires_grad=True)
    targets = torch.tensor([[1.0, 2.0], [math.nan, 0.0], [0.0, 1.0]])
    kept, known, weights = annotated_only(outputs, targets)
    assert weights[:, 0].tolist() == [1, 0, 1] and known.isfinite().all()
    (kept * known * weights).sum().backward()
    assert outputs.grad.tolist() == [[1, 2], [0, 0], [0, 1]]


# losses that are read later ------------------------------------------------------------------------------------------


def test_losses_that_are_read_later_are_the_same(faces, tmp_path, monkeypatch):
    pretrain(pretraining(faces, tmp_path / "each"))
    in_runs(monkeypatch, _read_every=3)
    pretrain(pretraining(faces, tmp_path / "later"))
    assert log(tmp_path / "later") == log(tmp_path / "each")
    assert log(tmp_path / "later", "val") == log(tmp_path / "each", "val")


def in_runs(monkeypatch: Any, **attributes: Any) -> None:
    """Give runs other attributes once they are set up."""
    real = TrainingRun.__init__

    def init(self: TrainingRun, *args: Any) -> None:
        real(self, *args)
        vars(self).update(attributes)

    monkeypatch.setattr(TrainingRun, "__init__", init)


def test_a_step_reads_no_loss_that_was_just_asked_for(faces, tmp_path, monkeypatch):
    run = run_of(faces, tmp_path / "run", pretraining)
    monkeypatch.setattr(run, "_read_every", 3)
    batches, unread = iter(run._batches(0, 0)), []
    run.model.train()
    for _ in range(4):
        run._step([next(batches)], 1, StopRequest())
        unread.append([step.number for step in run._unread])
    assert unread == [[1], [1, 2], [3], [3, 4]]
    run._read_all()
    run.loader.close()
    assert [line["step"] for line in log(tmp_path / "run")] == [1, 2, 3, 4]


def test_a_loss_that_is_not_finite_is_found_before_anything_is_saved(faces, tmp_path, monkeypatch):
    in_runs(monkeypatch, _read_every=loop.STEPS_UNREAD)
    monkeypatch.setattr(loop, "SAVE_EVERY_S", 0.0)
    real, calls = PretrainTask.losses, []

    def losses(self, *args):
        calls.append(1)
        return [loss * (math.nan if len(calls) == 6 else 1) for loss in real(self, *args)]

    monkeypatch.setattr(PretrainTask, "losses", losses)
    with pytest.raises(UserError, match="the loss is nan at step 6, .*; stopped after step 8"):  # at the epoch's end
        pretrain(pretraining(faces, tmp_path / "run"))
    assert '"step": 4' in (tmp_path / "run" / "last" / "state.json").read_text()
    assert [line["step"] for line in log(tmp_path / "run")] == [1, 2, 3, 4, 5]


# copies to the device ------------------------------------------------------------------------------------------------


class Streams:
    """Stands for `torch.cuda` and notes what is asked of its streams."""

    def __init__(self) -> None:
        self.noted: list[str] = []
        self.user = SimpleNamespace(wait_stream=lambda other: self.noted.append(f"the step waits for {other}"))

    def Stream(self, chosen: torch.device) -> str:
        return "copies"

    def stream(self, chosen: str) -> Any:
        self.noted.append(f"in {chosen}")
        return nullcontext()

    def current_stream(self, chosen: torch.device) -> Any:
        return self.user


def test_batches_are_copied_in_a_stream_of_their_own_from_pinned_memory(monkeypatch):
    cuda = Streams()
    monkeypatch.setattr(device.torch, "cuda", cuda)
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self: cuda.noted.append("pinned") or self)
    monkeypatch.setattr(torch.Tensor, "to", lambda self, *to, non_blocking: cuda.noted.append(non_blocking) or self)
    monkeypatch.setattr(torch.Tensor, "record_stream", lambda self, user: cuda.noted.append(user))
    batch = {"clips": torch.zeros(2), "keys": ["a"]}
    assert device.Upload(torch.device("cuda"))(batch) == batch
    assert cuda.noted == ["in copies", "pinned", True, "the step waits for copies", cuda.user]


def test_batches_stay_where_there_is_one_memory():
    batch = {"clips": torch.zeros(2), "keys": ["a"]}
    assert device.Upload(torch.device("cpu"))(batch)["clips"] is batch["clips"]


@pytest.mark.parametrize(("cuda", "mps", "chosen"), [(True, True, "cuda"), (False, True, "mps"), (False, False, "cpu")])
def test_auto_is_cuda_then_mps_then_the_processor(cuda, mps, chosen, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    assert device.pick_device().type == chosen


@pytest.mark.parametrize(("fast", "chosen"), [(True, "bf16"), (False, "fp32")])
def test_bf16_is_for_gpus_that_do_not_emulate_it(fast, chosen, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: fast or including_emulation)
    assert device.pick_precision("auto", torch.device("cuda")) == chosen


# memory and compilation ----------------------------------------------------------------------------------------------


def stepped(kind: str, change: Any) -> tuple[list[torch.Tensor], int]:
    """Loss and gradients of a small model with drop path, and the bytes kept for the backward pass."""
    torch.manual_seed(0)
    model = create_model("svfap_debug", kind, num_outputs=3 if kind == "classification" else 0, drop_path_rate=0.3)
    change(model)
    shape, kept = model.config, []
    clips = torch.randn(4, 3, shape.num_frames, shape.img_size, shape.img_size)
    mask = tube_mask(4, shape, generator=torch.Generator().manual_seed(1))
    torch.manual_seed(2)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.nbytes) or t, lambda t: t):
        loss = model.loss(clips, mask) if kind == "pretraining" else model.train()(clips).square().mean()
    loss.backward()
    return [loss.detach(), *(p.grad for p in model.parameters() if p.grad is not None)], sum(kept)


@pytest.mark.parametrize("kind", ["pretraining", "classification"])
def test_checkpointed_activations_give_the_same_gradients_with_less_memory(kind):
    (expected, all_bytes), (found, few_bytes) = (
        stepped(kind, change) for change in (lambda m: None, checkpoint_activations)
    )
    assert all(torch.equal(a, b) for a, b in zip(expected, found, strict=True))
    assert few_bytes < 0.6 * all_bytes


@pytest.mark.slow
@pytest.mark.parametrize(("name", "checkpointed"), [("pretrain", False), ("finetune", True)])
def test_a_compiled_run_has_the_losses_of_one_that_is_not(name, checkpointed, faces, tmp_path):
    """With the default backend, through the wrappers of autocast."""
    config = pretraining if name == "pretrain" else partial(finetuning, **PLAIN)
    shown = {}
    for compiled in (False, True):
        out = tmp_path / str(compiled)
        settings = dict(compile=compiled, checkpoint_activations=checkpointed, model={"stage_depths": (1,)})
        run = run_of(faces, out, config, **settings)
        run.model.train()
        batches = iter(run._batches(0, 0))
        for _ in range(3):
            run._step([next(batches)], 1, StopRequest())
        run.loader.close()
        shown[compiled] = [(line["loss"], line["grad_norm"]) for line in log(out)]
    np.testing.assert_allclose(shown[True], shown[False], rtol=1e-3)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("name", RUNS)
def test_steps_replayed_as_cuda_graphs_have_the_losses_of_eager_ones(name, faces, tmp_path):
    """The whole run: validation between the steps, micro-batches whose gradients add up, a moving average."""
    config, settings = RUNS[name]
    settings = {**settings, "model": {"stage_depths": (1,)}}
    if config is finetuning:
        settings = {**PLAIN, **settings, "drop_path_rate": 0}
    shown = {}
    for compiled in (False, True):
        torch.compiler.reset()
        out = tmp_path / str(compiled)
        (pretrain if config is pretraining else finetune)(config(faces, out, compile=compiled, **settings))
        shown[compiled] = [(line["loss"], line["grad_norm"]) for line in log(out)]
    assert len(shown[False]) > 2
    np.testing.assert_allclose(shown[True], shown[False], rtol=1e-3)


@pytest.mark.slow
def test_gradients_that_are_kept_and_set_to_zero_are_those_that_are_made_anew(faces, tmp_path, monkeypatch):
    """As for CUDA graphs with several micro-batches a step."""
    config, settings = RUNS["classes"]
    finetune(config(faces, tmp_path / "anew", **settings))
    in_runs(monkeypatch, _keeps_gradients=True)
    finetune(config(faces, tmp_path / "kept", **settings))
    assert log(tmp_path / "kept") == log(tmp_path / "anew")
