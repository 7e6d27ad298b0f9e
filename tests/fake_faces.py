"""Videos in which red squares stand for faces, and a detector of them: fast, and with known positions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import torch

import svfap
from svfap.faces.detect import Face
from svfap.model.base import Model

LABELS = ("joy", "anger", "calm")
SIZE = (72, 96)  # height, width
SIDE = 36


class Spots:
    """A face detector that takes every red region for a face."""

    name = "spots"

    def detect(self, frame: np.ndarray) -> list[Face]:
        red = (frame[..., 0] > 140) & (frame[..., 1] < 90) & (frame[..., 2] < 90)
        _, _, stats, _ = cv2.connectedComponentsWithStats(red.astype(np.uint8))
        boxes = [tuple(map(float, row[:4])) for row in stats[1:] if row[4] > 30]
        return [Face(box, 0.9, None) for box in sorted(boxes, key=lambda box: -box[2] * box[3])]


def spot(frame: np.ndarray, x: int, y: int, number: int = 0) -> np.ndarray:
    """Draw a face whose mouth depends on the number of the frame."""
    frame[y : y + SIDE, x : x + SIDE] = (230, 20, 20)
    frame[y + 14 : y + 18, x + 4 : x + 8 + number % 12] = (150, 70, 70)
    return frame


def frames(places: Sequence[Sequence[tuple[int, int]]], size: tuple[int, int] = SIZE) -> Iterator[np.ndarray]:
    """One frame for each entry of `places`, with a face at each (x, y) in it."""
    for number, here in enumerate(places):
        frame = np.full((*size, 3), (40, 70, 60), np.uint8)
        for x, y in here:
            spot(frame, x, y, number)
        yield frame


def film(
    path: Path,
    pictures: Iterator[np.ndarray],
    *,
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
    ticks: Sequence[int] | None = None,
    options: dict[str, str] | None = None,
    sound: str | None = None,
) -> Path:
    """Write pictures at 25 frames per second, or at the given multiples of 1/25 s; with a tone in the audio codec `sound`."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25, options=options or {})
        tone = container.add_stream(sound, rate=16000, layout="mono") if sound else None
        for number, picture in enumerate(pictures):
            if number == 0:
                stream.height, stream.width, stream.pix_fmt = *picture.shape[:2], pix_fmt
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = ticks[number] if ticks else number, Fraction(1, 25)
            container.mux(stream.encode(frame))
            if tone is not None:
                wave = np.sin(np.arange(640 * number, 640 * (number + 1)) / 10) * 8000
                samples = av.AudioFrame.from_ndarray(wave.astype(np.int16)[None], format="s16", layout="mono")
                samples.sample_rate, samples.pts = 16000, 640 * number
                for packet in tone.encode(samples):
                    container.mux(packet)
        container.mux(stream.encode(None))
        if tone is not None:
            container.mux(tone.encode(None))
    return path


def model(task: str = "classification", **kwargs) -> Model:
    """A model with random weights large enough that outputs differ between clips; img_size 32."""
    torch.manual_seed(0)
    made = svfap.create_model("svfap_debug", task, **{"label_names": LABELS, "sampling_stride": 1, **kwargs}).eval()
    for parameter in made.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.25)
    return made


def two_films(folder: Path) -> Path:
    """A folder with a model, a.mp4 of one face and b.mp4 of two, 40 frames each."""
    model().save_pretrained(folder / "model")
    film(folder / "a.mp4", frames([[(30, 20)]] * 40))
    film(folder / "b.mp4", frames([[(10, 20), (60, 30)]] * 40))
    return folder
