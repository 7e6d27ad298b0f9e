"""Probing while pre-training: readers of the encoder's pooled features, on a labelled dataset that never enters the training."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from svfap.console import counted, say
from svfap.data.clip_dataset import ClipDataset
from svfap.data.loader import make_loader
from svfap.data.manifest import read_manifest
from svfap.data.prepared import read_dataset
from svfap.errors import UserError
from svfap.evaluation.confidence import FEW
from svfap.model.config import ModelConfig
from svfap.model.encoder import TPSBT
from svfap.probe.config import ProbeConfig
from svfap.probe.parts import Parts, make_parts, manifest_options, require_people
from svfap.probe.readers import knn_probe, linear_probe
from svfap.probe.reading import MAIN, read_chance, read_scores, readable
from svfap.probe.samples import Values, group_folds
from svfap.probe.tokens import POOLED, encode, read_features, read_pixels

MEMORY_BYTES = 2 * 2**30  # clips that are not larger stay in memory
BATCH_SIZE = 16
NUM_HELD_OUT = 4  # one part in so many is scored where the dataset has no validation part


class Monitor:
    """Scores of an encoder on one clip of each video of a dataset, by linear and nearest-neighbour readers.

    folder: of `svfap prepare`. The train part of its first fold fits the readers and its val part is scored; without one,
    a quarter of the people of the train part. The test part is not read. shape: of the model, which decides on size and
    sampling. Videos are decoded at the first `measure` and stay in memory where they have room (`MEMORY_BYTES`).
    Raises `UserError` for a dataset that cannot be used.
    """

    def __init__(
        self, folder: Path, shape: ModelConfig, *, frames_fps: float | None = None, num_workers: int = 0
    ) -> None:
        self.parts = training_parts(folder)
        self.parts.manifest.require_files()
        self.shape, self._num_workers = shape, num_workers
        self.clips = ClipDataset(
            self.parts.manifest, "val", shape.num_frames, shape.sampling_stride, shape.img_size, seed=0,
            frame_fit=shape.frame_fit, frame_level=self.parts.frame_level, fps=shape.frame_rate, frames_fps=frames_fps,
        )  # fmt: skip
        if not self.parts.known:
            say(
                f"probing: {self.parts.title} names no people, so the same person may be in what fits and in what is scored"
            )
        self._batches: list[Mapping[str, Any]] | None = None
        self._said = False

    def measure(
        self, encoder: TPSBT, device: torch.device, precision: str = "auto", baselines: bool = False
    ) -> dict[str, float]:
        """Score -> value, named <reader>_<features>_<score>, such as `linear_last_uar` or `knn_fused_ccc`.

        baselines: also `linear_pixels_<score>` and `chance_labels_<score>`, and on how many videos (`scored_videos`) and, where
        they are known, people (`scored_people`) all scores are; says so. The encoder's weights, its mode and the global random
        states stay as they are.
        """
        was_training = encoder.training
        readers: dict[str, Any] = {"encoder": partial(encode, encoder.eval(), sets=POOLED)}
        if baselines:
            readers["pixels"] = partial(read_pixels, num_steps=self.shape.num_time_steps)
        try:
            with torch.random.fork_rng(devices=[]):
                tokens = read_features(readers, self._loaded(), device, precision)
        finally:
            encoder.train(was_training)
        parts = readable(self.parts, tokens["encoder"])
        if (unreadable := tokens["encoder"].unreadable) and not self._said:
            self._said = True
            say(
                f"probing leaves out {counted(len(unreadable), 'video')} that cannot be read, such as {next(iter(unreadable))}"
            )
        known: dict[str, Callable[..., Values]] = {"linear": linear_probe, "knn": knn_probe, "chance": read_chance}
        planned = [(kind, name, "encoder", name) for kind in ("linear", "knn") for name in POOLED]
        if baselines:
            planned += [("linear", "pixels", "pixels", "pixels"), ("chance", "labels", "pixels", "pixels")]
        found: dict[str, float] = {}
        for kind, title, source, name in planned:
            scores = read_scores(partial(known[kind], num_classes=parts.num_classes), tokens[source], name, parts)
            found |= {f"{kind}_{title}_{key}": scores[key].value for key in MAIN[parts.task] if key in scores}
        return found | (self._say_numbers(parts) if baselines else {})

    def _say_numbers(self, parts: Parts) -> dict[str, float]:
        """Say who fits the readers and who is scored; the latter as numbers."""
        ((fit, test),) = parts.splits
        people = len(set(parts.people[test]))
        numbers: dict[str, float] = {"scored_videos": len(test)}
        few = f"; scores of fewer than {FEW} {parts.units(test)} scatter much" if people < FEW else ""
        say(f"probing: readers fitted on {parts.described(fit)}, scored on {parts.described(test)}{few}")
        return numbers | ({"scored_people": people} if parts.known else {})

    def _loaded(self) -> Iterable[Mapping[str, Any]]:
        if self._batches is not None:
            return self._batches
        loaded = make_loader(self.clips, BATCH_SIZE, shuffle=False, seed=0, num_workers=self._num_workers)
        if len(self.clips) * self.clips.item_bytes > MEMORY_BYTES:
            return loaded
        self._batches = list(loaded)
        return self._batches


def training_parts(folder: Path) -> Parts:
    """The train part of a dataset's first fold to fit, and what of it or of its val part is scored; see `Monitor`."""
    prepared = read_dataset(folder)
    if not prepared.folds:
        raise UserError(f"probe_dataset={folder}: {prepared.title} has no folds with labels to probe on")
    fold = prepared.folds[0]
    if len(prepared.folds) > 1:
        say(f"probing on fold {fold.name} of {prepared.title}; its test part is not read")
    how = manifest_options(ProbeConfig(dataset=folder, fold=fold.name), prepared)
    train = read_manifest(fold.train, root=prepared.root, **how)
    title, level = prepared.title, how["frame_level"]
    if fold.val is not None:
        parts = make_parts([train], [read_manifest(fold.val, root=prepared.root, **how)], title, frame_level=level)
        require_people(f"probe_dataset={folder}", parts, parts.splits[0][0], 2)
        return parts
    parts = make_parts([train], [], title, frame_level=level)
    require_people(f"probe_dataset={folder}", parts, np.arange(len(train)), 3)
    labels = None if train.dimensions is not None else train.labels
    return parts.with_splits(group_folds(parts.people, labels, NUM_HELD_OUT)[:1])
