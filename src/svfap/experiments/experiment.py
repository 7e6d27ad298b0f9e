"""Run the paper's experiments: train the missing runs, score them, write each table and figure."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import mean
from tempfile import TemporaryDirectory
from typing import Any

import pandas as pd
import yaml
from matplotlib.figure import Figure

from svfap.console import counted
from svfap.data.prepared import read_dataset, write_dataset_file
from svfap.errors import UserError
from svfap.experiments.config import ExperimentConfig
from svfap.experiments.reconstructions import run_reconstructions
from svfap.experiments.results import FINETUNE, READER_NAMES, Line, Results
from svfap.experiments.runs import BASELINE, ExperimentRuns, do_all
from svfap.experiments.studies import RECONSTRUCTIONS, STUDIES, Reported, Study, StudyRow, chosen_experiments
from svfap.files import make_folder, write_atomically
from svfap.formats import read_settings_file
from svfap.metric_table import interval_text, is_percent, metric_heading, p_text
from svfap.model.complexity import complexity
from svfap.probe.table import CHANCE
from svfap.settings import checked_settings, require_weights
from svfap.train.config import FinetuneConfig, PretrainConfig, TrainConfig
from svfap.train.resolve import resolve
from svfap.view.figures.base import save_figure
from svfap.view.figures.studies import Bar, study_figure
from svfap.view.tables import write_table
from svfap.weighted import described

# not allowed in settings files
SET_BY_EXPERIMENT = {"seed", "resume", "parallel", "manifest", "root", "split", "val_manifest", "val_split"}
SYNTHETIC = Path(__file__).parent / "synthetic"
COST_COLUMNS = ("parameters, M", "fine-tune, G", "pre-train, G")
MAX_ERROR = 0.015  # standard error above which a caption warns


def experiment(name: str, config: ExperimentConfig) -> dict[str, pd.DataFrame]:
    """Run one experiment, or all of them with the name "all".

    Writes `NAME.md`, `.csv`, `.tex`, `.json` and `.png` into `config.out`, and the training runs into its subfolder `runs`.
    Finished runs are kept and interrupted ones resumed. Returns the tables (text cells) by name. Raises `UserError`.
    """
    names = chosen_experiments(name)
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UserError("start experiments without torchrun: they start one process per GPU themselves")
    make_folder(config.out)
    runs = experiment_runs(config, names)
    if set(names) != {RECONSTRUCTIONS}:
        runs.require_labels()
    return {
        name: run_reconstructions(name, runs) if name == RECONSTRUCTIONS else run_study(name, STUDIES[name], runs)
        for name in names
    }


def experiment_runs(config: ExperimentConfig, names: Sequence[str] = ()) -> ExperimentRuns:
    """The baseline's settings and the dataset; without a dataset, synthetic faces are rendered first.

    names: experiments whose settings are all checked before anything is rendered. Raises `UserError`.
    """
    pretrain = read_settings(PretrainConfig, config.pretrain_config)
    finetune = read_settings(FinetuneConfig, config.finetune_config)
    if folder := config.dataset or finetune.get("dataset"):
        return _runs_on(folder, config, pretrain, finetune, names)
    from svfap.synth.config import SynthConfig
    from svfap.synth.dataset import describe_dataset, synthesize

    settings = yaml.safe_load((SYNTHETIC / "synth.yaml").read_text())
    faces = SynthConfig(out=config.out / "data", num_workers=2, **settings)
    pretrain = pretrain or read_settings(PretrainConfig, SYNTHETIC / "pretrain.yaml")
    finetune = finetune or read_settings(FinetuneConfig, SYNTHETIC / "finetune.yaml")
    with TemporaryDirectory() as described:
        write_dataset_file(Path(described), describe_dataset(faces))
        _runs_on(Path(described), config, pretrain, finetune, names)
    synthesize(faces)
    return _runs_on(faces.out, config, pretrain, finetune, names)


def _runs_on(
    folder: Path, config: ExperimentConfig, pretrain: dict[str, Any], finetune: dict[str, Any], names: Sequence[str]
) -> ExperimentRuns:
    """The runs on a dataset, with the settings of the YAML files. Raises `UserError` for what does not fit."""
    dataset = read_dataset(folder)
    if dataset.task == "unlabelled" or not dataset.folds:
        raise UserError(f"dataset={folder}: has no labels to fine-tune on; give it as `pretrain_dataset`")
    fold_name = config.fold or finetune.get("fold")
    fold = dataset.folds[0] if fold_name is None else dataset.fold(fold_name)
    if fold.test is None:
        raise UserError(f"dataset={folder}: fold {fold.name} has no test part")
    preset = config.preset or finetune.get("preset") or pretrain.get("preset") or FinetuneConfig.preset
    weights = config.weights or finetune.get("init")
    source = config.pretrain_dataset or pretrain.get("dataset") or (folder if dataset.pretrain else None)
    if source is None and weights is None:
        raise UserError(f"dataset={folder}: has no videos for pre-training; give `pretrain_dataset` or `weights`")
    defaults = {"epochs": PretrainConfig.epochs, "warmup_epochs": PretrainConfig.warmup_epochs}
    pretrain = {**defaults, **pretrain, "preset": preset, "dataset": source}
    finetune = {**finetune, "preset": preset, "dataset": folder, "fold": fold.name}
    finetune.pop("init", None)
    runs = ExperimentRuns(config, config.out / "runs", dataset, pretrain, finetune, weights)
    if names and weights is not None:
        require_weights(weights, "init" if config.weights is None else "weights")
    for name in names:
        rows = [BASELINE] if name == RECONSTRUCTIONS else runs.rows(STUDIES[name])
        if source is None and any(runs.pretrainings(row) for row in rows):
            raise UserError(f"experiment {name} needs pre-training; give `pretrain_dataset`")
        for step in runs.steps(rows):
            if isinstance(step.run, TrainConfig):
                resolve(step.run)
    return runs


def run_study(
    name: str,
    study: Study,
    runs: ExperimentRuns,
    more: Callable[[StudyRow], Mapping[str, str]] = lambda row: {},
) -> pd.DataFrame:
    """Do the runs of one study; writes its table, numbers and figure into `out` and returns the table.

    more: further cells of a row, heading -> text.
    """
    rows, out = runs.rows(study), runs.config.out
    do_all(name, runs, runs.steps(rows), len(rows))
    results = Results(runs, rows)
    lines = results.lines()
    table = study_table(study, results, lines, more)
    caption = study_caption(study, results, lines)
    write_table(out / name, table, caption)
    content = {
        "caption": caption, "metrics": results.metrics, "reference": results.reference.name,
        "pretrainings": len(runs.seeds), "readings": results.num_readings, "lines": [line.record() for line in lines],
    }  # fmt: skip
    write_atomically(out / f"{name}.json", json.dumps(content, indent=2) + "\n")
    save_figure(_figure(study, results, lines), out / f"{name}.png")
    return table


def study_table(
    study: Study,
    results: Results,
    lines: Sequence[Line],
    more: Callable[[StudyRow], Mapping[str, str]] = lambda row: {},
) -> pd.DataFrame:
    """The table as text cells; see docs/experiments.md for the columns."""
    runs, (main, *others) = results.runs, results.metrics
    rows = {row.name: row for row in results.rows}
    costs, further = (
        {row.name: _costs(runs, row) for row in results.rows},
        {row.name: dict(more(row)) for row in results.rows},
    )
    cells = []
    for number, line in enumerate(lines):
        row = rows.get(line.row) if number < len(rows) * len(results.readers) else None
        estimate = line.estimates[main]
        cell: dict[str, Any] = {study.axis: line.row, "read by": READER_NAMES[line.reader]}
        cell[metric_heading(main)] = interval_text(main, estimate.value, estimate.low, estimate.high)
        cell["standard error"] = interval_text(main, estimate.standard_error, math.nan, math.nan) or "–"
        cell[f"difference to {results.reference.name}"], cell["p (Holm)"] = _compared(main, line)
        for metric in others:
            other = line.estimates[metric]
            cell[metric_heading(metric)] = interval_text(metric, other.value, other.low, other.high)
        cell |= costs[line.row] if row is not None else dict.fromkeys(COST_COLUMNS, "")
        paper = Reported() if row is None else row.paper
        if any(other.paper.scores for other in rows.values()):
            cell["paper: UAR / WAR, %"] = paper.scores_text
        if any(other.paper.costs for other in rows.values()):
            cell["paper: M, G, G"] = ", ".join("–" if c is None else f"{c:g}" for c in paper.costs)
        cells.append(cell | (further[line.row] if row is not None else {}))
    return pd.DataFrame(cells).fillna("")


def _costs(runs: ExperimentRuns, row: StudyRow) -> dict[str, str]:
    """The cells of the costs of a row's models."""
    finetuned, pretrained = (complexity(config) for config in runs.model_configs(row))
    pretrain = "–" if row.pretrain is None else f"{pretrained.multiply_adds / 1e9:.3g}"
    texts = (f"{finetuned.parameters / 1e6:.2f}", f"{finetuned.multiply_adds / 1e9:.3g}", pretrain)
    return dict(zip(COST_COLUMNS, texts, strict=True))


