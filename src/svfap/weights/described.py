"""Checkpoints that do not say what they were trained on: their model with the labels, rate and crop of a dataset."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from svfap.console import say
from svfap.data.prepared import PreparedDataset, read_crop, read_dataset
from svfap.datasets.dataset import NAMES, Dataset, get_dataset
from svfap.errors import UserError
from svfap.model.base import Model
from svfap.model.config import ModelConfig, face_crop_of
from svfap.shipped import is_checkpoint
from svfap.weights.checkpoint import Checkpoint
from svfap.weights.config import require_dataset
from svfap.weights.published import build_published

OUTPUTS = ("output_activation", "frame_level", "label_names")  # settings of a head that a dataset has


def require_names(name: str | Path, config: ModelConfig) -> None:
    """Raise `UserError` for a checkpoint file whose outputs have no names, with the datasets that have as many."""
    if all(shape.label_names for shape in config.outputs.values()) or not is_checkpoint(name):
        return
    number = config.num_outputs
    fitting = [each for each in NAMES if len(get_dataset(each).label_names) == number]
    of_these = f"; {', '.join(fitting)} have {number} labels" if fitting else ""
    raise UserError(
        f"{name}: does not say what its {number} outputs mean; add the dataset that it was trained on, as in {name}:dfew"
        f"{of_these}. Or convert it with names of your own: svfap convert {name} FOLDER --label_names ..."
    )


def build_described(checkpoint: Checkpoint, dataset: str | None, task: str | None, given: Mapping[str, Any]) -> Model:
    """The model of a checkpoint; a dataset, by name or as a prepared folder, gives the settings of its head and its contract.

    given: fields of `ModelConfig`, which take precedence. Raises `UserError`.
    """
    settings = dict(given)
    if dataset is not None:
        require_dataset(dataset)
        settings = {**_contract(dataset, checkpoint), **settings}
        if checkpoint.pretrained and task not in ("classification", "regression"):
            say(
                f"warning: {checkpoint.source} is pre-trained and has no head, so of `dataset` only frame rate and face crop "
                "are used; for a new head give --task too"
            )
        else:
            found = _find_dataset(dataset)
            if not checkpoint.complete and not checkpoint.pretrained:
                settings.setdefault("provenance", {"dataset": found.title, "licence": found.licence})
            task = task or found.task
            described = _dataset_settings(found, task, checkpoint.settings.get("sampling_stride"))
            _require_as_stored({name: described[name] for name in described.keys() - settings}, checkpoint, found.title)
            settings = {**described, **settings}
    return build_published(checkpoint, task, **settings)


def _dataset_settings(dataset: PreparedDataset | Dataset, task: str, stored_stride: int | None) -> dict[str, Any]:
    """Settings of a dataset's model for a task. stored_stride: the checkpoint's sampling stride, which takes precedence."""
    if not dataset.label_names:
        raise UserError(f"dataset={dataset.name}: has no labels of its own; name a folder of `svfap prepare`")
    if task not in (dataset.task, "features"):
        raise UserError(f"task={task}: {dataset.title} is for {dataset.task}; leave out `task` or `dataset`")
    names = [*OUTPUTS] if task == dataset.task else []
    if stored_stride is None:
        names.append("sampling_stride")
    elif stored_stride != dataset.sampling_stride:
        stride = dataset.sampling_stride
        say(f"warning: sampling stride {stored_stride} as the checkpoint says; that of {dataset.title} is {stride}")
    return {name: getattr(dataset, name) for name in names}


def _require_as_stored(described: Mapping[str, Any], checkpoint: Checkpoint, title: str) -> None:
    """Raise `UserError` where a fine-tuned checkpoint says otherwise of its outputs than a dataset; no names say nothing."""
    for name in () if checkpoint.pretrained else OUTPUTS:
        stored, wanted = _listed(checkpoint.settings.get(name)), _listed(described.get(name))
        if name in described and stored not in ("", "None", wanted):
            raise UserError(
                f"{checkpoint.source}: stores {name} {stored}; {title} has {wanted}. Leave out `dataset` to keep what is "
                f"stored, or give `{name}`"
            )


def _listed(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _contract(name: str, checkpoint: Checkpoint) -> dict[str, Any]:
    """Frame rate and face crop of the clips that were trained on; empty for a checkpoint that stores them.

    name: of a dataset, for the authors' clips; or a prepared folder, whose `crop.json` takes precedence.
    """
    crop = read_crop(name)
    if Path(name).is_dir():
        name = read_dataset(name).name
    if checkpoint.complete:
        return {}
    known: dict[str, Any] = {}
    if name in NAMES:
        dataset = get_dataset(name)
        known = {"frame_rate": dataset.frame_rate, "face_crop": dict(dataset.face_crop)}
    if crop is not None:
        known |= {"face_crop": face_crop_of(crop), **({"frame_rate": crop["fps"]} if crop.get("fps") else {})}
    return known


def _find_dataset(name: str) -> PreparedDataset | Dataset:
    """The description of a prepared folder, or of a dataset by name."""
    if Path(name).is_dir():
        return read_dataset(name)
    dataset = get_dataset(name)
    if hasattr(dataset.config, "target"):
        raise UserError(f"dataset={name}: has several targets; name the folder that `svfap prepare` wrote for one")
    return dataset
