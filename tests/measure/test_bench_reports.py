"""CSV, Markdown, HTML and plots of results that nobody has run."""

from __future__ import annotations

import csv
import io
import math
import re
from html.parser import HTMLParser

import pytest
from bench_results import entry, noisy, opened, result, simple
from hypothesis import given
from hypothesis import strategies as st

from rtmo_deploy.measure.bench import Case, Protocol, compare_with_baseline
from rtmo_deploy.measure.bench.report import (
    CSV_COLUMNS,
    baseline_table,
    charts,
    milliseconds,
    result_tables,
    to_csv,
    to_html,
    to_markdown,
)
from rtmo_deploy.measure.bench.result import PublishedLatency
from rtmo_deploy.report.charts import nice_ticks

HOSTILE = '<script>alert("x")</script>|`*_[](http://evil.example)\n# "&\''
VOID = {"meta", "br", "img", "hr", "link", "input"}


def sweep(label=None):
    """Two contenders with 0, 4 and 30 people."""
    entries = []
    for number, people in enumerate((0, 4, 30)):
        case = Case(people=people)
        one = opened("PyTorch (m.pth)", reference=True, kind="checkpoint")
        entries.append(entry(one, case, noisy(40.0 + people, seed=number)))
        entries.append(entry(opened(label) if label else opened(), case, noisy(20.0 + people, seed=number)))
    return result(entries, people=(0, 4, 30), warnings=("The machine was busy.",))


class Page(HTMLParser):
    """Checks that tags are closed in order, and collects what a browser would fetch or run."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.fetched, self.text = [], [], [], []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        for name, value in attributes:
            assert not name.startswith("on"), (tag, name)
            if name in {"src", "href", "xlink:href", "action", "data", "srcset"}:
                self.fetched.append(value)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def checked(text):
    page = Page(text)
    assert not page.fetched
    assert "script" not in page.tags
    assert not re.search(r"url\(|@import|https?:", text.replace("http://evil.example", ""))
    return page


def test_the_page_is_whole_and_fetches_nothing():
    page = checked(to_html(sweep()))
    assert page.tags.count("table") == 1 + 6
    assert "The machine was busy." in "".join(page.text)
    assert "ab" * 32 in "".join(page.text)
    text = to_html(sweep())
    assert "prefers-color-scheme: dark" in text
    assert "@media print" in text
    assert 'name="viewport"' in text


def test_the_page_has_the_plot_of_people():
    titles = [title for title, _, _ in charts(sweep())]
    assert titles == ["Stages", "Latency by people"]
    drawn = charts(sweep())[1][1]
    assert drawn.count("<polyline") == 2
    assert "at 30</title>" in drawn


def test_sweeps_of_batch_and_threads_have_plots_too():
    entries = [
        entry(opened(), Case(batch, threads), noisy(10.0 * batch / threads))
        for batch in (1, 2)
        for threads in (1, 2, 4)
    ]
    found = {title: drawn for title, drawn, _ in charts(result(entries))}
    assert set(found) == {"Stages", "Latency by batch", "Latency by threads"}
    assert found["Latency by batch"].count("<polyline") == 3
    assert "threads 4" in found["Latency by batch"]


def test_no_plot_of_one_point():
    assert [title for title, _, _ in charts(simple())] == ["Stages"]


def test_names_are_text_and_nothing_else():
    hostile = sweep(HOSTILE)
    page = checked(to_html(hostile))
    assert "alert" in "".join(page.text)
    text = to_markdown(hostile)
    assert "<script" not in text
    table = text.split("## From the file to the poses")[1].split("A call is one batch")[0].strip().splitlines()
    assert len({len(re.findall(r"(?<!\\)\|", line)) for line in table}) == 1
    assert len(table) == 2 + 6


def test_csv_has_every_stage():
    rows = list(csv.DictReader(io.StringIO(to_csv(sweep(HOSTILE)))))
    assert list(rows[0]) == list(CSV_COLUMNS)
    assert len(rows) == 6 * 4
    last = rows[-1]
    assert (last["stage"], last["people"], last["contender"]) == ("total", "30", HOSTILE)
    assert float(last["p50_ms"]) == pytest.approx(50, rel=0.05)
    assert float(last["ratio_low"]) < float(last["ratio"]) < float(last["ratio_high"])
    assert rows[0]["ratio"] == ""


def test_published_figures_stand_beside_and_are_not_divided():
    figure = PublishedLatency("rtmo-s", 8.9, "one V100", same_hardware=False, differences=("the input is 64x64",))
    shown = result(
        [entry(opened(), Case(), noisy(4.45), stages=("network+NMS+DCC",))],
        published={"m.onnx (onnxruntime)": figure},
        protocol=Protocol.V100,
    )
    table = result_tables(shown)[1]
    assert table.rows[0][2:] == ("rtmo-s", "8.9", "not comparable: other hardware; the input is 64x64")
    checked(to_html(shown))
    for text in (to_html(shown), to_markdown(shown), to_csv(shown)):
        assert "2.0" not in re.sub(r"<style>.*?</style>", "", text, flags=re.DOTALL).replace("2.00 GiB", "")


def test_the_verdict_is_in_the_reports():
    now, before = simple(24.0, seed=5), simple(20.0)
    report = compare_with_baseline(now.to_dict(), before.to_dict(), 0.05, file="base.json")
    assert baseline_table(report).rows[1][4].startswith("SLOWER (")
    assert "Against base.json: slower" in "".join(checked(to_html(now, report)).text)
    assert "SLOWER" in to_markdown(now, report)


def test_drawing_comes_after_the_total():
    stages = [row[0] for row in result_tables(simple())[1].rows]
    assert stages == ["decode file", "network", "NMS+DCC", "file to poses", "draw"]


@given(st.floats(1e-9, 1e9))
def test_ticks_are_round_and_reach_the_top(top):
    ticks = nice_ticks(top)
    assert ticks[0] == 0
    assert ticks[-1] >= top * (1 - 1e-6)
    assert 2 <= len(ticks) <= 7
    step = ticks[1]
    assert any(math.isclose(step / 10 ** math.floor(math.log10(step) + 1e-9), f, rel_tol=1e-6) for f in (1, 2, 2.5, 5))


@pytest.mark.parametrize(
    ("value", "text"), [(0.012345, "0.0123"), (4.5612, "4.56"), (45.678, "45.7"), (789.4, "789"), (1234.5, "1234")]
)
def test_milliseconds(value, text):
    assert milliseconds(value) == text
