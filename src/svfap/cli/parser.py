"""What the verbs share: parsers built from settings dataclasses, and errors in one line."""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import importlib
import itertools
import json
import re
import sys
from collections.abc import Collection
from pathlib import Path
from typing import Any, Literal, NamedTuple, NoReturn, get_args, get_origin, get_type_hints

import yaml
from jsonargparse import ActionConfigFile, ArgumentParser, DefaultHelpFormatter, Namespace, set_parsing_settings  # type: ignore[attr-defined]

from svfap.console import as_typed, naming_options
from svfap.errors import UserError
from svfap.formats import read_yaml
from svfap.settings import as_text, plain_words
from svfap.shipped import find_recipe

set_parsing_settings(docstring_parse_attribute_docstrings=True)

INCLUDES = {"defaults", "include", "includes", "extends", "_base_"}  # of other programs, in files that build on others
SEVERAL_FILES = (
    "give several files, as --config BASE.yaml --config OWN.yaml, of which a later one overrides an earlier one"
)
BOOLEANS = {"true", "false", "yes", "no", "null"}


class Parser(ArgumentParser):
    """Reports a user's mistake in one line, with the most similar name if a name is unknown."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, formatter_class=_Formatter, **kwargs)

    settings_class: Any = None
    """The dataclass whose fields are the settings."""
    argv: tuple[str, ...] = ()
    """What the user has given."""

    def parse_path(self, path: Any, *args: Any, **kwargs: Any) -> Any:
        """The settings in a file of --config. Everything that is wrong in it is reported at once."""
        read_file = getattr(self.settings_class, "read_file", read_yaml)
        try:
            settings = read_file(Path(path))
        except UserError as error:
            raise TypeError(str(error)) from None  # which the parser reports
        hints = get_type_hints(self.settings_class)
        settings = {name: as_text(value, hints.get(name)) for name, value in settings.items()}
        if problems := self._problems(settings, hints):
            raise TypeError(f"{path}: {'; '.join(problems)}")
        return self.parse_string(yaml.safe_dump(settings), str(path), *args, **kwargs)

    def _problems(self, settings: dict[str, Any], hints: dict[str, Any]) -> list[str]:
        """What is wrong with names and types of values; if anything is, also with values alone. One text for each."""
        problems: list[str] = []
        unknown: list[str] = []
        values: dict[str, Any] = {}
        for name, value in settings.items():
            if name in INCLUDES and name not in hints:
                problems.append(f"{name} is no setting, as a file includes no other; {SEVERAL_FILES}")
                continue
            if name not in hints:
                near = _suggestion([str(name)], hints)
                problems += [f"{name} is no setting{near}"] if near else []
                unknown += [] if near else [str(name)]
                continue
            one = ArgumentParser(exit_on_error=False)
            one.add_argument(f"--{name}", type=hints[name])
            try:
                values[name] = one.parse_object({name: value})[name]
            except argparse.ArgumentError as error:
                problems.append(_plain_words(str(error)))
        if unknown:
            are = "are no settings" if len(unknown) > 1 else "is no setting"
            problems.append(f"{', '.join(unknown)} {are}; {self.prog} --help lists them all")
        while problems:
            try:
                config_of(self.settings_class, Namespace({**_required_values(self.settings_class), **values}))
                break
            except UserError as error:
                name = str(error).partition("=")[0]
                if values.pop(name, None) is None:  # the error is not about one setting of the file
                    break
                with naming_options(hints):
                    problems.append(as_typed(str(error), field_first=True))
        return problems

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        parser = getattr(ex, "subcommand_parser", None) or self
        text = " ".join(str(message).split())
        if text.startswith(required := "the following arguments are required: "):
            parser, names = self._required(text.removeprefix(required).split(", "))
            text = required + ", ".join(names)
        text = _plain_words(text)
        positionals = {action.dest for action in parser._actions if not action.option_strings}
        text = re.sub(r"^--(\w+)(?=: )", lambda key: key[1].upper() if key[1] in positionals else key[0], text)
        if choice := re.search(r"invalid choice: '(.*?)' \(choose from (.*)\)", text):
            unknown, known = [choice[1]], set(re.findall(r"'(.*?)'", choice[2]))
            text = f"{choice[1]!r} is none of {choice[2]}"
        else:
            unknown = re.findall(r"(?:Key |option |Option |accepted:? ?)['\"]?-{0,2}([\w.]+)", text)
            unknown += re.findall(r"--([\w.]+)", text.partition("unrecognized arguments: ")[2])
            known = {action.dest for action in parser._actions}
        stray = text.partition("unrecognized arguments: ")[2].partition(" ")[0]
        if spelt := _list_of(parser, stray):
            text += f"; several values of an option are one word here: {spelt}"
        elif _option_before(parser, stray)[0] == "--config":
            text += f"; {SEVERAL_FILES}"
        elif suggestion := _suggestion(unknown, known):
            text = text.removesuffix(".") + suggestion
        elif unknown and not choice:
            text += f"; {parser.prog} --help lists the options"
        print(f"{parser.prog}: error: {text}", file=sys.stderr)
        raise SystemExit(2)

    def _required(self, keys: list[str]) -> tuple[ArgumentParser, list[str]]:
        """The subparser that misses arguments, and their names as the user writes them, from keys such as predict.model."""
        parser: ArgumentParser = self
        *verbs, _ = keys[0].split(".")
        for verb in verbs:
            parser = parser._subcommands_action._name_parser_map[verb]  # type: ignore[union-attr]
        options = {action.dest for action in parser._actions if action.option_strings}
        names = [key.rpartition(".")[2] for key in keys]
        return parser, [f"--{name}" if name in options else name.upper() for name in names]


class _ConfigFile(ActionConfigFile):
    """--config, which also takes the name of a recipe that comes with the package."""

    def __call__(self, parser: Any, cfg: Any, values: Any, option_string: str | None = None) -> None:
        try:
            file = find_recipe(values)
        except UserError as error:
            parser.error(f"--config {error}")
        super().__call__(parser, cfg, str(file), option_string)


class Positional(NamedTuple):
    """An argument without a flag: a field of the settings, or else passed to the verb after them."""

    name: str
    help: str
    nargs: Literal["+", "?", "*"] | None = None
    type: Any = str


class Variant(NamedTuple):
    """One choice of a verb's first argument: its line in the list of choices, its own description, and its settings."""

    summary: str
    description: str
    config: type


