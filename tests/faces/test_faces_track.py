"""Tracking, against scenes whose boxes are known: no video is decoded and no detector's model is needed."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable, Iterator
from itertools import chain, combinations, groupby, islice
from pathlib import Path

import numpy as np
import pytest

from svfap.data.video import open_video
from svfap.errors import UserError
from svfap.faces.boxes import PATH_POINTS, overlap, predicted, smoothed
from svfap.faces.config import TrackConfig
from svfap.faces.detect import Face
from svfap.faces.shots import iter_shots
from svfap.faces.track import CHECK, TrackedFrame, _Piece, track_faces

FPS = 25.0
WIDTH, HEIGHT = 640, 360
LANDMARKS = np.array([[0.3, 0.4], [0.7, 0.4], [0.5, 0.6], [0.35, 0.8], [0.65, 0.8]])

Boxes = dict[str, tuple[float, float, float, float]]


def frame_of(number: int, height: int = 4, width: int = 4, grey: int = 0) -> np.ndarray:
    """A picture that carries its number, for the detector below; the rest is grey."""
    frame = np.full((height, width, 3), grey, np.uint8)
    frame[0, 0] = number // 256, number % 256, 0
    return frame


class FakeDetector:
    """Finds the boxes of a scene; with noise (part of the width), misses and false positives (chance per run)."""

    name = "fake"

    def __init__(
        self, scene: Callable[[int], Boxes], noise: float = 0.0, miss: float = 0.0, false: float = 0.0, seed: int = 0
    ) -> None:
        self.scene, self.noise, self.miss, self.false = scene, noise, miss, false
        self.random = np.random.default_rng(seed)
        self.runs: list[int] = []

    def detect(self, frame: np.ndarray) -> list[Face]:
        if frame.shape[0] == CHECK.size_px:  # a face's own crop
            return [Face((70.0, 70.0, 84.0, 84.0), 0.9)]
        number = int(frame[0, 0, 0]) * 256 + int(frame[0, 0, 1])
        self.runs.append(number)
        faces = []
        for box in self.scene(number).values():
            if self.random.random() >= self.miss:
                x, y, w, h = np.array(box) + self.random.normal(0, self.noise * box[2], 4)
                faces.append(Face((x, y, w, h), 0.9, (np.array([x, y]) + LANDMARKS * [w, h]).astype(np.float32)))
        if self.random.random() < self.false:
            w = self.random.uniform(30, 120)
            x, y = self.random.uniform(0, WIDTH - w), self.random.uniform(0, HEIGHT - w)
            faces.append(Face((x, y, w, w), 0.6, None))
        return sorted(faces, key=lambda face: -face.box[2] * face.box[3])


def stream(num_frames: int, fps: float = FPS) -> Iterator[tuple[float, np.ndarray]]:
    return ((i / fps, frame_of(i)) for i in range(num_frames))


def followed(detector: FakeDetector, num_frames: int, fps: float = FPS, **settings: float) -> list[TrackedFrame]:
    return list(track_faces(stream(num_frames, fps), detector, TrackConfig(**settings), fps))  # type: ignore[arg-type]


def iou(a: tuple[float, ...], b: tuple[float, ...]) -> float:
    return float(overlap(np.array([a]), np.array([b]))[0, 0])


def tracks_in(frames: list[TrackedFrame]) -> set[int]:
    return {face.track for frame in frames for face in frame.faces}


def still(number: int) -> Boxes:
    return {"a": (200.0, 100.0, 80.0, 100.0)}


def crowd(number: int) -> Boxes:
    """Three people in 12 s: a walks to and fro, b passes a three times and leaves, c enters late, nods, and leaves early."""
    t = number / FPS
    boxes = {"a": (60 + 200 * (1 - np.cos(0.9 * t)), 100 + 15 * np.sin(2 * t), 80.0, 100.0)}
    if t < 9.4:
        boxes["b"] = (620 - 70 * t, 120.0, 70 + 2 * t, 90 + 2 * t)
    if 3 <= t < 9:
        boxes["c"] = (300 + 40 * np.sin(1.5 * t), 235 + 12 * np.sin(4 * t), 60.0, 75.0)
    return boxes


def pairs_overlapping(number: int) -> list[tuple[str, str]]:
    boxes = crowd(number)
    return [(a, b) for a, b in combinations(sorted(boxes), 2) if iou(boxes[a], boxes[b]) > 0.3]


def judged(frames: list[TrackedFrame]) -> tuple[list[str], list[float]]:
    """Identity switches in the crowd, and the IoU of every tracked box with the face nearest to it."""
    of_track: dict[int, str] = {}
    switches, shares = [], []
    for frame in frames:
        truth = crowd(frame.index)
        unsure = {name for pair in pairs_overlapping(frame.index) for name in pair}  # whose box it is, no one can tell
        for face in frame.faces:
            shares.append(max(iou(face.box, box) for box in truth.values()))
            name = max(truth, key=lambda name: iou(face.box, truth[name]))
            if name not in unsure and shares[-1] > 0.3:
                if of_track.setdefault(face.track, name) != name:
                    switches.append(f"track {face.track} at frame {frame.index}: {of_track[face.track]} to {name}")
                of_track[face.track] = name
    return switches, shares


def centres(frames: list[TrackedFrame]) -> np.ndarray:
    """(frames, 2): of the only face there is."""
    boxes = np.array([face.box for frame in frames for face in frame.faces])
    return boxes[:, :2] + boxes[:, 2:] / 2


def test_overlap_of_boxes():
    a, b = np.array([[0.0, 0, 2, 2], [5, 5, 1, 1]]), np.array([[1.0, 0, 2, 2], [0, 0, 2, 2], [9, 9, 0, 0]])
    np.testing.assert_allclose(overlap(a, b), [[1 / 3, 1, 0], [0, 0, 0]])
    assert overlap(np.zeros((1, 4)), np.zeros((1, 4)))[0, 0] == 0


def test_motion_and_smoothing_have_no_lag():
    times = np.arange(8) * 0.1
    boxes = np.stack([100 + 50 * times, 20 - 10 * times, np.full(8, 30.0), np.full(8, 40.0)], axis=1)
    np.testing.assert_allclose(predicted(times, boxes, 1.0), [150, 10, 30, 40])
    np.testing.assert_allclose(predicted(times[:1], boxes[:1], 1.0), boxes[0])
    for time in (0.0, 0.13, 0.35, 0.7):  # also where the path begins and ends
        np.testing.assert_allclose(smoothed(times, boxes, time, 0.3), [100 + 50 * time, 20 - 10 * time, 30, 40])
        np.testing.assert_allclose(smoothed(times, boxes, time, 0.0), [100 + 50 * time, 20 - 10 * time, 30, 40])


def test_the_crowd_is_a_fair_test():
    """Faces do overlap, but never for so long that nobody could tell them apart."""
    spells = [[pair for pair in pairs_overlapping(i) if pair == ("a", "b")] for i in range(300)]
    lengths = [len(list(run)) for overlapping, run in groupby(spells, key=bool) if overlapping]
    assert len(lengths) == 3 and min(lengths) >= 8 and max(lengths) <= 0.5 * FPS
    assert {pair for i in range(300) for pair in pairs_overlapping(i)} == {("a", "b")}


@pytest.mark.parametrize("seed", range(6))
def test_identities_hold_in_a_crowd(seed):
    detector = FakeDetector(crowd, noise=0.02, miss=0.1, false=0.05, seed=seed)
    frames = followed(detector, 300)
    switches, shares = judged(frames)
    assert not switches
    assert np.mean(shares) >= 0.8
    assert tracks_in(frames) == {1, 2, 3}
    assert sum(len(frame.faces) for frame in frames) >= 0.95 * sum(len(crowd(i)) for i in range(300))
    assert len(detector.runs) <= 102  # every third frame
    first = {track: next(f.index for f in frames if track in {x.track for x in f.faces}) for track in (1, 2, 3)}
    assert first[1] <= first[2] < first[3]  # numbered in order of appearance


def test_identities_hold_when_one_face_hides_the_other():
    """A real detector gives one box where two faces overlap much. Not the third pass: side by side, it is a toss-up."""

    def seen(number: int) -> Boxes:
        hidden = {b for _, b in pairs_overlapping(number)}
        return {name: box for name, box in crowd(number).items() if name not in hidden}

    for seed in range(3):
        switches, shares = judged(followed(FakeDetector(seen, noise=0.02, seed=seed), 170))
        assert not switches
        assert np.mean(shares) >= 0.8


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (1, 2))])
def test_false_positives_make_no_track(seed):
    detector = FakeDetector(lambda number: {}, false=0.05, seed=seed)
    assert tracks_in(followed(detector, 3000, detect_every=1)) == set()


@pytest.mark.parametrize("detect_every", [1, None, 5])
def test_box_of_a_still_head_stays_still(detect_every):
    def moves(smooth_s: float) -> float:
        """95th percentile of the centre's movement from frame to frame, as a part of the width."""
        detector = FakeDetector(still, noise=0.02, seed=3)
        path = centres(followed(detector, 1000, detect_every=detect_every, smooth_s=smooth_s))
        assert len(path) == 1000
        return float(np.percentile(np.linalg.norm(np.diff(path, axis=0), axis=1), 95) / still(0)["a"][2])

    assert moves(0.3) < 0.01 < moves(0.0)


