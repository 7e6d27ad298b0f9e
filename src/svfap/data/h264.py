"""H.264 streams whose pictures are coded as two fields each (PAFF): which packets are second fields.

Demuxers give each field as a packet, and the decoder shows both as one picture. The syntax is that of ITU-T H.264, 7.3.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

SLICES, SPS = (1, 5), 7  # types of NAL units
WITH_CHROMA_FORMAT = (100, 110, 122, 244, 44, 83, 86, 118, 128, 138, 139, 134, 135)  # profiles
HEADER_BYTES = 256  # more than a sequence parameter set or the start of a slice header takes


class Fields:
    """Tells second fields among the packets of a stream, given one by one in the order of the file. extradata: of the codec."""

    def __init__(self, extradata: bytes | None) -> None:
        data = extradata or b""
        self._length_size = (data[4] & 3) + 1 if data[:1] == b"\1" and len(data) > 6 else 0  # 0: start codes
        sets = [data[8:]] if self._length_size else [unit for unit in self._units(data) if unit[0] & 31 == SPS]
        self._may_occur = False
        self._first: tuple[int, bool] | None = None  # the first field of a picture, in the packet before
        if sets:
            with suppress(IndexError):  # cut off
                self._read_parameters(_Bits(sets[0][1:]))

    def _read_parameters(self, bits: _Bits) -> None:
        profile = bits.number(8)
        bits.skip(16)
        bits.skip_codes(1)
        chroma = bits.ue() if profile in WITH_CHROMA_FORMAT else 1
        self._has_planes = chroma == 3 and bool(bits.number(1))
        if profile in WITH_CHROMA_FORMAT:
            bits.skip_codes(2)
            bits.skip(1)
            if bits.number(1):
                for k in range(12 if chroma == 3 else 8):
                    if bits.number(1):
                        bits.skip_scaling_list(16 if k < 6 else 64)
        self._frame_num_bits = bits.ue() + 4
        order = bits.ue()  # pic_order_cnt_type
        if order == 0:
            bits.skip_codes(1)
        elif order == 1:
            bits.skip(1)
            bits.skip_codes(2)
            bits.skip_codes(bits.ue())
        bits.skip_codes(1)
        bits.skip(1)
        bits.skip_codes(2)
        self._may_occur = not bits.number(1)  # frame_mbs_only_flag

    def is_second(self, packet: Any) -> bool:
        """Whether a packet (bytes-like) is the second field of the picture that the packet before it began."""
        if not self._may_occur:
            return False
        slices = [self._field(unit) for unit in self._units(bytes(packet)) if unit[:1] and unit[0] & 31 in SLICES]
        found = {field for field in slices if field is not None}
        field = found.pop() if len(found) == 1 else None
        if field is not None and self._first == (field[0], not field[1]):
            self._first = None
            return True
        self._first = field
        return False

    def _field(self, unit: bytes) -> tuple[int, bool] | None:
        """frame_num, and whether it is a bottom field; None for a slice of a frame."""
        bits = _Bits(unit[1:])
        try:
            bits.skip_codes(3)
            bits.skip(2 if self._has_planes else 0)
            frame_num, is_field, is_bottom = bits.number(self._frame_num_bits), bits.number(1), bits.number(1)
        except IndexError:
            return None
        return (frame_num, bool(is_bottom)) if is_field else None

    def _units(self, data: bytes) -> Iterator[bytes]:
        """The starts of the NAL units in some data."""
        if not self._length_size:
            for code in re.finditer(b"\x00\x00\x01(?=.)", data, re.DOTALL):
                yield data[code.end() : code.end() + HEADER_BYTES]
            return
        at = 0
        while at + self._length_size < len(data):
            length = int.from_bytes(data[at : at + self._length_size])
            at += self._length_size
            yield data[at : at + min(length, HEADER_BYTES)]
            at += length


class _Bits:
    """Reads bits in order. Raises IndexError behind the end."""

    def __init__(self, data: bytes) -> None:
        data = data.replace(b"\0\0\3", b"\0\0")
        self._bits = "".join(f"{byte:08b}" for byte in data)
        self._at = 0

    def number(self, size: int) -> int:
        self.skip(size)
        return int(self._bits[self._at - size : self._at] or "0", 2)

    def skip(self, size: int) -> None:
        self._at += size
        if self._at > len(self._bits):
            raise IndexError

    def ue(self) -> int:
        """An Exp-Golomb code; of a signed one it is not the value, but has its length."""
        zeros = 0
        while not self.number(1):
            zeros += 1
        return (1 << zeros) - 1 + self.number(zeros)

    def skip_codes(self, count: int) -> None:
        for _ in range(count):
            self.ue()

    def skip_scaling_list(self, size: int) -> None:
        last = following = 8
        for _ in range(size):
            if following:
                code = self.ue()
                following = (last + ((code + 1) // 2 if code % 2 else -code // 2)) % 256
            last = following or last
