"""Read pickles of plain data: nothing is imported, called or unpickled.

The opcodes are interpreted here, on a stack of our own. A function or class that a pickle names is
only ever looked up in a table of what bytes and numpy's arrays of text are written with.
"""

from __future__ import annotations

import math
import pickletools
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from unified_reward.core.errors import DataError, one_line


PLAIN = "dict, list, tuple, str, bytes, int, float, bool, None and numpy arrays of text"


@dataclass(frozen=True)
class PickleLimits:
    """Largest content that is built from a pickle."""

    max_bytes: int = 256 * 1024 * 1024
    """Size of the pickle; strings, bytes and arrays take no more than it."""
    max_values: int = 100_000
    """Number of values, where one that is referenced twice counts twice."""
    max_depth: int = 32
    """Containers within containers."""
    max_int_bits: int = 256


DEFAULT_LIMITS = PickleLimits()


def loads(data: bytes, limits: PickleLimits = DEFAULT_LIMITS) -> Any:
    r"""Build the content of a pickle of any protocol, if it is plain data.

    Numpy's scalars of text become str and bytes, a bytearray becomes bytes. The keys of a dict are
    str.

    Args:
        data: The pickle.
        limits: Checked before memory is taken.

    Raises:
        DataError: It holds anything else, is no pickle, or exceeds a limit; names the opcode or
            the class, and its place.

    >>> loads(b"\x80\x04]\x94(K\x01\x8c\x01a\x94e.")
    [1, 'a']
    """
    if len(data) > limits.max_bytes:
        raise DataError(f"a pickle of {len(data)} bytes; at most {limits.max_bytes} are read")
    machine = _Machine(limits)
    place = 0
    try:
        for n, (opcode, argument, at) in enumerate(pickletools.genops(data)):
            place = at or 0
            if n > 4 * limits.max_values:
                raise _Refused(f"more than {n} opcodes")
            machine.run(opcode.name, argument)
    except _Refused as error:
        raise DataError(f"byte {place} of the pickle: {error}") from error
    except (ValueError, TypeError, OverflowError) as error:
        raise DataError(f"byte {place} of the pickle: {one_line(error, 200)}") from error
    return machine.result(trailing=len(data) - place - 1)


class _Refused(Exception):  # noqa: N818  becomes a DataError with its place
    """Something that plain data does not need."""


class _Mark:
    """Start of the items of a container on the stack."""


_MARK = _Mark()


@dataclass
class _Global:
    """A name that may be called here; never the object behind it."""

    name: str
    build: Callable[..., Any] | None
    """Safe counterpart of what is called; None for a class that is only passed on."""


@dataclass
class _TextType:
    """A numpy dtype of text: U, code points, or S, bytes."""

    kind: str
    n_chars: int
    byte_order: str = "|"

    @property
    def dtype(self) -> np.dtype[Any]:
        order = self.byte_order if self.kind == "U" else "|"
        return np.dtype(f"{order}{self.kind}{self.n_chars}")


@dataclass(eq=False)
class _EmptyArray:
    """An array whose shape and content follow in its state."""

    memo_keys: list[int] = field(default_factory=list[int])


def _encode(text: Any, encoding: Any = None) -> bytes:
    """Bytes as protocols 0 to 2 write them: code points below 256."""
    if not isinstance(text, str) or encoding != "latin1":
        raise _Refused("_codecs.encode is for bytes written as latin1")
    return text.encode("latin1")


def _no_bytes() -> bytes:
    return b""


def _text_type(code: Any, *_: Any) -> _TextType:
    code = code[:20] if isinstance(code, str) else ""
    found = re.fullmatch(r"([US])([0-9]{1,7})", code)
    if not found or int(found[2]) == 0:
        raise _Refused(f"numpy.dtype {code!r} is not one of text (U or S)")
    return _TextType(found[1], int(found[2]))


def _reconstruct(kind: Any, shape: Any, code: Any) -> _EmptyArray:
    if not isinstance(kind, _Global) or kind.name != "numpy.ndarray" or shape != (0,):
        raise _Refused("_reconstruct is for numpy.ndarray of shape (0,)")
    if code not in (b"b", "b"):
        raise _Refused("_reconstruct is called otherwise than numpy calls it")
    return _EmptyArray()


def _scalar(text_type: Any, content: Any) -> str | bytes:
    return _array(content, text_type, (), "C").item()


def _array(content: Any, text_type: Any, shape: Any, order: Any) -> np.ndarray[Any, Any]:
    """Array of text over bytes whose number is checked first."""
    if not isinstance(text_type, _TextType) or not isinstance(content, bytes):
        raise _Refused("an array of anything but text")
    is_shape = isinstance(shape, tuple) and all(type(n) is int and n >= 0 for n in shape)
    if not is_shape or len(shape) > 8 or order not in ("C", "F"):
        raise _Refused("an array without a shape and order of numpy's")
    dtype = text_type.dtype
    if math.prod(shape) * dtype.itemsize != len(content):
        raise _Refused(f"an array of {len(content)} bytes does not have shape {shape}")
    if dtype.kind == "U":
        points = np.frombuffer(content, np.dtype(f"{dtype.byteorder}u4"))
        if points.size and (points.max() > 0x10FFFF or ((points >> 11) == 0x1B).any()):
            raise _Refused("an array of text that is not Unicode")
    return np.frombuffer(content, dtype).reshape(shape, order=order).astype(dtype.newbyteorder("="))


