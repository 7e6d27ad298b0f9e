"""Pool the evaluations of all folds of a dataset, evaluating models first if asked to, and write the results table."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from svfap.console import counted, say
from svfap.data.prepared import Fold, PreparedDataset, fold_folder, read_dataset
from svfap.data.targets import frame_values_digest
from svfap.errors import UserError
from svfap.evaluation.confidence import interval_note
from svfap.evaluation.config import (
    EVALUATION_FOLDER,
    FOLDS_FILE,
    EvaluateConfig,
    PoolConfig,
    models_of_folds,
    require_folds,
)
from svfap.evaluation.evaluate import evaluate
from svfap.evaluation.evaluation_set import provenance
from svfap.evaluation.folds import score_folds
from svfap.evaluation.metrics import flat_intervals, flat_scores, read_metrics, write_metrics
from svfap.evaluation.predictions import FRAMES_FILE, METRICS_FILE, PREDICTIONS_FILE, UNREADABLE_FILE
from svfap.files import file_digest, make_folder, write_atomically
from svfap.metric_table import (
    bounds_text,
    format_percent,
    metric_heading,
    metric_keys,
    metric_name,
    metric_text,
)
from svfap.paper import RESULTS
from svfap.view.tables import write_table
from svfap.weights.exported import fingerprint_of, load_for_inference
from svfap.weights.folder import has_model

RESULTS_FILE = "results.json"
# What `svfap.evaluation.evaluation_set.provenance` names, for messages.
PROVENANCE = {
    "weights": "weights",
    "manifest_digest": "labels (the manifest has changed)",
    "frame_values_digest": "values per frame (a frame_values file has changed)",
    "settings": "settings",
}
INTERVAL = "95% interval"
PAPER_COLUMNS = {"svfap_small": "paper, small", "svfap_base": "paper, base", "released": "released"}


@dataclass(frozen=True)
class PooledResults:
    """The results table (cells as text), its caption, and all numbers as in `results.json`."""

    table: pd.DataFrame
    caption: str
    numbers: dict[str, Any]

    @property
    def summary(self) -> pd.DataFrame:
        """The table without the scores of single folds and their spread, narrow enough for a terminal."""
        return self.table[[name for name in self.table.columns if not name.startswith(("fold ", "mean", "sd"))]]


def pool(config: PoolConfig) -> PooledResults:
    """Pool the evaluations of all folds in `config.out`, and write `results.md`, `.csv`, `.tex` and `.json` there.

    With `config.models`, first evaluate a model per fold on its test part, such as models trained elsewhere or the authors'.
    An evaluation in `out` is kept if it is of the same weights, manifest and settings, and of all videos or `allow_incomplete`
    is set; any other is done again. Without `config.models`, evaluations are refused if the weights or labels have changed.

    Raises:
        UserError: no `out`; a folder without folds; a model or dataset that cannot be used; see also `score_folds`.
    """
    if config.out is None:
        raise UserError("give either the folder of a run, or `models` with `dataset` and `out`")
    if config.models is not None:
        _evaluate_models(config.models, config)
    else:
        _require_current(config.out, read_dataset(folds_of(config.out, config.dataset)[1]))
    return pool_evaluations(config.out, config.dataset, config.allow_incomplete)


def pool_evaluations(out: Path, dataset: Path | None = None, allow_incomplete: bool = False) -> PooledResults:
    """Pool the evaluations in a folder of folds, and write the results table.

    dataset: folder of `svfap prepare`, if it is no longer where it was. Raises `UserError`.
    """
    preset, folder = folds_of(out, dataset)
    prepared = read_dataset(folder).require_tests(folder)
    evaluations = {fold.name: evaluation_of(out, fold) for fold in prepared.folds}
    scores = score_folds(prepared, evaluations, allow_incomplete)
    paper = paper_numbers(prepared.name, preset)
    numbers = {"dataset": prepared.name, "preset": preset, "paper": paper, **scores}
    results = PooledResults(results_table(prepared, scores, paper), results_caption(prepared, scores), numbers)
    write_metrics(out / RESULTS_FILE, {"caption": results.caption, **numbers})
    write_table(out / "results", results.table, results.caption)
    return results


def evaluation_of(out: Path, fold: Fold) -> Path:
    return fold_folder(out, fold.name) / EVALUATION_FOLDER


def folds_of(out: Path, dataset: Path | None = None) -> tuple[str, Path]:
    """(preset of the models, folder of the dataset) of a folder of folds. Raises `UserError`."""
    file = require_folds(out)
    try:
        known = json.loads(file.read_text())
        return str(known["preset"]), Path(dataset or known["dataset"])
    except (ValueError, TypeError, KeyError) as error:
        raise UserError(f"{file}: is damaged ({error}); `svfap finetune --fold all --resume` writes it again") from None


def write_folds_file(out: Path, dataset: Path, preset: str) -> None:
    """Write `folds.json`, from which `pool_evaluations` knows the dataset and the size of the models."""
    content = {"dataset": str(Path(dataset).absolute()), "preset": preset}
    write_atomically(out / FOLDS_FILE, json.dumps(content, indent=2) + "\n")


def has_evaluation(folder: Path, fold: Fold, allow_incomplete: bool = False) -> bool:
    """Whether `folder` has an evaluation on all videos of the fold's test part, of any weights."""
    if not all((folder / name).is_file() for name in (METRICS_FILE, PREDICTIONS_FILE, UNREADABLE_FILE)):
        return False
    metrics = read_metrics(folder / METRICS_FILE)
    if metrics.get("manifest") != str(fold.test) or ("frames" in metrics and not (folder / FRAMES_FILE).is_file()):
        return False
    return allow_incomplete or metrics.get("num_evaluated") == metrics.get("num_expected")


