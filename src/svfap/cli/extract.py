"""`svfap extract`: the command."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from svfap.console import say
from svfap.features.config import ExtractConfig


def run(config: ExtractConfig, sources: list[str]) -> int:
    from svfap.features.extract import extract_features, unreadable_list

    out = config.out or Path("features.parquet")
    done = extract_features(sources, replace(config, out=out))
    say(f"{done.num_rows} rows of {done.num_videos - len(done.unreadable)} of {done.num_videos} videos: {out}")
    if done.unreadable:
        say(
            f"svfap extract: error: {len(done.unreadable)} videos could not be read; they are listed in {unreadable_list(out)}. "
            f"The same command tries them again; remove {out}.parts if it is not to"
        )
    return 1 if done.unreadable else 0
