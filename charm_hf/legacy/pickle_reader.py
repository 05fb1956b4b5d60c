"""Read a pickle as data: nothing that it names is imported, and nothing that it asks for is called.

A pickle is a program for a small stack machine, two of whose instructions import and call what the file names. This
module runs that program on a machine of its own: a name stays a [`Name`], an object of any class becomes an
[`Instance`] that holds its arguments and state, and a call is answered by a short list of functions given by the
caller or refused with a `ValueError` that tells what would have been called. The instructions are decoded by
`pickletools.genops`, which only parses.

Why not `pickle.Unpickler` with a `find_class` that gives inert stubs: written in C, it hashes keys of any depth, lets
a file choose colliding ones and reserves memory for any number in the memo, with no place to step in; the one in
Python is private, and half of its instructions would have to be replaced for the same reasons.
"""

from __future__ import annotations

import pickletools
import sys
import time
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from collections.abc import Callable, Iterable, Mapping, Sized
from dataclasses import dataclass
from typing import IO, Any


# Instructions, and elements copied by calls. The largest encoders in use take some 200,000.
MAX_STEPS = 1_000_000
MAX_SECONDS = 60.0
# What a key costs whose hash a forger can choose: so many of one hash that a dictionary crawls are too dear.
_STEPS_PER_KEY = 100

# Calls that are found in honest checkpoints (numpy scalars, devices, paths): kept as an `Instance`, never made.
_CALLS_KEPT_AS_DATA = frozenset(
    {
        "_codecs.encode",
        "functools.partial",
        "numpy._core.multiarray._reconstruct",
        "numpy._core.multiarray.scalar",
        "numpy.core.multiarray._reconstruct",
        "numpy.core.multiarray.scalar",
        "numpy.dtype",
        "pathlib.PosixPath",
        "pathlib.WindowsPath",
        "torch.device",
    }
)

# No other class of the standard library is part of a network, and some act when made (`map`, consumed by `tuple`).
_STANDARD_LIBRARY_DATA = frozenset({"argparse.Namespace", "collections.OrderedDict", "types.SimpleNamespace"})

# Instructions whose argument, decoded by `pickletools`, is the value to push.
# fmt: off
_LITERALS = {
    "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT",
    "STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8",
    "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8",
}
# fmt: on
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_EMPTY_CONTAINERS: dict[str, Callable[[], Any]] = {"EMPTY_LIST": list, "EMPTY_DICT": dict, "EMPTY_SET": set}
_TUPLE_SIZES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}

_MARK = object()


@dataclass(frozen=True, slots=True)
class Name:
    """Something that a pickle refers to by module and name; it is never looked up."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


@dataclass(eq=False, repr=False, slots=True)
class Instance:
    """An object of a class that was not imported.

    Attributes:
        cls: the class that the pickle names.
        args: what the class would have been made with.
        state: what the object's attributes would have been set from.
    """

    cls: Name
    args: tuple[Any, ...] = ()
    state: Any = None

    @property
    def attributes(self) -> dict[str, Any]:
        """The instance's attributes, empty where the class keeps its state in another form than a `dict`."""
        return self.state if isinstance(self.state, dict) else {}

    def __repr__(self) -> str:
        return f"<{self.cls} as data>"  # without its content, which may contain itself


def read_pickle(
    stream: IO[bytes],
    functions: Mapping[str, Callable[..., Any]],
    persistent_load: Callable[[Any], Any] | None = None,
) -> Any:
    """Read one pickle from `stream`, which is left behind its end.

    Args:
        stream: an in-memory binary stream (`io.BytesIO`), so that a false length inside the pickle costs no memory.
        functions: what answers a call, by the dotted name that the pickle calls. They get arguments of the pickle's
            choice and must check them; `TypeError` and `ValueError` are reported as a damaged pickle.
        persistent_load: gives the value of a persistent id (torch's storages); none are expected if not given.

    Returns:
        Plain Python values, `Name`s, `Instance`s and what `functions` and `persistent_load` return.

    Raises:
        ValueError: if the pickle calls anything else, with the name of it; if it is not a readable pickle; or if
            reading it takes more than `MAX_STEPS` or `MAX_SECONDS`.
    """
    machine = _Machine(functions, persistent_load)
    try:
        for opcode, argument, _ in pickletools.genops(stream):
            machine.run(opcode.name, argument)
        return machine.pop()
    except (IndexError, KeyError, TypeError, OverflowError, RecursionError, MemoryError) as error:
        raise ValueError(f"damaged pickle: {type(error).__name__}: {error}") from error


