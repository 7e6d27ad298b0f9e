"""Read pickles as inert data. Nothing that a pickle names is imported or called, so no pickle can run code here.

`pickletools` decodes the instructions and `_Machine` carries them out. Classes and functions are only names: what a pickle
makes with them becomes a `Record`, except for the few constructors that the caller gives by name.
"""

from __future__ import annotations

import codecs
import pickletools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from svfap.errors import UserError

MAX_INSTRUCTIONS = 1_000_000  # some seconds; 1000 tensors with the state of their optimizer take 100,000
MAX_INTEGER_KEY = 2**31
# What these modules define acts on the machine; data has no use for it. The data types among their names are exempt.
ACTING = {
    *("os", "posix", "nt", "subprocess", "_posixsubprocess", "sys", "builtins", "__builtin__", "importlib", "imp"),
    *("runpy", "pty", "ctypes", "_ctypes", "socket", "shutil", "code", "codeop", "pdb", "bdb", "timeit", "webbrowser"),
    *("marshal", "types", "pickle", "_pickle", "commands", "popen2", "signal", "cProfile", "profile", "trace"),
    *("urllib", "requests"),
}
EXEMPT = {
    *(
        "bool",
        "int",
        "long",
        "float",
        "complex",
        "str",
        "unicode",
        "bytes",
        "bytearray",
        "list",
        "tuple",
        "dict",
        "set",
    ),
    *("frozenset", "slice", "range", "xrange", "object", "type", "NoneType", "Ellipsis", "SimpleNamespace", "getattr"),
}


_OPERATIONS = {operation.code: operation for operation in pickletools.opcodes}


class Refused(Exception):
    """Something in the pickle is not allowed, such as a function that acts on the machine; the message names it."""


class Damaged(Exception):
    """The bytes are no valid pickle, or one of another kind; the message is the reason."""


class Name(NamedTuple):
    """A class or function that the pickle names: "module.name"."""

    name: str


class Record:
    """Stands for an object of a class that is not known here.

    name: of its class or of the function that makes it. args: of the call. state: its attributes as the pickle gives them, of any
    type. items: its entries, where it is a mapping.
    """

    __slots__ = ("args", "items", "name", "state")

    def __init__(self, name: str, args: Any = ()) -> None:
        self.name, self.args = name, args
        self.state: Any = None
        self.items: dict[Any, Any] = {}

    def mapping(self) -> dict[Any, Any]:
        """Its attributes and entries by name, as of `argparse.Namespace` and of classes derived from dict."""
        states = self.state if isinstance(self.state, tuple) else (self.state,)
        attributes = {name: value for part in states if isinstance(part, dict) for name, value in part.items()}
        return {**attributes, **self.items}


Constructors = Mapping[str, Callable[..., Any]]


def load(file: BinaryIO, constructors: Constructors, persistent: Callable[[Any], Any] | None = None) -> Any:
    """The value of the pickle at the file's position, which is then behind it; of any protocol.

    constructors: full name -> what a call of that name gives. persistent: what a reference to something outside the pickle
    stands for; by default there may be none. Python 2's byte strings become text (Latin-1). Memory is bounded by the size of
    the file.

    Raises:
        Refused: the pickle names a function such as os.system.
        Damaged: anything that is not a pickle of at most `MAX_INSTRUCTIONS`.
    """
    machine = _Machine(constructors, persistent)
    try:
        for _ in range(MAX_INSTRUCTIONS):
            code = file.read(1).decode("latin-1")
            if (operation := _OPERATIONS.get(code)) is None:
                raise Damaged(f"its pickle has the unknown instruction {code!r}" if code else "its pickle has no end")
            if operation.name == "STOP":
                return machine.stack.pop()
            if operation.name == "STRING":  # pickletools itself reads ASCII only
                text = codecs.escape_decode(pickletools.read_stringnl(file, decode=False))[0]
                machine.step(operation.name, text.decode("latin-1"))
            else:
                machine.step(operation.name, operation.arg.reader(file) if operation.arg else None)
    except (Refused, Damaged):
        raise
    except Exception as error:  # of a damaged pickle: an empty stack, bad text, a number that is too long, ...
        raise Damaged(f"its pickle is damaged: {error or type(error).__name__}") from None
    raise Damaged("its pickle has too many instructions")


