"""Multi-view testing (Sec. IV-B): run the views of every video through a model, and average the outputs of each video."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, cast

import numpy as np
import pandas as pd
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor

from svfap.console import track
from svfap.data.augment import normalize
from svfap.data.clip_dataset import ClipDataset, target_key
from svfap.data.loader import BatchLoader, make_loader
from svfap.data.manifest import Manifest
from svfap.data.targets import is_annotated
from svfap.errors import NotFinite, UserError
from svfap.evaluation.metrics import average_views
from svfap.evaluation.predictions import EvaluationPredictions, predictions_table
from svfap.metric_table import SupervisedTask
from svfap.model.config import ModelConfig
from svfap.model.perceiver import by_head

Reader = Callable[[Tensor], tuple[Any, Tensor]]  # clips -> outputs, of a model with one head a tensor, and features


class View(NamedTuple):
    """The outputs for one view of a video; those of frame-level models have an axis of T frames in front."""

    row: int  # of the manifest
    outputs: np.ndarray  # (K,) or (T, K)
    targets: np.ndarray  # () or (K,); (T,) or (T, K)
    frames: np.ndarray  # (T,) numbers of the frames in the video
    weight: int  # the number of views that coincide in this one
    features: np.ndarray | None  # (D,)


def reader_of(read: Reader, sums: Tensor, flip: bool, task: str) -> Reader:
    """Outputs of a model for other classes or in another order, and averaged with those of the mirrored clips.

    sums: (outputs, K) of 0 and 1: what counts for each. Probabilities are averaged and summed; those of classes then sum to 1.
    """

    def mapped(clips: Tensor) -> tuple[Tensor, Tensor]:
        found = [read(each) for each in ((clips, clips.flip(-1)) if flip else (clips,))]
        outputs = torch.stack([outputs.float() for outputs, _ in found])
        features = torch.stack([features for _, features in found]).mean(dim=0)
        if task != "classification":
            return _summed(outputs.mean(dim=0), sums), features
        summed = _summed(outputs.softmax(dim=-1).mean(dim=0), sums)
        return summed.clamp(min=torch.finfo(summed.dtype).tiny).log(), features

    return mapped


def _summed(outputs: Tensor, sums: Tensor) -> Tensor:
    """outputs (..., K) @ sums (K, L) in float32, also within autocast, which would round the product."""
    with torch.autocast(outputs.device.type, enabled=False):
        return outputs.float() @ sums


@torch.inference_mode()
def predict_heads(
    model: Callable[[Tensor], Any],
    config: ModelConfig,
    dataset: ClipDataset,
    accelerator: Accelerator,
    batch_size: int,
    num_workers: int = 0,
    description: str | None = None,
    loader: BatchLoader | None = None,
) -> dict[str, EvaluationPredictions]:
    """Run all views of a dataset through a model, each video on exactly one process, and average the views of each video.

    A view stands for all that coincide with it, and counts as many times.

    model: maps clips (B, 3, T, H, W) to outputs (B, K), or (B, T, K) of frame-level models, or to outputs and features
    (B, D). Outputs of several heads come by their names, and so do their predictions, '' being the only head. Classification
    outputs are averaged after the softmax. The output of a frame-level model for a video is the mean
    over its annotated frames; its truth is the most frequent label or the mean of the values. Frames that are not annotated
    are left out, and so are videos without any other, or without a label of the head. batch_size: videos over all processes.
    description: of the progress bar; None shows none. loader: has workers for this dataset; in place of num_workers.
    Raises `NotFinite`, on every process, if an output is NaN or infinite.
    """
    size = max(batch_size // accelerator.num_processes, 1)
    order = {"shuffle": False, "seed": 0, "rank": accelerator.process_index, "world_size": accelerator.num_processes}
    if loader is not None:
        loaded = loader.batches(dataset, size, **order)
    else:
        pin_memory = accelerator.device.type == "cuda"
        loaded = make_loader(dataset, size, num_workers=num_workers, pin_memory=pin_memory, **order)
    shapes = config.outputs
    views: dict[str, list[View]] = {name: [] for name in shapes}
    unreadable: list[tuple[str, str]] = []
    batches = track(loaded, description) if description and accelerator.is_main_process else loaded
    for batch in batches:
        unreadable += [(key, reason) for _, key, reason in batch["unreadable"]]
        if not len(batch["clips"]):
            continue
        clips = normalize(batch["clips"].to(accelerator.device, non_blocking=True), config.pixel_mean, config.pixel_std)
        with accelerator.autocast():
            result = model(clips)
        outputs, features = result if isinstance(result, tuple) else (result, None)
        vectors = [None] * len(clips) if features is None else features.float().cpu().numpy()
        for name, values in by_head(outputs).items():
            task = shapes[name].task
            values = values.float().softmax(dim=-1) if task == "classification" else values.float()
            targets = batch[target_key(name, task)]
            arrays = (values.cpu().double().numpy(), targets.numpy(), batch["frames"].numpy(), batch["views"].tolist())
            views[name] += [View(*view) for view in zip(batch["index"].tolist(), *arrays, vectors, strict=True)]
    if accelerator.num_processes > 1:
        views = {name: gather_object(views[name]) for name in shapes}
        unreadable = gather_object(unreadable)
    if not all(np.isfinite(view.outputs).all() for each in views.values() for view in each):
        raise NotFinite(
            f"{dataset.manifest.path}: outputs of the model are NaN or infinite; if they are with precision=fp32 too, its "
            "training has diverged"
        )
    return {
        name: _average(views[name], dict(unreadable), dataset.manifest.of_head(name), shape)
        for name, shape in shapes.items()
    }


def _average(
    views: list[View], unreadable: dict[str, str], manifest: Manifest, config: ModelConfig
) -> EvaluationPredictions:
    """Average the views of each frame, if the model is frame-level, and then of each video."""
    task, names = cast(SupervisedTask, config.task), config.label_names
    num_expected = len(manifest)
    if config.frame_level or manifest.partial:
        of_frames = [view.targets if config.frame_level else view.targets[None] for view in views]
        annotated = {view.row for view, targets in zip(views, of_frames, strict=True) if is_annotated(targets).any()}
        num_expected -= len({view.row for view in views} - annotated)
        views = [view for view in views if view.row in annotated]
    left_out: dict[str, Any] = {"unreadable": unreadable, "num_unannotated": len(manifest) - num_expected}
    left_out["source"] = str(manifest.path)
    if not views:
        return EvaluationPredictions(task, names, pd.DataFrame(), num_expected, **left_out)
    views.sort(key=lambda view: view.row)
    rows, weights = (np.array([getattr(view, name) for view in views]) for name in ("row", "weight"))
    index = np.unique(rows)
    key_of = {row: manifest[row].key for row in index.tolist()}
    features = None
    if views[0].features is not None:
        features = average_views(rows, np.array([view.features for view in views]), weights)[1].astype(np.float32)
    frames = None
    if config.frame_level:
        lengths = [len(view.frames) for view in views]
        shown = np.stack([np.repeat(rows, lengths), np.concatenate([view.frames for view in views])])
        outputs, targets = (np.concatenate([getattr(view, name) for view in views]) for name in ("outputs", "targets"))
        known = is_annotated(targets)
        shown, outputs, targets = shown[:, known], outputs[known], targets[known]
        (rows, numbers), first, view_of = np.unique(shown, axis=1, return_index=True, return_inverse=True)
        outputs = average_views(view_of.ravel(), outputs, np.repeat(weights, lengths)[known])[1]
        weights, targets = np.ones_like(rows), targets[first]  # every frame counts alike
        frames = predictions_table(
            [key_of[row] for row in rows.tolist()], outputs, names, targets, task, {"frame": numbers}
        )
    else:
        outputs, targets = (np.stack([getattr(view, name) for view in views]) for name in ("outputs", "targets"))
    most_frequent = pd.crosstab(rows, targets).idxmax(axis=1) if task == "classification" else None
    truth = average_views(rows, targets)[1] if most_frequent is None else most_frequent.to_numpy()
    columns = {"subject": manifest.subjects, "group": manifest.groups}
    more = {name: texts[index] for name, texts in columns.items() if texts is not None}
    outputs = average_views(rows, outputs, weights)[1]
    videos = predictions_table(list(key_of.values()), outputs, names, truth, task, more)
    return EvaluationPredictions(task, names, videos, num_expected, frames, features, **left_out)


def scored_by_group(manifest: Manifest, config: ModelConfig, by_group: bool | None) -> bool:
    """Whether groups of videos are scored in place of videos; by default if the manifest has groups and the model is not
    frame-level.

    Raises `UserError` if by_group is true but not possible, or the videos of a group have several labels.
    """
    groups, labels = manifest.groups, manifest.labels
    if by_group is None:
        by_group = groups is not None and not config.frame_level
    if not by_group:
        return False
    if groups is None:
        raise UserError(
            f"{manifest.path}: no column 'group', by which `by_group` averages; add it or leave `by_group` out"
        )
    if config.frame_level:
        raise UserError("by_group: a frame-level model is scored on frames; leave it out")
    if labels is not None:
        several = pd.Series(labels[groups != ""]).groupby(groups[groups != ""]).nunique() > 1
        if several.any():
            raise UserError(
                f"{manifest.path}: videos of group '{several.idxmax()}' have several labels, so the group has no true label; "
                "correct them, or set by_group false"
            )
    return True
