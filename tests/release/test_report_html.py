"""The report without JavaScript: everything is in the file, plots are SVG, and a browser with scripts off shows it."""

from __future__ import annotations

import re
import shutil
import subprocess
import xml.etree.ElementTree as ET

import cv2
import pytest
from release_toys import RECIPE, ToyActions, make

#: What a browser draws of an SVG.
MARKS = {"path", "rect", "circle", "line", "polyline", "polygon"}
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.fixture(scope="module")
def failed(tmp_path_factory):
    """A release with something of everything: a failed gate with its cause, a step that could not be made."""
    actions = ToyActions(
        fail={"fp16": "absent"},
        ap={"int8": 0.1},
        change={"accuracy:int8": {"causes": ["People fit the annotations as if left & right were swapped."]}},
    )
    return make(tmp_path_factory.mktemp("report"), RECIPE, actions)


@pytest.fixture(scope="module")
def page(failed):
    return (failed.folder / "report.html").read_text(encoding="utf-8")


def tree(text):
    return ET.fromstring(text.removeprefix("<!DOCTYPE html>\n"))


def test_nothing_waits_for_a_script(page):
    root = tree(page)
    for element in root.iter():
        assert element.tag not in {"script", "noscript", "template", "canvas", "dialog", "button", "input", "select"}
        assert "hidden" not in element.attrib
        assert not any(name.startswith("on") for name in element.attrib)
        assert not element.get("href", "").lower().startswith("javascript:")
    style = root.find("head/style").text
    assert not re.search(r"display:\s*none|visibility:\s*hidden|opacity:\s*0[;}]", style)


def test_all_that_was_judged_is_text(failed, page):
    said = " ".join("".join(tree(page).itertext()).split())
    assert len(failed.gates) > 4
    for gate in failed.gates:
        for text in (gate.name, gate.status.value, gate.bound, gate.measured, gate.message):
            assert text in said
    assert "left & right were swapped" in said
    assert "people with a score above 0.5 count. Shown are the worst images, with people above 0.5." in said
    for result in failed.results.values():
        assert result.name in said
        assert result.message in said
        for file in result.files:
            if result.step.kind == "artifact":
                assert file.sha256 in said


def test_plots_are_svg_and_their_numbers_are_text_too(page):
    root = tree(page)
    plots = list(root.iter("svg"))
    assert len(plots) >= 4
    for plot in plots:
        assert plot.find("title").text
        assert MARKS & {element.tag for element in plot.iter()}
        assert any(text.strip() for text in plot.itertext())
        assert re.fullmatch(r"[\d. -]+", plot.get("viewBox"))
    headings = {heading.text for heading in root.iter("h2")}
    assert {"Gates", "Accuracy", "Latency: cpu", "Sizes", "Parity", "Provenance"} <= headings
    for section in root.iter("section"):
        if section.find("h2").text.startswith(("Latency", "Accuracy")):
            assert section.find(".//svg") is not None
            assert section.find(".//table") is not None


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium, which is not there")
def test_a_browser_with_scripts_off_shows_it(failed, page, tmp_path):
    picture = tmp_path / "page.png"
    policy = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"  # no scripts, and nothing from elsewhere
    locked = tmp_path / "locked.html"
    locked.write_text(
        page.replace("<head>", f'<head><meta http-equiv="Content-Security-Policy" content="{policy}" />', 1)
    )
    assert policy in locked.read_text()
    options = ("--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars")
    where = (f"--user-data-dir={tmp_path / 'profile'}", "--window-size=900,3000", f"--screenshot={picture}")
    done = subprocess.run(
        [CHROMIUM, *options, *where, locked.as_uri()],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert picture.is_file(), done.stderr
    image = cv2.imread(str(picture))
    rows = [band.std() for band in image.reshape(30, 100, *image.shape[1:])]
    assert image.shape == (3000, 900, 3)
    assert sum(spread > 5 for spread in rows) > 20, "most of the page is empty"
