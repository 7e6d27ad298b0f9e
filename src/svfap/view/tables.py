"""A table of text cells as Markdown, CSV and LaTeX, and for the terminal."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pandas as pd
from rich.console import Console
from rich.measure import measure_renderables
from rich.table import Table
from rich.text import Text

from svfap.files import write_atomically


def write_table(stem: Path, table: pd.DataFrame, caption: str) -> None:
    """Write `stem`.md, .csv and .tex, each atomically. The first column names the rows; the CSV has no caption."""
    texts = {"md": to_markdown(table, caption), "csv": table.to_csv(index=False), "tex": to_latex(table, caption)}
    for suffix, text in texts.items():
        write_atomically(stem.with_name(f"{stem.name}.{suffix}"), text)


def to_markdown(table: pd.DataFrame, caption: str = "") -> str:
    """A pipe table under its caption; the first column is aligned left, the others right."""
    header = [_in_pipes(table.columns), "| --- |" + " ---: |" * (table.shape[1] - 1)]
    rows = [_in_pipes(row) for row in table.itertuples(index=False)]
    return "\n".join([*([caption, ""] if caption else []), *header, *rows]) + "\n"


def to_latex(table: pd.DataFrame, caption: str = "") -> str:
    """A LaTeX `table` with rules of booktabs; special characters are escaped."""
    columns = "l" + "r" * (table.shape[1] - 1)
    named = table.rename(columns=_in_latex).map(_in_latex)
    return named.to_latex(index=False, column_format=columns, caption=_in_latex(caption) or None, position="t")


def to_terminal(table: pd.DataFrame, caption: str = "") -> Table:
    """The table as rich shows it in a terminal."""
    shown = Table(title=Text(caption) if caption else None, title_justify="left")
    for number, name in enumerate(table.columns):
        # Names of rows are never cut.
        shown.add_column(
            Text(str(name)), justify="right" if number else "left", overflow="ellipsis" if number else "fold"
        )
    for row in table.itertuples(index=False):
        shown.add_row(*(Text(str(cell)) for cell in row))
    return shown


def terminal_width(table: pd.DataFrame) -> int:
    """Characters of the table in a terminal in which no cell is cut."""
    output = Console(width=10_000)
    return measure_renderables(output, output.options, [to_terminal(table)]).maximum


LATEX: dict[str, str] = {c: "\\" + c for c in "&%$#_{}"}
LATEX |= {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
LATEX |= {"±": r"$\pm$", "−": "$-$", "×": r"$\times$"}


def _in_latex(text: object) -> str:
    return "".join(LATEX.get(character, character) for character in str(text))


def _in_pipes(cells: Iterable[object]) -> str:
    return "| " + " | ".join(str(cell).replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"
