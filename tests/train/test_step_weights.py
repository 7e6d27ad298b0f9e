"""Every clip of a step, or every labelled frame, has the same weight, whatever the micro-batches; and mixing."""

from __future__ import annotations

import pytest
import torch
from small_runs import PLAIN, finetuning
from torch import Tensor

from svfap.data import augment
from svfap.train.finetune import FinetuneTask
from svfap.train.loop import TrainingRun


def started(faces, out, **settings) -> TrainingRun:
    config = finetuning(faces, out, **{**PLAIN, **settings})
    torch.manual_seed(0)
    task = FinetuneTask(config)
    task.model.head.weight.data.normal_()
    return TrainingRun(task, config)


def batch_of(task: FinetuneTask, rows: range) -> dict:
    return task.dataset.collate([task.dataset[row] for row in rows])


def unreadable(task: FinetuneTask) -> dict:
    batch = task.dataset.collate([])
    return {**batch, "unreadable": [(0, "a.mp4", "gone")]}


def gradient(run: TrainingRun, micro: list[dict]) -> tuple[float, Tensor]:
    run.optimizer.zero_grad()
    loss = run._accumulate(micro)[0].item()
    return loss, torch.cat([p.grad.flatten() for p in run.task.model.parameters() if p.grad is not None])


@pytest.mark.parametrize(
    "settings",
    [
        {"smoothing": 0.1},
        {"class_weights": "balanced"},
        {"task": "regression", "dimensions": ["valence", "arousal"]},
        {"task": "regression", "dimensions": ["valence"], "frame_level": True},
    ],
)
def test_readable_8_and_1_is_one_batch_of_9(settings, faces, tmp_path):
    run = started(faces, tmp_path / "run", batch_size=16, accumulate_steps=2, **settings)
    parts = [batch_of(run.task, range(8)), batch_of(run.task, range(8, 9))]
    loss, split = gradient(run, parts)
    whole_loss, whole = gradient(run, [batch_of(run.task, range(9))])
    assert loss == pytest.approx(whole_loss, rel=1e-5)
    torch.testing.assert_close(split, whole, rtol=1e-4, atol=1e-6 * whole.abs().max().item())


def test_readable_8_and_0_is_one_batch_of_8(faces, tmp_path):
    run = started(faces, tmp_path / "run", batch_size=16, accumulate_steps=2)
    whole_loss, whole = gradient(run, [batch_of(run.task, range(8))])
    for parts in (
        [batch_of(run.task, range(8)), unreadable(run.task)],
        [unreadable(run.task), batch_of(run.task, range(8))],
    ):
        loss, split = gradient(run, parts)
        assert loss == pytest.approx(whole_loss, rel=1e-6)
        torch.testing.assert_close(split, whole, rtol=1e-5, atol=1e-7 * whole.abs().max().item())
    loss, nothing = gradient(run, [unreadable(run.task), unreadable(run.task)])
    assert loss == 0
    assert not nothing.any()


class TwoProcesses:
    """Stands for an accelerator of two processes."""

    def __init__(self, real) -> None:
        self._real = real
        self.num_processes = 2

    def __getattr__(self, name: str):
        return getattr(self._real, name)


def test_processes_share_the_weight_of_the_step(faces, tmp_path):
    run = started(faces, tmp_path / "run")
    batch = batch_of(run.task, range(6))
    _, whole = gradient(run, [batch])
    run.accelerator = TwoProcesses(run.accelerator)
    run._of_all = lambda counts: [counts, [2]]  # readable clips of the other one
    _, mine = gradient(run, [batch])
    # Gradients are averaged over the two processes: 6 clips of 8 have 3/4 of the weight, so 3/2 before the average.
    torch.testing.assert_close(mine, whole * 2 * 6 / 8)


@pytest.mark.parametrize("task", ["classification", "regression"])
def test_frames_without_a_label_do_not_count(task, faces, tmp_path):
    names = dict(dimensions=["valence"]) if task == "regression" else {}
    finetuned = FinetuneTask(
        finetuning(faces, tmp_path, **{**PLAIN, **names}, task=task, frame_level=True, smoothing=0)
    )
    batch = batch_of(finetuned, range(3))
    targets, missing = ("values", float("nan")) if task == "regression" else ("label", -1)
    batch[targets] = batch[targets].clone()
    batch[targets][0, 4:] = missing
    batch[targets][2] = missing
    assert finetuned.counts(batch) == [4 + 16]
    outputs = torch.randn(3, 16, finetuned.model.config.num_outputs, generator=torch.Generator().manual_seed(0))
    (loss,) = finetuned.losses(lambda clips: outputs.requires_grad_(), batch, torch.Generator().manual_seed(3))
    (found,) = torch.autograd.grad(loss, outputs)
    assert found.isfinite().all()
    known = torch.zeros(3, 16, dtype=torch.bool)
    known[0, :4] = known[1] = True
    if task == "classification":
        expected = torch.nn.functional.cross_entropy(outputs[known], batch["label"][known])
    else:
        expected = (outputs[known] - batch["values"][known]).square().mean()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    assert (found.abs().sum(-1) > 0).equal(known)


def test_a_step_with_unlabelled_frames_is_one_batch(faces, tmp_path):
    settings = dict(task="regression", dimensions=["valence"], frame_level=True, batch_size=8, accumulate_steps=2)
    run = started(faces, tmp_path / "run", **settings)
    parts = [batch_of(run.task, range(0, 4)), batch_of(run.task, range(4, 8))]
    for part, rows in zip(parts, (slice(5, None), slice(0, 0)), strict=True):
        part["values"] = part["values"].clone()
        part["values"][:3, rows] = float("nan")
    whole = {name: torch.cat([part[name] for part in parts]) for name in ("clips", "values")}
    loss, split = gradient(run, parts)
    whole_loss, together = gradient(run, [{**parts[0], **whole}])
    assert loss == pytest.approx(whole_loss, rel=1e-5)
    torch.testing.assert_close(split, together, rtol=1e-4, atol=1e-6 * together.abs().max().item())


@pytest.mark.parametrize("mixup, cutmix", [(0.8, 0.0), (0.0, 1.0)])
def test_every_clip_of_a_micro_batch_of_3_is_mixed(mixup, cutmix):
    for seed in range(20):
        clips = torch.arange(3.0).view(3, 1, 1, 1, 1).expand(3, 3, 2, 32, 32).clone()
        _, (soft,) = augment.mix(clips, [torch.eye(3)], mixup, cutmix, 0.5, torch.Generator().manual_seed(seed))
        shares = soft.diagonal()
        assert (shares == shares[0]).all()
        if shares[0] < 1:  # a CutMix box may be empty
            assert ((soft > 0).sum(1) == 2).all(), "each clip with another one"
            assert torch.allclose(soft.sum(0), torch.ones(3)), "each clip is used with weight 1"


def test_a_micro_batch_of_one_clip_says_that_nothing_is_mixed(faces, tmp_path, capsys):
    note = "mixup and cutmix need two clips in a micro-batch"
    FinetuneTask(finetuning(faces, tmp_path, batch_size=2, accumulate_steps=2))
    assert capsys.readouterr().err.count(note) == 1
    FinetuneTask(finetuning(faces, tmp_path, batch_size=2, accumulate_steps=2, mixup=0, cutmix=0))
    FinetuneTask(finetuning(faces, tmp_path, batch_size=2))
    assert note not in capsys.readouterr().err
