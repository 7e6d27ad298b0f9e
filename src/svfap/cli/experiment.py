"""`svfap experiment`."""

from __future__ import annotations

from svfap.console import say, show
from svfap.experiments.config import ExperimentConfig
from svfap.experiments.studies import chosen_experiments

NUM_SHOWN = 6  # of the columns: what a terminal has room for


def run(config: ExperimentConfig, name: str) -> None:
    """Run the experiments, show the main columns of their tables, and say where the files are."""
    chosen_experiments(name)  # an unknown name is reported before torch is imported
    from svfap.experiments.experiment import experiment
    from svfap.view.tables import to_terminal

    for title, table in experiment(name, config).items():
        show(to_terminal(table.iloc[:, :NUM_SHOWN], title))
    say(f"tables and figures: {config.out}")
