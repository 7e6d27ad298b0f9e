"""Before a run, without torch: fill in open settings, list the folds of a dataset, and check that the run can start."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from svfap.data.prepared import (
    PreparedDataset,
    fold_folder,
    read_dataset,
    require_dataset,
    require_manifest,
    warn_of_whole_frames,
)
from svfap.errors import UserError
from svfap.settings import require_weights
from svfap.train.config import FinetuneConfig, PretrainConfig, TrainConfig
from svfap.train.head_config import head_configs
from svfap.train.run_folder import RunFolder
from svfap.train.tracking import require_trackers
from svfap.weighted import WeightedPath, described, weighted_paths

C = TypeVar("C", bound=TrainConfig)
ONLY_FOR = {
    "regression": ("loss", "label_scaling", "label_range"),
    "classification": ("balanced_sampling", "class_weights"),
}


OWN = {"root", "manifest", "val_manifest", "val_fraction", "frame_level", "fold"}  # of each of several datasets
DIFFERING = {
    "task": "one run learns one task",
    "label_range": "bring the labels to one scale first, or give `label_range`",
    "label_names": "write the classes alike, or where a dataset lacks some give all as `label_names`",
    "dimensions": "name those to learn, which all must have, with `dimensions`",
}


def check_run(config: TrainConfig) -> None:
    """Raise `UserError` if a run cannot start, without importing torch.

    Checks that dataset, manifests, root and `init` exist, there or on the Hub, that the settings go with the dataset, and
    that `out` holds no other run; with fold="all", of every fold. A run that goes on from a checkpoint needs no `init`.
    """
    for folder, _ in weighted_paths(config.dataset):
        warn_of_whole_frames(folder)
    if isinstance(config, FinetuneConfig) and config.fold == "all":
        for fold in fold_configs(config):
            check_run(fold)
        return
    require_trackers(config.trackers)
    config = resolve(config)
    for name in ("manifest", "val_manifest"):
        for file, _ in weighted_paths(getattr(config, name, None)):
            require_manifest(name, file)
    if config.root is not None and not Path(config.root).is_dir():
        raise UserError(f"root={config.root}: no such folder")
    if isinstance(config, PretrainConfig) and config.probe_dataset is not None:
        require_dataset("probe_dataset", config.probe_dataset)
        probed = read_dataset(config.probe_dataset)
        if probed.task == "unlabelled":
            raise UserError(f"probe_dataset={config.probe_dataset}: {probed.title} has no labels to probe on")
    run, init = RunFolder(config), getattr(config, "init", None)
    if init and not run.resumes():
        fix = "pre-train first (`svfap pretrain`) or give other weights; --init null trains from scratch"
        require_weights(init, "init", fix)
    run.check()


def fold_configs(config: FinetuneConfig) -> list[FinetuneConfig]:
    """The run of each fold of `config.dataset`, in `out`/fold_<name>. Raises `UserError`."""
    if config.dataset is None:
        raise UserError("fold=all: give `dataset`, a folder of `svfap prepare`; its folds are trained one by one")
    if not isinstance(config.dataset, Path):
        raise UserError("fold=all: is for one dataset; of several, train each fold by itself, with its name as `fold`")
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UserError(
            "fold=all: start it without torchrun, it runs one process per GPU; or torchrun each fold by itself"
        )
    if config.heads:
        raise UserError(
            "fold=all: pools the predictions of one output; with `heads`, train each fold with its name as `fold`"
        )
    if config.val_manifest is not None:
        raise UserError("val_manifest: with fold=all each fold has its own validation part; leave `val_manifest` out")
    dataset = read_dataset(config.dataset).require_tests(config.dataset)
    configs = [
        replace(config, fold=fold.name, out=fold_folder(Path(config.out), fold.name), parallel=None, resume=True)
        for fold in dataset.folds
    ]
    begun = [str(fold.fold) for fold in configs if fold.out.exists()]
    if begun and not config.resume:
        raise UserError(
            f"out={config.out}: holds folds already ({', '.join(begun)}); --resume goes on, or choose another folder"
        )
    return configs


def resolve(config: C) -> C:
    """The config with `manifest` and every open setting filled in: from `dataset` if it is given, else by default.

    Settings that are given take precedence. Raises `UserError` if there are no videos to train on, if `fold` is missing,
    and for settings that do not go with the dataset or the task.
    """
    if config.manifest is None and config.dataset is None:
        raise UserError("give either `manifest` (a CSV of training videos) or `dataset` (a folder of `svfap prepare`)")
    if config.dataset is None:
        settings = _of_manifests(config)
    else:
        settings = _of_datasets(config, weighted_paths(config.dataset))
        # A resolved config, as a run's config.yaml stores it, has both.
        if config.manifest not in (None, settings["manifest"]):
            given, folders = described(config.manifest), described(config.dataset)
            raise UserError(f"manifest={given}: dataset={folders} gives the videos; leave one of them out")
    if isinstance(config, FinetuneConfig):
        settings |= _recipe(config, settings.get("task"))
    return replace(config, **settings)


def _of_manifests(config: TrainConfig) -> dict[str, Any]:
    settings: dict[str, Any] = {"sampling_stride": config.sampling_stride or 4}
    if isinstance(config, FinetuneConfig):
        if config.fold is not None:
            raise UserError(f"fold={config.fold}: folds come with a dataset; give `dataset` in place of `manifest`")
        if not config.heads:  # which say what labels are
            settings["task"] = config.task or "classification"
            settings["output_activation"] = config.output_activation or "none"
    return settings


def _of_datasets(config: TrainConfig, folders: list[WeightedPath]) -> dict[str, Any]:
    """What one dataset says, or several say alike."""
    found = [_of_dataset(config, folder, read_dataset(folder), len(folders) > 1) for folder, _ in folders]
    settings = dict(found[0])
    if len(found) == 1:
        return settings
    for name in (name for name in found[0] if name not in OWN):  # the task before its classes or dimensions
        for (folder, _), other in zip(folders, found, strict=True):
            if not _alike(name, settings[name], other.get(name)):
                says = f"{settings[name]} in {folders[0].path}, {other.get(name)} in {folder}"
                raise UserError(f"{name}: the datasets differ, {says}; {DIFFERING.get(name, f'give `{name}`')}")
    settings["root"] = config.root  # else each manifest has that of its dataset
    manifests = [WeightedPath(other["manifest"], weight) for other, (_, weight) in zip(found, folders, strict=True)]
    settings["manifest"] = [str(manifest) for manifest in manifests]
    if isinstance(config, FinetuneConfig):
        if not config.heads:
            settings["frame_level"] = any(other["frame_level"] for other in found)
        settings["fold"] = config.fold
        if not config.val_manifest:
            parts = [str(other["val_manifest"]) for other in found if other["val_manifest"]]
            settings["val_manifest"] = parts if len(parts) > 1 else Path(parts[0]) if parts else None
            settings["val_fraction"] = config.val_fraction if parts else 0.0
    return settings


def _alike(name: str, first: Any, other: Any) -> bool:
    """Whether two datasets say the same; classes and dimensions in any order."""
    return set(first) == set(other) if name in ("label_names", "dimensions") and first and other else first == other


def _of_dataset(config: TrainConfig, folder: Path, dataset: PreparedDataset, is_one_of_several: bool) -> dict[str, Any]:
    settings: dict[str, Any] = {
        "sampling_stride": config.sampling_stride or dataset.sampling_stride,
        "root": config.root or dataset.root,
    }
    if not isinstance(config, FinetuneConfig):
        if dataset.pretrain is None:
            raise UserError(f"{folder}: has no videos for pre-training; give `manifest` instead")
        return settings | {"manifest": dataset.pretrain}
    if dataset.task == "unlabelled":
        raise UserError(f"{folder}: {dataset.title} has no labels; it is for pre-training")
    if config.task not in (None, dataset.task):
        raise UserError(f"task={config.task}: {dataset.title} is for {dataset.task}")
    fold = dataset.fold(None if is_one_of_several and len(dataset.folds) == 1 else config.fold)
    if fold.val and not config.val_manifest and config.val_fraction == 0:
        raise UserError(
            f"val_fraction=0: {folder} has a validation part ({fold.val.name}), which chooses best/; to train on all, "
            "make the dataset with `svfap prepare … --validation none`"
        )
    settings |= {
        "manifest": fold.train,
        "val_manifest": config.val_manifest or fold.val,
        "val_fraction": config.val_fraction if fold.val or config.val_manifest else 0.0,
        "fold": fold.name,
    }
    if config.heads:  # which say what labels are
        return settings
    names = "label_names" if dataset.task == "classification" else "dimensions"
    return settings | {
        "task": dataset.task,
        "output_activation": config.output_activation or dataset.output_activation,
        "frame_level": config.frame_level or dataset.frame_level,
        "label_range": config.label_range or dataset.label_range,
        names: getattr(config, names) or list(dataset.label_names),
    }


def _recipe(config: FinetuneConfig, task: str | None) -> dict[str, Any]:
    """Defaults that depend on the task, or the tasks of all heads. Raises `UserError` for settings of the other task."""
    for other, names in ONLY_FOR.items():
        for name in names:
            if not config.heads and task != other and getattr(config, name) != getattr(FinetuneConfig, name):
                raise UserError(f"{name}={getattr(config, name)}: is for {other}")
    tasks = {head.config.task or task for head in head_configs(config)}
    mixup, cutmix = (0.8, 1.0) if tasks == {"classification"} else (0.0, 0.0)
    return {
        "mixup": mixup if config.mixup is None else config.mixup,
        "cutmix": cutmix if config.cutmix is None else config.cutmix,
    }
