"""Exceptions that the command prints as a single line: a user's mistake, and work that a signal has stopped."""

from __future__ import annotations

import importlib
from typing import Any


class UserError(Exception):
    """Something the user can mend: the message names the file or field, what is wrong, and the fix."""


class NotFinite(UserError):
    """A model's outputs are NaN or infinite."""


class Diverged(UserError):
    """A training's loss, gradients, weights or outputs are NaN or infinite; its last checkpoint stays."""

    START = "training has diverged"  # of the message


class Interrupted(KeyboardInterrupt):
    """A signal has stopped work that is saved. number: of the signal. The message says how to continue."""

    def __init__(self, number: int, message: str = "") -> None:
        super().__init__(message)
        self.number = number


def require_package(name: str, extra: str, what: str, otherwise: str = "") -> Any:
    """Import a package of an extra of this one. Raises `UserError` if it is not installed.

    what: that needs it, as the message begins. otherwise: how to do without it.
    """
    try:
        return importlib.import_module(name)
    except ImportError:
        end = f", or {otherwise}" if otherwise else ""
        raise UserError(
            f"{what}: needs the package {name}; install it with pip install 'svfap[{extra}]'{end}"
        ) from None


def first_line(error: BaseException) -> str:
    """The first line of an error's text, or its type if it has none, for a message of one line."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
