"""Trackers: what TensorBoard, wandb and MLflow get, resumed runs, and services that cannot be reached."""

from __future__ import annotations

import importlib.util
import json
import os
import socket
import struct
import subprocess
import sys
import threading
import time
import urllib.request
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import pytest
import yaml
from small_runs import finetuning, log, pretraining
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from svfap.cli.main import main
from svfap.errors import UserError
from svfap.train import tracking
from svfap.train.finetune import finetune
from svfap.train.loop import TrainingRun
from svfap.train.pretrain import pretrain
from svfap.train.tracking import SERVICES, _Client

has_wandb = pytest.mark.skipif(importlib.util.find_spec("wandb") is None, reason="wandb is not installed")
has_mlflow = pytest.mark.skipif(importlib.util.find_spec("mlflow") is None, reason="mlflow is not installed")


class Fake(_Client):
    """A service within this process. fails: the numbers of the calls of `log` that fail, from 1."""

    name, fix = "wandb", "plug it in"
    fails: ClassVar[set[int]]
    seen: ClassVar[list]
    calls: ClassVar[list]
    down = False

    def start(self):
        self.seen.append(("start", dict(self.before), self.project, self.run_name, threading.get_ident()))
        if self.down:
            raise ConnectionError("nobody answers\nat all")
        return {"id": "r1"}

    def log(self, record):
        self.calls.append(record)
        if len(self.calls) in self.fails:
            raise ConnectionError("gone")
        self.seen.append(("log", record, threading.get_ident()))

    def finish(self, outcome):
        self.seen.append(("finish", outcome, threading.get_ident()))


@pytest.fixture
def fake(monkeypatch):
    """A service in place of wandb; `seen` has what it was told."""
    one = type("One", (Fake,), {"seen": [], "calls": [], "fails": set(), "down": False})
    monkeypatch.setitem(SERVICES, "wandb", one)
    monkeypatch.setattr(tracking, "require_trackers", lambda names: None)
    monkeypatch.setattr("svfap.train.resolve.require_trackers", lambda names: None)
    monkeypatch.setattr(tracking, "RETRY_S", 0.0)
    return one


def records(one) -> list:
    return [record for kind, record, *_ in one.seen if kind == "log"]


def stop_at(monkeypatch, step: int) -> None:
    """A run that is stopped after so many steps."""
    real = TrainingRun._step

    def stopping(self, micro, epoch, stop):
        if self.state.step + 1 == step:
            stop.number = 15
        return real(self, micro, epoch, stop)

    monkeypatch.setattr(TrainingRun, "_step", stopping)


def test_a_service_gets_all_of_the_log_with_pictures_in_one_thread(fake, faces, tmp_path):
    out = tmp_path / "runs" / "a"
    pretrain(pretraining(faces, out, epochs=2, previews=2, track=["wandb"], track_project="faces"))
    (_, before, project, name, thread), *_, (end, outcome, _) = fake.seen
    assert (before, project, name, end, outcome) == ({}, "faces", "runs/a", "finish", "finished")
    assert {entry[-1] for entry in fake.seen} == {thread} != {threading.get_ident()}
    told = [(record.step, record.numbers["train/loss"]) for record in records(fake) if "train/loss" in record.numbers]
    assert told == [(line["step"], line["loss"]) for line in log(out)]
    pictures = [(record.step, record.pictures["reconstruction"]) for record in records(fake) if record.pictures]
    assert [step for step, _ in pictures] == [4, 8] and pictures[0][1].shape == (3 * 32, 2 * 32, 3)
    speeds = [record.numbers for record in records(fake) if "performance/clips_per_s" in record.numbers]
    assert len(speeds) == 2 and all(0.01 < each["performance/peak_memory_gb"] < 100 for each in speeds)
    assert not (out / "tensorboard").exists()


