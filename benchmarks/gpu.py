"""Training and inference on one GPU: is it correct, how fast is it, and how far from the device's limits.

Frames are random numbers, so that no video is needed. Correctness comes first: bf16 and fp16 against fp32 on the same
device. Then each row of the tables is measured, compiled rows last, until --seconds are used up. A row that fails does not
stop the others. Prints Markdown; --out gets gpu.md and gpu.json. Exit status 1 if an error is beyond its limit, or was not
checked, or if a row failed; 130 if it was interrupted.
"""

# ruff: noqa: E402
from __future__ import annotations

import time

BEGAN = time.monotonic()  # before the imports that take seconds

import argparse
import gc
import json
import os
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import machine, matrix_rate
from gpu_tables import CORRECTNESS, compare, markdown, problems
from plain import plain
from torch import Tensor, nn
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from svfap.data import augment, rand_augment
from svfap.device import PRECISIONS, Upload, compile_mode, pick_device
from svfap.errors import UserError
from svfap.model.base import Model
from svfap.model.build import build_model
from svfap.model.complexity import complexity
from svfap.model.config import ModelConfig
from svfap.model.layers import checkpoint_activations
from svfap.model.mae import MaskedAutoencoder
from svfap.model.masking import tube_mask
from svfap.model.presets import model_config
from svfap.train.losses import cross_entropy
from svfap.train.optim import apply_lr, build_optimizer, parameter_groups

NUM_CLASSES = 7
HOST_BATCHES = 4  # prepared before, as by the loader's workers
RATE = 1e-4  # of learning


@dataclass(frozen=True)
class Size:
    """preset: of the model. batches: clips of a step, by task. matrix: side of the matrices whose product is timed.
    compile_s: what compiling a step takes, about."""

    preset: str
    batches: dict[str, int]
    matrix: int
    steps: int
    compile_s: float


SIZES = {
    "base": Size("svfap_base", {"fine-tuning": 64, "pre-training": 128}, 8192, 10, 70.0),
    "tiny": Size("svfap_debug", {"fine-tuning": 3, "pre-training": 4}, 256, 1, 15.0),
}
# Relative errors, in norm, against fp32 on the same device: of the output, of all gradients, and of what the loss of one
# batch loses in each of some steps.
LIMITS = {
    "bf16": {"output": 3e-2, "gradient": 1e-1, "learning": 2e-1},
    "fp16": {"output": 1e-2, "gradient": 3e-2, "learning": 5e-2},
}
# Parts of the program, and the kinds of work (see `Budget`) of each.
KINDS = {
    "correctness": ("correctness",),
    "training": ("eager", "compiled"),
    "profile": ("profile",),
    "inference": ("inference", "compiled inference"),
}


@dataclass(frozen=True)
class Row:
    """One way to train. waits: the host reads loss and gradient norm in every step. plain: see `benchmarks/plain.py`."""

    task: str
    precision: str
    waits: bool = False
    compiled: bool = False
    checkpointed: bool = False
    plain: bool = False

    @property
    def name(self) -> str:
        words = ["plain" * self.plain, self.precision, "compiled" * self.compiled, "checkpointed" * self.checkpointed]
        return ", ".join([word for word in words if word] + ["waits"] * self.waits)


TASKS = ("fine-tuning", "pre-training")
EAGER = [
    *(Row(task, "fp16", waits=True) for task in TASKS),
    *(Row(task, "bf16") for task in TASKS),
    *(Row(task, "fp16", waits=True, plain=True) for task in TASKS),
]
COMPILED = [
    *(Row(task, "bf16", compiled=True) for task in TASKS),
    *(Row(task, "bf16", compiled=True, checkpointed=True) for task in TASKS),
]


