"""Settings of `svfap prepare` that every dataset has."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from svfap.errors import UserError
from svfap.settings import Settings


@dataclass(frozen=True, kw_only=True)
class PrepareConfig(Settings):
    """Settings of every dataset."""

    root: Path
    """Folder of the release, laid out as above; it is only read."""
    out: Path
    """Folder to write the manifests and dataset.json into."""
    faces: str | None = None
    """Folder of face frames to use in place of the release's clips, relative to root: OpenFace's output (CLIP/CLIP_aligned or
    CLIP_aligned) or folders named like the clips (CLIP/*.jpg); default: face_aligned or openface in root, if there is one;
    none: use the release's clips."""
    validation: Literal["auto", "subject", "stratified", "none"] = "auto"
    """How to split a validation part from training: by subject (auto: where subjects are known), stratified by class, or none
    (the paper's protocol: train on all of it and keep the last epoch). Clips of one group, source or file are never torn apart.
    A validation part that the dataset has is used as it is."""
    val_fraction: float = 0.1
    """Share of training that becomes validation."""
    seed: int = 0
    """Seed of all random splits."""
    allow_missing: bool = False
    """Exit with status 0 even if clips are missing, labels are unknown or counts differ from the official ones."""

    def __post_init__(self) -> None:
        if not 0 < self.val_fraction < 1:
            raise UserError(f"val_fraction={self.val_fraction}: must lie between 0 and 1")
        if not self.root.is_dir():
            raise UserError(f"root={self.root}: is not a folder; give the folder of the dataset's release")
