"""Read checkpoint files of SVFAP and VideoMAE without executing code, as tensors under the published names."""

from __future__ import annotations

import argparse
import json
import pickle
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from svfap.errors import UserError
from svfap.model.config import ModelConfig
from svfap.model.layers import sincos_positions
from svfap.weights.names import POSITION_NAMES, from_transformers, is_transformers

WEIGHTS_KEYS = ("model", "module", "state_dict")  # of the published code, DeepSpeed, and others
EMA_KEY = "model_ema"
PREFIXES = ("module.", "backbone.")
PRETRAINING_NAMES = ("encoder.", "decoder.", "encoder_to_decoder.", "mask_token")
# Arguments of the published code -> fields of `ModelConfig`, of those that the tensors do not show.
ARGUMENTS = {
    **{"input_size": "img_size", "sampling_rate": "sampling_stride"},
    **{n: n for n in ("num_frames", "stage_depths", "num_heads", "decoder_num_heads", "mask_ratio", "label_names")},
}
# The same for transformers' config.json.
TRANSFORMERS_SETTINGS = {
    **{"num_frames": "num_frames", "image_size": "img_size"},
    **{"num_attention_heads": "num_heads", "decoder_num_attention_heads": "decoder_num_heads"},
}
POSITIONS_TOLERANCE = 1e-5


@dataclass(frozen=True)
class Checkpoint:
    """A published checkpoint.

    source: file name, for messages. tensors: published name -> tensor, without positions. settings: the fields of
    `ModelConfig` stored with it. complete: these are all fields, since `save_published` wrote the file. epoch: of training.
    naming: "published" or "transformers", the parameter names in the file.
    """

    source: str
    tensors: dict[str, Tensor]
    settings: dict[str, Any]
    complete: bool
    epoch: Any
    naming: str

    @property
    def pretrained(self) -> bool:
        """Whether it is a masked autoencoder or its encoder, rather than a fine-tuned model."""
        return any(name.startswith(PRETRAINING_NAMES) for name in self.tensors)

    @property
    def task(self) -> str:
        """The task its tensors are for; classification for any head, as heads of regression have the same tensors."""
        if self.pretrained:
            return "pretraining" if "mask_token" in self.tensors else "features"
        return self.settings.get("task") or ("classification" if self.num_outputs else "features")

    @property
    def num_outputs(self) -> int:
        """Outputs of the head; 0 without a head."""
        return len(self.tensors.get("head.weight", ()))


def read_published(path_or_state_dict: str | Path | Mapping[str, Any], ema: bool = False) -> Checkpoint:
    """Read a checkpoint of SVFAP or VideoMAE, with the published parameter names or those of transformers.

    ema: use the moving average of the weights, stored as `model_ema`; otherwise the weights, if the file has any.
    Drops the prefixes `module.` and `backbone.`, and stored positions if they are the sinusoids that the model computes.
    Raises `UserError` if the file is missing, unreadable or would execute code, has no moving average, has other positions, or
    has no tensors of these models.
    """
    if isinstance(path_or_state_dict, str | Path):
        source, contents = str(path_or_state_dict), read_checkpoint(path_or_state_dict)
    else:
        source, contents = "state dict", path_or_state_dict
    if ema and not isinstance(contents.get(EMA_KEY), Mapping):
        raise UserError(f"{source}: holds no moving average (no {EMA_KEY!r} in it); leave out ema")
    keys = (EMA_KEY,) if ema else (*WEIGHTS_KEYS, EMA_KEY)
    state = next((contents[k] for k in keys if isinstance(contents.get(k), Mapping)), contents)
    tensors = {name: value for name, value in state.items() if isinstance(value, Tensor)}
    for prefix in PREFIXES:
        if tensors and all(name.startswith(prefix) for name in tensors):
            tensors = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
    settings, naming = {}, "published"
    if is_transformers(tensors):
        settings, naming = _transformers_settings(Path(source).with_name("config.json")), "transformers"
        tensors = from_transformers(tensors)
    stored = contents.get("args")
    args = vars(stored) if isinstance(stored, argparse.Namespace) else stored if isinstance(stored, Mapping) else {}
    settings |= {name: args[key] for key, name in ARGUMENTS.items() if args.get(key) is not None}
    config = args.get("svfap")
    if complete := isinstance(config, dict) and set(config) <= set(ModelConfig.field_names()):
        settings = dict(config)
    if not any(name.endswith("patch_embed.proj.weight") for name in tensors):
        raise UserError(f"{source}: not a published checkpoint of SVFAP or VideoMAE (no patch_embed.proj.weight in it)")
    tensors = {n: t for n, t in tensors.items() if not _is_recomputed(n, t, source)}
    return Checkpoint(source, tensors, settings, complete, contents.get("epoch"), naming)


def read_checkpoint(path: str | Path) -> Mapping[str, Any]:
    """A checkpoint file's contents, read without executing code. Raises `UserError`."""
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        with torch.serialization.safe_globals([argparse.Namespace]):
            contents = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        problem = "not a checkpoint that can be read without executing code"
        if match := re.search(r"GLOBAL ([\w.]+)", str(error)):
            problem = f"refused: reading it would execute code ({match[1]}); use a file of tensors only (.safetensors)"
        raise UserError(f"{path}: {problem}") from None
    except Exception as error:  # zip, EOF and format errors have many types
        raise UserError(f"{path}: not a checkpoint ({str(error).splitlines()[0] if str(error) else error!r})") from None
    if not isinstance(contents, Mapping):
        raise UserError(f"{path}: holds a {type(contents).__name__}, not a checkpoint")
    return contents


def _transformers_settings(file: Path) -> dict[str, Any]:
    """Fields of `ModelConfig` from transformers' `config.json` beside the weights; empty without one."""
    try:
        stored = json.loads(file.read_text())
    except (OSError, ValueError):
        return {}
    if not isinstance(stored, dict) or stored.get("model_type") != "videomae":
        return {}
    settings = {name: stored[key] for key, name in TRANSFORMERS_SETTINGS.items() if isinstance(stored.get(key), int)}
    labels = stored.get("id2label")
    if isinstance(labels, dict) and not all(str(name).startswith("LABEL_") for name in labels.values()):
        settings["label_names"] = [str(labels[key]) for key in sorted(labels, key=int)]
    return settings


def _is_recomputed(name: str, tensor: Tensor, source: str) -> bool:
    """Whether a tensor is the sine-cosine position table. Raises `UserError` if it is a table of other positions."""
    if not re.fullmatch(POSITION_NAMES, name) or tensor.ndim < 2:
        return False
    table = tensor.float().flatten(0, -2)
    difference = (table - sincos_positions(*table.shape)).abs().max().item()
    if not difference <= max(POSITIONS_TOLERANCE, torch.finfo(tensor.dtype).eps):
        raise UserError(f"{source}: {name} holds learned positions, not the sinusoids of these models")
    return True
