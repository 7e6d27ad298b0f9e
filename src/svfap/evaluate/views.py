"""From a model and a manifest to one prediction per video: views, averaging, exact gathering over processes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor

from svfap.console import track
from svfap.data.augment import normalize
from svfap.data.loader import ClipDataset, make_loader
from svfap.data.manifest import Manifest
from svfap.errors import UserError
from svfap.evaluate.metrics import (
    average_groups,
    average_views,
    classification_metrics,
    frame_metrics,
    regression_metrics,
)
from svfap.model.config import ModelConfig


class NothingReadable(UserError):
    """No video could be read; `unreadable` says why of each."""

    def __init__(self, message: str, unreadable: dict[str, str]) -> None:
        super().__init__(message)
        self.unreadable = unreadable


@dataclass
class Predictions:
    """One entry per video that could be read, in manifest order.

    index: (N,) int64 rows of the manifest. outputs: (N, K) float64, probabilities or values, averaged over views.
    targets: (N,) int64 labels or (N, K) float64 values. features: (N, D) float32, averaged over views, where the model gives
    them. frame_outputs, frame_targets: for frame-level models, each video's (T_i, K), or (T_i,) labels, over its sampled
    frames, ascending (T_i,) in frame_indices; `outputs` is then their mean, and `targets` their mean or most frequent label.
    unreadable: rows that could not be read, with the reason.
    """

    index: np.ndarray
    outputs: np.ndarray
    targets: np.ndarray
    features: np.ndarray | None = None
    frame_outputs: list[np.ndarray] = field(default_factory=list)
    frame_targets: list[np.ndarray] = field(default_factory=list)
    frame_indices: list[np.ndarray] = field(default_factory=list)
    unreadable: dict[str, str] = field(default_factory=dict)


class View(NamedTuple):
    """What the model says of one view of a video: (K,) outputs or for frame-level models (T, K), and the like."""

    row: int  # of the manifest
    outputs: np.ndarray
    targets: np.ndarray
    frames: np.ndarray
    features: np.ndarray | None


@torch.inference_mode()
def predict_views(
    model: Callable[[Tensor], Tensor | tuple[Tensor, Tensor]],
    config: ModelConfig,
    dataset: ClipDataset,
    accelerator: Accelerator,
    batch_size: int,
    num_workers: int = 0,
    description: str | None = None,
) -> Predictions:
    """Run all views of a dataset through a model, every video on exactly one process, and average each video's views.

    model: from clips to outputs, or to outputs and features. Classification outputs are averaged after the softmax.
    batch_size counts videos over all processes. A description shows a progress bar. Raises `UserError` if no video can be
    read.
    """
    loader = make_loader(
        dataset,
        max(batch_size // accelerator.num_processes, 1),
        shuffle=False,
        seed=0,
        rank=accelerator.process_index,
        world_size=accelerator.num_processes,
        num_workers=num_workers,
        pin_memory=accelerator.device.type == "cuda",
    )
    rows: list[View] = []
    unreadable: list[tuple[str, str]] = []
    batches = track(loader, description) if description and accelerator.is_main_process else loader
    for batch in batches:
        unreadable += [(key, reason) for _, key, reason in batch["unreadable"]]
        if not len(batch["clips"]):
            continue
        clips = normalize(batch["clips"].to(accelerator.device, non_blocking=True), config.pixel_mean, config.pixel_std)
        with accelerator.autocast():
            said = model(clips)
        outputs, features = said if isinstance(said, tuple) else (said, None)
        outputs = outputs.float().softmax(dim=-1) if config.task == "classification" else outputs.float()
        targets = batch["label"] if config.task == "classification" else batch["values"]
        arrays = (outputs.double().cpu().numpy(), targets.numpy(), batch["frames"].numpy())
        vectors = [None] * len(clips) if features is None else features.float().cpu().numpy()
        rows += [View(*view) for view in zip(batch["index"].tolist(), *arrays, vectors, strict=True)]
    if accelerator.num_processes > 1:
        rows, unreadable = gather_object(rows), gather_object(unreadable)
    if not rows:
        first = ": ".join(unreadable[0])
        raise NothingReadable(f"none of the {len(dataset)} videos can be read; the first: {first}", dict(unreadable))
    return _average(rows, dict(unreadable), config.frame_level)


def _average(rows: list[View], unreadable: dict[str, str], frame_level: bool) -> Predictions:
    by_video: dict[int, list[View]] = {}
    for view in sorted(rows, key=lambda view: view.row):
        by_video.setdefault(view.row, []).append(view)
    index, videos = np.array(list(by_video), dtype=np.int64), list(by_video.values())
    features = None
    if rows[0].features is not None:
        features = np.stack([np.mean([v.features for v in views], axis=0, dtype=np.float32) for views in videos])  # type: ignore[arg-type]
    if not frame_level:
        outputs = np.stack([np.mean([view.outputs for view in views], axis=0) for views in videos])
        targets = np.stack([views[0].targets for views in videos])
        return Predictions(index, outputs, targets, features, unreadable=unreadable)
    joined = zip(*[_join_frames(views) for views in videos], strict=True)
    frame_outputs, frame_targets, frame_indices = (list(arrays) for arrays in joined)
    outputs = np.stack([frames.mean(axis=0) for frames in frame_outputs])
    targets = np.stack([_of_clip(frames) for frames in frame_targets])
    return Predictions(index, outputs, targets, features, frame_outputs, frame_targets, frame_indices, unreadable)


def _of_clip(frame_targets: np.ndarray) -> np.ndarray:
    """The mean of (T, K) values, or the most frequent of (T,) labels."""
    return frame_targets.mean(axis=0) if frame_targets.ndim == 2 else np.asarray(np.bincount(frame_targets).argmax())


def _join_frames(views: list[View]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Outputs, targets and indices of a video's sampled frames; a frame that several views show is averaged, and counts once."""
    frames, outputs, targets = (np.concatenate([view[field] for view in views]) for field in (3, 1, 2))
    indices, first, where = np.unique(frames, return_index=True, return_inverse=True)
    return average_views(where, outputs)[1], targets[first], indices


