from __future__ import annotations

import pickle
import struct
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import av
import cv2
import numpy as np
import pytest
from flat_videos import NUM, encode, flat, numbers_of

from svfap.data.container import decoded_frames
from svfap.data.video import VideoError, open_video, upright, write_video


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("videos")


@pytest.fixture(scope="module")
def video(folder: Path) -> Path:
    return encode(folder / "b_frames.mp4", [flat(i) for i in range(NUM)], bf="3")


def test_any_frames_in_any_order_with_repeats(video: Path) -> None:
    with open_video(video) as source:
        assert (source.num_frames, source.fps, source.width, source.height) == (NUM, 30.0, 48, 32)
        assert source.duration_s == pytest.approx(1.6)
        wanted = [47, 0, 13, 13, 12, 46, 1, 24, 11]
        assert numbers_of(source.read(wanted)) == wanted
        assert numbers_of(source.read(range(NUM))) == list(range(NUM))
        assert source.read([3]).dtype == np.uint8
        for outside in ([NUM], [-1], []):
            with pytest.raises(IndexError):
                source.read(outside)


def test_streaming_gives_every_frame_with_its_time_also_after_reading(video: Path) -> None:
    with open_video(video) as source:
        source.read([30])
        times, frames = zip(*source.frames(), strict=True)
    assert numbers_of(np.stack(frames)) == list(range(NUM))
    assert times == pytest.approx(np.arange(NUM) / 30)


