"""What run folders hold, read into one shape; a folder of folds is read as one run with its predictions pooled."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Sequence
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
from svfap.evaluate.metrics import classification_metrics, regression_metrics
from svfap.formats import upgrade

# Files of a run folder, as the commands write them by default; of several that match a pattern, the first one is shown.
RUN_FILES = {
    "config": "config.yaml",
    "log": "log.jsonl",
    "training": "metrics.json",
    "metrics": "evaluation/metrics.json",
    "predictions": "evaluation/predictions.csv",
    "features": "evaluation/features.npz",
    "timeline": "prediction/*.png",
    "picture": "reconstruction/reconstruction.png",
    "film": "reconstruction/reconstruction.mp4",
}
POOLED_FILE = "results.json"  # of a folder of folds, as `svfap finetune --fold all` leaves it
TRAINING_FACTS = ("epochs", "best_epoch", "chosen_by", "parameters", "seconds", "num_unreadable")
NAMES = (
    "path",
    "label",
    "prediction",
    "subject",
    "group",
    "fold",
)  # columns of names, even where they look like numbers


@dataclass
class Run:
    """One run, or several folds of one; what is missing is empty.

    metrics: of the test set, as `svfap evaluate` wrote them, or of all folds' predictions scored once. predictions: one
    row per test video; with folds, a column `fold` says whose. features: N paths, and (N, D). dataset: name of the
    prepared dataset it was trained on. pictures: name in `RUN_FILES` -> file. incomplete: sentences about folds that the
    pooled scores lack.
    """

    name: str
    folder: Path
    training: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)
    log: list[dict[str, Any]] = field(default_factory=list)
    predictions: pd.DataFrame | None = None
    features: tuple[list[str], NDArray[np.float32]] | None = None
    config: str = ""
    pictures: dict[str, Path] = field(default_factory=dict)
    folds: list[Run] = field(default_factory=list)
    dataset: str = ""
    preset: str = ""
    incomplete: list[str] = field(default_factory=list)


def read_run(folder: Path) -> Run:
    """Read a run's folder, or a folder of folds (`fold_<name>/`). Raises `UserError` naming the folder or a damaged file."""
    if not folder.is_dir():
        raise UserError(f"{folder}: no such run folder")
    folds = sorted((path for path in folder.glob("fold_*") if path.is_dir()), key=lambda path: natural_key(path.name))
    if folds:
        return _pool(folder, [_read_one(path) for path in folds])
    return _read_one(folder)


def _read_one(folder: Path) -> Run:
    files = {name: [path for path in folder.glob(file) if path.is_file()] for name, file in RUN_FILES.items()}
    found = {name: min(paths, key=lambda path: natural_key(path.name)) for name, paths in files.items() if paths}
    if not found:
        raise UserError(f"{folder}: holds none of {', '.join(RUN_FILES.values())}; is it a run folder?")

    def read(name: str, reader: Callable[[Path], Any], default: Any) -> Any:
        return reader(found[name]) if name in found else default

    training = read("training", _read_json, {})
    config = read("config", lambda file: file.read_text(errors="replace"), "")
    settings = _settings(config, folder / RUN_FILES["config"])
    return Run(
        name=folder.resolve().name,
        folder=folder,
        training={key: training[key] for key in TRAINING_FACTS if training.get(key) is not None},
        metrics=read("metrics", _read_json, {}),
        log=read("log", _read_log, []),
        predictions=read("predictions", read_predictions, None),
        features=read("features", _read_features, None),
        config=config,
        dataset=_dataset_name(settings.get("dataset")),
        preset=str(settings.get("preset", "")),
        pictures={name: found[name] for name in ("timeline", "picture", "film") if name in found},
    )


def _pool(folder: Path, folds: list[Run]) -> Run:
    """The folds as one run: their predictions are put together and scored once, which is the paper's protocol."""
    for fold in folds:
        fold.name = fold.name.removeprefix("fold_")
    first = folds[0]
    run = Run(
        folder.resolve().name, folder, folds=folds, config=first.config, dataset=first.dataset, preset=first.preset
    )
    run.training = {"folds": len(folds), **{k: v for k, v in first.training.items() if k == "parameters"}}
    if all("seconds" in fold.training for fold in folds):
        run.training["seconds"] = sum(fold.training["seconds"] for fold in folds)
    tables = {f.name: f.predictions for f in folds if f.predictions is not None and len(f.predictions)}
    if tables:
        columns = [set(table.columns) for table in tables.values()]
        if any(names != columns[0] for names in columns):
            raise UserError(f"{folder}: the folds' predictions have different columns; are they of one dataset?")
        run.predictions = pd.concat([table.assign(fold=name) for name, table in tables.items()], ignore_index=True)
    if (folder / POOLED_FILE).is_file():
        known = _read_json(folder / POOLED_FILE)
        run.metrics = dict(known.get("pooled", {}))
        run.incomplete = [str(sentence) for sentence in known.get("incomplete", [])]
        run.dataset, run.preset = str(known.get("dataset", run.dataset)), str(known.get("preset", run.preset))
        return run
    run.incomplete = [f"fold {f.name} is not evaluated" for f in folds if f.name not in tables]
    run.incomplete.append(
        f"{POOLED_FILE} is not there, so folds may be missing; the pooled scores here are over videos"
    )
    truth = None if run.predictions is None else truth_and_outputs(run.predictions, str(folder))
    if truth is not None:
        score = classification_metrics if truth.task == "classification" else regression_metrics
        evaluated = [f for f in folds if f.name in tables]
        counts = {
            word: sum(f.metrics.get(word, len(tables[f.name])) for f in evaluated)
            for word in ("num_expected", "num_evaluated")
        }
        run.metrics = {**score(truth.targets, truth.outputs, truth.names), **counts}
    return run


