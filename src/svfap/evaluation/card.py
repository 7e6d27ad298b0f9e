"""The card of the model in a folder, with the recipe and the scores of the run that it is of."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCardData

from svfap.evaluation.confidence import interval_note
from svfap.evaluation.config import CALIBRATED_FOLDER, EVALUATION_FOLDER, run_config_of
from svfap.evaluation.metrics import flat_intervals, read_metrics
from svfap.evaluation.predictions import METRICS_FILE, evaluated_heads
from svfap.formats import read_settings_file
from svfap.metric_table import bounds_text, metric_heading, metric_keys, metric_text
from svfap.model.card import write_card
from svfap.model.config import CONFIG_FILE, ModelConfig
from svfap.weights.folder import model_folder

# Settings of a training that its card names.
RECIPE = (
    *(
        "preset",
        "init",
        "trainable",
        "epochs",
        "batch_size",
        "base_lr",
        "weight_decay",
        "mixup",
        "cutmix",
        "smoothing",
        "loss",
    ),
    *("mask_ratio", "target", "fold", "best_by"),
)


def card_of(folder: Path) -> str:
    """The card of a run or model folder as Markdown, from its config, its settings and the evaluation beside it.

    Raises `UserError` if it holds no model.
    """
    holder = model_folder(folder)
    config = ModelConfig.read(holder / CONFIG_FILE)
    file = run_config_of(str(holder))
    settings = {} if file is None else read_settings_file(file)
    recipe = {name: settings[name] for name in RECIPE if settings.get(name) is not None}
    run = holder if file is None or holder.name == CALIBRATED_FOLDER else file.parent  # other weights have other scores
    return str(write_card(config, ModelCardData(library_name="svfap"), recipe, _results(run)))


def _results(run: Path) -> str:
    """What the evaluations of a run say, one for each head, as Markdown; empty without any."""
    folders = [run / EVALUATION_FOLDER, *evaluated_heads(run)]
    found = [metrics for folder in folders if (metrics := read_metrics(folder / METRICS_FILE)).get("num_evaluated")]
    return "\n\n".join(map(_table, found))


def _table(metrics: Mapping[str, Any]) -> str:
    intervals = flat_intervals(metrics)
    rows = [
        f"| {metric_heading(key)} | {metric_text(key, metrics[key])} | {_bounds(key, intervals.get(key))} |"
        for key in metric_keys(tables=True)
        if key in metrics
    ]
    head = f"Output {metrics['head']}. " if "head" in metrics else ""
    test = f"{head}Test set: {Path(metrics['manifest']).name}" + (
        f", fold {metrics['fold']}" if "fold" in metrics else ""
    )
    counts = f"{metrics['num_evaluated']} of {metrics['num_expected']} videos evaluated."
    known = metrics.get("intervals", {})
    note = f"\n\n{interval_note(known)[0].upper()}{interval_note(known)[1:]}." if known.get("scores") else ""
    seen = "\n\n**Some of these videos were in the training.**" if metrics.get("seen_in_training") else ""
    return (
        "\n".join([f"{test}; {counts}", "", "| score | test set | 95% interval |", "| --- | ---: | ---: |", *rows])
        + note
        + seen
    )


def _bounds(key: str, bounds: tuple[float, float] | None) -> str:
    return "" if bounds is None else bounds_text(*(metric_text(key, bound) for bound in bounds))
