"""JUnit files, which CI systems show."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from typing import TYPE_CHECKING, Literal, NamedTuple

from rtmo_deploy.report.html import xml_text

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


class Case(NamedTuple):
    """A test case; ``problem`` is empty where it passed, and then ``output`` is shown."""

    kind: str
    name: str
    seconds: float = 0.0
    problem: Literal["", "failure", "error", "skipped"] = ""
    message: str = ""
    output: str = ""


def junit(name: str, suites: Mapping[str, Sequence[Case]]) -> str:
    """The text of a JUnit file with suites of test cases, ``<name>.<suite>``."""
    total = sum(case.seconds for cases in suites.values() for case in cases)
    root = ET.Element("testsuites", name=name, time=f"{total:.3f}")
    for title, cases in suites.items():
        problems = [case.problem for case in cases]
        suite = ET.SubElement(
            root,
            "testsuite",
            name=f"{name}.{title}",
            tests=str(len(cases)),
            failures=str(problems.count("failure")),
            errors=str(problems.count("error")),
            skipped=str(problems.count("skipped")),
            time=f"{sum(case.seconds for case in cases):.3f}",
        )
        for case in cases:
            element = ET.SubElement(suite, "testcase", classname=case.kind, name=case.name, time=f"{case.seconds:.3f}")
            if case.problem:
                ET.SubElement(element, case.problem, message=case.message)
            elif case.output:
                ET.SubElement(element, "system-out").text = case.output
    ET.indent(root)
    return xml_text(f'<?xml version="1.0" encoding="UTF-8"?>\n{ET.tostring(root, encoding="unicode")}\n')
