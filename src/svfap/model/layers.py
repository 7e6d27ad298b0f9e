"""Transformer layers: attention (Eq. 1-3), cross-attention (Eq. 6-8), tubelet embedding, positions, drop path."""

from __future__ import annotations

import math
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

NORM_EPS = 1e-6
MIN_WIDTH = 32  # channels of a convolutional stem
DEVIATION_EPS = 1e-3  # of a clip's pixels, in units of the dataset's; a clip of one colour stays zero
# Without matrix tiles (AMX) a CPU's bfloat16 attention kernel is up to eight times slower than its float32 one.
CPU_ATTENDS_IN_BF16 = torch.cpu._is_amx_tile_supported()


def layer_norm(dim: int) -> nn.LayerNorm:
    return nn.LayerNorm(dim, eps=NORM_EPS)


def normed(x: Tensor) -> Tensor:
    """Layer norm over the last axis, without learned scale and shift."""
    return F.layer_norm(x, x.shape[-1:], eps=NORM_EPS)


def steps_to_frames(steps: Tensor, num_frames: int) -> Tensor:
    """(B, T', K) at the encoder's time steps -> (B, T, K) at frames, linearly between the middles of the steps."""
    return F.interpolate(steps.transpose(1, 2), size=num_frames, mode="linear", align_corners=False).transpose(1, 2)


