"""The command `svfap`: verbs that parse, call, and print. What needs torch is imported when a verb runs."""

from __future__ import annotations

import sys
from pathlib import Path

from svfap.cli import crop, data, experiments, extract, inference, models, training
from svfap.cli.parser import Command, Parser, Positional, Verb, add_command, booleans_spelt_out, run_command, say
from svfap.errors import UserError

COMMANDS: dict[str, Command] = {  # verbs whose options are a settings dataclass
    "evaluate": Command(
        "Evaluate a model on a test set: multi-view testing, UAR, WAR, F1, CCC, PCC and MAE. "
        "Example: svfap evaluate --model runs/finetune --manifest test.csv",
        "svfap.evaluate.config:EvaluateConfig",
        "svfap.cli.evaluate:run",
    ),
    "pool": Command(
        "Pool the evaluations of all folds: score their predictions together, beside the numbers of the paper. "
        "Example: svfap pool --models 'released/fold_{fold}' --dataset prepared/dfew --out runs/dfew_released",
        "svfap.evaluate.config:PoolConfig",
        "svfap.cli.pool:run",
        (Positional("run", "folder of `svfap finetune --fold all`, whose table is written again", "?", Path | None),),
    ),
    "report": Command(
        "Write a page about runs: training curves, scores beside the paper's, calibration, embeddings, difficult videos. "
        "Example: svfap report runs/pretrain runs/finetune --out report.html",
        "svfap.report.config:ReportConfig",
        "svfap.cli.report:run",
        (Positional("runs", "run folders, or folders of folds, which count as one run", "+", Path),),
    ),
}
VERBS: dict[str, Verb] = {
    **data.VERBS,
    **crop.VERBS,
    **training.VERBS,
    **inference.VERBS,
    **extract.VERBS,
    **experiments.VERBS,
    **models.VERBS,
}


def run() -> None:
    """Entry point of the installed command."""
    raise SystemExit(main())


def main(argv: list[str] | None = None) -> int:
    """Run a verb; returns the exit status. A user's mistake is one line, without a traceback."""
    parser = Parser(
        prog="svfap",
        allow_abbrev=False,
        description="Self-supervised video facial affect perceiver: from face videos to affect.",
    )
    verbs = parser.add_subcommands(dest="verb", metavar="VERB", description="`svfap VERB --help` explains a verb.")
    argv = sys.argv[1:] if argv is None else argv
    known: dict[str, Verb | Command] = {**VERBS, **COMMANDS}
    for name, verb in known.items():
        summary = verb.summary if isinstance(verb, Command) else verb.describe
        sub = Parser(description=summary)
        verbs.add_subcommand(name, sub, help=summary.split(":")[0].split(".")[0])
        if name not in argv:  # describing the others' arguments takes time and serves nobody
            continue
        if isinstance(verb, Command):
            add_command(sub, verb)
        else:
            verb.arguments(sub)  # after it is added: a verb may have subcommands of its own
        argv = booleans_spelt_out(sub, argv)
    args = parser.parse_args(argv)
    try:
        if args.verb in COMMANDS:
            return run_command(COMMANDS[args.verb], args[args.verb])
        return VERBS[args.verb].run(args[args.verb]) or 0
    except UserError as error:
        print(f"svfap {args.verb}: error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        say(f"svfap {args.verb}: interrupted")
        return 130
