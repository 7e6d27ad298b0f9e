"""What the training loop asks of a task, which pre-training and fine-tuning are, and what a training returns."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from accelerate import Accelerator
from torch import Tensor

from svfap.data.clip_dataset import Batch, ClipDataset
from svfap.data.loader import BatchLoader
from svfap.data.manifest import Manifest
from svfap.model.base import Model
from svfap.train.config import TrainConfig
from svfap.train.optim import parameter_groups
from svfap.train.tracking import Picture

if TYPE_CHECKING:
    from svfap.evaluation.pool import PooledResults


class TrainingTask:
    """What distinguishes pre-training from fine-tuning.

    dataset: training clips. manifest: training videos, each once. validation, validation_clips: the same for validation,
    None without it. score: the validation metric; best/ is the epoch with its highest value, or the last epoch if None.
    num_videos: the number of training and validation videos. loss_names: of the parts of the loss, which are logged if there are
    several. unfreezes: not all epochs train the same parameters.
    """

    config: TrainConfig
    model: Model
    dataset: ClipDataset
    manifest: Manifest
    num_videos: int
    validation: Manifest | None = None
    validation_clips: ClipDataset | None = None
    score: str | None = None
    loss_names: tuple[str, ...] = ("loss",)
    unfreezes: bool = False

    def parameter_groups(self) -> list[dict[str, Any]]:
        """The groups of the optimiser."""
        return parameter_groups(self.model, self.config.weight_decay)

    def begin_epoch(self, epoch: int) -> None:
        """Called before the first step of an epoch, or before that with which a resumed run goes on, in training mode."""

    def losses(self, model: Callable[..., Any], batch: Batch, generator: torch.Generator) -> list[Tensor]:
        """The losses of one batch, whose sum is minimised, each a mean of terms. model: `self.model`, or a wrapper of it.

        generator: on the CPU, for every random draw.
        """
        raise NotImplementedError

    def counts(self, batch: Batch) -> list[int]:
        """The number of terms that each loss of a batch is a mean of: its weight among the micro-batches of a step."""
        return [len(batch["clips"])]

    def validate(self, accelerator: Accelerator, model: Callable[..., Any], loader: BatchLoader) -> dict[str, Any]:
        """Metrics on the validation videos, and `unreadable` videos with reasons; empty without validation.

        loader: loads batches of `validation_clips`. Raises `NotFinite` if the model's outputs are not finite.
        """
        return {}

    def probes_after(self, epoch: int) -> bool:
        """Whether `probe` is called after this epoch; 0: before the first step."""
        return False

    def probe(self, accelerator: Accelerator, model: Model, epoch: int) -> dict[str, float]:
        """Scores of the frozen features of a model. Called on the main process alone; must not change the training."""
        return {}

    def pictures(self, accelerator: Accelerator, model: Model) -> dict[str, Picture]:
        """Pictures for the trackers after an epoch, by name. Called on the main process alone."""
        return {}


@dataclass(frozen=True)
class TrainResult:
    """The outcome of a run.

    finished: False if it was interrupted and saved; `resume` continues it. step: optimiser steps done. metrics: content of
    `metrics.json`, or with fold="all" of `results.json`; empty unless finished. pooled: with fold="all", its table.
    stopped_by: number of the signal that interrupted it, else 0.
    """

    finished: bool
    step: int = 0
    metrics: dict[str, Any] = field(default_factory=dict)
    pooled: PooledResults | None = None
    stopped_by: int = 0

    @property
    def exit_status(self) -> int:
        """That of a command: 0, or 128 + the number of the signal."""
        return 128 + self.stopped_by if self.stopped_by else 0
