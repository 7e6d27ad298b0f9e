"""SVFAP: a self-supervised video facial affect perceiver. The public API, imported when first used."""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.2.0"

_HOME = {
    "create_model": "svfap.model.build",
    "list_presets": "svfap.model.presets",
    "ModelConfig": "svfap.model.config",
    "TPSBT": "svfap.model.encoder",
    "Model": "svfap.model.base",
    "MaskedAutoencoder": "svfap.model.mae",
    "Perceiver": "svfap.model.perceiver",
    "tube_mask": "svfap.model.masking",
    "TubeMask": "svfap.model.masking",
    "load_model": "svfap.weights.folder",
    "import_published": "svfap.weights.published",
    "export_published": "svfap.weights.published",
    "Predictor": "svfap.predict.predictor",
    "extract_features": "svfap.features.extract",
    "iter_tracks": "svfap.crop.clips",
    "UserError": "svfap.errors",
}
__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'svfap' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]