def test_scores_of_validation_and_the_best_are_tracked(fake, faces, tmp_path):
    finetune(finetuning(faces, tmp_path / "a", track="tensorboard,wandb"))
    best = [record.numbers["best/uar"] for record in records(fake) if "best/uar" in record.numbers]
    scores = [line["uar"] for line in log(tmp_path / "a", "val")]
    assert best == [max(scores[:1]), max(scores)]
    events = EventAccumulator(str(tmp_path / "a" / "tensorboard")).Reload()
    assert {"train/grad_norm", "val/uar", "best/uar", "performance/clips_per_s"} <= set(events.Tags()["scalars"])
    (config,) = events.Tensors("config/text_summary")
    assert "layer_decay: 0.75" in config.tensor_proto.string_val[0].decode()


def test_a_resumed_run_goes_on_in_the_same_run_of_the_service(fake, faces, tmp_path, monkeypatch):
    config = pretraining(faces, tmp_path / "a", epochs=2, previews=0, track=["wandb"])
    with monkeypatch.context() as patch:
        stop_at(patch, 5)
        assert pretrain(config).step == 5
    assert fake.seen[-1][1] == "interrupted"
    assert json.loads((tmp_path / "a" / "tracking.json").read_text())["wandb"] == {"id": "r1"}
    assert pretrain(replace(config, resume=True)).finished
    assert [entry[1] for entry in fake.seen if entry[0] == "start"] == [{}, {"id": "r1"}]
    steps = [record.step for record in records(fake) if "train/loss" in record.numbers]
    assert steps == list(range(1, 9))
    pretrain(replace(config, resume=True))  # is finished: nothing is begun again
    assert len([entry for entry in fake.seen if entry[0] == "start"]) == 2


def test_a_resumed_run_may_have_other_trackers_but_not_another_project(fake, faces, tmp_path):
    config = pretraining(faces, tmp_path / "a", epochs=1, previews=0, track=[])
    pretrain(config)
    assert not (tmp_path / "a" / "tracking.json").exists()
    assert pretrain(replace(config, track=["wandb"], resume=True)).finished
    with pytest.raises(UserError, match="track_project: None then, other now"):
        pretrain(replace(config, track_project="other", resume=True))


def test_a_service_that_cannot_be_reached_ends_the_run_before_it_begins(fake, faces, tmp_path):
    fake.down = True
    with pytest.raises(UserError, match="track=wandb: cannot be started .nobody answers.; plug it in"):
        pretrain(pretraining(faces, tmp_path / "a", track=["wandb"]))
    assert not (tmp_path / "a" / "log.jsonl").exists() and not (tmp_path / "a" / "last").exists()
    assert "cannot be started" in (tmp_path / "a" / "failed.txt").read_text()
    fake.down = False
    assert pretrain(pretraining(faces, tmp_path / "a", epochs=1, track=["wandb"])).finished
    assert not (tmp_path / "a" / "failed.txt").exists()


def test_a_service_that_is_lost_for_a_while_gets_all_of_it_later(fake, faces, tmp_path, capsys):
    fake.fails = {3, 4, 5}
    assert pretrain(pretraining(faces, tmp_path / "a", epochs=2, previews=0, track=["wandb"])).finished
    steps = [record.step for record in records(fake) if "train/loss" in record.numbers]
    assert steps == list(range(1, 9))
    said = " ".join(capsys.readouterr().err.split())
    assert said.count("warning: wandb does not take the log (gone); training goes on") == 1
    assert "wandb takes the log again" in said


def test_a_service_that_is_lost_for_good_is_said_and_the_run_is_whole(fake, faces, tmp_path, capsys):
    fake.fails = set(range(3, 1000))
    assert pretrain(pretraining(faces, tmp_path / "a", epochs=2, previews=0, track=["wandb"])).finished
    assert "what comes from step 3 on is missing there; log.jsonl has all numbers" in " ".join(
        capsys.readouterr().err.split()
    )
    assert [line["step"] for line in log(tmp_path / "a")] == list(range(1, 9))


