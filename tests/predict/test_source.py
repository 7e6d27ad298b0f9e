"""Live sources: the stream that is read, and its pictures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from odd_videos import VIDEOS, encode

from svfap.data.video import open_video
from svfap.predict.source import LiveSource, open_source


def live(path: Path) -> LiveSource:
    """A file as a live source, which is read once from its start."""
    source = open_source(f"file://{path}")
    assert isinstance(source, LiveSource)
    return source


@pytest.mark.parametrize("name", ["b_frames.mp4", "two_streams.mkv", "sar.mp4", "changing_size.webm", "edited.mov"])
def test_a_live_source_gives_the_pictures_of_the_file(tmp_path: Path, name: str) -> None:
    path = VIDEOS[name][0](tmp_path / name)
    with open_video(path) as source, live(path) as stream:
        times, pictures = zip(*source.frames(), strict=True)
        streamed_s, streamed = zip(*stream.steady_frames(), strict=True)
        assert stream.fps == source.fps
    np.testing.assert_allclose(streamed_s, times, atol=1e-6)
    np.testing.assert_array_equal(np.stack(streamed), np.stack(pictures))


@pytest.mark.parametrize("fps", [10.0, 29.0, 50.0])
def test_a_live_source_at_another_rate(tmp_path: Path, fps: float) -> None:
    path = encode(tmp_path / "pause.mp4", "libx264", ticks=[*range(18), *range(60, 78)])
    with open_video(path) as source, live(path) as stream:
        times, pictures = zip(*source.steady_frames(fps), strict=True)
        streamed_s, streamed = zip(*stream.steady_frames(fps), strict=True)
        assert len(source.grid(fps).stretches) == 2
    np.testing.assert_allclose(streamed_s, times, atol=0.001)
    np.testing.assert_array_equal(np.stack(streamed), np.stack(pictures))
