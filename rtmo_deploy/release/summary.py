"""summary.md: the verdict and the tables, for a pull request or the page of a CI run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rtmo_deploy.files import human_size
from rtmo_deploy.release.gates import GateStatus
from rtmo_deploy.release.results import Status

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rtmo_deploy.release.release import Release

_SIGNS = {
    GateStatus.PASSED: "✅ passed",
    GateStatus.FAILED: "❌ failed",
    GateStatus.NOT_MEASURED: "⚠️ not measured",
    GateStatus.BLOCKED: "⛔ blocked",
}
_SPECIAL = str.maketrans(
    {letter: f"\\{letter}" for letter in "\\`*_{}[]()#+!|~"} | {"<": "&lt;", ">": "&gt;", "&": "&amp;"}
)


def summary_markdown(release: Release) -> str:
    """The file's text, GitHub-flavoured."""
    lines = [f"## {_plain(release.recipe.name)}: {release.verdict}", ""]
    lines += [f"{_plain(sentence(release))}", ""]
    if release.gates:
        rows = [
            (gate.name, _SIGNS[gate.status], gate.bound, gate.measured, gate.message) for gate in release.ranked_gates
        ]
        lines += [*_table(("gate", "result", "bound", "measured", "note"), rows), ""]
    made = [result for result in release.results.values() if result.step.kind == "artifact"]
    rows = [
        (
            result.name,
            result.step.action,
            str(result.facts.get("precision", "-")),
            human_size(sum(file.size for file in result.files)) if result.good else result.status.value,
            result.files[0].sha256[:16] if result.files else result.message,
        )
        for result in made
    ]
    lines += [*_table(("artifact", "by", "precision", "size", "SHA-256"), rows), ""]
    return "\n".join(lines)


def sentence(release: Release) -> str:
    """What the verdict rests on."""
    counts = [
        f"{count} {status.value}"
        for status in GateStatus
        if (count := sum(gate.status is status for gate in release.gates))
    ]
    text = f"{len(release.gates)} gates: {', '.join(counts)}." if counts else "The recipe has no gates."
    ended = [
        f"{count} {status.value}"
        for status in (Status.FAILED, Status.UNAVAILABLE, Status.BLOCKED)
        if (count := sum(result.status is status for result in release.results.values()))
    ]
    text += f" {len(release.results)} steps" + (f": {', '.join(ended)}." if ended else ", all carried out.")
    text += "".join(f" {one.name}: {one.message}." for one in release.results.values() if one.good and one.message)
    return text + (" Strict: what was not measured is a failure." if release.strict else "")


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    return lines + [f"| {' | '.join(_plain(cell) or '-' for cell in row)} |" for row in rows]


def _plain(text: str) -> str:
    """Text that is shown as it is, on one line."""
    return " ".join(text.translate(_SPECIAL).split())
