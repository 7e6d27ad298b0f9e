"""Live pictures: faces keep their numbers, and the model reads what it would read in a file."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from svfap.errors import UserError
from svfap.faces.crop import crop_face
from svfap.faces.detect import Face
from svfap.model.build import build_model
from svfap.model.presets import model_config
from svfap.predict.live import LivePredictor
from svfap.predict.predictor import Predictor

RNG = np.random.default_rng(0)
PICTURES = RNG.integers(0, 255, (14, 200, 300, 3), np.uint8)


class Scripted:
    """A detector that finds what the test says, in pictures of any size."""

    name = "scripted"

    def __init__(self):
        self.boxes = []

    def detect(self, frame):
        return [Face(box, 0.9) for box in self.boxes]


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    config = model_config(
        "svfap_tiny", task="regression", num_outputs=2, label_names=("a", "b"), img_size=32, num_frames=8,
        sampling_stride=1, frame_rate=10.0,
    )  # fmt: skip
    return build_model(config)


@pytest.fixture
def live(model):
    return LivePredictor(Predictor(model, "cpu", "fp32", faces=Scripted()))


def test_faces_keep_their_numbers_until_they_are_gone_for_long(live):
    live.detector.boxes = [(10, 10, 60, 60), (150, 20, 50, 50)]
    assert [face.track for face in live(PICTURES[0], 0.0)] == [1, 2]
    live.detector.boxes = [(156, 24, 50, 50), (14, 12, 60, 60)]  # in the other order, a little further
    assert [face.track for face in live(PICTURES[1], 0.1)] == [2, 1]
    live.detector.boxes = [(16, 12, 60, 60)]
    assert [face.track for face in live(PICTURES[2], 0.5)] == [1]
    live.detector.boxes = [(16, 12, 60, 60), (156, 24, 50, 50)]
    assert [face.track for face in live(PICTURES[3], 1.0)] == [1, 2]  # seen 0.9 s ago
    live.detector.boxes = []
    assert live(PICTURES[4], 1.1) == []
    live.detector.boxes = [(16, 12, 60, 60)]
    assert [face.track for face in live(PICTURES[5], 3.3)] == [3]


def test_small_faces_are_left_out(live):
    live.detector.boxes = [(10, 10, 31, 20), (100, 10, 20, 32)]
    assert [face.track for face in live(PICTURES[0], 0.0)] == [1]


def test_a_model_of_windows_reads_the_pictures_nearest_in_time_twice_a_second(live):
    box = (40, 40, 80, 80)
    live.detector.boxes = [box]
    times = np.arange(14) * 0.1
    read = [live(picture, time)[0].values for picture, time in zip(PICTURES, times, strict=True)]
    known = [number for number, values in enumerate(read) if values is not None]
    assert known[0] == 7  # the clip of eight frames, 0.1 s apart, spans 0.7 s
    clip = np.stack([crop_face(PICTURES[k], box, live.predictor.reader.crop) for k in range(8)])
    assert read[7] == pytest.approx(live.predictor.predict_clips(clip[None])[0], abs=1e-6)
    assert all(read[k] is read[7] for k in range(8, 12)) and read[13] is not read[7]


def test_a_large_picture_is_searched_in_a_smaller_one(live):
    live.detector.boxes = [(20, 30, 40, 40)]  # of the smaller one
    (face,) = live(np.zeros((480, 640, 3), np.uint8), 0.0)
    assert face.box == (40, 60, 80, 80)


def test_whole_pictures_are_refused(model):
    with pytest.raises(UserError, match="face detector"):
        LivePredictor(Predictor(model, "cpu", "fp32", faces="none"))