def test_smoothing_follows_motion_without_lag():
    def walk(number: int) -> Boxes:
        return {"a": (50 + 4.0 * number, 100.0, 80.0, 100.0)}

    frames = followed(FakeDetector(walk), 100)
    np.testing.assert_allclose(centres(frames)[:, 0], 90 + 4.0 * np.arange(100), atol=1e-6)
    face = frames[50].faces[0]
    np.testing.assert_allclose(face.landmarks, np.array(face.box[:2]) + LANDMARKS * face.box[2:], rtol=1e-5)
    assert face.landmarks.dtype == np.float32 and face.confidence == pytest.approx(0.9)


def test_how_often_the_detector_runs_matters_little():
    """Noise apart, boxes of every frame and of every fifth agree to a twentieth of the width."""
    often, seldom = (followed(FakeDetector(crowd), 300, detect_every=k) for k in (1, 5))
    differences = []
    for a, b in zip(often, seldom, strict=True):
        boxes = {face.track: face.box for face in a.faces}
        differences += [np.abs(np.subtract(boxes[f.track], f.box)).max() / f.box[2] for f in b.faces]
    assert len(differences) >= 0.97 * sum(len(frame.faces) for frame in often)
    assert np.percentile(differences, 99) < 0.05


@pytest.mark.parametrize(("fps", "every"), [(12, 2), (25, 3), (60, 8), (4, 1)])
def test_the_detector_runs_eight_times_a_second(fps, every):
    detector = FakeDetector(still)
    followed(detector, 4 * every + 1, fps)
    assert detector.runs == list(range(0, 4 * every + 1, every))


