"""Videos that are cut short or damaged inside."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest
from flat_videos import B_FRAMES, NUM, encode, flat, numbers_of

from svfap.data.ffmpeg import packets_of
from svfap.data.video import VideoError, open_video


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("damaged")


def test_video_cut_short_is_as_long_as_what_is_there(folder: Path) -> None:
    rng = np.random.default_rng(0)
    pictures = [np.clip(flat(i) + rng.integers(-6, 7, (32, 48, 3)), 0, 255).astype(np.uint8) for i in range(NUM)]
    whole = encode(folder / "whole.mkv", pictures, **B_FRAMES).read_bytes()
    for keep in np.linspace(0.3, 0.9, 20):
        path = folder / "cut.mkv"
        path.write_bytes(whole[: int(len(whole) * keep)])
        with open_video(path) as source:
            assert 0.15 * NUM < source.num_frames < NUM
            assert numbers_of(source.read(range(source.num_frames))) == list(range(source.num_frames))
            assert len(list(source.frames())) == source.num_frames


def test_mp4_with_its_index_in_front_cut_short(folder: Path) -> None:
    rng = np.random.default_rng(0)
    pictures = [np.clip(flat(i) + rng.integers(-6, 7, (32, 48, 3)), 0, 255).astype(np.uint8) for i in range(NUM)]
    path = folder / "front.mp4"
    with av.open(str(path), "w", options={"movflags": "+faststart"}) as container:
        stream = container.add_stream("libx264", rate=30, options=B_FRAMES)
        stream.height, stream.width, stream.pix_fmt, stream.gop_size = 32, 48, "yuv420p", 12
        for picture in pictures:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))
    whole = path.read_bytes()
    lengths = []
    for keep in np.linspace(0.4, 0.98, 40):  # between a picture and the one shown before it, and inside of them
        path.write_bytes(whole[: int(len(whole) * keep)])
        with open_video(path) as source:
            lengths.append(source.num_frames)
            assert source.fps == pytest.approx(30)
            assert numbers_of(source.read(range(source.num_frames))) == list(range(source.num_frames))
            assert len(list(source.frames())) == source.num_frames
    assert lengths == sorted(lengths)
    assert 8 < lengths[0] < lengths[-1] < NUM


def test_tail_that_does_not_decode_is_not_invented(folder: Path) -> None:
    path = encode(folder / "tail.mp4", [flat(i) for i in range(NUM)], bf="0", gop=NUM)
    with av.open(str(path)) as container:
        packets = [(packet.pos, packet.size) for packet in container.demux(video=0) if packet.size]
    data = bytearray(path.read_bytes())
    for position, size in packets[40:]:
        assert position is not None
        data[position + 4 : position + size] = b"\xff" * (size - 4)
    path.write_bytes(data)
    with open_video(path) as source:
        assert numbers_of(source.read([0, 20, 39])) == [0, 20, 39]
        with pytest.raises(VideoError, match=r"tail\.mp4: damaged: picture 4\d of 48 cannot be decoded"):
            source.read([0, 47])
        streamed = []
        with pytest.raises(VideoError, match=r"tail\.mp4: damaged: picture 41 of 48 cannot be decoded"):
            for _, frame in source.frames():
                streamed.append(frame)
        assert numbers_of(np.stack(streamed)) == list(range(len(streamed)))


def test_video_of_which_nothing_decodes(folder: Path) -> None:
    path = encode(folder / "garbage.mp4", [flat(i) for i in range(12)], bf="0")
    with av.open(str(path)) as container:
        packets = [(packet.pos, packet.size) for packet in container.demux(video=0) if packet.size]
    data = bytearray(path.read_bytes())
    for position, size in packets:
        assert position is not None
        data[position + 4 : position + size] = b"\xff" * (size - 4)
    path.write_bytes(data)
    with open_video(path) as source:
        for number in (0, 7):
            with pytest.raises(VideoError, match=r"garbage\.mp4: damaged"):
                source.read([number])
            with pytest.raises(VideoError, match=r"garbage\.mp4: damaged"):
                next(source.frames(number))
        with pytest.raises(VideoError, match=r"garbage\.mp4: damaged"):
            _ = source.height


def test_picture_lost_in_mid_file_is_the_one_before(folder: Path) -> None:
    path = encode(folder / "hole.mp4", [flat(i) for i in range(NUM)], bf="0")
    with av.open(str(path)) as container:
        position, size = next((p.pos, p.size) for p in container.demux(video=0) if p.pts == 20 * 512)
    data = bytearray(path.read_bytes())
    assert position is not None
    data[position + 4 : position + size] = b"\xff" * (size - 4)
    path.write_bytes(data)
    with open_video(path) as source:
        assert numbers_of(source.read([20, 19, 18, 24])) == [19, 19, 18, 24]
        assert numbers_of(np.stack([frame for _, frame in source.frames()])) == [n - (n == 20) for n in range(NUM)]


def test_a_stream_that_a_damaged_file_announces_midway_ends_nothing():
    """PyAV stops there with an IndexError; the packets behind it are still read."""

    class Announcing:
        parts = iter([[1, 2], [3], []])

        def demux(self, stream):
            part = next(self.parts)
            yield from part
            if part:
                raise IndexError("list index out of range")

    assert list(packets_of(Announcing(), None)) == [1, 2, 3]
