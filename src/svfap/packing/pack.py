"""A prepared dataset, or the videos of a manifest, as the same data with JPEG frames in shards."""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np
import pandas as pd

from svfap.console import track
from svfap.data.find import manifests_in, on_disk
from svfap.data.manifest import Manifest, read_whole_manifest
from svfap.data.manifest_rows import BOX_COLUMNS
from svfap.data.packed import INDEX_FILE, SHARDS, merge_indexes, open_index, pack_of
from svfap.data.prepared import (
    CROP_FILE,
    DATASET_FILE,
    Fold,
    PreparedDataset,
    find_crops,
    read_dataset,
    write_dataset_file,
)
from svfap.data.suffixes import PICTURE_SUFFIXES, VIDEO_SUFFIXES
from svfap.errors import UserError, first_line
from svfap.files import (
    file_digest,
    make_folder,
    only_writer,
    printable,
    replacing_file,
    write_atomically,
)
from svfap.formats import stamped
from svfap.jobs.run import FAILURES, SETTINGS, has_settings, result_of, run_jobs, write_failures
from svfap.packing.config import PackConfig
from svfap.packing.shards import Shard, is_complete, pack_shard
from svfap.remote import PACK_FILE, url_of

RECORDS = "records"
ANOTHER_FOLDER = "remove the whole folder, or choose another"


class Packed(NamedTuple):
    """What a packed folder holds.

    source: the dataset.json or the manifest to train on. num_videos, num_frames, num_bytes: videos, frames and bytes in all
    shards, without what could not be read. failures: name of a video -> why it, or some of its frames, could not be read.
    """

    source: Path
    num_videos: int
    num_frames: int
    num_bytes: int
    failures: dict[str, str]


class _Part(NamedTuple):
    """A manifest: its name in the packed folder, its samples, and its rows as text."""

    name: str
    samples: Manifest
    text: pd.DataFrame


def pack(source: str | Path, config: PackConfig) -> Packed:
    """Write every video of a prepared dataset or a manifest as JPEG frames into shards, and the same manifests beside them.

    source: a folder of `svfap prepare` (or `svfap crop --dataset`, `svfap synth`), or a manifest. `config.out` can then be given
    wherever the folder could, or the manifest in it wherever that could: rows, labels and folds are the same, and from the same
    pictures and time stamps the same frames are sampled. A video is packed whole, and once, however many rows have spans or
    boxes of it. Files of values per frame and crop.json come along.

    A video that cannot be read keeps its rows, and is unreadable in training, too; it is listed in failures.csv. Another run
    reads all shards, and writes those again that are not complete to the last byte, or have failures. Raises `UserError`, also
    for a folder with something else, for files in it that were edited, for videos that are packed already, and if a shard
    cannot be written.
    """
    out = Path(os.path.abspath(config.out))
    if (url := url_of(source)) is not None and not Path(source).exists():
        raise UserError(f"{url}: is a URL; videos are packed from this machine, so copy them here first")
    dataset, parts = _read(Path(source), config.root)
    if config.size_px is not None and any(name in part.samples.table for part in parts for name in BOX_COLUMNS):
        raise UserError(f"size_px={config.size_px}: a manifest has boxes, in pixels of the videos; leave size_px out")
    config = replace(config, out=out, root=None)
    _require_own(out)
    make_folder(out)
    with only_writer(out / PACK_FILE):
        return _pack(str(source), dataset, parts, config)


def _pack(source: str, dataset: PreparedDataset | None, parts: list[_Part], config: PackConfig) -> Packed:
    out = config.out
    names = packed_names(part.samples for part in parts)
    shards = _shards(names, config.videos_per_shard)
    settings = {"videos": os.path.abspath(source), "quality": config.quality, "size_px": config.size_px}
    settings |= {"videos_per_shard": config.videos_per_shard}
    has_settings(out / RECORDS / SETTINGS, settings, ANOTHER_FOLDER, where=out)  # before anything is changed
    _require_unedited(source, out)
    _forget_incomplete(shards, config)
    (out / PACK_FILE).unlink(missing_ok=True)  # what is half written is not read
    (out / SHARDS).mkdir(exist_ok=True)
    for file in (out / SHARDS).iterdir():
        if file.name not in shards:
            file.unlink()  # left behind by an interrupted run, or of videos that are not in the manifests any more
    failed = run_jobs(
        partial(pack_shard, config), shards.items(), out / RECORDS,
        settings=settings, jobs=config, description="packing shards", total=len(shards),
    )  # fmt: skip
    (out / RECORDS / FAILURES).unlink(missing_ok=True)  # it is written beside the manifests instead
    if failed:
        write_failures(out / FAILURES, failed, ("source", "reason"))
        first, reason = next(iter(failed.items()))
        raise UserError(
            f"{out}: {len(failed)} of {len(shards)} shards could not be written, such as {first} ({reason}); they are listed in "
            f"{FAILURES}, and the same command goes on with them"
        )
    with replacing_file(out / INDEX_FILE) as part:
        try:
            merge_indexes(part, (result_of(out / RECORDS, name) for name in shards))
        except sqlite3.Error as error:
            raise UserError(f"{out / INDEX_FILE}: cannot be written ({first_line(error)})") from None
    counts, failures = _counts(out / INDEX_FILE)
    write_failures(out / FAILURES, failures, ("source", "reason"))
    files = _write_crop_files(parts, names, out) | _write_manifests(parts, names, out)
    if dataset is not None:
        _write_dataset(dataset, source, out)
    main = DATASET_FILE if dataset is not None else parts[0].name
    about = {"packed_from": source, "main": main, "quality": config.quality, "size_px": config.size_px, **counts}
    digests = {name: file_digest(out / name) for name in (main, INDEX_FILE, *sorted(files - {main}))}
    content = stamped("packed clips", {**about, "files": digests})
    write_atomically(out / PACK_FILE, json.dumps(content, indent=2, ensure_ascii=False) + "\n")
    return Packed(out / main, counts["num_videos"], counts["num_frames"], counts["num_bytes"], failures)


