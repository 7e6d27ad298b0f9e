"""`svfap crop --dataset`: one face of each clip; names, folds, labels and subjects stay."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from fake_faces import SIDE, Spots, film, frames, spot

from svfap.cli.main import main
from svfap.crop import crop as cropping
from svfap.crop import dataset as dataset_cropping
from svfap.crop.config import CropConfig
from svfap.crop.crop import crop_videos
from svfap.crop.dataset import clip_names, crop_dataset
from svfap.data.manifest import read_manifest
from svfap.data.prepared import Fold, PreparedDataset, read_crop, read_dataset, write_dataset_file
from svfap.data.targets import frame_targets
from svfap.data.video import open_video
from svfap.datasets.config import PrepareConfig
from svfap.datasets.prepare import prepare
from svfap.datasets.ravdess import DATASET as RAVDESS
from svfap.errors import UserError
from svfap.evaluation.pool import results_caption

FLAGS = ["--detect_every", "1", "--size_px", str(SIDE), "--margin", "0", "--min_face_px", "16"]
SCORES: dict[str, Any] = {"pooled": {}, "incomplete": [], "notes": []}
Places = list[list[tuple[int, int]]]


@pytest.fixture(autouse=True)
def quick_detector(monkeypatch):
    for module in (cropping, dataset_cropping):
        monkeypatch.setattr(module, "make_detector", lambda name, model=None: Named())


class Named(Spots):
    name = "haar"


def plain(dataset: Path, out: Path, **settings: Any) -> CropConfig:
    """The detector runs on every frame, and a clip is the box itself."""
    return CropConfig(
        dataset=dataset, out=out, **{"detect_every": 1, "size_px": SIDE, "margin": 0.0, "min_face_px": 16, **settings}
    )


def make_film(path: Path, places: Places) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return film(path, frames(places))


def write_csv(file: Path, *lines: str) -> None:
    file.write_text("\n".join(lines) + "\n")


def rows(file: Path) -> list[dict[str, str]]:
    with file.open(newline="") as lines:
        return list(csv.DictReader(lines))


def pictures(file: Path) -> np.ndarray:
    with open_video(file) as video:
        return video.read(range(video.num_frames))


def is_face(clip: np.ndarray) -> bool:
    """Whether a red square fills the upper part of every frame."""
    inner = clip[:, 3:12, 3:21].astype(int)
    return bool(inner[..., 0].min() > 180 and inner[..., 1:].max() < 90)


STILL, WALKING = [[(30, 20)]] * 24, [[(4 + 2 * n, 20)] for n in range(24)]


def two_folds(folder: Path) -> Path:
    """A dataset of four clips and two folds, one clip without a face and one that is damaged."""
    root, prepared = folder / "root", folder / "prepared"
    prepared.mkdir(parents=True)
    make_film(root / "a" / "one.flv", STILL)
    make_film(root / "a" / "two.avi", WALKING)
    make_film(root / "b" / "three.mp4", STILL)
    make_film(root / "b" / "four.mp4", [[]] * 12)
    (root / "b" / "five.mp4").write_bytes(b"damaged")
    head = "path,label,subject,group,note"
    line = {
        "one": "a/one.flv,happy,01,g1,x y",
        "two": "a/two.avi,sad,01,g1,",
        "three": "b/three.mp4,sad,02,g2,1 2",
        "four": "b/four.mp4,happy,02,g2,",
        "five": "b/five.mp4,happy,02,g2,",
    }
    for name, chosen in {
        "fold_1_train": ("one", "two"),
        "fold_1_test": ("three", "four", "five"),
        "fold_2_train": ("three", "four"),
        "fold_2_val": ("five", "one"),
        "fold_2_test": ("two", "one"),
    }.items():
        write_csv(prepared / f"{name}.csv", head, *(line[clip] for clip in chosen))
    folds = (
        Fold("1", Path("fold_1_train.csv"), Path("fold_1_test.csv")),
        Fold("2", Path("fold_2_train.csv"), Path("fold_2_test.csv"), Path("fold_2_val.csv")),
    )
    dataset = PreparedDataset(
        "corpus", "Corpus", "classification", root, ("sad", "happy"), folds, metrics=("uar",), sampling_stride=2,
        pictures="frames", licence="ours", counts={"fold_1_train": 2}, notes={"protocol": "two folds"},
    )  # fmt: skip
    write_dataset_file(prepared, dataset)
    return prepared


def test_a_dataset_stays_the_same_but_for_its_clips(tmp_path, capsys):
    prepared, out = two_folds(tmp_path), tmp_path / "cropped"
    assert main(["crop", "--dataset", str(prepared), "--out", str(out), *FLAGS]) == 1  # one clip is damaged
    said = " ".join(capsys.readouterr().err.split())
    assert "3 of 5 clips of Corpus have a face" in said
    assert "no face: 1 clip, which the manifests leave out" in said
    assert "error: 1 clip could not be read and are left out" in said
    found, before = read_dataset(out), read_dataset(prepared)
    for name in ("name", "title", "task", "label_names", "metrics", "sampling_stride", "licence"):
        assert getattr(found, name) == getattr(before, name)
    assert (found.pictures, found.root) == ("faces", out / "clips")
    assert [(fold.name, fold.val is None) for fold in found.folds] == [("1", True), ("2", False)]
    kept = {name: [row["path"] for row in rows(path)] for name, path in found.manifests().items()}
    assert kept == {
        "fold_1_train": ["a/one.mp4", "a/two.mp4"],
        "fold_1_test": ["b/three.mp4"],
        "fold_2_train": ["b/three.mp4"],
        "fold_2_val": ["a/one.mp4"],
        "fold_2_test": ["a/two.mp4", "a/one.mp4"],
    }
    assert found.counts == {name: len(paths) for name, paths in kept.items()}
    assert rows(out / "fold_1_train.csv")[0] == {
        "path": "a/one.mp4", "label": "happy", "subject": "01", "group": "g1", "note": "x y",
    }  # fmt: skip
    assert (found.notes["protocol"], found.notes["no_face"], found.notes["unreadable"]) == ("two folds", 1, 1)
    assert [row["source"] for row in rows(out / "no_face.csv")] == ["b/four.mp4"]
    assert [row["source"] for row in rows(out / "failures.csv")] == ["b/five.mp4"]
    for path in ("a/one.mp4", "a/two.mp4", "b/three.mp4"):
        clip = pictures(found.root / path)
        assert clip.shape == (24, SIDE, SIDE, 3) and is_face(clip)
    how = {"margin": 0.0, "align": False, "border": CropConfig.border, "size_px": SIDE, "fps": None, "detector": "haar"}
    assert read_crop(out) == how


def test_the_settings_of_the_crop_stand_beside_the_clips_of_sources_too(tmp_path):
    video = make_film(tmp_path / "v.mp4", STILL)
    settings = {"margin": 0.5, "align": True, "border": "reflect", "size_px": 48, "fps": 12.5}
    crop_videos(video, CropConfig(out=tmp_path / "out", **settings))  # type: ignore[arg-type]
    assert read_crop(tmp_path / "out") == {**settings, "detector": "haar"}
    assert read_crop(tmp_path) is None
    (tmp_path / "crop.json").write_text("[]")
    with pytest.raises(UserError, match=r"crop\.json: is not what `svfap crop` writes"):
        read_crop(tmp_path)


@pytest.fixture
def worked_on(monkeypatch) -> list[str]:
    """Names of the videos that were cropped, as it happens."""
    names: list[str] = []
    original = dataset_cropping.write_one_face

    def counted(sample, *rest):
        names.append(sample.path.name)
        return original(sample, *rest)

    monkeypatch.setattr(dataset_cropping, "write_one_face", counted)
    return names


def test_a_restarted_run_cuts_each_clip_once_and_only_what_is_left(tmp_path, worked_on):
    prepared, out = two_folds(tmp_path), tmp_path / "cropped"
    config = plain(prepared, out)
    crop_dataset(config)
    assert sorted(worked_on) == ["five.mp4", "four.mp4", "one.flv", "three.mp4", "two.avi"]
    worked_on.clear()
    make_film(tmp_path / "root/b/five.mp4", WALKING)  # mended
    (out / "clips/a/one.mp4").unlink()
    (out / "clips/b/three.mp4").write_bytes(b"cut")
    done = crop_dataset(config)
    assert sorted(worked_on) == ["five.mp4", "one.flv", "three.mp4"]
    assert (done.num_clips, done.no_face, done.failures) == (4, ["b/four.mp4"], {})
    assert not (out / "failures.csv").exists()
    assert [row["path"] for row in rows(out / "fold_2_val.csv")] == ["b/five.mp4", "a/one.mp4"]
    finished = {file.name: file.read_text() for file in out.iterdir() if file.is_file()}
    with pytest.raises(UserError, match=r"other settings \(margin: 0\.0 then, 0\.1 now\)"):
        crop_dataset(plain(prepared, out, margin=0.1))
    assert {file.name: file.read_text() for file in out.iterdir() if file.is_file()} == finished  # nothing is lost


def test_worker_processes_do_the_work_and_a_part_without_any_face_is_an_error(tmp_path):
    prepared = two_folds(tmp_path)  # another process has the real detector, which finds no face in squares
    with pytest.raises(UserError, match=r"none of the 2 clips of fold_1_train has a face clip"):
        crop_dataset(plain(prepared, tmp_path / "out", faces="haar", num_workers=1))
    assert len(rows(tmp_path / "out" / "no_face.csv")) == 4
    assert not (tmp_path / "out" / "dataset.json").exists()


def one_part(folder: Path, *lines: str, **settings: Any) -> Path:
    """A dataset of one training part, with videos in `folder`/root."""
    (folder / "prepared").mkdir(parents=True, exist_ok=True)
    write_csv(folder / "prepared" / "train.csv", *lines)
    settings = {
        "task": "classification",
        "label_names": ("a", "b"),
        "folds": (Fold("1", Path("train.csv")),),
    } | settings
    write_dataset_file(folder / "prepared", PreparedDataset("own", "Own", root=folder / "root", **settings))
    return folder / "prepared"


def test_the_face_with_the_largest_area_over_time_is_kept_and_long_gaps_are_left_out(tmp_path):
    """Two people: the second appears for longer. It is away for a second, and does not lose its frames of before."""
    places: Places = [[*([(70, 40)] if n < 30 else []), *([(10, 20)] if n < 40 or n >= 65 else [])] for n in range(100)]
    make_film(tmp_path / "root" / "v.mp4", places)
    done = crop_dataset(plain(one_part(tmp_path, "path,label", "v.mp4,a"), tmp_path / "out"))
    (row,) = rows(tmp_path / "out" / "crops.csv")
    assert (row["num_source_frames"], row["num_frames"], row["num_tracks"]) == ("100", "75", "2")
    clip = pictures(done.dataset.root / "v.mp4")
    assert len(clip) == 75 and is_face(clip)
    with open_video(done.dataset.root / "v.mp4") as video:  # training samples its clips on one side of the gap
        assert video.fps == pytest.approx(25, rel=1e-3)
        assert video.grid().stretches == [(0, 40), (40, 75)]
        assert video.times_s[40] == pytest.approx(65 / 25, abs=0.001)


def test_short_gaps_are_interpolated(tmp_path):
    places: Places = [[] if 10 <= n < 15 else [(30, 20)] for n in range(30)]
    make_film(tmp_path / "root" / "v.mp4", places)
    crop_dataset(plain(one_part(tmp_path, "path,label", "v.mp4,a"), tmp_path / "out"))
    assert rows(tmp_path / "out" / "crops.csv")[0]["num_frames"] == "30"


def test_spans_and_boxes_are_applied_and_consumed(tmp_path):
    """Two spans and two boxes of one file, in which a face moves from left to right beside a still one."""
    places: Places = [[(4, 2), (58, 34)] if n < 50 else [(58, 34)] for n in range(100)]
    make_film(tmp_path / "root" / "v.mp4", places)
    prepared = one_part(
        tmp_path,
        "path,label,start_s,end_s,box",
        "v.mp4,a,0,1,0 0 48 40",
        "v.mp4,b,3,,",
        "v.mp4,b,1,1.6,40 30 56 42",
    )
    done = crop_dataset(plain(prepared, tmp_path / "out"))
    found = rows(tmp_path / "out" / "train.csv")
    assert [list(row) for row in found] == [["path", "label"]] * 3
    assert len({row["path"] for row in found}) == 3 and found[0]["path"].startswith("v_0_1_")
    lengths = [len(pictures(done.dataset.root / row["path"])) for row in found]
    assert lengths == [25, 25, 15]
    assert all(is_face(pictures(done.dataset.root / row["path"])) for row in found)


def test_with_labels_per_frame_every_picture_stays_where_it_is(tmp_path):
    """The face is away for 1.2 s: its last place is held, so that row i still belongs to picture i."""
    places: Places = [[] if 30 <= n < 60 else [(30, 20)] for n in range(80)]
    make_film(tmp_path / "root" / "v.mp4", places)
    (tmp_path / "root" / "labels").mkdir()
    write_csv(tmp_path / "root" / "labels" / "v.csv", "label", *("ab"[n % 2] for n in range(80)))
    prepared = one_part(
        tmp_path, "path,frame_values,start_s,end_s", "v.mp4,labels/v.csv,0,1", "v.mp4,labels/v.csv,2,", frame_level=True
    )
    done = crop_dataset(plain(prepared, tmp_path / "out"))
    found = rows(tmp_path / "out" / "train.csv")
    assert [(row["path"], row["start_s"], row["end_s"]) for row in found] == [("v.mp4", "0", "1"), ("v.mp4", "2", "")]
    clip = pictures(done.dataset.root / "v.mp4")
    assert len(clip) == 80
    assert is_face(clip[:30]) and is_face(clip[60:]) and not is_face(clip[32:58])
    manifest = read_manifest(
        tmp_path / "out" / "train.csv", root=done.dataset.root, label_names=("a", "b"), frame_level=True
    )
    assert frame_targets(manifest, manifest[0]).tolist() == [0, 1] * 40
    with pytest.raises(UserError, match=r"fps=10: Own has a label for each frame"):
        crop_dataset(plain(prepared, tmp_path / "other", fps=10.0))


def test_with_labels_per_frame_a_variable_rate_stays(tmp_path):
    """Pictures of the first half last twice as long: all are kept at their times, so spans fit too."""
    ticks = [2 * n if n < 20 else n + 20 for n in range(40)]
    (tmp_path / "root").mkdir()
    film(tmp_path / "root" / "v.mkv", frames(STILL[:1] * 40), ticks=ticks)
    prepared = one_part(tmp_path, "path,label,start_s", "v.mkv,a,1", frame_level=True)
    done = crop_dataset(plain(prepared, tmp_path / "out"))
    with open_video(done.dataset.root / "v.mp4") as video:
        assert video.times_s == pytest.approx([tick / 25 for tick in ticks], abs=0.001)


def test_a_set_for_pre_training(tmp_path):
    for name in ("id1/x/00001.mp4", "id2/x/00001.mp4"):
        make_film(tmp_path / "root" / name, STILL)
    lines = ["path,subject,box", "id1/x/00001.mp4,id1,10 0 70 72", "id2/x/00001.mp4,id2,10 0 70 72"]
    prepared = one_part(tmp_path, *lines, task="unlabelled", label_names=(), folds=(), pretrain=Path("train.csv"))
    done = crop_dataset(plain(prepared, tmp_path / "out", fps=10.0))
    assert rows(done.dataset.pretrain) == [
        {"path": "id1/x/00001.mp4", "subject": "id1"},
        {"path": "id2/x/00001.mp4", "subject": "id2"},
    ]
    with open_video(done.dataset.root / "id1/x/00001.mp4") as video:
        assert (video.fps, video.num_frames) == (10, 10)


def test_clips_that_are_face_crops_already_are_not_cut_again(tmp_path):
    make_film(tmp_path / "root" / "v.mp4", STILL)
    faces = one_part(tmp_path, "path,label", "v.mp4,a", pictures="faces")
    refused = pytest.raises(UserError, match=r"prepared: the clips of Own are face crops already; use it as it is")
    with refused:
        crop_dataset(plain(faces, tmp_path / "out"))
    unknown = one_part(tmp_path, "path,label", "v.mp4,a")
    for folder in (tmp_path / "root", unknown):
        (folder / "crop.json").write_text("{}")
        with refused:
            crop_dataset(plain(unknown, tmp_path / "out"))
        (folder / "crop.json").unlink()
    assert not (tmp_path / "out").exists()
    crop_dataset(plain(unknown, tmp_path / "out"))


def test_names_of_clips():
    keys = {
        "a/one.flv": "a/one.flv",
        "one.mp4": "one.mp4",
        "one.AVI": "one.AVI",
        "frames/J4.003": "frames/J4.003",
        "/far/away/x.mp4": "/far/away/x.mp4",
        "../up.mp4": "../up.mp4",
        "v.mp4#t=0,1.5": "v.mp4",
        "v.mp4#t=1.5,": "v.mp4",
        "w.mp4#xywh=32,0,160,160": "w.mp4",
    }
    assert clip_names(keys) == {
        "a/one.flv": "a/one.mp4",
        "one.mp4": "one.mp4.mp4",
        "one.AVI": "one.AVI.mp4",
        "frames/J4.003": "frames/J4.003.mp4",
        "/far/away/x.mp4": "far/away/x.mp4",
        "../up.mp4": "up.mp4",
        "v.mp4#t=0,1.5": "v_0_1.5.mp4",
        "v.mp4#t=1.5,": "v_1.5_.mp4",
        "w.mp4#xywh=32,0,160,160": "w.mp4",
    }
    assert len(set(clip_names({"x/a.mp4": "x/a.mp4", "x/../x/a.mp4": "x/../x/a.mp4"}).values())) == 2


def test_mistakes_are_named_before_anything_is_done(tmp_path, capsys):
    prepared = two_folds(tmp_path)
    for arguments, message in (
        ([], "give videos, folders or manifests, or the folder of a prepared dataset with --dataset"),
        (["v.mp4", "--dataset", str(prepared)], "give videos, folders or manifests, or the folder of a prepared"),
        (["--dataset", str(tmp_path)], "holds no dataset.json"),
        (["--dataset", str(prepared), "--max_clip_s", "5"], "--max_clip_s: is not for --dataset"),
        (["--dataset", str(prepared), "--split", "train"], "--split: is not for --dataset"),
    ):
        assert main(["crop", *arguments, "--out", str(tmp_path / "out")]) == 1
        assert message in " ".join(capsys.readouterr().err.split())
        assert not (tmp_path / "out").exists()
    with pytest.raises(UserError, match="is the dataset itself"):
        crop_dataset(plain(prepared, prepared))
    crop_videos(tmp_path / "root" / "a", CropConfig(out=tmp_path / "clips"))
    with pytest.raises(UserError, match="holds the clips of other videos"):
        crop_dataset(plain(prepared, tmp_path / "clips"))
    crop_dataset(plain(prepared, tmp_path / "out"))
    with pytest.raises(UserError, match="holds a dataset already"):
        crop_videos(tmp_path / "root" / "a", CropConfig(out=tmp_path / "out"))
    other = one_part(tmp_path / "other", "path,label", "v.mp4,a")
    with pytest.raises(UserError, match="holds the dataset corpus already"):
        crop_dataset(plain(other, tmp_path / "out"))


def test_a_folder_of_pictures_is_a_clip(tmp_path):
    (tmp_path / "root" / "00001").mkdir(parents=True)
    for number in range(12):
        picture = spot(np.full((72, 96, 3), (40, 70, 60), np.uint8), 30, 20)
        cv2.imwrite(str(tmp_path / "root" / "00001" / f"{number}.png"), picture[..., ::-1])
    done = crop_dataset(plain(one_part(tmp_path, "path,label", "00001,a"), tmp_path / "out"))
    assert is_face(pictures(done.dataset.root / "00001.mp4"))


def test_from_a_release_through_crop_to_a_trained_and_tested_fold(tmp_path, capsys):
    """RAVDESS's layout and protocol; training on whole frames warns, on the cut faces it does not."""
    source = make_film(tmp_path / "film.mp4", STILL)
    for actor in range(1, 25):
        file = tmp_path / f"root/Actor_{actor:02d}/02-01-01-01-01-01-{actor:02d}.mp4"
        file.parent.mkdir(parents=True)
        file.hardlink_to(source)
    prepare(RAVDESS, PrepareConfig(root=tmp_path / "root", out=tmp_path / "prepared"))
    done = crop_dataset(plain(tmp_path / "prepared", tmp_path / "cropped"))
    assert done.num_clips == 24 and len(done.dataset.folds) == 6
    assert done.dataset.counts["fold_3_test"] == 4
    capsys.readouterr()
    size = ["--preset", "svfap_debug", "--epochs", "1", "--warmup_epochs", "0", "--batch_size", "16", "--fold", "2"]
    size += ["--num_workers", "0", "--precision", "fp32"]
    assert main(["finetune", "--dataset", str(tmp_path / "cropped"), "--out", str(tmp_path / "run"), *size]) == 0
    assert "whole frames" not in capsys.readouterr().err
    assert (
        main(["evaluate", "--model", str(tmp_path / "run"), "--dataset", str(done.dataset.root.parent), "--fold", "2"])
        == 0
    )
    assert "4 of 4 videos evaluated" in capsys.readouterr().err
    caption = results_caption(replace(done.dataset, notes={"no_face": 2, "unreadable": 1}), {"folds": ["1"], **SCORES})
    assert "3 clips of the dataset are left out" in caption
    assert "left out" not in results_caption(done.dataset, {"folds": ["1"], **SCORES})
    assert main(["finetune", "--dataset", str(tmp_path / "prepared"), "--out", str(tmp_path / "run"), *size]) == 1
    said = " ".join(capsys.readouterr().err.split())
    assert "warning: the clips of RAVDESS are whole frames, not faces; `svfap crop --dataset" in said
