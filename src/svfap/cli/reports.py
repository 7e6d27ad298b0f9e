"""Verbs that show results."""

from __future__ import annotations

from pathlib import Path

from jsonargparse import Namespace

from svfap.cli.parser import Parser, Verb, say


def _report_arguments(parser: Parser) -> None:
    parser.add_argument("runs", nargs="+", type=Path, help="run folders, or folders of folds, which count as one run")
    parser.add_argument("--out", type=Path, default=Path("report.html"), help="the page, one self-contained file")
    parser.add_argument("--title", default="SVFAP report")
    parser.add_argument("--videos", type=int, default=6, help="how many of the hardest test videos to show")
    parser.add_argument(
        "--maps", type=bool, default=True, help="draw where the bottleneck tokens look; takes the model"
    )


def _report(args: Namespace) -> None:
    from rich.console import Console

    from svfap.report.info import runs_table
    from svfap.report.run_report import run_report

    run_report(args.runs, args.out, args.title, videos=args.videos, maps=args.maps)
    Console().print(runs_table(args.runs))
    say(f"report: {args.out}")


VERBS = {
    "report": Verb(
        "Write one HTML page about runs: curves, scores beside the paper's, calibration, embeddings, hard videos.",
        _report_arguments,
        _report,
    ),
}
