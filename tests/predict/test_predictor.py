"""Sliding windows, the predictor and the reconstruction, each against the plain computation that it stands for."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
import torch
from expected_windows import window_indices

import svfap
from svfap.data.video import open_video, write_video
from svfap.errors import UserError
from svfap.model.base import Model
from svfap.predict.config import ReconstructConfig
from svfap.predict.predictor import Predictor
from svfap.predict.reader import DECODED_AHEAD
from svfap.predict.reconstruct import reconstruct, reconstruct_video
from svfap.predict.windows import iter_windows, whole_pictures

LABELS = ("joy", "anger", "calm")
MEAN, STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])


def model(task: str = "classification", **kwargs) -> Model:
    """Fresh weights, large enough that outputs differ from clip to clip."""
    torch.manual_seed(0)
    kwargs = {"label_names": LABELS, "sampling_stride": 1, **kwargs} if task != "pretraining" else kwargs
    made = svfap.create_model("svfap_debug", task, **{"frame_fit": "centre", **kwargs}).eval()
    if task != "pretraining":
        for parameter in made.parameters():
            if parameter.ndim > 1:
                torch.nn.init.normal_(parameter, std=0.25)
    return made


def pictures(number: int, height: int = 32, width: int = 44) -> list[np.ndarray]:
    """Bands that drift and change their colour, so that no two frames are alike."""
    y, x = np.mgrid[:height, :width]
    waves = [
        [np.sin(0.2 * x + 0.3 * i + k) * np.cos(0.15 * y * (k + 1) + 0.05 * i) for k in range(3)] for i in range(number)
    ]
    return [np.stack([127 + 120 * channel for channel in wave], axis=-1).astype(np.uint8) for wave in waves]


START = ["start_s", "end_s", "first_frame", "last_frame"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("inference")


@pytest.fixture(scope="module")
def video(folder) -> Path:
    """50 frames at 25 per second, 44 px wide and 32 px high: nothing needs resizing."""
    write_video(folder / "long.mp4", pictures(50), 25)
    return folder / "long.mp4"


@pytest.fixture(scope="module")
def short(folder) -> Path:
    """10 frames, fewer than a clip."""
    write_video(folder / "short.mp4", pictures(10), 25)
    return folder / "short.mp4"


def prepared(frames: np.ndarray) -> torch.Tensor:
    """(T, 32, W, 3) uint8 -> (1, 3, T, 32, 32): the central square, normalised, without the product's code."""
    left = (frames.shape[2] - 32) // 2
    scaled = (frames[:, :, left : left + 32] / 255 - MEAN) / STD
    return torch.from_numpy(scaled.astype(np.float32)).permute(3, 0, 1, 2)[None]


@torch.inference_mode()
def direct(net: Model, path: Path, indices: np.ndarray) -> np.ndarray:
    """Outputs of the model on the clips of these frames, one by one."""
    with open_video(path) as source:
        frames = source.read(range(source.num_frames))
    outputs = torch.cat([net(prepared(frames[row])) for row in indices])
    return (outputs.softmax(-1) if net.config.task == "classification" else outputs).numpy()


# windows -------------------------------------------------------------------------------------------------------------


def numbered(count: int, fps: float = 25.0) -> Iterator[tuple[float, np.ndarray]]:
    return ((i / fps, np.full((2, 3, 3), i % 256, np.uint8)) for i in range(count))


@pytest.mark.parametrize("num_frames", [1, 2, 4, 5, 10, 11, 29, 64])
@pytest.mark.parametrize(
    ("stride", "hop"), [(1, 4), (1, 1), (1, 3), (2, 8), (2, 3), (3, 12), (3, 40), (4, 10)], ids=lambda n: str(n)
)
def test_windows_are_those_of_window_indices(num_frames, stride, hop):
    windows = list(
        iter_windows(whole_pictures(numbered(num_frames)), 4, stride, hop, lambda frame, face: frame[:1, :1])
    )
    expected = window_indices(num_frames, 4, stride, hop)
    np.testing.assert_array_equal([window.indices for window in windows], expected)
    for window in windows:
        np.testing.assert_array_equal(window.frames[:, 0, 0, 0], window.indices)
        assert window.frames.shape == (4, 1, 1, 3)
        np.testing.assert_allclose(window.times_s, window.indices / 25)
        assert window.start_s == window.times_s[0]
        # The last frame lasts as long as the others; of a single frame nobody knows how long it lasts.
        assert window.end_s == pytest.approx((window.indices[-1] + 1) / 25 if num_frames > 1 else 0.0)


def test_an_empty_stream_has_no_windows():
    assert list(iter_windows(whole_pictures(numbered(0)), 4, 1, 4, lambda frame, face: frame)) == []


