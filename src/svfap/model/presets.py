"""Named model sizes."""

from __future__ import annotations

import difflib
from typing import Any

from svfap.errors import UserError
from svfap.model.base import Model
from svfap.model.config import TASKS, ModelConfig
from svfap.model.mae import MaskedAutoencoder
from svfap.model.perceiver import Perceiver

# One number of bottleneck tokens serves every stage after the first.
PRESETS: dict[str, dict[str, Any]] = {
    # The paper's two sizes (Sec. IV-B).
    "svfap_base": dict(embed_dim=512, num_heads=8, stage_depths=(12, 6, 3), num_bottleneck_tokens=8),
    "svfap_small": dict(embed_dim=384, num_heads=6, stage_depths=(8, 4, 2), num_bottleneck_tokens=8),
    # Ours: a size that learns on a laptop's CPU, and one for tests.
    "svfap_tiny": dict(
        **dict(img_size=64, patch_size=8, embed_dim=192, num_heads=3, stage_depths=(4, 2, 2)),
        **dict(num_bottleneck_tokens=4, decoder_embed_dim=96, decoder_num_heads=3, decoder_depth=2),
    ),
    "svfap_debug": dict(
        **dict(img_size=32, patch_size=8, embed_dim=32, num_heads=2, stage_depths=(2, 2, 2), bottleneck_hidden_dim=16),
        **dict(num_bottleneck_tokens=2, decoder_embed_dim=16, decoder_num_heads=2, decoder_depth=1),
    ),
    # VideoMAE-Base, the plain video Transformer (one stage, no pyramid, no bottleneck), and a tiny one of ours.
    "videomae_base": dict(embed_dim=768, num_heads=12, stage_depths=(12,)),
    "vit_tiny": dict(
        **dict(img_size=64, patch_size=8, embed_dim=192, num_heads=3, stage_depths=(8,)),
        **dict(decoder_embed_dim=96, decoder_num_heads=3, decoder_depth=2),
    ),
}


def list_presets() -> list[str]:
    """Names that `create_model` knows."""
    return list(PRESETS)


def model_config(preset: str, task: str, **overrides: Any) -> ModelConfig:
    """A preset's config for a task; `overrides` are fields of `ModelConfig`. Raises `UserError` for unknown words."""
    if preset not in PRESETS:
        raise UserError(f"unknown preset {preset!r}{_nearest(preset, PRESETS)}; presets: {', '.join(PRESETS)}")
    for word in ("preset", "task"):
        if word in overrides:
            raise UserError(f"{word} is no setting of the model to be overridden; give it by itself")
    for word in overrides:
        if word not in ModelConfig.words():
            raise UserError(f"unknown model setting {word!r}{_nearest(word, ModelConfig.words())}")
    if task not in TASKS:
        raise UserError(f"unknown task {task!r}{_nearest(task, TASKS)}; tasks: {', '.join(TASKS)}")
    words = {"fuse_stages": task == "pretraining", **PRESETS[preset], **overrides}
    if words.get("label_names") and "num_outputs" not in words:
        words["num_outputs"] = len(words["label_names"])
    return ModelConfig(preset=preset, task=task, **words)


def build_model(config: ModelConfig) -> Model:
    """The model that a config describes, with fresh weights."""
    return MaskedAutoencoder(config) if config.task == "pretraining" else Perceiver(config)


def create_model(preset: str, task: str = "features", **overrides: Any) -> Model:
    """A model with fresh weights.

    preset: one of `list_presets()`; task: "classification", "regression", "pretraining" or "features"; overrides: fields
    of `ModelConfig`, such as num_outputs=7, output_activation="sigmoid", frame_level=True, num_frames=16, img_size=160.
    Raises `UserError` for unknown words and for sizes that do not divide.
    """
    return build_model(model_config(preset, task, **overrides))


def _nearest(word: str, known: Any) -> str:
    matches = difflib.get_close_matches(word, list(known), n=1)
    return f" (did you mean {matches[0]!r}?)" if matches else ""
