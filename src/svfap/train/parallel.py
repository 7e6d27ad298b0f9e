"""Several training runs, one after another or in parallel, each in a separate process with its own GPU."""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from svfap.console import progress_bar, say
from svfap.errors import Interrupted, UserError
from svfap.evaluation.config import LOG_FILE
from svfap.files import make_folder
from svfap.signals import STOP_SIGNALS, interrupt, signal_handlers, signal_of

POLL_S = 0.2


class Run(Protocol):
    """The settings of a run, a dataclass: a training, or other work that takes as long as one.

    out: its folder. epochs: what a display of progress counts. num_workers: decoding processes; None: chosen here.
    """

    @property
    def out(self) -> Path: ...
    @property
    def epochs(self) -> int: ...
    @property
    def num_workers(self) -> int | None: ...


def visible_gpus() -> list[str]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    import torch

    count = torch.cuda.device_count()
    allowed = os.environ.get("CUDA_VISIBLE_DEVICES")
    return [name.strip() for name in allowed.split(",")][:count] if allowed else [str(n) for n in range(count)]


def num_workers(asked: int | None, num_processes: int) -> int:
    """Decoding processes of one training process; default: its share of the cores, less one."""
    if asked is not None:
        return asked
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(cores // num_processes - 1, 0)


def run_all(run: Callable[[Any], int], configs: Sequence[Run], parallel: int | None = None) -> int:
    """Call `run(config)` for each config, `parallel` at a time, by default one per GPU; in this process if that is 1.

    run, result, errors: as for `run_parallel`.
    """
    gpus = visible_gpus()
    parallel = min(parallel or max(len(gpus), 1), len(configs))
    workers = [num_workers(config.num_workers, parallel) for config in configs]
    configs = [replace(config, num_workers=n) for config, n in zip(configs, workers, strict=True)]  # type: ignore[type-var]
    if parallel > 1:
        return run_parallel(run, configs, parallel, gpus)
    try:
        for number, config in enumerate(configs, 1):
            if len(configs) > 1:
                say(f"run {number} of {len(configs)}: {config.out}")
            if stopped_by := run(config):
                return stopped_by
    except KeyboardInterrupt as interrupt:
        return signal_of(interrupt)
    return 0


def run_parallel(run: Callable[[Any], int], configs: Sequence[Run], at_once: int, gpus: Sequence[str]) -> int:
    """Call `run(config)` for each config in a separate process, `at_once` at a time; GPUs are assigned in turn.

    run: a function of a module, which returns the number of the signal that interrupted it, else 0. Its output is appended
    to `output.log` in `config.out`. Returns the number of the signal that interrupted this process (Ctrl-C, SIGTERM, SIGHUP)
    or one of the runs, after all runs have saved, else 0. If a run fails, the others are stopped and save as well; raises
    `UserError` with the reason.
    """
    waiting, running = list(configs), dict[int, tuple[Run, subprocess.Popen[bytes]]]()
    threads = os.environ.get("OMP_NUM_THREADS") or str(max((os.cpu_count() or 1) // at_once, 1))
    # Every signal becomes an exception, so that the processes started here are stopped too.
    with progress_bar() as bar, signal_handlers(interrupt, *STOP_SIGNALS):
        bar_ids = {c.out: bar.add_task(c.out.name, start=False, total=c.epochs, note="waits") for c in configs}
        try:
            while waiting or running:
                for slot in range(at_once):
                    if waiting and slot not in running:
                        environment = {"OMP_NUM_THREADS": threads}
                        if gpus:
                            environment["CUDA_VISIBLE_DEVICES"] = gpus[slot % len(gpus)]
                        config = waiting.pop(0)
                        bar.update(bar_ids[config.out], completed=_progress(config)[0], note="starts")
                        bar.start_task(bar_ids[config.out])  # the time that is left counts from here
                        running[slot] = (config, _start(run, config, environment))
                time.sleep(POLL_S)
                for slot, (config, process) in list(running.items()):
                    epochs, note = _progress(config)
                    bar.update(bar_ids[config.out], completed=epochs, note=note)
                    if process.poll() is not None:
                        process.communicate()  # closes its standard input
                        del running[slot]
                        _check(config, process.returncode)
                        bar.update(bar_ids[config.out], completed=config.epochs, note="done")
        except KeyboardInterrupt as error:
            say("stopping: waiting for the runs to save")
            return signal_of(error)
        finally:
            for _, process in running.values():
                process.terminate()  # a training run saves first; a second signal has no effect
            for _, process in running.values():
                process.communicate()
    return 0


def _start(run: Callable[[Any], int], config: Run, environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
    make_folder(config.out)
    path = os.pathsep.join(filter(None, sys.path))  # the run can import the same modules
    with (config.out / "output.log").open("ab") as log:
        command = [sys.executable, "-P", "-u", "-m", __name__]
        variables = {**os.environ, **environment, "PYTHONPATH": path}
        process = subprocess.Popen(command, env=variables, stdin=subprocess.PIPE, stdout=log, stderr=subprocess.STDOUT)
    assert process.stdin is not None
    with contextlib.suppress(BrokenPipeError):  # it has ended already; its exit status says why
        process.stdin.write(pickle.dumps((run, config)))
        process.stdin.flush()  # and stays open, as the run stops when it is closed
    return process


def _main() -> int:
    """A run's process. Exit status: 0, 128 + number of a signal (interrupted and saved), or 1 (the last line says why)."""
    try:
        run, config = pickle.load(sys.stdin.buffer)
        threading.Thread(target=_stop_with_parent, daemon=True).start()
        return 128 + stopped_by if (stopped_by := run(config)) else 0
    except KeyboardInterrupt as error:
        return 128 + signal_of(error)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def _stop_with_parent() -> None:
    """Let this run save and stop when the process that started it is killed."""
    while os.read(sys.stdin.fileno(), 1):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


def _check(config: Run, status: int) -> None:
    if status > 128:
        raise Interrupted(status - 128)
    if status == 0:
        return
    log = config.out / "output.log"
    lines = log.read_text().splitlines() if log.exists() else []
    reason = f"killed by signal {-status}" if status < 0 else lines[-1].removeprefix("error: ") if lines else "failed"
    others = "Other runs were stopped and saved; --resume goes on"
    raise UserError(f"{config.out.name}: {reason} (all that it printed: {log}). {others}")


def _progress(config: Run) -> tuple[float, str]:
    """Epochs that a run has done and its last loss, from the end of its log."""
    try:
        with (config.out / LOG_FILE).open("rb") as file:
            file.seek(-min(4000, file.seek(0, os.SEEK_END)), os.SEEK_END)
            lines = [json.loads(line) for line in file.read().split(b"\n") if line[:1] == b"{" and line[-1:] == b"}"]
    except (OSError, ValueError):
        return 0, "starts"
    epochs = max((line["epoch"] - (line["kind"] != "val") for line in lines), default=0)
    losses = (line["loss"] for line in reversed(lines) if line.get("loss") is not None)
    return epochs, next((f"loss {loss:.4f}" for loss in losses), "")


if __name__ == "__main__":
    sys.exit(_main())
