"""One head in training: what it learns of which videos, its loss (Eq. 12-14), and its part of the model's config."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from svfap.data import augment
from svfap.data.clip_dataset import target_key
from svfap.data.manifest import Manifest
from svfap.data.targets import all_targets, is_annotated, labelled_rows, require_values
from svfap.device import send
from svfap.errors import UserError
from svfap.metric_table import main_metric
from svfap.train.head_config import HeadConfig
from svfap.train.losses import (
    ACTIVATION_RANGES,
    REGRESSION_LOSSES,
    annotated_only,
    balanced_weights,
    cross_entropy,
    label_scale,
)


class Head:
    """A head of a fine-tuning.

    settings: of a resolved run. training, validation: the videos with its labels, which some may lack. Raises `UserError` for
    labels that it cannot learn, or be validated on.

    Attributes: key: of its targets in a batch. names: its classes or dimensions. output: the fields `ModelConfig.OF_A_HEAD` of
    the model. score: the metric of validation that counts. is_validated: whether there are validation videos.
    """

    def __init__(self, settings: HeadConfig, training: Manifest, validation: Manifest | None) -> None:
        self.settings, self.config, self.training = settings, settings.config, training
        config, self.name = settings.config, settings.name
        assert config.task is not None
        self.task, self.key = config.task, target_key(settings.name, config.task)
        names = training.label_names if self.task == "classification" else training.dimensions
        assert names is not None
        self.names, self.is_validated = names, validation is not None
        self.score = ("frame_" if config.frame_level else "") + main_metric(self.task)
        activation = config.output_activation or "none"
        scale: tuple[float, ...] = ()
        offset: tuple[float, ...] = ()
        if self.name:
            self._require_labels(validation)
        if self.task == "regression":
            values = all_targets(training, config.frame_level)
            bounded = activation != "none" and config.label_scaling == "none"
            require_values(training, values, ACTIVATION_RANGES[activation] if bounded else None)
            if validation is not None:
                require_values(validation, all_targets(validation, config.frame_level))
            scale, offset = label_scale(values, config.label_scaling, activation, config.label_range, names)
        self.output: dict[str, Any] = dict(
            task=self.task, label_names=names, frame_level=config.frame_level, output_activation=activation,
            output_scale=scale, output_offset=offset,
        )  # fmt: skip
        self.is_masked = config.frame_level or not labelled_rows(training, False).all()
        # Both are moved to the device once.
        self._unit = torch.tensor(scale or (1.0,))
        self.class_weights: Tensor | None = None
        if config.class_weights == "balanced":
            counts = _drawn_counts(training, config.frame_level, len(names))
            self.class_weights = torch.from_numpy(balanced_weights(counts))

    def _require_labels(self, validation: Manifest | None) -> None:
        training, frame_level = self.training, self.config.frame_level
        for part, manifest in (("training", training), ("validation", validation)):
            if manifest is not None and not labelled_rows(manifest, frame_level).any():
                fix = "; give others as `val_manifest`, a larger `val_fraction`, or the head to choose by as `best_by`"
                raise UserError(
                    f"no {part} video of {manifest.path} has a label of it{fix if part == 'validation' else ''}"
                )
        if self.task == "classification" and not frame_level:
            counts = np.bincount(all_targets(training, False), minlength=len(self.names))
            if absent := [name for name, count in zip(self.names, counts.tolist(), strict=True) if not count]:
                raise UserError(
                    f"no training video of {training.path} has the class {', '.join(absent)}; leave it out of `label_names`, "
                    "or add videos"
                )

    def labelled(self, manifest: Manifest) -> Manifest:
        """The rows of a manifest of several heads that have a label of this one, with its labels."""
        labels = manifest.of_head(self.name)
        return labels.subset(np.flatnonzero(labelled_rows(labels, self.config.frame_level))) if self.name else labels

    def count(self, batch: Mapping[str, Any]) -> int:
        """The number of clips, or of frames, that have a label."""
        if not self.is_masked:
            return len(batch["clips"])
        targets = batch[self.key].flatten(0, 1) if self.config.frame_level else batch[self.key]
        return int(is_annotated(targets.numpy(force=True)).sum())

    def soft_targets(self, batch: Mapping[str, Any]) -> Tensor:
        """What the outputs shall be, of the same shape: probabilities or values; NaN without a label."""
        targets: Tensor = batch[self.key]
        if self.task == "regression":
            return targets
        one_hot = augment.smooth_one_hot(targets.flatten(), len(self.names), self.config.smoothing)
        return one_hot.unflatten(0, targets.shape)

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Cross-entropy (Eq. 12), or a regression loss (Eq. 13, 14), of what has a label; zero without any.

        Regression losses are in units of the model's `output_scale`, so that gradients do not depend on the labels' units.
        CCC and PCC are computed over this micro-batch; with one readable clip they have no gradient.
        """
        outputs, targets = (x.flatten(0, -2) for x in (outputs.float(), targets))  # (clips or frames, outputs)
        weights = None
        if self.is_masked:
            outputs, targets, weights = annotated_only(outputs, targets)
        if self.task == "regression":
            self._unit = scale = send(self._unit, outputs.device)
            loss = REGRESSION_LOSSES[self.config.loss](outputs / scale, targets / scale, weights)  # Eq. 13, 14
        else:
            if self.class_weights is not None:
                self.class_weights = send(self.class_weights, outputs.device)
            loss = cross_entropy(outputs, targets, self.class_weights, weights)  # Eq. 12
        loss = loss if weights is None else loss * weights.amax()
        return loss if self.settings.weight == 1 else loss * self.settings.weight


def _drawn_counts(training: Manifest, frame_level: bool, num_classes: int) -> NDArray[np.float64]:
    """(num_classes,) how often each class is drawn: of a joined manifest with weights, by the shares of its manifests."""
    shares = None if training.mixture is None else training.mixture.shares
    if shares is None:
        return np.bincount(all_targets(training, frame_level), minlength=num_classes).astype(np.float64)
    drawn = np.zeros(num_classes)
    for share, part in zip(shares, training.parts, strict=True):
        if labelled_rows(part, frame_level).any():  # else it has labels of other heads
            count = np.bincount(all_targets(part, frame_level), minlength=num_classes)
            drawn += share * count / count.sum()
    return drawn
