"""Cross-validation: train and test every fold of a prepared dataset, then pool their predictions."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from svfap.console import say
from svfap.data.prepared import fold_folder, read_dataset
from svfap.evaluation.config import EvaluateConfig
from svfap.evaluation.evaluate import evaluate
from svfap.evaluation.pool import is_evaluated, pool_evaluations, write_folds_file
from svfap.files import make_folder
from svfap.train.config import FinetuneConfig
from svfap.train.finetune import finetune
from svfap.train.loop import TrainResult
from svfap.train.parallel import run_all
from svfap.train.resolve import fold_configs


def finetune_folds(config: FinetuneConfig) -> TrainResult:
    """Fine-tune on every fold of `config.dataset`, test each on its test part, and pool the predictions.

    Each fold is a run in `out`/fold_<name> with its test in `evaluation/`. With `config.resume` finished folds are kept and
    interrupted ones continued. Writes `results.md`, `.csv`, `.tex` and `.json` into `out`. Raises `UserError`.
    """
    configs = fold_configs(config)
    assert config.dataset is not None
    dataset, out = read_dataset(config.dataset), Path(config.out)
    make_folder(out)
    write_folds_file(out, config.dataset, config.preset)
    if not run_all(run_fold, configs, config.parallel):
        done = sum(is_evaluated(fold_folder(out, fold.name) / "evaluation", fold) for fold in dataset.folds)
        say(f"stopped: {done} of {len(configs)} folds are finished in {out}; the same command with --resume goes on")
        return TrainResult(finished=False)
    pooled = pool_evaluations(out)
    return TrainResult(finished=True, metrics={"caption": pooled.caption, **pooled.numbers}, pooled=pooled)


def run_fold(config: FinetuneConfig) -> bool:
    """Train one fold, or continue it, and test its best/ model; False if it was interrupted. Raises `UserError`."""
    assert config.dataset is not None and config.fold is not None
    if not finetune(replace(config, resume=True)).finished:
        return False
    test = EvaluateConfig(
        model=str(config.out), dataset=config.dataset, fold=config.fold, root=config.root,
        num_workers=config.num_workers or 0, precision=config.precision,
    )  # fmt: skip
    if not is_evaluated(test.out_folder, read_dataset(config.dataset).fold(config.fold)):
        evaluate(test)
    return True
