"""The overlay: what is drawn is what was read, the sound stays, and no half file is left."""

from __future__ import annotations

import resource
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pandas as pd
import pytest
from fake_faces import SIDE, Spots, film, frames, model
from odd_videos import NUM, encode, two_streams

from svfap.cli.main import main
from svfap.data.video import open_video
from svfap.errors import UserError
from svfap.model.config import ModelConfig
from svfap.predict import predictor
from svfap.predict.draw import DARKEN, FaceValues, Painter
from svfap.predict.overlay import bar_ranges, write_overlay
from svfap.predict.predictor import Predictor

pytestmark = pytest.mark.usefixtures("blank_figures")

LABELS = ["prob_joy", "prob_anger", "prob_calm"]
BLUE = (0, 0x72, 0xB2)
PLACES = [[(60 + i, 60)] for i in range(40)] + [[]] * 40
SIZE = (181, 241)  # odd, which H.264 does not take
EVEN = (180, 240)


@pytest.fixture(scope="module")
def predict() -> Predictor:
    return Predictor(model(), "cpu", "fp32", faces=Spots())


def rows(values: tuple[float, ...] = (0.7, 0.2, 0.1)) -> pd.DataFrame:
    """Track 1 over the first 1.6 s, in two windows with the values in both."""
    times = pd.DataFrame({"track": [1, 1], "start_s": [0.0, 0.8], "end_s": [0.8, 1.6]})
    return times.assign(**dict(zip(LABELS, values, strict=True)))


def overlay(predict: Predictor, video: Path, out: Path, table: pd.DataFrame | None = None) -> None:
    write_overlay(video, rows() if table is None else table, predict.reader, out)


def packets(path: Path) -> list[tuple[float, bytes]]:
    with av.open(str(path)) as container:
        audio = container.streams.audio[0]
        return [(float(p.pts * p.time_base), bytes(p)) for p in container.demux(audio) if p.pts is not None]


def near(picture: np.ndarray, color: tuple[int, int, int] | np.ndarray, tolerance: int = 60) -> np.ndarray:
    return (np.abs(picture.astype(int) - color).max(axis=-1)) < tolerance


