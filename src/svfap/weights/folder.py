"""Load models from folders (`config.json`, `model.safetensors`), the Hub or published files; initialise encoders."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import torch
from huggingface_hub.errors import EntryNotFoundError
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn

from svfap.console import say_once
from svfap.errors import UserError, first_line
from svfap.model.base import Model
from svfap.model.build import build_model, empty_model, shapes_of
from svfap.model.config import CONFIG_FILE, ENCODER_SETTINGS, ModelConfig
from svfap.model.mae import MaskedAutoencoder
from svfap.model.perceiver import Perceiver
from svfap.settings import HUB_PREFIX, require_model
from svfap.shipped import LocalModel, find_model
from svfap.weights.checkpoint import VIDEOMAE, read_published
from svfap.weights.described import build_described
from svfap.weights.filetype import describe
from svfap.weights.published import import_published

log = logging.getLogger("svfap")
WEIGHTS_FILE, OLDER_WEIGHTS_FILE = "model.safetensors", "pytorch_model.bin"
# What a model for another task does not take over.
OF_ITS_HEAD: dict[str, Any] = dict(
    output_activation="none", output_scale=(), output_offset=(), heads=(), reads="affect", meanings=()
)


def load_model(path_or_hub_id: str | Path, task: str | None = None, **overrides: Any) -> Model:
    """Load a model, in eval mode.

    path_or_hub_id: the name of a model that comes with the package (`list_models`); a folder written by `save_pretrained`; the
    folder of a run (its `best/`, else its `last/`); the name of a repository on the Hugging Face Hub, of this package or of
    VideoMAE; or a checkpoint file of SVFAP or VideoMAE (see `import_published`), also as FILE:DATASET with the dataset that it
    was trained on, which gives the names of its outputs, the sampling stride, frame rate and face crop.
    task: build a model for another task around the encoder; its norm and head are then new, as a warning says. "features" of a
    fine-tuned model has all that is before its head, so its outputs are what the head reads. overrides: fields of `ModelConfig`
    for it (num_outputs=7, …); with a file, also settings that
    it does not store. Raises `UserError` if there is no model or its tensors do not fit.
    """
    name, found = str(path_or_hub_id), find_model(path_or_hub_id)
    if found is None:
        require_model(name)
        found = LocalModel(_from_hub(name.removeprefix(HUB_PREFIX)))
    if found.path.is_file():
        return _load_file(found, name, task, overrides)
    if task is not None:
        source = _load_folder(model_folder(found.path))
        if source.config.task == task and not overrides:
            return source
        model = build_model(config_for(source.config, task, **overrides))
        new = init_encoder(model, source)
        if task == "features" and isinstance(source, Perceiver):
            cast(Perceiver, model).norm.load_state_dict(source.norm.state_dict())
        else:
            log.warning("%s is a %s model: %s are new", name, source.config.task, ", ".join(new))
        return model.eval()
    if overrides:
        raise UserError(f"{name}: to change {', '.join(overrides)} give task as well")
    return _load_folder(model_folder(found.path))


def _load_file(found: LocalModel, name: str, task: str | None, overrides: Mapping[str, Any]) -> Model:
    """The model of a checkpoint file, of the dataset that its name says."""
    if found.dataset is None:
        return import_published(found.path, task, **overrides)
    if not name.endswith(f":{found.dataset}"):
        say_once(f"{name}: labels and input of {found.dataset}, as the catalogue says of a file of this name")
    given = dict(overrides)
    checkpoint = read_published(found.path, given.pop("ema", False))
    return build_described(checkpoint, found.dataset, task, given)


def config_for(config: ModelConfig, task: str, **overrides: Any) -> ModelConfig:
    """The config of a model for a task around the encoder of another model. Raises `UserError`.

    overrides: its fields; label_names say num_outputs as well. Stages are fused for pre-training, and in features where the model
    that they are of fuses them for its head.
    """
    if overrides.get("label_names"):
        overrides.setdefault("num_outputs", len(overrides["label_names"]))
    head = OF_ITS_HEAD if config.task != task else {}
    fused = config.fuse_stages if task == "features" and config.task != "pretraining" else task == "pretraining"
    return ModelConfig(**{**asdict(config), **head, "task": task, "fuse_stages": fused, **overrides})


def has_model(path: Path) -> bool:
    """Whether `load_model` finds a file or a folder of a model here."""
    return path.is_file() or _holder(path) is not None


def _holder(folder: Path) -> Path | None:
    """The folder of the model: itself, or its best/ or last/ if it is a run; None if it holds none."""
    candidates = (folder, folder / "best", folder / "last")
    return next((each for each in candidates if (each / CONFIG_FILE).is_file()), None)


def model_folder(folder: Path) -> Path:
    """The folder of the model: the one given, or its best/ or last/ if it is a run. Raises `UserError` if there is none."""
    if (holder := _holder(folder)) is None:
        raise UserError(f"{folder}: holds no model (no config.json here, nor in best/ or last/)")
    return holder


def _load_folder(folder: Path) -> Model:
    config, file = ModelConfig.read(folder / CONFIG_FILE), folder / WEIGHTS_FILE
    if not file.is_file():
        raise UserError(f"{folder}: config.json is there, but {file.name} is missing")
    if found := describe(file):
        raise UserError(f"{file}: does not fit its config.json: it is {found}")
    try:
        with safe_open(file, framework="pt") as tensors:
            there = {name: tuple(tensors.get_slice(name).get_shape()) for name in tensors.keys()}  # noqa: SIM118
        if any(".lora_A." in name for name in there):
            raise UserError(
                f"{file}: has adapters apart from the weights; best/ of the run is an ordinary model, give that"
            )
        model = empty_model(config, len(there), file)
        if problem := _difference(there, shapes_of(model), config):
            raise UserError(f"{file}: does not fit its config.json: {problem}")
        return model.filled(load_file(file))
    except UserError:
        raise
    except Exception as error:  # safetensors and torch raise many types for broken files
        raise UserError(f"{file}: does not fit its config.json: {first_line(error)}") from None


def _difference(there: dict[str, tuple[int, ...]], here: dict[str, tuple[int, ...]], config: ModelConfig) -> str | None:
    """In what the shapes of a file and those of its config's model differ, the head first; None if in nothing."""
    head = next(iter(there.get("head.weight", ())), 0)
    if head and config.num_outputs and "head.weight" in here and head != config.num_outputs:
        return f"the head in the file has {head} outputs, and num_outputs is {config.num_outputs}"
    if differing := [name for name in here if name in there and there[name] != here[name]]:
        name = differing[0]
        more = f", and {len(differing) - 1} other tensors" if len(differing) > 1 else ""
        return f"{name} is {there[name]} in the file and {here[name]} by its settings{more}"
    for what, names in (("missing", here.keys() - there.keys()), ("not of this model", there.keys() - here.keys())):
        if names:
            return f"{len(names)} tensors are {what}, such as {min(names)}"
    return None


