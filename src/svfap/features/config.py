"""Settings of `svfap extract`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from svfap.errors import UserError
from svfap.faces.config import FaceSettings
from svfap.settings import ClockSettings, DeviceSettings, JobSettings, SourceSettings, require_file, require_positive

Per = Literal["window", "video"]
Pool = Literal["mean", "none"]
TABLE_SUFFIXES = (".parquet", ".npz", ".h5")


@dataclass(frozen=True, kw_only=True)
class ExtractConfig(FaceSettings, ClockSettings, DeviceSettings, SourceSettings, JobSettings):
    """How features are extracted.

    Raises `UserError` for values that are out of range or do not go together.
    """

    model: str
    """Run or model folder, or Hub name, of a pre-trained, fine-tuned or converted model; see random_weights. Or a file of
    `svfap export` (.onnx), which runs on the CPU in its own precision."""
    out: Path | None = None
    """Table to write: .parquet, .npz or .h5; default: features.parquet for the command, in memory for the Python function."""
    faces: Literal["auto", "yunet", "centerface", "haar", "none"] | None = None
    """How faces are found: auto (YuNet if its model file is available, else Haar), yunet, haar, or none: the picture is a face
    crop; if it is not square, it is squashed or cut to its centre square, as in the model's training (frame_fit). Default:
    none for the rows of manifests, which are read as in training, and for clips of `svfap crop`; for videos, folders and
    images the detector of the model's training, else auto."""
    overwrite: bool = False
    """Replace a table that is complete already."""
    per: Per = "window"
    """A row for each window, or for each video, of each face: the mean of its windows."""
    pool: Pool = "mean"
    """mean: average over all tokens of a window; none: a row for each time step of the encoder's output."""
    hop_s: float | None = None
    """Seconds from one window to the next; default: the length of a window, so that windows do not overlap."""
    random_weights: bool = False
    """Accept the name of a preset as the model, with random weights, as a baseline."""

    def __post_init__(self) -> None:
        FaceSettings.__post_init__(self)
        ClockSettings.__post_init__(self)
        DeviceSettings.__post_init__(self)
        JobSettings.__post_init__(self)
        if self.per == "video" and self.pool == "none":
            raise UserError("pool=none with per=video: a video's time steps are those of its windows; use per=window")
        require_positive(self, "hop_s")
        require_file(self, "out", TABLE_SUFFIXES)
