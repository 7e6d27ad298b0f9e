"""Published checkpoints to model folders, and models to the published format."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from svfap.console import say
from svfap.data.prepared import PreparedDataset, read_crop, read_dataset
from svfap.datasets.dataset import NAMES, Dataset, get_dataset
from svfap.errors import UserError
from svfap.files import make_folder, replacing_folder
from svfap.model.base import Model
from svfap.model.config import face_crop_of
from svfap.shipped import local_model
from svfap.weights.checkpoint import Checkpoint, read_published
from svfap.weights.config import ConvertConfig, require_new
from svfap.weights.folder import has_model, load_model
from svfap.weights.published import build_published, save_published, why_unpublishable

PUBLISHED_SUFFIXES = (".pth", ".pt")
OUTPUTS = ("output_activation", "frame_level", "label_names")  # settings of a head that a dataset has


class Conversion(NamedTuple):
    """model: as written. checkpoint: the published one that it was read from; None where it was a model folder."""

    model: Model
    checkpoint: Checkpoint | None


def convert(model: str | Path, out: str | Path, config: ConvertConfig | None = None) -> Conversion:
    """Convert a published checkpoint or a model folder to a model folder or the published format.

    model: a checkpoint file of SVFAP or VideoMAE (.pth, .pt, .bin, .safetensors), or what `load_model` takes otherwise.
    out: a new folder (config.json, model.safetensors), or a new .pth or .pt file. config: settings not stored in it.
    Executes no code from the checkpoint. Raises `UserError` if `out` exists, the settings do not fit the checkpoint, or a tensor
    is left over, missing or of another shape, and for a model folder that cannot be written in the published format.
    """
    config, out = config or ConvertConfig(), Path(out)
    require_new(out)
    make_folder(out.absolute().parent)
    checkpoint, source = None, local_model(model)
    loaded = load_model(source) if source is not None and not source.is_file() and has_model(source) else None
    if source is not None and source.is_file():
        checkpoint = read_published(source, config.ema)
        converted = _build(checkpoint, config)
    elif loaded is not None and (reason := why_unpublishable(loaded.config)):
        raise UserError(f"{model}: {reason}")
    elif out.suffix not in PUBLISHED_SUFFIXES:
        problem = "is a folder" if source is not None else "no such file"
        raise UserError(f"{model}: {problem}; give a checkpoint file, or let OUT end in .pth to write one")
    elif config != ConvertConfig():
        raise UserError(f"{model}: the config.json of a model folder is complete; leave out all settings")
    else:
        converted = loaded or load_model(model)
    if out.suffix in PUBLISHED_SUFFIXES:
        save_published(converted, out)
    else:
        with replacing_folder(out) as folder:
            converted.save_pretrained(folder)
    return Conversion(converted, checkpoint)


def _build(checkpoint: Checkpoint, config: ConvertConfig) -> Model:
    """The model of a checkpoint; the dataset gives the settings of its head."""
    task: str | None = config.task
    settings = config.model_settings()
    if config.dataset is not None:
        settings = {**_contract(config.dataset, checkpoint), **settings}
        if checkpoint.pretrained and task not in ("classification", "regression"):
            say(
                f"warning: {checkpoint.source} is pre-trained and has no head, so of `dataset` only frame rate and face crop "
                "are used; for a new head give --task too"
            )
        else:
            dataset = _find_dataset(config.dataset)
            task = task or dataset.task
            described = _dataset_settings(dataset, task, checkpoint.settings.get("sampling_stride"))
            _require_as_stored(
                {name: described[name] for name in described.keys() - settings}, checkpoint, dataset.title
            )
            settings = {**described, **settings}
    model = build_published(checkpoint, task, **settings)
    if model.config.task in ("classification", "regression") and not model.config.label_names:
        say("warning: the outputs have no names; give --dataset or --label_names")
    return model


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