class _Machine:
    """Stack and memo of one pickle, with a method for each group of instructions."""

    def __init__(
        self, functions: Mapping[str, Callable[..., Any]], persistent_load: Callable[[Any], Any] | None
    ) -> None:
        plain = {
            "builtins.set": lambda values=(): set(self.checked_keys(values)),
            "builtins.frozenset": lambda values=(): frozenset(self.checked_keys(values)),
            "collections.OrderedDict": lambda pairs=(): self.make_dict([part for pair in pairs for part in pair]),
            "collections.defaultdict": lambda *_: {},
        }
        self.functions = {**plain, **functions}
        self.persistent_load = persistent_load
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}
        self.protocol = 0
        self.steps = 0
        self.deadline = time.monotonic() + MAX_SECONDS

    def run(self, opcode: str, argument: Any) -> None:
        """Carry out one instruction."""
        self.spend(1)
        if opcode in _LITERALS:
            self.stack.append(argument)
        elif opcode in _CONSTANTS:
            self.stack.append(_CONSTANTS[opcode])
        elif opcode in _EMPTY_CONTAINERS:
            self.stack.append(_EMPTY_CONTAINERS[opcode]())
        elif opcode in _TUPLE_SIZES:
            self.stack.append(tuple(reversed([self.pop() for _ in range(_TUPLE_SIZES[opcode])])))
        elif opcode in ("PUT", "BINPUT", "LONG_BINPUT"):
            self.memo[argument] = self.stack[-1]
        elif opcode in ("GET", "BINGET", "LONG_BINGET"):
            self.stack.append(self.memo[argument])
        elif opcode == "PROTO":
            self.protocol = argument
        elif opcode not in ("FRAME", "STOP"):
            handler = getattr(self, f"_{opcode.lower()}", None)
            if handler is None:  # extension codes, textual ids and out-of-band buffers refer to what is elsewhere
                raise ValueError(f"the pickle uses the instruction {opcode}, which torch never writes")
            if opcode in ("GLOBAL", "INST"):
                handler(argument)
            else:
                handler()

    def spend(self, steps: int) -> None:
        """Count what reading has cost so far."""
        self.steps += steps
        if self.steps > MAX_STEPS or time.monotonic() > self.deadline:
            raise ValueError(
                f"reading it takes more than {MAX_STEPS:,} steps or {MAX_SECONDS:g} seconds, as no checkpoint does"
            )

    def pop(self) -> Any:
        """Take the topmost value from the stack."""
        value = self.stack.pop()
        if value is _MARK:
            raise IndexError("a value was expected, not a mark")
        return value

    def pop_to_mark(self) -> list[Any]:
        """Take everything above the last mark, and the mark."""
        start = len(self.stack) - 1
        while self.stack[start] is not _MARK:
            start -= 1
        values = self.stack[start + 1 :]
        del self.stack[start:]
        return values

    # Stack and memo.

    def _mark(self) -> None:
        self.stack.append(_MARK)

    def _pop(self) -> None:
        self.stack.pop()

    def _pop_mark(self) -> None:
        self.pop_to_mark()

    def _dup(self) -> None:
        self.stack.append(self.stack[-1])

    def _memoize(self) -> None:
        self.memo[len(self.memo)] = self.stack[-1]

    # Containers: only real ones are filled, because on an object these instructions call its methods.

    def _tuple(self) -> None:
        self.stack.append(tuple(self.pop_to_mark()))

    def _list(self) -> None:
        self.stack.append(self.pop_to_mark())

    def _dict(self) -> None:
        self.stack.append(self.make_dict(self.pop_to_mark()))

    def _frozenset(self) -> None:
        self.stack.append(frozenset(self.checked_keys(self.pop_to_mark())))

    def _append(self) -> None:
        value = self.pop()
        self._container(list, "append", "extend").append(value)

    def _appends(self) -> None:
        values = self.pop_to_mark()
        self._container(list, "append", "extend").extend(values)

    def _setitem(self) -> None:
        value, key = self.pop(), self.pop()
        self._container(dict, "__setitem__").update(self.make_dict([key, value]))

    def _setitems(self) -> None:
        items = self.pop_to_mark()
        self._container(dict, "__setitem__").update(self.make_dict(items))

    def _additems(self) -> None:
        items = self.pop_to_mark()
        self._container(set, "add", "update").update(self.checked_keys(items))

    def _container(self, kind: type, *methods: str) -> Any:
        target = self.stack[-1]
        if isinstance(target, kind):
            return target
        own = target.attributes if isinstance(target, Instance) else {}
        called = [_describe(own[method]) for method in methods if method in own]
        raise _refusal(called[0] if called else f"{_describe(target)}.{methods[0]}")

    def make_dict(self, items: list[Any]) -> dict[Any, Any]:
        """Keys and values in turn, as a dictionary."""
        return dict(zip(self.checked_keys(items[::2]), items[1::2], strict=True))

    def checked_keys(self, keys: Iterable[Any]) -> list[Any]:
        """Keys that can be hashed; those of a forger's choice are counted."""
        keys = list(keys)
        for key in keys:
            if isinstance(key, tuple) and any(isinstance(part, tuple) for part in key):
                # Hashing one of very many levels overflows the interpreter's own stack.
                raise TypeError("a nested tuple as a key")
            if not isinstance(key, str | bytes | Name) and not (isinstance(key, int) and abs(key) < 2**60):
                self.spend(_STEPS_PER_KEY)
        return keys

    # Names, objects, calls.

    def _global(self, argument: str) -> None:
        module, _, name = argument.partition(" ")
        self.stack.append(self._as_name(module, name))

    def _stack_global(self) -> None:
        name, module = self.pop(), self.pop()
        self.stack.append(self._as_name(module, name))

    def _as_name(self, module: Any, name: Any) -> Name:
        if not isinstance(module, str) or not isinstance(name, str):
            raise TypeError("a name is made of two strings")
        if self.protocol < 3:  # these use the names of Python 2, as torch's own files do
            if (module, name) in NAME_MAPPING:
                return Name(*NAME_MAPPING[module, name])
            module = IMPORT_MAPPING.get(module, module)
        return Name(module, name)

    def _binpersid(self) -> None:
        if self.persistent_load is None:
            raise ValueError("the pickle refers to a storage outside itself, where none is expected")
        self.stack.append(self.persistent_load(self.pop()))

    def _newobj(self) -> None:
        args, cls = self.pop(), self.pop()
        self.stack.append(_instantiate(cls, args))

    def _newobj_ex(self) -> None:
        _, args, cls = self.pop(), self.pop(), self.pop()  # keyword arguments of `__new__` say nothing about weights
        self.stack.append(_instantiate(cls, args))

    def _reduce(self) -> None:
        args, function = self.pop(), self.pop()
        self.stack.append(self._call(function, args))

    def _inst(self, argument: str) -> None:
        module, _, name = argument.partition(" ")
        self.stack.append(self._call(self._as_name(module, name), tuple(self.pop_to_mark())))

    def _obj(self) -> None:
        cls, *args = self.pop_to_mark()
        self.stack.append(self._call(cls, tuple(args)))

    def _call(self, function: Any, args: Any) -> Any:
        if not isinstance(function, Name):
            raise _refusal(_describe(function))
        if not isinstance(args, tuple):
            raise TypeError(f"{function} is called with arguments that are not a tuple")
        if str(function) in self.functions:
            # They copy what they are given, and a pickle may give the same large list again and again.
            self.spend(len(args) + sum(len(part) for part in args if isinstance(part, Sized)))
            return self.functions[str(function)](*args)
        if str(function) == "copyreg._reconstructor":  # how protocols 0 and 1 write a plain object
            cls, base, _ = args
            return _instantiate(cls if base == Name("builtins", "object") else base, ())
        if str(function) in _CALLS_KEPT_AS_DATA:
            return Instance(function, args)
        raise _refusal(str(function))

    def _build(self) -> None:
        state, target = self.pop(), self.stack[-1]
        # `pickle` calls a `__setstate__` that it finds on the object, so one in the state is a call in disguise.
        for part in state if isinstance(state, tuple) else (state,):
            if isinstance(part, dict) and "__setstate__" in part:
                raise _refusal(_describe(part["__setstate__"]))
        if isinstance(target, dict):  # attributes of an `OrderedDict`, such as the `_metadata` of a state dict
            return
        if not isinstance(target, Instance) or target.state is not None:
            raise _refusal(f"{_describe(target)}.__setstate__")
        target.state = state


def _instantiate(cls: Any, args: Any) -> Any:
    if not isinstance(cls, Name) or not isinstance(args, tuple):
        raise _refusal(_describe(cls))
    if str(cls) == "collections.OrderedDict":
        return {}
    if cls.module.partition(".")[0] in sys.stdlib_module_names and str(cls) not in _STANDARD_LIBRARY_DATA:
        raise _refusal(str(cls))
    return Instance(cls, args)


def _describe(value: Any) -> str:
    """The name behind a value, one level deep, for a message: `functools.partial(posix.system)`."""
    if isinstance(value, Instance):
        inner = ", ".join(str(part) for part in value.args if isinstance(part, Name))
        return f"{value.cls}({inner})"
    if isinstance(value, Name):
        return str(value)
    raise TypeError(f"a {type(value).__name__} where a function or an object is expected")


def _refusal(called: str) -> ValueError:
    return ValueError(
        f"refused, because it tries to call `{called}`, which no file of weights needs. Nothing in it has been run"
    )
