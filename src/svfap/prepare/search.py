"""Clips that lie anywhere below a folder, found by their names."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import PurePosixPath

from svfap.errors import UserError
from svfap.prepare.dataset import Release


def clips_below(release: Release, folder: str, name: re.Pattern[str]) -> dict[str, str]:
    """Clip -> path of its video or folder of frames, for all whose name matches; the pattern's first group is the clip.

    Raises `UserError` where a clip is there twice.
    """
    found: dict[str, str] = {}
    for path in entries_below(release, folder, name):
        match = name.fullmatch(PurePosixPath(path).name)
        if match and found.setdefault(match[1], path) != path:
            raise UserError(
                f"{release.root}: clip {match[1]} is both {found[match[1]]} and {path}; give the folder of one with --media"
            )
    return found


def entries_below(release: Release, folder: str, clip: re.Pattern[str]) -> Iterator[str]:
    """Paths of all files and folders below `folder`; those that are clips are not looked into, as they hold frames."""
    files, folders = release.scan(folder)
    yield from files
    for path in folders:
        yield path
        if not clip.fullmatch(PurePosixPath(path).name):
            yield from entries_below(release, path, clip)
