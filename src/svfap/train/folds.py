"""Cross-validation: train and test every fold of a prepared dataset, then pool their predictions."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from svfap.console import say
from svfap.data.prepared import Fold, read_dataset
from svfap.errors import UserError
from svfap.evaluate.evaluate import evaluate
from svfap.evaluate.metrics import write_metrics
from svfap.evaluate.pool import pool
from svfap.evaluate.results import paper_numbers, results_caption, results_table
from svfap.files import make_folder, write_atomically
from svfap.train.config import FinetuneConfig
from svfap.train.finetune import finetune
from svfap.train.loop import TrainResult, num_workers
from svfap.train.parallel import run_side_by_side, visible_gpus
from svfap.train.resolve import fold_configs, fold_folder, require_tests
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


def finetune_folds(config: FinetuneConfig) -> TrainResult:
    """Fine-tune on every fold of `config.dataset`, test each on its test part, and pool the predictions.

    Each fold is a run in `out`/fold_<name> with its test in `evaluation/`. With `config.resume` finished folds are kept and
    interrupted ones continued. Writes `results.md`, `.csv`, `.tex` and `.json` into `out`. Raises `UserError`.
    """
    configs = fold_configs(config)
    assert config.dataset is not None
    dataset, out = read_dataset(config.dataset), Path(config.out)
    gpus = visible_gpus()
    parallel = min(config.parallel or max(len(gpus), 1), len(configs))
    configs = [replace(fold, num_workers=num_workers(config.num_workers, parallel)) for fold in configs]
    make_folder(out)
    _remember(out, config.dataset, config.preset)
    finished = run_side_by_side(run_fold, configs, parallel, gpus) if parallel > 1 else _one_by_one(configs)
    if not finished:
        done = sum(_is_evaluated(fold_folder(out, fold.name) / "evaluation", fold) for fold in dataset.folds)
        say(f"stopped: {done} of {len(configs)} folds are finished in {out}; the same command with --resume goes on")
        return TrainResult(finished=False)
    pooled = pool_run(out)
    return TrainResult(finished=True, metrics={"caption": pooled.caption, **pooled.numbers}, pooled=pooled)


def evaluate_folds(models: str, dataset: Path, out: Path, *, allow_incomplete: bool = False, **words: Any) -> Results:
    """Test a model per fold on its test part, and pool: models that were trained elsewhere, or the authors'.

    models: a run or model folder, with `{fold}` for the fold's name. words: settings of `svfap.evaluate.evaluate.evaluate`. An
    evaluation of the same model that lies in `out` is kept; one that lacks videos is, if `allow_incomplete`, else they are
    tried again. Writes what `finetune_folds` writes. Raises `UserError`.
    """
    described = require_tests(read_dataset(dataset), dataset)
    if "{fold}" not in models and len(described.folds) > 1:
        raise UserError(
            f"models={models}: must hold {{fold}}, as in 'models/fold_{{fold}}'; {described.title} has several"
        )
    make_folder(out)
    preset = ""
    for fold in described.folds:
        model, folder = models.replace("{fold}", fold.name), fold_folder(out, fold.name) / "evaluation"
        if _is_evaluated(folder, fold, model, allow_incomplete):
            say(f"fold {fold.name}: {folder} holds the evaluation of {model} already")
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
    described = require_tests(read_dataset(dataset or known["dataset"]), Path(dataset or known["dataset"]))
    folders = {fold.name: fold_folder(out, fold.name) / "evaluation" for fold in described.folds}
    scores = pool(described, folders, allow_incomplete)
    paper = paper_numbers(described.name, known["preset"])
    numbers = {"dataset": described.name, "preset": known["preset"], "paper": paper, **scores}
    results = Results(results_table(described, scores, paper), results_caption(described, scores), numbers)
    write_metrics(out / "results.json", {"caption": results.caption, **numbers})
    write_table(out / "results", results.table, results.caption)
    return results


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
    """Train one fold, or continue it, and test its best/ model; False if it was interrupted. Raises `UserError`."""
    assert config.dataset is not None and config.fold is not None
    if not finetune(replace(config, resume=True)).finished:
        return False
    fold, folder = read_dataset(config.dataset).fold(config.fold), config.out / "evaluation"
    if not _is_evaluated(folder, fold):
        words = {"root": config.root, "num_workers": config.num_workers or 0, "precision": config.precision}
        _evaluate(config.out, config.dataset, fold, folder, words)
    return True


def _one_by_one(configs: list[FinetuneConfig]) -> bool:
    try:
        for config in configs:
            say(f"fold {config.fold} in {config.out}")
            if not run_fold(config):
                return False
    except KeyboardInterrupt:
        return False
    return True
