"""A result as one HTML page: tables and charts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rtmo_deploy.measure.bench.tables import baseline_table, facts, milliseconds, result_tables
from rtmo_deploy.report.charts import bars, lines
from rtmo_deploy.report.html import render
from rtmo_deploy.runtime.clock import DRAW

if TYPE_CHECKING:
    from collections.abc import Sequence

    from markupsafe import Markup

    from rtmo_deploy.measure.bench.baseline import BaselineReport
    from rtmo_deploy.measure.bench.result import BenchResult, Entry

#: Most bars in the chart of stages; beyond, the tables say it better.
MOST_BARS = 16
_AXES = {"people": "people in the image", "batch": "images a call", "threads": "threads"}


def to_html(result: BenchResult, baseline: BaselineReport | None = None) -> str:
    """The page."""
    tables = result_tables(result)
    overview = 1 + bool(result.published)
    models = {entry.opened.contender.model: entry.opened for entry in result.entries}
    return render(
        "bench.html",
        result=result,
        baseline=baseline,
        notes=[*result.warnings, *(() if baseline is None else baseline.notes)],
        about=facts(result),
        overview=[*([] if baseline is None else [baseline_table(baseline)]), *tables[:overview]],
        charts=charts(result),
        details=tables[overview:],
        files=[
            (model, opened.sha256, ", ".join(f"{name} {version}" for name, version in opened.versions.items()))
            for model, opened in models.items()
        ],
    )


def charts(result: BenchResult) -> list[tuple[str, Markup, str]]:
    """Title, SVG and caption of each chart that the result has the points for; none of a busy machine's times."""
    found: list[tuple[str, Markup, str]] = []
    if any(entry.interference.reasons for entry in result.entries):
        return found
    if result.options.protocol.value == "e2e":
        rows = {}
        for entry in result.entries[:MOST_BARS]:
            stages = {name: one.p50 for name, one in entry.stages.items() if name != DRAW}
            rows[f"{entry.label}: {entry.case}"] = (stages, f"{milliseconds(sum(stages.values()))} ms")
        found.append(("Stages", bars("Stages", rows), "Median of each stage, ms a call, without drawing."))
    for axis, label in _AXES.items():
        series = _series(result.entries, axis)
        if series:
            caption = "Median of a call; the band reaches up to the 95th percentile, where it is given."
            found.append((f"Latency by {axis}", lines(f"Latency by {axis}", label, series), caption))
    return found


def _series(entries: Sequence[Entry], axis: str) -> dict[str, list[tuple[float, float, float]]]:
    """A line for each contender and each combination of the other two axes; none where nothing is swept."""
    groups: dict[tuple[str, str], list[tuple[float, float, float]]] = {}
    for entry in entries:
        case = vars(entry.case)
        if case[axis] is not None:
            others = ", ".join(f"{key} {value}" for key, value in case.items() if key != axis and value)
            point = (float(case[axis]), entry.total.p50, entry.total.p95 or entry.total.p50)
            groups.setdefault((entry.label, others), []).append(point)
    swept = {key: sorted(points) for key, points in groups.items() if len(points) > 1}
    several = len({others for _, others in swept}) > 1
    return {f"{label}: {others}" if several else label: points for (label, others), points in swept.items()}
