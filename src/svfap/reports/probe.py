"""What `svfap probe` found in a run's frozen features: its table and figure."""

from __future__ import annotations

import pandas as pd

from svfap.errors import UserError
from svfap.probe.config import PROBE_FILE
from svfap.probe.table import bars_of, main_key
from svfap.reports.runs import Run
from svfap.view.figures.scores import score_intervals
from svfap.view.page import Picture, Section


def probe_section(run: Run) -> Section | None:
    """The table and the figure of a run's probe; None without one. Raises `UserError` for a damaged file."""
    if not run.probe:
        return None
    try:
        table, summary = pd.DataFrame(run.probe["scores"]), pd.DataFrame(run.probe["summary"])
        numbers = ["value", "low", "high"]
        table[numbers] = table[numbers].astype(float)
        bars, key, caption = bars_of(table), main_key(table), str(run.probe["caption"])
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{run.folder}: {PROBE_FILE} is not what `svfap probe` writes ({error}); probe again") from None
    alt = ", ".join(f"{name} {value:.3f}" for name, (_, value, *_) in bars.items())
    figure = Picture(score_intervals(bars, key), alt, "Lines are 95% confidence intervals over people.")
    return Section("Probes of the frozen features", caption, tables={"Probes": summary}, figures={"Probes": figure})
