"""`svfap sweep`: train every trial with every seed, and choose by the validation score, never by a test score."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml
from scipy.stats import t as student

from svfap.console import counted, say, silent
from svfap.errors import Diverged, Interrupted, UserError
from svfap.evaluation.config import FAILURE_FILE
from svfap.evaluation.metrics import write_metrics
from svfap.files import make_folder, only_writer, write_atomically
from svfap.formats import stamped, upgrade
from svfap.metric_table import interval_text, metric_heading, metric_limits, metric_scale
from svfap.reports.listing import read_training
from svfap.settings import check_same_settings
from svfap.sweep.config import SweepConfig
from svfap.sweep.plan import Choices, Plan, read_plan, shown
from svfap.train.config import FinetuneConfig, PretrainConfig, TrainConfig
from svfap.train.finetune import finetune
from svfap.train.parallel import run_all
from svfap.train.pretrain import pretrain
from svfap.train.resolve import check_run, resolve
from svfap.train.run_folder import FREE_SETTINGS
from svfap.view.tables import write_table

PLAN_FILE, BEST_FILE = "sweep.json", "best.yaml"
LEVEL = 0.95


@dataclass(frozen=True)
class Swept:
    """The result of a sweep.

    out: folder of the files. metric: key of the validation score. table: one row per trial, best first, with the columns
    trial, one for each choice, mean, sd, low, high (95% interval over seeds; NaN for one seed), num_seeds, num_diverged. summary,
    caption: the table as text. best: settings of the best trial, as in `best.yaml`; None where no trial has all its seeds.
    """

    out: Path
    metric: str
    table: pd.DataFrame
    summary: pd.DataFrame
    caption: str
    best: dict[str, Any] | None


@dataclass(frozen=True)
class _Trial:
    """name: of its folder, which stays the same when trials are added."""

    name: str
    choices: Choices
    runs: dict[int, TrainConfig]  # by seed


def run_sweep(file: str | Path, config: SweepConfig) -> Swept:
    """Train every trial of a file with every seed, or what is left of it, and write the table and `best.yaml`.

    A run that diverges counts against its trial and does not end the sweep. Writes into `config.out`: sweep.json (the plan),
    trial_<n>-seed<s>/ (runs), trials.md, .csv, .tex and .json, best.yaml. Every run is checked before the first begins.

    Raises:
        UserError: unknown settings, values of the wrong type; no validation part; a file that contradicts what is done; errors
            of a training. Interrupted: a signal stopped it; the same call goes on.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UserError("start a sweep without torchrun: it runs one process per GPU")
    plan, out = read_plan(Path(file)), config.out
    trials = _trials(plan, out)
    runs = [trial.runs[seed] for seed in plan.seeds for trial in trials]  # each trial once, before the second seed
    _check(plan, runs)
    make_folder(out)
    with only_writer(out):
        write_atomically(out / PLAN_FILE, json.dumps(_content(plan, trials), indent=2) + "\n")
        left = [run for run in runs if not _is_done(run.out)]
        say(
            f"{counted(len(trials), 'trial')} × {counted(len(plan.seeds), 'seed')}: {counted(len(runs), 'run')}, "
            f"{len(runs) - len(left)} of them done before"
        )
        if left and (stopped_by := run_all(run_one, left, config.parallel)):
            raise Interrupted(stopped_by, f"{out}: interrupted and saved; the same command continues it")
        return _results(plan, trials, out)


def run_one(config: TrainConfig) -> int:
    """Do a run, or the rest of it; returns the number of the signal that interrupted it, else 0."""
    config = replace(config, resume=True)
    try:
        done = pretrain(config) if isinstance(config, PretrainConfig) else finetune(config)  # type: ignore[arg-type]
    except Diverged as error:
        say(f"{config.out}: {error}")
        return 0
    return done.stopped_by


