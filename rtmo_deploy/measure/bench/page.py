"""A result as one HTML page: tables and plots, no script, nothing from the network, light and dark, fit for paper."""

from __future__ import annotations

import html
from typing import TYPE_CHECKING

from rtmo_deploy.measure.bench.svg import Line, line_plot, stacked_bars
from rtmo_deploy.measure.bench.tables import Table, baseline_table, facts, result_tables
from rtmo_deploy.runtime.clock import DRAW

if TYPE_CHECKING:
    from collections.abc import Callable

    from rtmo_deploy.measure.bench.baseline import BaselineReport
    from rtmo_deploy.measure.bench.options import Case
    from rtmo_deploy.measure.bench.result import BenchResult, Entry

#: Most bars in the plot of stages; beyond, the tables say it better.
MOST_BARS = 16

_STYLE = """
:root { color-scheme: light dark; --fg: #1b1f24; --bg: #ffffff; --soft: #f3f5f7; --line: #d5dae0; --dim: #57606a;
  --warn: #fff4ce; --bad: #b42318; --good: #1a7f37;
  --c0: #0072b2; --c1: #d55e00; --c2: #009e73; --c3: #cc79a7; --c4: #8a6d00; --c5: #3f9bd1; --c6: #6b4fa0; --c7: #666; }
@media (prefers-color-scheme: dark) { :root { --fg: #e6e9ed; --bg: #14171b; --soft: #1e2329; --line: #3a424c;
  --dim: #9aa5b1; --warn: #40350f; --bad: #ff8a7a; --good: #6fdd8b;
  --c0: #5bb5f0; --c1: #ff9a4d; --c2: #3fd0a3; --c3: #ec9fcb; --c4: #e6c34a; --c5: #9ad4ff; --c6: #b9a0ec;
  --c7: #aaa; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 70rem; padding: 1.5rem 1rem 4rem; color: var(--fg); background: var(--bg);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", sans-serif; }
h1 { font-size: 1.6rem; margin: 0 0 .25rem; } h2 { font-size: 1.15rem; margin: 2rem 0 .5rem; }
.dim, caption, figcaption { color: var(--dim); } .verdict { font-size: 1.2rem; font-weight: 600; }
.bad { color: var(--bad); } .good { color: var(--good); }
.warn { background: var(--warn); padding: .6rem .9rem; border-radius: 6px; margin: .5rem 0; }
.scroll { overflow-x: auto; background:
  linear-gradient(90deg, var(--bg) 30%, transparent) 0 0 / 40px 100% no-repeat local,
  linear-gradient(270deg, var(--bg) 30%, transparent) 100% 0 / 40px 100% no-repeat local,
  linear-gradient(90deg, var(--dim), transparent) 0 0 / 10px 100% no-repeat scroll,
  linear-gradient(270deg, var(--dim), transparent) 100% 0 / 10px 100% no-repeat scroll; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
caption { caption-side: bottom; text-align: left; max-width: 40rem; padding-top: .4rem; font-size: .9rem; }
th, td { padding: .3rem .6rem; border-bottom: 1px solid var(--line); text-align: right; vertical-align: top; }
th:first-child, td:first-child { text-align: left; } th { font-weight: 600; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .2rem 1rem; margin: .75rem 0; }
dt { color: var(--dim); } dd { margin: 0; overflow-wrap: anywhere; }
code { overflow-wrap: anywhere; font-size: .85rem; }
figure { margin: 1.5rem 0; } figure svg:not(.key) { width: 100%; height: auto; max-width: 45rem; }
.grid { stroke: var(--line); } .tick { fill: var(--dim); font-size: 12px; } .axis { fill: var(--fg); font-size: 13px; }
.legend { list-style: none; display: flex; flex-wrap: wrap; gap: .2rem 1.2rem; padding: 0; margin: .3rem 0; }
.key { width: 14px; height: 14px; margin-right: .4rem; vertical-align: -2px; }
@media (max-width: 40rem) { dl { grid-template-columns: 1fr; } dd { margin-bottom: .4rem; } }
@media print { body { max-width: none; font-size: 11pt; } figure, table, .warn { break-inside: avoid; }
  .scroll { overflow: visible; } * { print-color-adjust: exact; -webkit-print-color-adjust: exact; } }
"""