def gap_in(first: int, stop: int) -> Callable[[int], Boxes]:
    return lambda number: {} if first <= number < stop else still(number)


class NearDetector(FakeDetector):
    """Can look near known faces; counts in `near` how often it does."""

    def __init__(self, scene: Callable[[int], Boxes]) -> None:
        super().__init__(scene)
        self.near: list[int] = []

    def detect_near(self, frame: np.ndarray, boxes: np.ndarray) -> list[Face]:
        faces = FakeDetector(self.scene).detect(frame)
        self.near.append(int(frame[0, 0, 0]) * 256 + int(frame[0, 0, 1]))
        return [face for face in faces if overlap(np.array([face.box]), boxes).max() > 0.3]


def in_and_out(number: int) -> Boxes:
    """b walks in at frame 62 and is away from 150 to 185; both are far apart and move slowly."""
    boxes = {"a": (100 + 0.3 * number, 100.0, 80.0, 100.0)}
    if number >= 62 and not 150 <= number < 185:
        boxes["b"] = (450 - 0.3 * number, 120.0, 40.0, 50.0)
    return boxes


@pytest.mark.parametrize("scene", [still, crowd, in_and_out, lambda number: {}])
def test_looking_near_known_faces_changes_no_track(scene):
    whole, near = FakeDetector(scene), NearDetector(scene)
    frames = followed(near, 240)
    assert [_told(frame) for frame in frames] == [_told(frame) for frame in followed(whole, 240)]
    assert sorted(set(near.runs) | set(near.near)) == [n for n in whole.runs if scene(n) or n in near.runs]
    if scene is not crowd:  # where three faces walk fast
        assert len(near.runs) <= 0.5 * len(whole.runs)
    assert near.near or not scene(0)


