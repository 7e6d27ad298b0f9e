"""The training runs of experiments. Each is done once, whichever tables use it, and resumed if it was interrupted."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from svfap.console import say
from svfap.data.prepared import PreparedDataset
from svfap.errors import Interrupted, UserError
from svfap.evaluation.metrics import flat_scores
from svfap.experiments.config import ExperimentConfig
from svfap.experiments.studies import Baseline, Settings, Study, StudyRow
from svfap.model.config import ModelConfig
from svfap.model.presets import model_config
from svfap.train.config import FinetuneConfig, PretrainConfig, TrainConfig
from svfap.train.finetune import run_fold
from svfap.train.parallel import run_all
from svfap.train.pretrain import pretrain

BASELINE = StudyRow("baseline")


@dataclass(frozen=True)
class ExperimentRuns:
    """The baseline's settings, and the runs that each row of a study needs.

    out: folder of the runs. pretrain, finetune: settings of `PretrainConfig` and `FinetuneConfig`, with `dataset` and
    `fold`. weights: pre-trained weights to use instead of the baseline's pre-training.
    """

    config: ExperimentConfig
    out: Path
    dataset: PreparedDataset
    pretrain: Settings
    finetune: Settings
    weights: str | None = None

    @property
    def seeds(self) -> range:
        """The seeds of fine-tuning."""
        return range(self.config.seeds)

    def rows(self, study: Study) -> list[StudyRow]:
        """The rows of a study for this baseline."""
        model, _ = self.model_configs(BASELINE)
        return study.rows(Baseline(model, self.pretrain, self.config.videomae))

    def pretrainings(self, row: StudyRow) -> list[PretrainConfig]:
        """The row's pre-training for each seed; empty if it trains from scratch or from `weights`."""
        configs = [self._pretraining(row, seed) for seed in self.seeds]
        return [config for config in configs if config is not None]

    def finetunings(self, row: StudyRow) -> list[FinetuneConfig]:
        """The row's fine-tuning for each seed."""
        return [self._finetuning(row, seed) for seed in self.seeds]

    def scores(self, row: StudyRow) -> list[dict[str, float]]:
        """Test scores for each seed. Raises `UserError` if some test videos could not be read."""
        scores = []
        for config in self.finetunings(row):
            file = config.out / "evaluation" / "metrics.json"
            metrics = json.loads(file.read_text())
            if missing := metrics["num_expected"] - metrics["num_evaluated"]:
                raise UserError(
                    f"{file}: {missing} test videos could not be read; repair those listed in unreadable.csv beside it "
                    "and run again"
                )
            scores.append(flat_scores(metrics))
        return scores

    def pretrained_weights(self, row: StudyRow, seed: int) -> str | None:
        """The weights that the row's fine-tuning starts from; None from scratch."""
        if row.pretrain is None:
            return None
        config = self._pretraining(row, seed)
        return self.weights if config is None else str(config.out)

    def model_configs(self, row: StudyRow) -> tuple[ModelConfig, ModelConfig]:
        """The row's models in fine-tuning and in pre-training."""
        finetune = _merge(self.finetune, {"model": row.model}, row.finetune)
        pretrain = _merge(self.pretrain, {"model": row.model}, row.pretrain or {})
        masking = {"mask_ratio": pretrain.get("mask_ratio", PretrainConfig.mask_ratio)}
        return (
            model_config(finetune["preset"], "features", **finetune["model"]),
            model_config(pretrain["preset"], "pretraining", **{**masking, **pretrain["model"]}),
        )

    def _pretraining(self, row: StudyRow, seed: int) -> PretrainConfig | None:
        if row.pretrain is None:
            return None
        changes = self._changes(row, row.pretrain, self.pretrain, "pretraining")
        if self.weights is not None and changes == {"model": {}}:
            return None
        seed = 0 if self.config.share_pretraining else seed
        out = self.out / f"pretrain-{_folder_name(changes)}-seed{seed}"
        return PretrainConfig(**{**_merge(self.pretrain, changes), "seed": seed, "out": out})

    def _finetuning(self, row: StudyRow, seed: int) -> FinetuneConfig:
        changes = self._changes(row, row.finetune, self.finetune, "features")
        start = "scratch"
        if row.pretrain is not None:
            start = _folder_name(self._changes(row, row.pretrain, self.pretrain, "pretraining"))
        out = self.out / f"finetune-{start}-to-{_folder_name(changes)}-seed{seed}"
        init = row.finetune.get("init") if row.pretrain is None else self.pretrained_weights(row, seed)
        return FinetuneConfig(**{**_merge(self.finetune, changes), "init": init, "seed": seed, "out": out})

    def _changes(self, row: StudyRow, settings: Settings, baseline: Settings, task: str) -> dict[str, Any]:
        """The row's settings without those equal to the baseline's, so that equal runs share a folder."""
        before = model_config(baseline["preset"], task, **baseline.get("model", {}))
        changes = _merge({"model": row.model}, settings)
        after = model_config(baseline["preset"], task, **{**baseline.get("model", {}), **changes["model"]})
        model = {k: v for k, v in changes["model"].items() if getattr(after, k) != getattr(before, k)}
        defaults = PretrainConfig if task == "pretraining" else FinetuneConfig
        changed = {k: v for k, v in changes.items() if baseline.get(k, getattr(defaults, k, None)) != v}
        return {**changed, "model": model}


def train_all(title: str, configs: Sequence[TrainConfig], parallel: int | None = None) -> None:
    """Do each run once, and test the fine-tuned models. Finished runs are kept and interrupted ones resumed.

    parallel: runs at a time, each in its own process; default: one per GPU. Raises `Interrupted` if a signal stopped a run.
    """
    configs = list({config.out: config for config in configs}.values())
    say(f"{title}: {len(configs)} runs")
    if configs and (stopped_by := run_all(train_one, configs, parallel)):
        raise Interrupted(stopped_by, f"{title}: interrupted and saved; the same command continues it")


def train_one(config: TrainConfig) -> int:
    """Do one run, or the rest of it; returns the number of the signal that interrupted it, else 0."""
    if isinstance(config, FinetuneConfig):
        return run_fold(config)
    assert isinstance(config, PretrainConfig)
    return pretrain(replace(config, resume=True)).stopped_by


def _merge(*parts: Settings) -> dict[str, Any]:
    """Join settings; later ones override earlier ones, and so do the single settings within `model`."""
    merged: dict[str, Any] = {"model": {}}
    for part in parts:
        merged = {**merged, **part, "model": {**merged["model"], **part.get("model", {})}}
    return merged


def _folder_name(changes: Settings) -> str:
    """The part of a run's folder name that gives its changes: "mask_ratio=0.75", or "base"."""
    settings = {**{k: v for k, v in changes.items() if k != "model"}, **changes.get("model", {})}
    flat = {k: "-".join(map(str, v)) if isinstance(v, tuple | list) else str(v).lower() for k, v in settings.items()}
    text = ",".join(f"{k}={v}" for k, v in sorted(flat.items()))
    return re.sub(r"[^\w.,=-]+", "_", text).strip("_") or "base"
