"""`svfap pack`: the same dataset in shards. Sampled frames, draws and labels are those of the videos; what fails is told."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import tarfile
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import odd_videos
import pandas as pd
import pytest
import torch
from stopped_runs import stopped_in_step

import svfap
import svfap.remote as remote
import svfap.train.resolve as resolve_module
from svfap.cli.main import main
from svfap.data.clip_dataset import ClipDataset
from svfap.data.loader import make_loader
from svfap.data.manifest import read_manifest
from svfap.data.packed import PackedRow, PackedVideo, open_index, pack_of, packed_row
from svfap.data.prepared import Fold, PreparedDataset, find_crops, read_dataset, write_dataset_file
from svfap.data.rates import look_at_rates
from svfap.data.video import VideoError, open_video
from svfap.errors import UserError
from svfap.files import only_writer
from svfap.packing.config import PackConfig
from svfap.packing.pack import pack, packed_names
from svfap.packing.shards import Shard, pack_shard
from svfap.predict.config import PredictConfig
from svfap.train.config import FinetuneConfig, PretrainConfig
from svfap.train.resolve import fold_configs, resolve

CLOSE = 8.0  # mean difference to the pictures of the video, in levels
KINDS = ("variable.mkv", "pause.mkv", "joined.ts", "sar.mp4", "changing_size.webm", "b_frames.mp4", "edited.mov")


QUICK = dict(preset="svfap_debug", epochs=2, batch_size=4, precision="fp32", num_workers=0, warmup_epochs=0)


def losses_of(out: Path) -> dict[int, float]:
    """Step -> loss."""
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return {line["step"]: line["loss"] for line in lines if line["kind"] == "train"}


def rotated(video: Path, path: Path) -> Path:
    """The same file with a quarter turn in its display matrix."""
    data = bytearray(video.read_bytes())
    at = data.index(b"tkhd") + 4 + 40
    data[at : at + 36] = np.array([0, 1 << 16, 0, -(1 << 16), 0, 0, 0, 0, 1 << 30], ">i4").tobytes()
    path.write_bytes(data)
    return path


@pytest.fixture(scope="module")
def films(tmp_path_factory) -> Path:
    """Videos of many kinds, a folder of frames with holes, an image, and m.csv with spans, a box, labels and values."""
    folder = tmp_path_factory.mktemp("films")
    for name in KINDS:
        odd_videos.VIDEOS[name][0](folder / name)
    rotated(folder / "b_frames.mp4", folder / "turned.mp4")
    odd_videos.without(folder / "frames", (3, 4, 20))
    cv2.imwrite(str(folder / "image.png"), odd_videos.moving(3))
    rows = [(name, "", "", "") for name in (*KINDS, "turned.mp4", "frames", "image.png")]
    rows += [("b_frames.mp4", "0.2", "0.9", ""), ("b_frames.mp4", "0.1", "", "8 4 40 32")]
    lines = [f"{name},{'ab'[n % 2]},p{n},{a},{b},{box}" for n, (name, a, b, box) in enumerate(rows)]
    (folder / "m.csv").write_text("\n".join(["path,label,subject,start_s,end_s,box", *lines]) + "\n")
    return folder


@pytest.fixture(scope="module")
def packed(films, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("packs") / "packed"
    done = pack(films / "m.csv", PackConfig(out=out, quality=95, videos_per_shard=3))
    assert (done.num_videos, done.failures, done.source) == (10, {}, out / "m.csv")
    return out


@pytest.mark.parametrize("name", [*KINDS, "turned.mp4", "frames", "image.png"])
def test_a_packed_video_is_the_video(name, films, packed):
    with open_video(films / name, 12.0) as video, open_video(packed / name, 12.0) as copy:
        assert isinstance(copy, PackedVideo)
        assert (copy.fps, copy.start_s, copy.shape) == (video.fps, video.start_s, video.shape)
        assert np.array_equal(copy.times_s, video.times_s) and list(copy.joints) == list(video.joints)
        assert copy.picture_names == video.picture_names
        wanted = [video.num_frames - 1, 0, video.num_frames // 2, 0]
        pictures = copy.read(wanted)
        assert pictures.shape == video.read(wanted).shape
        assert np.abs(pictures.astype(int) - video.read(wanted)).mean() < CLOSE
        last = video.num_frames // 2
        for (time_s, picture), (other_s, other) in zip(video.frames(last), copy.frames(last), strict=True):
            assert time_s == other_s and np.abs(picture.astype(int) - other).mean() < CLOSE
        assert np.array_equal(next(iter(copy.frames()))[1], pictures[1])


@pytest.mark.parametrize(("mode", "fps"), [("pretrain", None), ("train", 10.0), ("val", None), ("test", None)])
def test_the_same_frames_are_sampled_with_the_same_draws(mode, fps, films, packed):
    batches = []
    for folder in (films, packed):
        dataset = ClipDataset(
            read_manifest(folder / "m.csv"), mode, 4, 2, 32, seed=3, fps=fps, frames_fps=8.0, repeats=2
        )
        batches.append(list(make_loader(dataset, 4, shuffle=True, seed=1, epoch=2)))
    assert len(batches[0]) == 3
    for video, copy in zip(*batches, strict=True):
        assert copy["keys"] == video["keys"] and copy["unreadable"] == video["unreadable"] == []
        for name in ("index", "frames", "views", "label"):
            assert torch.equal(copy[name], video[name])
        assert (copy["clips"].float() - video["clips"].float()).abs().mean() < CLOSE


def test_rates_are_known_without_the_videos(films, packed):
    assert look_at_rates(read_manifest(packed / "m.csv"), None) == look_at_rates(read_manifest(films / "m.csv"), None)
    assert look_at_rates(read_manifest(packed / "m.csv"), 9.0) == look_at_rates(read_manifest(films / "m.csv"), 9.0)


def test_the_shards_are_ordinary_archives(packed):
    """Each video is one sample of WebDataset, which takes the name up to the first dot; the description comes first."""
    names: list[str] = []
    for shard in sorted((packed / "shards").iterdir()):
        with tarfile.open(shard) as archive:
            members = archive.getmembers()
            about = json.load(archive.extractfile(members[0]))
            picture = archive.extractfile(members[1]).read()
        names += [member.name for member in members]
        row = packed_row(packed / about["path"])
        assert cv2.imdecode(np.frombuffer(picture, np.uint8), 1).shape == (row.height, row.width, 3)
        assert about["times_s"] == row.times_s.tolist()
    assert [name.partition(".")[2] for name in names].count("json") == 10
    samples = [name.partition(".")[0] for name in names]
    assert samples == sorted(samples)


def test_files_are_small_where_frames_are(films, tmp_path):
    pack_all = pack(films / "m.csv", PackConfig(out=tmp_path / "a", quality=50))
    assert pack_all.num_bytes < pack(films / "m.csv", PackConfig(out=tmp_path / "b", quality=95)).num_bytes
    with pytest.raises(UserError, match="size_px=24: a manifest has boxes"):
        pack(films / "m.csv", PackConfig(out=tmp_path / "c", size_px=24))
    (films / "few.csv").write_text("path,label\nturned.mp4,a\nimage.png,b\n")
    pack(films / "few.csv", PackConfig(out=tmp_path / "c", size_px=24))
    assert open_video(tmp_path / "c" / "turned.mp4").shape == (32, 24)


def test_a_dataset_stays_one(faces, tmp_path):
    """Manifests, folds and metrics are the same; both ways of training start from it, and give losses close to those."""
    out = tmp_path / "packed"
    assert main(["pack", str(faces), "--out", str(out), "--num_workers", "1", "--quality", "100"]) == 0
    before, after = read_dataset(faces), read_dataset(out)
    assert {**vars(after), "notes": 0, "root": 0, "folds": 0, "pretrain": 0} == {
        **vars(before), "notes": 0, "root": 0, "folds": 0, "pretrain": 0
    }  # fmt: skip
    assert after.root == out and list(after.manifests()) == list(before.manifests())
    for name, manifest in after.manifests().items():
        assert pd.read_csv(manifest).equals(pd.read_csv(before.manifests()[name]))
    losses = {}
    for name, folder in {"videos": faces, "packed": out}.items():
        run = PretrainConfig(**{**QUICK, "epochs": 1}, dataset=folder, out=tmp_path / name)
        assert svfap.pretrain(run).finished
        losses[name] = list(losses_of(run.out).values())
    assert np.allclose(losses["packed"], losses["videos"], rtol=0.01)
    tuned = FinetuneConfig(**{**QUICK, "epochs": 1}, dataset=out, out=tmp_path / "tuned", init=str(tmp_path / "packed"))
    assert svfap.finetune(tuned).finished
    scores = svfap.evaluate(svfap.EvaluateConfig(model=str(tuned.out), dataset=out, out=tmp_path / "scores"))
    assert scores.metrics["num_evaluated"] == 14


def test_videos_of_several_folds_are_packed_once_and_all_folds_can_be_trained(films, tmp_path):
    folder, out = tmp_path / "prepared", tmp_path / "packed"
    folder.mkdir()
    lines = (films / "m.csv").read_text().splitlines()
    folds = []
    for name in ("1", "2"):
        for part, rows in {"train": lines[1:7], "test": lines[7:9]}.items():
            rows = rows if name == "1" else rows[::-1]
            (folder / f"fold_{name}_{part}.csv").write_text("\n".join([lines[0], *rows]) + "\n")
        folds.append(Fold(name, Path(f"fold_{name}_train.csv"), Path(f"fold_{name}_test.csv")))
    write_dataset_file(folder, PreparedDataset("own", "Own", "classification", films, ("a", "b"), tuple(folds)))
    assert pack(folder, PackConfig(out=out)).num_videos == 8
    tuned = [fold_configs(FinetuneConfig(dataset=place, fold="all", out=tmp_path / "run")) for place in (folder, out)]
    for before, after in zip(*(map(resolve, configs) for configs in tuned), strict=True):
        assert after.fold == before.fold and after.root == out
        assert after.manifest.read_text() == before.manifest.read_text() and after.manifest.parent == out
        read_manifest(after.manifest).require_files()
    assert all(row.reason == "" for row in map(packed_row, (out / name for name in KINDS)))


def test_a_run_goes_on_in_the_middle_of_an_epoch_with_the_same_losses(faces, tmp_path):
    """Also one that was begun with the videos goes on with the packed ones: the rows are the same."""
    pack(faces, PackConfig(out=tmp_path / "packed"))
    assert svfap.pretrain(PretrainConfig(**QUICK, dataset=tmp_path / "packed", out=tmp_path / "whole")).finished
    whole = losses_of(tmp_path / "whole")
    for name, dataset in {"broken": tmp_path / "packed", "begun": faces}.items():
        with stopped_in_step(6):
            assert not svfap.pretrain(PretrainConfig(**QUICK, dataset=dataset, out=tmp_path / name)).finished
        assert len(losses_of(tmp_path / name)) == 6  # of 8, 4 in each epoch
        resumed = {**QUICK, "num_workers": 1} if name == "broken" else QUICK
        assert svfap.pretrain(
            PretrainConfig(**resumed, dataset=tmp_path / "packed", out=tmp_path / name, resume=True)
        ).finished
    assert losses_of(tmp_path / "broken") == whole
    assert list(losses_of(tmp_path / "begun")) == list(whole)


@pytest.mark.slow
def test_a_killed_run_resumes_in_the_middle_of_an_epoch_with_the_same_losses(faces, tmp_path):
    pack(faces, PackConfig(out=tmp_path / "packed"))
    words = ["--dataset", str(tmp_path / "packed"), "--preset", "svfap_debug", "--epochs", "2", "--batch_size", "2"]
    words += ["--precision", "fp32", "--save_every_steps", "1", "--warmup_epochs", "0", "--num_workers"]
    command = [sys.executable, "-m", "svfap", "pretrain", *words]
    assert main(["pretrain", *words, "0", "--out", str(tmp_path / "whole")]) == 0
    process = subprocess.Popen([*command, "0", "--out", str(tmp_path / "broken")], stderr=subprocess.DEVNULL)
    file = tmp_path / "broken" / "last" / "state.json"
    while not (file.is_file() and json.loads(file.read_text())["step"] >= 3) and process.poll() is None:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert process.returncode == -signal.SIGKILL
    assert main(["pretrain", *words, "1", "--out", str(tmp_path / "broken"), "--resume", "true"]) == 0
    assert losses_of(tmp_path / "broken") == losses_of(tmp_path / "whole") and len(losses_of(tmp_path / "whole")) == 16


def test_processes_and_workers_get_every_clip_once(packed):
    dataset = ClipDataset(read_manifest(packed / "m.csv"), "val", 4, 2, 32, seed=0)
    keys = []
    for rank in range(2):
        for batch in make_loader(dataset, 2, shuffle=False, seed=0, rank=rank, world_size=2, num_workers=2):
            assert batch["unreadable"] == []
            keys += batch["keys"]
    assert sorted(keys) == sorted(dataset.manifest[row].key for row in range(len(dataset.manifest)))


def test_labels_per_frame_come_along(films, tmp_path):
    """Rows of a file beside the frames, numbered in a folder with holes, and of a file outside of the root."""
    (tmp_path / "data").mkdir()
    for name in ("frames", "b_frames.mp4"):
        os.symlink(films / name, tmp_path / "data" / name)
    values = "valence\n" + "\n".join(f"{n / 40:.3f}" for n in range(36)) + "\n"
    (tmp_path / "outside.csv").write_text(values)
    (tmp_path / "data" / "labels").mkdir()
    (tmp_path / "data" / "labels" / "frames.csv").write_text(values)
    manifest = tmp_path / "data" / "m.csv"
    manifest.write_text("path,frame_values\nframes,labels/frames.csv\nb_frames.mp4,../outside.csv\n")
    pack(manifest, PackConfig(out=tmp_path / "packed"))
    found = []
    for folder in (tmp_path / "data", tmp_path / "packed"):
        read = read_manifest(folder / "m.csv", task="regression", dimensions=["valence"], frame_level=True)
        dataset = ClipDataset(read, "train", 4, 3, 32, seed=0, frame_level=True)
        found.append(dataset.collate([dataset[0], dataset[1]]))
        assert found[-1]["unreadable"] == []
    assert torch.equal(found[0]["values"], found[1]["values"])
    assert (tmp_path / "packed" / "outside.csv").read_text() == values
    names = read_manifest(tmp_path / "packed" / "m.csv", task="unlabelled").table["frame_values"].tolist()
    assert names == ["labels/frames.csv", "outside.csv"]


def test_how_faces_were_cut_comes_along(films, tmp_path):
    for name, margin in (("one/a", 0.1), ("two/b", 0.1), ("two/c", 0.4)):
        (tmp_path / "data" / name).mkdir(parents=True)
        os.symlink(films / "b_frames.mp4", tmp_path / "data" / name / "v.mp4")
        (tmp_path / "data" / name / "crop.json").write_text(json.dumps({"margin": margin}))
    for rows, files in {
        ("one/a", "two/b"): ["crop.json"],
        ("one/a", "two/c"): ["one/a/crop.json", "two/c/crop.json"],
    }.items():
        manifest = tmp_path / "data" / "m.csv"
        manifest.write_text("\n".join(["path", *(f"{row}/v.mp4" for row in rows)]) + "\n")
        out = pack(manifest, PackConfig(out=tmp_path / rows[1])).source.parent
        assert sorted(str(file.relative_to(out)) for file in out.rglob("crop.json")) == files
        before, after = (read_manifest(path, task="unlabelled") for path in (manifest, out / "m.csv"))
        assert (
            list(find_crops(after.folders, after.path).values())[-1]
            == list(find_crops(before.folders, before.path).values())[-1]
        )


def test_paths_outside_of_the_root_get_names_inside(tmp_path):
    (tmp_path / "m.csv").write_text("path\na.mp4\n../a.mp4\n/data/a.mp4\n./b/c.mp4\n")
    names = packed_names([read_manifest(tmp_path / "m.csv", task="unlabelled")])
    assert names["a.mp4"] == ("a.mp4", tmp_path / "a.mp4") and names["b/c.mp4"][0] == "b/c.mp4"
    assert re.fullmatch(r"a-[0-9a-f]{12}\.mp4", names["../a.mp4"][0])
    assert names["/data/a.mp4"] == ("data/a.mp4", Path("/data/a.mp4"))


# faults ----------------------------------------------------------------------------------------------------------------


@pytest.fixture
def broken(films, tmp_path) -> Path:
    """A manifest of three videos: a good one, a folder of frames of which two are broken, and one that is none."""
    folder = tmp_path / "videos"
    folder.mkdir()
    os.symlink(films / "b_frames.mp4", folder / "good.mp4")
    (folder / "frames").mkdir()
    for number in range(12):
        content = b"no picture" if number in (8, 10) else cv2.imencode(".png", odd_videos.moving(number))[1].tobytes()
        (folder / "frames" / f"{number:02d}.png").write_bytes(content)
    (folder / "none.mp4").write_text("not a video")
    (folder / "m.csv").write_text("path\ngood.mp4\nframes\nnone.mp4\n")
    return folder


def bgr(number: int) -> np.ndarray:
    """A moving picture as it comes out of a file into which it was written in OpenCV's order of colours."""
    return odd_videos.moving(number)[:, :, ::-1]