def test_reading_skips_only_what_is_not_needed(folder: Path) -> None:
    """Frames read alone are to the bit those of a whole decode, with references to and fro."""
    rng = np.random.default_rng(0)
    noise = [cv2.resize(rng.integers(0, 256, (9, 12, 3), np.uint8), (64, 48)) for _ in range(40)]
    moving = [np.roll(noise[i // 10], 3 * i, axis=1) for i in range(40)]
    path = encode(folder / "moving.mp4", moving, gop=20, bf="4", **{"b-pyramid": "normal"})
    with av.open(str(path)) as container:
        whole = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    for number in range(40):
        with open_video(path) as source:
            assert np.array_equal(source.read([number])[0], whole[number]), number


@pytest.mark.parametrize(
    ("name", "codec", "options"),
    [
        ("times_in_ms.mkv", "libx264", {"bf": "2"}),
        ("start_not_at_zero.ts", "libx264", {"bf": "2"}),
        ("order_alone.avi", "libx264", {"bf": "2"}),
        ("no_reordering.avi", "mpeg4", {"b": "4M"}),
        ("no_times.h264", "libx264", {"bf": "2"}),
        ("flash.flv", "flv", {"b": "4M"}),
        ("program_stream.mpg", "mpeg1video", {"bf": "2", "b": "4M"}),
        ("all_keyframes.mov", "mjpeg", {"pix_fmt": "yuvj420p"}),
        ("hidden_frames.webm", "libvpx", {"auto-alt-ref": "1", "lag-in-frames": "10", "b": "4M"}),
    ],
)
def test_containers_agree_on_frames(folder: Path, name: str, codec: str, options: dict[str, str]) -> None:
    path = encode(folder / name, [flat(i) for i in range(NUM)], codec=codec, **options)
    with open_video(path) as source:
        assert source.num_frames == NUM
        wanted = [47, 0, 13, 12, 30]
        assert numbers_of(source.read(wanted)) == wanted
        assert numbers_of(np.stack([frame for _, frame in source.frames()])) == list(range(NUM))
        if not name.endswith("h264"):  # which does not even say how fast it is
            assert source.fps == pytest.approx(30)


def test_variable_rate_is_read_picture_by_picture(folder: Path) -> None:
    ticks = [0, 1, 2, 3, 8, 9, 10, 18, 19, 20]
    path = encode(folder / "variable.mp4", [flat(i) for i in range(10)], ticks=ticks)
    with open_video(path) as source:
        assert (source.num_frames, source.fps) == (10, 30)
        assert source.duration_s == pytest.approx(21 / 30)
        assert numbers_of(source.read([9, 0, 4, 3])) == [9, 0, 4, 3]
        times = [time for time, _ in source.frames()]
        np.testing.assert_array_equal(times, source.times_s)
        assert times == pytest.approx([tick / 30 for tick in ticks])
        assert source.picture_at([0, 5 / 30, 0.9, 8 / 30]).tolist() == [0, 3, 9, 4]


def test_edit_list_hides_frames_but_decodes_them(video: Path, folder: Path) -> None:
    """An edit that starts at frame 5: frame 0 of what is shown depends on pictures that are not."""
    data = bytearray(video.read_bytes())
    at = data.index(b"elst")
    version, entries = struct.unpack(">II", data[at + 4 : at + 12])
    assert (version, entries) == (0, 1)
    duration, start = struct.unpack(">Ii", data[at + 12 : at + 20])
    scale = 15360 // 30
    data[at + 12 : at + 20] = struct.pack(">Ii", duration, start + 5 * scale)
    path = folder / "edited.mp4"
    path.write_bytes(data)
    with open_video(path) as source:
        assert source.num_frames == NUM - 5
        assert numbers_of(source.read([0, 1, 20, NUM - 6])) == [5, 6, 25, NUM - 1]


def test_edit_list_that_ends_early_loses_nothing_else(video: Path, folder: Path) -> None:
    data = bytearray(video.read_bytes())
    at = data.index(b"elst") + 12
    data[at : at + 4] = struct.pack(">I", 667)  # milliseconds: 20 frames
    path = folder / "ends_early.mp4"
    path.write_bytes(data)
    with open_video(path) as source:
        assert numbers_of(np.stack([frame for _, frame in source.frames()])) == list(range(source.num_frames))
        assert source.num_frames in (20, 21)


def rotated(video: Path, path: Path, matrix: tuple[int, int, int, int]) -> Path:
    data = bytearray(video.read_bytes())
    at = data.index(b"tkhd") + 4 + 40
    a, b, c, d = (side << 16 for side in matrix)
    data[at : at + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(data)
    return path


@pytest.mark.parametrize(
    ("matrix", "turn"),
    [
        ((0, 1, -1, 0), lambda p: np.rot90(p, -1)),
        ((-1, 0, 0, -1), lambda p: np.rot90(p, 2)),
        ((0, -1, 1, 0), lambda p: np.rot90(p, 1)),
        ((-1, 0, 0, 1), lambda p: p[:, ::-1]),
    ],
)
def test_rotation_metadata_is_honoured(folder: Path, matrix: tuple[int, int, int, int], turn) -> None:  # type: ignore[no-untyped-def]
    picture = np.full((32, 48, 3), 20, np.uint8)
    picture[:16, :16] = 220  # the upper left corner
    path = rotated(encode(folder / "corner.mp4", [picture] * 3), folder / "turned.mp4", matrix)
    expected = turn(picture)
    with open_video(path) as source:
        assert (source.height, source.width) == expected.shape[:2]
        # Coarse conversions are off by 2; the corner in a wrong place would be by 60.
        assert np.abs(source.read([1])[0].astype(int) - expected).mean() < 10
        assert np.abs(next(source.frames())[1].astype(int) - expected).mean() < 10


def test_upright_follows_the_definition_of_the_matrix() -> None:
    picture = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)
    for a, b, c, d in [(1, 0, 0, 1), (0, 1, -1, 0), (0, -1, 1, 0), (0, 1, 1, 0), (0, -1, -1, 0), (-1, 0, 0, -1)]:
        corners = [(a * x + c * y, b * x + d * y) for x in (0, 2) for y in (0, 1)]
        left, top = (min(sides) for sides in zip(*corners, strict=True))
        turned = upright(picture, (a << 16, b << 16, 0, c << 16, d << 16, 0, 0, 0, 1 << 30))
        for y in range(2):
            for x in range(3):
                assert turned[b * x + d * y - top, a * x + c * y - left].tolist() == picture[y, x].tolist()


def test_pictures_before_the_first_keyframe_do_not_count(video: Path, folder: Path) -> None:
    path = folder / "headless.mkv"
    with av.open(str(video)) as source, av.open(str(path), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        packets = [packet for packet in source.demux(video=0) if packet.size][4:]
        first = min(packet.pts // 512 for packet in packets if packet.is_keyframe and packet.pts is not None)
        for packet in packets:
            packet.stream = stream
            target.mux(packet)
    with open_video(path) as cut:
        assert cut.num_frames == NUM - first < NUM - 4
        assert numbers_of(cut.read([0, 1, cut.num_frames - 1])) == [first, first + 1, NUM - 1]


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("empty.mp4", b"", "the file is empty"),
        ("text.mp4", b"This is not a video.\n" * 50, "not a readable video"),
        (
            "lfs.mp4",
            b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n",
            "is a git-lfs pointer, not the vid",
        ),
        (
            "page.mp4",
            b"\n<!DOCTYPE html>\n<html><body>404</body></html>",
            r"is a web page \(HTML\), not the video; downlo",
        ),
        ("zeros.mp4", bytes(9000), "begins with zeros only: a placeholder or a download that was broken off"),
        ("broken.jpg", b"\xff\xd8\xff\xe0 and nothing more", "broken.jpg cannot be decoded as a picture"),
    ],
)
def test_files_that_are_no_videos(tmp_path: Path, name: str, content: bytes, reason: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(VideoError, match=reason) as caught:
        open_video(path).read([0])
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)
    assert caught.value.path == path


def test_video_without_its_index(video: Path, tmp_path: Path) -> None:
    path = tmp_path / "cut.mp4"
    path.write_bytes(video.read_bytes()[:-1500])
    with pytest.raises(VideoError, match="not a readable video"):
        open_video(path)


def test_missing_audio_only_and_zero_length(tmp_path: Path) -> None:
    with pytest.raises(VideoError, match="no such file or folder"):
        open_video(tmp_path / "absent.mp4")
    with av.open(str(tmp_path / "sound.m4a"), "w", format="mp4") as container:
        stream = container.add_stream("aac", rate=16000, layout="mono")
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 4096), np.float32), format="fltp", layout="mono")
        sound.sample_rate = 16000
        container.mux(stream.encode(sound))
        container.mux(stream.encode(None))
    with pytest.raises(VideoError, match="holds no video stream"):
        open_video(tmp_path / "sound.m4a")
    with av.open(str(tmp_path / "none.avi"), "w") as container:
        stream = container.add_stream("mpeg4", rate=30)
        stream.height, stream.width = 32, 48
        container.start_encoding()
    with pytest.raises(VideoError, match=r"holds no pictures|not a readable video"):
        open_video(tmp_path / "none.avi")


