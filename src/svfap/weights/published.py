"""Published checkpoints to models and back. Settings that a file does not store are given, or taken from a preset."""

from __future__ import annotations

import argparse
import io
import logging
import re
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from svfap.errors import UserError
from svfap.files import write_atomically
from svfap.model.base import Model
from svfap.model.build import build_model
from svfap.model.config import ModelConfig
from svfap.model.presets import PRESETS, model_config
from svfap.weights.checkpoint import Checkpoint, read_published
from svfap.weights.names import published_name

log = logging.getLogger("svfap")

ARGS = {"img_size": "input_size", "sampling_stride": "sampling_rate"}  # our names -> those of the published code
HEAD_DIM = 64  # channels per head of every published model


def import_published(
    path_or_state_dict: str | Path | Mapping[str, Any], task: str | None = None, *, ema: bool = False, **overrides: Any
) -> Model:
    """Load a pre-trained or fine-tuned checkpoint published by the authors of SVFAP or VideoMAE, in eval mode.

    path_or_state_dict: a .pth, .pt, .bin or .safetensors file, or its contents. task: default "pretraining", "features" or
    "classification", as the checkpoint is. ema: use the moving average of the weights stored in the file.
    overrides: fields of `ModelConfig` that tensors do not show (num_heads, decoder_num_heads, stage_depths, img_size,
    num_frames, …) or that are to differ. Those not given are taken from the file's `args`, then from a preset of these sizes,
    then from 64 channels per head. A warning names settings that were neither given nor stored, and
    `config.provenance["guessed"]` lists them. For a task model from a pre-trained file, the norm and head are new; a warning
    names them, and `config.provenance["new_parameters"]` lists them.

    Executes no code from the file. Raises `UserError` if it is missing, unreadable or would execute code, if a size is unknown
    (the message names the override), or if a tensor is left over, missing, or of another shape.
    """
    return build_published(read_published(path_or_state_dict, ema), task, **overrides)


def build_published(checkpoint: Checkpoint, task: str | None = None, **overrides: Any) -> Model:
    """`import_published` for a checkpoint that has been read."""
    source, task = checkpoint.source, task or checkpoint.task
    try:
        config = _config(checkpoint, task, overrides)
    except KeyError as error:
        raise UserError(f"{source}: does not fit the model. tensors that are missing: {error.args[0]}") from None
    model = build_model(config)
    new_head = checkpoint.pretrained and task != "pretraining"
    tensors = checkpoint.tensors
    if new_head:
        tensors = _encoder_only(tensors, config)
    elif task == "features":
        tensors = {name: tensor for name, tensor in tensors.items() if not name.startswith("head.")}
    new = _fill(model, tensors, allow_new_head=new_head, source=source)
    if new:
        log.warning("%s is pre-trained: %s are new and need fine-tuning", source, ", ".join(new))
        config.provenance["new_parameters"] = new
    return model.eval()


def _config(checkpoint: Checkpoint, task: str, overrides: dict[str, Any]) -> ModelConfig:
    """The config of a checkpoint's model, from its tensors, args, presets and overrides."""
    unknown = sorted(set(overrides) - set(ModelConfig.field_names()))
    if unknown:
        raise UserError(f"unknown model settings {', '.join(unknown)}")
    overrides = {name: value for name, value in overrides.items() if value is not None}
    stored = checkpoint.config  # complete in a file that `save_published` wrote
    known, guessed = (stored, {}) if stored else _infer(checkpoint, task, overrides)
    fuse = {"fuse_stages": task == "pretraining"} if checkpoint.pretrained or not stored else {}
    settings = {**known, **fuse, "task": task, **overrides}
    if task in ("classification", "regression"):
        settings["num_outputs"] = _num_outputs(checkpoint, settings, overrides)
    provenance = {"imported_from": checkpoint.source, "epoch": checkpoint.epoch}
    if guessed:
        log.warning(
            "%s does not store %s; if these are wrong, give the right ones",
            checkpoint.source,
            ", ".join(f"{name} (taken: {value})" for name, value in guessed.items()),
        )
        provenance["guessed"] = sorted(guessed)
    settings["provenance"] = {**settings.get("provenance", {}), **provenance}
    return ModelConfig(**settings)


