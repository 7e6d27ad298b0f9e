"""Our own folders (`config.json`, `model.safetensors`), the Hub's, and an encoder's way into a task's model."""

from __future__ import annotations

import json
import logging
import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

from svfap.errors import UserError
from svfap.model.base import Model
from svfap.model.build import build_model
from svfap.model.config import ModelConfig

log = logging.getLogger("svfap")


def load_model(path_or_hub_id: str | Path, task: str | None = None, **overrides: Any) -> Model:
    """Load a model of ours.

    task: build a model for another task around its encoder, such as "features" from a pre-trained one; overrides: fields
    of `ModelConfig` for it (num_outputs=7, …). Norm and head are then new, as a warning says.

    A folder written by `save_pretrained`, a run's folder (its `best/`, else its `last/`), or the name of a repository on
    the Hugging Face Hub. Returns it in eval mode. Raises `UserError` where there is none or its tensors do not fit.
    """
    if task is not None:
        source = load_model(path_or_hub_id)
        if source.config.task == task and not overrides:
            return source
        words = {**asdict(source.config), "task": task, "fuse_stages": task == "pretraining", **overrides}
        model = build_model(ModelConfig(**words))
        new = init_encoder(model, source)
        log.warning("%s is a %s model: %s are new", path_or_hub_id, source.config.task, ", ".join(new))
        return model.eval()
    folder = Path(path_or_hub_id)
    for candidate in (folder, folder / "best", folder / "last"):
        if (candidate / "config.json").is_file():
            return _load_folder(candidate)
    if folder.is_file():
        raise UserError(
            f"{folder}: is a file; use svfap.import_published for the authors' checkpoints, or name a folder"
        )
    if folder.exists():
        raise UserError(f"{folder}: holds no model (no config.json here, nor in best/ or last/)")
    if re.fullmatch(r"[\w.-]+/[\w.-]+", str(path_or_hub_id)):
        return _load_hub(str(path_or_hub_id))
    raise UserError(f"{folder}: no such folder")


def _load_folder(folder: Path) -> Model:
    try:
        words = json.loads((folder / "config.json").read_text())
        unknown = sorted(words.keys() - set(ModelConfig.words()))
        if unknown:
            raise UserError(f"{folder}/config.json: unknown settings {', '.join(unknown)}")
    except (json.JSONDecodeError, AttributeError, TypeError) as error:
        raise UserError(f"{folder}/config.json: not a model config ({error})") from None
    if not (folder / "model.safetensors").is_file():
        raise UserError(f"{folder}: config.json is there, but model.safetensors is missing")
    try:
        return Model.from_pretrained(folder)
    except UserError:
        raise
    except Exception as error:  # safetensors and torch raise kinds of their own for broken or unfitting files
        raise UserError(f"{folder}/model.safetensors: does not fit its config.json: {error}") from None


def _load_hub(repository: str) -> Model:
    try:
        return Model.from_pretrained(repository)
    except Exception as error:  # network, permission and format errors of the hub client
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"{repository}: no such folder here, and not to be had from the Hub: {reason}") from None


def init_encoder(model: Model, source: Model) -> list[str]:
    """Copy the encoder's weights of `source` into `model`, strictly.

    Returns the names of the parameters of `model` that stay as they were (the task's head and norm). Raises `UserError`
    naming the settings in which the two encoders differ.
    """
    shape_words = (
        *("patch_size", "tubelet_size", "embed_dim", "num_heads", "mlp_ratio", "stage_depths"),
        *("num_bottleneck_tokens", "bottleneck_hidden_dim", "temporal_kernel_size"),
        *("temporal_pyramid", "temporal_downsample", "spatial_bottleneck"),
    )
    mine, theirs = asdict(model.config), asdict(source.config)
    if model.encoder.norm is not None and source.encoder.norm is None:
        raise UserError("the source's encoder has no norm for fused stages: it was fine-tuned on its last stage alone")
    differing = [f"{w}: {theirs[w]} there, {mine[w]} here" for w in shape_words if mine[w] != theirs[w]]
    if differing:
        raise UserError(f"the pre-trained encoder does not fit this model ({'; '.join(differing)})")
    model.encoder.load_state_dict(source.encoder.state_dict(), strict=True)
    return [name for name, _ in model.named_parameters() if not name.startswith("encoder.")]
