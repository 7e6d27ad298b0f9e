"""Runs of several processes on several machines: a lost machine, shared folders, other numbers of processes."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from small_runs import log, pretraining

import svfap
from svfap.cli.main import main
from svfap.errors import UserError
from svfap.files import only_writer
from svfap.train import loop, processes, run_folder
from svfap.train.pretrain import pretrain
from svfap.train.run_folder import RunFolder

QUICK = ["--preset", "svfap_debug", "--sampling_stride", "1", "--precision", "fp32", "--num_workers", "0"]
STEPS = ["--epochs", "6", "--warmup_epochs", "0.5", "--batch_size", "4", "--base_lr", "0.2", "--save_every_steps", "3"]

# two machines ----------------------------------------------------------------------------------------------------------


@dataclass
class Node:
    """A machine of a cluster: torchrun and the training process that it starts, in `agent`."""

    agent: subprocess.Popen
    output: Path

    def kill(self) -> None:
        """End both at once, as when a machine loses power."""
        listed = subprocess.run(["ps", "-o", "pid=", "--ppid", str(self.agent.pid)], capture_output=True, text=True)
        for number in (self.agent.pid, *map(int, listed.stdout.split())):
            os.kill(number, signal.SIGKILL)
        self.agent.wait()


class Cluster:
    """Two machines that train one run, with the command of docs/cluster.md."""

    def __init__(self, faces: Path, out: Path) -> None:
        self.faces, self.out = faces, out
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.nodes: list[Node] = []

    def start(self, number: int) -> Node:
        """Start machine 0, where the others meet, or 1."""
        command = [
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--nnodes=2",
            "--nproc-per-node=1",
            "--max-restarts=3",
        ]
        command += ["--rdzv-backend=c10d", f"--rdzv-endpoint=127.0.0.1:{self.port}", "--rdzv-id=run"]
        command += [f"--rdzv-conf=is_host={number == 0}", "--local-addr=127.0.0.1", "--monitor-interval=0.1"]
        command += ["-m", "svfap", "pretrain", "--manifest", str(self.faces / "pretrain.csv"), "--out", str(self.out)]
        command += [*QUICK, *STEPS, "--resume"]
        variables = dict(OMP_NUM_THREADS="1", CUDA_VISIBLE_DEVICES="", TORCH_DISABLE_SHARE_RDZV_TCP_STORE="1")
        output = self.out.with_name(f"{self.out.name}.{len(self.nodes)}.txt")
        with output.open("wb") as file:
            agent = subprocess.Popen(command, env={**os.environ, **variables}, stdout=file, stderr=subprocess.STDOUT)
        self.nodes.append(Node(agent, output))
        return self.nodes[-1]

    def __enter__(self) -> Cluster:
        return self

    def __exit__(self, *error: object) -> None:
        for node in self.nodes:
            if node.agent.poll() is None:
                node.kill()

    def finish(self, *nodes: Node) -> None:
        for node in nodes:
            assert node.agent.wait(timeout=300) == 0, node.output.read_text()[-3000:]

    def wait_for_step(self, step: int) -> None:
        deadline = time.monotonic() + 300
        while not (file := self.out / "log.jsonl").exists() or file.read_text().count('"train"') < step:
            assert time.monotonic() < deadline and all(node.agent.poll() is None for node in self.nodes)
            time.sleep(0.05)


@pytest.fixture(scope="module")
def unbroken(faces, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("cluster") / "unbroken"
    with Cluster(faces, out) as cluster:
        cluster.finish(cluster.start(0), cluster.start(1))
    return out


def check_same_run(broken: Path, unbroken: Path) -> None:
    """Losses, gradient norms, learning rates and weights are equal to the last bit."""
    assert len(log(unbroken)) == 24
    assert [json.loads(line) for line in (broken / "log.jsonl").read_text().splitlines()] == [
        json.loads(line) for line in (unbroken / "log.jsonl").read_text().splitlines()
    ]
    weights, expected = (svfap.load_model(run / "best").state_dict() for run in (broken, unbroken))
    assert all(torch.equal(weights[name], expected[name]) for name in expected)


@pytest.mark.slow
def test_a_machine_is_killed_and_comes_back(faces, unbroken, tmp_path):
    with Cluster(faces, tmp_path / "broken") as cluster:
        survivor, lost = cluster.start(0), cluster.start(1)
        cluster.wait_for_step(8)
        lost.kill()
        cluster.nodes.remove(lost)
        cluster.finish(survivor, cluster.start(1))
    check_same_run(tmp_path / "broken", unbroken)
    output = survivor.output.read_text()
    assert output.count("another process of this run has ended or cannot be reached (") == 1
    assert "Traceback" not in output


@pytest.mark.slow
def test_the_machine_where_the_others_meet_is_killed_and_all_are_started_again(faces, unbroken, tmp_path):
    with Cluster(faces, tmp_path / "broken") as cluster:
        lost, other = cluster.start(0), cluster.start(1)
        cluster.wait_for_step(8)
        lost.kill()
        assert other.agent.wait(timeout=100) != 0  # which a job's manager takes as a sign to start it again
        cluster.nodes.clear()
        cluster.finish(cluster.start(0), cluster.start(1))
    check_same_run(tmp_path / "broken", unbroken)


# what several processes share -----------------------------------------------------------------------------------------


def test_a_lock_of_a_process_that_is_about_to_end_is_waited_for_under_torchrun(tmp_path, monkeypatch, capsys):
    first = only_writer(tmp_path / "run")
    first.__enter__()
    with pytest.raises(UserError, match="is being written by another run"), processes.one_run(tmp_path / "run"):
        pass
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "run")
    timer = threading.Timer(0.3, first.__exit__, (None, None, None))
    timer.start()
    with processes.one_run(tmp_path / "run"):
        timer.join()
        monkeypatch.setattr(processes, "STALE_S", 0.0)
        with pytest.raises(UserError, match="is being written by another run"), processes.one_run(tmp_path / "run"):
            pass
        monkeypatch.setenv("RANK", "1")
        with processes.one_run(tmp_path / "run"):
            pass
    assert capsys.readouterr().err.count("waiting up to 120 s for its end") == 1


class Second:
    """What `state_of_all` needs of the accelerator of the second of two processes."""

    num_processes, process_index = 2, 1


def of_two(monkeypatch, first: int) -> None:
    """The first process is at this step."""
    monkeypatch.setattr("accelerate.utils.broadcast_object_list", lambda steps: [first])
    monkeypatch.setattr(run_folder, "STALE_S", 2.0)


def test_a_folder_that_is_not_shared_is_refused(faces, tmp_path, monkeypatch):
    config = pretraining(faces, tmp_path / "run")
    folder = RunFolder(config)
    of_two(monkeypatch, first=0)
    monkeypatch.setattr(run_folder, "STALE_S", 0.0)
    with pytest.raises(
        UserError, match="process 1 sees none there, and the first process step 0; all machines must share"
    ):
        folder.state_of_all(Second())
    of_two(monkeypatch, first=6)
    (folder.path / "last").mkdir(parents=True)
    (folder.last / "state.json").write_text('{"step": 3}')
    monkeypatch.setattr(run_folder, "STALE_S", 0.0)
    with pytest.raises(UserError, match="process 1 sees step 3 there, and the first process step 6"):
        folder.state_of_all(Second())


def test_a_checkpoint_that_is_not_seen_yet_is_waited_for(faces, tmp_path, monkeypatch):
    folder = RunFolder(pretraining(faces, tmp_path / "run"))
    of_two(monkeypatch, first=6)
    folder.last.mkdir(parents=True)
    (folder.last / "state.json").write_text('{"step": 3}')
    timer = threading.Timer(0.2, lambda: (folder.last / "state.json").write_text('{"step": 6}'))
    timer.start()
    assert folder.state_of_all(Second()).step == 6


def test_another_number_of_processes_is_said_when_resuming(faces, tmp_path, monkeypatch, capsys):
    pretrain(pretraining(faces, tmp_path / "run", epochs=1))
    state = tmp_path / "run" / "last" / "state.json"
    assert json.loads(state.read_text())["num_processes"] == 1
    pretrain(pretraining(faces, tmp_path / "run", epochs=1, resume=True))
    assert "process(es), and this run has" not in capsys.readouterr().err
    state.write_text(json.dumps({**json.loads(state.read_text()), "num_processes": 4}))
    pretrain(pretraining(faces, tmp_path / "run", epochs=1, resume=True))
    assert "the checkpoint is of 4 process(es), and this run has 1: each step has" in capsys.readouterr().err


def test_loader_workers_are_a_share_of_the_cores_of_one_machine(faces, tmp_path, monkeypatch):
    shares = []
    monkeypatch.setattr(loop, "num_workers", lambda asked, processes: shares.append(processes) or 0)
    for here in ("1", "8"):
        monkeypatch.setenv("LOCAL_WORLD_SIZE", here)
        pretrain(pretraining(faces, tmp_path / here, epochs=1, num_workers=None))
    assert shares == [1, 8]


def test_a_lost_process_is_one_line(monkeypatch):
    gloo = "[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:553] Connection closed by peer [10.0.0.2]:5. This is"
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    for error in (RuntimeError(gloo), torch.distributed.DistNetworkError("Connection closed by peer [10.0.0.2]:5")):
        with (
            pytest.raises(
                UserError, match=r"has ended or cannot be reached .Connection closed by peer .10\.0\.0\.2.:5.;"
            ),
            processes.lost_process_is_one_line(),
        ):
            raise error
    with pytest.raises(RuntimeError, match="size mismatch"), processes.lost_process_is_one_line():
        raise RuntimeError("size mismatch")
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: False)
    with pytest.raises(RuntimeError, match="gloo"), processes.lost_process_is_one_line():
        raise RuntimeError(gloo)


def test_a_process_that_is_lost_while_saving_is_not_taken_for_a_full_disk(faces, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    with pytest.raises(RuntimeError, match="gloo"), RunFolder(pretraining(faces, tmp_path)).writing(tmp_path / "last"):
        raise RuntimeError("[gloo/pair.cc:5] Connection reset by peer")


def test_torchrun_is_told_why_a_process_failed(tmp_path, monkeypatch, capsys):
    file = tmp_path / "error.json"
    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(file))
    assert main(["pretrain", "--manifest", "none.csv", "--out", str(tmp_path / "run")]) == 1
    assert json.loads(file.read_text())["message"] == capsys.readouterr().err.strip().splitlines()[-1]
    monkeypatch.setattr("svfap.cli.main.run_command", lambda *args: SimpleNamespace().missing)
    with pytest.raises(AttributeError):
        main(["pretrain", "--manifest", "none.csv", "--out", str(tmp_path / "run")])
    assert "AttributeError" in json.loads(file.read_text())["message"]
