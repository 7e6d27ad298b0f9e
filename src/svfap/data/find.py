"""Find files: folders are searched without what systems put there, and names are compared as people read them."""

from __future__ import annotations

import glob
import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from unicodedata import normalize

from svfap.errors import UserError
from svfap.files import MANIFEST_SUFFIXES, printable

# What Windows, macOS, Linux and network storage put beside the files of users, in lower case.
SYSTEM_NAMES = {
    *("thumbs.db", "desktop.ini", "$recycle.bin", "system volume information", "__macosx", "lost+found"),
    *("@eadir", "#recycle", "#snapshot", "@recycle", "@recently-snapshot"),
}

LISTS = {"failures.csv", "no_face.csv", "unreadable.csv"}  # that our commands write beside manifests


def manifests_in(folder: Path) -> list[Path]:
    """The files directly in a folder that may be manifests, sorted; none where there is no such folder."""
    with suppress(OSError):
        names = (name for name in os.listdir(folder) if not is_left_out(name) and name not in LISTS)
        return [folder / name for name in sorted(names) if name.lower().endswith(MANIFEST_SUFFIXES)]
    return []


def is_left_out(name: str) -> bool:
    """Whether searches leave out a file or folder of this name: hidden ones, and those of systems."""
    return name.startswith(".") or name.lower() in SYSTEM_NAMES


def walk(folder: Path, within: Path | None = None) -> Iterator[tuple[Path, list[str], list[str]]]:
    """Yield (folder, names of its folders, names of its files) of a folder and all below it, like `os.walk`.

    Names are sorted, without those that `is_left_out`. A name removed from the list of folders is not searched. Links to
    folders elsewhere are followed, each folder once; links to a folder that is found in its own place below `within`
    (default: the folder itself), or that contains it, are not. Raises `UserError` for a folder that cannot be read.
    """
    root = os.path.realpath(within or folder)
    seen: set[str] = set()

    def refuse(error: OSError) -> None:
        raise UserError(f"{printable(error.filename or folder)}: cannot be read ({error.strerror or error})") from None

    def has_own_place(real: str) -> bool:
        inside = os.path.relpath(real, root).split(os.sep)
        return _contains(real, root) or (_contains(root, real) and not any(map(is_left_out, inside)))

    for place, folders, files in os.walk(folder, followlinks=True, onerror=refuse):
        real = os.path.realpath(place)
        back = Path(place) != Path(folder) and os.path.islink(place) and has_own_place(real)
        if back or real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not is_left_out(name))
        yield Path(place), folders, sorted(name for name in files if not is_left_out(name))


def _contains(folder: str, other: str) -> bool:
    return os.path.commonpath([folder, other]) == folder


def matching(pattern: str | Path) -> list[str]:
    """The files and folders that a pattern with *, ? or [ matches, sorted; ** stands for folders at any depth.

    Empty for a name without these, and for what exists under this very name. Raises `UserError` if nothing matches.
    """
    if not glob.has_magic(str(pattern)) or on_disk(Path(pattern)).exists():
        return []
    if not (found := sorted(glob.glob(str(pattern), recursive=True))):
        raise UserError(f"{printable(pattern)}: no file matches this pattern")
    return found


def same_text(name: str) -> str:
    """A name in one Unicode form (NFC): letters with accents may be stored as one character or as two (NFD, by macOS)."""
    return normalize("NFC", name)


def on_disk(path: Path) -> Path:
    """The path as the file is named on disk: itself, or the same name in another Unicode form if that alone is there."""
    if path.exists():
        return path
    return _alike(path, same_text) or path


def missing(path: Path) -> str:
    """Why a path cannot be opened: "no such file or folder", and which file of a similar name is there."""
    slashes = Path(str(path).replace("\\", "/"))
    if slashes != path and on_disk(slashes).exists():
        return f"no such file or folder; there is {printable(slashes)}, so write / in place of \\"
    other = _alike(path, lambda name: same_text(name).casefold())
    if other is not None and other != path:
        return f"no such file or folder; there is {printable(other)}, with letters in another case"
    return "no such file or folder"


def _alike(path: Path, key: Callable[[str], str]) -> Path | None:
    """The only existing path whose parts below the first existing folder are alike under `key`."""
    if path.exists() or path.parent == path:
        return path if path.exists() else None
    folder = _alike(path.parent, key)
    if folder is None:
        return None
    names = _names(folder, folder.stat().st_mtime_ns)
    alike = [name for name in names if key(name) == key(path.name)]
    return folder / alike[0] if len(alike) == 1 else None


@lru_cache(maxsize=8)
def _names(folder: Path, changed_ns: int) -> list[str]:
    """Names in a folder, read again when it changes: many files of one folder may be missing."""
    with suppress(OSError):
        return os.listdir(folder)
    return []