def read_pickle(path: Path) -> Any:
    """The contents of a pickle of dicts, lists, strings and numbers; Python 2's byte strings become text (Latin-1).

    Raises `UserError` naming the file and what was refused, or where it is no pickle.
    """

    def refuse(reference: Any) -> Any:
        raise Refused(f"a reference to something outside the file ({reference!r})")

    try:
        with path.open("rb") as file:
            value = load(file, {}, refuse)
        _require_plain(value)
    except Refused as refused:
        raise UserError(
            f"{path}: refused, since it holds {refused}, and not only dicts, lists, strings and numbers; "
            "get the file from the dataset's own source"
        ) from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    except Damaged as error:
        raise UserError(
            f"{path}: is not a readable pickle ({' '.join(str(error).split())}); download it again"
        ) from None
    return value


def _require_plain(value: Any) -> None:
    """Raise `Refused` for anything but plain data; without recursion, as a pickle may be deeply nested or contain itself."""
    waiting, seen = [value], set()
    while waiting:
        item = waiting.pop()
        if type(item) in (str, int, float, bool) or id(item) in seen:
            continue
        seen.add(id(item))
        if type(item) is dict:
            waiting += [*item.keys(), *item.values()]
        elif type(item) is list:
            waiting += item
        else:
            kind = str(getattr(item, "name", type(item).__name__))
            raise Refused(kind if "." in kind else f"a {kind}")


class _Machine:
    """The stack and memo of one pickle. Nothing on the stack is ever called, except constructors by their name."""

    def __init__(self, constructors: Constructors, persistent: Callable[[Any], Any] | None) -> None:
        self.constructors, self.persistent = constructors, persistent
        self.stack: list[Any] = []
        self.below: list[list[Any]] = []  # the stacks below each mark
        self.memo: dict[int, Any] = {}

    def step(self, name: str, argument: Any) -> None:
        """Carry out one instruction, by its name in `pickletools`."""
        stack, pop = self.stack, self.stack.pop
        match name:
            case "PROTO" | "FRAME":
                pass
            case "MARK":
                self.below.append(stack)
                self.stack = []
            case "POP" if stack:
                pop()
            case "POP" | "POP_MARK" | "ADDITEMS":
                self.to_mark()
            case "DUP":
                stack.append(stack[-1])
            case "PUT" | "BINPUT" | "LONG_BINPUT":
                self.memo[argument] = stack[-1]
            case "MEMOIZE":
                self.memo[len(self.memo)] = stack[-1]
            case "GET" | "BINGET" | "LONG_BINGET":
                stack.append(self.memo[argument])
            case _ if name in _NEW:
                stack.append(_NEW[name]())
            case _ if name in _OF_MARK:
                values = self.to_mark()
                self.stack.append(_OF_MARK[name](values))
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                values = [pop() for _ in range(int(name[-1]))]
                stack.append(tuple(reversed(values)))
            case "APPEND" | "APPENDS":
                values = [pop()] if name == "APPEND" else self.to_mark()
                if isinstance(target := self.stack[-1], list):
                    target.extend(values)
            case "SETITEM" | "SETITEMS":
                values = [pop(), pop()][::-1] if name == "SETITEM" else self.to_mark()
                target = self.stack[-1]
                target = target.items if isinstance(target, Record) else target
                if isinstance(target, dict):
                    target.update(_dict(values))
            case "GLOBAL":
                stack.append(_name(*argument.split(" ", 1)))
            case "STACK_GLOBAL":
                attribute, module = pop(), pop()
                stack.append(_name(module, attribute))
            case "REDUCE" | "NEWOBJ" | "NEWOBJ_EX":
                if name == "NEWOBJ_EX":
                    pop()  # keyword arguments
                args, function = pop(), pop()
                stack.append(self.call(function, args))
            case "INST":
                args = self.to_mark()
                self.stack.append(self.call(_name(*argument.split(" ", 1)), tuple(args)))
            case "OBJ":
                function, *args = self.to_mark()
                self.stack.append(self.call(function, tuple(args)))
            case "BUILD":
                state = pop()
                if isinstance(stack[-1], Record):
                    stack[-1].state = state
            case "PERSID" | "BINPERSID":
                if self.persistent is None:
                    raise Damaged("its pickle refers to something outside of it")
                stack.append(self.persistent(pop() if name == "BINPERSID" else argument))
            case _ if argument is not None and not name.startswith("EXT"):
                stack.append(argument)  # numbers, text and bytes
            case _:
                raise Damaged(f"its pickle has the instruction {name}, which no checkpoint needs")

    def to_mark(self) -> list[Any]:
        """The values above the last mark, which is removed with them."""
        values, self.stack = self.stack, self.below.pop()
        return values

    def call(self, function: Any, args: Any) -> Any:
        """What a call stands for: the value of a constructor, otherwise a record of it."""
        if not isinstance(function, Name):
            return Record("a value", args)
        name = function.name
        if name in ("copyreg._reconstructor", "copy_reg._reconstructor", "copyreg.__newobj__"):
            return self.call(args[0], tuple(args[1:]) if name.endswith("newobj__") else ())
        if name == "torch._tensor._rebuild_from_type_v2":  # (function, type, arguments, attributes)
            return self.call(args[0], args[2])
        if name in self.constructors and isinstance(args, tuple):
            return self.constructors[name](*args)
        return Record(name, args)


