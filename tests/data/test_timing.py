from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from svfap.data import container
from svfap.data.timing import frame_grid, repaired, steady, usual_rate

NAN = float("nan")


def stamps(*numbers: float) -> np.ndarray:
    return np.array(numbers, np.float64)


def test_a_constant_rate_shows_each_picture_once() -> None:
    for times in (
        np.arange(500) / 25,
        np.round(np.arange(500) / 25, 2),
        np.arange(500) / 25 + 0.009 * (-1.0) ** np.arange(500),
    ):
        grid = frame_grid(times - times[0], 25)
        assert grid.picture_of.tolist() == list(range(500))
        assert (grid.fps, grid.num_frames, grid.stretches) == (25, 500, [(0, 500)])
        np.testing.assert_allclose(grid.times_s, np.arange(500) / 25)


def test_a_variable_rate_repeats_and_leaves_out_pictures() -> None:
    times = np.cumsum([0, *[1 / 30] * 5, *[1 / 10] * 3, *[1 / 60] * 4])
    grid = frame_grid(times, 30)
    assert grid.picture_of.tolist() == [0, 1, 2, 3, 4, 5, 5, 5, 6, 6, 6, 7, 7, 7, 8, 10, 12]
    np.testing.assert_allclose(grid.times_s, np.arange(17) / 30)


@pytest.mark.parametrize("fps", [10.0, 12.5, 20.0, 48.0, 1.0, 100.0])
def test_another_rate_shows_the_latest_picture(fps: float) -> None:
    grid = frame_grid(np.arange(100) / 25, 25, fps)
    assert grid.fps == fps
    assert grid.num_frames == round(4 * fps)
    assert grid.picture_of.tolist() == [int(number * 25 / fps + 1e-6) for number in range(grid.num_frames)]
    np.testing.assert_allclose(grid.times_s, np.arange(grid.num_frames) / fps)


@pytest.mark.parametrize("fps", [24.0, 25.0, 26.2])
def test_a_rate_close_to_the_videos_own_means_its_own(fps: float) -> None:
    grid = frame_grid(np.arange(100) / 25, 25, fps)
    assert (grid.fps, grid.picture_of.tolist()) == (25, list(range(100)))


def test_a_rate_that_is_not_close_resamples() -> None:
    assert frame_grid(np.arange(100) / 25, 25, 23.7).num_frames == 95
    assert frame_grid(np.arange(100) / 25, 25, 26.3).num_frames == 106


def test_no_frames_in_a_hole() -> None:
    times = np.concatenate([np.arange(72) / 30, 62.4 + np.arange(50) / 30])
    for fps, first, second in ((None, 72, 50), (10.0, 24, 17)):
        grid = frame_grid(times, 30, fps)
        assert grid.stretches == [(0, first), (first, first + second)]
        np.testing.assert_allclose(grid.times_s[:first], np.arange(first) / grid.fps)
        np.testing.assert_allclose(grid.times_s[first:], 62.4 + np.arange(second) / grid.fps)
        assert grid.picture_of[first] == 72
    assert grid.between(None, None) == (0, 41)
    assert grid.between(2.0, 62.55) == (20, 26)
    assert grid.between(2.4, 62.4) == (24, 24)  # the hole alone
    assert grid.parts(20, 26) == [(20, 24), (24, 26)]
    assert grid.parts(0, 24) == [(0, 24)]


@pytest.mark.parametrize(("pause_s", "num_stretches"), [(0.45, 1), (0.5, 1), (0.52, 2)])
def test_what_the_tracker_bridges_is_no_hole(pause_s: float, num_stretches: int) -> None:
    times = np.concatenate([np.arange(10) / 30, 9 / 30 + pause_s + np.arange(10) / 30])
    assert len(frame_grid(times, 30).stretches) == num_stretches
    assert len(frame_grid(times, 30, max_hole_s=1.0).stretches) == 1


def test_a_slow_video_has_no_holes() -> None:
    assert len(frame_grid(np.arange(20.0), 1).stretches) == 1
    assert len(frame_grid(np.append(np.arange(20.0), 21.0), 1).stretches) == 2  # a picture is missing


def test_one_picture() -> None:
    grid = frame_grid([0.0], 25)
    assert (grid.picture_of.tolist(), grid.times_s.tolist(), grid.stretches) == ([0], [0.0], [(0, 1)])
    assert frame_grid([0.0], 25, 100).picture_of.tolist() == [0] * 4


@pytest.mark.parametrize("fps", [10.0, 60.0])
def test_live_sources_run_on_the_same_clock(fps: float) -> None:
    rng = np.random.default_rng(0)
    times = np.cumsum([0, *rng.choice([1 / 30, 1 / 30, 1 / 30, 0.1, 1.2], 300)])
    grid = frame_grid(times, 30, fps)
    assert len(grid.stretches) > 20
    shown_s, shown = zip(*steady(zip(times, range(301), strict=True), 30, fps), strict=True)
    np.testing.assert_allclose(shown_s, grid.times_s)
    np.testing.assert_array_equal(shown, grid.picture_of)
    assert list(steady(iter(()), 30, fps)) == []


