"""Weights on disk: our folders, the authors' checkpoints, and the one table of published parameter names."""

from __future__ import annotations

import argparse
import json
import logging
import pickle
import re
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from svfap.errors import UserError
from svfap.model.base import Model
from svfap.model.config import ModelConfig
from svfap.model.mae import MaskedAutoencoder
from svfap.model.perceiver import Perceiver
from svfap.model.presets import PRESETS, build_model, model_config

log = logging.getLogger("svfap")

# Our names -> published names, tried in order, on a name below `encoder.`; block numbers are translated apart.
PUBLISHED_NAMES: list[tuple[str, str]] = [
    (r"tubelet_embed\.(weight|bias)", r"patch_embed.proj.\1"),
    (r"(blocks\.\d+)\.query_norm\.(.*)", r"\1.cross_norm1.\2"),
    (r"(blocks\.\d+)\.context_norm\.(.*)", r"\1.cross_norm2.\2"),
    (r"temporal_downsample\.(\d+)\.(.*)", r"temporal_downsamples.\1.\2"),
    (r"spatial_bottleneck\.(\d+)\.(.*)", r"spatial_downsamples.\1.\2"),
]
PUBLISHED_TASK_NAMES = {"norm": "fc_norm"}  # Outside the encoder all other names agree.
CHECKPOINT_KEYS = ("model", "module", "state_dict", "model_ema")
CHECKPOINT_PREFIXES = ("module.", "backbone.")


def published_name(name: str, config: ModelConfig) -> str:
    """The published code's name of one of our parameters.

    It counts blocks through all stages and names down-sampling layers by their order; its fine-tuning model has no
    `encoder.` prefix.
    """
    scope, _, rest = name.partition(".")
    if scope != "encoder":
        return f"{PUBLISHED_TASK_NAMES.get(scope, scope)}.{rest}" if rest else name
    if match := re.fullmatch(r"stages\.(\d+)\.(\w+)\.(.*)", rest):
        stage, part, tail = int(match[1]), match[2], match[3]
        if part == "blocks":
            block, _, tail = tail.partition(".")
            rest = f"blocks.{sum(config.stage_depths[:stage]) + int(block)}.{tail}"
        else:
            rest = f"{part}.{stage - 1}.{tail}"
    for pattern, replacement in PUBLISHED_NAMES:
        if re.fullmatch(pattern, rest):
            rest = re.sub(pattern, replacement, rest)
            break
    return f"encoder.{rest}" if config.task == "pretraining" else rest


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
        unknown = sorted(set(words) - set(ModelConfig.words()))
        if unknown:
            raise UserError(f"{folder}/config.json: unknown settings {', '.join(unknown)}")
        cls = MaskedAutoencoder if words.get("task") == "pretraining" else Perceiver
    except (json.JSONDecodeError, AttributeError, TypeError) as error:
        raise UserError(f"{folder}/config.json: not a model config ({error})") from None
    if not (folder / "model.safetensors").is_file():
        raise UserError(f"{folder}: config.json is there, but model.safetensors is missing")
    try:
        return cls.from_pretrained(folder)
    except UserError:
        raise
    except Exception as error:  # safetensors and torch raise kinds of their own for broken or unfitting files
        raise UserError(f"{folder}/model.safetensors: does not fit its config.json: {error}") from None


def _load_hub(repository: str) -> Model:
    from huggingface_hub import hf_hub_download

    try:
        words = json.loads(Path(hf_hub_download(repository, "config.json")).read_text())
        cls = MaskedAutoencoder if words.get("task") == "pretraining" else Perceiver
        return cls.from_pretrained(repository)
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
    if model.config.fuse_stages and not source.config.fuse_stages:
        raise UserError("the source's encoder has no norm for fused stages: it was fine-tuned on its last stage alone")
    differing = [f"{w}: {theirs[w]} there, {mine[w]} here" for w in shape_words if mine[w] != theirs[w]]
    if differing:
        raise UserError(f"the pre-trained encoder does not fit this model ({'; '.join(differing)})")
    model.encoder.load_state_dict(source.encoder.state_dict(), strict=True)
    return [name for name, _ in model.named_parameters() if not name.startswith("encoder.")]


