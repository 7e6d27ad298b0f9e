from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from flat_videos import flat, grey, numbers_of

from svfap.data.video import VideoError, open_video, write_video


def test_writing_keeps_rate_count_and_keyframes(tmp_path: Path) -> None:
    path = tmp_path / "out.mp4"
    write_video(path, (flat(i) for i in range(30)), 30000 / 1001, gop=5)
    with open_video(path) as source:
        assert source.fps == pytest.approx(30000 / 1001)
        assert numbers_of(source.read(range(30))) == list(range(30))
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
        packets = [packet for packet in container.demux(stream) if packet.size]
        keyframes = [packet.pts // packet.duration for packet in packets if packet.is_keyframe]
    assert np.diff([*keyframes, 30]).max() <= 5
    assert [file.name for file in tmp_path.iterdir()] == ["out.mp4"]


@pytest.mark.parametrize("size", [(1, 1), (5, 7), (30, 4001)])
def test_odd_sizes_grow_by_their_last_row_and_column(tmp_path: Path, size: tuple[int, int]) -> None:
    write_video(tmp_path / "odd.mp4", [flat(20, *size)] * 3, 25)
    with open_video(tmp_path / "odd.mp4") as source:
        frame = source.read([1])[0]
    assert frame.shape == (size[0] + size[0] % 2, size[1] + size[1] % 2, 3)
    assert np.abs(frame.astype(int) - grey(20)).max() < 5  # coarse conversions are off by 2; black would be by 100


def test_equal_pictures_give_equal_files(tmp_path: Path) -> None:
    """Whatever the memory holds that the encoder gets; x264 looks into it unless it is told not to."""
    rng = np.random.default_rng(0)
    blocks = rng.integers(60, 120, (12, 20, 3)).astype(np.uint8).repeat(8, 0).repeat(8, 1)
    moves = [np.array([[2, 0, -0.6 * number], [0, 2, -20.0]]) for number in range(40)]
    written = set()
    used: list[np.ndarray] = []
    for _ in range(25):
        write_video(tmp_path / "out.mp4", (cv2.warpAffine(blocks, move, (64, 64)) for move in moves), 25)
        written.add((tmp_path / "out.mp4").read_bytes())
        used = [rng.integers(0, 255, size).astype(np.uint8) for size in rng.integers(1, 300_000, 20)]
    assert used
    assert len(written) == 1


def test_writing_is_all_or_nothing(tmp_path: Path) -> None:
    path = tmp_path / "out.mp4"
    path.write_bytes(b"what was there")

    def failing() -> Iterator[np.ndarray]:
        yield flat(0)
        raise RuntimeError("the source broke")

    with pytest.raises(RuntimeError, match="the source broke"):
        write_video(path, failing(), 25)
    with pytest.raises(ValueError, match="no frames"):
        write_video(path, [], 25)
    with pytest.raises(ValueError, match="frames must be uint8"):
        write_video(path, [flat(0), flat(0, 16, 16)], 25)
    assert path.read_bytes() == b"what was there"
    assert [file.name for file in tmp_path.iterdir()] == ["out.mp4"]
    with pytest.raises(VideoError, match="cannot be written"):
        write_video(tmp_path / "absent" / "out.mp4", [flat(0)], 25)
