"""Masked frames and their reconstruction by a pre-trained model (Fig. 6)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from svfap.console import say
from svfap.data.augment import normalize
from svfap.data.clips import validation_indices
from svfap.data.crops import fit_frames
from svfap.data.rates import Clock, states_no_rate
from svfap.data.video import open_video, write_video
from svfap.errors import UserError
from svfap.model.base import Model
from svfap.model.mae import MaskedAutoencoder
from svfap.model.masking import tube_mask
from svfap.predict.config import ReconstructConfig
from svfap.view.figures.base import save_figure
from svfap.view.figures.clips import reconstruction_grid
from svfap.weights.folder import load_model


@dataclass(frozen=True)
class Reconstruction:
    """The reconstruction of one clip.

    Attributes:
        original, masked, reconstruction: (T, H, W, 3) uint8 RGB; masked: grey where patches are masked.
        loss: mean squared error on the masked tubelets (Eq. 11).
        trivial_loss: the same of predicting zero: each tubelet's mean, or with the target "difference", no change.
        fps: frames of the clip per second.
        written: files that `reconstruct` has written.
    """

    original: np.ndarray
    masked: np.ndarray
    reconstruction: np.ndarray
    loss: float
    trivial_loss: float
    fps: float
    written: tuple[Path, ...] = ()


def reconstruct(video: str | Path, config: ReconstructConfig) -> Reconstruction:
    """Mask the middle clip of a video, reconstruct it, and write it as a picture (.png) and a video (.mp4).

    Raises `UserError` if the model is not a pre-training model or the files cannot be written, `VideoError` if the video
    cannot be read.
    """
    result = reconstruct_video(video, load_model(config.model), config.mask_ratio, config.seed)
    if config.out is None:
        return result
    clips = (result.original, result.masked, result.reconstruction)
    png, mp4 = config.out / "reconstruction.png", config.out / "reconstruction.mp4"
    save_figure(reconstruction_grid(*clips), png)
    write_video(mp4, np.concatenate(clips, axis=2), fps=result.fps)
    return replace(result, written=(png, mp4))


def reconstruct_video(
    video: str | Path, model: Model, mask_ratio: float | None = None, seed: int = 0
) -> Reconstruction:
    """As `reconstruct`, with a loaded model and without writing files."""
    config = model.config
    with open_video(video) as source:
        rate_note = Clock.of(None, config.frame_rate, config.span).note(source.fps)
        if config.frame_rate is not None and rate_note is not None and not states_no_rate(Path(video)):
            say(f"{video}: {rate_note}")
        grid = source.grid(config.frame_rate)
        first, stop = max(grid.stretches, key=lambda stretch: stretch[1] - stretch[0])
        indices = first + validation_indices(stop - first, config.num_frames, config.sampling_stride)
        frames, fps = source.read(grid.picture_of[indices]), grid.fps / config.sampling_stride
    return reconstruct_clip(fit_frames(frames, config.img_size, config.frame_fit), model, mask_ratio, seed, fps)


@torch.inference_mode()
def reconstruct_clip(
    frames: np.ndarray, model: Model, mask_ratio: float | None = None, seed: int = 0, fps: float = 25.0
) -> Reconstruction:
    """As `reconstruct_video`, for a clip (T, H, W, 3) uint8 of the model's size; fps: frames of the clip per second."""
    if not isinstance(model, MaskedAutoencoder):
        task = model.config.task
        raise UserError(f"the model is for {task}; reconstruction needs a pre-training model (svfap pretrain)")
    config = model.eval().config
    if not 0 < config.num_masked_positions(mask_ratio) < config.num_positions:
        raise UserError(f"mask_ratio={mask_ratio}: masks none or all of the {config.num_positions} positions")
    clip = normalize(torch.from_numpy(frames)[None], config.pixel_mean, config.pixel_std)
    mask = tube_mask(1, config, mask_ratio, torch.Generator().manual_seed(seed))
    original, seen, filled = (_uint8(picture) for picture in model.show_masking(clip, mask))
    trivial = model.targets(clip, mask).square().mean().item()
    return Reconstruction(original, seen, filled, model.loss(clip, mask).item(), trivial, fps)


def _uint8(clip: torch.Tensor) -> np.ndarray:
    return (clip[0].permute(1, 2, 3, 0) * 255).round().byte().numpy()
