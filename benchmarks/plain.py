"""An unoptimised implementation of the models, as the baseline of benchmarks/speed.py.

- Attention is explicit, with its N×N weights in memory.
- All tubelets are embedded by a 3-D convolution, and the visible ones are selected by a boolean index.
- Targets are computed for all tubelets, and the hidden ones are selected by a boolean index.
"""

from __future__ import annotations

import copy
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from svfap.model.base import Model
from svfap.model.encoder import TPSBT, upsample_time
from svfap.model.layers import CrossAttention, SelfAttention, TubeletEmbed, tubelet_view
from svfap.model.mae import TARGET_EPS, MaskedAutoencoder
from svfap.model.masking import TubeMask

AnyModel = TypeVar("AnyModel", bound=Model)


def attend(query: Tensor, key: Tensor, value: Tensor, num_heads: int) -> Tensor:
    """Eq. 2 with explicit weights: (B, N, D), (B, M, D), (B, M, D) -> (B, N, D)."""
    query, key, value = (x.unflatten(-1, (num_heads, -1)).transpose(1, 2) for x in (query, key, value))
    weights = (query * query.shape[-1] ** -0.5 @ key.transpose(-2, -1)).softmax(dim=-1)
    return (weights @ value).transpose(1, 2).flatten(2)


class PlainSelfAttention(SelfAttention):
    def forward(self, x: Tensor) -> Tensor:
        bias = torch.cat((self.q_bias, torch.zeros_like(self.q_bias), self.v_bias))
        query, key, value = F.linear(x, self.qkv.weight, bias).chunk(3, dim=-1)
        return self.proj(attend(query, key, value, self.num_heads))


class PlainCrossAttention(CrossAttention):
    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        query = F.linear(x, self.q.weight, self.q_bias)
        bias = torch.cat((torch.zeros_like(self.v_bias), self.v_bias))
        key, value = F.linear(context, self.kv.weight, bias).chunk(2, dim=-1)
        return self.proj(attend(query, key, value, self.num_heads))


class PlainTubeletEmbed(TubeletEmbed):
    def forward(self, clip: Tensor, index: Tensor | None = None) -> Tensor:
        stride = (self.tubelet_size, self.patch_size, self.patch_size)
        return F.conv3d(clip, self.weight, self.bias, stride).flatten(2).transpose(1, 2)


class PlainTPSBT(TPSBT):
    def forward(self, clip: Tensor, mask: TubeMask | None = None) -> Tensor:
        tokens = self.tubelet_embed(clip) + self.positions
        if mask is not None:
            tokens = tokens[~mask.to_bool()].view(len(clip), -1, tokens.shape[-1])
        tokens = tokens.unflatten(1, (self.config.num_time_steps, -1))
        outputs = []
        for stage in self.stages:
            tokens = stage(tokens)
            outputs.append(tokens)
        if self.norm is not None:
            tokens = self.norm(torch.stack([upsample_time(x, self.config.num_time_steps) for x in outputs]).sum(0))
        return tokens.flatten(1, 2)


class PlainMaskedAutoencoder(MaskedAutoencoder):
    def forward(self, clip: Tensor, mask: TubeMask) -> Tensor:
        encoded = self.encoder_to_decoder(self.encoder(clip, mask))
        masked = mask.to_bool()
        positions = self.positions.expand(len(clip), -1, -1)
        visible = encoded + positions[~masked].view_as(encoded)
        hidden = self.mask_token + positions[masked].view(len(clip), -1, positions.shape[-1])
        return self.decoder(torch.cat((visible, hidden), dim=1), hidden.shape[1])

    @torch.no_grad()
    def targets(self, clip: Tensor, mask: TubeMask) -> Tensor:
        grid = tubelet_view(self.denormalize(clip.float()), self.config.tubelet_size, self.config.patch_size)
        pixels = grid.flatten(5).flatten(1, 3).transpose(2, 3)  # B, N, t·p·p, 3
        deviation = pixels.var(dim=2, keepdim=True).sqrt() + TARGET_EPS
        tubelets = ((pixels - pixels.mean(dim=2, keepdim=True)) / deviation).flatten(2)
        return tubelets[mask.to_bool()].view(len(clip), -1, tubelets.shape[-1])


PLAIN: dict[type[nn.Module], type[nn.Module]] = {
    SelfAttention: PlainSelfAttention,
    CrossAttention: PlainCrossAttention,
    TubeletEmbed: PlainTubeletEmbed,
    TPSBT: PlainTPSBT,
    MaskedAutoencoder: PlainMaskedAutoencoder,
}


def plain(model: AnyModel) -> AnyModel:
    """A copy of the model with the same weights and outputs, computed by the unoptimised implementation."""
    model = copy.deepcopy(model)
    for module in model.modules():
        module.__class__ = PLAIN.get(type(module), type(module))
    return model
