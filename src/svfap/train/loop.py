"""The training loop. A task supplies the model, its data, its loss and its validation."""

from __future__ import annotations

import json
import math
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.tensorboard import SummaryWriter

from svfap.console import console, progress_bar, say
from svfap.data.loader import ClipDataset, make_loader
from svfap.device import make_accelerator
from svfap.errors import UserError
from svfap.files import replacing_folder, write_atomically
from svfap.model.base import Model
from svfap.train.config import TrainConfig
from svfap.train.optim import apply_lr, build_optimizer, cosine_schedule, moving_average, scaled_lr
from svfap.train.run_folder import RunFolder, TrainState

if TYPE_CHECKING:
    from svfap.evaluation.pool import PooledResults

Batch = dict[str, Any]


class Task(Protocol):
    """What distinguishes pre-training from fine-tuning."""

    @property
    def model(self) -> Model: ...

    @property
    def score(self) -> str | None:
        """The validation metric whose highest value chooses best/; None: best/ is the last epoch."""

    @property
    def num_videos(self) -> int: ...

    def parameter_groups(self) -> list[dict[str, Any]]: ...

    @property
    def dataset(self) -> ClipDataset: ...

    def loss(self, model: Callable[..., Tensor], batch: Batch, generator: torch.Generator) -> Tensor: ...

    def validate(self, accelerator: Accelerator, model: Callable[..., Tensor]) -> dict[str, Any]: ...

    def show(self, model: Model, writer: SummaryWriter, accelerator: Accelerator, step: int) -> None: ...


@dataclass(frozen=True)
class TrainResult:
    """What a run came to.

    finished: False if it was interrupted and saved; `resume` continues it. step: optimiser steps done. metrics: content of
    `metrics.json`, or with fold="all" of `results.json`; empty unless finished. pooled: with fold="all", its table.
    """

    finished: bool
    step: int = 0
    metrics: dict[str, Any] = field(default_factory=dict)
    pooled: PooledResults | None = None


