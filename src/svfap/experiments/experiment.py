"""Run the paper's experiments: train the missing runs, score them, write each table and figure."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any, get_type_hints

import pandas as pd
import yaml
from jsonargparse import ArgumentError, ArgumentParser

from svfap.data.prepared import read_dataset
from svfap.errors import UserError
from svfap.experiments.config import ExperimentConfig
from svfap.experiments.reconstructions import run_reconstructions
from svfap.experiments.runs import ExperimentRuns, train_all
from svfap.experiments.studies import RECONSTRUCTIONS, STUDIES, Study, StudyRow, chosen_experiments
from svfap.files import make_folder, write_atomically
from svfap.formats import read_settings_file
from svfap.metric_table import is_percent, metric_heading, metric_scale
from svfap.model.complexity import complexity
from svfap.settings import as_text
from svfap.train.config import FinetuneConfig, PretrainConfig, TrainConfig
from svfap.view.figures.base import save_figure
from svfap.view.figures.studies import study_figure
from svfap.view.tables import write_table

# not allowed in settings files
SET_BY_EXPERIMENT = {"seed", "resume", "parallel", "manifest", "root", "split", "val_manifest", "val_split"}
SYNTHETIC = Path(__file__).parent / "synthetic"


def experiment(name: str, config: ExperimentConfig) -> dict[str, pd.DataFrame]:
    """Run one experiment, or all of them with the name "all".

    Writes `NAME.md`, `.csv`, `.tex`, `.json` and `.png` into `config.out`, and the training runs into its subfolder `runs`.
    Finished runs are kept and interrupted ones resumed. Returns the tables (text cells) by name. Raises `UserError`.
    """
    names = chosen_experiments(name)
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UserError("start experiments without torchrun: they start one process per GPU themselves")
    make_folder(config.out)
    runs = experiment_runs(config)
    return {name: (run_reconstructions if name == RECONSTRUCTIONS else run_study)(name, runs, config) for name in names}


def experiment_runs(config: ExperimentConfig) -> ExperimentRuns:
    """The baseline's settings and the dataset; without a dataset, synthetic faces are rendered first."""
    pretrain = read_settings(PretrainConfig, config.pretrain_config)
    finetune = read_settings(FinetuneConfig, config.finetune_config)
    folder = config.dataset or finetune.pop("dataset", None)
    if folder is None:
        from svfap.synth.config import SynthConfig
        from svfap.synth.dataset import synthesize

        folder = config.out / "data"
        settings = yaml.safe_load((SYNTHETIC / "synth.yaml").read_text())
        synthesize(SynthConfig(out=folder, num_workers=2, **settings))
        pretrain = pretrain or read_settings(PretrainConfig, SYNTHETIC / "pretrain.yaml")
        finetune = finetune or read_settings(FinetuneConfig, SYNTHETIC / "finetune.yaml")
    dataset = read_dataset(folder)
    if dataset.task == "unlabelled" or not dataset.folds:
        raise UserError(f"dataset={folder}: has no labels to fine-tune on; give it as `pretrain_dataset`")
    fold_name = config.fold or finetune.pop("fold", None)
    fold = dataset.folds[0] if fold_name is None else dataset.fold(fold_name)
    if fold.test is None:
        raise UserError(f"dataset={folder}: fold {fold.name} has no test part")
    preset = config.preset or finetune.get("preset") or pretrain.get("preset") or FinetuneConfig.preset
    weights = config.weights or finetune.pop("init", None)
    source = config.pretrain_dataset or pretrain.get("dataset") or (folder if dataset.pretrain else None)
    if source is None and weights is None:
        raise UserError(f"dataset={folder}: has no videos for pre-training; give `pretrain_dataset` or `weights`")
    defaults = {"epochs": PretrainConfig.epochs, "warmup_epochs": PretrainConfig.warmup_epochs}
    pretrain = {**defaults, **pretrain, "preset": preset, "dataset": source}
    finetune = {**finetune, "preset": preset, "dataset": folder, "fold": fold.name}
    return ExperimentRuns(config, config.out / "runs", dataset, pretrain, finetune, weights)


