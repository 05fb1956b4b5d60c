"""Read a pickle as data: nothing that it names is imported, and nothing that it asks for is called.

A pickle is a program for a small stack machine, two of whose instructions import and call what the file names. This
module runs that program on a machine of its own: a name stays a [`Name`], an object of any class becomes an
[`Instance`] that holds its arguments and state, and a call is answered by a short list of functions given by the
caller or refused with a `ValueError` that tells what would have been called. The instructions are decoded by
`pickletools.genops`, which only parses.
"""

from __future__ import annotations

import pickletools
import sys
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import IO, Any


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


@dataclass(frozen=True)
class Name:
    """Something that a pickle refers to by module and name; it is never looked up."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


@dataclass(eq=False, repr=False)
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
        ValueError: if the pickle calls anything else, with the name of it; or if it is not a readable pickle.
    """
    machine = _Machine({**_PLAIN_CALLS, **functions}, persistent_load)
    try:
        for opcode, argument, _ in pickletools.genops(stream):
            machine.run(opcode.name, argument)
        return machine.pop()
    except (IndexError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise ValueError(f"damaged pickle: {type(error).__name__}: {error}") from error


class _Machine:
    """Stack and memo of one pickle, with a method for each group of instructions."""

    def __init__(
        self, functions: Mapping[str, Callable[..., Any]], persistent_load: Callable[[Any], Any] | None
    ) -> None:
        self.functions = functions
        self.persistent_load = persistent_load
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}
        self.protocol = 0

    def run(self, opcode: str, argument: Any) -> None:
        """Carry out one instruction."""
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
            if handler is None:  # extension codes and out-of-band buffers refer to what is not in the file
                raise ValueError(f"the pickle uses the instruction {opcode}, which torch never writes")
            if opcode in ("GLOBAL", "INST"):
                handler(argument)
            else:
                handler()

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
        self.stack.append(_as_dict(self.pop_to_mark()))

    def _frozenset(self) -> None:
        self.stack.append(frozenset(_checked_keys(self.pop_to_mark())))

    def _append(self) -> None:
        self._extend([self.pop()])

    def _appends(self) -> None:
        self._extend(self.pop_to_mark())

    def _extend(self, values: list[Any]) -> None:
        self._container(list, "append", "extend").extend(values)

    def _setitem(self) -> None:
        value, key = self.pop(), self.pop()
        self._container(dict, "__setitem__").update(_as_dict([key, value]))

    def _setitems(self) -> None:
        items = self.pop_to_mark()
        self._container(dict, "__setitem__").update(_as_dict(items))

    def _additems(self) -> None:
        items = self.pop_to_mark()
        self._container(set, "add", "update").update(_checked_keys(items))

    def _container(self, kind: type, *methods: str) -> Any:
        target = self.stack[-1]
        if isinstance(target, kind):
            return target
        own = target.attributes if isinstance(target, Instance) else {}
        called = [_describe(own[method]) for method in methods if method in own]
        raise _refusal(called[0] if called else f"{_describe(target)}.{methods[0]}")

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

    def _persid(self) -> None:
        raise ValueError("the pickle uses the instruction PERSID, which torch never writes")

    def _binpersid(self) -> None:
        if self.persistent_load is None:
            raise ValueError("the pickle refers to a storage outside itself, where none is expected")
        self.stack.append(self.persistent_load(self.pop()))

    def _newobj(self) -> None:
        args, cls = self.pop(), self.pop()
        self.stack.append(_instantiate(cls, args))

    def _newobj_ex(self) -> None:
        kwargs, args, cls = self.pop(), self.pop(), self.pop()
        self.stack.append(_instantiate(cls, (*args, kwargs) if kwargs else args))

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


def _as_dict(items: list[Any]) -> dict[Any, Any]:
    if len(items) % 2:
        raise IndexError("a key without a value")
    return dict(zip(_checked_keys(items[::2]), items[1::2], strict=True))


def _checked_keys(keys: Iterable[Any]) -> list[Any]:
    """Refuse nested tuples: hashing one of very many levels overflows the interpreter's own stack."""
    keys = list(keys)
    if any(isinstance(part, tuple) for key in keys if isinstance(key, tuple) for part in key):
        raise TypeError("a nested tuple as a key")
    return keys


def _make_dict(pairs: Iterable[Any] = ()) -> dict[Any, Any]:
    return _as_dict([part for key, value in pairs for part in (key, value)])


def _make_set(values: Iterable[Any] = ()) -> set[Any]:
    return set(_checked_keys(values))


def _make_frozenset(values: Iterable[Any] = ()) -> frozenset[Any]:
    return frozenset(_checked_keys(values))


# Calls that make a plain container, answered here because any pickle may hold them.
_PLAIN_CALLS: dict[str, Callable[..., Any]] = {
    "builtins.set": _make_set,
    "builtins.frozenset": _make_frozenset,
    "collections.OrderedDict": _make_dict,
    "collections.defaultdict": lambda *_: {},
}


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
