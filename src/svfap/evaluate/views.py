"""Multi-view testing (Sec. IV-B): run the views of every video through a model, and average the outputs of each video."""

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
from svfap.evaluate.metrics import average_groups, average_views, score, score_frames
from svfap.model.config import ModelConfig


class NothingReadable(UserError):
    """No video could be read; `unreadable` has the reason for each path."""

    def __init__(self, message: str, unreadable: dict[str, str]) -> None:
        super().__init__(message)
        self.unreadable = unreadable


@dataclass
class Predictions:
    """One entry per video that could be read, in the order of the manifest.

    index: (N,) int64 rows of the manifest. outputs: (N, K) float64 probabilities or values, averaged over views.
    targets: (N,) int64 labels or (N, K) float64 values. features: (N, D) float32, averaged over views, if the model returns
    them. Frame-level models: for each video frame_indices (T_i,) int64, ascending, its sampled frames, with their
    frame_outputs (T_i, K) and frame_targets (T_i,) labels or (T_i, K) values; `outputs` is the mean of the former, `targets`
    the most frequent label or the mean of the latter. unreadable: path -> why the video could not be read.
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
    """The outputs for one view of a video; those of frame-level models have an axis of T frames in front."""

    row: int  # of the manifest
    outputs: np.ndarray  # (K,) or (T, K)
    targets: np.ndarray  # () or (K,); (T,) or (T, K)
    frames: np.ndarray  # (T,) numbers of the frames in the video
    features: np.ndarray | None  # (D,)


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
    """Run all views of a dataset through a model, each video on exactly one process, and average the views of each video.

    model: maps clips (B, 3, T, H, W) to outputs (B, K), or (B, T, K) of frame-level models, or to outputs and features
    (B, D). Classification outputs are averaged after the softmax. batch_size: videos over all processes. description: of
    the progress bar; None shows none. Raises `NothingReadable`.
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
    views: list[View] = []
    unreadable: list[tuple[str, str]] = []
    batches = track(loader, description) if description and accelerator.is_main_process else loader
    for batch in batches:
        unreadable += [(key, reason) for _, key, reason in batch["unreadable"]]
        if not len(batch["clips"]):
            continue
        clips = normalize(batch["clips"].to(accelerator.device, non_blocking=True), config.pixel_mean, config.pixel_std)
        with accelerator.autocast():
            result = model(clips)
        outputs, features = result if isinstance(result, tuple) else (result, None)
        outputs = outputs.float().softmax(dim=-1) if config.task == "classification" else outputs.float()
        targets = batch["label"] if config.task == "classification" else batch["values"]
        arrays = (outputs.double().cpu().numpy(), targets.numpy(), batch["frames"].numpy())
        vectors = [None] * len(clips) if features is None else features.float().cpu().numpy()
        views += [View(*view) for view in zip(batch["index"].tolist(), *arrays, vectors, strict=True)]
    if accelerator.num_processes > 1:
        views, unreadable = gather_object(views), gather_object(unreadable)
    if not views:
        first = ": ".join(unreadable[0])
        raise NothingReadable(f"none of the {len(dataset)} videos can be read; the first: {first}", dict(unreadable))
    return _average(views, dict(unreadable), config.frame_level)


def _average(views: list[View], unreadable: dict[str, str], frame_level: bool) -> Predictions:
    by_video: dict[int, list[View]] = {}
    for view in sorted(views, key=lambda view: view.row):
        by_video.setdefault(view.row, []).append(view)
    index, videos = np.array(list(by_video), dtype=np.int64), list(by_video.values())
    features = None
    if views[0].features is not None:
        features = np.stack([np.mean([v.features for v in video], axis=0, dtype=np.float32) for video in videos])  # type: ignore[arg-type]
    if not frame_level:
        outputs = np.stack([np.mean([view.outputs for view in video], axis=0) for video in videos])
        targets = np.stack([video[0].targets for video in videos])
        return Predictions(index, outputs, targets, features, unreadable=unreadable)
    joined = zip(*[_join_frames(video) for video in videos], strict=True)
    frame_outputs, frame_targets, frame_indices = (list(arrays) for arrays in joined)
    outputs = np.stack([frames.mean(axis=0) for frames in frame_outputs])
    targets = np.stack([_video_target(frames) for frames in frame_targets])
    return Predictions(index, outputs, targets, features, frame_outputs, frame_targets, frame_indices, unreadable)


def _video_target(frame_targets: np.ndarray) -> np.ndarray:
    """The mean of (T, K) values, or the most frequent of (T,) labels."""
    return frame_targets.mean(axis=0) if frame_targets.ndim == 2 else np.asarray(np.bincount(frame_targets).argmax())


def _join_frames(views: list[View]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Outputs, targets and indices of the sampled frames of a video; outputs of a frame in several views are averaged."""
    frames = np.concatenate([view.frames for view in views])
    outputs, targets = (np.concatenate([getattr(view, name) for view in views]) for name in ("outputs", "targets"))
    indices, first, position = np.unique(frames, return_index=True, return_inverse=True)
    return average_views(position, outputs)[1], targets[first], indices


def scored_by_group(manifest: Manifest, config: ModelConfig, by_group: bool | None) -> bool:
    """Whether groups of videos are scored in place of videos; by default if the manifest has groups and the model is not
    frame-level.

    Raises `UserError` if by_group is true but not possible, or the videos of a group have several labels.
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
                f"{manifest.path}: videos of group '{several.idxmax()}' have several labels, so the group has no true label; "
                "correct them, or set by_group false"
            )
    return True


def grouped(predictions: Predictions, manifest: Manifest) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Names, outputs and targets of the groups (see `average_groups`). A video without a group forms one by itself."""
    samples = [manifest[i] for i in predictions.index.tolist()]
    return average_groups([s.group or s.key for s in samples], predictions.outputs, predictions.targets)


def score_predictions(
    predictions: Predictions, config: ModelConfig, manifest: Manifest, by_group: bool = False
) -> dict[str, Any]:
    """The metrics of the task, `num_expected` and `num_evaluated` videos, and `num_groups` if by_group.

    For frame-level models `frames` holds the metrics of the frames of all videos pooled.
    """
    outputs, targets = predictions.outputs, predictions.targets
    counts = {"num_expected": len(manifest), "num_evaluated": len(predictions.index)}
    if by_group:
        names, outputs, targets = grouped(predictions, manifest)
        counts["num_groups"] = len(names)
    metrics = score(config.task, targets, outputs, config.label_names)
    if config.frame_level:
        frames = predictions.frame_targets, predictions.frame_outputs
        metrics["frames"] = score_frames(config.task, *frames, config.label_names)
    return {**metrics, **counts}
