"""Read pickles as inert data. Nothing that a pickle names is imported or called, so no pickle can run code here.

`pickletools` decodes the instructions, and a machine of our own carries them out. Classes and functions are only names: what a
pickle makes with them becomes a `Record`, except for the few constructors that the caller gives by name.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO, NamedTuple

MAX_INSTRUCTIONS = 1_000_000  # some seconds; 1000 tensors with the state of their optimizer take 100,000
MAX_INTEGER_KEY = 2**31
# What these modules define acts on the machine; data has no use for it. The data types among their names are exempt.
ACTING = {
    *(
        "os",
        "posix",
        "nt",
        "subprocess",
        "_posixsubprocess",
        "sys",
        "builtins",
        "__builtin__",
        "importlib",
        "imp",
        "runpy",
    ),
    *(
        "pty",
        "ctypes",
        "_ctypes",
        "socket",
        "shutil",
        "code",
        "codeop",
        "pdb",
        "bdb",
        "timeit",
        "webbrowser",
        "marshal",
    ),
    *(
        "types",
        "pickle",
        "_pickle",
        "commands",
        "popen2",
        "signal",
        "cProfile",
        "profile",
        "trace",
        "urllib",
        "requests",
    ),
}
DATA_TYPES = {
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
    *("frozenset", "slice", "range", "xrange", "object", "type", "NoneType", "Ellipsis", "SimpleNamespace"),
}


class Refused(Exception):
    """The pickle names a function that acts on the machine; the message is that name."""


class Damaged(Exception):
    """The bytes are no valid pickle, or one of another kind; the message says why."""


class Name(NamedTuple):
    """A class or function that the pickle names: "module.name"."""

    full: str


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
    stands for; by default there may be none. Memory is bounded by the size of the file.

    Raises:
        Refused: the pickle names a function such as os.system.
        Damaged: anything that is not a pickle of at most `MAX_INSTRUCTIONS`.
    """
    machine = _Machine({**_DATA, **constructors}, persistent)
    try:
        for count, (operation, argument, _) in enumerate(pickletools.genops(file)):
            if count == MAX_INSTRUCTIONS:
                raise Damaged("its pickle has too many instructions")
            if operation.name == "STOP":
                return machine.stack.pop()
            machine.step(operation.name, argument)
    except (Refused, Damaged):
        raise
    except Exception as error:  # of a damaged pickle: an empty stack, bad text, a number that is too long, ...
        raise Damaged(f"its pickle is damaged: {error or type(error).__name__}") from None
    raise Damaged("its pickle has no end")


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
            case "POP":
                if stack:
                    pop()
                else:
                    self.to_mark()
            case "POP_MARK":
                self.to_mark()
            case "DUP":
                stack.append(stack[-1])
            case "NONE" | "NEWTRUE" | "NEWFALSE":
                stack.append({"NONE": None, "NEWTRUE": True, "NEWFALSE": False}[name])
            case "PUT" | "BINPUT" | "LONG_BINPUT":
                self.memo[argument] = stack[-1]
            case "MEMOIZE":
                self.memo[len(self.memo)] = stack[-1]
            case "GET" | "BINGET" | "LONG_BINGET":
                stack.append(self.memo[argument])
            case "EMPTY_LIST":
                stack.append([])
            case "EMPTY_DICT":
                stack.append({})
            case "EMPTY_TUPLE":
                stack.append(())
            case "EMPTY_SET":
                stack.append(Record("set"))
            case "LIST" | "TUPLE" | "FROZENSET" | "DICT":
                values = self.to_mark()
                made = {"LIST": values, "TUPLE": tuple(values), "FROZENSET": Record("frozenset")}
                self.stack.append(made[name] if name in made else _dict(values))
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                values = [pop() for _ in range(int(name[-1]))]
                stack.append(tuple(reversed(values)))
            case "APPEND" | "APPENDS":
                values = [pop()] if name == "APPEND" else self.to_mark()
                if isinstance(target := self.stack[-1], list):
                    target.extend(values)
            case "ADDITEMS":
                self.to_mark()
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
            case "REDUCE" | "NEWOBJ":
                args, function = pop(), pop()
                stack.append(self.call(function, args))
            case "NEWOBJ_EX":
                _, args, function = pop(), pop(), pop()
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
        if function.full in ("copyreg._reconstructor", "copy_reg._reconstructor", "copyreg.__newobj__"):
            return self.call(args[0], tuple(args[1:]) if function.full.endswith("newobj__") else ())
        if function.full == "torch._tensor._rebuild_from_type_v2":  # (function, type, arguments, attributes)
            return self.call(args[0], args[2])
        if function.full in self.constructors and isinstance(args, tuple):
            return self.constructors[function.full](*args)
        return Record(function.full, args)


def _name(module: Any, name: Any) -> Name:
    """A name, unless it is one of a function that acts on the machine: `Refused`."""
    if not isinstance(module, str) or not isinstance(name, str):
        raise Damaged("its pickle is damaged: a name that is no text")
    if module.split(".")[0] in ACTING and name.split(".")[0] not in DATA_TYPES | {"getattr"}:
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


def _encode(text: str, encoding: str = "latin1") -> bytes:
    """How protocol 2 writes bytes: `_codecs.encode(text, "latin1")`."""
    return str(text).encode("latin1")


def _scalar(dtype: Any, raw: Any = b"") -> Any:
    """A number of numpy as one of Python; a record if it is none."""
    import numpy as np

    code = dtype.args[0] if isinstance(dtype, Record) and isinstance(dtype.args, tuple) and dtype.args else None
    big = isinstance(dtype, Record) and isinstance(dtype.state, tuple) and ">" in dtype.state[1:2]
    if code not in ("b1", "f2", "f4", "f8", *(f"{kind}{size}" for kind in "iu" for size in (1, 2, 4, 8))):
        return Record("numpy.scalar", (dtype, raw))
    return np.frombuffer(raw, dtype=(">" if big else "<") + code, count=1)[0].item()


_DATA: dict[str, Callable[..., Any]] = {
    "collections.OrderedDict": _ordered,
    "collections.defaultdict": lambda *_: {},
    "collections.Counter": _ordered,
    "builtins.dict": _ordered,
    "__builtin__.dict": _ordered,
    "_codecs.encode": _encode,
    "numpy.core.multiarray.scalar": _scalar,
    "numpy._core.multiarray.scalar": _scalar,
}
