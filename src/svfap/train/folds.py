"""Cross-validation: train and test every fold of a prepared dataset, then pool their predictions."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from svfap.console import console
from svfap.data.prepared import Fold, PreparedDataset, read_dataset
from svfap.errors import UserError
from svfap.evaluate.evaluate import evaluate
from svfap.evaluate.metrics import write_metrics
from svfap.evaluate.pool import pool
from svfap.evaluate.results import paper_numbers, results_caption, results_table
from svfap.files import make_folder, write_atomically
from svfap.train.config import FinetuneConfig
from svfap.train.finetune import finetune
from svfap.train.parallel import run_parallel, visible_gpus
from svfap.train.resolve import resolve
from svfap.view.tables import write_table
from svfap.weights.folder import load_model

EVALUATION_FILES = ("metrics.json", "predictions.csv", "unreadable.csv")  # the last one is written last


@dataclass(frozen=True)
class Results:
    """The pooled table (cells as text), its caption, and all numbers as `results.json` holds them."""

    table: pd.DataFrame
    caption: str
    numbers: dict[str, Any]

    @property
    def summary(self) -> pd.DataFrame:
        """The table without the columns of single folds, narrow enough for a terminal."""
        return self.table[[name for name in self.table.columns if not name.startswith("fold ")]]


def fold_folder(out: Path, name: str) -> Path:
    """Where a fold's run lies in the folder of all."""
    return out / f"fold_{name}"