def _trials(plan: Plan, out: Path) -> list[_Trial]:
    """The trials with their folders: those of an earlier call keep theirs. Raises `UserError` for a contradiction."""
    before = _before(plan, out)
    names = {_key(trial["choices"]): trial["name"] for trial in before.get("trials", [])}
    number, trials = len(names), []
    for choices in plan.trials:
        if _key(choices) not in names:
            number += 1
            names[_key(choices)] = f"trial_{number:03d}"
        name = names[_key(choices)]
        runs = {seed: plan.config(choices, seed, out / f"{name}-seed{seed}") for seed in plan.seeds}
        trials.append(_Trial(name, choices, runs))
    wanted = {run.out.name for trial in trials for run in trial.runs.values()}
    for trial in before.get("trials", []):
        for folder in sorted(out.glob(f"{trial['name']}-seed*")):
            if folder.name not in wanted:
                seed = folder.name.rpartition("-seed")[2]
                raise UserError(
                    f"{plan.file}: {shown(trial['choices'])} with seed {seed} has been tried ({folder}) and is not in the "
                    "file any more; put it back, remove that folder, or choose another --out"
                )
    return trials


def _before(plan: Plan, out: Path) -> dict[str, Any]:
    """The plan of an earlier call, empty without one. Raises `UserError` if it had other settings."""
    file = out / PLAN_FILE
    if not file.is_file():
        if out.is_dir() and any(out.iterdir()):
            raise UserError(f"out={out}: holds other files and no sweep; choose another folder")
        return {}
    try:
        before = upgrade("sweep", json.loads(file.read_text()), file)
    except ValueError as error:
        raise UserError(f"{file}: is not JSON ({error}); choose another --out") from None
    fix = f"{plan.file} says otherwise; change it back, or choose another --out"
    settings = json.loads(json.dumps(plan.settings, default=str))
    then, now = {**before["settings"], "verb": before["verb"]}, {**settings, "verb": plan.verb}
    if None not in (before.get("draw_seed"), plan.draw_seed):  # of a grid, or of an earlier version
        then, now = then | {"draw_seed": before["draw_seed"]}, now | {"draw_seed": plan.draw_seed}
    check_same_settings(f"out={out}", then, now, fix, FREE_SETTINGS)
    return before


def _content(plan: Plan, trials: list[_Trial]) -> dict[str, Any]:
    settings = json.loads(json.dumps(plan.settings, default=str))
    listed = [{"name": trial.name, "choices": trial.choices} for trial in trials]
    content = {"verb": plan.verb, "settings": settings, "seeds": plan.seeds, "draw_seed": plan.draw_seed}
    return stamped("sweep", {**content, "trials": listed})


def _key(choices: Mapping[str, Any]) -> str:
    return json.dumps(choices, sort_keys=True, default=str)


def _check(plan: Plan, runs: list[TrainConfig]) -> None:
    """Raise `UserError` if a run cannot start, or has nothing to be chosen by. What the runs share is said once."""
    for number, run in enumerate(runs):
        if isinstance(run, PretrainConfig) and run.probe_every is None:
            raise UserError(f"{plan.file}: pre-training is chosen by probes; set probe_every and probe_dataset")
        if isinstance(run, FinetuneConfig) and run.fold == "all":
            raise UserError(f"{plan.file}: fold: a sweep chooses on the validation part of one fold; name the fold")
        with silent() if number else nullcontext():
            check_run(replace(run, resume=True))
        resolved = resolve(run)
        if isinstance(resolved, FinetuneConfig) and not (
            resolved.val_manifest or resolved.val_split or resolved.val_fraction
        ):
            raise UserError(f"{plan.file}: there is no validation part to choose by; set val_fraction or val_manifest")


def _is_done(out: Path) -> bool:
    """Whether a run is finished, or would diverge again."""
    if _diverged(out):
        return True
    file = out / "metrics.json"
    return file.is_file() and read_training(out).state == "finished"


def _diverged(out: Path) -> bool:
    file = out / FAILURE_FILE
    return file.is_file() and file.read_text(errors="replace").startswith(Diverged.START)


