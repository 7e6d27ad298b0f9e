"""Settings of `svfap sweep`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from svfap.settings import Settings, require


@dataclass(frozen=True, kw_only=True)
class SweepConfig(Settings):
    """Settings of `sweep`."""

    out: Path
    """Folder for the runs, the table of trials and best.yaml. The same command goes on with what is there."""
    parallel: int | None = None
    """Runs trained at a time, one process each; default: one per GPU."""

    def __post_init__(self) -> None:
        require(self, 1, "parallel")
