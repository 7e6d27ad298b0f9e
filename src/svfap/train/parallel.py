"""Several runs at once, each in a process of its own with a GPU of its own."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess

from svfap.console import console, progress_bar
from svfap.errors import UserError
from svfap.files import make_folder
from svfap.train.config import TrainConfig

INTERRUPTED = 130
Run = Callable[..., bool]


def visible_gpus() -> list[str]:
    """Names for CUDA_VISIBLE_DEVICES, of the GPUs that this process may use."""
    import torch

    count = torch.cuda.device_count()
    allowed = os.environ.get("CUDA_VISIBLE_DEVICES")
    return [name.strip() for name in allowed.split(",")][:count] if allowed else [str(n) for n in range(count)]


def run_side_by_side(run: Run, configs: Sequence[TrainConfig], at_once: int, gpus: Sequence[str]) -> bool:
    """Call `run(config)` for each config in a process of its own, `at_once` at a time, the GPUs dealt out in turn.

    run: a function of a module, which returns False if it was interrupted. What it prints goes to `output.log` in the
    config's `out`. Returns False if interrupted (Ctrl-C, SIGTERM), once every run has saved. The first run that fails stops
    the others likewise, and raises `UserError` with its reason.
    """
    waiting, running = list(configs), dict[int, tuple[TrainConfig, BaseProcess]]()
    shared = {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS") or str(max((os.cpu_count() or 1) // at_once, 1))}
    with progress_bar() as bar, _sigterm_as_interrupt():
        bars = {c.out: bar.add_task(c.out.name, total=c.epochs, note="waits") for c in configs}
        try:
            while waiting or running:
                for slot in range(at_once):
                    if waiting and slot not in running:
                        gpu = {"CUDA_VISIBLE_DEVICES": gpus[slot % len(gpus)]} if gpus else {}
                        running[slot] = (waiting[0], _start(run, waiting.pop(0), {**shared, **gpu}))
                wait([process.sentinel for _, process in running.values()], timeout=1)
                for slot, (config, process) in list(running.items()):
                    epochs, note = _progress(config)
                    bar.update(bars[config.out], completed=epochs, note=note)
                    if process.exitcode is not None:
                        del running[slot]
                        _check(config, process.exitcode)
                        bar.update(bars[config.out], completed=config.epochs, note="done")
        except KeyboardInterrupt:
            console.print("stopping: waiting for the runs to save")
            return False
        finally:
            for _, process in running.values():
                process.terminate()  # a training run saves first; being asked twice changes nothing
            for _, process in running.values():
                process.join()
    return True


@contextlib.contextmanager
def _sigterm_as_interrupt() -> Iterator[None]:
    """So that processes started here do not outlive this one unasked."""
    try:
        former = signal.signal(signal.SIGTERM, signal.default_int_handler)
    except ValueError:  # not the main thread: signals are somebody else's
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, former)


def _start(run: Run, config: TrainConfig, environment: Mapping[str, str]) -> BaseProcess:
    method = multiprocessing.get_start_method()
    spawn = multiprocessing.get_context("spawn")
    process = spawn.Process(target=_in_process, args=(run, config, method), name=config.out.name)
    before = dict(os.environ)
    os.environ.update(environment)  # a spawned process reads it before it imports torch
    try:
        process.start()
    finally:
        for name in environment.keys() - before.keys():
            del os.environ[name]
        os.environ.update(before)
    return process


def _in_process(run: Run, config: TrainConfig, method: str) -> None:
    """Exit status 0: finished; `INTERRUPTED`; 1: failed, and the reason is the last line of output.log."""
    # A spawned process would spawn its decoding processes too, which takes seconds in every epoch.
    multiprocessing.set_start_method(method, force=True)
    make_folder(config.out)
    log = os.open(config.out / "output.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    for stream in (1, 2):
        os.dup2(log, stream)
    try:
        status = 0 if run(config) else INTERRUPTED
    except KeyboardInterrupt:
        status = INTERRUPTED
    except UserError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        status = 1
    sys.exit(status)


def _check(config: TrainConfig, status: int) -> None:
    if status == INTERRUPTED:
        raise KeyboardInterrupt
    if status == 0:
        return
    log = config.out / "output.log"
    lines = log.read_text().splitlines() if log.exists() else []
    reason = f"killed by signal {-status}" if status < 0 else lines[-1].removeprefix("error: ") if lines else "failed"
    raise UserError(
        f"{config.out.name}: {reason} (all that it printed: {log}). Other runs were stopped and saved; --resume goes on"
    )


def _progress(config: TrainConfig) -> tuple[float, str]:
    """Epochs that a run has done and its last loss, from the end of its log."""
    try:
        with (config.out / "log.jsonl").open("rb") as file:
            file.seek(-min(4000, file.seek(0, os.SEEK_END)), os.SEEK_END)
            lines = [json.loads(line) for line in file.read().split(b"\n") if line[:1] == b"{" and line[-1:] == b"}"]
    except (OSError, ValueError):
        return 0, "starts"
    epochs = max((line["epoch"] + (line["kind"] == "val") for line in lines), default=0)
    return epochs, next((f"loss {line['loss']:.4f}" for line in reversed(lines) if "loss" in line), "")
