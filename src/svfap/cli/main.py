"""Entry point of the command: choose the verb, build its settings, run it; a user's mistake is one line."""

from __future__ import annotations

import gc
import io
import json
import os
import select
import sys
import time
import traceback
from contextlib import suppress
from pathlib import Path

import svfap
from svfap.cli.parser import Parser, add_command, booleans_spelt_out, lists_spelt_out, options_of, run_command
from svfap.cli.verbs import VERBS
from svfap.console import as_typed, naming_options, say
from svfap.errors import UserError
from svfap.signals import TERMINATION, interrupt, signal_handlers, signal_of


def run() -> None:
    """Entry point of the installed command."""
    status = main()
    gc.freeze()  # the interpreter's end would look through the objects of all modules several times, which takes seconds
    raise SystemExit(status)


def main(argv: list[str] | None = None) -> int:
    """Run a verb; returns the exit status: 1 for a user's mistake, 128 + its number after a signal (Ctrl-C: 130).

    Both are one line, without a traceback.
    """
    gc.set_threshold(50_000)  # imports make many objects that stay; collections among them take a tenth of the start
    parser = Parser(
        prog="svfap",
        allow_abbrev=False,
        version=svfap.__version__,
        description="Self-supervised video facial affect perceiver: from face videos to affect.",
    )
    verbs = parser.add_subcommands(dest="verb", metavar="VERB", description="`svfap VERB --help` explains a verb.")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal that is not UTF-8 gets ? for what it cannot show
    argv = sys.argv[1:] if argv is None else argv
    for name, command in VERBS.items():
        sub = Parser(description=f"{command.summary} Example: {command.example}")
        verbs.add_subcommand(name, sub, help=command.summary.split(":")[0].split(".")[0])
        sub.prog = f"svfap {name}"
        if name in argv:  # building the parsers of the other verbs takes time
            add_command(sub, command)
            argv = lists_spelt_out(sub, booleans_spelt_out(sub, argv))
            sub.argv = tuple(argv)
    args = parser.parse_args(argv)
    command, options = VERBS[args.verb], args[args.verb]
    with naming_options(options_of(command, options)):
        try:
            with signal_handlers(interrupt, *TERMINATION):
                status = run_command(args.verb, command, options)
            sys.stdout.flush()
            return status
        except BrokenPipeError:
            if not _reader_has_ended():
                raise
            return 128 + 13  # as a command that SIGPIPE ends
        except UserError as error:
            text = f"svfap {args.verb}: error: {as_typed(str(error), field_first=True)}"
            print(text, file=sys.stderr)
            _tell_torchrun(text)
            return 1
        except KeyboardInterrupt as stop:
            say(f"svfap {args.verb}: {str(stop) or 'interrupted'}")
            return 128 + signal_of(stop)
        except Exception:
            _tell_torchrun(traceback.format_exc())
            raise


def _reader_has_ended() -> bool:
    """Whether nothing reads the output any more, as after `svfap models | head`; then what is left of it is dropped."""
    if not hasattr(select, "poll"):  # Windows
        return False
    poll = select.poll()
    poll.register(sys.stdout.fileno(), 0)
    if has_ended := any(event & select.POLLERR for _, event in poll.poll(0)):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return has_ended


def _tell_torchrun(reason: str) -> None:
    """Put the reason of a failure where torchrun looks for it, for the summary that it prints."""
    if file := os.environ.get("TORCHELASTIC_ERROR_FILE"):
        with suppress(OSError):
            Path(file).write_text(json.dumps({"message": reason, "timestamp": int(time.time())}))