def _name(module: Any, name: Any) -> Name:
    """A name, unless it is one of a function that acts on the machine: `Refused`."""
    if not isinstance(module, str) or not isinstance(name, str):
        raise Damaged("its pickle is damaged: a name that is no text")
    if module.split(".")[0] in ACTING and name.split(".")[0] not in EXEMPT:
        raise Refused(f"{module}.{name}")
    return Name(f"{module}.{name}")


def _dict(keys_and_values: list[Any]) -> dict[Any, Any]:
    """A dict of alternating keys and values. Keys other than text and small numbers are left out: hashing them may not end."""
    if len(keys_and_values) % 2:
        raise Damaged("its pickle is damaged: a key without a value")
    pairs = zip(keys_and_values[::2], keys_and_values[1::2], strict=True)
    return {key: value for key, value in pairs if _is_key(key)}


def _is_key(key: Any) -> bool:
    return isinstance(key, str | bytes | None) or (isinstance(key, int) and abs(key) < MAX_INTEGER_KEY)


def _ordered(pairs: Any = (), *_: Any) -> dict[Any, Any]:
    """`OrderedDict(pairs)`, and the same of the other kinds of dict, which get no pairs or other arguments."""
    if isinstance(pairs, dict):
        return dict(pairs)
    if not isinstance(pairs, list | tuple):
        return {}
    return _dict([part for pair in pairs if isinstance(pair, list | tuple) and len(pair) == 2 for part in pair])


def _scalar(dtype: Any, raw: Any = b"") -> Any:
    """A number of numpy as one of Python; a record if it is none."""
    import numpy as np

    code = dtype.args[0] if isinstance(dtype, Record) and isinstance(dtype.args, tuple) and dtype.args else None
    big = isinstance(dtype, Record) and isinstance(dtype.state, tuple) and ">" in dtype.state[1:2]
    if code not in ("b1", "f2", "f4", "f8", *(f"{kind}{size}" for kind in "iu" for size in (1, 2, 4, 8))):
        return Record("numpy.scalar", (dtype, raw))
    return np.frombuffer(raw, dtype=(">" if big else "<") + code, count=1)[0].item()


# What an instruction makes of nothing, and of the values above a mark.
_NEW: Constructors = {
    **{"NONE": lambda: None, "NEWTRUE": lambda: True, "NEWFALSE": lambda: False, "EMPTY_LIST": list},
    **{"EMPTY_DICT": dict, "EMPTY_TUPLE": tuple, "EMPTY_SET": lambda: Record("set")},
}
_OF_MARK: Constructors = {"LIST": list, "TUPLE": tuple, "DICT": _dict, "FROZENSET": lambda _: Record("frozenset")}
# Constructors of Python's and numpy's data, for `load`.
DATA: Constructors = {
    "collections.OrderedDict": _ordered,
    "collections.defaultdict": lambda *_: {},
    "collections.Counter": _ordered,
    "builtins.dict": _ordered,
    "__builtin__.dict": _ordered,
    "_codecs.encode": lambda text, *_: str(text).encode("latin1"),  # how protocol 2 writes bytes
    "numpy.core.multiarray.scalar": _scalar,
    "numpy._core.multiarray.scalar": _scalar,
}
