"""Supervised fine-tuning for classes or affect dimensions (Sec. III-C), on one split or on every fold of a dataset."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor

from svfap.console import counted, say
from svfap.data import augment
from svfap.data.clip_dataset import Batch, ClipDataset
from svfap.data.heads import NoLabels, read_heads
from svfap.data.loader import BatchLoader
from svfap.data.manifest import Manifest
from svfap.data.mixing import read_manifests, say_mixture
from svfap.data.prepared import fold_folder, read_dataset
from svfap.data.rand_augment import RandAugment
from svfap.data.split import carve_validation, take_fraction, units_of
from svfap.data.targets import frame_dimensions, labelled_rows
from svfap.errors import UserError
from svfap.evaluation.config import EVALUATION_FOLDER, EvaluateConfig
from svfap.evaluation.evaluate import evaluate
from svfap.evaluation.pool import has_evaluation, is_evaluated, pool_evaluations, write_folds_file
from svfap.evaluation.predictions import score_predictions
from svfap.evaluation.views import predict_heads, scored_by_group
from svfap.files import make_folder, only_writer
from svfap.head_settings import about_head
from svfap.metric_table import MEAN_SCORE, metric_keys, prefixed
from svfap.model.build import create_model
from svfap.model.config import Head as ModelHead
from svfap.model.perceiver import by_head
from svfap.train.config import FinetuneConfig
from svfap.train.contract import contract
from svfap.train.head import Head
from svfap.train.head_config import HeadConfig, head_configs
from svfap.train.initial import start_from
from svfap.train.loop import train
from svfap.train.optim import parameter_groups
from svfap.train.parallel import run_all
from svfap.train.resolve import check_run, fold_configs, resolve
from svfap.train.run_folder import RunFolder
from svfap.train.task import TrainingTask, TrainResult
from svfap.train.trainable import Trainable
from svfap.weighted import WeightedPath, named, weighted_paths


class FinetuneTask(TrainingTask):
    """Model, augmentation (Sec. IV-B), loss and validation of fine-tuning."""

    config: FinetuneConfig
    by_group: dict[str, bool]  # head -> whether its groups are scored

    def __init__(self, config: FinetuneConfig) -> None:
        self.config = config = resolve(config)
        everything, self.validation = read_parts(config)
        self.manifest = training = take_fraction(everything, config.fraction, config.seed)
        self.num_videos = len(training) + len(self.validation or ())
        if config.fraction < 1:
            say(f"training on {len(training):,} of {counted(len(everything), 'video')}")
        say_mixture(training, len(training))
        for part in (everything, self.validation):
            if part is not None:
                part.require_files()
        self.heads = [self._head(settings) for settings in head_configs(config)]
        self.loss_names = tuple(prefixed(head.name, "loss") for head in self.heads)
        settings: dict[str, Any] = {name: getattr(config, name) for name in ("drop_path_rate", "sampling_stride")}
        settings |= _outputs(self.heads)
        settings |= contract(config, training, finetuned_on=named(config.manifest), init=config.init)
        torch.manual_seed(config.seed)
        self.model = create_model(config.preset, settings.pop("task"), **{**settings, **config.model})
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
        frames |= {"frame_heads": [head.name for head in shape.heads if head.frame_level]}
        frames |= {"fps": shape.frame_rate, "frames_fps": config.frames_fps, "cache_bytes": config.cache_bytes}
        self.dataset = ClipDataset(
            training, "train", *clips, repeats=config.repeats, balanced=config.balanced_sampling, **frames
        )
        if self.validation is not None:
            chosen = next((head for head in self.heads if head.name in ("", config.best_by)), None)
            self.score = MEAN_SCORE if chosen is None else prefixed(chosen.name, chosen.score)
            self.validation_clips = ClipDataset(self.validation, "val", *clips, **frames)
            self.by_group = {
                head.name: scored_by_group(head.labelled(self.validation), shape.outputs[head.name], config.by_group)
                for head in self.heads
                if head.is_validated
            }
        self.rand_augment = RandAugment() if config.rand_augment else None
        if (config.mixup or config.cutmix) and config.micro_batch_size == 1:
            say("mixup and cutmix need two clips in a micro-batch; with one clip, nothing is mixed")

    def _head(self, settings: HeadConfig) -> Head:
        """One of the heads; with `best_by` of another one, the validation videos need no label of it."""
        name, validation = settings.name, self.validation and self.validation.of_head(settings.name)
        may_lack = self.config.best_by not in (None, name)
        if validation is not None and may_lack and not labelled_rows(validation, settings.config.frame_level).any():
            say(f"heads: {name}: is not validated, as no row of {validation.path} has a label of it")
            validation = None
        with about_head(name):
            return Head(settings, self.manifest.of_head(name), validation)

    def parameter_groups(self) -> list[dict[str, Any]]:
        config = self.config
        return parameter_groups(self.model, config.weight_decay, config.layer_decay, config.layer_decay_rule)

    def begin_epoch(self, epoch: int) -> None:
        self.trainable.begin_epoch(epoch)

    def losses(self, model: Callable[..., Any], batch: Batch, generator: torch.Generator) -> list[Tensor]:
        """The loss of each head, with its weight, on augmented clips; see `Head.loss`.

        Clips are mixed with their targets; where one of the two has no label, the mixed one has none.
        """
        config, shape = self.config, self.model.config
        clips = augment.to_levels(batch["clips"])
        if self.rand_augment:
            clips = self.rand_augment(clips, generator)
        clips = augment.standardize(clips, shape.pixel_mean, shape.pixel_std)
        clips = augment.random_resized_crop(clips, config.crop_scale, generator)
        clips = augment.flip(clips, config.flip_rate, generator)
        clips = augment.random_erase(clips, config.erase_rate, generator)
        targets = [head.soft_targets(batch) for head in self.heads]
        assert config.mixup is not None and config.cutmix is not None  # resolved
        clips, targets = augment.mix(clips, targets, config.mixup, config.cutmix, config.mix_switch, generator)
        outputs = by_head(model(clips))
        return [head.loss(outputs[head.name], each) for head, each in zip(self.heads, targets, strict=True)]

    def counts(self, batch: Batch) -> list[int]:
        """Of each head the number of clips, or of frames, that have a label."""
        return [head.count(batch) for head in self.heads]

    def validate(self, accelerator: Accelerator, model: Callable[..., Any], loader: BatchLoader) -> dict[str, Any]:
        """Metrics on the validation videos; empty without any. Raises `NotFinite`.

        Of several heads those of each, by HEAD/metric, and `mean_score`, the mean of their main metrics; with `best_by` of one,
        others without labels there have no metrics, and then there is no mean.
        """
        if self.validation_clips is None:
            return {}
        config, shape = self.config, self.model.config
        found = predict_heads(model, shape, self.validation_clips, accelerator, config.batch_size, loader=loader)
        validation: dict[str, Any] = {}
        validated = [head for head in self.heads if head.is_validated]
        for head in validated:
            scores = score_predictions(found[head.name], self.by_group[head.name])
            if head.config.frame_level:
                shown = metric_keys(head.task, summary=True)
                scores |= {f"frame_{name}": scores["frames"][name] for name in shown}
            validation |= {prefixed(head.name, name): score for name, score in scores.items()}
        if self.heads[0].name and validated == self.heads:
            validation[MEAN_SCORE] = float(
                np.mean([validation[prefixed(head.name, head.score)] for head in self.heads])
            )
        unreadable = {key: reason for each in found.values() for key, reason in each.unreadable.items()}
        return {**validation, "unreadable": unreadable}


def _outputs(heads: list[Head]) -> dict[str, Any]:
    """The fields of `ModelConfig`, and `task`, that describe the outputs of these heads."""
    number = sum(len(head.names) for head in heads)
    if not heads[0].name:
        return {"num_outputs": number, **heads[0].output}
    described = [ModelHead(head.name, label_column=head.settings.label_column, **head.output) for head in heads]
    return {"task": "multitask", "num_outputs": number, "heads": described}


def read_parts(config: FinetuneConfig) -> tuple[Manifest, Manifest | None]:
    """Training and validation videos, before `fraction` is taken: as given, else a part set aside by subject."""
    manifests = weighted_paths(config.manifest)
    heads = {head.name: head.columns for head in head_configs(config)}
    if "" in heads and config.frame_level and config.task == "regression" and not config.dimensions:
        read = _read(manifests, heads, config, config.split, heads)
        heads[""]["dimensions"] = frame_dimensions(read)
    training = _read(manifests, heads, config, config.split, heads)
    if training.dimensions:
        say(f"dimensions: {', '.join(training.dimensions)}")
    if config.val_manifest is None and config.val_split is None:
        if config.val_fraction <= 0:
            say("no validation videos (val_fraction=0): best/ is the last epoch")
            return training, None
        units = units_of(training.table, training.root)
        training, validation = carve_validation(training, config.val_fraction, config.seed)
        how = f"validation: {counted(len(validation), 'video')} carved from training's {len(training) + len(validation):,}"
        say(f"{how}, by {units.kind}" if units.num < len(training) + len(validation) else how)
        return training, validation
    if config.val_manifest is None and config.split is None:
        raise UserError("`val_split` without `split`: training would hold the validation videos; give `split` as well")
    for name, columns in heads.items():
        labels = training.of_head(name)
        columns |= dict(label_names=labels.label_names, dimensions=labels.dimensions)
    validating = weighted_paths(config.val_manifest) or [each._replace(weight=None) for each in manifests]
    try:
        required = heads if config.best_by is None else [config.best_by]
        return training, _read(validating, heads, config, config.val_split, required)
    except NoLabels as error:
        every = " of every head, or with `best_by` of that one alone" if config.best_by is None else " of this one"
        raise NoLabels(f"{error}. These are the validation videos, which need labels{every}") from None


def _read(
    manifests: list[WeightedPath],
    heads: dict[str, dict[str, Any]],
    config: FinetuneConfig,
    split: str | None,
    required: Collection[str],
) -> Manifest:
    """The videos with the labels of the only head, or of each of several. required: those that some video must have labels of."""
    if "" in heads:
        return read_manifests(manifests, **heads[""], root=config.root, split=split)
    return read_heads(manifests, heads, required, root=config.root, split=split)


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