def is_evaluated(config: EvaluateConfig, allow_incomplete: bool = False) -> bool:
    """Whether `config.out_folder` has the results that `evaluate` would write: of the same weights, labels and settings.

    Prints in what an existing evaluation differs. Raises `UserError` if the model or the dataset cannot be used.
    """
    assert config.dataset is not None
    prepared, folder = read_dataset(config.dataset), config.out_folder
    fold = prepared.fold(config.fold)
    if fold.test is None or not has_evaluation(folder, fold, allow_incomplete):
        return False
    metrics = read_metrics(folder / METRICS_FILE)
    models = [load_for_inference(name) for name in config.models]
    expected = provenance(config, models, fold.test, config.root or prepared.root)
    names = [PROVENANCE[key] for key, value in expected.items() if metrics.get(key) != value]
    if names:
        known = expected.keys() <= metrics.keys()
        what = "is of other" if known else "is of an earlier version, which does not tell its"
        say(f"fold {fold.name}: the evaluation in {folder} {what} {', '.join(names)}; it is done again")
    return not names


def _require_current(out: Path, prepared: PreparedDataset) -> None:
    """Raise `UserError` where a model or a manifest has changed since its evaluation; models that are gone are not checked."""
    for fold in prepared.folds:
        folder = evaluation_of(out, fold)
        metrics = read_metrics(folder / METRICS_FILE)
        if not has_evaluation(folder, fold, allow_incomplete=True):
            continue
        if "weights" not in metrics:
            say(
                f"fold {fold.name}: {folder} does not tell of which weights it is and with which settings, so these are not "
                "compared"
            )
            continue
        assert fold.test is not None
        model = next((each for each in (Path(metrics["model"]), folder.parent) if has_model(each)), None)
        digests = {"manifest_digest": file_digest(fold.test)}
        if "frame_values_digest" in metrics and (root := Path(metrics["root"])).is_dir():
            digests["frame_values_digest"] = frame_values_digest(fold.test, root) or ""
        if model is not None:
            digests["weights"] = fingerprint_of(load_for_inference(model))
        if changed := [key for key, digest in digests.items() if digest != metrics.get(key)]:
            what = str(model if "weights" in changed else fold.test)
            what = f"a frame_values file of {what}" if changed == ["frame_values_digest"] else what
            raise UserError(
                f"fold {fold.name}: {what} has changed since the evaluation in {folder}; evaluate it again, with "
                "`svfap evaluate`, `svfap pool --models`, or `svfap finetune --fold all --resume`"
            )


def _evaluate_models(models: str, config: PoolConfig) -> None:
    assert config.dataset is not None and config.out is not None
    prepared = read_dataset(config.dataset).require_tests(config.dataset)
    names = models_of_folds(models, prepared)
    make_folder(config.out)
    for fold, name in zip(prepared.folds, names, strict=True):
        one = EvaluateConfig(
            model=name, dataset=config.dataset, fold=fold.name, out=evaluation_of(config.out, fold),
            batch_size=config.batch_size, num_workers=config.num_workers, precision=config.precision,
        )  # fmt: skip
        if is_evaluated(one, config.allow_incomplete):
            say(f"fold {fold.name}: {one.out} holds the evaluation of {one.model} already")
        else:
            evaluate(one)
    write_folds_file(config.out, config.dataset, load_for_inference(name).config.preset)


