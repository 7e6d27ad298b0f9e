"""The command `svfap`: verbs that parse, call, and print. What needs torch is imported when a verb runs."""

from __future__ import annotations

import sys

from svfap.cli import crop, data, evaluation, experiments, extract, inference, models, reports, training
from svfap.cli.parser import Command, Parser, Verb, add_command, booleans_spelt_out, run_command, say
from svfap.errors import UserError

COMMANDS: dict[str, Command] = {  # verbs whose options are a settings dataclass
    "crop": crop.COMMAND,
    "extract": extract.COMMAND,
}
VERBS: dict[str, Verb] = {
    **data.VERBS,
    **training.VERBS,
    **evaluation.VERBS,
    **inference.VERBS,
    **experiments.VERBS,
    **models.VERBS,
    **reports.VERBS,
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
