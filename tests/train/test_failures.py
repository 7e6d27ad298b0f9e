"""What stops a run from outside: another run in its folder, a full disk, too little shared memory, dead workers, signals."""

from __future__ import annotations

import errno
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections import namedtuple

import pytest
import torch
from safetensors import SafetensorError
from small_runs import finetuning, log, pretraining
from torch.utils.data import DataLoader
from torch.utils.tensorboard import SummaryWriter

import svfap
from svfap.data import shared_memory
from svfap.data.clip_dataset import ClipDataset
from svfap.data.loader import BatchLoader, make_loader
from svfap.data.manifest import read_manifest
from svfap.errors import Interrupted, UserError
from svfap.files import only_writer
from svfap.train import loop, saving
from svfap.train.finetune import finetune
from svfap.train.pretrain import pretrain
from svfap.train.stop import StopRequest, stop_request

MORE_ROOM = r"use --num_workers 0, or give a container more of it \(docker run --shm-size 8g, or --ipc=host\)"


# one run in a folder -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("resume", [False, True])
def test_a_folder_is_for_one_run_at_a_time(resume, faces, tmp_path):
    (tmp_path / "run").mkdir()
    with only_writer(tmp_path / "run"), pytest.raises(UserError, match="run: is being written by another run"):
        pretrain(pretraining(faces, tmp_path / "run", resume=resume))
    assert list((tmp_path / "run").iterdir()) == []


def test_the_lock_lasts_for_the_whole_run_and_no_longer(faces, tmp_path, monkeypatch):
    config, refused = pretraining(faces, tmp_path / "run", epochs=1), []

    def second_run(*args):
        with pytest.raises(UserError, match="is being written by another run"), only_writer(tmp_path / "run"):
            pass
        refused.append(True)
        return real(*args)

    real = loop.TrainingRun._step
    monkeypatch.setattr(loop.TrainingRun, "_step", second_run)
    pretrain(config)
    assert len(refused) == 4
    with only_writer(tmp_path / "run"):
        pass
    assert [line["step"] for line in log(tmp_path / "run")] == [1, 2, 3, 4]


# files that cannot be written ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)\nmore"),
        RuntimeError("[enforce fail at inline_container.cc:668] . No space left on device\nmore"),
    ],
)
def test_a_checkpoint_that_cannot_be_written_is_one_line_and_the_last_one_is_kept(error, faces, tmp_path, monkeypatch):
    real, saved = saving.save_accelerator_state, []

    def failing(folder, *args):
        saved.append(folder)
        if len(saved) == 2:
            raise error
        return real(folder, *args)

    monkeypatch.setattr(saving, "save_accelerator_state", failing)
    monkeypatch.setattr(loop, "SAVE_EVERY_S", 0.0)
    run = tmp_path / "run"
    with pytest.raises(UserError) as refused:
        pretrain(pretraining(faces, run))
    text = str(refused.value)
    assert text.startswith(f"{run / 'last'}: cannot be written (")
    assert "No space left on device" in text and "\n" not in text
    assert text.endswith(f"the checkpoint of step 4 is kept in {run / 'last'}, --resume continues from it")
    assert not (run / "last.new").exists(), "no room is taken by half a checkpoint"
    assert pretrain(pretraining(faces, run, resume=True)).finished
    assert [line["step"] for line in log(run)] == list(range(1, 13))


