"""Typed settings of training runs. A YAML file and the command's flags fill the same fields; unknown names are errors."""

from __future__ import annotations

import os
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from svfap.errors import UserError
from svfap.formats import upgrade


@dataclass(kw_only=True)
class TrainConfig:
    """Settings that pre-training and fine-tuning share."""

    out: Path
    """Folder of this run: config, log, checkpoints, metrics."""
    manifest: Path | None = None
    """CSV of training videos: `path`, then `label` or one column per dimension, optional `subject`, `start_s`, …"""
    dataset: Path | None = None
    """Folder that `svfap prepare` wrote, in place of `manifest`: gives manifests, root, task, labels and stride."""
    fraction: float = 1.0
    """Use this part of the training videos, drawn by `seed`, stratified by class; a larger part holds the smaller ones.
    Fine-tuning then has fewer steps an epoch (Fig. 7); pre-training has as many as with all videos (Table 1)."""
    root: Path | None = None
    """Folder that the manifest's paths are relative to; default: the manifest's own."""
    split: str | None = None
    """Use only rows whose `split` column says this."""

    preset: str = "svfap_base"
    """Named model size; `svfap info` lists them."""
    model: dict[str, Any] = field(default_factory=dict)
    """Settings of the model that differ from the preset, such as img_size, num_frames, stage_depths."""
    sampling_stride: int | None = None
    """Frames from one sampled frame to the next; default: the dataset's, else 4."""

    epochs: int = 100
    warmup_epochs: float = 5
    batch_size: int = 96
    """Clips in one optimiser step, over all processes and accumulation steps."""
    repeats: int = 1
    """Clips of a batch drawn from each decoded video (repeated sampling)."""
    accumulate_steps: int = 1
    """Micro-batches per optimiser step, to fit memory; random draws differ with it, the learning rate does not."""
    base_lr: float = 1e-3
    """Peak learning rate for a batch of 256; the rate used is base_lr × batch_size / 256."""
    min_lr: float = 1e-6
    """Learning rate at the end of the cosine, scaled like base_lr."""
    weight_decay: float = 0.05
    betas: tuple[float, float] = (0.9, 0.999)
    clip_grad: float | None = None
    """Largest norm of the gradient; none by default, as published."""
    ema_decay: float | None = None
    """Keep a moving average of the weights with this decay, validate and save it as best/."""

    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """auto: bf16 where the hardware has it, else fp32."""
    compile: bool = False
    """Compile the model with torch.compile; worth it on a GPU."""
    seed: int = 0
    num_workers: int | None = None
    """Decoding processes per training process; default: one less than its share of the cores."""
    max_unreadable: float = 0.01
    """Stop when more than this part of the videos cannot be read."""
    save_every_steps: int | None = None
    """Write last/ every so many steps besides at every epoch's end."""

    def __post_init__(self) -> None:
        if not 0 < self.fraction <= 1:
            raise UserError(f"fraction={self.fraction}: must be above 0 and at most 1")
        self._require(1, "epochs", "batch_size", "repeats", "accumulate_steps", "sampling_stride", "save_every_steps")
        self._require(0, "num_workers", "seed", "base_lr", "min_lr", "weight_decay", "warmup_epochs", "max_unreadable")

    def _require(self, least: float, *names: str) -> None:
        for name in names:
            value = getattr(self, name)
            if value is not None and not value >= least:
                raise UserError(f"{name}={value}: must be at least {least}")

    def _require_part(self, *names: str) -> None:
        for name in names:
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"{name}={getattr(self, name)}: must be from 0 to 1")


