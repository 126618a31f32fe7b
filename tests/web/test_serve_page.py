"""The server's page, in Chromium, against a stand-in of the server."""

from __future__ import annotations

import re

import cv2
import pytest
from browsers import Opened, assert_same_people, chromium, needs_chromium
from stand_in import StandIn

from rtmo_deploy import RTMO

pytestmark = needs_chromium


@pytest.fixture(scope="module")
def model(onnx_n):
    return RTMO(onnx_n, threads=1)


@pytest.fixture(scope="module")
def browser(playwright, pictures, tmp_path_factory):
    frames = [cv2.resize(cv2.imread(str(pictures[1])), (960, 600))] * 4
    with chromium(
        playwright, tmp_path_factory.mktemp("browser"), frames=frames, viewport={"width": 1000, "height": 900}
    ) as context:
        yield context


def test_an_image(browser, model, pictures):
    server = StandIn(model, busy=2)
    with server.running() as address:
        opened = Opened(browser, address)
        for picture in pictures[:3]:
            assert_same_people(opened.choose(picture), model(cv2.imread(str(picture)), score_thr=0.3), pixels=1e-3)
        assert server.asked == [{"score_thr": "0.3"}] * 3
        assert opened.page.locator("#note").inner_text() == "A note <of> the model."
        assert "onnxruntime" in opened.page.locator("#model").inner_text()
        assert "waiting" in opened.page.locator("#timings").inner_text()
        opened.set_range("score", 0.5)
        opened.results(1)
        assert server.asked[-1] == {"score_thr": "0.5"}
        server.busy = 3
        opened.choose(pictures[0])
        assert server.busy == 0
        # What the browser logs of the answers 503 is no problem of the page.
        assert [line for line in opened.problems if "503" not in line] == []
        assert {url.split("/")[2] for url in opened.requests if url.startswith("http")} == {address.split("/")[2]}
        opened.page.close()


def test_errors_are_told(browser, model, tmp_path):
    server = StandIn(model)
    with server.running() as address:
        opened = Opened(browser, address)
        broken = tmp_path / "broken.jpg"
        broken.write_bytes(b"\xff\xd8\xff no image")
        opened.page.set_input_files("#file", broken)
        opened.wait_for_status("It is no image. Send a JPEG.")
        large = tmp_path / "large.jpg"
        large.write_bytes(bytes(2_000_001))
        opened.page.set_input_files("#file", large)
        opened.wait_for_status("the server takes 2000000")
        server.busy = 100
        opened.page.set_input_files("#file", broken)
        opened.wait_for_status("Too many requests. Try again.")
    opened.page.set_input_files("#file", broken)
    opened.wait_for_status("The server does not answer.")
    opened.page.close()


def test_the_key(browser, model, pictures):
    key = "schlüssel/+ 1"
    server = StandIn(model, key=key)
    # A header holds no such letter; the subprotocol does.
    server.key = key.encode().decode("latin-1").encode("ascii", "ignore").decode()
    with server.running() as address:
        opened = Opened(browser, address, ready="asks for a key")
        field = opened.page.get_by_label("API key")
        assert field.get_attribute("type") == "password"
        field.fill("wrong")
        opened.page.keyboard.press("Enter")
        opened.wait(lambda: field.is_visible() and not field.input_value())
        field.fill(server.key)
        opened.page.get_by_role("button", name="Use this key").click()
        opened.wait_for_status("Ready")
        assert opened.choose(pictures[0])["people"]
        opened.page.locator("#webcam").click()
        assert opened.results(2)[-1]["people"]
        assert opened.page.evaluate(
            "JSON.stringify([localStorage.length, sessionStorage.length, document.cookie])"
        ) == ('[0,0,""]')
        opened.page.close()


def test_who_closes_the_question_for_the_key_is_asked_again(browser, model, pictures):
    with StandIn(model, key="abc").running() as address:
        opened = Opened(browser, address, ready="asks for a key")
        for _ in range(2):
            opened.page.keyboard.press("Escape")
            opened.wait_for_status("No key was given.")
            opened.page.set_input_files("#file", pictures[0])
            opened.wait_for_status("asks for a key")
        opened.page.get_by_label("API key").fill("abc")
        opened.page.keyboard.press("Enter")
        assert opened.results(1)[-1]["people"]
        assert opened.page.locator("#webcam").is_enabled()
        opened.page.close()


def test_the_webcam(browser, model, pictures):
    server = StandIn(model, unread=[1, 3])
    with server.running() as address:
        opened = Opened(browser, address)
        opened.page.locator("#webcam").click()
        opened.wait_for_status("people found.")
        results = opened.results(6)
        assert server.sizes == {(640, 400)}  # at most 640 wide
        assert server.asked == [{"score_thr": "0.3", "track": "1", "smooth": "1"}]
        assert [result["frame"] for result in results] == sorted(result["frame"] for result in results)
        assert not {1, 3} & {result["frame"] for result in results}
        frame = cv2.resize(cv2.imread(str(pictures[1])), (640, 400))
        assert abs(len(results[-1]["people"]) - len(model(frame, score_thr=0.3))) <= 2
        assert results[-1]["people"][0]["track_id"] == 1
        assert "id 1" in opened.page.locator("#people").inner_text()
        opened.page.locator("#track").uncheck()
        opened.wait(lambda: len(server.asked) == 2)
        assert server.asked[-1]["track"] == "0"
        opened.wait(lambda: "id 1" not in opened.page.locator("#people").inner_text())
        opened.page.locator("#webcam").click()
        opened.wait_for_status("The webcam is off.")
        seen = server.frames
        opened.page.wait_for_timeout(500)
        assert server.frames <= seen + 2
        assert opened.problems == []
        # An image after the webcam.
        assert opened.choose(pictures[0])["people"]
        opened.page.close()


def test_what_a_screen_reader_is_told(browser, model, pictures):
    with StandIn(model).running() as address:
        opened = Opened(browser, address)
        people = len(opened.choose(pictures[0])["people"])
        told = opened.page.locator("body").aria_snapshot()
        for line in (
            'checkbox "Ids on the webcam" [checked]',
            'checkbox "Smooth on the webcam" [checked]',
            f"status: {people} people found in",
            f'img "{people} people. Person 1:',
        ):
            assert line in told, told
        opened.page.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1000, 360])
def test_it_fits(browser, model, pictures, scheme, width):
    with StandIn(model).running() as address:
        opened = Opened(browser, address)
        opened.page.emulate_media(color_scheme=scheme)
        opened.page.set_viewport_size({"width": width, "height": 800})
        opened.choose(pictures[4])
        assert opened.page.evaluate("document.documentElement.scrollWidth") <= width
        colours = [
            opened.page.evaluate(f"getComputedStyle(document.body).{name}") for name in ("backgroundColor", "color")
        ]
        page, ink = (sum(map(int, re.findall(r"\d+", colour))) for colour in colours)
        assert (page < ink) == (scheme == "dark")
        opened.page.close()