def _num_outputs(checkpoint: Checkpoint, settings: dict[str, Any], overrides: dict[str, Any]) -> int:
    """Outputs of the head: those of the checkpoint's head, otherwise as many as the overrides ask for."""
    names = overrides.get("label_names") or settings.get("label_names", ())
    wanted = overrides.get("num_outputs") or len(names)
    if checkpoint.pretrained or not checkpoint.num_outputs:
        return wanted
    if wanted and wanted != checkpoint.num_outputs:
        listed = f" ({', '.join(names)})" if names else ""
        raise UserError(
            f"{checkpoint.source}: its head has {checkpoint.num_outputs} outputs, not {wanted}{listed}; was it fine-tuned on "
            "another dataset?"
        )
    return checkpoint.num_outputs


def _infer(checkpoint: Checkpoint, task: str, overrides: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """(settings of a checkpoint's model, those among them that the file does not store)."""
    source, tensors, args = checkpoint.source, checkpoint.tensors, checkpoint.args
    prefix = "encoder." if checkpoint.pretrained else ""
    shapes = {name.removeprefix(prefix): tuple(tensor.shape) for name, tensor in tensors.items()}
    embed_dim, _, tubelet_size, patch_size, _ = shapes["patch_embed.proj.weight"]
    blocks = _count(shapes, r"blocks\.(\d+)\.")
    later_stages = _count(shapes, r"temporal_downsamples\.(\d+)\.")
    first = blocks - sum(1 for n in range(blocks) if f"blocks.{n}.cross_attn.q.weight" in shapes)
    known: dict[str, Any] = dict(
        embed_dim=embed_dim,
        tubelet_size=tubelet_size,
        patch_size=patch_size,
        mlp_ratio=shapes["blocks.0.mlp.fc1.weight"][0] / embed_dim,
        num_bottleneck_tokens=(),
    )
    if later_stages:
        bottlenecks = [f"spatial_downsamples.{i}.mlp" for i in range(later_stages)]
        known["num_bottleneck_tokens"] = tuple(shapes[f"{b}.fc2.weight"][0] for b in bottlenecks)
        known["bottleneck_hidden_dim"] = shapes[f"{bottlenecks[0]}.fc1.weight"][0]
        known["temporal_kernel_size"] = shapes["temporal_downsamples.0.weight"][2]

    def same_depths(settings: dict[str, Any]) -> bool:
        depths = settings["stage_depths"]
        return (depths[0], sum(depths), len(depths)) == (first, blocks, later_stages + 1)

    def fits(settings: dict[str, Any]) -> bool:
        widths = (settings["embed_dim"], settings.get("patch_size", 16))
        return same_depths(settings) and widths == (embed_dim, patch_size)

    preset = next((name for name, settings in PRESETS.items() if fits(settings)), None)
    from_preset = asdict(model_config(preset, "features")) if preset else {}
    guessed: dict[str, Any] = {}

    def setting(name: str, default: Any = None, sure: bool = False) -> Any:
        """The override, else the file's, else `default`, which counts as guessed unless it is sure."""
        for value in (overrides.get(name), args.get(ARGS.get(name, name))):
            if value is not None:
                return value
        if default is None:
            raise UserError(f"{source}: its tensors and args do not show {name}; pass {name}=…")
        if not sure:
            guessed[name] = default
        return default

    depths = next((settings["stage_depths"] for settings in PRESETS.values() if same_depths(settings)), None)
    if later_stages <= 1:
        known["stage_depths"] = (first, blocks - first) if later_stages else (blocks,)
    else:
        known["stage_depths"] = tuple(setting("stage_depths", depths, sure=preset is not None))
    heads = from_preset.get("num_heads") or _heads(embed_dim)
    known["num_heads"] = setting("num_heads", heads, sure=preset is not None)
    for name in ("img_size", "num_frames"):
        known[name] = setting(name, from_preset.get(name))
    known["sampling_stride"] = setting("sampling_stride", ModelConfig.sampling_stride)
    if checkpoint.pretrained and task == "pretraining":
        width = known["decoder_embed_dim"] = tensors["mask_token"].shape[-1]
        known["decoder_depth"] = _count(tensors, r"decoder\.blocks\.(\d+)\.")
        same = width == from_preset.get("decoder_embed_dim")
        heads = from_preset["decoder_num_heads"] if same else _heads(width)
        known["decoder_num_heads"] = setting("decoder_num_heads", heads, sure=same)
        known["mask_ratio"] = setting("mask_ratio", ModelConfig.mask_ratio)
    if not checkpoint.pretrained and task in ("classification", "regression") and args.get("label_names"):
        known["label_names"] = args["label_names"]
    return {**known, "preset": preset or "custom"}, guessed


def _heads(width: int) -> int | None:
    return width // HEAD_DIM if width % HEAD_DIM == 0 else None


def _count(names: Mapping[str, Any], pattern: str) -> int:
    return 1 + max((int(m[1]) for name in names if (m := re.match(pattern, name))), default=-1)


def _encoder_only(tensors: dict[str, Tensor], config: ModelConfig) -> dict[str, Tensor]:
    """The tensors of a pre-trained checkpoint that a task model has, under its fine-tuning names."""
    left_out = ("decoder.", "mask_token", "encoder_to_decoder.", *(() if config.fuse_stages else ("encoder.norm.",)))
    return {n.removeprefix("encoder."): t for n, t in tensors.items() if not n.startswith(left_out)}


def _fill(model: Model, tensors: dict[str, Tensor], *, allow_new_head: bool, source: str) -> list[str]:
    """Copy every tensor into its parameter; returns the names of head parameters that stay new.

    Raises `UserError` listing parameters without a tensor, tensors without a parameter, and differing shapes.
    """
    state = model.state_dict()
    names = {name: published_name(name, model.config) for name in state}
    new = [n for n in state if allow_new_head and not n.startswith("encoder.") and names[n] not in tensors]
    empty = [n for n in state if names[n] not in tensors and n not in new]
    unused = sorted(set(tensors) - set(names.values()))
    misshapen = [
        f"{names[n]} {tuple(tensors[names[n]].shape)} for {n} {tuple(state[n].shape)}"
        for n in state
        if names[n] in tensors and tensors[names[n]].shape != state[n].shape
    ]
    if empty or unused or misshapen:
        problems = {"parameters left empty": empty, "tensors left over": unused, "shapes that differ": misshapen}
        listed = "; ".join(f"{problem}: {', '.join(found)}" for problem, found in problems.items() if found)
        raise UserError(f"{source}: does not fit the model. {listed}")
    model.load_state_dict({n: tensors[names[n]] if n not in new else state[n] for n in state}, strict=True)
    return new


def export_published(model: Model) -> dict[str, Tensor]:
    """The model's tensors under the published names; `import_published` reads them back exactly."""
    return {published_name(name, model.config): tensor for name, tensor in model.state_dict().items()}


def save_published(model: Model, path: str | Path) -> None:
    """Write a checkpoint as the published code does: `model`, `epoch` and `args`, readable without executing code.

    args: an `argparse.Namespace` of settings of the published scripts (model, input_size, num_frames, nb_classes, …), and the
    whole `ModelConfig` as `svfap`, so that `import_published` needs no overrides. Raises `UserError` if it cannot be written.
    """
    config = model.config
    contents = {
        "model": {name: tensor.detach().cpu().contiguous() for name, tensor in export_published(model).items()},
        "epoch": config.provenance.get("epoch", "best"),
        "args": argparse.Namespace(**_published_args(config)),
    }
    buffer = io.BytesIO()
    torch.save(contents, buffer)
    write_atomically(path, buffer.getvalue())


def _published_args(config: ModelConfig) -> dict[str, Any]:
    tokens = config.num_bottleneck_tokens
    pretraining = config.task == "pretraining"
    family = "pretrain_" if pretraining else ""
    preset = config.preset if pretraining else config.preset.replace("videomae_", "vit_")  # VideoMAE's own names
    args = dict(
        model=f"{family}{preset}_patch{config.patch_size}_{config.img_size}",
        input_size=config.img_size,
        num_frames=config.num_frames,
        tubelet_size=config.tubelet_size,
        sampling_rate=config.sampling_stride,
        stage_depths=list(config.stage_depths),
        num_bottleneck_tokens=list(tokens[:1] if len(set(tokens)) == 1 else tokens),
        temporal_kernel_size=config.temporal_kernel_size,
        svfap=_plain(asdict(config)),
    )
    if pretraining:
        return args | dict(mask_type="tube", mask_ratio=config.mask_ratio, decoder_depth=config.decoder_depth)
    return args | dict(nb_classes=config.num_outputs)


def _plain(value: Any) -> Any:
    """The value as dicts, lists, strings and numbers, which can be unpickled without executing code."""
    if isinstance(value, Mapping):
        return {str(key): _plain(v) for key, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)
