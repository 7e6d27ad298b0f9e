"""Tables and figures of scores: several runs compared, the classes or dimensions of one run, and the numbers of the paper."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from svfap.console import counted
from svfap.evaluation.confidence import interval_note
from svfap.evaluation.metrics import flat_intervals, never_predicted
from svfap.evaluation.predictions import task_and_names, truth_columns
from svfap.metric_table import bounds_text, format_percent, metric_heading, metric_keys, metric_text
from svfap.paper import REPORTED, RESULTS, TITLES
from svfap.reports.runs import Run
from svfap.view.figures.curves import Records, fold_curves, loss_curves, probe_curves
from svfap.view.figures.scores import class_bars, comparison_bars, confusion_matrix
from svfap.view.page import Picture, Section, Table
from svfap.view.tables import TerminalTable, to_terminal

PAPER = {"svfap_small": "paper, SVFAP-S", "svfap_base": "paper, SVFAP-B", "released": "authors' released weights"}


def overview(runs: Sequence[Run]) -> Section:
    """All runs compared: test scores, bars where two runs have the same task, and facts."""
    tables: dict[str, Table] = {}
    figures: dict[str, Figure] = {}
    notices = []
    for task in ("classification", "regression"):
        caption = f"{task.capitalize()} on the test set"
        keys, drawn = metric_keys(task, tables=True), metric_keys(task, tables=True, higher_is_better=True)
        evaluated = [run for run in runs if keys[0] in run.metrics]
        tables[caption] = [{"run": run.name, **_cells(run.metrics, keys)} for run in evaluated]
        if len(evaluated) > 1:
            results = {run.name: {m: run.metrics[m] for m in drawn if m in run.metrics} for run in evaluated}
            figures[caption] = comparison_bars(results, drawn)
            tested = dict.fromkeys(_test_set(run) for run in evaluated if len(run.predictions))
            if len(tested) > len({names for names, _ in tested}):  # those of other dimensions are no comparison anyway
                notices.append(f"{caption}: the runs were tested on different videos; their scores are not comparable.")
    facts: dict[str, dict[str, Any]] = {}
    for run in runs:
        for key, value in {**run.training, **_progress(run.log)}.items():
            facts.setdefault(str(key).replace("_", " "), {})[run.name] = value
    tables["About the runs"] = [
        {"": key, **{run.name: values.get(run.name) for run in runs}} for key, values in facts.items()
    ]
    return Section("Overview", notice=" ".join(notices), tables=tables, figures=figures)


def runs_tables(runs: Sequence[Run]) -> list[TerminalTable]:
    """Test scores of the evaluated runs for the terminal, a table for each task; of folds, the pooled ones."""
    tables = []
    for task in ("classification", "regression"):
        keys = metric_keys(task, tables=True)
        evaluated = [run for run in runs if keys[0] in run.metrics]
        shown = [key for key in keys if any(key in run.metrics for run in evaluated)]
        cells = [_cells(run.metrics, shown).values() for run in evaluated]
        rows = [[run.name, *("" if c is None else c for c in row)] for run, row in zip(evaluated, cells, strict=True)]
        columns = ["run", *map(metric_heading, shown), "videos"]
        if rows:
            tables.append(to_terminal(pd.DataFrame(rows, columns=columns, dtype=object), "on the test set"))
    return tables


def _test_set(run: Run) -> tuple[tuple[str, ...], frozenset[tuple[Any, ...]]]:
    """What a run is tested in, such as dimensions, and its test videos with their truth."""
    found = task_and_names(run.predictions)
    columns = ["path", *(truth_columns(*found) if found else [])]
    return tuple(columns), frozenset(run.predictions[columns].itertuples(index=False, name=None))


def training_section(run: Run) -> Section | None:
    """Training curves of a run, or of all folds in one figure; None without a log."""
    logs = {f"fold {one.name}": one.log for one in run.folds} or {run.name: run.log}
    logs = {name: log for name, log in logs.items() if any(record.get("kind") in ("train", "val") for record in log)}
    if not logs:
        return None
    if run.folds:
        return Section("Training", figures={"Loss and validation of every fold": fold_curves(logs)})
    figures: dict[str, Figure | Picture] = {"Loss and validation over epochs": loss_curves(run.log)}
    if any(record.get("kind") == "probe" for record in run.log):
        note = "Epoch 0 is the untrained encoder, the dashed line a linear reader of pixels."
        note += _scored_on(run.log)
        figures["Probes of the frozen encoder over epochs"] = Picture(probe_curves(run.log), note=note)
    return Section("Training", figures=figures)


def _scored_on(log: Records) -> str:
    """What is said of chance and of whom the probes of a log are scored on; nothing of an older log, which has neither."""
    first = next((record for record in log if "scored_videos" in record), None)
    if first is None:
        return ""
    people = f" of {counted(int(first['scored_people']), 'person', 'people')}" if "scored_people" in first else ""
    return f" The dotted line is chance. Scored on {counted(int(first['scored_videos']), 'video')}{people}."


def scores_section(run: Run) -> Section | None:
    """Test scores by class or dimension, by fold, and beside the paper's; None if the run is not evaluated."""
    metrics = run.metrics
    if not metrics and not any(fold.metrics for fold in run.folds):
        return None
    tables: dict[str, Table] = {}
    figures: dict[str, Picture] = {}
    if run.folds:
        tables["Fold by fold"] = _fold_table(run)
    if compared := _beside_paper(run):
        caption = f"Beside the paper's results on {TITLES[run.dataset]}"
        note = "Ours is one evaluation; for datasets with folds the paper pools the predictions of all folds."
        bars = comparison_bars(compared, list(compared[run.name]))
        figures[caption] = Picture(bars, caption, "" if run.folds else note)
    if per_class := metrics.get("per_class"):
        tables["Per class, on the test set"] = _class_table(metrics, "videos")
        if "frames" in metrics:
            tables["Per class, all frames of the test set pooled"] = _class_table(metrics["frames"], "frames")
        figures |= _class_figures(run, per_class)
    keys, frames = metric_keys("regression", tables=True), metrics.get("frames", {})
    for part, scores in (("on the test set", metrics), ("all frames of the test set pooled", frames)):
        per_dimension = scores.get("per_dimension", {}).items()
        tables[f"Per dimension, {part}"] = [{"dimension": name, **_values(s, keys)} for name, s in per_dimension]
    tables["On the test set, with 95% intervals"] = _interval_table(metrics)
    tables["All frames of the test set pooled, with 95% intervals"] = _interval_table(frames)
    parts = []
    if groups := metrics.get("num_groups"):
        parts.append(
            f"Scored over {counted(groups, 'group')} of videos; the outputs of the videos of a group are averaged."
        )
    if (known := metrics.get("intervals", {})).get("scores"):
        parts.append(f"{interval_note(known)}.")
    text = " ".join(parts)
    return Section("Scores", text, notice=_warning(run), tables=tables, figures=figures)


