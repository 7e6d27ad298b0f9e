"""Training and inference on one GPU: is it correct, how fast is it, and how far from the device's limits.

Frames are random numbers, so that no video is needed. Correctness comes first: bf16 and fp16 against fp32 on the same
device; errors beyond the limits end the program with status 1. Then each row of the tables is measured in the order of
importance until --seconds are used up. Prints Markdown; --out gets gpu.md and gpu.json.
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import machine, matrix_rate, table
from plain import plain
from torch import Tensor, nn
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from svfap.data import augment
from svfap.device import PRECISIONS, Upload, pick_device
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
    """preset: of the model. batches: clips of a step, by task. matrix: side of the matrices whose product is timed."""

    preset: str
    batches: dict[str, int]
    matrix: int
    steps: int


SIZES = {
    "base": Size("svfap_base", {"fine-tuning": 64, "pre-training": 128}, 8192, 10),
    "tiny": Size("svfap_debug", {"fine-tuning": 3, "pre-training": 4}, 256, 1),
}
# Relative errors, in norm, against fp32 on the same device: of the output, of all gradients, and of what the loss of one
# batch loses in each of some steps.
LIMITS = {
    "bf16": {"output": 3e-2, "gradient": 1e-1, "learning": 2e-1},
    "fp16": {"output": 1e-2, "gradient": 3e-2, "learning": 5e-2},
}
TARGETS = {
    "fine-tuning: speed ÷ fp16 with waits": (">=", 2.5),
    "pre-training: speed ÷ fp16 with waits": (">=", 3.0),
    "fine-tuning: share of the matrix rate": (">=", 0.5),
    "fine-tuning: peak memory ÷ fp16 with waits": ("<=", 0.6),
    "pre-training: peak memory ÷ fp16 with waits": ("<=", 0.6),
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
# The first row of each task is the reference of its ratios.
ROWS = [
    *(Row(task, "fp16", waits=True) for task in TASKS),
    *(Row(task, "bf16") for task in TASKS),
    *(Row(task, "bf16", compiled=True) for task in TASKS),
    *(Row(task, "fp16", waits=True, plain=True) for task in TASKS),
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
            self.model.compile(backend=backend)
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
        self.unread.append(loss.detach())

    def read(self) -> list[float]:
        """Losses of the steps since the last call."""
        losses: list[float] = torch.stack(self.unread).tolist()
        self.unread.clear()
        return losses


def config_of(task: str, size: Size) -> ModelConfig:
    if task == "pre-training":
        return model_config(size.preset, "pretraining")
    return model_config(size.preset, "classification", num_outputs=NUM_CLASSES, drop_path_rate=0.1)


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
        clips = augment.RandAugment()(clips, generator)
    clips = augment.standardize(clips, shape.pixel_mean, shape.pixel_std)
    if augmented:
        clips = augment.random_resized_crop(clips, (0.08, 1.0), generator)
        clips = augment.flip(clips, 0.5, generator)
        clips = augment.random_erase(clips, 0.25, generator)
        clips, targets = augment.mix(clips, targets, 0.8, 1.0, 0.5, generator)
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


def check_correctness(task: str, size: Size, device: torch.device, steps: int = 6) -> list[dict[str, Any]]:
    """Errors of each precision against fp32, with their limits."""
    found = {}
    for precision in ("fp32", *LIMITS):
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
        found[precision] = {"output": output, "gradient": gradient, "learning": losses[0] - losses[1:]}
        del training
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
    row: Row, size: Size, device: torch.device, batch: int, backend: str, rate: float, repeats: int
) -> dict[str, Any]:
    """Time, memory and waits of the steps of one row. rate: multiply-adds per second of a matrix product in bf16."""
    result: dict[str, Any] = {"task": row.task, "row": row.name, "batch": batch}
    on_cuda = device.type == "cuda"
    if on_cuda:
        torch.cuda.reset_peak_memory_stats(device)
    training = Training(row, size, device, batch, backend)
    for _ in range(3):  # compiles, and fills the caches of memory
        training.step()
    taken = time_calls(training.step, size.steps, repeats, device)
    with counting_waits(device) as waits:
        for _ in range(3):
            training.step()
    assert np.isfinite(training.read()).all(), f"{row.name}: a loss is not finite"
    median = float(np.median(taken))
    done = 3 * complexity(training.config).multiply_adds_done
    return result | {
        "ms": 1e3 * median,
        "ms_range": [1e3 * min(taken), 1e3 * max(taken)],
        "clips_per_s": batch / median,
        "share_of_matrix_rate": batch * done / median / rate,
        "peak_gb": torch.cuda.max_memory_allocated(device) / 1e9 if on_cuda else None,
        "waits_per_step": len(waits) / 3 if on_cuda else None,
    }


def measure_inference(size: Size, device: torch.device, batch: int, backend: str, repeats: int) -> list[dict[str, Any]]:
    """Clips per second from uint8 frames on the host to outputs on the device, in bf16."""
    config = config_of("fine-tuning", size)
    model, upload, host = build_model(config).to(device).eval(), Upload(device), host_batches(config, batch, device)

    @torch.no_grad()
    def predict() -> None:
        clips = augment.normalize(upload(host[0])["clips"], *pixel_statistics(config))
        with autocast("bf16", device):
            model(clips)

    found = []
    for name in ("bf16", "bf16, compiled"):
        if name != "bf16":
            model.compile(backend=backend)
        for _ in range(3):
            predict()
        taken = time_calls(predict, size.steps, repeats, device)
        rates = [batch / each for each in taken]
        found.append(
            {"row": name, "batch": batch, "clips_per_s": float(np.median(rates)), "range": [min(rates), max(rates)]}
        )
    return found


def profile_steps(size: Size, device: torch.device, batch: int, steps: int = 3) -> dict[str, Any]:
    """The kernels of fine-tuning in bf16 that take most time, and the share of the time in which the GPU has none."""
    training = Training(Row("fine-tuning", "bf16"), size, device, batch, "")
    for _ in range(3):
        training.step()
    wait(device)
    on_cuda = device.type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_cuda else [])]
    with profile(activities=activities) as profiled:
        for _ in range(steps):
            training.step()
        wait(device)
    wanted = DeviceType.CUDA if on_cuda else DeviceType.CPU
    events = [each for each in profiled.events() if each.device_type == wanted]
    taken: dict[str, list[float]] = {}
    for each in events:
        duration = each.time_range.elapsed_us() if on_cuda else each.self_cpu_time_total
        taken.setdefault(each.name, []).append(duration)
    total = sum(map(sum, taken.values()))
    top = sorted(taken.items(), key=lambda item: -sum(item[1]))[:15]
    kernels = [
        {
            "name": name,
            "share": sum(us) / total,
            "ms_per_step": sum(us) / 1e3 / steps,
            "calls_per_step": len(us) / steps,
        }
        for name, us in top
    ]
    spans = sorted((each.time_range.start, each.time_range.end) for each in events)
    busy, end = 0.0, spans[0][0]
    for start, stop in spans:
        busy += max(0.0, stop - max(start, end))
        end = max(end, stop)
    idle = 1 - busy / (end - spans[0][0])
    return {"kernels": kernels, "idle_share": idle if on_cuda else None}


# results -------------------------------------------------------------------------------------------------------------


def compare(rows: list[dict[str, Any]]) -> dict[str, float]:
    """The best row of each task beside its reference; names are those of `TARGETS`."""
    found = {}
    for task in TASKS:
        measured = [row for row in rows if row["task"] == task and "ms" in row]
        ours = [row for row in measured if "waits" not in row["row"]]
        reference = next((row for row in measured if row["row"] == "fp16, waits"), None)
        if reference is None or not ours:
            continue
        found[f"{task}: speed ÷ fp16 with waits"] = max(r["clips_per_s"] for r in ours) / reference["clips_per_s"]
        found[f"{task}: share of the matrix rate"] = max(r["share_of_matrix_rate"] for r in ours)
        if reference["peak_gb"]:
            found[f"{task}: peak memory ÷ fp16 with waits"] = min(r["peak_gb"] for r in ours) / reference["peak_gb"]
    return found


def markdown(results: dict[str, Any]) -> str:
    """All results as tables."""
    parts = ["\n".join(results["machine"])]
    rows = [
        [
            f"{r['task']}, {r['precision']}, {r['of']}",
            f"{r['error']:.1e}",
            f"{r['limit']:.0e}",
            "yes" if r["fits"] else "**no**",
        ]
        for r in results["correctness"]
    ]
    parts.append("### Relative errors against fp32\n\n" + table(("", "error", "limit", "fits"), rows))
    rows = []
    for r in results["training"]:
        if "ms" not in r:
            rows.append([f"{r['task']}: {r['row']}", str(r["batch"]), r["error"], *[""] * 5])
            continue
        peak = "" if r["peak_gb"] is None else f"{r['peak_gb']:.1f}"
        waits = "" if r["waits_per_step"] is None else f"{r['waits_per_step']:.1f}"
        low, high = r["ms_range"]
        cells = [f"{r['task']}: {r['row']}", str(r["batch"]), f"{r['ms']:.1f} ({low:.1f} to {high:.1f})"]
        rows.append([*cells, f"{r['clips_per_s']:.1f}", f"{r['share_of_matrix_rate']:.1%}", peak, waits])
    header = ("step", "clips", "ms (range)", "clips/s", "of the matrix rate", "peak GB", "waits of the host")
    parts.append("### Training steps\n\n" + table(header, [row[: len(header)] for row in rows]))
    rows = []
    for name, (sign, target) in TARGETS.items():
        value = results["compared"].get(name)
        rows.append(
            [name, "not measured" if value is None else f"{value:.2f}", f"{'≥' if sign == '>=' else '≤'} {target:g}"]
        )
    parts.append("### Beside the targets\n\n" + table(("best row", "measured", "target"), rows))
    if results["inference"]:
        rows = [
            [r["row"], str(r["batch"]), f"{r['clips_per_s']:.1f} ({r['range'][0]:.1f} to {r['range'][1]:.1f})"]
            for r in results["inference"]
        ]
        parts.append("### Inference\n\n" + table(("forward", "clips", "clips/s (range)"), rows))
    if results["profile"]:
        kernels = results["profile"]["kernels"]
        rows = [
            [
                k["name"][:80].replace("|", "/"),
                f"{k['share']:.1%}",
                f"{k['ms_per_step']:.2f}",
                f"{k['calls_per_step']:.0f}",
            ]
            for k in kernels
        ]
        text = table(("kernel", "share", "ms a step", "calls a step"), rows)
        idle = results["profile"]["idle_share"]
        gaps = "" if idle is None else f"\n\nThe GPU has no kernel to run in {idle:.1%} of the time."
        parts.append(f"### Fine-tuning in bf16, not compiled: where the time goes\n\n{text}{gaps}")
    if results["dropped"]:
        parts.append(f"Left out for lack of time: {'; '.join(results['dropped'])}.")
    return "\n\n".join(parts) + "\n"


@dataclass
class Budget:
    """Seconds that may be used, and what work of each kind is expected to take."""

    seconds: float
    began: float = field(default_factory=time.monotonic)
    taken: dict[str, float] = field(default_factory=lambda: {"eager": 15.0, "compiled": 90.0, "inference": 45.0})

    def run(self, kind: str, work: Callable[[], None]) -> bool:
        """Do the work unless it would probably take longer than is left; whether it was done."""
        began = time.monotonic()
        if began - self.began + self.taken[kind] > self.seconds:
            return False
        work()
        self.taken[kind] = time.monotonic() - began
        return True


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--device", default="auto", help="auto, cuda or cpu")
    parser.add_argument("--size", choices=list(SIZES), default="base", help="base: the paper's; tiny: a smoke test")
    parser.add_argument("--batch", type=int, nargs=2, metavar=("FINETUNE", "PRETRAIN"), help="clips of a step")
    parser.add_argument("--seconds", type=float, default=450.0, help="for everything; later rows are left out")
    parser.add_argument(
        "--repeats", type=int, default=5, help="of some steps each; the median and the range are reported"
    )
    parser.add_argument("--backend", default="inductor", help="of torch.compile")
    parser.add_argument("--out", type=Path, help="folder for gpu.md and gpu.json")
    options = parser.parse_args()
    device, size, budget = pick_device(options.device), SIZES[options.size], Budget(options.seconds)
    batches = dict(zip(TASKS, options.batch, strict=True)) if options.batch else size.batches
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False  # fp32 is the reference
    results: dict[str, Any] = {
        "machine": machine(device),
        "size": size.preset,
        "training": [],
        "inference": [],
        "profile": {},
    }
    results["correctness"] = [row for task in TASKS for row in check_correctness(task, size, device)]
    results["dropped"] = []
    rate = matrix_rate("bf16", device, size.matrix, repeats=20)
    results["matrix_rate"] = rate
    results["machine"].append(
        f"- {size.preset}; product of two matrices of side {size.matrix} in bf16: {2 * rate / 1e12:.4g} TFLOP/s"
    )

    def save() -> None:
        results["compared"] = compare(results["training"])
        if options.out:
            options.out.mkdir(parents=True, exist_ok=True)
            (options.out / "gpu.md").write_text(markdown(results))
            (options.out / "gpu.json").write_text(json.dumps(results, indent=1))

    def train(row: Row) -> None:
        batch = batches[row.task]
        try:
            results["training"].append(measure(row, size, device, batch, options.backend, rate, options.repeats))
        except torch.OutOfMemoryError:
            results["training"].append({"task": row.task, "row": row.name, "batch": batch, "error": "out of memory"})
        finally:
            free()

    def infer() -> None:
        results["inference"] = measure_inference(size, device, batches["fine-tuning"], options.backend, options.repeats)

    def look() -> None:
        results["profile"] = profile_steps(size, device, batches["fine-tuning"])

    work: list[tuple[str, str, Callable[[], None]]] = [
        (f"{row.task}: {row.name}", "compiled" if row.compiled else "eager", partial(train, row)) for row in ROWS
    ]
    work[6:6] = [("inference", "inference", infer), ("profile", "eager", look)]
    for name, kind, task in work:
        if not budget.run(kind, task):
            results["dropped"].append(name)
        free()
        save()  # after each row, in case a later one fails
    print(markdown(results))
    return 0 if all(row["fits"] for row in results["correctness"]) else 1


if __name__ == "__main__":
    sys.exit(main())
