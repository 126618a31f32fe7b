"""Mutated images: each is read or refused by a sentence."""

from __future__ import annotations

from pathlib import Path

from driver import sweep


def test_mutated_images(tmp_path: Path) -> None:
    counts = sweep("image", tmp_path, 250)
    assert counts["refused"] > 60
    assert counts["read"] > 20