def _interval_table(metrics: Mapping[str, Any]) -> Table:
    """Each score with its 95% interval; empty for evaluations that have none."""
    bounds = flat_intervals(metrics)
    rows = []
    for key in metric_keys(tables=True):
        if key in metrics and key in bounds:
            interval = bounds_text(*(metric_text(key, bound) for bound in bounds[key]))
            rows.append(
                {"score": metric_heading(key), "value": metric_text(key, metrics[key]), "95% interval": interval}
            )
    return rows


def reported_section(run: Run) -> Section:
    """What other systems report on the dataset of a run, or that nothing is known of it."""
    heading, known = "Reported elsewhere", ", ".join(TITLES[name] for name in REPORTED)
    if not run.dataset:
        return Section(
            heading, f"The run does not name a prepared dataset. Figures of other systems are known on {known}."
        )
    title = TITLES.get(run.dataset, run.dataset)
    if run.dataset not in REPORTED:
        return Section(heading, f"No figures of other systems are known on {title}, only on {known}.")
    rows: Table = [
        {
            "system": each.system, "inputs": each.inputs,
            **{name: None if value is None else f"{value:.2f}" for name, value in (("UAR, %", each.uar), ("WAR, %", each.war))},
            "source": each.source,
        }
        for each in REPORTED[run.dataset]
    ]  # fmt: skip
    text = (
        f"Printed figures of other systems on {title}, looked up where the table says. None was run with this package; "
        "their inputs, encoders and protocols differ, and they have no intervals."
    )
    return Section(heading, text, tables={"As reported": rows})


def _class_table(metrics: Mapping[str, Any], unit: str) -> Table:
    """Recall, precision and F1 of each class over videos or frames, the `unit`; empty for classes without any."""
    columns = {"recall, %": "accuracy", "precision, %": "precision", "F1, %": "f1"}
    rows = []
    for name, scores in metrics["per_class"].items():
        cells = {column: format_percent(scores[key]) if scores["count"] else None for column, key in columns.items()}
        rows.append({"class": name, **cells, unit: scores["count"]})
    return rows


