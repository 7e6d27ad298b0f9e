"""From a preset or a config to a model with fresh weights."""

from __future__ import annotations

from typing import Any

from svfap.model.base import Model as Model
from svfap.model.config import ModelConfig
from svfap.model.mae import MaskedAutoencoder
from svfap.model.perceiver import Perceiver
from svfap.model.presets import model_config


def build_model(config: ModelConfig) -> Model:
    """The model that a config describes, with fresh weights: for pre-training (Fig. 1a), or for any other task (Fig. 1b)."""
    return MaskedAutoencoder(config) if config.task == "pretraining" else Perceiver(config)


def create_model(preset: str, task: str = "features", **overrides: Any) -> Model:
    """A model with fresh weights.

    preset: one of `list_presets()`; task: "classification", "regression", "pretraining" or "features"; overrides: fields
    of `ModelConfig`, such as num_outputs=7, output_activation="sigmoid", frame_level=True, num_frames=16, img_size=160.
    Raises `UserError` for unknown names and for sizes that do not divide.
    """
    return build_model(model_config(preset, task, **overrides))
