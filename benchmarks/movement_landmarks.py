"""Face landmarks of every frame of a corpus, by MediaPipe FaceMesh: the teacher of `benchmarks/movement.py`.

Runs in an environment of its own, as MediaPipe 0.10.14 needs an older NumPy than the package:

    python -m venv mediapipe && mediapipe/bin/pip install mediapipe==0.10.14 "numpy<2"
    mediapipe/bin/python benchmarks/movement_landmarks.py CORPUS LANDMARKS

CORPUS has a `corpus.csv` with the columns path and split. Writes LANDMARKS/<path>.npy for each clip, (frames, 478, 2) float32:
x, y as fractions of the frame, NaN where no face is found. Files that are there are not made again.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

import cv2
import numpy as np

NUM_LANDMARKS = 478


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("corpus", type=Path, help="folder with corpus.csv")
    parser.add_argument("landmarks", type=Path, help="folder to write into")
    options = parser.parse_args()
    with open(options.corpus / "corpus.csv", encoding="utf-8", newline="") as file:
        paths = [row["path"] for row in csv.DictReader(file) if row["split"] in ("train", "val")]
    for path in paths:
        out = (options.landmarks / path).with_suffix(".npy")
        if not out.exists():
            out.parent.mkdir(parents=True, exist_ok=True)
            found = landmarks(options.corpus / path)
            np.save(out, found)
            print(f"{path}: {len(found)} frames, {np.isnan(found[:, 0, 0]).sum()} without a face", flush=True)


def landmarks(path: Path) -> np.ndarray:
    """(frames, 478, 2): every frame by itself, since tracking over time smooths short movements such as blinks."""
    import mediapipe

    video = cv2.VideoCapture(str(path))
    found = []
    with mediapipe.solutions.face_mesh.FaceMesh(
        static_image_mode=True, max_num_faces=1, refine_landmarks=True, min_detection_confidence=0.3
    ) as mesh:
        while True:
            there, frame = video.read()
            if not there:
                return np.array(found, np.float32).reshape(-1, NUM_LANDMARKS, 2)
            faces = mesh.process(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)).multi_face_landmarks
            points = (
                [(point.x, point.y) for point in faces[0].landmark] if faces else [(np.nan, np.nan)] * NUM_LANDMARKS
            )
            found.append(points)


if __name__ == "__main__":
    main()