def test_windows_come_as_soon_as_their_frames_are_there():
    seen = []
    stream = ((time, seen.append(time) or frame) for time, frame in numbered(100))
    windows = iter_windows(whole_pictures(stream), 4, 2, 5, lambda frame, face: frame)
    assert next(windows).indices.tolist() == [0, 2, 4, 6]
    assert len(seen) == 7
    assert next(windows).indices.tolist() == [5, 7, 9, 11]
    assert len(seen) == 12


def test_no_more_than_one_span_of_frames_is_held():
    alive, most = 0, 0

    def died() -> None:
        nonlocal alive
        alive -= 1

    def small(frame: np.ndarray, face: object) -> np.ndarray:
        nonlocal alive, most
        copy = frame.copy()
        weakref.finalize(copy, died)
        alive += 1
        most = max(most, alive)
        return copy

    for _ in iter_windows(whole_pictures(numbered(300)), 4, 3, 7, small):
        pass
    gc.collect()
    assert most in (10, 11)  # the span of 3 · 3 + 1 frames, and the one that comes in
    assert alive == 0


# prediction ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kwargs", "hop_s", "hop"), [({}, None, 16), ({}, 0.2, 5), ({"sampling_stride": 2}, None, 32), ({}, 0.001, 1)]
)
@pytest.mark.parametrize("batch_size", [1, 3, 8])
def test_rows_are_the_model_on_the_same_windows(video, kwargs, hop_s, hop, batch_size):
    net = model(**kwargs)
    table = Predictor(net, "cpu", "fp32", hop_s, batch_size, faces="none")(video)
    windows = window_indices(50, 16, net.config.sampling_stride, hop)
    assert list(table.columns) == [*START, "label", "prob_joy", "prob_anger", "prob_calm"]
    assert table["label"].tolist() == [LABELS[k] for k in table.filter(like="prob_").to_numpy().argmax(axis=1)]
    np.testing.assert_allclose(table["start_s"], windows[:, 0] / 25, atol=1e-6)
    np.testing.assert_allclose(table["end_s"], (windows[:, -1] + 1) / 25, atol=1e-6)
    np.testing.assert_array_equal(table[["first_frame", "last_frame"]], windows[:, [0, -1]])
    probabilities = table.filter(like="prob_").to_numpy()
    expected = direct(net, video, windows)
    assert np.ptp(expected, axis=0).max() > 0.01  # windows differ, or nothing would be shown
    np.testing.assert_allclose(probabilities, expected, atol=1e-5)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-6)


def test_rows_come_while_the_video_is_still_being_decoded(video, monkeypatch):
    decoded = []

    real = type(open_video(video)).steady_frames

    def counting(source, fps):
        for time, frame in real(source, fps):
            decoded.append(time)
            yield time, frame

    monkeypatch.setattr(type(open_video(video)), "steady_frames", counting)
    rows = Predictor(model(), "cpu", "fp32", hop_s=0.2, batch_size=1, faces="none").stream(video)
    first = next(rows)
    assert first["start_s"] == 0.0
    ahead = DECODED_AHEAD + 2 + 5 * 4  # frames waiting and in hand, and the 5 of each window waiting and in hand
    assert 16 <= len(decoded) <= 16 + ahead < 50
    rows.close()


def test_half_precision_is_close(video):
    whole, half = (
        Predictor(model(), "cpu", precision, faces="none")(video).drop(columns="label")
        for precision in ("fp32", "bf16")
    )
    np.testing.assert_allclose(half, whole, atol=0.03)
    assert not np.array_equal(half, whole)


def test_regression_has_a_column_for_each_dimension(video):
    net = model("regression", label_names=("valence", "arousal"), output_activation="tanh")
    table = Predictor(net, "cpu", "fp32", None, faces="none")(video)
    assert list(table.columns) == [*START, "valence", "arousal"]
    expected = direct(net, video, window_indices(50, 16, 1, 16))
    np.testing.assert_allclose(table[["valence", "arousal"]], expected, atol=1e-5)
    assert table[["valence", "arousal"]].abs().to_numpy().max() <= 1


def test_a_model_without_names_numbers_its_outputs(short):
    table = Predictor(model(label_names=(), num_outputs=2), "cpu", faces="none")(short)
    assert list(table.columns) == [*START, "label", "prob_output_0", "prob_output_1"]


