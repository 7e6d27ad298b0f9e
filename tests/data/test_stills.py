from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from flat_videos import flat, numbers_of

from svfap.data.clip_dataset import ClipDataset
from svfap.data.manifest import read_manifest
from svfap.data.stills import scaled
from svfap.data.video import VideoError, natural_key, open_video


def test_folder_of_frames_is_sorted_naturally(tmp_path: Path) -> None:
    for number in (1, 2, 10, 9, 30):
        cv2.imwrite(str(tmp_path / f"{number}.png"), flat(number))
    (tmp_path / "notes.txt").write_text("not a picture")
    (tmp_path / ".3.png").write_text("hidden")
    with open_video(tmp_path) as source:
        assert (source.num_frames, source.fps, source.height, source.width) == (5, 25.0, 32, 48)
        assert numbers_of(source.read(range(5))) == [1, 2, 9, 10, 30]
        assert numbers_of(source.read([4, 0, 4])) == [30, 1, 30]
        assert [round(time, 2) for time, _ in source.frames()] == [0.0, 0.04, 0.08, 0.12, 0.16]
    names = ["b2", "a10", "a9", "a", "10", "9"]
    assert sorted(names, key=natural_key) == ["9", "10", "a", "a9", "a10", "b2"]


def test_folders_that_are_no_videos(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("not a picture")
    with pytest.raises(VideoError, match="holds no pictures"):
        open_video(tmp_path)
    cv2.imwrite(str(tmp_path / "1.jpg"), flat(1))
    cv2.imwrite(str(tmp_path / "2.jpg"), flat(2, 30, 40))
    (tmp_path / "3.jpg").write_bytes((tmp_path / "1.jpg").read_bytes()[:-30])
    with open_video(tmp_path) as source:
        assert numbers_of(source.read([0])) == [1]
        assert source.read([1, 0]).shape == (2, 32, 48, 3)
        assert numbers_of(source.read([1, 0])) == [2, 1]
        with pytest.raises(VideoError, match=r"3\.jpg cannot be decoded"):
            source.read([2])


def test_an_image_is_a_video_of_one_frame_in_rgb(tmp_path: Path) -> None:
    colours = np.zeros((1, 3, 4), np.uint8)
    colours[0, 0], colours[0, 1], colours[0, 2] = (0, 0, 255, 255), (0, 255, 0, 9), (255, 0, 0, 128)  # BGRA
    cv2.imwrite(str(tmp_path / "alpha.png"), colours)
    cv2.imwrite(str(tmp_path / "grey.png"), np.array([[77]], np.uint8))
    with open_video(tmp_path / "alpha.png") as source:
        assert source.read([0])[0].tolist() == [[[255, 0, 0], [0, 255, 0], [0, 0, 255]]]
        assert (source.num_frames, source.width, source.height) == (1, 3, 1)
    assert open_video(tmp_path / "grey.png").read([0, 0]).tolist() == [[[[77, 77, 77]]]] * 2


def test_pictures_of_several_sizes_get_the_size_of_the_first(tmp_path: Path) -> None:
    for number, size in enumerate([(40, 40), (36, 38), (80, 90), (40, 40)]):
        cv2.imwrite(str(tmp_path / f"{number}.png"), flat(number, *size))
    with open_video(tmp_path) as source:
        assert (source.height, source.width) == (40, 40)
        read = source.read([2, 1])
        assert read.shape == (2, 40, 40, 3)
        assert numbers_of(read) == [2, 1]
        streamed = np.stack([picture for _, picture in source.frames()])
        np.testing.assert_array_equal(streamed, source.read(range(4)))
        np.testing.assert_array_equal(next(source.frames(2))[1], streamed[2])
    with open_video(tmp_path) as source:  # the first one is not among those that are read
        assert source.read([2]).shape == (1, 40, 40, 3)


@pytest.mark.parametrize(
    ("size", "how"),
    [((5, 4), cv2.INTER_LINEAR), ((4, 6), cv2.INTER_LINEAR), ((7, 9), cv2.INTER_LINEAR), ((3, 4), cv2.INTER_AREA),
     ((8, 3), cv2.INTER_AREA), ((2, 2), cv2.INTER_AREA)],
)  # fmt: skip
def test_pictures_are_averaged_only_where_they_shrink(size: tuple[int, int], how: int) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (4, 4, 3), np.uint8)
    np.testing.assert_array_equal(scaled(picture, size), cv2.resize(picture, size, interpolation=how))


def test_rate_of_a_folder(tmp_path: Path) -> None:
    for number in range(4):
        cv2.imwrite(str(tmp_path / f"{number}.png"), flat(number))
    with open_video(tmp_path, frames_fps=5) as source:
        assert (source.fps, source.duration_s) == (5, 0.8)
        assert source.times_s == pytest.approx([0, 0.2, 0.4, 0.6])
        assert [time for time, _ in source.steady_frames()] == pytest.approx([0, 0.2, 0.4, 0.6])
    with open_video(tmp_path / "2.png", frames_fps=5) as source:
        assert source.fps == 5


def test_picture_that_was_never_downloaded(tmp_path: Path) -> None:
    (tmp_path / "1.jpg").write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n")
    with pytest.raises(VideoError, match=r"1\.jpg is a git-lfs pointer, not the picture; run git lfs pull"):
        open_video(tmp_path).read([0])


@pytest.mark.parametrize("mode", ["pretrain", "train", "val", "test"])
@pytest.mark.parametrize("fps", [None, 10.0])
def test_a_still_is_a_clip_that_repeats_it(mode: str, fps: float | None, tmp_path: Path) -> None:
    """Whatever the stride and the rate; beside a video, of which a clip has other frames."""
    cv2.imwrite(str(tmp_path / "still.png"), np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8))
    for number in range(30):
        (tmp_path / "film").mkdir(exist_ok=True)
        cv2.imwrite(str(tmp_path / "film" / f"{number}.png"), flat(number, 40, 40))
    (tmp_path / "m.csv").write_text("path\nstill.png\nfilm\n")
    videos = read_manifest(tmp_path / "m.csv", task="unlabelled")
    dataset = ClipDataset(videos, mode, 4, 4, 32, seed=0, repeats=1, fps=fps)
    (still,), (film, *_) = dataset[0].clips, dataset[1].clips
    assert dataset[0].reason is None and still.shape == (4, 32, 32, 3)
    assert (still == still[0]).all() and still.std() > 0 and not (film == film[0]).all()
