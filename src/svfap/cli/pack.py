"""`svfap pack`: the command."""

from __future__ import annotations

from pathlib import Path

from svfap.console import counted, say
from svfap.packing.config import PackConfig


def run(config: PackConfig, source: Path) -> int:
    """Pack, and say what was written; the exit status is 1 if something could not be read."""
    from svfap.data.prepared import DATASET_FILE
    from svfap.jobs.run import FAILURES
    from svfap.packing.pack import pack

    packed = pack(source, config)
    is_dataset = packed.source.name == DATASET_FILE
    how = f"--dataset {config.out}" if is_dataset else f"--manifest {config.out / packed.source.name}"
    parts = (counted(packed.num_videos, "video"), counted(packed.num_frames, "frame"), _size(packed.num_bytes))
    say(f"{', '.join(parts)}: {packed.source}; use it with {how}")
    if packed.failures:
        unread, whose = counted(len(packed.failures), "video"), "its" if len(packed.failures) == 1 else "their"
        say(
            f"svfap pack: error: {unread}, or some of {whose} frames, could not be read; {config.out / FAILURES} says why, and "
            "the same command tries again"
        )
    return 1 if packed.failures else 0


def _size(num_bytes: int) -> str:
    return f"{num_bytes / 1e9:.3g} GB" if num_bytes >= 1e9 else f"{num_bytes / 1e6:.3g} MB"
