"""The packets of a video stream, listed without decoding: which of them are pictures, in which order, shown when."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NamedTuple

import av
import numpy as np
from numpy.typing import NDArray

from svfap.data.h264 import Fields
from svfap.data.timing import Times, repaired, usual_rate

PICTURE_FPS = 25.0  # of folders of frames and images, and of streams that state no rate
DEEPEST_REORDERING = 20  # packets between decoding and showing a picture; codecs allow 16 pictures
SMALLEST_VOP = 20  # bytes; MPEG-4 packets below this may hold no picture

Numbers = NDArray[np.int64]
NO_TIME = np.iinfo(np.int64).min


class Packets(NamedTuple):
    """The P packets of a stream with data in them, in the order of the file; each field is (P,) int64.

    pts, dts: time stamps in ticks, NO_TIME if missing. pos: place in the file, -1 if not known. size: in bytes. is_key: 1 if
    decoding can start there. is_shown: 1 if it gives a picture, as far as can be seen without decoding.
    """

    pts: Numbers
    dts: Numbers
    pos: Numbers
    size: Numbers
    is_key: Numbers
    is_shown: Numbers


def list_packets(packets: Iterable[av.Packet[av.VideoStream]], codec: str, extradata: bytes | None) -> Packets:
    """List all packets; incomplete ones at the end of a file that was cut off are left out. extradata: of the codec."""
    listed, num_whole = array("q"), 0
    fields = Fields(extradata) if codec == "h264" else None
    for packet in packets:
        times = (NO_TIME if time is None else time for time in (packet.pts, packet.dts))
        # Pictures outside the edit list of an MP4 are decoded but not shown.
        is_second = fields is not None and fields.is_second(packet)
        is_shown = not packet.is_discard and not is_second and not _is_hidden(packet, codec)
        pos = -1 if packet.pos is None else packet.pos
        listed.extend((*times, pos, packet.size, packet.is_keyframe and not is_second, is_shown))
        if not packet.is_corrupt:
            num_whole = len(listed)
    return Packets(*np.array(listed[:num_whole], np.int64).reshape(-1, len(Packets._fields)).T)


def _is_hidden(packet: av.Packet[av.VideoStream], codec: str) -> bool:
    """Whether a packet is only a reference for later pictures, by the bits show_frame and show_existing_frame."""
    if codec not in ("vp8", "vp9"):
        return False
    data = memoryview(packet)
    if codec == "vp8":
        return not data[0] >> 4 & 1
    is_superframe = data[-1] >> 5 == 0b110  # which ends with a picture that is shown
    last = 0 if data[0] >> 4 & 0b11 == 0b11 else 1  # profile 3 has a bit more before these
    return not (is_superframe or data[0] >> last & 1 or data[0] >> (last + 2) & 1)


@dataclass(frozen=True, eq=False)
class Keyframes:
    """The K packets at which decoding can start, all (K,) int64.

    packets: their numbers. pictures: ascending, the first picture that needs nothing before that packet. times: their time
    stamps in ticks, NO_TIME if missing. pos: their places in the file, -1 if not known. sizes: in bytes.
    """

    packets: Numbers
    pictures: Numbers
    times: Numbers
    pos: Numbers
    sizes: Numbers


@dataclass(frozen=True, eq=False)
class Timetable:
    """The N pictures of a stream in order of presentation.

    times_s: (N,) float64, strictly ascending from 0. packet_of: (N,) int64, the number of each picture's packet; num_packets:
    of the stream. keys: the packets at which decoding can start. fps: the usual rate. start_s: the time stamp of the first
    picture. joints: the pictures with which another recording begins.
    """

    times_s: Times
    packet_of: Numbers
    num_packets: int
    keys: Keyframes
    fps: float
    start_s: float
    joints: list[int]


def timetable(
    packets: Packets,
    codec: str,
    tick_s: float,
    stated_rates: list[float],
    may_reorder: bool,
    is_untimed: bool,
    is_cut: Callable[[float], bool],
    decoded_order: Callable[[], Numbers],
) -> Timetable | None:
    """Put the pictures of a stream in order; None if there are none.

    stated_rates: pictures per second, the average that the file states and the rate that its stream states. may_reorder: the
    codec shows pictures in another order than it decodes them. is_untimed: the time stamps are only decoding times. is_cut:
    whether a file with pictures up to this time in ticks is known to be cut off. decoded_order: decodes the whole file, where
    time stamps do not tell the order; gives the numbers of the packets of its pictures, in the decoder's order.
    """
    pts, dts = (np.where(ticks == NO_TIME, np.nan, ticks.astype(np.float64)) for ticks in packets[:2])
    if not may_reorder:
        pts = np.where(np.isnan(pts), dts, pts)
    keys, shown = np.flatnonzero(packets.is_key), np.flatnonzero(packets.is_shown)
    shown = shown[shown >= keys[0]] if len(keys) else shown
    if len(shown) == 0:
        return None
    unsure = codec == "mpeg4" and bool((packets.size[shown] < SMALLEST_VOP).any())
    order = None if unsure or (is_untimed and may_reorder) else _order(pts[shown], dts[shown], may_reorder)
    if order is not None:
        order = shown[order]
        if len(keys):  # pictures that are shown before the first keyframe cannot be decoded
            order = order[_not_before(pts, order, int(keys[0])) :]
        order = order[: _whole(pts[order], dts, is_cut)]
        stamps = pts[order]
    else:
        order = decoded_order()
        order = order[order < len(pts)]
        if len(order) == 0:
            return None
        stamps = np.sort(dts[order]) if is_untimed or np.isnan(pts[order]).all() else pts[order]
    known = bool(np.isfinite(stamps).any())
    # Of a raw stream without time stamps the average rate is the demuxer's default.
    stated = next((rate for rate in (stated_rates if known else stated_rates[::-1]) if rate > 0), PICTURE_FPS)
    times_s, joints = repaired(stamps * tick_s, None if known else 1 / stated)
    fps = (usual_rate(times_s, tick_s, stated_rates) if known else 0.0) or stated
    start_s = float(np.nan_to_num(stamps[0]) * tick_s)
    return Timetable(times_s, order, len(pts), _keyframes(packets, keys, order), fps, start_s, joints)


def _order(pts: Times, dts: Times, may_reorder: bool) -> Numbers | None:
    """The order of presentation of packets in the order of decoding; None if their time stamps do not tell it."""
    num_back = int(np.count_nonzero(np.diff(pts[np.isfinite(pts)]) < 0))
    if not may_reorder and num_back <= max(1, len(pts) // 100):
        return np.arange(len(pts))  # stamps that jump back are an error or a joint
    order: list[Numbers] = []
    starts = _joints(dts)
    for first, stop in zip(starts, [*starts[1:], len(pts)], strict=True):
        part = pts[first:stop]
        ranks = np.argsort(part, kind="stable")
        repeated = np.isnan(part).any() or (np.diff(part[ranks]) == 0).any()
        if repeated or np.abs(ranks - np.arange(len(part))).max() > DEEPEST_REORDERING:
            return None
        order.append(first + ranks)
    return np.concatenate(order)


def _joints(dts: Times) -> list[int]:
    """Where the decoding times jump back for good: the first packets of the parts that were joined, beginning with 0."""
    known = np.flatnonzero(np.isfinite(dts))
    times = dts[known]
    back = np.flatnonzero(np.diff(times) < 0) + 1
    return [0, *(int(known[k]) for k in back if k + 1 < len(times) and times[k + 1] < times[k - 1])]


def _not_before(pts: Times, order: Numbers, key: int) -> int:
    """The place in `order` of the first picture that is not shown before the keyframe that the file begins with."""
    at = np.flatnonzero(order == key)
    if len(at):
        return int(at[0])
    return int(np.argmax(pts[order] >= pts[key])) if np.isfinite(pts[key]) and (pts[order] >= pts[key]).any() else 0


def _whole(stamps: Times, dts: Times, is_cut: Callable[[float], bool]) -> int:
    """Number of pictures without a gap: in a file that was cut off, B-frames before the last pictures are missing."""
    steps = np.diff(stamps)
    if len(steps) < 2 or not np.isfinite(dts).any() or not is_cut(float(stamps[-1] + 1.5 * steps[-3:].max())):
        return len(stamps)
    for last in np.flatnonzero(stamps[1:] > np.nanmax(dts)).tolist():
        if steps[last] > 1.5 * np.median(steps[max(last - 8, 0) : last] if last else steps):
            return int(last) + 1
    return len(stamps)


def _keyframes(packets: Packets, keys: Numbers, order: Numbers) -> Keyframes:
    """order: the packets of all pictures. A keyframe that is not shown itself stands for the first picture after it."""
    num_packets = len(packets.pts)
    place = np.full(num_packets, num_packets)
    place[order] = np.arange(len(order))
    later = np.minimum.accumulate(place[::-1])[::-1]
    pictures = np.where(place[keys] == num_packets, later[keys], place[keys])
    times = np.where(packets.pts == NO_TIME, packets.dts, packets.pts)
    return Keyframes(keys, np.maximum.accumulate(pictures), times[keys], packets.pos[keys], packets.size[keys])
