"""Pool the evaluations of all folds of a dataset, evaluating models first if asked to, and write the results table."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from svfap.console import say
from svfap.data.prepared import Fold, fold_folder, read_dataset
from svfap.errors import UserError
from svfap.evaluate.config import EvaluateConfig, PoolConfig
from svfap.evaluate.evaluate import METRICS_FILE, evaluate
from svfap.evaluate.folds import score_folds
from svfap.evaluate.metrics import write_metrics
from svfap.evaluate.predictions import FRAMES_FILE, PREDICTIONS_FILE, UNREADABLE_FILE
from svfap.evaluate.results import PooledResults, paper_numbers, results_caption, results_table
from svfap.files import make_folder, write_atomically
from svfap.view.tables import write_table
from svfap.weights.folder import load_model

FOLDS_FILE, RESULTS_FILE = "folds.json", "results.json"


def pool(config: PoolConfig) -> PooledResults:
    """Pool the evaluations of all folds in `config.out`, and write `results.md`, `.csv`, `.tex` and `.json` there.

    With `config.models`, first evaluate a model per fold on its test part, such as models trained elsewhere or the authors'.
    An evaluation of the same model that is in `out` is kept; if it lacks videos it is kept only with `allow_incomplete`.

    Raises:
        UserError: no `out`; a folder without folds; a model or dataset that cannot be used; see also `score_folds`.
    """
    if config.out is None:
        raise UserError("give either the folder of a run, or models with dataset and out")
    if config.models is not None:
        _evaluate_models(config.models, config)
    return pool_evaluations(config.out, config.dataset, config.allow_incomplete)


def pool_evaluations(out: Path, dataset: Path | None = None, allow_incomplete: bool = False) -> PooledResults:
    """Pool the evaluations in a folder of folds, and write the results table.

    dataset: folder of `svfap prepare`, if it is no longer where it was. Raises `UserError`.
    """
    file = out / FOLDS_FILE
    if not file.is_file():
        raise UserError(f"{out}: holds no {FOLDS_FILE}; name a folder of `svfap finetune --fold all`, or give models")
    try:
        known = json.loads(file.read_text())
        preset, folder = str(known["preset"]), Path(dataset or known["dataset"])
    except (ValueError, TypeError, KeyError) as error:
        raise UserError(f"{file}: is damaged ({error}); `svfap finetune --fold all --resume` writes it again") from None
    prepared = read_dataset(folder).require_tests(folder)
    evaluations = {fold.name: fold_folder(out, fold.name) / "evaluation" for fold in prepared.folds}
    scores = score_folds(prepared, evaluations, allow_incomplete)
    paper = paper_numbers(prepared.name, preset)
    numbers = {"dataset": prepared.name, "preset": preset, "paper": paper, **scores}
    results = PooledResults(results_table(prepared, scores, paper), results_caption(prepared, scores), numbers)
    write_metrics(out / RESULTS_FILE, {"caption": results.caption, **numbers})
    write_table(out / "results", results.table, results.caption)
    return results


def write_folds_file(out: Path, dataset: Path, preset: str) -> None:
    """Write `folds.json`, from which `pool_evaluations` knows the dataset and the size of the models."""
    content = {"dataset": str(Path(dataset).absolute()), "preset": preset}
    write_atomically(out / FOLDS_FILE, json.dumps(content, indent=2) + "\n")


def is_evaluated(folder: Path, fold: Fold, model: str | None = None, allow_incomplete: bool = False) -> bool:
    """Whether `folder` holds an evaluation on all videos of the fold's test part, and of this model if one is named."""
    if not all((folder / name).is_file() for name in (METRICS_FILE, PREDICTIONS_FILE, UNREADABLE_FILE)):
        return False
    metrics: Mapping[str, Any] = json.loads((folder / METRICS_FILE).read_text())
    if metrics.get("manifest") != str(fold.test) or model not in (None, metrics.get("model")):
        return False
    if "frames" in metrics and not (folder / FRAMES_FILE).is_file():
        return False
    return allow_incomplete or metrics.get("num_evaluated") == metrics.get("num_expected")


def _evaluate_models(models: str, config: PoolConfig) -> None:
    assert config.dataset is not None and config.out is not None
    prepared = read_dataset(config.dataset).require_tests(config.dataset)
    if "{fold}" not in models and len(prepared.folds) > 1:
        raise UserError(
            f"models={models}: must hold {{fold}}, as in 'models/fold_{{fold}}'; {prepared.title} has several"
        )
    make_folder(config.out)
    preset = ""
    for fold in prepared.folds:
        one = EvaluateConfig(
            model=models.replace("{fold}", fold.name),
            dataset=config.dataset,
            fold=fold.name,
            out=fold_folder(config.out, fold.name) / "evaluation",
            batch_size=config.batch_size,
            num_workers=config.num_workers,
            precision=config.precision,
        )
        if is_evaluated(one.out_folder, fold, one.model, config.allow_incomplete):
            say(f"fold {fold.name}: {one.out} holds the evaluation of {one.model} already")
        else:
            evaluate(one)
        preset = load_model(one.model).config.preset
    write_folds_file(config.out, config.dataset, preset)