def test_no_face_is_looked_for_near_another_at_a_cut_or_in_a_still_picture():
    detector = NearDetector(still)
    list(track_faces([(0.0, frame_of(0)), (0.04, frame_of(1))], detector))
    assert (detector.runs, detector.near) == ([0, 1], [])


def test_a_face_that_moves_by_more_than_its_width_is_looked_for_in_the_whole_picture():
    detector = NearDetector(lambda number: {"a": (3.5 * number, 100.0, 30.0, 40.0)})
    frames = followed(detector, 100)
    assert tracks_in(frames) == {1} and not detector.near


def test_a_short_miss_is_bridged():
    frames = followed(FakeDetector(gap_in(40, 50)), 100, detect_every=2)
    assert all(len(frame.faces) == 1 for frame in frames) and tracks_in(frames) == {1}
    unseen = [frame.index for frame in frames if not frame.faces[0].seen]
    assert unseen == list(range(39, 50))  # runs are at even frames: 38 found it, 40 to 48 missed, 50 found it
    np.testing.assert_allclose([frame.faces[0].box for frame in frames], [still(0)["a"]] * 100)
    once = followed(FakeDetector(gap_in(40, 41)), 100, detect_every=2)
    assert [frame.index for frame in once if not frame.faces[0].seen] == [39, 40, 41]


def test_a_long_miss_is_a_gap_without_boxes_and_the_face_keeps_its_id():
    frames = followed(FakeDetector(gap_in(40, 80)), 150, detect_every=2)
    assert [f.index for f in frames if not f.faces] == list(range(39, 80))
    assert tracks_in(frames) == {1}
    assert all(face.seen for frame in frames for face in frame.faces)
    assert tracks_in(followed(FakeDetector(gap_in(40, 80)), 150, resume_s=1.0)) == {1, 2}  # away for 1.6 s


def test_a_face_elsewhere_after_a_gap_is_another():
    def scene(number: int) -> Boxes:
        return {"a": (200.0 if number < 40 else 400.0, 100.0, 80.0, 100.0)} if not 40 <= number < 60 else {}

    frames = followed(FakeDetector(scene), 100)
    assert {f.track for f in frames[10].faces} == {1} and {f.track for f in frames[90].faces} == {2}


def test_short_and_rare_faces_are_dropped():
    brief = FakeDetector(lambda number: still(number) if 40 <= number < 50 else {})
    assert tracks_in(followed(brief, 100, min_track_s=0.5)) == set()
    brief.scene = lambda number: still(number) if 40 <= number < 60 else {}
    assert tracks_in(followed(brief, 100, min_track_s=0.5)) == {1}
    rare = FakeDetector(lambda number: still(number) if number % 10 == 0 else {})  # never missed for long
    assert tracks_in(followed(rare, 200, detect_every=1)) == set()
    weak = FakeDetector(still)
    assert tracks_in(followed(weak, 50, min_confidence=0.95)) == set()


def scenery(seed: int) -> np.ndarray:
    """A picture of large patches."""
    patches = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), np.uint8)
    return patches.repeat(15, axis=0).repeat(20, axis=1)


def numbered(pictures: list[np.ndarray]) -> list[tuple[float, np.ndarray]]:
    """A stream of these, each with its number as in `frame_of`."""
    return [(i / FPS, np.concatenate([frame_of(i, 90, 4), picture], axis=1)) for i, picture in enumerate(pictures)]