@pytest.mark.parametrize(("stride", "hop_s"), [(1, None), (1, 0.2), (3, None), (3, 0.4), (2, 0.04)])
def test_frame_level_rows_are_one_for_each_sampled_frame(video, stride, hop_s):
    net = model("regression", label_names=("valence",), frame_level=True, sampling_stride=stride)
    table = Predictor(net, "cpu", "fp32", hop_s, faces="none")(video)
    hop = round(hop_s * 25) if hop_s else 16 * stride
    windows = window_indices(50, 16, stride, hop)
    outputs = direct(net, video, windows)
    expected = {}
    for row, values in zip(windows.tolist(), outputs[:, :, 0].tolist(), strict=True):
        shown = max(expected, default=-1)
        expected |= {frame: value for frame, value in zip(row, values, strict=True) if frame > shown}
    np.testing.assert_allclose(table["start_s"], np.array(list(expected)) / 25, atol=1e-6)
    np.testing.assert_allclose(table["valence"], list(expected.values()), atol=1e-4)
    assert table["start_s"].is_monotonic_increasing
    assert table["start_s"].is_unique
    assert (table["end_s"] > table["start_s"]).all()
    assert table["end_s"].iloc[-1] == pytest.approx(2.0)


def test_frame_level_rows_of_a_short_video_show_each_frame_once(short):
    net = model("regression", label_names=("valence",), frame_level=True)
    table = Predictor(net, "cpu", "fp32", faces="none")(short)
    np.testing.assert_allclose(table["start_s"], np.arange(10) / 25, atol=1e-6)
    np.testing.assert_allclose(table["end_s"], np.arange(1, 11) / 25, atol=1e-6)


def test_a_video_shorter_than_a_clip_is_one_window_padded_with_its_last_frame(short):
    net = model()
    table = Predictor(net, "cpu", "fp32", faces="none")(short)
    assert table[["start_s", "end_s"]].to_numpy() == pytest.approx(np.array([[0, 0.4]]))
    padded = np.minimum(np.arange(16), 9)[None]
    np.testing.assert_allclose(table.filter(like="prob_"), direct(net, short, padded), atol=1e-5)


def test_an_image_and_a_folder_of_frames(folder):
    frames = pictures(20, 32, 32)
    (folder / "frames").mkdir()
    for number, frame in enumerate(frames):
        cv2.imwrite(str(folder / "frames" / f"{number}.png"), frame[..., ::-1])
    net = model()
    predictor = Predictor(net, "cpu", "fp32", faces="none")
    table = predictor(folder / "frames")
    np.testing.assert_allclose(table["start_s"], [0, 4 / 25])
    with torch.inference_mode():
        outputs = torch.cat([net(prepared(np.stack(frames[start : start + 16]))) for start in (0, 4)]).softmax(-1)
        still = net(prepared(np.stack([frames[3]] * 16))).softmax(-1)
    np.testing.assert_allclose(table.filter(like="prob_"), outputs, atol=1e-5)
    image = predictor(folder / "frames" / "3.png")
    np.testing.assert_allclose(image.filter(like="prob_"), still, atol=1e-5)


def test_a_model_may_be_given_by_its_folder(video, tmp_path):
    net = model()
    net.save_pretrained(tmp_path / "model")
    pd.testing.assert_frame_equal(
        Predictor(tmp_path / "model", "cpu", "fp32", faces="none")(video),
        Predictor(net, "cpu", "fp32", faces="none")(video),
    )


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"device": "abacus"}, "device=abacus: "),
        ({"device": "cuda:77"}, "device=cuda:77: "),
        ({"device": "cpu", "precision": "fp8"}, "precision='fp8' is none of auto, fp32, bf16, fp16"),
        ({"device": "cpu", "precision": "fp16"}, "fp16 needs a GPU"),
        ({"hop_s": 0.0}, "hop_s=0.0: "),
        ({"hop_s": -0.5}, "hop_s=-0.5: "),
        ({"batch_size": 0}, "batch_size=0: "),
    ],
)
def test_settings_that_cannot_be_used(kwargs, message):
    with pytest.raises(UserError, match=message) as error:
        Predictor(model(), **kwargs)
    assert "\n" not in str(error.value)


def test_a_model_without_a_head_is_refused():
    with pytest.raises(UserError, match="is for features, not for prediction"):
        Predictor(model("features", label_names=()))


# reconstruction ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def autoencoder() -> Model:
    return model("pretraining", sampling_stride=2)


def hidden_pixels(shown: np.ndarray) -> np.ndarray:
    """(T, 32, 32) bool: what lies in patches (8 x 8) that are grey throughout all frames."""
    grey = (shown == 128).all(axis=3).reshape(len(shown), 4, 8, 4, 8).all(axis=(0, 2, 4))
    return np.broadcast_to(grey.repeat(8, 0).repeat(8, 1), shown.shape[:3])


