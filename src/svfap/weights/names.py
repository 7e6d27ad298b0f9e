"""Parameter names: ours, those of the published SVFAP and VideoMAE code, and those of transformers' VideoMAE."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from svfap.model.config import ModelConfig

# Our names -> published names, the first that matches, below `encoder.`; `published_name` converts block numbers.
PUBLISHED_NAMES: list[tuple[str, str]] = [
    (r"tubelet_embed\.(weight|bias)", r"patch_embed.proj.\1"),
    (r"(blocks\.\d+)\.query_norm\.(.*)", r"\1.cross_norm1.\2"),
    (r"(blocks\.\d+)\.context_norm\.(.*)", r"\1.cross_norm2.\2"),
    (r"temporal_downsample\.(\d+)\.(.*)", r"temporal_downsamples.\1.\2"),
    (r"spatial_bottleneck\.(\d+)\.(.*)", r"spatial_downsamples.\1.\2"),
]
PUBLISHED_TASK_NAMES = {"norm": "fc_norm"}  # outside the encoder all other names are equal

# transformers' VideoMAE -> published names, all applied in order; `from_transformers` joins query, key and value.
TRANSFORMERS_NAMES: list[tuple[str, str]] = [
    (r"^videomae\.", ""),
    (r"^embeddings\.patch_embeddings\.projection\.", "encoder.patch_embed.proj."),
    (r"^encoder\.layer\.", "encoder.blocks."),
    (r"^layernorm\.", "encoder.norm."),
    (r"^decoder\.decoder_layers\.", "decoder.blocks."),
    (r"^classifier\.", "head."),
    # q_bias up to version 4, then query.bias
    (r"\.attention\.attention\.(q|v)(uery|alue)?[._]bias$", r".attn.\1_bias"),
    (r"\.attention\.attention\.", ".attn."),
    (r"\.attention\.output\.dense\.", ".attn.proj."),
    (r"\.intermediate\.dense\.", ".mlp.fc1."),
    (r"\.output\.dense\.", ".mlp.fc2."),
    (r"\.layernorm_before\.", ".norm1."),
    (r"\.layernorm_after\.", ".norm2."),
]
QUERY_KEY_VALUE = ("query.weight", "key.weight", "value.weight")

# Position tables, which neither code needs to store.
POSITION_NAMES = r"(.*\.)?(pos_embed|position_embeddings)"


def published_name(name: str, config: ModelConfig) -> str:
    """The published code's name of one of our parameters.

    The published code numbers blocks through all stages and down-sampling layers from 0; its fine-tuning model has no `encoder.`
    prefix.
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


def is_transformers(names: Mapping[str, Tensor]) -> bool:
    """Whether the names are those of transformers' VideoMAE."""
    return any(name.endswith("embeddings.patch_embeddings.projection.weight") for name in names)


def from_transformers(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of transformers' VideoMAE under the published names: with `encoder.` unless there is a classifier."""
    renamed = {}
    for name, tensor in tensors.items():
        for pattern, replacement in TRANSFORMERS_NAMES:
            name = re.sub(pattern, replacement, name)
        renamed[name] = tensor
    for first in [name for name in renamed if name.endswith(f".attn.{QUERY_KEY_VALUE[0]}")]:
        stem = first.removesuffix(QUERY_KEY_VALUE[0])
        if all(stem + part in renamed for part in QUERY_KEY_VALUE):
            renamed[f"{stem}qkv.weight"] = torch.cat([renamed.pop(stem + part) for part in QUERY_KEY_VALUE])
    if any(name.startswith(("head.", "fc_norm.")) for name in renamed):
        renamed = {name.removeprefix("encoder."): tensor for name, tensor in renamed.items()}
    return renamed
