"""The settings and architectures that the paper compares (Tables 2, 3, 5 and 6), as overrides of any preset."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from svfap.errors import UserError
from svfap.model.config import ModelConfig
from svfap.model.presets import model_config

PLAIN_DEPTH_RATIO = 16 / 12  # A block with cross-attention has 16 D² weights where an ordinary one has 12 D².


def _plain_depths(config: ModelConfig) -> tuple[int, ...]:
    """Numbers of ordinary blocks with as many weights as the bottleneck blocks of each stage."""
    first, *later = config.stage_depths
    return (first, *(round(depth * PLAIN_DEPTH_RATIO) for depth in later))


def _tokens_without_pyramid(config: ModelConfig) -> tuple[int, ...]:
    """Bottleneck tokens per time step such that their total is as with the pyramid's fewer time steps."""
    shrinkage = config.temporal_kernel_size
    return tuple(max(1, tokens // shrinkage ** (i + 1)) for i, tokens in enumerate(config.num_bottleneck_tokens))


def _fixed(**overrides: Any) -> Callable[[ModelConfig], dict[str, Any]]:
    return lambda config: overrides


# Experiment -> row, as in `svfap.paper` -> overrides, given the preset's config.
VARIANTS: dict[str, dict[str, Callable[[ModelConfig], dict[str, Any]]]] = {
    "masking": {f"{percent}%": _fixed(mask_ratio=percent / 100) for percent in (75, 85, 90, 95)},
    "variants": {
        "neither": lambda c: dict(temporal_pyramid=False, spatial_bottleneck=False, stage_depths=_plain_depths(c)),
        "pyramid only": lambda c: dict(spatial_bottleneck=False, stage_depths=_plain_depths(c)),
        "bottleneck only": lambda c: dict(temporal_pyramid=False, num_bottleneck_tokens=_tokens_without_pyramid(c)),
        "both": _fixed(),
    },
    "bottleneck": {str(tokens): _fixed(num_bottleneck_tokens=tokens) for tokens in (4, 8, 16)},
    "downsampling": {kind: _fixed(temporal_downsample=kind) for kind in ("avg", "max", "conv")},
}


def variant(experiment: str, row: str, preset: str) -> dict[str, Any]:
    """Overrides of `preset` for one row of an experiment: fields of `ModelConfig`, to be given to `create_model`.

    experiment: "masking" (Table 2), "variants" (3), "bottleneck" (5) or "downsampling" (6); row: as in `svfap.paper`.

    The paper does not specify Table 3's variants; these are inferred from its numbers, which they reproduce. Without the
    bottleneck a later stage holds 16/12 as many blocks (rounded), since ordinary blocks lack cross-attention. Without the
    pyramid a later stage has fewer bottleneck tokens per time step in proportion to its additional time steps (8 become 4
    and 2, at least 1); with 8 throughout, "bottleneck only" would cost 51.1 G and 14.5 G multiply-adds where the paper
    reports 49.9 G and 13.5 G.
    Raises `UserError` for an unknown experiment, row or preset.
    """
    if experiment not in VARIANTS:
        raise UserError(f"experiment={experiment!r} is none of {', '.join(VARIANTS)}")
    if row not in VARIANTS[experiment]:
        raise UserError(f"experiment {experiment}: row {row!r} is none of {', '.join(VARIANTS[experiment])}")
    return dict(VARIANTS[experiment][row](model_config(preset, "features")))