class Training:
    """Steps as in `svfap.train.loop`: upload, augmentation and model on the device, gradient norm, AdamW."""

    def __init__(self, row: Row, size: Size, device: torch.device, batch: int, backend: str) -> None:
        self.row, self.device, self.batch = row, device, batch
        self.config = config = config_of(row.task, size)
        torch.manual_seed(0)
        model: Model = build_model(config).to(device).train()
        self.model = plain(model).train() if row.plain else model
        if row.checkpointed:
            checkpoint_activations(self.model)
        if row.compiled:
            compile_model(self.model, backend, device)
        decay = 0.75 if row.task == "fine-tuning" else 1.0
        self.optimizer = build_optimizer(parameter_groups(self.model, 0.05, decay))
        apply_lr(self.optimizer, RATE)
        # A small scale, so that no step is left out: rows and precisions do the same work.
        self.scaler = torch.amp.GradScaler(device.type, init_scale=4096, enabled=row.precision == "fp16")
        self._upload, self._host, self._step = Upload(device), host_batches(config, batch, device), 0
        self.unread: list[Tensor] = []

    def loss(self, augmented: bool = True) -> Tensor:
        """Loss of the next batch. augmented: as in fine-tuning; else clips as they are."""
        batch = self._upload(self._host[self._step % len(self._host)])
        generator = torch.Generator().manual_seed(self._step)
        torch.manual_seed(self._step)  # drop path
        self._step += 1
        with autocast(self.row.precision, self.device):
            loss = pretraining_loss if isinstance(self.model, MaskedAutoencoder) else finetuning_loss
            return loss(self.model, batch, generator, augmented)

    def step(self, augmented: bool = True) -> None:
        loss = self.loss(augmented)
        self.scaler.scale(loss).backward()
        self.scaler.unscale_(self.optimizer)
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), float("inf"))
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad()
        if self.row.waits:
            loss.item(), norm.item()
        self.unread.append(loss.detach().clone())  # a loss's own memory is that of all its terms

    def read(self) -> list[float]:
        """Losses of the steps since the last call."""
        losses: list[float] = torch.stack(self.unread).tolist()
        self.unread.clear()
        return losses


def config_of(task: str, size: Size) -> ModelConfig:
    if task == "pre-training":
        return model_config(size.preset, "pretraining")
    return model_config(size.preset, "classification", num_outputs=NUM_CLASSES, drop_path_rate=0.1)


def compile_model(model: nn.Module, backend: str, device: torch.device) -> None:
    """With PyTorch's compiler as `svfap.train.loop` does it for one process; other backends know no modes."""
    if backend == "inductor":
        model.compile(mode=compile_mode(device))
    else:
        model.compile(backend=backend)


def host_batches(config: ModelConfig, batch: int, device: torch.device) -> list[dict[str, Tensor]]:
    """Clips as the loader gives them, in pinned memory for a GPU, with classes."""
    generator, shape = torch.Generator().manual_seed(0), (batch, config.num_frames, config.img_size, config.img_size, 3)
    made = []
    for _ in range(HOST_BATCHES):
        clips = torch.randint(256, shape, dtype=torch.uint8, generator=generator)
        labels = torch.randint(NUM_CLASSES, (batch,), generator=generator)
        made.append({"clips": clips, "label": labels})
    if device.type == "cuda":
        made = [{name: value.pin_memory() for name, value in each.items()} for each in made]
    return made


def finetuning_loss(model: Model, batch: dict[str, Tensor], generator: torch.Generator, augmented: bool) -> Tensor:
    """That of `svfap.train.finetune` with its default settings for classes."""
    shape = model.config
    clips, targets = augment.to_levels(batch["clips"]), augment.smooth_one_hot(batch["label"], NUM_CLASSES)
    if augmented:
        clips = rand_augment.RandAugment()(clips, generator)
    clips = augment.standardize(clips, shape.pixel_mean, shape.pixel_std)
    if augmented:
        clips = augment.random_resized_crop(clips, (0.08, 1.0), generator)
        clips = augment.flip(clips, 0.5, generator)
        clips = augment.random_erase(clips, 0.25, generator)
        clips, (targets,) = augment.mix(clips, [targets], 0.8, 1.0, 0.5, generator)
    return cross_entropy(model(clips).float(), targets)


def pretraining_loss(model: Model, batch: dict[str, Tensor], generator: torch.Generator, augmented: bool) -> Tensor:
    """That of `svfap.train.pretrain`."""
    assert isinstance(model, MaskedAutoencoder)
    shape = model.config
    clips = augment.normalize(batch["clips"], shape.pixel_mean, shape.pixel_std)
    return model.loss(clips, tube_mask(len(clips), shape, generator=generator).to(clips.device))


