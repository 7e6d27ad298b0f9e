"""The processes that torchrun starts for one run, on one or several machines: their number, their lock, the loss of one."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from svfap.console import say
from svfap.errors import UserError, first_line
from svfap.files import BeingWritten, only_writer

# A server of network files keeps the locks of a machine that is gone, and a client its view of a folder, for 90 s at most.
STALE_S = 120.0


def processes_here() -> int:
    """The number of processes of this run on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


@contextmanager
def one_run(folder: Path) -> Iterator[None]:
    """Keep other runs out of a folder; of several processes the first one does so. Raises `UserError`.

    Under torchrun, where a process before this one may be about to end, or its machine be gone, wait for its lock.
    """
    if os.environ.get("RANK", "0") != "0":
        yield
        return
    deadline = time.monotonic() + STALE_S if "TORCHELASTIC_RUN_ID" in os.environ else 0.0
    told = False
    with ExitStack() as locks:
        while True:
            try:
                locks.enter_context(only_writer(folder))
                break
            except BeingWritten:
                if time.monotonic() >= deadline:
                    raise
                if not told:
                    say(
                        f"{folder}: another run, perhaps the one before, writes there; waiting up to {STALE_S:g} s for its end"
                    )
                told = True
                time.sleep(0.5)
        yield


def is_lost_process(error: BaseException) -> bool:
    """Whether an error of torch.distributed says that another process has ended or cannot be reached."""
    import torch.distributed as dist

    if not (dist.is_available() and dist.is_initialized() and isinstance(error, RuntimeError)):
        return False
    return isinstance(error, dist.DistError) or "gloo" in str(error)  # whose errors have no type of their own


@contextmanager
def lost_process_is_one_line() -> Iterator[None]:
    """Raise `UserError` in place of the error for another process that has ended."""
    try:
        yield
    except RuntimeError as error:
        if not is_lost_process(error):
            raise
        reason = re.sub(r"^\[\S+\] ", "", first_line(error)).split(". ")[0]  # without the line of the library's source
        raise UserError(
            f"another process of this run has ended or cannot be reached ({reason}); its own output says why. torchrun "
            "--max-restarts starts all of them again, and with --resume they go on from last/"
        ) from None
