"""What `svfap bench` finds out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from svfap.bench.advice import Advice
from svfap.bench.measure import Dropped, Row


@dataclass(frozen=True)
class Benched:
    """What was measured.

    machine: names and values that describe it. rows: every measurement. dropped: what was not measured, with reasons. notes: why
    larger batches were not tried, and other remarks. advice: settings that follow. seconds: that it took. interrupted: by
    Ctrl-C.
    """

    machine: dict[str, Any]
    rows: tuple[Row, ...]
    dropped: tuple[Dropped, ...]
    notes: tuple[str, ...]
    advice: Advice
    seconds: float
    interrupted: bool = False
