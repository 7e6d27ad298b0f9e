"""One command for each of the paper's experiments: train what is missing, score it, write the table and the figure."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import pandas as pd
import yaml
from jsonargparse import ArgumentError, ArgumentParser

from svfap import paper
from svfap.data.prepared import read_dataset
from svfap.errors import UserError
from svfap.experiments.lab import Lab, train_all
from svfap.experiments.studies import STUDIES, Row, Study
from svfap.files import make_folder, write_atomically
from svfap.metric_table import is_percent, metric_heading, metric_scale
from svfap.model.complexity import complexity
from svfap.train.config import FinetuneConfig, PretrainConfig, TrainConfig, read_settings_file
from svfap.view.figures.base import save_figure
from svfap.view.figures.studies import study_bars, study_lines
from svfap.view.tables import write_table

NOT_OF_A_ROW = {"seed", "manifest", "root", "split", "val_manifest", "val_split"}  # settings that a lab decides itself
SYNTHETIC = Path(__file__).parent / "synthetic"
NAMES = (*STUDIES, "reconstructions", "all")


@dataclass(frozen=True)
class Setup:
    """What `svfap experiment` is given; see its --help."""

    out: Path
    dataset: Path | None = None
    fold: str | None = None
    pretrain_dataset: Path | None = None
    pretrain_config: Path | None = None
    finetune_config: Path | None = None
    preset: str | None = None
    weights: str | None = None
    videomae: str | None = None
    seeds: int = 3
    share_pretraining: bool = True
    parallel: int | None = None


def experiment(name: str, setup: Setup) -> dict[str, pd.DataFrame]:
    """Run one experiment, or all, and write `OUT/NAME.{md,csv,tex,json,png}`; returns the tables.

    Runs lie in `OUT/runs`; what is there is not done again, and what was broken off goes on. Raises `UserError`.
    """
    if name not in NAMES:
        raise UserError(f"experiment {name!r} is none of {', '.join(NAMES)}")
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UserError("start experiments without torchrun: they run one process per GPU by themselves")
    if setup.seeds < 1:
        raise UserError(f"seeds={setup.seeds}: must be at least 1")
    make_folder(setup.out)
    lab = open_lab(setup)
    chosen = list(STUDIES) if name == "all" else [name] if name in STUDIES else []
    tables = {study: run_study(study, lab, setup) for study in chosen}
    if name in ("reconstructions", "all"):
        from svfap.experiments.reconstructions import run_reconstructions

        tables["reconstructions"] = run_reconstructions(lab, setup.out, setup.parallel)
    return tables


def open_lab(setup: Setup) -> Lab:
    """The base settings and the videos: the dataset's that is given, else synthetic faces, drawn here."""
    pretrain = read_settings(PretrainConfig, setup.pretrain_config)
    finetune = read_settings(FinetuneConfig, setup.finetune_config)
    folder = setup.dataset or finetune.pop("dataset", None)
    if folder is None:
        from svfap.synth.config import SynthConfig
        from svfap.synth.dataset import synthesize

        folder = setup.out / "data"
        settings = yaml.safe_load((SYNTHETIC / "synth.yaml").read_text())
        synthesize(SynthConfig(out=folder, num_workers=2, **settings))
        pretrain = pretrain or read_settings(PretrainConfig, SYNTHETIC / "pretrain.yaml")
        finetune = finetune or read_settings(FinetuneConfig, SYNTHETIC / "finetune.yaml")
    dataset = read_dataset(folder)
    if dataset.task == "unlabelled" or not dataset.folds:
        raise UserError(f"{folder}: has no labels to fine-tune on; give it as --pretrain_dataset")
    chosen = setup.fold or finetune.pop("fold", None)
    fold = dataset.folds[0] if chosen is None else dataset.fold(chosen)
    if fold.test is None:
        raise UserError(f"{folder}: fold {fold.name} has no test part")
    preset = setup.preset or finetune.get("preset") or pretrain.get("preset") or FinetuneConfig.preset
    weights = setup.weights or finetune.pop("init", None)
    source = setup.pretrain_dataset or pretrain.get("dataset") or (folder if dataset.pretrain else None)
    if source is None and weights is None:
        raise UserError(f"{folder}: has no videos for pre-training; give --pretrain_dataset or --weights")
    defaults = {"epochs": PretrainConfig.epochs, "warmup_epochs": PretrainConfig.warmup_epochs}
    return Lab(
        out=setup.out / "runs",
        dataset=dataset,
        pretrain={**defaults, **pretrain, "preset": preset, "dataset": source},
        finetune={**finetune, "preset": preset, "dataset": folder, "fold": fold.name},
        seeds=tuple(range(setup.seeds)),
        weights=weights,
        videomae=setup.videomae,
        share_pretraining=setup.share_pretraining,
    )


