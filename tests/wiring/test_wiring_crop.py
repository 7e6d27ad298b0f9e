"""Every setting of `svfap crop` has its effect on the clips, and every setting of tracks and crops on boxes and pixels."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import av
import numpy as np
import pandas as pd
import pytest
from face_films import Eyes, shown, write_films
from observe import CachedRuns, Effect, check, digest, noting_jobs

from svfap.crop import crop as cropping
from svfap.crop import dataset as dataset_cropping
from svfap.crop.config import CropConfig
from svfap.data.prepared import Fold, PreparedDataset, write_dataset_file
from svfap.data.video import VideoWriter, open_video
from svfap.errors import UserError
from svfap.faces.config import FaceCropConfig, TrackConfig
from svfap.faces.crop import crop_face
from svfap.faces.detect import Face
from svfap.faces.track import track_faces

RAY = {"engine": "ray"}
EFFECTS: dict[str, Effect] = {
    "out": Effect({}, {"out": "there"}, ("out",), ("pictures", "crop")),
    "faces": Effect({"faces": "haar"}, {"faces": "yunet"}, ("made",), ("pictures",)),
    "face_model": Effect({}, {"face_model": "model.onnx"}, ("made",), ("pictures",)),
    "detect_every": Effect({}, {"detect_every": 4}, ("num_searched", "pictures")),
    "min_face_px": Effect({}, {"min_face_px": 40}, ("tracks",), ("size",)),
    "margin": Effect({}, {"margin": 0.6}, ("pictures", "crop"), ("lengths", "tracks", "size")),
    "align": Effect({}, {"align": True}, ("pictures", "crop"), ("lengths", "tracks", "size")),
    "border": Effect(
        {"border": "replicate"}, {"border": "reflect"}, ("pictures", "crop"), ("lengths", "tracks", "size")
    ),
    "size_px": Effect({}, {"size_px": 48}, ("size", "crop"), ("lengths", "tracks")),
    "fps": Effect({}, {"fps": 12.5}, ("lengths", "fps", "crop"), ("tracks", "size")),
    "min_track_s": Effect({}, {"min_track_s": 1.2}, ("tracks",), ("size", "crop")),
    "max_clip_s": Effect({}, {"max_clip_s": 0.7}, ("lengths",), ("tracks", "crop")),
    "largest": Effect({}, {"largest": True}, ("tracks",), ("crop", "size")),
    "gop": Effect({}, {"gop": 1}, ("num_keyframes",), ("lengths", "tracks", "crop")),
    "root": Effect({}, {"root": "elsewhere"}, ("pictures",), ("labels", "crop")),
    "split": Effect({}, {"split": "test"}, ("labels", "tracks"), ("crop",)),
    "engine": Effect({}, RAY, ("jobs",), ("pictures",)),
    "num_workers": Effect(RAY, {**RAY, "num_workers": 3}, ("jobs",), ("pictures",)),
    "num_gpus": Effect(RAY, {**RAY, "num_gpus": 0.5}, ("jobs",), ("pictures",)),
    "item_timeout_s": Effect(RAY, {**RAY, "item_timeout_s": 9.0}, ("jobs",), ("pictures",)),
}
REFUSED = {"root": "elsewhere", "split": "test", "max_clip_s": 0.7}  # of a dataset every clip is cut, as one clip
# With a dataset only the largest face is shown, so that a smaller one that is dropped changes nothing.
OF_DATASET = EFFECTS | {
    "min_face_px": Effect({}, {"min_face_px": 42}, ("labels",), ("size",)),
    "min_track_s": Effect({}, {"min_track_s": 1.2}, ("labels",), ("size", "crop")),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("wiring_crop")
    manifest = write_films(folder)
    for name, rows in {"prepared": (1, 2, 3, 4), "prepared_of_b": (2, 4)}.items():
        (folder / name).mkdir()
        lines = manifest.read_text().splitlines()
        (folder / name / "train.csv").write_text("\n".join([lines[0], *(lines[row] for row in rows)]) + "\n")
        fold = Fold("1", Path("train.csv"))
        described = PreparedDataset("own", "Own", "classification", Path(".."), ("joy", "calm", "fear"), (fold,))
        write_dataset_file(folder / name, described)
    return folder


class Runs(CachedRuns):
    def observed(self, settings: dict[str, Any], out: Path, dataset: bool = False) -> dict[str, Any]:
        chosen = {"size_px": 64, "detect_every": 1, "faces": "haar", "out": "out", **settings}
        if dataset:
            chosen = {"dataset": "prepared", **chosen}
        for name in ("root", "face_model", "dataset"):
            if name in chosen:
                chosen[name] = self.folder / chosen[name]
        return observed(self.folder, CropConfig(**{**chosen, "out": out / chosen["out"]}))


@pytest.fixture(scope="module")
def runs(folder) -> Runs:
    return Runs(folder)


def observed(folder: Path, config: CropConfig) -> dict[str, Any]:
    """Crop; what was written. The pictures are those that the encoder gets."""
    detector, jobs, pictures = Eyes(), [], []
    write = VideoWriter.write
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            VideoWriter, "write", lambda self, picture, *more: (pictures.append(picture), write(self, picture, *more))
        )
        for module in (cropping, dataset_cropping):
            patch.setattr(module, "make_detector", detector.make)
        patch.setattr(cropping, "run_jobs", noting_jobs(cropping.run_jobs, jobs))
        if config.dataset is not None:
            dataset_cropping.crop_dataset(config)
            table = pd.read_csv(config.out / "crops.csv")
            files = [config.out / "clips" / path for path in table["path"]]
            found = {
                "tracks": table["num_tracks"].tolist(),
                "labels": pd.read_csv(config.out / "train.csv")["label"].tolist(),
            }
        else:
            cropping.crop_videos(folder / "m.csv", config)
            table = pd.read_csv(config.out / "manifest.csv")
            files = [config.out / path for path in table["path"]]
            tracks = sorted(set(zip(table["source"], table["track"], strict=True)))
            found = {"tracks": tracks, "labels": table["label"].unique().tolist()}
    with open_video(files[0]) as first:
        fps = first.fps
    with av.open(str(files[0])) as first:
        keyframes = sum(packet.is_keyframe for packet in first.demux(video=0))
    return found | {
        "out": config.out.name,
        "made": set(detector.made),
        "num_searched": detector.num_searched,
        "pictures": digest(*pictures),
        "lengths": [len(shown(file)) for file in files],
        "size": pictures[0].shape,
        "fps": fps,
        "num_keyframes": keyframes,
        "crop": json.loads((config.out / "crop.json").read_text()),
        "jobs": jobs,
    }  # fmt: skip


@pytest.mark.parametrize("name", EFFECTS)
def test_a_setting_of_crop_has_its_effect(name, runs):
    effect = EFFECTS[name]
    check(effect, runs(effect.a), runs(effect.b))


# What is done to each video alike, whether it is of a dataset or not.
OF_A_VIDEO = {"detect_every", "margin", "align", "border", "fps", "gop", "engine", "num_gpus", "item_timeout_s"}


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.slow] if name in OF_A_VIDEO else [])
        for name in OF_DATASET
        if name not in (*REFUSED, "largest")
    ],
)
def test_a_setting_of_crop_has_its_effect_on_a_dataset(name, runs):
    effect = OF_DATASET[name]
    check(effect, runs(effect.a, True), runs(effect.b, True))


@pytest.mark.parametrize("name", REFUSED)
def test_settings_that_a_dataset_refuses(name, runs):
    with pytest.raises(UserError, match=f"^{name}: is not for `dataset`"):
        runs({name: REFUSED[name]}, True)


def test_the_dataset_says_which_clips(runs):
    both, one = runs({}, True), runs({"dataset": "prepared_of_b"}, True)
    assert (both["labels"], one["labels"]) == (["joy", "calm", "fear"], ["calm"])
    assert both["lengths"][1:2] == one["lengths"]
    assert runs({"largest": True}, True)["pictures"] == both["pictures"]  # always the largest face alone


# tracks ----------------------------------------------------------------------------------------------------------------

BOX = 40
HEIGHT, WIDTH = 120, 160


class Scripted:
    """Finds in picture n, whose number its first pixels hold, what the script says; in the crop of a face that face."""

    name = "scripted"

    def __init__(self, script) -> None:
        self.script, self.calls = script, 0

    def detect(self, frame: np.ndarray) -> list[Face]:
        if frame.shape[:2] != (HEIGHT, WIDTH):
            side = frame.shape[0] / 1.6
            return [Face(((frame.shape[0] - side) / 2, (frame.shape[0] - side) / 2, side, side), 0.9)]
        self.calls += 1
        return [Face((float(x), 30.0, BOX, BOX), confidence) for x, confidence in self.script(int(frame[0, 0, 0]))]


def still(number: int):
    return [(20, 0.9)]


def missing(first: int, end: int):
    return lambda number: [] if first <= number < end else [(20, 0.9)]


def short(number: int):
    return [(20, 0.9)] if 10 <= number < 30 else []


def unsure(number: int):
    return [(20, 0.9), (100, 0.5)]


def trembling(number: int):
    return [(20 + 2 * (number % 2), 0.9)]


def leaping(number: int):
    return [(20 if number < 30 else 42, 0.9)]  # an overlap of 0.29


def back(number: int):
    first = [(10, 0.9)] if number < 20 or number >= 60 else []
    return first + ([(100, 0.9)] if number < 20 or number >= 45 else [])


def grounds(*bounds: int):
    """Number of a picture -> which of two grounds it has; they take turns at the bounds."""
    return lambda number: sum(number >= bound for bound in bounds) % 2


SCENES: dict[str, Any] = {
    "still": (still, grounds()),
    "missed for 0.72 s": (missing(25, 43), grounds()),
    "away for 1.2 s": (missing(25, 55), grounds()),
    "in view for 0.8 s": (short, grounds()),
    "unsure": (unsure, grounds()),
    "trembling": (trembling, grounds()),
    "leaping": (leaping, grounds()),
    "cut": (still, grounds(30)),
    "flash": (still, grounds(30, 33)),
    "two that come back": (back, grounds()),
}
TRACK: dict[str, tuple[str, Effect]] = {
    "detect_every": ("still", Effect({"detect_every": 1}, {"detect_every": 5}, ("calls",), ("tracks", "boxes"))),
    "max_gap_s": ("missed for 0.72 s", Effect({"max_gap_s": 0.5}, {"max_gap_s": 1.0}, ("frames",), ("shots", "calls"))),
    "resume_s": ("away for 1.2 s", Effect({"resume_s": 1.0}, {"resume_s": 2.0}, ("tracks",), ("frames", "boxes"))),
    "min_track_s": ("in view for 0.8 s", Effect({"min_track_s": 0.5}, {"min_track_s": 1.0}, ("frames",), ("shots",))),
    "smooth_s": ("trembling", Effect({"smooth_s": 0.0}, {"smooth_s": 0.3}, ("boxes",), ("frames", "tracks"))),
    "min_face_px": ("still", Effect({"min_face_px": 32}, {"min_face_px": 41}, ("frames",), ("shots",))),
    "min_confidence": ("unsure", Effect({}, {"min_confidence": 0.6}, ("tracks",), ("shots", "calls"))),
    "min_overlap": ("leaping", Effect({"min_overlap": 0.2}, {"min_overlap": 0.4}, ("tracks",), ("shots",))),
    "shot_threshold": (
        "cut",
        Effect({"shot_threshold": 0.5}, {"shot_threshold": 9.0}, ("shots", "tracks"), ("frames",)),
    ),
    "flash_s": ("flash", Effect({"flash_s": 0.25}, {"flash_s": 0.04}, ("shots", "tracks"))),
}


def tracked(scene: str, settings: dict[str, Any]) -> dict[str, Any]:
    script, ground = SCENES[scene]
    rng = np.random.default_rng(0)
    two = [
        rng.integers(0, 255, (HEIGHT // 20, WIDTH // 20, 3)).astype(np.uint8).repeat(20, 0).repeat(20, 1) for _ in "ab"
    ]

    def frames():
        for number in range(75):
            frame = two[ground(number)].copy()
            frame[0, 0] = number
            yield number / 25, frame

    detector = Scripted(script)
    items = list(track_faces(frames(), detector, TrackConfig(**{"detect_every": 1, **settings}), 25.0))
    places: dict[int, set[int]] = {}
    for face in (face for item in items for face in item.faces):
        places.setdefault(face.track, set()).add(round(face.box[0]))
    return {
        "calls": detector.calls,
        "frames": [len(item.faces) for item in items],
        "tracks": sorted(places),
        "boxes": [face.box for item in items for face in item.faces],
        "places": places,
        "shots": items[-1].shot,
    }


@pytest.mark.parametrize("name", TRACK)
def test_a_setting_of_tracks_has_its_effect(name):
    scene, effect = TRACK[name]
    check(effect, tracked(scene, effect.a), tracked(scene, effect.b))


def test_times_of_tracks_are_seconds():
    """Each limit holds for a time just below it, and not for one just above."""
    for settings, scene, name, bridged in (
        ({"max_gap_s": 0.8}, "missed for 0.72 s", "frames", [1] * 75),
        ({"resume_s": 1.3}, "away for 1.2 s", "tracks", [1]),
        ({"min_track_s": 0.75}, "in view for 0.8 s", "tracks", [1]),
    ):
        assert tracked(scene, settings)[name] == bridged
    for settings, scene, name, bridged in (
        ({"max_gap_s": 0.65}, "missed for 0.72 s", "frames", [1] * 75),
        ({"resume_s": 1.1}, "away for 1.2 s", "tracks", [1]),
        ({"min_track_s": 0.85}, "in view for 0.8 s", "tracks", [1]),
    ):
        assert tracked(scene, settings)[name] != bridged


def test_a_face_that_comes_back_keeps_its_own_number():
    """Of two faces that are lost, the second comes back first."""
    found = tracked("two that come back", {})
    assert found["places"] == {1: {10}, 2: {100}}


# crops -----------------------------------------------------------------------------------------------------------------

CUT: dict[str, Effect] = {
    "size_px": Effect({}, {"size_px": 48}, ("size",)),
    "margin": Effect({}, {"margin": 0.0}, ("pixels",), ("size",)),
    "align": Effect({}, {"align": True}, ("pixels",), ("size",)),
    "border": Effect({"border": "replicate"}, {"border": "reflect"}, ("pixels",), ("size",)),
}


def cut(settings: dict[str, Any]) -> dict[str, Any]:
    frame = np.random.default_rng(0).integers(0, 255, (60, 80, 3)).astype(np.uint8)
    eyes = np.array([(6, 14), (20, 22), (14, 24), (8, 28), (18, 30)], np.float32)
    picture = crop_face(frame, (2.0, 10.0, 24.0, 24.0), FaceCropConfig(**{"size_px": 32, **settings}), eyes)
    return {"pixels": digest(picture), "size": picture.shape}


@pytest.mark.parametrize("name", CUT)
def test_a_setting_of_crops_has_its_effect(name):
    check(CUT[name], cut(CUT[name].a), cut(CUT[name].b))


TESTED = {CropConfig: {*EFFECTS, "dataset"}, TrackConfig: {*TRACK}, FaceCropConfig: {*CUT}}