def _compared(metric: str, line: Line) -> tuple[str, str]:
    """The cells of the difference to the reference row and of its p."""
    if line.difference is None:
        return "reference", ""
    if line.same_runs:
        return "the same runs", ""
    found = line.difference
    text = interval_text(metric, found.value, found.low, found.high, signed=True)
    if math.isnan(line.p):
        return text, "not tested"
    p = p_text(line.p)
    return text, p if line.shows_difference else f"{p}, no difference shown"


def study_caption(study: Study, results: Results, lines: Sequence[Line]) -> str:
    """What was run and scored on whom, what the intervals and tests are, and how far the standard error is down."""
    runs, dataset = results.runs, results.runs.dataset
    keys, people, known = results.test
    number, readings = len(runs.seeds), counted(results.num_readings, "reading")
    reference, main = results.reference.name, results.metrics[0]
    units = f"{len(set(people))} people" if known else f"{len(set(people))} units, as people are not known"
    parts = [
        f"{study.title} (the paper's {study.source}). {dataset.title}, {dataset.task}; {len(keys)} test clips of {units}.",
        f"Each row: pre-training seeds 0 to {number - 1}, {readings} of each." if number > 1 else
        f"Each row: one pre-training, {readings}, so there are no intervals over pre-trainings and no tests.",
    ]  # fmt: skip
    if number > 1:
        what = f"in brackets 95% intervals over pre-trainings and {'people' if known else 'units'}"
        parts.append(
            f"Mean over all, {what}. Differences are to the reference row, {reference}, paired by seed and test clips; p is "
            "after Holm's correction for the rows of a reader, and for the trivial baselines (chance, pixels, untrained), and "
            "intervals are not corrected. No difference shown: p is not below 0.05, which does not mean that there is none."
        )
    if any(row.pretrain is None for row in results.rows):
        parts.append(
            "A row without pre-training here has as many readings, each fine-tuning with first weights of its own."
        )
    if given := [row.name for row in results.rows if runs.starts_from_given(row)]:
        parts.append(f"{', '.join(given)}: one pre-training that was given, so the interval is not over pre-trainings.")
    errors = {f"{line.row} ({READER_NAMES[line.reader]})": line.estimates[main].standard_error for line in lines}
    alike = [name for name, error in errors.items() if math.isnan(error)] if number > 1 else []
    errors = {name: error for name, error in errors.items() if not math.isnan(error)}
    if alike:
        parts.append(f"No interval and no test where all pre-trainings and people score alike: {', '.join(alike)}.")
    if errors:
        parts.append(f"Standard error of a row: {_points(main, *(bound(errors.values()) for bound in (min, max)))}.")
        if large := [name for name, error in errors.items() if error > MAX_ERROR]:
            parts.append(
                f"Warning: it is above {_points(main, MAX_ERROR)} for {', '.join(large)}; more pre-trainings or test people are "
                "needed to show small differences."
            )
    if any(row.paper.scores for row in results.rows):
        parts.append("The paper's numbers are of SVFAP-B on fold 1 of DFEW.")
    return " ".join(parts)


