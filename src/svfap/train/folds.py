"""Cross-validation: train and test every fold of a prepared dataset, then pool their predictions."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from svfap.console import say
from svfap.data.prepared import read_dataset
from svfap.errors import UserError
from svfap.evaluate.config import EvaluateConfig
from svfap.evaluate.evaluate import evaluate
from svfap.evaluate.pool import fold_folder, is_evaluated, pool_evaluations, read_tested_dataset, write_folds_file
from svfap.evaluate.results import PooledResults
from svfap.files import make_folder
from svfap.train.config import FinetuneConfig
from svfap.train.finetune import finetune
from svfap.train.parallel import run_parallel, visible_gpus
from svfap.train.resolve import resolve


def finetune_folds(config: FinetuneConfig, resume: bool = False, parallel: int | None = None) -> PooledResults | None:
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
    dataset = read_tested_dataset(config.dataset)
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
    write_folds_file(out, config.dataset, config.preset)
    finished = run_parallel(run_fold, configs, parallel, gpus) if parallel > 1 else _one_by_one(configs)
    if not finished:
        done = sum(is_evaluated(folders[fold.name] / "evaluation", fold) for fold in dataset.folds)
        say(f"stopped: {done} of {len(folders)} folds are finished in {out}; the same command with --resume goes on")
        return None
    return pool_evaluations(out)


def run_fold(config: FinetuneConfig) -> bool:
    """Train one fold, or finish it, and test its best/ model; False if it was interrupted. Raises `UserError`."""
    assert config.dataset is not None and config.fold is not None
    if not finetune(config, resume=True)["finished"]:
        return False
    test = EvaluateConfig(
        model=str(config.out),
        dataset=config.dataset,
        fold=config.fold,
        root=config.root,
        num_workers=config.num_workers or 0,
        precision=config.precision,
    )
    if not is_evaluated(test.out_folder, read_dataset(config.dataset).fold(config.fold)):
        evaluate(test)
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
