"""Files that stand for videos where only names matter: `svfap prepare` opens those that are too small to be a video."""

from __future__ import annotations

from pathlib import Path

from svfap.datasets.dataset import PLACEHOLDER_BYTES


def make_large(path: str | Path) -> None:
    """Create a file without content that has the size of a video; a file that is there is left as it is."""
    with open(path, "ab") as file:
        if not file.tell():
            file.truncate(PLACEHOLDER_BYTES)
