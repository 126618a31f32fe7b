"""Hostile recipes are refused quickly, with a place, by both readers."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from rtmo_deploy.errors import UsageError
from rtmo_deploy.files import is_portable_name
from rtmo_deploy.release.schema import parse_release
from rtmo_deploy.train.recipe import load_recipe, parse_recipe, published_recipe, with_settings

BOMB = "a: &a [x, x]\n" + "".join(
    f"{b}: &{b} [*{a}, *{a}, *{a}, *{a}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize("parse", [parse_recipe, parse_release])
@pytest.mark.parametrize(
    ("text", "finding"),
    [
        (BOMB, "line 1, column 4: anchors are not taken"),
        ("a: *a\n", "line 1, column 4: aliases are not taken"),
        ("a: &a [*a]\n", "anchors are not taken"),
        ("seed: " + "9" * 5000, "a number of more than 40 characters"),
        ("name: " + "[" * 3000, "more than 20 sections"),
        ("a: 1\na: 2\n", "line 2, column 1: a: this field is given twice"),
        ("1: x\n", "the name of a field is text"),
        ("2026-01-01: x\n", "there is no such field"),
        ("? [a]\n: x\n", "the name of a field is text"),
        ("a: !!python/object:os.system x\n", "tags are not taken"),
        ("a: .nan\n", "a number must be finite"),
        ('a: "\\ud800"\n', "half of a surrogate pair"),
        ('a: "\\Uffffffff"\n', "cannot be read"),
        ("".join(f"f{n}: 1\n" for n in range(12_000)), "more than 10000 fields"),
        ("".join(f"f{n}: 1\n" for n in range(500)), "more"),
        ("? " + "a" * 900_000 + "\n: 1\n", "at most"),
    ],
)  # fmt: skip
def test_what_is_refused(parse, text, finding):
    begin = time.process_time()
    with pytest.raises(UsageError) as caught:
        parse(text, where=Path("r.yaml"))
    assert finding in str(caught.value)
    assert len(str(caught.value)) < 10_000
    assert time.process_time() - begin < 10


def test_fifos_folders_and_bytes(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "latin").write_bytes(b"name: \xe9\n")
    for name, finding in (("fifo", "a FIFO"), (".", "It is a folder"), ("latin", "not UTF-8")):
        with pytest.raises(UsageError, match=finding):
            load_recipe(tmp_path / name)


@pytest.mark.parametrize(
    "setting",
    [
        "name=../../../x", "name=con", "name=NUL.txt", "name=a.", "seed=" + "9" * 5000, "name=&a [*a]",
        "name=" + "[" * 3000, "name=2026-99-99 x", "x" * 1_000_000 + "=1", "data.train." + "9" * 5000 + "=1",
    ],
)  # fmt: skip
def test_settings(setting):
    recipe = published_recipe("rtmo-s", Path("a.json"), Path("images"))
    with pytest.raises(UsageError) as caught:
        with_settings(recipe, [setting])
    assert len(str(caught.value)) < 2000


@pytest.mark.parametrize("name", ["con", "CON", "nul", "aux.onnx", "com1", "a.", "a ", "a/b", "..", "", "é"])
def test_names_that_some_system_cannot_have(name):
    assert not is_portable_name(name)


def test_ordinary_names():
    assert all(map(is_portable_name, ["rtmo-n", "console", "a.b_c-1", "2026-99-99"]))
