"""Exceptions that the command prints as a single line: a user's mistake, and work that a signal has stopped."""

from __future__ import annotations

import signal

STOP_SIGNALS = [signal.Signals[name] for name in ("SIGINT", "SIGTERM", "SIGHUP") if name in signal.Signals.__members__]


class UserError(Exception):
    """Something the user can mend: the message names the file or field, what is wrong, and the fix."""


class Interrupted(KeyboardInterrupt):
    """A signal has stopped work that is saved. number: of the signal. The message says how to continue."""

    def __init__(self, number: int, message: str = "") -> None:
        super().__init__(message)
        self.number = number


def first_line(error: BaseException) -> str:
    """The first line of an error's text, or its type if it has none, for a message of one line."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def signal_of(interrupt: KeyboardInterrupt) -> int:
    """Number of the signal behind an exception: that of an `Interrupted`, else that of Ctrl-C."""
    return interrupt.number if isinstance(interrupt, Interrupted) else signal.SIGINT
