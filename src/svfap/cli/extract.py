"""`svfap extract`: the command."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from svfap.console import say
from svfap.errors import UserError
from svfap.features.config import ExtractConfig
from svfap.model.presets import list_presets
from svfap.settings import require_model


def run(config: ExtractConfig, sources: list[str]) -> int:
    if config.model not in list_presets():
        require_model(config.model)  # before torch is imported
    for source in sources:
        if not Path(source).exists():
            raise UserError(f"{source}: no such file or folder")
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