def sincos_positions(num_tokens: int, dim: int) -> Tensor:
    """Sine-cosine position embeddings over the flattened token index (time, row, column).

    angle(pos, j) = pos / 10000^(2⌊j/2⌋/dim); sine at even j, cosine at odd j. Returns (num_tokens, dim) float32; under the
    device "meta" only their shape.
    """
    if torch.get_default_device().type == "meta":  # where torch's `arange` imports its compiler, which takes seconds
        return torch.empty(num_tokens, dim)
    channel = torch.arange(dim, dtype=torch.float64)
    angle = torch.arange(num_tokens, dtype=torch.float64)[:, None] / 10000 ** (2 * (channel // 2) / dim)
    return torch.where(channel % 2 == 0, angle.sin(), angle.cos()).float()


def tubelet_view(clip: Tensor, tubelet_size: int, patch_size: int) -> Tensor:
    """View a clip as a grid of tubelets, without copying: (B, C, T, H, W) -> (B, T/t, H/p, W/p, C, t, p, p)."""
    grid = clip.unflatten(4, (-1, patch_size)).unflatten(3, (-1, patch_size)).unflatten(2, (-1, tubelet_size))
    return grid.permute(0, 2, 4, 6, 1, 3, 5, 7)


def gather_tubelets(clip: Tensor, index: Tensor, tubelet_size: int, patch_size: int) -> Tensor:
    """Copy only the tubelets at `index`: (B, C, T, H, W) and (B, M) int64 -> (B, M, C, t, p, p)."""
    grid = tubelet_view(clip, tubelet_size, patch_size)
    return grid[locate(grid, index)]


def locate(grid: Tensor, index: Tensor) -> tuple[Tensor, ...]:
    """Indices (batch, time, row, column) into a `tubelet_view` of the tubelets at `index` (B, M) int64."""
    rows, columns = grid.shape[2:4]
    batch = torch.arange(len(grid), device=grid.device).unsqueeze(1)
    return batch, index // (rows * columns), index // columns % rows, index % columns


class TubeletEmbed(nn.Module):
    """Linear embedding of tubelets; equal to a 3-D convolution with stride = kernel size, and stored as one."""

    def __init__(self, tubelet_size: int, patch_size: int, embed_dim: int, standardize: bool = False) -> None:
        super().__init__()
        self.tubelet_size, self.patch_size, self.standardize = tubelet_size, patch_size, standardize
        conv = nn.Conv3d(3, embed_dim, (tubelet_size, patch_size, patch_size))
        self.weight, self.bias = conv.weight, conv.bias

    def forward(self, clip: Tensor, index: Tensor | None = None) -> Tensor:
        """(B, 3, T, H, W) -> (B, N, D); with `index` (B, M) int64 only those tubelets are read: (B, M, D)."""
        if index is None:
            tubelets = tubelet_view(clip, self.tubelet_size, self.patch_size).flatten(1, 3)
        else:
            tubelets = gather_tubelets(clip, index, self.tubelet_size, self.patch_size)
        if self.standardize:
            tubelets = standardized(tubelets, (1, 3, 4, 5))
        return F.linear(tubelets.flatten(2), self.weight.flatten(1), self.bias)


def standardized(pixels: Tensor, dims: tuple[int, ...]) -> Tensor:
    """Pixels with mean 0 and deviation 1 over `dims`, which are all but clip and channel: the same shape and dtype."""
    values = pixels.float()
    centred = values - values.mean(dims, keepdim=True)
    count = math.prod(values.shape[dim] for dim in dims)
    deviation = (centred.square().sum(dims, keepdim=True) / (count - 1)).sqrt()  # torch.std_mean is four times slower
    return (centred / (deviation + DEVIATION_EPS)).to(pixels.dtype)


class ConvEmbed(nn.Module):
    """Convolutional embedding of tubelets (Xiao et al., NeurIPS 2021), in place of the linear one.

    log2(patch_size) convolutions of 3 × 3 pixels and stride 2, each with a norm over the frame and GELU, bring every frame to
    one position per tubelet; their channels double up to `embed_dim`, from `MIN_WIDTH` on. A convolution over time joins the
    frames of a tubelet.
    """

    def __init__(self, tubelet_size: int, patch_size: int, embed_dim: int, standardize: bool = False) -> None:
        super().__init__()
        self.tubelet_size, self.standardize = tubelet_size, standardize
        halvings = patch_size.bit_length() - 1
        widths = [3, *(min(max(embed_dim >> i, MIN_WIDTH), embed_dim) for i in reversed(range(halvings)))]
        self.convs = nn.ModuleList(nn.Conv2d(a, b, 3, stride=2, padding=1) for a, b in pairwise(widths))
        self.norms = nn.ModuleList(nn.GroupNorm(1, width) for width in widths[1:])
        conv = nn.Conv1d(embed_dim, embed_dim, tubelet_size)  # over time; stored as the linear embedding is
        self.weight, self.bias = conv.weight, conv.bias

    def forward(self, clip: Tensor, index: Tensor | None = None) -> Tensor:
        """(B, 3, T, H, W) -> (B, N, D). Raises `ValueError` for an index: every tubelet is read."""
        if index is not None:
            raise ValueError(
                "a convolutional stem reads every tubelet; it cannot embed only those that a mask leaves visible"
            )
        if self.standardize:
            clip = standardized(clip, (2, 3, 4))
        frames = clip.transpose(1, 2).flatten(0, 1).contiguous(memory_format=torch.channels_last)
        for conv, norm in zip(self.convs, self.norms, strict=True):
            frames = F.gelu(norm(conv(frames)))
        positions = frames.flatten(2).unflatten(0, (clip.shape[0], -1, self.tubelet_size))  # B, T/t, t, D, S
        tokens = positions.permute(0, 1, 4, 3, 2).flatten(3)  # B, T/t, S, D·t
        return F.linear(tokens.flatten(1, 2), self.weight.flatten(1), self.bias)


class Mlp(nn.Module):
    """Two-layer feed-forward network with exact GELU (Eq. 3)."""

    def __init__(self, dim: int, hidden_dim: int, out_dim: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden_dim)
        self.fc2 = nn.Linear(hidden_dim, out_dim)

    def forward(self, x: Tensor) -> Tensor:
        """(..., dim) -> (..., out_dim)."""
        return self.fc2(F.gelu(self.fc1(x)))


def attend(query: Tensor, key: Tensor, value: Tensor, num_heads: int) -> Tensor:
    """Multi-head scaled dot-product attention (Eq. 2): (B, N, D), (B, M, D), (B, M, D) -> (B, N, D)."""
    query, key, value = (x.unflatten(-1, (num_heads, -1)).transpose(1, 2) for x in (query, key, value))
    if query.device.type == "cpu" and query.dtype == torch.bfloat16 and not CPU_ATTENDS_IN_BF16:
        with torch.autocast("cpu", enabled=False):
            output = F.scaled_dot_product_attention(query.float(), key.float(), value.float()).to(query.dtype)
    else:
        output = F.scaled_dot_product_attention(query, key, value)
    return output.transpose(1, 2).flatten(2)


class Projection(nn.Linear):
    """A linear layer without a bias of its own, which is called with one: adapters find a layer and see its inputs."""

    def __init__(self, in_dim: int, out_dim: int) -> None:
        super().__init__(in_dim, out_dim, bias=False)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:  # type: ignore[override]
        """(..., in_dim) and (out_dim,) -> (..., out_dim)."""
        return F.linear(x, self.weight, bias)


class SelfAttention(nn.Module):
    """Self-attention (Eq. 2) with biases on query and value; a bias on the key would cancel in the softmax."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = Projection(dim, 3 * dim)
        self.q_bias = nn.Parameter(torch.zeros(dim))
        self.v_bias = nn.Parameter(torch.zeros(dim))
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, D) -> (B, N, D)."""
        bias = torch.cat((self.q_bias, torch.zeros_like(self.q_bias), self.v_bias))
        query, key, value = self.qkv(x, bias).chunk(3, dim=-1)
        return self.proj(attend(query, key, value, self.num_heads))


class CrossAttention(nn.Module):
    """Attention of one set of tokens to another (Eq. 7), with biases as in self-attention."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.q = Projection(dim, dim)
        self.kv = Projection(dim, 2 * dim)
        self.q_bias = nn.Parameter(torch.zeros(dim))
        self.v_bias = nn.Parameter(torch.zeros(dim))
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        """(B, N, D) queries, (B, M, D) context -> (B, N, D)."""
        query = self.q(x, self.q_bias)
        bias = torch.cat((torch.zeros_like(self.v_bias), self.v_bias))
        key, value = self.kv(context, bias).chunk(2, dim=-1)
        return self.proj(attend(query, key, value, self.num_heads))


class DropPath(nn.Module):
    """Stochastic depth: drop a residual branch for random clips of the batch, and scale it up for the others."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def draw(self, x: Tensor, num_branches: int) -> tuple[Tensor, ...]:
        """A factor for each clip and branch, (B, 1, 1) float32 each, for tokens (B, N, D); none where nothing is dropped."""
        if not self.training or self.rate == 0.0:
            return ()
        keep = 1.0 - self.rate
        shape = (x.shape[0], 1, 1)
        return tuple(x.new_empty(shape, dtype=torch.float32).bernoulli_(keep).div_(keep) for _ in range(num_branches))

    def forward(self, branch: Tensor, factors: Tensor | None) -> Tensor:
        """(B, N, D) and what `draw` gave for the branch -> (B, N, D)."""
        return branch if factors is None else branch * factors.to(branch.dtype)


class Block(nn.Module):
    """Pre-norm Transformer block (Eq. 1). Draws nothing itself, so that it can be computed again: see `apply_block`."""

    checkpointed = False  # see `checkpoint_activations`
    num_branches = 2

    def __init__(self, dim: int, num_heads: int, mlp_ratio: float, drop_path_rate: float = 0.0) -> None:
        super().__init__()
        self.norm1 = layer_norm(dim)
        self.attn = SelfAttention(dim, num_heads)
        self.norm2 = layer_norm(dim)
        self.mlp = Mlp(dim, int(dim * mlp_ratio), dim)
        self.drop_path = DropPath(drop_path_rate)

    def forward(self, x: Tensor, *factors: Tensor) -> Tensor:
        """(B, N, D), and the factors of `DropPath.draw` -> (B, N, D)."""
        attention, feed_forward = factors or (None, None)
        x = x + self.drop_path(self.attn(self.norm1(x)), attention)
        return x + self.drop_path(self.mlp(self.norm2(x)), feed_forward)


class CrossBlock(Block):
    """A block that first attends to other tokens (Eq. 6; with the roles swapped, the reverse block, Eq. 8)."""

    num_branches = 3

    def __init__(self, dim: int, num_heads: int, mlp_ratio: float, drop_path_rate: float = 0.0) -> None:
        super().__init__(dim, num_heads, mlp_ratio, drop_path_rate)
        self.query_norm = layer_norm(dim)
        self.context_norm = layer_norm(dim)
        self.cross_attn = CrossAttention(dim, num_heads)

    def forward(self, x: Tensor, context: Tensor, *factors: Tensor) -> Tensor:  # type: ignore[override]
        """(B, N, D) tokens, (B, M, D) context, and the factors of `DropPath.draw` -> (B, N, D)."""
        cross = factors[0] if factors else None
        x = x + self.drop_path(self.cross_attn(self.query_norm(x), self.context_norm(context)), cross)
        return super().forward(x, *factors[1:])


def apply_block(block: nn.Module, *tokens: Tensor) -> Tensor:
    """The block's output; of a checkpointed block, the backward pass computes it again from the inputs.

    Drop path is drawn here, once for both: not every device's random state can be restored for the second time.
    """
    assert isinstance(block, Block)
    inputs = (*tokens, *block.drop_path.draw(tokens[0], block.num_branches))
    if block.checkpointed and torch.is_grad_enabled():
        output: Tensor = checkpoint(block, *inputs, use_reentrant=False, preserve_rng_state=False)
        return output
    output = block(*inputs)
    return output


def checkpoint_activations(model: nn.Module) -> None:
    """Let every block keep its inputs alone for the backward pass: less memory, the same gradients, another forward pass."""
    for module in model.modules():
        if isinstance(module, Block):
            module.checkpointed = True
