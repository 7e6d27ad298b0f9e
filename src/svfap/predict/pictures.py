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
from svfap.files import printable
from svfap.predict.windows import Box
from svfap.view.thumbnail import thumbnail

SIZE_PX = 128
CROP = FaceCropConfig(SIZE_PX, margin=0.25)
MAX_FRAMES = 8  # whole frames in memory


def cut_pictures(path: Path, wanted: Sequence[tuple[float, Box | None]]) -> tuple[list[bytes | None], str]:
    """JPEGs of a video at the given times in seconds, within a box (x, y, width, height in pixels; None: the whole frame).

    Returns them in the order of `wanted`, None for those that cannot be read, and the reason, "" if all could. The video is
    read once from start to end; memory does not grow with its length.
    """
    pictures: list[bytes | None] = [None] * len(wanted)
    reason = ""
    try:
        with open_video(path) as video:
            frames = video.picture_at([time_s for time_s, _ in wanted])
            order = np.argsort(frames, kind="stable")
            for first in track(range(0, len(order), MAX_FRAMES), f"Pictures of {printable(path.name)}"):
                part = order[first : first + MAX_FRAMES]
                try:
                    shown = video.read(frames[part])
                except VideoError as error:  # damaged here, perhaps not later
                    reason = str(error)
                    continue
                for k, frame in zip(part.tolist(), shown, strict=True):
                    pictures[k] = thumbnail(_cut(frame, wanted[k][1])[None])
    except VideoError as error:
        reason = str(error)
    return pictures, reason


def _cut(frame: Pixels, box: Box | None) -> Pixels:
    """The square around a box, grey beyond the frame's edge; without a box the whole frame."""
    height, width = frame.shape[:2]
    if box is not None and np.isfinite(box).all() and min(box[2:]) > 0:
        return crop_face(frame, box, CROP)
    size = max(round(width * SIZE_PX / height), 1), SIZE_PX
    return np.asarray(cv2.resize(np.ascontiguousarray(frame), size, interpolation=cv2.INTER_AREA), np.uint8)
