"""Checkpoints written beside the training: their content is copied to the host, and a thread writes it."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.checkpointing import save_accelerator_state, save_custom_state
from torch import Tensor

from svfap.console import say
from svfap.errors import UserError


class BesideTraining:
    """Writes files in a thread while the training goes on, one write at a time.

    What a write raises is raised by the next `check` or `wait`.
    """

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")
        self._running: Future[None] | None = None

    def start(self, write: Callable[[], None]) -> None:
        """Begin a write; the one before has to end first."""
        self.wait()
        self._running = self._thread.submit(write)

    def check(self) -> None:
        """Raise what a write that has ended raised."""
        if self._running is not None and self._running.done():
            self.wait()

    def wait(self) -> None:
        """Wait until nothing is being written."""
        if self._running is not None:
            try:
                self._running.result()
            finally:
                if self._running.done():  # and not interrupted
                    self._running = None

    def close(self) -> None:
        """Wait, and only say what went wrong, for an end that has an error of its own."""
        try:
            self.wait()
        except UserError as error:
            say(str(error))
        self._thread.shutdown()


def on_host(value: Any) -> Any:
    """The same nested dicts, lists and tuples with copies of their tensors on the host.

    Copies from CUDA are complete once the device has done what it was asked for before; nothing waits for that here.
    """
    if isinstance(value, Tensor):
        if value.device.type == "cuda":
            return torch.empty(value.shape, dtype=value.dtype, pin_memory=True).copy_(value.detach(), non_blocking=True)
        return value.detach().to("cpu", copy=True)
    if isinstance(value, dict):
        return type(value)((key, on_host(each)) for key, each in value.items())
    return type(value)(map(on_host, value)) if isinstance(value, list | tuple) else value


class _Copied:
    """Has the state that an object had."""

    def __init__(self, source: Any) -> None:
        self._state = on_host(source.state_dict())

    def state_dict(self) -> Any:
        return self._state


def copy_state(accelerator: Accelerator) -> Callable[[Path], None]:
    """Copy to the host what `accelerator.save_state` would write. Returns a function that writes it into a folder.

    It writes the random states of that later moment, on which nothing depends, as each step seeds its own.
    """
    models = [on_host(accelerator.get_state_dict(model, unwrap=False)) for model in accelerator._models]
    optimizers, others = ([_Copied(x) for x in xs] for xs in (accelerator._optimizers, accelerator._custom_objects))
    scaler = None if accelerator.scaler is None else _Copied(accelerator.scaler)
    copied = torch.cuda.Event() if accelerator.device.type == "cuda" else None
    if copied is not None:
        copied.record()

    def write(folder: Path) -> None:
        if copied is not None:
            copied.synchronize()
        process, step = accelerator.process_index, accelerator.step
        save_accelerator_state(str(folder), models, optimizers, [], [], process, step, scaler)
        for number, other in enumerate(others):
            save_custom_state(other, str(folder), number)

    return write
