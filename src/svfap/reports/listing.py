"""`svfap runs`: what is under a folder: trainings, folds, probes and evaluations, with their state, settings and scores."""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from svfap.console import duration
from svfap.data.video import natural_key
from svfap.errors import UserError
from svfap.evaluation.config import (
    DATA_FILE,
    EVALUATION_FOLDER,
    FAILURE_FILE,
    FOLDS_FILE,
    LOG_FILE,
    RUN_CONFIG,
    STATE_FILE,
)
from svfap.evaluation.pool import RESULTS_FILE
from svfap.evaluation.predictions import METRICS_FILE, PREDICTIONS_FILE
from svfap.files import is_being_written, write_atomically
from svfap.formats import read_settings_file, upgrade
from svfap.metric_table import MEAN_SCORE, main_metric, metric_name, metric_text, prefixed
from svfap.probe.config import PROBE_FILE
from svfap.reports.config import RunsConfig
from svfap.reports.runs import load_json, read_log
from svfap.settings import flat_settings
from svfap.weighted import named

# What is in these folders belongs to the run around them.
SKIPPED = {"last", "best", "tensorboard", "wandb", "mlruns"}
# Settings that are no choice between runs, or have a column of their own.
NOT_COMPARED = {
    *("out", "resume", "dataset", "manifest", "val_manifest", "root", "track", "track_project", "num_workers"),
    *("cache_gb", "save_every_steps", "max_unreadable", "previews", "parallel", "epochs"),
}
MODEL = "model."
FIX = "Put that file back from a copy, or delete the folder of the run"
MAIN = tuple(main_metric(task) for task in ("classification", "regression"))


@dataclass
class RunSummary:
    """One line of the list; what is not known is None.

    run: its folder, relative to that which is listed. kind: pre-training, fine-tuning, folds, probe, evaluation. state: running
    (a process writes there), finished, failed, interrupted (may be resumed), broken (cannot be read); reason: why it has failed
    or is broken. validation: the best score so far; of pre-training the last of `probe_every`, whose metric begins with probe.
    loss: mean of the last epoch. seconds: of training. updated: when something was last written. settings: resolved.
    """

    run: str
    kind: str
    state: str = "finished"
    epochs_done: int | None = None
    epochs: int | None = None
    data: str | None = None
    validation_metric: str | None = None
    validation: float | None = None
    best_epoch: int | None = None
    test_metric: str | None = None
    test: float | None = None
    loss: float | None = None
    seconds: float | None = None
    updated: str | None = None
    reason: str | None = None
    settings: dict[str, Any] = field(default_factory=dict)


def list_runs(folder: Path, config: RunsConfig | None = None) -> pd.DataFrame:
    """The runs under a folder, one row each, with the columns of `RunSummary`.

    `settings` is replaced by a column for each setting in which runs of one kind differ, named as the setting and empty for
    other kinds. With `config.out` the table is written. Raises `UserError` for a folder that does not exist or holds no run; a
    run that cannot be read is a row.
    """
    config = config or RunsConfig()
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder")
    runs = [_summary(path, kind, folder) for path, kind in _find(folder)]
    if not runs:
        raise UserError(
            f"{folder}: holds no run; those of pretrain, finetune, evaluate and probe are found, at any depth below"
        )
    differing = _differing(runs)
    rows = []
    for run in runs:
        row = asdict(run)
        settings = row.pop("settings")
        own = {name: settings.get(name) for name in differing[run.kind]}
        rows.append({**row, **dict.fromkeys(itertools.chain(*differing.values())), **own})
    table = _sorted(pd.DataFrame(rows, dtype=object), config.sort)  # whole numbers stay what they are
    if config.out is not None:
        as_json = json.dumps(table.to_dict("records"), indent=2) + "\n"
        write_atomically(config.out, as_json if config.out.suffix == ".json" else table.to_csv(index=False))
    return table


def runs_in_words(table: pd.DataFrame) -> pd.DataFrame:
    """The table of `list_runs` as text cells: a score with its name, the settings that differ in one cell."""
    known = list(RunSummary.__dataclass_fields__)
    differing = [name for name in table.columns if name not in known]
    rows = []
    for row in table.to_dict("records"):
        settings = [f"{name}={_short(row[name])}" for name in differing if row[name] is not None]
        done = "?" if row["epochs_done"] is None else row["epochs_done"]
        epochs = "" if row["epochs"] is None else f"{done}/{row['epochs']}"
        rows.append(
            {
                "run": row["run"], "kind": row["kind"], "state": row["state"], "epochs": epochs, "data": row["data"] or "",
                "settings that differ": ", ".join(settings),
                "validation": _score(row["validation_metric"], row["validation"]),
                "test": _score(row["test_metric"], row["test"]),
                "loss": "" if row["loss"] is None else f"{row['loss']:.4f}",
                "time": "" if row["seconds"] is None else _time(row["seconds"]),
                "updated": (row["updated"] or "")[:16].replace("T", " "),
            }
        )  # fmt: skip
    shown = pd.DataFrame(rows)
    return shown[[name for name in shown if name in ("run", "kind", "state") or (shown[name] != "").any()]]


