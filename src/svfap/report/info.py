"""Tables about runs for the terminal."""

from __future__ import annotations

from pathlib import Path

from rich.markup import escape
from rich.table import Table

from svfap.report.runs import read_run


def runs_table(runs: list[Path]) -> Table:
    """Test scores of evaluated runs, for the terminal; of folds, the pooled ones."""
    scores = {run.name: run.metrics for run in map(read_run, runs) if run.metrics}
    metrics = [m for m in ("uar", "war", "ccc", "pcc", "mae") if any(m in score for score in scores.values())]
    table = Table(title="on the test set" if scores else "no run has been evaluated yet")
    for column in ("run", *(m.upper() for m in metrics), "videos"):
        table.add_column(column, justify="left" if column == "run" else "right")
    for name, score in scores.items():
        cells = [f"{score[m]:.3f}" if m in score else "" for m in metrics]
        table.add_row(escape(name), *cells, f"{score['num_evaluated']} of {score['num_expected']}")
    return table