def train(task: Task, config: TrainConfig) -> TrainResult:
    """Train until the last epoch, or until Ctrl-C or SIGTERM; with `config.resume`, from the last complete checkpoint on.

    Every random draw depends on (seed, step, process) alone, so a resumed run, in the middle of an epoch too, has the same
    losses as one that was never interrupted. Raises `UserError` for a non-finite loss (before the optimiser step; the last
    checkpoint stays), for too many unreadable videos, and for settings that do not fit.
    """
    accelerator = make_accelerator(config.precision)
    folder = RunFolder(config)
    with accelerator.main_process_first():
        folder.open()
    micro_batch = _micro_batch(config, accelerator)
    steps_per_epoch = len(_loader(task, config, accelerator, micro_batch, 0, 0)) // config.accumulate_steps
    if steps_per_epoch == 0:
        raise UserError(f"accumulate_steps={config.accumulate_steps}: an epoch has fewer micro-batches than that")
    peak, how = scaled_lr(config.base_lr, config.batch_size)
    floor, _ = scaled_lr(config.min_lr, config.batch_size)
    schedule = cosine_schedule(peak, floor, config.epochs, steps_per_epoch, config.warmup_epochs)
    raw = task.model
    average = moving_average(raw, config.ema_decay) if config.ema_decay else None  # before `prepare` wraps its forward
    judged: Model = average.module if average else raw  # type: ignore[assignment]  # validated, and saved as best/
    if config.compile:
        for each in {raw, judged}:
            each.compile()
    model, optimizer = accelerator.prepare(raw, build_optimizer(task.parameter_groups(), config.betas))
    if average:
        accelerator.register_for_checkpointing(average.to(accelerator.device))
    state = folder.read_state() or TrainState()
    if state.step:
        accelerator.load_state(str(folder.last))
    main = accelerator.is_main_process
    if main:
        folder.forget_log_after(state.step)
        precision = "fp32" if accelerator.mixed_precision == "no" else accelerator.mixed_precision
        say(f"peak learning rate {peak:.3g} ({how}); {steps_per_epoch} steps an epoch; {precision} on "
            f"{accelerator.num_processes} × {accelerator.device.type}")  # fmt: skip
    writer = SummaryWriter(str(folder.path / "tensorboard"), purge_step=state.step + 1) if main else None
    began = time.monotonic() - state.seconds
    validation: dict[str, Any] = {}

    def save_last() -> None:
        state.seconds = time.monotonic() - began
        folder.save_last(state, lambda f: accelerator.save_state(str(f)), raw.config.write)

    with _stop_signal() as stopped, progress_bar() as bar:
        shown = bar.add_task(
            "training", total=config.epochs * steps_per_epoch, completed=state.step, note="", visible=main
        )
        for epoch in range(state.step // steps_per_epoch, config.epochs):
            first = state.step % steps_per_epoch
            batches = iter(_loader(task, config, accelerator, micro_batch, epoch, first * config.accumulate_steps))
            model.train()
            for _ in range(first, steps_per_epoch):
                lr = float(schedule[state.step])
                apply_lr(optimizer, lr)
                micro = [next(batches) for _ in range(config.accumulate_steps)]
                loss = _accumulate(task, model, micro, accelerator, config.seed, state.step)
                found = {key: reason for batch in micro for _, key, reason in batch["unreadable"]}
                loss, stop, found = _agree(accelerator, loss, stopped(), found)
                state.unreadable |= found
                norm = float(accelerator.clip_grad_norm_(model.parameters(), config.clip_grad or math.inf))
                if accelerator.mixed_precision != "fp16":  # whose scaler skips overflowing steps and lowers its scale
                    loss = loss if math.isfinite(norm) else math.nan
                _check_finite(loss, micro, folder, accelerator, state.step)
                optimizer.step()
                optimizer.zero_grad()
                if average:
                    average.update_parameters(raw)
                state.step += 1
                _check_readable(task.num_videos, state, config, folder)
                if main and writer:
                    record = {"loss": loss, "lr": lr, "grad_norm": norm}
                    folder.log({"kind": "train", "epoch": epoch, "step": state.step, **record})
                    for name, value in record.items():
                        writer.add_scalar(f"train/{name}", value, state.step)
                    bar.update(shown, completed=state.step, note=f"epoch {epoch + 1} loss {loss:.4f}")
                at_end = state.step % steps_per_epoch == 0
                if stop or (config.save_every_steps and state.step % config.save_every_steps == 0 and not at_end):
                    if not at_end:
                        save_last()
                    if stop and not at_end:
                        return _interrupted(folder, state, main)
            judged.eval()
            # Not the wrapped model: its collectives would wait for a process that has nothing to validate.
            validation = task.validate(accelerator, judged)
            state.unreadable |= validation.pop("unreadable", {})
            score = validation.get(task.score) if task.score else None
            _keep_best(judged, folder, state, score, epoch, main)
            if main and writer:
                scalars = {k: v for k, v in validation.items() if isinstance(v, int | float)}
                if not console.is_terminal:  # without a moving progress bar, one line per epoch
                    shown_score = f", validation {task.score} {score:.4f}" if score is not None else ""
                    say(f"epoch {epoch + 1} of {config.epochs}: loss {loss:.4f}{shown_score}")
                folder.log({"kind": "val", "epoch": epoch, "step": state.step, **scalars})
                for name, value in scalars.items():
                    writer.add_scalar(f"val/{name}", value, state.step)
                task.show(judged, writer, accelerator, state.step)
            save_last()
            if stop and epoch + 1 < config.epochs:
                return _interrupted(folder, state, main)
    if writer:
        writer.close()
    return _finish(folder, state, config, validation, task, main)


def step_seed(seed: int, step: int, micro: int, rank: int) -> int:
    """The seed of one micro-batch on one process."""
    return int(np.random.SeedSequence([seed, step, micro, rank]).generate_state(1, np.uint64)[0] >> 1)


def _loader(
    task: Task, config: TrainConfig, accelerator: Accelerator, micro_batch: int, epoch: int, start_batch: int
) -> DataLoader:
    """This process's micro-batches of an epoch, with `repeats` clips of each video."""
    return make_loader(
        task.dataset,
        micro_batch // config.repeats,
        shuffle=True,
        seed=config.seed,
        epoch=epoch,
        start_batch=start_batch,
        rank=accelerator.process_index,
        world_size=accelerator.num_processes,
        num_workers=num_workers(config.num_workers, accelerator.num_processes),
        pin_memory=accelerator.device.type == "cuda",
    )


def num_workers(asked: int | None, num_processes: int) -> int:
    """Decoding processes of one training process; default: its share of the cores, less one."""
    if asked is not None:
        return asked
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(cores // num_processes - 1, 0)


def _micro_batch(config: TrainConfig, accelerator: Accelerator) -> int:
    parts = accelerator.num_processes * config.accumulate_steps
    if config.batch_size % parts:
        raise UserError(
            f"batch_size={config.batch_size} is not a multiple of {accelerator.num_processes} process(es) × "
            f"accumulate_steps={config.accumulate_steps}"
        )
    micro_batch = config.batch_size // parts
    if micro_batch % config.repeats:
        raise UserError(f"repeats={config.repeats} does not divide the {micro_batch} clips of a micro-batch")
    return micro_batch


def _accumulate(task: Task, model: Any, micro: list[Batch], accelerator: Accelerator, seed: int, step: int) -> float:
    """Forward and backward of the micro-batches of one step; returns this process's mean loss."""
    total = 0.0
    for i, batch in enumerate(micro):
        draw = step_seed(seed, step, i, accelerator.process_index)
        torch.manual_seed(draw)  # drop path
        generator = torch.Generator().manual_seed(draw)
        weight = 1.0 if len(batch["clips"]) else 0.0
        ready = to_device(batch if weight else _one_black_clip(batch), accelerator.device)
        with accelerator.no_sync(model) if i + 1 < len(micro) else nullcontext(), accelerator.autocast():
            loss = task.loss(model, ready, generator) * weight
            accelerator.backward(loss / len(micro))
        total += loss.item() / len(micro)
    return total


def to_device(batch: Batch, device: torch.device) -> Batch:
    return {k: v.to(device, non_blocking=True) if isinstance(v, Tensor) else v for k, v in batch.items()}


def _one_black_clip(batch: Batch) -> Batch:
    """A stand-in for a batch without readable videos, so that this process takes part in the step, with weight zero."""
    return {k: v.new_zeros(1, *v.shape[1:]) if isinstance(v, Tensor) else v for k, v in batch.items()}


def _agree(
    accelerator: Accelerator, loss: float, stop: bool, unreadable: dict[str, str]
) -> tuple[float, bool, dict[str, str]]:
    """Mean loss, whether any process is to stop, and all unreadable videos, over all processes and the same on each."""
    if accelerator.num_processes == 1:
        return loss, stop, unreadable
    mine = torch.tensor([loss, float(stop), float(len(unreadable))], device=accelerator.device)
    total_loss, num_stops, num_unreadable = accelerator.reduce(mine, "sum").tolist()
    if num_unreadable:
        unreadable = dict(gather_object(list(unreadable.items())))
    return total_loss / accelerator.num_processes, num_stops > 0, unreadable


def _check_finite(loss: float, micro: list[Batch], folder: RunFolder, accelerator: Accelerator, step: int) -> None:
    if math.isfinite(loss):
        return
    file = folder.path / f"non_finite_{accelerator.process_index}.json"
    write_atomically(
        file, json.dumps({"step": step, "paths": [key for batch in micro for key in batch["keys"]]}, indent=2)
    )
    raise UserError(
        f"the loss is {loss} at step {step}; stopped before the step. The videos of that step are in {file}, the last good "
        "checkpoint is in last/. A lower base_lr or precision=fp32 may help"
    )


def _check_readable(num_videos: int, state: TrainState, config: TrainConfig, folder: RunFolder) -> None:
    count = len(state.unreadable)
    if count > config.max_unreadable * num_videos:
        file = folder.write_unreadable(state.unreadable)
        raise UserError(
            f"{count} of {num_videos} videos cannot be read, more than max_unreadable={config.max_unreadable:g} allows; "
            f"they are listed in {file}"
        )


def _keep_best(model: Model, folder: RunFolder, state: TrainState, score: float | None, epoch: int, main: bool) -> None:
    if score is None or state.best_score is None or score > state.best_score:
        state.best_score, state.best_epoch = score, epoch
        if main:
            with replacing_folder(folder.best) as fresh:
                model.save_pretrained(fresh)


@contextmanager
def _stop_signal() -> Iterator[Callable[[], bool]]:
    """Within, the first Ctrl-C or SIGTERM is a request to stop after the step; a second Ctrl-C interrupts at once."""
    asked = False

    def ask(number: int, frame: Any) -> None:
        nonlocal asked
        if asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        asked = True

    try:
        former = {s: signal.signal(s, ask) for s in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # signals can be handled in the main thread alone
        former = {}
    try:
        yield lambda: asked
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)


def _interrupted(folder: RunFolder, state: TrainState, main: bool) -> TrainResult:
    if main:
        say(f"stopped after step {state.step}; saved in {folder.last}. Continue with --resume")
    return TrainResult(finished=False, step=state.step)


def _finish(
    folder: RunFolder, state: TrainState, config: TrainConfig, validation: dict[str, Any], task: Task, main: bool
) -> TrainResult:
    metrics_file = folder.path / "metrics.json"
    if not validation and metrics_file.exists():  # resumed after its last epoch
        return TrainResult(finished=True, step=state.step, metrics=json.loads(metrics_file.read_text()))
    metrics = {
        "finished": True,
        "epochs": config.epochs,
        "best_epoch": state.best_epoch,
        "chosen_by": f"validation {task.score}" if task.score else "last epoch (no validation part)",
        "parameters": sum(p.numel() for p in task.model.parameters()),
        "seconds": round(state.seconds, 1),
        "num_unreadable": len(state.unreadable),
        "last_validation": validation,
    }
    if main:
        folder.write_unreadable(state.unreadable)
        write_atomically(metrics_file, json.dumps(metrics, indent=2))
    return TrainResult(finished=True, step=state.step, metrics=metrics)
