"""A dataset that is written again is complete before and after, or not at all: `replacing_dataset`."""

from __future__ import annotations

from pathlib import Path

import pytest

from svfap.data.prepared import Fold, PreparedDataset, read_dataset, replacing_dataset, write_dataset_file
from svfap.errors import UserError


@pytest.fixture
def folder(tmp_path) -> Path:
    write(tmp_path, "a")
    return tmp_path


def write(folder: Path, label: str) -> None:
    (folder / "train.csv").write_text(f"path,label\nv.mp4,{label}\n")
    described = PreparedDataset("own", "Own", "classification", Path("."), (label,), (Fold("1", Path("train.csv")),))
    write_dataset_file(folder, described)


def content(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in folder.iterdir()}


def test_new_files_replace_the_former_ones(folder):
    with replacing_dataset(folder, "own"):
        assert not (folder / "dataset.json").exists() and not (folder / "train.csv").exists()
        write(folder, "b")
    assert read_dataset(folder).label_names == ("b",)
    assert sorted(content(folder)) == ["dataset.json", "train.csv"]


def test_after_an_error_the_former_files_are_back(folder):
    before = content(folder)
    with pytest.raises(UserError, match="other settings"), replacing_dataset(folder, "own"):
        (folder / "train.csv").write_text("half")
        raise UserError("other settings")
    assert content(folder) == before


def test_after_a_kill_the_former_files_come_back_with_the_next_run(folder):
    before = content(folder)
    killed = replacing_dataset(folder, "own")
    killed.__enter__()
    (folder / "train.csv").write_text("half")
    del killed.gen  # no clean-up, as after a kill
    (folder / ".train.csv.former").exists()
    with pytest.raises(UserError), replacing_dataset(folder, "own"):
        raise UserError("stop")
    assert content(folder) == before


def test_another_dataset_is_refused_and_stays(folder):
    before = content(folder)
    with pytest.raises(UserError, match="holds the dataset own already"), replacing_dataset(folder, "other"):
        raise AssertionError
    assert content(folder) == before
