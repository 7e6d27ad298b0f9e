"""The facial affect perceiver (Sec. III-C, Fig. 1b): encoder, pooling over tokens, and the task's head, or several heads."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from svfap.model.base import Model, init_linear
from svfap.model.config import ModelConfig
from svfap.model.encoder import TPSBT
from svfap.model.layers import layer_norm, steps_to_frames

HEAD_INIT_SCALE = 0.001
Outputs = Tensor | dict[str, Tensor]  # of one head; of several heads by their names


def by_head(outputs: Outputs) -> Mapping[str, Tensor]:
    """The outputs of each head by its name, '' of the only one."""
    return {"": outputs} if isinstance(outputs, Tensor) else outputs


class Perceiver(Model):
    """Fine-tuning model (Fig. 1b) for classes, affect dimensions or features, per clip or per frame.

    Several heads (task "multitask") are one linear layer, of which each has its rows.

    From the pooling on, everything is computed in the dtype of the parameters (float32), under autocast too: bfloat16 has
    three significant digits, which an output of 100 ± 1 does not survive.
    """

    tasks = ("classification", "regression", "multitask", "features")

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.encoder = TPSBT(config)
        self.norm = layer_norm(config.embed_dim)
        self.head = nn.Identity() if config.task == "features" else nn.Linear(config.embed_dim, config.num_outputs)
        init_linear(self, partial(nn.init.trunc_normal_, std=0.02))
        if isinstance(self.head, nn.Linear):
            self.head.weight.data.mul_(HEAD_INIT_SCALE)
        self._shapes = config.outputs

    def forward(self, clip: Tensor) -> Outputs:
        """The task's outputs.

        clip: (B, 3, T, H, W) float, ImageNet-normalised. Returns logits (classification) or values after
        `output_activation` and scaling (regression): (B, num_outputs), or with `frame_level` (B, T, num_outputs), linearly
        interpolated from the encoder's time steps. Task "features": the features, (B, D) or (B, T, D). Task "multitask": those
        of each head, by its name.
        Raises `ValueError` for clips of another size than the config's.
        """
        return self._outputs(self.encoder(clip))

    def features(self, clip: Tensor) -> Tensor:
        """(B, 3, T, H, W) -> (B, D): the mean over all tokens, after the final norm."""
        return self.pooled(self.encoder(clip))

    def step_features(self, clip: Tensor) -> Tensor:
        """(B, 3, T, H, W) -> (B, T', D): for each time step of the encoder's output, the mean over its tokens after the norm."""
        return self._steps(self.encoder(clip))

    def of_head(self, name: str) -> Perceiver:
        """A model with one head of task "multitask" alone: a copy, which is saved, loaded and used as any model with one.

        Raises `UserError` for a name that no head has.
        """
        config, weights = self.config.of_head(name), dict(self.state_dict())
        first = sum(shape.num_outputs for shape in list(self._shapes.values())[: list(self._shapes).index(name)])
        for part in ("head.weight", "head.bias"):
            weights[part] = weights[part][first : first + config.num_outputs]
        return Perceiver.with_weights(config, weights)

    def divided_by(self, temperatures: Mapping[str, float], **provenance: Any) -> Perceiver:
        """A copy whose logits are divided by a temperature, by head, '' of the only one; those of other heads stay.

        The last layer takes it up, so that all that computes with the weights is calibrated. provenance: entries of the config.
        """
        each = [torch.full((shape.num_outputs,), temperatures.get(name, 1.0)) for name, shape in self._shapes.items()]
        divisor, weights = torch.cat(each), {name: tensor.cpu() for name, tensor in self.state_dict().items()}
        weights["head.weight"] = weights["head.weight"] / divisor[:, None]
        weights["head.bias"] = weights["head.bias"] / divisor
        config = replace(self.config, provenance={**self.config.provenance, **provenance})
        return Perceiver.with_weights(config, weights)

    def outputs_and_features(self, clip: Tensor) -> tuple[Outputs, Tensor]:
        """The results of `forward` and `features` from one pass of the encoder."""
        tokens = self.encoder(clip)
        return self._outputs(tokens), self.pooled(tokens)

    def every_output(self, clip: Tensor) -> dict[str, Tensor]:
        """The results of `forward`, `features` and `step_features` from one pass of the encoder: "outputs" (not of task
        "features"; of task "multitask" the names of the heads), "features", "step_features"."""
        tokens = self.encoder(clip)
        found = {} if self.config.task == "features" else self._outputs(tokens)
        outputs = found if isinstance(found, dict) else {"outputs": found}
        return {**outputs, "features": self.pooled(tokens), "step_features": self._steps(tokens)}

    def pooled(self, tokens: Tensor) -> Tensor:
        """What `features` makes of the encoder's tokens: (B, N_out, D) -> (B, D)."""
        with _no_autocast(tokens):
            return self.norm(tokens.to(self.norm.weight.dtype).mean(dim=1))

    def _steps(self, tokens: Tensor) -> Tensor:
        with _no_autocast(tokens):
            tokens = tokens.to(self.norm.weight.dtype).unflatten(1, (self.encoder.num_output_time_steps, -1))
            return self.norm(tokens.mean(dim=2))

    def _outputs(self, tokens: Tensor) -> Outputs:
        with _no_autocast(tokens):
            levels = dict.fromkeys(shape.frame_level for shape in self._shapes.values())
            found = {frame_level: self._linear(tokens, frame_level) for frame_level in levels}
            if not self.config.heads:
                return _activate(found[self.config.frame_level], self.config)
            sizes = [shape.num_outputs for shape in self._shapes.values()]
            parts = {frame_level: values.split(sizes, dim=-1) for frame_level, values in found.items()}
            return {
                name: _activate(parts[shape.frame_level][number], shape)
                for number, (name, shape) in enumerate(self._shapes.items())
            }

    def _linear(self, tokens: Tensor, frame_level: bool) -> Tensor:
        """The values of the linear layer, (B, K) or with frame_level (B, T, K)."""
        if not frame_level:
            return self.head(self.pooled(tokens))
        return steps_to_frames(self.head(self._steps(tokens)), self.config.num_frames)


def _activate(outputs: Tensor, config: ModelConfig) -> Tensor:
    if config.output_activation != "none":
        outputs = outputs.sigmoid() if config.output_activation == "sigmoid" else outputs.tanh()
    if config.output_scale:
        # As scalars: a tensor made of them would have to be copied to the device.
        scaled = zip(outputs.unbind(-1), config.output_scale, config.output_offset, strict=True)
        outputs = torch.stack([output * scale + offset for output, scale, offset in scaled], dim=-1)
    return outputs


def _no_autocast(tokens: Tensor) -> AbstractContextManager[object]:
    """Switches autocast off on the device of `tokens`; "meta", whose tensors are shapes alone, has none."""
    device = tokens.device.type  # asked here: `torch.amp.is_autocast_available` would break the compiler's graph
    return nullcontext() if device == "meta" else torch.autocast(device, enabled=False)
