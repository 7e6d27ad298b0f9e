"""`svfap pool`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from svfap.console import say, show
from svfap.data.prepared import read_dataset
from svfap.errors import UserError
from svfap.evaluation.config import PoolConfig, models_of_folds, require_folds

if TYPE_CHECKING:
    from svfap.evaluation.pool import PooledResults


def run(config: PoolConfig, folder: Path | None) -> None:
    """Pool the folds in `folder`, or those of `config.models`, and show the table."""
    if (folder is None) == (config.models is None):
        raise UserError("give either the folder of a run, or `models` with `dataset` and `out`")
    if folder is not None:
        if config.out is not None:
            raise UserError("out: goes with `models`; the table of a run is written into the folder of the run")
        require_folds(folder)
        config = replace(config, out=folder)
    if config.dataset is not None:
        prepared = read_dataset(config.dataset).require_tests(config.dataset)  # before torch is imported
        if config.models is not None:
            models_of_folds(config.models, prepared)
    from svfap.evaluation.pool import pool

    assert config.out is not None
    show_results(pool(config), config.out)


def show_results(results: PooledResults, out: Path) -> None:
    """Show the pooled table and say where it was written."""
    from svfap.view.tables import to_terminal

    show(to_terminal(results.summary, results.caption))
    say(f"{out}: results.md, results.csv, results.tex and results.json")
