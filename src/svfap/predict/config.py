"""Settings of `svfap predict` and `svfap reconstruct`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from svfap.errors import UserError
from svfap.faces.config import FaceSettings
from svfap.settings import (
    ClockSettings,
    DeviceSettings,
    Hop,
    JobSettings,
    Settings,
    require,
    require_file,
    require_fraction,
    require_positive,
)

TABLE_SUFFIXES = (".csv", ".jsonl", ".json", ".parquet", ".xlsx")
ANNOTATION_SUFFIXES = (".eaf", ".vtt")
OVERLAY_SUFFIXES = (".mp4", ".mov", ".mkv")


@dataclass(frozen=True, kw_only=True)
class RefineSettings(Settings):
    """What is done to a finished table, see `svfap.refine`. Raises `UserError` for values that cannot be used."""

    persons: Path | None = None
    """CSV with columns video, track, person: names of people, as column `person`. Tracks of one name are one face in summaries,
    baselines, timelines and pages."""
    smooth_s: float = 0.0
    """Centred moving average of the values over this many seconds, within a track and without crossing gaps; 0: none."""
    baseline: str | None = None
    """Subtract from each value the median of the person (else of the track): median, over all rows; or a CSV with columns
    video, start_s, end_s and perhaps track or person, over the rows of these neutral spans. Not of probabilities."""
    decimals: int | None = None
    """Round numbers to this many decimals; times to at least 3. Default: as computed."""

    def __post_init__(self) -> None:
        require(self, 0, "smooth_s", "decimals")
        for name in ("persons", "baseline"):
            file = getattr(self, name)
            if file not in (None, "median") and not Path(file).is_file():
                raise UserError(f"{name}={file}: no such file")


@dataclass(frozen=True, kw_only=True)
class TableConfig(RefineSettings):
    """What is done to a finished table and what is written. Raises `UserError` for values that cannot be used."""

    out: Path | None = None
    """Table to write: .csv, .jsonl, .json, .parquet or .xlsx (extra `excel`); or a file per video: .eaf (tiers for ELAN) or
    .vtt (WebVTT captions), with several videos NAME_1_video and so on."""
    summary: Path | None = None
    """Also write a row per video and face or person: seconds seen, rows, mean, sd, min and max of each value, shares of labels;
    of a video without a face 0 seconds and 0 rows; in any format of a table."""
    overwrite: bool = False
    """Replace files that exist."""

    def __post_init__(self) -> None:
        RefineSettings.__post_init__(self)
        require_file(self, "out", (*TABLE_SUFFIXES, *ANNOTATION_SUFFIXES))
        require_file(self, "summary", TABLE_SUFFIXES)
        if self.out is None and self.summary is None:
            raise UserError("out: give a file to write, or summary")


@dataclass(frozen=True, kw_only=True)
class MethodsConfig(Settings):
    """Settings of `svfap methods`, which has none."""


@dataclass(frozen=True, kw_only=True)
class PredictConfig(FaceSettings, DeviceSettings, ClockSettings, JobSettings, RefineSettings):
    """How a model is applied to videos and what is written.

    Raises `UserError` for values that cannot be used.
    """

    model: str = "movement"
    """Run folder, model folder, Hub repository (owner/name), or a model of `svfap models`; or a file of `svfap export` (.onnx),
    which runs on the CPU in its own precision. Default: the one that comes with the
    package and reads facial movement, not emotion."""
    out: Path | None = Path("predictions.csv")
    """Table to write: .csv, .jsonl, .json, .parquet or .xlsx; beside it timelines (.png), and how it was made (NAME.about.json).
    null: write none of them."""
    overwrite: bool = False
    """Replace a table that is complete already."""
    resume: bool = False
    """Continue an interrupted run: videos that were finished are not read again."""
    overlay: Path | None = None
    """Also write each video with its predictions drawn in: .mp4, .mov or .mkv."""
    report: Path | None = None
    """Also write an interactive page: .html. Of a model with several heads one for each, NAME_HEAD.html."""
    hop_s: Hop = "auto"
    """Seconds from the start of one window to the start of the next, rounded to whole frames: at 25 per second 0.5 s are 12
    frames, 0.48 s. auto: 0.5, or the length of a window if that is less; of models that read each frame, or give a row for it,
    a row for every frame. null: windows follow each other."""
    landmarks: bool = False
    """Also give the eyes, nose and corners of the mouth, as the face detector finds them: ten columns. Needs yunet or
    centerface."""
    summary: Path | None = None
    """Also write a row per video and face or person: seconds seen, rows, mean, sd, min and max of each value, shares of labels;
    of a video without a face 0 seconds and 0 rows; in any format of a table."""
    timeout_s: float = 10.0
    """Stop reading a stream after this many seconds without data."""

    def __post_init__(self) -> None:
        FaceSettings.__post_init__(self)
        DeviceSettings.__post_init__(self)
        ClockSettings.__post_init__(self)
        JobSettings.__post_init__(self)
        RefineSettings.__post_init__(self)
        require_positive(self, "hop_s", "timeout_s")
        if self.out is not None and self.out.suffix in ANNOTATION_SUFFIXES:
            raise UserError(
                f"out={self.out}: `svfap table` writes this from a finished table; write a table first, such as .csv, then "
                f"svfap table TABLE.csv --out {self.out}"
            )
        require_file(self, "out", TABLE_SUFFIXES)
        require_file(self, "overlay", OVERLAY_SUFFIXES)
        require_file(self, "report", (".html",))
        require_file(self, "summary", TABLE_SUFFIXES)
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
