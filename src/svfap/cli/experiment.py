"""`svfap experiment`."""

from __future__ import annotations

from svfap.cli.parser import Command, Positional
from svfap.console import say, show
from svfap.experiments.config import ExperimentConfig
from svfap.experiments.studies import EXPERIMENTS_HELP, chosen_experiments

COMMAND = Command(
    "Run one of the paper's experiments: train what it compares, score it, and write the table and the figure with the "
    "paper's numbers beside. Example: svfap experiment masking --out runs/experiments",
    config="svfap.experiments.config:ExperimentConfig",
    run="svfap.cli.experiment:run",
    positionals=(Positional("name", EXPERIMENTS_HELP),),
)


def run(config: ExperimentConfig, name: str) -> None:
    """Run the experiments, show their tables, and say where the files are."""
    chosen_experiments(name)  # an unknown name is reported before torch is imported
    from svfap.experiments.experiment import experiment
    from svfap.view.tables import to_terminal

    for title, table in experiment(name, config).items():
        show(to_terminal(table, title))
    say(f"tables and figures: {config.out}")
