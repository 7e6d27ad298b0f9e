"""Cost of face tracking: milliseconds per frame of decoding, detection, tracking and cropping, for both detectors.

    python benchmarks/faces.py --clip ../shared/clips/single_face.mp4 --face_model ../shared/models/yunet_n_640_640.onnx

The clip is scaled to each size. Processor time on one core is measured, on which other work has little influence. Detection
is given per run of the detector; "x real time" includes all stages, with about eight runs per second.
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
    """A detector that counts its runs and their seconds."""

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
    parser.add_argument("--face_model", type=Path, help="YuNet's .onnx file; default: as `svfap predict` finds it")
    parser.add_argument("--frames", type=int, default=60, help="frames of the clip; all are kept in memory")
    parser.add_argument("--quick", action="store_true", help="ten frames at 360p: a test of the script")
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
                "detect, a run",
                "runs",
                "track",
                "crop, a face",
                "all, a frame",
                "x real time",
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
    """One row of the table."""
    with open_video(clip) as source:
        fps = source.fps
        frames: list[tuple[float, np.ndarray]] = []
        decoding = _taken(lambda: frames.extend(source.steady_frames()))
    timed, tracked = Timed(detector), list[TrackedFrame]()
    following = _taken(lambda: tracked.extend(track_faces(iter(frames), timed, fps=fps))) - timed.seconds
    faces = [(item.frame, face.box) for item in tracked for face in item.faces]
    cropping = _taken(lambda: [crop_face(frame, box) for frame, box in faces])
    count = len(frames)
    whole = decoding + timed.seconds + following + cropping
    stages = (decoding / count, timed.seconds / timed.runs, following / count, cropping / len(faces))
    decode, detect, follow, crop = (f"{1e3 * s:.1f}" for s in stages)
    runs = f"{timed.runs} of {count}"
    return [decode, detect, runs, follow, crop, f"{1e3 * whole / count:.1f}", f"**{count / fps / whole:.1f}**"]


def _taken(run: Callable[[], object]) -> float:
    """Seconds of processor time."""
    start = time.process_time()
    run()
    return time.process_time() - start


if __name__ == "__main__":
    main()
