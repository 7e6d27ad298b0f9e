"""Video files, read with FFmpeg.

The packets of a file are listed once, without decoding. Then decoding starts at the keyframe before each group of requested
pictures, and pictures that no other one refers to are skipped. Each packet goes into the decoder with its number in place of
a time stamp, so that pictures are known by it whatever the time stamps of the file.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from functools import cached_property, lru_cache
from itertools import chain
from pathlib import Path

import av
import numpy as np
from av.container import InputContainer
from numpy.typing import NDArray

from svfap.data.ffmpeg import Upright, open_container, video_stream
from svfap.data.frames import Pixels, VideoError, VideoSource
from svfap.data.packets import NO_TIME, Numbers, list_packets, timetable

UNTIMED_FORMATS = ("avi", "mpeg")  # their time stamps are decoding times, or guessed between packs: wrong with B-frames
SOUGHT_BY_BYTE = ("mpegts", "mpeg")  # and streams without time stamps
SEQUENTIAL_CODECS = ("gif", "apng")  # their keyframes do not stand alone


class Container(VideoSource):
    """A video file. A truncated file has the pictures that are still there. Raises `VideoError` if there are none."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._ended_badly = False
        self._container, self._stream = self._opened()
        codec = self._stream.codec_context
        self._packets = list_packets(self._demuxed(), codec.name)
        tick_s = float(self._stream.time_base or 1)
        table = timetable(
            self._packets,
            codec.codec.canonical_name,
            tick_s,
            self._stated_rates(),
            may_reorder=bool(codec.has_b_frames),
            is_untimed=self._container.format.name in UNTIMED_FORMATS,
            is_cut=lambda last: self._is_cut(last * tick_s),
            decoded_order=lambda: _decoded_order(path, path.stat().st_mtime_ns),
        )
        if len(table.times_s) == 0:
            self.close()
            raise VideoError(path, "holds no pictures")
        self.times_s, self.fps = table.times_s, table.fps
        self._packet_of, self._keys, self._key_pictures = table.packet_of, table.keys, table.key_pictures
        self._picture_of = np.full(len(self._packets), -1)
        self._picture_of[self._packet_of] = np.arange(self.num_frames)
        self._upright = Upright(path, self._stream)

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
        key_of = np.searchsorted(self._key_pictures, wanted, side="right") - 1
        for key in np.unique(key_of).tolist():
            yield from self._read_run(key, wanted[key_of == key].tolist())

    def _read_run(self, key: int, run: list[int]) -> Iterator[Pixels]:
        """Pictures that can all be decoded from keyframe number `key` on."""
        decoded = self._decoded(key, frozenset(self._packet_of[run].tolist()))
        done = 0
        for number, frame in decoded:
            if number == run[done]:
                yield self._upright(frame)
                done += 1
            if done == len(run) or number > run[done]:
                break
        if done == len(run):
            return
        # Damaged or wrongly marked: read as a whole, for which the pictures between the wanted ones are needed.
        remaining = run[done:]
        for number, picture in self._all_from(remaining[0]):
            if number == remaining[0]:
                yield picture
                remaining.pop(0)
            if not remaining:
                return

    def _all_from(self, first: int) -> Iterator[tuple[int, Pixels]]:
        """Yield (number, picture) of all pictures from `first` on; a damaged one is replaced by the one before it.

        Damaged ones at the start of the file are replaced by the first that can be decoded.
        """
        shown: av.VideoFrame | None = None
        due = first
        for number, frame in self._ascending(first):
            for missing in range(due, number):
                yield missing, self._upright(shown or frame)
            if number >= first:
                yield number, self._upright(frame)
            due, shown = max(number + 1, first), frame
        if due < self.num_frames:
            raise VideoError(self.path, f"damaged: picture {due + 1} of {self.num_frames} cannot be decoded")

    def _ascending(self, first: int) -> Iterator[tuple[int, av.VideoFrame]]:
        """Yield (number, frame) in ascending order, from number `first`, or an earlier one, on."""
        key, back = int(np.searchsorted(self._key_pictures, first, side="right")) - 1, 1
        while True:
            decoded = self._decoded(key)
            # What is shown before the keyframe needs the pictures before it.
            sound = -1 if key < 0 else int(self._key_pictures[key])
            start = next((item for item in decoded if item[0] >= sound), None)
            if key < 0 or (start is not None and start[0] <= first):
                break
            key, back = max(key - back, -1), 2 * back
        last = -1
        for number, frame in chain([] if start is None else [start], decoded):
            if number > last:
                yield number, frame
                last = number

    def _decoded(self, key: int, wanted: frozenset[int] | None = None) -> Iterator[tuple[int, av.VideoFrame]]:
        """Yield (number, frame) as decoded from keyframe number `key`, or an earlier one, on; -1: from the file's start.

        wanted: numbers of packets; pictures that neither these nor others need are left out.
        """
        for packet, frame in decoded_frames(self._packets_from(key), self._stream.codec_context, wanted):
            number = int(self._picture_of[packet])
            if number >= 0:
                yield number, frame

    def _packets_from(self, key: int) -> Iterator[tuple[int, av.Packet[av.VideoStream]]]:
        """Yield (number, packet) from a keyframe on that is not later than number `key`."""
        end = len(self._packets)
        for earlier in range(key, max(key - 2, -1), -1):  # seeking may end up after the keyframe
            packets = self._sought(earlier)
            start = next((packet for packet in packets if packet.is_keyframe), None)
            number = None if start is None else self._key_packets.get(_identity(start))
            if start is not None and number is not None and number <= self._keys[key]:
                return zip(range(number, end), chain([start], packets), strict=False)
        self._container.close()
        self._container, self._stream = self._opened()
        return zip(range(end), self._demuxed(), strict=False)

    def _sought(self, key: int) -> Iterator[av.Packet[av.VideoStream]]:
        """Packets from about keyframe number `key` on; none where a file cannot be sought."""
        place = int(self._keys[key])
        times, pos = (self._packets.pts[place], self._packets.dts[place]), self._packets.pos[place]
        time = next((time for time in times if time != NO_TIME), None)
        by_byte = time is None or self._container.format.name in SOUGHT_BY_BYTE
        if self._stream.codec_context.name in SEQUENTIAL_CODECS or (by_byte and pos < 0):
            return iter(())
        try:
            self._container.seek(
                pos if by_byte or time is None else time, stream=self._stream, unsupported_byte_offset=by_byte
            )
        except av.FFmpegError:
            return iter(())
        return self._demuxed()

    @cached_property
    def _key_packets(self) -> dict[tuple[int, int], int | None]:
        """The number of each keyframe's packet, by its identity; None where two have the same one."""
        numbers: dict[tuple[int, int], int | None] = {}
        listed = self._packets
        for place in self._keys.tolist():
            identity = (listed.pos[place] if listed.pos[place] >= 0 else listed.pts[place], listed.size[place])
            numbers[identity] = None if identity in numbers else place
        return numbers

    def _demuxed(self) -> Iterator[av.Packet[av.VideoStream]]:
        """Packets from the current position to the end of the file, or to where it is cut off."""
        try:
            # An empty packet would signal the end of the stream to the decoder.
            yield from (packet for packet in self._container.demux(self._stream) if packet.size)
        except (av.FFmpegError, OSError):
            self._ended_badly = True

    def _learn_size(self) -> None:
        if self._upright.size is None:
            self._upright.learn(next(self._ascending(0))[1])

    def _is_cut(self, last_s: float) -> bool:
        """Whether the file states more than it holds; last_s: time stamp of its last picture in seconds."""
        stated_s = (self._container.duration or 0) / av.time_base
        start_s = (self._container.start_time or 0) / av.time_base
        return self._ended_badly or self._stream.frames > len(self._packets) or last_s < start_s + stated_s

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
) -> Iterator[tuple[int, av.VideoFrame]]:
    """Yield (number of its packet, frame) as the decoder gives them, from (number, packet); damaged packets are skipped."""
    for number, packet in chain(packets, [(-1, None)]):
        skippable = packet is not None and wanted is not None and number not in wanted
        decoder.skip_frame = "NONREF" if skippable else "DEFAULT"
        if packet is not None:
            packet.pts = number
        with suppress(av.FFmpegError):
            for frame in decoder.decode(packet):
                if frame.pts is not None:
                    yield frame.pts, frame


def _identity(packet: av.Packet[av.VideoStream]) -> tuple[int, int]:
    place = packet.pts if packet.pos is None or packet.pos < 0 else packet.pos
    return NO_TIME if place is None else place, packet.size


@lru_cache(maxsize=256)
def _decoded_order(path: Path, changed_ns: int) -> Numbers:
    """The numbers of the packets whose pictures are shown, in order, by decoding a file that was last changed then."""
    with open_container(path) as container:
        stream = video_stream(container)
        assert stream is not None
        stream.codec_context.options = {"skip_loop_filter": "all", "skip_idct": "all"}  # pixels do not matter
        packets: list[int] = []
        with suppress(av.FFmpegError, OSError):
            whole = enumerate(packet for packet in container.demux(stream) if packet.size)
            packets += (number for number, _ in decoded_frames(whole, stream.codec_context))
    return np.asarray(list(dict.fromkeys(packets)), np.int64)
