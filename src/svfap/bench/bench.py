"""`svfap bench`: measure training, prediction and reading on this machine within a given time, and derive settings."""

from __future__ import annotations

import gc
import os
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

import svfap
from svfap.bench.advice import MORE, Advice, Videos, advise
from svfap.bench.config import BenchConfig
from svfap.bench.measure import (
    LEAST,
    Dropped,
    Row,
    finish,
    forget_peak,
    free_bytes,
    held_bytes,
    load,
    rate_of,
)
from svfap.bench.report import write_files
from svfap.bench.result import Benched
from svfap.bench.work import (
    READ_BATCH,
    Made,
    Size,
    forward_of,
    joint_rate,
    make_tasks,
    reading_rate,
    size_of,
    step_of,
    synthetic_manifest,
    training_run,
)
from svfap.console import counted, say
from svfap.data.shared_memory import BATCHES_AHEAD
from svfap.device import peak_bytes, pick_device, pick_precision
from svfap.errors import UserError, first_line
from svfap.train.parallel import num_workers

TRAININGS = ("pretrain", "finetune")
STEPS = ("predict", *TRAININGS)  # in the order in which they are measured, the cheapest first
ORDER = (*TRAININGS, "predict", *(f"read for {name}" for name in TRAININGS), *(f"{n} with reading" for n in TRAININGS))
GAIN = 1.05  # a larger batch has to be faster by this
BATCHES = [2**n for n in range(11)]
FIRST_BATCHES = 2  # of these, before anything else
TRAINING_COST = 4  # a training step takes about so many forward passes
MEMORY_USED = 0.8  # of what is free, at most
CELL_SHARE = 1 / 60  # of the time for each batch size
READING_SHARE, JOINT_SHARE = 0.2, 0.2  # of the time that is left once all is set up

Step = Callable[[], object]


def bench_machine(config: BenchConfig | None = None, began: float | None = None) -> Benched:
    """Measure the training loop, `svfap predict`'s forward pass and the loader, and write the tables into `config.out`.

    Nothing is estimated: what the time or the memory does not allow is listed. Ctrl-C ends the measurements. began: when the
    time began, by `time.monotonic`; None: now. Raises `UserError` for videos that cannot be read, a model that cannot be loaded,
    a device that is not there, and files that exist.
    """
    began, config = time.monotonic() if began is None else began, config or BenchConfig()
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UserError("bench: measures one process; start it without torchrun")
    config.check_files()
    with _on(config.device) as device, TemporaryDirectory(prefix="svfap-bench-") as folder:
        gc.freeze()  # so that collecting the models that were measured takes no time
        try:
            done = _Bench(config, device, Path(folder), began).measure()
        finally:
            gc.unfreeze()
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


@dataclass
class _Sweep:
    """One kind of step with larger and larger batches.

    opened: a block in which a function makes the step of a batch. ended: why there is no larger batch: it gains no more
    ("gain"), or there is no "memory" or no "time".
    """

    work: str
    precision: str
    opened: Callable[[], AbstractContextManager[Callable[[int], Step]]]
    rows: list[Row] = field(default_factory=list)
    step_s: float = 0.0  # of the last batch
    ended: str = ""


