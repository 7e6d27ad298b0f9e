"""Verbs that train."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from jsonargparse import Namespace

from svfap.cli.parser import Parser, Verb, config_of, say
from svfap.cli.pool import show_results
from svfap.errors import UserError
from svfap.metric_table import metric_keys, metric_name
from svfap.train.config import FinetuneConfig, PretrainConfig, read_settings_file


def _training_arguments(config: type) -> Callable[[Parser], None]:
    def add(parser: Parser) -> None:
        parser.read_file = read_settings_file
        parser.add_argument("--config", action="config", help="YAML file with any of these settings; flags override it")
        parser.add_class_arguments(config)
        parser.add_argument("--resume", action="store_true", help="continue from last/ in `out`, if there is one")

    return add


def _pretrain(args: Namespace) -> None:
    from svfap.train.pretrain import pretrain

    _said(pretrain(config_of(PretrainConfig, args), args.resume), args.out)


def _finetune_arguments(parser: Parser) -> None:
    _training_arguments(FinetuneConfig)(parser)
    parser.add_argument("--parallel", type=int | None, help="folds at a time with --fold all; default: one per GPU")


def _finetune(args: Namespace) -> int:
    config = config_of(FinetuneConfig, args)
    if args.parallel is not None and (config.fold != "all" or args.parallel < 1):
        raise UserError(
            f"parallel={args.parallel}: is the number of folds at a time, at least 1, and goes with --fold all"
        )
    if config.fold == "all":
        from svfap.train.folds import finetune_folds

        results = finetune_folds(config, args.resume, args.parallel)
        if results is not None:
            show_results(results, args.out)
        return 130 if results is None else 0
    from svfap.train.finetune import finetune

    _said(finetune(config, args.resume), args.out)
    return 0


def _said(result: dict[str, Any], out: Path) -> None:
    if result["finished"]:
        validation = result["last_validation"]
        shown = [key for key in metric_keys(summary=True) if key in validation]
        scores = ", ".join(f"{metric_name(key)} {validation[key]:.3f}" for key in shown)
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
        "Fine-tune for classes or affect dimensions: from pre-trained weights or from scratch. With --fold all every fold "
        "of a prepared dataset is trained and tested, and their predictions are pooled. "
        "Example: svfap finetune --manifest train.csv --init runs/pretrain --out runs/finetune --preset svfap_small",
        _finetune_arguments,
        _finetune,
    ),
}
