"""Faces followed through real videos."""

from __future__ import annotations

import numpy as np
import pytest

import svfap
from svfap.faces.config import TrackConfig
from svfap.faces.detect import Haar, YuNet

ONE_PERSON = (
    "single_face.mp4",
    *(pytest.param(name, marks=pytest.mark.slow) for name in ("d0.mp4", "d3.mp4", "d10.mp4", "d13.mp4", "d18.mp4", "d20.mp4")),
)  # fmt: skip
NUM_FRAMES = 100
SPARSE = TrackConfig(detect_every=10)  # quicker, and harder


def followed(path, detector, limit: int | None = None) -> tuple[int, dict[int, list[int]], dict[int, np.ndarray]]:
    """Number of frames; of each track the frames it is in, and its boxes (N, 4)."""
    tracks: dict[int, list[int]] = {}
    boxes: dict[int, list[tuple[float, ...]]] = {}
    count = 0
    for item in svfap.iter_tracks(path, detector, SPARSE):
        if limit is not None and item.index >= limit:
            break
        count += 1
        for face in item.faces:
            tracks.setdefault(face.track, []).append(item.index)
            boxes.setdefault(face.track, []).append(face.box)
    return count, tracks, {track: np.array(rows) for track, rows in boxes.items()}


def yunet(clips) -> YuNet:
    return YuNet(clips.parent / "models" / "yunet_n_640_640.onnx")


@pytest.mark.parametrize("name", ONE_PERSON)
def test_one_person_is_one_track(clips, name):
    for detector, least in ((yunet(clips), 0.95), (Haar(), 0.85)):
        count, tracks, boxes = followed(clips / name, detector, NUM_FRAMES)
        assert list(tracks) == [1], detector.name
        assert len(tracks[1]) >= least * count > 50
        centres = boxes[1][:, :2] + boxes[1][:, 2:] / 2
        moved = np.linalg.norm(np.diff(centres, axis=0), axis=1) / boxes[1][1:, 2]
        assert np.percentile(moved, 95) < 0.02, "the crop does not jump, though the head may move"


def test_a_still_head_has_a_still_crop(clips):
    _, _, boxes = followed(clips / "d0.mp4", yunet(clips))
    centres = boxes[1][:, :2] + boxes[1][:, 2:] / 2
    moved = np.linalg.norm(np.diff(centres, axis=0), axis=1) / boxes[1][1:, 2]
    assert np.percentile(moved, 95) < 0.01


@pytest.mark.slow
def test_a_face_that_leaves(clips):
    for detector in (yunet(clips), Haar()):
        count, tracks, _ = followed(clips / "face_then_none.mov", detector)
        assert list(tracks) == [1] and tracks[1][0] == 0 and tracks[1][-1] < 0.6 * count


def test_no_face(clips):
    for detector in (yunet(clips), Haar()):
        assert followed(clips / "no_face.mp4", detector)[1] == {}


def test_every_face_of_a_picture(clips):
    assert len(followed(clips / "many_faces.jpg", yunet(clips))[1]) == 5