def scored_by_group(manifest: Manifest, config: ModelConfig, by_group: bool | None) -> bool:
    """Whether groups of videos are scored, not videos; by default where the manifest has groups and videos are scored whole.

    Raises `UserError` where it is asked for and cannot be, or videos of one group have several labels.
    """
    groups = manifest.groups
    if by_group is None:
        by_group = groups is not None and not config.frame_level
    if not by_group:
        return False
    if groups is None:
        raise UserError(f"{manifest.path}: no column 'group', by which by_group averages; add it or leave by_group out")
    if config.frame_level:
        raise UserError("by_group: a frame-level model is scored on frames; leave it out")
    labels = manifest.labels
    if labels is not None:
        several = pd.Series(labels[groups != ""]).groupby(groups[groups != ""]).nunique() > 1
        if several.any():
            raise UserError(
                f"{manifest.path}: videos of group '{several.idxmax()}' have several labels, so its mean score has no truth; "
                "mend them, or set by_group false"
            )
    return True


def grouped(predictions: Predictions, manifest: Manifest) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Names, outputs and targets of the groups; a video without a group is one of its own. See `average_groups`."""
    samples = [manifest[i] for i in predictions.index.tolist()]
    return average_groups([s.group or s.key for s in samples], predictions.outputs, predictions.targets)


def score_predictions(
    predictions: Predictions, config: ModelConfig, manifest: Manifest, by_group: bool = False
) -> dict[str, Any]:
    """The task's metrics, with `num_expected` and `num_evaluated` videos, and `num_groups` if by_group.

    For frame-level models `frames` holds those of all frames of all videos pooled.
    """
    outputs, targets = predictions.outputs, predictions.targets
    counts = {"num_expected": len(manifest), "num_evaluated": len(predictions.index)}
    if by_group:
        names, outputs, targets = grouped(predictions, manifest)
        counts["num_groups"] = len(names)
    classes = config.task == "classification"
    metrics = (classification_metrics if classes else regression_metrics)(targets, outputs, config.label_names)
    if config.frame_level and classes:
        truth, said = np.concatenate(predictions.frame_targets), np.concatenate(predictions.frame_outputs)
        metrics["frames"] = classification_metrics(truth, said, config.label_names)
    elif config.frame_level:
        metrics["frames"] = frame_metrics(predictions.frame_targets, predictions.frame_outputs, config.label_names)
    return {**metrics, **counts}
