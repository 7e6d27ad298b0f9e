"""All readers give the same pictures of the same file, to the bit, as many as a plain decode gives, at the same times."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from odd_videos import NUM, VIDEOS, encode, without

from svfap.data.clip_dataset import ClipDataset
from svfap.data.container import Container
from svfap.data.crops import fit_frames
from svfap.data.ffmpeg import Upright, video_stream
from svfap.data.manifest import Manifest, read_manifest
from svfap.data.sample import span_of
from svfap.data.video import open_video
from svfap.faces.config import FaceCropConfig, TrackConfig
from svfap.model.config import ModelConfig
from svfap.model.presets import model_config
from svfap.predict.reader import Reader

SIZE = 32


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("one_reader")


def made(folder: Path, name: str) -> Path:
    try:
        return VIDEOS[name][0](folder / name)
    except av.codec.codec.UnknownCodecError as error:
        pytest.skip(f"FFmpeg was built without {error}")


def plain_decode(path: Path) -> np.ndarray:
    """Every picture that FFmpeg's decoder gives, in its order."""
    with av.open(str(path)) as container:
        stream = video_stream(container)
        upright = Upright(path, stream)
        return np.stack([upright(frame) for frame in container.decode(stream)])


def check_readers(path: Path, config: ModelConfig) -> np.ndarray:
    """All pictures of a file, after comparing the readers."""
    with open_video(path) as source:
        times, pictures = zip(*source.frames(), strict=True)
        pictures = np.stack(pictures)
        assert len(pictures) == source.num_frames
        np.testing.assert_array_equal(times, source.times_s)
        assert times[0] == 0 and (np.diff(times) > 0).all()
        assert pictures.shape[1:3] == (source.height, source.width)
        np.testing.assert_array_equal(source.read(range(len(pictures))), pictures)
        order = np.random.default_rng(0).permutation(len(pictures))
        np.testing.assert_array_equal(source.read(order), pictures[order])
        for number in order:  # each on its own
            np.testing.assert_array_equal(source.read([number])[0], pictures[number])
        for number in order[:6]:  # streamed from the middle
            time, picture = next(source.frames(number))
            assert time == times[number]
            np.testing.assert_array_equal(picture, pictures[number])
        for fps in (None, 12.0):
            grid = source.grid(fps)
            times, steady = zip(*source.steady_frames(fps), strict=True)
            np.testing.assert_array_equal(times, grid.times_s)
            np.testing.assert_array_equal(np.stack(steady), pictures[grid.picture_of])
        check_loader_and_windows(path, source.grid().picture_of, pictures, config)
    return pictures


def check_loader_and_windows(path: Path, picture_of: np.ndarray, pictures: np.ndarray, config: ModelConfig) -> None:
    table = path.with_name("list.csv")
    table.write_text(f"path,start_s\n{path.name},\n{path.name},0.4\n")
    manifest: Manifest = read_manifest(table, task="unlabelled")
    for mode in ("val", "test"):
        item = ClipDataset(manifest, mode, 8, 2, SIZE, seed=0, num_crops=1)[0]
        assert item.reason is None
        for clip, frames in zip(item.clips, item.frames, strict=True):
            np.testing.assert_array_equal(clip, fit_frames(pictures[picture_of[frames]], SIZE, "squash"))
    with open_video(path) as source:
        first, stop = span_of(source, manifest[1])
        part = np.stack([picture for _, picture in source.steady_frames(None, first, stop)])
        np.testing.assert_array_equal(part, pictures[picture_of[first:stop]])
        times_s = source.grid().times_s
    reader = Reader(config, None, None, FaceCropConfig(size_px=SIZE), TrackConfig(), 10.0)
    for window in reader.windows(path):
        frames = np.searchsorted(times_s, window.times_s)
        np.testing.assert_array_equal(window.frames, fit_frames(pictures[picture_of[frames]], SIZE, "squash"))


@pytest.fixture(scope="module")
def config() -> ModelConfig:
    return model_config("svfap_debug", "classification", num_outputs=2, sampling_stride=1)


@pytest.mark.parametrize("name", VIDEOS)
def test_readers_agree(folder: Path, config: ModelConfig, name: str) -> None:
    path = made(folder, name)
    pictures, plain = check_readers(path, config), plain_decode(path)
    if name.startswith("cut_short"):  # without the last pictures, before which some are missing
        assert len(plain) - 4 <= len(pictures) <= len(plain) < NUM
        plain = plain[: len(pictures)]
    else:
        assert len(pictures) == VIDEOS[name][1]
    np.testing.assert_array_equal(pictures, plain)


