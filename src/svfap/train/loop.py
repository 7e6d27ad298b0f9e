"""The training loop. A task supplies the model, its data, its loss and its validation."""

from __future__ import annotations

import json
import math
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

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
from svfap.train.optim import apply_lr, build_optimizer, cosine_schedule, moving_average, parameter_groups, scaled_lr
from svfap.train.parallel import num_workers, signal_handlers
from svfap.train.run_folder import RunFolder, TrainState

if TYPE_CHECKING:
    from svfap.evaluation.pool import PooledResults

Batch = dict[str, Any]


class TrainingTask:
    """What distinguishes pre-training from fine-tuning.

    score: the validation metric; best/ is the epoch with its highest value, or the last epoch if None. num_videos: the number
    of training and validation videos.
    """

    config: TrainConfig
    model: Model
    dataset: ClipDataset
    num_videos: int
    score: str | None = None

    def parameter_groups(self) -> list[dict[str, Any]]:
        """The groups of the optimiser."""
        return parameter_groups(self.model, self.config.weight_decay)

    def loss(self, model: Callable[..., Tensor], batch: Batch, generator: torch.Generator) -> Tensor:
        """The loss of one batch. model: `self.model`, or a wrapper of it. generator: on the CPU, for every random draw."""
        raise NotImplementedError

    def validate(self, accelerator: Accelerator, model: Callable[..., Tensor]) -> dict[str, Any]:
        """Metrics on the validation videos, and `unreadable` videos with reasons; empty without validation."""
        return {}

    def show(self, model: Model, writer: SummaryWriter, accelerator: Accelerator, step: int) -> None:
        """Write pictures for TensorBoard."""


@dataclass(frozen=True)
class TrainResult:
    """The outcome of a run.

    finished: False if it was interrupted and saved; `resume` continues it. step: optimiser steps done. metrics: content of
    `metrics.json`, or with fold="all" of `results.json`; empty unless finished. pooled: with fold="all", its table.
    """

    finished: bool
    step: int = 0
    metrics: dict[str, Any] = field(default_factory=dict)
    pooled: PooledResults | None = None


def train(task: TrainingTask, config: TrainConfig) -> TrainResult:
    """Train until the last epoch, or until Ctrl-C or SIGTERM; with `config.resume`, from the last complete checkpoint on.

    Random draws depend only on (seed, step, process), so a resumed run, in the middle of an epoch too, has the same
    losses as one that was never interrupted. Raises `UserError` for a non-finite loss (before the optimiser step; the last
    checkpoint stays), for too many unreadable videos, and for settings that do not fit.
    """
    return TrainingRun(task, config).train()


