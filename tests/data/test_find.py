"""Searches of folders, and names that are alike."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from svfap.data.find import is_left_out, missing, on_disk, walk
from svfap.data.sources import find_videos, read_sources
from svfap.data.video import VideoError, open_video
from svfap.errors import UserError

COMPOSED, DECOMPOSED = "Zo\u00eb.mp4", "Zoe\u0308.mp4"


def make(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def found(root: Path, **options: object) -> list[str]:
    return [path.relative_to(root).as_posix() for path in find_videos(root, **options)]


SYSTEM = ("@eaDir", "#recycle", "__MACOSX", "lost+found", "$RECYCLE.BIN", "System Volume Information", ".hidden")


def test_what_systems_put_into_folders_is_left_out(tmp_path):
    make(tmp_path, "a.mp4", "sub/b.mp4", ".c.mp4", "Thumbs.db", *(f"sub/{name}/a.mp4" for name in SYSTEM))
    assert found(tmp_path) == ["a.mp4", "sub/b.mp4"]
    assert all(map(is_left_out, SYSTEM))
    assert not any(map(is_left_out, ("recycle", "eaDir", "a.b", "Thumbs")))
    assert [names for _, _, names in walk(tmp_path)] == [["a.mp4"], ["b.mp4"]]


def test_a_folder_of_thumbnails_alone_holds_no_frames(tmp_path):
    make(tmp_path, ".thumb.jpg")
    with pytest.raises(UserError, match="holds no videos"):
        read_sources(tmp_path)


def test_links_are_followed_once_and_loops_passed_over(tmp_path):
    root = make(tmp_path / "root", "x/a.mp4", "y/b.mp4")
    make(tmp_path / "elsewhere", "c.mp4")
    (root / "x" / "up").symlink_to("..")
    (root / "x" / "above").symlink_to(tmp_path)
    (root / "x" / "self").symlink_to("self")
    (root / "x" / "sibling").symlink_to("../y")
    (root / "one").symlink_to(tmp_path / "elsewhere")
    (root / "two").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "back").symlink_to(tmp_path / "elsewhere")
    assert found(root) == ["one/c.mp4", "x/a.mp4", "y/b.mp4"]


def test_links_into_a_hidden_folder_are_followed(tmp_path):
    make(tmp_path, ".pool/1/a.mp4")
    (tmp_path / "happy").mkdir()
    (tmp_path / "happy" / "1").symlink_to("../.pool/1")
    assert found(tmp_path) == ["happy/1/a.mp4"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every folder")
def test_a_folder_that_cannot_be_read_is_an_error(tmp_path):
    make(tmp_path, "closed/a.mp4")
    (tmp_path / "closed").chmod(0)
    with pytest.raises(UserError, match="closed: cannot be read"):
        list(find_videos(tmp_path))
    (tmp_path / "closed").chmod(0o755)


@pytest.mark.parametrize(("written", "stored"), [(COMPOSED, DECOMPOSED), (DECOMPOSED, COMPOSED)])
def test_a_name_in_another_unicode_form_is_the_same(tmp_path, written, stored):
    make(tmp_path, f"{stored} folder/{stored}")
    path = tmp_path / f"{written} folder" / written
    assert on_disk(path) == tmp_path / f"{stored} folder" / stored
    with pytest.raises(VideoError, match="the file is empty"):  # it is found
        open_video(path)
    make(tmp_path, f"{written} folder/{written}")
    assert on_disk(path) == path  # the exact name comes first
    assert on_disk(tmp_path / "absent") == tmp_path / "absent"


@pytest.mark.parametrize(
    ("written", "why"),
    [
        ("sub\\v01.MP4", "there is {}/sub/v01.MP4, so write / in place of \\"),
        ("sub/v01.mp4", "there is {}/sub/v01.MP4, with letters in another case"),
        ("SUB/V01.mp4", "there is {}/sub/v01.MP4, with letters in another case"),
        ("sub/v02.mp4", ""),
        ("other/v01.MP4", ""),
    ],
)
def test_the_message_says_which_file_of_a_similar_name_is_there(tmp_path, written, why):
    make(tmp_path, "sub/v01.MP4")
    with pytest.raises(VideoError) as caught:
        open_video(tmp_path / written)
    assert caught.value.reason == "no such file or folder" + ("; " + why.format(tmp_path) if why else "")
    assert missing(tmp_path / written) == caught.value.reason


def test_two_names_that_are_alike_are_not_guessed(tmp_path):
    make(tmp_path, "V1.mp4", "v1.MP4")
    assert missing(tmp_path / "v1.mp4") == "no such file or folder"
