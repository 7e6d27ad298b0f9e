"""Face tracking: detections linked over time into tracks, in one pass over the frames."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain, pairwise

import numpy as np

from svfap.errors import UserError
from svfap.faces.boxes import overlap, predicted, smoothed
from svfap.faces.config import FaceCropConfig, TrackConfig
from svfap.faces.crop import crop_face
from svfap.faces.detect import Detector, DetectorOfRegions, Face
from svfap.faces.shots import ShotFrame, iter_shots

DETECTIONS_PER_S = 8  # a head moves by less than half its width in between
WHOLE_S = 0.3  # seconds, at least, from one search of the whole picture to the next, where it shows the same faces
VELOCITY_S = 0.4  # seconds over which a track's velocity is measured
SMALLER = 0.75  # a face that is followed already may become smaller by this factor
HOLE_FRAMES = 1.5  # a step from one frame to the next that is longer is no jitter
CHECK = FaceCropConfig(224, margin=0.3)  # a crop in which the detector looks for the face again
SAME_FACE = 0.3  # least intersection over union of a face and the one found in its crop


@dataclass(frozen=True)
class TrackedFace:
    """A tracked face in one frame.

    track: number from 1, in order of appearance. box: x, y, width, height in pixels of the frame, smoothed; it may reach
    beyond the frame. confidence: the detector's, 0 to 1, interpolated. landmarks: (5, 2) float32, smoothed, in the order of
    `Face.landmarks`; None if the detector gives none. seen: False if the detector's run before or after this frame missed
    the face, so that the box is interpolated over a miss.
    """

    track: int
    box: tuple[float, float, float, float]
    confidence: float
    landmarks: np.ndarray | None
    seen: bool


@dataclass
class Dropped:
    """Number of faces that were long in view and dropped; a face that was away for a while counts each time.

    small: smaller than `TrackConfig.min_face_px`. not_again: the detector does not find a face in their crops.
    """

    small: int = 0
    not_again: int = 0

    def note(self, min_face_px: int) -> str:
        """What was dropped, in words; "" if nothing was."""
        reasons = {
            f"smaller than {min_face_px} px (min_face_px)": self.small,
            "that the detector does not find again in their crops": self.not_again,
        }
        parts = [f"{count} face{'s' * (count > 1)} {why}" for why, count in reasons.items() if count]
        return f"dropped {' and '.join(parts)}" if parts else ""


@dataclass(frozen=True)
class TrackedFrame:
    """Frame `index` of the stream at `time_s`: uint8 RGB (H, W, 3), its faces sorted by track, its shot from 0."""

    index: int
    time_s: float
    frame: np.ndarray
    faces: tuple[TrackedFace, ...]
    shot: int


def track_faces(
    frames: Iterable[tuple[float, np.ndarray]],
    detector: Detector,
    config: TrackConfig = TrackConfig(),  # noqa: B008 - frozen
    fps: float = 25.0,
    dropped: Dropped | None = None,
) -> Iterator[TrackedFrame]:
    """Track every face in a stream of (time_s, uint8 RGB (H, W, 3)); every frame is yielded once and in order.

    Detections are linked by overlap and constant velocity (as in SORT; Bewley et al., ICIP 2016); tracks end at shot
    changes. Times must increase; `fps` determines how often the detector runs and which step between two times is a hole
    in the recording, over which nothing is interpolated. Frames are yielded with a delay of up to `config.delay_s`, and
    memory does not grow with the stream. dropped: counts the faces without a track. Raises `UserError` if times do not
    increase.
    """
    every = config.detect_every or max(round(fps / DETECTIONS_PER_S), 1)
    hole_s = max(config.max_gap_s, HOLE_FRAMES / fps)
    tracker = _Tracker(config, detector, hole_s, Dropped() if dropped is None else dropped)
    held: deque[ShotFrame] = deque()
    shots = iter_shots(_increasing(frames), config.shot_threshold, config.flash_s)
    for item, faces in _with_faces(_with_runs(shots, every, hole_s), detector):
        held.append(item)
        if faces is None:
            tracker.last_frame_s = item.time_s
            continue
        tracker.update(item, faces)
        while held and held[0].time_s + config.delay_s <= item.time_s:
            yield tracker.settle(held.popleft())
    tracker.finish()
    while held:
        yield tracker.settle(held.popleft())


def _increasing(frames: Iterable[tuple[float, np.ndarray]]) -> Iterator[tuple[float, np.ndarray]]:
    last = -np.inf
    for time_s, frame in frames:
        if not time_s > last:
            raise UserError(f"the frame at {time_s:g} s follows one at {last:g} s: the times of frames must increase")
        last = time_s
        yield time_s, frame


def _with_runs(shots: Iterator[ShotFrame], every: int, hole_s: float) -> Iterator[tuple[ShotFrame, bool, bool]]:
    """Each frame, whether the detector runs on it, and whether it is at an end.

    The detector runs at both ends of shots and holes, and on every `every`-th frame in between.
    """
    since, is_first = 0, True
    for item, following in pairwise(chain(shots, [None])):
        assert item is not None
        is_last = following is None or following.shot != item.shot or following.time_s - item.time_s > hole_s
        runs = is_first or is_last or since + 1 >= every
        yield item, runs, is_first or is_last
        since, is_first = 0 if runs else since + 1, is_last


def _with_faces(
    frames: Iterator[tuple[ShotFrame, bool, bool]], detector: Detector
) -> Iterator[tuple[ShotFrame, list[Face] | None]]:
    """Each frame of `_with_runs` with the faces that the detector finds; None: it does not run.

    A detector that can look near known faces searches the whole picture at ends and every `WHOLE_S` seconds. If that finds
    the same faces as the time before, the runs in between look only near the places between; else they search the whole
    picture too, so that a face is found as early, and lost as late, as if all runs did.
    """
    if not isinstance(detector, DetectorOfRegions):
        for item, runs, _ in frames:
            yield item, detector.detect(item.frame) if runs else None
        return
    before: list[Face] = []
    before_s = -np.inf
    waiting: list[tuple[ShotFrame, bool]] = []
    for item, runs, is_end in frames:
        if not (runs and (is_end or item.time_s - before_s >= WHOLE_S)):
            waiting.append((item, runs))
            continue
        faces = detector.detect(item.frame)
        paths = _paths(before, faces) if any(runs for _, runs in waiting) else None
        for between, runs in waiting:
            if not runs:
                yield between, None
            elif paths is None:
                yield between, detector.detect(between.frame)
            elif not faces:
                yield between, []
            else:
                share = (between.time_s - before_s) / (item.time_s - before_s)
                yield between, detector.detect_near(between.frame, (1 - share) * paths[0] + share * paths[1])
        yield item, faces
        before, before_s, waiting = faces, item.time_s, []


def _paths(before: Sequence[Face], after: Sequence[Face]) -> tuple[np.ndarray, np.ndarray] | None:
    """The boxes (N, 4) of the same faces at two times; None if there are others, or one has moved far."""
    a, b = (np.array([face.box for face in faces], np.float64).reshape(-1, 4) for faces in (before, after))
    if len(a) != len(b):
        return None
    shared = overlap(a, b)
    if not len(a):
        return a, b
    nearest = shared.argmax(axis=0)
    same = len(set(nearest.tolist())) == len(a) and shared.max(axis=0).min() > SAME_FACE
    return (a[nearest], b) if same else None


@dataclass(eq=False)
class _Piece:
    """Successive detections of one face without a gap; a track consists of one or more pieces."""

    times: list[float] = field(default_factory=list)
    runs: list[int] = field(default_factory=list)  # number of the detector's run of each detection
    values: list[np.ndarray] = field(default_factory=list)  # (14,): box, landmarks (NaN: none)
    confidences: list[float] = field(default_factory=list)
    hits: int = 0
    checks: int = 0  # crops in which the detector was to find the face again, and those in which it did
    found_again: int = 0
    first_s: float = 0.0
    first_run: int = 0
    lasting: bool = False  # in view for long enough, and found often enough
    confirmed: bool = False  # and large enough, and found again
    track: int | None = None  # assigned when the first frame with it is yielded

    def add(self, time: float, run: int, face: Face) -> None:
        if not self.hits:
            self.first_s, self.first_run = time, run
        landmarks = np.full((5, 2), np.nan) if face.landmarks is None else face.landmarks
        self.values.append(np.concatenate([np.asarray(face.box, np.float64), np.ravel(landmarks)]))
        self.times.append(time)
        self.runs.append(run)
        self.confidences.append(face.confidence)
        self.hits += 1

    @property
    def size_px(self) -> float:
        """Longer side of the latest boxes, mean."""
        return float(np.mean([value[2:4].max() for value in self.values]))

    def next_box(self, time: float) -> np.ndarray:
        times = np.array(self.times)
        recent = times >= times[-1] - VELOCITY_S
        return predicted(times[recent], np.array(self.values)[recent, :4], time)

    def forget(self, time: float) -> None:
        """Drop detections that are not needed for this time or later."""
        while len(self.times) > 2 and self.times[1] < time:
            del self.times[0], self.runs[0], self.values[0], self.confidences[0]

    def at(self, time: float, smooth_s: float) -> TrackedFace:
        times = np.array(self.times)
        value = smoothed(times, np.array(self.values), time, smooth_s)
        after = int(np.searchsorted(times, time))
        before = after if times[after] == time else after - 1
        x, y, w, h = value[:4].tolist()
        return TrackedFace(
            track=self.track or 0,
            box=(x, y, w, h),
            confidence=float(np.interp(time, times, self.confidences)),
            landmarks=value[4:].reshape(5, 2).astype(np.float32) if np.isfinite(value).all() else None,
            seen=self.runs[after] - self.runs[before] <= 1,
        )


class _Tracker:
    """Takes the detections of each run; returns frames with final faces, in order and with a delay."""

    def __init__(self, config: TrackConfig, detector: Detector, hole_s: float, dropped: Dropped) -> None:
        self.config, self.detector, self.hole_s, self.dropped = config, detector, hole_s, dropped
        self.open: list[_Piece] = []  # may continue, in order of appearance
        self.pieces: list[_Piece] = []  # may be in frames that were not yielded yet, in order of appearance
        self.lost: list[_Piece] = []  # ended recently, in the shot of the frames now yielded
        self.run, self.shot, self.shot_out = 0, 0, 0
        self.first_s, self.last_s, self.last_frame_s = 0.0, 0.0, 0.0
        self.num_tracks = 0

    def update(self, item: ShotFrame, found: Sequence[Face]) -> None:
        """Add what a run of the detector on a frame has found."""
        time = item.time_s
        if item.shot != self.shot or (self.run and time - self.last_frame_s > self.hole_s):
            self.open, self.shot = [], item.shot
        self.first_s, self.last_s, self.last_frame_s = time if self.run == 0 else self.first_s, time, time
        self.run += 1
        # Only a missed detection makes a gap: if frames are far apart, the next run is the first that can find the face.
        self.open = [p for p in self.open if p.runs[-1] == self.run - 1 or time - p.times[-1] <= self.config.max_gap_s]
        faces = [face for face in found if face.confidence >= self.config.min_confidence]
        linked = self._link(time, faces)
        for i, face in enumerate(faces):
            piece = linked.get(i)
            if piece is None:
                piece = _Piece()
                self.open.append(piece)
                self.pieces.append(piece)
            piece.add(time, self.run, face)
            large = piece.size_px >= self.config.min_face_px
            if large and not piece.confirmed:
                piece.checks += 1
                piece.found_again += self._is_found_again(item.frame, face)
            long = time - piece.first_s >= self.config.min_track_s
            self._confirm(piece, long and 2 * piece.hits >= self.run - piece.first_run + 1)

    def _confirm(self, piece: _Piece, lasting: bool) -> None:
        piece.lasting |= lasting
        is_face = piece.checks > 0 and 2 * piece.found_again >= piece.checks
        piece.confirmed |= piece.lasting and is_face and piece.size_px >= self.config.min_face_px

    def _is_found_again(self, frame: np.ndarray, face: Face) -> bool:
        """Whether the detector finds the face in its own crop; false detections mostly fail (measured in docs/faces.md)."""
        found = self.detector.detect(crop_face(frame, face.box, CHECK))
        size = np.array(face.box[2:]) * CHECK.size_px / (max(face.box[2:]) * (1 + 2 * CHECK.margin))
        expected = np.concatenate([(CHECK.size_px - size) / 2, size])
        return bool(found) and bool(overlap(expected[None], np.array([other.box for other in found])).max() > SAME_FACE)

    def _link(self, time: float, faces: Sequence[Face]) -> dict[int, _Piece]:
        """Face number -> the piece that it continues: the assignment with the largest total overlap."""
        if not faces or not self.open:
            return {}
        from scipy.optimize import linear_sum_assignment  # takes longer to import than one picture to predict

        boxes = np.array([face.box for face in faces], np.float64)
        shared = overlap(np.array([piece.next_box(time) for piece in self.open]), boxes)
        shared[shared < self.config.min_overlap] = 0
        rows, columns = linear_sum_assignment(shared, maximize=True)
        return {int(c): self.open[r] for r, c in zip(rows, columns, strict=True) if shared[r, c] > 0}

    def finish(self) -> None:
        """End the stream."""
        self.open = []
        if self.last_s - self.first_s < self.config.min_track_s:
            for piece in self.pieces:
                self._confirm(piece, 2 * piece.hits >= self.run)

    def settle(self, item: ShotFrame) -> TrackedFrame:
        """The next frame with its faces, which are final."""
        time = item.time_s
        if item.shot != self.shot_out:
            self.lost, self.shot_out = [], item.shot
        self.lost = [lost for lost in self.lost if time - lost.times[-1] <= self.config.resume_s]
        faces = []
        for piece in self.pieces:
            if piece.confirmed and piece.first_s <= time <= piece.times[-1]:
                piece.track = piece.track or self._track_of(piece)
                face = piece.at(time, self.config.smooth_s)
                if max(face.box[2:]) >= SMALLER * self.config.min_face_px:
                    faces.append(face)
            piece.forget(time - self.config.smooth_s)
        ended = [piece for piece in self.pieces if piece.times[-1] <= time and piece not in self.open]
        self.lost += [piece for piece in ended if piece.track]
        for piece in ended:
            if piece.lasting and not piece.confirmed:
                is_small = piece.size_px < self.config.min_face_px
                self.dropped.small += is_small
                self.dropped.not_again += not is_small
        self.pieces = [piece for piece in self.pieces if piece not in ended]
        return TrackedFrame(item.index, time, item.frame, tuple(sorted(faces, key=lambda face: face.track)), item.shot)

    def _track_of(self, piece: _Piece) -> int:
        """The number of the lost track whose last or predicted box is where this piece begins; else the next number."""
        begin = piece.values[0][None, :4]
        places = [np.stack([lost.values[-1][:4], lost.next_box(piece.first_s)]) for lost in self.lost]
        shares = [overlap(place, begin).max() for place in places]
        if shares and max(shares) >= self.config.min_overlap:
            return self.lost.pop(int(np.argmax(shares))).track or 0
        self.num_tracks += 1
        return self.num_tracks
