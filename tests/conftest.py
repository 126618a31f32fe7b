"""Fixtures that several floors share."""

from __future__ import annotations

from pathlib import Path

import pytest

_CHECKOUT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder beside the checkout with photographs and reference results too large for the repository."""
    folder = _CHECKOUT.parent / "shared"
    if not (folder / "data").is_dir():
        pytest.skip(f"needs the photographs and reference results in {folder}, which is not there")
    return folder
