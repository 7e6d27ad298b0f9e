"""The command line in processes forked from that of the tests, which has imported already what takes seconds to import."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from multiprocessing.process import BaseProcess
from pathlib import Path

from accelerate.state import AcceleratorState
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from svfap.cli.main import main

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)


def start(arguments: list[str], output: Path) -> BaseProcess:
    """`svfap ARGUMENTS…`, started, which writes what it prints to a file."""
    process = multiprocessing.get_context("fork").Process(target=_run, args=(arguments, output))
    process.start()
    return process


def under_torchrun(arguments: list[str], processes: int, output: Path) -> None:
    """`torchrun --standalone --nproc-per-node=PROCESSES -m svfap ARGUMENTS…`. Raises where one of them fails."""
    handlers = {number: signal.getsignal(number) for number in SIGNALS}
    try:
        launch = LaunchConfig(
            min_nodes=1, max_nodes=1, nproc_per_node=processes, rdzv_backend="c10d", rdzv_endpoint="localhost:0",
            run_id="tests", local_addr="127.0.0.1", start_method="fork", monitor_interval=0.1, max_restarts=0,
        )  # fmt: skip
        elastic_launch(launch, _run)(arguments, output)
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def _run(arguments: list[str], output: Path) -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in SIGNALS[1:]:
        signal.signal(number, signal.SIG_DFL)
    AcceleratorState._reset_state(reset_partial_state=True)  # of the trainings that the tests did before
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(file, 1)
    os.dup2(file, 2)
    sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", closefd=False)
    sys.exit(main(arguments))