def to_html(result: BenchResult, baseline: BaselineReport | None = None) -> str:
    """The page."""
    body = [
        "<h1>Benchmark</h1>",
        f'<p class="dim">{_text(result.started)}; rtmo-deploy, protocol {_text(result.options.protocol)}</p>',
    ]
    tables = result_tables(result)
    notes = list(result.warnings)
    if baseline is not None:
        kind = "good" if baseline.verdict == "passed" else "bad"
        body.append(f'<p class="verdict {kind}">Against {_text(baseline.file)}: {_text(baseline.verdict)}</p>')
        notes += baseline.notes
        tables.insert(0, baseline_table(baseline))
    body += [f'<p class="warn">{_text(text)}</p>' for text in notes]
    rows = "".join(f"<dt>{_text(name)}</dt><dd>{_text(text)}</dd>" for name, text in facts(result).items())
    body.append(f"<dl>{rows}</dl>")
    split = 1 + (baseline is not None) + bool(result.published)
    body += [_table(table) for table in tables[:split]]
    body += [
        f"<h2>{_text(title)}</h2><figure>{drawn}<figcaption>{_text(caption)}</figcaption></figure>"
        for title, drawn, caption in plots(result)
    ]
    body += [_table(table) for table in tables[split:]]
    body.append(_files(result))
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>Benchmark {_text(result.started)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
        + "\n".join(body)
        + "\n</body>\n</html>\n"
    )


def plots(result: BenchResult) -> list[tuple[str, str, str]]:
    """Title, SVG and caption of each plot that the result has the points for; none of a busy machine's times."""
    found: list[tuple[str, str, str]] = []
    if any(entry.interference.reasons for entry in result.entries):
        return found
    if result.options.protocol.value == "e2e":
        bars = [
            (f"{entry.label}: {entry.case}", [(name, one.p50) for name, one in entry.stages.items() if name != DRAW])
            for entry in result.entries[:MOST_BARS]
        ]
        found.append(
            ("Stages", stacked_bars("Stages", "ms", bars), "Median of each stage, ms a call, without drawing.")
        )
    axes: tuple[tuple[str, str, Callable[[Case], int | None]], ...] = (
        ("people", "people in the picture", lambda case: case.people),
        ("batch", "pictures a call", lambda case: case.batch),
        ("threads", "threads", lambda case: case.threads),
    )
    for name, label, of in axes:
        lines = _lines(result.entries, of, name)
        if lines:
            drawn = line_plot(f"Latency by {name}", label, "ms a call", lines)
            caption = "Median of a call; the band reaches up to the 95th percentile, where it is given."
            found.append((f"Latency by {name}", drawn, caption))
    return found


def _lines(entries: tuple[Entry, ...], of: Callable[[Case], int | None], name: str) -> list[Line]:
    """A line for each contender and each combination of the other two axes; none where nothing is swept."""
    groups: dict[tuple[str, str], list[tuple[int, Entry]]] = {}
    for entry in entries:
        x = of(entry.case)
        if x is not None:
            others = [f"{key} {value}" for key, value in vars(entry.case).items() if key != name and value]
            groups.setdefault((entry.label, ", ".join(others)), []).append((x, entry))
    swept = {key: sorted(rows, key=lambda row: row[0]) for key, rows in groups.items() if len(rows) > 1}
    several = len({others for _, others in swept}) > 1
    return [
        Line(
            f"{label}: {others}" if several else label,
            tuple((float(x), entry.total.p50) for x, entry in rows),
            tuple(entry.total.p95 or entry.total.p50 for _, entry in rows),
        )
        for (label, others), rows in swept.items()
    ]


def _table(table: Table) -> str:
    head = "".join(f'<th scope="col">{_text(cell)}</th>' for cell in table.headings)
    rows = "".join("<tr>" + "".join(f"<td>{_text(cell)}</td>" for cell in row) + "</tr>" for row in table.rows)
    caption = f"<caption>{_text(table.caption)}</caption>" if table.caption else ""
    return (
        f'<h2>{_text(table.title)}</h2><div class="scroll"><table>{caption}<thead><tr>{head}</tr></thead>'
        f"<tbody>{rows}</tbody></table></div>"
    )


def _files(result: BenchResult) -> str:
    seen = {entry.opened.contender.model: entry for entry in result.entries}
    rows = []
    for model, entry in seen.items():
        versions = ", ".join(f"{name} {version}" for name, version in entry.opened.versions.items())
        rows.append(f"<dt>{_text(model)}</dt><dd><code>{entry.opened.sha256}</code><br>{_text(versions)}</dd>")
    return f"<h2>Files and versions</h2><dl>{''.join(rows)}</dl>"


def _text(text: str) -> str:
    return html.escape(text, quote=True)