def test_errors_cross_processes() -> None:
    error = pickle.loads(pickle.dumps(VideoError("a.mp4", "is broken")))
    assert (str(error), error.reason) == ("a.mp4: is broken", "is broken")


def test_nothing_is_printed_about_broken_files(video: Path, tmp_path: Path) -> None:
    data = bytearray(video.read_bytes())
    data[len(data) // 3 : len(data) // 2] = bytes(len(data) // 2 - len(data) // 3)
    (tmp_path / "damaged.mp4").write_bytes(data)
    (tmp_path / "half.png").write_bytes(cv2.imencode(".png", flat(3))[1].tobytes()[:60])
    (tmp_path / "half.jpg").write_bytes(cv2.imencode(".jpg", flat(3))[1].tobytes()[:-40])
    (tmp_path / "text.mp4").write_text("no video")
    code = (
        "import sys\nfrom svfap.data.video import VideoError, open_video\n"
        "for name in sys.argv[1:]:\n"
        "    try:\n        video = open_video(name)\n        video.read(range(video.num_frames))\n"
        "    except VideoError as error:\n        print(error.reason)\n"
    )
    files = sorted(str(path) for path in tmp_path.iterdir())
    done = subprocess.run([sys.executable, "-c", code, *files], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    assert len(done.stdout.splitlines()) >= 3


@pytest.mark.parametrize(
    ("size", "codec", "pix_fmt", "name"),
    [
        ((1, 1), "ffv1", "bgr0", "one_pixel.mkv"),
        ((30, 4000), "ffv1", "yuv420p", "wide.mkv"),
        ((27, 35), "ffv1", "yuv420p", "odd.mkv"),
        ((32, 48), "libx264", "yuv420p10le", "ten_bit.mp4"),
        ((32, 48), "ffv1", "gray", "grey.mkv"),
        ((32, 48), "png", "rgba", "alpha.mov"),
    ],
)
def test_pixel_formats_and_sizes(folder: Path, size: tuple[int, int], codec: str, pix_fmt: str, name: str) -> None:
    pictures = [flat(i, *size) for i in range(4)]
    path = encode(folder / name, pictures, codec=codec, pix_fmt=pix_fmt)
    with open_video(path) as source:
        frames = source.read([2, 0])
        assert frames.shape == (2, *size, 3)
        assert numbers_of(frames) == [2, 0]


def test_colours_come_out_as_red_green_blue(folder: Path) -> None:
    picture = np.zeros((32, 48, 3), np.uint8)
    picture[:, :16, 0], picture[:, 16:32, 1], picture[:, 32:, 2] = 230, 210, 240
    write_video(folder / "colours.mp4", [picture] * 4, 25)
    with open_video(folder / "colours.mp4") as source:
        frame = source.read([2])[0]
    assert np.abs(frame[8:24, [8, 24, 40]].mean(0) - [[230, 0, 0], [0, 210, 0], [0, 0, 240]]).max() < 6


def test_names_that_look_like_patterns_or_protocols(
    tmp_path: Path, video: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a%03d.mp4", "concat:b.mp4", "-c.mp4", "d e.mp4"):
        Path(name).write_bytes(video.read_bytes())
        with open_video(name) as source:
            assert source.num_frames == NUM
        write_video(name, [flat(0)], 25)


def test_real_videos_read_as_they_stream(clips: Path) -> None:
    for name in ("single_face.mp4", "d18.mp4"):
        with open_video(clips / name) as source:
            frames = [frame for _, frame in source.frames()]
            assert len(frames) == source.num_frames
            wanted = [source.num_frames - 1, 5, 40]
            for number, frame in zip(wanted, source.read(wanted), strict=True):
                assert np.array_equal(frame, frames[number])


def test_steady_frames_are_those_shown_at_even_times(tmp_path: Path) -> None:
    """At 30 pictures a second, then at 6: both are shown on one clock of the usual rate, or of the rate asked for."""
    ticks = [k if k < 20 else 20 + 5 * (k - 20) for k in range(30)]
    path = encode(tmp_path / "vfr.mp4", [flat(k) for k in range(30)], ticks=ticks)
    with open_video(path) as source:
        read = source.read(range(30))
        assert source.fps == 30
        for fps, num in ((None, 66), (30.9, 66), (10, 22)):
            steady = list(source.steady_frames(fps))
            rate = 10 if fps == 10 else 30
            due = np.arange(num) / rate
            np.testing.assert_allclose([time for time, _ in steady], due)
            shown = [max(k for k in range(30) if ticks[k] / 30 <= time + 0.001) for time in due]
            np.testing.assert_array_equal(np.stack([picture for _, picture in steady]), read[shown])
        part = list(source.steady_frames(None, 30, 40))
        np.testing.assert_array_equal(np.stack([picture for _, picture in part]), read[source.grid().picture_of[30:40]])


def test_metadata_that_is_not_text_does_no_harm(tmp_path: Path) -> None:
    path = tmp_path / "title.mp4"
    with av.open(str(path), "w") as container:
        container.metadata["title"] = "name"
        stream = container.add_stream("libx264", rate=25)
        stream.width = stream.height = 32
        stream.pix_fmt = "yuv420p"
        container.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), format="rgb24")))
        container.mux(stream.encode(None))
    path.write_bytes(_retitle(path))
    with open_video(path) as source:
        assert source.num_frames == 1


