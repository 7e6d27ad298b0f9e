"""Verbs about models."""

from __future__ import annotations

from jsonargparse import Namespace

from svfap.cli.parser import Parser, Verb


def _info_arguments(parser: Parser) -> None:
    parser.add_argument("model", nargs="?", help="preset, run or model folder, or Hub name; none: list the presets")
    parser.add_argument("--mask_ratio", type=float | None, help="masking of the pre-training figures")


def _info(args: Namespace) -> None:
    from rich.console import Console

    from svfap.report.info import model_tables, preset_table

    tables = [preset_table()] if args.model is None else model_tables(args.model, args.mask_ratio)
    Console().print(*tables)


VERBS = {
    "info": Verb(
        "Show what a model costs: parameters, multiply-adds by stage, tokens, memory.", _info_arguments, _info
    ),
}
