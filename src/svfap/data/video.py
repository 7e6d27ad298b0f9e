"""Read the pictures of video files, folders of frames, images and packed videos; write H.264 videos."""

from __future__ import annotations

import os
import re
from pathlib import Path

from svfap.data.container import Container
from svfap.data.ffmpeg import upright
from svfap.data.find import manifests_in, missing, on_disk
from svfap.data.frames import Pixels, VideoError, VideoSource
from svfap.data.packed import open_packed
from svfap.data.packets import PICTURE_FPS
from svfap.data.stills import Stills
from svfap.data.suffixes import PICTURE_SUFFIXES
from svfap.data.writing import VideoWriter, write_video
from svfap.remote import PACK_FILE

__all__ = [
    "PICTURE_FPS",
    "Pixels",
    "VideoError",
    "VideoSource",
    "VideoWriter",
    "natural_key",
    "open_video",
    "upright",
    "write_video",
]


def open_video(path: str | Path, frames_fps: float = PICTURE_FPS) -> VideoSource:
    """Open a video file, a folder of frames (in natural order: 2.jpg before 10.jpg), an image (one picture), or a video of a
    packed folder (`svfap pack`), whose path is where it would be in that folder.

    frames_fps: pictures per second of folders and images. A truncated file has the pictures that are still there. Raises
    `VideoError` if the file or folder is missing or empty, is not a video, or contains no pictures.
    """
    if (packed := open_packed(Path(path), frames_fps)) is not None:
        return packed
    path = on_disk(Path(path))
    if path.is_dir():
        names = [entry.name for entry in os.scandir(path) if entry.name.lower().endswith(PICTURE_SUFFIXES)]
        names = sorted((name for name in names if not name.startswith(".")), key=natural_key)
        if not names and (path / PACK_FILE).is_file():
            such_as = "".join(f", such as {each}" for each in manifests_in(path)[:1])
            raise VideoError(path, f"is a packed dataset; give one of its manifests{such_as}")
        return Stills(path, [path / name for name in names], frames_fps)
    if not path.is_file():
        raise VideoError(path, missing(path))
    if path.stat().st_size == 0:
        raise VideoError(path, "the file is empty")
    if path.suffix.lower() in PICTURE_SUFFIXES:
        return Stills(path, [path], frames_fps)
    return Container(path)


def natural_key(name: str) -> list[tuple[int, int, str]]:
    """Sort key that compares digits as numbers."""
    return [(0, int(p), p) if p.isdecimal() else (1, 0, p) for p in re.split(r"(\d+)", name.lower()) if p]
