"""Puts a result into tables: for the terminal, for CSV and for Markdown."""

from __future__ import annotations

import csv
import io
from typing import TYPE_CHECKING

from rtmo_deploy.files import human_size
from rtmo_deploy.measure.bench.interference import BUSY
from rtmo_deploy.report.table import Table, markdown_text
from rtmo_deploy.runtime.clock import DRAW

if TYPE_CHECKING:
    from rtmo_deploy.measure.bench.baseline import BaselineReport, RowVerdict
    from rtmo_deploy.measure.bench.result import BenchResult, Entry

CSV_COLUMNS = (
    *("contender", "model", "sha256", "kind", "precision", "decode", "backend", "device", "input", "batch", "threads"),
    *("people", "stage", "n", "mean_ms", "min_ms", "p50_ms", "p90_ms", "p95_ms", "p99_ms"),
    *("throughput", "found", "ratio", "ratio_low", "ratio_high", "memory", "device_memory"),
    *("protocol", "machine", "started"),
)
#: What the total of the stages is called.
TOTAL = "file to poses"


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
    tables = [_overview(result)]
    if result.published:
        tables.append(_published(result))
    tables += [_stages(entry) for entry in result.entries]
    return tables


def ratio_cell(entry: Entry) -> str:
    """The ratio of an entry, or why there is none."""
    if entry.ratio is not None:
        return str(entry.ratio)
    return BUSY if entry.interference.reasons else "-"


def _overview(result: BenchResult) -> Table:
    reference = result.reference
    headings = ("contender", "case", "p50 ms", "p90", "p95", "p99", "images/s", "memory", "found")
    rows = []
    for entry in result.entries:
        total = entry.total
        memory = "-" if entry.memory is None else human_size(entry.memory)
        if entry.device_memory is not None:
            memory += f" + {human_size(entry.device_memory)} GPU"
        numbers = (milliseconds(value) for value in (total.p50, total.p90, total.p95, total.p99))
        cells = (entry.label, str(entry.case), *numbers, f"{entry.throughput:.1f}", memory, f"{entry.found:.1f}")
        ratio = "reference" if entry.label == reference else ratio_cell(entry)
        rows.append(cells if reference is None else (*cells, ratio))
    caption = "A call is one batch, without drawing. Memory is the most that the contender's process had."
    if any(entry.total.p99 is None for entry in result.entries):
        caption += " A percentile is given where two calls or more lie above it."
    return Table(
        "From the file to the poses" if result.options.protocol.value == "e2e" else "Network",
        headings if reference is None else (*headings, f"time / {reference} (95 % interval)"),
        tuple(rows),
        caption,
    )


def _published(result: BenchResult) -> Table:
    rows = []
    for entry in result.entries:
        figure = result.published.get(entry.label)
        if figure is not None:
            mean = milliseconds(entry.total.mean)
            rows.append((entry.label, mean, figure.model, f"{figure.latency_ms:g}", figure.verdict()))
    conditions = next(iter(result.published.values())).conditions
    headings = ("contender", "measured ms (mean)", "published for", "ms", "comparable?")
    return Table("Beside the published figures", headings, tuple(rows), f"Published: {conditions}.")


def _stages(entry: Entry) -> Table:
    named = [*entry.stages.items(), (TOTAL, entry.total)]
    named.sort(key=lambda pair: pair[0] == DRAW)  # it comes after the total, which it is not part of
    rows = [
        (name, *map(milliseconds, (one.p50, one.p90, one.p95, one.p99, one.min, one.mean)), str(one.n))
        for name, one in named
    ]
    headings = ("stage", "p50", "p90", "p95", "p99", "min", "mean", "n")
    return Table(f"{entry.label}: {entry.case}, ms a call", headings, tuple(rows))


def baseline_table(report: BaselineReport) -> Table:
    """The verdict on each row."""
    rows = []
    for row in report.rows:
        case = ", ".join(f"{name} {value}" for name, value in row.case.items() if value is not None)
        if row.how is None or row.change is None:
            rows.append((row.label, case, "-", "-", f"not comparable: {row.reason}"))
            continue
        verdict = f"SLOWER{blamed(row)}" if row.slower else "within the bound or the noise"
        rows.append((row.label, case, percent_change(row), row.how, verdict))
    bound = f"Bound: {report.max_slowdown:.1%} slower, with the whole 95 % interval beyond it."
    return Table(
        f"Against {report.file}: {report.verdict}", ("contender", "case", "change", "of", ""), tuple(rows), bound
    )


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
    lines = ["# Benchmark", "", f"{result.started}, measured by rtmo-deploy.", ""]
    lines += [f"- **{name}**: {markdown_text(text)}" for name, text in facts(result).items()]
    lines += ["", *(f"> **Note**: {markdown_text(text)}  " for text in result.warnings)]
    tables = result_tables(result)
    if baseline is not None:
        tables.insert(0, baseline_table(baseline))
        lines += [f"> **Note**: {markdown_text(text)}  " for text in baseline.notes]
    for table in tables:
        lines += ["", f"## {markdown_text(table.title)}", ""]
        lines += table.markdown()
        if table.caption:
            lines += ["", markdown_text(table.caption)]
    hashes = {entry.opened.contender.model: entry.opened.sha256 for entry in result.entries}
    lines += ["", "## Files", "", *(f"- `{digest}` {markdown_text(model)}" for model, digest in hashes.items())]
    return "\n".join(lines) + "\n"
