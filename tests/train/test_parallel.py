"""Runs in processes of their own. This module is imported by each of them, so it imports little."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from svfap.errors import UserError
from svfap.train import parallel
from svfap.train.config import FinetuneConfig
from svfap.train.parallel import num_workers, run_all, run_parallel


def configs(out: Path) -> list[FinetuneConfig]:
    return [FinetuneConfig(out=out / f"fold_{fold}", fold=fold) for fold in "123"]


def fails_in_fold_2(config: FinetuneConfig) -> int:
    """The first run waits to be stopped, the second fails, and the third has no slot before that."""
    print("begun", flush=True)
    if config.fold == "2":
        while not (config.out.parent / "fold_1" / "output.log").exists():
            time.sleep(0.01)
        raise UserError("the disk is full")
    time.sleep(100)
    (config.out / "finished").touch()
    return 0


def test_a_run_that_fails_stops_the_others_and_says_why(tmp_path):
    with pytest.raises(UserError, match=r"fold_2: the disk is full \(all that it printed: .*fold_2/output\.log"):
        run_parallel(fails_in_fold_2, configs(tmp_path), 2, [])
    assert not (tmp_path / "fold_1" / "finished").exists()  # it was not waited for
    assert (tmp_path / "fold_2" / "output.log").read_text() == "begun\nerror: the disk is full\n"
    assert not (tmp_path / "fold_3").exists()


@pytest.mark.parametrize(("cores", "processes", "workers"), [(8, 1, 7), (8, 2, 3), (2, 2, 0), (1, 1, 0), (1, 4, 0)])
def test_decoding_processes_are_a_share_of_the_cores(cores, processes, workers, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(cores)), raising=False)
    assert num_workers(None, processes) == workers
    assert num_workers(5, processes) == 5


def test_each_run_gets_its_share_of_the_cores(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(9)), raising=False)
    workers: list[int | None] = []
    assert run_all(lambda config: workers.append(config.num_workers) or 0, configs(tmp_path), 1) == 0
    assert workers == [8, 8, 8]
    monkeypatch.setattr(parallel, "run_parallel", lambda run, configs, number, gpus: sum(map(run, configs)))
    assert run_all(lambda config: workers.append(config.num_workers) or 0, configs(tmp_path), 3) == 0
    assert workers[3:] == [2, 2, 2]


def is_killed(config: FinetuneConfig) -> int:
    os.kill(os.getpid(), 9)
    return 0


def test_a_run_that_is_killed_is_told(tmp_path):
    with pytest.raises(UserError, match=r"fold_1: killed by signal 9"):
        run_parallel(is_killed, configs(tmp_path)[:1], 1, [])


def is_interrupted(config: FinetuneConfig) -> int:
    return signal.SIGTERM


def test_a_run_that_was_interrupted_ends_all(tmp_path):
    assert run_parallel(is_interrupted, configs(tmp_path), 1, []) == signal.SIGTERM
    assert run_all(is_interrupted, configs(tmp_path), 1) == signal.SIGTERM
    assert not (tmp_path / "fold_2").exists()


def tells_gpu(config: FinetuneConfig) -> int:
    (config.out / "gpu").write_text(os.environ["CUDA_VISIBLE_DEVICES"])
    return 0


def test_gpus_are_dealt_out(tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,7")
    assert run_parallel(tells_gpu, configs(tmp_path), 3, ["4", "7"]) == 0
    assert [(tmp_path / f"fold_{fold}" / "gpu").read_text() for fold in "123"] == ["4", "7", "4"]
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "4,7"


def saves_when_stopped(config: FinetuneConfig) -> int:
    """Training saves after SIGTERM; this writes a file in its place."""
    stops = []
    signal.signal(signal.SIGTERM, lambda *_: stops.append(True))
    (config.out / "started").touch()
    deadline = time.monotonic() + 300
    while not stops and time.monotonic() < deadline:
        time.sleep(0.01)
    (config.out / "saved").write_text(str(bool(stops)))
    return signal.SIGTERM


@pytest.mark.parametrize("how", [signal.SIGTERM, pytest.param(signal.SIGHUP, marks=pytest.mark.slow), signal.SIGKILL])
def test_runs_save_when_the_process_that_started_them_is_stopped_or_killed(tmp_path, how):
    program = (
        "from pathlib import Path\nfrom test_parallel import configs, saves_when_stopped\n"
        "from svfap.train.parallel import run_parallel\n"  # without a main guard, which runs do not need
        f"raise SystemExit(128 + run_parallel(saves_when_stopped, configs(Path({str(tmp_path)!r}))[:2], 2, []))\n"
    )
    (tmp_path / "program.py").write_text(program)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([*sys.path, str(Path(__file__).parent)])}
    process = subprocess.Popen([sys.executable, tmp_path / "program.py"], env=environment)
    folders = [config.out for config in configs(tmp_path)[:2]]
    try:
        wait_for(lambda: all((folder / "started").exists() for folder in folders))
        process.send_signal(how)
        assert process.wait(timeout=60) == (-how if how == signal.SIGKILL else 128 + how)
        wait_for(lambda: all((folder / "saved").exists() for folder in folders))
    finally:
        process.kill()
    wait_for(lambda: all((folder / "saved").read_text() == "True" for folder in folders))


def wait_for(condition) -> None:
    deadline = time.monotonic() + 300
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)
