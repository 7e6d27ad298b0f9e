"""One shard: the pictures of some videos as JPEG files in a tar archive, and its part of the index."""

from __future__ import annotations

import json
import sqlite3
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import closing
from itertools import chain
from pathlib import Path
from typing import BinaryIO, NamedTuple

import cv2
import numpy as np
import simplejpeg

from svfap.data.frames import Pixels, VideoError, VideoSource
from svfap.data.packed import BLOCK, SHARDS, PackedRow, ShardFile, open_index, write_index
from svfap.data.rates import states_no_rate
from svfap.data.stills import scaled
from svfap.data.video import open_video
from svfap.errors import first_line
from svfap.files import remove_abandoned, replacing_file
from svfap.packing.config import PackConfig

MOST_PX = 65_500  # of a side of a JPEG picture
READ_BYTES = 2**20  # at a time, of a shard that is checked


class Shard(NamedTuple):
    """A shard to be written. first: number of its first video. videos: their names in the index, and their files."""

    name: str
    first: int
    videos: list[tuple[bytes, Path]]


class _Archive:
    """A tar archive that is written, without a list of its entries in memory. num_bytes, checksum: of all so far (CRC-32)."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream, self.num_bytes, self.checksum = stream, 0, 0

    def add(self, name: str, content: bytes) -> None:
        entry = tarfile.TarInfo(name)
        entry.size = len(content)
        self._write(entry.tobuf(tarfile.USTAR_FORMAT) + content + bytes(-len(content) % BLOCK))

    def end(self) -> None:
        self._write(bytes(2 * BLOCK))

    def _write(self, content: bytes) -> None:
        self._stream.write(content)
        self.num_bytes += len(content)
        self.checksum = zlib.crc32(content, self.checksum)


def pack_shard(config: PackConfig, shard: Shard, record: Path) -> None:
    """The job of one shard: write the archive, then the record, which is its part of the index. Raises `UserError`.

    A video at which the process dies, as decoders do at some damaged files, is left out when the job is repeated.
    """
    if config.num_workers > 0 or config.engine == "ray":
        cv2.setNumThreads(1)
    file = config.out / SHARDS / shard.name
    remove_abandoned(file)
    doing = file.with_name(f".{file.stem}.doing")  # the video at which a process has died
    deadly = doing.read_bytes() if doing.exists() else b""
    with replacing_file(file) as part, part.open("wb") as stream:
        archive, rows = _Archive(stream), []
        for number, (name, path) in enumerate(shard.videos, shard.first):
            row = PackedRow(name, number, shard.name, reason="the process that read it died")
            doing.write_bytes(name)
            rows.append(row if name == deadly else _add_video(archive, row._replace(reason=""), path, config))
        archive.end()
    doing.unlink()
    write_index(record, ShardFile(shard.name, archive.num_bytes, archive.checksum), rows)


def is_complete(record: Path, shard: Shard, out: Path) -> bool:
    """Whether a shard is there to the last byte, of these videos, all of which could be read. Reads the whole file."""
    file = out / SHARDS / shard.name
    try:
        with closing(open_index(record)) as index:
            written = index.execute("SELECT name, reason FROM videos ORDER BY number").fetchall()
            described = index.execute("SELECT shard, num_bytes, checksum FROM shards").fetchall()
        if written != [(name, "") for name, _ in shard.videos]:
            return False
        size = file.stat().st_size
        return [row[:2] for row in described] == [(shard.name, size)] and described[0][2] == _checksum(file)
    except (sqlite3.Error, OSError):
        return False


def _checksum(file: Path) -> int:
    """CRC-32 of a file."""
    checksum = 0
    with file.open("rb") as stream:
        while content := stream.read(READ_BYTES):
            checksum = zlib.crc32(content, checksum)
    return checksum


def _add_video(archive: _Archive, row: PackedRow, path: Path, config: PackConfig) -> PackedRow:
    """Add an entry that describes a video and one for each picture; the complete row of the index."""
    try:
        video = open_video(path)
    except VideoError as error:
        return row._replace(reason=error.reason)
    except OSError as error:
        return row._replace(reason=error.strerror or first_line(error))
    with video:
        return _add_pictures(archive, row, video, config)


def _add_pictures(archive: _Archive, row: PackedRow, video: VideoSource, config: PackConfig) -> PackedRow:
    sizes, checksums = np.zeros((2, video.num_frames), np.uint32)
    pictures = _pictures(video, config.size_px)
    first, reason = next(pictures)
    if first is None:
        return row._replace(reason=reason)
    height, width = first.shape[:2]
    if max(height, width) > MOST_PX:
        return row._replace(reason=f"{width}x{height} px are too many for JPEG; give --size_px")
    row = row._replace(start_s=float(video.start_s), joints=tuple(video.joints), picture_names=video.picture_names)
    if not states_no_rate(video.path):
        row = row._replace(fps=float(video.fps), times_s=np.asarray(video.times_s, np.float64))
    about = {"height": height, "width": width, "fps": row.fps, "times_s": row.times_s.tolist(), "start_s": row.start_s}
    about |= {"path": row.name.decode("utf-8", "backslashreplace"), "pictures": row.picture_names}
    archive.add(f"{row.number:08d}.json", json.dumps(about).encode())
    row = row._replace(offset=archive.num_bytes, height=height, width=width)
    reasons: list[str] = []
    for number, (picture, reason) in enumerate(chain([(first, "")], pictures)):
        if picture is None:
            reasons.append(reason)
            continue
        jpeg = simplejpeg.encode_jpeg(np.ascontiguousarray(picture), config.quality, "RGB", "420")
        archive.add(row.entry(number), jpeg)
        sizes[number], checksums[number] = len(jpeg), zlib.crc32(jpeg)
    more = f" (and {len(reasons) - 1} more)" if len(reasons) > 1 else ""
    return row._replace(sizes=sizes, checksums=checksums, reason=f"{reasons[0]}{more}" if reasons else "")


def _pictures(video: VideoSource, size_px: int | None) -> Iterator[tuple[Pixels | None, str]]:
    """Yield (picture, '') of a video in their order, or (None, reason) for one that cannot be decoded.

    Of a file nothing can be decoded after such a picture; in a folder of frames the others are whole.
    """
    number = 0
    while number < video.num_frames:
        try:
            for _, picture in video.frames(number):
                height, width = picture.shape[:2]
                scale = 1.0 if size_px is None else min(size_px / min(height, width), 1.0)
                yield scaled(picture, (max(round(width * scale), 1), max(round(height * scale), 1))), ""
                number += 1
        except VideoError as error:
            yield None, error.reason
        except OSError as error:  # of the video's file; an error of writing has another place
            yield None, error.strerror or first_line(error)
        if video.picture_names is None:
            return
        number += 1
