"""Read checkpoint files of SVFAP and VideoMAE without executing code, as tensors under the published names."""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from svfap.data.pickles import Record
from svfap.errors import UserError, first_line
from svfap.model.config import ModelConfig
from svfap.model.layers import sincos_positions
from svfap.settings import refuse_exported
from svfap.weights.archive import WEIGHTS, read_archive
from svfap.weights.filetype import PICKLES, require_checkpoint
from svfap.weights.names import POSITION_NAMES, from_transformers, is_transformers

*WEIGHTS_KEYS, EMA_KEY = WEIGHTS
PREFIXES = ("module.", "model.", "backbone.")  # of DataParallel and DeepSpeed, Lightning, and other frameworks
# Parts of names from torch.compile, FSDP and activation checkpointing, wherever they stand.
WRAPPERS = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
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
VIDEOMAE = "videomae"  # its model_type there


@dataclass(frozen=True)
class Checkpoint:
    """A published checkpoint.

    source: file name, for messages. tensors: published name -> tensor, without positions. settings: the fields of
    `ModelConfig` stored with it. complete: whether these are all fields, as `save_published` writes them. epoch: of training.
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
    Drops what wrappers put into names (`PREFIXES`, `WRAPPERS`), and stored positions if they are the sinusoids that the model
    computes.
    Raises `UserError` if the file is missing, unreadable or would execute code, has no moving average, has other positions, or
    has no tensors of these models.
    """
    if isinstance(path_or_state_dict, str | Path):
        source, contents = str(path_or_state_dict), read_checkpoint(path_or_state_dict)
    else:
        source, contents = "state dict", path_or_state_dict
    if ema and not isinstance(contents.get(EMA_KEY), Mapping):
        raise UserError(f"{source}: holds no moving average (no {EMA_KEY!r} in it); leave out `ema`")
    tensors = _without_wrappers(_state(contents, (EMA_KEY,) if ema else (*WEIGHTS_KEYS, EMA_KEY)), source)
    settings, naming = {}, "published"
    if is_transformers(tensors):
        settings, naming = _transformers_settings(Path(source).with_name("config.json")), "transformers"
        try:
            tensors = from_transformers(tensors)
        except RuntimeError as error:  # of query, key and value that cannot be joined
            raise UserError(f"{source}: does not fit the model: {first_line(error)}") from None
    args = _as_mapping(contents.get("args"))
    settings |= {name: args[key] for key, name in ARGUMENTS.items() if _is_plain(args.get(key))}
    config = args.get("svfap")
    if complete := isinstance(config, dict) and set(config) <= set(ModelConfig.field_names()):
        settings = dict(config)
    if not tensors.keys() & {"patch_embed.proj.weight", "encoder.patch_embed.proj.weight"}:
        raise UserError(f"{source}: not a published checkpoint of SVFAP or VideoMAE ({_what_is_there(tensors)})")
    if empty := [name for name, tensor in tensors.items() if not tensor.numel()]:
        raise UserError(f"{source}: the tensor {empty[0]} is empty")
    tensors = {n: t for n, t in tensors.items() if not _is_recomputed(n, t, source)}
    epoch = contents.get("epoch")
    epoch = epoch if isinstance(epoch, int | float | str) else None
    return Checkpoint(source, tensors, settings, complete, epoch, naming)


def _state(contents: Mapping[str, Any], keys: Sequence[str]) -> dict[str, Tensor]:
    """The tensors of a checkpoint by name: below the first of `keys` that is there, and so on within it."""
    state: Mapping[str, Any] = contents
    for _ in range(len(WEIGHTS_KEYS) + 1):
        inner = next((state[key] for key in keys if isinstance(state.get(key), Mapping)), None)
        if inner is None:
            break
        state, keys = inner, WEIGHTS_KEYS
    return {name: value for name, value in state.items() if isinstance(name, str) and isinstance(value, Tensor)}


