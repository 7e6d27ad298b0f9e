"""Learning rates, parameter groups, AdamW, and the moving average of the weights."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from svfap.errors import UserError
from svfap.model.base import Model

LayerRule = Literal["published", "depth"]


def scaled_lr(base_lr: float, batch_size: int) -> tuple[float, str]:
    """The learning rate of a batch of `batch_size` clips, and how it came about: "1e-3 × 96 / 256 = 3.75e-4"."""
    lr = base_lr * batch_size / 256
    return lr, f"{_short(base_lr)} × {batch_size} / 256 = {_short(lr)}"


def _short(number: float) -> str:
    """0.000375 -> "3.75e-4": at most four digits."""
    digits, exponent = f"{number:.3e}".split("e")
    return f"{digits.rstrip('0').rstrip('.')}e{int(exponent)}"


def cosine_schedule(
    peak: float, minimum: float, epochs: int, steps_per_epoch: int, warmup_epochs: float, start: float = 0.0
) -> np.ndarray:
    """The learning rate of every step, (epochs * steps_per_epoch,) float64.

    Linear from `start` to `peak` in the steps of warm-up, both ends reached, then half a cosine from `peak` towards
    `minimum`, which the step after the last would reach. Raises `UserError` if warm-up is longer than training.
    """
    num_steps, num_warmup = epochs * steps_per_epoch, int(warmup_epochs * steps_per_epoch)
    if num_warmup > num_steps:
        raise UserError(f"warmup_epochs = {warmup_epochs} is more than epochs = {epochs}: warm up for fewer")
    progress = np.arange(num_steps - num_warmup) / max(1, num_steps - num_warmup)
    cosine = minimum + 0.5 * (peak - minimum) * (1 + np.cos(np.pi * progress))
    return np.concatenate([np.linspace(start, peak, num_warmup), cosine])


def layer_of(name: str, stage_depths: Sequence[int], rule: LayerRule = "published") -> int:
    """How deep a parameter lies, from its name in a task model: 0 to sum(stage_depths) + 1.

    The tubelet embedding is 0 and the blocks are 1, 2, ... through all stages; norm, head, decoder and the like are
    last. What opens a stage, its temporal down-sampling and spatial bottleneck, is last too by the "published" rule,
    and goes with the stage's first block by the "depth" rule.
    """
    if name.startswith("encoder.tubelet_embed."):
        return 0
    if match := re.match(r"encoder\.stages\.(\d+)\.(?:blocks\.(\d+)\.)?", name):
        first = 1 + sum(stage_depths[: int(match[1])])
        if match[2]:
            return first + int(match[2])
        if rule == "depth":
            return first
    return 1 + sum(stage_depths)


def parameter_groups(
    model: Model, weight_decay: float, layer_decay: float = 1.0, rule: LayerRule = "published"
) -> list[dict[str, Any]]:
    """Groups for the optimiser, each with `params`, `names`, `weight_decay`, `lr_scale`; frozen parameters left out.

    Layer-wise decay: a parameter of layer i (see `layer_of`) learns at layer_decay ** (sum(stage_depths) + 1 - i) of
    the rate. Biases, other one-dimensional parameters and the mask token have no weight decay. Takes the bare model,
    not one wrapped for parallel training.
    """
    depths = model.config.stage_depths
    groups: dict[tuple[float, bool], dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        lr_scale = layer_decay ** (1 + sum(depths) - layer_of(name, depths, rule))
        decays = parameter.ndim > 1 and not name.endswith(("bias", "mask_token"))
        new = {"params": [], "names": [], "weight_decay": weight_decay if decays else 0.0, "lr_scale": lr_scale}
        group = groups.setdefault((lr_scale, decays), new)
        group["params"].append(parameter)
        group["names"].append(name)
    return list(groups.values())


def build_optimizer(
    groups: list[dict[str, Any]], betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8
) -> torch.optim.AdamW:
    """AdamW over `parameter_groups`, fused: on a CPU, too, three times as fast. Its rate is 0 until `apply_lr`."""
    return torch.optim.AdamW(groups, lr=0.0, betas=betas, eps=eps, fused=True)


def apply_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Set every group's learning rate to `lr` times its `lr_scale`; call it before each step."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group["lr_scale"]


class EMA:
    """Exponential moving average of a model's parameters: average = decay * average + (1 - decay) * parameter.

    Starts at the parameters that the model has. Give it the bare model, not one wrapped for parallel training; the
    averages follow the parameters to their device.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self._averages = {name: p.detach().clone() for name, p in model.named_parameters()}

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Take the parameters in, after each optimiser step."""
        parameters = dict(model.named_parameters())
        self._averages = {name: self._averages[name].to(p.device) for name, p in parameters.items()}
        torch._foreach_lerp_(list(self._averages.values()), list(parameters.values()), 1 - self.decay)

    @contextmanager
    def swapped(self, model: nn.Module) -> Iterator[None]:
        """Within, the model has the averages for its parameters; its own come back at the end, to the bit."""
        parameters = dict(model.named_parameters())
        own = [p.detach().clone() for p in parameters.values()]
        _fill(parameters.values(), [self._averages[name] for name in parameters])
        try:
            yield
        finally:
            _fill(parameters.values(), own)

    def state_dict(self) -> dict[str, Tensor]:
        """The averages by parameter name."""
        return dict(self._averages)

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Take the averages from a `state_dict`; raises `KeyError` naming the first parameter that it lacks."""
        for name, average in self._averages.items():
            average.copy_(state[name])


@torch.no_grad()
def _fill(parameters: Iterable[nn.Parameter], values: list[Tensor]) -> None:
    torch._foreach_copy_(list(parameters), values)