class _Bench:
    def __init__(self, config: BenchConfig, device: torch.device, folder: Path, began: float) -> None:
        self.config, self.device, self.folder, self.began = config, device, folder, began
        self.end = began + config.seconds
        self.rows: list[Row] = []
        self.dropped: list[Dropped] = []
        self.notes: list[str] = []
        self._first_s: dict[str, float] = {}  # work -> seconds of a step with one clip
        self._open_s: dict[str, float] = {}  # work -> seconds until it can start
        self._runs = 0

    def measure(self) -> Benched:
        load_before, size = load(), size_of(self.config)
        made = self._tasks(size)
        own = {name: each for name, each in made.items() if each.is_own}
        sweeps = self._sweeps(made)
        left_s = max(self.end - time.monotonic(), 0.0) if self.config.reads else 0.0
        steps_end, reading_s = self.end - JOINT_SHARE * left_s, READING_SHARE * left_s
        videos = {
            name: Videos(each.given, len(each.task.dataset))
            if each.is_own
            else Videos({**each.given, "manifest": "VIDEOS.csv"}, None)
            for name, each in made.items()
        }
        short: set[str] = {f"read for {name}" for name in own}  # reading that lacked time

        def advice(interrupted: bool = False) -> Advice:
            # What has not ended was interrupted.
            cut = [(each.work, each.precision) for each in sweeps if each.ended in ("", "time")]
            return advise(self.config, size, self.rows, [*cut, *((work, None) for work in short)], videos, interrupted)

        try:
            self._grow(sweeps, BATCHES[:FIRST_BATCHES], steps_end - reading_s)
            reading_end = min(time.monotonic() + reading_s, steps_end)
            for number, (name, each) in enumerate(own.items()):
                until = reading_end - (reading_end - time.monotonic()) * (1 - 1 / (len(own) - number))
                if self._read(f"read for {name}", each, until):
                    short.discard(f"read for {name}")
            self._grow(sweeps, BATCHES[FIRST_BATCHES:], steps_end)
            interim = advice()
            for number, (name, each) in enumerate(own.items()):
                self._joint(
                    name, each, interim, self.end - (self.end - time.monotonic()) * (1 - 1 / (len(own) - number))
                )
            interrupted = False
        except KeyboardInterrupt:
            interrupted = True
            self._drop("all that is not in the tables", "interrupted")
        precisions = [None, *precisions_of(self.device)]
        self.rows.sort(key=lambda row: (ORDER.index(row.work), precisions.index(row.precision), row.batch, row.workers))
        machine = {**describe(self.device), "load_before": load_before, "load_after": load()}
        seconds = round(time.monotonic() - self.began, 1)
        found = (tuple(self.rows), tuple(self.dropped), tuple(self.notes))
        return Benched(machine, *found, advice(interrupted), seconds, interrupted)

    def _tasks(self, size: Size) -> dict[str, Made]:
        """The trainings that are possible, on the user's videos or else on a synthetic face."""
        found: dict[str, Made] = {}
        given = make_tasks(self.config, size, None) if self.config.reads else {}
        missing = [name for name in TRAININGS if not isinstance(given.get(name), Made)]
        if self.config.reads and len(missing) == len(TRAININGS):
            raise given[TRAININGS[0]]  # type: ignore[misc]
        others = make_tasks(self.config, size, synthetic_manifest(self.folder, size)) if missing else {}
        for name in TRAININGS:
            task, other = given.get(name), others.get(name)
            if isinstance(task, Made):
                found[name] = task
            elif isinstance(other, Made):
                found[name] = other
                if task is not None:
                    self.notes.append(f"{name}: on a synthetic face, not on your videos ({first_line(task)})")
            else:
                self._drop(name, first_line(other))  # type: ignore[arg-type]
        return found

    def _sweeps(self, made: dict[str, Made]) -> list[_Sweep]:
        sweeps = []
        for work in STEPS:
            each = made.get("finetune" if work == "predict" else work)
            if each is not None:
                opened = self._forward if work == "predict" else self._training
                sweeps += [_Sweep(work, p, partial(opened, each, p)) for p in precisions_of(self.device)]
        return sweeps

    @contextmanager
    def _training(self, made: Made, precision: str) -> Iterator[Callable[[int], Step]]:
        with training_run(made.task, self._new_folder(), precision) as run:
            yield partial(step_of, run, made.item)
        del run
        gc.collect()  # its model refers to itself

    @contextmanager
    def _forward(self, made: Made, precision: str) -> Iterator[Callable[[int], Step]]:
        yield forward_of(made.task.model, made.task.dataset, made.item, self.device, precision)

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

    def _grow(self, sweeps: Sequence[_Sweep], batches: Sequence[int], end: float) -> None:
        """Measure each batch size in all sweeps, before the next larger one in any."""
        for number, batch in enumerate(batches):
            for place, sweep in enumerate(sweeps):
                if sweep.ended:
                    continue
                seconds = self.config.seconds * CELL_SHARE
                if batch in BATCHES[:FIRST_BATCHES]:  # all of them have to find room
                    waiting = len(sweeps) * (len(batches) - number) - place
                    seconds = min(seconds, max(end - time.monotonic(), 0) / waiting / 2)
                sweep.ended = self._measure(sweep, batch, seconds, end)

    def _measure(self, sweep: _Sweep, batch: int, seconds: float, end: float) -> str:
        """Measure one batch size. Returns why there is to be no larger one, if so."""
        work, began = sweep.work, time.monotonic()
        what, left = f"{work}, {sweep.precision}, batch {batch} and more", max(end - began, 0.0)
        guess_s = 2 * sweep.step_s or self._first_s.get(work) or TRAINING_COST * self._first_s.get("predict", 0.0)
        steps = 2 if batch in BATCHES[:FIRST_BATCHES] else 1 + LEAST
        needed_s = self._open_s.get(work, 0.0) + guess_s * steps
        if needed_s > left or not left:
            needed = f"takes some {needed_s:.2g} s, and {left:.2g} s were left" if left else "no time was left"
            self._drop(what, f"{needed}; {MORE}")
            return "time"
        peaks = [row.memory_bytes for row in sweep.rows if row.memory_bytes]
        if self.device.type == "cpu" and peaks and (free := free_bytes()) is not None:
            more = peaks[-1] + 2 * (peaks[-1] - peaks[-2] if len(peaks) > 1 else peaks[-1] / 2) - held_bytes()
            if more > MEMORY_USED * free:
                self._drop(what, f"takes some {more / 1e9:.1f} GB more, and {free / 1e9:.1f} GB are free")
                return "memory"
        forget_peak(self.device)
        try:
            with sweep.opened() as of:
                step = of(batch)
                ready = time.monotonic()
                if work in self._first_s:  # the first time it also imports modules
                    self._open_s[work] = ready - began
                step()  # the first one is slower
                finish(self.device)
                first_s = time.monotonic() - ready
                if time.monotonic() + first_s > end:
                    left = max(end - time.monotonic(), 0.0)
                    self._drop(what, f"its first step took {first_s:.2g} s, and {left:.2g} s were left; {MORE}")
                    return "time"
                rate, sweep.step_s = rate_of(step, batch, self.device, seconds, end)
        except torch.OutOfMemoryError:
            self._drop(what, "does not fit into the GPU's memory")
            return "memory"
        finally:
            self._first_s.setdefault(work, time.monotonic() - began)
        if batch == 1:
            self._first_s[work] = sweep.step_s
        best = max((row.rate.median for row in sweep.rows), default=0.0)
        sweep.rows.append(Row(work, sweep.precision, batch, 0, rate, peak_bytes(self.device)))
        self._keep(sweep.rows[-1])
        if rate.median < GAIN * best or batch == BATCHES[-1]:
            self.notes.append(f"{work}, {sweep.precision}: no batch above {batch}, which gains less than 5%")
            return "gain"
        return ""

    def _read(self, work: str, made: Made, end: float) -> bool:
        """The loader alone, with more and more workers. Returns whether there was time for all numbers of them."""
        cores = num_workers(None, 1) + 1
        counts = sorted({*(2**n for n in range(cores.bit_length()) if 2**n <= cores), cores})
        for number, workers in enumerate(counts):
            left, what = max(end - time.monotonic(), 0.0), f"{work}, {workers} worker{'s' * (workers > 1)}"
            needed_s = made.item_s * READ_BATCH * (BATCHES_AHEAD + LEAST + 1)
            if needed_s > left:
                self._drop(what + " and more", f"takes some {needed_s:.2g} s, and {left:.2g} s were left; {MORE}")
                return False
            try:
                found = reading_rate(made.task.dataset, workers, left / (len(counts) - number) / 2, end)
            except UserError as error:
                self._drop(what, first_line(error))
                return True
            if found is None:
                self._drop(what + " and more", f"not enough time; {MORE}")
                return False
            rate, unreadable = found
            self._keep(Row(work, None, 0, workers, rate))
            if unreadable:
                self.notes.append(f"{what}: {counted(unreadable, 'video')} could not be read")
        return True

    def _joint(self, name: str, made: Made, advice: Advice, end: float) -> None:
        """Training fed by the loader, with the settings that are advised."""
        work, chosen = f"{name} with reading", advice.training.get(name)
        if chosen is None or chosen.workers is None or chosen.read is None:
            return self._drop(work, f"its settings are not known; {MORE}")
        precision, batch, workers = (
            chosen.precision or precisions_of(self.device)[0],
            chosen.micro_batch,
            chosen.workers,
        )
        ahead = batch * (1 + workers * BATCHES_AHEAD) / chosen.read.median
        needed_s, left = ahead + batch * (1 + LEAST) / chosen.step.median, max(end - time.monotonic(), 0.0)
        if needed_s > left:
            return self._drop(work, f"takes some {needed_s:.2g} s, and {left:.2g} s were left; {MORE}")
        try:
            with training_run(made.task, self._new_folder(), precision, batch, workers) as run:
                found = joint_rate(run, (end - time.monotonic()) / 2, end)
        except UserError as error:
            return self._drop(work, first_line(error))
        if found is None:
            return self._drop(work, f"not enough time; {MORE}")
        rate, waiting = found
        self._keep(Row(work, precision, batch, workers, rate, None, waiting))
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