def _read(source: Path, root: Path | None) -> tuple[PreparedDataset | None, list[_Part]]:
    """The dataset in a folder, or None, and its manifests, or the one that is given. Raises `UserError`."""
    if source.is_dir():
        if not (source / DATASET_FILE).is_file():
            found = manifests_in(source)
            hint = f"give its manifest, {found[0]}" if found else "give a manifest of its videos"
            raise UserError(f"{source}: holds no {DATASET_FILE}, so it is no folder of `svfap prepare`; {hint}")
        if root is not None:
            raise UserError(f"root={root}: is for a manifest; a dataset knows its own")
        dataset = read_dataset(source)
        read = {name: read_whole_manifest(path, root=dataset.root) for name, path in dataset.manifests().items()}
        parts = [_Part(f"{name}.csv", *part) for name, part in read.items()]
    elif source.suffix.lower() in (*VIDEO_SUFFIXES, *PICTURE_SUFFIXES):
        raise UserError(f"{source}: is no manifest; give a CSV with a column path that lists the videos")
    else:
        dataset = None
        parts = [_Part(f"{source.stem}.csv", *read_whole_manifest(source, root=root))]
    for part in parts:
        part.samples.require_files()
        if pack := next(filter(None, (pack_of(folder / PACK_FILE) for folder in part.samples.folders)), None):
            raise UserError(
                f"{part.samples.path}: has videos of {pack.folder}, which are packed already; their frames would lose quality a "
                "second time, so pack the videos that they were made of"
            )
    return dataset, parts


def _require_own(out: Path) -> None:
    """Raise `UserError` if a folder holds anything, and not what an earlier run has written there."""
    if out.exists() and not out.is_dir():
        raise UserError(f"out={out}: is a file; give a folder")
    held = [name for name in os.listdir(out) if not name.startswith(".")] if out.is_dir() else []
    if (out / RECORDS / SETTINGS).is_file():
        return
    if {PACK_FILE, SHARDS, RECORDS} & set(held):
        raise UserError(
            f"out={out}: holds packed data without {RECORDS}/{SETTINGS}, which another run needs; {ANOTHER_FOLDER}"
        )
    if held:
        raise UserError(f"out={out}: holds other things ({', '.join(sorted(held)[:3])}); choose another folder")


def _require_unedited(source: str, out: Path) -> None:
    """Raise `UserError` if a file beside the shards is not as an earlier run has written it: this run would overwrite it."""
    try:
        files: dict[str, str] = json.loads((out / PACK_FILE).read_text(encoding="utf-8"))["files"]
    except (OSError, ValueError, KeyError, TypeError):
        return
    for name, digest in files.items():
        file = out / name
        if name != INDEX_FILE and file.is_file() and file_digest(file) != digest:
            raise UserError(
                f"{file}: was changed since it was packed, and would be written again; make the change in {source}, and remove "
                "this file or move it elsewhere"
            )


def packed_names(manifests: Iterator[Manifest] | Sequence[Manifest]) -> dict[str, tuple[str, Path]]:
    """Path as manifests have it -> its name in the packed folder, the same if it lies below the root, and the file.

    Of other paths the beginning, / or .., is left out, and a name that is taken then gets a number of 12 hexadecimal digits.
    """
    files: dict[str, Path] = {}
    for manifest in manifests:
        for cell in dict.fromkeys(manifest.table["path"]):
            files.setdefault(str(cell), manifest.root / str(cell))
    inside = {cell: _inside(cell) for cell in files}
    taken = {name for cell, name in inside.items() if name == cell}
    for cell, name in inside.items():
        if name != cell:
            if name in taken:
                path = PurePosixPath(name)
                number = hashlib.sha256(cell.encode("utf-8", "surrogateescape")).hexdigest()[:12]
                inside[cell] = str(path.with_name(f"{path.stem}-{number}{path.suffix}"))
            taken.add(inside[cell])
    return {cell: (inside[cell], file) for cell, file in files.items()}


