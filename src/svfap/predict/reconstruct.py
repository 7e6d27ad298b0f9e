"""Look at what a pre-trained model makes of the pixels it cannot see (Fig. 6)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from svfap.data.augment import center_crop, normalize
from svfap.data.clips import validation_indices
from svfap.data.video import open_video
from svfap.errors import UserError
from svfap.model.base import Model
from svfap.model.mae import MaskedAutoencoder
from svfap.model.masking import tube_mask
from svfap.weights.folder import load_model


@dataclass(frozen=True)
class Reconstruction:
    """Three clips (T, H, W, 3) uint8, and the loss on the hidden tubelets (Eq. 11)."""

    original: np.ndarray
    masked: np.ndarray
    reconstruction: np.ndarray
    loss: float
    fps: float


def reconstruct(
    video: str | Path, model: Model | str | Path, ratio: float | None = None, seed: int = 0
) -> Reconstruction:
    """Hide `ratio` (default: the model's own) of the middle clip of a video and let the model fill it in.

    Raises `UserError` if the model is no pre-training model, `VideoError` if the video cannot be read.
    """
    model = model if isinstance(model, Model) else load_model(model)
    config = model.config
    with open_video(video) as source:
        indices = validation_indices(source.num_frames, config.num_frames, config.sampling_stride)
        frames, fps = source.read(indices), source.fps / config.sampling_stride
    return reconstruct_clip(center_crop(frames, config.img_size), model, ratio, seed, fps)


@torch.inference_mode()
def reconstruct_clip(
    frames: np.ndarray, model: Model, ratio: float | None = None, seed: int = 0, fps: float = 25.0
) -> Reconstruction:
    """As `reconstruct`, of a clip (T, H, W, 3) uint8 of the model's size; fps: frames of the clip per second."""
    if not isinstance(model, MaskedAutoencoder):
        raise UserError(
            f"the model is for {model.config.task}; reconstruction needs a pre-training model (svfap pretrain)"
        )
    config = model.eval().config
    if not 0 < config.num_masked_positions(ratio) < config.num_positions:
        raise UserError(f"ratio={ratio} hides no or all {config.num_positions} positions; give a part of them")
    clip = normalize(torch.from_numpy(frames)[None], config.pixel_mean, config.pixel_std)
    mask = tube_mask(1, config, ratio, torch.Generator().manual_seed(seed))
    original, seen, filled = (_uint8(picture) for picture in model.show_masking(clip, mask))
    return Reconstruction(original, seen, filled, model.loss(clip, mask).item(), fps)


def _uint8(clip: torch.Tensor) -> np.ndarray:
    return (clip[0].permute(1, 2, 3, 0) * 255).round().byte().numpy()
