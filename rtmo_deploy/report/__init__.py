"""The report kit: HTML pages that need nothing but themselves, charts, tables and JUnit files."""

from __future__ import annotations