def _inside(cell: str) -> str:
    """A path without what leads out of the folder that it is relative to."""
    path = PurePosixPath(cell)
    return str(PurePosixPath(*(part for part in path.parts if part not in (path.anchor, ".."))))


def _shards(names: dict[str, tuple[str, Path]], videos_per_shard: int) -> dict[str, Shard]:
    """The shards by name, with all videos in the order of their manifests."""
    videos = [(os.fsencode(name), file) for name, file in names.values()]
    shards = (
        Shard(f"shard-{start // videos_per_shard:06d}.tar", start, videos[start : start + videos_per_shard])
        for start in range(0, len(videos), videos_per_shard)
    )
    return {shard.name: shard for shard in shards}


def _forget_incomplete(shards: dict[str, Shard], config: PackConfig) -> None:
    """Remove the records of shards that are not complete, so that they are written again. Reads all shards."""
    records = {name: record for name in shards if (record := result_of(config.out / RECORDS, name)).exists()}
    if not records:
        return
    threads = ThreadPoolExecutor(max(config.num_workers, 1))  # a checksum leaves other threads running
    try:
        complete = threads.map(lambda name: is_complete(records[name], shards[name], config.out), records)
        for record, is_whole in track(zip(records.values(), complete, strict=True), "checking shards", len(records)):
            if not is_whole:
                record.unlink()
    finally:
        threads.shutdown(cancel_futures=True)


def _counts(index: Path) -> tuple[dict[str, int], dict[str, str]]:
    """Numbers of videos, of frames that are packed, of bytes and of shards; name -> reason of what could not be read."""
    with closing(open_index(index)) as database:
        count = "SELECT COUNT(*), SUM(LENGTH(sizes)) / 4 FROM videos WHERE LENGTH(sizes) > 0"
        num_videos, num_frames = database.execute(count).fetchone()
        num_shards, num_bytes = database.execute("SELECT COUNT(*), SUM(num_bytes) FROM shards").fetchone()
        unread = database.execute("SELECT name, reason, sizes FROM videos WHERE reason != ''").fetchall()
    num_frames = (num_frames or 0) - sum(int((np.frombuffer(sizes, "<u4") == 0).sum()) for _, _, sizes in unread)
    counts = {"num_videos": num_videos, "num_frames": num_frames, "num_shards": num_shards, "num_bytes": num_bytes}
    failures = {printable(os.fsdecode(name)): reason for name, reason, _ in unread}
    return {**counts, "num_unreadable": len(failures)}, failures


def _write_manifests(parts: list[_Part], names: dict[str, tuple[str, Path]], out: Path) -> set[str]:
    """Write the manifests and copies of their files of values per frame; the names of all."""
    written = set()
    for name, samples, text in parts:
        text = text.assign(path=[names[cell][0] for cell in text["path"]])
        if "frame_values" in text:
            for cell in filter(None, dict.fromkeys(text["frame_values"])):
                if (file := on_disk(samples.root / cell)).is_file():
                    write_atomically(out / _inside(cell), file.read_bytes())
                    written.add(_inside(cell))
            text["frame_values"] = [cell and _inside(cell) for cell in text["frame_values"]]
        write_atomically(out / name, text.to_csv(index=False, lineterminator="\n"))
        written.add(name)
    return written


def _write_crop_files(parts: list[_Part], names: dict[str, tuple[str, Path]], out: Path) -> set[str]:
    """Write how `svfap crop` cut the clips; the names of the files. One for all where that is the same for all videos."""
    folders = {file.parent: os.path.dirname(name) for name, file in names.values()}
    crops = {folder: next(iter(find_crops([folder], parts[0].samples.path).values())) for folder in folders}
    shared = next(iter(crops.values()))
    if all(crop == shared for crop in crops.values()):
        placed = {CROP_FILE: shared}
    else:
        placed = {str(PurePosixPath(folders[folder]) / CROP_FILE): crop for folder, crop in crops.items()}
    placed = {name: crop for name, crop in placed.items() if crop}
    for name, crop in placed.items():
        write_atomically(out / name, json.dumps(crop, indent=2) + "\n")
    return set(placed)


def _write_dataset(source: PreparedDataset, packed_from: str, out: Path) -> None:
    """Write dataset.json: the same dataset with the packed folder as its root."""

    def here(manifest: Path | None) -> Path | None:
        return None if manifest is None else Path(f"{manifest.stem}.csv")

    folds = tuple(Fold(fold.name, *map(here, (fold.train, fold.test, fold.val))) for fold in source.folds)  # type: ignore[arg-type]
    notes = {**source.notes, "packed_from": packed_from}
    write_dataset_file(out, replace(source, root=Path(), folds=folds, pretrain=here(source.pretrain), notes=notes))
