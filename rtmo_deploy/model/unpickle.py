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
    Global,
    Inert,
    RefusedError,
    TensorRef,
    damaged,
    hashable,
    is_known,
    kind_of,
    quoted,
    storage_of,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from rtmo_deploy.model.pickled import StorageRef

# A training checkpoint of RTMO-l takes about 200 thousand instructions.
_MAX_INSTRUCTIONS = 1_000_000
_OPCODES = {opcode.code.encode("latin-1"): opcode for opcode in pickletools.opcodes}
_NONSENSE = "the instructions of its pickle do not fit together"
# Bytes of a refused pickle in which a layer of torch.nn is looked for.
_HINT = 1 << 20

#: How to save weights so that they can be read here.
SAVE_STATE = "torch.save({'state_dict': model.state_dict()}, ...)"


def interpret(stream: BinaryIO) -> tuple[Any, dict[str, StorageRef]]:
    """Follow one pickle from the stream's position to its STOP: what it describes, and its storages.

    The stream must be seekable, and is left right behind the pickle.
    """
    start = stream.tell()
    machine = _Machine()
    try:
        return machine.run(stream), machine.storages
    except RefusedError as refused:
        stream.seek(start)
        if b"torch.nn.modules." in stream.read(_HINT):
            finding = f"The file holds a whole model, saved by torch.save(model): it asks for {refused}, which is code."
            warning = ""
        else:
            finding = f"The pickle in this file asks for {refused}, which no RTMO checkpoint needs."
            warning = "Do not open this file with torch.load either. "
        raise CheckpointError(
            f"{finding} Nothing was run.",
            remedy=f"{warning}If you trust its source, load it in the program that wrote it, and save the weights "
            f"alone: {SAVE_STATE}.",
        ) from None
    except (IndexError, KeyError, ValueError):
        raise damaged(_NONSENSE) from None


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
                raise damaged(f"0x{code.hex()} is no pickle instruction" if code else "its pickle ends in the middle")
            if opcode.name == "STOP":
                return self.stack.pop()
            action = _ACTIONS.get(opcode.name)
            if action is None:
                raise RefusedError(f"the pickle instruction {opcode.name}")
            try:
                if opcode.name == "GLOBAL":
                    argument: Any = source.names()
                else:
                    argument = opcode.arg.reader(source) if opcode.arg else None  # type: ignore[arg-type]
            except ValueError as error:  # cut short
                raise damaged(quoted(str(error))) from None
            action(self, argument)
        raise damaged(f"its pickle has more than {_MAX_INSTRUCTIONS:,} instructions")

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

    def pop(self, count: int) -> list[Any]:
        items = self.stack[-count:]
        if len(items) != count:
            raise damaged("its pickle takes more values than it made")
        del self.stack[-count:]
        return items

    def top(self, kind: type, doing: str) -> Any:
        """The container on top of the stack; None if it is an object that is not built, whose items are dropped."""
        target = self.stack[-1]
        if not isinstance(target, kind | Inert):
            raise damaged(f"its pickle {doing} a {kind_of(target)}")
        return target if isinstance(target, kind) else None

    def set_items(self, items: list[Any]) -> None:
        if len(items) % 2:
            raise damaged("a dictionary in its pickle has a key without a value")
        target = self.top(dict, "puts keys into")
        if target is not None:
            for at in range(0, len(items), 2):
                target[hashable(items[at])] = items[at + 1]

    def append(self, items: list[Any]) -> None:
        target = self.top(list, "appends to")
        if target is not None:
            target.extend(items)

    def add(self, items: list[Any]) -> None:
        target = self.top(set, "adds members to")
        if target is not None:
            target.update(map(hashable, items))

    def name(self, module: Any, name: Any) -> None:
        if type(module) is not str or type(name) is not str:
            raise damaged("its pickle names a global by something that is not text")
        module = "builtins" if module == "__builtin__" else module
        full = f"{module}.{name}"
        if full not in DTYPES and not is_known(module, name):
            raise RefusedError(f"the global {quoted(full)}")
        self.push(DTYPES.get(full) or Global(full))

    def call(self) -> None:
        """REDUCE and NEWOBJ: note what would be made. Only a named global can be the callee."""
        callee, arguments = self.pop(2)
        if type(callee) is not Global:
            raise RefusedError(f"a call of a {kind_of(callee)}")
        if type(arguments) is not tuple:
            raise damaged("its pickle makes a call without a list of arguments")
        build = BUILDERS.get(callee.name)
        try:
            self.push(Inert(callee.name, arguments) if build is None else build(*arguments))
        except TypeError:  # too few arguments, or too many
            raise damaged(_NONSENSE) from None

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
            raise damaged(f"storage {quoted(ref.key)} is described in two ways")
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
            raise damaged("a name in its pickle has no end")
        return module[:-1].decode("utf-8"), name[:-1].decode("utf-8")


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
    "TUPLE1": lambda m, _: m.push(tuple(m.pop(1))),
    "TUPLE2": lambda m, _: m.push(tuple(m.pop(2))),
    "TUPLE3": lambda m, _: m.push(tuple(m.pop(3))),
    "FROZENSET": lambda m, _: m.push(frozenset(map(hashable, m.pop_mark()))),
    "APPEND": lambda m, _: m.append(m.pop(1)),
    "APPENDS": lambda m, _: m.append(m.pop_mark()),
    "SETITEM": lambda m, _: m.set_items(m.pop(2)),
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
    "STACK_GLOBAL": lambda m, _: m.name(*m.pop(2)),
    "REDUCE": lambda m, _: m.call(),
    "NEWOBJ": lambda m, _: m.call(),
    "BUILD": lambda m, _: m.build(),
    "BINPERSID": lambda m, _: m.persistent(),
}