def test_a_model_a_log_and_events_that_cannot_be_written_are_one_line(faces, tmp_path, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    for name, target, attribute in (
        ("best", svfap.MaskedAutoencoder, "save_pretrained"),
        ("tensorboard", SummaryWriter, "add_scalar"),
        ("tensorboard", SummaryWriter, "__init__"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(target, attribute, full)
            run = tmp_path / f"{name}{attribute}"
            with pytest.raises(
                UserError, match=f"{name}: cannot be written .No space left on device.; there is no checkpoint yet"
            ):
                pretrain(pretraining(faces, run))
    run = tmp_path / "log"
    (run / "log.jsonl").mkdir(parents=True)
    with pytest.raises(UserError, match=r"log\.jsonl: cannot be written|holds a run already"):
        pretrain(pretraining(faces, run))


# workers -------------------------------------------------------------------------------------------------------------


def small_memory(monkeypatch, num_bytes: int) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shared_memory.shutil, "disk_usage", lambda path: usage(num_bytes, 0, num_bytes))


def clips_of(faces, mode: str = "val") -> ClipDataset:
    return ClipDataset(read_manifest(faces / "train.csv"), mode, 16, 1, 32, seed=0)


def test_workers_without_room_are_refused_before_they_start(faces, tmp_path, monkeypatch):
    batch_bytes = 7 * 16 * 32 * 32 * 3
    # Two batches of each worker and two of the main process.
    small_memory(monkeypatch, 5 * batch_bytes)
    assert [shared_memory.workers_with_room(batch_bytes * n) for n in (1, 2, 3)] == [1, 0, 0]
    needs = r"num_workers=2: their batches need 1.97 MB of shared memory, and /dev/shm has 1.64 MB free; "
    with pytest.raises(UserError, match=f"{needs}--num_workers 1 would fit; else {MORE_ROOM}"):
        make_loader(clips_of(faces), 7, num_workers=2, shuffle=False, seed=0)
    with pytest.raises(UserError, match=f"{needs}--num_workers 1 would fit"):
        finetune(finetuning(faces, tmp_path / "run", num_workers=2))
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert shared_memory.workers_with_room(batch_bytes) == 0


def test_the_default_number_of_workers_is_what_has_room(faces, tmp_path, monkeypatch, capsys):
    small_memory(monkeypatch, 1000)
    monkeypatch.setattr(loop, "num_workers", lambda asked, processes: 3)
    pretrain(pretraining(faces, tmp_path / "run", epochs=1, num_workers=None))
    assert "0 loader workers instead of 3, as shared memory (/dev/shm) has no room for more" in capsys.readouterr().err


def test_a_worker_that_finds_shared_memory_full_is_one_line(faces, tmp_path, monkeypatch, capfd):
    def full(self):
        raise RuntimeError("unable to allocate shared memory(shm) for file </torch_1>: No space left on device (28)")

    monkeypatch.setattr(torch.Tensor, "share_memory_", full)  # which the workers inherit
    with pytest.raises(UserError, match=rf"shared memory \(/dev/shm\) is full, .* free; {MORE_ROOM}"):
        pretrain(pretraining(faces, tmp_path / "run", num_workers=1))
    assert "Traceback" not in capfd.readouterr().err


KILLED_WORKER = """
import os, signal, sys, time
from pathlib import Path
from svfap.data import shared_memory
from svfap.data.clip_dataset import ClipDataset
from svfap.data.loader import BatchLoader
from svfap.data.manifest import read_manifest
from svfap.errors import UserError

data = ClipDataset(read_manifest(sys.argv[1]), "val", 16, 1, 32, 0)
loader = BatchLoader(data, num_workers=1)
try:
    # PyTorch raises it from a signal handler, so it may come anywhere from here on.
    with shared_memory.worker_errors():
        batches = iter(loader.batches(data, 2, shuffle=False, seed=0))
        next(batches)
        os.kill(loader._loader._iterator._workers[0].pid, signal.SIGKILL)
        for _ in batches:
            time.sleep(0.2)
except UserError as error:
    os.write(1, str(error).encode())
    os._exit(7)
"""


def test_a_worker_that_is_killed_is_one_line(faces):
    command = [sys.executable, "-c", KILLED_WORKER, str(faces / "val.csv")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 7, done.stderr
    killed = r"DataLoader worker .*(killed by signal: Killed|exited unexpectedly).*: perhaps out of memory"
    assert re.search(killed, done.stdout)


@pytest.mark.parametrize("error", [EOFError(), ConnectionResetError(104, "Connection reset by peer")])
def test_a_worker_that_dies_while_it_hands_over_is_one_line(error):
    message = f"DataLoader worker exited unexpectedly .{type(error).__name__}.: perhaps out of memory"
    with pytest.raises(UserError, match=message), shared_memory.worker_errors():
        raise error


def test_workers_stay_for_all_epochs_and_the_validation(faces, tmp_path, monkeypatch):
    started, real = [], DataLoader._get_iterator

    def counting(self):
        started.append(self.num_workers)
        return real(self)

    monkeypatch.setattr(DataLoader, "_get_iterator", counting)
    finetune(finetuning(faces, tmp_path / "run", num_workers=1, epochs=3))
    assert started == [1]


def test_one_loader_gives_what_loaders_of_their_own_give(faces):
    train, val = clips_of(faces, "train"), clips_of(faces)
    loader = BatchLoader(train, val, num_workers=2)
    for epoch in (0, 1):
        for data, order in ((train, dict(shuffle=True, seed=3, epoch=epoch)), (val, dict(shuffle=False, seed=0))):
            together, alone = loader.batches(data, 5, **order), make_loader(data, 5, **order)
            assert len(together) == len(alone)
            for one, other in zip(together, alone, strict=True):
                assert one["keys"] == other["keys"]
                assert all(torch.equal(one[name], other[name]) for name in ("clips", "label", "frames"))
    loader.close()


# signals -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGHUP, marks=pytest.mark.slow), signal.SIGINT])
def test_a_signal_while_waiting_for_a_batch_stops_at_once(number, faces, tmp_path, monkeypatch, capsys):
    waits = threading.Event()
    real, calls = ClipDataset.__getitem__, []

    def slow(self, index):
        calls.append(index)
        if len(calls) == 4 * 4 + 2:  # in the second epoch's first batch
            waits.set()
            time.sleep(60)
        return real(self, index)

    monkeypatch.setattr(ClipDataset, "__getitem__", slow)
    main = threading.main_thread().ident  # which the system prefers for signals from outside

    def kill() -> None:
        assert waits.wait(60)
        time.sleep(0.5)  # until it sleeps; a signal just before would be noticed after it
        signal.pthread_kill(main, number)

    killer = threading.Thread(target=kill)
    killer.start()
    began = time.monotonic()
    result = pretrain(pretraining(faces, tmp_path / "run", previews=0))
    killer.join()
    assert time.monotonic() - began < 50
    assert (result.finished, result.step, result.stopped_by, result.exit_status) == (False, 4, number, 128 + number)
    assert "stopped after step 4; saved in" in capsys.readouterr().err
    monkeypatch.undo()
    assert pretrain(pretraining(faces, tmp_path / "run", previews=0, resume=True)).finished


def test_the_first_signal_counts_and_a_second_ctrl_c_interrupts():
    before = signal.getsignal(signal.SIGTERM)
    with stop_request() as stop:
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)
        assert stop.number == signal.SIGTERM
        with pytest.raises(KeyboardInterrupt) as interrupt:
            signal.raise_signal(signal.SIGINT)
        assert not isinstance(interrupt.value, Interrupted)
        with pytest.raises(Interrupted), stop.at_once():
            pytest.fail("a signal that came before stops too")
    assert signal.getsignal(signal.SIGTERM) is before


def test_nohup_keeps_a_run_alive():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stop_request() as stop:
            signal.raise_signal(signal.SIGHUP)
            assert stop.number == 0
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_lost_terminal_is_left():
    main, far = os.openpty()
    before = {number: os.dup(number) for number in (1, 2)}
    for number in before:
        os.dup2(far, number)
    try:
        os.close(main)
        with pytest.raises(OSError):
            os.write(2, b"x")
        StopRequest().ask(signal.SIGHUP, None)
        assert os.write(2, b"x") == 1
    finally:
        for number, kept in before.items():
            os.dup2(kept, number)
            os.close(kept)
        os.close(far)
