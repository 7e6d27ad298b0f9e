"""How the program speaks to the user: messages, tables and progress bars."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sized
from functools import cache
from typing import TypeVar

from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from svfap.files import printable

T = TypeVar("T")
# Of several processes only the first one writes.
console = Console(stderr=True, quiet=os.environ.get("RANK", "0") != "0")


def say(text: str) -> None:
    """One message to the user, on standard error, as it stands: brackets in a path are no markup.

    Bytes of file names that are not UTF-8 are shown as escapes.
    """
    console.print(printable(text), markup=False, highlight=False, soft_wrap=True)


@cache
def say_once(text: str) -> None:
    """A message that comes once in a process, however often what it is about is read."""
    say(text)


def show(*tables: RenderableType) -> None:
    """Tables that are a command's result, on standard output."""
    Console(quiet=console.quiet, markup=False, highlight=False).print(*tables)


def progress_bar() -> Progress:
    """A progress display whose tasks may carry a `note` field, shown at the end of the line."""
    return Progress(
        TextColumn("{task.description:<24}", markup=False),
        BarColumn(bar_width=None),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}", markup=False),
        console=console,
        # Without a terminal (logs, CI) only the final state is printed.
        redirect_stdout=False,
        redirect_stderr=False,
    )


def track(iterable: Iterable[T], description: str, total: int | None = None) -> Iterator[T]:
    """Iterate with a progress bar; `total` defaults to `len(iterable)` where it has one."""
    if total is None and isinstance(iterable, Sized):
        total = len(iterable)
    with progress_bar() as bar:
        task = bar.add_task(description, total=total, note="")
        for item in iterable:
            yield item
            bar.advance(task)
