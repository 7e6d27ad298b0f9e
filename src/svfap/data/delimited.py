"""Tables as text: which character separates the columns of a user's file."""

from __future__ import annotations

import csv
from collections.abc import Collection

SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs"}


def separator_of(header: str, columns: Collection[str]) -> str:
    """The separator under which most of `columns` are in a header line: comma, semicolon or tab; a comma if none is."""
    names = {separator: set(split_line(header, separator)) for separator in SEPARATORS}
    return max(SEPARATORS, key=lambda separator: len(names[separator].intersection(columns)))  # the first of equals


def split_line(line: str, separator: str) -> list[str]:
    """The cells of one line, stripped; none of a line that is not in CSV."""
    try:
        return [cell.strip() for cell in next(csv.reader([line.rstrip("\r\n")], delimiter=separator), [])]
    except csv.Error:
        return []
