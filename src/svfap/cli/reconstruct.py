"""`svfap reconstruct`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from svfap.console import say
from svfap.data.find import missing, on_disk
from svfap.errors import UserError
from svfap.settings import require_weights

if TYPE_CHECKING:
    from svfap.predict.config import ReconstructConfig


def run(config: ReconstructConfig, video: str) -> None:
    """Reconstruct, and say the error and what was written."""
    if not on_disk(path := Path(video)).exists():
        raise UserError(f"{video}: {missing(path)}")
    require_weights(config.model)

    from svfap.predict.reconstruct import reconstruct  # imports torch, which takes seconds

    result = reconstruct(video, config)
    files = ", ".join(map(str, result.written))
    error = f"{result.loss:.4f}, of predicting zero (each tubelet's mean; no change) {result.trivial_loss:.4f}"
    say(f"mean squared error on hidden tubelets {error}; {files}")
