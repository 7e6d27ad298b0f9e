"""What a model keeps of its training videos, so that others are sampled and cropped like them: `frame_rate`, `face_crop`."""

from __future__ import annotations

from typing import Any

from svfap.data.manifest import Manifest
from svfap.data.prepared import find_crop
from svfap.data.rates import training_rate
from svfap.model.config import FACE_CROP
from svfap.train.config import TrainConfig


def contract(config: TrainConfig, training: Manifest) -> dict[str, Any]:
    """`frame_rate` and `face_crop` of a model that is trained on these videos; see `ModelConfig`.

    config: resolved. Says which rates there are if the videos share none.
    """
    _, crop = find_crop(config.dataset, config.manifest, training.root) or (None, {})
    return {
        "frame_rate": training_rate(training, config.fps, config.frames_fps),
        "face_crop": {name: crop[name] for name in FACE_CROP if crop.get(name) is not None},
    }
