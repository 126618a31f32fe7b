"""Reads the pickle inside a checkpoint as data, without running it.

A pickle is a program: it names any function of any module and calls it. Official RTMO checkpoints name a few
things beside tensors (mmengine's HistoryBuffer, numpy arrays, ``getattr``), so
``torch.load(weights_only=True)`` refuses them, and plain ``torch.load`` would run whatever a file asks for.
This module is a third way: a small machine that follows the pickle's instructions and only takes notes.

* It imports nothing, calls nothing of the file's choosing and sets no attribute. A global is a key, looked up
  in the tables of :mod:`rtmo_deploy.model._pickle_names`. A tensor becomes a ``TensorRef``, which says where
  its numbers lie; what is known and not needed becomes an ``Inert``, which only has a name. No other object
  than these and plain Python data can come out.
* A global that no checkpoint needs is refused with its name, although it could do nothing here: the file is
  hostile or of another kind, and its reader should hear of it.
* It knows the instructions that ``torch.save`` writes. The others (INST, OBJ, NEWOBJ_EX, the extension
  registry, text persistent ids, out-of-band buffers, the text instructions of protocol 0) are refused.

What passes here is safe to read here. That is no promise for a loader that runs pickles.
"""

from __future__ import annotations

import pickletools
import struct
from collections import OrderedDict
from typing import TYPE_CHECKING, Any, BinaryIO, NoReturn

