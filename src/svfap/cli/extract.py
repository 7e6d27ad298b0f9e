"""`svfap extract`: the command."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from svfap.console import counted, say
from svfap.features.config import ExtractConfig


def run(config: ExtractConfig, sources: list[str]) -> int:
    from svfap.features.extract import extract_features, unreadable_list

    out = config.out or Path("features.parquet")
    done = extract_features(sources, replace(config, out=out))
    say(
        f"{counted(done.num_rows, 'row')} of {done.num_videos - len(done.unreadable)} of "
        f"{counted(done.num_videos, 'video')}: {out}"
    )
    if done.unreadable:
        say(
            f"svfap extract: error: {counted(len(done.unreadable), 'video')} could not be read, listed in "
            f"{unreadable_list(out)}. The same command tries them again; remove {out}.parts if it is not to"
        )
    return 1 if done.unreadable else 0
