"""svfap pretrain."""

from __future__ import annotations

from svfap.console import say
from svfap.train.config import PretrainConfig
from svfap.train.resolve import check_run


def run(config: PretrainConfig) -> None:
    """Pre-train and report the result."""
    check_run(config)  # before torch is imported, which takes seconds
    from svfap.train.pretrain import pretrain

    result = pretrain(config)
    if result.finished:
        say(f"{config.out}: trained {result.metrics['epochs']} epochs; the model is in best/")