def _find(folder: Path) -> Iterator[tuple[Path, str]]:
    """Folders of runs and their kinds. An evaluation of a run on its own test part belongs to the run."""
    for path, folders, files in os.walk(folder):
        here, names = Path(path), {*files, *folders}
        folders[:] = sorted(
            (n for n in folders if n not in SKIPPED and not n.startswith(".") and not n.endswith((".new", ".old"))),
            key=natural_key,
        )
        if LOG_FILE in names or (RUN_CONFIG in names and names & {DATA_FILE, "last", FAILURE_FILE}):
            yield here, "training"
            if (here / EVALUATION_FOLDER / METRICS_FILE).is_file():  # not of several heads
                folders.remove(EVALUATION_FOLDER)
        elif FOLDS_FILE in names or (RESULTS_FILE in names and any(name.startswith("fold_") for name in folders)):
            yield here, "folds"
        elif PROBE_FILE in names:
            yield here, "probe"
        elif METRICS_FILE in names and PREDICTIONS_FILE in names:
            yield here, "evaluation"


def _summary(path: Path, kind: str, folder: Path) -> RunSummary:
    found = RunSummary(os.path.relpath(path, folder), kind)
    read: dict[str, Callable[[Path, RunSummary], None]] = {
        "training": _training, "folds": _folds, "probe": _probe, "evaluation": _evaluation
    }  # fmt: skip
    try:
        read[kind](path, found)
    except (UserError, OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        what = str(error) if isinstance(error, UserError) else f"{path}: {type(error).__name__} {error}".rstrip()
        found.state, found.reason = "broken", f"{' '.join(what.split())}. {FIX}"
    return found


def read_training(path: Path) -> RunSummary:
    """The summary of a training. Raises `UserError` if a file cannot be read."""
    found = RunSummary(path.name, "training")
    _training(path, found)
    return found


def _training(path: Path, found: RunSummary) -> None:
    if not (path / RUN_CONFIG).is_file():
        raise UserError(f"{path / RUN_CONFIG}: no such file")
    settings = read_settings_file(path / RUN_CONFIG)
    found.kind = "pre-training" if "mask_ratio" in settings else "fine-tuning"
    found.settings, found.epochs = flat_settings(settings), int(settings["epochs"])
    found.data = _data(settings)
    metrics = _read(path / METRICS_FILE)
    if (path / METRICS_FILE).is_file():
        metrics = upgrade("training metrics", metrics, path / METRICS_FILE)
    found.state = "interrupted"
    if is_being_written(path):
        found.state = "running"
    elif metrics.get("finished"):
        found.state = "finished"
    elif (path / FAILURE_FILE).is_file():
        found.state, found.reason = "failed", (path / FAILURE_FILE).read_text(errors="replace").strip()
    lines = _log(path / LOG_FILE)
    steps = [line for line in lines if line["kind"] == "train"]
    validations = [line for line in lines if line["kind"] == "val"]
    found.epochs_done = max((line["epoch"] for line in validations), default=0)
    losses = [line["loss"] for line in steps if line["epoch"] == steps[-1]["epoch"] and line["loss"] is not None]
    found.loss = float(np.mean(losses)) if losses else None
    # Of several heads the score of one, or the mean of all, chooses.
    head = settings.get("best_by") or ""
    chosen = [prefixed(head, f"{of}{name}") for of in ("frame_", "") for name in MAIN] + [MEAN_SCORE] * (not head)
    if key := next((key for key in chosen if any(key in line for line in validations)), ""):
        best = max((line for line in validations if line.get(key) is not None), key=lambda line: line[key])
        found.validation_metric, found.validation, found.best_epoch = key, float(best[key]), best["epoch"]
    elif probes := [line for line in lines if line["kind"] == "probe"]:
        key = next(f"linear_last_{name}" for name in MAIN if f"linear_last_{name}" in probes[-1])
        found.validation_metric, found.validation = key.replace("linear_last", "probe"), float(probes[-1][key])
        found.best_epoch = probes[-1]["epoch"]
    state = _read(path / "last" / STATE_FILE)
    seconds = metrics.get("seconds", state.get("seconds"))
    found.seconds = None if seconds is None else float(seconds)
    _add_test(_read(path / EVALUATION_FOLDER / METRICS_FILE), found)
    _set_time(found, path, LOG_FILE, METRICS_FILE, RUN_CONFIG, FAILURE_FILE)


def _folds(path: Path, found: RunSummary) -> None:
    settings, results = _read(path / FOLDS_FILE), _read(path / RESULTS_FILE)
    found.data = str(results.get("dataset") or Path(str(settings.get("dataset", ""))).name) or None
    if is_being_written(path):
        found.state = "running"
    elif not results:
        found.state = "interrupted"
    _add_test(results.get("pooled", {}), found)
    _set_time(found, path, RESULTS_FILE, FOLDS_FILE)


def _probe(path: Path, found: RunSummary) -> None:
    """The best score of a reader of the trained encoder."""
    content = _read(path / PROBE_FILE)
    found.data = str(content["data"])
    scores = [line for line in content["scores"] if line["encoder"] == "trained" and line["value"] is not None]
    key = next(name for name in MAIN if any(line["score"] == name for line in scores))
    found.test_metric = f"probe_{key}"
    found.test = max(float(line["value"]) for line in scores if line["score"] == key)
    _set_time(found, path, PROBE_FILE)


def _evaluation(path: Path, found: RunSummary) -> None:
    metrics = _read(path / METRICS_FILE)
    found.data = Path(str(metrics["manifest"])).name if metrics.get("manifest") else None
    _add_test(metrics, found)
    _set_time(found, path, METRICS_FILE)


def _add_test(metrics: dict[str, Any], found: RunSummary) -> None:
    """The main score of an evaluation, of a frame-level model that of frames."""
    frames = metrics.get("frames") or {}
    for scores, before in ((frames, "frame_"), (metrics, "")):
        for key in MAIN:
            if isinstance(scores.get(key), int | float):
                found.test_metric, found.test = before + key, float(scores[key])
                return


def _set_time(found: RunSummary, path: Path, *names: str) -> None:
    times = [(path / name).stat().st_mtime for name in names if (path / name).exists()]
    found.updated = datetime.fromtimestamp(max(times)).isoformat(timespec="seconds") if times else None


def _read(file: Path) -> dict[str, Any]:
    """The content of a JSON file; empty where there is none. Raises `UserError`."""
    content = load_json(file) if file.is_file() else {}
    if not isinstance(content, dict):
        raise UserError(f"{file}: holds a {type(content).__name__}, not names with values")
    return content


def _log(file: Path) -> list[dict[str, Any]]:
    """The records of a training, none without a log. Raises `UserError`."""
    records = read_log(file) if file.is_file() else []
    for number, record in enumerate(records, 1):
        if not {"kind", "epoch"} <= record.keys():
            raise UserError(f"{file}: line {number} is no record of a training")
    return records


def _data(settings: dict[str, Any]) -> str | None:
    """Names of the datasets' folders with the fold, or of the manifests; weights follow a colon."""
    if dataset := settings.get("dataset"):
        fold = settings.get("fold")
        return named(dataset, parts=1) + (f", fold {fold}" if fold not in (None, "1") else "")
    return named(settings["manifest"]) if settings.get("manifest") else None


def _differing(runs: list[RunSummary]) -> dict[str, list[str]]:
    """Of each kind the settings in which its runs differ, in the order of `config.yaml`.

    One that is newer than a run is no difference; a setting of the model that is not given is that of the preset.
    """
    differing: dict[str, list[str]] = {}
    for kind in {run.kind: None for run in runs}:
        differing[kind] = []
        each = [run.settings for run in runs if run.kind == kind and run.settings]
        for name in {name: None for settings in each for name in settings if name not in NOT_COMPARED}:
            having = [settings for settings in each if name in settings or name.startswith(MODEL)]
            if len({json.dumps(settings.get(name), default=str) for settings in having}) > 1:
                differing[kind].append(name)
    return differing


def _sorted(table: pd.DataFrame, by: str) -> pd.DataFrame:
    """Highest scores, longest times and latest dates first; else the lowest. What is missing comes last."""
    if by == "run":
        natural = sorted(table.index, key=lambda number: natural_key(table["run"][number]))
        return table.loc[natural].reset_index(drop=True)
    column = {"time": "seconds", "date": "updated"}.get(by, by)
    falling = by in ("validation", "test", "time", "date")
    values = table[column] if column in ("kind", "state", "updated") else table[column].astype(float)
    order = values.sort_values(ascending=not falling, kind="stable", na_position="last").index
    return table.loc[order].reset_index(drop=True)


def _score(key: str | None, value: float | None) -> str:
    if key is None or value is None:
        return ""
    metric = key.removeprefix("probe_")
    return f"{'probe ' if metric != key else ''}{metric_name(metric)} {metric_text(metric, value)}"


def _short(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _time(seconds: float) -> str:
    """As `duration`; less than a minute in seconds, "42 s"."""
    return f"{seconds:.0f} s" if seconds < 60 else duration(seconds)
