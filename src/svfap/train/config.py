"""Settings of training runs: fields of these dataclasses are the options of `svfap pretrain` and `svfap finetune`."""

from __future__ import annotations

import math
import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from svfap.console import counted
from svfap.errors import UserError
from svfap.formats import read_settings_file
from svfap.model.presets import check_model, model_config
from svfap.settings import (
    FramesSettings,
    Paths,
    SourceSettings,
    require,
    require_fraction,
    require_numbers,
    require_positive,
    require_rate,
    several,
)
from svfap.train.head_config import head_configs
from svfap.weighted import weighted_paths

TRACKERS = ("tensorboard", "wandb", "mlflow")


@dataclass(frozen=True, kw_only=True)
class TrainConfig(SourceSettings, FramesSettings):
    """Settings that pre-training and fine-tuning share."""

    read_file = staticmethod(read_settings_file)  # how --config reads YAML

    out: Path
    """Folder of this run: config, log, checkpoints, metrics."""
    resume: bool = False
    """Continue the run in `out` from its last checkpoint, if there is one."""
    manifest: Paths = None
    """CSV of training videos: `path`, then `label` or one column per dimension, optional `subject`, `start_s`, …; also one in a
    folder of `svfap pack`, or at its URL (s3://, hf://, …). Several are joined, as `--manifest a.csv b.csv`; with weights, as
    a.csv:2 b.csv:1, two thirds of the videos drawn are of the first, whatever their numbers, in epochs of the same length."""
    dataset: Paths = None
    """Folder of `svfap prepare` or `svfap pack`, or URL of packed data (s3://, hf://, …), in place of `manifest`: gives
    manifests, root, task, labels and stride. Several are joined, also with weights, as manifests are."""
    fraction: float = 1.0
    """Train on this fraction of the videos, drawn by `seed`, stratified by class; larger fractions include smaller ones.
    Fine-tuning then has fewer steps per epoch (Fig. 7); pre-training has as many as with all videos (Table 1)."""

    preset: str = "svfap_base"
    """Named model size; `svfap info` lists them."""
    model: dict[str, Any] = field(default_factory=dict)
    """Settings of the model that differ from the preset, such as img_size, num_frames, stage_depths."""
    sampling_stride: int | None = None
    """Distance between sampled frames, in frames of the video; default: the dataset's, else 4."""
    fps: float | None = None
    """Frames per second at which all videos are sampled, by time, so that clips span the same time in each of them and in
    every video that the model is applied to later: the model's config.json keeps the rate. Default: the rate that at least
    90% of the videos share; if none is shared, each video's own frames, and the model will not say its rate."""

    init: str | None = None
    """Weights to start from: a run or model folder, a Hub name, or a checkpoint of the published code, also of another picture
    size or clip length; default: from scratch. Pre-training continues with the decoder too, where it fits."""
    epochs: int = 100
    warmup_epochs: float = 5
    batch_size: int = 96
    """Clips per optimiser step, over all processes and accumulation steps."""
    repeats: int = 1
    """Clips drawn from each decoded video (repeated sampling)."""
    accumulate_steps: int = 1
    """Micro-batches per optimiser step, to save memory; changes the random draws, not the learning rate."""
    base_lr: float = 1e-3
    """Peak learning rate for a batch of 256; the rate used is base_lr × batch_size / 256."""
    min_lr: float = 1e-6
    """Learning rate at the end of the cosine, scaled like base_lr."""
    weight_decay: float = 0.05
    betas: tuple[float, float] = (0.9, 0.999)
    clip_grad: float | None = None
    """Clip the gradient's norm at this value; default: no clipping, as published."""
    ema_decay: float | None = None
    """Decay of an exponential moving average of the weights, which is then validated and saved as best/, as 0.999; default, and
    with 0: none."""

    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """auto: bf16 where the hardware is fast at it, else fp32."""
    compile: bool = False
    """Compile the model with torch.compile; pays off on a GPU, where one process replays its steps as CUDA graphs."""
    checkpoint_activations: bool = False
    """Keep only the inputs of each block for the backward pass, which computes the rest again: the same losses with less
    memory, for larger micro-batches, and about a third more work."""
    seed: int = 0
    num_workers: int | None = None
    """Decoding processes per training process; default: its share of the cores, less one."""
    cache_gb: float = 0.0
    """Memory for decoded videos, in GB, of each process that decodes: short videos are then decoded once and not once an
    epoch. 0: none."""
    max_unreadable: float = 0.01
    """Stop when more than this fraction of the videos cannot be read."""
    save_every_steps: int | None = None
    """Also write last/ every so many steps, not only after epochs (each, but of short ones at most one in 10 seconds)."""
    track: str | list[str] = field(default_factory=lambda: ["tensorboard"])
    """Where losses, rates, scores, settings and pictures go beside log.jsonl: tensorboard (files in `out`), wandb, mlflow (extras
    of these names). Several as `--track tensorboard wandb`; none as `--track []`."""
    track_project: str | None = None
    """Project of wandb, experiment of mlflow; default: WANDB_PROJECT and MLFLOW_EXPERIMENT_NAME, else svfap."""

    def __post_init__(self) -> None:
        if not 0 < self.fraction <= 1:
            raise UserError(f"fraction={self.fraction}: must be above 0 and at most 1")
        require(self, 1, "epochs", "batch_size", "repeats", "accumulate_steps", "sampling_stride", "save_every_steps")
        require(self, 0, "num_workers", "seed", "base_lr", "min_lr", "weight_decay", "warmup_epochs")
        require(self, 0, "max_unreadable", "cache_gb")
        require_fraction(self, "ema_decay", with_one=False)
        if not all(0 <= beta < 1 for beta in self.betas):
            raise UserError(f"betas={self.betas}: both must be from 0 to less than 1")
        require_positive(self, "clip_grad")
        require_rate(self, "fps", "frames_fps")
        chosen = several(self, "track", TRACKERS) if self.track else []
        object.__setattr__(self, "track", [name for name in TRACKERS if name in chosen])
        check_model(self.preset, self.model)

    @property
    def trackers(self) -> list[str]:
        """Names of the trackers."""
        return [self.track] if isinstance(self.track, str) else self.track

    @property
    def cache_bytes(self) -> int:
        """Memory for decoded videos of each process that decodes."""
        return int(self.cache_gb * 1e9)

    @property
    def micro_batch_size(self) -> int:
        """Clips of a micro-batch of one process."""
        return self.batch_size // (self.accumulate_steps * int(os.environ.get("WORLD_SIZE", "1")))  # of torchrun