def _results(plan: Plan, trials: list[_Trial], out: Path) -> Swept:
    scores, metrics = dict[str, dict[int, float]](), set[str]()
    for trial in trials:
        found = [(seed, read_training(run.out)) for seed, run in trial.runs.items() if not _diverged(run.out)]
        scores[trial.name] = {seed: run.validation for seed, run in found if run.validation is not None}
        metrics |= {run.validation_metric for _, run in found if run.validation_metric}
    metric = min(metrics, default="")
    score_key = metric.removeprefix("probe_")
    rows = []
    for trial in trials:
        values = list(scores[trial.name].values())
        missing = len(trial.runs) - len(values)
        rows.append({"trial": trial.name, **trial.choices, **_statistics(values, score_key), "num_diverged": missing})
    table = pd.DataFrame(rows).sort_values(["num_diverged", "mean"], ascending=[True, False], ignore_index=True)
    names = {trial.name: trial for trial in trials}
    first = None if table["num_diverged"][0] else names[table["trial"][0]]
    what = f"{'Probe' if metric != score_key else 'Validation'} {metric_heading(score_key)}" if metric else "No score"
    seeds = ", ".join(map(str, plan.seeds))
    caption = f"{what}: mean, standard deviation and 95% interval (Student's t) over the seeds {seeds}. No test part was read."
    if len(table) > 1:
        caption += (
            f" The best of {len(table)} is chosen by this score, which is therefore too high for it; test it once."
        )
    if (
        first is not None
        and len(equal := table["trial"][table["mean"].eq(table["mean"][0]) & table["num_diverged"].eq(0)]) > 1
    ):
        caption += f" {', '.join(equal)} are equal by it; the first in the file, {first.name}, is taken as the best."
    summary = _in_words(table, list(trials[0].choices), score_key)
    write_table(out / "trials", summary, caption)
    write_metrics(out / "trials.json", {"metric": metric, "caption": caption, "scores": scores,
        "trials": table.astype(object).where(table.notna(), None).to_dict("records")})  # fmt: skip
    best = None
    if first is not None:
        best = json.loads(json.dumps(plan.with_choices(first.choices), default=str))
        head = f"# {first.name} of the sweep {plan.file}: {shown(first.choices)}\n"
        head += f"# {what}: {summary.iloc[0]['mean']}, over the seeds {seeds}\n"
        write_atomically(out / BEST_FILE, head + yaml.safe_dump(stamped("training settings", best), sort_keys=False))
    else:
        (out / BEST_FILE).unlink(missing_ok=True)
    return Swept(out, metric, table, summary, caption, best)


def _statistics(values: list[float], key: str) -> dict[str, Any]:
    """Mean, standard deviation and interval, which is cut at the limits of the metric."""
    least, most = metric_limits(key)
    number = len(values)
    mean = float(np.mean(values)) if values else math.nan
    sd = float(np.std(values, ddof=1)) if number > 1 else math.nan
    reach = float(student.ppf((1 + LEVEL) / 2, number - 1)) * sd / math.sqrt(number) if number > 1 else math.nan
    return {
        "mean": mean,
        "sd": sd,
        "low": max(mean - reach, least),
        "high": min(mean + reach, most),
        "num_seeds": number,
    }


def _in_words(table: pd.DataFrame, choices: list[str], key: str) -> pd.DataFrame:
    rows = []
    for row in table.to_dict("records"):
        scale = metric_scale(key)
        sd = "" if math.isnan(row["sd"]) else f"{scale * row['sd']:.{1 if scale == 100 else 3}f}"
        diverged = {"diverged": row["num_diverged"] or ""} if table["num_diverged"].any() else {}
        cells = {name: f"{row[name]:.4g}" if isinstance(row[name], float) else str(row[name]) for name in choices}
        rows.append({"trial": row["trial"], **cells, "mean": interval_text(key, row["mean"], row["low"], row["high"]),
                     "sd": sd, "seeds": row["num_seeds"], **diverged})  # fmt: skip
    return pd.DataFrame(rows)
