"""Small pictures cut from a video at given times."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from svfap.console import track
from svfap.data.video import Pixels, VideoError, open_video
from svfap.faces.config import FaceCropConfig
from svfap.faces.crop import crop_face
from svfap.view.thumbnail import thumbnail

SIZE_PX = 128
CROP = FaceCropConfig(SIZE_PX, margin=0.25)
AT_ONCE = 8  # full frames in memory

Box = tuple[float, float, float, float]


def cut_pictures(path: Path, wanted: Sequence[tuple[float, Box | None]]) -> tuple[list[bytes | None], str]:
    """JPEGs of what is shown at the given seconds within a box (x, y, width, height in pixels; None: the whole frame).

    Returns them in the order of `wanted`, None where there is none, and why: "" or a reason. The video is read once from
    start to end; memory does not grow with its length.
    """
    pictures: list[bytes | None] = [None] * len(wanted)
    reason = ""
    try:
        with open_video(path) as video:
            frames = [min(max(int(time_s * video.fps + 1e-6), 0), video.num_frames - 1) for time_s, _ in wanted]
            order = sorted(range(len(wanted)), key=lambda k: frames[k])
            for first in track(range(0, len(order), AT_ONCE), f"Pictures of {path.name}"):
                some = order[first : first + AT_ONCE]
                try:
                    shown = video.read([frames[k] for k in some])
                except VideoError as error:  # damaged here, perhaps not further on
                    reason = str(error)
                    continue
                for k, frame in zip(some, shown, strict=True):
                    pictures[k] = thumbnail(_cut(frame, wanted[k][1])[None])
    except VideoError as error:
        reason = str(error)
    return pictures, reason


def _cut(frame: Pixels, box: Box | None) -> Pixels:
    """The square around a box, its border repeated beyond the frame; without a box the whole frame."""
    height, width = frame.shape[:2]
    if box is not None and np.isfinite(box).all() and min(box[2:]) > 0:
        return crop_face(frame, box, CROP)
    size = max(round(width * SIZE_PX / height), 1), SIZE_PX
    return np.asarray(cv2.resize(np.ascontiguousarray(frame), size, interpolation=cv2.INTER_AREA), np.uint8)
