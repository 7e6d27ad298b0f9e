"""Small videos of many kinds, sound and odd ones, made with FFmpeg's encoders and muxers."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Sequence
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np

NUM = 36
X264 = {"x264-params": "scenecut=0:b-adapt=0"}
Maker = Callable[[Path], Path]


def moving(number: int, height: int = 48, width: int = 64) -> np.ndarray:
    """A pattern that moves, on a grey that tells the number of the picture."""
    rng = np.random.default_rng(number // 12)
    pattern = cv2.resize(rng.integers(0, 60, (6, 8, 3), np.uint8), (width, height), interpolation=cv2.INTER_LINEAR)
    return (np.roll(pattern, 2 * number, axis=1) + 5 * number).astype(np.uint8)


def encode(
    path: Path,
    codec: str,
    pictures: Iterable[np.ndarray] | None = None,
    *,
    pix_fmt: str = "yuv420p",
    gop: int = 12,
    rate: int = 30,
    ticks: Sequence[int] | None = None,
    sar: Fraction | None = None,
    container_format: str | None = None,
    **options: str,
) -> Path:
    """A video of NUM moving pictures, or of others, shown at `ticks` of 1 / rate seconds."""
    pictures = [moving(n) for n in range(NUM)] if pictures is None else list(pictures)
    with av.open(str(path), "w", format=container_format) as container:
        stream = container.add_stream(codec, rate=rate, options=options)
        stream.height, stream.width = pictures[0].shape[:2]
        stream.pix_fmt, stream.gop_size = pix_fmt, gop
        stream.codec_context.time_base = Fraction(1, rate)
        if sar is not None:
            stream.codec_context.sample_aspect_ratio = sar
        for number, picture in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(format=pix_fmt)
            frame.pts, frame.time_base = ticks[number] if ticks else number, Fraction(1, rate)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def remuxed(source: Path, path: Path, change: Callable[[int, av.Packet], list[av.Packet]]) -> Path:
    """The packets of a file in another one, as `change` gives them for each number and packet."""
    with av.open(str(source)) as old, av.open(str(path), "w") as new:
        stream = new.add_stream_from_template(old.streams.video[0])
        packets = [packet for packet in old.demux(video=0) if packet.size]
        for number, packet in enumerate(packets):
            for changed in change(number, packet):
                changed.stream = stream
                new.mux(changed)
    return path


def copied(packet: av.Packet, data: bytes, pts: int | None = None, in_order: bool = False) -> av.Packet:
    """A packet with other data; in_order: it is decoded when it is shown."""
    other = av.Packet(data)
    other.pts = packet.pts if pts is None else pts
    other.dts = other.pts if in_order else packet.dts
    other.time_base, other.is_keyframe = packet.time_base, packet.is_keyframe
    return other


def hidden_vp8(path: Path) -> Path:
    """Every tenth picture comes a second time, as a packet that is decoded and not shown."""
    plain = encode(path.with_suffix(".plain.webm"), "libvpx", **{"b": "400k"})

    def change(number: int, packet: av.Packet) -> list[av.Packet]:
        if number % 10 != 5:
            return [packet]
        data = bytearray(bytes(packet))
        data[0] &= ~0x10  # the bit show_frame
        return [copied(packet, bytes(data)), packet]

    return remuxed(plain, path, change)


def packed_avi(path: Path) -> Path:
    """MPEG-4 as DivX 5 writes it: a B-frame in the packet of the P-frame before it, then a packet without a picture."""
    plain = encode(path.with_suffix(".plain.mkv"), "mpeg4", bf="1", b="2M", b_strategy="0")
    with av.open(str(plain)) as old:
        packets = [bytes(packet) for packet in old.demux(video=0) if packet.size]
        header = bytes(old.streams.video[0].codec_context.extradata or b"")
    kinds = [data[data.index(b"\0\0\1\xb6") + 4] >> 6 for data in packets]  # 0: I, 1: P, 2: B
    out: list[tuple[bytes, bool]] = []
    for number, data in enumerate(packets):
        if kinds[number] == 2:
            out[-1] = (out[-1][0] + data, out[-1][1])
            out.append((b"\0\0\1\xb6\x52\x80\x7f", False))  # a VOP that is not coded
        else:
            out.append((data, kinds[number] == 0))
    head = header + b"\0\0\1\xb2DivX503b1393p"
    with av.open(str(path), "w") as new:
        stream = new.add_stream("mpeg4", rate=30)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for number, (data, is_key) in enumerate(out):
            packet = av.Packet((head if is_key else b"") + data)
            packet.pts = packet.dts = number
            packet.time_base, packet.stream, packet.is_keyframe = Fraction(1, 30), stream, is_key
            new.mux(packet)
    return path


def missing_stamp(path: Path) -> Path:
    """A transport stream of which the tenth and the twentieth picture have no time stamp."""
    data = bytearray(encode(path, "libx264", bf="0", **X264).read_bytes())
    places = [n for n in range(len(data) - 9) if data[n : n + 4] == b"\0\0\1\xe0"]
    for place in (places[10], places[20]):
        data[place + 7] &= 0x3F
    path.write_bytes(data)
    return path


def double_stamp(path: Path, bf: str = "0") -> Path:
    """The picture number 20 has the time stamp of the one before."""
    plain = encode(path.with_suffix(".plain.mkv"), "libx264", bf=bf, **X264)
    with av.open(str(plain)) as container:
        stamps = sorted(packet.pts for packet in container.demux(video=0) if packet.pts is not None)

    def change(_: int, packet: av.Packet) -> list[av.Packet]:
        return [copied(packet, bytes(packet), stamps[19] if packet.pts == stamps[20] else packet.pts, bf == "0")]

    return remuxed(plain, path, change)


def edited_mov(path: Path) -> Path:
    """An edit list that begins with the sixth picture, and a rotation by a quarter turn."""
    data = bytearray(encode(path, "libx264", bf="2", **X264).read_bytes())
    at = data.index(b"elst") + 12
    duration, start = struct.unpack(">Ii", data[at : at + 8])
    data[at : at + 8] = struct.pack(">Ii", duration, start + 5 * (15360 // 30))
    at = data.index(b"tkhd") + 44
    data[at : at + 36] = struct.pack(">9i", 0, 1 << 16, 0, -1 << 16, 0, 0, 0, 0, 1 << 30)
    path.write_bytes(data)
    return path


def cut_short(path: Path) -> Path:
    whole = encode(path, "libx264", bf="2", **X264).read_bytes()
    path.write_bytes(whole[: int(0.7 * len(whole))])
    return path


def two_streams(path: Path) -> Path:
    """A small preview, then the stream that is marked as default."""
    with av.open(str(path), "w") as container:
        streams = []
        for width, height in ((32, 24), (64, 48)):
            stream = container.add_stream("libx264", rate=30, options=X264)
            stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
            streams.append(stream)
        streams[0].disposition, streams[1].disposition = av.stream.Disposition(0), av.stream.Disposition.default
        for number in range(NUM):
            for stream in streams:
                picture = moving(number, stream.height, stream.width)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        for stream in streams:
            container.mux(stream.encode(None))
    return path


def changing_size(path: Path) -> Path:
    """At first 64x48, from the middle on 32x24 pixels."""
    parts = [
        encode(path.with_suffix(f".{width}.webm"), "libvpx", [moving(n, width * 3 // 4, width) for n in numbers])
        for width, numbers in ((64, range(18)), (32, range(18, NUM)))
    ]
    second = [bytes(packet) for packet in av.open(str(parts[1])).demux(video=0) if packet.size]

    def change(number: int, packet: av.Packet) -> list[av.Packet]:
        if number < 17:
            return [packet]
        assert packet.pts is not None
        pts = packet.pts
        rest = [copied(packet, data, pts + round(1000 * (n + 1) / 30)) for n, data in enumerate(second)]
        for other in rest:
            other.dts, other.is_keyframe = other.pts, other is rest[0]
        return [packet, *rest]

    return remuxed(parts[0], path, change)


def joined(path: Path) -> Path:
    """Two transport streams one after the other, whose times both begin at the same point."""
    parts = [
        encode(
            path.with_suffix(f".{first}.ts"), "libx264", [moving(n) for n in range(first, first + 18)], bf="2", **X264
        )
        for first in (0, 18)
    ]
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    return path


def _nal(header: int, *codes: tuple[int, int | None], data: bytes = b"") -> bytes:
    """A NAL unit of H.264. codes: (value, bits), or (value, None) in Exp-Golomb code; data: follows, aligned to bytes."""
    bits = "".join(
        f"{value + 1:b}".zfill(2 * len(f"{value + 1:b}") - 1) if size is None else f"{value:0{size}b}"
        for value, size in codes
    )
    bits += "" if data else "1"
    content = int(bits + "0" * (-len(bits) % 8), 2).to_bytes((len(bits) + 7) // 8) + data
    escaped = bytearray()
    for byte in content:
        if escaped[-2:] == b"\0\0" and byte <= 3:
            escaped.append(3)
        escaped.append(byte)
    return b"\0\0\0\1" + bytes([header]) + bytes(escaped)


def _fields(number: int) -> list[bytes]:
    """Two H.264 fields, uncompressed, of one grey each (PAFF, which x264 does not write). Every other one is not referred to."""
    k, parts = number % 12, []
    is_reference = k % 2 == 0
    for is_bottom in (0, 1):
        is_idr = k == 0 and not is_bottom
        head = [(0, None), (7, None), (0, None), ((k + 1) // 2, 4), (1, 1), (is_bottom, 1)]
        head += [(number // 12 % 2, None)] if is_idr else []
        head += (
            [(2 * k + is_bottom, 8)]
            + ([(0, 2)] if is_idr else [(0, 1)] if is_reference else [])
            + [(0, None), (1, None)]
        )
        blocks = bytes([20 + 5 * number + 20 * is_bottom]) * 256 + bytes([128]) * 128
        # Eight blocks of the type I_PCM, whose code fills two bytes; that of the first follows the slice header.
        data = blocks + (bytes([0x0D, 0x00]) + blocks) * 7 + b"\x80"
        parts.append(_nal(0x65 if is_idr else 0x21 if is_reference else 0x01, *head, (25, None), data=data))
    if k == 0:
        sizes = [
            (3, None),
            (1, None),
            (0, 1),
            (0, 1),
            (1, 1),
            (1, 1),
            (0, None),
            (0, None),
            (0, None),
            (4, None),
            (0, 1),
        ]
        sps = _nal(
            0x67, (77, 8), (0, 8), (30, 8), (0, None), (0, None), (0, None), (4, None), (1, None), (0, 1), *sizes
        )
        pps = _nal(0x68, (0, None), (0, None), (0, 2), *[(0, None)] * 3, (0, 3), *[(0, None)] * 3, (4, 3))
        parts[0] = sps + pps + parts[0]
    return parts


def field_coded(path: Path, per_packet: int = 1) -> Path:
    """An H.264 video whose pictures are two fields each; per_packet: fields in a packet."""
    raw = path.with_suffix(".fields.h264")
    fields = [field for number in range(NUM) for field in _fields(number)]
    raw.write_bytes(b"".join(fields))
    with av.open(str(raw)) as old, av.open(str(path), "w") as new:
        stream = new.add_stream_from_template(old.streams.video[0])
        for first in range(0, len(fields), per_packet):
            packet = av.Packet(b"".join(fields[first : first + per_packet]))
            packet.pts = packet.dts = first
            packet.time_base, packet.stream, packet.is_keyframe = Fraction(1, 60), stream, first % 24 == 0
            new.mux(packet)
    return path


def without(path: Path, numbers: Iterable[int]) -> Path:
    """A folder of frames without some of them; the fifth is of another size."""
    path.mkdir()
    for number in set(range(NUM)) - set(numbers):
        picture = moving(number, *((40, 50) if number == 5 else (48, 64)))
        cv2.imwrite(str(path / f"{number:05d}.png"), picture)
    return path


def _x264(**options: str) -> Maker:
    return lambda path: encode(path, "libx264", **{**X264, **options})


def _codec(codec: str, **options: str) -> Maker:
    return lambda path: encode(path, codec, **options)  # type: ignore[arg-type]


PAUSE = [*range(18), *range(200, 218)]
VARIABLE = [*range(18), *range(18, 18 + 5 * 18, 5)]

VIDEOS: dict[str, tuple[Maker, int]] = {
    "plain.mp4": (_x264(bf="0"), NUM),
    "b_frames.mp4": (_x264(bf="3"), NUM),
    "b_pyramid.mkv": (_x264(bf="4", **{"b-pyramid": "normal"}), NUM),
    "open_gop.mkv": (lambda p: encode(p, "libx264", bf="3", **{"x264-params": "open-gop=1:b-adapt=0:scenecut=0"}), NUM),
    "open_gop.ts": (lambda p: encode(p, "libx264", bf="3", **{"x264-params": "open-gop=1:b-adapt=0:scenecut=0"}), NUM),
    "intra_refresh.mp4": (lambda p: encode(p, "libx264", **{"x264-params": "intra-refresh=1:scenecut=0"}), NUM),
    "intra.mp4": (lambda p: encode(p, "libx264", gop=1), NUM),
    "b_frames.avi": (_x264(bf="2"), NUM),
    "b_frames.flv": (_x264(bf="2"), NUM),
    "raw.h264": (_x264(bf="2"), NUM),
    "raw_in_order.h264": (_x264(bf="0"), NUM),
    "hevc.mp4": (_codec("libx265", **{"x265-params": "log-level=none:bframes=3:open-gop=1:keyint=12"}), NUM),
    "raw.hevc": (_codec("libx265", **{"x265-params": "log-level=none:bframes=3:keyint=12"}), NUM),
    "mpeg4.avi": (_codec("mpeg4", b="2M"), NUM),
    "mpeg4_b_frames.avi": (_codec("mpeg4", b="2M", bf="2"), NUM),
    "mpeg4_b_frames.mp4": (_codec("mpeg4", b="2M", bf="2"), NUM),
    "packed.avi": (packed_avi, NUM),
    "mjpeg.avi": (lambda p: encode(p, "mjpeg", pix_fmt="yuvj420p"), NUM),
    "vp8.webm": (_codec("libvpx", b="400k", **{"auto-alt-ref": "1", "lag-in-frames": "10"}), NUM),
    "hidden.webm": (hidden_vp8, NUM),
    "vp9.webm": (_codec("libvpx-vp9", b="200k", **{"auto-alt-ref": "1", "lag-in-frames": "12", "cpu-used": "8"}), NUM),
    "av1.mp4": (_codec("libsvtav1", preset="12"), NUM),
    "mpeg2.ts": (_codec("mpeg2video", b="2M", bf="2"), NUM),
    "mpeg2.mpg": (_codec("mpeg2video", b="2M", bf="2"), NUM),
    "mpeg1.mpg": (_codec("mpeg1video", b="2M", bf="2"), NUM),
    "ffv1.mkv": (_codec("ffv1"), NUM),
    "gif.gif": (lambda p: encode(p, "gif", pix_fmt="rgb8"), NUM),
    "edited.mov": (edited_mov, NUM - 5),
    "variable.mkv": (lambda p: encode(p, "libx264", ticks=VARIABLE, bf="2", **X264), NUM),
    "pause.mkv": (lambda p: encode(p, "libx264", ticks=PAUSE, bf="2", **X264), NUM),
    "double_stamp.mkv": (double_stamp, NUM),
    "double_stamp_b_frames.mkv": (lambda p: double_stamp(p, "2"), NUM),
    "missing_stamp.ts": (missing_stamp, NUM),
    "cut_short.mkv": (cut_short, 0),
    "cut_short.ts": (cut_short, 0),
    "sar.mp4": (lambda p: encode(p, "libx264", sar=Fraction(16, 9), **X264), NUM),
    "two_streams.mkv": (two_streams, NUM),
    "changing_size.webm": (changing_size, NUM),
    "joined.ts": (joined, NUM),
    "interlaced.ts": (_x264(bf="2", **{"x264-params": "scenecut=0:b-adapt=0:tff=1:cqm=jvt"}), NUM),
    "interlaced.mp4": (_x264(bf="2", **{"x264-params": "scenecut=0:b-adapt=0:tff=1"}), NUM),
    "fields.h264": (lambda p: field_coded(p.with_suffix(".ts")) and p.with_suffix(".fields.h264").rename(p), NUM),
    "fields.ts": (field_coded, NUM),
    "fields_in_pairs.ts": (lambda p: field_coded(p, 2), NUM),
    "fields.mkv": (field_coded, NUM),
    "fields_in_pairs.mp4": (lambda p: field_coded(p, 2), NUM),
}
