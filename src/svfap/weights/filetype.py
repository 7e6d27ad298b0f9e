"""What a file is by its first bytes, without torch: checkpoints, placeholders, web pages and archives."""

from __future__ import annotations

import re
from pathlib import Path

from svfap.errors import UserError
from svfap.settings import is_exported

PICKLES = (b"PK", b"\x80", b"L119547037146038801333356L")  # a zip archive; a pickle; the magic number in protocol 0


def require_checkpoint(path: Path) -> None:
    """Raise `UserError` for a file that is missing, cannot be read, or is no model as its beginning shows."""
    try:
        found = describe(path)
    except OSError as error:
        raise UserError(f"{path}: {(error.strerror or str(error)).lower()}") from None
    if found is not None:
        raise UserError(f"{path}: not {'an ONNX file' if is_exported(path) else 'a checkpoint'} but {found}")


def describe(path: Path) -> str | None:
    """What a file is instead of a checkpoint, and what to do, for a message; None if it may be one."""
    with path.open("rb") as file:
        start = file.read(4096)
    text = start.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if not any(start):
        return (
            "zero bytes; the download or the copy broke off, get it again" if start else "an empty file; get it again"
        )
    if start.startswith(b"version https://git-lfs"):
        return "a git-lfs pointer; run `git lfs pull` in its repository"
    if text.startswith((b"<!doctype", b"<html", b"<?xml", b"<head", b"<script")):
        title = re.search(rb"<title[^>]*>([^<]{1,80})", start, re.IGNORECASE)
        said = f" ({' '.join(title[1].decode(errors='replace').split())!r})" if title else ""
        return f"a web page{said}; open its address in a browser, and download the file itself"
    if start.startswith((b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"7z\xbc\xaf", b"Rar!", b"\x28\xb5\x2f\xfd")):
        return "a compressed file; unpack it first"
    if start[257:262] == b"ustar":
        return "a tar archive; unpack it first"
    if not start.startswith(PICKLES) and all(byte >= 32 or byte in b"\t\r\n\f" for byte in start):
        return "a text file; get the model's file again"
    return None
