"""The masked autoencoder (Sec. III-A, Fig. 1a): encode visible tubelets, predict what is hidden."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from svfap.model.base import Model, init_linear
from svfap.model.config import ModelConfig
from svfap.model.encoder import TPSBT
from svfap.model.layers import Block, apply_block, gather_tubelets, layer_norm, locate, sincos_positions, tubelet_view
from svfap.model.masking import TubeMask

TARGET_EPS = 1e-6
DIFFERENCE_UNIT = 0.05  # of the range of pixels; about the deviation of differences on faces 0.2 s apart


class Decoder(nn.Module):
    """Transformer blocks over encoded and mask tokens, then a linear map from mask tokens to the targets (Fig. 1a)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        dim = config.decoder_embed_dim
        blocks = (Block(dim, config.decoder_num_heads, config.mlp_ratio) for _ in range(config.decoder_depth))
        self.blocks = nn.ModuleList(blocks)
        self.norm = layer_norm(dim)
        self.head = nn.Linear(dim, config.tubelet_dim)

    def forward(self, tokens: Tensor, num_hidden: int) -> Tensor:
        """(B, N, D) with the mask tokens last -> (B, num_hidden, tubelet_dim)."""
        for block in self.blocks:
            tokens = apply_block(block, tokens)
        return self.head(self.norm(tokens[:, tokens.shape[1] - num_hidden :]))


class MaskedAutoencoder(Model):
    """Pre-training model: TPSBT with its stages fused, a light decoder, and the loss on hidden tubelets (Eq. 11)."""

    tasks = ("pretraining",)
    positions: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.encoder = TPSBT(config)
        self.encoder_to_decoder = nn.Linear(config.embed_dim, config.decoder_embed_dim, bias=False)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, config.decoder_embed_dim))
        positions = sincos_positions(config.num_tokens, config.decoder_embed_dim)
        self.register_buffer("positions", positions, persistent=False)
        self.decoder = Decoder(config)
        # As published: PyTorch's default for `encoder_to_decoder`; the mask token is cut at one standard deviation.
        for part in (self.encoder, self.decoder):
            init_linear(part, nn.init.xavier_uniform_)
        nn.init.trunc_normal_(self.mask_token, std=0.02, a=-0.02, b=0.02)

    def forward(self, clip: Tensor, mask: TubeMask) -> Tensor:
        """Predict the hidden tubelets' target.

        clip: (B, 3, T, H, W) float, ImageNet-normalised. Returns (B, N_hidden, tubelet_size·patch_size²·3) in the order of
        `mask.hidden`, each tubelet as (frame, row, column, channel).
        """
        encoded = self.encoder_to_decoder(self.encoder(clip, mask))
        visible = encoded + self.positions[mask.visible].to(encoded.dtype)
        hidden = (self.mask_token + self.positions[mask.hidden]).to(encoded.dtype)
        return self.decoder(torch.cat((visible, hidden), dim=1), mask.hidden.shape[1])

    @torch.no_grad()
    def targets(self, clip: Tensor, mask: TubeMask) -> Tensor:
        """What `forward` should predict, in its shape: float32.

        "pixels" are those in [0, 1], standardised per tubelet and channel. "difference" is each frame less the one before
        it, in units of 0.05; the first frame, which has none before it, gets the difference of the second.
        """
        is_pixels = self.config.target == "pixels"
        tubelets = self._standardised(clip, mask.hidden)[0] if is_pixels else self._changes(clip, mask.hidden)
        return tubelets.transpose(2, 3).flatten(2)

    def loss(self, clip: Tensor, mask: TubeMask, forward: Callable[..., Tensor] | None = None) -> Tensor:
        """Mean squared error between prediction and target on hidden tubelets (Eq. 11): a float32 scalar.

        forward: what to call in place of this model, such as a wrapper of it for parallel training.
        Raises `ValueError` if the mask hides nothing.
        """
        if mask.hidden.shape[1] == 0:
            raise ValueError("the mask hides nothing, so there is nothing to predict")
        prediction = (forward or self)(clip, mask)
        return F.mse_loss(prediction.float(), self.targets(clip, mask))  # Eq. 11

    @torch.no_grad()
    def _standardised(self, clip: Tensor, index: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Standardised tubelets at `index` (B, M), (B, M, 3, t·p·p), and the mean and deviation (B, M, 3, 1) that undo it."""
        pixels = self._tubelets(clip, index)
        for channel, m, s in zip(pixels.unbind(2), self.config.pixel_mean, self.config.pixel_std, strict=True):
            channel.mul_(s).add_(m)
        deviation, mean = torch.std_mean(pixels, dim=3, keepdim=True)
        deviation = deviation + TARGET_EPS
        return (pixels - mean) / deviation, mean, deviation

    def _changes(self, clip: Tensor, index: Tensor) -> Tensor:
        """Differences of frames, in units of DIFFERENCE_UNIT, in the tubelets at `index`: (B, M, 3, t·p·p)."""
        change = clip.float().diff(dim=2)
        change = torch.cat((change[:, :, :1], change), dim=2)
        tubelets = self._tubelets(change, index)
        for channel, s in zip(tubelets.unbind(2), self.config.pixel_std, strict=True):
            channel.mul_(s / DIFFERENCE_UNIT)
        return tubelets

    def _tubelets(self, clip: Tensor, index: Tensor) -> Tensor:
        """A copy: (B, 3, T, H, W) and (B, M) -> (B, M, 3, t·p·p) float32."""
        return gather_tubelets(clip, index, self.config.tubelet_size, self.config.patch_size).flatten(3).float()

    @torch.no_grad()
    def reconstruct(self, clip: Tensor, mask: TubeMask) -> Tensor:
        """The clip with its hidden tubelets replaced by the prediction: (B, 3, T, H, W) float32 in [0, 1].

        What the target leaves out is taken from the original: mean and deviation of a hidden tubelet, or with differences
        the first frame, to which the predicted changes are added one after the other.
        """
        config = self.config
        prediction = self(clip, mask).float().unflatten(2, (-1, 3)).transpose(2, 3)
        original = self.denormalize(clip.float())
        output = original
        if config.target == "pixels":
            _, mean, deviation = self._standardised(clip, mask.hidden)
            tubelets = prediction * deviation + mean
        else:
            output = original.diff(dim=2, prepend=original[:, :, :1])
            tubelets = prediction * DIFFERENCE_UNIT
        grid = tubelet_view(output, config.tubelet_size, config.patch_size)
        grid[locate(grid, mask.hidden)] = tubelets.unflatten(
            3, (config.tubelet_size, config.patch_size, config.patch_size)
        )
        if config.target == "difference":
            output[:, :, 0] = original[:, :, 0]
            output = output.cumsum(dim=2)
        return output.clamp_(0, 1)

    @torch.no_grad()
    def show_masking(self, clip: Tensor, mask: TubeMask) -> tuple[Tensor, Tensor, Tensor]:
        """Original, encoder's input (hidden pixels grey) and reconstruction: each (B, 3, T, H, W) float32 in [0, 1]."""
        original = self.denormalize(clip.float()).clamp(0, 1)
        size, grid = self.config.patch_size, self.config.grid_size
        hidden = mask.to_bool().view(len(clip), 1, self.config.num_time_steps, grid, grid)
        for dim, repeat in ((2, self.config.tubelet_size), (3, size), (4, size)):
            hidden = hidden.repeat_interleave(repeat, dim=dim)
        return original, original.masked_fill(hidden, 0.5), self.reconstruct(clip, mask)
