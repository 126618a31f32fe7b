"""The documentation as pages: they build, fit a phone, fetch nothing from elsewhere, and can be searched."""

from __future__ import annotations

import functools
import importlib.util
import re
import subprocess
import sys
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from browsers import Opened, chromium, needs_chromium

#: What is cut off at the right: the page itself does not scroll, only tables and code do.
CUT_OFF = """() => [...document.querySelectorAll('.md-content *')].filter(element => {
    const place = element.getBoundingClientRect();
    if (!place.width || place.right <= innerWidth + 1) return false;
    for (let at = element; at; at = at.parentElement)
        if (['auto', 'scroll'].includes(getComputedStyle(at).overflowX)) return false;
    return true;
}).map(element => element.tagName + ' ' + element.textContent.slice(0, 60))"""
ROOT = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("mkdocs", "material", "mkdocstrings")),
    reason="needs MkDocs: pip install '.[docs]'",
)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The built pages; a broken link, a missing anchor and a page that no list names are errors."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def address(site):
    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(site))) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()
        thread.join()


def test_the_pages_are_there(site):
    pages = {path.relative_to(site).as_posix() for path in site.rglob("index.html")}
    assert {"index.html", "quickstart/index.html", "reference/cli/index.html", "guides/release/index.html"} <= pages
    assert not (site / "tools").exists()
    pages = (site / "reference" / "python").rglob("*.html")
    api = {path.parent.name: path.read_text(encoding="utf-8") for path in pages}
    for page, name in (("python", "RTMO"), ("python", "Poses.to_coco"), ("measure", "measure.bench.run_bench")):
        assert f'id="rtmo_deploy.{name}"' in api[page]
    assert "ONNX operator set, 17 to 20." in api["python"]  # the description of a field without a docstring
    for page, text in api.items():
        assert not re.search(r":(class|func|meth|mod):|&gt;&gt;&gt; [^<]*<br", text), page
        assert not re.search(r'id="rtmo_deploy[\w.]*\._[a-z]', text), page
    commands = (site / "reference" / "cli" / "index.html").read_text(encoding="utf-8")
    assert 'id="data-synth"' in commands


@needs_chromium
@pytest.mark.slow
def test_every_page_fits_a_phone_and_fetches_nothing_from_elsewhere(site, address, playwright, tmp_path):
    places = sorted(path.relative_to(site).parent.as_posix() for path in site.rglob("index.html"))
    titles, descriptions = {}, {}
    with chromium(playwright, tmp_path, viewport={"width": 390, "height": 800}) as context:
        opened = Opened(context, address, ready=None)
        for place in places:
            opened.page.goto(f"{address}{place}/" if place != "." else address)
            assert opened.page.evaluate(CUT_OFF) == [], place
            titles.setdefault(opened.page.title(), []).append(place)
            description = opened.page.locator("meta[name=description]").get_attribute("content")
            descriptions.setdefault(description, []).append(place)
            assert opened.page.locator("h1").count() == 1, place
        assert opened.problems == []
        assert not [url for url in opened.requests if not url.startswith(address)]
    assert not [where for where in titles.values() if len(where) > 1]
    assert not [where for where in descriptions.values() if len(where) > 1]


def search(opened, text):
    """Type a search; returns when there is a result."""
    opened.page.keyboard.press("/")
    opened.page.keyboard.type(text)
    opened.page.locator(".md-search-result__link").first.wait_for()


@needs_chromium
def test_search_finds_a_page_by_the_keyboard(address, playwright, tmp_path):
    with chromium(playwright, tmp_path) as context:
        opened = Opened(context, address, ready=None)
        search(opened, "letterbox")
        opened.page.keyboard.press("ArrowDown")
        opened.page.keyboard.press("Enter")
        opened.page.wait_for_url("**h=letterbox**")
        assert opened.problems == []


@needs_chromium
def test_search_finds_an_option(address, playwright, tmp_path):
    with chromium(playwright, tmp_path) as context:
        opened = Opened(context, address, ready=None)
        search(opened, "--max-ap-drop")
        assert opened.problems == []


@needs_chromium
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_colours_follow_the_system(address, playwright, tmp_path, scheme):
    with chromium(playwright, tmp_path, color_scheme=scheme) as context:
        opened = Opened(context, address, ready=None)
        wanted = {"light": "default", "dark": "slate"}[scheme]
        assert opened.page.locator("body").get_attribute("data-md-color-scheme") == wanted
