"""The table of a cross-validation: ours beside the paper's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from svfap.data.prepared import PreparedDataset
from svfap.errors import UserError
from svfap.evaluate.pool import flat_scores
from svfap.paper import RESULTS

DEFAULT_SCORES = {"classification": ("uar", "war", "weighted_f1"), "regression": ("pcc", "ccc", "mae")}
WORDS = {"uar": "UAR", "war": "WAR", "weighted_f1": "weighted F1", "micro_f1": "micro F1", "macro_f1": "macro F1"}
WORDS |= {"mae": "MAE", "rmse": "RMSE", "pcc": "PCC", "ccc": "CCC", "accuracy": "1 − MAE"}
PAPER_WORDS = {"svfap_small": "paper, small", "svfap_base": "paper, base", "released": "released"}


def results_table(
    dataset: PreparedDataset, scores: Mapping[str, Any], paper: Mapping[str, Mapping[str, float]]
) -> pd.DataFrame:
    """What `pool` returned, as text: a row per score, class or dimension; columns for ours, the paper, and each fold.

    Shares of right answers are percentages, as in the paper's tables; correlations and errors are plain numbers.
    """
    columns: dict[str, Mapping[str, float]] = {"pooled": flat_scores(scores["pooled"])}
    if len(scores["folds"]) > 1:
        columns |= {"mean": scores["mean"], "sd": scores["sd"]}
    columns |= {PAPER_WORDS[name]: values for name, values in paper.items()}
    if len(scores["folds"]) > 1:
        columns |= {f"fold {name}": flat_scores(metrics) for name, metrics in scores["folds"].items()}
    shares = dataset.task == "classification"
    rows = [
        {"score": label, **{name: _number(values.get(key), shares) for name, values in columns.items()}}
        for key, label in _rows(dataset, columns["pooled"]).items()
    ]
    metrics = {"pooled": scores["pooled"], **{f"fold {name}": one for name, one in scores["folds"].items()}}
    videos = {n: f"{m['num_evaluated']} of {m['num_expected']}" for n, m in metrics.items() if n in columns}
    rows.append({"score": "videos", **videos})
    if "frames" in scores["pooled"]:
        frames = {name: str(one["frames"]["num_samples"]) for name, one in metrics.items() if name in columns}
        rows.append({"score": "frames", **frames})
    return pd.DataFrame(rows, columns=["score", *columns]).fillna("")


def _rows(dataset: PreparedDataset, pooled: Mapping[str, float]) -> dict[str, str]:
    """Score -> its name in the table, in the table's order."""
    metrics = dataset.metrics or DEFAULT_SCORES[dataset.task]
    if unknown := [name for name in metrics if name not in pooled]:
        raise UserError(
            f"{dataset.name}: dataset.json names an unknown metric {unknown[0]!r}; known: {', '.join(WORDS)}"
        )
    rows: dict[str, str] = {}
    if dataset.task == "classification":
        rows |= {name: f"{WORDS[name]}, %" for name in metrics}
        rows |= {f"accuracy_{name}": f"{name}, %" for name in dataset.label_names}
    else:
        for name in metrics:
            rows |= {f"{name}_{dimension}": f"{WORDS[name]} {dimension}" for dimension in dataset.label_names}
            rows[name] = f"{WORDS[name]}, mean"
    if any(name.startswith("frame_") for name in pooled):
        rows |= {f"frame_{name}": f"frames: {label}" for name, label in rows.items()}
    return rows


def _number(value: float | None, share: bool) -> str:
    return "" if value is None else f"{100 * value:.2f}" if share else f"{value:.4f}"


def results_caption(dataset: PreparedDataset, scores: Mapping[str, Any]) -> str:
    count = len(scores["folds"])
    parts = [f"{dataset.title}: predictions of {count} folds pooled and scored once" if count > 1 else dataset.title]
    if count > 1:
        parts.append("mean and standard deviation (n − 1) are over the folds' own scores")
    grouped = "num_groups" in scores["pooled"]
    if grouped:
        parts.append(f"what is scored are {scores['pooled']['num_groups']} groups, each by its videos' mean")
    if dataset.task == "classification":
        parts.append(f"rows of classes hold the share of their {'groups' if grouped else 'videos'} that is recognised")
    if "frames" in scores["pooled"]:
        parts.append(
            "each video is scored by the mean over its frames, and in rows of frames each that the model was shown counts once"
        )
    if scores["incomplete"]:
        parts.append(f"INCOMPLETE: {'; '.join(scores['incomplete'])}")
    return " ".join(f"{part[0].upper()}{part[1:]}." for part in [*parts, *scores["notes"]])


def paper_numbers(dataset: str, preset: str) -> dict[str, dict[str, float]]:
    """The paper's numbers for this size, or for both where ours is neither, and the released checkpoints'."""
    known = RESULTS.get(dataset, {})
    return {name: values for name, values in known.items() if name in (preset, "released") or preset not in known}
