"""Which faces become tracks, and where tracks end: size, the check in a face's own crop, hands, cuts, holes in the recording."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice

import cv2
import numpy as np
import pytest

from svfap.data.video import open_video
from svfap.faces.config import FaceCropConfig, TrackConfig
from svfap.faces.crop import crop_face
from svfap.faces.detect import Face, YuNet
from svfap.faces.shots import iter_shots
from svfap.faces.track import CHECK, Dropped, TrackedFrame, track_faces

FPS = 25.0
Box = tuple[float, float, float, float]


class Scene:
    """Finds the boxes of a scene in a frame that carries its number, and a face in every crop if `in_crops`."""

    name = "scene"

    def __init__(self, boxes: Callable[[int], list[Box]], in_crops: bool = True) -> None:
        self.boxes, self.in_crops = boxes, in_crops

    def detect(self, frame: np.ndarray) -> list[Face]:
        if frame.shape[0] == CHECK.size_px:
            return [Face((70.0, 70.0, 84.0, 84.0), 0.9)] if self.in_crops else [Face((0.0, 0.0, 60.0, 60.0), 0.9)]
        return [Face(box, 0.9) for box in self.boxes(int(frame[0, 0, 0]))]


def stream(times_s: list[float]) -> Iterator[tuple[float, np.ndarray]]:
    for number, time_s in enumerate(times_s):
        yield time_s, np.full((4, 4, 3), 0, np.uint8) + np.array([number, 0, 0], np.uint8)


def followed(scene: Scene, times_s: list[float] | int, **settings: float) -> tuple[list[TrackedFrame], Dropped]:
    dropped = Dropped()
    times_s = [i / FPS for i in range(times_s)] if isinstance(times_s, int) else times_s
    config = TrackConfig(**{"detect_every": 1, "smooth_s": 0, "shot_threshold": 1e6, **settings})  # type: ignore[arg-type]
    return list(track_faces(stream(times_s), scene, config, FPS, dropped)), dropped


def tracks_of(frames: list[TrackedFrame]) -> list[list[int]]:
    return [[face.track for face in frame.faces] for frame in frames]


# size and quality ----------------------------------------------------------------------------------------------------


def test_small_faces_are_dropped_and_counted():
    frames, dropped = followed(Scene(lambda _: [(10, 10, 31, 24), (100, 10, 26, 32), (200, 10, 12, 12)]), 50)
    assert {track for tracks in tracks_of(frames) for track in tracks} == {1}
    assert frames[20].faces[0].box == pytest.approx((100, 10, 26, 32))
    assert dropped == Dropped(small=2)
    assert dropped.note(32) == "dropped 2 faces smaller than 32 px (min_face_px)"
    frames, dropped = followed(Scene(lambda _: [(200, 10, 12, 12)]), 50, min_face_px=12)
    assert tracks_of(frames) == [[1]] * 50 and dropped == Dropped() and dropped.note(12) == ""


def test_a_face_that_is_found_again_every_second_time_is_one():
    class Sometimes(Scene):
        def detect(self, frame: np.ndarray) -> list[Face]:
            faces = super().detect(frame)
            if frame.shape[0] == CHECK.size_px:
                self.in_crops = not self.in_crops
            return faces

    frames, dropped = followed(Sometimes(lambda _: [(50, 50, 60, 60)], in_crops=False), 50)
    assert tracks_of(frames) == [[1]] * 50 and dropped == Dropped()


def test_a_face_that_comes_nearer_is_followed_from_its_least_size_on_and_one_that_goes_has_a_gap():
    def walk(number: int) -> list[Box]:
        side = 12.0 + 0.4 * (number if number < 100 else 200 - number)  # 32 px at 50 and at 150, 24 px at 170
        return [(50, 50, side, side)]

    frames, dropped = followed(Scene(walk), 200)
    with_face = [frame.index for frame in frames if frame.faces]
    assert 30 <= with_face[0] <= 54 and with_face[-1] == 170  # frames within the delay get the face too
    assert with_face == list(range(with_face[0], with_face[-1] + 1)) and dropped == Dropped()


def test_a_track_needs_faces_that_are_found_again_in_their_crops():
    frames, dropped = followed(Scene(lambda _: [(50, 50, 60, 60)], in_crops=False), 50)
    assert not any(frame.faces for frame in frames) and dropped == Dropped(not_again=1)
    assert dropped.note(32) == "dropped 1 face that the detector does not find again in their crops"
    alone, dropped = followed(Scene(lambda _: [(50, 50, 60, 60)], in_crops=False), 1)  # a picture
    assert not alone[0].faces and dropped == Dropped(not_again=1)


def test_a_covered_face_in_a_real_video_is_no_track(clips):
    """YuNet takes the shape of a head for a face in some frames, and finds nothing in their crops."""
    detector = YuNet(clips.parent / "models" / "yunet_n_640_640.onnx", min_confidence=0.6)
    with open_video(clips / "d18.mp4") as video:
        frame = next(video.frames())[1]
    x, y, w, h = detector.detect(frame)[0].box
    covered = frame.copy()
    skin = frame[int(y + 0.55 * h) : int(y + 0.7 * h), int(x + 0.1 * w) : int(x + 0.3 * w)].mean(axis=(0, 1))
    cv2.ellipse(covered, (int(x + w / 2), int(y + h / 2)), (int(0.52 * w), int(0.56 * h)), 0, 0, 360, skin.tolist(), -1)
    for picture, number in ((frame, 1), (covered, 0)):
        tracked = list(track_faces([(i / FPS, picture) for i in range(20)], detector))
        assert [len(item.faces) for item in tracked] == [number] * 20


# gaps ----------------------------------------------------------------------------------------------------------------


def missing(first: int, number: int) -> Scene:
    return Scene(lambda i: [] if first <= i < first + number else [(50, 50, 60, 60)])


@pytest.mark.parametrize(("number", "is_gap"), [(11, False), (12, True), (24, True)])
def test_the_longest_time_that_is_interpolated_is_half_a_second(number, is_gap):
    """From the last detection to the next it is one frame more than the number missed: 12 frames are 0.48 s."""
    frames, _ = followed(missing(40, number), 100)
    expected = [[]] * number if is_gap else [[1]] * number
    assert tracks_of(frames) == [[1]] * 40 + expected + [[1]] * (60 - number)
    doubled, _ = followed(missing(40, number), 100, max_gap_s=1.0)
    assert tracks_of(doubled) == ([[1]] * 100 if number < 25 else tracks_of(frames))


@pytest.mark.parametrize("swapped", [False, True])
def test_each_of_two_faces_keeps_its_own_number_after_a_gap(swapped):
    left, right = (50.0, 50.0, 60.0, 60.0), (200.0, 50.0, 60.0, 60.0)

    def scene(number: int) -> list[Box]:
        if number < 40:
            return [left, right]
        if number < 65:
            return []
        back = [right, left] if swapped else [left, right]
        return back if number >= 80 else back[:1]  # one of them is back a little earlier

    frames, _ = followed(Scene(scene), 120)
    first = 2 if swapped else 1
    assert [face.track for face in frames[70].faces] == [first]
    for frame in (frames[10], frames[110]):
        assert [(face.track, round(face.box[0])) for face in frame.faces] == [(1, 50), (2, 200)]


def test_a_hole_in_the_recording_is_a_gap():
    """The recorder paused between frames 49 and 50: nothing is interpolated or smoothed over it, however near the face is."""

    def moving(number: int) -> list[Box]:
        return [(50.0 + number, 50, 60, 60)]

    def at(pause_s: float) -> list[float]:
        return [i / FPS + (i >= 50) * pause_s for i in range(100)]

    for pause_s, second in ((0.4, 1), (1.0, 1), (60.0, 2)):  # more than 2 s away: another number
        frames, _ = followed(Scene(moving), at(pause_s), smooth_s=0.3, detect_every=8)
        assert tracks_of(frames) == [[1]] * 50 + [[second]] * 50
        boxes = np.array([frame.faces[0].box[0] for frame in frames])
        # With a short pause, the face appears to rest in it; without smoothing over a hole, it moves evenly on both sides.
        assert (np.abs(boxes - (50 + np.arange(100))) < 1e-6).all() == (pause_s > 0.5)
    slow, _ = followed(Scene(lambda _: [(50, 50, 60, 60)]), [2.0 * i for i in range(20)])
    assert len({face.track for frame in slow for face in frame.faces}) != 1  # as 25 frames a second are expected
    frames = list(track_faces(stream([2.0 * i for i in range(20)]), Scene(lambda _: [(50, 50, 60, 60)]), fps=0.5))
    assert tracks_of(frames) == [[1]] * 20


# shots ---------------------------------------------------------------------------------------------------------------


def scenery(seed: int, height: int = 90, width: int = 120) -> np.ndarray:
    patches = np.random.default_rng(seed).integers(20, 256, (6, 8, 3), np.uint8)
    return cv2.resize(patches, (width, height), interpolation=cv2.INTER_NEAREST)


def num_shots(pictures: list[np.ndarray]) -> int:
    return [item.shot for item in iter_shots((i / FPS, picture) for i, picture in enumerate(pictures))][-1] + 1


@pytest.mark.parametrize(("part", "shots"), [(0.4, 1), (0.6, 1), (0.9, 3)])
def test_what_covers_less_than_two_thirds_of_the_picture_is_no_cut(part, shots):
    """It comes and goes within one frame, as a hand does, and stays for a second."""
    free, covered = scenery(0), scenery(0)
    covered[:, : round(part * covered.shape[1])] = (255, 240, 230) if part < 0.9 else scenery(3)[:, : round(part * 120)]
    assert num_shots([free] * 20 + [covered] * 25 + [free] * 20) == shots


def test_black_bars_hide_no_cut():
    def film(bars: Callable[[np.ndarray], np.ndarray]) -> list[np.ndarray]:
        return [bars(scenery(1))] * 20 + [bars(scenery(2))] * 20

    assert num_shots(film(lambda picture: picture)) == 2
    assert num_shots(film(lambda picture: np.pad(picture, ((0, 0), (110, 110), (0, 0))))) == 2  # a phone held upright
    assert num_shots(film(lambda picture: np.pad(picture, ((20, 20), (0, 0), (0, 0))))) == 2  # wide screen


def test_a_hand_over_a_real_face_leaves_one_track(clips):
    """A second of a hand that comes and goes within 0.1 s; the clips are those in which this was taken for a cut."""
    detector = YuNet(clips.parent / "models" / "yunet_n_640_640.onnx")
    for name in ("d18.mp4", "d20.mp4"):
        with open_video(clips / name) as video:
            frames = list(islice(video.frames(), 100))
        x, y, w, h = detector.detect(frames[0][1])[0].box
        filmed = []
        for time_s, frame in frames:
            near = min((time_s - 1) / 0.1, 1, (2.2 - time_s) / 0.1)  # 0: beside the face, 1: in front of it
            filmed.append((time_s, _with_hand(frame, x + w / 2 + (1 - near) * 2.2 * w, y, w, h) if near > 0 else frame))
        tracked = list(track_faces(filmed, detector, fps=25))
        assert {face.track for frame in tracked for face in frame.faces} == {1}, name
        assert {frame.shot for frame in tracked} == {0}
        assert [bool(frame.faces) for frame in tracked if 1.4 < frame.time_s < 1.8] == [False] * sum(
            1.4 < t < 1.8 for t, _ in frames
        )


def _with_hand(frame: np.ndarray, centre: float, y: float, w: float, h: float) -> np.ndarray:
    picture, skin = frame.copy(), (205, 150, 120)
    cv2.ellipse(picture, (int(centre), int(y + 0.7 * h)), (int(0.6 * w), int(0.55 * h)), 0, 0, 360, skin, -1)
    for k in range(4):
        left = int(centre - 0.45 * w + 0.3 * w * k)
        cv2.line(picture, (left, int(y + h / 2)), (left, int(y - 0.4 * h)), skin, int(0.22 * w))
    return picture


# crops ---------------------------------------------------------------------------------------------------------------


def test_beyond_the_edge_a_crop_is_grey_unless_asked_otherwise():
    frame = np.dstack([np.tile(np.arange(0, 240, 6, dtype=np.uint8), (40, 1))] * 3)
    box = (0.0, 0.0, 40.0, 40.0)
    crops = {
        border: crop_face(frame, box, FaceCropConfig(80, margin=0.5, border=border))
        for border in ("grey", "replicate", "reflect")
    }
    np.testing.assert_array_equal(crops["grey"], crop_face(frame, box, FaceCropConfig(80, margin=0.5)))
    for crop in crops.values():
        np.testing.assert_array_equal(crop[20:60, 20:60], frame)
    assert (crops["grey"][:19] == 128).all() and (crops["grey"][20:60, 61:] == 128).all()
    np.testing.assert_array_equal(crops["replicate"][20:60, 60:], np.full((40, 20, 3), 234))
    np.testing.assert_array_equal(crops["reflect"][20:60, 60:78, 0], np.tile(np.arange(228, 120, -6), (40, 1)))
