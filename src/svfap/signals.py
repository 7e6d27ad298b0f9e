"""Signals that stop work: Ctrl-C, SIGTERM (from schedulers such as Slurm) and SIGHUP (from a terminal that is closed)."""

from __future__ import annotations

import os
import signal
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from svfap.errors import Interrupted

STOP_SIGNALS = [signal.Signals[name] for name in ("SIGINT", "SIGTERM", "SIGHUP") if name in signal.Signals.__members__]
TERMINATION = STOP_SIGNALS[1:]  # those that Python does not turn into an exception itself


@contextmanager
def signal_handlers(handler: Callable[..., Any], *signals: signal.Signals) -> Iterator[None]:
    """Handle signals by `handler` in the block; no effect outside the main thread, as only that may set handlers.

    SIGHUP stays ignored where it is: `nohup` does that, so that work goes on without its terminal.
    """
    main = threading.current_thread() is threading.main_thread()
    kept = [number for number in signals if number.name == "SIGHUP" and signal.getsignal(number) is signal.SIG_IGN]
    before = {number: signal.signal(number, handler) for number in signals if number not in kept} if main else {}
    try:
        yield
    finally:
        for number, former in before.items():
            signal.signal(number, former)


def interrupt(number: int, frame: object) -> None:
    """A signal handler that raises `Interrupted`."""
    leave_lost_terminal(number)
    raise Interrupted(number)


def leave_lost_terminal(number: int) -> None:
    """After SIGHUP, discard what is written to a terminal that has been closed: it would be an error, before work is saved."""
    if number != getattr(signal, "SIGHUP", 0):
        return
    for stream in (1, 2):
        with suppress(OSError):
            if stat.S_ISCHR(os.fstat(stream).st_mode) and not os.isatty(stream):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream)


def signal_of(interrupt: KeyboardInterrupt) -> int:
    """Number of the signal behind an exception: that of an `Interrupted`, else that of Ctrl-C."""
    return interrupt.number if isinstance(interrupt, Interrupted) else signal.SIGINT
