"""Lists of videos: files, folders, images, folders of frames, and manifests whose columns come along."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from svfap.data.find import is_left_out, missing, on_disk, walk
from svfap.data.manifest import Manifest, read_whole_manifest
from svfap.data.manifest_rows import BOX_COLUMNS, SPAN_COLUMNS
from svfap.data.suffixes import PICTURE_SUFFIXES, VIDEO_SUFFIXES
from svfap.errors import UserError
from svfap.files import MANIFEST_SUFFIXES


class Sources(NamedTuple):
    """Samples without labels, with absolute paths, and as many rows of columns.

    columns: `path` as the user wrote it, and every other column of the manifests, as text, '' where a source has none.
    manifests: for each sample, the manifest that it is a row of, or None.
    """

    samples: Manifest
    columns: pd.DataFrame
    manifests: list[Path | None]


def read_sources(
    sources: str | Path | Sequence[str | Path],
    *,
    root: str | Path | None = None,
    split: str | None = None,
    skip: Path | None = None,
) -> Sources:
    """Collect the samples of one or several sources, in the order given.

    A source is a video file, an image, a manifest (.csv, .txt), or a folder. A folder is searched for videos
    (`VIDEO_SUFFIXES`) at any depth, in the order of their names, without hidden files and those of systems (`@eaDir`,
    `Thumbs.db`, …); if it contains none, the images directly in it are the frames of one video.

    root, split: how manifests are read, as in `svfap.data.manifest.read_manifest`. skip: a folder that is not searched.
    Raises `UserError` for a source that does not exist, a folder without videos and images, a sample that is given
    twice, and root or split without a manifest.
    """
    sources = [sources] if isinstance(sources, str | Path) else sources
    if not sources:
        raise UserError("no videos are given")
    manifests = [source for source in sources if _is_manifest(Path(source))]
    if not manifests and (root is not None or split is not None):
        raise UserError("`root` and `split` are for manifests, and none is given")
    tables, columns = [], []
    listed: list[Path | None] = []
    for source in sources:
        if source in manifests:
            manifest, text = read_whole_manifest(source, root=root, split=split)
            manifest.require_files()
            tables.append(manifest.table.assign(path=_texts(str(manifest.root / path) for path in text["path"])))
        else:
            text = pd.DataFrame({"path": _texts(_videos_of(Path(source), skip))})
            tables.append(text)
        columns.append(text)
        listed += [Path(source) if source in manifests else None] * len(text)
    table = pd.concat(tables, ignore_index=True)
    table["path"] = _texts(os.path.abspath(path) for path in table["path"])
    table = table[[name for name in ("path", *SPAN_COLUMNS, *BOX_COLUMNS) if name in table]]
    repeated = table.duplicated().to_numpy()
    if repeated.any():
        raise UserError(f"{table['path'][repeated].iloc[0]}: comes twice; give every video or sample once")
    text = pd.concat(columns, ignore_index=True).fillna("")
    return Sources(Manifest(Path(sources[0]), Path(), table), text, listed)


def _texts(names: Iterable[str]) -> pd.Series:
    """A column of Python's own strings: pandas' strings are UTF-8, and the names of files need not be."""
    return pd.Series(list(names), dtype=object)


def _is_manifest(source: Path) -> bool:
    return source.suffix.lower() in MANIFEST_SUFFIXES and not source.is_dir()


def _videos_of(source: Path, skip: Path | None) -> list[str]:
    """Paths of the videos of a source that is not a manifest, at least one."""
    if not (found := on_disk(source)).exists():
        raise UserError(f"{source}: {missing(source)}")
    if not found.is_dir():
        return [str(source)]
    videos = [str(path) for path in find_videos(found, skip)]
    names = [name for name in os.listdir(found) if not is_left_out(name)]
    if not videos and any(name.lower().endswith(PICTURE_SUFFIXES) for name in names):
        return [str(source)]
    if not videos:
        suffixes = ", ".join(VIDEO_SUFFIXES)
        raise UserError(f"{source}: holds no videos ({suffixes}) and no images that could be its frames")
    return videos


def find_videos(folder: Path, skip: Path | None = None) -> Iterator[Path]:
    """Videos (`VIDEO_SUFFIXES`) below a folder at any depth, in the order of their names; see `svfap.data.find.walk`.

    skip: a folder that is not searched.
    """
    skipped = None if skip is None else os.path.abspath(skip)
    for place, folders, names in walk(folder):
        folders[:] = [name for name in folders if os.path.abspath(place / name) != skipped]
        yield from (place / name for name in names if name.lower().endswith(VIDEO_SUFFIXES))