def _class_figures(run: Run, per_class: Mapping[str, Mapping[str, Any]]) -> dict[str, Picture]:
    recalls = {name: s["accuracy"] for name, s in per_class.items()}
    counts = {name: s["count"] for name, s in per_class.items()}
    folds = {
        fold.name: {name: s["accuracy"] for name, s in fold.metrics["per_class"].items() if s["count"]}
        for fold in run.folds
        if "per_class" in fold.metrics
    }
    listed = ", ".join(f"{name} {100 * recall:.0f}%" for name, recall in recalls.items() if counts[name])
    note = "The dashed line is the mean, UAR. The paper reports no recalls by class."
    bars = Picture(class_bars(recalls, counts, folds), f"Recall by class: {listed}", note)
    caption = "Confusion matrix: rows are the truth" + (", all folds pooled" if run.folds else "")
    matrix = confusion_matrix(run.metrics["confusion"], list(per_class))
    return {"Recall of each class (videos)": bars, caption: Picture(matrix, f"{caption}. On the diagonal: {listed}")}


def _fold_table(run: Run) -> list[dict[str, Any]]:
    """The scores of each fold, their mean and standard deviation (n - 1), and the pooled scores."""
    keys = [key for key in metric_keys(tables=True) if any(key in one.metrics for one in (run, *run.folds))]
    rows: list[dict[str, Any]] = [{"": f"fold {fold.name}", **_cells(fold.metrics, keys)} for fold in run.folds]
    scores = {key: [fold.metrics[key] for fold in run.folds if key in fold.metrics] for key in keys}
    if all(len(values) > 1 for values in scores.values()):
        spread = {
            metric_heading(key): f"{metric_text(key, float(np.mean(v)))} ± {metric_text(key, float(np.std(v, ddof=1)))}"
            for key, v in scores.items()
        }
        rows.append({"": "mean ± sd", **spread, "videos": None})
    return [*rows, {"": "pooled", **_cells(run.metrics, keys)}]


def _beside_paper(run: Run) -> dict[str, dict[str, float]]:
    """Name -> metric -> value: ours and the paper's, for metrics that both have; empty if the paper has none."""
    published = RESULTS.get(run.dataset, {})
    ours = {m: v for m, v in run.metrics.items() if isinstance(v, float)}
    for dimension, scores in run.metrics.get("per_dimension", {}).items():
        ours |= {f"{m}_{dimension}": v for m, v in scores.items()}
    metrics = [m for m in next(iter(published.values()), {}) if m in ours]
    paper = {PAPER[model]: {m: v for m, v in values.items() if m in metrics} for model, values in published.items()}
    return {run.name: {m: ours[m] for m in metrics}, **paper} if metrics else {}


def _warning(run: Run) -> str:
    metrics = run.metrics
    expected = metrics.get("num_expected", 0)
    evaluated = metrics.get("num_evaluated", expected)
    parts = [f"About the pooled scores: {'; '.join(run.incomplete)}."] if run.incomplete else []
    if evaluated < expected:
        parts.append(f"Only {evaluated} of {expected} test videos could be evaluated; the scores leave out the others.")
    if metrics.get("classes_absent"):
        absent = ", ".join(metrics["classes_absent"])
        parts.append(f"Not in the test set: {absent}. UAR averages over the other classes.")
    parts.append(never_predicted(metrics))
    if metrics.get("degenerate"):
        parts.append(f"Constant targets or predictions, PCC and CCC set to 0: {', '.join(metrics['degenerate'])}.")
    return " ".join(filter(None, parts))


def _progress(log: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """How far the log of a run goes."""
    train = [record for record in log if record.get("kind") == "train"]
    if not train:
        return {}
    last = next((record["loss"] for record in reversed(train) if record["loss"] is not None), None)
    return {"epochs trained": len({record["epoch"] for record in train}), "last training loss": last}


def _values(scores: Mapping[str, Any], keys: Sequence[str]) -> dict[str, str | None]:
    """Heading -> value as text, for a row of a table; None for a metric that is not there."""
    return {metric_heading(key): metric_text(key, scores[key]) if key in scores else None for key in keys}


def _cells(scores: Mapping[str, Any], keys: Sequence[str]) -> dict[str, str | int | None]:
    """`_values`, and the number of test videos, with the number expected where some could not be read."""
    expected, evaluated = scores.get("num_expected"), scores.get("num_evaluated", scores.get("num_samples"))
    videos = evaluated if expected in (None, evaluated) else f"{evaluated} of {expected}"
    return {**_values(scores, keys), "videos": videos}
