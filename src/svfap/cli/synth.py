"""`svfap synth`: the command."""

from __future__ import annotations

from pathlib import Path

from svfap.cli.parser import Command, Positional
from svfap.console import say
from svfap.synth.config import SynthConfig

COMMAND = Command(
    "Write a synthetic face-video dataset: procedural faces whose expressions follow facial action units. "
    "Example: svfap synth data/synthetic --size_px 64 --num_workers 8",
    config="svfap.synth.config:SynthConfig",
    run="svfap.cli.synth:run",
    positionals=(Positional("out", "folder that videos and manifests are written into", type=Path),),
)


def run(config: SynthConfig) -> None:
    from svfap.synth.dataset import synthesize

    done = synthesize(config)
    say(f"{config.out}: {done.num_videos} videos, {done.num_rendered} of them rendered now")
