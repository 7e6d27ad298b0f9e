"""Verbs that train."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jsonargparse import Namespace

from svfap.cli.parser import Parser, Verb, say
from svfap.errors import UserError


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
    "pool": Verb(
        "Pool the tests of all folds: score their predictions together, beside the paper's numbers. "
        "Example: svfap pool --models 'released/fold_{fold}' --dataset prepared/dfew --out runs/dfew_released",
        _pool_arguments,
        _pool,
    ),
}