_NUMPY_CORES = ("numpy.core", "numpy._core")
_GLOBALS: Mapping[str, Callable[..., Any] | None] = {
    "_codecs.encode": _encode,
    "__builtin__.bytes": _no_bytes,
    "builtins.bytes": _no_bytes,
    "numpy.ndarray": None,
    "numpy.dtype": _text_type,
    **{f"{core}.multiarray._reconstruct": _reconstruct for core in _NUMPY_CORES},
    **{f"{core}.multiarray.scalar": _scalar for core in _NUMPY_CORES},
    **{f"{core}.numeric._frombuffer": _array for core in _NUMPY_CORES},
}
"""Everything that a pickle may name, as numpy 1 and 2 and the protocols 0 to 5 write it."""


def _global(module: Any, name: Any) -> _Global:
    full = f"{module}.{name}" if isinstance(module, str) and isinstance(name, str) else "?"
    if full not in _GLOBALS:
        raise _Refused(f"{one_line(full[:200], 100)} is not built; only {PLAIN} are")
    return _Global(full, _GLOBALS[full])


class _Machine:
    """Stack and memo of the interpreter; a memo entry is a reference and takes no memory."""

    def __init__(self, limits: PickleLimits) -> None:
        self._limits = limits
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}
        self._n_bytes = 0
        self._has_stopped = False

    def run(self, opcode: str, argument: Any) -> None:
        """Run one opcode with its argument as pickletools reads it."""
        if opcode not in _OPCODES:
            names = f" {one_line(argument, 60)}" if isinstance(argument, str) else ""
            raise _Refused(f"opcode {opcode}{names} is not for plain data: {PLAIN}")
        _OPCODES[opcode](self, argument)

    def result(self, *, trailing: int) -> Any:
        """The value that is left when the pickle has ended."""
        if not self._has_stopped or len(self._stack) != 1 or trailing:
            raise DataError("the pickle does not end with STOP and one value")
        _check_plain(self._stack[0], self._limits)
        return self._stack[0]

    def pop(self) -> Any:
        if not self._stack or self._stack[-1] is _MARK:
            raise _Refused("a value is missing on the stack")
        return self._stack.pop()

    def pop_items(self) -> list[Any]:
        """Take the values above the last mark, and the mark."""
        for i in range(len(self._stack) - 1, -1, -1):
            if self._stack[i] is _MARK:
                items = self._stack[i + 1 :]
                del self._stack[i:]
                return items
        raise _Refused("a mark is missing on the stack")

    def top(self, kind: type) -> Any:
        if not self._stack or type(self._stack[-1]) is not kind:
            raise _Refused(f"items without the {kind.__name__} that they belong to")
        return self._stack[-1]

    def push(self, value: Any) -> None:
        if isinstance(value, int) and value.bit_length() > self._limits.max_int_bits:
            raise _Refused(f"an int of {value.bit_length()} bits")
        self._stack.append(bytes(value) if isinstance(value, bytearray) else value)

    def push_built(self, value: Any) -> None:
        """Push what is built of other values, whose total size is bounded."""
        self._n_bytes += value.nbytes if isinstance(value, np.ndarray) else sys.getsizeof(value)
        if self._n_bytes > self._limits.max_bytes:
            raise _Refused(f"more than {self._limits.max_bytes} bytes are built")
        self.push(value)

    def push_tuple(self, n: int) -> None:
        self.push(tuple([self.pop() for _ in range(n)][::-1]))

    def store(self, key: int | None) -> None:
        value = self.pop()
        self._stack.append(value)
        key = len(self._memo) if key is None else key
        self._memo[key] = value
        if isinstance(value, _EmptyArray):
            value.memo_keys.append(key)

    def load(self, key: int) -> None:
        if key not in self._memo:
            raise _Refused(f"memo {key} is empty")
        self._stack.append(self._memo[key])

    def append(self, items: Iterable[Any]) -> None:
        self.top(list).extend(items)

    def set_items(self, items: list[Any]) -> None:
        target = self.top(dict)
        if len(items) % 2 or not all(type(key) is str for key in items[::2]):
            raise _Refused("a dict whose keys are not str")
        target.update(zip(items[::2], items[1::2], strict=True))

    def dict_of_items(self) -> None:
        items = self.pop_items()
        self.push({})
        self.set_items(items)

    def set_pair(self) -> None:
        value, key = self.pop(), self.pop()
        self.set_items([key, value])

    def stack_global(self) -> None:
        name, module = self.pop(), self.pop()
        self.push(_global(module, name))

    def reduce(self) -> None:
        arguments, function = self.pop(), self.pop()
        if not isinstance(function, _Global) or type(arguments) is not tuple:
            raise _Refused("opcode REDUCE calls something that is no function")
        if function.build is None:
            raise _Refused(f"opcode REDUCE calls {function.name}")
        self.push_built(function.build(*arguments))

    def build(self) -> None:
        """Complete a dtype or an array by the state that numpy gives it."""
        state, target = self.pop(), self.pop()
        match target, state:
            case _TextType(), (3, "<" | ">" | "|" as order, None, None, None, int(), int(), int()):
                target.byte_order = order
                self.push(target)
            case _EmptyArray(), (1, shape, text_type, bool() as fortran, content):
                array = _array(content, text_type, shape, "F" if fortran else "C")
                self._memo |= dict.fromkeys(target.memo_keys, array)
                self.push_built(array)
            case _:
                kind = type(target).__name__.strip("_")
                raise _Refused(f"opcode BUILD gives a {kind} a state that is not numpy's")

    def stop(self) -> None:
        self._has_stopped = True


