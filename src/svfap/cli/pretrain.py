"""svfap pretrain."""

from __future__ import annotations

from svfap.console import counted, say
from svfap.train.config import PretrainConfig
from svfap.train.resolve import check_run


def run(config: PretrainConfig) -> int:
    """Pre-train and report the result; the exit status is 128 + the number of the signal that interrupted it."""
    check_run(config)  # before torch is imported, which takes seconds
    from svfap.train.pretrain import pretrain

    result = pretrain(config)
    if result.finished:
        say(f"{config.out}: trained {counted(result.metrics['epochs'], 'epoch')}; the model is in best/")
    return result.exit_status