def reasons(manifest: Path) -> list[str | None]:
    dataset = ClipDataset(read_manifest(manifest, task="unlabelled"), "test", 4, 1, 32, seed=0, num_segments=1)
    return [dataset[n].reason for n in range(len(dataset))]


def test_unreadable_videos_are_listed_and_stay_unreadable(broken, tmp_path, capsys):
    out = tmp_path / "packed"
    assert main(["pack", str(broken / "m.csv"), "--out", str(out)]) == 1
    said = " ".join(capsys.readouterr().err.split())
    assert "2 videos, or some of their frames, could not be read" in said
    assert "2 videos, 46 frames, " in said  # of three, without the one that is none, and of 48 without the broken ones
    failures = pd.read_csv(out / "failures.csv")
    assert failures["source"].tolist() == ["frames", "none.mp4"]
    assert reasons(out / "m.csv") == reasons(broken / "m.csv")  # the first frames of the folder are good
    assert reasons(out / "m.csv")[:2] == [None, None] and reasons(out / "m.csv")[2]
    with open_video(out / "frames") as video:
        assert np.abs(video.read([0, 9, 11]).astype(int) - [bgr(n) for n in (0, 9, 11)]).mean() < CLOSE
        with pytest.raises(VideoError, match=r"08\.png cannot be decoded as a picture \(and 1 more\)"):
            video.read([9, 10])
        frames = video.frames(7)
        assert next(frames)[0] == video.times_s[7]
        with pytest.raises(VideoError, match=r"08\.png cannot be decoded"):
            next(frames)
    # Repaired, the same command reads them.
    os.remove(broken / "none.mp4")
    os.symlink(broken / "good.mp4", broken / "none.mp4")
    (broken / "frames" / "08.png").unlink()
    (broken / "frames" / "10.png").unlink()
    assert main(["pack", str(broken / "m.csv"), "--out", str(out)]) == 0
    assert reasons(out / "m.csv") == [None] * 3 and not (out / "failures.csv").exists()


