"""Packed videos: their pictures as JPEG files in tar archives, read one by one through an index of their places.

A packed folder holds shards/*.tar, `index.sqlite` and `pack.json`, beside manifests whose paths name the packed videos. Each
video is a row of the index; its pictures lie together in one shard, each an entry of the archive. The folder may be a copy
of all but the shards, which then lie at the `location` in pack.json.
"""

from __future__ import annotations

import json
import os
import sqlite3
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import numpy as np
import simplejpeg
from numpy.typing import NDArray

from svfap.data.find import on_disk
from svfap.data.frames import Pixels, VideoError, VideoSource
from svfap.errors import UserError, first_line
from svfap.formats import upgrade
from svfap.remote import PACK_FILE, read_spans

INDEX_FILE, SHARDS = "index.sqlite", "shards"
BLOCK = 512  # of tar: a header, and what the content of an entry is padded to
NO_TIMES, NO_NUMBERS = np.empty(0), np.empty(0, np.uint32)
READ_TOGETHER = 64  # pictures of a video that is read from its start to its end
MOST_FOLDERS = 10_000  # that are known to be in no packed folder
MEND_SHARD = "copy the shard again, or pack again"

TABLES = """
PRAGMA page_size = 16384; -- rows of videos of 10 s do not fill the half of a usual page
CREATE TABLE shards (shard TEXT PRIMARY KEY, num_bytes INTEGER, checksum INTEGER);
CREATE TABLE videos (
    name BLOB PRIMARY KEY, number INTEGER, shard TEXT, offset INTEGER, height INTEGER, width INTEGER, fps REAL, start_s REAL,
    times_s BLOB, joints BLOB, picture_names BLOB, sizes BLOB, checksums BLOB, reason TEXT, checksum INTEGER
);
"""
INSERT_SHARD = "INSERT INTO shards VALUES (?, ?, ?)"
INSERT_VIDEO = f"INSERT INTO videos VALUES ({', '.join('?' * 15)})"


