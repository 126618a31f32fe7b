"""Shows a comparison of releases: tables for the terminal, Markdown for a pull request, and an HTML page."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from rtmo_deploy.errors import UsageError
from rtmo_deploy.files import human_size, write_whole
from rtmo_deploy.outputs import require_free
from rtmo_deploy.plain import counted
from rtmo_deploy.release.comparison.options import Kind
from rtmo_deploy.release.comparison.result import Result
from rtmo_deploy.release.publish import STEP_SUMMARY, append_step_summary
from rtmo_deploy.report.table import Table, markdown_text

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from markupsafe import Markup

    from rtmo_deploy.release.comparison.result import FileChange, ReleaseDiff, Row

#: What GitHub takes as a comment, in characters; counted in bytes, which are at least as many.
MAX_COMMENT: Final = 65_536
#: Rows of a table and lines of the recipe that Markdown has at most; fewer where the comment would be too long.
_LIMITS: Final = (200, 100, 50, 20, 8, 3, 0)
#: Rows of files in the terminal, and on the page.
_SHOWN_FILES: Final = 30
_PAGE_FILES: Final = 2000
#: Characters of a cell in the terminal and in Markdown.
_CELL: Final = 160
_TITLES: Final = {
    Kind.ARTIFACTS: ("Artifacts", "artifact"),
    Kind.GATES: ("Gates", "gate"),
    Kind.ACCURACY: ("AP", "model"),
    Kind.PARITY: ("Parity", "pair"),
    Kind.LATENCY: ("Latency", "section, contender, case"),
    Kind.SIZES: ("Sizes", "artifact"),
}
_SIGNS: Final = {"worse": "❌ worse", "not compared": "⚠️ not compared", "not worse": "✅ not worse", "new": "🆕 new"}
#: Class of a table's row on the page, by which it has its colour; others are ``row`` alone.
_MARKS: Final = {Result.WORSE: "row failed", Result.NOT_COMPARED: "row not"}
_VERDICTS: Final = {"passed": "✅", "failed": "❌", "incomplete": "⚠️"}


def heads(diff: ReleaseDiff) -> dict[str, str]:
    """Name, date, verdict and folder of both releases."""
    return {side: f"{_head(facts)}, {facts['folder']}" for side, facts in (("OLD", diff.old), ("NEW", diff.new))}


def _head(facts: Mapping[str, str]) -> str:
    return f"{facts['name']}, made {facts['made']}, {facts['verdict']}"


def tables(diff: ReleaseDiff, *, files: int = _SHOWN_FILES) -> list[Table]:
    """A table for each kind that was judged, of other figures, facts and files that differ; none is empty.

    Long notes are cut off; the page and the JSON document have all of them.
    """
    short = [replace(row, note=_cut(row.note)) for row in diff.rows]
    found = [_rows(*_TITLES[kind], [row for row in short if row.kind is kind]) for kind in Kind]
    return [table for table in (*found, *_details(diff, files)) if table.rows]


def _rows(title: str, heading: str, rows: Sequence[Row]) -> Table:
    cells = [
        (row.name, row.result.value, row.old or "-", row.new or "-", row.change or "-", row.note or "-") for row in rows
    ]
    captions = {
        "Latency": "Median of a call. Change: NEW to OLD, with the 95 % interval.",
        "Parity": "Mean OKS; people that only one of the models finds count 0.",
        "Gates": "A gate is worse if it passed and failed or was blocked now.",
    }
    bounds = dict.fromkeys(row.bound for row in rows if row.bound and row.kind is not Kind.GATES)
    caption = " ".join([captions.get(title, ""), *(f"Bound: {bound}." for bound in bounds)]).strip()
    return Table(title, (heading, "result", "OLD", "NEW", "change", "note"), cells, caption, numbers=False)


def _details(diff: ReleaseDiff, files: int) -> list[Table]:
    figures = [
        (one.of, one.name, *("-" if value is None else f"{value:.4g}" for value in (one.old, one.new)))
        for one in diff.figures
        if one.old != one.new
    ]
    changes = [(one.of, one.name, one.old or "-", one.new or "-") for one in diff.changes]
    changed = [one for one in diff.files if one.status != "unchanged"]
    left = f"{counted(len(diff.files) - len(changed), 'file')} with the same bytes in both."
    if len(changed) > files:
        left = f"{len(changed) - files} more differ; --json has them all. {left}"
    return [
        Table("Other figures that differ", ("of", "figure", "OLD", "NEW"), figures, numbers=False),
        Table("Facts that differ", ("of", "fact", "OLD", "NEW"), changes, numbers=False),
        Table("Files", ("file", "", "OLD", "NEW", "SHA-256"), list(map(_file, changed[:files])), left, numbers=False),
    ]


def _file(one: FileChange) -> tuple[str, ...]:
    name = one.new_path or one.old_path or ""
    if None not in (one.old_path, one.new_path) and one.old_path != one.new_path:
        name = f"{one.old_path}, now {one.new_path}"
    sizes = ("-" if size is None else human_size(size) for size in (one.old_size, one.new_size))
    hashes = dict.fromkeys(digest[:12] for digest in (one.old_sha256, one.new_sha256) if digest)
    return (name, one.status, *sizes, ", now ".join(hashes))


def to_markdown(diff: ReleaseDiff) -> str:
    """GitHub-flavoured Markdown that fits into a comment: the verdict, what stands in the way, and the rest folded."""
    text = ""
    for limit in _LIMITS:
        text = "\n".join(_markdown(diff, limit)) + "\n"
        if len(text.encode()) <= MAX_COMMENT:
            break
    return text


def _markdown(diff: ReleaseDiff, limit: int) -> Iterator[str]:
    yield f"## {_VERDICTS[diff.verdict]} {_cell(diff.new['name'])} against the release before: {diff.verdict}"
    yield ""
    yield markdown_text(diff.sentence)
    yield ""
    for side, facts in (("OLD", diff.old), ("NEW", diff.new)):
        yield f"- **{side}**: {_cell(_head(facts))}"
    for note in diff.notes:
        yield f"- {_cell(note)}"
    told = diff.of(Result.WORSE, Result.NOT_COMPARED)
    named = [replace(row, name=f"{row.kind}: {row.name}") for row in told]
    yield from _table(replace(_rows("Worse, or not compared", "what", named), caption=""), limit, bold=True)
    for table in tables(diff, files=10**6):
        yield from ("", "<details>", f"<summary>{table.title} ({len(table.rows)})</summary>")
        yield from _table(table, limit)
        yield from ("", "</details>")
    if diff.recipe:
        lines = [line[: 2 * _CELL] for line in diff.recipe[:limit]]
        fence = "`" * max(3, 1 + max((len(run) for line in lines for run in _ticks(line)), default=0))
        left = [f"... and {len(diff.recipe) - limit} more lines"] if len(diff.recipe) > limit else []
        yield from ("", "<details>", "<summary>Recipe</summary>", "", f"{fence}diff", *lines, *left, fence)
        yield from ("", "</details>")


def _ticks(line: str) -> list[str]:
    return "".join(one if one == "`" else " " for one in line).split()


def _table(table: Table, limit: int, *, bold: bool = False) -> Iterator[str]:
    if not table.rows:
        return
    rows = [[_SIGNS.get(cell, _cut(cell)) for cell in row] for row in table.rows[:limit]]
    short = Table(table.title, table.headings, rows, numbers=table.numbers)
    if bold:
        yield from ("", f"**{markdown_text(table.title)}**")
    if rows:
        yield from ("", *short.markdown())
    if len(table.rows) > limit:
        yield from ("", f"... and {len(table.rows) - limit} more rows.")
    if table.caption:
        yield from ("", markdown_text(table.caption))


def _cell(text: str) -> str:
    return markdown_text(_cut(text, 2 * _CELL))


def _cut(text: str, most: int = _CELL) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"


def to_html(diff: ReleaseDiff) -> str:
    """The page: one file, no script."""
    from rtmo_deploy.report.html import render

    told = diff.of(Result.WORSE, Result.NOT_COMPARED)
    groups = [
        (
            _rows(*_TITLES[kind], rows),
            kind not in {Kind.ARTIFACTS, Kind.GATES},
            [_MARKS.get(row.result, "row") for row in rows],
            _chart(kind, rows, diff),
        )
        for kind in Kind
        if (rows := [row for row in diff.rows if row.kind is kind])
    ]
    return render(
        "diff.html",
        diff=diff,
        heads=heads(diff),
        told=[
            f"{row.result}: {row.kind}: {row.name}" + (f" ({row.change})" if row.change else "")
            for row in told[:_SHOWN_FILES]
        ],
        groups=groups,
        details=[table for table in _details(diff, _PAGE_FILES) if table.rows],
    )


def _chart(kind: Kind, rows: Sequence[Row], diff: ReleaseDiff) -> Markup | str:
    """What was and what is of AP and sizes, the ratios of latency; empty where nothing was compared."""
    from rtmo_deploy.report.charts import pairs, ratios

    if kind is Kind.LATENCY:
        times = {
            row.name: (row.value, row.low, row.high, row.result is Result.WORSE)
            for row in rows
            if row.value is not None and row.low is not None and row.high is not None
        }
        bound = 1 + diff.options.max_slowdown
        return ratios("Time of NEW, as a multiple of OLD's", times, bound) if times else ""
    if kind not in {Kind.ACCURACY, Kind.SIZES}:
        return ""
    bars = {
        row.name: ((row.old_value, row.old), (row.new_value, row.new))
        for row in rows
        if row.value is not None and row.old_value is not None and row.new_value is not None
    }
    return pairs(_TITLES[kind][0], bars, ("OLD", "NEW")) if bars else ""


def require_outputs(old: Path, new: Path, html_file: Path | None, md_file: Path | None, *, force: bool = False) -> None:
    """Check before any work that the documents may be written.

    Raises:
        UsageError: One exists already, is an input, or would become a file of one of the releases.
        SetupError: It cannot be written.
    """
    outputs = [html_file, None if _is_step_summary(md_file) else md_file]
    for file in outputs:
        for folder in (old, new):
            if file is not None and Path(os.path.realpath(folder)) in Path(os.path.realpath(file)).parents:
                raise UsageError(
                    "This is in the folder of a release, where 'verify' takes no other file.",
                    remedy="Give a name outside of it.",
                    where=file,
                )
    require_free(outputs, force=force)


def write_documents(diff: ReleaseDiff, html_file: Path | None, md_file: Path | None) -> Iterator[Path]:
    """Write the page and the Markdown that were asked for; yields each when it is there."""
    for file, text in ((html_file, to_html), (md_file, to_markdown)):
        if file is None:
            continue
        if file == md_file and _is_step_summary(file):
            append_step_summary(text(diff), remedy="Give another file with --md.")
        else:
            write_whole(file, text(diff))
        yield file


def _is_step_summary(file: Path | None) -> bool:
    """Whether this is the file that GitHub shows on the page of a run, to which every program appends."""
    known = os.environ.get(STEP_SUMMARY)
    return bool(file and known) and Path(str(known)).resolve() == Path(str(file)).resolve()
