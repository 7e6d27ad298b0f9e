"""Settings of `svfap demo`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from svfap.errors import UserError
from svfap.settings import Settings, require

PROBE: dict[str, Any] = {"kind": "linear", "features": "tokens", "num_crops": 1}  # what reads a frozen encoder


@dataclass(frozen=True, kw_only=True)
class DemoConfig(Settings):
    """Where the demo is written, and which one. Raises `UserError` for values out of range."""

    out: Path = Path("runs/demo")
    """Folder for videos, runs, predictions, the page and the table. What is finished in it is not done again."""
    seed: int = 3
    """Other faces and other first weights. By the test people of the seeds 0 to 2 the demo's rates and lengths were chosen.
    Each seed needs a folder of its own."""

    def __post_init__(self) -> None:
        require(self, 0, "seed")
        if self.out.exists() and not self.out.is_dir():
            raise UserError(f"out={self.out}: is a file; give the name of a folder")