def run_study(name: str, lab: Lab, setup: Setup) -> pd.DataFrame:
    """The table of one experiment, as text cells, written beside its figure."""
    study = STUDIES[name]
    rows = lab.rows(study)
    if lab.pretrain["dataset"] is None and any(lab.pretrainings(row) for row in rows):
        raise UserError(f"experiment {name} needs pre-training; give --pretrain_dataset")
    train_all(f"{name}: pre-training", [c for row in rows for c in lab.pretrainings(row)], setup.parallel)
    train_all(f"{name}: fine-tuning", [c for row in rows for c in lab.finetunings(row)], setup.parallel)
    scores = {row.name: lab.scores(row) for row in rows}
    table = _table(name, lab, rows, scores)
    caption = _caption(study, lab, setup, name in paper.EXPERIMENTS)
    write_table(setup.out / name, table, caption)
    write_atomically(setup.out / f"{name}.json", json.dumps({"caption": caption, "scores": scores}, indent=2) + "\n")
    reference = paper.EXPERIMENTS.get(name, {})
    metrics = [metric for metric in lab.dataset.metrics if metric in next(iter(scores.values()))[0]]
    drawing = study_lines if study.swept else study_bars
    spread = {row: {m: [seed[m] for seed in seeds] for m in metrics} for row, seeds in scores.items()}
    theirs = {row: dict(zip(("uar", "war"), pair, strict=True)) for row, pair in reference.items()}
    figure = drawing(spread, metrics, study.axis, title=f"{study.title} ({study.source})", reference=theirs)
    save_figure(figure, setup.out / f"{name}.png")
    return table


def _table(name: str, lab: Lab, rows: Sequence[Row], scores: dict[str, list[dict[str, float]]]) -> pd.DataFrame:
    lines = []
    costs = paper.COSTS.get(name, {})
    for row in rows:
        tuned, masked = (complexity(config) for config in lab.configs(row))
        line: dict[str, Any] = {STUDIES[name].axis: row.name}
        for metric in lab.dataset.metrics:
            values = [seed[metric] for seed in scores[row.name]]
            line[metric_heading(metric)] = _spread(
                [metric_scale(metric) * v for v in values], 1 if is_percent(metric) else 3
            )
        line |= {
            "parameters, M": f"{tuned.parameters / 1e6:.2f}",
            "fine-tune, G": f"{tuned.multiply_adds / 1e9:.3g}",
            "pre-train, G": "–" if row.pretrain is None else f"{masked.multiply_adds / 1e9:.3g}",
        }
        if name in paper.EXPERIMENTS:
            pair = paper.EXPERIMENTS[name].get(row.name)
            line["paper: UAR / WAR, %"] = "" if pair is None else f"{100 * pair[0]:.2f} / {100 * pair[1]:.2f}"
        if costs:
            line["paper: M, G, G"] = ", ".join("–" if c is None else f"{c:g}" for c in costs[row.name])
        lines.append(line)
    return pd.DataFrame(lines)


def _caption(study: Study, lab: Lab, setup: Setup, known: bool) -> str:
    seeds = f"seeds 0 to {setup.seeds - 1}" if setup.seeds > 1 else "one seed"
    shared = " of fine-tuning after one pre-training" if setup.share_pretraining and setup.seeds > 1 else ""
    spread = ", mean ± standard deviation and each seed" if setup.seeds > 1 else ""
    chance = (
        f"; chance is {100 / len(lab.dataset.label_names):.1f}% UAR" if lab.dataset.task == "classification" else ""
    )
    beside = "; the paper's are of SVFAP-B on fold 1 of DFEW" if known else ""
    return (
        f"{study.title} (the paper's {study.source}). {lab.dataset.title}, {lab.dataset.task}, {seeds}{shared}{spread}"
        f"{chance}{beside}."
    )


def _spread(values: Sequence[float], digits: int) -> str:
    """ "37.9 ± 8.1 (42.0, 43.1, 28.6)"."""
    if len(values) == 1:
        return f"{values[0]:.{digits}f}"
    each = ", ".join(f"{v:.{digits}f}" for v in values)
    return f"{mean(values):.{digits}f} ± {stdev(values):.{digits}f} ({each})"


def read_settings(config: type[TrainConfig], file: Path | None) -> dict[str, Any]:
    """What a YAML file says, checked as the command's own --config is; nothing without a file. Raises `UserError`."""
    if file is None:
        return {}
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(config, skip={"out"})
    parser.add_argument("--out", type=Path | None)  # a recipe's own folder has no use here
    try:
        words = parser.parse_object(read_settings_file(file), defaults=False).clone(with_meta=False)
    except (ArgumentError, TypeError, ValueError) as error:
        raise UserError(f"{file}: {' '.join(str(error).split())}") from None
    given = {name: value for name, value in words.as_dict().items() if name != "out"}
    for name in sorted(NOT_OF_A_ROW & set(given)):
        raise UserError(f"{file}: {name} has no use here; experiments take a dataset, and seeds 0 to --seeds - 1")
    return given
