"""Every setting of `svfap prepare`, for every dataset, has its effect on manifests, labels, parts and exit status."""

from __future__ import annotations

import csv
import pickle
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from large_files import make_large
from observe import Effect, check

from svfap.cli.prepare import run
from svfap.data.prepared import read_dataset
from svfap.datasets.chalearn import FILES, TRAITS
from svfap.datasets.config import PrepareConfig
from svfap.datasets.dataset import NAMES, get_dataset

SHARED: dict[str, Effect] = {  # on CREMA-D
    "root": Effect({}, {"root": "crema_d_other"}, ("rows",), ("files",)),
    "out": Effect({}, {"out": "there"}, ("out",), ("rows", "files")),
    "faces": Effect({"faces": "none"}, {"faces": "face_frames"}, ("paths", "pictures"), ("labels",)),
    "validation": Effect({"validation": "none"}, {"validation": "subject"}, ("files", "validation")),
    "val_fraction": Effect(
        {"validation": "subject", "val_fraction": 0.2}, {"validation": "subject", "val_fraction": 0.5},
        ("sizes", "validation"), ("files",),
    ),
    "seed": Effect({"validation": "subject"}, {"validation": "subject", "seed": 3}, ("rows", "validation"), ("files",)),
    "allow_missing": Effect({}, {"allow_missing": True}, ("status",), ("rows",)),
}  # fmt: skip

TABLE = {"table": "t.csv", "label_column": "emotion", "test_fraction": 0.0}
VALUES = {"table": "t.csv", "value_columns": "v,a", "test_fraction": 0.0}
FRAMES = {**VALUES, "frame_values_column": "frames"}
SPLIT = {"table": "t.csv", "label_column": "emotion"}
EFFECTS: dict[str, dict[str, Effect]] = {
    "crema_d": {"media": Effect({}, {"media": "Other"}, ("paths",), ("labels", "files"))},
    "dfew": {"media": Effect({"media": "Clip/jpg_256"}, {"media": "Mine"}, ("paths",), ("labels", "files"))},
    "mafw": {"media": Effect({"media": "data/frames"}, {"media": "mine"}, ("paths",), ("labels", "files"))},
    "ferv39k": {},
    "ravdess": {},
    "enterface05": {},
    "werewolf_xl": {
        "annotations": Effect({}, {"annotations": "other.csv"}, ("rows",), ("paths", "files")),
        "media": Effect({}, {"media": "b"}, ("paths",), ("files",)),
    },
    "avcaffe": {
        "target": Effect({}, {"target": "valence"}, ("name", "label_names", "labels"), ("paths", "files")),
        "media": Effect({}, {"media": "mine"}, ("paths",), ("labels", "files")),
    },
    "chalearn": {"media": Effect({}, {"media": "b"}, ("paths",), ("files",))},
    "voxceleb2": {
        "exclude": Effect({}, {"exclude": "out.txt"}, ("paths", "left_out"), ("files",)),
        "whole_frames": Effect({}, {"whole_frames": True}, ("rows",), ("paths",)),
    },
    "folder": {
        "unlabelled": Effect({"test_fraction": 0.0}, {"unlabelled": True}, ("task", "files")),
        "stills": Effect({}, {"stills": True}, ("paths", "labels"), ("files", "label_names")),
        "table": Effect(TABLE, {**TABLE, "table": "other.csv"}, ("rows",), ("files", "columns")),
        "path_column": Effect(TABLE, {**TABLE, "path_column": "copy"}, ("paths",), ("labels", "columns")),
        "label_column": Effect(TABLE, {**TABLE, "label_column": "mood"}, ("labels", "label_names"), ("paths",)),
        "value_columns": Effect(VALUES, {**VALUES, "value_columns": ["a"]}, ("label_names", "columns"), ("paths", "task")),
        "label_names": Effect(TABLE, {**TABLE, "label_names": "sad,happy"}, ("label_names",), ("paths", "labels")),
        "frame_values_column": Effect(VALUES, FRAMES, ("columns", "frame_level"), ("paths", "label_names")),
        "subject_column": Effect(TABLE, {**TABLE, "subject_column": "who"}, ("columns",), ("paths", "labels")),
        "group_column": Effect(TABLE, {**TABLE, "group_column": "task"}, ("columns",), ("paths", "labels")),
        "split_column": Effect(
            {**SPLIT, "split_column": "part"}, {**SPLIT, "split_column": "part2"}, ("sizes",), ("label_names", "task")
        ),
        "folds": Effect({**SPLIT, "folds": 2}, {**SPLIT, "folds": 3}, ("files",), ("label_names", "task")),
        "test_fraction": Effect(SPLIT, {**SPLIT, "test_fraction": 0.5}, ("sizes",), ("files",)),
    },
}  # fmt: skip
BASE = {  # settings of every run of a dataset
    "werewolf_xl": {"annotations": "labels.csv", "media": "a"},
    "avcaffe": {"media": "videos/shorter_segments"},
    "chalearn": {"media": "a"},
}


