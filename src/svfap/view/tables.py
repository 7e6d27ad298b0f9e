"""A table of text cells as Markdown, CSV and LaTeX, and for the terminal."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.measure import Measurement, measure_renderables
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


def to_terminal(table: pd.DataFrame, caption: str = "") -> TerminalTable:
    """The table as rich shows it in a terminal."""
    return TerminalTable(table, caption)


@dataclass(frozen=True)
class TerminalTable:
    """A table that rich shows: as wide as the terminal at most, with headings and cells wrapped between words where all fit."""

    table: pd.DataFrame
    caption: str = ""

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        return Measurement.get(console, options, self._shown(None))

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield self._shown(self._widths(options.max_width))

    def _shown(self, widths: list[int] | None) -> Table:
        shown = Table(title=Text(self.caption) if self.caption else None, title_justify="left")
        for number, name in enumerate(self.table.columns):
            width = widths[number] if widths else None
            shown.add_column(Text(str(name)), justify="right" if number else "left", overflow="fold", width=width)
        for row in self.table.itertuples(index=False):
            shown.add_row(*(Text(str(cell)) for cell in row))
        return shown

    def _widths(self, room: int) -> list[int] | None:
        """Characters of each column: the widest are narrowed, none below its longest word; None where they do not fit so."""
        texts = [[str(name), *map(str, self.table.iloc[:, number])] for number, name in enumerate(self.table.columns)]
        widths = [max(cell_len(line) for text in column for line in text.split("\n")) for column in texts]
        words = [max((cell_len(word) for text in column for word in text.split()), default=0) for column in texts]
        room -= 3 * len(texts) + 1  # borders, and a space on either side
        if sum(words) > room:
            return None
        while sum(widths) > room:
            widest = max(range(len(widths)), key=lambda number: (widths[number] > words[number], widths[number]))
            widths[widest] -= 1
        return widths


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
