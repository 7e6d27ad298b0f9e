"""The training loop. A task supplies the model, its data, its loss and its validation."""

from __future__ import annotations

import json
import math
import signal
import time
from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

from svfap.console import console, counted, progress_bar, say
from svfap.data.clip_dataset import Batch
from svfap.data.loader import Batches, BatchLoader
from svfap.data.shared_memory import require_room, worker_errors, workers_with_room
from svfap.device import GRAPHS, Upload, compile_mode, make_accelerator, peak_bytes
from svfap.errors import Diverged, Interrupted, NotFinite, UserError
from svfap.files import write_atomically
from svfap.model.base import Model
from svfap.model.layers import checkpoint_activations
from svfap.train.config import TrainConfig
from svfap.train.optim import apply_lr, build_optimizer, cosine_schedule, moving_average, scaled_lr
from svfap.train.parallel import num_workers
from svfap.train.processes import lost_process_is_one_line, processes_here
from svfap.train.run_data import run_data
from svfap.train.run_folder import RunFolder, TrainState
from svfap.train.saving import BesideTraining
from svfap.train.stop import StopRequest, stop_request
from svfap.train.task import TrainingTask, TrainResult
from svfap.train.tracking import Outcome, Tracking
from svfap.train.trainable import count_parameters, plain_weights

T = TypeVar("T")
SAVE_EVERY_S = 10.0  # at least, after epochs
STEPS_UNREAD = 10  # whose losses stay on a GPU, at most
NOT_SAVED = "interrupted again, before the run was saved; --resume continues from the last checkpoint, if there is one"


def train(task: TrainingTask, config: TrainConfig) -> TrainResult:
    """Train until the last epoch, or until Ctrl-C, SIGTERM or SIGHUP; with `config.resume`, from the last checkpoint on.

    Random draws depend only on (seed, step, process), so a resumed run, in the middle of an epoch too, has the same
    losses as one that was never interrupted. Raises `UserError` for a loss or gradient that is not finite (on a CPU before the
    optimiser step, on a GPU up to `STEPS_UNREAD` steps later), or weights or validation outputs; always before anything is
    saved, so that the last checkpoint stays. Further for too many unreadable videos, for settings that do not fit, for a run
    that began with other videos, while another run uses the folder, if files cannot be written or loader workers die, and if
    another process of torchrun ends. Raises `Interrupted` for a second Ctrl-C, which does not wait for the step or the save.
    """
    with RunFolder(config).locked(), worker_errors(), lost_process_is_one_line():
        return TrainingRun(task, config).train()


class Unread(NamedTuple):
    """A step whose loss and gradient norm are still on the device.

    number: from 1, as in the log. losses: (parts,) whose sum is the loss. terms: what each is a mean of, over all processes;
    without any there is no loss. keys: its videos. ready: when the device has the numbers; None where nothing need be waited for.
    """

    number: int
    epoch: int
    lr: float
    losses: Tensor
    terms: list[int]
    norm: Tensor
    keys: list[str]
    ready: torch.cuda.Event | None


