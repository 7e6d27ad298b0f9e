"""Files and folders that appear whole or not at all."""

from __future__ import annotations

import glob
import hashlib
import os
import re
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import TextIOWrapper
from pathlib import Path

from svfap.errors import UserError

MANIFEST_SUFFIXES = (".csv", ".txt")  # in lower case


def write_atomically(path: str | Path, content: str | bytes) -> None:
    """Write a file under a temporary name beside it, then rename: readers see the old file or the whole new one.

    Raises `UserError` where it cannot be written.
    """
    with writing_atomically(Path(path)) as file:
        file.buffer.write(content.encode() if isinstance(content, str) else content)


@contextmanager
def writing_atomically(path: Path) -> Iterator[TextIOWrapper]:
    """A UTF-8 file to write to, in place whole once the block ends without an error. Raises `UserError`."""
    with replacing_file(path) as part, open(part, "w", encoding="utf-8", newline="") as file:
        yield file


def temporary_name(path: Path) -> Path:
    """A name beside `path` to write under until the file is whole; unique among machines, see `remove_abandoned`."""
    return path.with_name(f".{path.stem}.{os.getpid()}-{secrets.token_hex(4)}{path.suffix}")


@contextmanager
def replacing_file(path: Path) -> Iterator[Path]:
    """A name beside `path` for another writer, in place whole once the block ends without an error.

    Raises `UserError` where it cannot be written.
    """
    part = temporary_name(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield part
        os.replace(part, path)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror or error}); choose another place") from None
    finally:
        with suppress(OSError):  # such as where the folder is a file
            part.unlink()


def remove_abandoned(target: Path) -> None:
    """Remove the files of a `temporary_name` beside `target`, of names like its own, whose process was killed."""
    for path in target.parent.glob(f".{glob.escape(target.stem)}*"):
        if (found := re.search(r"\.(\d+)-[0-9a-f]{8}\.\w+$", path.name)) and not _is_alive(int(found[1])):
            with suppress(OSError):
                path.unlink()


def _is_alive(process: int) -> bool:
    """Whether a process of this number runs on this machine."""
    if os.name == "nt":  # where os.kill ends the process
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True
    return True


def check_new(out: Path, overwrite: bool) -> None:
    """Raise `UserError` if there is a file of results already, unless it is to be overwritten."""
    if out.exists() and out.stat().st_size > 0 and not overwrite:
        raise UserError(
            f"{out}: exists; choose another --out, or --overwrite to replace it (in Python: out=…, overwrite=True)"
        )


def make_folder(folder: Path) -> None:
    """Make a folder for results and check that it can be written to. Raises `UserError`."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UserError(f"out={folder}: cannot write there ({error.strerror}); choose another folder") from None


@contextmanager
def replacing_folder(folder: Path) -> Iterator[Path]:
    """Write a folder under a temporary name and put it in place whole, once the block ends without an error.

    A stop between the two renames leaves the former folder as `NAME.old`; see `recover_folder`.
    """
    fresh, old = (folder.with_name(folder.name + suffix) for suffix in (".new", ".old"))
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    try:
        yield fresh
    except BaseException:
        shutil.rmtree(fresh, ignore_errors=True)  # it takes the room that a full disk lacks
        raise
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    fresh.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def recover_folder(folder: Path) -> None:
    """Give a folder its name back if a stop came while it was being replaced."""
    old = folder.with_name(folder.name + ".old")
    if not folder.exists() and old.exists():
        old.rename(folder)


class BeingWritten(UserError):
    """Another process has the lock of `only_writer`."""


@contextmanager
def only_writer(target: Path) -> Iterator[None]:
    """Keep other processes from writing `target`, a file or folder, until the block ends; its parent folder must exist.

    The lock is the file `.NAME.lock` beside the target; it ends with the process. Raises `BeingWritten` if another process has
    it. Where the file system or the platform has no locks, nothing is checked.
    """
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    path = Path(os.path.abspath(target))  # "." has no name
    file = path.parent / f".{path.name}.lock"
    while True:
        try:
            handle = os.open(file, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise UserError(f"{target}: cannot be written ({error.strerror or error}); choose another place") from None
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(handle)
            raise BeingWritten(
                f"{target}: is being written by another run; wait for it, or choose another place"
            ) from None
        except OSError:  # a network file system without locks
            break
        if file.exists() and file.stat().st_ino == os.fstat(handle).st_ino:
            break
        os.close(handle)  # the run before removed the file in the meantime
    try:
        yield
    finally:
        file.unlink(missing_ok=True)
        os.close(handle)


def is_being_written(target: Path) -> bool:
    """Whether a process has the lock of `only_writer`; False where that cannot be known."""
    path = Path(os.path.abspath(target))
    try:
        import fcntl

        with open(path.parent / f".{path.name}.lock") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except (ImportError, OSError):
        pass
    return False


def file_digest(file: Path, digits: int = 16) -> str:
    """The first hexadecimal digits, of 64, of the SHA-256 of a file's content."""
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()[:digits]


def printable(name: object) -> str:
    """A file name as valid text: bytes that are not UTF-8 become escapes such as \\udce9, so that tables can hold them."""
    return str(name).encode("utf-8", "backslashreplace").decode()
