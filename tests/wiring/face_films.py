"""Videos in which red squares stand for faces, and a detector of them that notes how it was made and used."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
from fake_faces import Spots, film

from svfap.data.video import open_video
from svfap.faces.detect import Detector, Face

SIZE = (96, 160)  # height, width
LARGE, MIDDLE, SMALL = 44, 40, 36  # sides of faces


class Eyes(Spots):
    """Finds red squares and takes the line between their eyes to be tilted. made: name and model of each detector that was
    asked for. sizes: of each picture that was searched."""

    name = "haar"
    gives_landmarks = True

    def __init__(self) -> None:
        self.made: list[tuple[str, str]] = []
        self.sizes: list[tuple[int, int]] = []

    def make(self, name: str, model: Path | str | None = None) -> Detector:
        """In place of `make_detector`."""
        self.made.append((name, Path(model).name if model else ""))
        return self

    def detect(self, frame: np.ndarray) -> list[Face]:
        self.sizes.append(frame.shape[:2])
        return [Face(face.box, face.confidence, _landmarks(face.box)) for face in super().detect(frame)]

    @property
    def num_searched(self) -> int:
        """Whole pictures that were searched."""
        return self.sizes.count(SIZE)


def _landmarks(box: tuple[float, float, float, float]) -> np.ndarray:
    x, y, w, h = box
    points = [(0.3, 0.3), (0.7, 0.5), (0.5, 0.6), (0.3, 0.8), (0.7, 0.9)]
    return np.array([(x + u * w, y + v * h) for u, v in points], np.float32)


def pictures(num_frames: int, faces: str = "LS", seed: int = 0) -> Iterator[np.ndarray]:
    """L: a large face that moves right from the left edge. S, M: a small or middle one in the first two thirds of the time."""
    ground = np.random.default_rng(seed).integers(60, 120, (SIZE[0] // 8, SIZE[1] // 8, 3)).astype(np.uint8)
    ground[..., 0] = 50
    ground = ground.repeat(8, 0).repeat(8, 1)
    for number in range(num_frames):
        picture = ground.copy()
        if "L" in faces:
            _draw(picture, 2 + number // 2, 30, LARGE, number)
        for kind, side in (("S", SMALL), ("M", MIDDLE)):
            if kind in faces and number < 2 * num_frames // 3:
                _draw(picture, 112 + number % 3, 4, side, number)
        yield picture


def _draw(picture: np.ndarray, x: int, y: int, side: int, number: int) -> None:
    picture[y : y + side, x : x + side] = (230, 20, 20)
    picture[y + side // 2 : y + side // 2 + 6, x + 6 : x + 12 + number % 16] = (150, 70, 70)


def write_films(folder: Path, num_frames: int = 40) -> Path:
    """a.mp4 and b.mp4 with two faces, one.mp4 with one, none.mp4, elsewhere/ with a and b exchanged, pictures/ with the start of
    a, an empty model.onnx, and m.csv; returns it."""
    (folder / "elsewhere").mkdir(parents=True)
    for seed, name in enumerate("ab"):
        film(folder / f"{name}.mp4", pictures(num_frames + 10 * seed, seed=seed))
    film(folder / "none.mp4", pictures(num_frames // 2, ""))
    film(folder / "one.mp4", pictures(num_frames, "M"))
    for name, other in (("a", "b"), ("b", "a"), ("one", "one"), ("none", "none")):
        (folder / "elsewhere" / f"{name}.mp4").symlink_to(folder / f"{other}.mp4")
    (folder / "model.onnx").touch()
    (folder / "pictures").mkdir()
    for number, picture in enumerate(shown(folder / "a.mp4")[:24]):
        cv2.imwrite(str(folder / "pictures" / f"{number:03d}.png"), picture[..., ::-1])
    lines = ["path,label,split", "a.mp4,joy,train", "b.mp4,calm,test", "one.mp4,fear,train", "none.mp4,joy,train"]
    (folder / "m.csv").write_text("\n".join(lines) + "\n")
    return folder / "m.csv"


def shown(file: Path) -> np.ndarray:
    with open_video(file) as video:
        return video.read(range(video.num_frames))
