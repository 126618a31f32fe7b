"""Mutated records of engines end in a value or a sentence."""

from __future__ import annotations

from pathlib import Path

import pytest
from driver import sweep


@pytest.mark.parametrize("name", ["engine-record"])
def test_mutated_files(name: str, tmp_path: Path) -> None:
    counts = sweep(name, tmp_path, 250)
    assert counts["read"] > 5
    assert counts["refused"] > 50
