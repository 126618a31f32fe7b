"""How fast is a model, and is it slower than it was? Stage times, ratios with an interval, sweeps, gates and reports.

The names below are loaded on first use: the options alone need nothing that measures.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rtmo_deploy.lazy import lazy_exports

if TYPE_CHECKING:
    from rtmo_deploy.measure.bench.baseline import BaselineReport, RowVerdict, compare_with_baseline, load_baseline
    from rtmo_deploy.measure.bench.options import BenchOptions, Case, Contender, Protocol, Spinning
    from rtmo_deploy.measure.bench.result import BenchResult, Entry
    from rtmo_deploy.measure.bench.run import run_bench
    from rtmo_deploy.measure.bench.statistics import Ratio, Summary

__all__ = [
    "BaselineReport",
    "BenchOptions",
    "BenchResult",
    "Case",
    "Contender",
    "Entry",
    "Protocol",
    "Ratio",
    "RowVerdict",
    "Spinning",
    "Summary",
    "compare_with_baseline",
    "load_baseline",
    "run_bench",
]

_MODULES = {
    "baseline": ("BaselineReport", "RowVerdict", "compare_with_baseline", "load_baseline"),
    "options": ("BenchOptions", "Case", "Contender", "Protocol", "Spinning"),
    "result": ("BenchResult", "Entry"),
    "statistics": ("Ratio", "Summary"),
    "run": ("run_bench",),
}

__getattr__ = lazy_exports(__name__, _MODULES)