class PackedRow(NamedTuple):
    """What the index says of a video with N pictures.

    name: its path as the manifests have it, in the bytes of the file system. number: of its entries. shard: name of the
    file. offset: of the first picture's entry. height, width: of all pictures; 0 if there are none. fps, start_s, times_s,
    joints, picture_names: as in `VideoSource`; images and folders of frames, which have no rate, have fps None and no times.
    sizes, checksums: (N,) uint32, bytes of each JPEG file and their CRC-32; 0 where a picture could not be decoded.
    reason: why the video or some of its pictures could not be read; '' if all could be.
    """

    name: bytes
    number: int
    shard: str
    offset: int = 0
    height: int = 0
    width: int = 0
    fps: float | None = None
    start_s: float = 0.0
    times_s: NDArray[np.float64] = NO_TIMES
    joints: Sequence[int] = ()
    picture_names: Sequence[str] | None = None
    sizes: NDArray[np.uint32] = NO_NUMBERS
    checksums: NDArray[np.uint32] = NO_NUMBERS
    reason: str = ""

    def starts(self) -> NDArray[np.int64]:
        """(N,) places of the first bytes of the pictures in the shard."""
        contents = -(-self.sizes.astype(np.int64) // BLOCK) * BLOCK
        padded = np.where(contents > 0, BLOCK + contents, 0)
        return np.asarray(self.offset + BLOCK + np.cumsum(padded) - padded)

    def entry(self, picture: int) -> str:
        """The name of a picture's entry in the archive."""
        return f"{self.number:08d}.{picture:06d}.jpg"

    def cells(self) -> tuple[object, ...]:
        """The row as the database stores it, with a checksum of all cells last."""
        names = None if self.picture_names is None else json.dumps(list(self.picture_names)).encode()
        arrays = (self.times_s.astype("<f8"), np.asarray(self.joints, "<i8"))
        times_s, joints = (array.tobytes() for array in arrays)
        sizes, checksums = (array.astype("<u4").tobytes() for array in (self.sizes, self.checksums))
        where = (self.name, self.number, self.shard, self.offset, self.height, self.width, self.fps, self.start_s)
        cells = (*where, times_s, joints, names, sizes, checksums, self.reason)
        return (*cells, _checksum(cells))

    @classmethod
    def of(cls, cells: Sequence[Any]) -> PackedRow:
        """The opposite of `cells`. Raises ValueError for cells that have changed since."""
        *cells, checksum = cells
        if _checksum(cells) != checksum:
            raise ValueError("a row is damaged")
        *where, times_s, joints, names, sizes, checksums, reason = cells
        times, after = np.frombuffer(times_s, "<f8"), np.frombuffer(joints, "<i8").tolist()
        pictures = None if names is None else json.loads(names)
        counts = (np.frombuffer(numbers, "<u4") for numbers in (sizes, checksums))
        return cls._make((*where, times, after, pictures, *counts, reason))


def _checksum(cells: Sequence[object]) -> int:
    """CRC-32 of the cells of a row."""
    return zlib.crc32(repr(tuple(cells)).encode())


class ShardFile(NamedTuple):
    """What the index says of a shard. checksum: CRC-32 of the whole file."""

    shard: str
    num_bytes: int
    checksum: int


def write_index(file: Path, shard: ShardFile, rows: Iterable[PackedRow]) -> None:
    """Write a new index with the videos of one shard."""
    with closing(sqlite3.connect(file)) as database, database:
        database.executescript(TABLES)
        database.execute(INSERT_SHARD, shard)
        database.executemany(INSERT_VIDEO, (row.cells() for row in rows))


def merge_indexes(file: Path, parts: Iterable[Path]) -> None:
    """Write a new index with the videos of all these. Raises sqlite3.Error."""
    with closing(sqlite3.connect(file)) as database, database:
        database.executescript(TABLES)
        for part in parts:
            with closing(open_index(part)) as rows:
                database.executemany(INSERT_SHARD, rows.execute("SELECT * FROM shards"))
                database.executemany(INSERT_VIDEO, rows.execute("SELECT * FROM videos"))


def open_index(file: Path) -> sqlite3.Connection:
    """An index to read from, which nobody changes. Raises sqlite3.Error."""
    name = quote(os.fsencode(os.path.abspath(file)))
    return sqlite3.connect(f"file:{name}?mode=ro&immutable=1", uri=True, check_same_thread=False)


class Pack:
    """A packed folder. Raises `UserError` for one that cannot be read."""

    def __init__(self, folder: Path) -> None:
        self.folder, file = folder, folder / PACK_FILE
        try:
            content = upgrade("packed clips", json.loads(file.read_text(encoding="utf-8")), file)
            self.shards = f"{content.get('location') or os.path.abspath(folder)}/{SHARDS}"
        except OSError as error:
            raise UserError(f"{file}: cannot be read ({error.strerror or error})") from None
        except ValueError as error:
            raise UserError(f"{file}: is damaged ({first_line(error)}); copy it again, or pack again") from None
        self._process = -1
        self._index: sqlite3.Connection | None = None

    def row(self, path: Path) -> PackedRow | None:
        """What the index says of the video at this path below the folder; None if it has none there."""
        name = os.fsencode(Path(os.path.abspath(path)).relative_to(self.folder).as_posix())
        try:
            if self._process != os.getpid():  # a connection must not be used in a forked process
                self._index = open_index(self.folder / INDEX_FILE)
                self._process = os.getpid()
            assert self._index is not None
            cells = self._index.execute("SELECT * FROM videos WHERE name = ?", (name,)).fetchone()
            return None if cells is None else PackedRow.of(cells)
        except (sqlite3.Error, ValueError) as error:
            raise UserError(
                f"{self.folder / INDEX_FILE}: cannot be read ({first_line(error)}); copy it again, or pack again"
            ) from None


class PackedVideo(VideoSource):
    """A video of a packed folder, with the pictures and times that the file had. Raises `VideoError` if it has none.

    frames_fps: pictures per second of what was a folder of frames or an image.
    """

    def __init__(self, path: Path, shards: str, row: PackedRow, frames_fps: float) -> None:
        if len(row.sizes) == 0:
            raise VideoError(path, row.reason)
        self.path, self._row, self._shard, self._starts = path, row, f"{shards}/{row.shard}", row.starts()
        self.fps = row.fps or frames_fps
        self.times_s = row.times_s if row.fps else np.arange(len(row.sizes)) / frames_fps
        self.start_s, self.joints, self.picture_names = row.start_s, row.joints, row.picture_names

    def read(self, indices: Sequence[int] | NDArray[np.int64]) -> Pixels:
        wanted, places = np.unique(self._checked(indices), return_inverse=True)
        pictures = self._load(wanted)
        return pictures if np.array_equal(places, np.arange(len(wanted))) else pictures[places]

    def frames(self, first: int = 0) -> Iterator[tuple[float, Pixels]]:
        for start in range(first, self.num_frames, READ_TOGETHER):
            numbers = np.arange(start, min(start + READ_TOGETHER, self.num_frames))
            broken = np.flatnonzero(self._row.sizes[numbers] == 0)
            sound = numbers[: broken[0]] if len(broken) else numbers
            pictures = self._load(sound) if len(sound) else ()
            yield from zip(self.times_s[sound].tolist(), pictures, strict=True)
            if len(sound) < len(numbers):
                raise VideoError(self.path, self._row.reason)

    @property
    def shape(self) -> tuple[int, int]:
        return self._row.height, self._row.width

    def _load(self, numbers: NDArray[np.int64]) -> Pixels:
        """The pictures of these ascending numbers, (len(numbers), H, W, 3)."""
        row = self._row
        sizes, starts = row.sizes[numbers].tolist(), self._starts[numbers].tolist()
        if 0 in sizes:
            raise VideoError(self.path, row.reason)
        spans = [(start, start + size) for start, size in zip(starts, sizes, strict=True)]
        try:
            contents = read_spans(self._shard, spans)
        except OSError as error:
            reason = error.strerror or first_line(error)
            if isinstance(error, FileNotFoundError):
                reason = f"no such file; {MEND_SHARD}"
            raise VideoError(self.path, f"{self._shard}, entry {row.entry(int(numbers[0]))}: {reason}") from None
        pictures = np.empty((len(numbers), row.height, row.width, 3), np.uint8)
        checksums = row.checksums[numbers].tolist()
        for picture, number, content, size, checksum in zip(
            pictures, numbers.tolist(), contents, sizes, checksums, strict=True
        ):
            if len(content) < size:
                raise self._damaged(number, f"the shard ends after {len(content)} of {size} bytes")
            if zlib.crc32(content) != checksum:
                raise self._damaged(number, "its checksum is another one")
            try:
                decoded = simplejpeg.decode_jpeg(content, buffer=picture)
            except ValueError as error:
                raise self._damaged(number, first_line(error)) from None
            if decoded.shape != picture.shape:
                raise self._damaged(number, f"{decoded.shape[1]}x{decoded.shape[0]} px, not {row.width}x{row.height}")
        return pictures

    def _damaged(self, number: int, what: str) -> VideoError:
        where = f"{self._shard}, entry {self._row.entry(number)}"
        return VideoError(self.path, f"{where}: damaged: {what}; {MEND_SHARD}")


# Folder -> time of change and size of its pack.json, and the pack.
_PACKS: dict[Path, tuple[tuple[int, int], Pack]] = {}
# Folders with videos that are not packed, and those above them: none becomes a packed folder, which is empty at first.
_ORDINARY: set[Path] = set()


def pack_of(path: Path) -> Pack | None:
    """The packed folder that a path lies in; None if it lies in none. Raises `UserError` for one that cannot be read."""
    path, without = Path(os.path.abspath(path)), []
    for folder in path.parents:
        if folder in _ORDINARY:
            break
        try:
            status = os.stat(folder / PACK_FILE)
        except OSError:
            without.append(folder)
            continue
        known, state = _PACKS.get(folder), (status.st_mtime_ns, status.st_size)
        if known is None or known[0] != state:
            known = _PACKS[folder] = state, Pack(folder)
        return known[1]
    if not without:
        return None
    is_there = path.exists()
    lacking = next((each for each in without if (each / INDEX_FILE).is_file() and (each / SHARDS).is_dir()), None)
    if lacking is not None and not is_there:
        raise UserError(
            f"{lacking}: is packed data whose {PACK_FILE} is missing: packing has not ended, or the file was not copied; run "
            "the same `svfap pack` again, or copy the file there"
        )
    if lacking is None and is_there and len(_ORDINARY) < MOST_FOLDERS:
        _ORDINARY.update(without)
    return None


def _find(path: Path) -> tuple[Pack, PackedRow] | None:
    """The packed folder of a path, and what its index says of it; None for a path that is not packed. Raises `UserError`."""
    pack = pack_of(path)
    row = None if pack is None else pack.row(path)
    return None if pack is None or row is None else (pack, row)


def packed_row(path: Path) -> PackedRow | None:
    """What the index of a packed folder says of a path; None for a path that is not packed. Raises `UserError`."""
    found = _find(path)
    return None if found is None else found[1]


def open_packed(path: Path, frames_fps: float) -> PackedVideo | None:
    """A packed video; None for a path that is not packed. Raises `VideoError` for one that could not be read when packed."""
    found = _find(path)
    return None if found is None else PackedVideo(path, found[0].shards, found[1], frames_fps)


def is_there(path: Path) -> bool:
    """Whether there is a file or folder of this name, or a packed video."""
    return packed_row(path) is not None or on_disk(path).exists()
