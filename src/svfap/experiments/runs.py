"""The runs of experiments: pre-trainings and their readings. Each is done once, whichever tables use it, and resumed."""

from __future__ import annotations

import re
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from svfap.console import duration, say, silent
from svfap.data.prepared import PreparedDataset
from svfap.errors import Interrupted, UserError
from svfap.evaluation.config import EVALUATION_FOLDER, RUN_CONFIG
from svfap.evaluation.predictions import METRICS_FILE
from svfap.experiments.config import MAX_READINGS, PROBES, ExperimentConfig
from svfap.experiments.probing import LINEAR, LINEAR_FEATURES, TOKENS, ProbeRun, probe_encoder
from svfap.experiments.studies import Baseline, Settings, Study, StudyRow
from svfap.model.config import ModelConfig
from svfap.model.presets import model_config
from svfap.probe.config import ProbeConfig
from svfap.probe.parts import read_parts
from svfap.train.config import FinetuneConfig, PretrainConfig, TrainConfig
from svfap.train.finetune import run_fold
from svfap.train.parallel import run_all, visible_gpus
from svfap.train.pretrain import pretrain
from svfap.train.resolve import resolve
from svfap.train.run_folder import RunFolder

BASELINE = StudyRow("baseline")
AnyRun = PretrainConfig | FinetuneConfig | ProbeRun


class Step(NamedTuple):
    """One run of a study. row, pretraining: what it is done for, from 1; row 0: for the trivial baselines. within: the context
    that it is done in.
    """

    row: int
    pretraining: int
    run: AnyRun
    within: Callable[[], AbstractContextManager[Any]] = nullcontext