def _retitle(path: Path) -> bytes:
    content = path.read_bytes()
    place = content.rindex(b"name")  # the title's text, not the box of that name
    return content[:place] + b"n\xe9\xff\xfe" + content[place + 4 :]


def test_names_that_are_not_utf8(tmp_path: Path, video: Path) -> None:
    path = tmp_path / "caf\udce9.mp4"
    path.write_bytes(video.read_bytes())
    with open_video(path) as source:
        assert numbers_of(source.read([47, 0, 20])) == [47, 0, 20]
        assert numbers_of(np.stack([frame for _, frame in source.frames(40)])) == list(range(40, NUM))


def test_a_second_reader_does_not_disturb_the_first(video: Path) -> None:
    with open_video(video) as source:
        frames = source.frames()
        next(frames)
        assert (source.height, source.width) == (32, 48)
        next(frames)
        source.read([30])
        with pytest.raises(RuntimeError, match="open it twice"):
            next(frames)


def test_a_file_that_changes_is_listed_anew(tmp_path: Path) -> None:
    for number in (5, 9):
        path = encode(tmp_path / "v.mp4", [flat(i) for i in range(number)])
        for _ in range(2):
            with open_video(path) as source:
                assert source.num_frames == number
                assert numbers_of(source.read([number - 1])) == [number - 1]


def test_far_pictures_cost_no_more(folder: Path) -> None:
    """Decoding starts near the wanted pictures, also of files that must be sought by byte."""
    for name in ("near.mp4", "near.mkv", "near.ts", "near.avi", "near.h264", "near.mpg"):
        codec = "mpeg2video" if name.endswith("mpg") else "libx264"
        path = encode(folder / name, [flat(i % 40) for i in range(400)], codec=codec, bf="2", gop=10)
        with open_video(path) as source:
            source.read([0])
            decoded: list[int] = []
            original = source._decoded  # type: ignore[attr-defined]

            def counting(*arguments, original=original, decoded=decoded):  # type: ignore[no-untyped-def]
                for item in original(*arguments):
                    decoded.append(item[0])
                    yield item

            source._decoded = counting  # type: ignore[attr-defined]
            np.testing.assert_allclose(numbers_of(source.read(range(383, 386))), [23, 24, 25], atol=1)
            assert len(decoded) < 40, name
            np.testing.assert_allclose(numbers_of(next(source.frames(385))[1][None]), [25], atol=1)
            assert len(decoded) < 80, name


def test_unwanted_pictures_that_no_other_needs_are_not_decoded() -> None:
    seen: list[tuple[int | None, str]] = []

    class Decoder:
        skip_frame = "DEFAULT"

        def decode(self, packet: SimpleNamespace | None) -> list[av.VideoFrame]:
            seen.append((packet and packet.pts, self.skip_frame))
            return []

    packets = [(number, SimpleNamespace()) for number in range(3)]
    assert list(decoded_frames(packets, Decoder(), frozenset([1]))) == []
    assert seen == [(0, "NONREF"), (1, "DEFAULT"), (2, "NONREF"), (None, "DEFAULT")]
