"""Settings that a prepared dataset gives, put in their places."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, TypeVar

from svfap.data.prepared import PreparedDataset, read_dataset
from svfap.errors import UserError
from svfap.train.config import FinetuneConfig, TrainConfig

C = TypeVar("C", bound=TrainConfig)


def resolve(config: C) -> C:
    """The config with `manifest` and every setting left open filled in: from `dataset` where it is given, else by default.

    What the config says itself wins. Raises `UserError` where there are no videos to train on, or the fold is not said.
    """
    if config.manifest is None and config.dataset is None:
        raise UserError("give either manifest (a CSV of training videos) or dataset (a folder of `svfap prepare`)")
    dataset = read_dataset(config.dataset) if config.dataset is not None else None
    words: dict[str, Any] = {}
    if dataset is not None:
        words["root"] = config.root or dataset.root
        words["sampling_stride"] = config.sampling_stride or dataset.sampling_stride
    else:
        words["sampling_stride"] = config.sampling_stride or 4
    if isinstance(config, FinetuneConfig):
        words |= _finetuning(config, dataset)
        words |= _recipe(config, words["task"])
    elif dataset is not None:
        if dataset.pretrain is None:
            raise UserError(f"{config.dataset}: has no videos for pre-training; give manifest instead")
        words["manifest"] = dataset.pretrain
    # A resolved config, as a run's folder keeps it, holds both.
    if dataset is not None and config.manifest not in (None, words["manifest"]):
        raise UserError(f"manifest={config.manifest}: dataset={config.dataset} gives the videos; leave one of them out")
    return replace(config, **words)


def _finetuning(config: FinetuneConfig, dataset: PreparedDataset | None) -> dict[str, Any]:
    if dataset is None:
        if config.fold is not None:
            raise UserError(f"fold={config.fold}: folds come with a dataset; give dataset in place of manifest")
        return {"task": config.task or "classification", "output_activation": config.output_activation or "none"}
    if dataset.task == "unlabelled":
        raise UserError(f"{config.dataset}: {dataset.title} has no labels; it is for pre-training")
    if config.task not in (None, dataset.task):
        raise UserError(f"task={config.task}: {dataset.title} is for {dataset.task}")
    fold = dataset.fold(config.fold)
    if fold.val and not config.val_manifest and config.val_fraction == 0:
        raise UserError(
            f"val_fraction=0: {config.dataset} has a validation part ({fold.val.name}), which chooses best/; to train on all, "
            "make the dataset with `svfap prepare … --validation none`"
        )
    names = "label_names" if dataset.task == "classification" else "dimensions"
    return {
        "manifest": fold.train,
        "val_manifest": config.val_manifest or fold.val,
        "val_fraction": config.val_fraction if fold.val or config.val_manifest else 0.0,
        "task": dataset.task,
        "output_activation": config.output_activation or dataset.output_activation,
        "frame_level": config.frame_level or dataset.frame_level,
        "label_range": config.label_range or dataset.label_range,
        names: getattr(config, names) or list(dataset.label_names),
        "fold": fold.name,
    }


def _recipe(config: FinetuneConfig, task: str) -> dict[str, Any]:
    """What the task decides. Raises `UserError` for settings that are for the other one."""
    classes = task == "classification"
    for name, default in (
        (("loss", "mse"), ("label_scaling", "none"), ("label_range", None))
        if classes
        else (("balanced_sampling", False), ("class_weights", "none"))
    ):
        if getattr(config, name) != default:
            raise UserError(f"{name}={getattr(config, name)}: is for {'regression' if classes else 'classification'}")
    mixup, cutmix = (0.8, 1.0) if classes else (0.0, 0.0)
    return {
        "mixup": mixup if config.mixup is None else config.mixup,
        "cutmix": cutmix if config.cutmix is None else config.cutmix,
    }
