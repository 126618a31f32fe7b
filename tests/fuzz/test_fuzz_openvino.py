"""Mutated OpenVINO models end in a value or a sentence."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("openvino", reason="needs openvino to make a model")

from driver import sweep


@pytest.mark.parametrize("name", ["openvino"])
def test_mutated_files(name: str, tmp_path: Path) -> None:
    counts = sweep(name, tmp_path, 250)
    assert counts["read"] > 5
    assert counts["refused"] > 50
