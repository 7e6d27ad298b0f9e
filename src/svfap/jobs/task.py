"""One item's work, done where an engine put it: it leaves a whole result or none."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from svfap.errors import UserError

Work = Callable[[Any, Path], None]
PART = ".part"


class Task(NamedTuple):
    """An item, and the file or folder that its work leaves."""

    key: str
    payload: Any
    target: Path


class EngineError(UserError):
    """An engine that cannot work at all, whatever the item."""


def do(work: Work, task: Task) -> str | None:
    """Let `work` write the result under a temporary name and put it in place; returns the reason where that failed.

    The name is a new one each time: whoever still works on the same item on a machine believed lost disturbs nobody.
    """
    part = task.target.with_name(f".{task.target.name}.{uuid.uuid4().hex}{PART}")
    try:
        part.parent.mkdir(parents=True, exist_ok=True)
        work(task.payload, part)
        if not part.exists():
            return "nothing was written"
        if not task.target.exists():  # else that other one came first
            os.replace(part, task.target)
    except Exception as error:  # whatever it is, the other items go on
        return reason_of(error)
    finally:
        remove(part)
    return None


def reason_of(error: Exception) -> str:
    """What went wrong in one line: a `VideoError`'s reason, a user's mistake as it stands, else with the error's kind."""
    text = getattr(error, "reason", None) or getattr(error, "strerror", None) or str(error)
    line = " ".join(str(text).split())
    return line if isinstance(error, UserError) else f"{type(error).__name__}: {line}"


def remove(path: Path) -> None:
    """Remove a file or a folder, if it is there."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
