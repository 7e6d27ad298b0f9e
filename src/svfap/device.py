"""Device, precision and processes, and copies of batches to the device."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from svfap.errors import UserError

if TYPE_CHECKING:
    from accelerate import Accelerator

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
GRAPHS = "reduce-overhead"  # what `torch.compile` calls replaying steps as CUDA graphs


def pick_device(name: str = "auto") -> torch.device:
    """A device that works; "auto" is a GPU (CUDA, else Apple's MPS) if there is one. Raises `UserError`."""
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"device={name}: {str(error).splitlines()[0]}") from None
    return device


def pick_precision(name: str, device: torch.device) -> str:
    """One of "fp32", "bf16", "fp16"; "auto" is bf16 if the device computes faster with it than with fp32. Raises `UserError`."""
    if name == "auto":
        if device.type == "cuda":
            return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
        fast = torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()
        return "bf16" if device.type == "cpu" and fast else "fp32"
    if name not in PRECISIONS:
        raise UserError(f"precision={name!r} is none of auto, {', '.join(PRECISIONS)}")
    if name == "fp16" and device.type == "cpu":
        raise UserError("precision=fp16 needs a GPU; use bf16 or fp32 on a CPU")
    return name


def make_accelerator(precision: str = "auto", unused: bool = False) -> Accelerator:
    """The device, its precision, and the processes that torchrun or `accelerate launch` started. Raises `UserError`.

    unused: a step may leave some parameters without a gradient.
    """
    # Takes longer to import than one picture to predict.
    from accelerate import Accelerator, DistributedDataParallelKwargs
    from accelerate.state import AcceleratorState

    device = pick_device()
    chosen = pick_precision(precision, device)
    AcceleratorState._reset_state()  # a process may train in one precision after another
    mixed = "no" if chosen == "fp32" else chosen
    handlers = [DistributedDataParallelKwargs(find_unused_parameters=True)] if unused else None
    return Accelerator(mixed_precision=mixed, cpu=device.type == "cpu", kwargs_handlers=handlers)


def compile_mode(device: torch.device, num_processes: int = 1) -> str:
    """Mode of `torch.compile`: a single process on a GPU replays `GRAPHS`, so that the host launches no kernels one by one."""
    return GRAPHS if device.type == "cuda" and num_processes == 1 else "default"


def peak_bytes(device: torch.device) -> int | None:
    """The peak of what PyTorch took of the GPU since the start, or of what this process took; None where it is not known."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_reserved(device))
    return None if device.type != "cpu" else proc_bytes("/proc/self/status", "VmHWM")


def proc_bytes(file: str, name: str) -> int | None:
    """A number in kB of a file in /proc, in bytes; None where there is none."""
    with suppress(OSError, StopIteration, ValueError):
        line = next(line for line in Path(file).read_text().splitlines() if line.startswith(f"{name}:"))
        return int(line.split()[1]) * 1024
    return None


def send(tensor: Tensor, device: torch.device | str) -> Tensor:
    """The tensor on a device. Nothing waits for a copy to CUDA, which goes through pinned memory."""
    to_cuda = torch.device(device).type == "cuda" and tensor.device.type == "cpu"
    return tensor.pin_memory().to(device, non_blocking=True) if to_cuda else tensor.to(device)


class Upload:
    """Copies batches to a device; to CUDA in a stream of its own, while the device still works on the step before."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """The batch with its tensors on the device, for use in the current stream."""
        with torch.cuda.stream(self._stream):  # None: no effect
            copied = {name: send(v, self.device) if isinstance(v, Tensor) else v for name, v in batch.items()}
        if self._stream is not None:
            user = torch.cuda.current_stream(self.device)
            user.wait_stream(self._stream)
            for value in copied.values():
                if isinstance(value, Tensor):
                    value.record_stream(user)  # its memory is not used again before the step is done
        return copied