@dataclass(frozen=True)
class ExperimentRuns:
    """The baseline's settings, and the runs that each row of a study needs.

    out: folder of the runs. pretrain, finetune: settings of `PretrainConfig` and `FinetuneConfig`, with `dataset` and
    `fold`. weights: pre-trained weights to use instead of the baseline's pre-training. done: folders of the runs that have been
    done, or found whole, since the start.
    """

    config: ExperimentConfig
    out: Path
    dataset: PreparedDataset
    pretrain: Settings
    finetune: Settings
    weights: str | None = None
    done: set[Path] = field(default_factory=set)

    @property
    def seeds(self) -> range:
        """The seeds of pre-training."""
        return range(self.config.pretrainings)

    @property
    def reading_seeds(self) -> dict[int, list[int]]:
        """Seed of pre-training -> the seeds of its readings; more readings keep the former ones."""
        return {seed: [MAX_READINGS * seed + number for number in range(self.config.readings)] for seed in self.seeds}

    def rows(self, study: Study) -> list[StudyRow]:
        """The rows of a study for this baseline."""
        model, _ = self.model_configs(BASELINE)
        return study.rows(Baseline(model, self.pretrain, self.config.videomae))

    def pretrainings(self, row: StudyRow) -> list[PretrainConfig]:
        """The row's pre-training for each seed; empty if it trains from scratch or from `weights`."""
        configs = [self._pretraining(row, seed) for seed in self.seeds]
        return [config for config in configs if config is not None]

    def finetunings(self, row: StudyRow) -> list[list[FinetuneConfig]]:
        """The row's fine-tunings for each seed of pre-training; from scratch as many, each with its own first weights."""
        return [[self._finetuning(row, seed, each) for each in seeds] for seed, seeds in self.reading_seeds.items()]

    def probes(self, row: StudyRow) -> list[ProbeRun]:
        """The row's probe for each seed of pre-training; from scratch, of the encoder that is not trained, with these seeds."""
        return [self._probe(row, seed) for seed in self.seeds]

    def untrained_probes(self) -> list[ProbeRun]:
        """The probe of the baseline's encoder before pre-training, for each seed."""
        return self.probes(StudyRow("untrained", pretrain=None))

    def pixel_probes(self, rows: Sequence[StudyRow]) -> dict[float, list[ProbeRun]]:
        """Part of the labels that rows get -> the linear reader of pixels with it, and chance, for each seed of pre-training.

        The videos are those that the rows' probes fit their readers on; with all of them it is the same run for every seed.
        """
        found = {}
        for part in sorted({1.0, *(row.finetune.get("fraction", 1.0) for row in rows)}, reverse=True):
            probes = self.probes(StudyRow("pixels", pretrain=None, finetune={"fraction": part}))
            if part == 1:
                found[part] = [replace(probes[0], out=self.out / "probe-pixels", pixels=True)] * len(probes)
                continue
            names = [f"probe-pixels-fraction={part}-seed{probe.seed}" for probe in probes]
            found[part] = [
                replace(probe, out=self.out / name, pixels=True) for probe, name in zip(probes, names, strict=True)
            ]
        return found

    def require_labels(self) -> None:
        """Raise `UserError` where the labelled videos cannot be read as probes do: files, labels, classes, people."""
        read_parts(self.untrained_probes()[0].config).manifest.require_files()

    def steps(self, rows: Sequence[StudyRow]) -> list[Step]:
        """All runs that the table of these rows needs, each once, row by row; those of the trivial baselines last."""
        steps: list[Step] = []
        for number, row in enumerate(rows, 1):
            pretrainings, probes, finetunings = self.pretrainings(row), self.probes(row), self.finetunings(row)
            for place in range(len(self.seeds)):
                steps += [Step(number, place + 1, run, row.within) for run in pretrainings[place : place + 1]]
                if set(PROBES) & set(self.config.readers):
                    steps.append(Step(number, place + 1, probes[place]))
                if "finetune" in self.config.readers:
                    steps += [Step(number, place + 1, run) for run in finetunings[place]]
        for trivial in (self.untrained_probes(), *self.pixel_probes(rows).values()):
            steps += [Step(0, number, run) for number, run in enumerate(trivial, 1)]
        first: dict[Path, Step] = {}
        for step in steps:
            first.setdefault(step.run.out, step)
        return list(first.values())

    def pretrained_weights(self, row: StudyRow, seed: int) -> str | None:
        """The weights that the row's readings start from; None from scratch."""
        if row.pretrain is None:
            return row.finetune.get("init")
        config = self._pretraining(row, seed)
        return self.weights if config is None else str(config.out)

    def starts_from_given(self, row: StudyRow) -> bool:
        """Whether the row starts from weights that are not trained here."""
        return not self.pretrainings(row) and self.pretrained_weights(row, 0) is not None

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
        if self.weights is not None and changes == {"model": {}} and not row.variant:
            return None
        out = self.out / f"pretrain-{self._start(row)}-seed{seed}"
        return PretrainConfig(**{**_merge(self.pretrain, changes), "seed": seed, "out": out})

    def _finetuning(self, row: StudyRow, seed: int, reading_seed: int) -> FinetuneConfig:
        changes = self._changes(row, row.finetune, self.finetune, "features")
        name = f"{_folder_name(changes)}-seed{seed}-{reading_seed % MAX_READINGS}"
        settings = {**_merge(self.finetune, changes), "init": self.pretrained_weights(row, seed), "seed": reading_seed}
        return FinetuneConfig(**{**settings, "out": self.out / f"finetune-{self._start(row)}-to-{name}"})

    def _probe(self, row: StudyRow, seed: int) -> ProbeRun:
        """As fine-tuning reads: the last stage or the fused ones, with the same part of the labels."""
        model, _ = self.model_configs(row)
        weights, fraction = self.pretrained_weights(row, seed), row.finetune.get("fraction", 1.0)
        chosen = self.config.probes
        features = [name for reader in chosen for name in LINEAR_FEATURES.get(reader, ())]
        kinds = list(dict.fromkeys(LINEAR if reader in LINEAR_FEATURES else reader for reader in chosen))
        config = ProbeConfig(
            dataset=self.finetune["dataset"], fold=self.finetune["fold"], kind=kinds, features=features or [TOKENS],
            seed=self.reading_seeds[seed][0], num_seeds=self.config.readings,
        )  # fmt: skip
        changes = self._changes(row, row.finetune, self.finetune, "features") if row.pretrain is None else {}
        changes = {name: value for name, value in changes.items() if name in ("preset", "init", "model")}
        changes |= {"fraction": fraction} if fraction < 1 else {}
        name = f"probe-{self._start(row)}-to-{_folder_name(changes)}-seed{seed}"
        shape = replace(model, sampling_stride=self._stride, fuse_stages=False)
        linear = "fused" if model.fuse_stages else "last"
        return ProbeRun(self.out / name, config, shape, weights, seed, linear, fraction=fraction)

    @cached_property
    def _stride(self) -> int:
        """The frame step of clips of models that start from scratch."""
        stride = resolve(FinetuneConfig(**{**self.finetune, "out": self.out})).sampling_stride
        assert stride is not None
        return stride

    def _start(self, row: StudyRow) -> str:
        """The part of a run's folder name that says from which weights it starts."""
        if row.pretrain is None:
            return "scratch"
        name = _folder_name(self._changes(row, row.pretrain, self.pretrain, "pretraining"))
        return f"{row.variant}-{name}" if row.variant else name

    def _changes(self, row: StudyRow, settings: Settings, baseline: Settings, task: str) -> dict[str, Any]:
        """The row's settings without those equal to the baseline's, so that equal runs share a folder."""
        before = model_config(baseline["preset"], task, **baseline.get("model", {}))
        changes = _merge({"model": row.model}, settings)
        after = model_config(baseline["preset"], task, **{**baseline.get("model", {}), **changes["model"]})
        model = {k: v for k, v in changes["model"].items() if getattr(after, k) != getattr(before, k)}
        defaults = PretrainConfig if task == "pretraining" else FinetuneConfig
        changed = {k: v for k, v in changes.items() if baseline.get(k, getattr(defaults, k, None)) != v}
        return {**changed, "model": model}


