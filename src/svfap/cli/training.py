"""Verbs that train."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from jsonargparse import Namespace

from svfap.cli.parser import Parser, Verb, config_of, say
from svfap.errors import UserError
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
            _show(results, args.out)
        return 130 if results is None else 0
    from svfap.train.finetune import finetune

    _said(finetune(config, args.resume), args.out)
    return 0


def _said(result: dict[str, Any], out: Path) -> None:
    if result["finished"]:
        validation = result["last_validation"]
        scores = ", ".join(f"{k.upper()} {validation[k]:.3f}" for k in ("uar", "war", "ccc", "pcc") if k in validation)
        say(f"{out}: trained {result['epochs']} epochs; best/ is from epoch {result['best_epoch'] + 1}, chosen by "
            f"{result['chosen_by']}{'; last validation: ' + scores if scores else ''}")  # fmt: skip


def _pool_arguments(parser: Parser) -> None:
    parser.add_argument(
        "run", type=Path | None, nargs="?", help="folder of `svfap finetune --fold all`: its table anew"
    )
    parser.add_argument("--models", type=str | None, help="in place of a run: models to test, as 'models/fold_{fold}'")
    parser.add_argument("--dataset", type=Path | None, help="folder of `svfap prepare`; default: the run's")
    parser.add_argument("--out", type=Path | None, help="folder for the tests of `models` and the table")
    parser.add_argument("--allow_incomplete", type=bool, default=False, help="pool what there is; the caption says so")
    parser.add_argument("--batch_size", type=int, default=8, help="videos at a time, in testing `models`")
    parser.add_argument("--num_workers", type=int, default=0, help="decoding processes, in testing `models`")
    parser.add_argument("--precision", default="auto", help="auto, fp32, bf16 or fp16, in testing `models`")


def _pool(args: Namespace) -> None:
    from svfap.train.folds import evaluate_folds, pool_run

    if (args.run is None) == (args.models is None):
        raise UserError("give either the folder of a run, or models with dataset and out")
    if args.run is not None:
        if args.out is not None:
            raise UserError("out: goes with models; the table of a run is written into the run's folder")
        return _show(pool_run(args.run, args.dataset, args.allow_incomplete), args.run)
    if args.dataset is None or args.out is None:
        raise UserError("models: need dataset, whose test parts they are tested on, and out, a folder for the results")
    words = {name: args[name] for name in ("allow_incomplete", "batch_size", "num_workers", "precision")}
    return _show(evaluate_folds(args.models, args.dataset, args.out, **words), args.out)


def _show(results: Any, out: Path) -> None:
    from rich.console import Console

    from svfap.view.tables import to_terminal

    Console().print(to_terminal(results.summary, results.caption))
    say(f"{out}: results.md, results.csv, results.tex and results.json")


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
    "pool": Verb(
        "Pool the tests of all folds: score their predictions together, beside the paper's numbers. "
        "Example: svfap pool --models 'released/fold_{fold}' --dataset prepared/dfew --out runs/dfew_released",
        _pool_arguments,
        _pool,
    ),
}
