"""Tables as text: which character separates the columns of a user's file."""

from __future__ import annotations

import csv
from collections.abc import Collection
from pathlib import Path

SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs"}


def separator_of(header: str, columns: Collection[str]) -> str:
    """The separator of a header line, a comma, semicolon or tab: the one that gives most of `columns`, then most cells."""
    cells = {separator: split_line(header, separator) for separator in SEPARATORS}
    return max(SEPARATORS, key=lambda sep: (len(set(cells[sep]).intersection(columns)), len(cells[sep])))  # the first


def split_line(line: str, separator: str) -> list[str]:
    """The cells of one line, stripped; none of a line that is not in CSV."""
    try:
        return [cell.strip() for cell in next(csv.reader([line.rstrip("\r\n")], delimiter=separator), [])]
    except csv.Error:
        return []


def header_of(path: Path, columns: Collection[str]) -> list[str]:
    """The names in the first line of a file. columns: names that may be among them. Raises OSError, ValueError."""
    with path.open(encoding="utf-8-sig") as file:
        line = file.readline()
    return split_line(line, separator_of(line, columns))
