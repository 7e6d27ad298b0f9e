"""Shared memory, through which worker processes hand over their batches: whether there is enough, and what to do if not.

On Linux it is the file system /dev/shm. In a container it is small (64 MB by default in Docker).
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import get_worker_info

from svfap.errors import UserError

SHARED = Path("/dev/shm")
BATCHES_AHEAD = 2  # that each worker has ready
DEATH_REPORTED_S = 1.0  # from the end of a process until the system reports it, at most
MORE_ROOM = "use --num_workers 0, or give a container more of it (docker run --shm-size 8g, or --ipc=host)"


class SharedMemoryError(RuntimeError):
    """A worker process has no room for its batch."""


def hand_over(batch: dict[str, Any]) -> dict[str, Any]:
    """In a worker process, move the tensors of a batch to shared memory. Raises `SharedMemoryError`.

    Otherwise a thread of the worker would do it, and after a failure the main process would wait for the batch for ever.
    """
    if get_worker_info() is not None:
        try:
            for value in batch.values():
                if isinstance(value, torch.Tensor):
                    value.share_memory_()
        except RuntimeError as error:
            raise SharedMemoryError(str(error).splitlines()[0]) from None
    return batch


@contextmanager
def worker_errors() -> Iterator[None]:
    """Raise `UserError` in place of the errors for a worker process that has died or has no room for its batch."""
    try:
        yield
    except SharedMemoryError:
        raise UserError(f"shared memory ({SHARED}) is full, {_size(_free())} are free; {MORE_ROOM}") from None
    except (RuntimeError, EOFError, ConnectionError) as error:
        reason = str(error) if isinstance(error, RuntimeError) else _death_while_handing_over(error)
        if not reason.startswith("DataLoader worker"):
            raise
        reason = " ".join(reason.split()).split(" It is possible")[0].rstrip(".")
        raise UserError(
            f"{reason}: perhaps out of memory, or of shared memory ({SHARED}); use fewer --num_workers, or {MORE_ROOM}"
        ) from None


def _death_while_handing_over(error: Exception) -> str:
    """What PyTorch's signal handler says of the worker, as soon as the system reports its death; it must not come later."""
    try:
        time.sleep(DEATH_REPORTED_S)
    except RuntimeError as told:
        return str(told)
    return f"DataLoader worker exited unexpectedly ({type(error).__name__})"


def workers_with_room(batch_bytes: int, held: int = 2) -> int | None:
    """Number of workers that have room for their batches at the same time; None where shared memory is no file system.

    held: batches that the main process works on meanwhile.
    """
    if not SHARED.is_dir():
        return None
    room = _free() // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))  # of torchrun's processes on this machine
    return max((room // batch_bytes - held) // BATCHES_AHEAD, 0)


def require_room(num_workers: int, batch_bytes: int, held: int = 2) -> None:
    """Raise `UserError` if the batches of `num_workers` workers have no room; see `workers_with_room`."""
    fitting = workers_with_room(batch_bytes, held)
    if fitting is not None and fitting < num_workers:
        needed = batch_bytes * (held + BATCHES_AHEAD * num_workers)
        fewer = f"--num_workers {fitting} would fit; else " if fitting else ""
        raise UserError(
            f"num_workers={num_workers}: their batches need {_size(needed)} of shared memory, and {SHARED} has "
            f"{_size(_free())} free; {fewer}{MORE_ROOM}"
        )


def _free() -> int:
    return shutil.disk_usage(SHARED).free


def _size(num_bytes: int) -> str:
    return f"{num_bytes / 2**20:.3g} MB"
