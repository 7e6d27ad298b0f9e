"""Settings of `svfap predict` and `svfap reconstruct`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from svfap.errors import UserError
from svfap.faces.config import FaceSettings
from svfap.settings import (
    ClockSettings,
    DeviceSettings,
    JobSettings,
    Settings,
    require_file,
    require_fraction,
    require_positive,
)

TABLE_SUFFIXES = (".csv", ".jsonl", ".json", ".parquet")
OVERLAY_SUFFIXES = (".mp4", ".mov", ".mkv")


@dataclass(frozen=True, kw_only=True)
class PredictConfig(FaceSettings, DeviceSettings, ClockSettings, JobSettings):
    """How a model is applied to videos and what is written.

    Raises `UserError` for values that cannot be used.
    """

    model: str = "movement"
    """Run folder, model folder, Hub repository (owner/name), or a model of `svfap models`; or a file of `svfap export` (.onnx),
    which runs on the CPU in its own precision. Default: the one that comes with the
    package and reads facial movement, not emotion."""
    out: Path | None = Path("predictions.csv")
    """Table to write: .csv, .jsonl, .json or .parquet; beside it timelines (.png), and how it was made (NAME.about.json).
    null: write none of them."""
    overwrite: bool = False
    """Replace a table that is complete already."""
    resume: bool = False
    """Continue an interrupted run: videos that were finished are not read again."""
    overlay: Path | None = None
    """Also write each video with its predictions drawn in: .mp4, .mov or .mkv."""
    report: Path | None = None
    """Also write an interactive page: .html. Of a model with several heads one for each, NAME_HEAD.html."""
    hop_s: float | None = None
    """Seconds from the start of one window to the start of the next, rounded to whole frames: at 25 per second 0.5 s are 12
    frames, 0.48 s. Default: windows follow each other."""
    timeout_s: float = 10.0
    """Stop reading a stream after this many seconds without data."""

    def __post_init__(self) -> None:
        FaceSettings.__post_init__(self)
        DeviceSettings.__post_init__(self)
        ClockSettings.__post_init__(self)
        JobSettings.__post_init__(self)
        require_positive(self, "hop_s", "timeout_s")
        require_file(self, "out", TABLE_SUFFIXES)
        require_file(self, "overlay", OVERLAY_SUFFIXES)
        require_file(self, "report", (".html",))
        if self.resume and self.out is None:
            raise UserError("resume=True: without `out` there is no table to continue")
        if self.engine == "ray" and self.out is None:
            raise UserError("engine=ray: needs `out`, a file on a file system that the machines share")


@dataclass(frozen=True, kw_only=True)
class ReconstructConfig(Settings):
    """How masked frames are reconstructed and where the result is written.

    Raises `UserError` for values that cannot be used.
    """

    model: str
    """Run or model folder of a pre-training model, or Hub repository (owner/name)."""
    out: Path | None = Path("reconstruction")
    """Folder for reconstruction.png and reconstruction.mp4; null: write neither."""
    mask_ratio: float | None = None
    """Fraction of the positions to mask; default: the model's."""
    seed: int = 0
    """Seed of the random mask."""

    def __post_init__(self) -> None:
        require_fraction(self, "mask_ratio")
        if self.out is not None and self.out.exists() and not self.out.is_dir():
            raise UserError(f"out={self.out}: is a file; give the name of a folder")