class Variants(NamedTuple):
    """A first argument that selects the dataclass of settings; each choice has a `--help` of its own.

    name, help: of the argument. choices: "module:function", without heavy imports, which returns dict[str, Variant].
    """

    name: str
    help: str
    choices: str


class Command(NamedTuple):
    """A verb, which `svfap.cli.VERB:run` runs as run(config, *positionals); it returns the exit status, None for 0.

    summary: what it does; its first sentence stands in the list of verbs. config: "module:class", a dataclass without heavy
    imports whose fields are the options and whose docstrings are their help; building it checks the values, before `run` is
    imported. variants: in place of positionals, a choice among dataclasses derived from `config`, which `run` gets by name.
    """

    summary: str
    example: str
    config: str
    positionals: tuple[Positional, ...] = ()
    variants: Variants | None = None


class _Formatter(DefaultHelpFormatter):
    """Help with plain names of types: Path, not <class 'Path'>; own, not Literal['own']."""

    def _expand_help(self, action: argparse.Action) -> str:
        text = re.sub(r"<class '(?:\w+\.)*(\w+)'>", r"\1", super()._expand_help(action))
        return re.sub(r"Literal\[(.*?)\]", lambda found: found[1].replace("'", ""), text)


class _VerbatimFormatter(argparse.RawDescriptionHelpFormatter, _Formatter):
    """Help that keeps the line breaks of a description."""


