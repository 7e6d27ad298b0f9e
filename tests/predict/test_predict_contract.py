"""A model gets frames and faces as in its training: by time, with its crop, unless the user says otherwise."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import pytest
from fake_faces import Spots, film, frames, model

from svfap.cli.main import main
from svfap.data.video import write_video
from svfap.faces.config import FaceCropConfig
from svfap.faces.detect import Face
from svfap.model.build import create_model
from svfap.predict.config import PredictConfig
from svfap.predict.predict import predict_videos
from svfap.predict.predictor import Predictor, detector_of
from svfap.predict.reconstruct import reconstruct_video

pytestmark = pytest.mark.usefixtures("blank_figures")

STRIDE = 4  # windows of 61 frames: 2.03 s at 30 a second


@pytest.fixture(scope="module")
def videos(tmp_path_factory) -> Path:
    """A face that moves, 5 s long, at several rates; the same at 240 a second is the same at every eighth picture."""
    folder = tmp_path_factory.mktemp("videos")
    for fps in (5, 30, 240):
        places = [[(20 + round(4 * number / fps), 20)] for number in range(5 * fps)]
        write_video(folder / f"x{fps}.mp4", frames(places), fps)
    return folder


def predict(video: Path, frame_rate: float | None, faces: Any = "none", **settings: Any) -> pd.DataFrame:
    more = {name: settings.pop(name) for name in ("face_crop",) if name in settings}
    net = model(sampling_stride=STRIDE, frame_rate=frame_rate, **more)
    return Predictor(net, "cpu", "fp32", faces=faces, **{"hop_s": None, **settings})(video)


def spans(table: pd.DataFrame) -> np.ndarray:
    return (table["end_s"] - table["start_s"]).to_numpy()


def said(capsys) -> str:
    return " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize("faces", ["none", Spots()], ids=["crop", "faces"])
@pytest.mark.parametrize("fps", [5, 30, 240])
def test_windows_last_as_long_as_in_training(videos, fps, faces):
    table = predict(videos / f"x{fps}.mp4", 30.0, faces)
    np.testing.assert_allclose(spans(table), 61 / 30, atol=1e-6)
    np.testing.assert_allclose(table["start_s"], [0, 64 / 30, 5 - 61 / 30], atol=1e-6)


def test_predictions_do_not_depend_on_the_rate_of_the_file(videos):
    at_30, at_240 = (predict(videos / f"x{fps}.mp4", 30.0).filter(like="prob_") for fps in (30, 240))
    np.testing.assert_allclose(at_240, at_30, atol=0.02)  # other pictures are between, so compression differs
    own = predict(videos / "x240.mp4", 30.0, fps="own").filter(like="prob_")
    assert len(own) > 3 * len(at_30)


def test_the_user_is_told_of_another_rate(videos, capsys):
    predict(videos / "x30.mp4", 30.0)
    assert "sampled at" not in said(capsys)
    predict(videos / "x240.mp4", 30.0)
    told = said(capsys)
    assert f"{videos / 'x240.mp4'}: 240/s in the file, sampled at 30/s as in the model's training" in told
    assert told.endswith("(said once for all files of this rate)")
    table = predict(videos / "x240.mp4", None)
    assert spans(table)[0] == pytest.approx(61 / 240)
    assert "the model does not say its frame rate; a window here lasts 0.25 s; --fps 30 samples by time" in said(capsys)


@pytest.mark.parametrize(
    ("of_file", "count", "of_model"), [(30, 9, 25.0), (50, 15, 25.0), (30, 40, 25.0), (25, 7, 60.0)]
)
def test_no_row_ends_after_the_video(of_file, count, of_model, tmp_path):
    write_video(tmp_path / "short.mp4", frames([[(20, 20)]] * count), of_file)
    net = model(sampling_stride=1, frame_rate=of_model)
    table = Predictor(net, "cpu", "fp32", faces="none")(tmp_path / "short.mp4")
    assert table["end_s"].max() == pytest.approx(count / of_file, abs=1e-6)
    assert (table["end_s"] <= count / of_file + 1e-6).all() and (table["end_s"] > table["start_s"]).all()


def test_a_reconstruction_tells_of_another_rate(videos, capsys):
    net = create_model("svfap_debug", "pretraining", frame_rate=30.0, sampling_stride=1)
    reconstruct_video(videos / "x240.mp4", net)
    assert f"{videos / 'x240.mp4'}: 240/s in the file, sampled at 30/s as in the model's training" in said(capsys)
    reconstruct_video(videos / "x30.mp4", net)
    reconstruct_video(videos / "x240.mp4", create_model("svfap_debug", "pretraining", sampling_stride=1))
    assert said(capsys) == ""


def test_each_message_comes_once(videos, capsys):
    predictor = Predictor(model(sampling_stride=STRIDE, frame_rate=30.0), "cpu", faces="none")
    for _ in range(2):
        predictor(videos / "x240.mp4")
    assert said(capsys).count("240/s in the file") == 1


@pytest.mark.parametrize(("fps", "seconds"), [(60, 61 / 60), (15.0, 61 / 15), ("own", 61 / 30)])
def test_the_user_may_choose_another_rate(videos, fps, seconds):
    assert spans(predict(videos / "x30.mp4", 25.0, fps=fps))[0] == pytest.approx(seconds)
    assert spans(predict(videos / "x30.mp4", None, fps=fps))[0] == pytest.approx(seconds)


def test_the_hop_is_a_time(videos):
    for fps in (5, 240):
        starts = predict(videos / f"x{fps}.mp4", 30.0, hop_s=0.5)["start_s"].to_numpy()
        np.testing.assert_allclose(np.diff(starts)[:-1], 0.5, atol=1e-6)


def test_the_rate_of_a_folder_of_frames_is_25_or_what_the_user_states(tmp_path, capsys):
    (tmp_path / "clip").mkdir()
    for number, frame in enumerate(frames([[(20, 20)]] * 100)):
        cv2.imwrite(str(tmp_path / "clip" / f"{number}.png"), frame[..., ::-1])
    assert spans(predict(tmp_path / "clip", None))[0] == pytest.approx(61 / 25)
    assert said(capsys) == "folders of frames are read as 25 pictures per second; --frames_fps says otherwise"
    assert spans(predict(tmp_path / "clip", None, frames_fps=30))[0] == pytest.approx(61 / 30)
    table = predict(tmp_path / "clip", 60.0, frames_fps=20)
    assert spans(table)[0] == pytest.approx(61 / 60)
    assert table["end_s"].max() == pytest.approx(5)
    assert "read as 25" not in said(capsys)


@pytest.mark.parametrize("faces", ["none", Spots()], ids=["crop", "faces"])
def test_a_pause_of_the_recording_has_no_rows(tmp_path, faces):
    """72 pictures, a minute of nothing, 72 pictures; times in 1/25 s."""
    ticks = [*range(72), *range(1572, 1644)]
    film(tmp_path / "pause.mkv", frames([[(20, 20)]] * 144), ticks=ticks)
    table = predict(tmp_path / "pause.mkv", 25.0, faces)
    expected = [(0, 2.44), (0.44, 2.88), (62.88, 65.32), (63.32, 65.76)]
    np.testing.assert_allclose(table[["start_s", "end_s"]], expected, atol=0.002)


# faces ---------------------------------------------------------------------------------------------------------------


TRAINED = {"margin": 0.1, "align": False, "border": "reflect", "detector": "spots"}


def test_faces_are_cut_out_as_in_training(videos, capsys):
    video = videos / "x30.mp4"
    as_trained = predict(video, 30.0, Spots(), face_crop=TRAINED)
    assert said(capsys) == ""
    by_hand = predict(video, 30.0, Spots(), crop=FaceCropConfig(margin=0.1, border="reflect"))
    pd.testing.assert_frame_equal(as_trained, by_hand)
    general = predict(video, 30.0, Spots())
    assert np.abs(general.filter(like="prob_") - as_trained.filter(like="prob_")).to_numpy().max() > 1e-3


@pytest.mark.parametrize(("face_crop", "cropped"), [(TRAINED, False), (TRAINED, True), ({}, False)])
def test_whole_pictures_for_a_model_of_face_crops_are_told_once(face_crop, cropped, videos, tmp_path, capsys):
    model(sampling_stride=STRIDE, frame_rate=30.0, face_crop=face_crop).save_pretrained(tmp_path / "model")
    (tmp_path / "crops").mkdir()
    for name in ("a.mp4", "b.mp4"):
        (tmp_path / "crops" / name).symlink_to(videos / "x30.mp4")
    if cropped:
        (tmp_path / "crop.json").write_text("{}")
    more = {"out": None, "device": "cpu", "precision": "fp32"}
    predict_videos(tmp_path / "crops", PredictConfig(model=str(tmp_path / "model"), faces="none", **more))
    told = said(capsys).count("warning: faces=none: whole pictures go into a model that was trained on face crops")
    assert told == (face_crop == TRAINED and not cropped)


def test_crop_settings_override_those_of_the_training_and_are_told(videos, capsys):
    video = videos / "x30.mp4"
    chosen = predict(video, 30.0, Spots(), face_crop=TRAINED, crop={"margin": 0.6, "border": None})
    assert "margin=0.6, while the model's training had 0.1" in said(capsys)
    pd.testing.assert_frame_equal(
        chosen, predict(video, 30.0, Spots(), crop=FaceCropConfig(margin=0.6, border="reflect"))
    )
    predict(video, 30.0, Spots(), face_crop={}, crop={"margin": 0.6})
    assert said(capsys) == ""  # nothing is known of the training


def test_another_detector_is_told(videos, capsys):
    predict(videos / "x30.mp4", 30.0, Spots(), face_crop={"detector": "openface"})
    assert "faces are found by spots, while the model's training had those of openface" in said(capsys)


class TiltedSpots(Spots):
    """Faces whose eyes stand at 45 degrees."""

    def detect(self, frame: np.ndarray) -> list[Face]:
        return [
            Face(face.box, face.confidence, np.array([[0, 0], [9, 9], [5, 9], [2, 12], [9, 12]], np.float32))
            for face in super().detect(frame)
        ]


def test_every_crop_setting_reaches_the_crops(videos, tmp_path, monkeypatch):
    """From the model, and from the settings of the verb, which are the same."""
    monkeypatch.setattr("svfap.predict.predictor.make_detector", lambda name, face_model: TiltedSpots())

    def table(contract: dict[str, Any], **settings: Any) -> np.ndarray:
        model(sampling_stride=STRIDE, frame_rate=30.0, face_crop=contract).save_pretrained(tmp_path / "model")
        fast: dict[str, Any] = {"device": "cpu", "precision": "fp32", "out": None}
        config = PredictConfig(model=str(tmp_path / "model"), **fast, **settings)
        return predict_videos(videos / "x30.mp4", config).table.filter(like="prob_").to_numpy()

    base = {"margin": 1.0, "align": False, "border": "replicate"}
    plain = table(base)
    np.testing.assert_array_equal(table({}, **base), plain)
    for name, value in (("margin", 0.2), ("align", True), ("border", "reflect")):
        other = table({**base, name: value})
        assert np.abs(other - plain).max() > 1e-4, name
        np.testing.assert_array_equal(table(base, **{name: value}), other, err_msg=name)
    np.testing.assert_array_equal(table({"detector": "haar"}, **base), plain)


@pytest.mark.parametrize(
    ("faces", "trained", "used"),
    [
        (None, "haar", "haar"),
        (None, "openface", "haar"),
        (None, None, "haar"),
        ("haar", "yunet", "haar"),
        (None, "yunet", "haar"),
    ],
)
def test_the_detector_is_that_of_the_training_where_it_is_there(faces, trained, used, tmp_path, monkeypatch, capsys):
    monkeypatch.delenv("SVFAP_FACE_MODEL", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr("svfap.faces.detect.MODEL_URL", "http://localhost:1/none")
    net = model(face_crop={"detector": trained} if trained else {})
    detector = detector_of(net.config, faces, None)
    assert detector is not None and detector.name == used
    differs = trained not in (None, used)
    assert ("while the model's training had those of" in said(capsys)) == differs
    assert detector_of(net.config, "none", None) is None


def test_the_command_takes_the_same_settings(videos, tmp_path, capsys):
    model(sampling_stride=STRIDE, frame_rate=30.0, face_crop=TRAINED).save_pretrained(tmp_path / "model")
    arguments = ["predict", str(videos / "x240.mp4"), "--model", str(tmp_path / "model"), "--faces", "none"]
    assert main([*arguments, "--out", str(tmp_path / "by_time.csv")]) == 0
    assert "240/s in the file, sampled at 30/s as in the model's training" in said(capsys)
    assert main([*arguments, "--out", str(tmp_path / "own.csv"), "--fps", "own"]) == 0
    assert main([*arguments, "--out", str(tmp_path / "x.csv"), "--fps", "0"]) == 1
    assert "fps=0: must be above 0 and at most 1000" in said(capsys)
    lasts = [spans(pd.read_csv(tmp_path / name))[0] for name in ("by_time.csv", "own.csv")]
    assert lasts == pytest.approx([61 / 30, 61 / 240])
