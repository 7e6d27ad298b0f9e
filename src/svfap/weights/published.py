"""Published checkpoints into our models and back: what a file does not say is told, taken from a preset, or asked for."""

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

ARGS = {"img_size": "input_size", "sampling_stride": "sampling_rate"}  # our words -> those of the published code
HEAD_DIM = 64  # channels per head of every published model


def import_published(
    path_or_state_dict: str | Path | Mapping[str, Any], task: str | None = None, *, ema: bool = False, **overrides: Any
) -> Model:
    """Read a checkpoint that the authors of SVFAP or VideoMAE published, pre-trained or fine-tuned, into our model.

    task: default "pretraining" or "classification", as the file is. ema: take the moving average stored in the file.
    overrides: fields of `ModelConfig` for what tensors cannot tell (num_heads, decoder_num_heads, stage_depths, img_size,
    num_frames, …) or what is to differ; else the file's `args`, then a preset that fits, then 64 channels per head say it.
    What the file did not say is warned of and listed in `config.provenance["guessed"]`. From a pre-trained file into a task
    model, the task's norm and head alone stay new; a warning names them, `config.provenance["new_parameters"]` lists them.

    Loads without executing code. Raises `UserError` if the file is missing, unreadable or would run code, if a size cannot
    be told (the message names the override), or if a tensor is left over, missing, or of another shape.
    """
    return build_published(read_published(path_or_state_dict, ema), task, **overrides)


def build_published(checkpoint: Checkpoint, task: str | None = None, **overrides: Any) -> Model:
    """`import_published` of a checkpoint that has been read."""
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
        log.warning("%s is pre-trained: %s stay new, to be fine-tuned", source, ", ".join(new))
        config.provenance["new_parameters"] = new
    return model.eval()


def _config(checkpoint: Checkpoint, task: str, overrides: dict[str, Any]) -> ModelConfig:
    """The config of the model that a checkpoint was saved from, as far as tensors, args, presets and overrides tell."""
    unknown = sorted(set(overrides) - set(ModelConfig.words()))
    if unknown:
        raise UserError(f"unknown model settings {', '.join(unknown)}")
    overrides = {word: value for word, value in overrides.items() if value is not None}
    ours = checkpoint.config  # a file of `save_published` says everything
    known, guessed = (ours, {}) if ours else _infer(checkpoint, task, overrides)
    fuse = {"fuse_stages": task == "pretraining"} if checkpoint.pretrained or not ours else {}
    words = {**known, **fuse, "task": task, **overrides}
    if task in ("classification", "regression"):
        words["num_outputs"] = _num_outputs(checkpoint, words, overrides)
    provenance = {"imported_from": checkpoint.source, "epoch": checkpoint.epoch}
    if guessed:
        log.warning(
            "%s does not say %s; if that is wrong, give the right ones",
            checkpoint.source,
            ", ".join(f"{word} (taken: {value})" for word, value in guessed.items()),
        )
        provenance["guessed"] = sorted(guessed)
    words["provenance"] = {**words.get("provenance", {}), **provenance}
    return ModelConfig(**words)


