"""`svfap crop`: clips of faces at known positions, resuming, and the manifest."""

from __future__ import annotations

import csv
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pandas as pd
import pytest
from odd_videos import encode

import svfap
from svfap.cli.main import main
from svfap.crop import clips as face_clips
from svfap.crop import crop as cropping
from svfap.crop.config import CropConfig
from svfap.crop.crop import crop_videos
from svfap.data.manifest import read_manifest
from svfap.data.video import VideoError, open_video, write_video
from svfap.errors import UserError
from svfap.faces.detect import Face
from svfap.faces.track import TrackedFace, TrackedFrame

FPS, HEIGHT, WIDTH, SIDE = 20, 96, 160, 32
COLOURS = {"red": (220, 30, 30), "green": (30, 200, 30), "blue": (30, 30, 230)}
FLAGS = ["--detect_every", "1", "--size_px", "32", "--margin", "0", "--min_face_px", "16"]

Scene = Callable[[int], dict[str, tuple[int, int]]]  # frame number -> colour -> left and top of a face of 32 px


class ColourDetector:
    """Finds squares of the three colours; each counts as a face."""

    name = "haar"

    def detect(self, frame: np.ndarray) -> list[Face]:
        faces = []
        for colour in COLOURS.values():
            y, x = np.nonzero(np.abs(frame.astype(int) - colour).max(axis=2) < 60)
            if len(x) > 100:
                left, top = float(x.min()), float(y.min())
                faces.append(Face((left, top, float(x.max()) + 1 - left, float(y.max()) + 1 - top), 0.9))
        return sorted(faces, key=lambda face: -face.box[2] * face.box[3])


def plain(out: Path, **settings: Any) -> CropConfig:
    """The detector runs on every frame, and a clip is the box itself in its own size."""
    return CropConfig(out=out, **{"detect_every": 1, "size_px": SIDE, "margin": 0.0, "min_face_px": 16, **settings})


@pytest.fixture(autouse=True)
def quick_detector(monkeypatch):
    monkeypatch.setattr(cropping, "make_detector", lambda name, model=None: ColourDetector())


