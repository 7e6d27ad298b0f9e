"""Device, precision and processes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from svfap.errors import UserError

if TYPE_CHECKING:
    from accelerate import Accelerator

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def pick_device(name: str = "auto") -> torch.device:
    """A device that works; "auto" is a GPU if there is one. Raises `UserError`."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
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
            return "bf16" if torch.cuda.is_bf16_supported() else "fp32"
        fast = torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()
        return "bf16" if device.type == "cpu" and fast else "fp32"
    if name not in PRECISIONS:
        raise UserError(f"precision={name!r} is none of auto, {', '.join(PRECISIONS)}")
    if name == "fp16" and device.type == "cpu":
        raise UserError("precision=fp16 needs a GPU; use bf16 or fp32 on a CPU")
    return name


def make_accelerator(precision: str = "auto") -> Accelerator:
    """The device, its precision, and the processes that torchrun or `accelerate launch` started. Raises `UserError`."""
    from accelerate import Accelerator  # takes longer to import than one picture to predict
    from accelerate.state import AcceleratorState

    device = pick_device()
    chosen = pick_precision(precision, device)
    AcceleratorState._reset_state()  # a process may train in one precision after another
    return Accelerator(mixed_precision="no" if chosen == "fp32" else chosen, cpu=device.type == "cpu")
