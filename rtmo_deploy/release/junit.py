"""junit.xml: a test case for each gate and each step, for CI systems to show."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from xml.sax.saxutils import escape, quoteattr

from rtmo_deploy.release.gates import GateStatus
from rtmo_deploy.release.results import Status

if TYPE_CHECKING:
    from rtmo_deploy.release.gates import GateResult
    from rtmo_deploy.release.release import Release
    from rtmo_deploy.release.results import StepResult

#: Characters that XML 1.0 does not have, not even escaped.
_NO_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def xml_text(text: str) -> str:
    """The text without characters that XML cannot hold."""
    return _NO_XML.sub("�", text)


def junit_xml(release: Release) -> str:
    """The file's text.

    A gate that did not pass is a failure, one that was not measured is skipped (``strict``: a failure), one that is
    blocked is skipped; a step that failed is an error, one that was not possible here is skipped.
    """
    gates = [_gate(gate, strict=release.strict) for gate in release.gates]
    steps = [_step(result, strict=release.strict) for result in release.results.values()]
    seconds = sum(result.seconds for result in release.results.values() if result.status is not Status.CACHED)
    return (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        f"<testsuites name={_attribute(release.recipe.name)} time='{seconds:.3f}'>\n"
        f"{_suite(f'{release.recipe.name}.gates', gates, 0.0)}{_suite(f'{release.recipe.name}.steps', steps, seconds)}"
        "</testsuites>\n"
    )


def _suite(name: str, cases: list[str], seconds: float) -> str:
    counts = {tag: sum(f"<{tag} " in case for case in cases) for tag in ("failure", "error", "skipped")}
    return (
        f"<testsuite name={_attribute(name)} tests='{len(cases)}' failures='{counts['failure']}' "
        f"errors='{counts['error']}' skipped='{counts['skipped']}' time='{seconds:.3f}'>\n"
        f"{''.join(cases)}</testsuite>\n"
    )


def _gate(gate: GateResult, *, strict: bool) -> str:
    why = f"{gate.bound}; {gate.measured or 'not measured'}" + (f"; {gate.message}" if gate.message else "")
    tag = {GateStatus.PASSED: "", GateStatus.FAILED: "failure"}.get(gate.status, "failure" if strict else "skipped")
    return _case(f"gate.{gate.kind}", gate.name, 0.0, tag, f"{gate.status}: {why}", why)


def _step(result: StepResult, *, strict: bool) -> str:
    tags = {Status.FAILED: "error", Status.UNAVAILABLE: "error" if strict else "skipped", Status.BLOCKED: "skipped"}
    seconds = 0.0 if result.status is Status.CACHED else result.seconds
    return _case(
        f"step.{result.step.action}", result.name, seconds, tags.get(result.status, ""), result.message, result.message
    )


def _case(kind: str, name: str, seconds: float, tag: str, message: str, output: str) -> str:
    body = f"<{tag} message={_attribute(message)}/>" if tag else ""
    if output and not tag:
        body = f"<system-out>{escape(xml_text(output))}</system-out>"
    return f"<testcase classname={_attribute(kind)} name={_attribute(name)} time='{seconds:.3f}'>{body}</testcase>\n"


def _attribute(text: str) -> str:
    return quoteattr(xml_text(text))