@dataclass(frozen=True, kw_only=True)
class PretrainConfig(TrainConfig):
    """Masked autoencoding of unlabelled videos (Sec. III-A; recipe of Sec. IV-B)."""

    mask_ratio: float = 0.9
    """Fraction of the spatial positions that is hidden, at all times."""
    target: Literal["pixels", "difference"] = "pixels"
    """What is predicted of hidden tubelets: their standardised pixels, as published, or the difference of each frame to the one
    before, so that features hold what moves."""
    epochs: int = 100
    batch_size: int = 256
    base_lr: float = 3e-4
    min_lr: float = 1e-5
    betas: tuple[float, float] = (0.9, 0.95)
    crop_scales: tuple[float, ...] = (1.0, 0.875, 0.75, 0.66)
    """Sides of the multi-scale crop (Fig. 3), as fractions of the frame's shorter side."""
    previews: int = 4
    """Clips whose reconstruction goes to the trackers (`track`) after each epoch."""
    probe_every: int | None = None
    """Probe the encoder before the first step, after every so many epochs and after the last: what linear and nearest-neighbour
    readers find in its frozen features goes into the log and the trackers, beside what is in pixels and chance, and changes
    nothing in the training. Needs `probe_dataset`."""
    probe_dataset: Path | None = None
    """Folder of `svfap prepare` or `svfap pack` with labels, or URL of packed data: its train part fits the readers, its val part
    is scored (else people of the train part that are held out); its test part is not read."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self, 0, "previews")
        require(self, 1, "probe_every")
        if self.probe_every is not None and self.probe_every > self.epochs:
            raise UserError(f"probe_every={self.probe_every}: there are only {self.epochs} epochs; give fewer")
        if (self.probe_every is None) != (self.probe_dataset is None):
            raise UserError("give `probe_every` (epochs) and `probe_dataset` (a folder of `svfap prepare`) together")
        if not 0 < self.mask_ratio < 1:
            raise UserError(f"mask_ratio={self.mask_ratio}: must lie between 0 and 1")
        if not self.crop_scales or not all(0 < scale <= 1 for scale in self.crop_scales):
            raise UserError(f"crop_scales={self.crop_scales}: must be fractions of the frame, above 0 and at most 1")
        model_config(self.preset, "pretraining", **self.model)  # checks that all sizes fit


@dataclass(frozen=True, kw_only=True)
class FinetuneConfig(TrainConfig):
    """Supervised training for classes or dimensions (Sec. III-C; recipe of Sec. IV-B)."""

    task: Literal["classification", "regression"] | None = None
    """Default: the dataset's, else classification."""
    fold: str | None = None
    """Fold of `dataset`; default: its only one. `all` trains and tests every fold and pools their predictions. Of several
    datasets it is that of each that has more than one."""
    parallel: int | None = None
    """Folds trained at a time with fold=all, one process each; default: one per GPU."""
    label_names: list[str] | None = None
    """Classes in order; default: the names found in the manifest, sorted. Several manifests have the same classes, unless they
    are given here: one may then lack some."""
    dimensions: list[str] | None = None
    """Columns to regress; default: all columns except those with another meaning, such as path or subject."""
    output_activation: Literal["none", "sigmoid", "tanh"] | None = None
    """Function applied to the head's values; default: the dataset's, else none. Regression only."""
    frame_level: bool = False
    """One output per frame, learned from the files in the manifest's `frame_values` column or cells of several numbers."""
    heads: dict[str, Any] = field(default_factory=dict)
    """Several outputs, each with a name: `{expression: {task: classification}, affect: {task: regression, dimensions: [valence,
    arousal], weight: 0.5}}`. Each has a task, the weight of its loss, and what `label_column`, `label_names`, `dimensions`,
    `frame_level`, `output_activation`, `loss`, `label_scaling`, `label_range`, `class_weights`, `smoothing` and
    `invalid_marks` are of a run with one. Rows of manifests may lack the labels of some heads. Default: one output."""
    best_by: str | None = None
    """Head whose validation score chooses best/; default: the mean of the scores of all."""
    by_group: bool | None = None
    """Validate per group, on its clips' average scores; default: where the validation videos have a column `group`."""

    val_manifest: Paths = None
    """Videos that choose best/, packed or not, one manifest or several, each video once; default: `val_split` of the manifest,
    else a part of the training videos."""
    val_split: str | None = None
    """Value of the `split` column that marks the validation videos; needs `split` for the training videos."""
    val_fraction: float = 0.1
    """Fraction of the training videos set aside for validation, by subject where known; 0: none, best/ is the last epoch."""

    trainable: str = "all"
    """What is trained: all; head: the head with the norm before it, on the frozen encoder; last:N: the head and the last N
    blocks; lora: the head, and low-rank adapters beside the frozen layers of every block, which are merged into these when a
    model is saved (extra `lora`)."""
    lora_rank: int = 8
    """Rank of the adapters, with trainable=lora."""
    lora_alpha: float | None = None
    """Their outputs are multiplied by lora_alpha / lora_rank; default: twice the rank."""
    unfreeze_every: int | None = None
    """Begin with the head alone, and let the next deeper layer join after each so many epochs, until all that `trainable` names
    are trained, which must be before the last epoch; default: all from the first step on."""
    layer_decay: float = 0.75
    """Learning rate of each layer relative to the next deeper one."""
    layer_decay_rule: Literal["published", "depth"] = "published"
    """published: down-sampling layers have the head's learning rate; depth: that of their stage's first block."""
    drop_path_rate: float = 0.1
    """Stochastic depth: highest rate of dropping a residual branch, in the last block."""
    smoothing: float = 0.1
    """Label smoothing; classification only."""
    mixup: float | None = None
    """Parameter of mixup's Beta distribution, 0: no mixup; default: 0.8 for classification, 0 for regression, also of a head."""
    cutmix: float | None = None
    """The same for CutMix; default: 1.0 for classification, 0 for regression."""
    mix_switch: float = 0.5
    """Probability of CutMix rather than mixup where both are on."""
    rand_augment: bool = True
    """RandAugment, before the crop: 4 operations, magnitude 7, deviation 0.5."""
    crop_scale: tuple[float, float] = (0.08, 1.0)
    """Area of the random resized crop, as fractions of the frame."""
    flip_rate: float = 0.5
    """Probability of a horizontal flip."""
    erase_rate: float = 0.25
    """Probability of random erasing."""

    loss: Literal["mse", "ccc", "pcc"] = "mse"
    """For regression; ccc and pcc are 1 minus that score over each micro-batch of each process, so keep micro-batches large."""
    label_scaling: Literal["none", "standardize", "range"] = "none"
    """For regression: learn standardised labels, or `label_range` mapped to the range of the activation; predictions keep
    the labels' units."""
    label_range: tuple[float, float] | None = None
    """Lowest and highest value of the labels; default: the dataset's, else those of the training videos. Frames with a value
    outside are not annotated: loss and scores leave them out."""
    invalid_marks: list[float] = field(default_factory=list)
    """Numbers that mean "not annotated" in labels of frames, as [-5] in Aff-Wild2; loss and scores leave these frames out.
    An empty cell and the class -1 always mean it."""
    balanced_sampling: bool = False
    """Draw all classes equally often, in epochs of the same length. Not in the paper's recipes."""
    class_weights: Literal["none", "balanced"] = "none"
    """balanced: weight classes in the loss inversely to their frequency. Not in the paper's recipes."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self, 0, "mixup", "cutmix")
        require_numbers(self, "invalid_marks")
        require_fraction(self, "mix_switch", "flip_rate", "erase_rate", "layer_decay")
        require_fraction(self, "smoothing", "drop_path_rate", with_one=False)
        require_positive(self, "layer_decay")  # at 0 the head alone would learn, which trainable=head says
        if self.parallel is not None and (self.fold != "all" or self.parallel < 1):
            raise UserError(
                f"parallel={self.parallel}: is the number of folds at a time, at least 1; goes with --fold all"
            )
        low, high = self.crop_scale
        if not 0 < low <= high <= 1:
            raise UserError(
                f"crop_scale={self.crop_scale}: must be two fractions of the frame's area, the smaller one first"
            )
        if weights := [each for each in weighted_paths(self.val_manifest) if each.weight is not None]:
            raise UserError(
                f"val_manifest={weights[0]}: every video of validation counts once; give {weights[0].path} without a weight"
            )
        if not 0 <= self.val_fraction < 1:
            raise UserError(f"val_fraction={self.val_fraction}: must be from 0 to less than 1")
        if self.label_range is not None and not self.label_range[0] < self.label_range[1]:
            raise UserError(f"label_range={self.label_range}: must be two numbers, the smaller one first")
        self._check_trainable()
        heads = head_configs(self)
        if not any(head.weight for head in heads):
            raise UserError("heads: all weights are 0, so nothing would be learned; give a head a weight above 0")
        if self.best_by is not None and self.best_by not in [head.name for head in heads if head.name]:
            known = ", ".join(self.heads) or "none"
            raise UserError(f"best_by={self.best_by}: is the name of one of `heads`; there are {known}")
        if self.loss != "mse" and not self.frame_level and self.micro_batch_size < 2:
            raise UserError(f"loss={self.loss}: needs at least 2 clips in a micro-batch; make `batch_size` larger")

    def _check_trainable(self) -> None:
        require(self, 1, "lora_rank", "unfreeze_every")
        if self.trainable not in ("all", "head", "lora"):
            blocks = self._num_blocks
            if not re.fullmatch(r"last:0*[1-9]\d*", self.trainable) or self.trained_blocks > blocks:
                fix = f"must be all, head, lora, or last:N with N from 1 to {blocks}, as last:{min(4, blocks)}"
                raise UserError(f"trainable={self.trainable}: {fix}")
        for name in ("lora_rank", "lora_alpha"):
            if self.trainable != "lora" and (value := getattr(self, name)) != getattr(FinetuneConfig, name):
                raise UserError(f"{name}={value}: is of adapters, which come with trainable=lora")
        if self.trainable == "lora" and self.lora_rank > (width := self._narrowest):
            raise UserError(
                f"lora_rank={self.lora_rank}: must be at most {width}, the smallest size of the adapted layers: "
                "no change of their weights has a higher rank"
            )
        if self.lora_alpha is not None and not 0 < self.lora_alpha < math.inf:
            raise UserError(f"lora_alpha={self.lora_alpha}: must be a number above 0")
        if self.unfreeze_every is not None and self.trainable == "head":
            raise UserError(
                f"unfreeze_every={self.unfreeze_every}: trainable=head has nothing to unfreeze; leave one out"
            )
        if self.unfreeze_every is not None and self.compile:
            raise UserError(f"unfreeze_every={self.unfreeze_every}: compile=true wants the same layers; leave one out")
        if self.unfreeze_every is not None:
            self._check_unfreezing(self.unfreeze_every)

    def _check_unfreezing(self, every: int) -> None:
        """Raise `UserError` unless all layers join within the epochs of the run."""
        layers = self._num_blocks if self.trainable == "lora" else self.trained_blocks
        if (joining := (self.epochs - 1) // every) >= layers:
            return
        fits = (self.epochs - 1) // layers
        fix = f"unfreeze_every={fits}" if fits else f"epochs={layers + 1} and unfreeze_every=1"
        fix += "" if self.trainable == "lora" or not joining else f", or with trainable=last:{joining}"
        raise UserError(
            f"unfreeze_every={every}: in {counted(self.epochs, 'epoch')} only {joining} of the {layers} layers below the head "
            f"would join; all do with {fix}"
        )

    @property
    def trained_blocks(self) -> int:
        """The number of last blocks whose own parameters are trained; with `all` the embedding counts as one more."""
        if self.trainable == "all":
            return 1 + self._num_blocks
        return int(self.trainable.removeprefix("last:")) if self.trainable.startswith("last:") else 0

    @property
    def _num_blocks(self) -> int:
        return sum(model_config(self.preset, "features", **self.model).stage_depths)

    @property
    def _narrowest(self) -> int:
        """Smallest input or output of the linear layers of attention and feed-forward."""
        shape = model_config(self.preset, "features", **self.model)
        return min(shape.embed_dim, int(shape.embed_dim * shape.mlp_ratio))
