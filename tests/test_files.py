"""Locks and names: `svfap.files`."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from svfap.errors import UserError
from svfap.files import only_writer, printable, remove_abandoned, write_atomically, writing_atomically

HOLD = """
import sys, time
from pathlib import Path
from svfap.files import only_writer
with only_writer(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_second_process_is_refused_until_the_first_ends_however_it_ends(tmp_path):
    target = tmp_path / "table.csv"
    command = [sys.executable, "-c", HOLD, str(target)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as first:
        assert first.stdout is not None and first.stdout.readline() == "held\n"
        with pytest.raises(UserError, match="table.csv: is being written by another run"), only_writer(target):
            pass
        with only_writer(tmp_path / "other.csv"):
            pass
        first.kill()
    with only_writer(target):
        assert os.listdir(tmp_path) == [".table.csv.lock"]
    assert os.listdir(tmp_path) == []


def test_the_lock_ends_after_an_error_in_the_block(tmp_path):
    with pytest.raises(ValueError), only_writer(tmp_path / "out"):
        raise ValueError
    with only_writer(tmp_path / "out"):
        pass


def test_a_file_in_place_of_the_folder_is_one_error(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"a\.csv: cannot be written"):
        write_atomically(tmp_path / "file" / "a.csv", "")


def test_an_error_leaves_the_old_file_and_nothing_beside_it(tmp_path):
    write_atomically(tmp_path / "a.csv", "old")
    with pytest.raises(ValueError), writing_atomically(tmp_path / "a.csv") as file:
        file.write("new")
        raise ValueError
    assert [path.name for path in tmp_path.iterdir()] == ["a.csv"]
    assert (tmp_path / "a.csv").read_text() == "old"


def test_names_that_are_not_utf8_become_text():
    name = os.fsdecode(b"caf\xe9.mp4")
    assert printable(name) == r"caf\udce9.mp4"
    assert printable("café 中.mp4") == "café 中.mp4"


def test_temporary_files_of_killed_processes_are_removed(tmp_path):
    done = subprocess.Popen([sys.executable, "-c", ""])
    done.wait()
    gone = [f".table_1_v.{done.pid}-0123abcd.png", f".table.{done.pid}-0123abcd.csv"]
    kept = [f".table.{os.getpid()}-0123abcd.csv", f".other.{done.pid}-0123abcd.csv", ".table.2024.csv", "table.csv"]
    for name in gone + kept:
        (tmp_path / name).touch()
    remove_abandoned(tmp_path / "table.csv")
    assert {path.name for path in tmp_path.iterdir()} == set(kept)


def test_the_current_folder_has_one_writer(tmp_path, monkeypatch):
    (tmp_path / "run").mkdir()
    monkeypatch.chdir(tmp_path / "run")
    with only_writer(Path()):
        assert (tmp_path / ".run.lock").exists()
        with pytest.raises(UserError, match="is being written by another run"), only_writer(tmp_path / "run"):
            pass
    assert not (tmp_path / ".run.lock").exists()
