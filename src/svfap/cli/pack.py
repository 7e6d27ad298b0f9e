"""`svfap pack`: the command."""

from __future__ import annotations

from pathlib import Path

from svfap.console import say
from svfap.packing.config import PackConfig


def run(config: PackConfig, source: Path) -> int:
    """Pack, and say what was written; the exit status is 1 if something could not be read."""
    from svfap.data.prepared import DATASET_FILE
    from svfap.jobs.run import FAILURES
    from svfap.packing.pack import pack

    packed = pack(source, config)
    is_dataset = packed.source.name == DATASET_FILE
    how = f"--dataset {config.out}" if is_dataset else f"--manifest {config.out / packed.source.name}"
    size = f"{packed.num_videos:,} videos, {packed.num_frames:,} frames, {packed.num_bytes / 1e9:.3g} GB"
    say(f"{size}: {packed.source}; use it with {how}")
    if packed.failures:
        say(
            f"svfap pack: error: {len(packed.failures):,} videos, or some of their frames, could not be read; they are listed in "
            f"{config.out / FAILURES}, and the same command tries them again"
        )
    return 1 if packed.failures else 0
