"""What the verbs share: parsers built from settings dataclasses, and errors in one line."""

from __future__ import annotations

import dataclasses
import difflib
import importlib
import re
import sys
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, NoReturn, get_args, get_origin, get_type_hints

from jsonargparse import ArgumentParser, Namespace, set_parsing_settings

from svfap.console import say as say

set_parsing_settings(docstring_parse_attribute_docstrings=True)

BOOLEANS = {"true", "false", "yes", "no", "null"}


class Parser(ArgumentParser):
    """Says a user's mistake in one line, with the nearest name where a name is unknown."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        text = " ".join(str(message).split())
        parser = getattr(ex, "subcommand_parser", None) or self
        known = {action.dest for action in parser._actions}
        for word in re.findall(r"(?:Key |arguments: ?|option |Option |accepted:? ?)['\"]?-{0,2}([\w.]+)", text):
            if near := difflib.get_close_matches(word, known - {word}, n=1, cutoff=0.5):
                text = f"{text.removesuffix('.')}. Did you mean {near[0]!r}?"
                break
        print(f"{parser.prog}: error: {text}", file=sys.stderr)
        raise SystemExit(2)


class Positional(NamedTuple):
    """An argument without a flag, passed to the verb after its settings."""

    name: str
    help: str
    nargs: Literal["+", "?"] | None = None
    type: Any = str


class Command(NamedTuple):
    """A verb.

    summary: what it does, then an example; its first sentence stands in the list of verbs. config: "module:class", a
    dataclass without heavy imports whose fields are the options and whose docstrings are their help. run:
    "module:function", imported once the arguments are good, called as run(config, *positionals); returns the exit status, None
    for 0.
    """

    summary: str
    config: str
    run: str
    positionals: tuple[Positional, ...] = ()


class Verb(NamedTuple):
    describe: str
    arguments: Callable[[Parser], None]
    run: Callable[[Any], int | None]


def add_command(parser: Parser, command: Command) -> None:
    """The arguments of a command: its positionals, --config for a YAML file, and an option for every setting."""
    for positional in command.positionals:
        how: dict[str, Any] = {"nargs": positional.nargs} if positional.nargs else {}
        parser.add_argument(positional.name, type=positional.type, help=positional.help, **how)
    parser.add_argument("--config", action="config", help="YAML file with any of these settings; flags override it")
    add_settings(parser, load(command.config))


def run_command(command: Command, args: Namespace) -> int:
    """Build the settings, which checks them, then import what does the work and call it."""
    config = config_of(load(command.config), args)
    return load(command.run)(config, *(args[positional.name] for positional in command.positionals)) or 0


def add_settings(parser: Parser, config: type, skip: set[str] | None = None) -> None:
    """An option for every field of a dataclass. A boolean is set by its flag alone, or by `--flag false`."""
    parser.add_class_arguments(config, skip=skip or set())
    for action in parser._actions:
        if getattr(action, "_typehint", None) in (bool, bool | None):
            action.nargs, action.const = "?", True


def booleans_spelt_out(parser: Parser, argv: list[str]) -> list[str]:
    """`--resume video.mp4` -> `--resume=true video.mp4`: a boolean's flag does not swallow a positional after it."""
    if all(action.option_strings for action in parser._actions):  # no positionals: what follows is the flag's value
        return argv
    flags = {
        flag
        for action in parser._actions
        if getattr(action, "_typehint", None) in (bool, bool | None)
        for flag in action.option_strings
    }
    following = [*argv[1:], ""]
    return [
        f"{word}=true" if word in flags and after.lower() not in BOOLEANS else word
        for word, after in zip(argv, following, strict=True)
    ]


def config_of(cls: Any, args: Namespace) -> Any:
    """The dataclass filled from parsed arguments; lists become tuples where its fields are tuples."""
    hints = get_type_hints(cls)
    values = {field.name: args[field.name] for field in dataclasses.fields(cls) if field.name in args}
    return cls(
        **{name: tuple(v) if isinstance(v, list) and _is_tuple(hints[name]) else v for name, v in values.items()}
    )


def load(name: str) -> Any:
    """The object that "module:name" stands for."""
    module, _, attribute = name.partition(":")
    return getattr(importlib.import_module(module), attribute)


def _is_tuple(hint: Any) -> bool:
    return get_origin(hint) is tuple or any(get_origin(part) is tuple for part in get_args(hint))


def add_engine_arguments(parser: Parser) -> None:
    """--engine and --num_workers, for verbs that do one piece of work on many videos (see `svfap.jobs`)."""
    parser.add_argument(
        "--engine",
        type=Literal["local", "ray"],
        default="local",
        help="this machine, or the Ray cluster of RAY_ADDRESS (extra `ray`), whose machines share the files",
    )
    parser.add_argument(
        "--num_workers",
        type=int,
        default=0,
        help="videos at a time, each in its process; 0: this process; all of the cluster",
    )
