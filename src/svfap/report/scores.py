"""Tables and figures of scores: runs side by side, one run's classes or dimensions, and the paper's numbers beside them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from svfap.evaluate.metrics import REGRESSION_SCORES
from svfap.paper import RESULTS
from svfap.report.runs import Run, same_test_set
from svfap.view.figures.base import PERCENT, metric_name
from svfap.view.figures.curves import fold_curves, loss_curves
from svfap.view.figures.scores import class_bars, comparison_bars, confusion_matrix
from svfap.view.page import Picture, Section, Table

CLASSIFICATION_SCORES = ("uar", "war", "weighted_f1", "macro_f1")
PAPER = {"svfap_small": "paper, SVFAP-S", "svfap_base": "paper, SVFAP-B", "released": "authors' released weights"}


def overview(runs: Sequence[Run]) -> Section:
    """All runs side by side: test metrics, bars where two runs share a kind of metric, and facts."""
    tables: dict[str, Table] = {}
    figures: dict[str, Figure] = {}
    notices = []
    for caption, listed, group in (
        ("Classification on the test set", CLASSIFICATION_SCORES, CLASSIFICATION_SCORES),
        ("Regression on the test set", REGRESSION_SCORES, ("ccc", "pcc", "accuracy")),
    ):
        mine = [run for run in runs if group[0] in run.metrics]
        tables[caption] = [
            {
                "run": run.name,
                **{_column(m): _written(m, run.metrics.get(m)) for m in listed},
                "videos": _coverage(run.metrics),
            }
            for run in mine
        ]
        if len(mine) > 1:
            results = {run.name: {m: run.metrics[m] for m in group if m in run.metrics} for run in mine}
            figures[caption] = comparison_bars(results, group)
            if not same_test_set(mine):
                notices.append(f"{caption}: the runs were tested on different videos, so their scores do not compare.")
    facts: dict[str, dict[str, Any]] = {}
    for run in runs:
        for key, value in {**run.training, **_progress(run.log)}.items():
            facts.setdefault(str(key).replace("_", " "), {})[run.name] = value
    tables["About the runs"] = [
        {"": key, **{run.name: values.get(run.name) for run in runs}} for key, values in facts.items()
    ]
    return Section("Overview", notice=" ".join(notices), tables=tables, figures=figures)


def training_section(run: Run) -> Section | None:
    """Curves of a run, or of all folds in one figure; None without a log."""
    logs = {f"fold {one.name}": one.log for one in run.folds} or {run.name: run.log}
    logs = {name: log for name, log in logs.items() if any(record.get("kind") in ("train", "val") for record in log)}
    if not logs:
        return None
    if run.folds:
        return Section("Training", figures={"Loss and validation of every fold": fold_curves(logs)})
    return Section("Training", figures={"Loss and validation over epochs": loss_curves(run.log)})


def scores_section(run: Run) -> Section | None:
    """Test scores by class or dimension, by fold, and beside the paper's; None for a run that is not evaluated."""
    metrics = run.metrics
    if not metrics:
        return None
    tables: dict[str, Table] = {}
    figures: dict[str, Picture] = {}
    if run.folds:
        tables["Fold by fold"] = _fold_table(run)
    if beside := _beside_paper(run):
        caption = f"Beside the paper's results on {run.dataset}"
        note = (
            ""
            if run.folds
            else "One evaluation of ours; the paper pools the predictions of all folds where there are several."
        )
        figures[caption] = Picture(comparison_bars(beside, list(next(iter(beside.values())))), caption, note)
    if per_class := metrics.get("per_class"):
        tables["Per class, on the test set"] = _class_table(metrics, "videos")
        if "frames" in metrics:
            tables["Per class, all frames of the test set pooled"] = _class_table(metrics["frames"], "frames")
        figures |= _class_figures(run, per_class)
    for caption, scores in (
        ("Per dimension, on the test set", metrics),
        ("Per dimension, all frames of the test set pooled", metrics.get("frames", {})),
    ):
        if per_dimension := scores.get("per_dimension"):
            tables[caption] = [
                {"dimension": name, **{_column(m): _written(m, s[m]) for m in REGRESSION_SCORES}}
                for name, s in per_dimension.items()
            ]
    groups = metrics.get("num_groups")
    text = f"Scored over {groups} groups of videos, each with the mean of its videos' outputs." if groups else ""
    return Section("Scores", text, notice=_warning(run), tables=tables, figures=figures)


def _class_table(metrics: Mapping[str, Any], what: str) -> Table:
    """Scores of each class over `what`, videos or frames."""
    absent = metrics.get("classes_absent", [])
    return [
        {"class": name, **{_column(m, "uar"): None if name in absent else _written("uar", s[m])
                           for m in ("accuracy", "precision", "f1")}, what: s["count"]}
        for name, s in metrics["per_class"].items()
    ]  # fmt: skip