from rtmo_deploy.errors import CheckpointError
from rtmo_deploy.model._pickle_names import BUILDERS, NumpyArray, NumpyType, is_known
from rtmo_deploy.model._pickle_refs import (
    DTYPES,
    DamagedError,
    Global,
    Inert,
    RefusedError,
    StorageRef,
    TensorRef,
    hashable,
    kind_of,
    quoted,
    storage_of,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

# A training checkpoint of RTMO-l takes about 200 thousand instructions.
_MAX_INSTRUCTIONS = 1_000_000
# Bytes of a refused pickle in which a layer of torch.nn is looked for.
_HINT = 1 << 20


def interpret(stream: BinaryIO, where: Path) -> tuple[Any, dict[str, StorageRef]]:
    """Follow one pickle from the stream's position to its STOP, and say what it describes.

    Args:
        stream: A seekable stream; it is left right behind the pickle.
        where: The file to name in errors.

    Returns:
        The value, made of plain Python data, ``torch.dtype``, :class:`TensorRef`, :class:`StorageRef`,
        :class:`Inert` and bare names only; and the storages it refers to, by key. Containers may contain
        themselves, and may be nested to any depth.

    Raises:
        CheckpointError: The pickle is damaged, or asks for something no checkpoint needs.
    """
    start = stream.tell()
    machine = _Machine(stream)
    try:
        return machine.run(), machine.storages
    except RefusedError as refused:
        stream.seek(start)
        if b"torch.nn.modules." in stream.read(_HINT):
            raise CheckpointError(
                f"The file holds a whole model, saved by torch.save(model): it asks for {refused}, which is code. "
                "Nothing was run.",
                remedy="If you trust its source, load it in the program that wrote it, and save the weights alone: "
                "torch.save({'state_dict': model.state_dict()}, ...).",
                where=where,
            ) from None
        raise CheckpointError(
            f"The pickle in this file asks for {refused}, which no RTMO checkpoint needs. Nothing was run.",
            remedy="Do not open this file with torch.load either. If you trust its source, load it in "
            "the program that wrote it, and save the weights alone: "
            "torch.save({'state_dict': model.state_dict()}, ...).",
            where=where,
        ) from None
    except (DamagedError, IndexError, KeyError, ValueError) as error:
        reason = str(error) if isinstance(error, DamagedError) else "its instructions do not fit together"
        raise CheckpointError(
            f"The pickle in this file is damaged: {reason}.",
            remedy="Fetch or copy the file again, and compare its size or SHA-256 with the source.",
            where=where,
        ) from None


class _Machine:
    """The stack, the memo, and what each instruction does to them."""

    def __init__(self, stream: BinaryIO) -> None:
        self.storages: dict[str, StorageRef] = {}
        self._stream = stream
        start = stream.tell()
        self._limit = stream.seek(0, 2) - start
        stream.seek(start)
        self._stack: list[Any] = []
        self._below: list[list[Any]] = []
        self._memo: dict[int, Any] = {}

    def run(self) -> Any:
        read = self._stream.read
        for _ in range(_MAX_INSTRUCTIONS):
            code = read(1)
            if code == b".":
                return self.pop()
            action = _ACTIONS.get(code)
            if action is None:
                _unknown(code)
            action(self)
        raise DamagedError(f"it has more than {_MAX_INSTRUCTIONS:,} instructions")

    # -- arguments of instructions

    def take(self, count: int) -> bytes:
        """Read exactly so many bytes; a length beyond the file is found out before memory is asked for."""
        data = self._stream.read(count) if count <= self._limit else b""
        if len(data) != count:
            raise DamagedError("it ends in the middle")
        return data

    def skip(self, count: int) -> None:
        self.take(count)

    def number(self, layout: str) -> Any:
        return struct.unpack(layout, self.take(struct.calcsize(layout)))[0]

    def counted(self, layout: str) -> bytes:
        return self.take(self.number(layout))

    def line(self) -> str:
        line = self._stream.readline(1024)
        if not line.endswith(b"\n"):
            raise DamagedError("a name in it has no end")
        return line[:-1].decode("utf-8")

    # -- stack and memo

    def push(self, value: Any) -> None:
        self._stack.append(value)

    def pop(self) -> Any:
        return self._stack.pop()

    def drop(self) -> None:
        self.pop()

    def mark(self) -> None:
        self._below.append(self._stack)
        self._stack = []

    def pop_mark(self) -> list[Any]:
        items = self._stack
        self._stack = self._below.pop()
        return items

    def drop_mark(self) -> None:
        self.pop_mark()

    def make_tuple(self, count: int) -> None:
        items = tuple(self._stack[-count:])
        if len(items) != count:
            raise DamagedError("it takes more values than it made")
        self._stack[-count:] = [items]

    def duplicate(self) -> None:
        self.push(self._stack[-1])

    def put(self, index: int) -> None:
        self._memo[index] = self._stack[-1]

    def memoize(self) -> None:
        self.put(len(self._memo))

    def get(self, index: int) -> None:
        self.push(self._memo[index])

    # -- containers

    def set_items(self, items: list[Any]) -> None:
        target = self._stack[-1]
        if len(items) % 2:
            raise DamagedError("a dictionary in it has a key without a value")
        if isinstance(target, dict):
            for at in range(0, len(items), 2):
                target[hashable(items[at])] = items[at + 1]
        elif type(target) is not Inert:
            raise DamagedError(f"it puts keys into a {kind_of(target)}")

    def set_item(self) -> None:
        value, key = self.pop(), self.pop()
        self.set_items([key, value])

    def append(self, items: list[Any]) -> None:
        target = self._stack[-1]
        if type(target) is list:
            target.extend(items)
        elif type(target) is not Inert:
            raise DamagedError(f"it appends to a {kind_of(target)}")

    def add(self, items: list[Any]) -> None:
        target = self._stack[-1]
        if type(target) is set:
            target.update(map(hashable, items))
        elif type(target) is not Inert:
            raise DamagedError(f"it adds members to a {kind_of(target)}")

    # -- names, and what would be calls

    def name(self, module: Any, name: Any) -> None:
        if type(module) is not str or type(name) is not str:
            raise DamagedError("it names a global by something that is not text")
        module = "builtins" if module == "__builtin__" else module
        full = f"{module}.{name}"
        if full in DTYPES:
            self.push(DTYPES[full])
        elif is_known(module, name):
            self.push(Global(full))
        else:
            raise RefusedError(f"the global {quoted(full)}")

    def name_from_stack(self) -> None:
        name, module = self.pop(), self.pop()
        self.name(module, name)

    def call(self) -> None:
        """REDUCE and NEWOBJ: note what would be made. Only a named global can be the callee."""
        arguments, callee = self.pop(), self.pop()
        if type(callee) is not Global:
            raise RefusedError(f"a call of a {kind_of(callee)}")
        if type(arguments) is not tuple:
            raise DamagedError("it makes a call without a list of arguments")
        build = BUILDERS.get(callee.name)
        self.push(Inert(callee.name) if build is None else build(arguments))

    def build(self) -> None:
        """Drop a state: no attribute is ever set. Of plain data, a state dict has one (``_metadata``)."""
        state, target = self.pop(), self._stack[-1]
        if type(target) in (Inert, TensorRef):
            return
        if type(target) in (NumpyType, NumpyArray):
            target.restore(state)
            return
        if type(target) is OrderedDict and type(state) is dict and set(state) <= {"_metadata"}:
            return
        raise RefusedError(f"setting attributes of a {kind_of(target)}")

    def persistent(self) -> None:
        ref = storage_of(self.pop())
        if self.storages.setdefault(ref.key, ref) != ref:
            raise DamagedError(f"storage {quoted(ref.key)} is described in two ways")
        self.push(ref)


def _unknown(code: bytes) -> NoReturn:
    if not code:
        raise DamagedError("it ends in the middle")
    name = {known.code: known.name for known in pickletools.opcodes}.get(code.decode("latin-1"))
    if name is None:
        raise DamagedError(f"0x{code.hex()} is no pickle instruction")
    raise RefusedError(f"the pickle instruction {name}")


_ACTIONS: dict[bytes, Callable[[_Machine], None]] = {
    b"\x80": lambda m: m.skip(1),  # PROTO
    b"\x95": lambda m: m.skip(8),  # FRAME
    # values
    b"N": lambda m: m.push(None),
    b"\x88": lambda m: m.push(True),
    b"\x89": lambda m: m.push(False),
    b"K": lambda m: m.push(m.number("<B")),
    b"M": lambda m: m.push(m.number("<H")),
    b"J": lambda m: m.push(m.number("<i")),
    b"\x8a": lambda m: m.push(int.from_bytes(m.counted("<B"), "little", signed=True)),  # LONG1
    b"G": lambda m: m.push(m.number(">d")),
    b"X": lambda m: m.push(m.counted("<I").decode("utf-8")),
    b"\x8c": lambda m: m.push(m.counted("<B").decode("utf-8")),
    b"\x8d": lambda m: m.push(m.counted("<Q").decode("utf-8")),
    b"C": lambda m: m.push(m.counted("<B")),
    b"B": lambda m: m.push(m.counted("<I")),
    b"\x8e": lambda m: m.push(m.counted("<Q")),
    # containers
    b")": lambda m: m.push(()),
    b"]": lambda m: m.push([]),
    b"}": lambda m: m.push({}),
    b"\x8f": lambda m: m.push(set()),
    b"t": lambda m: m.push(tuple(m.pop_mark())),
    b"\x85": lambda m: m.make_tuple(1),
    b"\x86": lambda m: m.make_tuple(2),
    b"\x87": lambda m: m.make_tuple(3),
    b"\x91": lambda m: m.push(frozenset(map(hashable, m.pop_mark()))),
    b"a": lambda m: m.append([m.pop()]),
    b"e": lambda m: m.append(m.pop_mark()),
    b"s": _Machine.set_item,
    b"u": lambda m: m.set_items(m.pop_mark()),
    b"\x90": lambda m: m.add(m.pop_mark()),
    # stack and memo
    b"(": _Machine.mark,
    b"0": _Machine.drop,
    b"1": _Machine.drop_mark,
    b"2": _Machine.duplicate,
    b"q": lambda m: m.put(m.number("<B")),
    b"r": lambda m: m.put(m.number("<I")),
    b"\x94": _Machine.memoize,
    b"h": lambda m: m.get(m.number("<B")),
    b"j": lambda m: m.get(m.number("<I")),
    # names, and what would be calls
    b"c": lambda m: m.name(m.line(), m.line()),
    b"\x93": _Machine.name_from_stack,
    b"R": _Machine.call,
    b"\x81": _Machine.call,  # NEWOBJ
    b"b": _Machine.build,
    b"Q": _Machine.persistent,
}