def test_a_shot_change_splits_tracks():
    frames = numbered([scenery(0)] * 50 + [scenery(1)] * 50)
    detector = FakeDetector(still)
    out = list(track_faces(frames, detector))
    assert [frame.shot for frame in out] == [0] * 50 + [1] * 50
    assert [face.track for frame in out for face in frame.faces] == [1] * 50 + [2] * 50
    assert {0, 49, 50, 99} <= set(detector.runs)  # so that faces are followed to the ends of a shot


@pytest.mark.parametrize("length", [1, 3, 5])
def test_a_flash_is_no_shot_change(length):
    white = np.full_like(scenery(0), 255)
    frames = numbered([scenery(0)] * 50 + [white] * length + [scenery(0)] * 50)
    out = list(track_faces(frames, FakeDetector(lambda number: {} if 50 <= number < 50 + length else still(number))))
    assert {frame.shot for frame in out} == {0}
    assert [face.track for frame in out for face in frame.faces] == [1] * (100 + length)


def test_cuts_that_follow_each_other_and_one_at_the_end():
    pictures = [scenery(0)] * 10 + [scenery(1)] * 2 + [scenery(2)] * 20 + [scenery(3)]
    shots = [item.shot for item in iter_shots(numbered(pictures))]
    assert shots == [0] * 10 + [1] * 2 + [2] * 20 + [3]
    noise = np.random.default_rng(0).normal(0, 4, (30, 90, 120, 3))
    grainy = [np.clip(100 + grain, 0, 255).astype(np.uint8) for grain in noise]
    assert {item.shot for item in iter_shots(numbered(grainy))} == {0}


def test_real_videos_have_the_shots_that_they_have(clips):
    def shots(name: str) -> int:
        with open_video(clips / name) as video:
            return [item.shot for item in iter_shots(islice(video.frames(), 200))][-1] + 1

    assert [shots(name) for name in ("single_face.mp4", "no_face.mp4", "d20.mp4")] == [1, 1, 1]
    joined = [(i / FPS, frame) for i, frame in enumerate(chain(_start(clips / "d0.mp4"), _start(clips / "d3.mp4")))]
    assert [item.shot for item in iter_shots(joined)] == [0] * 10 + [1] * 10


def _start(video: Path) -> list[np.ndarray]:
    with open_video(video) as source:
        return [frame for _, frame in islice(source.frames(), 10)]


@pytest.mark.parametrize("num_frames", [0, 1, 2, 5, 26, 100])
def test_every_frame_comes_out_once_and_in_order(num_frames):
    frames = followed(FakeDetector(crowd), num_frames)
    assert [frame.index for frame in frames] == list(range(num_frames))
    assert [frame.time_s for frame in frames] == [i / FPS for i in range(num_frames)]
    assert [frame.frame[0, 0, 1] for frame in frames] == list(range(num_frames))
    assert all(len(frame.faces) == len(crowd(frame.index)) for frame in frames)  # also in the shortest


def test_a_still_picture_yields_every_face():
    faces = {str(i): (70.0 * i, 50.0, 60.0 - i, 60.0 - i) for i in range(9)}
    (frame,) = followed(FakeDetector(lambda number: faces), 1)
    assert [face.track for face in frame.faces] == list(range(1, 10))  # the largest first
    assert [face.box for face in frame.faces] == list(faces.values())


def test_frames_are_delayed_no_longer_than_documented():
    config = TrackConfig()
    taken = 0

    def counted() -> Iterator[tuple[float, np.ndarray]]:
        nonlocal taken
        for item in stream(200):
            taken += 1
            yield item

    for detector, frames in ((FakeDetector(crowd), 3), (NearDetector(crowd), 3 + 0.3 * FPS)):
        taken = 0
        held = [taken - frame.index for frame in track_faces(counted(), detector, config)]
        assert max(held[:150]) <= config.delay_s * FPS + frames + 2  # and one more that is looked ahead at
    assert TrackConfig(min_track_s=0.2, smooth_s=0.2, max_gap_s=0.2).delay_s == pytest.approx(0.4)


