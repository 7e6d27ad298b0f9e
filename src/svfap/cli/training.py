"""Verbs that train."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from jsonargparse import Namespace

from svfap.cli.parser import Parser, Verb, config_of, say
from svfap.config import FinetuneConfig, PretrainConfig


def _training_arguments(config: type) -> Callable[[Parser], None]:
    def add(parser: Parser) -> None:
        parser.add_argument("--config", action="config", help="YAML file with any of these settings; flags override it")
        parser.add_class_arguments(config)
        parser.add_argument("--resume", action="store_true", help="continue from last/ in `out`, if there is one")

    return add


def _pretrain(args: Namespace) -> None:
    from svfap.train.pretrain import pretrain

    _said(pretrain(config_of(PretrainConfig, args), args.resume), args.out)


def _finetune(args: Namespace) -> None:
    from svfap.train.finetune import finetune

    _said(finetune(config_of(FinetuneConfig, args), args.resume), args.out)


def _said(result: dict[str, Any], out: Path) -> None:
    if result["finished"]:
        validation = result["last_validation"]
        scores = ", ".join(f"{k.upper()} {validation[k]:.3f}" for k in ("uar", "war", "ccc", "pcc") if k in validation)
        say(f"{out}: trained {result['epochs']} epochs; best/ is from epoch {result['best_epoch'] + 1}, chosen by "
            f"{result['chosen_by']}{'; last validation: ' + scores if scores else ''}")  # fmt: skip


VERBS = {
    "pretrain": Verb(
        "Pre-train by masked autoencoding: hide 90% of each clip and predict the hidden pixels. "
        "Example: svfap pretrain --manifest videos.csv --out runs/pretrain --preset svfap_small",
        _training_arguments(PretrainConfig),
        _pretrain,
    ),
    "finetune": Verb(
        "Fine-tune for classes or affect dimensions: from pre-trained weights or from scratch. "
        "Example: svfap finetune --manifest train.csv --init runs/pretrain --out runs/finetune --preset svfap_small",
        _training_arguments(FinetuneConfig),
        _finetune,
    ),
}
