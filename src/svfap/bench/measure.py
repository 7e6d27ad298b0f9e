"""Measuring: rates with their spread, and memory."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch

from svfap.device import proc_bytes

LEAST, MOST = 3, 20  # times that each rate is measured
BUSY = 0.3  # load of each core before the start from which the machine was busy
BLOCK_S = 0.2  # least time between two readings of the clock, as a GPU is waited for at each


@dataclass(frozen=True)
class Rate:
    """Clips per second, measured several times, each over other steps or batches."""

    each: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.each)

    def __str__(self) -> str:
        spread = f"{shown(min(self.each))} to {shown(max(self.each))}" if len(self.each) > 1 else "once"
        return f"{shown(self.median)} ({spread})"


def shown(rate: float) -> str:
    """A rate with three digits, or as a whole number."""
    return f"{rate:,.0f}" if rate >= 999.5 else f"{rate:.3g}"


@dataclass(frozen=True)
class Row:
    """One measured number.

    work: pretrain, finetune, predict (steps or forward passes on the device alone); read for pretrain, read for finetune (the
    loader alone); pretrain with reading, finetune with reading (both together). batch: clips that are processed at a time.
    workers: processes that decode, 0 if nothing is read. memory_bytes: the peak, of the GPU or else of this process, None where
    it cannot be measured. waiting: fraction of the time spent waiting for the loader.
    """

    work: str
    precision: str | None
    batch: int
    workers: int
    rate: Rate
    memory_bytes: int | None = None
    waiting: float | None = None


@dataclass(frozen=True)
class Dropped:
    """What was not measured, and why."""

    what: str
    reason: str


def rate_of(
    step: Callable[[], object], clips: int, device: torch.device, seconds: float, end: float
) -> tuple[Rate, float]:
    """The rate of a step of so many clips, and the seconds of a step. A first step has been done, which is slower.

    seconds: how long to measure, at least `LEAST` times; end: no more than once if it is later than that.
    """

    def timed(steps: int) -> float:
        began = time.perf_counter()
        for _ in range(steps):
            step()
        finish(device)
        return (time.perf_counter() - began) / steps

    began = time.monotonic()
    taken = [timed(1)]
    steps = max(round(min(BLOCK_S, seconds / LEAST) / max(taken[0], 1e-6)), 1)
    taken = taken if steps == 1 else [timed(steps)]
    while time.monotonic() < end and len(taken) < MOST:
        if len(taken) >= LEAST and time.monotonic() > began + seconds:
            break
        taken.append(timed(steps))
    return Rate(tuple(clips / each for each in taken)), statistics.median(taken)


def finish(device: torch.device) -> None:
    """Wait until the device has done what it was asked for."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def forget_peak(device: torch.device) -> None:
    """Begin to measure the peak of memory."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    else:
        with suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")


def held_bytes() -> int:
    """The main memory that this process has now; 0 where it is not known."""
    return proc_bytes("/proc/self/status", "VmRSS") or 0


def free_bytes() -> int | None:
    """The main memory that this process may still take, within the limit of its container; None where it is not known."""
    free = proc_bytes("/proc/meminfo", "MemAvailable")
    group = Path("/sys/fs/cgroup")
    with suppress(OSError, ValueError):  # no container, or one without a limit
        limit = int((group / "memory.max").read_text()) - int((group / "memory.current").read_text())
        free = limit if free is None else min(free, limit)
    return free


def load() -> float | None:
    """Processes that are running or waiting to, on average over the last minute; None where it is not known."""
    return round(os.getloadavg()[0], 1) if hasattr(os, "getloadavg") else None
