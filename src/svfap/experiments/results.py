"""What the runs of a study scored: each row by each reader with its interval, differences to the reference row, baselines."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from svfap.data.manifest import read_manifest
from svfap.data.split import units_of
from svfap.errors import UserError
from svfap.evaluation.confidence import SubjectScore, subject_scores
from svfap.evaluation.config import EVALUATION_FOLDER
from svfap.evaluation.predictions import (
    FRAMES_FILE,
    METRICS_FILE,
    PREDICTIONS_FILE,
    UNREADABLE_FILE,
    labelled_outputs,
    read_predictions,
)
from svfap.evaluation.replication import SIGNIFICANCE, Estimate, difference, holm, row_estimate, table_differences
from svfap.experiments.config import PROBES
from svfap.experiments.probing import ATTENTIVE, LINEAR, LINEAR_FEATURES, LINEAR_TOKENS
from svfap.experiments.runs import ExperimentRuns
from svfap.experiments.studies import StudyRow
from svfap.metric_table import METRICS, main_metric
from svfap.probe.table import CHANCE

FINETUNE = "finetune"
READER_NAMES = {
    FINETUNE: "fine-tuning",
    LINEAR: "probe, linear",
    LINEAR_TOKENS: "probe, linear, all tokens",
    ATTENTIVE: "probe, attentive",
    CHANCE: "–",
}
Files = tuple[tuple[Path, ...], ...]  # predictions: for each pre-training those of its readings


@dataclass(frozen=True)
class Line:
    """One row of a study as one reader reads it, or a trivial baseline.

    row, reader: what was read, and how (`finetune`, one of `PROBES`, `chance`). readings: metric -> for each pre-training
    the score of each reading. estimates: metric -> mean over all. difference: of the main metric to the reference row, p
    not corrected; None for the reference itself. p: after Holm's correction. same_runs: its runs are the reference's.
    """

    row: str
    reader: str
    readings: dict[str, list[list[float]]]
    estimates: dict[str, Estimate]
    difference: Estimate | None = None
    p: float = math.nan
    same_runs: bool = False

    @property
    def shows_difference(self) -> bool:
        """Whether the row differs from the reference at 5%, after the correction."""
        return self.p < SIGNIFICANCE

    def record(self) -> dict[str, Any]:
        """As written into JSON, where NaN is null."""
        scores = {
            metric: {**_without_nan(estimate._asdict()), "readings": self.readings[metric]}
            for metric, estimate in self.estimates.items()
        }
        for score in scores.values():
            del score["p"]  # of the test against 0, which nobody asks for
        compared = None if self.difference is None else _without_nan({**self.difference._asdict(), "p_holm": self.p})
        return {"row": self.row, "reader": self.reader, "scores": scores, "difference": compared}


@dataclass(frozen=True)
class Results:
    """The predictions of all runs of a study, read and compared. Raises `UserError` for test videos that were not read."""

    runs: ExperimentRuns
    rows: Sequence[StudyRow]
    _read: dict[tuple[Path, ...], dict[str, SubjectScore]] = field(default_factory=dict)

    @property
    def readers(self) -> list[str]:
        """How the rows are read, fine-tuning first."""
        return list(self.runs.config.readers)

    @property
    def num_readings(self) -> int:
        """Of each pre-training, by the readers that have a seed; the linear ones have none, and read once."""
        return self.runs.config.readings if set(self.readers) - set(LINEAR_FEATURES) else 1

    @property
    def reference(self) -> StudyRow:
        """The row that the others are tested against."""
        return next(row for row in self.rows if row.reference)

    @cached_property
    def test(self) -> tuple[NDArray[np.object_], NDArray[np.object_], bool]:
        """The test videos: keys (N,), the person of each or where not known another unit (N,), whether all are known."""
        dataset = self.runs.dataset
        fold = dataset.fold(self.runs.finetune["fold"])
        assert fold.test is not None and dataset.task != "unlabelled"
        names: dict[str, Any] = {
            "label_names" if dataset.task == "classification" else "dimensions": dataset.label_names
        }
        level = dataset.frame_level
        manifest = read_manifest(fold.test, root=dataset.root, task=dataset.task, frame_level=level, **names)
        units = units_of(manifest.table, manifest.root)
        keys = np.array([sample.key for sample in manifest], dtype=object)
        people = np.array(units.names, dtype=object)[units.of] if units.num > 1 else keys
        return keys, people, manifest.subjects is not None and all(manifest.subjects)

    @property
    def metrics(self) -> list[str]:
        """Those that are shown, the main one first: of the protocol's those that are sums over people."""
        dataset = self.runs.dataset
        main = main_metric(dataset.task)
        known = {"classification": ("uar", "war"), "regression": ("ccc", "pcc")}[dataset.task]
        return [main, *(metric for metric in dataset.metrics if metric in known and metric != main)]

    def lines(self) -> list[Line]:
        """The study's rows by each reader, then the trivial baselines: chance, pixels (with each part of the labels that rows
        have), and the untrained encoder.

        The baselines are compared with the reference as it is read in the same way (chance as by the linear reader); where that
        reader is not chosen, as by the first of `PROBES` that is, and fine-tuned if the rows are not probed. Holm's correction
        is for the rows of a reader, and for the baselines together.
        """
        lines = []
        for reader in self.readers:
            files = [self._files(row, reader) for row in self.rows]
            at = self.rows.index(self.reference)
            compared = table_differences([self._scores(each, self.metrics[0]) for each in files], at)
            tested = [one.p if each != files[at] else math.nan for one, each in zip(compared, files, strict=True)]
            for row, each, one, p in zip(self.rows, files, compared, holm(tested), strict=True):
                found = None if row.reference else one
                lines.append(self._line(row.name, reader, each, found, p, each == files[at] and not row.reference))
        return lines + self._trivial()

    def _trivial(self) -> list[Line]:
        untrained, pixels = self.runs.untrained_probes(), self.runs.pixel_probes(self.rows)
        named = {part: "pixels" if part == 1 else f"{100 * part:g}%, pixels" for part in pixels}
        probed = [
            ("chance", CHANCE, pixels[1.0]),
            *((named[part], LINEAR, probes) for part, probes in pixels.items()),
            *(("untrained", kind, untrained) for kind in self.runs.config.probes),
        ]
        planned = [(name, kind, tuple(tuple(probe.files(kind)) for probe in probes)) for name, kind, probes in probed]
        main, compared = self.metrics[0], []
        for _, reader, files in planned:
            known = ({CHANCE: LINEAR}.get(reader, reader), *PROBES, FINETUNE)
            reference = self._files(self.reference, next(each for each in known if each in self.readers))
            compared.append(difference(self._scores(files, main), self._scores(reference, main)))
        corrected = holm([one.p for one in compared])
        return [self._line(*one, found, p) for one, found, p in zip(planned, compared, corrected, strict=True)]

    def _line(
        self, row: str, reader: str, files: Files, found: Estimate | None, p: float, same_runs: bool = False
    ) -> Line:
        readings = {
            metric: [[self._score((file,))[metric].value for file in group] for group in files]
            for metric in self.metrics
        }
        estimates = {
            metric: row_estimate(self._scores(files, metric), limits=METRICS[metric].limits) for metric in self.metrics
        }
        return Line(row, reader, readings, estimates, found, p, same_runs)

    def _files(self, row: StudyRow, reader: str) -> Files:
        if reader != FINETUNE:
            return tuple(tuple(probe.files(reader)) for probe in self.runs.probes(row))
        name = FRAMES_FILE if self.runs.dataset.frame_level else PREDICTIONS_FILE
        return tuple(tuple(one.out / EVALUATION_FOLDER / name for one in group) for group in self.runs.finetunings(row))

    def _scores(self, files: Files, metric: str) -> list[SubjectScore]:
        """For each pre-training the mean over its readings."""
        return [self._score(group)[metric] for group in files]

    def _score(self, files: tuple[Path, ...]) -> dict[str, SubjectScore]:
        """The mean scores of several predictions of the test videos, by metric."""
        if files not in self._read:
            found = [self._outputs(file) for file in files]
            people, targets, _ = found[0]
            names = self.runs.dataset.label_names
            self._read[files] = subject_scores(targets, np.stack([one[2] for one in found]), people, names)
        return self._read[files]

    def _outputs(self, file: Path) -> tuple[NDArray[np.object_], NDArray[Any], NDArray[np.float64]]:
        """People (N,), targets and outputs (N, K) of predictions, in the order of the test part."""
        dataset, (keys, people, _) = self.runs.dataset, self.test
        if (metrics := file.parent / METRICS_FILE).is_file():
            counts = json.loads(metrics.read_text())
            if missing := counts["num_expected"] - counts["num_evaluated"]:
                raise UserError(
                    f"{metrics}: {missing} test videos could not be read; repair those listed in {UNREADABLE_FILE} beside "
                    "it and run again"
                )
        table, place = read_predictions(file), {key: number for number, key in enumerate(keys)}
        if stray := sorted(set(table["path"]) - set(place)):
            raise UserError(f"{file}: {stray[0]} is not in the test part; remove the folder and run again")
        assert dataset.task != "unlabelled"
        order = np.argsort(table["path"].map(place).to_numpy(), kind="stable")
        table = table.iloc[order].reset_index(drop=True)
        found = labelled_outputs(table, file, dataset.task, dataset.label_names)
        if found is None:
            raise UserError(f"{file}: has no predictions; remove the folder and run again")
        return people[table["path"].map(place).to_numpy()], found.targets, found.outputs


def _without_nan(numbers: dict[str, float]) -> dict[str, Any]:
    return {name: None if math.isnan(number) else number for name, number in numbers.items()}
