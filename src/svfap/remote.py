"""Parts of files, on this machine or at a URL (s3://, hf://, …, through fsspec), and copies of small files from there."""

from __future__ import annotations

import hashlib
import json
import os
import re
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from svfap.errors import UserError, first_line, require_package
from svfap.files import MANIFEST_SUFFIXES, file_digest, replacing_file, write_atomically

ATTEMPTS, FIRST_WAIT_S = 4, 0.5  # of a read that fails; each wait is twice the one before
SMALLEST_GAP = 2**20  # bytes at a URL that are read and thrown away, rather than asked for in two requests
PACK_FILE = "pack.json"
LOCAL = ("file", "local")  # schemes of URLs on this machine
# Errors that another attempt does not mend.
FINAL = (FileNotFoundError, PermissionError, IsADirectoryError, ImportError)

T = TypeVar("T")


def url_of(path: str | Path) -> str | None:
    """The URL that a path was written as, of whose slashes pathlib leaves one; None for a path.

    Those of `LOCAL` name no host, so theirs are three slashes; of others text alone has three, and a `Path` never.
    """
    text = path if isinstance(path, str) else path.as_posix()
    found = re.match(r"([A-Za-z][A-Za-z0-9+.-]+):(/{1,3})(?=[^/])", text)  # a drive of Windows has one letter
    if found is None:
        return None
    slashes = "///" if found[1].lower() in LOCAL or found[2] == "///" else "//"
    return f"{found[1]}:{slashes}{text[found.end() :].rstrip('/')}"


def file_system(url: str) -> tuple[Any, str]:
    """The fsspec file system of a URL, and the path in it. Raises `UserError` if a package or the protocol is missing."""
    scheme = url.partition("://")[0]
    fsspec = require_package("fsspec", "remote", url)
    try:
        return fsspec.core.url_to_fs(url)
    except ImportError as error:  # of the package for this kind of URL
        raise UserError(
            f"{url}: needs a package that is not installed ({first_line(error)}); that for s3:// comes with "
            "pip install 'svfap[remote]'"
        ) from None
    except ValueError as error:
        raise UserError(f"{url}: {scheme}:// cannot be read ({first_line(error)})") from None


def read_spans(file: str, spans: Sequence[tuple[int, int]]) -> list[memoryview]:
    """The bytes start, ..., stop - 1 of a file, for each (start, stop), ascending and without overlap; fewer at its end.

    On this machine only these bytes are read. At a URL spans with less than `SMALLEST_GAP` between them are one request. A
    read that fails is tried again. Raises OSError, also for a file that does not exist.
    """
    url = url_of(file)
    if url is None:
        return repeatedly(lambda: _read_local(file, spans))
    groups: list[list[tuple[int, int]]] = []
    for span in spans:
        if groups and span[0] - groups[-1][-1][1] < SMALLEST_GAP:
            groups[-1].append(span)
        else:
            groups.append([span])
    found: list[memoryview] = []
    for group in groups:
        first = group[0][0]
        content = memoryview(repeatedly(lambda: fetch(url, first, group[-1][1])))  # noqa: B023 - called at once
        found += [content[start - first : stop - first] for start, stop in group]
    return found


def _read_local(file: str, spans: Sequence[tuple[int, int]]) -> list[memoryview]:
    found = []
    with open(file, "rb", buffering=0) as stream:
        for start, stop in spans:
            stream.seek(start)
            content = stream.read(stop - start) or b""
            while 0 < len(content) < stop - start and (more := stream.read(stop - start - len(content))):
                content += more
            found.append(memoryview(content))
    return found


def fetch(url: str, start: int | None = None, stop: int | None = None) -> bytes:
    """A file at a URL, or the bytes start, ..., stop - 1 of it: one request. Raises OSError."""
    system, path = file_system(url)
    from fsspec.spec import AbstractFileSystem  # after the error that names what is missing

    # Those that have no way of their own to read a range, such as hf://, open the file and would read 5 MB ahead.
    opens = not system.async_impl and type(system).cat_file is AbstractFileSystem.cat_file
    return bytes(system.cat_file(path, start=start, end=stop, **({"cache_type": "none"} if opens else {})))


def repeatedly(read: Callable[[], T]) -> T:
    """What `read` returns, tried `ATTEMPTS` times. Raises OSError, whatever the error of the last attempt."""
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return read()
        except (*FINAL, UserError):
            raise
        except Exception as error:  # each file system has errors of its own
            if attempt == ATTEMPTS:
                raise OSError(f"{first_line(error)}, {ATTEMPTS} times") from None
        time.sleep(FIRST_WAIT_S * 2 ** (attempt - 1))
    raise AssertionError


def local_copy(url: str) -> Path:
    """Packed data at a URL as a folder on this machine, or a manifest in it: all files but the shards, which stay there.

    The copy is in the cache folder (XDG_CACHE_HOME, else ~/.cache), under svfap/packs; it is made anew when pack.json at the
    URL has changed. Raises `UserError` for a URL without packed data and for files that cannot be read.
    """
    base, _, name = url.rpartition("/") if url.lower().endswith(MANIFEST_SUFFIXES) else (url, "", "")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "svfap" / "packs"
    folder = cache / re.sub(r"[^\w./-]+", "_", base.replace("://", "/"))
    try:
        described = repeatedly(lambda: fetch(f"{base}/{PACK_FILE}"))
        content = json.loads(described)
        files: dict[str, str] = content["files"]
    except FileNotFoundError:
        raise UserError(f"{base}: holds no {PACK_FILE}; at a URL there must be what `svfap pack` wrote") from None
    except OSError as error:
        raise UserError(f"{base}/{PACK_FILE}: cannot be read ({first_line(error)})") from None
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{base}/{PACK_FILE}: is damaged ({first_line(error)}); copy the packed folder there again"
        ) from None
    if name and name not in files:
        raise UserError(f"{url}: no such manifest; {base} has {', '.join(file for file in files if '.csv' in file)}")
    content |= {"location": base, "digest": hashlib.sha256(described).hexdigest()}
    copy, text = folder / PACK_FILE, json.dumps(content, indent=2) + "\n"
    if not copy.is_file() or copy.read_bytes() != text.encode():
        for file, digest in files.items():
            _download(f"{base}/{file}", folder / file, digest)
        write_atomically(copy, text)
    return folder / name


def place_of(folder: Path) -> str:
    """What a user calls a folder: the URL of which it is the copy on this machine, else its path."""
    try:
        return str(json.loads((folder / PACK_FILE).read_text()).get("location", folder))
    except (OSError, ValueError, AttributeError):
        return str(folder)


def _download(url: str, target: Path, digest: str) -> None:
    """Copy a file with this digest, unless it is there already. Raises `UserError`."""
    if target.is_file() and file_digest(target) == digest:
        return

    def download(part: Path) -> None:
        system, path = file_system(url)
        system.get_file(path, str(part))

    with replacing_file(target) as part:
        try:
            repeatedly(lambda: download(part))
        except OSError as error:
            raise UserError(f"{url}: cannot be read ({first_line(error)})") from None
        if file_digest(part) != digest:
            raise UserError(f"{url}: is not the file that {PACK_FILE} describes; copy the packed folder there again")