def autocast(precision: str, device: torch.device) -> torch.autocast:
    return torch.autocast(device.type, PRECISIONS[precision], enabled=precision != "fp32")


# correctness ---------------------------------------------------------------------------------------------------------


def observe(task: str, precision: str, size: Size, device: torch.device, steps: int = 6) -> dict[str, Tensor]:
    """What `LIMITS` compares: output (of the model), gradient (P,) of all parameters, learning (steps,)."""
    training = Training(Row(task, precision), size, device, min(size.batches[task], 4), "")
    training.model.eval()  # without drop path
    if isinstance(head := getattr(training.model, "head", None), nn.Linear):  # a new one lets no gradient through
        nn.init.normal_(head.weight, std=0.1, generator=torch.Generator(device).manual_seed(0))
    training._host = training._host[:1]
    apply_lr(training.optimizer, 10 * RATE)
    clips = augment.normalize(training._host[0]["clips"].to(device), *pixel_statistics(training.config))
    inputs: list[Any] = [clips]
    if isinstance(training.model, MaskedAutoencoder):
        mask = tube_mask(len(clips), training.config, generator=torch.Generator().manual_seed(0))
        inputs.append(mask.to(device))
    with autocast(precision, device):
        output = training.model(*inputs).detach().float()
    training.scaler.scale(training.loss(augmented=False)).backward()
    training.scaler.unscale_(training.optimizer)
    training.scaler.update()
    gradient = torch.cat([p.grad.flatten() for p in training.model.parameters() if p.grad is not None])
    training.optimizer.zero_grad()
    for _ in range(steps):
        training.step(augmented=False)
    losses = torch.tensor(training.read())
    return {"output": output, "gradient": gradient, "learning": losses[0] - losses[1:]}


def check_correctness(task: str, size: Size, device: torch.device) -> list[dict[str, Any]]:
    """Errors of each precision against fp32, with their limits."""
    found = {}
    for precision in ("fp32", *LIMITS):
        found[precision] = observe(task, precision, size, device)
        free()
    rows = []
    for precision, limits in LIMITS.items():
        for name, limit in limits.items():
            exact, value = found["fp32"][name], found[precision][name]
            error = float((value - exact).norm() / exact.norm())
            fits = bool(error <= limit)  # false for NaN
            rows.append(
                {"task": task, "precision": precision, "of": name, "error": error, "limit": limit, "fits": fits}
            )
    return rows


def pixel_statistics(config: ModelConfig) -> tuple[Any, Any]:
    return config.pixel_mean, config.pixel_std


# speed ---------------------------------------------------------------------------------------------------------------


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def free() -> None:
    gc.collect()
    if "torch._dynamo" in sys.modules:  # importing it takes seconds
        torch._dynamo.reset()
    if torch.cuda.is_available():
        with suppress(RuntimeError):  # after some errors of a kernel every call fails; the rows say so
            torch.cuda.empty_cache()


def time_calls(call: Callable[[], object], calls: int, repeats: int, device: torch.device) -> list[float]:
    """Seconds of a call, in each of some repeats of several calls; the device is waited for only at the end of each."""
    found = []
    for _ in range(repeats):
        wait(device)
        began = time.perf_counter()
        for _ in range(calls):
            call()
        wait(device)
        found.append((time.perf_counter() - began) / calls)
    return found


