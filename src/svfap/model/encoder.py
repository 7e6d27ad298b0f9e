"""TPSBT, the temporal pyramid and spatial bottleneck Transformer (Sec. III-B, Fig. 2; Eq. 4, 5, 8, 9, 10)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from svfap.model.config import ModelConfig
from svfap.model.layers import (
    Block,
    ConvEmbed,
    CrossBlock,
    Mlp,
    TubeletEmbed,
    apply_block,
    layer_norm,
    sincos_positions,
)
from svfap.model.masking import TubeMask


class TemporalDownsample(nn.Module):
    """Temporal down-sampling by a 1-D convolution with stride = kernel size (Eq. 4), or by mean or maximum (Table 6)."""

    weight: Tensor | None
    bias: Tensor | None

    def __init__(self, dim: int, kernel_size: int, kind: str = "conv") -> None:
        super().__init__()
        self.kernel_size, self.kind = kernel_size, kind
        conv = nn.Conv1d(dim, dim, kernel_size) if kind == "conv" else None
        self.weight, self.bias = (conv.weight, conv.bias) if conv else (None, None)

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, T, S, D) -> (B, T/k, S, D)."""
        steps = tokens.unflatten(1, (-1, self.kernel_size))
        if self.weight is None:
            return steps.mean(dim=2) if self.kind == "avg" else steps.amax(dim=2)
        flat = steps.transpose(2, 3).flatten(3)  # B, T/k, S, k·D
        return F.linear(flat, self.weight.transpose(1, 2).flatten(1), self.bias)  # Eq. 4


class SpatialBottleneck(nn.Module):
    """Aggregate the S tokens of each time step into G bottleneck tokens by learned spatial attention (Eq. 5)."""

    def __init__(self, dim: int, hidden_dim: int, num_tokens: int) -> None:
        super().__init__()
        self.norm = layer_norm(dim)
        self.mlp = Mlp(dim, hidden_dim, num_tokens)

    def maps(self, tokens: Tensor) -> Tensor:
        """Attention maps: (B, T, S, D) -> (B, T, G, S), non-negative, summing to one over the S positions."""
        return self.mlp(self.norm(tokens)).softmax(dim=2).transpose(2, 3)

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, T, S, D) -> (B, T·G, D): weighted sums of the tokens before the norm."""
        return (self.maps(tokens) @ tokens).flatten(1, 2)  # Eq. 5


class Stage(nn.Module):
    """One stage of the encoder (Fig. 2).

    The first stage holds ordinary blocks over all tokens. Every later one down-samples time (unless
    `config.temporal_pyramid` is off) and works through bottleneck tokens (unless `config.spatial_bottleneck` is off): every
    block but the last updates the bottleneck tokens, which attend to all tokens (Eq. 6); the last swaps the roles, all
    tokens attend to the bottleneck tokens (Eq. 8).
    """

    def __init__(self, config: ModelConfig, number: int, drop_path_rates: list[float]) -> None:
        super().__init__()
        dim = config.embed_dim
        self.temporal_downsample = self.spatial_bottleneck = None
        if number > 0 and config.temporal_pyramid:
            self.temporal_downsample = TemporalDownsample(dim, config.temporal_kernel_size, config.temporal_downsample)
        if number > 0 and config.spatial_bottleneck:
            num_tokens = config.num_bottleneck_tokens[number - 1]
            self.spatial_bottleneck = SpatialBottleneck(dim, config.bottleneck_hidden_dim, num_tokens)
        block = CrossBlock if self.spatial_bottleneck else Block
        self.blocks = nn.ModuleList(block(dim, config.num_heads, config.mlp_ratio, rate) for rate in drop_path_rates)

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, T, S, D) -> (B, T/k, S, D), with k = 1 without temporal down-sampling."""
        if self.temporal_downsample is not None:
            tokens = self.temporal_downsample(tokens)
        flat = tokens.flatten(1, 2)
        if self.spatial_bottleneck is None:
            for block in self.blocks:
                flat = apply_block(block, flat)
            return flat.view_as(tokens)
        bottleneck = self.spatial_bottleneck(tokens)
        *refine, reverse = self.blocks
        for block in refine:
            bottleneck = apply_block(block, bottleneck, flat)  # Eq. 6
        return apply_block(reverse, flat, bottleneck).view_as(tokens)  # Eq. 8


