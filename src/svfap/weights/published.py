"""Published checkpoints to models and back. Settings that a file does not store are given, or taken from a preset."""

from __future__ import annotations

import argparse
import io
import json
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
from svfap.model.build import build_model, empty_model, shapes_of
from svfap.model.config import ModelConfig
from svfap.model.presets import PRESETS, model_config
from svfap.weights.checkpoint import Checkpoint, read_published
from svfap.weights.names import published_name

log = logging.getLogger("svfap")

HEAD_DIM = 64  # channels per head of every published model


def import_published(
    path_or_state_dict: str | Path | Mapping[str, Any], task: str | None = None, *, ema: bool = False, **overrides: Any
) -> Model:
    """Load a pre-trained or fine-tuned checkpoint published by the authors of SVFAP or VideoMAE, in eval mode.

    path_or_state_dict: a .pth, .pt, .bin or .safetensors file, or its contents. task: default "pretraining", "features" or
    "classification", as the checkpoint is. ema: use the moving average of the weights stored in the file.
    overrides: fields of `ModelConfig` that tensors do not show (num_heads, decoder_num_heads, stage_depths, img_size,
    num_frames, …) or that are to differ. Those not given are taken from the file's `args`, then from a preset of these sizes,
    then from 64 channels per head. A warning and `config.provenance["guessed"]` name settings that were neither given nor
    stored. A task model from a pre-trained file has a new norm and head; a warning and `config.provenance["new_parameters"]`
    name them.

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
    except (TypeError, ValueError, IndexError, AttributeError, ArithmeticError, RecursionError) as error:
        raise UserError(f"{source}: its shapes or settings are not those of these models ({error})") from None
    new_head = checkpoint.pretrained and task != "pretraining"
    tensors = checkpoint.tensors
    if new_head:
        left_out = (
            "decoder.",
            "mask_token",
            "encoder_to_decoder.",
            *(() if config.fuse_stages else ("encoder.norm.",)),
        )
        tensors = {n.removeprefix("encoder."): t for n, t in tensors.items() if not n.startswith(left_out)}
    elif task == "features":
        tensors = {name: tensor for name, tensor in tensors.items() if not name.startswith("head.")}
    model, new = _filled(config, tensors, new_head, source)
    if new:
        log.warning("%s is pre-trained: %s are new and need fine-tuning", source, ", ".join(new))
        config.provenance["new_parameters"] = new
    return model.eval()


def _config(checkpoint: Checkpoint, task: str, overrides: dict[str, Any]) -> ModelConfig:
    """The config of a checkpoint's model, from its tensors, settings, presets and overrides."""
    if unknown := sorted(set(overrides) - set(ModelConfig.field_names())):
        raise UserError(f"unknown model settings {', '.join(unknown)}")
    overrides = {name: value for name, value in overrides.items() if value is not None}
    known, guessed = (checkpoint.settings, {}) if checkpoint.complete else _infer(checkpoint, task, overrides)
    settings = {**known, "task": task}
    if checkpoint.pretrained or not checkpoint.complete:
        settings["fuse_stages"] = task == "pretraining"
    settings |= overrides
    if task in ("classification", "regression"):
        settings["num_outputs"] = _num_outputs(checkpoint, settings, overrides)
    provenance = {**settings.get("provenance", {}), "imported_from": checkpoint.source, "epoch": checkpoint.epoch}
    if guessed:
        listed = ", ".join(f"{name} (taken: {value})" for name, value in guessed.items())
        log.warning("%s does not store %s; if these are wrong, give the right ones", checkpoint.source, listed)
        provenance["guessed"] = sorted(guessed)
    try:
        return ModelConfig(**{**settings, "provenance": provenance})
    except UserError as error:
        raise UserError(f"{checkpoint.source}: {error}") from None


def _num_outputs(checkpoint: Checkpoint, settings: dict[str, Any], overrides: dict[str, Any]) -> int:
    """Outputs of the head: those of the checkpoint's head, otherwise as many as the overrides ask for."""
    names = settings.get("label_names", ())
    wanted: int = overrides.get("num_outputs") or len(names)
    found = 0 if checkpoint.pretrained else checkpoint.num_outputs
    if found and wanted and wanted != found:
        listed = f" ({_listed(list(names), 20)})" if names else ""
        raise UserError(
            f"{checkpoint.source}: its head has {found} outputs, not {wanted}{listed}; was it fine-tuned on another dataset?"
        )
    return found or wanted


