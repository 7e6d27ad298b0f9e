"""Runs in processes of their own. This module is imported by each of them, so it imports little."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from svfap.errors import UserError
from svfap.train.config import FinetuneConfig
from svfap.train.parallel import run_side_by_side


def configs(out: Path) -> list[FinetuneConfig]:
    return [FinetuneConfig(out=out / f"fold_{fold}", fold=fold) for fold in "123"]


def fails_in_fold_2(config: FinetuneConfig) -> bool:
    """The first run waits to be stopped, the second fails, and the third has no slot before that."""
    print("begun", flush=True)
    if config.fold == "2":
        while not (config.out.parent / "fold_1" / "output.log").exists():
            time.sleep(0.01)
        raise UserError("the disk is full")
    time.sleep(100)
    (config.out / "finished").touch()
    return True


def test_a_run_that_fails_stops_the_others_and_says_why(tmp_path):
    with pytest.raises(UserError, match=r"fold_2: the disk is full \(all that it printed: .*fold_2/output\.log"):
        run_side_by_side(fails_in_fold_2, configs(tmp_path), 2, [])
    assert not (tmp_path / "fold_1" / "finished").exists()  # it was not waited for
    assert (tmp_path / "fold_2" / "output.log").read_text() == "begun\nerror: the disk is full\n"
    assert not (tmp_path / "fold_3").exists()


def is_killed(config: FinetuneConfig) -> bool:
    os.kill(os.getpid(), 9)
    return True


def test_a_run_that_is_killed_is_told(tmp_path):
    with pytest.raises(UserError, match=r"fold_1: killed by signal 9"):
        run_side_by_side(is_killed, configs(tmp_path)[:1], 1, [])


def is_interrupted(config: FinetuneConfig) -> bool:
    return False


def test_a_run_that_was_interrupted_ends_all(tmp_path):
    assert run_side_by_side(is_interrupted, configs(tmp_path), 1, []) is False
    assert not (tmp_path / "fold_2").exists()


def tells_gpu(config: FinetuneConfig) -> bool:
    (config.out / "gpu").write_text(os.environ["CUDA_VISIBLE_DEVICES"])
    return True


def test_gpus_are_dealt_out(tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,7")
    assert run_side_by_side(tells_gpu, configs(tmp_path), 3, ["4", "7"])
    assert [(tmp_path / f"fold_{fold}" / "gpu").read_text() for fold in "123"] == ["4", "7", "4"]
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "4,7"
