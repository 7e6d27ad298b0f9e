"""Functions shared by the benchmarks: timing, alternating measurement, the limits of the machine, and Markdown output."""

from __future__ import annotations

import argparse
import os
import platform
import shlex
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from svfap.bench.measure import BUSY
from svfap.device import PRECISIONS

ADAMW_TRAFFIC = 28  # bytes per float32 parameter: reads weight, gradient and two moments, writes all but the gradient


def add_machine_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options --device, --threads and --quick."""
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--threads", type=int, default=num_cores(), help="threads of the model; default: all cores")
    parser.add_argument("--quick", action="store_true", help="smoke test: tiny models and one round")


def num_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


Clock = Callable[[], float]


def seconds(run: Callable[[], object], device: torch.device, clock: Clock = time.perf_counter) -> float:
    """Wall-clock time of one call, including its work on the device; with time.process_time that of the processor."""
    _wait(device)
    start = clock()
    run()
    _wait(device)
    return clock() - start


def time_alternating(
    runs: Mapping[str, Callable[[], object]], rounds: int, device: torch.device, clock: Clock = time.perf_counter
) -> dict[str, NDArray[np.float64]]:
    """Seconds of each run in each round, shape (rounds,), in the order A B C, C B A, …, after one warm-up call of each."""
    for run in runs.values():
        run()
    taken = {name: np.empty(rounds) for name in runs}
    for number in range(rounds):
        for name in list(runs)[:: 1 if number % 2 == 0 else -1]:
            taken[name][number] = seconds(runs[name], device, clock)
    return taken


def matrix_rate(precision: str, device: torch.device, size: int, repeats: int = 5) -> float:
    """Multiply-adds per second of a product of two `size` × `size` matrices: the best of `repeats`, used as an upper limit."""
    a, b = (torch.randn(size, size, device=device, dtype=PRECISIONS[precision]) for _ in range(2))
    F.linear(a, b)
    return size**3 / min(seconds(lambda: F.linear(a, b), device) for _ in range(repeats))


def memory_rate(device: torch.device, size_bytes: int, repeats: int = 5) -> float:
    """Bytes read and written per second by a copy within the device's memory: the best of `repeats`."""
    source = torch.ones(size_bytes // 4, device=device)
    target = torch.empty_like(source)
    target.copy_(source)
    return 2 * size_bytes / min(seconds(lambda: target.copy_(source), device) for _ in range(repeats))


def machine(device: torch.device) -> list[str]:
    """Markdown lines that describe the command, the machine and the versions."""
    lines = [
        f"- command: `{shlex.join(['python', *sys.argv])}`",
        f"- processor: {_processor()}, {num_cores()} cores, {torch.get_num_threads()} threads, "
        f"kernels for {torch.backends.cpu.get_cpu_capability()}",
        f"- Python {platform.python_version()}, torch {torch.__version__}, "
        f"float32 products in precision {torch.get_float32_matmul_precision()!r}",
    ]
    if device.type == "cuda":
        lines.insert(1, f"- GPU: {torch.cuda.get_device_name(device)}, CUDA {torch.version.cuda}")
    if (busy := os.getloadavg()[0]) > BUSY * num_cores():
        lines.append(f"- **the machine was busy: load {busy:.1f} at the start; measure again on an idle machine**")
    return lines


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; the first column is left-aligned, the others right-aligned."""
    ruler = ["---", *["---:"] * (len(header) - 1)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (header, ruler, *rows))


def ratio(taken: NDArray[np.float64], reference: NDArray[np.float64]) -> str:
    """Median and range of the ratios per round."""
    ratios = taken / reference
    return f"{np.median(ratios):.2f} ({ratios.min():.2f} to {ratios.max():.2f})"


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    names = [line for line in cpuinfo.read_text().splitlines() if "model name" in line] if cpuinfo.exists() else []
    return names[0].split(":")[1].strip() if names else platform.processor() or platform.machine()
