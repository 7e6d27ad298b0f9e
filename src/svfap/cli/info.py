"""`svfap info`: what models cost."""

from __future__ import annotations

from svfap.console import show
from svfap.weights import info
from svfap.weights.config import InfoConfig


def run(config: InfoConfig, model: str | None) -> None:
    """Show the tables of a model, or the list of presets."""
    show(*([info.preset_table()] if model is None else info.model_tables(model, config.mask_ratio)))