def test_damaged_bytes_name_shard_and_entry(films, tmp_path):
    (films / "one.csv").write_text("path\nb_frames.mp4\n")
    pack(films / "one.csv", PackConfig(out=tmp_path))
    shard = tmp_path / "shards" / "shard-000000.tar"
    whole = shard.read_bytes()
    row = packed_row(tmp_path / "b_frames.mp4")
    video = open_video(tmp_path / "b_frames.mp4")
    start = int(row.starts()[7])
    shard.write_bytes(whole[: start + 20] + b"xyz" + whole[start + 23 :])
    assert len(video.read([6, 8])) == 2
    named = r"shard-000000\.tar, entry 00000000\.000007\.jpg: damaged: its checksum"
    with pytest.raises(VideoError, match=named):
        video.read([6, 7])
    dataset = ClipDataset(read_manifest(tmp_path / "one.csv", task="unlabelled"), "test", 36, 1, 32, seed=0)
    assert re.search(named, dataset[0].reason)
    shard.write_bytes(whole[: start + 20])
    with pytest.raises(VideoError, match=r"000007\.jpg: damaged: the shard ends after 20 of"):
        video.read([7])
    shard.unlink()
    with pytest.raises(
        VideoError, match=r"shard-000000\.tar, entry .*: no such file; copy the shard again, or pack again"
    ):
        video.read([7])
    (tmp_path / "index.sqlite").write_text("none")
    os.utime(tmp_path / "pack.json", ns=(1, 1))  # the index of this process is open
    with pytest.raises(UserError, match=r"index\.sqlite: cannot be read .* copy it again, or pack again"):
        open_video(tmp_path / "b_frames.mp4")
    (tmp_path / "pack.json").write_text((tmp_path / "pack.json").read_text()[:60])
    with pytest.raises(UserError, match=r"pack\.json: is damaged .* copy it again, or pack again"):
        open_video(tmp_path / "b_frames.mp4")


