"""`svfap report`."""

from __future__ import annotations

from pathlib import Path

from svfap.console import say, show
from svfap.report.config import ReportConfig
from svfap.report.report import report
from svfap.report.scores import runs_table


def run(config: ReportConfig, runs: list[Path]) -> None:
    """Write the page, and show the test scores of the runs."""
    show(runs_table(report(runs, config)))
    say(f"report: {config.out}")
