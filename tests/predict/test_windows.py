"""Sliding windows: which frames they have."""

from __future__ import annotations

import numpy as np

from svfap.predict.windows import iter_windows, whole_pictures


def frame_numbers(num_frames: int, clip_length: int, stride: int, hop: int) -> list[list[int]]:
    stream = ((number / 25, np.zeros((2, 2, 3), np.uint8)) for number in range(num_frames))
    windows = iter_windows(whole_pictures(stream), clip_length, stride, hop, lambda frame, face: frame)
    return [window.indices.tolist() for window in windows]


def test_windows_cover_the_video_and_end_at_its_last_frame() -> None:
    windows = frame_numbers(50, 4, 3, 6)
    assert windows[0] == [0, 3, 6, 9]
    assert windows[-1] == [40, 43, 46, 49]
    assert [window[0] for window in windows] == [0, 6, 12, 18, 24, 30, 36, 40]
    assert frame_numbers(10, 4, 3, 6) == [[0, 3, 6, 9]]


def test_window_of_a_short_video_is_padded_with_the_last_frame() -> None:
    assert frame_numbers(5, 4, 3, 6) == [[0, 3, 4, 4]]
    assert frame_numbers(1, 4, 3, 6) == [[0, 0, 0, 0]]


def test_no_window_spans_a_hole_in_the_times() -> None:
    """24 frames, a pause of a minute, 12 frames: none of the windows has frames of both parts."""
    times = [*np.arange(24) / 25, *(60 + np.arange(12) / 25)]
    stream = ((time_s, np.zeros((2, 2, 3), np.uint8)) for time_s in times)
    windows = list(iter_windows(whole_pictures(stream), 4, 4, 8, lambda frame, face: frame, lambda a, b: b - a > 1))
    assert [(window.start_s, round(window.end_s, 6)) for window in windows] == [
        (0.0, 0.52),
        (0.32, 0.84),
        (0.44, 0.96),
        (60.0, 60.48),
    ]
