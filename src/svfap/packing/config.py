"""Settings of `svfap pack`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from svfap.errors import UserError
from svfap.settings import JobSettings, require


@dataclass(frozen=True, kw_only=True)
class PackConfig(JobSettings):
    """How videos are packed.

    Raises `UserError` for values out of range.
    """

    out: Path
    """Folder for the packed data: a new one, or one that an earlier run of the same command has begun or written, which is then
    checked and repaired."""
    root: Path | None = None
    """Folder that the paths in a manifest are relative to; default: of a dataset's manifest the root in its dataset.json, of
    others their own folder."""
    quality: int = 90
    """Quality of the JPEG frames, 1 to 100. At 90 they take about eight times the room of the H.264 clips of `svfap crop`, at 80
    six times; docs/packed_clips.md has the figures."""
    size_px: int | None = None
    """Make frames smaller whose shorter side is longer than this, in pixels; default: keep their size. The same frames are
    sampled, with other pixels. Not for manifests with boxes, which count pixels."""
    videos_per_shard: int = 100
    """Videos in a shard. A shard is one file, and what an interrupted run does again; with clips of 10 s it has 200 to 400
    MB."""
    num_workers: int = 0
    """Shards written in parallel, one process each; 0: in this process, or all processors of the Ray cluster."""
    item_timeout_s: float | None = None
    """Give up on a shard after this many seconds and report it as failed; default: no limit."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self, 1, "videos_per_shard", "size_px")
        if not 1 <= self.quality <= 100:
            raise UserError(f"quality={self.quality}: must be from 1 to 100")
