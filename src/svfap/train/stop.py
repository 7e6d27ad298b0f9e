"""Requests to stop: signals that training obeys between two steps."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from svfap.errors import Interrupted
from svfap.signals import STOP_SIGNALS, leave_lost_terminal, signal_handlers


class StopRequest:
    """Whether a signal has asked to stop. number: that of the signal, 0 without one."""

    def __init__(self) -> None:
        self.number = 0
        self._at_once = False

    def ask(self, number: int, frame: Any) -> None:
        """The signal handler: the first signal is a request, a second Ctrl-C interrupts at once."""
        leave_lost_terminal(number)
        if self.number and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.number = self.number or number
        if self._at_once:
            raise Interrupted(number)

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """A block in which a signal raises `Interrupted`, for waiting; so does one that has come before."""
        self._at_once = True
        try:
            if self.number:
                raise Interrupted(self.number)
            yield
        finally:
            self._at_once = False


@contextmanager
def stop_request() -> Iterator[StopRequest]:
    """A block in which Ctrl-C, SIGTERM and SIGHUP are requests to stop after the step."""
    stop = StopRequest()
    with signal_handlers(stop.ask, *STOP_SIGNALS):
        yield stop
