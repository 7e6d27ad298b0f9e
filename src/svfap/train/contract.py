"""What a model's config keeps of its training: the rate and face crops of the videos, and where the weights come from."""

from __future__ import annotations

from itertools import zip_longest
from typing import Any

from svfap.console import say, say_once
from svfap.data.manifest import Manifest
from svfap.data.prepared import CROP_FILE, dataset_terms, find_crops
from svfap.data.rates import training_rate
from svfap.model.config import ModelConfig, face_crop_of
from svfap.train.config import TrainConfig
from svfap.weighted import named, weighted_paths


def contract(config: TrainConfig, training: Manifest, **provenance: Any) -> dict[str, Any]:
    """`frame_rate`, `face_crop` and `provenance` of a model that is trained on these videos; see `ModelConfig`.

    config: resolved. provenance: further entries of it. Says which rates, or crops, there are if the videos share none.
    """
    return {
        "frame_rate": training_rate(training, config.fps, config.frames_fps),
        "face_crop": _shared_crop(training),
        "provenance": {
            **provenance, "num_videos": len(training), "fraction": config.fraction, "seed": config.seed,
            **_terms(config),
        },
    }  # fmt: skip


def _terms(config: TrainConfig) -> dict[str, str]:
    """`dataset` and `licence` of what a model is trained on; of several manifests those of all, each with its name."""
    datasets, manifests = ([each.path for each in weighted_paths(value)] for value in (config.dataset, config.manifest))
    found = [dataset_terms(*pair) for pair in zip_longest(datasets, manifests)]
    if len(found) == 1:
        return found[0]
    titles = [terms.get("dataset", "") for terms in found]
    names = [
        named(path) if not title else f"{title} ({named(path)})" if titles.count(title) > 1 else title
        for path, title in zip(manifests, titles, strict=True)
    ]
    licences = [terms.get("licence", "") for terms in found]
    known = {"dataset": ", ".join(names)} if any(found) else {}
    listed = "; ".join(f"{name}: {licence or 'not stated'}" for name, licence in zip(names, licences, strict=True))
    return known | ({"licence": listed} if any(licences) else {})


def _shared_crop(training: Manifest) -> dict[str, Any]:
    """How the faces of all videos were cut out; empty, with a message, if that differs, and where it is not known."""
    cut = [found for part in training.parts for found in find_crops(part.folders, part.path).items()]
    crops = [(folder, face_crop_of(crop)) for folder, crop in cut]
    first = crops[0][1] if crops else {}
    if all(crop == first for _, crop in crops):
        return first
    files = dict.fromkeys("folders without one" if folder is None else str(folder / CROP_FILE) for folder, _ in crops)
    listed = ", ".join(files)
    say(f"the training clips were cut out in different ways ({listed}), so the model will not say how")
    return {}


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
