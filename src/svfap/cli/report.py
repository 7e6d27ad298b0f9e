"""`svfap report`."""

from __future__ import annotations

from pathlib import Path

from svfap.console import say, show
from svfap.reports.config import ReportConfig
from svfap.reports.report import report
from svfap.reports.scores import runs_table


def run(config: ReportConfig, runs: list[Path]) -> None:
    """Write the page, and show the test scores of the runs."""
    show(runs_table(report(runs, config)))
    say(f"report: {config.out}")
