"""From a preset or a config to a model with fresh weights."""

from __future__ import annotations

from typing import Any

import torch

from svfap.errors import UserError
from svfap.model.base import Model as Model
from svfap.model.config import ModelConfig
from svfap.model.mae import MaskedAutoencoder
from svfap.model.perceiver import Perceiver
from svfap.model.presets import model_config


def build_model(config: ModelConfig) -> Model:
    """The model that a config describes, with fresh weights: for pre-training (Fig. 1a), or for any other task (Fig. 1b)."""
    return (MaskedAutoencoder if config.task == "pretraining" else Perceiver)(config)


def empty_model(config: ModelConfig, num_tensors: int, source: object) -> Model:
    """The model that a config describes without weights, for `Model.filled`; takes no memory for them, but knows their shapes.

    num_tensors: of the file that is to fill it. Raises `UserError` naming `source` if the config has more blocks than that, or
    sizes that no tensor can have.
    """
    num_blocks = sum(config.stage_depths) + (config.decoder_depth if config.task == "pretraining" else 0)
    if num_blocks > num_tensors:
        raise UserError(
            f"{source}: does not fit the model: {num_blocks} blocks by its config, {num_tensors} tensors in the file"
        )
    try:
        with torch.device("meta"):
            return build_model(config)
    except (RuntimeError, OverflowError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{source}: its config describes no possible model ({reason})") from None


def shapes_of(model: Model) -> dict[str, tuple[int, ...]]:
    """The shapes of a model's weights, by name."""
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def create_model(preset: str, task: str = "features", **overrides: Any) -> Model:
    """A model with fresh weights.

    preset: one of `list_presets()`; task: "classification", "regression", "pretraining" or "features"; overrides: fields
    of `ModelConfig`, such as num_outputs=7, output_activation="sigmoid", frame_level=True, num_frames=16, img_size=160.
    Raises `UserError` for unknown names and for sizes that do not divide.
    """
    return build_model(model_config(preset, task, **overrides))
