"""The rate at which frames are taken, what the user is told of it, and the rate that a set of videos shares."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from svfap.data.clip_dataset import ClipDataset
from svfap.data.manifest import Manifest, read_manifest
from svfap.data.rates import Clock, look_at_rates, training_rate
from svfap.data.video import write_video
from svfap.packing.config import PackConfig
from svfap.packing.pack import pack

SPAN = 61  # 16 frames, every fourth


@pytest.mark.parametrize(
    ("fps", "trained_at", "video", "expected"),
    [
        (None, None, 240, 240),
        (None, 30.0, 240, 30),
        (None, 30.0, 5, 30),
        (None, 29.97, 30, 30),  # within 5%: the video's own frames
        (None, 25.0, 30, 25),
        (15.0, 30.0, 240, 15),
        ("own", 30.0, 240, 240),
    ],
)
def test_frames_are_taken_at_the_models_rate_unless_the_user_says_otherwise(fps, trained_at, video, expected):
    assert Clock.of(fps, trained_at, SPAN).rate(video) == expected


@pytest.mark.parametrize(
    ("fps", "trained_at", "video", "note"),
    [
        (None, 30.0, 29.97, None),
        (None, 30.0, 240, "240/s in the file, sampled at 30/s as in the model's training"),
        (None, 30.0, 5, "5/s in the file, sampled at 30/s as in the model's training"),
        (None, None, 25, None),
        (
            None,
            None,
            240,
            "240/s in the file; the model does not say its frame rate; a window here lasts 0.25 s; --fps 30 samples by time",
        ),
        (
            None,
            None,
            5,
            "5/s in the file; the model does not say its frame rate; a window here lasts 12 s; --fps 30 samples by time",
        ),
        (30.0, None, 240, "240/s in the file, sampled at 30/s as --fps says"),
        (15.0, 30.0, 15, "15/s in the file, sampled at 15/s as --fps says, while the model's training had 30/s"),
        (
            "own",
            30.0,
            240,
            "240/s in the file, all used, while the model's training had 30/s: a window here lasts 0.25 s, not 2 s",
        ),
        ("own", 30.0, 30, None),
        ("own", None, 240, None),
    ],
)
def test_what_the_user_is_told(fps, trained_at, video, note):
    assert Clock.of(fps, trained_at, SPAN).note(video) == note


def manifest(folder: Path, *rates: float) -> Manifest:
    """A manifest of videos of these rates; a rate of 0 is a folder of frames, a negative one a broken file."""
    names = []
    for number, rate in enumerate(rates):
        names.append(f"{number}.mp4" if rate else f"{number}")
        if rate > 0:
            write_video(folder / names[-1], [np.zeros((16, 16, 3), np.uint8)] * 6, rate)
        elif rate < 0:
            (folder / names[-1]).write_text("no video")
        else:
            (folder / names[-1]).mkdir()
            cv2.imwrite(str(folder / names[-1] / "0.png"), np.zeros((16, 16, 3), np.uint8))
    (folder / "list.csv").write_text("path\n" + "".join(f"{name}\n" for name in names))
    return read_manifest(folder / "list.csv", task="unlabelled")


@pytest.mark.parametrize("fps", [None, 25.0, "own"])
@pytest.mark.parametrize("trained_at", [None, 25.0])
@pytest.mark.parametrize(("rate", "shown"), [(1e6, "1e+06"), (0.001, "0.001")])
def test_a_rate_that_no_camera_has_is_called_broken(fps, trained_at, rate, shown):
    note = Clock.of(fps, trained_at, 16).note(rate)
    assert note is not None
    assert note.startswith(f"{shown} pictures per second by the file's time stamps, which are probably broken")
    assert "--fps" not in note and "sampled at" not in note


def test_a_rate_is_shared_by_nine_of_ten_videos(tmp_path, capsys):
    assert training_rate(manifest(tmp_path, *[25] * 9, 50), None, None) == 25
    assert "1 of 10 videos looked at: 50/s in the file, sampled at 25/s as in the model's training" in said(capsys)


def test_videos_of_several_rates_share_none_and_the_user_is_told(tmp_path, capsys):
    assert training_rate(manifest(tmp_path, *[25] * 8, 50, 50), None, None) is None
    told = said(capsys)
    assert "several frame rates (25/s: 8, 50/s: 2)" in told
    assert "--fps 25 samples all of them by time" in told


def test_rates_within_a_twentieth_are_one(tmp_path):
    assert training_rate(manifest(tmp_path, 30, 30000 / 1001, 30000 / 1001), None, None) == 29.97


def test_the_rate_asked_for_is_the_models(tmp_path, capsys):
    assert training_rate(manifest(tmp_path, 25, 50), 12.5, None) == 12.5
    assert "1 of 2 videos looked at: 50/s in the file, sampled at 12.5/s as --fps says" in said(capsys)


def test_videos_that_cannot_be_read_are_skipped(tmp_path):
    assert training_rate(manifest(tmp_path, -1, 25, -1), None, None) == 25
    (tmp_path / "1.mp4").unlink()
    assert training_rate(read_manifest(tmp_path / "list.csv", task="unlabelled"), None, None) is None


def test_folders_of_frames_have_the_rate_that_the_user_states(tmp_path, capsys):
    folders = manifest(tmp_path, 0, 0)
    assert training_rate(folders, None, None) is None
    assert "--frames_fps states it" in said(capsys)
    assert training_rate(folders, None, 12) == 12
    assert training_rate(folders, 25, None) == 25
    assert "folders of frames are read as 25 pictures per second; --frames_fps says otherwise" in said(capsys)


def test_stills_beside_videos_leave_the_videos_their_rate(tmp_path, capsys):
    manifest(tmp_path, 25)
    for number in range(9):
        cv2.imwrite(str(tmp_path / f"{number}.png"), np.zeros((16, 16, 3), np.uint8))
    write_video(tmp_path / "crop.mp4", [np.zeros((16, 16, 3), np.uint8)], 50)  # as `svfap crop` makes it of a still
    rows = ["0.mp4", "crop.mp4", *(f"{number}.png" for number in range(9))]
    (tmp_path / "list.csv").write_text("path\n" + "\n".join(rows) + "\n")
    assert training_rate(read_manifest(tmp_path / "list.csv", task="unlabelled"), None, None) == 25
    pack(tmp_path / "list.csv", PackConfig(out=tmp_path / "packed"))
    assert training_rate(read_manifest(tmp_path / "packed" / "list.csv", task="unlabelled"), None, None) == 25
    assert "frame rates" not in said(capsys)


def test_a_few_of_many_videos_are_looked_at(tmp_path):
    one = manifest(tmp_path, 25)
    lines = [f"{number:04d}.mp4" for number in range(1000)]
    for line in lines:
        (tmp_path / line).symlink_to(tmp_path / "0.mp4")
    one.path.write_text("path\n" + "\n".join(lines) + "\n")
    many = read_manifest(one.path, task="unlabelled")
    for line in lines[300:600]:
        (tmp_path / line).unlink()  # the first and the last third are looked at as well
    rates, num_unknown = look_at_rates(many, None)
    assert (set(rates), num_unknown) == ({25}, 0)
    assert 40 <= len(rates) <= 50  # of 64 evenly spaced rows those that are there


@pytest.mark.parametrize(("fps", "frames_fps", "step"), [(None, None, 1), (10, 20, 2), (10, 10, 1), (5, None, 5)])
def test_clips_of_folders_of_frames_span_the_time_that_their_rate_means(tmp_path, fps, frames_fps, step):
    (tmp_path / "clip").mkdir()
    for number in range(90):
        cv2.imwrite(str(tmp_path / "clip" / f"{number}.png"), np.full((16, 16, 3), 2 * number, np.uint8))
    (tmp_path / "list.csv").write_text("path\nclip\n")
    videos = read_manifest(tmp_path / "list.csv", task="unlabelled")
    dataset = ClipDataset(videos, "test", 16, 1, 16, seed=0, num_segments=1, fps=fps, frames_fps=frames_fps)
    levels = dataset[0].clips[0].mean(axis=(1, 2, 3)) / 2
    np.testing.assert_array_equal(np.diff(levels), step)


def said(capsys) -> str:
    return " ".join(capsys.readouterr().err.split())