def _class_figures(run: Run, per_class: Mapping[str, Mapping[str, Any]]) -> dict[str, Picture]:
    recalls = {name: s["accuracy"] for name, s in per_class.items()}
    counts = {name: s["count"] for name, s in per_class.items()}
    folds = {
        fold.name: {name: s["accuracy"] for name, s in fold.metrics["per_class"].items() if s["count"]}
        for fold in run.folds
        if "per_class" in fold.metrics
    }
    said = ", ".join(f"{name} {100 * recall:.0f}%" for name, recall in recalls.items() if counts[name])
    pictures = {
        "Recall of each class (videos)": Picture(
            class_bars(recalls, counts, folds),
            f"Recall by class: {said}",
            "The paper gives no recalls by class; the dashed line is their mean, UAR.",
        )
    }
    if "confusion" in run.metrics:
        caption = "Confusion matrix: rows are the truth" + (", all folds pooled" if run.folds else "")
        pictures[caption] = Picture(
            confusion_matrix(run.metrics["confusion"], list(per_class)), f"{caption}. On the diagonal: {said}"
        )
    return pictures


def _fold_table(run: Run) -> list[dict[str, Any]]:
    """Each fold's own scores, their mean and standard deviation (n - 1), and the pooled ones."""
    names = [m for m in (*CLASSIFICATION_SCORES, "ccc", "pcc", "mae") if m in run.metrics]
    rows: list[dict[str, Any]] = [
        {
            "": f"fold {fold.name}",
            **{_column(m): _written(m, fold.metrics.get(m)) for m in names},
            "videos": _coverage(fold.metrics),
        }
        for fold in run.folds
    ]
    scored = {m: [fold.metrics[m] for fold in run.folds if m in fold.metrics] for m in names}
    if all(len(values) > 1 for values in scored.values()):
        spread = {m: (_written(m, float(np.mean(v))), _written(m, float(np.std(v, ddof=1)))) for m, v in scored.items()}
        rows.append(
            {"": "mean ± sd", **{_column(m): f"{mean} ± {sd}" for m, (mean, sd) in spread.items()}, "videos": None}
        )
    pooled = {_column(m): _written(m, run.metrics.get(m)) for m in names}
    return [*rows, {"": "pooled", **pooled, "videos": _coverage(run.metrics)}]


def _beside_paper(run: Run) -> dict[str, dict[str, float]]:
    """Name -> metric -> value: ours and the paper's, of the metrics that both give; empty where the paper has none."""
    published = RESULTS.get(run.dataset, {})
    ours = {m: v for m, v in run.metrics.items() if isinstance(v, float)}
    for dimension, scores in run.metrics.get("per_dimension", {}).items():
        ours |= {f"{m}_{dimension}": v for m, v in scores.items()}
    metrics = [m for m in next(iter(published.values()), {}) if m in ours]
    if not metrics:
        return {}
    paper = {
        PAPER.get(model, model): {m: v for m, v in values.items() if m in metrics}
        for model, values in published.items()
    }
    return {run.name: {m: ours[m] for m in metrics}, **paper}


def _warning(run: Run) -> str:
    metrics = run.metrics
    expected, evaluated = metrics.get("num_expected"), metrics.get("num_evaluated")
    parts = [f"About the pooled scores: {'; '.join(run.incomplete)}."] if run.incomplete else []
    if expected is not None and evaluated is not None and evaluated < expected:
        parts.append(f"Only {evaluated} of {expected} test videos could be evaluated; the scores leave the others out.")
    if metrics.get("classes_absent"):
        parts.append(
            f"Not in the test set: {', '.join(metrics['classes_absent'])}. UAR averages over the other classes."
        )
    if metrics.get("degenerate"):
        parts.append(f"Constant targets or predictions, PCC and CCC set to 0: {', '.join(metrics['degenerate'])}.")
    return " ".join(parts)


def _progress(log: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """How far the log of a run goes."""
    train = [record for record in log if record.get("kind") == "train"]
    if not train:
        return {}
    return {"epochs trained": len({record["epoch"] for record in train}), "last training loss": train[-1]["loss"]}


def _column(metric: str, like: str = "") -> str:
    return metric_name("recall" if like and metric == "accuracy" else metric) + (
        ", %" if (like or metric) in PERCENT else ""
    )


def _written(metric: str, value: float | None) -> str | None:
    """A metric as the field writes it: percentages with two digits, the rest with four."""
    if value is None:
        return None
    return f"{100 * value:.2f}" if metric in PERCENT else f"{value:.4f}"


def _coverage(scores: Mapping[str, Any]) -> str | int | None:
    expected, evaluated = scores.get("num_expected"), scores.get("num_evaluated", scores.get("num_samples"))
    return evaluated if expected in (None, evaluated) else f"{evaluated} of {expected}"
