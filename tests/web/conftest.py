"""Playwright, whose event loop runs only while tests of one file do."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="module")
def playwright():
    with pytest.importorskip("playwright.sync_api").sync_playwright() as running:
        yield running
