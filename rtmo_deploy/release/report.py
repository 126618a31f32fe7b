"""report.html: one file with the verdict and its evidence. No script, nothing from the network, everything escaped."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any

from rtmo_deploy.files import human_size
from rtmo_deploy.measure.bench.interference import BUSY
from rtmo_deploy.measure.bounds import WORKING_SCORE
from rtmo_deploy.release.gates import GateStatus
from rtmo_deploy.release.markup import Markup, el, join, table
from rtmo_deploy.release.plots import bars, curves, percentiles, provenance
from rtmo_deploy.release.results import case_of
from rtmo_deploy.release.style import STYLE
from rtmo_deploy.release.summary import sentence

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from rtmo_deploy.release.manifest import FileEntry
    from rtmo_deploy.release.release import Release
    from rtmo_deploy.release.results import StepResult

_METRICS = ("AP", "AP50", "AP75", "AP(M)", "AP(L)", "AP(E)", "AP(H)", "AR")


def report_html(release: Release, files: Sequence[FileEntry]) -> str:
    """The page; well-formed XML, too.

    Args:
        release: The release.
        files: What the steps made.
    """
    title = release.recipe.report.title or release.recipe.name
    sections = (
        _gates(release),
        _accuracy(release),
        *_latencies(release),
        _sizes(release),
        _parity(release),
        _provenance(release),
        _files(files),
        _steps(release),
        _machine(release),
    )
    body = el(
        "body",
        el("h1", title),
        el("p", f"{release.recipe.name}, from {release.recipe.source}; {release.started}", class_="dim"),
        _banner(release),
        join(section for section in sections if section),
        el(
            "footer",
            "Made by ",
            el("code", release.command),
            ". The hashes of all files are in SHA256SUMS; ",
            el("code", "rtmo-deploy verify DIR"),
            " compares them.",
        ),
    )
    head = el(
        "head",
        el("meta", charset="utf-8"),
        el("meta", name="viewport", content="width=device-width, initial-scale=1"),
        el("meta", name="color-scheme", content="light dark"),
        el("title", f"{title}: {release.verdict}"),
        el("style", Markup(STYLE)),
    )
    return f"<!DOCTYPE html>\n{el('html', head, body, lang='en')}\n"


def _banner(release: Release) -> Markup:
    """The verdict, what it rests on, and the names of what did not pass."""
    named = [f"{gate.status.value}: {gate.name}" for gate in release.ranked_gates if gate.status != GateStatus.PASSED]
    named += [f"{result.status.value}: step {result.name}" for result in release.results.values() if not result.good]
    listed = el("ul", *(el("li", text) for text in named)) if named else None
    return el(
        "div", el("b", release.verdict), el("span", sentence(release)), listed, class_=f"verdict {release.verdict}"
    )


def _section(title: str, *children: object) -> Markup:
    return el("section", el("h2", title), *children)


def _state(status: str) -> Markup:
    return el("span", status, class_=f"state {status}")


def _gates(release: Release) -> Markup:
    if not release.gates:
        return _section("Gates", el("p", "The recipe has none: nothing here was held against a bound."))
    gates = release.ranked_gates
    rows = [
        (gate.name, _state(gate.status.value), *map(_lines, (gate.bound, gate.measured or "-", gate.message or "-")))
        for gate in gates
    ]
    marks = [f"row {gate.status.value}" for gate in gates]
    return _section("Gates", table(("gate", "result", "bound", "measured", "note"), rows, marks=marks))


def _lines(text: str) -> Markup:
    """The parts of a text on a line each."""
    first, *others = text.split("; ")
    return join((first, *(part for one in others for part in ("; ", el("br"), one))))


def _of(release: Release, action: str) -> list[StepResult]:
    return [result for result in release.results.values() if result.step.action == action]


def _accuracy(release: Release) -> Markup | None:
    results = _of(release, "accuracy")
    if not results:
        return None
    measured = [result for result in results if result.good]
    names = [name for name in _METRICS if any(name in result.facts.get("metrics", {}) for result in measured)]
    rows = []
    for result in results:
        metrics = result.facts.get("metrics", {})
        cells: list[str] = [_figure(metrics.get(name)) for name in names]
        if not result.good:
            cells = [_state(result.status.value), *[""] * (len(names) - 1)][: len(names)]
        rows.append((result.step.inputs["model"], *cells))
    published = release.source().facts.get("published")
    if published:
        rows.append(
            (f"published, {published['dataset']}", *(_figure(published["metrics"].get(name)) for name in names))
        )
    shown = {
        str(result.step.inputs["model"]): (result.facts["ap"], f"{result.facts['ap']:.4f}")
        for result in measured
        if isinstance(result.facts.get("ap"), int | float)
    }
    note = ""
    if measured:
        facts = measured[0].facts
        data = release.results[measured[0].step.inputs["data"]].facts.get("source", "")
        note = f"{facts.get('images')} images ({data}), {facts.get('people')} people, {facts.get('protocol')} protocol."
    return _section(
        "Accuracy",
        el("p", f"{note} AP runs from 0 to 1.", class_="dim"),
        bars("AP of each model", shown) if shown else None,
        table(("model", *names), rows, numbers=range(1, len(names) + 1)),
    )


def _figure(value: Any) -> str:
    return f"{value:.4f}" if isinstance(value, int | float) else "-"


def _latencies(release: Release) -> Iterable[Markup]:
    for result in _of(release, "latency"):
        options = result.step.options
        title = f"Latency: {options['name']}"
        if not result.good:
            yield _section(title, el("p", _state(result.status.value), f": {result.message}"))
            continue
        facts = result.facts
        what = "from file to people" if options["protocol"] == "e2e" else "by MMDeploy's protocol: network and its NMS"
        parts = [el("p", f"Milliseconds a call on {options['device']}, {what}.", class_="dim")]
        parts += [el("p", f"Note: {warning}") for warning in facts.get("warnings", ())]
        if not facts.get("busy"):  # a picture of times that other work disturbed is a picture of that work
            parts += _sweeps(facts["entries"])
        yield _section(title, *parts, _latency_table(facts["entries"]))


def _sweeps(entries: Sequence[Mapping[str, Any]]) -> list[Markup]:
    """Curves over whatever was swept, and the percentiles of the first case."""
    found = []
    for field in ("people", "batch"):
        series: dict[str, list[tuple[float, float, float]]] = {}
        first = entries[0]["case"] if entries else {}
        for entry in entries:
            case = entry["case"]
            others = all(case.get(name) == first.get(name) for name in ("people", "batch", "threads") if name != field)
            if others and case.get(field) is not None:
                total = entry["total_ms"]
                series.setdefault(_label(entry), []).append((case[field], total["p50"], total["p95"] or total["p50"]))
        if any(len(line) > 1 for line in series.values()):
            label = "people in the image" if field == "people" else "images in a batch"
            found += [el("h3", f"Against {label}"), curves(f"Latency against {label}", label, series)]
            found.append(el("p", "Line: median. Band: up to the 95th percentile, where it is given.", class_="dim"))
    if entries:
        rows = {_label(entry): entry["total_ms"] for entry in entries if entry["case"] == entries[0]["case"]}
        found += [el("h3", f"Percentiles, {case_of(entries[0])}"), percentiles("Percentiles of latency", rows)]
    return found


def _label(entry: Mapping[str, Any]) -> str:
    backend = entry["contender"].get("backend")
    return f"{entry['artifact']} ({backend})" if backend else str(entry["artifact"])


def _latency_table(entries: Sequence[Mapping[str, Any]]) -> Markup:
    names = ("p50", "p90", "p95", "p99", "min", "mean")
    rows = []
    for entry in entries:
        ratio = entry.get("ratio")
        low, high = (ratio.get("low"), ratio.get("high")) if ratio else (None, None)
        busy = (entry.get("interference") or {}).get("busy")
        missing = "reference" if entry["contender"].get("reference") else BUSY if busy else "-"
        text = missing if not ratio else f"{ratio['value']:.2f}"
        text += "" if low is None or high is None else f" ({low:.2f} to {high:.2f})"
        total = entry["total_ms"]
        rows.append((_label(entry), case_of(entry), *(_ms(total[name]) for name in names), total["n"], text))
    return table(("contender", "case", *names, "n", "ratio"), rows, numbers=range(2, 9))


def _ms(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _sizes(release: Release) -> Markup | None:
    sizes = {"source": float(release.source().facts.get("size") or 0)} if release.source().good else {}
    for result in release.results.values():
        if result.step.kind == "artifact" and result.good:
            sizes[result.name] = float(sum(file.size for file in result.files))
    if not sizes:
        return None
    shown = {name: (size, human_size(int(size))) for name, size in sizes.items()}
    return _section("Sizes", bars("Size of each artifact", shown))


def _parity(release: Release) -> Markup | None:
    parts: list[object] = []
    for result in _of(release, "parity"):
        pair = result.step.inputs
        parts.append(el("h3", f"{pair['a']} and {pair['b']}"))
        if not result.good:
            parts.append(el("p", _state(result.status.value), f": {result.message}"))
            continue
        facts = result.facts
        counted = facts.get("bounds", {}).get("score_thr") or "the models' own threshold"
        told = f"{facts.get('source', 'images')}; people with a score above {counted} count."
        parts.append(el("p", f"{told} Shown are the worst images, with people above {WORKING_SCORE:g}.", class_="dim"))
        people = facts.get("people", {})
        names = ("matched", "missed", "extra", "oks_mean", "keypoint_px_p99", "keypoint_px_max", "score_max")
        cells = [_number(people.get(name)) for name in names]
        heads = ("matched", "missed", "extra", "mean OKS", "keypoints p99, px", "worst, px", "worst score")
        parts.append(table(heads, [cells], numbers=range(len(heads))))
        parts += [el("p", text) for text in (*facts.get("failures", ()), *facts.get("causes", ()))]
        for shown in facts.get("shown", ()):
            times = f"differences, {shown['magnified']} times as large"
            titles = (_file_of(release, pair["a"]), _file_of(release, pair["b"]), times)
            figures = [_picture(result, file, text) for file, text in zip(shown["files"], titles, strict=False)]
            parts.append(el("div", *figures, class_="trio"))
    return _section("Parity", *parts) if parts else None


def _file_of(release: Release, name: str) -> str:
    """``int8 (quickstart-int8.onnx)``: what the recipe calls a model, and its file."""
    made = release.results[name]
    file = made.files[0].name if made.files else str(made.facts.get("name") or release.recipe.source)
    return f"{name} ({file})"


def _picture(result: StepResult, file: str, caption: str) -> Markup | None:
    if result.folder is None or "/" in file or file not in {known.name for known in result.files}:
        return None
    data = base64.b64encode((result.folder / file).read_bytes()).decode("ascii")
    kind = "png" if file.endswith(".png") else "jpeg"
    return el("figure", el("img", src=f"data:image/{kind};base64,{data}", alt=caption), el("figcaption", caption))


def _number(value: Any) -> str:
    return "-" if not isinstance(value, int | float) else str(value) if isinstance(value, int) else f"{value:.4g}"


def _provenance(release: Release) -> Markup:
    nodes, edges = {}, []
    for result in release.results.values():
        if result.step.kind not in {"source", "artifact"}:
            continue
        status = "source" if result.step.kind == "source" and result.good else result.status.value
        sha256 = result.files[0].sha256 if result.files else str(result.facts.get("sha256") or "")
        nodes[result.name] = (sha256[:16] or result.status.value, status)
        edges += [(start, result.name) for start in result.step.inputs.values()]
    return _section("Provenance", provenance("What was made of what", nodes, edges))


def _files(files: Sequence[FileEntry]) -> Markup:
    rows = [(entry.path, entry.kind, human_size(entry.size), el("code", entry.sha256)) for entry in files]
    return _section("Files", table(("file", "kind", "size", "SHA-256"), rows, numbers=(2,)))


def _steps(release: Release) -> Markup:
    rows = [
        (result.name, result.step.action, _state(result.status.value), f"{result.seconds:.1f} s", result.message)
        for result in release.results.values()
    ]
    return _section("Steps", table(("step", "action", "state", "time", "note"), rows, numbers=(3,)))


def _machine(release: Release) -> Markup:
    facts = {name: value for name, value in release.machine.items() if value not in (None, [], {}, "")}
    versions: dict[str, str] = {}
    for result in release.results.values():
        versions |= result.versions
    source = release.source().facts
    facts["checkpoint"] = f"{source.get('name', release.recipe.source)} {source.get('sha256', '')}"
    facts["versions"] = ", ".join(f"{name} {number}" for name, number in sorted(versions.items()))
    return _section("Machine and versions", el("dl", *(_fact(name, value) for name, value in facts.items())))


def _fact(name: str, value: object) -> Markup:
    if isinstance(value, dict):
        value = ", ".join(f"{key}={one}" for key, one in value.items())
    elif isinstance(value, list | tuple):
        value = ", ".join(map(str, value))
    elif name == "memory" and isinstance(value, int):
        value = human_size(value)
    return join((el("dt", name.replace("_", " ")), el("dd", value)))
