"""Descriptions of attributes in the source: ``#:`` comments above or behind them, and help texts of options."""

from __future__ import annotations

import ast
import io
import re
import tokenize


def comments_of(source: str) -> dict[str, str]:
    """Descriptions by dotted name within the module, such as ``Artifact.precision``."""
    lines: dict[int, tuple[bool, str]] = {}
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT and token.string.startswith("#:"):
            alone = not token.line[: token.start[1]].strip()
            lines[token.start[0]] = (alone, token.string[2:].strip())
    found: dict[str, str] = {}

    def walk(body: list[ast.stmt], place: str) -> None:
        for node in body:
            if isinstance(node, ast.ClassDef):
                walk(node.body, f"{place}{node.name}.")
            elif isinstance(node, ast.Assign | ast.AnnAssign):
                target = node.target if isinstance(node, ast.AnnAssign) else node.targets[0]
                text = _help(node.value) + _comment(node, lines)
                if isinstance(target, ast.Name) and text:
                    found[place + target.id] = " ".join(text)

    walk(ast.parse(source).body, "")
    return found


def _comment(node: ast.stmt, lines: dict[int, tuple[bool, str]]) -> list[str]:
    above, line = [], node.lineno - 1
    while lines.get(line, (False, ""))[0]:
        above.insert(0, lines[line][1])
        line -= 1
    alone, behind = lines.get(node.end_lineno or 0, (True, ""))
    return above if alone else [*above, behind]


def _help(value: ast.expr | None) -> list[str]:
    """The second argument of ``option(default, text)``; ``description`` of ``Field``."""
    if not isinstance(value, ast.Call) or not isinstance(value.func, ast.Name):
        return []
    texts = [one.value for one in value.keywords if one.arg == "description"]
    if value.func.id == "option":
        texts += value.args[1:2]
    return [one.value for one in texts if isinstance(one, ast.Constant) and isinstance(one.value, str)]


def without_roles(text: str) -> str:
    """The text with the roles of reStructuredText as plain code: ``:class:`Poses``` is `Poses`."""
    return re.sub(r":\w+:`~?\.?([^`]*)`", r"`\1`", text).replace("``", "`")
