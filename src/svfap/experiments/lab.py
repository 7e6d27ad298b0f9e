"""Runs of experiments: every pre-training and fine-tuning is done once, whichever tables need it, and resumed if broken off."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from svfap.console import console
from svfap.data.prepared import PreparedDataset
from svfap.errors import UserError
from svfap.evaluate.metrics import flat_scores
from svfap.experiments.studies import Base, Row, Settings, Study
from svfap.model.config import ModelConfig
from svfap.model.presets import model_config
from svfap.train.config import FinetuneConfig, PretrainConfig, TrainConfig
from svfap.train.folds import run_fold
from svfap.train.parallel import run_parallel, visible_gpus
from svfap.train.pretrain import pretrain


@dataclass(frozen=True)
class Lab:
    """Base settings, and where runs go.

    pretrain, finetune: settings of `PretrainConfig` and `FinetuneConfig`, dataset and fold included. weights: pre-trained
    weights in place of pre-training with the base settings. videomae: a checkpoint of VideoMAE. share_pretraining: one
    pre-training, of the first seed, for the fine-tunings of all seeds.
    """

    out: Path
    dataset: PreparedDataset
    pretrain: Settings
    finetune: Settings
    seeds: tuple[int, ...] = (0, 1, 2)
    weights: str | None = None
    videomae: str | None = None
    share_pretraining: bool = True

    def pretrainings(self, row: Row) -> list[PretrainConfig]:
        """What the row pre-trains, for each seed; nothing if it trains from scratch or from `weights`."""
        configs = [self._pretraining(row, seed) for seed in self.seeds]
        return [config for config in configs if config is not None]

    def rows(self, study: Study) -> list[Row]:
        """The rows of an experiment, given the base settings."""
        return study.rows(Base(self.pretrain, self.finetune, self.configs(Row(""))[0], self.videomae))

    def finetunings(self, row: Row) -> list[FinetuneConfig]:
        """What the row fine-tunes, for each seed."""
        return [self._finetuning(row, seed) for seed in self.seeds]

    def scores(self, row: Row) -> list[dict[str, float]]:
        """Test scores of each seed. Raises `UserError` where some test videos could not be read."""
        return [_scores(config.out / "evaluation" / "metrics.json") for config in self.finetunings(row)]

    def weights_of(self, row: Row, seed: int) -> str | None:
        """What the row's fine-tuning starts from; None: nothing."""
        if row.pretrain is None:
            return None
        config = self._pretraining(row, seed)
        return self.weights if config is None else str(config.out)

    def configs(self, row: Row) -> tuple[ModelConfig, ModelConfig]:
        """The row's models in fine-tuning and in pre-training."""
        tuned = _merged(self.finetune, {"model": row.model}, row.finetune)
        masked = _merged(self.pretrain, {"model": row.model}, row.pretrain or {})
        ratio = {"mask_ratio": masked.get("mask_ratio", PretrainConfig.mask_ratio)}
        return (
            model_config(tuned["preset"], "features", **tuned["model"]),
            model_config(masked["preset"], "pretraining", **{**ratio, **masked["model"]}),
        )

    def _pretraining(self, row: Row, seed: int) -> PretrainConfig | None:
        if row.pretrain is None:
            return None
        changes = self._changes(row, row.pretrain, self.pretrain, "pretraining")
        if self.weights is not None and changes == {"model": {}}:
            return None
        seed = self.seeds[0] if self.share_pretraining else seed
        out = self.out / f"pretrain-{_slug(changes)}-seed{seed}"
        return PretrainConfig(**{**_merged(self.pretrain, changes), "seed": seed, "out": out})

    def _finetuning(self, row: Row, seed: int) -> FinetuneConfig:
        changes = self._changes(row, row.finetune, self.finetune, "features")
        before = "scratch"
        if row.pretrain is not None:
            before = _slug(self._changes(row, row.pretrain, self.pretrain, "pretraining"))
        out = self.out / f"finetune-{before}-to-{_slug(changes)}-seed{seed}"
        init = row.finetune.get("init") if row.pretrain is None else self.weights_of(row, seed)
        return FinetuneConfig(**{**_merged(self.finetune, changes), "init": init, "seed": seed, "out": out})

    def _changes(self, row: Row, settings: Settings, base: Settings, task: str) -> dict[str, Any]:
        """What a row really changes: a setting that has the base's value already would only double a run."""
        before = model_config(base["preset"], task, **base.get("model", {}))
        changes = _merged({"model": row.model}, settings)
        after = model_config(base["preset"], task, **{**base.get("model", {}), **changes["model"]})
        model = {k: v for k, v in changes["model"].items() if getattr(after, k) != getattr(before, k)}
        defaults = PretrainConfig if task == "pretraining" else FinetuneConfig
        kept = {k: v for k, v in changes.items() if base.get(k, getattr(defaults, k, None)) != v}
        return {**kept, "model": model}


C = TypeVar("C", bound=TrainConfig)


def train_all(what: str, configs: Sequence[C], parallel: int | None = None) -> None:
    """Train, and test what is fine-tuned, each folder once; what is there is kept, what broke off goes on.

    parallel: runs at a time, each in a process of its own; default: one per GPU. Raises `UserError` if interrupted.
    """
    configs = list({config.out: config for config in configs}.values())
    gpus = visible_gpus()
    parallel = min(parallel or max(len(gpus), 1), len(configs))
    if parallel > 1:
        share = max((os.cpu_count() or 1) // parallel - 1, 0)
        configs = [replace(c, num_workers=share if c.num_workers is None else c.num_workers) for c in configs]
        finished = run_parallel(train_one, configs, parallel, gpus)
    else:
        finished = True
        for number, config in enumerate(configs, 1):
            say = f"{what}, {number} of {len(configs)}: {config.out.name}"
            console.print(say, markup=False, highlight=False, soft_wrap=True)
            if not (finished := train_one(config)):
                break
    if not finished:
        raise UserError(f"{what}: interrupted and saved; the same command goes on")


def train_one(config: TrainConfig) -> bool:
    """Do one run, or what is left of it; False if it was interrupted."""
    if isinstance(config, FinetuneConfig):
        return run_fold(config)
    assert isinstance(config, PretrainConfig)
    return pretrain(replace(config, resume=True)).finished


def _merged(*parts: Settings) -> dict[str, Any]:
    """Later settings over earlier ones; those of the model one by one."""
    merged: dict[str, Any] = {"model": {}}
    for part in parts:
        merged = {**merged, **part, "model": {**merged["model"], **part.get("model", {})}}
    return merged


def _slug(changes: Settings) -> str:
    """A folder's name for what a run changes: "mask_ratio=0.75", or "base"."""
    words = {**{k: v for k, v in changes.items() if k != "model"}, **changes.get("model", {})}
    flat = {k: "-".join(map(str, v)) if isinstance(v, tuple | list) else str(v).lower() for k, v in words.items()}
    text = ",".join(f"{k}={v}" for k, v in sorted(flat.items()))
    return re.sub(r"[^\w.,=-]+", "_", text).strip("_") or "base"


def _scores(file: Path) -> dict[str, float]:
    metrics = json.loads(file.read_text())
    if metrics["num_evaluated"] < metrics["num_expected"]:
        missing = metrics["num_expected"] - metrics["num_evaluated"]
        raise UserError(
            f"{file}: {missing} test videos could not be read; see unreadable.csv beside it, mend them, run again"
        )
    return flat_scores(metrics)
