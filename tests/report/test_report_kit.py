"""Charts, tables and JUnit files of the report kit, with names that nobody should have."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET

import pytest

from rtmo_deploy.report.charts import bars, lines, pairs, percentiles, provenance, ratios
from rtmo_deploy.report.html import number, xml_text
from rtmo_deploy.report.junit import Case, junit
from rtmo_deploy.report.table import Table

HOSTILE = 'a <b>&"c"</b> | `d` \u0007'
TIMES = {"min": 1.0, "p50": 2.0, "p90": 2.5, "p95": None, "p99": None}


@pytest.mark.parametrize(
    "chart",
    [
        lines(HOSTILE, HOSTILE, {HOSTILE: [(1, 2.0, 3.0), (4, 2.5, 2.5)], "one": [(2, 0.5, 0.6)]}),
        lines("one point", "x", {"a": [(0, 1.0, 1.0)]}),
        bars(HOSTILE, {HOSTILE: ({"": 3.0}, HOSTILE), "nothing": ({"": 0.0}, "0")}),
        bars("stages", {"a": ({HOSTILE: 1.0, "y": 2.0}, "3"), "b": ({"y": 1.0}, "1")}),
        percentiles(HOSTILE, {HOSTILE: TIMES, "b": {**TIMES, "p95": 3.0, "p99": 4.0}}),
        provenance(HOSTILE, {"source": (HOSTILE, "source"), HOSTILE: ("x", "done")}, [("source", HOSTILE)]),
        pairs(HOSTILE, {HOSTILE: ((3.0, HOSTILE), (0.0, "0"))}, ("OLD", "NEW")),
        ratios(HOSTILE, {HOSTILE: (1.5, 1.4, 1.6, True), "b": (0.5, 0.5, 0.5, False)}, 1.05),
        bars("empty", {}),
        pairs("empty", {}, ("OLD", "NEW")),
        ratios("empty", {}),
        provenance("empty", {}, []),
    ],
)
def test_a_chart_is_svg_with_its_names_as_text(chart):
    root = ET.fromstring(xml_text(chart))
    assert root.tag == "svg"
    assert root.find("title").text
    assert re.fullmatch(r"0 0 [\d.]+ [\d.]+", root.get("viewBox"))
    assert not list(root.iter("b"))
    assert "nan" not in chart


def test_stacked_bars_name_their_parts():
    root = ET.fromstring(bars("stages", {"a": ({"x": 1.0, "y": 2.0}, "3 ms"), "b": ({"y": 1.0}, "1 ms")}))
    titles = [title.text for title in root.iter("title")]
    assert titles == ["stages", "x: 1", "y: 2", "y: 1", "x", "y"]
    colours = [rect.get("class") for rect in root.iter("rect")]
    assert colours == ["fill c0", "fill c1", "fill c1", "fill c0", "fill c1"]


def test_a_table_is_text_in_markdown():
    table = Table("Title", ("name", "value"), [(HOSTILE, "1.5"), ("[red]x", "")])
    lined = table.markdown()
    assert lined[:2] == ["| name | value |", "| --- | ---: |"]
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in lined} == {3}
    assert "<b>" not in "".join(lined)
    assert lined[3].endswith("| - |")


def test_junit_counts_and_holds_any_text():
    cases = [
        Case("k", "good", 1.0, output=HOSTILE),
        Case("k", "bad", 0.5, "failure", HOSTILE),
        Case("k", "gone", problem="skipped"),
        Case("k", "broken", problem="error", message="x"),
    ]
    root = ET.fromstring(junit("n", {"one": cases, "none": []}))
    first, second = root
    assert first.get("name") == "n.one"
    assert {name: first.get(name) for name in ("tests", "failures", "errors", "skipped", "time")} == {
        "tests": "4",
        "failures": "1",
        "errors": "1",
        "skipped": "1",
        "time": "1.500",
    }
    assert second.get("tests") == "0"
    assert first.find(".//failure").get("message") == HOSTILE.replace("\u0007", "�")
    assert first.find(".//system-out").text == HOSTILE.replace("\u0007", "�")


def test_numbers():
    assert [number(value) for value in (3, 0.123456, None, "x")] == ["3", "0.1235", "-", "-"]
    assert number(0.5, ".4f") == "0.5000"


def test_nobody_is_mentioned_by_a_table():
    assert "@somebody" not in "".join(Table("", ("a", "b"), [("@somebody", "x")]).markdown())
