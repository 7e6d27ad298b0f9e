"""What the verbs share: a parser whose errors are one line, and how a verb describes itself."""

from __future__ import annotations

import dataclasses
import difflib
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, NamedTuple, NoReturn

import yaml
from jsonargparse import ArgumentParser, Namespace, set_parsing_settings

from svfap.console import console
from svfap.errors import UserError

set_parsing_settings(docstring_parse_attribute_docstrings=True)


class Parser(ArgumentParser):
    """Says a user's mistake in one line, with the nearest name where a name is unknown."""

    read_file: Callable[[Path], dict[str, Any]] | None = None
    """How the file of --config becomes names with values; by default as plain YAML."""

    def parse_path(self, path: Any, *args: Any, **kwargs: Any) -> Any:
        if self.read_file is None:
            return super().parse_path(path, *args, **kwargs)
        try:
            words = self.read_file(Path(path))
        except UserError as error:
            raise TypeError(str(error)) from None  # which the parser reports
        return self.parse_string(yaml.safe_dump(words), str(path), *args, **kwargs)

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


class Verb(NamedTuple):
    describe: str
    arguments: Callable[[Parser], None]
    run: Callable[[Any], int | None]


def say(text: str) -> None:
    console.print(text, markup=False, highlight=False, soft_wrap=True)


def config_of(cls: Any, args: Namespace) -> Any:
    names = {f.name for f in dataclasses.fields(cls)}
    values = {k: v for k, v in vars(args).items() if k in names}
    return cls(
        **{
            k: tuple(v) if isinstance(v, list) and k in ("betas", "crop_scale", "crop_scales", "label_range") else v
            for k, v in values.items()
        }
    )


def add_engine_arguments(parser: Parser) -> None:
    """--engine and --num_workers, for verbs that do one piece of work on many videos (see `svfap.bulk`)."""
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
