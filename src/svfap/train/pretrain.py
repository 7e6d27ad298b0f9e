"""Self-supervised pre-training: mask, reconstruct, measure on what was hidden (Sec. III-A)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor
from torch.utils.data import Subset
from torch.utils.tensorboard import SummaryWriter

from svfap.console import console
from svfap.data.augment import normalize
from svfap.data.loader import ClipDataset
from svfap.data.manifest import read_manifest
from svfap.data.split import take_fraction
from svfap.model.build import create_model
from svfap.model.mae import MaskedAutoencoder
from svfap.model.masking import tube_mask
from svfap.train.config import PretrainConfig
from svfap.train.loop import Batch, to_device, train
from svfap.train.optim import parameter_groups
from svfap.train.resolve import resolve


class PretrainTask:
    """Masked autoencoding of a manifest's videos; has no validation, the last epoch counts.

    With `fraction` an epoch has as many clips as the whole manifest has videos, so steps, schedule and cost stay the same
    (Table 1): the videos of the part come in turn until there are as many, each time with another clip and crop.
    """

    score: str | None = None

    def __init__(self, config: PretrainConfig) -> None:
        self.config = config = resolve(config)
        assert config.manifest is not None and config.sampling_stride is not None
        everything = read_manifest(config.manifest, root=config.root, task="unlabelled", split=config.split)
        self.manifest = take_fraction(everything, config.fraction, config.seed)
        if config.fraction < 1:
            console.print(f"pre-training on {len(self.manifest)} of {len(everything)} videos, at the cost of all")
        torch.manual_seed(config.seed)
        words = {"sampling_stride": config.sampling_stride, "mask_ratio": config.mask_ratio, **config.model}
        provenance = {"pretrained_on": str(config.manifest), "num_videos": len(self.manifest), "epochs": config.epochs}
        provenance |= {"fraction": config.fraction, "seed": config.seed}
        model = create_model(config.preset, "pretraining", **{"provenance": provenance, **words})
        assert isinstance(model, MaskedAutoencoder)
        self.model = model
        shape = self.model.config
        self.dataset = ClipDataset(
            self.manifest.subset(np.resize(np.arange(len(self.manifest)), len(everything))),
            "pretrain",
            shape.num_frames,
            shape.sampling_stride,
            shape.img_size,
            config.seed,
            repeats=config.repeats,
            crop_scales=config.crop_scales,
        )
        self._preview: Batch | None = None

    @property
    def num_videos(self) -> int:
        return len(self.manifest)

    def parameter_groups(self) -> list[dict[str, Any]]:
        return parameter_groups(self.model, self.config.weight_decay, layer_decay=1.0)

    def loss(self, model: Callable[..., Tensor], batch: Batch, generator: torch.Generator) -> Tensor:
        """Mean squared error on hidden tubelets (Eq. 11); the mask is drawn on the CPU, the same for every device."""
        shape = self.model.config
        clips = normalize(batch["clips"], shape.pixel_mean, shape.pixel_std)
        mask = tube_mask(len(clips), shape, generator=generator).to(clips.device)
        return self.model.loss(clips, mask, forward=model)

    def validate(self, accelerator: Accelerator, model: Callable[..., Tensor]) -> dict[str, Any]:
        return {}

    def show(self, writer: SummaryWriter, accelerator: Accelerator, step: int) -> None:
        """Original, masked and reconstructed middle frames of a few fixed clips."""
        if self._preview is None:
            count = min(self.config.previews, self.num_videos)
            if count == 0:
                return
            fixed = Subset(self.dataset, range(count))
            self._preview = to_device(self.dataset.collate([fixed[i] for i in range(count)]), accelerator.device)
        if not len(self._preview["clips"]):
            return
        shape = self.model.config
        clips = normalize(self._preview["clips"], shape.pixel_mean, shape.pixel_std)
        mask = tube_mask(len(clips), shape, generator=torch.Generator().manual_seed(0)).to(clips.device)
        with accelerator.autocast():
            pictures = self.model.show_masking(clips, mask)
        middle = shape.num_frames // 2
        rows = torch.cat([picture[:, :, middle] for picture in pictures], dim=2)  # three pictures below each other
        writer.add_images("reconstruction", rows, step)


def pretrain(config: PretrainConfig, resume: bool = False) -> dict[str, Any]:
    """Pre-train as `config` says; see `svfap.train.loop.train`."""
    task = PretrainTask(config)
    return train(task, task.config, resume)