@pytest.mark.parametrize("rate", [25.0, 30.0, 30000 / 1001, 24000 / 1001, 12.5])
@pytest.mark.parametrize("tick_s", [0.001, 1 / 90_000, 0.01])
def test_usual_rate_is_the_stated_one_within_the_rounding(rate: float, tick_s: float) -> None:
    for num in (2, 40, 3000):
        times = np.round(np.arange(num) / rate / tick_s) * tick_s
        assert usual_rate(times, tick_s, [15.0, rate]) == rate
        if num == 3000:
            assert usual_rate(times, tick_s, []) == pytest.approx(rate, rel=1e-3)
            assert usual_rate(times, tick_s, [rate * 1.01]) == pytest.approx(rate, rel=1e-3)


def test_usual_rate_is_not_the_average() -> None:
    times = np.concatenate([np.arange(72) / 30, 62.4 + np.arange(72) / 30])
    assert usual_rate(np.round(times, 3), 0.001, [144 / 64.8, 30]) == 30
    assert usual_rate(np.round(times, 3), 0.001, [144 / 64.8]) == pytest.approx(30, rel=1e-3)
    assert usual_rate(stamps(0), 0.001, [25]) == 0


JOINED = {(10, 11, 12, 3, 4, 5): [3], (0, 2, 4, 6, 0, 1, 2, 3, 4): [4], (0, 1, 0, 1, 0, 1): [2, 4]}


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ((5, 6, 7, 8), (0, 1, 2, 3)),
        ((0, 1, NAN, 3), (0, 1, 2, 3)),  # missing
        ((NAN, 1, 2, NAN, NAN), (0, 1, 2, 3, 4)),
        ((0, 1, 1, 3), (0, 1, 2, 3)),  # repeated
        ((0, 1, 1, 1, 4), (0, 1, 2, 3, 4)),
        ((0, 1, 2, 2), (0, 1, 2, 3)),
        ((0, 3, 3, 9, 12), (0, 3, 6, 9, 12)),
        ((0, 1, 0.5, 3, 4), (0, 1, 2, 3, 4)),  # one too early
        ((0, 1, 50, 3, 4, 5), (0, 1, 2, 3, 4, 5)),  # one too late
        ((10, 11, 12, 3, 4, 5), (0, 1, 2, 3, 4, 5)),  # joined
        ((0, 2, 4, 6, 0, 1, 2, 3, 4), (0, 2, 4, 6, 8, 9, 10, 11, 12)),  # another rate follows
        ((0, 1, 0, 1, 0, 1), (0, 1, 2, 3, 4, 5)),
    ],
)
def test_time_stamps_are_repaired(given: tuple[float, ...], expected: tuple[float, ...]) -> None:
    # In tenths of a second, as a second between two pictures would be a hole.
    times, joints = repaired(stamps(*given) / 10)
    np.testing.assert_allclose(times, stamps(*expected) / 10, atol=1e-9)
    assert joints == JOINED.get(given, [])


def test_the_clock_starts_anew_at_a_joint() -> None:
    times, joints = repaired(np.concatenate([np.arange(75) / 25, np.arange(90) / 30]))
    assert (joints, times[75], times[-1]) == ([75], pytest.approx(3), pytest.approx(179 / 30))
    grid = frame_grid(times, 30, joints=joints)
    assert grid.stretches == [(0, 90), (90, 180)]
    np.testing.assert_allclose(grid.times_s, np.arange(180) / 30)
    assert (grid.picture_of[89], grid.picture_of[90]) == (74, 75)
    assert [grid.parted(a, b) for a, b in ((2.9, 2.96), (2.96, 3.0), (3.0, 3.1), (0, 0), (1.0, 5.0))] == [
        False,
        True,
        False,
        False,
        True,
    ]


def test_a_repeated_stamp_before_a_hole_does_not_move_into_it() -> None:
    given = stamps(0, 0.1, 0.2, 0.2, 60, 60.1)
    np.testing.assert_allclose(repaired(given)[0], [0, 0.1, 0.2, 0.3, 60, 60.1])


def test_pictures_without_time_stamps_are_counted() -> None:
    np.testing.assert_allclose(repaired(np.full(5, NAN), 1 / 30)[0], np.arange(5) / 30)


def test_repaired_times_ascend_whatever_the_stamps() -> None:
    rng = np.random.default_rng(0)
    for _ in range(300):
        given = np.cumsum(rng.choice([0, 0.04, 0.04, 0.04, -0.04, -3, 5], 60))
        given[rng.random(60) < rng.choice([0, 0.1, 0.5])] = NAN
        times, _ = repaired(given)
        assert times[0] == 0 and (np.diff(times) > 0).all()


def test_as_many_timetables_are_kept_as_have_room(monkeypatch):
    monkeypatch.setattr(container, "_TABLES", {})
    monkeypatch.setattr(container, "MOST_FILES", 3)
    monkeypatch.setattr(container, "MOST_PICTURES", 100)
    made = []

    def use(name: str, num_pictures: int = 10) -> None:
        container._remembered((name, 0, 0), lambda: made.append(name) or SimpleNamespace(times_s=range(num_pictures)))

    for name in "abcabc":
        use(name)
    assert made == list("abc")
    use("d")  # a is the one not used for longest
    for name in "bcd":
        use(name)
    assert made == list("abcd")
    use("long", 90)  # with d as many as are allowed
    for name in ("d", "long", "c"):
        use(name)
    assert made == [*"abcd", "long", "c"]
    use("huge", 500)  # the last one is kept in any case, alone if need be
    assert [name for name, *_ in container._TABLES] == ["huge"]
