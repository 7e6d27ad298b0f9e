"""From a model and a manifest to one prediction per video: views, averaging, exact gathering over processes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor

from svfap.console import track
from svfap.data.augment import normalize
from svfap.data.loader import ClipDataset, make_loader
from svfap.data.manifest import Manifest
from svfap.errors import UserError
from svfap.evaluate.metrics import classification_metrics, frame_metrics, regression_metrics
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
    targets: (N,) int64 labels or (N, K) float64 values. frame_outputs, frame_targets: for frame-level models, each video's
    (T_i, K) over its sampled frames. unreadable: rows that could not be read, with the reason.
    """

    index: np.ndarray
    outputs: np.ndarray
    targets: np.ndarray
    frame_outputs: list[np.ndarray] = field(default_factory=list)
    frame_targets: list[np.ndarray] = field(default_factory=list)
    unreadable: dict[str, str] = field(default_factory=dict)


@torch.inference_mode()
def predict_views(
    model: Callable[[Tensor], Tensor],
    config: ModelConfig,
    dataset: ClipDataset,
    accelerator: Accelerator,
    batch_size: int,
    num_workers: int = 0,
    description: str | None = None,
) -> Predictions:
    """Run all views of a dataset through a model, every video on exactly one process, and average each video's views.

    Classification outputs are averaged after the softmax. batch_size counts videos over all processes. A description shows
    a progress bar. Raises `UserError` if no video can be read.
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
    frame_level = config.frame_level and config.task == "regression"
    rows: list[tuple[int, np.ndarray, np.ndarray, np.ndarray | None]] = []
    unreadable: list[tuple[str, str]] = []
    batches = track(loader, description) if description and accelerator.is_main_process else loader
    for batch in batches:
        unreadable += [(key, reason) for _, key, reason in batch["unreadable"]]
        if not len(batch["clips"]):
            continue
        clips = normalize(batch["clips"].to(accelerator.device, non_blocking=True), config.pixel_mean, config.pixel_std)
        with accelerator.autocast():
            outputs = model(clips).float()
        if config.task == "classification":
            outputs = outputs.softmax(dim=-1)
            outputs = outputs.mean(dim=1) if config.frame_level else outputs  # classes are given per clip
        targets = batch["label"] if config.task == "classification" else batch["values"]
        frames = batch["frames"].numpy() if frame_level else None
        views = zip(batch["index"].tolist(), outputs.double().cpu().numpy(), targets.numpy(), strict=True)
        rows += [(i, o, t, None if frames is None else frames[j]) for j, (i, o, t) in enumerate(views)]
    if accelerator.num_processes > 1:
        rows, unreadable = gather_object(rows), gather_object(unreadable)
    if not rows:
        first = ": ".join(unreadable[0])
        raise NothingReadable(f"none of the {len(dataset)} videos can be read; the first: {first}", dict(unreadable))
    return _average(rows, dict(unreadable), frame_level)


def _average(rows: list[tuple[int, Any, Any, Any]], unreadable: dict[str, str], frame_level: bool) -> Predictions:
    by_video: dict[int, list[tuple[int, Any, Any, Any]]] = {}
    for row in sorted(rows, key=lambda row: row[0]):
        by_video.setdefault(row[0], []).append(row)
    index = np.array(list(by_video), dtype=np.int64)
    videos = list(by_video.values())
    if not frame_level:
        outputs = np.stack([np.mean([row[1] for row in views], axis=0) for views in videos])
        return Predictions(index, outputs, np.stack([views[0][2] for views in videos]), unreadable=unreadable)
    pairs = [_join_frames(views) for views in videos]
    frame_outputs, frame_targets = [p[0] for p in pairs], [p[1] for p in pairs]
    outputs, targets = (np.stack([x.mean(axis=0) for x in frames]) for frames in (frame_outputs, frame_targets))
    return Predictions(index, outputs, targets, frame_outputs, frame_targets, unreadable)


def _join_frames(views: list[tuple[int, Any, Any, Any]]) -> tuple[np.ndarray, np.ndarray]:
    """Outputs and targets of a video's sampled frames; a frame that several views show is averaged, and counts once."""
    frames = np.concatenate([row[3] for row in views])
    _, where = np.unique(frames, return_inverse=True)
    count = np.bincount(where)[:, None]
    joined = []
    for column in (1, 2):
        values = np.concatenate([np.asarray(row[column], dtype=np.float64) for row in views])
        total = np.zeros((len(count), values.shape[1]))
        np.add.at(total, where, values)
        joined.append(total / count)
    return joined[0], joined[1]


def score_predictions(predictions: Predictions, config: ModelConfig, manifest: Manifest) -> dict[str, Any]:
    """The task's metrics, with `num_expected` and `num_evaluated` videos."""
    counts = {"num_expected": len(manifest), "num_evaluated": len(predictions.index)}
    if config.task == "classification":
        return {**classification_metrics(predictions.targets, predictions.outputs, config.label_names), **counts}
    metrics = regression_metrics(predictions.targets, predictions.outputs, config.label_names)
    if config.frame_level:
        frames = frame_metrics(predictions.frame_targets, predictions.frame_outputs, config.label_names)
        metrics["frames"] = frames
    return {**metrics, **counts}