def finetune_folds(config: FinetuneConfig, resume: bool = False, parallel: int | None = None) -> Results | None:
    """Fine-tune on every fold of `config.dataset`, test each on its test part, and pool; None if it was interrupted.

    Each fold is a run of its own in `out`/fold_<name>, with its test in `evaluation/`. With `resume`, what is finished is
    kept and what broke off goes on. parallel: folds at a time, each in a process of its own; default: one per GPU.
    Writes `results.md`, `.csv`, `.tex` and `.json` into `out`. Raises `UserError`.
    """
    if config.dataset is None:
        raise UserError("fold=all: give dataset, a folder of `svfap prepare`; its folds are trained one by one")
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UserError(
            "fold=all: start it without torchrun, it runs one process per GPU; or torchrun each fold by itself"
        )
    if config.val_manifest is not None:
        raise UserError(
            "val_manifest: each fold has a validation part of its own with fold=all; leave val_manifest out"
        )
    dataset = _tested(read_dataset(config.dataset), config.dataset)
    out = Path(config.out)
    folders = {fold.name: fold_folder(out, fold.name) for fold in dataset.folds}
    begun = [name for name, folder in folders.items() if folder.exists()]
    if begun and not resume:
        raise UserError(
            f"out={out}: holds folds already ({', '.join(begun)}); --resume goes on, or choose another folder"
        )
    gpus = visible_gpus()
    parallel = min(parallel or max(len(gpus), 1), len(folders))
    workers = config.num_workers
    if workers is None:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        workers = max(cores // parallel - 1, 0)
    configs = [replace(config, fold=name, out=folder, num_workers=workers) for name, folder in folders.items()]
    for one in configs:
        resolve(one)  # a mistake shows now, not when its fold's turn comes
    make_folder(out)
    _remember(out, config.dataset, config.preset)
    finished = run_parallel(run_fold, configs, parallel, gpus) if parallel > 1 else _one_by_one(configs)
    if not finished:
        done = sum(_is_evaluated(folders[fold.name] / "evaluation", fold) for fold in dataset.folds)
        console.print(f"stopped: {done} of {len(folders)} folds are finished in {out}; the same command with --resume "
                      "goes on", soft_wrap=True)  # fmt: skip
        return None
    return pool_run(out)


def evaluate_folds(models: str, dataset: Path, out: Path, *, allow_incomplete: bool = False, **words: Any) -> Results:
    """Test a model per fold on its test part, and pool: models that were trained elsewhere, or the authors'.

    models: a run or model folder, with `{fold}` for the fold's name. words: settings of `svfap.evaluate.evaluate.evaluate`. An
    evaluation of the same model that lies in `out` is kept; one that lacks videos is, if `allow_incomplete`, else they are
    tried again. Writes what `finetune_folds` writes. Raises `UserError`.
    """
    described = _tested(read_dataset(dataset), dataset)
    if "{fold}" not in models and len(described.folds) > 1:
        raise UserError(
            f"models={models}: must hold {{fold}}, as in 'models/fold_{{fold}}'; {described.title} has several"
        )
    make_folder(out)
    preset = ""
    for fold in described.folds:
        model, folder = models.replace("{fold}", fold.name), fold_folder(out, fold.name) / "evaluation"
        if _is_evaluated(folder, fold, model, allow_incomplete):
            console.print(f"fold {fold.name}: {folder} holds the evaluation of {model} already", soft_wrap=True)
        else:
            _evaluate(model, dataset, fold, folder, words)
        preset = load_model(model).config.preset
    _remember(out, dataset, preset)
    return pool_run(out, allow_incomplete=allow_incomplete)


def pool_run(out: Path, dataset: Path | None = None, allow_incomplete: bool = False) -> Results:
    """Pool the evaluations in a folder of `finetune_folds` or `evaluate_folds`, and write the table anew.

    dataset: where it lies, if not where it lay. Raises `UserError`.
    """
    file = out / "folds.json"
    if not file.is_file():
        raise UserError(f"{out}: holds no folds.json; name a folder of `svfap finetune --fold all`, or give models")
    try:
        known = json.loads(file.read_text())
        known = {name: known[name] for name in ("dataset", "preset")}
    except (ValueError, TypeError, KeyError) as error:
        raise UserError(f"{file}: is damaged ({error}); `svfap finetune --fold all --resume` writes it anew") from None
    described = _tested(read_dataset(dataset or known["dataset"]), Path(dataset or known["dataset"]))
    folders = {fold.name: fold_folder(out, fold.name) / "evaluation" for fold in described.folds}
    scores = pool(described, folders, allow_incomplete)
    paper = paper_numbers(described.name, known["preset"])
    numbers = {"dataset": described.name, "preset": known["preset"], "paper": paper, **scores}
    results = Results(results_table(described, scores, paper), results_caption(described, scores), numbers)
    write_metrics(out / "results.json", {"caption": results.caption, **numbers})
    write_table(out / "results", results.table, results.caption)
    return results


def _tested(dataset: PreparedDataset, folder: Path) -> PreparedDataset:
    if not dataset.folds:
        raise UserError(f"{folder}: {dataset.title} has no folds")
    for fold in dataset.folds:
        if fold.test is None:
            raise UserError(f"{folder}: fold {fold.name} of {dataset.title} has no test part")
    return dataset


def _remember(out: Path, dataset: Path, preset: str) -> None:
    words = {"dataset": str(Path(dataset).absolute()), "preset": preset}
    write_atomically(out / "folds.json", json.dumps(words, indent=2) + "\n")


def _evaluate(model: str | Path, dataset: Path, fold: Fold, folder: Path, words: dict[str, Any]) -> None:
    (folder / EVALUATION_FILES[-1]).unlink(missing_ok=True)  # until the new evaluation is whole
    evaluate(model, None, folder, dataset=dataset, fold=fold.name, **words)


def _is_evaluated(folder: Path, fold: Fold, model: str | None = None, allow_incomplete: bool = False) -> bool:
    """Whether `folder` holds an evaluation on all videos of the fold's test part, and of this model if one is named."""
    if not all((folder / name).is_file() for name in EVALUATION_FILES):
        return False
    metrics = json.loads((folder / "metrics.json").read_text())
    whole = metrics.get("num_evaluated") == metrics.get("num_expected")  # else a mended video would never be seen
    same = metrics.get("manifest") == str(fold.test) and model in (None, metrics.get("model"))
    same = same and ("frames" not in metrics or (folder / "frames.csv").is_file())
    return same and (whole or allow_incomplete)


def run_fold(config: FinetuneConfig) -> bool:
    """Train one fold, or finish it, and test its best/ model; False if it was interrupted. Raises `UserError`."""
    assert config.dataset is not None and config.fold is not None
    if not finetune(config, resume=True)["finished"]:
        return False
    fold, folder = read_dataset(config.dataset).fold(config.fold), config.out / "evaluation"
    if not _is_evaluated(folder, fold):
        words = {"root": config.root, "num_workers": config.num_workers or 0, "precision": config.precision}
        _evaluate(config.out, config.dataset, fold, folder, words)
    return True


def _one_by_one(configs: list[FinetuneConfig]) -> bool:
    try:
        for config in configs:
            console.print(f"fold {config.fold} in {config.out}", soft_wrap=True)
            if not run_fold(config):
                return False
    except KeyboardInterrupt:
        return False
    return True
