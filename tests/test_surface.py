"""What a user meets stays: options of every command, and the keys of its JSON documents.

A name that is added is written down with ``python tests/test_surface.py``; one that goes away is a change for users.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from rtmo_deploy.cli.app import app

FILE = Path(__file__).parent / "data" / "surface.json"
SURFACE = json.loads(FILE.read_text(encoding="utf-8")) if FILE.exists() else {"options": {}, "keys": {}}


def options() -> dict[str, list[str]]:
    """Names of the options and arguments of every command."""
    found = {}

    def walk(name: str, command: Any, parent: Any = None) -> None:
        # With its parent: a command remembers the names of its help option.
        context = command.make_context(name, ["--help"], parent=parent, resilient_parsing=True)
        found[name] = sorted({option for one in command.get_params(context) for option in one.opts} - {"--help", "-h"})
        if hasattr(command, "list_commands"):
            for inner in command.list_commands(context):
                walk(f"{name} {inner}".strip(), command.get_command(context, inner), context)

    walk("", typer.main.get_command(app))
    return found


def keys(value: object, place: str = "") -> set[str]:
    """Places of all keys in a JSON document; entries of a list have one place."""
    if isinstance(value, dict):
        inner = {f"{place}.{name}": item for name, item in value.items()}
        return set(inner).union(*(keys(item, name) for name, item in inner.items()))
    return set().union(*(keys(item, f"{place}[]") for item in value)) if isinstance(value, list) else set()


def documents(checkpoint: Path, model: Path, image: Path, folder: Path) -> dict[str, set[str]]:
    """Keys of the documents of commands that take a second or two."""
    calls = {
        "inspect checkpoint": ["inspect", checkpoint],
        "inspect onnx": ["inspect", model],
        "validate": ["validate", model],
        "predict": ["predict", model, image],
        "cast": ["cast", model, "--fp16", "--no-verify", "-o", folder / "fp16.onnx"],
        "parity": ["parity", model, model, "--synthetic", "1", "--imgsz", "256"],
        "models": ["models", "list"],
        "data": ["data", "synth", folder / "people", "--images", "1"],
        "version": ["--version"],
        "error": ["inspect", folder / "nothing.onnx"],
    }
    found = {}
    for name, words in calls.items():
        result = CliRunner().invoke(app, [*map(str, words), "--json"])
        assert result.exit_code == (4 if name == "error" else 0), f"{name}: {result.output}"
        found[name] = keys(json.loads(result.stdout))
    return found


def test_no_option_comes_or_goes_unnoticed() -> None:
    assert options() == SURFACE["options"]


def test_no_key_of_a_json_document_goes_away(
    checkpoint_n: Path, onnx_n: Path, pictures: list[Path], tmp_path: Path
) -> None:
    found = documents(checkpoint_n, onnx_n, pictures[0], tmp_path)
    assert found.keys() == SURFACE["keys"].keys()
    lost = {name: sorted(set(wanted) - found[name]) for name, wanted in SURFACE["keys"].items()}
    assert not any(lost.values()), {name: gone for name, gone in lost.items() if gone}


def test_keys() -> None:
    assert keys({"a": [{"b": 1}, {"c": {"d": []}}]}) == {".a", ".a[].b", ".a[].c", ".a[].c.d"}


@pytest.fixture
def write(checkpoint_n: Path, onnx_n: Path, pictures: list[Path], tmp_path: Path) -> None:
    """Writes the file anew; run by this module as a script."""
    found = documents(checkpoint_n, onnx_n, pictures[0], tmp_path)
    surface = {"options": options(), "keys": {name: sorted(names) for name, names in found.items()}}
    FILE.write_text(json.dumps(surface, indent=1, sort_keys=True) + "\n", encoding="utf-8")


if __name__ == "__main__":
    pytest.main([__file__, "-q", "-k", "test_keys", "-o", "usefixtures=write"])