def do_all(title: str, runs: ExperimentRuns, steps: Sequence[Step], num_rows: int = 1) -> None:
    """Do each run that is not there, and test the fine-tuned models; interrupted runs are resumed.

    With `parallel` above 1 first all pre-trainings, then all readings, each in its own process; else row by row. Says how far
    it is. Raises `Interrupted` if a signal stopped a run, and `UserError` for a folder that belongs to other settings.
    """
    steps = [step for step in steps if step.run.out not in runs.done]
    for step in steps:
        check_settings(step.run)
    parallel = runs.config.parallel or max(len(visible_gpus()), 1)
    if parallel == 1 or any(step.within is not nullcontext for step in steps):  # such a context is of this process
        _one_by_one(title, runs, steps, num_rows)
        return
    for name, is_first in (("pre-trainings", True), ("readings", False)):
        chosen = [step.run for step in steps if isinstance(step.run, PretrainConfig) == is_first]
        if chosen:
            say(f"{title}: {len(chosen)} {name}, {sum(map(is_done, chosen))} of them there, {parallel} at a time")
            _do(chosen, title, parallel)
            runs.done.update(run.out for run in chosen)


def _one_by_one(title: str, runs: ExperimentRuns, steps: Sequence[Step], num_rows: int) -> None:
    left = [step for step in steps if not is_done(step.run)]
    if there := len(steps) - len(left):
        say(f"{title}: {there} of {len(steps)} runs were done before")
    clock = Clock()
    for step in steps:
        if step in left:
            where = "trivial baselines"
            if step.row:
                where = f"row {step.row} of {num_rows}, pre-training {step.pretraining} of {len(runs.seeds)}"
            say(f"{title}: {where}, {clock.left([each.run for each in left])} ({step.run.out.name})")
        began = time.monotonic()
        # What is there is only checked, without the messages of a training.
        with step.within(), nullcontext() if step in left else silent():
            _do([step.run], title, 1)
        runs.done.add(step.run.out)
        if step in left:
            left.remove(step)
            clock.add(step.run, time.monotonic() - began)


def _do(configs: Sequence[AnyRun], title: str, parallel: int) -> None:
    if stopped_by := run_all(do_one, configs, parallel):
        raise Interrupted(stopped_by, f"{title}: interrupted and saved; the same command continues it")


class Clock:
    """How long the rest of the runs will take, from those done so far: the mean time per epoch of each kind of run."""

    def __init__(self) -> None:
        self._seconds: dict[type, float] = defaultdict(float)
        self._epochs: dict[type, float] = defaultdict(float)

    def add(self, run: AnyRun, seconds: float) -> None:
        """A run that took so long."""
        self._seconds[type(run)] += seconds
        self._epochs[type(run)] += _epochs(run)

    def left(self, runs: Sequence[AnyRun]) -> str:
        """The time that these runs will take, as text; not known before one run of each kind is done."""
        if any(type(run) not in self._seconds for run in runs):
            return "time left not known yet"
        rates = {kind: seconds / self._epochs[kind] for kind, seconds in self._seconds.items()}
        return f"about {duration(sum(rates[type(run)] * _epochs(run) for run in runs))} left"


def _epochs(run: AnyRun) -> float:
    """Epochs of all videos. Those of a part of the videos are as long in pre-training (see `TrainConfig.fraction`)."""
    return run.epochs * run.fraction if isinstance(run, FinetuneConfig) else run.epochs


def do_one(run: AnyRun) -> int:
    """Do one run, or the rest of it; returns the number of the signal that interrupted it, else 0."""
    if isinstance(run, ProbeRun):
        return probe_encoder(run)
    if isinstance(run, FinetuneConfig):
        return run_fold(run)
    return pretrain(replace(run, resume=True)).stopped_by


def is_done(run: AnyRun) -> bool:
    """Whether a run's results are there, of whatever settings."""
    if isinstance(run, ProbeRun):
        return run.is_done
    return (run.out / (EVALUATION_FOLDER if isinstance(run, FinetuneConfig) else "") / METRICS_FILE).is_file()


def check_settings(run: AnyRun) -> None:
    """Raise `UserError` that names the file by which a training's folder belongs to other settings.

    Probes check their folder when they are done, by the weights that they read.
    """
    if isinstance(run, TrainConfig) and (file := run.out / RUN_CONFIG).is_file():
        try:
            RunFolder(resolve(replace(run, resume=True))).check()
        except UserError as error:
            raise UserError(f"{file}: is of other settings than this experiment's. {error}") from None


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
