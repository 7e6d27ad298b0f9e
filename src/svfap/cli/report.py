"""`svfap report`."""

from __future__ import annotations

from pathlib import Path

from svfap.console import say, show
from svfap.errors import UserError
from svfap.reports.config import ReportConfig


def run(config: ReportConfig, runs: list[Path]) -> None:
    """Write the page, and show the test scores of the runs."""
    for folder in runs:
        if not folder.is_dir():
            raise UserError(f"{folder}: no such run folder")
    from svfap.reports.report import report
    from svfap.reports.scores import runs_tables

    read = report(runs, config)
    for table in (tables := runs_tables(read)):
        show(table)
    if not tables:
        say("no run has been evaluated yet, so there are no test scores")
    say(f"report: {config.out}")