def run_study(name: str, runs: ExperimentRuns, config: ExperimentConfig) -> pd.DataFrame:
    """Train and score the rows of one study; writes its table, scores and figure, returns the table."""
    study = STUDIES[name]
    rows = runs.rows(study)
    if runs.pretrain["dataset"] is None and any(runs.pretrainings(row) for row in rows):
        raise UserError(f"experiment {name} needs pre-training; give `pretrain_dataset`")
    train_all(f"{name}: pre-training", [c for row in rows for c in runs.pretrainings(row)], config.parallel)
    train_all(f"{name}: fine-tuning", [c for row in rows for c in runs.finetunings(row)], config.parallel)
    scores = {row.name: runs.scores(row) for row in rows}
    table = _table(study, rows, runs, scores)
    caption = _caption(study, rows, runs)
    write_table(config.out / name, table, caption)
    write_atomically(config.out / f"{name}.json", json.dumps({"caption": caption, "scores": scores}, indent=2) + "\n")
    metrics = [metric for metric in runs.dataset.metrics if metric in scores[rows[0].name][0]]
    values = {row: {m: [seed[m] for seed in seeds] for m in metrics} for row, seeds in scores.items()}
    paper = {row.name: row.paper.scores for row in rows}
    title = f"{study.title} ({study.source})"
    figure = study_figure(values, metrics, study.axis, joined=study.swept, title=title, reference=paper)
    save_figure(figure, config.out / f"{name}.png")
    return table


def _table(
    study: Study, rows: Sequence[StudyRow], runs: ExperimentRuns, scores: Mapping[str, list[dict[str, float]]]
) -> pd.DataFrame:
    cells = []
    for row in rows:
        finetuned, pretrained = (complexity(config) for config in runs.model_configs(row))
        line: dict[str, Any] = {study.axis: row.name}
        for metric in runs.dataset.metrics:
            values = [metric_scale(metric) * seed[metric] for seed in scores[row.name]]
            line[metric_heading(metric)] = _summary(values, digits=1 if is_percent(metric) else 3)
        line["parameters, M"] = f"{finetuned.parameters / 1e6:.2f}"
        line["fine-tune, G"] = f"{finetuned.multiply_adds / 1e9:.3g}"
        line["pre-train, G"] = "–" if row.pretrain is None else f"{pretrained.multiply_adds / 1e9:.3g}"
        if any(other.paper.scores for other in rows):
            line["paper: UAR / WAR, %"] = f"{row.paper.uar:.2f} / {row.paper.war:.2f}" if row.paper.scores else ""
        if any(other.paper.costs for other in rows):
            line["paper: M, G, G"] = ", ".join("–" if c is None else f"{c:g}" for c in row.paper.costs)
        cells.append(line)
    return pd.DataFrame(cells)


def _caption(study: Study, rows: Sequence[StudyRow], runs: ExperimentRuns) -> str:
    dataset, count, seeds = runs.dataset, len(runs.seeds), "one seed"
    if count > 1:
        shared = " of fine-tuning after one pre-training" if runs.config.share_pretraining else ""
        seeds = f"seeds 0 to {count - 1}{shared}, mean ± standard deviation and each seed"
    parts = [f"{study.title} (the paper's {study.source}). {dataset.title}, {dataset.task}, {seeds}"]
    if dataset.task == "classification":
        parts.append(f"chance is {100 / len(dataset.label_names):.1f}% UAR")
    if any(row.paper.scores for row in rows):
        parts.append("the paper's are of SVFAP-B on fold 1 of DFEW")
    return "; ".join(parts) + "."


def _summary(values: Sequence[float], digits: int) -> str:
    """Mean, standard deviation and each value: "37.9 ± 8.1 (42.0, 43.1, 28.6)"; a single value alone."""
    if len(values) == 1:
        return f"{values[0]:.{digits}f}"
    each = ", ".join(f"{v:.{digits}f}" for v in values)
    return f"{mean(values):.{digits}f} ± {stdev(values):.{digits}f} ({each})"


def read_settings(config: type[TrainConfig], file: Path | None) -> dict[str, Any]:
    """The settings in a YAML file, checked like the training verb's --config; empty without a file. Raises `UserError`."""
    if file is None:
        return {}
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(config, skip={"out"})
    parser.add_argument("--out", type=Path | None)  # a recipe may hold it; experiments choose the folders of runs
    try:
        hints = get_type_hints(config)
        given = {name: as_text(value, hints.get(name)) for name, value in read_settings_file(file).items()}
        parsed = parser.parse_object(given, defaults=False).clone(with_meta=False)
    except (ArgumentError, TypeError, ValueError) as error:
        raise UserError(f"{file}: {' '.join(str(error).split())}") from None
    settings: dict[str, Any] = parsed.as_dict()
    settings.pop("out", None)
    if refused := sorted(SET_BY_EXPERIMENT & set(settings)):
        reason = "experiments use a prepared dataset and the seeds 0 to seeds - 1"
        raise UserError(f"{file}: {refused[0]} cannot be set here; {reason}")
    return settings
