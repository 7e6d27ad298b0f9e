"""Tube masking (Sec. III-A): which tubelets are hidden, as indices drawn once per step."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from svfap.device import send
from svfap.model.config import ModelConfig


class TubeMask(NamedTuple):
    """The tubelets of each clip by index into its N, in ascending order.

    visible: (B, N_visible) int64, at least one. hidden: (B, N_hidden) int64. `svfap.tube_mask` draws one;
    `TubeMask.from_bool` makes one of a boolean mask.
    """

    visible: Tensor
    hidden: Tensor

    @classmethod
    def from_bool(cls, masked: Tensor, config: ModelConfig) -> TubeMask:
        """The mask that hides the tubelets where `masked`, (B, N) bool, is True.

        Raises `ValueError` unless every clip hides the same number of tubelets, leaves one visible, and, where the encoder
        has several stages, hides the same positions at all times (a tube).
        """
        if masked.ndim != 2 or masked.shape[1] != config.num_tokens or masked.dtype != torch.bool:
            got = f"{masked.dtype} {tuple(masked.shape)}"
            raise ValueError(f"masked must be bool of shape (B, {config.num_tokens}), got {got}")
        num_hidden = int(masked[0].sum()) if len(masked) else 0
        if num_hidden == config.num_tokens:
            raise ValueError("masked hides every tubelet; leave at least one visible")
        if not (masked.sum(1) == num_hidden).all():
            raise ValueError(f"masked must hide {num_hidden} tubelets of every clip")
        steps = masked.unflatten(1, (config.num_time_steps, -1))
        if len(config.stage_depths) > 1 and not (steps == steps[:, :1]).all():  # the pyramid joins time steps
            raise ValueError("masked must hide the same positions at all times (a tube)")
        order = masked.to(torch.uint8).argsort(dim=1, stable=True)
        return cls(*order.split([config.num_tokens - num_hidden, num_hidden], dim=1))

    def to_bool(self) -> Tensor:
        """(B, N) bool, True = hidden."""
        batch, num_tokens = len(self.hidden), self.visible.shape[1] + self.hidden.shape[1]
        masked = torch.zeros(batch, num_tokens, dtype=torch.bool, device=self.hidden.device)
        return masked.scatter_(1, self.hidden, True)

    def to(self, device: torch.device | str) -> TubeMask:
        """The same mask on another device; nothing waits for the copy."""
        return TubeMask(send(self.visible, device), send(self.hidden, device))


def tube_mask(
    batch: int, config: ModelConfig, ratio: float | None = None, generator: torch.Generator | None = None
) -> TubeMask:
    """Hide random spatial positions of each clip, the same ones at all times (Sec. III-A).

    ratio: fraction of the S positions to hide, rounded down; default: `config.mask_ratio`.
    Returns the mask of `batch` clips on the generator's device (the default device without one). Raises `ValueError` if
    `ratio` leaves no position visible.
    """
    num_hidden = config.num_masked_positions(ratio)
    if not 0 <= num_hidden < config.num_positions:
        raise ValueError(
            f"ratio={ratio} hides {num_hidden} of {config.num_positions} positions; at least one must stay"
        )
    device = generator.device if generator is not None else None
    order = torch.rand(batch, config.num_positions, generator=generator, device=device).argsort(dim=1)
    first = config.num_positions * torch.arange(config.num_time_steps, device=order.device)[:, None]
    hidden, visible = order[:, :num_hidden].sort(dim=1).values, order[:, num_hidden:].sort(dim=1).values
    return TubeMask(*((first + positions[:, None]).flatten(1) for positions in (visible, hidden)))
