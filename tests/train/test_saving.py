"""Checkpoints are written beside the training: of the step that asked for them, one at a time, and no failure is lost."""

from __future__ import annotations

import errno
import json
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from small_runs import finetuning, log, pretraining

from svfap.errors import UserError
from svfap.train import loop, saving
from svfap.train.finetune import finetune
from svfap.train.pretrain import pretrain
from svfap.train.saving import BesideTraining, on_host


def steps_logged(out: Path) -> int:
    return len(log(out)) if (out / "log.jsonl").exists() else 0


def wait_for(condition: Any) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_training_goes_on_while_a_checkpoint_of_its_step_is_written(faces, tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "SAVE_EVERY_S", 0.0)
    pretrain(pretraining(faces, tmp_path / "plain", epochs=2, save_every_steps=3))
    real, written, out = saving.save_accelerator_state, [], tmp_path / "slow"

    def slow(folder: str, *args: Any) -> Any:
        if not written:  # the checkpoint of step 3, while the next step is done
            wait_for(lambda: steps_logged(out) >= 4)
        result = real(folder, *args)
        written.append({name: value.clone() for name, value in load_file(Path(folder) / "model.safetensors").items()})
        return result

    monkeypatch.setattr(saving, "save_accelerator_state", slow)
    pretrain(pretraining(faces, out, epochs=2, save_every_steps=3))
    assert len(written) == 4  # steps 3, 4, 6, 8
    at_its_end = load_file(out / "last" / "model.safetensors")
    assert all(torch.equal(value, at_its_end[name]) for name, value in written[-1].items()), "the run waits for its end"
    assert log(out) == log(tmp_path / "plain")
    monkeypatch.undo()
    stopped = tmp_path / "three"
    states = []
    monkeypatch.setattr(
        saving, "save_accelerator_state", lambda folder, *args: states.append(args[0][0]) or real(folder, *args)
    )
    pretrain(pretraining(faces, stopped, epochs=2, save_every_steps=3))
    assert all(torch.equal(value, written[0][name]) for name, value in states[0].items()), "weights of a later step"


def test_there_is_one_write_at_a_time_and_an_error_is_raised_once():
    writes, running, most = BesideTraining(), [], []

    def write() -> None:
        running.append(threading.current_thread())
        most.append(len(running))
        time.sleep(0.02)
        running.pop()

    for _ in range(3):
        writes.start(write)
    writes.wait()
    assert most == [1, 1, 1]

    def failing() -> None:
        raise UserError("no room")

    for method in ("check", "wait"):
        writes.start(failing)
        wait_for(writes._running.done)
        with pytest.raises(UserError, match="no room"):
            getattr(writes, method)()
        writes.check()
    writes.start(failing)
    with pytest.raises(UserError, match="no room"):
        writes.start(write)
    writes.close()


def test_a_failed_write_is_said_beside_another_error(capsys):
    writes = BesideTraining()

    def failing() -> None:
        raise UserError("no room")

    writes.start(failing)
    writes.close()
    assert "no room" in capsys.readouterr().err


def test_a_write_that_fails_stops_the_training_at_the_next_step(faces, tmp_path, monkeypatch):
    failed, out = threading.Event(), tmp_path / "run"

    def full(*args: Any) -> None:
        failed.set()
        raise OSError(errno.ENOSPC, "No space left on device")

    real = saving.BesideTraining.start

    def start(self: BesideTraining, write: Any) -> None:
        real(self, write)
        assert failed.wait(60)
        wait_for(self._running.done)

    monkeypatch.setattr(loop, "STEPS_UNREAD", 1)
    monkeypatch.setattr(saving, "save_accelerator_state", full)
    monkeypatch.setattr(saving.BesideTraining, "start", start)
    with pytest.raises(
        UserError, match="last: cannot be written .No space left on device.; there is no checkpoint yet"
    ):
        pretrain(pretraining(faces, out, save_every_steps=1))
    assert steps_logged(out) == 2
    assert not (out / "last.new").exists()


def test_the_best_model_is_that_of_its_epoch(faces, tmp_path, monkeypatch):
    """It is copied when it is found, and written with the checkpoint that tells of it."""
    real, order = saving.save_accelerator_state, []

    def noting(folder: str, *args: Any) -> Any:
        best = Path(folder).with_name("best") / "model.safetensors"
        order.append(load_file(best) if best.exists() else None)
        return real(folder, *args)

    monkeypatch.setattr(saving, "save_accelerator_state", noting)
    finetune(finetuning(faces, tmp_path / "run", ema_decay=0.9, save_every_steps=3))
    assert order[0] is None and all(state is not None for state in order[1:])  # step 3, then the epoch's end and later
    state = json.loads((tmp_path / "run" / "last" / "state.json").read_text())
    best = load_file(tmp_path / "run" / "best" / "model.safetensors")
    ends = {1: order[1], 2: order[-1]}
    assert all(torch.equal(value, ends[state["best_epoch"]][name]) for name, value in best.items())


def test_copies_on_the_host_are_of_all_tensors_and_of_none_else():
    first = torch.zeros(2, requires_grad=True)
    state = {"state": {0: {"step": first, "betas": (0.9, torch.ones(1))}}, "names": ["a"]}
    copy = on_host(state)
    with torch.no_grad():
        first += 1
    assert copy["state"][0]["step"].tolist() == [0, 0] and not copy["state"][0]["step"].requires_grad
    assert copy["state"][0]["betas"][0] == 0.9 and copy["names"] == ["a"]
    assert isinstance(copy["state"][0]["betas"], tuple)
