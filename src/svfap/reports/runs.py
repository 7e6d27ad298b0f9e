"""Read the folders of runs. A folder of folds is one run, whose predictions are pooled."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml
from numpy.typing import NDArray

from svfap.data.prepared import read_dataset
from svfap.data.video import natural_key
from svfap.errors import UserError
from svfap.evaluation.config import LOG_FILE, RUN_CONFIG
from svfap.evaluation.folds import pool_predictions
from svfap.evaluation.predictions import (
    FEATURES_FILE,
    FRAMES_FILE,
    METRICS_FILE,
    PREDICTIONS_FILE,
    EvaluationPredictions,
    LabelledOutputs,
    evaluated_heads,
    labelled_outputs,
    read_features,
    read_predictions,
    task_and_names,
)
from svfap.formats import upgrade
from svfap.metric_table import SupervisedTask
from svfap.weighted import weighted_paths

# What the folder of a run may hold: the default outputs of the other commands.
RUN_FILES = {
    "config": RUN_CONFIG,
    "log": LOG_FILE,
    "training": "metrics.json",
    "metrics": "evaluation/metrics.json",
    "predictions": "evaluation/predictions.csv",
    "features": "evaluation/features.npz",
    "probe": "probe/probe.json",
    "timeline": "prediction/*.png",
    "picture": "reconstruction/reconstruction.png",
    "film": "reconstruction/reconstruction.mp4",
}
POOLED_FILE = "results.json"  # in a folder of folds, written by `svfap finetune --fold all` and `svfap pool`
TRAINING_FACTS = ("epochs", "best_epoch", "chosen_by", "parameters", "seconds", "num_unreadable")


@dataclass
class Run:
    """One run, or the folds of a cross-validation as one run; what its folder lacks is empty.

    metrics: of the test set, as written by `svfap evaluate`, or of the predictions of all folds pooled. predictions: one
    row per test video; with folds, the column `fold` names the fold. frames: one row per frame, of a frame-level model.
    features: N paths, and (N, D). heads: what was evaluated of each of several heads, as a run named RUN/HEAD. probe: as written
    by `svfap probe`. dataset: name of the prepared dataset. pictures: name in `RUN_FILES` -> file. incomplete: sentences about
    what the pooled scores lack.
    """

    name: str
    folder: Path
    training: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)
    log: list[dict[str, Any]] = field(default_factory=list)
    predictions: pd.DataFrame = field(default_factory=pd.DataFrame)
    frames: pd.DataFrame | None = None
    features: tuple[list[str], NDArray[np.float32]] | None = None
    probe: dict[str, Any] = field(default_factory=dict)
    config: str = ""
    pictures: dict[str, Path] = field(default_factory=dict)
    folds: list[Run] = field(default_factory=list)
    heads: list[Run] = field(default_factory=list)
    dataset: str = ""
    incomplete: list[str] = field(default_factory=list)

    @property
    def parts(self) -> list[Run]:
        """The folds, or the run itself."""
        return self.folds or [self]

    def labelled(self, task: str | None = None) -> LabelledOutputs | None:
        """The predictions as arrays; None without predictions or truth, or for a run of another task."""
        found = labelled_outputs(self.predictions, self.folder)
        return found if found is not None and task in (None, found.task) else None


def read_run(folder: Path) -> Run:
    """Read the folder of a run, of folds (`fold_<name>/`), or of an evaluation of several heads.

    Raises `UserError` with the folder or a damaged file.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such run folder")
    folds = sorted((path for path in folder.glob("fold_*") if path.is_dir()), key=lambda path: natural_key(path.name))
    return _pool(folder, [_read_one(path) for path in folds]) if folds else _read_one(folder)


def _read_one(folder: Path) -> Run:
    evaluation = folder / METRICS_FILE, folder / PREDICTIONS_FILE
    if all(file.is_file() for file in evaluation) and "intervals" in _read_json(evaluation[0]):
        return _read_evaluation(folder.resolve().name, folder, folder)
    # A head is evaluated into a folder of its name, in the run or in the --out of `svfap evaluate`.
    name = folder.resolve().name
    heads = [_read_evaluation(f"{name}/{place.name}", folder, place) for place in evaluated_heads(folder)]
    if not heads:
        places = sorted(path.parent for path in folder.glob(f"*/{PREDICTIONS_FILE}"))
        inner = (_read_evaluation(f"{name}/{place.name}", folder, place) for place in places)
        heads = [head for head in inner if "head" in head.metrics]
    files = {name: [path for path in folder.glob(file) if path.is_file()] for name, file in RUN_FILES.items()}
    found = {name: min(paths, key=lambda path: natural_key(path.name)) for name, paths in files.items() if paths}
    if not found and not heads:
        raise UserError(f"{folder}: holds none of {', '.join(RUN_FILES.values())}; is it a run folder?")

    def read(name: str, reader: Callable[[Path], Any], default: Any) -> Any:
        return reader(found[name]) if name in found else default

    training = read("training", lambda file: upgrade("training metrics", _read_json(file), file), {})
    config = read("config", lambda file: file.read_text(errors="replace"), "")
    frames = folder / RUN_FILES["predictions"].replace(PREDICTIONS_FILE, FRAMES_FILE)
    return Run(
        name=folder.resolve().name,
        folder=folder,
        training={key: training[key] for key in TRAINING_FACTS if training.get(key) is not None},
        metrics=read("metrics", _read_json, {}),
        log=read("log", read_log, []),
        predictions=read("predictions", read_predictions, pd.DataFrame()),
        frames=read_predictions(frames) if frames.is_file() else None,
        features=read("features", read_features, None),
        probe=read("probe", _read_json, {}),
        config=config,
        dataset=_dataset_name(config, folder / RUN_FILES["config"]),
        pictures={name: found[name] for name in ("timeline", "picture", "film") if name in found},
        heads=heads,
    )


