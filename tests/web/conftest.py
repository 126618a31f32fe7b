"""Playwright runs once in a process."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="session")
def playwright():
    with pytest.importorskip("playwright.sync_api").sync_playwright() as running:
        yield running
