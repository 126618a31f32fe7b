"""What a reader gets of a release: report.html, summary.md and junit.xml."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Final

from markupsafe import Markup

from rtmo_deploy.files import human_size
from rtmo_deploy.measure.bench.interference import BUSY
from rtmo_deploy.measure.bounds import WORKING_SCORE
from rtmo_deploy.release.gates import case_of
from rtmo_deploy.release.record import GateStatus, Status
from rtmo_deploy.report.charts import bars, lines, percentiles, provenance
from rtmo_deploy.report.html import number, render
from rtmo_deploy.report.junit import Case, junit
from rtmo_deploy.report.table import Table, markdown_text

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from rtmo_deploy.release.record import GateResult, Release, ReleaseFile, StepRecord

_METRICS: Final = ("AP", "AP50", "AP75", "AP(M)", "AP(L)", "AP(E)", "AP(H)", "AR")
_TIMES: Final = ("p50", "p90", "p95", "p99", "min", "mean")
_PEOPLE: Final = ("matched", "missed", "extra", "oks_mean", "keypoint_px_p99", "keypoint_px_max", "score_max")
_SIGNS: Final = {
    GateStatus.PASSED: "✅ passed",
    GateStatus.FAILED: "❌ failed",
    GateStatus.NOT_MEASURED: "⚠️ not measured",
    GateStatus.BLOCKED: "⛔ blocked",
}


def report_html(release: Release, files: Sequence[ReleaseFile]) -> str:
    """The page, with ``files``, which the steps made."""
    named = [f"{gate.status}: {gate.name}" for gate in release.ranked_gates if gate.status != GateStatus.PASSED]
    named += [f"{result.status}: step {result.name}" for result in release.results.values() if not result.good]
    code = Markup("<code>{}</code>").format
    return render(
        "release.html",
        release=release,
        title=release.recipe.report.title or release.recipe.name,
        not_passed=named,
        accuracy=_accuracy(release),
        latency_charts=_latency_charts,
        latency_head=("contender", "case", *_TIMES, "n", "ratio"),
        latency_rows=lambda result: [_latency_row(entry) for entry in result.facts["entries"]],
        sizes=_sizes(release),
        working_score=WORKING_SCORE,
        parity_cells=lambda people: [number(people.get(name)) for name in _PEOPLE],
        shown_panels=partial(_shown_panels, release),
        provenance=_provenance(release),
        file_rows=[(file.path, file.kind, human_size(file.size), code(file.sha256)) for file in files],
        machine=_machine(release),
    )


def _accuracy(release: Release) -> dict[str, Any] | None:
    results = release.of("accuracy")
    if not results:
        return None
    measured = [result for result in results if result.good]
    names = [name for name in _METRICS if any(name in result.facts["metrics"] for result in measured)]
    rows = []
    for result in results:
        cells = [number(result.facts["metrics"].get(name), ".4f") for name in names] if result.good else []
        if not result.good:
            state = Markup('<span class="state {0}">{0}</span>').format(result.status)
            cells = [state, *[""] * (len(names) - 1)]
        rows.append((result.step.inputs["model"], *cells))
    published = release.source.facts.get("published")
    if published:
        figures = [number(published["metrics"].get(name), ".4f") for name in names]
        rows.append((f"published, {published['dataset']}", *figures))
    ap = {result.step.inputs["model"]: result.facts["ap"] for result in measured}
    shown = {name: ({"": value}, f"{value:.4f}") for name, value in ap.items() if value is not None}
    note = ""
    if measured:
        facts = measured[0].facts
        data = release.results[measured[0].step.inputs["data"]].facts["source"]
        note = f"{facts['images']} images ({data}), {facts['people']} people, {facts['protocol']} protocol."
    chart = bars("AP of each model", shown) if shown else ""
    return {"note": note, "chart": chart, "head": ("model", *(names or ("result",))), "rows": rows}


def _latency_charts(result: StepRecord) -> Iterator[tuple[str, Markup, str]]:
    """Heading, chart and note: curves over whatever was swept, and the percentiles of the first case.

    There is no chart of times that other work disturbed: it would be one of that work.
    """
    entries = result.facts["entries"]
    if not entries or result.facts["busy"]:
        return
    first = entries[0]["case"]
    for field, label in (("people", "people in the image"), ("batch", "images in a batch")):
        series: dict[str, list[tuple[float, float, float]]] = {}
        for entry in entries:
            case, total = entry["case"], entry["total_ms"]
            others = all(case.get(name) == first.get(name) for name in ("people", "batch", "threads") if name != field)
            if others and case.get(field) is not None:
                series.setdefault(_label(entry), []).append((case[field], total["p50"], total["p95"] or total["p50"]))
        if any(len(line) > 1 for line in series.values()):
            note = "Line: median. Band: up to the 95th percentile, where it is given."
            yield f"Against {label}", lines(f"Latency against {label}", label, series), note
    rows = {_label(entry): entry["total_ms"] for entry in entries if entry["case"] == first}
    yield f"Percentiles, {case_of(entries[0])}", percentiles("Percentiles of latency", rows), ""


def _label(entry: Mapping[str, Any]) -> str:
    backend = entry["contender"]["backend"]
    return f"{entry['artifact']} ({backend})" if backend else str(entry["artifact"])


def _latency_row(entry: Mapping[str, Any]) -> tuple[str, ...]:
    total, ratio = entry["total_ms"], entry["ratio"]
    if ratio:
        text = f"{ratio['value']:.2f}"
        text += "" if ratio["low"] is None or ratio["high"] is None else f" ({ratio['low']:.2f} to {ratio['high']:.2f})"
    elif entry["contender"]["reference"]:
        text = "reference"
    else:
        text = BUSY if entry["interference"]["busy"] else "-"
    times = (number(total[name], ".2f") for name in _TIMES)
    return (_label(entry), case_of(entry), *times, str(total["n"]), text)


def _sizes(release: Release) -> Markup | None:
    sizes = {"source": release.source.facts["size"]} if release.source.good else {}
    for result in release.results.values():
        if result.step.kind == "artifact" and result.good:
            sizes[result.name] = sum(file.size for file in result.files)
    rows = {name: ({"": float(size)}, human_size(size)) for name, size in sizes.items()}
    return bars("Size of each artifact", rows) if rows else None


def _shown_panels(release: Release, result: StepRecord, shown: Mapping[str, Any]) -> Iterator[tuple[bytes, str]]:
    """JPEG and caption of each panel of a comparison."""
    pair = result.step.inputs
    differences = f"differences, {shown['magnified']} times as large"
    captions = (_file_of(release, pair["a"]), _file_of(release, pair["b"]), differences)
    for file, caption in zip(shown["files"], captions, strict=True):
        if result.folder is not None and file in {known.name for known in result.files}:
            yield (result.folder / file).read_bytes(), caption


def _file_of(release: Release, name: str) -> str:
    """``int8 (quickstart-int8.onnx)``: what the recipe calls a model, and its file."""
    made = release.results[name]
    return f"{name} ({made.files[0].name if made.files else made.facts['name']})"


def _provenance(release: Release) -> Markup:
    nodes, edges = {}, []
    for result in release.results.values():
        if result.step.kind not in {"source", "artifact"}:
            continue
        kind = "source" if result.step.kind == "source" and result.good else result.status.value
        nodes[result.name] = ((result.sha256 or result.status)[:16], kind)
        edges += [(start, result.name) for start in result.step.inputs.values() if start in nodes]
    return provenance("What was made of what", nodes, edges)


def _machine(release: Release) -> dict[str, str]:
    facts: dict[str, str] = {}
    for name, value in release.machine.items():
        if isinstance(value, dict):
            value = ", ".join(f"{key}={one}" for key, one in value.items())
        elif isinstance(value, list | tuple):
            value = ", ".join(map(str, value))
        elif name == "memory" and isinstance(value, int):
            value = human_size(value)
        if value not in (None, ""):
            facts[name.replace("_", " ")] = str(value)
    source = release.source.facts
    versions: dict[str, str] = {}
    for result in release.results.values():
        versions |= result.versions
    facts["checkpoint"] = f"{source.get('name', release.recipe.source)} {source.get('sha256', '')}"
    facts["versions"] = ", ".join(f"{name} {version}" for name, version in sorted(versions.items()))
    return facts


def summary_markdown(release: Release) -> str:
    """The verdict and the tables, GitHub-flavoured, for a pull request or the page of a CI run."""
    text = [f"## {markdown_text(release.recipe.name)}: {release.verdict}", "", markdown_text(release.sentence), ""]
    if release.gates:
        gates = [
            (gate.name, _SIGNS[gate.status], gate.bound, gate.measured, gate.message) for gate in release.ranked_gates
        ]
        text += [*Table("", ("gate", "result", "bound", "measured", "note"), gates, numbers=False).markdown(), ""]
    rows = [
        (
            result.name,
            result.step.action,
            str(result.facts.get("precision", "-")),
            human_size(sum(file.size for file in result.files)) if result.good else result.status.value,
            result.sha256[:16] if result.sha256 else result.message,
        )
        for result in release.results.values()
        if result.step.kind == "artifact"
    ]
    text += Table("", ("artifact", "by", "precision", "size", "SHA-256"), rows, numbers=False).markdown()
    return "\n".join([*text, ""])


def junit_xml(release: Release) -> str:
    """A test case for each gate and each step.

    A gate that did not pass is a failure, one that was not measured is skipped (``strict``: a failure), one that is
    blocked is skipped; a step that failed is an error, one that was not possible here is skipped.
    """
    gates = [_gate_case(gate, strict=release.strict) for gate in release.gates]
    steps = [_step_case(result, strict=release.strict) for result in release.results.values()]
    return junit(release.recipe.name, {"gates": gates, "steps": steps})


def _gate_case(gate: GateResult, *, strict: bool) -> Case:
    why = f"{gate.bound}; {gate.measured or 'not measured'}" + (f"; {gate.message}" if gate.message else "")
    kind = f"gate.{gate.kind}"
    if gate.status is GateStatus.PASSED:
        return Case(kind, gate.name, output=why)
    failed = strict or gate.status is GateStatus.FAILED
    return Case(kind, gate.name, problem="failure" if failed else "skipped", message=f"{gate.status}: {why}")


def _step_case(result: StepRecord, *, strict: bool) -> Case:
    kind, seconds = f"step.{result.step.action}", 0.0 if result.status is Status.CACHED else result.seconds
    if result.good:
        return Case(kind, result.name, seconds, output=result.message)
    error = result.status is Status.FAILED or (strict and result.status is Status.UNAVAILABLE)
    return Case(kind, result.name, seconds, "error" if error else "skipped", result.message)
