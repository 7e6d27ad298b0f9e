"""Named model sizes, and the config of each for a task. Without torch, so that a wrong setting is reported at once."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any

from svfap.errors import UserError
from svfap.model.config import TASKS, ModelConfig

# One number of bottleneck tokens serves every stage after the first.
PRESETS: dict[str, dict[str, Any]] = {
    # The paper's two sizes (Sec. IV-B).
    "svfap_base": dict(embed_dim=512, num_heads=8, stage_depths=(12, 6, 3), num_bottleneck_tokens=8),
    "svfap_small": dict(embed_dim=384, num_heads=6, stage_depths=(8, 4, 2), num_bottleneck_tokens=8),
    # Not in the paper: a size that trains on a laptop's CPU, and one for tests.
    "svfap_tiny": dict(
        **dict(img_size=64, patch_size=8, embed_dim=192, num_heads=3, stage_depths=(4, 2, 2)),
        **dict(num_bottleneck_tokens=4, decoder_embed_dim=96, decoder_num_heads=3, decoder_depth=2),
    ),
    "svfap_debug": dict(
        **dict(img_size=32, patch_size=8, embed_dim=32, num_heads=2, stage_depths=(2, 2, 2), bottleneck_hidden_dim=16),
        **dict(num_bottleneck_tokens=2, decoder_embed_dim=16, decoder_num_heads=2, decoder_depth=1),
    ),
    # VideoMAE-Base, the plain video Transformer (one stage, no pyramid, no bottleneck), and a tiny one.
    "videomae_base": dict(embed_dim=768, num_heads=12, stage_depths=(12,)),
    "vit_tiny": dict(
        **dict(img_size=64, patch_size=8, embed_dim=192, num_heads=3, stage_depths=(8,)),
        **dict(decoder_embed_dim=96, decoder_num_heads=3, decoder_depth=2),
    ),
}


def list_presets() -> list[str]:
    """Names that `create_model` accepts."""
    return list(PRESETS)


def check_model(preset: str, overrides: Iterable[str]) -> None:
    """Raise `UserError` for an unknown preset, or for an override that is no field of `ModelConfig`."""
    if preset not in PRESETS:
        raise UserError(f"unknown preset {preset!r}{_nearest(preset, PRESETS)}; presets: {', '.join(PRESETS)}")
    for name in overrides:
        if name in ("preset", "task"):
            raise UserError(f"{name} is not a model setting that can be overridden; give it by itself")
        if name not in ModelConfig.field_names():
            raise UserError(f"unknown model setting {name!r}{_nearest(name, ModelConfig.field_names())}")


def model_config(preset: str, task: str, **overrides: Any) -> ModelConfig:
    """A preset's config for a task; `overrides` are fields of `ModelConfig`. Raises `UserError` for unknown names."""
    check_model(preset, overrides)
    if task not in TASKS:
        raise UserError(f"unknown task {task!r}{_nearest(task, TASKS)}; tasks: {', '.join(TASKS)}")
    settings = {"fuse_stages": task == "pretraining", **PRESETS[preset], **overrides}
    if settings.get("label_names") and "num_outputs" not in settings:
        settings["num_outputs"] = len(settings["label_names"])
    return ModelConfig(preset=preset, task=task, **settings)


def _nearest(name: str, known: Iterable[str]) -> str:
    matches = difflib.get_close_matches(name, list(known), n=1)
    return f" (did you mean {matches[0]!r}?)" if matches else ""