def test_readers_agree_on_folders(folder: Path, config: ModelConfig) -> None:
    pictures = check_readers(without(folder / "holes", (3, 4, *range(20, 27))), config)
    assert pictures.shape == (NUM - 9, 48, 64, 3)


@pytest.mark.parametrize(
    ("name", "fps", "last_s"),
    [
        ("b_frames.avi", 30, 35 / 30),
        ("packed.avi", 30, 35 / 30),
        ("raw.h264", 30, 35 / 30),
        ("raw_in_order.h264", 30, 35 / 30),
        ("mpeg2.mpg", 30, 35 / 30),
        ("hidden.webm", 30, 35 / 30),
        ("double_stamp.mkv", 30, 35 / 30),
        ("double_stamp_b_frames.mkv", 30, 35 / 30),
        ("missing_stamp.ts", 30, 35 / 30),
        ("joined.ts", 30, 35 / 30),
        ("fields.ts", 30, 35 / 30),
        ("fields_in_pairs.ts", 30, 35 / 30),
        ("fields.mkv", 30, 35 / 30),
        ("variable.mkv", 30, 103 / 30),
        ("pause.mkv", 30, 217 / 30),
    ],
)
def test_times(folder: Path, name: str, fps: float, last_s: float) -> None:
    with open_video(made(folder, name)) as source:
        assert source.fps == pytest.approx(fps, abs=0.01)
        assert source.times_s[-1] == pytest.approx(last_s, abs=0.0011)
        if name not in ("variable.mkv", "pause.mkv"):
            np.testing.assert_allclose(source.times_s, np.arange(NUM) / 30, atol=0.0011)


def test_a_picture_of_two_fields_is_read_by_itself(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with open_video(made(folder, "fields.ts")) as source:
        pictures = source.read(range(NUM))
        np.testing.assert_allclose(pictures[7, :4].mean(axis=(1, 2)) - pictures[6, :4].mean(axis=(1, 2)), 6, atol=1)
        monkeypatch.setattr(Container, "_all_from", None)  # which decodes all pictures before a damaged one
        for number in (5, 6, 35):
            np.testing.assert_array_equal(source.read([number])[0], pictures[number])


def test_non_square_pixels_are_made_square(folder: Path) -> None:
    with open_video(made(folder, "sar.mp4")) as source:
        assert (source.width, source.height) == (round(64 * 16 / 9), 48)


@pytest.mark.parametrize(("sides", "width"), [((5, 1), 320), ((6, 1), 64), ((1, 6), 64)])
def test_pixels_that_are_longer_than_any_real_ones_are_an_error_of_the_file(
    tmp_path: Path, sides: tuple[int, int], width: int
) -> None:
    with open_video(encode(tmp_path / "v.mp4", "libx264", sar=Fraction(*sides))) as source:
        assert (source.width, source.height) == (width, 48)


def test_the_default_stream_is_read(folder: Path) -> None:
    with open_video(made(folder, "two_streams.mkv")) as source:
        assert (source.width, source.height) == (64, 48)


def test_a_smaller_picture_is_scaled_to_the_size_of_the_first(folder: Path) -> None:
    with open_video(made(folder, "changing_size.webm")) as source:
        assert source.read([30, 2]).shape == (2, 48, 64, 3)
        assert (source.width, source.height) == (64, 48)


def test_a_rotated_video_with_an_edit_list(folder: Path) -> None:
    with open_video(made(folder, "edited.mov")) as source:
        assert (source.width, source.height, source.num_frames) == (48, 64, NUM - 5)


def test_no_window_or_clip_spans_a_joint(folder: Path, config: ModelConfig) -> None:
    path = made(folder, "joined.ts")
    with open_video(path) as source:
        assert (list(source.joints), source.grid().stretches) == ([18], [(0, 18), (18, 36)])
    reader = Reader(config, None, None, FaceCropConfig(size_px=SIZE), TrackConfig(), 10.0)
    spans = [(window.start_s, window.end_s) for window in reader.windows(path)]
    np.testing.assert_allclose(spans, [(0, 16 / 30), (2 / 30, 18 / 30), (18 / 30, 34 / 30), (20 / 30, 36 / 30)])
    (folder / "joined.csv").write_text("path\njoined.ts\n")
    data = ClipDataset(read_manifest(folder / "joined.csv", task="unlabelled"), "train", 8, 2, SIZE, seed=0, repeats=20)
    firsts = {int(frames.min()) // 18 for frames in data[0].frames}
    assert firsts == {0, 1}
    assert all(frames.max() // 18 == frames.min() // 18 for frames in data[0].frames)