def test_settled_frames_are_those_of_the_whole_video():
    """What comes after the delay changes nothing: a stream cut later gives the same frames before."""
    detectors = [FakeDetector(crowd, noise=0.02, miss=0.2, false=0.05, seed=1) for _ in range(2)]
    whole, part = (followed(d, n) for d, n in zip(detectors, (300, 181), strict=True))
    until = 180 - round(TrackConfig().delay_s * FPS)
    assert [_told(frame) for frame in whole[:until]] == [_told(frame) for frame in part[:until]]


def _told(frame: TrackedFrame) -> list[tuple[object, ...]]:
    return [(face.track, face.box, face.confidence, face.seen) for face in frame.faces]


@pytest.mark.slow
def test_memory_does_not_grow():
    def visits(number: int) -> Boxes:  # one new track every 4 s
        return still(number) if number % 100 < 40 else {}

    def peak(num_frames: int) -> int:
        frames = ((i / FPS, frame_of(i, 90, 160)) for i in range(num_frames))
        detector = FakeDetector(visits, noise=0.02, miss=0.1, false=0.05)
        tracemalloc.start()
        last = [frame.faces[0].track for frame in track_faces(frames, detector) if frame.index % 100 == 20]
        size = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert len(set(last)) == num_frames // 100
        return size

    peak(100)  # what is imported or kept once
    assert peak(3000) < 1.1 * peak(300)


def test_times_of_frames_are_respected():
    """Frames of uneven length: a face that moves evenly in time moves unevenly from frame to frame."""
    times = np.cumsum(np.random.default_rng(0).uniform(0.01, 0.12, 120))

    def scene(number: int) -> Boxes:
        return {"a": (50 + 60 * times[number], 100.0, 80.0, 100.0)}

    frames = list(track_faces(((t, frame_of(i)) for i, t in enumerate(times.tolist())), FakeDetector(scene)))
    assert [frame.time_s for frame in frames] == times.tolist()
    np.testing.assert_allclose(centres(frames)[:, 0], 90 + 60 * times, atol=1e-6)


def test_sparse_frames_are_linked():
    """At one frame in two seconds there is no miss between runs, so no gap."""
    frames = followed(FakeDetector(still), 10, fps=0.5)
    assert [len(frame.faces) for frame in frames] == [1] * 10 and tracks_in(frames) == {1}


def test_tracking_is_deterministic():
    runs = [followed(FakeDetector(crowd, noise=0.02, miss=0.1, false=0.05, seed=7), 200) for _ in range(2)]
    assert [_told(frame) for frame in runs[0]] == [_told(frame) for frame in runs[1]]


def test_values_out_of_range_and_times_that_do_not_increase_are_refused():
    with pytest.raises(UserError, match="max_gap_s=-1"):
        TrackConfig(max_gap_s=-1)
    with pytest.raises(UserError, match="detect_every=0"):
        TrackConfig(detect_every=0)
    with pytest.raises(UserError, match="min_overlap=1.5"):
        TrackConfig(min_overlap=1.5)
    with pytest.raises(UserError, match="0.04 s follows one at 0.04 s"):
        list(track_faces([(0.04, frame_of(0)), (0.04, frame_of(1))], FakeDetector(still)))


def test_smoothing_is_a_line_fitted_with_the_weights_of_a_hann_window():
    times, half_s = np.arange(0, 1, 0.04), 0.3
    values = np.sin(7 * times)[:, None] * 50
    for time in (0.0, 0.4, 0.96):
        points = np.linspace(max(time - half_s, 0), min(time + half_s, 0.96), PATH_POINTS)
        weights = np.cos(np.pi * (points - time) / half_s / 2)  # squared by polyfit
        line = np.polyfit(points, np.interp(points, times, values[:, 0]), 1, w=np.abs(weights))
        assert smoothed(times, values, time, half_s)[0] == pytest.approx(np.polyval(line, time), abs=1e-6)


def test_two_detections_are_kept_to_tell_the_motion():
    piece = _Piece()
    for n in range(4):
        piece.add(0.1 * n, n, Face((10.0 + 5 * n, 0.0, 20.0, 20.0), 0.9))
    piece.forget(1.0)
    assert piece.runs == [2, 3]
    np.testing.assert_allclose(piece.next_box(0.4), [30, 0, 20, 20])