def _points(metric: str, *errors: float) -> str:
    """1.5 points of a percentage, or 0.015; of several the range."""
    texts = [interval_text(metric, error, math.nan, math.nan) for error in errors]
    return " to ".join(dict.fromkeys(texts)) + (" points" if is_percent(metric) else "")


def _figure(study: Study, results: Results, lines: Sequence[Line]) -> Figure:
    """Rows by each reader; chance, and in the panels of probes what the same reader finds without pre-training."""
    main, num_rows = results.metrics[0], len(results.rows)
    panels: dict[str, dict[str, Bar]] = {}
    baselines: dict[str, dict[str, float]] = {}
    rows, trivial = lines[: num_rows * len(results.readers)], lines[num_rows * len(results.readers) :]
    for line in rows:
        estimate, each = line.estimates[main], [mean(group) for group in line.readings[main]]
        bar = Bar(estimate.value, estimate.low, estimate.high, each)
        panels.setdefault(READER_NAMES[line.reader], {})[line.row] = bar
    for reader in results.readers:
        shown = [line for line in trivial if line.reader in (reader, CHANCE)]
        baselines[READER_NAMES[reader]] = {line.row: line.estimates[main].value for line in shown}
    paper = {row.name: row.paper.scores[main] for row in results.rows if main in row.paper.scores}
    title = f"{study.title} ({study.source})"
    return study_figure(
        panels, main, study.axis, reference=results.reference.name, joined=study.swept, title=title, baselines=baselines,
        paper=paper if results.readers[0] == FINETUNE else {},
    )  # fmt: skip


def read_settings(config: type[TrainConfig], file: Path | None) -> dict[str, Any]:
    """The settings in a YAML file, checked like the training verb's --config; empty without a file. Raises `UserError`."""
    if file is None:
        return {}
    settings = checked_settings(config, read_settings_file(file), file)
    settings.pop("out", None)
    if isinstance(settings.get("dataset"), list):
        raise UserError(f"{file}: dataset={described(settings['dataset'])}: experiments take one dataset; give one")
    if refused := sorted(SET_BY_EXPERIMENT & set(settings)):
        reason = "experiments use a prepared dataset and seeds of their own (`pretrainings`, `readings`)"
        raise UserError(f"{file}: {refused[0]} cannot be set here; {reason}")
    return settings