def upsample_time(tokens: Tensor, num_time_steps: int) -> Tensor:
    """Up-sample along time by repetition (Eq. 9): (B, T, S, D) -> (B, num_time_steps, S, D), positions kept."""
    return tokens.repeat_interleave(num_time_steps // tokens.shape[1], dim=1)  # Eq. 9


class TPSBT(nn.Module):
    """The encoder, for whole clips and for masked ones.

    With `config.fuse_stages` (pre-training) the stages' outputs are summed at the first stage's time resolution (Eq. 9, 10)
    and normalised; without (fine-tuning) the last stage's tokens are returned. Pre-training without fusion (Table 4)
    up-samples only the last stage, since the decoder needs a token for every tubelet.
    """

    positions: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        sizes = (config.tubelet_size, config.patch_size, config.embed_dim)
        embed = ConvEmbed if config.stem == "conv" else TubeletEmbed
        self.tubelet_embed = embed(*sizes, standardize=config.standardize_clips)
        self.register_buffer("positions", sincos_positions(config.num_tokens, config.embed_dim), persistent=False)
        num_blocks = sum(config.stage_depths)
        rates = iter(config.drop_path_rate * i / max(num_blocks - 1, 1) for i in range(num_blocks))
        stages = (Stage(config, i, list(islice(rates, depth))) for i, depth in enumerate(config.stage_depths))
        self.stages = nn.ModuleList(stages)
        self.norm = layer_norm(config.embed_dim) if config.fuse_stages or config.task == "pretraining" else None
        self.register_load_state_dict_pre_hook(_drop_unused_norm)

    @property
    def num_output_time_steps(self) -> int:
        """Time steps of the output: T/tubelet_size in pre-training and where stages are fused, else the last stage's."""
        return self.config.stage_time_steps[-1 if self.norm is None else 0]

    def forward(self, clip: Tensor, mask: TubeMask | None = None) -> Tensor:
        """Encode clips, or only the tubelets that a mask leaves visible; hidden pixels are never read.

        clip: (B, 3, T, H, W) float, ImageNet-normalised. Returns (B, N_out, D): N_out = time steps
        (`num_output_time_steps`) × visible positions, time first. Raises `ValueError` for sizes other than the config's.
        """
        outputs = self.stage_outputs(clip, mask)
        if self.norm is None:
            return outputs[-1].flatten(1, 2)
        fused = outputs if self.config.fuse_stages else outputs[-1:]
        return self.norm(self.fused(fused)).flatten(1, 2)

    def stage_outputs(self, clip: Tensor, mask: TubeMask | None = None) -> list[Tensor]:
        """The tokens of every stage, each (B, T_i, S, D) with T_i = `config.stage_time_steps`; arguments as in `forward`."""
        self._check(clip, mask)
        visible = None if mask is None else mask.visible
        tokens = self.tubelet_embed(clip, visible)
        tokens = tokens + (self.positions if visible is None else self.positions[visible]).to(tokens.dtype)
        tokens = tokens.unflatten(1, (self.config.num_time_steps, -1))
        outputs = []
        for stage in self.stages:
            tokens = stage(tokens)
            outputs.append(tokens)
        return outputs

    def fused(self, outputs: Sequence[Tensor]) -> Tensor:
        """The sum of stages' outputs at the first stage's time resolution, before the norm: (B, T/tubelet_size, S, D)."""
        upsampled = [upsample_time(x, self.config.num_time_steps) for x in outputs]  # Eq. 9
        return torch.stack(upsampled).sum(0)  # Eq. 10

    def _check(self, clip: Tensor, mask: TubeMask | None) -> None:
        expected = (3, self.config.num_frames, self.config.img_size, self.config.img_size)
        if clip.ndim != 5 or tuple(clip.shape[1:]) != expected:
            raise ValueError(f"expected clips of shape (B, {', '.join(map(str, expected))}), got {tuple(clip.shape)}")
        if mask is not None and mask.visible.shape[1] + mask.hidden.shape[1] != self.config.num_tokens:
            counts = f"{mask.visible.shape[1]} visible and {mask.hidden.shape[1]} hidden"
            raise ValueError(f"expected a mask of {self.config.num_tokens} tubelets, got {counts}")


def _drop_unused_norm(module: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    """Let a pre-trained encoder load strictly into one without fusion, which has no norm after the sum of the stages."""
    if module.norm is None:
        state.pop(f"{prefix}norm.weight", None)
        state.pop(f"{prefix}norm.bias", None)
