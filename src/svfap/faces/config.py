"""Settings of face detection, tracking and cropping."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from svfap.errors import UserError

DetectorName = Literal["auto", "yunet", "haar"]
Border = Literal["replicate", "reflect"]


@dataclass(frozen=True)
class FaceCropConfig:
    """How a face is cut out of a frame. Raises `UserError` for values out of range."""

    size_px: int = 224
    """Side of the crop in pixels."""
    margin: float = 0.3
    """What is added on every side of the box, as a part of its longer side."""
    align: bool = False
    """Turn the crop so that the eyes are level, where the detector gives landmarks."""
    border: Border = "replicate"
    """What stands where the crop reaches beyond the picture: its edge repeated, or mirrored."""

    def __post_init__(self) -> None:
        if self.size_px < 1:
            raise UserError(f"size_px={self.size_px}: must be at least 1")
        if not 0 <= self.margin <= 2:
            raise UserError(f"margin={self.margin}: must be from 0 to 2 of the box's side")
        if self.border not in get_args(Border):
            raise UserError(f"border={self.border!r} is none of {', '.join(get_args(Border))}")


@dataclass(frozen=True)
class TrackConfig:
    """How faces are followed; seconds, and parts of 1. Raises `UserError` for values out of range."""

    detect_every: int | None = None
    """Frames from one run of the detector to the next; default: about 8 runs a second. The first and the last frame of
    every shot are always run."""
    max_gap_s: float = 0.5
    """A face missed for so long at most is interpolated; longer, it is a gap without boxes."""
    resume_s: float = 2.0
    """After such a gap, a face that is back near its place, in the same shot and within so long, keeps its id."""
    min_track_s: float = 0.5
    """Faces followed for less are dropped, and so are those found in less than half of the runs. In a stream shorter than
    this, a single picture for one, a face found in half of all runs is kept."""
    smooth_s: float = 0.3
    """Boxes and landmarks are smoothed over so long before and after; 0: only interpolated."""
    min_confidence: float = 0.0
    """Detections below are ignored, beyond the detector's own threshold."""
    min_overlap: float = 0.2
    """Intersection over union of a track's predicted box and the detection that continues it, at least."""
    shot_threshold: float = 0.5
    """Mean difference between successive frames that ends a shot, as a part of their contrast."""
    flash_s: float = 0.25
    """A change undone within so long is a flash and no end of a shot."""

    def __post_init__(self) -> None:
        if self.detect_every is not None and self.detect_every < 1:
            raise UserError(f"detect_every={self.detect_every}: must be at least 1 frame")
        for name in ("max_gap_s", "resume_s", "min_track_s", "smooth_s", "shot_threshold", "flash_s"):
            if not getattr(self, name) >= 0:
                raise UserError(f"{name}={getattr(self, name)}: must be at least 0")
        for name in ("min_confidence", "min_overlap"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"{name}={getattr(self, name)}: must be from 0 to 1")

    @property
    def delay_s(self) -> float:
        """Seconds by which frames come out late, until the faces in them are settled: 1.0 by default.

        To these add `detect_every` frames, one that is looked ahead at, and `flash_s` after a sudden change. Frames are
        held as they are: at 25 a second about 29 of them, 180 MB in 1080p, and 7 more after a sudden change.
        """
        return max(self.min_track_s, self.smooth_s) + self.max_gap_s


@dataclass(frozen=True, kw_only=True)
class FaceSettings:
    """How a verb finds and cuts out faces. Raises `UserError` for values out of range and for a missing file."""

    faces: DetectorName | Literal["none"] = "auto"
    """Face detector; auto: YuNet if its model file is available, else Haar; none: the video is a face crop already."""
    face_model: Path | None = None
    """YuNet's .onnx file; default: see docs/faces.md."""
    detect_every: int | None = None
    """Frames from one run of the detector to the next; default: about 8 runs per second."""
    margin: float = 0.3
    """Space added on every side of the face box, as a fraction of its longer side; must match training."""
    align: bool = False
    """Rotate each crop so that the eyes are level, if the detector gives landmarks; must match training."""

    def __post_init__(self) -> None:
        if self.face_model is not None and not self.face_model.is_file():
            raise UserError(f"face_model={self.face_model}: no such file")
        self.cropping()
        self.tracking()

    def cropping(self, **more: Any) -> FaceCropConfig:
        """How faces are cut out; more: `size_px`, `border`."""
        return FaceCropConfig(margin=self.margin, align=self.align, **more)

    def tracking(self, **more: Any) -> TrackConfig:
        """How faces are followed; more: other fields of `TrackConfig`."""
        return TrackConfig(detect_every=self.detect_every, **more)
