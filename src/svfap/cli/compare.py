"""`svfap compare`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from svfap.console import say, show
from svfap.errors import UserError
from svfap.evaluation.config import CompareConfig
from svfap.metric_table import metric_keys

if TYPE_CHECKING:
    import pandas as pd


def run(config: CompareConfig, runs: list[str]) -> None:
    """Compare the runs and show the table."""
    if len(runs) == 1 and Path(runs[0]).is_dir():
        raise UserError(f"{runs[0]} alone has nothing to be compared with; name a second run")
    if scores := [run for run in runs if run in metric_keys(tables=True) and not Path(run).is_dir()]:
        listed = ", ".join([*config.chosen, *scores])
        raise UserError(
            f"{scores[0]}: is a score and not a run; give several scores as one word: --metrics '[{listed}]'"
        )
    from rich.console import Console

    from svfap.evaluation.compare import compare_runs, parse_rows
    from svfap.view.tables import terminal_width, to_terminal

    done = compare_runs(parse_rows(runs), config)
    table = done.table if terminal_width(done.table) <= Console().width else _narrow(done.table)
    show(to_terminal(table, done.caption))
    if config.out is not None:
        say(f"{config.out}: compare.md, compare.csv, compare.tex, compare.json and compare.png")


def _narrow(table: pd.DataFrame) -> pd.DataFrame:
    """The table with intervals below their values, and each score named once."""
    narrow = table.map(lambda cell: str(cell).replace(" [", "\n["))
    narrow["score"] = narrow["score"].mask(narrow["score"].duplicated(), "")
    if "what holds" in narrow:
        narrow["what holds"] = narrow["what holds"].str.replace("difference shown", "difference\nshown")
    return narrow
