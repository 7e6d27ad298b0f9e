"""Video files, read with FFmpeg.

The packets of a file are listed once, without decoding. Then decoding starts at the keyframe before each group of requested
pictures, and pictures that no other one refers to are skipped. Each packet goes into the decoder with its number in place of
a time stamp, so that pictures are known by it whatever the time stamps of the file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from functools import cached_property
from itertools import chain
from pathlib import Path

import av
import numpy as np
from av.container import InputContainer
from numpy.typing import NDArray

from svfap.data.ffmpeg import Upright, open_container, packets_of, video_stream
from svfap.data.frames import Pixels, VideoError, VideoSource
from svfap.data.packets import NO_TIME, Numbers, Timetable, list_packets, timetable

UNTIMED_FORMATS = ("avi", "mpeg")  # their time stamps are decoding times, or guessed between packs: wrong with B-frames
SOUGHT_BY_BYTE = ("mpegts", "mpeg")  # and streams without time stamps
MOST_PICTURES, MOST_FILES = 1_000_000, 200  # in the timetables that are kept: 16 MB
SEQUENTIAL_CODECS = ("gif", "apng")  # their keyframes do not stand alone


class Container(VideoSource):
    """A video file. A truncated file has the pictures that are still there. Raises `VideoError` if there are none."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._ended_badly, self._turn = False, 0
        self._container, self._stream = self._opened()
        status = path.stat()
        table = _remembered((str(path.absolute()), status.st_mtime_ns, status.st_size), self._timetable)
        self.times_s, self.joints, self.fps, self.start_s = table.times_s, table.joints, table.fps, table.start_s
        self._packet_of, self._keys = table.packet_of, table.keys
        self._picture_of = np.full(table.num_packets, -1)
        self._picture_of[self._packet_of] = np.arange(self.num_frames)
        self._upright = Upright(path, self._stream)

    def _timetable(self) -> Timetable:
        codec, tick_s = self._stream.codec_context, float(self._stream.time_base or 1)
        packets = list_packets(self._demuxed(), codec.codec.canonical_name, codec.extradata)
        table = timetable(
            packets,
            codec.codec.canonical_name,
            tick_s,
            self._stated_rates(),
            may_reorder=bool(codec.has_b_frames),
            is_untimed=self._container.format.name in UNTIMED_FORMATS,
            is_cut=lambda end: self._is_cut(end * tick_s, len(packets.pts)),
            decoded_order=lambda: _decoded_order(self.path),
        )
        if table is None:
            self.close()
            raise VideoError(self.path, "holds no pictures")
        return table

    def read(self, indices: Sequence[int] | NDArray[np.int64]) -> Pixels:
        wanted, places = np.unique(self._checked(indices), return_inverse=True)
        out: Pixels | None = None
        if wanted[0] > 0:
            self._learn_size()
        for k, picture in enumerate(self._read(wanted)):
            out = np.empty((len(places), *picture.shape), np.uint8) if out is None else out
            out[places == k] = picture
        assert out is not None
        return out

    def frames(self, first: int = 0) -> Iterator[tuple[float, Pixels]]:
        if first > 0:
            self._learn_size()
        for number, picture in self._all_from(first):
            yield float(self.times_s[number]), picture

    def close(self) -> None:
        self._container.close()

    def _read(self, wanted: Numbers) -> Iterator[Pixels]:
        """Pictures of these ascending numbers."""
        key_of = np.searchsorted(self._keys.pictures, wanted, side="right") - 1
        for key in np.unique(key_of).tolist():
            yield from self._read_run(key, wanted[key_of == key].tolist())

    def _read_run(self, key: int, run: list[int]) -> Iterator[Pixels]:
        """Pictures that can all be decoded from keyframe number `key` on."""
        packets = self._packet_of[run]
        after = np.minimum(packets + 1, len(self._picture_of) - 1)
        needed = np.append(packets, after[self._picture_of[after] < 0])  # second fields, too
        decoded = self._decoded(key, frozenset(needed.tolist()))
        remaining, last = run[::-1], -1
        for number, frame in decoded:
            if frame is None or frame.is_corrupt or number < last or number > remaining[-1]:
                break
            last = number
            if number == remaining[-1]:
                yield self._upright(frame)
                remaining.pop()
            if not remaining:
                return
        # Damaged: what is shown depends on all pictures before it, those that were left out and the group before.
        for number, picture in self._all_from(remaining[-1], 1):
            if number == remaining[-1]:
                yield picture
                remaining.pop()
            if not remaining:
                return

    def _all_from(self, first: int, back: int = 0) -> Iterator[tuple[int, Pixels]]:
        """Yield (number, picture) of all pictures from `first` on; see `_ascending`.

        A damaged picture is replaced by the one before it, at the start of the file by the first that can be decoded.
        """
        shown: av.VideoFrame | None = None
        due = first
        for number, frame in self._ascending(first, back):
            for missing in range(due, number):
                yield missing, self._upright(shown or frame)
            if number >= first:
                yield number, self._upright(frame)
            due, shown = max(number + 1, first), frame
        if due < self.num_frames:
            raise VideoError(self.path, f"damaged: picture {due + 1} of {self.num_frames} cannot be decoded")

    def _ascending(self, first: int, back: int = 0) -> Iterator[tuple[int, av.VideoFrame]]:
        """Yield (number, frame) in ascending order from number `first`, or an earlier one, on.

        back: start decoding this many keyframes before the one that is needed.
        """
        key = max(int(np.searchsorted(self._keys.pictures, first, side="right")) - 1 - back, -1)
        while True:
            decoded = ((number, frame) for number, frame in self._decoded(key) if frame is not None)
            # What is shown before the keyframe needs the pictures before it.
            sound = -1 if key < 0 else int(self._keys.pictures[key])
            start = next((item for item in decoded if item[0] >= sound), None)
            if key < 0 or (start is not None and start[0] <= first):
                break
            back = 2 * back + 1
            key = max(key - back, -1)
        last = -1
        for number, frame in chain([] if start is None else [start], decoded):
            if number > last:
                yield number, frame
                last = number

    def _decoded(self, key: int, wanted: frozenset[int] | None = None) -> Iterator[tuple[int, av.VideoFrame | None]]:
        """Yield (number, frame) as decoded from keyframe number `key`, or an earlier one, on; -1: from the file's start.

        wanted: numbers of packets; pictures that neither these nor others need are left out. A packet that cannot be
        decoded gives None.
        """
        sound = -1 if key < 0 else int(self._keys.pictures[key])
        for packet, frame in decoded_frames(self._packets_from(key), self._stream.codec_context, wanted):
            number = int(self._picture_of[packet])
            if number >= sound and (number >= 0 or frame is None):
                yield number, frame

    def _packets_from(self, key: int) -> Iterator[tuple[int, av.Packet[av.VideoStream]]]:
        """Yield (number, packet) from a keyframe on that is not later than number `key`."""
        end = len(self._picture_of)
        for earlier in range(key, max(key - 2, -1), -1):  # seeking may end up after the keyframe
            packets = self._sought(earlier)
            start = next((packet for packet in packets if packet.is_keyframe), None)
            number = None if start is None else self._key_packets.get(_identity(start))
            if start is not None and number is not None and number <= self._keys.packets[key]:
                return zip(range(number, end), chain([start], packets), strict=False)
        self._container.close()
        self._container, self._stream = self._opened()
        return zip(range(end), self._demuxed(), strict=False)

    def _sought(self, key: int) -> Iterator[av.Packet[av.VideoStream]]:
        """Packets from about keyframe number `key` on; none where a file cannot be sought."""
        time, pos = int(self._keys.times[key]), int(self._keys.pos[key])
        by_byte = time == NO_TIME or self._container.format.name in SOUGHT_BY_BYTE
        if self._stream.codec_context.name in SEQUENTIAL_CODECS or (by_byte and pos < 0):
            return iter(())
        try:
            offset = pos if by_byte else time
            self._container.seek(offset, stream=self._stream, unsupported_byte_offset=by_byte)
        except av.FFmpegError:
            return iter(())
        return self._demuxed()

    @cached_property
    def _key_packets(self) -> dict[tuple[int, int], int | None]:
        """The number of each keyframe's packet, by its identity; None where two have the same one."""
        numbers: dict[tuple[int, int], int | None] = {}
        keys = self._keys
        places = np.where(keys.pos < 0, keys.times, keys.pos)
        for number, place, size in zip(keys.packets.tolist(), places.tolist(), keys.sizes.tolist(), strict=True):
            numbers[place, size] = None if (place, size) in numbers else number
        return numbers

    def _demuxed(self) -> Iterator[av.Packet[av.VideoStream]]:
        """Packets from the current position to the end of the file, or to where it is cut off."""
        self._turn += 1
        turn = self._turn
        try:
            for packet in packets_of(self._container, self._stream):
                if turn != self._turn:
                    raise RuntimeError(f"{self.path}: was read elsewhere before these frames had ended; open it twice")
                if packet.size:  # an empty packet would signal the end of the stream to the decoder
                    yield packet
        except (av.FFmpegError, OSError):
            self._ended_badly = True

    @property
    def shape(self) -> tuple[int, int]:
        self._learn_size()
        return self._upright.shape

    def _learn_size(self) -> None:
        if self._upright.size is None:
            first = next(self._ascending(0), None)
            if first is None:
                raise VideoError(self.path, "damaged: none of its pictures can be decoded")
            self._upright.learn(first[1])

    def _is_cut(self, end_s: float, num_packets: int) -> bool:
        """Whether the file states more pictures than it has; end_s: when its last picture ends at the latest."""
        stated_s = (self._container.duration or 0) / av.time_base
        start_s = (self._container.start_time or 0) / av.time_base
        return self._ended_badly or self._stream.frames > num_packets or end_s < start_s + stated_s

    def _stated_rates(self) -> list[float]:
        codec_rate = self._stream.codec_context.framerate
        return [float(rate or 0) for rate in (self._stream.average_rate, self._stream.guessed_rate or codec_rate)]

    def _opened(self) -> tuple[InputContainer, av.VideoStream]:
        container = open_container(self.path)
        stream = video_stream(container)
        if stream is None:
            container.close()
            raise VideoError(self.path, "holds no video stream")
        stream.codec_context.thread_count = 1  # videos are decoded in parallel instead
        return container, stream