def test_a_service_that_hangs_does_not_keep_the_run(fake, faces, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(tracking, "CLOSE_S", 0.2)
    monkeypatch.setattr(fake, "finish", lambda self, outcome: time.sleep(30))
    began = time.monotonic()
    assert pretrain(pretraining(faces, tmp_path / "a", epochs=1, previews=0, track=["wandb"])).finished
    assert time.monotonic() - began < 25
    assert "did not end within 0.2 s and is given up" in capsys.readouterr().err


def test_a_tracker_that_is_not_installed_names_its_extra(faces, tmp_path, capsys, monkeypatch):
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name in SERVICES else real(name))
    words = ["--manifest", str(faces / "train.csv"), "--preset", "svfap_debug", "--out", str(tmp_path / "a")]
    assert main(["finetune", *words, "--track", "tensorboard", "mlflow"]) == 1
    assert (
        "--track=mlflow: needs the package mlflow; install it with pip install 'svfap[mlflow]'"
        in capsys.readouterr().err
    )
    with pytest.raises(UserError, match="track='comet' is none of tensorboard, wandb, mlflow"):
        finetuning(faces, tmp_path / "a", track=["comet"])


# the real libraries ---------------------------------------------------------------------------------------------------

RUN = """
import sys
from svfap.cli.main import main
sys.path.insert(0, {tests!r})
if {stop}:
    from svfap.train.loop import TrainingRun
    real = TrainingRun._step
    def stopping(self, micro, epoch, stop):
        stop.number = 15 if self.state.step + 1 == {stop} else stop.number
        return real(self, micro, epoch, stop)
    TrainingRun._step = stopping
sys.exit(main(sys.argv[1:]))
"""


def command(faces: Path, out: Path, track: str, *words: str, stop: int = 0, **environment: str):
    """`svfap pretrain` in a process of its own, stopped after so many steps."""
    code = RUN.format(tests=str(Path(__file__).parent), stop=stop)
    argv = ["pretrain", "--manifest", str(faces / "pretrain.csv"), "--preset", "svfap_debug", "--epochs", "2"]
    argv += ["--batch_size", "4", "--num_workers", "0", "--precision", "fp32", "--previews", "1", "--out", str(out)]
    return subprocess.run(
        [sys.executable, "-c", code, *argv, "--track", track, *words],
        cwd=out.parent, env={**os.environ, **environment}, capture_output=True, text=True, timeout=300,
    )  # fmt: skip