def _without_wrappers(tensors: dict[str, Tensor], source: str) -> dict[str, Tensor]:
    """The tensors without what wrappers put into their names: WRAPPERS anywhere, PREFIXES where all names have them."""
    plain = {".".join(part for part in name.split(".") if part not in WRAPPERS): t for name, t in tensors.items()}
    if len(plain) < len(tensors):
        raise UserError(f"{source}: two of its tensors have the same name without {', '.join(WRAPPERS)}")
    while prefix := next((each for each in PREFIXES if plain and all(n.startswith(each) for n in plain)), None):
        plain = {name.removeprefix(prefix): tensor for name, tensor in plain.items()}
    return plain


def _what_is_there(tensors: Mapping[str, Tensor]) -> str:
    """What a checkpoint without the tensors of these models contains, for a message."""
    wanted = "patch_embed.proj.weight"
    missing = f"no {wanted} in it"
    if not tensors:
        return f"{missing}, nor any other tensor"
    if (similar := next((name for name in tensors if name.endswith(wanted)), None)) is None:
        return f"{missing}; its first tensor is {next(iter(tensors))}"
    prefix = similar.removesuffix(wanted)
    other = next((name for name in tensors if not name.startswith(prefix)), None)
    beside = f", and others do not ({other})" if other else ""
    return f"{missing}; names of tensors begin with the unknown prefix {prefix!r}{beside}: save the model without it"


def _as_mapping(stored: Any) -> Mapping[Any, Any]:
    """Arguments by name, as stored in a file: a mapping, a namespace, or a record of one."""
    if isinstance(stored, argparse.Namespace):
        return vars(stored)
    return stored.mapping() if isinstance(stored, Record) else stored if isinstance(stored, Mapping) else {}


def _is_plain(value: Any) -> bool:
    """Whether it is a number or text, or a list of them."""
    parts = value if isinstance(value, list | tuple) else [value]
    return all(isinstance(part, int | float | str) for part in parts)


def read_checkpoint(path: str | Path) -> Mapping[str, Any]:
    """A checkpoint file's contents, read without executing code; see `read_archive`. Raises `UserError`."""
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    refuse_exported(path)
    require_checkpoint(path)
    with path.open("rb") as file:
        start = file.read(9)
    if path.suffix == ".safetensors" or (start[8:] == b"{" and not start.startswith(PICKLES)):
        try:
            return load_file(path)
        except Exception as error:  # of damaged files, of many types
            raise UserError(f"{path}: not a checkpoint ({first_line(error)})") from None
    contents = read_archive(path)
    if isinstance(contents, Record):
        raise UserError(
            f"{path}: holds an object of the class {contents.name}, not tensors by name; where its code is at hand, load it "
            "and save its state_dict()"
        )
    if not isinstance(contents, Mapping):
        raise UserError(f"{path}: holds a {type(contents).__name__}, not a checkpoint")
    return contents


def _transformers_settings(file: Path) -> dict[str, Any]:
    """Fields of `ModelConfig` from transformers' `config.json` beside the weights; empty without one."""
    try:
        stored = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    if not isinstance(stored, dict) or stored.get("model_type") != VIDEOMAE:
        return {}
    settings = {name: stored[key] for key, name in TRANSFORMERS_SETTINGS.items() if isinstance(stored.get(key), int)}
    labels = stored.get("id2label")
    if isinstance(labels, dict) and all(str(key).isdecimal() and len(str(key)) < 10 for key in labels):
        names = [str(labels[key]) for key in sorted(labels, key=int)]
        if not all(name.startswith("LABEL_") for name in names):
            settings["label_names"] = names
    return settings


def _is_recomputed(name: str, tensor: Tensor, source: str) -> bool:
    """Whether a tensor is the sine-cosine position table. Raises `UserError` if it is a table of other positions."""
    if not re.fullmatch(POSITION_NAMES, name) or tensor.ndim < 2:
        return False
    table = tensor.float().flatten(0, -2)
    difference = (table - sincos_positions(*table.shape)).abs().max().item()
    rounding = torch.finfo(tensor.dtype).eps if tensor.is_floating_point() else 0
    if not difference <= max(POSITIONS_TOLERANCE, rounding):
        raise UserError(f"{source}: {name} holds learned positions, not the sinusoids of these models")
    return True
