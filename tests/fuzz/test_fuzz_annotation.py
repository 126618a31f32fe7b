"""Mutated annotation and results files: each is read or refused by a sentence."""

from __future__ import annotations

from pathlib import Path

import pytest
from driver import sweep


@pytest.mark.parametrize("name", ["annotation", "results"])
def test_mutated_files(tmp_path: Path, name: str) -> None:
    counts = sweep(name, tmp_path, 250)
    assert counts["refused"] > 60
    assert counts["read"] > 20
