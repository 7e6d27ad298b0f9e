"""Self-supervised pre-training: masked autoencoding of unlabelled videos (Sec. III-A)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor

from svfap.console import counted, say
from svfap.data.augment import normalize
from svfap.data.clip_dataset import Batch, ClipDataset
from svfap.data.mixing import read_manifests, say_mixture
from svfap.data.split import take_fraction
from svfap.device import Upload
from svfap.metric_table import metric_heading, metric_text
from svfap.model.base import Model
from svfap.model.build import create_model
from svfap.model.mae import MaskedAutoencoder
from svfap.model.masking import tube_mask
from svfap.probe.monitor import Monitor
from svfap.train.config import PretrainConfig
from svfap.train.contract import contract
from svfap.train.initial import start_from
from svfap.train.loop import train
from svfap.train.parallel import num_workers
from svfap.train.processes import processes_here
from svfap.train.resolve import check_run, resolve
from svfap.train.run_folder import RunFolder
from svfap.train.task import TrainingTask, TrainResult
from svfap.train.tracking import Picture
from svfap.weighted import named, weighted_paths


class PretrainTask(TrainingTask):
    """Model, data and loss of pre-training. There is no validation: best/ is the last epoch.

    With `fraction` an epoch still has as many clips as the manifest has videos, so that steps, schedule and cost do not
    change (Table 1): the fraction's videos are repeated in turn, each time with another clip and crop.
    """

    config: PretrainConfig
    model: MaskedAutoencoder

    def __init__(self, config: PretrainConfig) -> None:
        self.config = config = resolve(config)
        assert config.manifest is not None and config.sampling_stride is not None
        manifests = weighted_paths(config.manifest)
        everything = read_manifests(manifests, root=config.root, task="unlabelled", split=config.split)
        everything.require_files()
        self.manifest = take_fraction(everything, config.fraction, config.seed)
        self.num_videos = len(self.manifest)
        if config.fraction < 1:
            say(f"pre-training on {self.num_videos:,} of {counted(len(everything), 'video')}, at the cost of all")
        say_mixture(self.manifest, len(everything))
        torch.manual_seed(config.seed)
        settings = dict(sampling_stride=config.sampling_stride, mask_ratio=config.mask_ratio, target=config.target)
        origin = {"init": config.init} if config.init else {}
        settings |= contract(
            config, self.manifest, pretrained_on=named(config.manifest), epochs=config.epochs, **origin
        )
        model = create_model(config.preset, "pretraining", **{**settings, **config.model})
        assert isinstance(model, MaskedAutoencoder)
        if config.init and not RunFolder(config).resumes():
            start_from(model, config.init)
        self.model, shape = model, model.config
        repeated = self.manifest.subset(np.resize(np.arange(self.num_videos), len(everything)))
        clips = (shape.num_frames, shape.sampling_stride, shape.img_size, config.seed)
        self.dataset = ClipDataset(
            repeated, "pretrain", *clips, repeats=config.repeats, crop_scales=config.crop_scales,
            fps=shape.frame_rate, frames_fps=config.frames_fps, cache_bytes=config.cache_bytes,
        )  # fmt: skip
        self._preview: Batch | None = None
        self._monitor: Monitor | None = None

    def losses(self, model: Callable[..., Any], batch: Batch, generator: torch.Generator) -> list[Tensor]:
        """The loss of Eq. 11, for a mask drawn on the CPU, so that every device hides the same tubelets."""
        shape = self.model.config
        clips = normalize(batch["clips"], shape.pixel_mean, shape.pixel_std)
        mask = tube_mask(len(clips), shape, generator=generator).to(clips.device)
        return [self.model.loss(clips, mask, forward=model)]

    def probes_after(self, epoch: int) -> bool:
        every = self.config.probe_every
        return every is not None and (epoch % every == 0 or epoch == self.config.epochs)

    def probe(self, accelerator: Accelerator, model: Model, epoch: int) -> dict[str, float]:
        """Scores of `Monitor`; before the first step, of the untrained encoder, those of pixels and chance too."""
        config = self.config
        assert config.probe_dataset is not None
        if self._monitor is None:
            workers = num_workers(config.num_workers, processes_here())
            self._monitor = Monitor(
                config.probe_dataset, self.model.config, frames_fps=config.frames_fps, num_workers=workers
            )
        precision = "fp32" if accelerator.mixed_precision == "no" else accelerator.mixed_precision
        scores = self._monitor.measure(model.encoder, accelerator.device, precision, baselines=epoch == 0)
        key = next(name for name in scores if name.startswith("linear_last_")).removeprefix("linear_last_")
        shown = {name.removesuffix(f"_{key}"): value for name, value in scores.items() if name.endswith(f"_{key}")}
        names = {name: name.removesuffix("_labels").replace("_", " ") for name in shown}
        listed = ", ".join(f"{names[name]} {metric_text(key, value)}" for name, value in shown.items())
        say(f"probe {f'after epoch {epoch}' if epoch else 'of the untrained encoder'}: {metric_heading(key)}: {listed}")
        return scores

    def pictures(self, accelerator: Accelerator, model: Model) -> dict[str, Picture]:
        """Middle frames of the same few clips each time, side by side: original, masked, reconstructed."""
        assert isinstance(model, MaskedAutoencoder)
        if self._preview is None:
            items = [self.dataset[i] for i in range(min(self.config.previews, self.num_videos))]
            self._preview = Upload(accelerator.device)(self.dataset.collate(items))
        if not len(self._preview["clips"]):
            return {}
        shape = self.model.config
        clips = normalize(self._preview["clips"], shape.pixel_mean, shape.pixel_std)
        mask = tube_mask(len(clips), shape, generator=torch.Generator().manual_seed(0)).to(clips.device)
        with accelerator.autocast():
            pictures = model.show_masking(clips, mask)
        middle = shape.num_frames // 2
        columns = torch.cat([picture[:, :, middle] for picture in pictures], dim=2)  # three pictures below each other
        sheet = torch.cat(list(columns), dim=2).clamp(0, 1).mul(255).round().to(torch.uint8)
        return {"reconstruction": sheet.permute(1, 2, 0).numpy(force=True)}


def pretrain(config: PretrainConfig) -> TrainResult:
    """Pre-train by masked autoencoding (Sec. III-A); see `svfap.train.loop.train`. Raises `UserError`."""
    check_run(config)
    task = PretrainTask(config)
    return train(task, task.config)