def import_published(
    path_or_state_dict: str | Path | Mapping[str, Any], task: str | None = None, **overrides: Any
) -> Model:
    """Read a checkpoint of the published SVFAP code, pre-trained or fine-tuned, into our model.

    task: default "pretraining" or "classification", as the file is. overrides: fields of `ModelConfig` for what tensors
    cannot tell (num_heads, decoder_num_heads, stage_depths, img_size, num_frames, …) or what is to differ; else the file's
    `args`, then a preset that fits, then 64 channels per head say it. From a pre-trained file into a task model, the task's
    norm and head alone stay new; a warning names them and `config.provenance["new_parameters"]` lists them.

    Loads without executing code. Raises `UserError` if the file is missing, unreadable or would run code, if a size cannot
    be told (the message names the override), or if a tensor is left over, missing, or of another shape.
    """
    if isinstance(path_or_state_dict, str | Path):
        source, contents = str(path_or_state_dict), read_checkpoint(path_or_state_dict)
    else:
        source, contents = "state dict", path_or_state_dict
    tensors, args = _tensors_and_args(contents, source)
    pretrained = any(name.startswith(("decoder.", "mask_token", "encoder_to_decoder")) for name in tensors)
    task = task or ("pretraining" if pretrained else "classification")
    provenance = {"imported_from": source, "epoch": contents.get("epoch")}
    try:
        config = _infer_config(tensors, args, task, pretrained, {"provenance": provenance, **overrides}, source)
    except KeyError as error:
        raise UserError(f"{source}: does not fit the model. tensors that are missing: {error.args[0]}") from None
    model = build_model(config)
    if pretrained and task != "pretraining":
        tensors = _encoder_only(tensors, config)
    elif task == "features":
        tensors = {name: tensor for name, tensor in tensors.items() if not name.startswith("head.")}
    new = _fill(model, tensors, allow_new_head=pretrained and task != "pretraining", source=source)
    if new:
        log.warning("%s is pre-trained: %s stay new, to be fine-tuned", source, ", ".join(new))
        config.provenance["new_parameters"] = new
    return model.eval()


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
        match = re.search(r"GLOBAL ([\w.]+)", str(error))
        if match:
            raise UserError(f"{path}: refused: reading it would execute code ({match[1]})") from None
        raise UserError(f"{path}: not a checkpoint that can be read without executing code") from None
    except Exception as error:  # zip, EOF and format errors come in many kinds
        raise UserError(f"{path}: not a checkpoint ({str(error).splitlines()[0] if str(error) else error!r})") from None
    if not isinstance(contents, Mapping):
        raise UserError(f"{path}: holds a {type(contents).__name__}, not a checkpoint")
    return contents


def _tensors_and_args(contents: Mapping[str, Any], source: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    args = contents.get("args")
    state = next((contents[k] for k in CHECKPOINT_KEYS if isinstance(contents.get(k), Mapping)), contents)
    tensors = {name: value for name, value in state.items() if isinstance(value, Tensor)}
    for prefix in CHECKPOINT_PREFIXES:
        if tensors and all(name.startswith(prefix) for name in tensors):
            tensors = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
    if not any(name.endswith("patch_embed.proj.weight") for name in tensors):
        raise UserError(f"{source}: not a published SVFAP checkpoint (no patch_embed.proj.weight in it)")
    return tensors, vars(args) if isinstance(args, argparse.Namespace) else dict(args or {})


def _infer_config(
    tensors: dict[str, Tensor],
    args: dict[str, Any],
    task: str,
    pretrained: bool,
    overrides: dict[str, Any],
    source: str,
) -> ModelConfig:
    """The config of the model that a checkpoint was saved from, as far as tensors, args, presets and overrides tell."""
    prefix = "encoder." if pretrained else ""
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
    )
    if later_stages:
        bottlenecks = [f"spatial_downsamples.{i}.mlp" for i in range(later_stages)]
        known["num_bottleneck_tokens"] = tuple(shapes[f"{b}.fc2.weight"][0] for b in bottlenecks)
        known["bottleneck_hidden_dim"] = shapes[f"{bottlenecks[0]}.fc1.weight"][0]
        known["temporal_kernel_size"] = shapes["temporal_downsamples.0.weight"][2]
    else:
        known["num_bottleneck_tokens"] = ()
    if pretrained and task == "pretraining":
        known["decoder_embed_dim"] = tensors["mask_token"].shape[-1]
        known["decoder_depth"] = _count(dict.fromkeys(tensors, 0), r"decoder\.blocks\.(\d+)\.")
    if not pretrained and task in ("classification", "regression") and "head.weight" in shapes:
        known["num_outputs"] = shapes["head.weight"][0]

    def fits(words: dict[str, Any]) -> bool:
        depths = words["stage_depths"]
        same_depths = (depths[0], sum(depths), len(depths)) == (first, blocks, later_stages + 1)
        return words["embed_dim"] == embed_dim and same_depths and words.get("patch_size", 16) == patch_size

    preset = next((name for name, words in PRESETS.items() if fits(words)), None)
    from_preset = asdict(model_config(preset, "features")) if preset else {}

    def tell(word: str, arg: str | None = None, fallback: Any = None) -> Any:
        for value in (overrides.get(word), args.get(arg or word), from_preset.get(word), fallback):
            if value is not None:
                return value
        raise UserError(f"{source}: its tensors and args do not tell {word}; pass {word}=…")

    if later_stages <= 1:
        known["stage_depths"] = (first, blocks - first) if later_stages else (blocks,)
    else:
        known["stage_depths"] = tuple(tell("stage_depths"))
    known["num_heads"] = tell("num_heads", fallback=embed_dim // 64 if embed_dim % 64 == 0 else None)
    known["img_size"] = tell("img_size", "input_size")
    known["num_frames"] = tell("num_frames")
    known["sampling_stride"] = tell("sampling_stride", "sampling_rate", ModelConfig.sampling_stride)
    if "decoder_embed_dim" in known:
        width = known["decoder_embed_dim"]
        known["decoder_num_heads"] = tell("decoder_num_heads", fallback=width // 64 if width % 64 == 0 else None)
        known["mask_ratio"] = tell("mask_ratio", fallback=ModelConfig.mask_ratio)
    words = {"fuse_stages": task == "pretraining", **known, **overrides}
    unknown = sorted(set(words) - set(ModelConfig.words()))
    if unknown:
        raise UserError(f"unknown model settings {', '.join(unknown)}")
    return ModelConfig(**{"preset": preset or "custom", "task": task, **words})


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
