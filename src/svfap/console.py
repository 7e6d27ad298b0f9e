"""How the program speaks to the user: messages, tables and progress bars."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sized
from contextlib import contextmanager
from datetime import timedelta
from functools import cache
from typing import Any, TypeVar

from rich.console import Console, RenderableType
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Column
from rich.text import Text

from svfap.files import printable

LINE_EVERY_S = 30.0

T = TypeVar("T")
# Of several processes only the first one writes.
# In a notebook as elsewhere: text, for which nothing more has to be installed.
console = Console(stderr=True, quiet=os.environ.get("RANK", "0") != "0", force_jupyter=False)


def say(text: str) -> None:
    """One message to the user, on standard error: brackets in a path are no markup. Settings are named `as_typed`.

    Bytes of file names that are not UTF-8 are shown as escapes.
    """
    if _kept is not None:
        _kept.append(text)
        return
    console.print(as_typed(printable(text)), markup=False, highlight=False, soft_wrap=True)


_options: Collection[str] = ()  # of the command that is running
_kept: list[str] | None = None  # messages that are not shown


def counted(number: int, what: str, many: str | None = None) -> str:
    """1 video, 2 videos, 1,200 videos. many: the plural, where it is not what with an s."""
    return f"{number:,} {what if number == 1 else many or f'{what}s'}"


@contextmanager
def naming_options(names: Collection[str]) -> Iterator[None]:
    """Until the end, messages name these settings as options of the command."""
    global _options
    before, _options = _options, names
    try:
        yield
    finally:
        _options = before


def as_typed(text: str, field_first: bool = False) -> str:
    """A message with its settings as the user writes them: margin=0.1 and `margin`, for the command --margin=0.1 and --margin.

    field_first: the message may begin with a setting's name alone, as in "margin: …".
    """
    if not _options:
        return text
    names = "|".join(map(re.escape, _options))
    text = re.sub(rf"^(?=(?:{names}): )", "--", text) if field_first else text
    parts = re.split(r"(\(in Python: [^)]*\))", text)  # what is for Python stays as it is
    parts[::2] = [re.sub(rf"(?<![\w'\"`/.-])(?=(?:{names})=)", "--", part) for part in parts[::2]]
    return re.sub(rf"`({names})`", r"--\1", "".join(parts))


@cache
def say_once(text: str) -> None:
    """A message that is shown once in a process."""
    say(text)


@contextmanager
def silent() -> Iterator[None]:
    """Until the end, no messages and no progress bars."""
    before, console.quiet = console.quiet, True
    try:
        yield
    finally:
        console.quiet = before


@contextmanager
def keeping_messages() -> Iterator[list[str]]:
    """Until the end, messages are kept in this list, for another process to `say` them; no progress bars."""
    global _kept
    before, _kept = _kept, []
    try:
        with silent():
            yield _kept
    finally:
        _kept = before


def show(*tables: RenderableType) -> None:
    """Tables that are a command's result, on standard output; text is shown in lines of any length, which can be copied."""
    output = Console(quiet=console.quiet, markup=False, highlight=False, force_jupyter=False)
    for each in tables:
        output.print(each, soft_wrap=isinstance(each, str))


class _Progress(Progress):
    """A progress display; without a terminal (logs, CI), a line for each task about every half minute."""

    def add_task(self, description: str, *args: Any, **kwargs: Any) -> TaskID:
        now = time.monotonic()
        return super().add_task(description, *args, began=(now, kwargs.get("completed", 0)), said=now, **kwargs)

    def start_task(self, task_id: TaskID) -> None:
        super().start_task(task_id)
        task = self._tasks[task_id]
        task.fields["began"] = (time.monotonic(), task.completed)

    def update(self, task_id: TaskID, *args: Any, **kwargs: Any) -> None:
        super().update(task_id, *args, **kwargs)
        self._say_progress(task_id)

    def advance(self, task_id: TaskID, advance: float = 1) -> None:
        super().advance(task_id, advance)
        self._say_progress(task_id)

    def _say_progress(self, number: TaskID) -> None:
        now, task = time.monotonic(), self._tasks[number]
        recent = now - task.fields["said"] < LINE_EVERY_S
        if self.console.is_terminal or recent or task.finished or not task.started or _kept is not None:
            return
        task.fields["said"] = now
        began_s, first = task.fields["began"]
        parts = [f"{task.description}: {task.completed:.6g}"]
        if task.total is not None:
            parts[0] += f" of {task.total:.6g}"
        if note := task.fields.get("note"):
            parts.append(note)
        if task.total is not None and task.completed > first:
            left_s = (task.total - task.completed) * (now - began_s) / (task.completed - first)
            parts.append(f"{timedelta(seconds=round(left_s))} left")
        say(", ".join(parts))


class _Words(ProgressColumn):
    """Text that is cut, not broken into lines, where the terminal is too narrow; before any number is."""

    def __init__(self, words: Callable[[Task], str]) -> None:
        super().__init__()
        self._words = words

    def render(self, task: Task) -> Text:
        return Text(self._words(task), no_wrap=True, overflow="ellipsis")


class _Count(MofNCompleteColumn):
    """12/34, or 12 where the total is not known."""

    def render(self, task: Task) -> Text:
        return Text(f"{task.completed:.0f}") if task.total is None else super().render(task)


class _TimeLeft(TimeRemainingColumn):
    """The word left and the time; nothing where the total is not known."""

    def render(self, task: Task) -> Text:
        return Text() if task.total is None else Text.assemble("left ", super().render(task))


def progress_bar() -> Progress:
    """A progress display whose tasks may carry a `note` field, shown at the end of the line."""
    return _Progress(
        _Words(lambda task: task.description),
        BarColumn(bar_width=None, table_column=Column(ratio=1, min_width=3)),
        _Count(table_column=Column(no_wrap=True)),
        TimeElapsedColumn(table_column=Column(no_wrap=True)),
        _TimeLeft(table_column=Column(no_wrap=True)),
        _Words(lambda task: task.fields["note"]),
        speed_estimate_period=600,  # seconds; steps may be a minute long
        console=console,
        expand=True,
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


def duration(seconds: float) -> str:
    """ "1 h 40 min", "7 min", or "1 min" for less."""
    hours, minutes = divmod(max(round(seconds / 60), 1), 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"
