"""Reads the pickles inside torch's files as data: nothing that they name is ever imported or called.

A pickle is a program. This one may build containers and numbers, and name the few globals of `GLOBALS`, which stand
for functions of ours; any other instruction or name is refused.
"""

import collections
import io
import pickle
import pickletools
from collections.abc import Callable
from typing import Any, NamedTuple

_OPCODES = (
    "PROTO FRAME STOP MARK GLOBAL STACK_GLOBAL REDUCE BUILD BINPERSID NONE NEWTRUE NEWFALSE BININT BININT1 BININT2 "
    "LONG1 BINFLOAT BINUNICODE SHORT_BINUNICODE BINSTRING SHORT_BINSTRING EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3 "
    "EMPTY_LIST APPEND APPENDS EMPTY_DICT SETITEM SETITEMS BINGET LONG_BINGET BINPUT LONG_BINPUT MEMOIZE"
)
OPCODES = frozenset(_OPCODES.split())
# The numpy dtype of each kind of storage; bfloat16 is read as the upper halves of float32.
STORAGES = {
    "DoubleStorage": "f8",
    "FloatStorage": "f4",
    "HalfStorage": "f2",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "i8",
    "IntStorage": "i4",
    "ShortStorage": "i2",
    "CharStorage": "i1",
    "ByteStorage": "u1",
    "BoolStorage": "?",
}


class Storage(NamedTuple):
    """A stretch of bytes that tensors are views of: its dtype (see `STORAGES`), key and number of elements."""

    dtype: str
    key: str
    size: int


class View(NamedTuple):
    """A tensor as the pickle declares it, unchecked."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def _view(storage: Any, offset: Any, shape: Any, strides: Any, *_: Any) -> View:
    return View(storage, offset, shape, strides)


# What a pickle may name, and what stands for it here.
GLOBALS: dict[str, Callable] = {
    "collections.OrderedDict": lambda *_: collections.OrderedDict(),
    "torch._utils._rebuild_tensor": _view,
    "torch._utils._rebuild_tensor_v2": _view,
    "torch._utils._rebuild_parameter": lambda data, *_: data,
}


class RefusedError(ValueError):
    """A pickle that is whole but would do what none of ours may."""


class _Named(NamedTuple):
    """A global that the pickle named; calling it calls what stands for it."""

    name: str

    def __call__(self, *arguments: Any) -> Any:
        if self.name not in GLOBALS:
            raise RefusedError(f"it calls {self.name}, which is no function")
        return GLOBALS[self.name](*arguments)


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> _Named:
        return _Named(_admitted(f"{module}.{name}"))

    def persistent_load(self, identifier: Any) -> Storage:
        match identifier:
            case ("storage", _Named(name), str(key), str(), int(size), *view) if view in ([], [None]):
                dtype = STORAGES.get(name.removeprefix("torch."))
                if dtype and size >= 0:
                    return Storage(dtype, key, size)
        raise RefusedError(f"{str(identifier)[:80]!r} is not a storage")


def load(data: bytes) -> tuple[Any, int]:
    """The object that the first pickle in `data` describes, and the number of bytes that it takes up.

    Raises:
      RefusedError: if it does anything but describe tensors, numbers, text and containers; the message says what.
      ValueError: if it is damaged.
    """
    try:
        size = _check(data)
        return _Unpickler(io.BytesIO(data[:size]), encoding="utf-8").load(), size
    except RefusedError:
        raise
    except Exception as error:
        raise ValueError(f"its pickle is damaged or cut short ({type(error).__name__}: {error})") from error


def _check(data: bytes) -> int:
    """The length of the first pickle; RefusedError for an instruction or a global that is not admitted."""
    for opcode, argument, position in pickletools.genops(data):
        if opcode.name not in OPCODES:
            raise RefusedError(f"it has the pickle instruction {opcode.name}, which no state dict needs")
        if opcode.name == "GLOBAL":
            _admitted(argument.replace(" ", "."))
        if opcode.name.endswith("BINPUT") and argument > len(data):
            # The interpreter makes room for as many objects as the largest number says.
            raise RefusedError(f"it numbers an object {argument}, more than it has bytes")
        if opcode.name == "STOP":
            return position + 1
    raise ValueError("no end")


def _admitted(name: str) -> str:
    """The name itself; RefusedError unless a pickle may name this global."""
    module, _, kind = name.rpartition(".")
    if name not in GLOBALS and not (module == "torch" and kind in STORAGES):
        raise RefusedError(
            f"it names {name!r}, which no state dict needs: loading it could run code. Where you trust the file, load "
            "it in torch and save the plain state dict, torch.save(model.state_dict(), PATH)"
        )
    return name