class TrainingRun:
    """One run: its folder, the model with its optimiser, and the progress so far.

    In a step the host never waits for what it has just asked of a GPU, so that it can prepare the next step meanwhile: losses
    are read together every few steps (`_read`), all but the newest, batches come in a stream of their own, and a thread
    writes checkpoints.
    """

    def __init__(self, task: TrainingTask, config: TrainConfig) -> None:
        self.task, self.config, self.folder = task, config, RunFolder(config)
        self.accelerator = accelerator = make_accelerator(config.precision, unused=task.unfreezes)
        micro_batch, rest = divmod(config.batch_size, accelerator.num_processes * config.accumulate_steps)
        if rest:
            raise UserError(
                f"batch_size={config.batch_size} is not a multiple of {accelerator.num_processes} process(es) × "
                f"accumulate_steps={config.accumulate_steps}; change one of these settings"
            )
        if micro_batch % config.repeats:
            raise UserError(f"repeats={config.repeats} does not divide the {micro_batch} clips of a micro-batch")
        self.videos_per_batch = micro_batch // config.repeats
        self.loader = self._make_loader()
        self.steps_per_epoch = len(self._batches(0, 0)) // config.accumulate_steps
        if self.steps_per_epoch == 0:
            raise UserError(
                f"accumulate_steps={config.accumulate_steps}: a step takes batch_size={config.batch_size} clips, and an "
                f"epoch has only {len(task.dataset.manifest)} videos × {config.repeats}; lower both settings"
            )
        with accelerator.main_process_first():
            if accelerator.is_main_process:
                self.folder.open(
                    run_data(task.manifest, task.validation, any(frames for _, frames in task.dataset.sources.values()))
                )
        peak, derivation = scaled_lr(config.base_lr, config.batch_size)
        floor, _ = scaled_lr(config.min_lr, config.batch_size)
        warmup = config.warmup_epochs
        if warmup > config.epochs:
            warmup = config.epochs / 2
            say(
                f"warmup_epochs={config.warmup_epochs:g} is more than epochs={config.epochs}: warming up for {warmup:g}"
            )
        self.schedule = cosine_schedule(peak, floor, config.epochs, self.steps_per_epoch, warmup)
        if config.checkpoint_activations:
            checkpoint_activations(task.model)
        # Before `prepare` wraps the model's forward.
        self.average = moving_average(task.model, config.ema_decay) if config.ema_decay else None
        self.best_model: Model = self.average.module if self.average else task.model  # type: ignore[assignment]
        mode = compile_mode(accelerator.device, accelerator.num_processes)
        if config.compile:
            for model in {task.model, self.best_model}:
                model.compile(mode=mode)
        optimizer = build_optimizer(task.parameter_groups(), config.betas)
        self.model, self.optimizer = accelerator.prepare(task.model, optimizer)
        # A graph puts all gradients where those of the micro-batch before are, so these are added up elsewhere.
        self._keeps_gradients = config.compile and mode == GRAPHS and config.accumulate_steps > 1
        if self._keeps_gradients:
            for parameter in task.model.parameters():
                parameter.grad = torch.zeros_like(parameter) if parameter.requires_grad else None
        if self.average:
            accelerator.register_for_checkpointing(self.average.to(accelerator.device))
        self.state = self.folder.state_of_all(accelerator) or TrainState()
        if self.state.step:
            self.folder.load_last(accelerator)
        self._saved_step, self._saved_at = self.state.step, time.monotonic()
        self._writes = BesideTraining()
        self._new_best: dict[str, Tensor] | None = None  # its weights, a copy on the host, until it is saved
        self._upload = Upload(accelerator.device)
        self._unread: list[Unread] = []
        self._read_every = 1 if accelerator.device.type == "cpu" else STEPS_UNREAD
        # Reads wait for what comes before `Unread.ready`, not for all that the device has been asked for.
        self._reads = torch.cuda.Stream(accelerator.device) if accelerator.device.type == "cuda" else None
        self._last_loss = math.nan
        self._losses: list[float] = []  # of the epoch; after a resumption those since
        # Processes tell each other by way of their hosts what the loop has to know, so that no GPU is waited for.
        several = accelerator.num_processes > 1
        self._hosts = torch.distributed.new_group(backend="gloo") if several else None
        self.began = time.monotonic() - self.state.seconds
        self._epoch_began: tuple[int, float] | None = None  # its first step since the start, and when
        self._tracking: Tracking | None = None  # of the main process, where steps are left
        if accelerator.is_main_process:
            self.folder.forget_log_after(self.state.step)
            precision = "fp32" if accelerator.mixed_precision == "no" else accelerator.mixed_precision
            rate = f"peak learning rate {peak:.3g} ({derivation}); {counted(self.steps_per_epoch, 'step')} an epoch"
            say(f"{rate}; {precision} on {accelerator.num_processes} × {accelerator.device.type}")
            if self.state.step < config.epochs * self.steps_per_epoch:
                try:
                    self._tracking = Tracking(self.folder, config.trackers, config.track_project, self.state.step)
                except UserError as error:
                    self.folder.note_failure(error)
                    raise
            else:
                say(
                    f"{self.folder.path}: was finished already, after {counted(config.epochs, 'epoch')}, where its learning "
                    f"rates end; to train longer, start a new run from its weights with --init {self.folder.path}"
                )

    def train(self) -> TrainResult:
        """Do the steps that are left, with a validation after each epoch; save after epochs, and where a signal stops it."""
        outcome: Outcome = "failed"
        try:
            with stop_request() as stop:
                try:
                    validation = self._train(stop)
                except Interrupted as interrupt:
                    outcome = "interrupted"
                    step = self.state.step
                    if step > self._saved_step:
                        self._save()
                    self._writes.wait()
                    saved = f"after step {step}; saved in {self.folder.last}. Continue with --resume"
                    say(f"stopped {saved if step else 'before the first step; the same command starts it again'}")
                    return TrainResult(finished=False, step=step, stopped_by=interrupt.number)
                self._writes.wait()
            metrics = self._metrics(validation)  # before services are waited for
            outcome = "finished"
        except KeyboardInterrupt:  # a second Ctrl-C
            outcome = "interrupted"
            raise Interrupted(signal.SIGINT, NOT_SAVED) from None
        except UserError as error:
            if self.accelerator.is_main_process:
                self.folder.note_failure(error)
            raise
        finally:
            self.close(outcome)
        return TrainResult(finished=True, step=self.state.step, metrics=metrics)

    def close(self, outcome: Outcome) -> None:
        """End what works beside the training: loader, writes, trackers."""
        self.loader.close()
        self._writes.close()
        if self._tracking is not None:
            self._tracking.close(outcome)

    def _train(self, stop: StopRequest) -> dict[str, Any]:
        """The loop. Returns the last validation. Raises `Interrupted` between two steps when it is asked to stop."""
        state, save_every = self.state, self.config.save_every_steps
        num_steps = self.config.epochs * self.steps_per_epoch
        batches: Iterator[Batch] | None = None
        validation: dict[str, Any] = {}
        if state.step == 0:
            with stop.at_once() if self.accelerator.num_processes == 1 else nullcontext():
                self._probe(0)
        first_step, first_s = state.step, time.monotonic()
        with progress_bar() as bar:
            shown = bar.add_task("training", total=num_steps, completed=state.step, note="")
            while state.step < num_steps:
                finished_epochs, position = divmod(state.step, self.steps_per_epoch)
                epoch = finished_epochs + 1
                if self._epoch_began is None:
                    self._epoch_began = state.step, time.monotonic()
                if batches is None or position == 0:
                    batches = iter(self._batches(finished_epochs, position * self.config.accumulate_steps))
                    self.model.train()
                    self.task.begin_epoch(epoch)
                # Other processes of torchrun would wait for this one in the middle of a step.
                with stop.at_once() if self.accelerator.num_processes == 1 else nullcontext():
                    micro = [next(batches) for _ in range(self.config.accumulate_steps)]
                stops = self._step(micro, epoch, stop)
                rate = (state.step - first_step) / (time.monotonic() - first_s)
                bar.update(shown, completed=state.step, note=f"epoch {epoch}{self._shown_loss()}, {rate:.3g}/s")
                self._writes.check()
                ends_epoch = state.step % self.steps_per_epoch == 0
                if ends_epoch:
                    validation = self._validate(epoch)
                    self._probe(epoch)
                if (ends_epoch and self._is_due(epoch)) or (save_every and state.step % save_every == 0):
                    self._save()
                if stops and state.step < num_steps:
                    raise Interrupted(stop.number or signal.SIGTERM)
        return validation

    def _make_loader(self) -> BatchLoader:
        """Loader of training and validation batches. Raises `UserError` if shared memory has no room for them."""
        config, task, processes = self.config, self.task, self.accelerator.num_processes
        needs = [(self.videos_per_batch * task.dataset.item_bytes, config.accumulate_steps + 1)]
        if task.validation_clips is not None:
            needs.append((max(config.batch_size // processes, 1) * task.validation_clips.item_bytes, 2))
        workers = num_workers(config.num_workers, processes_here())
        if config.num_workers is None:
            fitting = min(workers, *(workers if (n := workers_with_room(*need)) is None else n for need in needs))
            if fitting < workers:
                say(f"{fitting} loader workers instead of {workers}, as shared memory (/dev/shm) has no room for more")
            workers = fitting
        for need in needs:
            require_room(workers, *need)
        datasets = [each for each in (task.dataset, task.validation_clips) if each is not None]
        return BatchLoader(*datasets, num_workers=workers, pin_memory=self.accelerator.device.type == "cuda")

    def _batches(self, epoch: int, start_batch: int) -> Batches:
        """This process's micro-batches of an epoch, with `repeats` clips of each video."""
        return self.loader.batches(
            self.task.dataset, self.videos_per_batch, shuffle=True, seed=self.config.seed, epoch=epoch,
            start_batch=start_batch, rank=self.accelerator.process_index, world_size=self.accelerator.num_processes,
        )  # fmt: skip

    def _step(self, micro: list[Batch], epoch: int, stop: StopRequest) -> bool:
        """One optimiser step. Returns whether any process is asked to stop."""
        config, state, accelerator = self.config, self.state, self.accelerator
        lr = float(self.schedule[state.step])
        apply_lr(self.optimizer, lr)
        losses, terms = self._accumulate(micro)
        norm = accelerator.clip_grad_norm_(self.model.parameters(), config.clip_grad or math.inf)
        keys = [key for batch in micro for key in batch["keys"]]
        ready = None if self._reads is None else torch.cuda.current_stream(accelerator.device).record_event()
        self._unread.append(Unread(state.step + 1, epoch, lr, losses, terms, norm, keys, ready))
        if len(self._unread) == self._read_every:
            self._read(all_but=0 if self._read_every == 1 else 1)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=not self._keeps_gradients)
        if self.average:
            self.average.update_parameters(self.task.model)
        state.step += 1
        unreadable = {key: reason for batch in micro for _, key, reason in batch["unreadable"]}
        told = self._of_all((stop.number > 0, unreadable))
        for _, each in told:
            state.unreadable |= each
        self._check_readable()
        return any(stops for stops, _ in told)

    def _accumulate(self, micro: list[Batch]) -> tuple[Tensor, list[int]]:
        """Forward and backward of the micro-batches of one step.

        Returns this process's mean losses, (parts,) on the device, and the number of terms of each over all processes.
        Every clip (or labelled frame) of the step has the same weight in a loss, as in one large batch.
        """
        accelerator = self.accelerator
        exact = torch.float32 if accelerator.device.type == "mps" else torch.float64  # which MPS lacks
        total = torch.zeros(len(self.task.loss_names), dtype=exact, device=accelerator.device)
        counts = [self.task.counts(batch) for batch in micro]
        of_all = np.sum(self._of_all(np.sum(counts, axis=0)), axis=0).tolist()
        for i, (batch, terms) in enumerate(zip(micro, counts, strict=True)):
            entropy = [self.config.seed, self.state.step, i, accelerator.process_index]
            seed = int(np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0] >> 1)
            torch.manual_seed(seed)  # drop path
            # Gradients and losses are averaged over processes afterwards.
            divisors = [
                all_terms / (count * accelerator.num_processes) if count else math.inf
                for all_terms, count in zip(of_all, terms, strict=True)
            ]
            ready = self._upload(batch if any(terms) else _one_black_clip(batch))
            with accelerator.no_sync(self.model) if i + 1 < len(micro) else nullcontext(), accelerator.autocast():
                losses = self.task.losses(self.model, ready, torch.Generator().manual_seed(seed))
                shares = [loss / divisor for loss, divisor in zip(losses, divisors, strict=True)]
                accelerator.backward(shares[0] if len(shares) == 1 else torch.stack(shares).sum())
            total += torch.stack([loss.detach().to(exact) / n for loss, n in zip(losses, divisors, strict=True)])
        return total, of_all

    def _of_all(self, mine: T) -> list[T]:
        """What every process says, in their order."""
        if self._hosts is None:
            return [mine]
        told: list[Any] = [None] * self.accelerator.num_processes
        torch.distributed.all_gather_object(told, mine, group=self._hosts)
        return told

    def _read(self, all_but: int = 0) -> None:
        """Wait for the losses that are still on the device, and log them. Raises `UserError` if one is not finite.

        all_but: that many of the newest stay.
        """
        count = len(self._unread) - all_but
        steps, self._unread = self._unread[:count], self._unread[count:]
        if not steps:
            return
        with torch.cuda.stream(self._reads):  # None: no effect
            if self._reads is not None and steps[-1].ready is not None:
                self._reads.wait_event(steps[-1].ready)
            rows = [torch.cat((step.losses, step.norm.to(step.losses.dtype)[None])) for step in steps]
            numbers = torch.stack(rows).tolist()
        losses = np.mean(self._of_all([parts for *parts, _ in numbers]), axis=0).tolist()
        for step, parts, (*_, norm) in zip(steps, losses, numbers, strict=True):
            for name, part in zip(self.task.loss_names, parts, strict=True):
                if not math.isfinite(part):
                    self._refuse(f"the {name} is {part}", step)
            loss = sum(parts)
            if not math.isfinite(norm) and self.accelerator.mixed_precision != "fp16":  # its scaler skips such a step
                self._refuse(f"the gradient norm is {norm}", step)
            if any(step.terms):
                self._last_loss = loss
                self._losses.append(loss)
            shown = {"loss": loss if any(step.terms) else math.nan, "lr": step.lr, "grad_norm": norm}
            if len(parts) > 1:
                known = zip(self.task.loss_names, parts, step.terms, strict=True)
                shown |= {name: part if terms else math.nan for name, part, terms in known}
            self._log("train", step.epoch, step.number, shown)

    def _read_all(self) -> None:
        """Read all losses. Raises `UserError` if one of them is not finite, or a weight after the last update."""
        self._read()
        if not torch.nn.utils.get_total_norm(self.task.model.parameters(), math.inf).isfinite():
            raise self._diverged("the weights are NaN or infinite")

    def _refuse(self, what: str, step: Unread) -> None:
        """Raise `UserError` for a loss or gradient that is not finite, and list the videos of the step."""
        file = self.folder.path / f"non_finite_{self.accelerator.process_index}.json"
        write_atomically(file, json.dumps({"step": step.number, "paths": step.keys}, indent=2))
        raise self._diverged(f"{what} at step {step.number}, whose videos are in {file}")

    def _diverged(self, what: str) -> Diverged:
        """The error for numbers that are not finite. Resumed, the run would do the same again."""
        fix = "start a new run in another folder with a lower `base_lr`"
        if self.accelerator.mixed_precision != "no":
            fix += " or with precision=fp32"
        kept = "There is no checkpoint"
        if self._saved_step:
            fix += f", from its weights with --init {self.folder.path}"
            fix += " or from those it began with" if self.config.init else ""
            kept = f"{self.folder.last} is of step {self._saved_step}, when nothing was NaN or infinite yet"
        after = f"stopped after step {self.state.step}"
        return Diverged(f"{Diverged.START}: {what}; {after}. --resume would do the same again: {fix}. {kept}")

    def _check_readable(self) -> None:
        count, videos, allowed = len(self.state.unreadable), self.task.num_videos, self.config.max_unreadable
        if count > allowed * videos:
            file = self.folder.write_unreadable(self.state.unreadable)
            raise UserError(
                f"{count:,} of {counted(videos, 'video')} cannot be read, more than max_unreadable={allowed:g} allows; "
                f"listed in {file}"
            )

    def _validate(self, epoch: int) -> dict[str, Any]:
        """Validate after an epoch, and keep the model for best/ if the score is the highest so far. Returns the metrics."""
        self._read_all()
        performance = self._performance()
        task, state = self.task, self.state
        self.best_model.eval()
        # Not the wrapped model: its collectives would wait for a process that has nothing to validate.
        try:
            validation = task.validate(self.accelerator, self.best_model, self.loader)
        except NotFinite:
            raise self._diverged("outputs for the validation videos are NaN or infinite") from None
        state.unreadable |= validation.pop("unreadable", {})
        score = validation.get(task.score) if task.score else None
        if score is None or state.best_score is None or score > state.best_score:
            state.best_score, state.best_epoch = score, epoch
            if self.accelerator.is_main_process:
                weights = plain_weights(self.best_model)
                self._new_best = {name: tensor.to("cpu", copy=True) for name, tensor in weights.items()}
        if self.accelerator.is_main_process:
            if not console.is_terminal:  # without a moving progress bar, one line per epoch
                text = f", validation {task.score} {score:.4f}" if score is not None else ""
                loss = f", mean loss {np.mean(self._losses):.4f}" if self._losses else ""
                say(f"epoch {epoch} of {self.config.epochs}{loss}{text}")
            self._log("val", epoch, state.step, {k: v for k, v in validation.items() if isinstance(v, int | float)})
            if self._tracking is not None:
                if state.best_score is not None and state.best_epoch is not None:
                    performance |= {f"best/{task.score}": state.best_score, "best/epoch": state.best_epoch}
                pictures = task.pictures(self.accelerator, self.best_model) if self._tracking.shows_pictures else {}
                self._tracking.log(state.step, performance, pictures)
        self._losses.clear()
        self._epoch_began = None
        return validation

    def _performance(self) -> dict[str, float]:
        """Of the epoch, or of what is done of it since the start: clips a second, and the peak of memory so far."""
        numbers: dict[str, float] = {}
        if self._epoch_began is not None:
            step, began = self._epoch_began
            clips = (self.state.step - step) * self.config.batch_size
            numbers["performance/clips_per_s"] = clips / (time.monotonic() - began)
        if (peak := peak_bytes(self.accelerator.device)) is not None:
            numbers["performance/peak_memory_gb"] = peak / 1e9
        return numbers

    def _probe(self, epoch: int) -> None:
        """Probe on the main process, if the task does so after this epoch; the others wait for it."""
        if not self.task.probes_after(epoch):
            return
        if self.accelerator.is_main_process:
            began = time.monotonic()
            # Not the wrapped model: its collectives would wait for the other processes.
            scores = self.task.probe(self.accelerator, self.best_model, epoch)
            self._log("probe", epoch, self.state.step, {**scores, "seconds": round(time.monotonic() - began, 2)})
        self.accelerator.wait_for_everyone()

    def _shown_loss(self) -> str:
        """The last loss that was read, for a line of text; empty before."""
        return "" if math.isnan(self._last_loss) else f", loss {self._last_loss:.4f}"

    def _log(self, kind: str, epoch: int, step: int, numbers: dict[str, float]) -> None:
        """Log numbers of a step; those that are not finite are null in the log, and left out for trackers."""
        if self.accelerator.is_main_process:
            known = {name: value for name, value in numbers.items() if math.isfinite(value)}
            self.folder.log({"kind": kind, "epoch": epoch, "step": step, **dict.fromkeys(numbers), **known})
            if self._tracking is not None:
                self._tracking.log(step, {f"{kind}/{name}": value for name, value in known.items()})

    def _is_due(self, epoch: int) -> bool:
        """Whether to save after an epoch: after the last one, and else if the time before was long enough ago."""
        ago_s = time.monotonic() - self._saved_at
        return self._of_all(epoch == self.config.epochs or ago_s >= SAVE_EVERY_S)[0]

    def _save(self) -> None:
        """Begin to write last/, and best/ if there is a new one, from copies of what they hold now."""
        self._read_all()
        self.state.seconds = time.monotonic() - self.began
        if self.accelerator.is_main_process:
            weights, self._new_best = self._new_best, None
            model = self.best_model
            best = None if weights is None else type(model).with_weights(model.config, weights)
            self.folder.save_last(self.state, self.task.model.config, self.accelerator, self._writes, best)
        self._saved_step, self._saved_at = self.state.step, time.monotonic()

    def _metrics(self, validation: dict[str, Any]) -> dict[str, Any]:
        """The content of `metrics.json`, which is written unless the run was finished before."""
        state, score = self.state, self.task.score
        if not validation and (before := self.folder.read_metrics()) is not None:  # resumed after its last epoch
            return before
        trained, parameters = count_parameters(self.task.model)
        metrics = {
            "finished": True,
            "epochs": self.config.epochs,
            "best_epoch": state.best_epoch,
            "chosen_by": f"validation {score}" if score else "last epoch (no validation part)",
            "parameters": parameters,
            "trained_parameters": trained,
            "seconds": round(state.seconds, 1),
            "num_unreadable": len(state.unreadable),
            "last_validation": validation,
        }
        if self.accelerator.is_main_process:
            self.folder.write_unreadable(state.unreadable)
            self.folder.write_metrics(metrics)
        return metrics


def _one_black_clip(batch: Batch) -> Batch:
    """A batch of weight zero, in place of one without readable videos: each process must take part in the step."""
    return {k: v.new_zeros(1, *v.shape[1:]) if isinstance(v, Tensor) else v for k, v in batch.items()}