@pytest.mark.parametrize(("ratio", "num_hidden"), [(None, 14), (0.5, 8), (0.07, 1), (0.95, 15)])
def test_hidden_patches_are_grey_and_visible_pixels_stay(video, autoencoder, ratio, num_hidden):
    result = reconstruct_video(video, autoencoder, ratio, seed=3)
    with open_video(video) as source:
        frames = source.read(np.clip(np.linspace(9, 41, 16), 9, 40).astype(int))  # the middle 32 of 50 frames
    expected = prepared(frames)[0].permute(1, 2, 3, 0).numpy() * STD + MEAN
    assert np.abs(result.original - expected * 255).max() <= 1
    hidden = hidden_pixels(result.masked)
    assert hidden[0].sum() == num_hidden * 64
    np.testing.assert_array_equal(result.masked[~hidden], result.original[~hidden])
    change = np.abs(result.reconstruction.astype(int) - result.original)
    assert change[~hidden].max() <= 1
    assert change[hidden].mean() > 5
    assert np.isfinite(result.loss)
    assert result.loss > 0
    assert result.fps == 12.5


def test_the_seed_determines_the_mask(video, autoencoder):
    first, again, other = (reconstruct_video(video, autoencoder, seed=seed) for seed in (1, 1, 2))
    for name in ("original", "masked", "reconstruction"):
        np.testing.assert_array_equal(getattr(first, name), getattr(again, name))
    assert first.loss == again.loss != other.loss
    assert (hidden_pixels(first.masked) != hidden_pixels(other.masked)).any()


def test_the_loss_is_the_error_on_hidden_tubelets(folder, autoencoder):
    """A model that always predicts zero, each tubelet's mean, has the targets' mean square as its loss."""
    still = model("pretraining", sampling_stride=1)
    for parameter in still.decoder.head.parameters():
        torch.nn.init.zeros_(parameter)
    write_video(folder / "loss.mp4", pictures(16, 32, 32), 25)
    result = reconstruct_video(folder / "loss.mp4", still)
    assert result.loss == pytest.approx(1.0, abs=0.02)
    hidden = hidden_pixels(result.masked)
    tubelets = result.reconstruction.reshape(8, 2, 4, 8, 4, 8, 3).astype(int)
    spread = np.ptp(tubelets, axis=(1, 3, 5)).max(axis=-1)  # by time step, row and column
    assert spread[hidden.reshape(8, 2, 4, 8, 4, 8)[:, 0, :, 0, :, 0]].max() == 0  # flat patches
    assert spread.max() > 0


def test_short_videos_and_images_can_be_reconstructed(short, folder, autoencoder):
    cv2.imwrite(str(folder / "one.png"), pictures(1)[0])
    for path in (short, folder / "one.png"):
        result = reconstruct_video(path, autoencoder)
        assert result.reconstruction.shape == (16, 32, 32, 3)
        assert np.isfinite(result.loss)
    np.testing.assert_array_equal(result.original, result.original[:1].repeat(16, 0))


@pytest.mark.parametrize("ratio", [0.0, 0.05, 1.0, 1.5, -0.2])
def test_a_ratio_that_hides_nothing_or_all_is_refused(video, autoencoder, ratio):
    with pytest.raises(UserError, match=f"mask_ratio={ratio}: masks none or all of the 16 positions"):
        reconstruct_video(video, autoencoder, ratio)


def test_reconstruction_needs_a_pretraining_model(video):
    with pytest.raises(UserError, match="is for classification; reconstruction needs a pre-training model"):
        reconstruct_video(video, model())


def test_reconstruct_returns_what_it_writes(video, autoencoder, tmp_path):
    autoencoder.save_pretrained(tmp_path / "model")
    config = {"model": str(tmp_path / "model"), "mask_ratio": 0.5, "seed": 1}
    result = reconstruct(video, ReconstructConfig(out=tmp_path / "out", **config))
    assert result.written == (tmp_path / "out" / "reconstruction.png", tmp_path / "out" / "reconstruction.mp4")
    assert all(path.stat().st_size > 1000 for path in result.written)
    silent = reconstruct(video, ReconstructConfig(out=None, **config))
    assert silent.written == ()
    np.testing.assert_array_equal(silent.masked, result.masked)
    assert result.loss == reconstruct_video(video, autoencoder, 0.5, 1).loss


def test_reconstruct_settings_that_cannot_be_used(tmp_path):
    (tmp_path / "file").write_text("")
    for kwargs, message in (({"mask_ratio": 1.5}, "mask_ratio=1.5: must be from 0 to 1"),
                           ({"out": tmp_path / "file"}, "is a file; give the name of a folder")):  # fmt: skip
        with pytest.raises(UserError, match=message):
            ReconstructConfig(model="m", **kwargs)