def film(path: Path, scene: Scene, num_frames: int, side: int = SIDE) -> Path:
    """A video of squares, each with a white mark right of its middle, on a background with structure."""
    background = np.full((HEIGHT, WIDTH, 3), 90, np.uint8)
    background[:, ::8] = 150

    def draw(number: int) -> np.ndarray:
        frame = background.copy()
        for colour, (x, y) in scene(number).items():
            frame[y : y + side, x : x + side] = COLOURS[colour]
            frame[y + side // 2 - 4 : y + side // 2 + 4, x + 3 * side // 4 - 4 : x + 3 * side // 4 + 4] = 255
        return frame

    path.parent.mkdir(parents=True, exist_ok=True)
    write_video(path, map(draw, range(num_frames)), FPS, crf=5)
    return path


def walking(number: int) -> dict[str, tuple[int, int]]:
    return {"red": (4 + 2 * number, 10 + number // 4)}


def still(number: int) -> dict[str, tuple[int, int]]:
    return {"green": (20, 40)}


def nobody(number: int) -> dict[str, tuple[int, int]]:
    return {}


def rows(out: Path) -> list[dict[str, str]]:
    with (out / "manifest.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def pictures(out: Path, row: dict[str, str]) -> np.ndarray:
    with open_video(out / row["path"]) as video:
        assert video.fps == FPS
        return video.read(range(video.num_frames))


def shows(colour: str, clip: np.ndarray) -> bool:
    """Whether the square fills every frame, with its mark where it belongs."""
    inner = clip[:, 4:-4, 4:12].astype(int)
    mark = clip[:, 14:18, 22:26]
    return bool(np.abs(inner - COLOURS[colour]).max() < 60 and mark.mean(axis=(1, 2, 3)).min() > 215)


# what is in the clips --------------------------------------------------------------------------------------------------


def test_small_faces_are_dropped_with_a_note(tmp_path, capsys):
    video = film(tmp_path / "v.mp4", still, 30)
    assert crop_videos([video], plain(tmp_path / "out", min_face_px=40)).num_clips == 0
    assert f"{video}: dropped 1 face smaller than 40 px (min_face_px)\n" in capsys.readouterr().err
    assert crop_videos([video], plain(tmp_path / "other", min_face_px=24)).num_clips == 1
    assert "dropped" not in capsys.readouterr().err


def test_every_face_becomes_a_clip_that_moves_with_it(tmp_path):
    def two(number: int) -> dict[str, tuple[int, int]]:
        return {**walking(number), **({"green": (100, 60)} if 15 <= number < 45 else {})}

    video = film(tmp_path / "two.mp4", two, 60)
    done = crop_videos([video], plain(tmp_path / "out"))
    assert done == (1, 2, 2, pytest.approx(4.5), [], {})
    red, green = rows(tmp_path / "out")
    assert list(red) == ["path", "source", "track", "source_start_s", "source_end_s", "face_px"]
    for row, colour, track, span in ((red, "red", 1, (0.0, 3.0)), (green, "green", 2, (0.75, 2.25))):
        assert (row["source"], int(row["track"])) == (str(video), track)
        assert (float(row["source_start_s"]), float(row["source_end_s"])) == span
        assert float(row["face_px"]) == pytest.approx(SIDE, abs=1.5)
        clip = pictures(tmp_path / "out", row)
        assert clip.shape == (round((span[1] - span[0]) * FPS), SIDE, SIDE, 3)
        assert shows(colour, clip)
        with av.open(tmp_path / "out" / row["path"]) as file:
            assert [stream.type for stream in file.streams] == ["video"]
            assert file.streams.video[0].codec_context.name == "h264"
            keys = [number for number, frame in enumerate(file.decode(video=0)) if frame.key_frame]
            assert np.diff([*keys, len(clip)]).max() <= 10


def test_gaps_split_clips_and_hold_no_frame_without_a_box(tmp_path):
    def away(number: int) -> dict[str, tuple[int, int]]:
        return still(number) if number < 20 or number >= 40 else {}

    crop_videos([film(tmp_path / "away.mp4", away, 70)], plain(tmp_path / "out"))
    found = rows(tmp_path / "out")
    assert [(r["track"], float(r["source_start_s"]), float(r["source_end_s"])) for r in found] == [
        ("1", 0.0, 1.0),
        ("1", 2.0, 3.5),
    ]
    clips = [pictures(tmp_path / "out", row) for row in found]
    assert [len(clip) for clip in clips] == [20, 30]
    assert all(shows("green", clip) for clip in clips)


def test_long_tracks_are_cut_without_losing_a_frame_or_leaving_a_short_clip(tmp_path):
    crop_videos([film(tmp_path / "long.mp4", walking, 60)], plain(tmp_path / "out", max_clip_s=1.3))
    found = rows(tmp_path / "out")
    assert [len(pictures(tmp_path / "out", row)) for row in found] == [26, 34]  # 8 would be less than min_track_s
    assert [row["track"] for row in found] == ["1", "1"]
    times = [(float(row["source_start_s"]), float(row["source_end_s"])) for row in found]
    assert times == [(0.0, 1.3), (1.3, 3.0)]
    crop_videos(tmp_path / "long.mp4", plain(tmp_path / "more", max_clip_s=1.25))
    assert [len(pictures(tmp_path / "more", row)) for row in rows(tmp_path / "more")] == [25, 25, 10]


def test_how_faces_were_cut_is_a_file_for_people_too(tmp_path):
    crop_videos([film(tmp_path / "v.mp4", still, 30)], plain(tmp_path / "out"))
    lines = (tmp_path / "out" / "crop.json").read_text().splitlines()
    assert '  "margin": 0.0,' in lines and '  "border": "grey",' in lines  # a line for each setting


def test_fps_sets_that_of_the_clips(tmp_path):
    video = film(tmp_path / "v.mp4", walking, 60)
    crop_videos([video], plain(tmp_path / "out", fps=10))
    (row,) = rows(tmp_path / "out")
    assert (row["source_start_s"], row["source_end_s"]) == ("0.0", "3.0")
    with open_video(tmp_path / "out" / row["path"]) as clip:
        assert (clip.fps, clip.num_frames) == (10, 30)
        assert shows("red", clip.read(range(30)))


def test_only_the_largest_face_is_kept(tmp_path):
    def brief(number: int) -> dict[str, tuple[int, int]]:
        return {**still(number), **({"red": (100, 10)} if number < 20 else {})}

    video = film(tmp_path / "v.mp4", brief, 60)
    done = crop_videos([video], plain(tmp_path / "out", largest=True))
    (row,) = rows(tmp_path / "out")
    assert done.num_tracks == 1
    assert shows("green", pictures(tmp_path / "out", row))
    assert len(list((tmp_path / "out").rglob("*.mp4"))) == 1


def test_the_largest_face_is_that_with_most_area_over_time(tmp_path, monkeypatch):
    def tracked(frames, *_):
        large, small = (
            TrackedFace(n, box, 0.9, None, True) for n, box in enumerate([(10, 10, 40, 40), (90, 20, 9, 9)])
        )
        for n, (time_s, frame) in enumerate(frames):
            yield TrackedFrame(n, time_s, frame, (large, small) if n < 20 else (small,), 0)

    monkeypatch.setattr(face_clips, "track_faces", tracked)
    crop_videos([film(tmp_path / "v.mp4", still, 60)], plain(tmp_path / "out", largest=True))
    assert rows(tmp_path / "out")[0]["source_end_s"] == "1.0"  # of the large one: it is shorter, and has more area


def test_files_are_closed_after_an_error(tmp_path, monkeypatch):
    def breaks(frames, *_):
        for n, (time_s, frame) in enumerate(frames):
            if n == 30:
                raise VideoError(Path("v.mp4"), "damaged")
            yield TrackedFrame(n, time_s, frame, (TrackedFace(0, (10, 10, 40, 40), 0.9, None, True),), 0)

    video = film(tmp_path / "v.mp4", still, 60)
    closed, close = [], face_clips.VideoWriter.close
    monkeypatch.setattr(face_clips, "track_faces", breaks)
    monkeypatch.setattr(face_clips.VideoWriter, "close", lambda writer: (closed.append(writer), close(writer)))
    done = crop_videos([video], plain(tmp_path / "out"))
    assert len(done.failures) == len(set(closed)) == 1


# many videos -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def worked_on(monkeypatch) -> list[str]:
    """Names of the videos that were cropped, as it happens."""
    names: list[str] = []
    original = cropping.write_clips

    def counted(sample, folder, config, detector):
        names.append(sample.path.name)
        return original(sample, folder, config, detector)

    monkeypatch.setattr(cropping, "write_clips", counted)
    return names


def test_a_restarted_run_crops_only_what_is_left(tmp_path, worked_on, capsys):
    videos, out = tmp_path / "videos", tmp_path / "out"
    for name in ("a", "b", "c"):
        film(videos / f"{name}.mp4", still, 24)
    (videos / "broken.mp4").write_text("no video")
    assert main(["crop", str(videos), "--out", str(out), *FLAGS]) == 1
    assert worked_on == ["a.mp4", "b.mp4", "broken.mp4", "c.mp4"]
    assert "1 video failed, listed in" in " ".join(capsys.readouterr().err.split())
    with (out / "failures.csv").open(newline="") as file:
        (failure,) = csv.DictReader(file)
    assert failure["source"] == str(videos / "broken.mp4")
    assert failure["reason"].startswith("not a readable video")
    assert [path.relative_to(out).as_posix() for path in out.rglob("failures.csv")] == ["failures.csv"]
    first = rows(out)
    assert [Path(row["source"]).name for row in first] == ["a.mp4", "b.mp4", "c.mp4"]
    kept, lost, cut = (out / row["path"] for row in first)
    lost.unlink()
    cut.write_bytes(cut.read_bytes()[:-100])
    written_ns = kept.stat().st_mtime_ns
    worked_on.clear()
    film(videos / "broken.mp4", walking, 24)  # mended
    assert main(["crop", str(videos), "--out", str(out), *FLAGS]) == 0
    assert worked_on == ["b.mp4", "broken.mp4", "c.mp4"]
    assert kept.stat().st_mtime_ns == written_ns
    assert [row for row in rows(out) if "broken" not in row["source"]] == first
    assert not (out / "failures.csv").exists()
    worked_on.clear()
    assert main(["crop", str(videos), "--out", str(out), *FLAGS]) == 0
    assert worked_on == []
    settings = json.loads((out / "clips" / "settings.json").read_text())  # version 0.1 stored some settings twice
    nested = {name: settings[name] for name in ("size_px", "margin", "align", "border")}
    (out / "clips" / "settings.json").write_text(json.dumps({**settings, "crop": nested}))
    assert main(["crop", str(videos), "--out", str(out), *FLAGS]) == 0
    assert worked_on == []
    assert main(["crop", str(videos), "--out", str(out), *FLAGS, "--fps", "10"]) == 1
    assert "was made with other settings (fps: None then, 10.0 now)" in capsys.readouterr().err


def test_a_video_that_takes_too_long_is_reported_and_tried_again_without_the_limit(tmp_path, capsys):
    film(tmp_path / "videos" / "a.mp4", still, 24)
    arguments = ["crop", str(tmp_path / "videos"), "--out", str(tmp_path / "out"), *FLAGS]
    assert main([*arguments, "--item_timeout_s", "0.001"]) == 1
    assert "a.mp4,took longer than 0.001 s" in (tmp_path / "out" / "failures.csv").read_text()
    assert main(arguments) == 0
    assert len(rows(tmp_path / "out")) == 1


def test_an_interrupted_run_leaves_no_incomplete_results(tmp_path, monkeypatch):
    film(tmp_path / "videos" / "a.mp4", still, 24)
    film(tmp_path / "videos" / "b.mp4", still, 24)
    original, calls = face_clips.crop_face, []

    def stops(*args):
        calls.append(1)
        if len(calls) == 40:
            raise KeyboardInterrupt
        return original(*args)

    monkeypatch.setattr(face_clips, "crop_face", stops)
    with pytest.raises(KeyboardInterrupt):
        crop_videos([tmp_path / "videos"], plain(tmp_path / "out"))
    assert not (tmp_path / "out" / "manifest.csv").exists()
    assert len(list((tmp_path / "out").rglob("*.mp4"))) == 1
    done = crop_videos([tmp_path / "videos"], plain(tmp_path / "out"))
    assert done.num_clips == 2
    assert len(calls) == 40 + 24  # the second video again, the first one not
    assert [len(pictures(tmp_path / "out", row)) for row in rows(tmp_path / "out")] == [24, 24]


def test_folders_are_searched_and_equal_names_kept_apart(tmp_path, worked_on):
    film(tmp_path / "a" / "one.mp4", walking, 24)
    film(tmp_path / "a" / "deep" / "er" / "one.MOV", still, 24)
    film(tmp_path / "b" / "one.mp4", still, 24)
    (tmp_path / "a" / "notes.txt").write_text("no video")
    shutil.copy(tmp_path / "b" / "one.mp4", tmp_path / "a" / "._one.mp4")
    out = tmp_path / "a" / "crops"  # inside what is searched
    for _ in range(2):
        assert crop_videos([tmp_path / "a", tmp_path / "b"], plain(out)).num_clips == 3
    found = rows(out)
    sources = [Path(row["source"]).relative_to(tmp_path).as_posix() for row in found]
    assert sources == ["a/one.mp4", "a/deep/er/one.MOV", "b/one.mp4"]
    assert [shows(c, pictures(out, row)) for row, c in zip(found, ("red", "green", "green"), strict=True)] == [True] * 3
    assert len(worked_on) == 3


def test_names_that_are_not_utf_8_are_cropped_like_all_others(tmp_path):
    film(tmp_path / "videos" / "a.mp4", still, 24)
    folder = os.fsencode(tmp_path / "videos")
    shutil.copy(folder + b"/a.mp4", folder + b"/caf\xe9.mp4")
    Path(os.fsdecode(folder + b"/broken\xe9.mp4")).write_text("no video")
    done = crop_videos([tmp_path / "videos"], plain(tmp_path / "out"))
    assert (done.num_sources, done.num_clips, len(done.failures)) == (3, 2, 1)
    assert [Path(row["source"]).name for row in rows(tmp_path / "out")] == ["a.mp4", "caf\\udce9.mp4"]
    for row in rows(tmp_path / "out"):
        assert shows("green", pictures(tmp_path / "out", row))
    assert "broken\\udce9.mp4,not a readable video" in (tmp_path / "out" / "failures.csv").read_text()


def test_a_folder_of_frames_is_one_video(tmp_path):
    with open_video(film(tmp_path / "v.mp4", still, 24)) as video:
        for number, (_, frame) in enumerate(video.frames()):
            (tmp_path / "frames").mkdir(exist_ok=True)
            cv2.imwrite(str(tmp_path / "frames" / f"{number}.png"), frame[..., ::-1])
    assert crop_videos(tmp_path / "frames", plain(tmp_path / "out")).num_clips == 1
    (row,) = rows(tmp_path / "out")
    assert (row["source"], row["source_end_s"]) == (str(tmp_path / "frames"), "0.96")  # 25 frames per second


def test_a_video_without_a_face_is_listed_and_no_failure(tmp_path, capsys):
    film(tmp_path / "videos" / "nobody.mp4", nobody, 12)
    film(tmp_path / "videos" / "somebody.mp4", still, 24)
    assert main(["crop", str(tmp_path / "videos"), "--out", str(tmp_path / "out"), *FLAGS]) == 0
    message = " ".join(capsys.readouterr().err.split())
    assert "1 clip (0.0 minutes) of 1 face track in 2 of 2 videos" in message
    assert "no face: 1 video, listed in" in message
    lines = (tmp_path / "out" / "no_face.csv").read_text().splitlines()
    assert lines == ["source,reason", f"{tmp_path / 'videos' / 'nobody.mp4'},no face found"]
    assert len(rows(tmp_path / "out")) == 1


def test_worker_processes_give_the_same_clips(tmp_path):
    for number in range(3):
        film(tmp_path / "videos" / f"{number}.mp4", nobody, 6)
    config = CropConfig(out=tmp_path / "out", faces="haar", num_workers=1)  # another process has the real detector
    done = crop_videos([tmp_path / "videos"], config)
    assert (done.num_sources, len(done.no_face), done.failures) == (3, 3, {})


# manifests -------------------------------------------------------------------------------------------------------------


def test_columns_are_carried_over_and_spans_and_boxes_are_respected(tmp_path):
    def two(number: int) -> dict[str, tuple[int, int]]:
        return {"red": (10, 10), "green": (100, 60)}

    film(tmp_path / "v.mp4", two, 80)
    film(tmp_path / "w.mp4", walking, 60)
    (tmp_path / "all.csv").write_text(
        "path,label,valence,subject,split,group,start_s,end_s,box\n"
        "w.mp4,joy,0.50,01,train,g,,,\n"
        "v.mp4,calm,-1,02,train,h,1,3,80 40 80 56\n"
        "v.mp4,joy,0.25,01,test,,0,1.5,0 0 80 96\n"
    )
    out = tmp_path / "out"
    crop_videos([tmp_path / "all.csv"], plain(out))
    found = rows(out)
    carried = ["label", "valence", "subject", "split", "group"]
    assert list(found[0])[6:] == carried
    assert [[row[name] for name in carried] for row in found] == [
        ["joy", "0.50", "01", "train", "g"],
        ["calm", "-1", "02", "train", "h"],
        ["joy", "0.25", "01", "test", ""],
    ]
    assert [(row["source_start_s"], row["source_end_s"]) for row in found] == [
        ("0.0", "3.0"),
        ("1.0", "3.0"),
        ("0.0", "1.5"),
    ]
    for row, colour in zip(found, ("red", "green", "red"), strict=True):
        assert shows(colour, pictures(out, row))
    assert len(read_manifest(out / "manifest.csv", task="unlabelled", split="train")) == 2
    assert read_manifest(out / "manifest.csv", split="test").label_names == ("calm", "joy")
    regression = read_manifest(out / "manifest.csv", task="regression", split="train")
    assert regression.dimensions == ("valence",)  # and none of the clips' own numbers
    assert (regression[0].start_s, regression[0].box) == (None, None)  # the whole clip is the sample
    again = crop_videos([tmp_path / "all.csv"], plain(tmp_path / "test", split="test"))
    assert again.num_clips == 1


def test_pretraining_takes_the_manifest(tmp_path):
    for number in range(4):
        film(tmp_path / "videos" / f"{number}.mp4", walking, 40)
    out = tmp_path / "faces"
    assert main(["crop", str(tmp_path / "videos"), "--out", str(out), *FLAGS]) == 0
    args = ["--preset", "svfap_debug", "--sampling_stride", "1", "--epochs", "1", "--warmup_epochs", "0"]
    args += ["--batch_size", "4", "--num_workers", "0", "--precision", "fp32", "--mask_ratio", "0.75"]
    assert main(["pretrain", "--manifest", str(out / "manifest.csv"), "--out", str(tmp_path / "run"), *args]) == 0
    assert svfap.load_model(tmp_path / "run").config.task == "pretraining"


# mistakes --------------------------------------------------------------------------------------------------------------


def test_mistakes_are_named_before_anything_is_done(tmp_path):
    video = film(tmp_path / "v.mp4", still, 12)
    (tmp_path / "empty").mkdir()
    for name, header, row in (
        ("taken", "path,track", "v.mp4,1"),
        ("files", "path,frame_values", "v.mp4,v.csv"),
        ("cells", "path,valence", "v.mp4,0.1 -2e-1 3"),
    ):
        (tmp_path / f"{name}.csv").write_text(f"{header}\n{row}\n")
    for sources, message in (
        ([tmp_path / "missing.mp4"], r"missing\.mp4: no such file or folder"),
        ([tmp_path / "empty"], r"empty: holds no videos \(\.mp4, .* and no images"),
        ([video, tmp_path], r"v\.mp4: comes twice"),
        ([tmp_path / "taken.csv"], "column 'track' of the manifest: the clips' manifest has a column of this name"),
        ([tmp_path / "files.csv"], "column 'frame_values' of the manifest: has a label for each frame"),
        ([tmp_path / "cells.csv"], "column 'valence' of the manifest: has a label for each frame"),
    ):
        with pytest.raises(UserError, match=message):
            crop_videos(sources, plain(tmp_path / "out"))
    with pytest.raises(UserError, match="`root` and `split` are for manifests"):
        crop_videos([video], plain(tmp_path / "out", split="train"))
    with pytest.raises(UserError, match="engine='spark'"):
        crop_videos([video], plain(tmp_path / "out", engine="spark"))  # type: ignore[arg-type]
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"fps": 0.0}, "fps=0: must be above 0"),
        ({"max_clip_s": 0.2}, "max_clip_s=0.2: must be at least min_track_s=0.5"),
        ({"min_track_s": -1.0}, "min_track_s=-1.0: must be at least 0"),
        ({"gop": 0}, "gop=0: must be at least 1"),
        ({"detect_every": 0}, "detect_every=0"),
        ({"size_px": 0}, "size_px=0"),
        ({"border": "black"}, "border='black' is none of grey, replicate, reflect"),
        ({"num_workers": -1}, "num_workers=-1: must be at least 0"),
        ({"face_model": Path("missing.onnx")}, "face_model=missing.onnx: no such file"),
    ],
)
def test_settings_out_of_range(settings, message):
    with pytest.raises(UserError, match=message):
        plain(Path("out"), **settings)


