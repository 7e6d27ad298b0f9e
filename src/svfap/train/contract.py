"""What a model's config keeps of its training: the rate and face crops of the videos, and where the weights come from."""

from __future__ import annotations

from typing import Any

from svfap.console import say_once
from svfap.data.manifest import Manifest
from svfap.data.prepared import dataset_terms, find_crop
from svfap.data.rates import training_rate
from svfap.model.config import FACE_CROP, ModelConfig
from svfap.train.config import TrainConfig


def contract(config: TrainConfig, training: Manifest, **provenance: Any) -> dict[str, Any]:
    """`frame_rate`, `face_crop` and `provenance` of a model that is trained on these videos; see `ModelConfig`.

    config: resolved. provenance: further entries of it. Says which rates there are if the videos share none.
    """
    _, crop = find_crop(config.dataset, config.manifest, training.root) or (None, {})
    return {
        "frame_rate": training_rate(training, config.fps, config.frames_fps),
        "face_crop": {name: crop[name] for name in FACE_CROP if crop.get(name) is not None},
        "provenance": {
            **provenance, "num_videos": len(training), "fraction": config.fraction, "seed": config.seed,
            **dataset_terms(config.dataset, config.manifest),
        },
    }  # fmt: skip


def warn_of_other_contract(init: str, initial: ModelConfig, model: ModelConfig) -> None:
    """Say, in one line, where the training videos of `model` are not sampled or cropped like those of its initial weights.

    What is not known of the initial weights' videos, and the fields of `face_crop` that one side lacks, cannot differ.
    """
    then, now, differing = initial.face_crop, model.face_crop, []
    if initial.frame_rate not in (None, model.frame_rate):
        differing.append("frames a second in training")
    if then and not (now and all(now.get(name, value) == value for name, value in then.items())):
        differing.append("face crops of training")
    if differing:
        listed = "; ".join(f"{name}: {initial.contract[name]} then, {model.contract[name]} now" for name in differing)
        say_once(f"warning: the videos are not like those that init={init} was trained on ({listed})")
