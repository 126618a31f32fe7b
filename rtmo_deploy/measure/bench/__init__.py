"""How fast is it, and is it slower than it was? Stage times, ratios with an interval, sweeps, gates and reports."""

from rtmo_deploy.measure.bench.baseline import BaselineReport, RowVerdict, compare_with_baseline
from rtmo_deploy.measure.bench.baseline_file import load_baseline
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