@contextmanager
def counting_waits(device: torch.device) -> Iterator[list[Any]]:
    """The warnings of CUDA operations within the block for which the host waits."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        if device.type == "cuda":
            torch.cuda.set_sync_debug_mode("warn")
        found: list[Any] = []
        try:
            yield found
        finally:
            if device.type == "cuda":
                torch.cuda.set_sync_debug_mode("default")
            found += [each for each in caught if "called a synchronizing" in str(each.message)]


def measure(
    row: Row, size: Size, device: torch.device, batch: int, backend: str, rate: float | None, repeats: int
) -> dict[str, Any]:
    """Time, memory and waits of the steps of one row. rate: multiply-adds per second of a matrix product in bf16.

    peak_gb: from making the model on, since what a CUDA graph holds was allocated when it was recorded.
    Raises `FloatingPointError` if a loss is not finite.
    """
    result: dict[str, Any] = {"task": row.task, "row": row.name, "batch": batch}
    on_cuda = device.type == "cuda"
    if on_cuda:
        torch.cuda.reset_peak_memory_stats(device)
    training = Training(row, size, device, batch, backend)
    for _ in range(3):  # compiles, and fills the caches of memory
        training.step()
    wait(device)
    taken = time_calls(training.step, size.steps, repeats, device)
    peak = torch.cuda.max_memory_allocated(device) / 1e9 if on_cuda else None
    with counting_waits(device) as waits:
        for _ in range(3):
            training.step()
    if not np.isfinite(training.read()).all():
        raise FloatingPointError("a loss is not finite")
    median = float(np.median(taken))
    done = 3 * complexity(training.config).multiply_adds_done
    return result | {
        "ms": 1e3 * median,
        "ms_range": [1e3 * min(taken), 1e3 * max(taken)],
        "clips_per_s": batch / median,
        "share_of_matrix_rate": None if rate is None else batch * done / median / rate,
        "peak_gb": peak,
        "waits_per_step": len(waits) / 3 if on_cuda else None,
    }


def measure_inference(
    size: Size, device: torch.device, batch: int, repeats: int, backend: str | None = None
) -> dict[str, Any]:
    """Clips per second from uint8 frames on the host to outputs on the device, in bf16; compiled if there is a backend."""
    config = config_of("fine-tuning", size)
    model, upload, host = build_model(config).to(device).eval(), Upload(device), host_batches(config, batch, device)
    if backend is not None:
        compile_model(model, backend, device)

    @torch.no_grad()
    def predict() -> None:
        clips = augment.normalize(upload(host[0])["clips"], *pixel_statistics(config))
        with autocast("bf16", device):
            model(clips)

    for _ in range(3):
        predict()
    rates = [batch / each for each in time_calls(predict, size.steps, repeats, device)]
    name = "bf16" if backend is None else "bf16, compiled"
    return {"row": name, "batch": batch, "clips_per_s": float(np.median(rates)), "range": [min(rates), max(rates)]}


def profile_steps(size: Size, device: torch.device, batch: int, steps: int = 3) -> dict[str, Any]:
    """The kernels of fine-tuning in bf16 that take most time, and how long the GPU has none (`shares`).

    On a CPU: its operators. Raises `RuntimeError` if the profiler sees nothing.
    """
    training = Training(Row("fine-tuning", "bf16"), size, device, batch, "")
    for _ in range(3):
        training.step()
    taken = float(np.median(time_calls(training.step, steps, 3, device)))
    on_cuda = device.type == "cuda"
    # CUDA alone: to follow the operators too would slow the launches, and the GPU would seem idle.
    wanted, activity = (DeviceType.CUDA, ProfilerActivity.CUDA) if on_cuda else (DeviceType.CPU, ProfilerActivity.CPU)
    for _ in range(2):  # the first starts the tracing, which takes time
        with profile(activities=[activity]) as profiled:
            profiled_taken = time_calls(training.step, steps, 1, device)[0]
    # Ranges such as "Optimizer.step" are not work: their kernels have events of their own.
    events = [e for e in profiled.events() if e.device_type == wanted and not e.is_user_annotation]
    copies = [e for e in events if on_cuda and is_copy(e.name)]
    us: dict[str, list[float]] = {}
    for each in events:
        if not on_cuda or not is_copy(each.name):
            us.setdefault(each.name, []).append(each.time_range.elapsed_us() if on_cuda else each.self_cpu_time_total)
    if not us:
        raise RuntimeError("the profiler saw no kernel")
    total = sum(map(sum, us.values()))
    kernels = [
        {
            "name": name,
            "share": sum(each) / total,
            "ms_per_step": sum(each) / 1e3 / steps,
            "calls_per_step": len(each) / steps,
        }
        for name, each in sorted(us.items(), key=lambda item: -sum(item[1]))[:15]
    ]
    return {
        "kernels": kernels,
        "copies_ms_per_step": sum(e.time_range.elapsed_us() for e in copies) / 1e3 / steps,
        "shares": shares((e.name, e.time_range.start, e.time_range.end) for e in events) if on_cuda else None,
        "ms_per_step": 1e3 * taken,
        "ms_per_step_profiled": 1e3 * profiled_taken,
    }


def is_copy(name: str) -> bool:
    """Whether an event of the GPU is a copy or a fill of memory, by the names that PyTorch's profiler gives them."""
    return name.startswith(("Memcpy", "Memset"))


