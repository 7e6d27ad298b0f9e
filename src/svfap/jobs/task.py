"""The work on one item, in whatever process an engine runs it: it leaves a complete result or none."""

from __future__ import annotations

import faulthandler
import os
import shutil
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from svfap.errors import UserError

Work = Callable[[Any, Path], None]
ATTEMPTS = 2  # for an item whose process died


class Task(NamedTuple):
    """An item, and the file or folder that its work writes."""

    key: str
    payload: Any
    target: Path


class EngineError(UserError):
    """The engine cannot run at all, whatever the item."""


class Queue:
    """The tasks to start next: first those to be repeated after their process died, then new ones."""

    def __init__(self, tasks: Iterator[Task], timeout_s: float | None) -> None:
        self._tasks, self._timeout_s = tasks, timeout_s
        self._again: list[Task] = []
        self._deaths = Counter[tuple[str, str]]()

    def take(self) -> Task | None:
        """The next task; None if there is none at present."""
        return self._again.pop() if self._again else next(self._tasks, None)

    def died(self, task: Task, cause: str, what: str = "process", attempts: int = ATTEMPTS) -> str | None:
        """Record that the process or machine (`what`) of a task has died: why the task failed, or None if it is repeated."""
        timeout = _hidden(task, "timeout")
        if timeout.exists() and timeout.stat().st_size > 0:
            return _too_long(self._timeout_s)
        self._deaths[task.key, what] += 1
        if self._deaths[task.key, what] == attempts:
            return f"the {what} that worked on it died {attempts} times ({cause})"
        self._again.append(task)
        return None


def do(work: Work, task: Task, timeout_s: float | None = None) -> str | None:
    """Let `work` write the result under a unique temporary name, then rename it; returns the reason if that failed.

    Two processes may work on one item, as the machine of the first may only seem lost. timeout_s: this process ends after
    so many seconds, which `Queue.died` finds out; not for the user's own process.
    """
    part = _hidden(task, uuid.uuid4().hex)
    try:
        part.parent.mkdir(parents=True, exist_ok=True)
        with _time_limit(task, timeout_s):
            work(task.payload, part)
        if not part.exists():
            return "nothing was written"
        if not task.target.exists():  # else another process was faster
            os.replace(part, task.target)
    except Exception as error:  # of any kind: the other items must not suffer
        return reason_of(error)
    finally:
        remove(part)
    return None


@contextmanager
def _time_limit(task: Task, timeout_s: float | None) -> Iterator[None]:
    """End this process if the block takes longer, even one that is stuck in a library and holds the interpreter's lock.

    faulthandler's watchdog writes the traceback into a file before it exits, so a non-empty file tells of a time-out.
    Raises `UserError` where the watchdog came too late, on a busy machine.
    """
    if timeout_s is None:
        yield
        return
    path, start_s = _hidden(task, "timeout"), time.monotonic()
    with path.open("w") as file:
        faulthandler.dump_traceback_later(timeout_s, exit=True, file=file)
        try:
            yield
        finally:
            faulthandler.cancel_dump_traceback_later()
    remove(path)
    if time.monotonic() - start_s > timeout_s:
        raise UserError(_too_long(timeout_s))


def _too_long(timeout_s: float | None) -> str:
    return f"took longer than {timeout_s:g} s"


def _hidden(task: Task, name: str) -> Path:
    """A name beside the result, with its suffix: writers may choose the format by it."""
    return task.target.with_name(f".{task.target.stem}.{name}{task.target.suffix}")


def reason_of(error: Exception) -> str:
    """An error in one line: the reason of a `VideoError`, a `UserError` as it is, else the type and the message."""
    text = getattr(error, "reason", None) or getattr(error, "strerror", None) or str(error)
    line = " ".join(str(text).split())
    return line if isinstance(error, UserError) else f"{type(error).__name__}: {line}"


def remove_unfinished(folder: Path) -> None:
    """Remove the hidden files and folders that interrupted work left behind beside the results in `folder`."""
    for entry in folder.glob(".*"):
        remove(entry)


def remove(path: Path) -> None:
    """Remove a file or a folder, if it exists."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
