"""Mutated checkpoints: each is read or refused by a sentence."""

from __future__ import annotations

from pathlib import Path

import pytest
from driver import sweep


@pytest.mark.parametrize(("name", "count"), [("checkpoint", 120), ("checkpoint-safetensors", 80), ("network", 50)])
def test_mutated_files(tmp_path: Path, name: str, count: int) -> None:
    counts = sweep(name, tmp_path, count)
    assert counts["refused"] > count / 4
    assert counts["read"] > 0