def _infer(checkpoint: Checkpoint, task: str, overrides: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """(settings of a checkpoint's model, those among them that are neither given nor stored)."""
    tensors, given = checkpoint.tensors, {**checkpoint.settings, **overrides}
    prefix = "encoder." if checkpoint.pretrained else ""
    shapes = {name.removeprefix(prefix): tuple(tensor.shape) for name, tensor in tensors.items()}
    embed_dim, _, tubelet_size, patch_size, _ = shapes["patch_embed.proj.weight"]
    num_blocks, num_later = _count(shapes, r"blocks\.(\d+)\."), _count(shapes, r"temporal_downsamples\.(\d+)\.")
    num_first = num_blocks - sum(f"blocks.{n}.cross_attn.q.weight" in shapes for n in range(num_blocks))
    known: dict[str, Any] = dict(embed_dim=embed_dim, tubelet_size=tubelet_size, patch_size=patch_size)
    known["mlp_ratio"] = shapes["blocks.0.mlp.fc1.weight"][0] / embed_dim
    bottlenecks = [f"spatial_downsamples.{i}.mlp" for i in range(num_later)]
    known["num_bottleneck_tokens"] = tuple(shapes[f"{name}.fc2.weight"][0] for name in bottlenecks)
    if num_later:
        known["bottleneck_hidden_dim"] = shapes[f"{bottlenecks[0]}.fc1.weight"][0]
        known["temporal_kernel_size"] = shapes["temporal_downsamples.0.weight"][2]

    blocks, widths = (num_first, num_blocks, num_later + 1), (embed_dim, patch_size)
    presets = [model_config(name, "features") for name in PRESETS]
    similar = [c for c in presets if (c.stage_depths[0], sum(c.stage_depths), len(c.stage_depths)) == blocks]
    preset = next((config for config in similar if (config.embed_dim, config.patch_size) == widths), None)
    guessed: dict[str, Any] = {}

    def setting(name: str, default: Any, sure: bool = False) -> Any:
        """The setting as given or stored, else `default`, which counts as guessed unless it is sure."""
        if name in given:
            return given[name]
        if default is None:
            raise UserError(f"{checkpoint.source}: its tensors and args do not show {name}; pass {name}=…")
        if not sure:
            guessed[name] = default
        return default

    if num_later <= 1:
        known["stage_depths"] = (num_first, num_blocks - num_first) if num_later else (num_blocks,)
    else:
        depths = similar[0].stage_depths if similar else None
        known["stage_depths"] = tuple(setting("stage_depths", depths, sure=preset is not None))
    heads = preset.num_heads if preset else _heads(embed_dim)
    known["num_heads"] = setting("num_heads", heads, sure=preset is not None)
    for name in ("img_size", "num_frames"):
        known[name] = setting(name, getattr(preset, name, None))
    known["sampling_stride"] = setting("sampling_stride", ModelConfig.sampling_stride)
    if checkpoint.pretrained and task == "pretraining":
        width = known["decoder_embed_dim"] = tensors["mask_token"].shape[-1]
        known["decoder_depth"] = _count(tensors, r"decoder\.blocks\.(\d+)\.")
        same = preset is not None and width == preset.decoder_embed_dim
        heads = preset.decoder_num_heads if preset and same else _heads(width)
        known["decoder_num_heads"] = setting("decoder_num_heads", heads, sure=same)
        known["mask_ratio"] = setting("mask_ratio", ModelConfig.mask_ratio)
    if not checkpoint.pretrained and task in ("classification", "regression") and given.get("label_names"):
        known["label_names"] = given["label_names"]
    return {**known, "preset": preset.preset if preset else "custom"}, guessed


def _heads(width: int) -> int | None:
    return width // HEAD_DIM if width % HEAD_DIM == 0 else None


def _count(names: Mapping[str, Any], pattern: str) -> int:
    """How many blocks have tensors. Raises `ValueError` if their numbers have holes."""
    found = {int(m[1]) for name in names if (m := re.match(pattern, name))}
    if len(found) != 1 + max(found, default=-1):
        raise ValueError(f"of the blocks 0 to {max(found)} there are {len(found)}")
    return len(found)


def _filled(config: ModelConfig, tensors: dict[str, Tensor], new_head: bool, source: str) -> tuple[Model, list[str]]:
    """(the model of a config with all tensors, the names of head parameters that stay new).

    Raises `UserError` listing what does not fit, before the model takes memory.
    """
    model = empty_model(config, len(tensors), source)
    shapes = shapes_of(model)
    names = {published_name(name, config): name for name in shapes}
    missing = [ours for name, ours in names.items() if name not in tensors]
    new = [ours for ours in missing if new_head and not ours.startswith("encoder.")]
    pairs = {name: (tuple(tensors[name].shape), shapes[ours]) for name, ours in names.items() if name in tensors}
    problems = {
        "parameters left empty": [ours for ours in missing if ours not in new],
        "tensors left over": sorted(set(tensors) - set(names)),
        "shapes that differ": [
            f"{n} {there} for {names[n]} {here}" for n, (there, here) in pairs.items() if there != here
        ],
    }
    if listed := "; ".join(f"{problem}: {_listed(found)}" for problem, found in problems.items() if found):
        raise UserError(f"{source}: does not fit the model. {listed}")
    weights = {names[name]: tensor for name, tensor in tensors.items()}
    if new:
        weights = build_model(config).state_dict() | weights
    return model.filled(weights), new


def _listed(names: list[str], most: int = 6) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def export_published(model: Model) -> dict[str, Tensor]:
    """The model's tensors under the published names; `import_published` reads them back exactly."""
    return {published_name(name, model.config): tensor for name, tensor in model.state_dict().items()}


def why_unpublishable(config: ModelConfig) -> str | None:
    """Why a model cannot be written as the published code stores it; None if it can."""
    if config.task == "pretraining" and config.target != "pixels":
        return f"target={config.target}: the published code predicts pixels; convert its encoder alone, with `task` features"
    if config.heads:
        return "it has several heads, and the published code one; save one of them first, with model.of_head(NAME)"
    if config.standardize_clips:
        return (
            "its encoder standardises clips, which the published one does not; it would give other outputs there and cannot be "
            "converted"
        )
    if config.stem != "linear":
        return "its stem is convolutional, and the published encoder embeds tubelets linearly; it cannot be converted"
    return None


def save_published(model: Model, path: str | Path) -> None:
    """Write a checkpoint as the published code does: `model`, `epoch` and `args`, readable without executing code.

    args: an `argparse.Namespace` of settings of the published scripts (model, input_size, num_frames, nb_classes, …), and the
    whole `ModelConfig` as `svfap`, so that `import_published` needs no overrides. Raises `UserError` if it cannot be written,
    and for what the published code cannot do: a target other than pixels, clips that the encoder standardises, a
    convolutional stem.
    """
    config = model.config
    if reason := why_unpublishable(config):
        raise UserError(reason)
    contents = {
        "model": {name: tensor.detach().cpu().contiguous() for name, tensor in export_published(model).items()},
        "epoch": config.provenance.get("epoch", "best"),
        "args": argparse.Namespace(**_published_args(config)),
    }
    buffer = io.BytesIO()
    torch.save(contents, buffer)
    write_atomically(path, buffer.getvalue())


def _published_args(config: ModelConfig) -> dict[str, Any]:
    tokens, pretraining = config.num_bottleneck_tokens, config.task == "pretraining"
    # VideoMAE's fine-tuning models are named vit_….
    name = f"pretrain_{config.preset}" if pretraining else config.preset.replace("videomae_", "vit_")
    args = dict(
        model=f"{name}_patch{config.patch_size}_{config.img_size}",
        input_size=config.img_size,
        sampling_rate=config.sampling_stride,
        stage_depths=list(config.stage_depths),
        num_bottleneck_tokens=list(tokens[:1] if len(set(tokens)) == 1 else tokens),
        svfap=json.loads(json.dumps(asdict(config), default=str)),  # plain values, which execute no code when read
    )
    args |= {name: getattr(config, name) for name in ("num_frames", "tubelet_size", "temporal_kernel_size")}
    if pretraining:
        return args | dict(mask_type="tube", mask_ratio=config.mask_ratio, decoder_depth=config.decoder_depth)
    return args | dict(nb_classes=config.num_outputs)
