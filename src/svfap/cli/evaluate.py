"""`svfap evaluate`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.table import Table

from svfap.console import console, counted, say, show
from svfap.evaluation.config import EvaluateConfig
from svfap.metric_table import bounds_text, metric_heading, metric_keys, metric_text
from svfap.settings import require_model


def run(config: EvaluateConfig) -> int:
    """Evaluate and show the scores; the exit status is 1 if videos could not be read."""
    for model in config.models:
        require_model(model)  # before torch is imported
    from svfap.evaluation.evaluate import evaluate

    out, metrics, _ = evaluate(config)
    missing = 0
    for head, found in metrics.get("heads", {"": metrics}).items():
        missing += _show(out / head, found, head)
    return 1 if missing and not console.quiet else 0  # of several processes the first one reports


def _show(out: Path, metrics: Mapping[str, Any], head: str) -> int:
    """Show the scores, of a head of this name; returns how many videos could not be read."""
    from svfap.evaluation.confidence import interval_note
    from svfap.evaluation.metrics import never_predicted
    from svfap.evaluation.predictions import UNREADABLE_FILE, by_table
    from svfap.view.tables import to_terminal

    table = Table("score", show_edge=False, title=head or None, title_justify="left")
    table.add_column("test set", justify="right")
    table.add_column("95% interval", justify="right")
    known = metrics["intervals"]
    for key in metric_keys(tables=True):
        if key in metrics:
            bounds = [metric_text(key, bound) for bound in known["scores"].get(key, ())]
            table.add_row(metric_heading(key), metric_text(key, metrics[key]), bounds_text(*bounds) if bounds else "")
    show(table)
    if known["scores"]:
        say(f"{interval_note(known)}.")
    if note := never_predicted(metrics):
        say(note)
    for name, by_value in metrics.get("score_by", {}).items():
        show(to_terminal(by_table(name, by_value, "classification" if "confusion" in metrics else "regression")))
    num_evaluated, num_expected = metrics["num_evaluated"], metrics["num_expected"]
    say(f"{num_evaluated} of {counted(num_expected, 'video')} evaluated; results in {out}")
    if missing := num_expected - num_evaluated:
        say(f"svfap evaluate: error: {counted(missing, 'video')} could not be read, listed in {out / UNREADABLE_FILE}")
    return int(missing)
