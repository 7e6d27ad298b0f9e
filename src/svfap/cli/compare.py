"""`svfap compare`."""

from __future__ import annotations

from pathlib import Path

from svfap.console import say, show
from svfap.errors import UserError
from svfap.evaluation.config import CompareConfig
from svfap.metric_table import metric_keys


def run(config: CompareConfig, runs: list[str]) -> None:
    """Compare the runs and show the table."""
    if len(runs) == 1 and Path(runs[0]).is_dir():
        raise UserError(f"{runs[0]} alone has nothing to be compared with; name a second run")
    if scores := [run for run in runs if run in metric_keys(tables=True) and not Path(run).is_dir()]:
        listed = ", ".join([*config.chosen, *scores])
        raise UserError(
            f"{scores[0]}: is a score and not a run; give several scores as one word: --metrics '[{listed}]'"
        )
    from svfap.evaluation.compare import compare_runs, parse_rows
    from svfap.view.tables import to_terminal

    done = compare_runs(parse_rows(runs), config)
    show(to_terminal(done.table, done.caption))
    if config.out is not None:
        say(f"{config.out}: compare.md, compare.csv, compare.tex, compare.json and compare.png")