def decoded_frames(
    packets: Iterable[tuple[int, av.Packet[av.VideoStream]]],
    decoder: av.VideoCodecContext,
    wanted: frozenset[int] | None = None,
) -> Iterator[tuple[int, av.VideoFrame | None]]:
    """Yield (number of its packet, frame) as the decoder gives them, from (number, packet).

    None comes in place of the frame for a packet that cannot be decoded.
    """
    for number, packet in chain(packets, [(-1, None)]):
        skippable = packet is not None and wanted is not None and number not in wanted
        decoder.skip_frame = "NONREF" if skippable else "DEFAULT"
        if packet is not None:
            packet.pts = number
        try:
            frames = decoder.decode(packet)
        except av.FFmpegError:
            if packet is not None:
                yield number, None
            continue
        for frame in frames:
            if frame.pts is not None:
                yield frame.pts, frame


def _identity(packet: av.Packet[av.VideoStream]) -> tuple[int, int]:
    time = packet.dts if packet.pts is None else packet.pts
    place = time if packet.pos is None or packet.pos < 0 else packet.pos
    return NO_TIME if place is None else place, packet.size


def _decoded_order(path: Path) -> Numbers:
    """The numbers of the packets that give pictures, in order of presentation, by decoding a file."""
    with open_container(path) as container:
        stream = video_stream(container)
        assert stream is not None
        stream.codec_context.options = {"skip_loop_filter": "all", "skip_idct": "all"}  # pixels do not matter
        packets: list[int] = []
        with suppress(av.FFmpegError, OSError):
            whole = enumerate(packet for packet in packets_of(container, stream) if packet.size)
            for number, frame in decoded_frames(whole, stream.codec_context):
                packets += [] if frame is None else [number]
    return np.asarray(list(dict.fromkeys(packets)), np.int64)


_TABLES: dict[tuple[str, int, int], Timetable] = {}  # the least recently used first


def _remembered(key: tuple[str, int, int], make: Callable[[], Timetable]) -> Timetable:
    """The timetable of a file. key: its path, time of change and size."""
    table = _TABLES.pop(key, None) or make()
    _TABLES[key] = table
    num_pictures = sum(len(other.times_s) for other in _TABLES.values())
    for oldest in list(_TABLES)[:-1]:
        if num_pictures <= MOST_PICTURES and len(_TABLES) <= MOST_FILES:
            break
        num_pictures -= len(_TABLES.pop(oldest).times_s)
    return table
