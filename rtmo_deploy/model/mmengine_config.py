"""Reads the literals of an MMEngine config text. Nothing in the text is executed."""

from __future__ import annotations

import ast
import operator
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

_MAX_TEXT = 2_000_000
_MAX_DEPTH = 60
_MAX_NODES = 400_000
_MAX_ITEMS = 100_000
_MAX_NUMBER = 1e18
_MAX_NOTES = 20
#: Key of a dict that something unreadable has changed or is part of.
HIDDEN = "\0unreadable"

_NUMBERS: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Pow: operator.pow,
}
_MAX_POWER = 64
#: Names of JSON's constants, for a config that is JSON text.
_JSON = {"true": True, "false": False, "null": None}


@dataclass(frozen=True)
class Unreadable:
    """A value that only running the config would give."""

    #: Why, with the line.
    reason: str
    #: The last part of an imported name, which a ``type`` may be.
    name: str = ""

    def __repr__(self) -> str:
        return f"<not read: {self.reason}>"


def parse_config(text: str) -> tuple[dict[Any, Any], list[str]]:
    """Read the assignments of literals, ``dict(...)``, earlier names and plain arithmetic; or one dict, as JSON has it.

    Imports, other calls, loops, f-strings and ``_base_`` are not executed: what depends on them is unreadable, and a
    note says so. Size, depth and time are bounded; no text raises.
    """
    if len(text) > _MAX_TEXT:
        return {}, [f"the config has {len(text):,} characters; more than {_MAX_TEXT:,} are not read"]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(text.removeprefix("\ufeff"))
    except (SyntaxError, ValueError, RecursionError, MemoryError, OverflowError) as error:
        reason = error.msg if isinstance(error, SyntaxError) else type(error).__name__
        line = f", line {error.lineno}" if isinstance(error, SyntaxError) and error.lineno else ""
        return {}, [f"the config is not Python that can be parsed ({reason}{line})"]
    reader = _Reader()
    match tree.body:
        case [ast.Expr(value=ast.Dict() as whole)]:
            reader.values.update(_JSON)
            return reader.value(whole, 0), reader.notes
    for statement in tree.body:
        reader.statement(statement)
    return reader.values, reader.notes


class _Reader:
    def __init__(self) -> None:
        self.values: dict[Any, Any] = {}
        self.notes: list[str] = []
        self.nodes = 0

    def statement(self, node: ast.stmt) -> None:
        """Take an assignment; say what else is there, and forget what it may have changed."""
        match node:
            case ast.Assign(targets=targets, value=value) if all(map(_is_named, targets)):
                found = self.value(value, 0)
                for target in targets:
                    self._assign(target, found)
            case ast.AnnAssign(target=ast.Name() as target, value=ast.expr() as value):
                self._assign(target, self.value(value, 0))
            case ast.AugAssign(target=ast.Name(id=name), op=op, value=value) if name in self.values:
                self.values[name] = _combined(op, self.values[name], self.value(value, 0), node.lineno)
            case ast.Assign(targets=[ast.Subscript() as target], value=value) if self._put(target, value):
                pass
            case ast.Expr(value=ast.Constant()) | ast.Pass():
                pass
            case ast.Import() | ast.ImportFrom():
                self._note(node, "imports are not executed")
                for alias in node.names:
                    last = alias.name.rpartition(".")[2]
                    self.values[alias.asname or alias.name] = Unreadable(f"imported in line {node.lineno}", last)
            case ast.With(items=[ast.withitem(context_expr=ast.Call(func=ast.Name(id="read_base")))]):
                self._note(node, "what 'read_base' imports is not followed: what the config inherits is unknown")
            case _:
                self._note(node, f"{_kind(node)} is not executed")
                self._forget(node)

    def _assign(self, target: ast.expr, value: Any) -> None:
        """``name = value``, or ``a, b = value``."""
        if isinstance(target, ast.Tuple | ast.List):
            items = value if isinstance(value, list) and len(value) == len(target.elts) else None
            for number, part in enumerate(target.elts):
                self._assign(part, items[number] if items else Unreadable(f"line {target.lineno}: not unpacked"))
        elif isinstance(target, ast.Name):
            self.values[target.id] = value
            if target.id == "_base_" and value:
                self.notes.append("'_base_' is not followed: what the config inherits is unknown")

    def _put(self, target: ast.Subscript, value: ast.expr) -> bool:
        """``name['a']['b'] = value``, where all of it can be read."""
        container, key = self.value(target.value, 0), self.value(target.slice, 0)
        if isinstance(container, dict) and isinstance(key, str):
            container[key] = self.value(value, 0)
            return True
        return False

    def _forget(self, node: ast.stmt) -> None:
        reason = Unreadable(f"changed in line {node.lineno}, which is not executed")
        for part in ast.walk(node):
            name = getattr(part, "id", None) if isinstance(part, ast.Name) else getattr(part, "name", None)
            if isinstance(name, str):
                known = self.values.get(name)
                if isinstance(known, dict):
                    known[HIDDEN] = reason
                self.values[name] = reason

    def _note(self, node: ast.stmt, text: str) -> None:
        if len(self.notes) < _MAX_NOTES:
            self.notes.append(f"line {node.lineno}: {text}")

    def value(self, node: ast.expr, depth: int) -> Any:
        """The value of an expression, or :class:`Unreadable`."""
        self.nodes += 1
        if depth > _MAX_DEPTH or self.nodes > _MAX_NODES:
            return Unreadable(f"line {node.lineno}: nested too deep or too large")
        deeper = depth + 1
        match node:
            case ast.Constant(value=value) if value is None or isinstance(value, bool | str | float | int):
                return value
            case ast.Name(id=name):
                return self.values.get(name, Unreadable(f"line {node.lineno}: the name '{name[:40]}' is not known"))
            case ast.List(elts=items) | ast.Tuple(elts=items):
                return [self.value(item, deeper) for item in items]
            case ast.Dict(keys=keys, values=values):
                return self._dict(zip(keys, values, strict=True), deeper)
            case ast.Call(func=ast.Name(id="dict"), args=args, keywords=keywords) if (
                "dict" not in self.values and len(args) < 2
            ):
                named = [(ast.Constant(k.arg) if k.arg else None, k.value) for k in keywords]
                return self._dict([*self._pairs(args), *named], deeper)
            case ast.Attribute(value=owner, attr=name):
                known = self.value(owner, deeper)
                imported = isinstance(known, Unreadable) and known.name
                return Unreadable(f"line {node.lineno}: an attribute is not looked up", name if imported else "")
            case ast.UnaryOp(op=ast.USub() | ast.UAdd() | ast.Not() as sign, operand=operand):
                return _signed(sign, self.value(operand, deeper), node.lineno)
            case ast.BinOp(left=left, op=op, right=right):
                return _combined(op, self.value(left, deeper), self.value(right, deeper), node.lineno)
            case ast.Subscript(value=container, slice=key):
                return _item(self.value(container, deeper), self.value(key, deeper), node.lineno)
            case _:
                return Unreadable(f"line {node.lineno}: {_kind(node)} is not executed")

    def _pairs(self, args: list[ast.expr]) -> list[tuple[ast.expr | None, ast.expr]]:
        """What ``dict`` is given by position: a list of pairs, or a dict."""
        match args:
            case [ast.List(elts=items) | ast.Tuple(elts=items)] if all(
                isinstance(item, ast.Tuple | ast.List) and len(item.elts) == 2 for item in items
            ):
                return [(item.elts[0], item.elts[1]) for item in items if isinstance(item, ast.Tuple | ast.List)]
        return [(None, arg) for arg in args]

    def _dict(self, items: Any, depth: int) -> dict[Any, Any]:
        result: dict[Any, Any] = {}
        for key_node, value_node in items:
            value = self.value(value_node, depth)
            if key_node is None:
                if isinstance(value, dict) and len(value) + len(result) <= _MAX_ITEMS:
                    result.update(value)
                else:
                    result[HIDDEN] = value if isinstance(value, Unreadable) else Unreadable("'**' of no dict")
                continue
            key = key_node.value if isinstance(key_node, ast.Constant) else self.value(key_node, depth)
            if key == "type" and isinstance(value, Unreadable) and value.name:
                value = value.name  # an imported class
            if isinstance(key, str | int | float | bool | None):
                result[key] = value
            else:
                result[HIDDEN] = Unreadable(f"line {value_node.lineno}: a key that cannot be read")
        return result