def halved_chroma(picture: np.ndarray) -> np.ndarray:
    """What yuv420p can hold of an RGB picture: full brightness, one colour for each 2 x 2 pixels."""
    ycc = cv2.cvtColor(np.pad(picture, [(0, SIZE[0] % 2), (0, SIZE[1] % 2), (0, 0)], mode="edge"), cv2.COLOR_RGB2YCrCb)
    half = cv2.resize(ycc[..., 1:], None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
    ycc[..., 1:] = half.repeat(2, 0).repeat(2, 1)
    return cv2.cvtColor(ycc, cv2.COLOR_YCrCb2RGB)


def test_boxes_follow_the_face_in_the_colour_of_the_top_label_and_the_sound_stays(predict, tmp_path, monkeypatch):
    painted: list[np.ndarray] = []
    paint = Painter.paint
    monkeypatch.setattr(Painter, "paint", lambda *arguments: (painted.append(paint(*arguments)), painted[-1])[1])
    video = film(tmp_path / "in.mkv", frames(PLACES, SIZE), codec="ffv1", pix_fmt="yuv444p", sound="aac")
    overlay(predict, video, tmp_path / "out.mp4")
    assert len(painted) == 80
    with open_video(tmp_path / "out.mp4") as drawn, open_video(video) as source:
        assert (drawn.num_frames, drawn.fps, drawn.height, drawn.width) == (80, 25, 182, 242)
        before, after = source.read([10, 30, 70]), drawn.read([10, 30, 70])[:, : SIZE[0], : SIZE[1]]
    for number, old, new in zip((10, 30), before, after, strict=False):
        left = (slice(62, 58 + SIDE), 60 + number)  # the box's left edge, a line of one pixel
        assert near(painted[number][left], BLUE, 24).all()  # smooth lines leave a tenth of the black below them
        assert not near(old, BLUE).any()
        # The file shows it there, in what yuv420p leaves of its colour: the black beside the line takes half. Encoders and
        # converters of other processors move the mean along the line by about 15; the ground is 70 away, the rest more.
        assert near(new[left].mean(axis=0), halved_chroma(painted[number])[left].mean(axis=0), 40)
    assert np.abs(before[2].astype(int) - after[2]).max() < 40  # nobody there: nothing drawn
    old, new = packets(video), packets(tmp_path / "out.mp4")
    assert len(new) >= len(old) - 1 > 40
    assert {data for _, data in new} <= {data for _, data in old}
    by_data = {data: time for time, data in old}
    assert max(abs(by_data[data] - time) for time, data in new) < 0.07  # what the encoder pads in front
    assert {path.name for path in tmp_path.iterdir()} == {"in.mkv", "out.mp4"}


@pytest.mark.parametrize("sound", [None, "pcm_s16le", "flac"])
def test_no_sound_and_sound_that_must_be_converted(sound, predict, tmp_path):
    video = film(tmp_path / "in.mkv", frames(PLACES[:30], EVEN), sound=sound)
    overlay(predict, video, tmp_path / "out.mp4")
    with av.open(str(tmp_path / "out.mp4")) as container:
        kinds = [stream.codec_context.name for stream in container.streams]
        assert kinds == ["h264", *["aac"] * (sound is not None)]
        if sound:
            sounds = list(container.decode(audio=0))
            assert sounds[0].time < 0.004  # from the first sample on
            wave = np.concatenate([frame.to_ndarray()[0] for frame in sounds])
            assert len(wave) == pytest.approx(1.2 * 16000, abs=2500)
            assert 0.1 < np.abs(wave[4000:12000]).max() < 0.5  # a tone at a quarter of the full range


def test_bars_are_as_long_as_values_and_text_stands_on_dark_ground():
    painter = Painter(400, 600, LABELS, (0.0, 1.0))
    white = np.full((400, 600, 3), 255, np.uint8)
    drawn = painter.paint(white, [FaceValues(3, (50.0, 60.0, 100.0, 120.0), np.array([0.5, 0.25, 0.125]))])
    assert (white == 255).all()  # a copy was drawn into
    lengths = [near(drawn[:, 160:], rgb, 1).any(axis=0).sum() for rgb in (BLUE, (0xE6, 0x9F, 0), (0, 0x9E, 0x73))]
    assert lengths[0] == pytest.approx(2 * lengths[1], abs=1) and lengths[0] == pytest.approx(4 * lengths[2], abs=3)
    panel = drawn[:, 155:]
    dark = (panel.max(axis=-1) <= round(255 * DARKEN)).mean()
    assert 0.01 < dark < 0.3  # the panel, and nothing else
    heading = panel[60:80, :120]
    assert heading.max() > 240 and np.median(heading) <= round(255 * DARKEN)


def test_bars_lie_within_their_panel(monkeypatch):
    painter, areas = Painter(400, 600, ["surprised or afraid", "calm", "joy"], (-1.0, 1.0)), []
    monkeypatch.setattr(painter, "_bar", lambda picture, value, k, area: areas.append(area))
    picture = np.full((400, 600, 3), 255, np.uint8)
    x, y, width, height = painter._panel(picture, FaceValues(3, None, np.array([0.5, 0.25, 0.125])), 20, [])
    for left, top, length, thickness in areas:
        assert x < left and left + length < x + width
        assert y < top and top + thickness < y + height


def test_negative_values_grow_to_the_left_of_the_middle():
    painter = Painter(400, 600, ["valence", "arousal"], (-1.0, 1.0))
    black = np.zeros((400, 600, 3), np.uint8)
    drawn = painter.paint(black, [FaceValues(0, None, np.array([-0.5, 0.5]))])
    left, right = (np.flatnonzero(near(drawn, rgb, 1).any(axis=0)) for rgb in (BLUE, (0xE6, 0x9F, 0)))
    assert left.max() < right.min() <= left.max() + 3
    assert len(left) == pytest.approx(len(right), abs=1)


def test_bars_have_the_scale_of_their_output():
    scaled = ModelConfig(
        preset="x", task="regression", num_outputs=2, label_names=("mouth", "smile"), output_scale=(0.1, 0.12),
        output_offset=(0.1, 0.84),
    )  # fmt: skip
    values = np.array([[-0.004, 0.8], [0.3, 1.0], [np.nan, np.nan]])  # noise at 0 is no sign
    np.testing.assert_allclose(bar_ranges(values, scaled), [[0, 0.4], [0, 1.2]])
    values[0] = -0.2, 1.5
    np.testing.assert_allclose(bar_ranges(values, scaled), [[-0.4, 0.4], [0, 1.5]])
    plain = ModelConfig(preset="x", task="regression", num_outputs=2, label_names=("valence", "arousal"))
    np.testing.assert_allclose(bar_ranges(np.array([[-0.3, 0.2], [0.4, 3.0]]), plain), [[-1, 1], [0, 3]])


def test_panels_hide_no_other_face():
    painter = Painter(400, 600, LABELS, (0.0, 1.0))
    grey = np.full((400, 600, 3), 128, np.uint8)
    boxes = [(100.0, 150.0, 80.0, 80.0), (200.0, 150.0, 80.0, 80.0), (480.0, 10.0, 100.0, 100.0)]
    drawn = painter.paint(grey, [FaceValues(k + 1, box, np.array([0.5, 0.3, 0.2])) for k, box in enumerate(boxes)])
    for x, y, w, h in boxes:
        inside = drawn[int(y) + 4 : int(y + h) - 4, int(x) + 4 : int(x + w) - 4]
        assert (inside == 128).mean() > 0.95


@pytest.mark.parametrize("size", [(1, 1), (16, 4000), (2000, 20)])
def test_pictures_of_any_size(size):
    painter = Painter(*size, LABELS, (0.0, 1.0))
    box = (-5.0, -5.0, size[1] * 2.0, size[0] * 2.0)
    drawn = painter.paint(np.zeros((*size, 3), np.uint8), [FaceValues(1, box, np.array([0.5, 0.3, 0.2]))])
    assert drawn.shape == (*size, 3)


def test_a_full_disk_leaves_no_half_overlay_and_keeps_the_table(tmp_path, monkeypatch, capfd):
    noise = np.random.default_rng(0).integers(0, 256, (40, *EVEN, 3), np.uint8)
    for picture, face in zip(noise, frames(PLACES[:40], EVEN), strict=True):
        picture[60 : 60 + SIDE] = face[60 : 60 + SIDE]
    video = film(tmp_path / "in.mp4", iter(noise), options={"crf": "15"})
    monkeypatch.setattr(predictor, "make_detector", lambda name, model: Spots())
    model().save_pretrained(tmp_path / "model")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, limits[1]))
    try:
        arguments = ["--model", str(tmp_path / "model"), "--out", str(tmp_path / "t.csv")]
        assert main(["predict", str(video), *arguments, "--overlay", str(tmp_path / "out.mp4")]) == 1
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    printed = capfd.readouterr().err
    assert f"svfap predict: error: {tmp_path / 'out.mp4'}: cannot be written (" in printed
    assert "Traceback" not in printed
    assert len(pd.read_csv(tmp_path / "t.csv")) > 0
    assert {path.name for path in tmp_path.iterdir()} == {*("in.mp4", "model", "t.csv", "t.csv.about.json", "t.png")}


