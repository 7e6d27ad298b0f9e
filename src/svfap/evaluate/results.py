"""The results table of a cross-validation, with the numbers of the paper beside."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from svfap.data.prepared import PreparedDataset
from svfap.errors import UserError
from svfap.evaluate.metrics import flat_scores
from svfap.metric_table import format_percent, metric_heading, metric_keys, metric_name, metric_text
from svfap.paper import RESULTS

PAPER_COLUMNS = {"svfap_small": "paper, small", "svfap_base": "paper, base", "released": "released"}


@dataclass(frozen=True)
class PooledResults:
    """The results table (cells as text), its caption, and all numbers as in `results.json`."""

    table: pd.DataFrame
    caption: str
    numbers: dict[str, Any]

    @property
    def summary(self) -> pd.DataFrame:
        """The table without the columns of single folds, narrow enough for a terminal."""
        return self.table[[name for name in self.table.columns if not name.startswith("fold ")]]


def results_table(
    dataset: PreparedDataset, scores: Mapping[str, Any], paper: Mapping[str, Mapping[str, float]]
) -> pd.DataFrame:
    """What `score_folds` returned, as text: a row per score, class or dimension; columns for ours, the paper, and each fold.

    Scores of classes are percentages, as in the paper; correlations and errors are not.
    """
    columns: dict[str, Mapping[str, float]] = {"pooled": flat_scores(scores["pooled"])}
    if len(scores["folds"]) > 1:
        columns |= {"mean": scores["mean"], "sd": scores["sd"]}
    columns |= {PAPER_COLUMNS[name]: values for name, values in paper.items()}
    if len(scores["folds"]) > 1:
        columns |= {f"fold {name}": flat_scores(metrics) for name, metrics in scores["folds"].items()}
    text = metric_text if dataset.task == "regression" else lambda key, value: format_percent(value)
    rows = [
        {"score": label, **{name: text(key, values[key]) for name, values in columns.items() if key in values}}
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
    """Key of each score -> its name in the table, in the order of the table."""
    metrics = dataset.metrics or metric_keys(dataset.task, tables=True)
    if unknown := [key for key in metrics if key not in pooled]:
        raise UserError(
            f"{dataset.name}: dataset.json names an unknown metric {unknown[0]!r}; known: "
            f"{', '.join(metric_keys(dataset.task))}"
        )
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
        parts.append(f"scores are over {scores['pooled']['num_groups']} groups of videos, whose outputs are averaged")
    if dataset.task == "classification":
        parts.append(f"rows of classes show the recall over their {'groups' if grouped else 'videos'}")
    if "frames" in scores["pooled"]:
        parts.append(
            "the output for a video is the mean over its frames; rows of frames score every frame that the model was shown once"
        )
    if scores["incomplete"]:
        parts.append(f"INCOMPLETE: {'; '.join(scores['incomplete'])}")
    return " ".join(f"{part[0].upper()}{part[1:]}." for part in [*parts, *scores["notes"]])


def paper_numbers(dataset: str, preset: str) -> dict[str, dict[str, float]]:
    """The numbers of the paper for this preset, or for both of its sizes if ours is neither, and of the released weights."""
    known = RESULTS.get(dataset, {})
    return {name: values for name, values in known.items() if name in (preset, "released") or preset not in known}
