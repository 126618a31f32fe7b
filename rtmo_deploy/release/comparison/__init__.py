"""Is a release worse than an earlier one? Compares two folders: artifacts, gates, AP, parity, latency, sizes, files.

The names below are loaded on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rtmo_deploy.lazy import lazy_exports

if TYPE_CHECKING:
    from rtmo_deploy.release.comparison.compare import compare_releases
    from rtmo_deploy.release.comparison.options import DiffOptions, Kind
    from rtmo_deploy.release.comparison.result import Change, Figure, FileChange, ReleaseDiff, Result, Row

__all__ = ["Change", "DiffOptions", "Figure", "FileChange", "Kind", "ReleaseDiff", "Result", "Row", "compare_releases"]

_MODULES = {
    "compare": ("compare_releases",),
    "options": ("DiffOptions", "Kind"),
    "result": ("Change", "Figure", "FileChange", "ReleaseDiff", "Result", "Row"),
}

__getattr__ = lazy_exports(__name__, _MODULES)