def add_command(parser: Parser, command: Command) -> None:
    """The arguments of a command: its positionals, --config for a YAML file, and an option for every setting."""
    if command.variants:
        name, description, choices = command.variants
        subcommands = parser.add_subcommands(dest=name, metavar=name.upper(), description=description)
        for choice, variant in load(choices)().items():
            sub = Parser(description=variant.description)
            add_settings(sub, variant.config)
            subcommands.add_subcommand(choice, sub, help=variant.summary)
            sub.prog, sub.formatter_class = f"{parser.prog} {choice}", _VerbatimFormatter  # add_subcommand sets others
        return
    for positional in command.positionals:
        how: dict[str, Any] = {"nargs": positional.nargs} if positional.nargs else {}
        text = load(positional.help) if positional.help.startswith("svfap.") else positional.help
        parser.add_argument(positional.name, type=positional.type, help=text, **how)
    add_settings(parser, load(command.config), {positional.name for positional in command.positionals})


def run_command(name: str, command: Command, args: Namespace) -> int:
    """Build the settings, which checks them, then import what does the work and call it."""
    run = f"svfap.cli.{name}:run"
    if command.variants:
        choice = args[command.variants.name]
        config = config_of(load(command.variants.choices)()[choice].config, args[choice])
        return load(run)(config, choice) or 0
    config = config_of(load(command.config), args)
    names = [positional.name for positional in command.positionals if not hasattr(config, positional.name)]
    return load(run)(config, *(args[name] for name in names)) or 0


def options_of(command: Command, args: Namespace) -> set[str]:
    """Names of the options that the command takes."""
    options = args[args[command.variants.name]] if command.variants else args
    return set(vars(options)) - {positional.name for positional in command.positionals}


def add_settings(parser: Parser, config: type, skip: set[str] | None = None) -> None:
    """--config, and an option for every field of a dataclass. A boolean is set by its flag alone, or by `--flag false`."""
    parser.settings_class = config
    parser.add_argument(
        "--config",
        action=_ConfigFile,
        help="YAML file with any of these settings, or a recipe that comes with the package, by its "
        "name, as dfew; flags after it override it, "
        "and of several --config a later one an earlier one",
    )
    parser.add_class_arguments(config, skip=skip or set())
    for action in filter(_is_boolean, parser._actions):
        action.nargs, action.const = "?", True
    for action in parser._actions:  # no --name+, which would add to a list, and replace what is no list
        added = [flag for flag in action.option_strings if flag.endswith("+")]
        action.option_strings = [flag for flag in action.option_strings if flag not in added]
        for flag in added:
            parser._option_string_actions.pop(flag, None)


def _is_boolean(action: argparse.Action) -> bool:
    return getattr(action, "_typehint", None) in (bool, bool | None)