def _always(value_of: Callable[[], Any]) -> Callable[[_Machine, Any], None]:
    return lambda machine, _: machine.push(value_of())


def _then(method: Callable[[_Machine], None]) -> Callable[[_Machine, Any], None]:
    return lambda machine, _: method(machine)


def _nothing(machine: _Machine, argument: Any) -> None:
    """Skip the version and the frames, which carry no value."""


_VALUES = (
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
    *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
)
_OPCODES: Mapping[str, Callable[[_Machine, Any], None]] = {
    **dict.fromkeys(("PROTO", "FRAME"), _nothing),
    **dict.fromkeys(_VALUES, _Machine.push),
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"), _Machine.store),
    **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), _Machine.load),
    "NONE": _always(lambda: None),
    "NEWTRUE": _always(lambda: True),
    "NEWFALSE": _always(lambda: False),
    "EMPTY_LIST": _always(list),
    "EMPTY_DICT": _always(dict),
    "EMPTY_TUPLE": _always(tuple),
    "MARK": _always(lambda: _MARK),
    "LIST": lambda machine, _: machine.push(machine.pop_items()),
    "TUPLE": lambda machine, _: machine.push(tuple(machine.pop_items())),
    "TUPLE1": lambda machine, _: machine.push_tuple(1),
    "TUPLE2": lambda machine, _: machine.push_tuple(2),
    "TUPLE3": lambda machine, _: machine.push_tuple(3),
    "DICT": _then(_Machine.dict_of_items),
    "APPEND": lambda machine, _: machine.append([machine.pop()]),
    "APPENDS": lambda machine, _: machine.append(machine.pop_items()),
    "SETITEM": _then(_Machine.set_pair),
    "SETITEMS": lambda machine, _: machine.set_items(machine.pop_items()),
    "GLOBAL": lambda machine, argument: machine.push(_global(*argument.split(" ", 1))),
    "STACK_GLOBAL": _then(_Machine.stack_global),
    "REDUCE": _then(_Machine.reduce),
    "BUILD": _then(_Machine.build),
    "STOP": _then(_Machine.stop),
}
"""Opcodes that Python writes for plain data. The others are refused by name."""


def _check_plain(root: Any, limits: PickleLimits) -> None:
    """Check types, number and depth of values, without recursion.

    A container that is referenced n times counts n times, so the time of whoever walks through the
    data is bounded too.

    Raises:
        DataError: A value is not plain, there are too many, or one contains itself.
    """
    sizes: dict[int, tuple[int, int]] = {}
    open_ids: set[int] = set()
    todo = [(root, False)]
    while todo:
        value, is_left = todo.pop()
        if id(value) in sizes:
            continue
        children = _children(value)
        if not is_left and children:
            if id(value) in open_ids:
                raise DataError("a container of the pickle contains itself")
            open_ids.add(id(value))
            todo.append((value, True))
            todo.extend((child, False) for child in children)
            continue
        open_ids.discard(id(value))
        below = [sizes[id(child)] for child in children]
        n_values = _count(value) + sum(n for n, _ in below)
        depth = bool(children) + max((depth for _, depth in below), default=0)
        if n_values > limits.max_values or depth > limits.max_depth:
            raise DataError(
                f"the pickle holds more than {limits.max_values} values, or more than "
                f"{limits.max_depth} within each other"
            )
        sizes[id(value)] = n_values, depth


def _children(value: Any) -> list[Any]:
    if type(value) is dict:
        return [*value, *value.values()]
    return list(value) if type(value) in (list, tuple) else []


def _count(value: Any) -> int:
    """Number of values that one stands for without its children, if it is plain."""
    if type(value) is np.ndarray:
        return value.size + 1
    if type(value) is str:
        if not value.isascii():
            try:
                value.encode()
            except UnicodeEncodeError as error:
                raise DataError("a text of the pickle is not Unicode") from error
        return 1
    if value is None or type(value) in (bytes, int, float, bool, dict, list, tuple):
        return 1
    raise DataError(f"the pickle ends with a {type(value).__name__.strip('_')} that is incomplete")
