"""Settings of `svfap synth`, and the names of the labels that its datasets have."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from svfap.errors import UserError
from svfap.settings import Settings, require, require_fraction

CLASSES = ("happy", "sad", "neutral", "angry", "surprise", "disgust", "fear")
AFFECT = ("valence", "arousal", "dominance")
TRAITS = ("openness", "conscientiousness", "extraversion", "agreeableness", "neuroticism")


@dataclass(frozen=True, kw_only=True)
class RenderConfig(Settings):
    """How one synthetic face video is made. Raises `UserError` for values out of range."""

    size_px: int = 96
    """Side of the square videos in pixels, an even number of at least 32."""
    fps: int = 25
    """Frames per second."""
    num_frames: int = 48
    """Frames per video, at least 10."""
    nuisance: float = 1.0
    """Spread of what is not the expression: faces, light, background, pose, noise, resting face and idle movement; 0: nearly
    none."""
    expression_gain: float = 1.0
    """Factor on the strength of the expressions; 0: none are shown."""
    placement: float = 0.0
    """How far the face is from the middle, at most, across and down: a fraction of the video's side. It differs from video to
    video, as the box of a face detector does."""

    def __post_init__(self) -> None:
        require(self, 32, "size_px")
        require(self, 1, "fps")
        require(self, 10, "num_frames")
        require(self, 0, "nuisance", "expression_gain")
        require_fraction(self, "placement")
        if self.size_px % 2:
            raise UserError(f"size_px={self.size_px}: must be even, for H.264 with 4:2:0 chroma subsampling")


@dataclass(frozen=True, kw_only=True)
class SynthConfig(RenderConfig):
    """A synthetic face dataset. Equal settings give equal datasets. Raises `UserError` for values out of range."""

    out: Path
    """Folder that videos and manifests are written into."""
    num_pretrain: int = 700
    """Videos without labels, for pre-training."""
    num_train: int = 140
    """Training videos."""
    num_val: int = 70
    """Validation videos."""
    num_test: int = 210
    """Test videos."""
    clips_per_identity: int = 7
    """Videos of one face. The classes take turns, so with 7 every face shows every class once."""
    seed: int = 0
    """Seed of all random draws."""
    num_workers: int = 0
    """Videos rendered in parallel, one process each; 0: in this process."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self, 0, "num_pretrain", "num_train", "num_val", "num_test", "seed", "num_workers")
        require(self, 1, "clips_per_identity")

    def record(self) -> dict[str, Any]:
        """The settings that the dataset depends on, as written into `synth.json`."""
        return {name: value for name, value in asdict(self).items() if name not in ("out", "num_workers")}
