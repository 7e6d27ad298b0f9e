"""Verbs that show results."""

from __future__ import annotations

from pathlib import Path

from jsonargparse import Namespace

from svfap.cli.parser import Parser, Verb, say


def _report_arguments(parser: Parser) -> None:
    parser.add_argument("runs", nargs="+", type=Path, help="run folders")
    parser.add_argument("--out", type=Path, default=Path("report.html"), help="the page, one self-contained file")
    parser.add_argument("--title", default="SVFAP report")


def _report(args: Namespace) -> None:
    from rich.console import Console

    from svfap.report.info import runs_table
    from svfap.report.page import run_report

    run_report(args.runs, args.out, args.title)
    Console().print(runs_table(args.runs))
    say(f"report: {args.out}")


VERBS = {
    "report": Verb(
        "Write one HTML page about runs: curves, scores, confusion matrices, pictures.", _report_arguments, _report
    ),
}
