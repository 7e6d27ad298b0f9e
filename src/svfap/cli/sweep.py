"""`svfap sweep`."""

from __future__ import annotations

from pathlib import Path

from svfap.console import say, show
from svfap.errors import UserError
from svfap.sweep.config import SweepConfig
from svfap.sweep.plan import read_plan


def run(config: SweepConfig, file: Path) -> None:
    """Run what is left of the sweep, and show the table of trials."""
    if not file.is_file():
        raise UserError(f"{file}: no such file")
    plan = read_plan(file)  # before torch is imported
    from svfap.sweep.sweep import BEST_FILE, run_sweep
    from svfap.view.tables import to_terminal

    done = run_sweep(file, config)
    show(to_terminal(done.summary, done.caption))
    if done.best is None:
        say(f"{config.out}: trials.md, trials.csv, trials.tex and trials.json; no trial has a score for every seed")
        return
    best = config.out / BEST_FILE
    say(f"{config.out}: trials.md, trials.csv, trials.tex and trials.json; the best settings are in {best}")
    say(f"train with them: svfap {plan.verb} --config {best} --out …")
