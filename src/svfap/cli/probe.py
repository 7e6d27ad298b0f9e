"""`svfap probe`."""

from __future__ import annotations

import os

from svfap.console import say, show
from svfap.data.prepared import read_dataset
from svfap.errors import UserError
from svfap.probe.config import ProbeConfig
from svfap.settings import require_weights


def run(config: ProbeConfig, run: str) -> int:
    """Probe and show the table; the exit status is 1 if videos could not be read."""
    require_weights(run, "run")  # before torch is imported
    if config.dataset is not None:
        read_dataset(config.dataset).fold(config.fold)
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UserError("probe: runs in one process; start it without torchrun")
    from svfap.evaluation.predictions import UNREADABLE_FILE
    from svfap.probe.probe import probe_model
    from svfap.view.tables import to_terminal

    done = probe_model(run, config)
    show(to_terminal(done.summary, done.caption))
    say(f"{done.out}: probe.md, probe.csv, probe.tex, probe.json and probe.png")
    if missing := len(done.unreadable):
        say(
            f"svfap probe: error: {missing} of {done.num_expected} videos could not be read, listed in "
            f"{done.out / UNREADABLE_FILE}"
        )
    return 1 if missing else 0
