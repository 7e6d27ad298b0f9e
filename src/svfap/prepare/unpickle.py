"""Read pickles of plain data without executing code."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any, BinaryIO

from svfap.errors import UserError

PLAIN = (str, int, float, bool)


class _Refused(Exception):
    """The pickle contains something other than plain data; the message names it."""


class _PlainUnpickler(pickle.Unpickler):
    """A pickle can execute code only through objects that these two methods return; both refuse."""

    def __init__(self, file: BinaryIO) -> None:
        super().__init__(file, encoding="latin1")  # Python 2's byte strings: any byte is a character

    def find_class(self, module_name: str, global_name: str) -> Any:
        raise _Refused(f"{module_name}.{global_name}")

    def persistent_load(self, pid: Any) -> Any:
        raise _Refused(f"a reference to something outside the file ({pid!r})")


def read_pickle(path: Path) -> Any:
    """The contents of a pickle of dicts, lists, strings and numbers; Python 2's byte strings become text (Latin-1).

    Raises `UserError` naming the file and what was refused, without executing it, or where it is no pickle.
    """
    try:
        with path.open("rb") as file:
            value = _PlainUnpickler(file).load()
        _check(value)
    except _Refused as refused:
        raise UserError(
            f"{path}: refused, since it holds {refused}, and not only dicts, lists, strings and numbers; "
            "get the file from the dataset's own source"
        ) from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    except Exception as error:  # damaged pickles raise many types of errors
        raise UserError(
            f"{path}: is not a readable pickle ({' '.join(str(error).split())}); download it again"
        ) from None
    return value


def _check(value: Any) -> None:
    """Raise `_Refused` for anything but plain data; without recursion, as a pickle may be deeply nested or contain itself."""
    waiting, seen = [value], set()
    while waiting:
        item = waiting.pop()
        if type(item) in PLAIN or id(item) in seen:
            continue
        seen.add(id(item))
        if type(item) is dict:
            waiting.extend(item.keys())
            waiting.extend(item.values())
        elif type(item) is list:
            waiting.extend(item)
        else:
            raise _Refused(f"a {type(item).__name__}")