@pytest.fixture
def two(films, tmp_path) -> PackConfig:
    """An image and a folder of frames, packed from few.csv into packed/, a shard each."""
    (films / "few.csv").write_text("path,label\nimage.png,a\nframes,b\n")
    config = PackConfig(out=tmp_path / "packed", videos_per_shard=1)
    pack(films / "few.csv", config)
    return config


@pytest.mark.parametrize("place", ["picture", "header"])
def test_a_shard_of_other_bytes_is_written_again(place, films, two):
    shards = sorted((two.out / "shards").iterdir())
    before = [shard.read_bytes() for shard in shards]
    damaged = bytearray(before[1])
    start = int(packed_row(two.out / "frames").starts()[7]) + 20 if place == "picture" else 3
    damaged[start] ^= 255
    shards[1].write_bytes(damaged)
    untouched = shards[0].stat().st_mtime_ns
    pack(films / "few.csv", two)
    assert [shard.read_bytes() for shard in shards] == before
    assert shards[0].stat().st_mtime_ns == untouched


def test_a_packed_folder_stays_usable_while_its_shards_are_checked(films, two, monkeypatch):
    def stop(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr("svfap.packing.pack.is_complete", stop)
    with pytest.raises(KeyboardInterrupt):
        pack(films / "few.csv", two)
    assert open_video(two.out / "image.png").num_frames == 1


def test_edited_files_are_not_overwritten(films, two):
    manifest = two.out / "few.csv"
    as_packed = manifest.read_text()
    manifest.write_text("path,label\nimage.png,mine\n")
    with pytest.raises(
        UserError, match=rf"packed/few\.csv: was changed since it was packed.*in {films}/few\.csv, and remove"
    ):
        pack(films / "few.csv", two)
    assert manifest.read_text().endswith("mine\n") and len(read_manifest(manifest)) == 1
    manifest.unlink()
    pack(films / "few.csv", two)
    assert manifest.read_text() == as_packed
    (films / "few.csv").write_text("path,label\nimage.png,c\nframes,b\n")
    pack(films / "few.csv", two)
    assert read_manifest(manifest).label_names == ("b", "c")


def test_packed_data_without_pack_json_are_known(two):
    (two.out / "pack.json").unlink()
    message = (
        r"packed: is packed data whose pack\.json is missing: .* run the same `svfap pack` again, or copy the file"
    )
    with pytest.raises(UserError, match=message):
        read_manifest(two.out / "few.csv").require_files()
    with pytest.raises(UserError, match=message):
        open_video(two.out / "image.png")


def test_packed_videos_are_not_packed_again(films, packed, two, tmp_path):
    (tmp_path / "some.csv").write_text(f"path\n{films / 'image.png'}\n{packed / 'image.png'}\n")
    for source in (packed / "m.csv", tmp_path / "some.csv"):
        with pytest.raises(UserError, match=rf"{source}: has videos of {packed}, which are packed already; .*quality"):
            pack(source, PackConfig(out=tmp_path / "again"))
    assert not (tmp_path / "again").exists()


def test_a_packed_folder_may_lie_beside_its_videos(films, capsys):
    (films / "one.csv").write_text("path\nimage.png\n")
    for _ in range(2):
        assert main(["pack", str(films / "one.csv"), "--out", str(films / "sub")]) == 0
        assert "1 video, 1 frame, 0.0" in capsys.readouterr().err
    assert isinstance(open_video(films / "sub" / "image.png"), PackedVideo)
    assert not isinstance(open_video(films / "image.png"), PackedVideo)


def test_folders_without_packed_data_are_remembered(films, monkeypatch):
    open_video(films / "image.png")
    looked = []
    stat = os.stat

    def counted(path, **more):
        looked.append(str(path))
        return stat(path, **more)

    monkeypatch.setattr(os, "stat", counted)
    open_video(films / "b_frames.mp4")
    assert looked and not [path for path in looked if path.endswith("pack.json")]


def test_a_killed_pack_continues_with_the_shards_that_are_missing(films, tmp_path, monkeypatch):
    out = tmp_path / "packed"
    config = PackConfig(out=out, videos_per_shard=3)
    calls = []

    def stop(path, *more):
        calls.append(path.name)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return open_video(path, *more)

    monkeypatch.setattr("svfap.packing.shards.open_video", stop)
    with pytest.raises(KeyboardInterrupt):
        pack(films / "m.csv", config)
    assert not (out / "pack.json").exists() and len(list((out / "shards").glob("*.tar"))) == 1
    first = (out / "shards" / "shard-000000.tar").stat()  # reading it changes its time of access
    monkeypatch.undo()
    assert pack(films / "m.csv", config).num_videos == 10
    second = (out / "shards" / "shard-000000.tar").stat()
    assert (second.st_ino, second.st_mtime_ns) == (first.st_ino, first.st_mtime_ns)
    assert not [file for file in (out / "shards").iterdir() if file.name.startswith(".")]
    times = {file: file.stat().st_mtime_ns for file in (out / "shards").iterdir()}
    (out / "shards" / "shard-000002.tar").write_bytes(b"cut off")
    whole = pack(films / "m.csv", config)
    changed = [file.name for file, ns in times.items() if file.stat().st_mtime_ns != ns]
    assert changed == ["shard-000002.tar"] and whole.failures == {}


def test_a_video_that_kills_the_process_is_left_out_when_the_job_is_repeated(films, tmp_path, monkeypatch):
    class Died(BaseException): ...

    def deadly(path, *more):
        if path.name == "b.mp4":
            raise Died
        return open_video(path, *more)

    (tmp_path / "shards").mkdir()
    shard = Shard("shard-000000.tar", 0, [(name.encode(), films / name) for name in ("variable.mkv", "b.mp4")])
    os.symlink(films / "b_frames.mp4", tmp_path / "b.mp4")
    shard.videos[1] = (b"b.mp4", tmp_path / "b.mp4")
    monkeypatch.setattr("svfap.packing.shards.open_video", deadly)
    with pytest.raises(Died):
        pack_shard(PackConfig(out=tmp_path), shard, tmp_path / "record")
    pack_shard(PackConfig(out=tmp_path), shard, tmp_path / "record")
    with closing(open_index(tmp_path / "record")) as index:
        rows = [PackedRow.of(cells) for cells in index.execute("SELECT * FROM videos ORDER BY number")]
    assert [row.reason for row in rows] == ["", "the process that read it died"]
    assert len(rows[0].sizes) == odd_videos.NUM and [file.name for file in (tmp_path / "shards").iterdir()] == [
        shard.name
    ]


@pytest.mark.parametrize("column", ["times_s", "sizes", "offset", "start_s", "joints"])
def test_a_changed_row_of_the_index_is_noticed(column, packed, tmp_path):
    """Without a checksum of its own a changed time stamp would move a frame in silence."""
    shutil.copytree(packed, tmp_path / "p")
    with closing(sqlite3.connect(tmp_path / "p" / "index.sqlite")) as index, index:
        name = (b"b_frames.mp4",)
        cell = index.execute(f"SELECT {column} FROM videos WHERE name = ?", name).fetchone()[0]
        other = (
            bytes([cell[0] ^ 8]) + cell[1:]
            if cell and isinstance(cell, bytes)
            else bytes(8)
            if cell == b""
            else cell + 1
        )
        index.execute(f"UPDATE videos SET {column} = ? WHERE name = ?", (other, *name))
    with pytest.raises(UserError, match=r"index.sqlite: cannot be read \(a row is damaged\); copy it again, or pack"):
        open_video(tmp_path / "p" / "b_frames.mp4")
    assert open_video(tmp_path / "p" / "image.png").num_frames == 1


def test_predict_takes_a_packed_manifest(films, tmp_path):
    (films / "whole.csv").write_text("path\nb_frames.mp4\n")
    try:
        out = pack(films / "whole.csv", PackConfig(out=tmp_path / "p")).source
    finally:
        (films / "whole.csv").unlink()
    model = svfap.create_model("svfap_debug", "classification", label_names=["a", "b"])
    model.save_pretrained(tmp_path / "model")
    how = PredictConfig(model=str(tmp_path / "model"), faces="none", out=None)
    times = ["start_s", "end_s"]
    rows, whole = (svfap.predict_videos([str(each)], how).table for each in (out, films / "b_frames.mp4"))
    assert len(rows) and rows[times].equals(whole[times])


def test_a_folder_of_something_else_is_refused(films, faces, packed, tmp_path, capsys):
    (tmp_path / "notes.txt").write_text("mine")
    shutil.copytree(packed, tmp_path / "copy")
    shutil.rmtree(tmp_path / "copy" / "records")
    for source, out, words in (
        (films / "m.csv", tmp_path, "holds other things (copy, notes.txt)"),
        (films / "m.csv", tmp_path / "notes.txt", "is a file"),
        (films / "m.csv", packed, f"{packed}: was made with other settings (quality: 95 then, 90 now"),
        (films / "m.csv", packed, "remove the whole folder, or choose another"),
        (films / "m.csv", tmp_path / "copy", "holds packed data without records/settings.json"),
        (films / "m.csv", tmp_path / "copy", "remove the whole folder, or choose another"),
        (films, tmp_path / "new", f"give its manifest, {films}/"),
        (films / "none.csv", tmp_path / "new", "no such file"),
    ):
        assert main(["pack", str(source), "--out", str(out)]) == 1
        assert words in " ".join(capsys.readouterr().err.split())
    assert (packed / "pack.json").is_file()
    with only_writer(packed / "pack.json"), pytest.raises(UserError, match="is being written by another run"):
        pack(films / "m.csv", PackConfig(out=packed, quality=95, videos_per_shard=3))
    with pytest.raises(UserError, match="root=.*: is for a manifest"):
        pack(faces, PackConfig(out=tmp_path / "new", root=tmp_path))
    assert main(["pack", str(faces), "--out", "s3://bucket/packed"]) == 1
    assert "out=s3://bucket/packed: is a URL" in capsys.readouterr().err


# at a URL ----------------------------------------------------------------------------------------------------------------


@pytest.fixture
def store(packed, tmp_path, monkeypatch):
    """The packed folder in a store in memory; counts its reads, and can fail."""
    fsspec = pytest.importorskip("fsspec")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(remote, "FIRST_WAIT_S", 0.001)
    memory = fsspec.filesystem("memory")
    for file in packed.rglob("*"):
        if file.is_file() and "records" not in file.parts:
            memory.pipe_file(f"/bucket/packed/{file.relative_to(packed).as_posix()}", file.read_bytes())
    reads: list[tuple[str, int | None, int | None]] = []
    read = type(memory).cat_file

    def counted(self, path, start=None, end=None, **more):
        reads.append((path, start, end))
        if memory.faults:
            raise memory.faults.pop()
        return read(self, path, start=start, end=end, **more)

    monkeypatch.setattr(memory, "faults", [], raising=False)
    monkeypatch.setattr(type(memory), "cat_file", counted)
    yield memory, reads
    memory.rm("/bucket", recursive=True)


def test_packed_data_at_a_url_are_read_with_one_request_a_clip(store, packed):
    _, reads = store
    config = PretrainConfig(manifest="memory://bucket/packed/m.csv", out=Path("out"))
    assert config.manifest.is_file() and not (config.manifest.parent / "shards").exists()
    assert PretrainConfig(manifest=Path("memory://bucket/packed/m.csv"), out=Path("out")).manifest == config.manifest
    found = {}
    for name, manifest in {"here": packed / "m.csv", "there": config.manifest}.items():
        dataset = ClipDataset(read_manifest(manifest), "train", 4, 2, 32, seed=0)
        reads.clear()
        found[name] = dataset.collate([dataset[index] for index in range(len(dataset))])
    assert len(reads) == len(dataset) and all(path.endswith(".tar") for path, _, _ in reads)
    assert found["there"]["unreadable"] == [] and torch.equal(found["there"]["clips"], found["here"]["clips"])
    # Workers have file systems of their own.
    dataset = replace(dataset)
    batches = list(make_loader(dataset, 12, shuffle=False, seed=0, num_workers=1))
    assert torch.equal(batches[0]["clips"], found["here"]["clips"])


@pytest.mark.parametrize("scheme", ["file", "local"])
def test_file_urls_name_packed_data_on_this_machine(scheme, packed, tmp_path, monkeypatch):
    pytest.importorskip("fsspec")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for manifest in (f"{scheme}://{packed}/m.csv", Path(f"{scheme}://{packed}/m.csv")):
        config = PretrainConfig(manifest=manifest, out=Path("out"))
        assert config.manifest.read_bytes() == (packed / "m.csv").read_bytes()
        copy = open_video(config.manifest.parent / "b_frames.mp4")
        assert np.array_equal(copy.read([3, 5]), open_video(packed / "b_frames.mp4").read([3, 5]))


def test_a_damaged_description_at_a_url_and_its_damaged_copy(store):
    memory, _ = store
    folder = remote.local_copy("memory://bucket/packed")
    whole = (folder / "pack.json").read_bytes()
    (folder / "pack.json").write_bytes(whole[:60])
    assert (remote.local_copy("memory://bucket/packed") / "pack.json").read_bytes() == whole
    memory.pipe_file("/bucket/packed/pack.json", whole[:60])
    with pytest.raises(UserError, match=r"packed/pack\.json: is damaged .*; copy the packed folder there again"):
        remote.local_copy("memory://bucket/packed")


@pytest.mark.parametrize("verb", ["pretrain", "evaluate", "probe"])
def test_help_says_that_packed_data_and_urls_are_taken(verb, capsys):
    with pytest.raises(SystemExit):
        main([verb, "--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert re.search(r"--dataset DATASET .{0,40}`svfap pack`, or URL of packed data", text)
    assert re.search(r"--manifest MANIFEST .{0,160}`svfap pack`,? or at its URL", text)


def test_reads_that_fail_are_tried_again(store, packed):
    memory, reads = store
    folder = remote.local_copy("memory://bucket/packed")
    video = open_video(folder / "b_frames.mp4")
    memory.faults[:] = [TimeoutError("slow down"), ConnectionError("reset")]
    reads.clear()
    assert np.array_equal(video.read([3, 5]), open_video(packed / "b_frames.mp4").read([3, 5])) and len(reads) == 3
    memory.faults[:] = [ConnectionError("reset")] * 9
    with pytest.raises(VideoError, match=r"memory://bucket/packed/shards/shard-.*entry .*000003\.jpg: reset, 4 times"):
        video.read([3])
    memory.faults.clear()
    memory.rm("/bucket/packed/shards", recursive=True)
    reads.clear()
    with pytest.raises(VideoError, match="shard-"):
        video.read([3])
    assert len(reads) == 1  # a file that is not there will not be


def test_a_file_system_that_opens_files_reads_no_more_than_is_asked_for():
    """As that of hf://, whose files read ahead by default."""
    fsspec = pytest.importorskip("fsspec")
    fetched = []

    class File(fsspec.spec.AbstractBufferedFile):
        def _fetch_range(self, start, end):
            fetched.append((start, end))
            return bytes(n % 251 for n in range(start, end))

    class System(fsspec.AbstractFileSystem):
        protocol = "opening"

        def info(self, path, **more):
            return {"name": path, "size": 10**7, "type": "file"}

        def _open(self, path, mode="rb", **more):
            return File(self, path, mode, **more)

    fsspec.register_implementation("opening", System, clobber=True)
    parts = remote.read_spans("opening://a/b", [(1000, 1003), (1010, 1012), (5_000_000, 5_000_002)])
    assert [bytes(part) for part in parts] == [
        bytes(n % 251 for n in span) for span in ((1000, 1001, 1002), (1010, 1011), (5_000_000, 5_000_001))
    ]
    assert fetched == [(1000, 1012), (5_000_000, 5_000_002)]


def test_the_copy_of_small_files_follows_the_url(store, packed, tmp_path):
    memory, _ = store
    folder = remote.local_copy("memory://bucket/packed")
    assert pack_of(folder / "b_frames.mp4").shards == "memory://bucket/packed/shards"
    content = json.loads((packed / "pack.json").read_text())
    memory.pipe_file("/bucket/packed/m.csv", b"path\nframes\n")
    content["files"]["m.csv"] = remote.hashlib.sha256(b"path\nframes\n").hexdigest()[:16]
    memory.pipe_file("/bucket/packed/pack.json", json.dumps(content).encode())
    assert len(read_manifest(remote.local_copy("memory://bucket/packed/m.csv"), task="unlabelled")) == 1
    content["files"]["m.csv"] = "0" * 16
    memory.pipe_file("/bucket/packed/pack.json", json.dumps(content).encode())
    with pytest.raises(UserError, match=r"m\.csv: is not the file that pack.json describes"):
        remote.local_copy("memory://bucket/packed")
    with pytest.raises(UserError, match=r"memory://bucket/other: holds no pack\.json"):
        remote.local_copy("memory://bucket/other")
    with pytest.raises(UserError, match=r"no such manifest; memory://bucket/packed has m\.csv"):
        remote.local_copy("memory://bucket/packed/other.csv")


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "fsspec", None)
    with pytest.raises(UserError, match=r"s3://bucket/packed/pack\.json: .*pip install 'svfap\[remote\]'"):
        PretrainConfig(dataset="s3://bucket/packed", out=Path("out"))
    monkeypatch.undo()
    with pytest.raises(UserError, match=r"nonsense://.*cannot be read"):
        remote.local_copy("nonsense://bucket/packed")


def test_paths_are_no_urls():
    assert remote.url_of(Path("s3://bucket/a b/")) == "s3://bucket/a b"
    assert remote.url_of("hf://datasets/me/faces") == "hf://datasets/me/faces"
    for name in ("file:///a/b", "local:///a/b"):
        assert remote.url_of(name) == remote.url_of(Path(name)) == name
    assert remote.url_of("hdfs:///a/b") == "hdfs:///a/b"
    for path in ("a/b.csv", "/a:/b", "C:/faces", "a:b", "faces:/"):
        assert remote.url_of(Path(path)) is None, path


def test_what_was_packed_from_a_manifest_is_given_as_one(packed):
    with pytest.raises(
        UserError, match=f"{packed}: was packed from a manifest; give `manifest`, such as {packed}/m.csv, in place"
    ):
        read_dataset(packed)
    with pytest.raises(UserError, match=f"{packed}: is a folder; give a manifest, such as {packed}/m.csv"):
        read_manifest(packed)
    with pytest.raises(UserError, match="is a file; give a folder .* or a manifest as `manifest`"):
        read_dataset(packed / "m.csv")


def test_a_folder_given_as_a_manifest_is_named_as_it_was_given(packed, faces, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(
        UserError, match=f"manifest=file://{packed}: is a folder; give a manifest, such as file://{packed}/m.csv"
    ):
        resolve_module.check_run(PretrainConfig(manifest=f"file://{packed}", out=tmp_path / "run"))
    with pytest.raises(UserError, match="is the folder of a dataset; give it as `dataset`"):
        resolve_module.check_run(PretrainConfig(manifest=faces, out=tmp_path / "run"))
