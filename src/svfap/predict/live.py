"""Pictures of a camera, one at a time: the faces in each, and what the model reads in them by then."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

import cv2
import numpy as np

from svfap.errors import UserError
from svfap.faces.boxes import overlap
from svfap.faces.crop import crop_face
from svfap.faces.detect import Detector, Face, Pixels
from svfap.predict.predictor import Predictor
from svfap.predict.windows import Box

LEAST_OVERLAP = 0.2  # of a face's box with the one before, as intersection over union
LOST_S = 2.0  # a face that is not seen for longer is a new one
HOP_S = 0.5  # from one window of a face to the next
SEARCHED_PX = 320  # longer side of the picture that faces are searched in
SMOOTHING = 0.5  # share of the box before in a face's box
USUAL_FPS = 25.0  # of a model that does not say its rate


@dataclass(frozen=True)
class LiveFace:
    """A face in a picture. track: its number. box: in pixels. values: (K,) as of `Predictor.values`; None: not known yet."""

    track: int
    box: Box
    confidence: float
    values: np.ndarray | None


@dataclass
class _Track:
    number: int
    box: Box
    seen_s: float
    crops: deque[tuple[float, Pixels]] = field(default_factory=deque)
    values: np.ndarray | None = None
    read_s: float = -np.inf  # when the values were read


class LivePredictor:
    """Reads pictures as they come, at whatever rate. Each picture is searched for faces, so nothing has to wait for later ones.

    predictor: of which model, detector and crop are used. A model of windows gets, for each frame of its clip, the picture that
    was nearest in time, and reads a face again after `HOP_S` seconds. Raises `UserError` for a predictor without a detector.
    """

    def __init__(self, predictor: Predictor) -> None:
        if predictor.reader.detector is None:
            raise UserError("live pictures need a face detector; faces=none is for face crops")
        self.predictor = predictor
        self.detector: Detector = predictor.reader.detector
        config = predictor.config
        step_s = config.sampling_stride / (config.frame_rate or USUAL_FPS)
        # Of the frames of a clip, in seconds from the last.
        self._offsets = -step_s * np.arange(config.num_frames)[::-1]
        self._tracks: list[_Track] = []
        self._num_tracks = 0

    def __call__(self, picture: Pixels, time_s: float) -> list[LiveFace]:
        """The faces in an RGB picture (H, W, 3) uint8 at a time in seconds, which must increase; the largest first."""
        reader = self.predictor.reader
        found = [face for face in self._detected(picture) if max(face.box[2:]) >= reader.tracking.min_face_px]
        self._tracks = [track for track in self._tracks if time_s - track.seen_s <= LOST_S]
        tracks = self._matched([face.box for face in found], time_s)
        for face, track in zip(found, tracks, strict=True):
            track.crops.append((time_s, crop_face(picture, track.box, reader.crop, face.landmarks)))
            while len(track.crops) > 1 and track.crops[1][0] <= time_s + self._offsets[0]:
                track.crops.popleft()
        self._read([track for track in tracks if self._is_due(track, time_s)], time_s)
        return [
            LiveFace(track.number, track.box, face.confidence, track.values)
            for face, track in zip(found, tracks, strict=True)
        ]

    def _detected(self, picture: Pixels) -> list[Face]:
        """The faces of a picture, searched in a smaller one, which takes a quarter of the time."""
        scale = min(SEARCHED_PX / max(picture.shape[:2]), 1.0)
        if scale == 1:
            return self.detector.detect(picture)
        size = round(picture.shape[1] * scale), round(picture.shape[0] * scale)
        faces = self.detector.detect(cv2.resize(picture, size, interpolation=cv2.INTER_AREA))
        return [
            Face(
                (face.box[0] / scale, face.box[1] / scale, face.box[2] / scale, face.box[3] / scale),
                face.confidence,
                None if face.landmarks is None else face.landmarks / np.float32(scale),
            )
            for face in faces
        ]

    def _matched(self, boxes: list[Box], time_s: float) -> list[_Track]:
        """The track of each box: that whose last box overlaps it most, each for one box, else a new one."""
        shares = overlap(np.array(boxes).reshape(-1, 4), np.array([track.box for track in self._tracks]).reshape(-1, 4))
        tracks: list[_Track | None] = [None] * len(boxes)
        while shares.size and shares.max() >= LEAST_OVERLAP:
            row, column = divmod(int(shares.argmax()), shares.shape[1])
            tracks[row] = self._tracks[column]
            shares[row], shares[:, column] = 0, 0
        for row, box in enumerate(boxes):
            track = tracks[row]
            if track is None:
                self._num_tracks += 1
                track = tracks[row] = _Track(self._num_tracks, box, time_s)
                self._tracks.append(track)
            old = track.box
            track.box = tuple(SMOOTHING * a + (1 - SMOOTHING) * b for a, b in zip(old, box, strict=True))  # type: ignore[assignment]
            track.seen_s = time_s
        return [track for track in tracks if track is not None]

    def _is_due(self, track: _Track, time_s: float) -> bool:
        if len(self._offsets) == 1:
            return True
        has_clip = track.crops[0][0] <= time_s + self._offsets[0]
        return has_clip and time_s - track.read_s >= HOP_S

    def _read(self, tracks: list[_Track], time_s: float) -> None:
        if not tracks:
            return
        clips = []
        for track in tracks:
            times = np.array([time for time, _ in track.crops])
            nearest = np.abs(times[None] - (time_s + self._offsets)[:, None]).argmin(axis=1)
            clips.append(np.stack([track.crops[index][1] for index in nearest]))
            track.read_s = time_s
        values = self.predictor.predict_clips(np.stack(clips))
        for track, value in zip(tracks, values, strict=True):
            track.values = value[-1] if value.ndim == 2 else value
