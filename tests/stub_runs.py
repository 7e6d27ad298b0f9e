"""Runs of experiments that are noted and not done: predictions of a known skill stand in for their results."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from svfap.data.manifest import read_manifest
from svfap.data.prepared import PreparedDataset
from svfap.evaluation.predictions import predictions_table, write_csv
from svfap.experiments.probing import ProbeRun
from svfap.train.config import FinetuneConfig, PretrainConfig

Skill = Callable[[Any, str], float]


class StubRuns:
    """Stands in for `run_all`: notes the runs, and writes their results.

    skill: from a run and the reader (`finetune`, `linear`, `attentive`, `chance`) to the share of test videos that are
    recognised (which ones depends on the run's folder), or of values 1 less the deviation of the outputs.
    """

    def __init__(self, dataset: PreparedDataset, skill: Skill = lambda run, reader: 0.5) -> None:
        test = dataset.folds[0].test
        assert test is not None
        assert dataset.task != "unlabelled"
        names: dict[str, Any] = {
            "label_names" if dataset.task == "classification" else "dimensions": dataset.label_names
        }
        manifest = read_manifest(test, root=dataset.root, task=dataset.task, **names)
        self.keys, self.names, self.task = [sample.key for sample in manifest], dataset.label_names, dataset.task
        self.labels, self.skill = manifest.labels, skill
        if dataset.task == "regression":
            self.values = manifest.table[list(self.names)].to_numpy(np.float64)
        self.done: list[Any] = []
        self.parallel: list[int | None] = []

    def __call__(self, work: Any, runs: Sequence[Any], parallel: int | None = None) -> int:
        self.done += runs
        self.parallel.append(parallel)
        for run in runs:
            run.out.mkdir(parents=True, exist_ok=True)
            if isinstance(run, PretrainConfig):
                (run.out / "metrics.json").write_text("{}")
            elif isinstance(run, FinetuneConfig):
                counts = {"num_expected": len(self.keys), "num_evaluated": len(self.keys)}
                (run.out / "evaluation").mkdir(exist_ok=True)
                (run.out / "evaluation" / "metrics.json").write_text(json.dumps(counts))
                self.write(run, "finetune", [run.out / "evaluation" / "predictions.csv"])
            else:
                for (reader, _), files in run.results.items():
                    self.write(run, reader, files)
        return 0

    def write(self, run: Any, reader: str, files: Sequence[Any]) -> None:
        """Predictions of the skill, drawn by the name of the file."""
        for file in files:
            rng = np.random.default_rng([1, zlib.crc32("/".join(file.parts[-3:]).encode())])
            if self.task == "regression":
                outputs = self.values + rng.normal(size=self.values.shape) * (1 - self.skill(run, reader))
                write_csv(file, predictions_table(self.keys, outputs, self.names, self.values, self.task))
                continue
            right = rng.random(len(self.keys)) < self.skill(run, reader)
            wrong = (self.labels + 1) % len(self.names)
            outputs = np.eye(len(self.names))[np.where(right, self.labels, wrong)]
            write_csv(file, predictions_table(self.keys, outputs, self.names, self.labels))

    def of(self, kind: type) -> list[Any]:
        """The runs of a kind that were asked for, in order."""
        return [run for run in self.done if isinstance(run, kind)]

    @property
    def probes(self) -> list[ProbeRun]:
        """The probes that were asked for, in order."""
        return self.of(ProbeRun)
