"""Settings of `report`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from svfap.errors import UserError
from svfap.settings import Settings, require, require_file


@dataclass(frozen=True, kw_only=True)
class ReportConfig(Settings):
    """Settings of `report`.

    Raises `UserError` for values out of range, and for an `out` that is a folder.
    """

    out: Path = Path("report.html")
    """The page: a self-contained HTML file."""
    title: str = "SVFAP report"
    """Title of the page."""
    videos: int = 6
    """Number of test videos shown with their frames, those with the largest errors first; 0: none."""
    maps: bool = True
    """Draw the spatial maps of the bottleneck tokens; needs the model of the run."""

    reported: bool = False
    """Show what other systems report on the dataset of a run (DFEW, FERV39k, MAFW), with the sources; none of it was run here. Of
    other datasets the page says that nothing is known."""

    def __post_init__(self) -> None:
        require(self, 0, "videos")
        if self.out.is_dir():
            raise UserError(f"out={self.out}: is a folder; give the name of a file")


@dataclass(frozen=True, kw_only=True)
class RunsConfig(Settings):
    """Settings of `runs`."""

    sort: Literal["run", "kind", "state", "validation", "test", "loss", "time", "date"] = "run"
    """Column to sort by: highest scores, longest times and latest dates first."""
    out: Path | None = None
    """Also write the table: .csv or .json, with a column for each setting that differs between runs of one kind."""

    def __post_init__(self) -> None:
        require_file(self, "out", (".csv", ".json"))
