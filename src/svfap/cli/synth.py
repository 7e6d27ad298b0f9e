"""`svfap synth`: the command."""

from __future__ import annotations

from svfap.console import counted, say
from svfap.synth.config import SynthConfig


def run(config: SynthConfig) -> None:
    from svfap.synth.dataset import synthesize

    done = synthesize(config)
    say(f"{config.out}: {counted(done.num_videos, 'video')}, {done.num_rendered} of them rendered now")
