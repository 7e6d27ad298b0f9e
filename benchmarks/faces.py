"""Cost of face tracking: milliseconds per frame of decoding, detection, tracking and cropping, for both detectors.

    python benchmarks/faces.py --clip CLIP.mp4

The clip is scaled to each size. The times are processor times of one core, which other processes hardly affect. Detection is
given per run of the detector; "× real time" includes all stages, with about eight runs per second.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import cv2
import numpy as np
import torch
from common import machine, table

from svfap.data.video import open_video, write_video
from svfap.faces.crop import crop_face
from svfap.faces.detect import Detector, Face, Haar, make_detector
from svfap.faces.track import TrackedFrame, track_faces

HEIGHTS = {"360p": 360, "720p": 720, "1080p": 1080}


class Timed:
    """A detector that counts its runs and their processor time in seconds."""

    def __init__(self, detector: Detector) -> None:
        self.name, self._detector = detector.name, detector
        self.runs, self.seconds = 0, 0.0

    def detect(self, frame: np.ndarray) -> list[Face]:
        start = time.process_time()
        faces = self._detector.detect(frame)
        self.seconds += time.process_time() - start
        self.runs += 1
        return faces


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clip", type=Path, required=True, help="a video of one face")
    parser.add_argument("--face_model", type=Path, help="YuNet's .onnx file; default: see docs/faces.md")
    parser.add_argument("--frames", type=int, default=60, help="frames to process; all are kept in memory")
    parser.add_argument("--quick", action="store_true", help="smoke test: ten frames at 360p")
    args = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    detectors = (make_detector("yunet", args.face_model), Haar())
    heights = dict(islice(HEIGHTS.items(), 1)) if args.quick else HEIGHTS
    rows: list[list[str]] = []
    with tempfile.TemporaryDirectory() as folder:
        for name, height in heights.items():
            clip = _scaled(args.clip, height, 10 if args.quick else args.frames, Path(folder) / f"{name}.mp4")
            rows += [[f"{name}, {detector.name}", *_costs(clip, detector)] for detector in detectors]
    print("\n".join(machine(torch.device("cpu"))), end="\n\n")
    print(
        table(
            [
                "ms of one core",
                "decode",
                "detect, per run",
                "runs",
                "track",
                "crop, per face",
                "total, per frame",
                "× real time",
            ],
            rows,
        )
    )


def _scaled(clip: Path, height: int, num_frames: int, path: Path) -> Path:
    with open_video(clip) as source:
        width = round(source.width * height / source.height)
        pictures = (picture for _, picture in islice(source.steady_frames(), num_frames))
        write_video(path, (cv2.resize(picture, (width, height)) for picture in pictures), source.fps, gop=48, crf=23)
    return path


def _costs(clip: Path, detector: Detector) -> list[str]:
    """The cells of one row, without its name."""
    with open_video(clip) as source:
        fps = source.fps
        frames: list[tuple[float, np.ndarray]] = []
        decoding = _processor_seconds(lambda: frames.extend(source.steady_frames()))
    timed, tracked = Timed(detector), list[TrackedFrame]()
    tracking = _processor_seconds(lambda: tracked.extend(track_faces(iter(frames), timed, fps=fps))) - timed.seconds
    faces = [(item.frame, face.box) for item in tracked for face in item.faces]
    cropping = _processor_seconds(lambda: [crop_face(frame, box) for frame, box in faces])
    count = len(frames)
    total = decoding + timed.seconds + tracking + cropping
    stages = (decoding / count, timed.seconds / timed.runs, tracking / count, cropping / len(faces))
    decode, detect, track, crop = (f"{1e3 * s:.1f}" for s in stages)
    runs = f"{timed.runs} of {count}"
    return [decode, detect, runs, track, crop, f"{1e3 * total / count:.1f}", f"**{count / fps / total:.1f}**"]


def _processor_seconds(run: Callable[[], object]) -> float:
    """Processor time of a call in seconds."""
    start = time.process_time()
    run()
    return time.process_time() - start


if __name__ == "__main__":
    main()