def _num_outputs(checkpoint: Checkpoint, words: dict[str, Any], overrides: dict[str, Any]) -> int:
    """Outputs of the head: the file's where it has one, else as many as are asked for."""
    names = overrides.get("label_names") or words.get("label_names", ())
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
    """Settings of a checkpoint's model, and those among them that nothing in the file says."""
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

    def same_depths(words: dict[str, Any]) -> bool:
        depths = words["stage_depths"]
        return (depths[0], sum(depths), len(depths)) == (first, blocks, later_stages + 1)

    def fits(words: dict[str, Any]) -> bool:
        return same_depths(words) and (words["embed_dim"], words.get("patch_size", 16)) == (embed_dim, patch_size)

    preset = next((name for name, words in PRESETS.items() if fits(words)), None)
    from_preset = asdict(model_config(preset, "features")) if preset else {}
    guessed: dict[str, Any] = {}

    def tell(word: str, default: Any = None, sure: bool = False) -> Any:
        for value in (overrides.get(word), args.get(ARGS.get(word, word))):
            if value is not None:
                return value
        if default is None:
            raise UserError(f"{source}: its tensors and args do not tell {word}; pass {word}=…")
        if not sure:
            guessed[word] = default
        return default

    depths = next((words["stage_depths"] for words in PRESETS.values() if same_depths(words)), None)
    if later_stages <= 1:
        known["stage_depths"] = (first, blocks - first) if later_stages else (blocks,)
    else:
        known["stage_depths"] = tuple(tell("stage_depths", depths, sure=preset is not None))
    heads = from_preset.get("num_heads") or _heads(embed_dim)
    known["num_heads"] = tell("num_heads", heads, sure=preset is not None)
    for word in ("img_size", "num_frames"):
        known[word] = tell(word, from_preset.get(word))
    known["sampling_stride"] = tell("sampling_stride", ModelConfig.sampling_stride)
    if checkpoint.pretrained and task == "pretraining":
        width = known["decoder_embed_dim"] = tensors["mask_token"].shape[-1]
        known["decoder_depth"] = _count(tensors, r"decoder\.blocks\.(\d+)\.")
        same = width == from_preset.get("decoder_embed_dim")
        heads = from_preset["decoder_num_heads"] if same else _heads(width)
        known["decoder_num_heads"] = tell("decoder_num_heads", heads, sure=same)
        known["mask_ratio"] = tell("mask_ratio", ModelConfig.mask_ratio)
    if not checkpoint.pretrained and task in ("classification", "regression") and args.get("label_names"):
        known["label_names"] = args["label_names"]
    return {**known, "preset": preset or "custom"}, guessed


def _heads(width: int) -> int | None:
    return width // HEAD_DIM if width % HEAD_DIM == 0 else None


def _count(names: Mapping[str, Any], pattern: str) -> int:
    return 1 + max((int(m[1]) for name in names if (m := re.match(pattern, name))), default=-1)


def _encoder_only(tensors: dict[str, Tensor], config: ModelConfig) -> dict[str, Tensor]:
    """A pre-trained checkpoint without what a task model does not take, by fine-tuning names."""
    left_out = ("decoder.", "mask_token", "encoder_to_decoder.", *(() if config.fuse_stages else ("encoder.norm.",)))
    return {n.removeprefix("encoder."): t for n, t in tensors.items() if not n.startswith(left_out)}


def _fill(model: Model, tensors: dict[str, Tensor], *, allow_new_head: bool, source: str) -> list[str]:
    """Copy every tensor into its parameter; returns the names of head parameters left new. Raises listing both sides."""
    own = model.state_dict()
    names = {name: published_name(name, model.config) for name in own}
    new = [n for n in own if allow_new_head and not n.startswith("encoder.") and names[n] not in tensors]
    empty = [n for n in own if names[n] not in tensors and n not in new]
    unused = sorted(set(tensors) - set(names.values()))
    misshapen = [
        f"{names[n]} {tuple(tensors[names[n]].shape)} for {n} {tuple(own[n].shape)}"
        for n in own
        if names[n] in tensors and tensors[names[n]].shape != own[n].shape
    ]
    if empty or unused or misshapen:
        sides = {"parameters left empty": empty, "tensors left over": unused, "shapes that differ": misshapen}
        listed = "; ".join(f"{side}: {', '.join(found)}" for side, found in sides.items() if found)
        raise UserError(f"{source}: does not fit the model. {listed}")
    model.load_state_dict({n: tensors[names[n]] if n not in new else own[n] for n in own}, strict=True)
    return new


def export_published(model: Model) -> dict[str, Tensor]:
    """The model's tensors under the published code's names; `import_published` reads them back exactly."""
    return {published_name(name, model.config): tensor for name, tensor in model.state_dict().items()}


def save_published(model: Model, path: str | Path) -> None:
    """Write a checkpoint as the published code does: `model`, `epoch` and `args`, read without executing code.

    args: a `argparse.Namespace` of what the published scripts know (model, input_size, num_frames, nb_classes, …), and our
    whole config as `svfap`, so that `import_published` needs to be told nothing. Raises `UserError` if it cannot be written.
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
    """Dictionaries, lists, strings and numbers alone, which may be unpickled safely."""
    if isinstance(value, Mapping):
        return {str(key): _plain(v) for key, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)