class TrainingRun:
    """One run: its folder, the model with its optimiser, and the progress so far."""

    def __init__(self, task: TrainingTask, config: TrainConfig) -> None:
        self.task, self.config, self.folder = task, config, RunFolder(config)
        self.accelerator = accelerator = make_accelerator(config.precision)
        with accelerator.main_process_first():
            self.folder.open()
        self.steps_per_epoch = len(self._loader(0, 0)) // config.accumulate_steps
        if self.steps_per_epoch == 0:
            raise UserError(f"accumulate_steps={config.accumulate_steps}: an epoch has fewer micro-batches than that")
        peak, derivation = scaled_lr(config.base_lr, config.batch_size)
        floor, _ = scaled_lr(config.min_lr, config.batch_size)
        self.schedule = cosine_schedule(peak, floor, config.epochs, self.steps_per_epoch, config.warmup_epochs)
        # Before `prepare` wraps the model's forward.
        self.average = moving_average(task.model, config.ema_decay) if config.ema_decay else None
        self.best_model: Model = self.average.module if self.average else task.model  # type: ignore[assignment]
        if config.compile:
            for model in {task.model, self.best_model}:
                model.compile()
        optimizer = build_optimizer(task.parameter_groups(), config.betas)
        self.model, self.optimizer = accelerator.prepare(task.model, optimizer)
        if self.average:
            accelerator.register_for_checkpointing(self.average.to(accelerator.device))
        self.state = self.folder.read_state() or TrainState()
        if self.state.step:
            accelerator.load_state(str(self.folder.last))
        self.began = time.monotonic() - self.state.seconds
        self.writer = None  # of the main process
        if accelerator.is_main_process:
            self.folder.forget_log_after(self.state.step)
            precision = "fp32" if accelerator.mixed_precision == "no" else accelerator.mixed_precision
            devices = f"{accelerator.num_processes} × {accelerator.device.type}"
            say(
                f"peak learning rate {peak:.3g} ({derivation}); {self.steps_per_epoch} steps an epoch; {precision} on {devices}"
            )
            self.writer = SummaryWriter(str(self.folder.path / "tensorboard"), purge_step=self.state.step + 1)

    def train(self) -> TrainResult:
        """Do the steps that are left, with a validation and a checkpoint after each epoch."""
        state, save_every = self.state, self.config.save_every_steps
        num_steps = self.config.epochs * self.steps_per_epoch
        batches: Iterator[Batch] | None = None
        validation: dict[str, Any] = {}
        with _stop_signal() as stopped, progress_bar() as bar:
            main = self.accelerator.is_main_process
            shown = bar.add_task("training", total=num_steps, completed=state.step, note="", visible=main)
            while state.step < num_steps:
                epoch, position = divmod(state.step, self.steps_per_epoch)
                if batches is None or position == 0:
                    batches = iter(self._loader(epoch, position * self.config.accumulate_steps))
                    self.model.train()
                loss, stop = self._step(batches, epoch, stopped)
                bar.update(shown, completed=state.step, note=f"epoch {epoch + 1} loss {loss:.4f}")
                ends_epoch = state.step % self.steps_per_epoch == 0
                if ends_epoch:
                    validation = self._validate(epoch, loss)
                if ends_epoch or stop or (save_every and state.step % save_every == 0):
                    self._save()
                if stop and state.step < num_steps:
                    if main:
                        say(f"stopped after step {state.step}; saved in {self.folder.last}. Continue with --resume")
                    return TrainResult(finished=False, step=state.step)
        if self.writer:
            self.writer.close()
        return TrainResult(finished=True, step=state.step, metrics=self._metrics(validation))

    def _loader(self, epoch: int, start_batch: int) -> DataLoader:
        """This process's micro-batches of an epoch, with `repeats` clips of each video."""
        config, processes = self.config, self.accelerator.num_processes
        micro_batch, rest = divmod(config.batch_size, processes * config.accumulate_steps)
        if rest:
            raise UserError(
                f"batch_size={config.batch_size} is not a multiple of {processes} process(es) × "
                f"accumulate_steps={config.accumulate_steps}"
            )
        if micro_batch % config.repeats:
            raise UserError(f"repeats={config.repeats} does not divide the {micro_batch} clips of a micro-batch")
        return make_loader(
            self.task.dataset, micro_batch // config.repeats, shuffle=True, seed=config.seed, epoch=epoch,
            start_batch=start_batch, rank=self.accelerator.process_index, world_size=processes,
            num_workers=num_workers(config.num_workers, processes), pin_memory=self.accelerator.device.type == "cuda",
        )  # fmt: skip

    def _step(self, batches: Iterator[Batch], epoch: int, stopped: Callable[[], bool]) -> tuple[float, bool]:
        """One optimiser step. Returns the mean loss of all processes, and whether any of them is asked to stop."""
        config, state, accelerator = self.config, self.state, self.accelerator
        lr = float(self.schedule[state.step])
        apply_lr(self.optimizer, lr)
        micro = [next(batches) for _ in range(config.accumulate_steps)]
        loss = self._accumulate(micro)
        unreadable = {key: reason for batch in micro for _, key, reason in batch["unreadable"]}
        loss, stop, unreadable = _agree(accelerator, loss, stopped(), unreadable)
        state.unreadable |= unreadable
        norm = float(accelerator.clip_grad_norm_(self.model.parameters(), config.clip_grad or math.inf))
        if not math.isfinite(norm) and accelerator.mixed_precision != "fp16":  # the scaler of fp16 skips such a step
            loss = math.nan
        if not math.isfinite(loss):
            self._refuse(loss, micro)
        self.optimizer.step()
        self.optimizer.zero_grad()
        if self.average:
            self.average.update_parameters(self.task.model)
        state.step += 1
        self._check_readable()
        self._log("train", epoch, {"loss": loss, "lr": lr, "grad_norm": norm})
        return loss, stop

    def _accumulate(self, micro: list[Batch]) -> float:
        """Forward and backward of the micro-batches of one step. Returns this process's mean loss."""
        total, accelerator = 0.0, self.accelerator
        for i, batch in enumerate(micro):
            entropy = [self.config.seed, self.state.step, i, accelerator.process_index]
            seed = int(np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0] >> 1)
            torch.manual_seed(seed)  # drop path
            weight = 1.0 if len(batch["clips"]) else 0.0
            ready = to_device(batch if weight else _one_black_clip(batch), accelerator.device)
            with accelerator.no_sync(self.model) if i + 1 < len(micro) else nullcontext(), accelerator.autocast():
                loss = self.task.loss(self.model, ready, torch.Generator().manual_seed(seed)) * weight
                accelerator.backward(loss / len(micro))
            total += loss.item() / len(micro)
        return total

    def _refuse(self, loss: float, micro: list[Batch]) -> None:
        """Raise `UserError` for a loss or gradient that is not finite, and list the videos of the step."""
        file = self.folder.path / f"non_finite_{self.accelerator.process_index}.json"
        step, keys = self.state.step, [key for batch in micro for key in batch["keys"]]
        write_atomically(file, json.dumps({"step": step, "paths": keys}, indent=2))
        raise UserError(
            f"the loss is {loss} at step {step}; stopped before the step. The videos of that step are in {file}, the last good "
            "checkpoint is in last/. A lower base_lr or precision=fp32 may help"
        )

    def _check_readable(self) -> None:
        count, allowed = len(self.state.unreadable), self.config.max_unreadable
        if count > allowed * self.task.num_videos:
            file = self.folder.write_unreadable(self.state.unreadable)
            raise UserError(
                f"{count} of {self.task.num_videos} videos cannot be read, more than max_unreadable={allowed:g} allows; "
                f"they are listed in {file}"
            )

    def _validate(self, epoch: int, loss: float) -> dict[str, Any]:
        """Validate after an epoch, and write best/ if the score is the highest so far. Returns the metrics."""
        task, state = self.task, self.state
        self.best_model.eval()
        # Not the wrapped model: its collectives would wait for a process that has nothing to validate.
        validation = task.validate(self.accelerator, self.best_model)
        state.unreadable |= validation.pop("unreadable", {})
        score = validation.get(task.score) if task.score else None
        if score is None or state.best_score is None or score > state.best_score:
            state.best_score, state.best_epoch = score, epoch
            if self.accelerator.is_main_process:
                with replacing_folder(self.folder.best) as fresh:
                    self.best_model.save_pretrained(fresh)
        if self.writer:
            if not console.is_terminal:  # without a moving progress bar, one line per epoch
                text = f", validation {task.score} {score:.4f}" if score is not None else ""
                say(f"epoch {epoch + 1} of {self.config.epochs}: loss {loss:.4f}{text}")
            self._log("val", epoch, {k: v for k, v in validation.items() if isinstance(v, int | float)})
            task.show(self.best_model, self.writer, self.accelerator, state.step)
        return validation

    def _log(self, kind: str, epoch: int, numbers: dict[str, float]) -> None:
        if self.writer:
            self.folder.log({"kind": kind, "epoch": epoch, "step": self.state.step, **numbers})
            for name, value in numbers.items():
                self.writer.add_scalar(f"{kind}/{name}", value, self.state.step)

    def _save(self) -> None:
        self.state.seconds = time.monotonic() - self.began
        self.folder.save_last(self.state, self.task.model.config, self.accelerator)

    def _metrics(self, validation: dict[str, Any]) -> dict[str, Any]:
        """The content of `metrics.json`, which is written unless the run was finished before."""
        file, state, score = self.folder.path / "metrics.json", self.state, self.task.score
        if not validation and file.exists():  # resumed after its last epoch
            metrics: dict[str, Any] = json.loads(file.read_text())
            return metrics
        metrics = {
            "finished": True,
            "epochs": self.config.epochs,
            "best_epoch": state.best_epoch,
            "chosen_by": f"validation {score}" if score else "last epoch (no validation part)",
            "parameters": sum(p.numel() for p in self.task.model.parameters()),
            "seconds": round(state.seconds, 1),
            "num_unreadable": len(state.unreadable),
            "last_validation": validation,
        }
        if self.accelerator.is_main_process:
            self.folder.write_unreadable(state.unreadable)
            write_atomically(file, json.dumps(metrics, indent=2))
        return metrics


def to_device(batch: Batch, device: torch.device) -> Batch:
    """The batch with its tensors on a device."""
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


@contextmanager
def _stop_signal() -> Iterator[Callable[[], bool]]:
    """Within, the first Ctrl-C or SIGTERM is a request to stop after the step; a second Ctrl-C interrupts at once."""
    asked = False

    def ask(number: int, frame: Any) -> None:
        nonlocal asked
        if asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        asked = True

    with signal_handlers(ask, signal.SIGINT, signal.SIGTERM):
        yield lambda: asked
