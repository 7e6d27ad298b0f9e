"""`svfap bench`: measure training, prediction and reading on this machine within a given time, and derive settings."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

import svfap
from svfap.bench.advice import Advice, advise
from svfap.bench.config import BenchConfig
from svfap.bench.measure import LEAST, Budget, Dropped, Row, forget_peak, free_bytes, load, peak_bytes, rate_of
from svfap.bench.report import JSON_FILE, MARKDOWN_FILE, write_files
from svfap.bench.result import Benched
from svfap.bench.work import (
    Size,
    Task,
    forward_of,
    joint_rate,
    make_tasks,
    readable_item,
    reading_rate,
    size_of,
    step_of,
    synthetic_manifest,
    training_run,
)
from svfap.console import say
from svfap.device import pick_device, pick_precision
from svfap.errors import UserError, first_line
from svfap.files import check_new
from svfap.train.parallel import num_workers

# Parts in the order in which they are measured, with their shares of the time.
READING = {"read for pretrain": 1.0, "read for finetune": 1.0}
STEPS = {"pretrain": 3.0, "finetune": 3.0, "predict": 1.0}
JOINT = {"pretrain with reading": 1.0, "finetune with reading": 1.0}
GAIN = 1.05  # a larger batch has to be faster by this
MOST_BATCH = 1024
MEMORY_USED = 0.8  # of what is free, at most
CELL_SHARE = 1 / 60  # of the time for each batch size, once it is measured three times


def bench_machine(config: BenchConfig | None = None) -> Benched:
    """Measure the training loop, `svfap predict`'s forward pass and the loader, and write the tables into `config.out`.

    Nothing is estimated: what the time or the memory does not allow is listed. Raises `UserError` for videos that cannot be
    read, a model that cannot be loaded, a device that is not there, and files that exist.
    """
    config = config or BenchConfig()
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UserError("bench: measures one process; start it without torchrun")
    if config.out is not None:
        for name in (JSON_FILE, MARKDOWN_FILE):
            check_new(config.out / name, config.overwrite)
    with _on(config.device) as device, TemporaryDirectory(prefix="svfap-bench-") as folder:
        done = _Bench(config, device, Path(folder)).measure()
    if config.out is not None:
        write_files(done, config)
    return done


@contextmanager
def _on(name: str) -> Iterator[torch.device]:
    """The device, as the training loop finds it, which takes the first GPU that it sees. Raises `UserError`."""
    kind, _, number = name.partition(":")
    before = os.environ.get("CUDA_VISIBLE_DEVICES")
    try:
        if kind == "cpu" or number:
            if torch.cuda.is_initialized():
                raise UserError(f"device={name}: this program uses a GPU already; measure in a new process")
            os.environ["CUDA_VISIBLE_DEVICES"] = number
        device = pick_device("auto")
        if kind not in ("auto", device.type):
            raise UserError(f"device={name}: there is none that training can use; it takes {device.type} here")
        yield device
    finally:
        os.environ.pop("CUDA_VISIBLE_DEVICES", None)
        if before is not None:
            os.environ["CUDA_VISIBLE_DEVICES"] = before


def precisions_of(device: torch.device) -> list[str]:
    """The precisions that the device is made for, that of precision=auto first."""
    fastest = pick_precision("auto", device)
    others = ["fp32", "fp16"] if device.type == "cuda" else ["fp32"]
    return list(dict.fromkeys([fastest, *others]))


class _Bench:
    def __init__(self, config: BenchConfig, device: torch.device, folder: Path) -> None:
        self.config, self.device, self.folder = config, device, folder
        self.reads = config.manifest is not None or config.dataset is not None
        weights = {**(READING if self.reads else {}), **STEPS, **(JOINT if self.reads else {})}
        self.budget = Budget(config.seconds, weights)
        self.rows: list[Row] = []
        self.dropped: list[Dropped] = []
        self.notes: list[str] = []
        self._runs = 0

    def measure(self) -> Benched:
        config, load_before = self.config, load()
        size = size_of(config)
        tasks = self._tasks(size)
        own = {name: task for name, (task, is_own) in tasks.items() if is_own}
        for name in ("pretrain", "finetune"):
            if self.reads:
                self._read(f"read for {name}", own.get(name))
        for name in ("pretrain", "finetune"):
            self._steps(name, tasks.get(name, (None, False))[0])
        self._predict(tasks.get("finetune", (None, False))[0])
        advice = advise(config, size, self.rows, {name: len(task.manifest) for name, task in own.items()})
        for name in ("pretrain", "finetune"):
            if self.reads:
                self._joint(name, own.get(name), advice)
        machine = {**describe(self.device), "load_before": load_before, "load_after": load()}
        seconds = time.monotonic() - self.budget.began
        return Benched(machine, tuple(self.rows), tuple(self.dropped), tuple(self.notes), advice, round(seconds, 1))

    def _tasks(self, size: Size) -> dict[str, tuple[Task, bool]]:
        """The tasks by name, and whether they are on the user's videos; else they are on a synthetic face."""
        synthetic = BenchConfig(seconds=self.config.seconds)
        found: dict[str, tuple[Task, bool]] = {}
        given = make_tasks(self.config, size, None) if self.reads else {}
        missing = [name for name in ("pretrain", "finetune") if isinstance(given.get(name, UserError()), UserError)]
        others = make_tasks(synthetic, size, synthetic_manifest(self.folder, size)) if missing else {}
        if self.reads and len(missing) == 2:
            raise given["pretrain"]  # type: ignore[misc]
        for name in ("pretrain", "finetune"):
            task, other = given.get(name), others.get(name)
            if task is not None and not isinstance(task, UserError):
                found[name] = task, True
            elif other is not None and not isinstance(other, UserError):
                found[name] = other, False
                if task is not None:
                    self.notes.append(f"{name}: on a synthetic face, not on your videos ({first_line(task)})")
            else:
                self._drop(name, first_line(other or task))  # type: ignore[arg-type]
        return found

    def _drop(self, what: str, reason: str) -> None:
        self.dropped.append(Dropped(what, reason))
        say(f"{what}: not measured: {reason}")

    def _keep(self, row: Row) -> None:
        self.rows.append(row)
        how = [row.precision] if row.precision else []
        how += [f"batch {row.batch}"] if row.precision else []
        how += [f"{row.workers} worker{'s' * (row.workers > 1)}"] if row.workers else []
        waiting = "" if row.waiting is None else f", {row.waiting:.0%} of the time waiting for the reader"
        say(f"{', '.join([row.work, *how])}: {row.rate} clips/s{waiting}")

    def _read(self, work: str, task: Task | None) -> None:
        """The loader alone, with more and more workers."""
        end = self.budget.share(work)
        if task is None:
            return
        cores = num_workers(None, 1) + 1
        counts = sorted({*(2**n for n in range(cores.bit_length()) if 2**n <= cores), cores})
        for number, workers in enumerate(counts):
            seconds = (end - time.monotonic()) / (len(counts) - number)
            try:
                found = reading_rate(task.dataset, workers, seconds, end)
            except UserError as error:
                self._drop(f"{work}, {workers} workers", first_line(error))
                return
            if found is None:
                self._drop(f"{work}, {workers} workers", "not enough time")
                continue
            rate, unreadable = found
            self._keep(Row(work, None, 0, workers, rate))
            if unreadable:
                self.notes.append(f"{work}, {workers} workers: {unreadable} videos could not be read")

    def _steps(self, work: str, task: Task | None) -> None:
        """Training steps in each precision, with larger and larger batches."""
        end = self.budget.share(work)
        if task is None:
            return
        item, guess_s = readable_item(task.dataset), 0.0
        for precision, until in self._precisions(end):
            with training_run(task, self._new_folder(), precision) as run:
                guess_s = self._larger(work, precision, partial(step_of, run, item), until, guess_s)

    def _predict(self, task: Task | None) -> None:
        """Forward passes in each precision, with larger and larger batches."""
        end = self.budget.share("predict")
        if task is None:
            return
        item, guess_s = readable_item(task.dataset), 0.0
        for precision, until in self._precisions(end):
            forward = forward_of(task.model, task.dataset, item, self.device, precision)
            guess_s = self._larger("predict", precision, forward, until, guess_s)

    def _precisions(self, end: float) -> Iterator[tuple[str, float]]:
        """Each precision, and the time at which it has to end."""
        choices = precisions_of(self.device)
        for number, precision in enumerate(choices):
            now = time.monotonic()
            yield precision, now + (end - now) / (len(choices) - number)

    def _larger(
        self, work: str, precision: str, of: Callable[[int], Callable[[], object]], end: float, guess_s: float
    ) -> float:
        """Measure batches of 1, 2, 4, … until they gain no more, or time or memory ends.

        guess_s: seconds that one clip took in another precision, 0 if not known. Returns those that it took here.
        """
        batch, best, step_s, peaks = 1, 0.0, guess_s / 2, [0, 0]
        first_s = 0.0
        while True:
            what, left = f"{work}, {precision}, batch {batch} and more", end - time.monotonic()
            needed_s = 2 * step_s * (1 + 1 + LEAST)
            if step_s and needed_s > left:
                self._drop(
                    what, f"takes some {needed_s:.2g} s, and {max(left, 0):.2g} s were left; --seconds gives more"
                )
                break
            free = free_bytes()
            more = 2 * (peaks[1] - peaks[0]) if peaks[0] else peaks[1]
            if self.device.type == "cpu" and free is not None and more > MEMORY_USED * free:
                self._drop(what, f"takes some {more / 1e9:.1f} GB more, and {free / 1e9:.1f} GB are free")
                break
            forget_peak(self.device)
            try:
                rate, step_s = rate_of(of(batch), batch, self.device, self.config.seconds * CELL_SHARE, end)
            except torch.OutOfMemoryError:
                self._drop(what, "does not fit into the GPU's memory")
                break
            first_s = first_s or step_s
            peak = peak_bytes(self.device)
            self._keep(Row(work, precision, batch, 0, rate, peak))
            if rate.median < GAIN * best or batch == MOST_BATCH:
                self.notes.append(f"{work}, {precision}: no batch above {batch}, which gains less than 5%")
                break
            batch, best, peaks = 2 * batch, rate.median, [peaks[1], peak or 0]
        return first_s or guess_s

    def _joint(self, name: str, task: Task | None, advice: Advice) -> None:
        """Training fed by the loader, with the settings that are advised."""
        work = f"{name} with reading"
        end, chosen = self.budget.share(work), advice.training.get(name)
        if task is None or chosen is None:
            return None
        if chosen.workers is None:
            return self._drop(work, "needs the rate of reading")
        try:
            started = training_run(task, self._new_folder(), chosen.precision, chosen.micro_batch, chosen.workers)
            with started as run:
                found = joint_rate(run, end - time.monotonic(), end)
        except UserError as error:
            return self._drop(work, first_line(error))
        if found is None:
            return self._drop(work, "not enough time; --seconds gives more")
        rate, waiting = found
        self._keep(Row(work, chosen.precision, chosen.micro_batch, chosen.workers, rate, None, waiting))
        return None

    def _new_folder(self) -> Path:
        self._runs += 1
        return self.folder / f"run{self._runs}"


def describe(device: torch.device) -> dict[str, Any]:
    """The machine and the versions."""
    processor = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        named = [
            line.partition(":")[2].strip() for line in cpuinfo.read_text().splitlines() if line.startswith("model name")
        ]
        processor = named[0] if named else processor
    gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else None
    return {
        "device": gpu or device.type, "processor": processor, "cores": num_workers(None, 1) + 1,
        "threads": torch.get_num_threads(), "svfap": svfap.__version__, "torch": torch.__version__,
        "python": platform.python_version(),
    }  # fmt: skip