def touch(root: Path, *paths: str) -> None:
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        make_large(root / path)


def write(file: Path, *lines: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("\n".join(lines) + "\n")


def crema_d(root: Path, sentence: str = "DFA") -> None:
    for actor in (1001, 1002, 1019, 1020, 1037, 1055, 1073, 1074):
        clips = [f"{actor}_{sentence}_{emotion}_XX" for emotion in ("ANG", "SAD")]
        touch(root, *(f"{media}/{clip}.flv" for clip in clips for media in ("VideoFlash", "Other")))
        touch(root, *(f"face_frames/{clip}/1.jpg" for clip in clips))


def crema_d_other(root: Path) -> None:
    crema_d(root, "ITS")


def dfew(root: Path) -> None:
    for fold in range(1, 6):
        for part, clip in (("train", 10 + fold), ("test", fold)):
            lists = root / f"EmoLabel_DataSplit/{part}(single-labeled)/set_{fold}.csv"
            write(lists, "video_name,label", f"{clip},{fold}")
            touch(root, *(f"{media}/{clip:05d}/1.jpg" for media in ("Clip/jpg_256", "Mine")))


def mafw(root: Path) -> None:
    for fold in range(1, 6):
        for part, clip in (("train", 10 + fold), ("test", fold)):
            lists = root / f"Train & Test Set/single/no_caption/set_{fold}/{part}.txt"
            write(lists, f"{clip:05d}.mp4 anger")
            touch(root, *(f"{media}/{clip:05d}/1.png" for media in ("data/frames", "mine")))


def werewolf_xl(root: Path) -> None:
    clips = [f"{session:02d}_01_00{number}" for session in (1, 7, 13, 19, 25) for number in (1, 2)]
    for file, value in (("labels.csv", 1), ("other.csv", 2)):
        write(root / file, "clip,valence,arousal,dominance", *(f"{clip},{value},0,{n}" for n, clip in enumerate(clips)))
    touch(root, *(f"{media}/{clip}.mp4" for clip in clips for media in "ab"))


def avcaffe(root: Path) -> None:
    subjects = ("aiim001", "aiim002")
    for target, label in (("arousal", "Calm"), ("valence", "Pleased")):
        write(root / f"ground_truths/{target}.txt", *(f"{subject}_task_1, {label}" for subject in subjects))
    for part, subject in zip(("train", "val"), subjects, strict=True):
        write(root / f"info/{part}.txt", subject)
        for media in ("videos/shorter_segments", "mine"):
            touch(root, f"{media}/{subject}/task_1/{subject}_task_1_clip_001.avi")


def chalearn(root: Path) -> None:
    root.mkdir(parents=True)
    for number, file in enumerate(FILES.values()):
        clip = f"J4GQm9j0JZ0.00{number}.mp4"
        (root / file).write_bytes(pickle.dumps({trait: {clip: 0.5} for trait in TRAITS}, protocol=2))
        touch(root, f"a/{clip}", f"b/{clip}")


def voxceleb2(root: Path) -> None:
    touch(root, *(f"dev/mp4/id00012/21Uxsk56VDQ/0000{number}.mp4" for number in (1, 2, 3)))
    write(root / "out.txt", "id00012/21Uxsk56VDQ/00002.mp4")


def folder(root: Path) -> None:
    lines = ["path,copy,emotion,mood,v,a,frames,who,task,part,part2"]
    for n in range(12):
        name = ("happy", "sad")[n % 2]
        touch(root, f"{name}/{n}.mp4", f"copies/{n}.mp4")
        write(root / "frames" / f"{n}.csv", "v,a", "0,1")
        parts = ("train" if n < 8 else "test", "train" if n < 4 else "val" if n < 8 else "test")
        cells = (
            f"{name}/{n}.mp4",
            f"copies/{n}.mp4",
            name,
            "up" if n < 6 else "down",
            n / 10,
            n / 20,
            f"frames/{n}.csv",
        )
        lines.append(",".join(map(str, (*cells, f"p{n // 3}", f"t{n // 2}", *parts))))
    touch(root, *(f"happy/pictures/{n}.jpg" for n in range(3)))
    write(root / "t.csv", *lines)
    write(root / "other.csv", *lines[:1], *lines[5:])
    for name in ("copies", "frames"):  # not below root, where each folder is a class
        (root / name).rename(root.parent / name)
    text = (root / "t.csv").read_text().replace("copies/", "../copies/").replace("frames/", "../frames/")
    (root / "t.csv").write_text(text)


RELEASES: dict[str, Callable[[Path], None]] = {
    function.__name__: function
    for function in (crema_d, crema_d_other, dfew, mafw, werewolf_xl, avcaffe, chalearn, voxceleb2, folder)
}


class Runs:
    """Runs by their settings; each is done once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._done: dict[str, dict[str, Any]] = {}
        self._number = count()
        for name, release in RELEASES.items():
            release(folder / name / "root")

    def __call__(self, dataset: str, settings: dict[str, Any]) -> dict[str, Any]:
        key = f"{dataset} {sorted(settings.items(), key=str)}"
        if key not in self._done:
            chosen = {"validation": "none", "root": dataset, **BASE.get(dataset, {}), **settings}
            chosen["root"] = self.folder / chosen["root"] / "root"
            for name in ("table", "exclude"):
                if name in chosen:
                    chosen[name] = chosen["root"] / chosen[name]
            out = self.folder / f"out_{next(self._number)}" / chosen.get("out", "here")
            config = get_dataset(dataset).config(**{**chosen, "out": out})
            self._done[key] = observed(dataset, config)
        return self._done[key]


def observed(dataset: str, config: PrepareConfig) -> dict[str, Any]:
    status = run(config, dataset)
    described = read_dataset(config.out)
    tables = {}
    for name, file in described.manifests().items():
        with file.open(newline="") as stream:
            tables[name] = list(csv.DictReader(stream))
    rows = [row for table in tables.values() for row in table]
    return {
        "status": status,
        "out": config.out.name,
        "files": sorted(tables),
        "sizes": {name: len(table) for name, table in tables.items()},
        "rows": tables,
        "columns": list(rows[0]),
        "paths": [row["path"] for row in rows],
        "labels": [row.get("label") for row in rows],
        "left_out": described.notes["left_out"],
        "validation": described.notes["validation"],
        **{name: getattr(described, name) for name in ("name", "task", "label_names", "frame_level", "pictures")},
    }


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Runs:
    return Runs(tmp_path_factory.mktemp("wiring_prepare"))


@pytest.mark.parametrize("name", SHARED)
def test_a_setting_of_prepare_has_its_effect(name, runs):
    effect = SHARED[name]
    check(effect, runs("crema_d", effect.a), runs("crema_d", effect.b))


@pytest.mark.parametrize(("dataset", "name"), [(dataset, name) for dataset in EFFECTS for name in EFFECTS[dataset]])
def test_a_setting_of_a_dataset_has_its_effect(dataset, name, runs):
    effect = EFFECTS[dataset][name]
    check(effect, runs(dataset, effect.a), runs(dataset, effect.b))


def test_columns_of_subjects_and_groups_hold_splits_together(runs):
    for name, column in (("subject_column", "who"), ("group_column", "task")):
        found = runs("folder", {**SPLIT, name: column, "test_fraction": 0.4})["rows"]
        sides = [{row[name.removesuffix("_column")] for row in found[part]} for part in ("train", "test")]
        assert sides[0] and sides[1] and not sides[0] & sides[1]


def test_every_way_to_split_off_validation(runs):
    said = {
        way: runs("crema_d", {"validation": way})["validation"] for way in ("auto", "subject", "stratified", "none")
    }
    share = "0.1 of training, seed 0"
    assert said == {
        "auto": f"by subject: {share}", "subject": f"by subject: {share}", "stratified": f"stratified: {share}", "none": "none",
    }  # fmt: skip


assert tuple(sorted(EFFECTS)) == tuple(sorted(NAMES))
TESTED: dict[type, set[str]] = {PrepareConfig: {*SHARED}}
for dataset, effects in EFFECTS.items():
    config = get_dataset(dataset).config
    TESTED[config] = {*SHARED, *effects}