def _settings(config: str, file: Path) -> dict[str, Any]:
    """The configuration's words; none where it is no YAML of words."""
    try:
        words = yaml.safe_load(config)
    except yaml.YAMLError:
        return {}
    return upgrade("training settings", words, file) if isinstance(words, dict) else {}


def _dataset_name(folder: Any) -> str:
    if not folder:
        return ""
    try:
        return read_dataset(str(folder)).name
    except UserError:  # it may lie on another machine
        return Path(str(folder)).name


@dataclass(frozen=True)
class Truth:
    """Targets (N,) class indices or (N, K) values, and outputs (N, K) probabilities or values, of K names."""

    task: str
    names: list[str]
    targets: NDArray[Any]
    outputs: NDArray[np.float64]


def truth_and_outputs(table: pd.DataFrame, where: str) -> Truth | None:
    """What a table of predictions says, as arrays; None where it has no rows or no truth. Raises `UserError`."""
    classes, dimensions = (_named(table, prefix) for prefix in ("prob_", "target_"))
    if not len(table) or not ((classes and "label" in table) or dimensions):
        return None
    try:
        if classes and "label" in table:
            labels = np.array([classes.index(name) for name in table["label"]])
            return Truth("classification", classes, labels, table[[f"prob_{n}" for n in classes]].to_numpy(float))
        targets, outputs = (table[[f"{k}_{n}" for n in dimensions]].to_numpy(float) for k in ("target", "pred"))
    except (ValueError, KeyError) as error:
        raise UserError(f"{where}: the predictions' columns do not fit together ({error}); evaluate again") from None
    return Truth("regression", dimensions, targets, outputs)


def _named(table: pd.DataFrame, prefix: str) -> list[str]:
    return [str(column).removeprefix(prefix) for column in table.columns if str(column).startswith(prefix)]


def same_test_set(runs: Sequence[Run]) -> bool:
    """Whether all these runs that have predictions were tested on the same videos with the same truth."""
    sets = []
    for run in runs:
        if run.predictions is None:
            continue
        columns = [c for c in run.predictions.columns if c in ("path", "label") or str(c).startswith("target_")]
        sets.append(set(run.predictions[columns].itertuples(index=False, name=None)))
    return all(videos == sets[0] for videos in sets)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read as JSON ({error})") from None
    if not isinstance(content, dict):
        raise UserError(f"{path}: must hold a JSON object, not a {type(content).__name__}")
    return content


def _read_log(path: Path) -> list[dict[str, Any]]:
    records = []
    lines = path.read_text(errors="replace").splitlines()
    for number, line in enumerate(lines, 1):
        try:
            record = json.loads(line) if line.strip() else {}
        except ValueError:
            # A run that is still writing, or was killed, may leave half a line at the end.
            if number < len(lines):
                raise UserError(f"{path}: line {number} is not JSON; remove it") from None
            break
        if not isinstance(record, dict):
            raise UserError(f"{path}: line {number} is not a JSON object; remove it")
        records.append(record)
    return records


def _read_csv(path: Path, **how: Any) -> pd.DataFrame:
    try:
        return pd.read_csv(path, **how)
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read as CSV ({error})") from None


def read_predictions(path: Path) -> pd.DataFrame:
    """`predictions.csv` with its names as text: "01" stays "01", and "NA" may be a class. Raises `UserError`."""
    return _read_csv(path, dtype=dict.fromkeys(NAMES, str), keep_default_na=False)


def _read_features(path: Path) -> tuple[list[str], NDArray[np.float32]]:
    try:
        with np.load(path, allow_pickle=False) as file:
            paths, features = [str(name) for name in file["paths"]], np.asarray(file["features"], np.float32)
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise UserError(f"{path}: cannot be read as features and paths ({error}); evaluate again") from None
    if features.ndim != 2 or len(features) != len(paths) or not np.isfinite(features).all():
        raise UserError(
            f"{path}: features {features.shape} are no finite vectors of {len(paths)} paths; evaluate again"
        )
    return paths, features
