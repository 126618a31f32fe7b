"""Mutated recipes and release records: each is read or refused by a sentence."""

from __future__ import annotations

from pathlib import Path

import pytest
from driver import sweep


@pytest.mark.parametrize(
    ("name", "count"), [("train-recipe", 120), ("release-recipe", 100), ("train-set", 80), ("manifest", 80)]
)
def test_mutated_files(tmp_path: Path, name: str, count: int) -> None:
    counts = sweep(name, tmp_path, count)
    assert counts["refused"] > count / 4
    assert counts["read"] > 0


@pytest.mark.parametrize("name", ["step-record", "workspace", "baseline"])
def test_mutated_records(tmp_path: Path, name: str) -> None:
    assert sum(sweep(name, tmp_path, 60).values()) == 60