def shares(events: Iterable[tuple[str, float, float]]) -> dict[str, float]:
    """Shares of the time from the first event's start to the last one's end, of (name, start, end), in which there is
    a kernel ("kernel"), a copy but no kernel ("copy"), and neither ("idle")."""
    events = list(events)
    whole = max(stop for _, _, stop in events) - min(start for _, start, _ in events)
    busy = covered((start, stop) for _, start, stop in events) / whole
    kernel = covered((start, stop) for name, start, stop in events if not is_copy(name)) / whole
    return {"kernel": kernel, "copy": busy - kernel, "idle": 1 - busy}


def covered(spans: Iterable[tuple[float, float]]) -> float:
    """Length of the union of spans (start, end)."""
    length, end = 0.0, float("-inf")
    for start, stop in sorted(spans):
        length += max(0.0, stop - max(start, end))
        end = max(end, stop)
    return length


# the run -------------------------------------------------------------------------------------------------------------


def reason(error: BaseException) -> str:
    """Kind and first line of an error; two lines if the first only announces the second."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = " ".join(lines[: 2 if lines and lines[0].endswith(":") else 1])
    return f"{type(error).__name__}: {text}"[:300] if text else type(error).__name__


@dataclass
class Budget:
    """Seconds that may be used, and what work of each kind is expected to take."""

    seconds: float
    began: float = field(default_factory=time.monotonic)
    compile_s: float = SIZES["base"].compile_s
    expected: dict[str, float] = field(init=False)

    def __post_init__(self) -> None:
        self.expected = {
            "correctness": 15.0,
            "matrix": 3.0,
            "eager": 15.0,
            "profile": 15.0,
            "inference": 10.0,
            "compiled": self.compile_s,
            "compiled inference": self.compile_s / 2,
        }

    @property
    def left(self) -> float:
        return self.began + self.seconds - time.monotonic()


Work = tuple[str, str, Callable[[], None]]  # name, kind of `Budget`, what is done


class Run:
    """Does one piece of work after the other, and writes the results after each, whatever fails.

    A piece that would probably take longer than the time left is left out. One that is still at work when the time is
    used up, such as a compilation that hangs, ends the process with status 1, after the results were written.
    """

    def __init__(self, results: dict[str, Any], budget: Budget, out: Path | None) -> None:
        self.results, self.budget, self.out = results, budget, out
        self._lock, self._pending, self._busy = threading.RLock(), list[str](), False

    def __call__(self, work: list[Work]) -> int:
        """Exit status of the program."""
        self._pending = [name for name, _, _ in work]
        watchdog = threading.Timer(max(self.budget.left, 0), self._end_late, [threading.get_ident()])
        watchdog.daemon = True
        watchdog.start()
        try:
            for each in work:
                self._do(*each)
        except KeyboardInterrupt:
            self.results["interrupted"] = True
        finally:
            watchdog.cancel()
        return self._end()

    def _do(self, name: str, kind: str, work: Callable[[], None]) -> None:
        with self._lock:
            self._busy = self.budget.left > self.budget.expected[kind]
        if not self._busy:
            self.results["dropped"].append(self._pending.pop(0))
            return
        began, failure = time.monotonic(), None
        print(f"{began - self.budget.began:6.1f} s: {name}", file=sys.stderr, flush=True)
        try:
            work()
        except Exception as error:
            failure = reason(error), traceback.format_exc()
        with self._lock:
            self._busy = False
            if failure is None:
                self._pending.pop(0)
                self.budget.expected[kind] = time.monotonic() - began
            else:
                self._fail(*failure)
        free()  # not before: the error held the model
        with self._lock:
            self._save()

    def _fail(self, error: str, trace: str) -> None:
        """The work at hand has failed."""
        if self._pending:
            self.results["failed"].append({"name": self._pending.pop(0), "error": error, "traceback": trace})
            print(f"          {error}", file=sys.stderr, flush=True)

    def _save(self) -> None:
        self.results["compared"] = compare(self.results["training"])
        if self.out:
            self.out.mkdir(parents=True, exist_ok=True)
            (self.out / "gpu.md").write_text(markdown(self.results))
            (self.out / "gpu.json").write_text(json.dumps(self.results, indent=1))

    def _end(self) -> int:
        with self._lock:
            self._busy = False
            self.results["dropped"] += self._pending
            self._pending = []
            self._save()
            print(markdown(self.results), flush=True)
        if self.results["interrupted"]:
            return 128 + signal.SIGINT
        return 1 if problems(self.results) else 0

    def _end_late(self, thread: int) -> None:
        """In a thread of its own: nothing else ends a call that does not return to Python."""
        with self._lock:
            if self._busy:
                stack = traceback.format_stack(sys._current_frames()[thread])
                self._fail(f"not done when the {self.budget.seconds:g} seconds were used up", "".join(stack))
                os._exit(self._end())


def at_least_one(text: str) -> int:
    """A number of an option. Raises `ValueError` for other text, `argparse.ArgumentTypeError` for a number below 1."""
    if int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text}: must be at least 1")
    return int(text)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--device", default="auto", help="auto, cuda or cpu")
    parser.add_argument("--size", choices=list(SIZES), default="base", help="base: the paper's; tiny: a smoke test")
    parser.add_argument("--batch", type=at_least_one, nargs=2, metavar=("FINETUNE", "PRETRAIN"), help="clips of a step")
    parser.add_argument("--seconds", type=float, default=450.0, help="for everything; later rows are left out")
    parser.add_argument(
        "--repeats", type=at_least_one, default=5, help="of some steps each; the median and the range are reported"
    )
    parser.add_argument(
        "--parts", nargs="+", choices=KINDS, default=[*KINDS], help="what to do; everything if not given"
    )
    parser.add_argument(
        "--backend", help="of torch.compile; default: inductor, on a CPU aot_eager, which needs no compiler"
    )
    parser.add_argument("--out", type=Path, help="folder for gpu.md and gpu.json")
    options = parser.parse_args()
    try:
        device = pick_device(options.device)
    except UserError as error:
        parser.error(str(error))
    backend = options.backend or ("aot_eager" if device.type == "cpu" else "inductor")
    size, repeats = SIZES[options.size], options.repeats
    batches = dict(zip(TASKS, options.batch, strict=True)) if options.batch else size.batches
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False  # fp32 is the reference
    results: dict[str, Any] = {
        "machine": machine(device),
        "size": size.preset,
        "matrix_rate": None,
        "correctness": [],
        "training": [],
        "compared": [],
        "inference": [],
        "profile": {},
        "failed": [],
        "dropped": [],
        "interrupted": False,
    }

    def check(task: str) -> None:
        results["correctness"] += check_correctness(task, size, device)

    def multiply() -> None:
        rate = results["matrix_rate"] = matrix_rate("bf16", device, size.matrix, repeats=20)
        results["machine"].append(
            f"- {size.preset}; product of two matrices of side {size.matrix} in bf16: {2 * rate / 1e12:.4g} TFLOP/s"
        )

    def train(row: Row) -> None:
        rate = results["matrix_rate"]
        results["training"].append(measure(row, size, device, batches[row.task], backend, rate, repeats))

    def infer(backend: str | None) -> None:
        results["inference"].append(measure_inference(size, device, batches["fine-tuning"], repeats, backend))

    def look() -> None:
        results["profile"] = profile_steps(size, device, batches["fine-tuning"])

    work: list[Work] = [
        *((f"{task}: {CORRECTNESS}", "correctness", partial(check, task)) for task in TASKS),
        ("matrix rate", "matrix", multiply),
        *((f"{row.task}: {row.name}", "eager", partial(train, row)) for row in EAGER),
        ("profile", "profile", look),
        ("inference: bf16", "inference", partial(infer, None)),
        *((f"{row.task}: {row.name}", "compiled", partial(train, row)) for row in COMPILED),
        ("inference: bf16, compiled", "compiled inference", partial(infer, backend)),
    ]
    kinds = {"matrix", *(kind for part in options.parts for kind in KINDS[part])}
    work = [each for each in work if each[1] in kinds]
    return Run(results, Budget(options.seconds, BEGAN, size.compile_s), options.out)(work)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # what `timeout` sends is handled as Ctrl-C
    sys.exit(main())
