"""Mutated checkpoints: each is read or refused by a sentence."""

from __future__ import annotations

from pathlib import Path

import pytest
from driver import sweep


@pytest.mark.parametrize(("name", "count"), [("checkpoint", 130), ("checkpoint-safetensors", 95), ("network", 25)])
def test_mutated_files(tmp_path: Path, name: str, count: int) -> None:
    counts = sweep(name, tmp_path, count)
    assert counts["refused"] > count / 4
    assert counts["read"] > 0