def wandb_records(content: bytes) -> list[bytes]:
    """The records of a .wandb file, which has the format of LevelDB's logs after a header of 7 bytes."""
    found, place = [b""], 7
    while place + 7 <= len(content):
        if 2**15 - place % 2**15 < 7:  # the rest of a block
            place += 2**15 - place % 2**15
            continue
        length, kind = struct.unpack_from("<HB", content, place + 4)
        found[-1] += content[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # whole, or the last part
            found.append(b"")
    return found[:-1]


@has_wandb
@pytest.mark.slow
def test_wandb_offline(faces, tmp_path):
    from wandb.proto import wandb_internal_pb2

    out = tmp_path / "run"
    done = command(faces, out, "wandb", "--track_project", "p", stop=5, WANDB_MODE="offline")
    assert done.returncode == 128 + 15, done.stderr
    identity = json.loads((out / "tracking.json").read_text())["wandb"]
    done = command(faces, out, "wandb", "--track_project", "p", "--resume", WANDB_MODE="offline")
    assert done.returncode == 0, done.stderr
    assert json.loads((out / "tracking.json").read_text())["wandb"] == identity
    losses, keys, configs, exits = {}, set(), {}, []
    files = sorted(out.glob(f"wandb/offline-run-*/run-{identity['id']}.wandb"))
    assert len(files) == 2
    for file in files:
        for data in wandb_records(file.read_bytes()):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(data)
            row = {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}
            keys |= set(row)
            if "train/loss" in row:
                losses[row["_step"]] = row["train/loss"]
            configs |= {item.key: item.value_json for item in record.run.config.update}
            configs |= {item.key: item.value_json for item in record.config.update}
            exits += [record.exit.exit_code] if record.HasField("exit") else []
    assert losses == {line["step"]: line["loss"] for line in log(out)}
    assert {"train/lr", "train/grad_norm", "performance/clips_per_s"} <= keys
    assert any(key.startswith("reconstruction") for key in keys)
    assert json.loads(configs["batch_size"]) == 4 and exits == [1, 0]
    assert len(list(out.glob("wandb/offline-run-*/files/media/images/reconstruction*.png"))) == 2


def check_mlflow(faces: Path, out: Path, uri: str) -> None:
    """A run that is stopped and resumed is one run of MLflow, with everything."""
    from mlflow import MlflowClient

    environment = dict(MLFLOW_TRACKING_URI=uri, MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL="1")
    done = command(faces, out, "mlflow", stop=5, **environment)
    assert done.returncode == 128 + 15, done.stderr
    identity = json.loads((out / "tracking.json").read_text())["mlflow"]["id"]
    client = MlflowClient(uri)
    assert client.get_run(identity).info.status == "KILLED"
    done = command(faces, out, "mlflow", "--resume", **environment)
    assert done.returncode == 0, done.stderr
    (experiment,) = [each for each in client.search_experiments() if each.name == "svfap"]
    (run,) = client.search_runs([experiment.experiment_id])
    assert (run.info.run_id, run.info.status) == (identity, "FINISHED")
    assert run.info.run_name == f"{out.parent.name}/{out.name}"
    history = client.get_metric_history(identity, "train/loss")
    assert {each.step: each.value for each in history} == {line["step"]: line["loss"] for line in log(out)}
    assert {"train/lr", "train/grad_norm", "performance/clips_per_s"} <= set(run.data.metrics)
    assert any(name.startswith("system/") for name in run.data.metrics), "the use of the machine"
    assert run.data.params["batch_size"] == "4"
    assert "config.yaml" in [each.path for each in client.list_artifacts(identity)]
    assert any("reconstruction" in each.path for each in client.list_artifacts(identity, "images"))


@has_mlflow
@pytest.mark.slow
def test_mlflow_in_a_local_store(faces, tmp_path):
    check_mlflow(faces, tmp_path / "run", f"sqlite:///{tmp_path / 'mlflow.db'}")


@has_mlflow
@pytest.mark.slow
def test_mlflow_with_a_server(faces, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    uri, store = f"http://127.0.0.1:{port}", f"sqlite:///{tmp_path / 'server.db'}"
    words = ["--host", "127.0.0.1", "--port", str(port), "--workers", "1", "--backend-store-uri", store]
    words += ["--artifacts-destination", str(tmp_path / "artifacts")]
    with (tmp_path / "server.log").open("wb") as output:
        server = subprocess.Popen(
            [sys.executable, "-m", "mlflow", "server", *words], stdout=output, stderr=output, start_new_session=True
        )
    try:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            with suppress(OSError), urllib.request.urlopen(f"{uri}/health") as answer:
                if answer.status == 200:
                    break
            assert server.poll() is None, (tmp_path / "server.log").read_text()
            time.sleep(0.5)
        check_mlflow(faces, tmp_path / "run", uri)
    finally:
        os.killpg(server.pid, 15)
        server.wait()
    done = command(faces, tmp_path / "other", "mlflow", MLFLOW_TRACKING_URI=uri)
    assert done.returncode == 1 and "track=mlflow: cannot be started (" in done.stderr, done.stderr
    assert done.stderr.strip().splitlines()[-1].endswith("see to MLFLOW_TRACKING_URI")
    assert not (tmp_path / "other" / "log.jsonl").exists()


@has_mlflow
def test_settings_and_names_as_mlflow_takes_them():
    assert tracking._flat({"a": 1, "model": {"b": 2, "c": {}}}) == {"a": 1, "model.b": 2, "model.c": {}}
    assert tracking._allowed("val/ccc_valence (mean)") == "val/ccc_valence _mean_"


def test_the_config_of_a_run_names_its_trackers(fake, faces, tmp_path):
    pretrain(pretraining(faces, tmp_path / "a", epochs=1, previews=0, track="wandb"))
    assert yaml.safe_load((tmp_path / "a" / "config.yaml").read_text())["track"] == ["wandb"]
