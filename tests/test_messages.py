"""Commands in messages can be copied: each stands in quotes, or ends its sentence and the message."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import typer

import rtmo_deploy
from rtmo_deploy.cli.app import app

if TYPE_CHECKING:
    from collections.abc import Iterator

PACKAGE = Path(rtmo_deploy.__file__).parent
NAMES = "|".join(typer.main.get_command(app).commands)
START = re.compile(rf"(?<![\w/.-])(pip (?:un)?install|rtmo-deploy (?:{NAMES})|git lfs|apt(?:-get)? install)\b")
# An option with its value, a placeholder of a message ({}), a NAME, something in quotes, a file's name.
WORD = r"--?[a-z][\w-]*(?:[ =](?:\{\}|[\w./:]+))?|\{\}|\[?[A-Z][\w.]*\]?|'[^']+'|\.*[\w/{}-]*[./][\w./{}-]+"
#: Names of packages, or a command below another, beside which no word of prose can be told from them: one.
COMMAND = re.compile(rf"{START.pattern}(?: (?:{WORD}))*(?: [\w{{}}-]+)?(?: (?:{WORD}))*")


def strings(source: str) -> Iterator[tuple[int, str]]:
    """Every string of a module but docstrings; what an f-string puts in is ``{}``."""
    tree = ast.parse(source)
    left_out = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            left_out |= {id(part) for part in node.values}
            yield node.lineno, "".join(p.value if isinstance(p, ast.Constant) else "{}" for p in node.values)
        elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            left_out.add(id(node.value))
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in left_out:
            yield node.lineno, node.value


def entangled(text: str) -> str | None:
    """The command in a message that cannot be copied as it stands; None if there is none."""
    for start in START.finditer(text):
        quoted = text[: start.start()].endswith("'")
        rest = text[start.start() :]
        if quoted and re.match(r"[^']+'", rest):
            continue
        if not all(part == "{}" or COMMAND.fullmatch(part) for part in rest.split(" && ")):
            return rest
    return None


@pytest.mark.parametrize(
    ("text", "is_entangled"),
    [
        ("Install it with: pip install 'rtmo-deploy[trt]'", False),
        ("Install it with: pip install 'rtmo-deploy[trt]' --dry-run tells what would be built.", True),
        ("Make it again with rtmo-deploy calibrate.", True),
        ("Make it again with 'rtmo-deploy calibrate'.", False),
        ("rtmo-deploy validate tells more.", True),
        ("Cast it first: rtmo-deploy cast MODEL.onnx --{}", False),
        ("Have both for cuDNN {}: pip install --upgrade {}", False),
        ("pip install --upgrade {}, so that both are for cuDNN {}.", True),
        ("not installed (pip install nvidia-ml-py), or there is no driver.", True),
        ("Build one with: rtmo-deploy build-trt {} --fp16{}", False),
        ("'rtmo-deploy models' lists them.", False),
    ],
)
def test_the_rule(text: str, is_entangled: bool) -> None:
    assert (entangled(text) is not None) is is_entangled


def test_every_command_in_a_message_can_be_copied() -> None:
    found = [
        f"{path.relative_to(PACKAGE)}:{line}: {wrong}"
        for path in sorted(PACKAGE.rglob("*.py"))
        for line, text in strings(path.read_text(encoding="utf-8"))
        if (wrong := entangled(text)) is not None
    ]
    assert not found, "\n".join(found)