def _is_named(target: ast.expr) -> bool:
    if isinstance(target, ast.Tuple | ast.List):
        return all(map(_is_named, target.elts))
    return isinstance(target, ast.Name)


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= _MAX_NUMBER


def _signed(sign: ast.unaryop, value: Any, line: int) -> Any:
    if isinstance(sign, ast.Not) and isinstance(value, bool):
        return not value
    if not _number(value) or isinstance(sign, ast.Not):
        return Unreadable(f"line {line}: a sign before what is no number")
    return -value if isinstance(sign, ast.USub) else value


def _combined(op: ast.operator, left: Any, right: Any, line: int) -> Any:
    bounded = not isinstance(op, ast.Pow) or (abs(right) <= _MAX_POWER if _number(right) else False)
    if type(op) in _NUMBERS and _number(left) and _number(right) and bounded:
        try:
            return _NUMBERS[type(op)](left, right)
        except (ArithmeticError, ValueError):
            return Unreadable(f"line {line}: arithmetic without a result")
    together = (isinstance(left, str) and isinstance(right, str)) or (
        isinstance(left, list) and isinstance(right, list)
    )
    if isinstance(op, ast.Add) and together and len(left) + len(right) <= _MAX_ITEMS:
        return left + right
    if isinstance(op, ast.Mult) and isinstance(left, list) and type(right) is int and len(left) * right <= _MAX_ITEMS:
        return left * right
    return Unreadable(f"line {line}: arithmetic that is not evaluated")


def _item(container: Any, key: Any, line: int) -> Any:
    if isinstance(container, dict) and isinstance(key, str | int) and key in container:
        return container[key]
    if isinstance(container, list) and type(key) is int and -len(container) <= key < len(container):
        return container[key]
    return Unreadable(f"line {line}: an entry that cannot be looked up")


def _kind(node: ast.AST) -> str:
    kinds = {
        ast.Call: "a call", ast.JoinedStr: "an f-string", ast.ListComp: "a comprehension", ast.Lambda: "a lambda",
        ast.For: "a loop", ast.If: "an 'if'", ast.FunctionDef: "a function", ast.Expr: "an expression",
        ast.Assign: "this assignment", ast.AugAssign: "this assignment",
    }  # fmt: skip
    return kinds.get(type(node), f"Python's {type(node).__name__}")
