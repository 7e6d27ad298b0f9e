"""Tube masking: which tubelets are hidden, and their indices."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from svfap.model.config import ModelConfig


class HasConfig(Protocol):
    config: ModelConfig


def tube_mask(
    batch: int,
    model_or_config: HasConfig | ModelConfig,
    ratio: float | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Hide the same random spatial positions at all times (Sec. III-A).

    ratio: part of the S positions that is hidden, rounded down; default: the config's `mask_ratio`.
    Returns (batch, N) bool on the generator's device (CPU without one), True = hidden.
    """
    config = model_or_config if isinstance(model_or_config, ModelConfig) else model_or_config.config
    num_masked = config.num_masked_positions(ratio)
    if not 0 <= num_masked < config.num_positions:
        raise ValueError(
            f"ratio={ratio} hides {num_masked} of {config.num_positions} positions; at least one must stay"
        )
    device = generator.device if generator is not None else None
    rank = torch.rand(batch, config.num_positions, generator=generator, device=device).argsort(dim=1).argsort(dim=1)
    return (rank < num_masked).repeat(1, config.num_time_steps)


def split_tokens(masked: Tensor, config: ModelConfig, num_masked: int | None = None) -> tuple[Tensor, Tensor]:
    """Indices of the visible and of the hidden tubelets.

    masked: (B, N) bool. num_masked: hidden tubelets of each clip. If None it is counted; a graph that is being compiled
    cannot wait for a count, so there the config's `mask_ratio` says it, and a mask that disagrees stops the run.
    Returns (B, N - num_masked) and (B, num_masked) int64, each in position order.
    """
    if masked.ndim != 2 or masked.shape[1] != config.num_tokens or masked.dtype != torch.bool:
        raise ValueError(
            f"masked must be bool of shape (B, {config.num_tokens}), got {masked.dtype} {tuple(masked.shape)}"
        )
    if num_masked is None:
        if torch.compiler.is_compiling():
            num_masked = config.num_masked_positions() * config.num_time_steps
        else:
            num_masked = int(masked[0].sum()) if len(masked) else 0
    if num_masked >= config.num_tokens:
        raise ValueError("masked hides every tubelet; leave at least one visible")
    steps = masked.unflatten(1, (config.num_time_steps, -1))
    _require((masked.sum(1) == num_masked).all(), f"masked must hide {num_masked} tubelets of every clip")
    if len(config.stage_depths) > 1:  # The pyramid joins neighbouring time steps, position by position.
        _require((steps == steps[:, :1]).all(), "masked must hide the same positions at all times (a tube)")
    order = masked.to(torch.uint8).argsort(dim=1, stable=True)
    return order.split([config.num_tokens - num_masked, num_masked], dim=1)


def _require(condition: Tensor, message: str) -> None:
    """Raise on the CPU; on a device assert without waiting for it."""
    if torch.compiler.is_compiling() or condition.device.type != "cpu":
        torch._assert_async(condition, message)
    elif not condition:
        raise ValueError(message)
