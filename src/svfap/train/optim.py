"""Learning rates, parameter groups, AdamW, and the moving average of the weights."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from svfap.errors import UserError
from svfap.model.base import Model

LayerRule = Literal["published", "depth"]


def scaled_lr(base_lr: float, batch_size: int) -> tuple[float, str]:
    """The learning rate for batches of `batch_size` clips, and its derivation as text: "1e-3 × 96 / 256 = 3.75e-4"."""
    lr = base_lr * batch_size / 256
    short = [np.format_float_scientific(x, precision=3, trim="-", exp_digits=1) for x in (base_lr, lr)]  # as in 3.75e-4
    return lr, f"{short[0]} × {batch_size} / 256 = {short[1]}"


def cosine_schedule(
    peak: float, minimum: float, epochs: int, steps_per_epoch: int, warmup_epochs: float, start: float = 0.0
) -> np.ndarray:
    """The learning rate of every step, (epochs * steps_per_epoch,) float64.

    Linear from `start` to `peak` over the warm-up steps, both included, then half a cosine from `peak` towards `minimum`,
    which the step after the last would reach. Raises `UserError` if warm-up is longer than training.
    """
    num_steps, num_warmup = epochs * steps_per_epoch, int(warmup_epochs * steps_per_epoch)
    if num_warmup > num_steps:
        raise UserError(f"warmup_epochs = {warmup_epochs} is more than epochs = {epochs}: warm up for fewer")
    progress = np.arange(num_steps - num_warmup) / max(1, num_steps - num_warmup)
    cosine = minimum + 0.5 * (peak - minimum) * (1 + np.cos(np.pi * progress))
    return np.concatenate([np.linspace(start, peak, num_warmup), cosine])


def layer_of(name: str, stage_depths: Sequence[int], rule: LayerRule = "published") -> int:
    """Layer of a parameter, from its name in a task model: 0 to sum(stage_depths) + 1.

    The tubelet embedding is layer 0, the blocks are 1, 2, ... through all stages; norm, head, decoder and the like are the
    last layer. A stage's temporal down-sampling and spatial bottleneck are in the last layer too by the "published" rule,
    and in that of the stage's first block by the "depth" rule.
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
    """Groups for the optimiser, each with `params`, `names`, `weight_decay`, `lr_scale`; without frozen parameters.

    Layer-wise decay: a parameter of layer i (see `layer_of`) has layer_decay ** (sum(stage_depths) + 1 - i) of the
    learning rate. Biases, other one-dimensional parameters and the mask token have no weight decay. Takes the bare model,
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


def build_optimizer(groups: list[dict[str, Any]], betas: tuple[float, float] = (0.9, 0.999)) -> torch.optim.AdamW:
    """AdamW over `parameter_groups`, fused (three times as fast, on a CPU too). Its learning rate is 0 until `apply_lr`."""
    return torch.optim.AdamW(groups, lr=0.0, betas=betas, fused=True)


def apply_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Set every group's learning rate to `lr` times its `lr_scale`; call it before each step."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group["lr_scale"]


class MovingAverage(AveragedModel):
    """See `moving_average`. `AveragedModel` itself asks the device at each update whether it is the first one."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        super().__init__(model)
        self._average = get_ema_multi_avg_fn(decay)

    def update_parameters(self, model: nn.Module) -> None:
        self._average([*self.module.parameters()], [*model.parameters()], self.n_averaged)
        self.n_averaged += 1


def moving_average(model: nn.Module, decay: float) -> MovingAverage:
    """Exponential moving average of a model's parameters, which starts at those the model has.

    Its `module` is a copy of `model` with the averages for parameters. After each optimiser step, `update_parameters(model)`
    makes them decay * average + (1 - decay) * parameter. Takes the bare model, not one wrapped for parallel training.
    """
    average = MovingAverage(model, decay)
    average.register_load_state_dict_pre_hook(_read_bare_names)
    return average


def _read_bare_names(module: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    """Load older checkpoints too, in which the averages have the names of the parameters."""
    if f"{prefix}n_averaged" not in state:
        for name in list(state):
            state[f"{prefix}module.{name.removeprefix(prefix)}"] = state.pop(name)
        state[f"{prefix}n_averaged"] = module.n_averaged