def _from_hub(repository: str) -> Path:
    """A repository on the Hub, copied into its cache: the folder of a model, or the checkpoint file of one of VideoMAE."""
    from huggingface_hub import hf_hub_download

    try:
        config = Path(hf_hub_download(repository, CONFIG_FILE))
        stored = json.loads(config.read_text(encoding="utf-8"))
        if isinstance(stored, dict) and stored.get("model_type") == VIDEOMAE:
            try:
                return Path(hf_hub_download(repository, WEIGHTS_FILE))
            except EntryNotFoundError:
                return Path(hf_hub_download(repository, OLDER_WEIGHTS_FILE))
        hf_hub_download(repository, WEIGHTS_FILE)
    except Exception as error:  # network, permission and format errors of the hub client
        raise UserError(f"{repository}: cannot be loaded from the Hub: {first_line(error)}") from None
    return config.parent


def fingerprint(model: Model) -> str:
    """Digest of a model's weights and of the settings that decide its outputs: 16 hexadecimal digits.

    Settings that have their default value do not count, so that a new one leaves it as it is; nor does `provenance`.
    """
    default, settings = asdict(ModelConfig()), asdict(model.config)
    given = {name: settings[name] for name in settings if name != "provenance" and settings[name] != default[name]}
    return weights_digest(model, given)


def weights_digest(module: nn.Module, settings: Mapping[str, Any]) -> str:
    """Digest of a module's weights and of settings: 16 hexadecimal digits."""
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode())
    for name, tensor in module.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]


def init_autoencoder(model: MaskedAutoencoder, source: Model) -> list[str]:
    """`init_encoder`, and the decoder's weights where `source` has one of the same sizes that predicts the same target.

    Returns the names of the parameters of `model` that are unchanged: none, or those of the decoder. Raises `UserError`.
    """
    unchanged = init_encoder(model, source)
    if not isinstance(source, MaskedAutoencoder) or source.config.target != model.config.target:
        return unchanged
    theirs, ours = source.state_dict(), model.state_dict()
    names = [name for name in ours if not name.startswith("encoder.")]
    heads = source.config.decoder_num_heads == model.config.decoder_num_heads
    if not heads or any(name not in theirs or theirs[name].shape != ours[name].shape for name in names):
        return unchanged
    if source.config.decoder_depth != model.config.decoder_depth:
        return unchanged
    model.load_state_dict({name: theirs[name] for name in names}, strict=False)
    return []


def init_encoder(model: Model, source: Model) -> list[str]:
    """Copy the encoder's weights of `source` into `model`, strictly.

    Returns the names of the parameters of `model` that are unchanged (the task's head and norm). Raises `UserError` naming the
    settings in which the two encoders differ.
    """
    if model.encoder.norm is not None and source.encoder.norm is None:
        raise UserError(
            "the source's encoder has no norm for fused stages: it was fine-tuned on its last stage only; give the pre-trained "
            "weights that it was made from, or ones that were fine-tuned with fused stages (model: {fuse_stages: true})"
        )
    pairs = {name: (getattr(source.config, name), getattr(model.config, name)) for name in ENCODER_SETTINGS}
    if differing := [f"{name}: {there} there, {here} here" for name, (there, here) in pairs.items() if there != here]:
        names = (*ENCODER_SETTINGS, "img_size", "num_frames")
        theirs = {name: getattr(source.config, name) for name in names}
        wanted = {name: theirs[name] for name in names if theirs[name] != getattr(model.config, name)}
        as_yaml = json.dumps(wanted).replace('"', "")
        raise UserError(
            f"the pre-trained encoder does not fit this model ({'; '.join(differing)}); for a model of its shape put this into "
            f"the YAML of --config, or choose the preset that it was made with: model: {as_yaml}"
        )
    model.encoder.load_state_dict(source.encoder.state_dict())
    return [name for name, _ in model.named_parameters() if not name.startswith("encoder.")]
