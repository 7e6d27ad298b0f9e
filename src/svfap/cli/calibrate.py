"""`svfap calibrate`."""

from __future__ import annotations

from svfap.console import say, show
from svfap.evaluation.config import CalibrateConfig
from svfap.settings import require_weights


def run(config: CalibrateConfig, run: str) -> None:
    """Calibrate, and show the scores before and after."""
    require_weights(run, "run")  # before torch is imported
    config.out_folder(run)
    from svfap.evaluation.calibrate import CAPTION, calibrate
    from svfap.view.tables import to_terminal

    done = calibrate(run, config)
    show(to_terminal(done.table, CAPTION))
    say(f"written: {done.out}")