def results_table(
    dataset: PreparedDataset, scores: Mapping[str, Any], paper: Mapping[str, Mapping[str, float]]
) -> pd.DataFrame:
    """The result of `score_folds` as text: rows of scores, classes and dimensions; columns of the pool, the paper and each fold.

    Scores of classes are percentages, as in the paper; correlations and errors are not.
    """
    several = len(scores["folds"]) > 1
    metrics = {"pooled": scores["pooled"]}
    metrics |= {f"fold {name}": one for name, one in scores["folds"].items() if several}
    flat: dict[str, Mapping[str, float]] = {name: flat_scores(one) for name, one in metrics.items()}
    columns = {"pooled": flat["pooled"]}
    columns |= {"mean": scores["mean"], "sd": scores["sd"]} if several else {}
    columns |= {PAPER_COLUMNS[name]: values for name, values in paper.items()} | flat
    text = metric_text if dataset.task == "regression" else lambda key, value: format_percent(value)
    bounds = flat_intervals(scores["pooled"])
    rows = []
    for key, label in _rows(dataset, columns["pooled"]).items():
        row = {name: text(key, values[key]) for name, values in columns.items() if key in values}
        interval = {INTERVAL: bounds_text(*(text(key, bound) for bound in bounds[key]))} if key in bounds else {}
        rows.append({"score": label, **row, **interval})
    videos = {name: f"{one['num_evaluated']} of {one['num_expected']}" for name, one in metrics.items()}
    rows.append({"score": "videos", **videos})
    if "frames" in scores["pooled"]:
        rows.append({"score": "frames", **{name: str(one["frames"]["num_samples"]) for name, one in metrics.items()}})
    first, *others = columns
    return pd.DataFrame(rows, columns=["score", first, *([INTERVAL] if bounds else []), *others]).fillna("")


def _rows(dataset: PreparedDataset, pooled: Mapping[str, float]) -> dict[str, str]:
    """Key of each score -> its name in the table, in the order of the table."""
    metrics = dataset.metrics or metric_keys(dataset.task, tables=True)
    if unknown := [key for key in metrics if key not in pooled]:
        known = ", ".join(metric_keys(dataset.task))
        raise UserError(f"{dataset.name}: dataset.json names an unknown metric {unknown[0]!r}; known: {known}")
    rows: dict[str, str] = {}
    if dataset.task == "classification":
        rows |= {key: metric_heading(key) for key in metrics}
        rows |= {f"accuracy_{name}": f"{name}, %" for name in dataset.label_names}
    else:
        for key in metrics:
            rows |= {f"{key}_{dimension}": f"{metric_name(key)} {dimension}" for dimension in dataset.label_names}
            rows[key] = f"{metric_name(key)}, mean"
    if any(key.startswith("frame_") for key in pooled):
        rows |= {f"frame_{key}": f"frames: {label}" for key, label in rows.items()}
    return rows


def results_caption(dataset: PreparedDataset, scores: Mapping[str, Any]) -> str:
    """The caption of `results_table`: what was pooled, how, and what is missing."""
    count = len(scores["folds"])
    parts = [f"{dataset.title}: predictions of {count} folds pooled and scored once" if count > 1 else dataset.title]
    if count > 1:
        parts.append("mean and standard deviation (n − 1) are over the scores of the folds")
    grouped = "num_groups" in scores["pooled"]
    if grouped:
        parts.append(
            f"scores are over {counted(scores['pooled']['num_groups'], 'group')} of videos, whose outputs are averaged"
        )
    if dataset.task == "classification":
        parts.append(f"rows of classes show the recall over their {'groups' if grouped else 'videos'}")
    if (known := scores["pooled"].get("intervals", {})).get("scores"):
        parts.append(interval_note(known))
    if "frames" in scores["pooled"]:
        parts.append(
            "the output for a video is the mean over its frames; rows of frames score every frame that the model was shown once"
        )
    if left_out := dataset.notes.get("no_face", 0) + dataset.notes.get("unreadable", 0):
        parts.append(
            f"{counted(left_out, 'clip')} of the dataset {'is' if left_out == 1 else 'are'} left out: `svfap crop` found no "
            "face or could not read it"
        )
    if scores["incomplete"]:
        parts.append(f"INCOMPLETE: {'; '.join(scores['incomplete'])}")
    return " ".join(f"{part[0].upper()}{part[1:]}." for part in [*parts, *scores["notes"]])


def paper_numbers(dataset: str, preset: str) -> dict[str, dict[str, float]]:
    """The paper's numbers for this preset, or for both of its sizes if this is neither, and for the released weights."""
    known = RESULTS.get(dataset, {})
    return {name: values for name, values in known.items() if name in (preset, "released") or preset not in known}
