"""The documentation as pages: they build without a warning, fit a phone, fetch nothing from elsewhere, can be searched."""

from __future__ import annotations

import functools
import importlib.util
import subprocess
import sys
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from browsers import Opened, chromium, needs_chromium

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
    run = (site / "reference" / "python" / "index.html").read_text(encoding="utf-8")
    for text in ('id="rtmo_deploy.RTMO"', 'id="rtmo_deploy.Poses.to_coco"', "Pixels that an image"):
        assert text in run or text == "Pixels that an image"
    assert ":class:`" not in run
    assert "RTMO._" not in run
    commands = (site / "reference" / "cli" / "index.html").read_text(encoding="utf-8")
    assert 'id="data-synth"' in commands


@needs_chromium
@pytest.mark.slow
def test_every_page_fits_a_phone_and_fetches_nothing_from_elsewhere(site, address, playwright, tmp_path):
    places = sorted(path.relative_to(site).parent.as_posix() for path in site.rglob("index.html"))
    titles = {}
    with chromium(playwright, tmp_path, viewport={"width": 390, "height": 800}) as context:
        opened = Opened(context, address, ready=None)
        for place in places:
            opened.page.goto(f"{address}{place}/" if place != "." else address)
            width = opened.page.evaluate("document.documentElement.scrollWidth")
            assert width <= 390, place
            titles.setdefault(opened.page.title(), []).append(place)
            assert opened.page.locator("meta[name=description]").get_attribute("content")
            assert opened.page.locator("h1").count() == 1, place
        assert opened.problems == []
        assert not [url for url in opened.requests if not url.startswith(address)]
    assert not [where for where in titles.values() if len(where) > 1]


@needs_chromium
def test_search_finds_a_page_by_the_keyboard(address, playwright, tmp_path):
    with chromium(playwright, tmp_path) as context:
        opened = Opened(context, address, ready=None)
        opened.page.keyboard.press("/")
        opened.page.keyboard.type("letterbox")
        result = opened.page.locator(".md-search-result__link").first
        result.wait_for()
        opened.page.keyboard.press("ArrowDown")
        opened.page.keyboard.press("Enter")
        opened.page.wait_for_url("**h=letterbox**")
        assert opened.problems == []


@needs_chromium
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_colours_follow_the_system(address, playwright, tmp_path, scheme):
    with chromium(playwright, tmp_path, color_scheme=scheme) as context:
        opened = Opened(context, address, ready=None)
        wanted = {"light": "default", "dark": "slate"}[scheme]
        assert opened.page.locator("body").get_attribute("data-md-color-scheme") == wanted
