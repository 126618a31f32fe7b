"""Shows a result: tables for the terminal, CSV, Markdown, and an HTML page with charts."""

from __future__ import annotations

import csv
import io
from typing import TYPE_CHECKING

from rtmo_deploy.files import human_size
from rtmo_deploy.measure.bench.interference import BUSY
from rtmo_deploy.report.charts import bars, lines
from rtmo_deploy.report.html import render
from rtmo_deploy.report.table import Table, markdown_text
from rtmo_deploy.runtime.clock import DRAW

if TYPE_CHECKING:
    from collections.abc import Sequence

    from markupsafe import Markup

    from rtmo_deploy.measure.bench.baseline import BaselineReport, RowVerdict
    from rtmo_deploy.measure.bench.result import BenchResult, Entry

CSV_COLUMNS = (
    *("contender", "model", "sha256", "kind", "precision", "decode", "backend", "device", "input", "batch", "threads"),
    *("people", "stage", "n", "mean_ms", "min_ms", "p50_ms", "p90_ms", "p95_ms", "p99_ms"),
    *("throughput", "found", "ratio", "ratio_low", "ratio_high", "memory", "device_memory"),
    *("protocol", "machine", "started"),
)
#: Most bars in the chart of stages; beyond, the tables say it better.
MAX_BARS = 16
_AXES = {"people": "people in the image", "batch": "images a call", "threads": "threads"}


def facts(result: BenchResult) -> dict[str, str]:
    """What a reader needs beside the numbers."""
    machine, load = result.machine, result.load
    found = {
        "protocol": result.options.protocol.value,
        "machine": f"{machine.cpu}, {machine.cores} of {machine.cores_total} cores usable, {machine.system} "
        f"({machine.fingerprint})",
        "kernels for": " ".join(machine.flags) or "unknown",
    }
    if machine.gpus:
        found["GPU"] = f"{', '.join(machine.gpus)} (driver {machine.gpu_driver})"
    busy = "unknown" if load.busy is None else f"{load.busy:.0%} of the cores"
    average = "" if load.average is None else f", load average {load.average:.1f}"
    found["others used"] = f"{busy}{average}"
    found["images"] = "; ".join(one.what for one in result.pictures)
    for gpu in load.gpus:
        found[f"GPU {gpu.index}"] = (
            f"{gpu.clock_mhz} of {gpu.clock_max_mhz} MHz at least, {gpu.temperature_c} °C and {gpu.power_w} W at most"
        )
    return found


def result_tables(result: BenchResult) -> list[Table]:
    """One overview of all contenders and cases, the published figures, and the stages of each."""
    published = [_published(result)] if result.published else []
    return [_overview(result), *published, *(_stages(entry) for entry in result.entries)]


def ratio_cell(entry: Entry) -> str:
    """The ratio of an entry, or why there is none."""
    if entry.ratio is not None:
        return str(entry.ratio)
    return BUSY if entry.interference.reasons else "-"


def _overview(result: BenchResult) -> Table:
    reference = result.reference
    headings = ["contender", "case", "p50 ms", "p90", "p95", "p99", "images/s", "memory", "found"]
    rows = []
    for entry in result.entries:
        total = entry.total
        memory = "-" if entry.memory is None else human_size(entry.memory)
        if entry.device_memory is not None:
            memory += f" + {human_size(entry.device_memory)} GPU"
        numbers = map(milliseconds, (total.p50, total.p90, total.p95, total.p99))
        rows.append([entry.label, str(entry.case), *numbers, f"{entry.throughput:.1f}", memory, f"{entry.found:.1f}"])
        if reference is not None:
            rows[-1].append("reference" if entry.label == reference else ratio_cell(entry))
    if reference is not None:
        headings.append(f"time / {reference} (95 % interval)")
    caption = "A call is one batch, without drawing. Memory is the most that the contender's process had."
    if any(entry.total.p99 is None for entry in result.entries):
        caption += " A percentile is given where two calls or more lie above it."
    title = "From the file to the poses" if result.options.protocol.value == "e2e" else "Network"
    return Table(title, tuple(headings), rows, caption)


def _published(result: BenchResult) -> Table:
    figures = [(entry, result.published[entry.label]) for entry in result.entries if entry.label in result.published]
    rows = [
        (entry.label, milliseconds(entry.total.mean), figure.model, f"{figure.latency_ms:g}", figure.verdict())
        for entry, figure in figures
    ]
    headings = ("contender", "measured ms (mean)", "published for", "ms", "comparable?")
    return Table("Beside the published figures", headings, rows, f"Published: {figures[0][1].conditions}.")


def _stages(entry: Entry) -> Table:
    named = [*entry.stages.items(), ("file to poses", entry.total)]
    named.sort(key=lambda pair: pair[0] == DRAW)  # it comes after the total, which it is not part of
    rows = [
        (name, *map(milliseconds, (one.p50, one.p90, one.p95, one.p99, one.min, one.mean)), str(one.n))
        for name, one in named
    ]
    headings = ("stage", "p50", "p90", "p95", "p99", "min", "mean", "n")
    return Table(f"{entry.label}: {entry.case}, ms a call", headings, rows)


