"""Rules for the extras: which of them are there, and how to get the others."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rtmo_deploy.measure.doctor.packages import EXTRAS, install_line, shortfall
from rtmo_deploy.measure.doctor.report import Row, Verdict

if TYPE_CHECKING:
    from rtmo_deploy.measure.doctor.facts import Facts
    from rtmo_deploy.measure.doctor.packages import Extra

_AREA = "extras"
#: These two exclude each other.
_RIVALS = {"cpu": ("gpu", "onnxruntime-gpu"), "gpu": ("cpu", "onnxruntime")}


def extras_rows(facts: Facts) -> list[Row]:
    """A row for each extra."""
    return [_row(facts, name, extra) for name, extra in EXTRAS.items()]


def _row(facts: Facts, extra: str, record: Extra) -> Row:
    name = f"[{extra}]"
    gap = shortfall(record.requirements, facts.distributions)
    if gap.missing:
        other, package = _RIVALS.get(extra, ("", ""))
        purpose = f"For {record.purpose}"
        if package in facts.distributions and extra == "cpu":
            return Row(_AREA, name, Verdict.ABSENT, f"{purpose}; not needed, [{other}] is there and holds the same.")
        nothing = "; of no use without a GPU of NVIDIA" if record.nvidia and not facts.gpus else ""
        finding = f"{purpose}{nothing}. Not installed: {', '.join(gap.missing)}."
        line = install_line(extra)
        if package in facts.distributions and package not in gap.missing:
            line = f"In a fresh environment, without {package}: {line}"
        return Row(_AREA, name, Verdict.ABSENT, finding, line)
    if gap.outside:
        finding = f"For {record.purpose}. Not the versions that it asks for: {'; '.join(gap.outside)}."
        return Row(_AREA, name, Verdict.WARNING, finding, install_line(extra))
    return Row(_AREA, name, Verdict.FINE, f"For {record.purpose}.")
