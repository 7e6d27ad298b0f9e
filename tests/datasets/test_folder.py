"""Own data: splits that tear nothing apart, folders as systems leave them, and tables as spreadsheets save them."""

from __future__ import annotations

import csv
from collections import Counter
from pathlib import Path

import pytest
from large_files import make_large

import svfap
from svfap.cli.main import main
from svfap.data.manifest import Manifest, read_manifest
from svfap.data.prepared import read_dataset
from svfap.datasets.folder import FolderConfig


def make(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        make_large(root / name)
    return root


def prepare(folder: Path, *args: object) -> int:
    return main(["prepare", "folder", "--root", str(folder / "in"), "--out", str(folder / "out"), *map(str, args)])


def rows_of(file: Path) -> list[dict[str, str]]:
    with file.open(newline="") as lines:
        return list(csv.DictReader(lines))


def parts_of(folder: Path) -> dict[str, Manifest]:
    dataset = read_dataset(folder / "out")
    paths = {f"{fold.name} {part}": getattr(fold, part) for fold in dataset.folds for part in ("train", "val", "test")}
    names = dataset.label_names
    return {name: read_manifest(path, root=dataset.root, label_names=names) for name, path in paths.items() if path}


COLUMNS = {"subject": "--subject_column who", "group": "--group_column who", "source": "", "file": ""}


def write_table(folder: Path, kind: str) -> list[str]:
    """50 units of 8 clips each, in three classes, as a table; returns its options. kind: what makes a unit."""
    lines = ["file,emotion,start_s,end_s" + {"subject": ",who", "group": ",who", "source": ",source"}.get(kind, "")]
    for row in range(400):
        unit = row // 8
        name = f"v{unit}.mp4" if kind == "file" else f"v{row}.mp4"
        make(folder / "in", name)
        lines.append(f"{name},{'abc'[unit % 3]},{row % 8},{row % 8 + 1}" + ("" if kind == "file" else f",u{unit}"))
    (folder / "table.csv").write_text("\n".join(lines) + "\n")
    options = f"--table {folder / 'table.csv'} --path_column file --label_column emotion {COLUMNS[kind]}"
    return options.split()


def units(manifest: Manifest, kind: str) -> set[str]:
    if kind == "file":
        return {sample.path.name for sample in manifest}
    return set(manifest.table[kind])


@pytest.mark.parametrize("kind", COLUMNS)
def test_no_unit_is_in_two_parts(tmp_path, kind):
    options = write_table(tmp_path, kind)
    assert prepare(tmp_path, *options, "--test_fraction", 0.2) == 0
    found = parts_of(tmp_path)
    sides = [units(found[f"1 {part}"], kind) for part in ("train", "val", "test")]
    assert len(set().union(*sides)) == sum(map(len, sides)) == 50
    assert [len(side) for side in sides] == [36, 4, 10]
    assert read_dataset(tmp_path / "out").notes["validation"].startswith(f"by {kind}: ")


@pytest.mark.parametrize("kind", COLUMNS)
def test_no_unit_is_tested_in_two_folds(tmp_path, kind):
    assert prepare(tmp_path, *write_table(tmp_path, kind), "--folds", 5) == 0
    found = parts_of(tmp_path)
    for fold in range(1, 6):
        sides = [units(found[f"{fold} {part}"], kind) for part in ("train", "val", "test")]
        assert len(set().union(*sides)) == sum(map(len, sides)) == 50
        assert len(sides[2]) == 10
        assert set(Counter(found[f"{fold} test"].labels).values()) <= {24, 32}


def test_a_large_subject_is_not_the_test_part(tmp_path, capsys):
    lines = ["path,label,who"]
    lines += [f"{n}.mp4,{'ab'[n % 2]},{'anna' if n < 180 else f'p{n // 2}'}" for n in range(200)]
    make(tmp_path / "in", *(f"{n}.mp4" for n in range(200)))
    (tmp_path / "t.csv").write_text("\n".join(lines))
    table = (
        "--table",
        tmp_path / "t.csv",
        "--label_column",
        "label",
        "--subject_column",
        "who",
        "--validation",
        "none",
    )
    for seed in range(4):
        assert prepare(tmp_path, *table, "--test_fraction", 0.1, "--seed", seed) == 0
        test = parts_of(tmp_path)["1 test"]
        assert len(test) == 20
        assert "anna" not in set(test.subjects)
    capsys.readouterr()
    assert prepare(tmp_path, *table, "--folds", 12) == 1
    assert "folds=12: there are only 11 subjects" in capsys.readouterr().err


def test_stratified_validation_may_divide_subjects_but_no_files(tmp_path):
    options = write_table(tmp_path, "file")
    table = (tmp_path / "table.csv").read_text().splitlines()
    table = [table[0] + ",who", *(f"{line},p{n // 200}" for n, line in enumerate(table[1:]))]
    (tmp_path / "table.csv").write_text("\n".join(table))
    options += ["--subject_column", "who", "--validation", "stratified", "--test_fraction", "0"]
    assert prepare(tmp_path, *options) == 0
    train, val = (parts_of(tmp_path)[f"1 {part}"] for part in ("train", "val"))
    assert set(train.subjects) == set(val.subjects) == {"p0", "p1"}
    assert not units(train, "file") & units(val, "file")
    assert len(val) == 40


def test_one_file_cannot_be_divided(tmp_path, capsys):
    make(tmp_path / "in", "a.mp4")
    (tmp_path / "t.csv").write_text("path,label,start_s\n" + "".join(f"a.mp4,{'xy'[n % 2]},{n}\n" for n in range(8)))
    assert prepare(tmp_path, "--table", tmp_path / "t.csv", "--label_column", "label") == 1
    assert (
        "--test_fraction: only one file to divide; give --split_column or --test_fraction 0" in capsys.readouterr().err
    )


# Folders


def test_what_a_nas_puts_into_folders_is_no_clip(tmp_path):
    clips = [f"{label}/v{n}.mp4" for label in ("happy", "sad") for n in range(5)]
    system = ("happy/@eaDir/v0.mp4/SCREENSHOT.jpg", "#recycle/v9.mp4", "sad/__MACOSX/._v0.mp4", "sad/Thumbs.db")
    make(tmp_path / "in", *clips, *system)
    assert prepare(tmp_path, "--validation", "none") == 0
    found = parts_of(tmp_path)
    assert sorted(sample.key for part in found.values() for sample in part) == clips
    assert read_dataset(tmp_path / "out").label_names == ("happy", "sad")
    assert rows_of(tmp_path / "out/extra.csv") == []


def test_links_that_lead_back_are_passed_over(tmp_path):
    root = make(tmp_path / "in", *(f"{label}/v{n}.mp4" for label in ("happy", "sad") for n in range(4)))
    make(tmp_path / "disk", "more/w.mp4")
    (root / "happy" / "up").symlink_to("..")
    (root / "happy" / "other").symlink_to("../sad")
    (root / "sad" / "more").symlink_to(tmp_path / "disk" / "more")
    assert prepare(tmp_path, "--validation", "none", "--test_fraction", 0) == 0
    found = [(sample.key, sample.label) for sample in parts_of(tmp_path)["1 train"]]
    expected = [(f"happy/v{n}.mp4", 0) for n in range(4)] + [(f"sad/v{n}.mp4", 1) for n in range(4)]
    assert sorted(found) == sorted([*expected, ("sad/more/w.mp4", 1)])
    assert prepare(tmp_path, "--unlabelled", "true") == 0
    assert len(rows_of(tmp_path / "out/pretrain.csv")) == 9


# Tables


@pytest.mark.parametrize("separator", [";", "\t"])
def test_tables_with_other_separators(tmp_path, separator):
    make(tmp_path / "in", *(f"{n}.mp4" for n in range(10)))
    lines = [("clip", "emotion"), *((f"{n}.mp4", "ab"[n % 2]) for n in range(10))]
    (tmp_path / "t.csv").write_text("".join(separator.join(line) + "\n" for line in lines))
    args = ("--table", tmp_path / "t.csv", "--path_column", "clip", "--label_column", "emotion", "--validation", "none")
    assert prepare(tmp_path, *args) == 0
    assert read_dataset(tmp_path / "out").counts == {"train": 8, "test": 2}


def test_names_in_another_unicode_form_and_case(tmp_path, capsys):
    make(tmp_path / "in", "Zoe\u0308.mp4", "b.mp4", "c.mp4", "d.mp4")
    labels = ["fr\u00f6h", "fro\u0308h", "Froeh", "froeh"]
    names = ("Zo\u00eb.mp4", "b.mp4", "c.mp4", "d.mp4")
    (tmp_path / "t.csv").write_text("path,label\n" + "".join(f"{n},{y}\n" for n, y in zip(names, labels, strict=True)))
    args = ("--table", tmp_path / "t.csv", "--label_column", "label", "--validation", "none", "--test_fraction", 0)
    assert prepare(tmp_path, *args) == 0
    assert read_dataset(tmp_path / "out").label_names == ("Froeh", "froeh", "fr\u00f6h")
    assert "classes Froeh, froeh differ only in case" in capsys.readouterr().err
    assert rows_of(tmp_path / "out/missing.csv") == []


@pytest.mark.parametrize("kind", ["subject", "group"])
def test_a_column_that_is_named_as_in_manifests_needs_no_option(tmp_path, kind):
    options = write_table(tmp_path, kind)
    table = tmp_path / "table.csv"
    table.write_text(table.read_text().replace(",who", f",{kind}", 1))
    assert prepare(tmp_path, *options[: options.index("--" + kind + "_column")], "--test_fraction", 0.2) == 0
    found = parts_of(tmp_path)
    sides = [units(found[f"1 {part}"], kind) for part in ("train", "val", "test")]
    assert len(set().union(*sides)) == sum(map(len, sides)) == 50


def listed(folder: Path, part: str) -> list[tuple[str, str]]:
    return [(row["path"], row["label"]) for row in rows_of(folder / "out" / f"{part}.csv")]


def test_folders_of_parts_have_folders_of_classes(tmp_path, capsys):
    """The layout of most downloads of labelled pictures."""
    pictures = [f"{part}/{label}/{n}.jpg" for part in ("train", "Val") for label in ("happy", "sad") for n in range(4)]
    make(tmp_path / "in", *pictures, "train/sad/film/1.jpg", "train/sad/film/2.jpg", "train/sad/9.mp4")
    assert prepare(tmp_path) == 0
    prepared = read_dataset(tmp_path / "out")
    assert prepared.label_names == ("happy", "sad") and set(prepared.manifests()) == {"train", "val"}
    assert listed(tmp_path, "val") == [(f"Val/{label}/{n}.jpg", label) for label in ("happy", "sad") for n in range(4)]
    sad = [f"train/sad/{name}" for name in ("0.jpg", "1.jpg", "2.jpg", "3.jpg", "9.mp4", "film")]
    assert listed(tmp_path, "train") == [
        *((f"train/happy/{n}.jpg", "happy") for n in range(4)),
        *((p, "sad") for p in sad),
    ]
    capsys.readouterr()
    assert prepare(tmp_path, "--folds", 2) == 1
    assert "is divided already, into Val, train; leave it out" in capsys.readouterr().err
    make(tmp_path / "in", "training/sad/1.jpg")
    assert prepare(tmp_path) == 1
    assert "at most one folder of each part" in capsys.readouterr().err
    make(tmp_path / "in", "happy/1.jpg")  # so these are names of classes
    assert prepare(tmp_path) == 0
    assert "Val" in read_dataset(tmp_path / "out").label_names


def test_pictures_in_subfolders_are_stills_or_frames(tmp_path, capsys):
    make(tmp_path / "in", "happy/p1/1.jpg", "happy/p1/2.jpg", "happy/3.jpg", "sad/p1/4.jpg", "sad/p2/5.mp4")
    whole = ("--test_fraction", 0, "--validation", "none")
    found = {}
    for stills in ("false", "true"):
        assert prepare(tmp_path, *whole, "--stills", stills) == 0
        found[stills] = [path for path, _ in listed(tmp_path, "train")]
    assert found["false"] == ["happy/3.jpg", "happy/p1", "sad/p1", "sad/p2/5.mp4"]
    assert found["true"] == ["happy/3.jpg", "happy/p1/1.jpg", "happy/p1/2.jpg", "sad/p1/4.jpg", "sad/p2/5.mp4"]
    assert prepare(tmp_path, "--stills", "--unlabelled", "true") == 0
    assert len(rows_of(tmp_path / "out" / "pretrain.csv")) == 5
    capsys.readouterr()
    assert prepare(tmp_path, "--stills", "true", "--table", "t.csv") == 1
    assert "--stills=true: is for folders" in capsys.readouterr().err


def test_stills_of_one_folder_that_are_divided_are_counted(tmp_path, capsys):
    """With a validation part in the folders nothing is divided here."""
    names = [f"{label}/{person}/{i}.jpg" for label in ("happy", "sad") for person in ("a", "b") for i in range(4)]
    make(tmp_path / "in", "happy/1.jpg", "happy/2.jpg", "sad/c/1.jpg", *names)
    assert prepare(tmp_path, "--stills") == 0
    assert "different parts, such as training and validation (4 folders, as happy/a)" in capsys.readouterr().err
    make(tmp_path / "parts" / "in", *(f"{part}/{name}" for part in ("train", "val") for name in names))
    assert prepare(tmp_path / "parts", "--stills") == 0
    assert "different parts" not in capsys.readouterr().err


def test_what_prepare_returns_names_manifests_that_can_be_read(tmp_path, monkeypatch):
    make(tmp_path / "in", *(f"{label}/{i}.mp4" for label in ("happy", "sad") for i in range(20)))
    monkeypatch.chdir(tmp_path)
    found = svfap.prepare("folder", FolderConfig(root=Path("in"), out=Path("out")))
    assert found == read_dataset("out") and len(read_manifest(found.folds[0].train, root=found.root)) > 0


@pytest.mark.parametrize("unlabelled", ["true", "false"])
def test_stills_without_a_picture(unlabelled, tmp_path, capsys):
    make(tmp_path / "in", "happy/1.mp4", "sad/2.mp4")
    assert prepare(tmp_path, "--stills", "--unlabelled", unlabelled) == 1
    assert "--stills=true: there is no picture below" in capsys.readouterr().err
