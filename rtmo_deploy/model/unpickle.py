"""Reads the pickle inside a checkpoint as data, without running it.

A pickle is a program: it names any function of any module and calls it. Plain ``torch.load`` runs what a file asks
for. ``torch.load(weights_only=True)`` refuses official RTMO checkpoints, which name a few things beside tensors
(MMEngine's HistoryBuffer, NumPy arrays, ``getattr``), and pickles of protocol 3 and newer. This module is a third
way: it follows the pickle's instructions and only takes notes.

* It imports nothing, calls nothing of the file's choosing and sets no attribute. A global is a key in a table. A
  tensor becomes a ``TensorRef``, which says where its numbers lie, checked to lie inside its storage; what is known
  and not needed becomes an ``Inert``, which has a name. Only these and plain Python data can come out.
* A global that no checkpoint needs is refused by its name, although it could do nothing here: the file is hostile or
  of another kind, and its reader should hear of it. So are instructions that ``torch.save`` never writes.

What passes here is safe to read here. That is no promise for a loader that runs pickles.
"""

from __future__ import annotations

import pickletools
from collections import OrderedDict
from typing import TYPE_CHECKING, Any, BinaryIO

from rtmo_deploy.errors import CheckpointError
from rtmo_deploy.model.pickled import (
    BUILDERS,
    DTYPES,
    DamagedError,
    Global,
    Inert,
    RefusedError,
    TensorRef,
    hashable,
    is_known,
    kind_of,
    quoted,
    storage_of,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from rtmo_deploy.model.pickled import StorageRef

# A training checkpoint of RTMO-l takes about 200 thousand instructions.
_MAX_INSTRUCTIONS = 1_000_000
_OPCODES = {opcode.code.encode("latin-1"): opcode for opcode in pickletools.opcodes}
# Bytes of a refused pickle in which a layer of torch.nn is looked for.
_HINT = 1 << 20

#: How to save weights so that they can be read here.
SAVE_STATE = "torch.save({'state_dict': model.state_dict()}, ...)"


def interpret(stream: BinaryIO, where: Path) -> tuple[Any, dict[str, StorageRef]]:
    """Follow one pickle from the stream's position to its STOP, and say what it describes.

    The stream must be seekable, and is left right behind the pickle; ``where`` is the file to name in errors.
    """
    start = stream.tell()
    machine = _Machine()
    try:
        return machine.run(stream), machine.storages
    except RefusedError as refused:
        stream.seek(start)
        if b"torch.nn.modules." in stream.read(_HINT):
            raise CheckpointError(
                f"The file holds a whole model, saved by torch.save(model): it asks for {refused}, which is code. "
                "Nothing was run.",
                remedy="If you trust its source, load it in the program that wrote it, and save the weights alone: "
                f"{SAVE_STATE}.",
                where=where,
            ) from None
        raise CheckpointError(
            f"The pickle in this file asks for {refused}, which no RTMO checkpoint needs. Nothing was run.",
            remedy="Do not open this file with torch.load either. If you trust its source, load it in "
            f"the program that wrote it, and save the weights alone: {SAVE_STATE}.",
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

    def __init__(self) -> None:
        self.storages: dict[str, StorageRef] = {}
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}
        self._below: list[list[Any]] = []

    def run(self, stream: BinaryIO) -> Any:
        source = _Bounded(stream)
        for _ in range(_MAX_INSTRUCTIONS):
            code = source.read(1)
            opcode = _OPCODES.get(code)
            if opcode is None:
                raise DamagedError(f"0x{code.hex()} is no pickle instruction" if code else "it ends in the middle")
            if opcode.name == "STOP":
                return self.stack.pop()
            action = _ACTIONS.get(opcode.name)
            if action is None:
                raise RefusedError(f"the pickle instruction {opcode.name}")
            try:
                argument = source.names() if opcode.name == "GLOBAL" else _argument(opcode, source)
            except ValueError as error:  # cut short
                raise DamagedError(quoted(str(error))) from None
            action(self, argument)
        raise DamagedError(f"it has more than {_MAX_INSTRUCTIONS:,} instructions")

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def text(self, value: str) -> None:
        value.encode()  # a lone surrogate, which no text of ours has, is a ValueError
        self.push(value)

    def mark(self) -> None:
        self._below.append(self.stack)
        self.stack = []

    def pop_mark(self) -> list[Any]:
        items = self.stack
        self.stack = self._below.pop()
        return items

    def make_tuple(self, count: int) -> None:
        items = tuple(self.stack[-count:])
        if len(items) != count:
            raise DamagedError("it takes more values than it made")
        self.stack[-count:] = [items]

    def set_items(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if len(items) % 2:
            raise DamagedError("a dictionary in it has a key without a value")
        if isinstance(target, dict):
            for at in range(0, len(items), 2):
                target[hashable(items[at])] = items[at + 1]
        elif type(target) is not Inert:
            raise DamagedError(f"it puts keys into a {kind_of(target)}")

    def set_item(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self.set_items([key, value])

    def append(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if type(target) is list:
            target.extend(items)
        elif type(target) is not Inert:
            raise DamagedError(f"it appends to a {kind_of(target)}")

    def add(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if type(target) is set:
            target.update(map(hashable, items))
        elif type(target) is not Inert:
            raise DamagedError(f"it adds members to a {kind_of(target)}")

    def name(self, module: Any, name: Any) -> None:
        if type(module) is not str or type(name) is not str:
            raise DamagedError("it names a global by something that is not text")
        module = "builtins" if module == "__builtin__" else module
        full = f"{module}.{name}"
        if full not in DTYPES and not is_known(module, name):
            raise RefusedError(f"the global {quoted(full)}")
        self.push(DTYPES.get(full) or Global(full))

    def name_from_stack(self) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        self.name(module, name)

    def call(self) -> None:
        """REDUCE and NEWOBJ: note what would be made. Only a named global can be the callee."""
        arguments, callee = self.stack.pop(), self.stack.pop()
        if type(callee) is not Global:
            raise RefusedError(f"a call of a {kind_of(callee)}")
        if type(arguments) is not tuple:
            raise DamagedError("it makes a call without a list of arguments")
        build = BUILDERS.get(callee.name)
        try:
            self.push(Inert(callee.name, arguments) if build is None else build(*arguments))
        except TypeError:  # too few arguments, or too many
            raise DamagedError("its instructions do not fit together") from None

    def build(self) -> None:
        """Note a state: no attribute is ever set. Of plain data, a state dict has one (``_metadata``)."""
        state, target = self.stack.pop(), self.stack[-1]
        metadata = type(target) is OrderedDict and type(state) is dict and set(state) <= {"_metadata"}
        if type(target) is Inert:
            target.state = state
        elif type(target) is not TensorRef and not metadata:
            raise RefusedError(f"setting attributes of a {kind_of(target)}")

    def persistent(self) -> None:
        ref = storage_of(self.stack.pop())
        if self.storages.setdefault(ref.key, ref) != ref:
            raise DamagedError(f"storage {quoted(ref.key)} is described in two ways")
        self.push(ref)


class _Bounded:
    """A stream that is never asked for more than is left, whatever length an instruction claims."""

    def __init__(self, stream: BinaryIO) -> None:
        self._readline, self._read = stream.readline, stream.read
        start = stream.tell()
        self._limit = stream.seek(0, 2) - start
        stream.seek(start)

    def read(self, count: int) -> bytes:
        return self._read(count) if count <= self._limit else b""

    def names(self) -> tuple[str, str]:
        """Two lines: a module and a name. pickletools would decode escapes in them, which pickle does not."""
        module, name = self._readline(1024), self._readline(1024)
        if not (module.endswith(b"\n") and name.endswith(b"\n")):
            raise DamagedError("a name in it has no end")
        return module[:-1].decode("utf-8"), name[:-1].decode("utf-8")


def _argument(opcode: pickletools.OpcodeInfo, source: _Bounded) -> Any:
    return opcode.arg.reader(source) if opcode.arg else None  # type: ignore[arg-type]


_ACTIONS: dict[str, Callable[[_Machine, Any], object]] = {
    "PROTO": lambda _machine, _: None,
    "FRAME": lambda _machine, _: None,
    # values
    "NONE": lambda m, _: m.push(None),
    "NEWTRUE": lambda m, _: m.push(True),
    "NEWFALSE": lambda m, _: m.push(False),
    **dict.fromkeys(
        ("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8"),
        _Machine.push,
    ),
    **dict.fromkeys(("BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"), _Machine.text),
    # containers
    "EMPTY_TUPLE": lambda m, _: m.push(()),
    "EMPTY_LIST": lambda m, _: m.push([]),
    "EMPTY_DICT": lambda m, _: m.push({}),
    "EMPTY_SET": lambda m, _: m.push(set()),
    "TUPLE": lambda m, _: m.push(tuple(m.pop_mark())),
    "TUPLE1": lambda m, _: m.make_tuple(1),
    "TUPLE2": lambda m, _: m.make_tuple(2),
    "TUPLE3": lambda m, _: m.make_tuple(3),
    "FROZENSET": lambda m, _: m.push(frozenset(map(hashable, m.pop_mark()))),
    "APPEND": lambda m, _: m.append([m.stack.pop()]),
    "APPENDS": lambda m, _: m.append(m.pop_mark()),
    "SETITEM": lambda m, _: m.set_item(),
    "SETITEMS": lambda m, _: m.set_items(m.pop_mark()),
    "ADDITEMS": lambda m, _: m.add(m.pop_mark()),
    # stack and memo
    "MARK": lambda m, _: m.mark(),
    "POP": lambda m, _: m.stack.pop(),
    "POP_MARK": lambda m, _: m.pop_mark(),
    "DUP": lambda m, _: m.push(m.stack[-1]),
    **dict.fromkeys(("BINPUT", "LONG_BINPUT"), lambda m, index: m.memo.update({index: m.stack[-1]})),
    "MEMOIZE": lambda m, _: m.memo.update({len(m.memo): m.stack[-1]}),
    **dict.fromkeys(("BINGET", "LONG_BINGET"), lambda m, index: m.push(m.memo[index])),
    # names, and what would be calls
    "GLOBAL": lambda m, names: m.name(*names),
    "STACK_GLOBAL": lambda m, _: m.name_from_stack(),
    "REDUCE": lambda m, _: m.call(),
    "NEWOBJ": lambda m, _: m.call(),
    "BUILD": lambda m, _: m.build(),
    "BINPERSID": lambda m, _: m.persistent(),
}