# a real video ----------------------------------------------------------------------------------------------------------


def test_a_real_face(clips, tmp_path, monkeypatch):
    monkeypatch.undo()  # the real detector
    model = clips.parent / "models" / "yunet_n_640_640.onnx"
    config = CropConfig(out=tmp_path / "out", faces="yunet", face_model=model)
    done = crop_videos(clips / "single_face.mp4", config)
    assert (done.num_clips, done.num_tracks) == (1, 1)
    (row,) = rows(tmp_path / "out")
    with open_video(tmp_path / "out" / row["path"]) as video:
        assert (video.num_frames, video.height, video.width) == (72, 224, 224)
    first = next(iter(svfap.iter_tracks(tmp_path / "out" / row["path"], faces="yunet", face_model=model)))
    x, y, w, h = first.faces[0].box  # in the crop, the face is in the middle, with 0.3 of its longer side around it
    assert (x + w / 2, y + h / 2) == pytest.approx((112, 112), abs=12)
    assert max(w, h) == pytest.approx(224 / 1.6, rel=0.12)


def test_iter_tracks_takes_a_detector_object(tmp_path):
    video = film(tmp_path / "v.mp4", walking, 30)
    frames = list(svfap.iter_tracks(video, faces=ColourDetector()))
    assert [frame.index for frame in frames] == list(range(30))
    for frame in frames:
        (face,) = frame.faces
        assert face.box[:2] == pytest.approx(walking(frame.index)["red"], abs=1.5)
    table = pd.DataFrame([{"time_s": frame.time_s, "track": frame.faces[0].track} for frame in frames])
    assert table["time_s"].tolist() == pytest.approx([i / FPS for i in range(30)])
    assert set(table["track"]) == {1}


def test_a_pause_of_the_recording_ends_the_clip(tmp_path):
    """30 frames, a minute without any, 40 frames: two clips, none of which holds both."""
    pictures = film(tmp_path / "still.mp4", still, 70)
    with open_video(pictures) as source:
        ticks = [*range(30), *range(1500, 1540)]
        encode(tmp_path / "v.mkv", "libx264", source.read(range(70)), ticks=ticks, rate=FPS, crf="5")
    crop_videos([tmp_path / "v.mkv"], plain(tmp_path / "out"))
    found = [(row["source_start_s"], row["source_end_s"]) for row in rows(tmp_path / "out")]
    seconds = 1500 / FPS
    assert found == [("0.0", str(30 / FPS)), (str(seconds), str(seconds + 40 / FPS))]
