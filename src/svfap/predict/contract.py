"""Faces as a model has seen them in training: its detector and its crops, unless the user says otherwise."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, get_args

from svfap.console import say
from svfap.errors import UserError
from svfap.faces.config import CROP_FIELDS, DetectorName, FaceCropConfig, Faces
from svfap.faces.detect import Detector, make_detector
from svfap.model.config import ModelConfig


def crop_of(model: ModelConfig, given: FaceCropConfig | Mapping[str, Any] | None = None) -> FaceCropConfig:
    """How faces are cut out for a model: as `given`, else as in its training, else by the general defaults.

    given: all fields, or some of them. The size is the model's. Says which fields differ from those of the training.
    """
    chosen = asdict(given) if isinstance(given, FaceCropConfig) else given or {}
    chosen = {name: chosen[name] for name in CROP_FIELDS if chosen.get(name) is not None}
    trained = {name: model.face_crop[name] for name in CROP_FIELDS if name in model.face_crop}
    for name, value in chosen.items():
        if trained.get(name, value) != value:
            say(f"{name}={value}, while the model's training had {trained[name]}")
    return FaceCropConfig(size_px=model.img_size, **{**trained, **chosen})


def detector_of(model: ModelConfig, faces: Faces | Detector | None, face_model: str | Path | None) -> Detector | None:
    """The detector that a model's faces are found with: `faces` if given, else that of its training, else the best one.

    None: no faces are searched for (faces="none"). face_model: YuNet's file. Says if it is not that of the training. Raises
    `UserError`.
    """
    if faces == "none":
        return None
    trained: Any = model.face_crop.get("detector")
    if isinstance(faces, str):
        detector = make_detector(faces, face_model)
    elif faces is not None:
        detector = faces
    elif trained in get_args(DetectorName) and face_model is None:
        try:
            detector = make_detector(trained)
        except UserError:
            detector = make_detector("auto")
    else:
        detector = make_detector("auto", face_model)
    if trained is not None and detector.name != trained:
        say(f"faces are found by {detector.name}, while the model's training had those of {trained}")
    return detector
