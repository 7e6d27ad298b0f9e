"""svfap finetune."""

from __future__ import annotations

from svfap.console import say, show
from svfap.train.config import FinetuneConfig
from svfap.train.resolve import check_run


def run(config: FinetuneConfig) -> int:
    """Fine-tune and report the scores; exit status 130 if folds were interrupted."""
    check_run(config)  # before torch is imported, which takes seconds
    from svfap.train.finetune import finetune

    result = finetune(config)
    if result.pooled is not None:
        from svfap.view.tables import to_terminal

        show(to_terminal(result.pooled.summary, result.pooled.caption))
        say(f"{config.out}: results.md, results.csv, results.tex and results.json")
    elif result.finished:
        metrics, validation = result.metrics, result.metrics["last_validation"]
        scores = ", ".join(f"{k.upper()} {validation[k]:.3f}" for k in ("uar", "war", "ccc", "pcc") if k in validation)
        say(f"{config.out}: trained {metrics['epochs']} epochs; best/ is from epoch {metrics['best_epoch'] + 1}, chosen by "
            f"{metrics['chosen_by']}{'; last validation: ' + scores if scores else ''}")  # fmt: skip
    return 130 if config.fold == "all" and not result.finished else 0