def test_the_video_itself_is_never_overwritten(predict, tmp_path):
    video = film(tmp_path / "in.mp4", frames(PLACES[:5], EVEN))
    content = video.read_bytes()
    with pytest.raises(UserError, match="is the video itself"):
        overlay(predict, video, tmp_path / "in.mp4")
    assert video.read_bytes() == content


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["in.mp4", "--overlay", "out.gif"], "overlay=out.gif: the suffix must be one of .mp4, .mov, .mkv"),
        (["rtsp://host/x", "--overlay", "out.mp4"], "overlay=out.mp4: rtsp://host/x can be read only once"),
        (["in.mp4", "--report", "page.pdf"], "report=page.pdf: the suffix must be one of .html"),
    ],
)
def test_names_of_outputs_are_checked_first(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["predict", *arguments, "--model", "none"]) == 1
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_pictures_and_sound_stay_together_over_a_pause(predict, tmp_path):
    """30 pictures, 4 s without any while the sound goes on, 30 pictures: the overlay has them at the same times."""
    ticks = [*range(30), *range(130, 160)]
    video = film(tmp_path / "in.mkv", frames(PLACES[:60], EVEN), ticks=ticks, sound="pcm_s16le")
    overlay(predict, video, tmp_path / "out.mp4")
    with open_video(tmp_path / "out.mp4") as drawn, open_video(video) as source:
        assert source.num_frames == drawn.num_frames == 60
        np.testing.assert_allclose(drawn.times_s, source.times_s, atol=0.002)


def test_the_stream_that_is_drawn_on_is_the_one_that_is_read(predict, tmp_path):
    video = two_streams(tmp_path / "in.mkv")
    overlay(predict, video, tmp_path / "out.mp4", rows().iloc[:0])
    with open_video(tmp_path / "out.mp4") as drawn:
        assert (drawn.num_frames, drawn.width, drawn.height) == (NUM, 64, 48)


def test_an_overlay_has_square_pixels(predict, tmp_path):
    video = encode(tmp_path / "in.mp4", "libx264", sar=Fraction(3, 2))
    overlay(predict, video, tmp_path / "out.mp4", rows().iloc[:0])
    with open_video(tmp_path / "out.mp4") as drawn:
        assert (drawn.num_frames, drawn.width, drawn.height) == (NUM, 96, 48)


@pytest.mark.parametrize("sound", ["aac", "pcm_s16le"])
def test_sound_of_joined_recordings_follows_on(sound, predict, tmp_path):
    """Two transport streams in one file, whose times both begin at 0: pictures and sound follow on."""
    codec = "aac" if sound == "aac" else "mp2"
    part = film(tmp_path / "part.ts", frames(PLACES[:30], EVEN), sound=codec)
    video = tmp_path / "in.ts"
    video.write_bytes(part.read_bytes() * 2)
    overlay(predict, video, tmp_path / "out.mp4")
    with av.open(str(tmp_path / "out.mp4")) as container:
        samples = sum(frame.samples for frame in container.decode(audio=0))
    with open_video(tmp_path / "out.mp4") as drawn:
        assert drawn.num_frames == 60
        assert drawn.times_s[-1] == pytest.approx(59 / 25, abs=0.01)
    assert samples / 16000 == pytest.approx(2.4, abs=0.25)
