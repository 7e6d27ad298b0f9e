"""`svfap prepare`: the shared core, and DFEW, FERV39k, MAFW, VoxCeleb2 and own data, in miniature and at official size."""

from __future__ import annotations

import csv
import gc
import os
import subprocess
import sys
import tracemalloc
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from large_files import make_large

from svfap.cli.main import main
from svfap.data.manifest import Manifest, read_manifest
from svfap.data.prepared import read_dataset
from svfap.data.targets import frame_targets
from svfap.data.video import open_video
from svfap.datasets import ferv39k
from svfap.datasets.config import PrepareConfig
from svfap.datasets.dataset import NAMES, ClipRow, Dataset, Part, get_dataset
from svfap.datasets.folder import FolderConfig
from svfap.datasets.prepare import is_complete, prepare
from svfap.errors import UserError


def write(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


def write_large(file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    make_large(file)


def make_folders(folder: Path, names: list[str], make: Callable[[str], None] = os.mkdir) -> None:
    """make: make_large puts files in the folders' place, in half the time."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        make(f"{folder}/{name}")


def run(*args: object) -> int:
    """The exit status of `svfap prepare`."""
    return main(["prepare", *map(str, args)])


def rows_of(file: Path) -> list[dict[str, str]]:
    with file.open(newline="") as lines:
        return list(csv.DictReader(lines))


def manifests(folder: Path) -> dict[str, Manifest]:
    """Every manifest of a prepared dataset, read as a training would."""
    dataset = read_dataset(folder)
    kwargs = {"dimensions" if dataset.task == "regression" else "label_names": dataset.label_names}
    paths = {f"{fold.name} {part}": getattr(fold, part) for fold in dataset.folds for part in ("train", "val", "test")}
    return {
        name: read_manifest(path, root=dataset.root, task=dataset.task, **kwargs)
        for name, path in paths.items()
        if path
    }


def samples(manifest: Manifest) -> list[tuple[str, str]]:
    return [(sample.key, manifest.label_names[sample.label]) for sample in manifest]


DFEW_SETS = "EmoLabel_DataSplit/{part}(single-labeled)/set_{fold}.csv"


def make_dfew(
    root: Path, labels: dict[int, int], sizes: list[int], media: str = "Clip/clip_224x224", make=os.mkdir
) -> None:
    """Clips with these labels, tested in folds of these sizes, in the release's layout; the clips' folders are empty."""
    make_folders(root / media, [f"{number:05d}" for number in labels], make)
    numbers, start = list(labels), 0
    for fold, size in enumerate(sizes, 1):
        tested = set(numbers[start : start + size])
        start += size
        for part in ("train", "test"):
            chosen = [n for n in numbers if (n in tested) == (part == "test")]
            lines = "".join(f"{n},{labels[n]}\n" for n in chosen)
            write(root / DFEW_SETS.format(part=part, fold=fold), "video_name,label\n" + lines)


def small_dfew(root: Path, num_clips: int = 40) -> Path:
    make_dfew(root, {n: n % 7 + 1 for n in range(1, num_clips + 1)}, [num_clips // 5] * 5)
    return root


# DFEW


def test_dfew_every_row(tmp_path, capsys):
    root, out = small_dfew(tmp_path / "DFEW"), tmp_path / "out"
    for number in (1, 2):
        for frame in (1, 2, 10):
            picture = np.full((8, 8, 3), 10 * frame, np.uint8)
            cv2.imwrite(str(root / f"Clip/clip_224x224/{number:05d}/{frame}.jpg"), picture)
    assert run("dfew", "--root", root, "--out", out, "--validation", "none", "--allow_missing", "true") == 0
    dataset = read_dataset(out)
    assert (dataset.name, dataset.task, dataset.sampling_stride, dataset.root) == ("dfew", "classification", 4, root)
    assert dataset.label_names == ("happy", "sad", "neutral", "angry", "surprise", "disgust", "fear")
    assert [fold.name for fold in dataset.folds] == list("12345") and dataset.folds[0].val is None
    found = manifests(out)
    expected = {f"Clip/clip_224x224/{n:05d}": dataset.label_names[n % 7] for n in range(1, 41)}
    for fold in range(1, 6):
        tested = {f"Clip/clip_224x224/{n:05d}" for n in range(8 * fold - 7, 8 * fold + 1)}
        assert samples(found[f"{fold} test"]) == [item for item in expected.items() if item[0] in tested]
        assert samples(found[f"{fold} train"]) == [item for item in expected.items() if item[0] not in tested]
    with open_video(found["1 test"][0].path) as video:  # a clip is a folder of frames, in the order people count
        assert video.num_frames == 3 and video.read([2]).mean() > 90
    assert dataset.notes["validation"] == "none" and dataset.notes["missing"] == 0
    assert dataset.notes["count_mismatch"]["fold_1_test"] == {"official": 2341, "found": 8}
    assert "fold_1_test has 8 clips; the official number is 2,341" in capsys.readouterr().err


def test_dfew_frames_of_the_authors(tmp_path):
    make_dfew(tmp_path / "in", dict.fromkeys(range(1, 11), 1), [2] * 5, "Clip/jpg_256")
    assert (
        run("dfew", "--root", tmp_path / "in", "--out", tmp_path / "out") == 1
    )  # counts differ from the official ones
    assert samples(manifests(tmp_path / "out")["5 test"]) == [(f"Clip/jpg_256/{n:05d}", "happy") for n in (9, 10)]


def test_dfew_says_which_frames_where_both_are_there(tmp_path, capsys):
    root = small_dfew(tmp_path / "in")
    make_folders(root / "Clip/jpg_256", [f"{n:05d}" for n in range(1, 41)])
    assert run("dfew", "--root", root, "--out", tmp_path / "out") == 1
    assert "holds both Clip/clip_224x224 and Clip/jpg_256; say which with --media" in capsys.readouterr().err
    assert not (tmp_path / "out/dataset.json").exists()
    run("dfew", "--root", root, "--out", tmp_path / "out", "--media", "Clip/jpg_256")
    assert manifests(tmp_path / "out")["1 test"][0].key == "Clip/jpg_256/00001"


@pytest.mark.parametrize(
    "line, message",
    [
        ("x7,3", "line 3: expected a clip's number and a label from 1 to 7, not 'x7,3'"),
        ("7", "line 3: expected 2 cells: video_name,label, not '7'"),
        ("7,3,1", "line 3: expected 2 cells"),
    ],
)
def test_a_bad_row_is_named(tmp_path, capsys, line, message):
    root = small_dfew(tmp_path / "in")
    write(root / DFEW_SETS.format(part="train", fold=2), f"video_name,label\n1,2\n{line}\n")
    assert run("dfew", "--root", root, "--out", tmp_path / "out") == 1
    assert f"train(single-labeled)/set_2.csv: {message}" in capsys.readouterr().err


def test_unknown_labels_are_left_out_and_listed(tmp_path, capsys):
    root, out = small_dfew(tmp_path / "in"), tmp_path / "out"
    file = root / DFEW_SETS.format(part="test", fold=1)
    file.write_text(file.read_text().replace("\n3,4\n", "\n3,8\n").replace("\n4,5\n", "\n4,0\n"))
    assert run("dfew", "--root", root, "--out", out) == 1
    assert [sample.key[-1] for sample in manifests(out)["1 test"]] == list("125678")
    found = rows_of(out / "unknown_label.csv")
    assert [row["path"][-5:] for row in found] == ["00003", "00004"] and found[0]["why"].startswith(
        "label '8' is none of"
    )
    assert "unknown label: 2" in capsys.readouterr().err


# What is missing, extra, or not as expected


def test_missing_clips_are_left_out_counted_and_listed(tmp_path, capsys):
    root, out = small_dfew(tmp_path / "in"), tmp_path / "out"
    for number in (5, 17):
        (root / f"Clip/clip_224x224/{number:05d}").rmdir()
    make_folders(root / "Clip/clip_224x224", ["00099", ".hidden", "Thumbs.db"])
    assert run("dfew", "--root", root, "--out", out) == 1
    paths = [row["path"] for row in rows_of(out / "missing.csv")]
    assert sorted(paths) == ["Clip/clip_224x224/00005", "Clip/clip_224x224/00017"]  # once each, in whichever fold
    assert [row["path"] for row in rows_of(out / "extra.csv")] == ["Clip/clip_224x224/00099"]
    found = manifests(out)
    for fold in range(1, 6):
        every = [sample.key for part in ("train", "val", "test") for sample in found[f"{fold} {part}"]]
        assert len(set(every)) == len(every) == 38 and not set(paths) & set(every)
    notes = read_dataset(out).notes
    assert (notes["missing"], notes["extra"], notes["listed"]["fold_1_test"]) == (2, 1, 8)
    text = capsys.readouterr().err
    assert "missing: 2" in text and "extra: 1" in text and "--allow_missing" in text


def one_fold(monkeypatch, expected):
    """Make the official counts those of the miniature."""
    monkeypatch.setattr(ferv39k, "DATASET", replace(ferv39k.DATASET, expected=expected))


def test_exit_status(tmp_path, monkeypatch):
    root, args = tmp_path / "in", ("ferv39k", "--root", tmp_path / "in", "--out", tmp_path / "out")
    make_ferv39k(root, {"train": 20, "test": 5})
    assert run(*args) == 1  # fewer than the official clips
    one_fold(monkeypatch, {"train": 20, "test": 5})
    assert run(*args) == 0
    make_folders(root / "2_ClipsforFaceCrop/Action/Happy", ["9999"])
    assert run(*args) == 0  # extra clips harm nothing
    next((root / "2_ClipsforFaceCrop/Action/Happy").glob("00*")).rmdir()
    assert run(*args) == 1
    assert run(*args, "--allow_missing", "true") == 0
    assert read_dataset(tmp_path / "out").notes["missing"] == 1


def test_a_part_without_any_clip_is_an_error(tmp_path, capsys):
    root = small_dfew(tmp_path / "in")
    for folder in (root / "Clip/clip_224x224").iterdir():
        folder.rmdir()
    assert run("dfew", "--root", root, "--out", tmp_path / "out", "--allow_missing", "true") == 1
    assert "no clip of fold_1_train (32 listed)" in capsys.readouterr().err
    assert not (tmp_path / "out/dataset.json").exists()


@pytest.mark.parametrize("name", [name for name in NAMES if name != "folder"])
def test_a_wrong_layout_says_what_was_looked_for_and_found(tmp_path, capsys, name):
    root = tmp_path / "in"
    write_large(root / "holiday" / "1.jpg")
    write_large(root / "readme.txt")
    assert run(name, "--root", root, "--out", tmp_path / "out") == 1
    text = capsys.readouterr().err.strip().splitlines()[-1]
    assert (
        text.startswith("svfap prepare: error: ") and str(root) in text and "holiday" in text and "readme.txt" in text
    )


@pytest.mark.parametrize("name", NAMES)
def test_help_says_where_to_get_it_and_what_the_folder_must_look_like(capsys, name):
    with pytest.raises(SystemExit) as stop:
        run(name, "--help")
    assert stop.value.code == 0
    text, dataset = capsys.readouterr().out, get_dataset(name)
    assert dataset.source in text and dataset.licence in text and dataset.protocol in text
    assert all(f"    {line}\n" in text for line in dataset.layout.splitlines())


def test_help_lists_the_datasets(capsys):
    with pytest.raises(SystemExit):
        main(["prepare", "--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert all(f"{name} {get_dataset(name).summary}" in text for name in NAMES)


def test_a_root_that_is_no_folder(tmp_path, capsys):
    assert run("mafw", "--root", tmp_path / "none", "--out", tmp_path / "out") == 1
    assert (
        f"root={tmp_path / 'none'}: is not a folder; give the folder of the dataset's release"
        in capsys.readouterr().err
    )


def test_settings_are_those_of_the_dataset(tmp_path):
    root = small_dfew(tmp_path / "in")
    prepared = prepare("dfew", PrepareConfig(root=root, out=tmp_path / "out"))
    assert prepared.counts["fold_1_test"] == 8 and read_dataset(tmp_path / "out").name == "dfew"
    with pytest.raises(TypeError, match="dfew takes DfewConfig, not FolderConfig"):
        prepare("dfew", FolderConfig(root=root, out=tmp_path / "out2"))
    with pytest.raises(UserError, match="dataset=dfw: is none of dfew, "):
        prepare("dfw", PrepareConfig(root=root, out=tmp_path / "out2"))


def test_settings_come_from_a_file_and_flags_override_it(tmp_path):
    root = small_dfew(tmp_path / "in")
    text = f"root: {root}\nout: {tmp_path / 'out'}\nvalidation: none\nallow_missing: true\nseed: 3\n"
    write(tmp_path / "dfew.yaml", text)
    assert run("dfew", "--config", tmp_path / "dfew.yaml", "--validation", "stratified") == 0
    assert read_dataset(tmp_path / "out").notes["validation"] == "stratified: 0.1 of training, seed 3"


def test_a_flag_alone_sets_a_boolean(tmp_path):
    root = small_dfew(tmp_path / "in")
    assert run("dfew", "--allow_missing", "--root", root, "--out", tmp_path / "out") == 0
    assert run("dfew", "--allow_missing", "false", "--root", root, "--out", tmp_path / "out") == 1


@pytest.mark.parametrize("args", [(), ("dfew",), ("folder",)])
def test_help_needs_no_numpy(args):
    code = f"import sys; from svfap.cli.main import main\ntry: main(['prepare', *{args}, '--help'])\n"
    code += "finally: print(sorted({'numpy', 'pandas', 'torch', 'sklearn', 'cv2'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout.splitlines()[-1] == "[]"


def test_another_dataset_is_not_overwritten(tmp_path, capsys):
    root = small_dfew(tmp_path / "in")
    run("dfew", "--root", root, "--out", tmp_path / "out")
    make_ferv39k(tmp_path / "in2", {"train": 20, "test": 5})
    assert run("ferv39k", "--root", tmp_path / "in2", "--out", tmp_path / "out") == 1
    assert "holds the dataset dfew already" in capsys.readouterr().err
    assert read_dataset(tmp_path / "out").name == "dfew"


def test_a_preparation_that_fails_leaves_the_former_one(tmp_path):
    root, out = small_dfew(tmp_path / "in"), tmp_path / "out"
    run("dfew", "--root", root, "--out", out)
    former = {file.name: file.read_text() for file in out.iterdir()}
    write(root / DFEW_SETS.format(part="train", fold=3), "video_name,label\nbroken\n")
    assert run("dfew", "--root", root, "--out", out, "--validation", "none") == 1
    assert {file.name: file.read_text() for file in out.iterdir()} == former
    assert run("dfew", "--root", root, "--out", tmp_path / "new", "--validation", "none") == 1
    with pytest.raises(UserError, match=r"holds no dataset\.json"):
        read_dataset(tmp_path / "new")


def config(folder: Path, **settings: object) -> PrepareConfig:
    return PrepareConfig(root=folder, out=folder / "out", **settings)


def fake(parts: list[Part], **kwargs: object) -> Dataset:
    texts = dict.fromkeys(("summary", "source", "licence", "layout", "protocol", "checked"), "")
    return Dataset("fake", "Fake", **texts, read=lambda release: parts, **({"label_names": ("a", "b")} | kwargs))


def test_clips_listed_twice_in_a_fold_are_left_out_and_listed(tmp_path):
    train = [ClipRow(f"{n}.mp4", "ab"[n % 2]) for n in range(10)]
    parts = [
        Part("train", [*train, train[3]], on_disk=True),
        Part("test", [ClipRow("x.mp4", "a"), train[4]], on_disk=True),
    ]
    prepared = prepare(fake(parts), config(tmp_path, validation="none"))
    assert prepared.counts == {"train": 10, "test": 1} and not is_complete(prepared)
    assert {row["path"]: row["why"] for row in rows_of(tmp_path / "out/repeated.csv")} == {
        "3.mp4": "listed again for train",
        "4.mp4": "listed again for test",
    }


def test_a_clip_is_tested_in_one_fold_only(tmp_path):
    rows = [ClipRow(f"{n}.mp4", "ab"[n % 2]) for n in range(6)]
    folds = {"1": rows[:3], "2": rows[2:]}  # 2.mp4 stands in the test lists of both
    parts = [
        Part(part, tested if part == "test" else [row for row in rows if row not in tested], fold, on_disk=True)
        for fold, tested in folds.items()
        for part in ("train", "test")
    ]
    prepared = prepare(fake(parts), config(tmp_path, validation="none"))
    assert prepared.counts == {"fold_1_train": 3, "fold_1_test": 3, "fold_2_train": 2, "fold_2_test": 3}
    assert not is_complete(prepared)
    assert rows_of(tmp_path / "out/repeated.csv") == [{"path": "2.mp4", "why": "listed again for fold_2_test"}]


def test_a_subject_on_both_sides_is_an_error(tmp_path):
    rows = [ClipRow(f"{n}.mp4", "a", subject=f"s{n % 4}") for n in range(12)]
    parts = [Part("train", rows[:9], "1", True), Part("test", rows[9:], "1", True)]
    dataset = fake(parts, columns=("subject",), subject_independent=True)
    with pytest.raises(UserError, match="fold_1_test: subject s1 is in train too"):
        prepare(dataset, config(tmp_path, validation="none"))
    del parts[1]  # among training and validation it is a choice, and written down
    prepared = prepare(dataset, config(tmp_path, validation="stratified"))
    assert prepared.notes["validation"] == "stratified: 0.1 of training, seed 0"


def test_values_that_are_no_numbers_or_out_of_range_are_listed(tmp_path):
    values = [0.5, float("nan"), 1.5, 0.0, 1.0]
    rows = [ClipRow(f"{n}.mp4", values={"joy": value}) for n, value in enumerate(values)]
    dataset = fake([Part("train", rows, on_disk=True)], task="regression", label_names=("joy",), label_range=(0.0, 1.0))
    prepared = prepare(dataset, config(tmp_path, validation="none"))
    assert prepared.notes["unknown_label"] == 2 and prepared.label_range == (0.0, 1.0)
    found = manifests(tmp_path / "out")["1 train"]
    assert [(sample.key, sample.values) for sample in found] == [
        ("0.mp4", (0.5,)),
        ("3.mp4", (0.0,)),
        ("4.mp4", (1.0,)),
    ]
    assert rows_of(tmp_path / "out/unknown_label.csv")[1] == {
        "path": "2.mp4",
        "why": "joy is 1.5, not a number from 0 to 1",
    }


# Validation


def keys(manifest: Manifest) -> set[str]:
    return {sample.key for sample in manifest}


def test_validation_is_carved_from_training_stratified_and_seeded(tmp_path):
    root = small_dfew(tmp_path / "in", 175)
    found = {}
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        run("dfew", "--root", root, "--out", tmp_path / name, "--seed", seed, "--val_fraction", "0.2")
        found[name] = manifests(tmp_path / name)
    run("dfew", "--root", root, "--out", tmp_path / "none", "--validation", "none")
    whole = manifests(tmp_path / "none")
    for fold in range(1, 6):
        train, val, test = (found["a"][f"{fold} {part}"] for part in ("train", "val", "test"))
        assert keys(train) | keys(val) == keys(whole[f"{fold} train"]) and not keys(train) & keys(val)
        assert keys(test) == keys(whole[f"{fold} test"])  # test is as the protocol says
        assert len(val) == 28 and set(Counter(val.labels).values()) == {4}
        assert keys(val) == keys(found["b"][f"{fold} val"]) != keys(found["c"][f"{fold} val"])
    assert "1 val" not in whole
    assert read_dataset(tmp_path / "a").notes["validation"] == "stratified: 0.2 of training, seed 0"
    assert read_dataset(tmp_path / "a").counts["fold_1_train"] == 140 - 28


def test_validation_by_subject_needs_subjects(tmp_path, capsys):
    assert run("dfew", "--root", small_dfew(tmp_path / "in"), "--out", tmp_path / "out", "--validation", "subject") == 1
    assert "validation=subject: DFEW names no subjects" in capsys.readouterr().err
    assert run("dfew", "--root", tmp_path / "in", "--out", tmp_path / "out", "--val_fraction", "1") == 1
    assert "val_fraction=1.0: must lie between 0 and 1" in capsys.readouterr().err


def test_an_official_validation_part_is_kept(tmp_path):
    rows = [ClipRow(f"{n}.mp4", "ab"[n % 2]) for n in range(12)]
    parts = [
        Part("train", rows[:6], None, True),
        Part("val", rows[6:8], None, True),
        Part("test", rows[8:], None, True),
    ]
    prepared = prepare(fake(parts, has_validation=True), config(tmp_path))
    assert prepared.counts == {"train": 6, "val": 2, "test": 4} and prepared.notes["validation"] == "the dataset's own"
    assert keys(manifests(tmp_path / "out")["1 val"]) == {"6.mp4", "7.mp4"}


# FERV39k


def make_ferv39k(
    root: Path, sizes: dict[str, int], scenes: tuple[str, ...] = ("Action", "Daily life"), make=os.mkdir
) -> None:
    classes = get_dataset("ferv39k").label_names
    number = 0
    for scene in scenes:
        make_folders(root / "2_ClipsforFaceCrop" / scene, list(classes))
    for part, size in sizes.items():
        lines = []
        for _ in range(size):
            clip = f"{scenes[number % len(scenes)]}/{classes[number % 7]}/{number:05d}"
            make(f"{root}/2_ClipsforFaceCrop/{clip}")
            lines.append(f"{clip} {classes[number % 7]}")
            number += 1
        write(root / f"4_setups/All_scenes/{part}_All.csv", "\n".join(lines) + "\n")


def test_ferv39k_every_row(tmp_path):
    root, out = tmp_path / "FERV39k", tmp_path / "out"
    make_ferv39k(root, {"train": 20, "test": 7})
    for file in (root / "4_setups/All_scenes").iterdir():  # spaces at the end, line ends of Windows, a byte-order mark
        file.write_bytes("\ufeff".encode() + file.read_text().replace("\n", " \r\n").encode() + b"\r\n")
    assert run("ferv39k", "--root", root, "--out", out, "--validation", "none") == 1
    dataset, found = read_dataset(out), manifests(out)
    assert dataset.sampling_stride == 1 and [fold.name for fold in dataset.folds] == ["1"]
    assert {file.name for file in out.glob("t*.csv")} == {"train.csv", "test.csv"}
    classes = ("Happy", "Sad", "Neutral", "Angry", "Surprise", "Disgust", "Fear")
    expected = [
        (f"2_ClipsforFaceCrop/{('Action', 'Daily life')[n % 2]}/{classes[n % 7]}/{n:05d}", classes[n % 7])
        for n in range(27)
    ]
    assert samples(found["1 train"]) == expected[:20] and samples(found["1 test"]) == expected[20:]


def test_ferv39k_a_bad_line_and_an_unknown_label(tmp_path, capsys):
    root = tmp_path / "in"
    make_ferv39k(root, {"train": 20, "test": 7})
    file = root / "4_setups/All_scenes/test_All.csv"
    write(file, file.read_text().replace(" Sad", " Gloomy"))
    run("ferv39k", "--root", root, "--out", tmp_path / "out")
    assert rows_of(tmp_path / "out/unknown_label.csv")[0]["why"].startswith("label 'Gloomy' is none of Happy, Sad")
    write(file, "Action/Happy/0001,Happy\n")
    assert run("ferv39k", "--root", root, "--out", tmp_path / "out") == 1
    assert "line 1: expected 'Scene/Emotion/0118 Happy', not 'Action/Happy/0001,Happy'" in capsys.readouterr().err


# MAFW


def make_mafw(root: Path, num_clips: int, sizes: list[int], media: str = "data/frames", suffix: str = "") -> None:
    classes = get_dataset("mafw").label_names
    numbers, start = list(range(1, num_clips + 1)), 0
    make_folders(root / media, [f"{number:05d}{suffix}" for number in numbers], make_large if suffix else os.mkdir)
    for fold, size in enumerate(sizes, 1):
        parts = {"test": numbers[start : start + size], "train": numbers[:start] + numbers[start + size :]}
        start += size
        for part, chosen in parts.items():
            lines = "".join(f"{n:05d}.mp4 {classes[n % 11]}\n" for n in chosen)
            write(root / f"Train & Test Set/single/no_caption/set_{fold}/{part}.txt", lines)


@pytest.mark.parametrize("media, suffix", [("data/frames", ""), ("data/clips", ".mp4")])
def test_mafw_every_row_from_frames_and_from_clips(tmp_path, media, suffix):
    root, out = tmp_path / "MAFW", tmp_path / "out"
    make_mafw(root, 55, [11] * 5, media, suffix)
    if not suffix:  # `00001.mp4` in the lists means the folder of .png frames
        cv2.imwrite(str(root / media / "00001" / "1.png"), np.full((8, 8, 3), 200, np.uint8))
    run("mafw", "--root", root, "--out", out, "--validation", "none")
    found, classes = manifests(out), read_dataset(out).label_names
    assert len(classes) == 11 and (classes[0], classes[-1]) == ("anger", "disappointment")
    expected = [(f"{media}/{n:05d}{suffix}", classes[n % 11]) for n in range(1, 56)]
    for fold in range(5):
        tested = expected[11 * fold : 11 * fold + 11]
        assert samples(found[f"{fold + 1} test"]) == tested
        assert samples(found[f"{fold + 1} train"]) == [item for item in expected if item not in tested]
    if not suffix:
        with open_video(found["1 test"][0].path) as video:
            assert video.num_frames == 1


def test_mafw_a_bad_line(tmp_path, capsys):
    make_mafw(tmp_path / "in", 55, [11] * 5)
    write(tmp_path / "in/Train & Test Set/single/no_caption/set_1/test.txt", "00001.mp4 anger\n\n00002.mp4\n")
    assert run("mafw", "--root", tmp_path / "in", "--out", tmp_path / "out") == 1
    assert "set_1/test.txt: line 3: expected '00025.mp4 anger', not '00002.mp4'" in capsys.readouterr().err


# Official sizes


def assert_folds_are_disjoint_and_complete(out: Path, num_clips: int) -> None:
    found = {name: set(manifest.table["path"]) for name, manifest in manifests(out).items()}
    dataset = read_dataset(out)
    tests = [found[f"{fold.name} test"] for fold in dataset.folds]
    for fold, tested in zip(dataset.folds, tests, strict=True):
        trained = found[f"{fold.name} train"]
        assert not trained & tested and len(trained) + len(tested) == num_clips
    if len(tests) > 1:
        assert len(set().union(*tests)) == sum(map(len, tests)) == num_clips


@pytest.mark.slow
def test_official_size_dfew(tmp_path):
    sizes = [2341, 2341, 2340, 2339, 2336]
    make_dfew(tmp_path / "in", {n: n % 7 + 1 for n in range(1, 11698)}, sizes, make=make_large)
    assert run("dfew", "--root", tmp_path / "in", "--out", tmp_path / "out", "--validation", "none") == 0
    counts = read_dataset(tmp_path / "out").counts
    assert [counts[f"fold_{fold}_test"] for fold in range(1, 6)] == sizes
    assert [counts[f"fold_{fold}_train"] for fold in range(1, 6)] == [9356, 9356, 9357, 9358, 9361]
    assert_folds_are_disjoint_and_complete(tmp_path / "out", 11697)


@pytest.mark.slow  # 39,000 files, which take longer to remove than to make
def test_official_size_ferv39k(tmp_path):
    make_ferv39k(tmp_path / "in", {"train": 31088, "test": 7847}, tuple(f"Scene{n}" for n in range(22)), make_large)
    args = ["prepare", "ferv39k", "--root", tmp_path / "in", "--out", tmp_path / "out", "--validation", "none"]
    assert main([str(arg) for arg in args]) == 0
    assert read_dataset(tmp_path / "out").counts == {"train": 31088, "test": 7847}
    assert_folds_are_disjoint_and_complete(tmp_path / "out", 38935)


@pytest.mark.slow
def test_official_size_mafw(tmp_path):
    sizes = [1839, 1837, 1833, 1832, 1831]
    make_mafw(tmp_path / "in", 9172, sizes, "data/clips", ".mp4")
    assert run("mafw", "--root", tmp_path / "in", "--out", tmp_path / "out", "--validation", "none") == 0
    counts = read_dataset(tmp_path / "out").counts
    assert [counts[f"fold_{fold}_test"] for fold in range(1, 6)] == sizes
    assert_folds_are_disjoint_and_complete(tmp_path / "out", 9172)


# VoxCeleb2


def test_voxceleb2_every_row_and_the_clips_left_out(tmp_path, capsys):
    root, out = tmp_path / "vox", tmp_path / "out"
    clips = [f"id0001{s}/video{v}/0000{c}.mp4" for s in (2, 5) for v in "ab" for c in (1, 2)]
    for clip in [*clips, "id00012/videoa/notes.txt"]:
        write_large(root / "dev/mp4" / clip)
    write(tmp_path / "broken.txt", "id00012/videob/00002.mp4\ndev/mp4/id00015/videoa/00001\n\n")
    args = ("voxceleb2", "--root", root, "--out", out, "--exclude", tmp_path / "broken.txt")
    assert run(*args) == 1 and run(*args, "--allow_missing", "true") == 0
    dataset = read_dataset(out)
    assert dataset.task == "unlabelled" and dataset.folds == () and dataset.counts == {"pretrain": 6}
    left = [clip for clip in clips if clip not in ("id00012/videob/00002.mp4", "id00015/videoa/00001.mp4")]
    assert rows_of(out / "pretrain.csv") == [
        {"path": f"dev/mp4/{clip}", "subject": clip[:7], "box": "32 0 160 160"} for clip in left
    ]
    manifest = read_manifest(dataset.pretrain, root=dataset.root, task="unlabelled")
    assert [sample.path for sample in manifest] == [root / "dev/mp4" / clip for clip in left]
    assert {sample.box for sample in manifest} == {(32, 0, 160, 160)}
    assert dataset.notes["left_out"] == 2 and dataset.notes["extra"] == 1
    assert dataset.notes["count_mismatch"] == {"pretrain": {"official": 1092009 - 2, "found": 6}}
    assert run(*args, "--whole_frames", "true", "--allow_missing", "true") == 0
    assert {row["box"] for row in rows_of(out / "pretrain.csv")} == {""}
    write(tmp_path / "broken.txt", "00002.mp4\n")
    assert run(*args) == 1
    assert "broken.txt: expected 'id00012/21Uxsk56VDQ/00001.mp4', not '00002.mp4'" in capsys.readouterr().err


@pytest.mark.slow
def test_unlabelled_clips_stream(tmp_path, monkeypatch):
    """Held in memory, so many rows would take 10 MB."""
    # pathlib interns the parts of a path; the table of such strings is the whole program's, and where it grows, does so by 15 MB.
    monkeypatch.setattr(sys, "intern", lambda text: text)

    def prepared(count: int, folder: Path) -> Mapping[str, int]:
        folder.mkdir()
        rows = (ClipRow(f"{n:07d}.mp4", subject=f"id{n // 100}") for n in range(count))
        part = Part("pretrain", rows, on_disk=True)
        return prepare(fake([part], task="unlabelled", label_names=(), columns=("subject",)), config(folder)).counts

    prepared(10, tmp_path / "first")  # what is imported when it is first needed does not count
    gc.collect()
    tracemalloc.start()
    try:
        assert prepared(20_000, tmp_path / "many") == {"pretrain": 20_000}
        assert tracemalloc.get_traced_memory()[1] < 2e6
    finally:
        tracemalloc.stop()


# Own data


def test_folder_one_folder_per_class(tmp_path):
    root, out = tmp_path / "in", tmp_path / "out"
    expected = []
    for label in ("sad", "happy"):
        for n in range(10):
            write_large(root / label / f"{n}.MP4")
            expected.append((f"{label}/{n}.MP4", label))
        write_large(root / label / "anna" / "7" / "1.png")
        expected.append((f"{label}/anna/7", label))
    write_large(root / "sad" / "notes.txt")
    write_large(root / "papers" / "consent.pdf")
    assert run("folder", "--root", root, "--out", out, "--validation", "none") == 0
    dataset, found = read_dataset(out), manifests(out)
    assert dataset.label_names == ("happy", "sad") and dataset.counts == {"train": 18, "test": 4}
    assert sorted(samples(found["1 train"]) + samples(found["1 test"])) == sorted(expected)
    assert Counter(found["1 test"].labels) == {0: 2, 1: 2}
    assert {row["path"] for row in rows_of(out / "extra.csv")} == {"sad/notes.txt", "papers/consent.pdf"}
    assert run("folder", "--root", root, "--out", out, "--label_names", "[sad, happy]", "--test_fraction", "0") == 0
    dataset = read_dataset(out)
    assert dataset.label_names == ("sad", "happy") and dataset.folds[0].test is None and not (out / "test.csv").exists()


def make_table(tmp_path: Path, num_subjects: int = 12) -> tuple[Path, list[dict[str, str]]]:
    """A table with columns of its own names, and its rows."""
    rows = []
    for n in range(num_subjects * 5):
        who = n % num_subjects
        rows.append(
            {"Clip": f"clips/{n}.avi", "Emotion": ("joy", "fear, mild", "3")[n % 3], "V": f"{n / 60:.3f}", "A": f"{-n}"}
            | {
                "Who": f"P{who}",
                "Task": f"t{n % 2}",
                "Use": ("train", "train", "val", "test")[who % 4],
                "start_s": f"{n}.5",
            }
        )
        write_large(tmp_path / "in" / "clips" / f"{n}.avi")
    with (tmp_path / "table.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return tmp_path / "table.csv", rows


def prepare_table(tmp_path: Path, *args: object) -> int:
    common = (
        "--root",
        tmp_path / "in",
        "--out",
        tmp_path / "out",
        "--table",
        tmp_path / "table.csv",
        "--path_column",
        "Clip",
    )
    return run("folder", *common, *args)


def test_folder_table_with_a_column_of_parts(tmp_path):
    _, rows = make_table(tmp_path)
    args = ("--label_column", "Emotion", "--subject_column", "Who", "--group_column", "Task", "--split_column", "Use")
    assert prepare_table(tmp_path, *args) == 0
    dataset, found = read_dataset(tmp_path / "out"), manifests(tmp_path / "out")
    assert dataset.label_names == ("3", "fear, mild", "joy") and dataset.notes["validation"] == "the dataset's own"
    for part in ("train", "val", "test"):
        got = [
            (s.key, dataset.label_names[s.label], s.subject, s.group, s.start_s, s.values) for s in found[f"1 {part}"]
        ]
        assert got == [
            (f"{row['Clip']}#t={row['start_s']},", row["Emotion"], row["Who"], row["Task"], float(row["start_s"]), None)
            for row in rows
            if row["Use"] == part
        ]


def test_folder_table_of_values_split_by_subject(tmp_path):
    _, rows = make_table(tmp_path)
    assert prepare_table(tmp_path, "--value_columns", "V,A", "--subject_column", "Who", "--test_fraction", "0.25") == 0
    dataset, found = read_dataset(tmp_path / "out"), manifests(tmp_path / "out")
    assert (dataset.task, dataset.label_names, dataset.metrics) == ("regression", ("V", "A"), ("pcc", "ccc"))
    subjects = {part: set(found[f"1 {part}"].subjects) for part in ("train", "val", "test")}
    assert len(subjects["test"]) == 3 and len(subjects["val"]) == 1
    assert len(set().union(*subjects.values())) == sum(map(len, subjects.values())) == 12
    values = {sample.path.name: sample.values for manifest in found.values() for sample in manifest}
    assert values == {row["Clip"][6:]: (float(row["V"]), float(row["A"])) for row in rows}


@pytest.mark.parametrize("by_subject", [True, False])
def test_folder_cross_validation(tmp_path, by_subject):
    make_table(tmp_path)
    args = ["--label_column", "Emotion", "--folds", 4, *(["--subject_column", "Who"] if by_subject else [])]
    assert prepare_table(tmp_path, *args) == 0
    found = manifests(tmp_path / "out")
    tests = [keys(found[f"{fold} test"]) for fold in range(1, 5)]
    assert len(set().union(*tests)) == sum(map(len, tests)) == 60
    for fold in range(1, 5):
        train, val, test = (found[f"{fold} {part}"] for part in ("train", "val", "test"))
        assert len(train) + len(val) + len(test) == 60 and set(Counter(test.labels).values()) == {5}
        if by_subject:
            sides = [set(part.subjects) for part in (train, val, test)]
            assert len(set().union(*sides)) == sum(map(len, sides)) == 12
    first = [(tmp_path / "out" / f"fold_{fold}_test.csv").read_bytes() for fold in range(1, 5)]
    assert prepare_table(tmp_path, *args) == 0
    assert first == [(tmp_path / "out" / f"fold_{fold}_test.csv").read_bytes() for fold in range(1, 5)]
    assert prepare_table(tmp_path, *args, "--seed", 1) == 0
    assert first != [(tmp_path / "out" / f"fold_{fold}_test.csv").read_bytes() for fold in range(1, 5)]


def frame_table(tmp_path: Path, header: str, *lines: str) -> None:
    """A table, and a video for each of its lines."""
    write(tmp_path / "table.csv", "\n".join([header, *lines]))
    for line in lines:
        write_large(tmp_path / "in" / line.split(",")[0])


def test_folder_numbers_per_frame_in_cells(tmp_path, capsys):
    lines = ["a.mp4,1 2  6,0.5,train", "b.mp4,4,0 1,train", "c.mp4,-1 x,1,train", "d.mp4,2,3,train", "e.mp4,5 7,9,test"]
    frame_table(tmp_path, "Clip,V,A,Use", *lines)
    args = ("--value_columns", "V,A", "--split_column", "Use", "--validation", "none")
    assert prepare_table(tmp_path, *args) == 1
    dataset = read_dataset(tmp_path / "out")
    assert dataset.frame_level and dataset.label_names == ("V", "A")
    assert [row["path"] for row in rows_of(tmp_path / "out/unknown_label.csv")] == ["c.mp4"]
    assert rows_of(tmp_path / "out/test.csv") == [{"path": "e.mp4", "V": "5 7", "A": "9"}]
    manifest = read_manifest(tmp_path / "out/train.csv", task="regression", dimensions=("V", "A"), frame_level=True)
    assert [sample.values for sample in manifest] == [(3.0, 0.5), (4.0, 0.5), (2.0, 3.0)]
    numbers = [None if sample.frame_numbers is None else sample.frame_numbers.tolist() for sample in manifest]
    assert numbers == [[[1, 0.5], [2, 0.5], [6, 0.5]], [[4, 0], [4, 1]], None]
    frame_table(tmp_path, "Clip,V,A,Use", *lines, "f.mp4,1 2 3,1 2,train")
    assert prepare_table(tmp_path, *args) == 1
    assert "line 7: expected as many numbers in each of V, A, not '1 2 3, 1 2'" in capsys.readouterr().err
    frame_table(tmp_path, "Clip,V,A,Use", "d.mp4,2,3,train", "e.mp4,5,9,test")
    assert prepare_table(tmp_path, *args) == 0
    assert not read_dataset(tmp_path / "out").frame_level


@pytest.mark.parametrize("task", ["classification", "regression"])
def test_folder_files_of_labels_per_frame(tmp_path, task):
    frame_table(
        tmp_path, "Clip,Side,V", *(f"{n}.mp4,{side},7" for n, side in enumerate(["s/0.csv", "s/1.csv", "s/2.csv", ""]))
    )
    for n, (label, value) in enumerate([("smile", 0.5), ("rest", 1)]):
        write(tmp_path / f"in/s/{n}.csv", f"label,V\n{label},{value}\n")
    names = {"classification": ("smile", "rest"), "regression": ("V",)}[task]
    args = ["--frame_values_column", "Side", "--test_fraction", 0, "--validation", "none"]
    args += ["--label_names" if task == "classification" else "--value_columns", ",".join(names)]
    assert prepare_table(tmp_path, *args) == 1
    dataset = read_dataset(tmp_path / "out")
    assert (dataset.task, dataset.frame_level, dataset.label_names) == (task, True, names)
    assert rows_of(tmp_path / "out/train.csv") == [{"path": f"{n}.mp4", "frame_values": f"s/{n}.csv"} for n in (0, 1)]
    assert rows_of(tmp_path / "out/missing.csv") == [{"path": "s/2.csv", "why": "labels per frame of 2.mp4"}]
    assert rows_of(tmp_path / "out/unknown_label.csv") == [{"path": "3.mp4", "why": "has no file of labels per frame"}]
    named = {"label_names" if task == "classification" else "dimensions": names}
    manifest = read_manifest(dataset.folds[0].train, root=dataset.root, task=task, frame_level=True, **named)
    found = [frame_targets(manifest, sample).tolist() for sample in manifest]
    assert found == ([[0], [1]] if task == "classification" else [[[0.5]], [[1]]])


def test_folder_files_of_labels_per_frame_beside_a_label(tmp_path):
    frame_table(tmp_path, "Clip,Side,Kind", "a.mp4,a.csv,smile", "b.mp4,,rest", "c.mp4,,smile")
    write(tmp_path / "in/a.csv", "label\nrest\n")
    args = ("--frame_values_column", "Side", "--label_column", "Kind", "--test_fraction", 0, "--validation", "none")
    assert prepare_table(tmp_path, *args) == 0
    dataset, train = read_dataset(tmp_path / "out"), rows_of(tmp_path / "out/train.csv")
    assert dataset.frame_level and dataset.label_names == ("rest", "smile")
    assert [tuple(row.values()) for row in train] == [
        *(("a.mp4", "smile", "a.csv"), ("b.mp4", "rest", ""), ("c.mp4", "smile", "")),
    ]


def test_folder_table_without_labels_is_for_pretraining(tmp_path):
    _, rows = make_table(tmp_path)
    (tmp_path / "in/clips/3.avi").unlink()
    assert prepare_table(tmp_path, "--subject_column", "Who") == 1
    dataset = read_dataset(tmp_path / "out")
    manifest = read_manifest(dataset.pretrain, root=dataset.root, task="unlabelled")
    expected = [(tmp_path / "in" / row["Clip"], row["Who"], float(row["start_s"])) for row in rows]
    assert [(s.path, s.subject, s.start_s) for s in manifest] == [item for item in expected if item[0].name != "3.avi"]
    assert dataset.task == "unlabelled" and dataset.notes["missing"] == 1


def test_folder_unlabelled(tmp_path):
    for name in ("a/1.mp4", "a/b/2.mkv", "frames/x/1.jpg", "frames/x/2.jpg", "frames/y/1.png", "top.mp4", "a/list.txt"):
        write_large(tmp_path / "in" / name)
    assert run("folder", "--root", tmp_path / "in", "--out", tmp_path / "out", "--unlabelled", "true") == 0
    paths = [row["path"] for row in rows_of(tmp_path / "out/pretrain.csv")]
    assert sorted(paths) == ["a/1.mp4", "a/b/2.mkv", "frames/x", "frames/y", "top.mp4"]


@pytest.mark.parametrize(
    "args, message",
    [
        (["--label_column", "Feeling"], "no column 'Feeling'; there are Clip, Emotion, V"),
        (["--label_column", "Emotion", "--split_column", "Who"], "column 'Who' holds 'P0'; use train, val, test"),
        (["--label_column", "Emotion", "--value_columns", "[V]"], "a dataset has one task"),
        (["--label_column", "Emotion", "--folds", "1"], "folds: give 2 or more"),
        (
            ["--label_column", "Emotion", "--folds", "13", "--subject_column", "Who"],
            "folds=13: there are only 12 subjects",
        ),
        (["--label_column", "Clip", "--folds", "3"], "folds=3: no class has that many clips, the largest 1"),
        (
            ["--label_column", "Emotion", "--label_names", "sad,sad,calm"],
            "label_names: contains a name twice (sad, sad, calm)",
        ),
        (["--value_columns", "V,V"], "value_columns: contains a name twice (V, V)"),
        (
            ["--frame_values_column", "Who"],
            "--frame_values_column: name what its files contain, with --value_columns or --label_",
        ),
        (["--frame_values_column", "X", "--value_columns", "V"], "no column 'X'; there are Clip, Emotion, V"),
        (
            ["--frame_values_column", "Who", "--value_columns", "V", "--label_names", "sad,calm"],
            "a dataset has one task",
        ),
        (["--value_columns", "V", "--label_names", "sad,calm"], "--label_names: are the classes of --label_column"),
        (["--label_column", "Emotion", "--test_fraction", "1"], "test_fraction=1.0: must be"),
        (["--value_columns", "[Who]"], "no clip of train (48 listed) can be used"),
        (["--value_columns", "[start_s]"], "value_columns: 'start_s' is reserved in manifests"),
    ],
)
def test_folder_mistakes(tmp_path, capsys, args, message):
    make_table(tmp_path)
    assert prepare_table(tmp_path, *args) == 1
    assert message in capsys.readouterr().err


def test_folder_without_classes(tmp_path, capsys):
    write_large(tmp_path / "in/readme.txt")
    assert run("folder", "--root", tmp_path / "in", "--out", tmp_path / "out") == 1
    assert "looked for one folder of videos per class" in capsys.readouterr().err
    assert run("folder", "--root", tmp_path / "in", "--out", tmp_path / "out", "--label_column", "x") == 1
    assert "label_column: names a column of a table" in capsys.readouterr().err
