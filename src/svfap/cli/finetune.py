"""svfap finetune."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from svfap.console import counted, say
from svfap.metric_table import MEAN_SCORE, metric_keys, metric_name, prefixed
from svfap.train.config import FinetuneConfig
from svfap.train.resolve import check_run


def run(config: FinetuneConfig) -> int:
    """Fine-tune and report the scores; the exit status is 128 + the number of the signal that interrupted it."""
    check_run(config)  # before torch is imported, which takes seconds
    from svfap.train.finetune import finetune

    result = finetune(config)
    if result.pooled is not None:
        from svfap.cli.pool import show_results

        show_results(result.pooled, config.out)
    elif result.finished:
        metrics, validation = result.metrics, result.metrics["last_validation"]
        scores = ", ".join(f"{metric_name(key)} {validation[key]:.3f}" for key in _shown(validation))
        trained, by = counted(metrics["epochs"], "epoch"), metrics["chosen_by"]
        say(f"{config.out}: trained {trained}; best/ is from epoch {metrics['best_epoch']}, chosen by {by}"
            f"{'; last validation: ' + scores if scores else ''}")  # fmt: skip
    return result.exit_status


def _shown(validation: Mapping[str, Any]) -> Iterator[str]:
    """The scores of a line, of a frame-level head those of frames, which choose the best epoch."""
    known = {*metric_keys(summary=True), MEAN_SCORE}
    for key in validation:
        head, _, name = key.rpartition("/")
        if name in known:
            yield frames if (frames := prefixed(head, f"frame_{name}")) in validation else key