def _read_evaluation(name: str, folder: Path, place: Path) -> Run:
    """An evaluation in a folder of its own, such as that of one of several heads of a run."""
    metrics, features, frames = (place / name for name in (METRICS_FILE, FEATURES_FILE, FRAMES_FILE))
    return Run(
        name=name,
        folder=folder,
        metrics=_read_json(metrics) if metrics.is_file() else {},
        predictions=read_predictions(place / PREDICTIONS_FILE),
        frames=read_predictions(frames) if frames.is_file() else None,
        features=read_features(features) if features.is_file() else None,
    )


def _pool(folder: Path, folds: list[Run]) -> Run:
    """The folds as one run, with the scores of `results.json`, else of their predictions pooled."""
    for fold in folds:
        fold.name = fold.name.removeprefix("fold_")
    first = folds[0]
    run = Run(folder.resolve().name, folder, folds=folds, config=first.config, dataset=first.dataset)
    run.training = {"folds": len(folds), **{k: v for k, v in first.training.items() if k == "parameters"}}
    if all("seconds" in fold.training for fold in folds):
        run.training["seconds"] = sum(fold.training["seconds"] for fold in folds)
    evaluated = [fold for fold in folds if len(fold.predictions)]
    if evaluated:
        if any(set(fold.predictions) != set(evaluated[0].predictions) for fold in evaluated):
            reason = "the predictions of the folds have different columns"
            raise UserError(f"{folder}: {reason}; are the folds of one dataset?")
        tables = [fold.predictions.assign(fold=fold.name) for fold in evaluated]
        run.predictions = pd.concat(tables, ignore_index=True)
    if (folder / POOLED_FILE).is_file():
        known = _read_json(folder / POOLED_FILE)
        run.metrics = dict(known.get("pooled", {}))
        run.incomplete = [str(sentence) for sentence in known.get("incomplete", [])]
        run.dataset = str(known.get("dataset", run.dataset))
        return run
    run.incomplete = [f"fold {fold.name} is not evaluated" for fold in folds if not len(fold.predictions)]
    run.incomplete.append(f"{POOLED_FILE} is not there, so folds may be missing; `svfap pool {folder}` writes it")
    if (found := task_and_names(run.predictions)) is not None:
        try:
            run.metrics = pool_predictions({fold.name: _fold_predictions(fold, *found) for fold in evaluated})
        except UserError as error:
            run.incomplete.append(f"the predictions of the folds cannot be pooled ({error})")
    return run


def _fold_predictions(fold: Run, task: SupervisedTask, names: tuple[str, ...]) -> EvaluationPredictions:
    """The predictions of a fold, without the column `group` if its videos were scored and not its groups."""
    by_video = fold.frames is not None or ("num_evaluated" in fold.metrics and "num_groups" not in fold.metrics)
    table = fold.predictions.drop(columns="group", errors="ignore") if by_video else fold.predictions
    expected, settings = fold.metrics.get("num_expected", len(table)), fold.metrics.get("settings", {})
    return EvaluationPredictions(task, names, table, expected, fold.frames, settings=settings)


def _dataset_name(config: str, file: Path) -> str:
    """Name of the prepared dataset in `config.yaml`, of several those of all; its folder's name if that is on another machine,
    '' without one."""
    try:
        settings = yaml.safe_load(config)
    except yaml.YAMLError:
        return ""
    folders = upgrade("training settings", settings, file).get("dataset") if isinstance(settings, dict) else None
    return ", ".join(_name_of(folder) for folder, _ in weighted_paths(folders))


def _name_of(folder: Path) -> str:
    try:
        return read_dataset(folder).name
    except UserError:
        return folder.name


def load_json(path: Path) -> Any:
    """The content of a JSON file. Raises `UserError`."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read as JSON ({error})") from None


def _read_json(path: Path) -> dict[str, Any]:
    content = load_json(path)
    if not isinstance(content, dict):
        raise UserError(f"{path}: must hold a JSON object, not a {type(content).__name__}")
    return content


def read_log(path: Path) -> list[dict[str, Any]]:
    """The lines of a log; the last may be incomplete. Raises `UserError`."""
    records, lines = [], path.read_text(errors="replace").splitlines()
    for number, line in enumerate(lines, 1):
        try:
            record = json.loads(line) if line.strip() else {}
        except ValueError:
            if number == len(lines):
                break  # incomplete, because the run is still writing or was killed
            raise UserError(f"{path}: line {number} is not JSON; remove it") from None
        if not isinstance(record, dict):
            raise UserError(f"{path}: line {number} is not a JSON object; remove it")
        records.append(record)
    return records
