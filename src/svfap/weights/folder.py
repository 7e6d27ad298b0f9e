"""Load models from folders (`config.json`, `model.safetensors`), the Hub or published files; initialise encoders."""

from __future__ import annotations

import hashlib
import json
import logging
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from svfap.errors import UserError
from svfap.model.base import Model
from svfap.model.build import build_model
from svfap.model.config import CONFIG_FILE, ModelConfig
from svfap.settings import is_hub_name
from svfap.weights.published import import_published

log = logging.getLogger("svfap")
WEIGHTS_FILE = "model.safetensors"


def load_model(path_or_hub_id: str | Path, task: str | None = None, **overrides: Any) -> Model:
    """Load a model, in eval mode.

    path_or_hub_id: a folder written by `save_pretrained`; the folder of a run (its `best/`, else its `last/`); the name of a
    repository on the Hugging Face Hub; or a checkpoint file of SVFAP or VideoMAE (see `import_published`).
    task: build a model for another task around the encoder, such as "features" from a pre-trained one; its norm and head are
    then new, as a warning says. overrides: fields of `ModelConfig` for it (num_outputs=7, …); with a file, also settings that
    it does not store. Raises `UserError` if there is no model or its tensors do not fit.
    """
    if Path(path_or_hub_id).is_file():
        return import_published(path_or_hub_id, task, **overrides)
    if task is not None:
        source = load_model(path_or_hub_id)
        if source.config.task == task and not overrides:
            return source
        settings = {**asdict(source.config), "task": task, "fuse_stages": task == "pretraining", **overrides}
        model = build_model(ModelConfig(**settings))
        new = init_encoder(model, source)
        log.warning("%s is a %s model: %s are new", path_or_hub_id, source.config.task, ", ".join(new))
        return model.eval()
    if overrides:
        raise UserError(f"{path_or_hub_id}: to change {', '.join(overrides)} give task as well")
    folder = Path(path_or_hub_id)
    for candidate in (folder, folder / "best", folder / "last"):
        if (candidate / CONFIG_FILE).is_file():
            return _load_folder(candidate)
    if folder.exists():
        raise UserError(f"{folder}: holds no model (no config.json here, nor in best/ or last/)")
    if is_hub_name(path_or_hub_id):
        return _load_hub(str(path_or_hub_id))
    raise UserError(f"{folder}: no such folder")


def _load_folder(folder: Path) -> Model:
    model = build_model(ModelConfig.read(folder / CONFIG_FILE))
    file = folder / WEIGHTS_FILE
    if not file.is_file():
        raise UserError(f"{folder}: config.json is there, but {file.name} is missing")
    try:
        model.load_state_dict(load_file(file))
    except Exception as error:  # safetensors and torch raise many types for broken or unfitting files
        raise UserError(f"{file}: does not fit its config.json: {error}") from None
    return model.eval()


def _load_hub(repository: str) -> Model:
    from huggingface_hub import hf_hub_download

    try:
        files = [hf_hub_download(repository, name) for name in (CONFIG_FILE, WEIGHTS_FILE)]
    except Exception as error:  # network, permission and format errors of the hub client
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"{repository}: no such folder here, and cannot be loaded from the Hub: {reason}") from None
    return _load_folder(Path(files[0]).parent)


def fingerprint(model: Model) -> str:
    """Digest of a model's weights and of the settings that decide its outputs: 16 hexadecimal digits.

    Settings that have their default value do not count, so that a new one leaves it as it is; nor does `provenance`.
    """
    default, settings = ModelConfig(), asdict(model.config)
    given = {
        name: value
        for name, value in settings.items()
        if name != "provenance" and value != getattr(default, name, None)
    }
    digest = hashlib.sha256(json.dumps(given, sort_keys=True, default=str).encode())
    for name, tensor in model.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]


def init_encoder(model: Model, source: Model) -> list[str]:
    """Copy the encoder's weights of `source` into `model`, strictly.

    Returns the names of the parameters of `model` that are unchanged (the task's head and norm). Raises `UserError` naming the
    settings in which the two encoders differ.
    """
    shape_settings = (
        *("patch_size", "tubelet_size", "embed_dim", "num_heads", "mlp_ratio", "stage_depths"),
        *("num_bottleneck_tokens", "bottleneck_hidden_dim", "temporal_kernel_size"),
        *("temporal_pyramid", "temporal_downsample", "spatial_bottleneck"),
    )
    if model.encoder.norm is not None and source.encoder.norm is None:
        raise UserError("the source's encoder has no norm for fused stages: it was fine-tuned on its last stage only")
    pairs = {name: (getattr(source.config, name), getattr(model.config, name)) for name in shape_settings}
    differing = [f"{name}: {there} there, {here} here" for name, (there, here) in pairs.items() if there != here]
    if differing:
        raise UserError(f"the pre-trained encoder does not fit this model ({'; '.join(differing)})")
    model.encoder.load_state_dict(source.encoder.state_dict())
    return [name for name, _ in model.named_parameters() if not name.startswith("encoder.")]