def booleans_spelt_out(parser: Parser, argv: list[str]) -> list[str]:
    """`--resume video.mp4` -> `--resume=true video.mp4`: a boolean's flag does not swallow a positional that follows it."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name in action.choices.keys() & set(argv):
                argv = booleans_spelt_out(action.choices[name], argv)
    if all(action.option_strings for action in parser._actions):
        return argv
    flags = {flag for action in filter(_is_boolean, parser._actions) for flag in action.option_strings}
    following = [*argv[1:], ""]
    return [
        f"{word}=true" if word in flags and after.lower() not in BOOLEANS else word
        for word, after in zip(argv, following, strict=True)
    ]


def lists_spelt_out(parser: Parser, argv: list[str]) -> list[str]:
    """`--model a b` -> `--model=["a", "b"]`, for options that take a list, of verbs without positionals.

    One word stays as it is where the option takes one value too, and where it is a list in brackets.
    """
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name in action.choices.keys() & set(argv):
                argv = lists_spelt_out(action.choices[name], argv)
    if not all(action.option_strings for action in parser._actions):
        return argv
    lists = [action for action in parser._actions if _takes_list(action)]
    flags = {flag for action in lists for flag in action.option_strings}
    alone = {flag for action in lists if not _takes_text(action) for flag in action.option_strings}
    spelt: list[str] = []
    place = 0
    while place < len(argv):
        word, place = argv[place], place + 1
        following = [*itertools.takewhile(lambda each: not each.startswith("-"), argv[place:])]
        is_one = len(following) == 1 and word in alone and following[0] != "null" and not following[0].startswith("[")
        if is_one or (word in flags and len(following) > 1):
            word, place = f"{word}={json.dumps(following)}", place + len(following)
        spelt.append(word)
    return spelt


def _list_of(parser: Parser, stray: str) -> str:
    """`--metrics '[a, b]'` where the stray word b was given as `--metrics a b`; '' where it does not follow such an option."""
    flag, values = _option_before(parser, stray)
    if not any(flag in action.option_strings for action in parser._actions if _takes_list(action)):
        return ""
    return f"{flag} '[{', '.join(values)}]'"


def _option_before(parser: Parser, stray: str) -> tuple[str, list[str]]:
    """The option that the stray word follows, and all words that do; '' where there is none, or it is an option itself."""
    argv = getattr(parser, "argv", ())
    before = argv[: argv.index(stray)] if stray in argv and not stray.startswith("-") else ()
    flag = next((word for word in reversed(before) if word.startswith("-")), "")
    if not flag:
        return "", []
    return flag, [*itertools.takewhile(lambda word: not word.startswith("-"), argv[before.index(flag) + 1 :])]


def _takes_list(action: argparse.Action) -> bool:
    hint = getattr(action, "_typehint", None)
    return any(get_origin(each) is list for each in (hint, *get_args(hint)))


def _takes_text(action: argparse.Action) -> bool:
    """Whether the option takes one text, or a file, in place of a list."""
    hint = getattr(action, "_typehint", None)
    return get_origin(hint) is not list and any(each in (str, Path) for each in get_args(hint))


# What is meant where a value has another type than the option; the first words of the message.
CONFUSIONS = {
    "--model: Expected names with values": (
        "It takes fields of a new model, such as '{num_frames: 8}'; weights to begin with are --init"
    ),
    "--heads: Expected names with values": "It takes heads by name, such as '{expression: {task: classification}}'",
    "--resume: Expected true or false": "It takes no name; it continues the run in --out",
}


def _plain_words(message: str) -> str:
    """A message of the parser in one line, with options and types as users write them."""
    text = re.sub(r'Parser key "(?=[\w.]+": )', 'Parser key "--', " ".join(message.split()))
    text = re.sub(
        r"'utf-8' codec can't encode .* surrogates not allowed", "the name is not valid UTF-8; give another", text
    )
    text = plain_words(text)
    return next((f"{text}. {hint}" for start, hint in CONFUSIONS.items() if text.startswith(start)), text)


def _suggestion(unknown: list[str], known: Collection[str]) -> str:
    """The first known name that is close to an unknown one, as a question; "" if none is."""
    for name in unknown:
        if near := difflib.get_close_matches(name, set(known) - {name}, n=1, cutoff=0.75):
            return f". Did you mean {near[0]!r}?"
    return ""


def _required_values(cls: Any) -> dict[str, Any]:
    """A value for each field of a dataclass without a default, which other values are checked with."""
    hints = get_type_hints(cls)
    fields = (field for field in dataclasses.fields(cls) if field.default is field.default_factory)
    return {field.name: hints[field.name]("-") for field in fields}


def config_of(cls: Any, args: Namespace) -> Any:
    """The dataclass filled from parsed arguments; lists become tuples where its fields are tuples."""
    hints = get_type_hints(cls)
    values = {field.name: args[field.name] for field in dataclasses.fields(cls) if field.name in args}
    tuples = {name for name, hint in hints.items() if tuple in [get_origin(part) for part in (hint, *get_args(hint))]}
    return cls(**{name: tuple(v) if isinstance(v, list) and name in tuples else v for name, v in values.items()})


def load(name: str) -> Any:
    """The object that "module:name" stands for."""
    module, _, attribute = name.partition(":")
    return getattr(importlib.import_module(module), attribute)