def baseline_table(report: BaselineReport) -> Table:
    """The verdict on each row."""
    rows = []
    for row in report.rows:
        case = ", ".join(f"{name} {value}" for name, value in row.case.items() if value is not None)
        if row.how is None:
            rows.append((row.label, case, "-", "-", f"not comparable: {row.reason}"))
            continue
        verdict = f"SLOWER{blamed(row)}" if row.slower else "within the bound or the noise"
        rows.append((row.label, case, percent_change(row), row.how, verdict))
    bound = f"Bound: {report.max_slowdown:.1%} slower, with the whole 95 % interval beyond it."
    return Table(f"Against {report.file}: {report.verdict}", ("contender", "case", "change", "of", ""), rows, bound)


def blamed(row: RowVerdict) -> str:
    """`` (letterbox grew most: +4.1 ms)``; empty where no stage can be blamed."""
    return f" ({row.stage} grew most: +{milliseconds(row.stage_ms)} ms)" if row.stage_ms is not None else ""


def percent_change(row: RowVerdict) -> str:
    """``+3.1 % (-0.5 to +6.8)``."""
    change = row.change
    if change is None:
        return "-"
    text = f"{change.value - 1:+.1%}"
    if change.low is None or change.high is None:
        return text
    return f"{text} ({change.low - 1:+.1%} to {change.high - 1:+.1%})"


def milliseconds(value: float | None) -> str:
    """Three digits that mean something, such as ``0.0123``, ``4.56`` or ``789``; ``-`` for None."""
    if value is None:
        return "-"
    return f"{value:#.3g}".rstrip(".") if value < 1000 else f"{value:.0f}"


def to_csv(result: BenchResult) -> str:
    """One line a stage of each contender in each case; the stage ``total`` is the way from the file to the poses."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(CSV_COLUMNS)
    for entry in result.entries:
        opened, case, ratio = entry.opened.to_dict(), entry.case, entry.ratio
        head = [opened[name] for name in ("label", "model", "sha256", "kind", "precision")]
        head += [opened["decode"]["mode"], opened["backend"], opened["device"]]
        head += ["x".join(map(str, opened["input_hw"])), case.batch, case.threads, case.people]
        tail: list[float | str | None] = [round(entry.throughput, 4), round(entry.found, 4)]
        tail += [None, None, None] if ratio is None else [ratio.value, ratio.low, ratio.high]
        tail += [entry.memory, entry.device_memory, result.options.protocol.value]
        tail += [result.machine.fingerprint, result.started]
        for name, one in [*entry.stages.items(), ("total", entry.total)]:
            writer.writerow([*head, name, one.n, one.mean, one.min, one.p50, one.p90, one.p95, one.p99, *tail])
    return out.getvalue()


def to_markdown(result: BenchResult, baseline: BaselineReport | None = None) -> str:
    """Tables as GitHub and GitLab show them."""
    text = ["# Benchmark", "", f"{result.started}, measured by rtmo-deploy.", ""]
    text += [f"- **{name}**: {markdown_text(value)}" for name, value in facts(result).items()]
    text += ["", *(f"> **Note**: {markdown_text(note)}  " for note in _all_notes(result, baseline))]
    tables = result_tables(result)
    if baseline is not None:
        tables.insert(0, baseline_table(baseline))
    for table in tables:
        text += ["", f"## {markdown_text(table.title)}", "", *table.markdown()]
        if table.caption:
            text += ["", markdown_text(table.caption)]
    hashes = {entry.opened.contender.model: entry.opened.sha256 for entry in result.entries}
    text += ["", "## Files", "", *(f"- `{digest}` {markdown_text(model)}" for model, digest in hashes.items())]
    return "\n".join(text) + "\n"


def to_html(result: BenchResult, baseline: BaselineReport | None = None) -> str:
    """The page."""
    tables = result_tables(result)
    overview = 1 + bool(result.published)
    models = {entry.opened.contender.model: entry.opened for entry in result.entries}
    return render(
        "bench.html",
        result=result,
        baseline=baseline,
        notes=_all_notes(result, baseline),
        about=facts(result),
        overview=[*([] if baseline is None else [baseline_table(baseline)]), *tables[:overview]],
        charts=charts(result),
        details=tables[overview:],
        files=[
            (model, opened.sha256, ", ".join(f"{name} {version}" for name, version in opened.versions.items()))
            for model, opened in models.items()
        ],
    )


def _all_notes(result: BenchResult, baseline: BaselineReport | None) -> list[str]:
    return [*result.warnings, *(() if baseline is None else baseline.notes)]


def charts(result: BenchResult) -> list[tuple[str, Markup, str]]:
    """Title, SVG and caption of each chart that the result has the points for; none of a busy machine's times."""
    found: list[tuple[str, Markup, str]] = []
    if any(entry.interference.reasons for entry in result.entries):
        return found
    if result.options.protocol.value == "e2e":
        rows = {}
        for entry in result.entries[:MAX_BARS]:
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