@dataclass(kw_only=True)
class PretrainConfig(TrainConfig):
    """Masked autoencoding of unlabelled videos (Sec. III-A; recipe of Sec. IV-B)."""

    mask_ratio: float = 0.9
    """Part of the spatial positions hidden at all times."""
    epochs: int = 100
    batch_size: int = 256
    base_lr: float = 3e-4
    min_lr: float = 1e-5
    betas: tuple[float, float] = (0.9, 0.95)
    crop_scales: tuple[float, ...] = (1.0, 0.875, 0.75, 0.66)
    """Sides of the multi-scale crop, as parts of the frame's short side."""
    previews: int = 4
    """Clips of the fixed batch whose reconstruction is shown in TensorBoard."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require(0, "previews")
        if not 0 < self.mask_ratio < 1:
            raise UserError(f"mask_ratio={self.mask_ratio}: must lie between 0 and 1")
        if not self.crop_scales or not all(0 < scale <= 1 for scale in self.crop_scales):
            raise UserError(f"crop_scales={self.crop_scales}: must be parts of the frame, above 0 and at most 1")


@dataclass(kw_only=True)
class FinetuneConfig(TrainConfig):
    """Supervised training for classes or dimensions (Sec. III-C; recipe of Sec. IV-B)."""

    task: Literal["classification", "regression"] | None = None
    """Default: the dataset's, else classification."""
    fold: str | None = None
    """Which fold of `dataset`; default: its only one. `all` trains and tests every fold and pools their predictions."""
    init: str | None = None
    """Pre-trained weights: a run or model folder, a Hub name, or a checkpoint of the published code; none: from scratch."""
    label_names: list[str] | None = None
    """Classes in order; default: the names found in the manifest, sorted."""
    dimensions: list[str] | None = None
    """Columns to regress; default: every column that has no meaning of its own."""
    output_activation: Literal["none", "sigmoid", "tanh"] | None = None
    """What the head's values pass through; default: the dataset's, else none. Regression only."""
    frame_level: bool = False
    """One output per frame, learnt from the files of the manifest's `frame_values` column or cells of several numbers."""
    by_group: bool | None = None
    """Validate on groups, the clips' scores averaged; default: where validation has a column `group`."""

    val_manifest: Path | None = None
    """Videos that choose best/; default: `val_split` of the manifest, else a part carved from training."""
    val_split: str | None = None
    val_fraction: float = 0.1
    """Part of training carved for validation, by subject where known; 0: none, the last epoch counts."""

    layer_decay: float = 0.75
    layer_decay_rule: Literal["published", "depth"] = "published"
    """published: down-sampling layers train at the head's rate; depth: at that of the stage they open."""
    drop_path_rate: float = 0.1
    smoothing: float = 0.1
    """Label smoothing; classification only."""
    mixup: float | None = None
    """Parameter of mixup's Beta distribution, 0: none; default: 0.8 for classes, 0 for regression."""
    cutmix: float | None = None
    """The same of CutMix; default: 1.0 for classes, 0 for regression."""
    mix_switch: float = 0.5
    """Chance of cutmix where mixup is on as well."""
    rand_augment: bool = True
    """RandAugment: 4 operations, magnitude 7, deviation 0.5."""
    crop_scale: tuple[float, float] = (0.08, 1.0)
    """Area of the random resized crop, as a part of the frame."""
    flip_rate: float = 0.5
    erase_rate: float = 0.25

    loss: Literal["mse", "ccc", "pcc"] = "mse"
    """Of regression; ccc and pcc are 1 minus that score over each micro-batch of each process, so keep those large."""
    label_scaling: Literal["none", "standardize", "range"] = "none"
    """Of regression: learn standardised labels, or `label_range` mapped to the activation's; predictions keep the labels'
    units."""
    label_range: tuple[float, float] | None = None
    """Least and greatest value of the labels; default: the dataset's, else those found in training."""
    balanced_sampling: bool = False
    """Draw all classes equally often; an epoch stays as long. Not in the paper's recipes."""
    class_weights: Literal["none", "balanced"] = "none"
    """balanced: rare classes count more in the loss, in inverse proportion. Not in the paper's recipes."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require(0, "mixup", "cutmix")
        self._require_part("smoothing", "mix_switch", "flip_rate", "erase_rate", "layer_decay", "drop_path_rate")
        low, high = self.crop_scale
        if not 0 < low <= high <= 1:
            raise UserError(
                f"crop_scale={self.crop_scale}: must be two parts of the frame's area, the smaller one first"
            )
        if not 0 <= self.val_fraction < 1:
            raise UserError(f"val_fraction={self.val_fraction}: must be from 0 to less than 1")
        if self.label_range is not None and not self.label_range[0] < self.label_range[1]:
            raise UserError(f"label_range={self.label_range}: must be two numbers, the smaller one first")
        parts = self.accumulate_steps * int(os.environ.get("WORLD_SIZE", "1"))  # torchrun's number of processes
        if self.loss != "mse" and not self.frame_level and self.batch_size // parts < 2:
            raise UserError(f"loss={self.loss}: needs at least 2 clips in a micro-batch; make batch_size larger")


def read_settings_file(file: Path, known: Collection[str] | None = None) -> dict[str, Any]:
    """A YAML file of settings, a recipe or a run's `config.yaml`, with the names of today (see `svfap.formats`).

    known: names that it may hold; None leaves that to who uses them. Raises `UserError` naming the file.
    """
    import yaml
    from jsonargparse import get_loader

    try:
        words = get_loader("yaml")(file.read_text(encoding="utf-8"))  # unlike plain YAML's, its 1e-3 is a number
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise UserError(f"{file}: cannot be read as YAML ({' '.join(str(error).split())})") from None
    return upgrade("training settings", words, file, known)
