"""A few frames as one small picture."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray


def thumbnail(clip: NDArray[np.uint8]) -> bytes:
    """JPEG of frames (T, H, W, 3), uint8 RGB, from left to right."""
    strip = np.concatenate(list(clip), axis=1)
    return cv2.imencode(".jpg", cv2.cvtColor(strip, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 82])[1].tobytes()
