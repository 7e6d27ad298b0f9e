"""Supervised fine-tuning for classes or affect dimensions (Sec. III-C), on one split or on every fold of a dataset."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from numpy.typing import NDArray
from torch import Tensor

from svfap.console import say
from svfap.data import augment
from svfap.data.loader import BatchLoader, ClipDataset
from svfap.data.manifest import Manifest
from svfap.data.mixing import read_manifests, say_mixture
from svfap.data.prepared import fold_folder, read_dataset
from svfap.data.rand_augment import RandAugment
from svfap.data.split import carve_validation, take_fraction, units_of
from svfap.data.targets import all_targets, frame_dimensions, is_annotated, require_values
from svfap.device import send
from svfap.errors import UserError
from svfap.evaluation.config import EVALUATION_FOLDER, EvaluateConfig
from svfap.evaluation.evaluate import evaluate
from svfap.evaluation.pool import has_evaluation, is_evaluated, pool_evaluations, write_folds_file
from svfap.evaluation.predictions import score_predictions
from svfap.evaluation.views import predict_views, scored_by_group
from svfap.files import make_folder, only_writer
from svfap.metric_table import main_metric, metric_keys
from svfap.model.build import create_model
from svfap.train.config import FinetuneConfig
from svfap.train.contract import contract
from svfap.train.initial import start_from
from svfap.train.loop import Batch, TrainingTask, TrainResult, train
from svfap.train.losses import (
    ACTIVATION_RANGES,
    REGRESSION_LOSSES,
    annotated_only,
    balanced_weights,
    cross_entropy,
    label_scale,
)
from svfap.train.optim import parameter_groups
from svfap.train.parallel import run_all
from svfap.train.resolve import check_run, fold_configs, resolve
from svfap.train.run_folder import RunFolder
from svfap.train.trainable import Trainable
from svfap.weighted import described, weighted_paths


class FinetuneTask(TrainingTask):
    """Model, augmentation (Sec. IV-B), loss and validation of fine-tuning."""

    config: FinetuneConfig
    by_group = False

    def __init__(self, config: FinetuneConfig) -> None:
        self.config = config = resolve(config)
        assert config.task is not None
        everything, self.validation = read_parts(config)
        self.manifest = training = take_fraction(everything, config.fraction, config.seed)
        self.num_videos = len(training) + len(self.validation or ())
        if config.fraction < 1:
            say(f"training on {len(training)} of {len(everything)} videos")
        say_mixture(training, len(training))
        names = training.label_names if config.task == "classification" else training.dimensions
        assert names is not None
        settings: dict[str, Any] = {"num_outputs": len(names), "label_names": names}
        for name in ("output_activation", "frame_level", "drop_path_rate", "sampling_stride"):
            settings[name] = getattr(config, name)
        for part in (everything, self.validation):
            if part is not None:
                part.require_files()
        if config.task == "regression":
            values, activation = all_targets(training, config.frame_level), config.output_activation or "none"
            bounded = activation != "none" and config.label_scaling == "none"
            require_values(training, values, ACTIVATION_RANGES[activation] if bounded else None)
            if self.validation is not None:
                require_values(self.validation, all_targets(self.validation, config.frame_level))
            scaling = label_scale(values, config.label_scaling, activation, config.label_range, names)
            settings["output_scale"], settings["output_offset"] = scaling
        settings |= contract(config, training, finetuned_on=described(config.manifest), init=config.init)
        torch.manual_seed(config.seed)
        self.model = create_model(config.preset, config.task, **{**settings, **config.model})
        if config.init and not RunFolder(config).resumes():
            start_from(self.model, config.init)
        self.trainable = Trainable(self.model, config)
        self.unfreezes = config.unfreeze_every is not None
        if config.trainable != "all" or self.unfreezes:
            say(f"{self.trainable}")
            if not config.init:
                say("without `init` what is frozen keeps random weights")
        shape = self.model.config
        clips = (shape.num_frames, shape.sampling_stride, shape.img_size, config.seed)
        frames: dict[str, Any] = {"frame_level": shape.frame_level, "frame_fit": shape.frame_fit}
        frames |= {"fps": shape.frame_rate, "frames_fps": config.frames_fps, "cache_bytes": config.cache_bytes}
        self.dataset = ClipDataset(
            training, "train", *clips, repeats=config.repeats, balanced=config.balanced_sampling, **frames
        )
        # Both are moved to the device once.
        self.label_unit = torch.tensor(shape.output_scale or (1.0,))
        self.class_weights = None
        if config.class_weights == "balanced":
            counts = _drawn_counts(training, config.frame_level, len(names))
            self.class_weights = torch.from_numpy(balanced_weights(counts))
        if self.validation is not None:
            self.score = ("frame_" if config.frame_level else "") + main_metric(config.task)
            self.validation_clips = ClipDataset(self.validation, "val", *clips, **frames)
            self.by_group = scored_by_group(self.validation, shape, config.by_group)
        self.rand_augment = RandAugment() if config.rand_augment else None
        if (config.mixup or config.cutmix) and config.micro_batch_size == 1:
            say("mixup and cutmix need two clips in a micro-batch; with one clip, nothing is mixed")

    def parameter_groups(self) -> list[dict[str, Any]]:
        config = self.config
        return parameter_groups(self.model, config.weight_decay, config.layer_decay, config.layer_decay_rule)

    def begin_epoch(self, epoch: int) -> None:
        self.trainable.begin_epoch(epoch)

    def loss(self, model: Callable[..., Tensor], batch: Batch, generator: torch.Generator) -> Tensor:
        """Cross-entropy with soft targets (Eq. 12), or a regression loss (Eq. 13, 14), on augmented clips.

        Of frame-level models, over all annotated frames (mixed with another clip: annotated in both); zero without any.
        Regression losses are in units of the model's `output_scale`, so that gradients do not depend on the labels' units.
        CCC and PCC are computed over this micro-batch; with one readable clip they have no gradient.
        """
        config, shape = self.config, self.model.config
        clips = augment.to_levels(batch["clips"])
        if self.rand_augment:
            clips = self.rand_augment(clips, generator)
        clips = augment.standardize(clips, shape.pixel_mean, shape.pixel_std)
        clips = augment.random_resized_crop(clips, config.crop_scale, generator)
        clips = augment.flip(clips, config.flip_rate, generator)
        clips = augment.random_erase(clips, config.erase_rate, generator)
        targets = self._targets(batch)
        if config.task == "classification":
            one_hot = augment.smooth_one_hot(targets.flatten(), shape.num_outputs, config.smoothing)
            targets = one_hot.unflatten(0, targets.shape)
        assert config.mixup is not None and config.cutmix is not None  # resolved
        clips, targets = augment.mix(clips, targets, config.mixup, config.cutmix, config.mix_switch, generator)
        outputs, targets = (x.flatten(0, -2) for x in (model(clips).float(), targets))  # (clips or frames, outputs)
        weights = None
        if config.frame_level:
            outputs, targets, weights = annotated_only(outputs, targets)
        if config.task == "regression":
            self.label_unit = scale = send(self.label_unit, outputs.device)
            loss = REGRESSION_LOSSES[config.loss](outputs / scale, targets / scale, weights)  # Eq. 13, 14
        else:
            if self.class_weights is not None:
                self.class_weights = send(self.class_weights, outputs.device)
            loss = cross_entropy(outputs, targets, self.class_weights, weights)  # Eq. 12
        return loss if weights is None else loss * weights.amax()

    def count(self, batch: Batch) -> int:
        """The number of clips, or of frames that are annotated."""
        if not self.config.frame_level:
            return super().count(batch)
        return int(is_annotated(self._targets(batch).flatten(0, 1).numpy(force=True)).sum())

    def _targets(self, batch: Batch) -> Tensor:
        targets: Tensor = batch["values" if self.config.task == "regression" else "label"]
        return targets

    def validate(self, accelerator: Accelerator, model: Callable[..., Tensor], loader: BatchLoader) -> dict[str, Any]:
        """Metrics on the validation videos; empty without any. Raises `NotFinite`."""
        if self.validation_clips is None:
            return {}
        config, shape = self.config, self.model.config
        predictions = predict_views(model, shape, self.validation_clips, accelerator, config.batch_size, loader=loader)
        scores = score_predictions(predictions, self.by_group)
        if shape.frame_level:
            shown = metric_keys(config.task, summary=True)
            scores |= {f"frame_{name}": scores["frames"][name] for name in shown}
        return {**scores, "unreadable": dict(predictions.unreadable)}


def read_parts(config: FinetuneConfig) -> tuple[Manifest, Manifest | None]:
    """Training and validation videos, before `fraction` is taken: as given, else a part set aside by subject."""
    manifests = weighted_paths(config.manifest)
    columns: dict[str, Any] = dict(root=config.root, task=config.task, frame_level=config.frame_level)
    columns |= dict(label_names=config.label_names, dimensions=config.dimensions)
    columns |= dict(invalid_marks=config.invalid_marks, label_range=config.label_range)
    if config.frame_level and config.task == "regression" and not config.dimensions:
        columns["dimensions"] = frame_dimensions(read_manifests(manifests, **columns, split=config.split))
    training = read_manifests(manifests, **columns, split=config.split)
    if training.dimensions:
        say(f"dimensions: {', '.join(training.dimensions)}")
    if config.val_manifest is None and config.val_split is None:
        if config.val_fraction <= 0:
            say("no validation videos (val_fraction=0): best/ is the last epoch")
            return training, None
        units = units_of(training.table, training.root)
        training, validation = carve_validation(training, config.val_fraction, config.seed)
        how = f"validation: {len(validation)} videos carved from training's {len(training) + len(validation)}"
        say(f"{how}, by {units.kind}" if units.num < len(training) + len(validation) else how)
        return training, validation
    if config.val_manifest is None and config.split is None:
        raise UserError("`val_split` without `split`: training would hold the validation videos; give `split` as well")
    columns |= dict(label_names=training.label_names, dimensions=training.dimensions)
    validating = weighted_paths(config.val_manifest) or [each._replace(weight=None) for each in manifests]
    return training, read_manifests(validating, **columns, split=config.val_split)


def _drawn_counts(training: Manifest, frame_level: bool, num_classes: int) -> NDArray[np.float64]:
    """(num_classes,) how often each class is drawn: of a joined manifest with weights, by the shares of its manifests."""
    shares = None if training.mixture is None else training.mixture.shares
    if shares is None:
        return np.bincount(all_targets(training, frame_level), minlength=num_classes).astype(np.float64)
    counts = [np.bincount(all_targets(part, frame_level), minlength=num_classes) for part in training.parts]
    return np.asarray(sum(share * count / count.sum() for share, count in zip(shares, counts, strict=True)))


def finetune(config: FinetuneConfig) -> TrainResult:
    """Fine-tune (Sec. III-C), with fold="all" on every fold; see `svfap.train.loop.train`. Raises `UserError`."""
    check_run(config)
    if config.fold == "all":
        return finetune_folds(config)
    task = FinetuneTask(config)
    return train(task, task.config)


def finetune_folds(config: FinetuneConfig) -> TrainResult:
    """Fine-tune on every fold of `config.dataset`, test each on its test part, and pool the predictions.

    Each fold is a run in `out`/fold_<name> with its test in `evaluation/`. With `config.resume` finished folds are kept and
    interrupted ones continued. Writes `results.md`, `.csv`, `.tex` and `.json` into `out`. Raises `UserError`.
    """
    configs = fold_configs(config)
    assert isinstance(config.dataset, Path)
    dataset, out = read_dataset(config.dataset), Path(config.out)
    make_folder(out)
    with only_writer(out):
        write_folds_file(out, config.dataset, config.preset)
        if stopped_by := run_all(run_fold, configs, config.parallel):
            done = sum(has_evaluation(fold_folder(out, fold.name) / EVALUATION_FOLDER, fold) for fold in dataset.folds)
            finished = f"{done} of {len(configs)} folds are finished in {out}"
            say(f"stopped: {finished}; the same command with --resume goes on")
            return TrainResult(finished=False, stopped_by=stopped_by)
        pooled = pool_evaluations(out)
    return TrainResult(finished=True, metrics={"caption": pooled.caption, **pooled.numbers}, pooled=pooled)


def run_fold(config: FinetuneConfig) -> int:
    """Train one fold, or continue it, and test its best/ model. Raises `UserError`.

    Returns the number of the signal that interrupted it, else 0.
    """
    assert isinstance(config.dataset, Path) and config.fold is not None
    if stopped_by := finetune(replace(config, resume=True)).stopped_by:
        return stopped_by
    test = EvaluateConfig(
        model=str(config.out), dataset=config.dataset, fold=config.fold, root=config.root,
        num_workers=config.num_workers or 0, precision=config.precision, invalid_marks=config.invalid_marks,
        label_range=config.label_range, frames_fps=config.frames_fps,
    )  # fmt: skip
    if not is_evaluated(test):
        evaluate(test)
    return 0
