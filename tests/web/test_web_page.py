"""The page that finds people in the browser itself, in Chromium: what Python finds, and how it is used."""

from __future__ import annotations

import base64
import functools
import http.server
import subprocess
import sys
import threading

import cv2
import numpy as np
import pytest
from browsers import RUNTIME, WEBGPU, Opened, assert_same_people, chromium, needs_chromium, needs_runtime

from rtmo_deploy import RTMO
from rtmo_deploy.convert.options import ExportOptions
from rtmo_deploy.model import load_checkpoint
from rtmo_deploy.package import web
from rtmo_deploy.package.web import export_web

pytestmark = [needs_chromium, needs_runtime]
THRESHOLD = 0.3


@pytest.fixture(scope="module")
def folder(checkpoint_n, tmp_path_factory):
    made = tmp_path_factory.mktemp("page") / "made"
    export_web(load_checkpoint(checkpoint_n), made, ExportOptions(), ort=RUNTIME, fp16=True, verify=False)
    return made


@pytest.fixture(scope="module")
def address(folder):
    command = [sys.executable, str(folder / "serve.py"), "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as server:
        yield server.stdout.readline().strip()
        server.kill()


@pytest.fixture(scope="module")
def model(folder):
    return RTMO(folder / web.MODEL)


@pytest.fixture(scope="module")
def browser(playwright, pictures, tmp_path_factory):
    frames = [cv2.resize(cv2.imread(str(pictures[1])), (640, 400))] * 4
    with chromium(
        playwright, tmp_path_factory.mktemp("browser"), frames=frames, viewport={"width": 1000, "height": 900}
    ) as context:
        yield context


@pytest.fixture(scope="module")
def opened(browser, address):
    return Opened(browser, f"{address}?backend=wasm&threads=2")


@pytest.fixture(autouse=True)
def nothing_wrong(request):
    yield
    if "opened" in request.fixturenames:
        assert request.getfixturevalue("opened").problems == []


def best(model, image):
    return model(image, score_thr=THRESHOLD)


def test_five_images(opened, model, pictures):
    for picture in pictures:
        result = opened.choose(picture)
        poses = best(model, picture)
        assert_same_people(result, poses)
        assert f"{len(poses)} " in opened.status
        assert result["timings_ms"]["total"] >= result["timings_ms"]["inference"] > 0
    facts = opened.page.locator("#model").inner_text()
    assert "WASM" in facts
    assert "CPU, 2 threads" in facts
    assert {url.split("/")[2] for url in opened.requests if url.startswith("http")} == {
        opened.page.url.split("/")[2]
    }  # nothing from elsewhere


def test_an_image_that_is_given_while_the_model_loads(opened, model, pictures):
    early = Opened(opened.page.context, opened.page.url, ready=None)
    early.page.set_input_files("#file", pictures[0])
    assert "Loading the model, then looking at" in early.status
    assert_same_people(early.results(1)[0], best(model, pictures[0]))
    assert "people found" in early.status
    early.page.close()


#: Drops image files on the page, one right after the other.
DROP = """(images) => images.forEach((image) => {
  const bytes = Uint8Array.from(atob(image), (letter) => letter.charCodeAt(0));
  const dataTransfer = new DataTransfer();
  dataTransfer.items.add(new File([bytes], "image.png", { type: "image/png" }));
  document.dispatchEvent(new DragEvent("drop", { dataTransfer, bubbles: true, cancelable: true }));
})"""


def drop(opened, images):
    opened.page.evaluate(DROP, [base64.b64encode(image.read_bytes()).decode() for image in images])


def test_the_last_of_several_images_wins(opened, model, pictures):
    opened.page.evaluate("found.length = 0")
    drop(opened, [*pictures[:3], pictures[1]])
    (result,) = opened.results(1)
    assert_same_people(result, best(model, pictures[1]))
    opened.page.wait_for_timeout(1000)
    assert opened.page.evaluate("found.length") == 0
    assert opened.page.locator("#main").get_attribute("aria-busy") == "false"


def test_what_is_drawn(opened, pictures):
    opened.choose(pictures[0])
    drawn = opened.page.evaluate(
        "Array.from(stage.getContext('2d').getImageData(0, 0, stage.width, stage.height).data)"
    )
    drawn = np.array(drawn, np.uint8).reshape(256, 256, 4)[..., 2::-1]
    changed = np.abs(drawn.astype(int) - cv2.imread(str(pictures[0]))).max(axis=2) > 30
    assert 0.01 < changed.mean() < 0.9
    for name in ("boxes", "labels"):
        opened.page.locator(f"#{name}").uncheck()
    opened.set_range("keypoint", 0.95)
    bare = opened.page.evaluate("Array.from(stage.getContext('2d').getImageData(0, 0, stage.width, stage.height).data)")
    bare = np.array(bare, np.uint8).reshape(256, 256, 4)[..., 2::-1]
    fewer = np.abs(bare.astype(int) - cv2.imread(str(pictures[0]))).max(axis=2) > 30
    assert fewer.mean() < 0.5 * changed.mean()
    for name in ("boxes", "labels"):
        opened.page.locator(f"#{name}").check()
    opened.set_range("keypoint", 0.3)


def test_the_score_threshold(opened, model, pictures):
    opened.choose(pictures[0])
    poses = model(pictures[0], score_thr=0.1)
    threshold = float(np.median(poses.scores).round(1))
    opened.set_range("score", threshold)
    (result,) = opened.results(1)
    assert_same_people(result, poses[poses.scores > threshold])
    opened.set_range("score", THRESHOLD)
    opened.results(1)


def dropped(opened, path, kind, mime):
    opened.page.evaluate("found.length = 0")
    opened.page.evaluate(
        """([bytes, name, kind, mime]) => {
            const data = new DataTransfer();
            data.items.add(new File([new Uint8Array(bytes)], name, { type: mime }));
            const how = { bubbles: true, cancelable: true };
            const event = kind === "paste" ? new ClipboardEvent(kind, { ...how, clipboardData: data })
                : new DragEvent(kind, { ...how, dataTransfer: data });
            document.getElementById("drop").dispatchEvent(event);
        }""",
        [list(path.read_bytes()), path.name, kind, mime],
    )


@pytest.mark.parametrize("kind", ["drop", "paste"])
def test_an_image_is_dropped_or_pasted(opened, model, pictures, kind):
    dropped(opened, pictures[2], kind, "image/png")
    assert_same_people(opened.results(1)[0], best(model, pictures[2]))


def test_what_is_no_image(opened, tmp_path):
    text = tmp_path / "words.txt"
    text.write_text("no image")
    dropped(opened, text, "drop", "text/plain")
    opened.wait_for_status("That is not an image.")
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"\xff\xd8\xff no image")
    opened.page.set_input_files("#file", broken)
    opened.wait_for_status("cannot read the image")
    assert opened.page.locator("#main").get_attribute("aria-busy") == "false"


def test_an_image_that_is_turned_by_its_exif(opened, model, tmp_path):
    from PIL import Image

    path = tmp_path / "turned.png"
    exif = Image.Exif()
    exif[0x0112] = 6
    noise = np.random.default_rng(0).integers(0, 256, (120, 200, 3), dtype=np.uint8)
    Image.fromarray(cv2.resize(noise[::40, ::40], (200, 120))).save(path, exif=exif)
    result = opened.choose(path)
    assert (result["width"], result["height"]) == (120, 200)
    assert len(result["people"]) == len(best(model, path))


def test_the_webcam(opened, model, pictures):
    opened.page.locator("#webcam").click()
    results = opened.results(3)
    assert all((result["width"], result["height"]) == (640, 400) for result in results)
    frame = cv2.imdecode(cv2.imencode(".jpg", cv2.resize(cv2.imread(str(pictures[1])), (640, 400)))[1], 1)
    assert abs(len(results[-1]["people"]) - len(best(model, frame))) <= 2
    assert results[-1]["people"]
    assert opened.page.locator("#webcam").get_attribute("aria-pressed") == "true"
    assert "a second" in opened.page.locator("#timings").inner_text()
    opened.page.keyboard.press("Escape")
    opened.wait_for_status("The webcam is off.")
    assert opened.page.locator("#webcam").get_attribute("aria-pressed") == "false"


def test_the_keyboard(opened, pictures):
    page = opened.page
    # Listened to from the start: Chromium is told so while the test goes on, and a key pressed at once is faster.
    choosers = []
    page.on("filechooser", lambda chooser: choosers.append(chooser.is_multiple()))
    opened.choose(pictures[0])
    page.locator(".skip").focus()
    stops = []
    for _ in range(7):
        page.keyboard.press("Tab")
        stops.append(page.evaluate("document.activeElement.id || document.activeElement.className"))
    assert stops == ["file", "webcam", "save", "score", "keypoint", "boxes", "labels"]
    style = "getComputedStyle(document.activeElement).outlineStyle"
    assert page.evaluate(style) == "solid"
    page.locator("#file").focus()
    page.keyboard.press("Tab")
    page.keyboard.press("Shift+Tab")
    assert page.evaluate("getComputedStyle(document.activeElement.parentElement).outlineStyle") == "solid"
    page.keyboard.press("Enter")
    opened.wait(lambda: choosers == [False])
    page.locator("#boxes").focus()
    page.keyboard.press("Space")
    assert not page.locator("#boxes").is_checked()
    page.keyboard.press("Space")


def test_what_a_screen_reader_is_told(opened, model, pictures):
    opened.choose(pictures[0])
    people = len(best(model, pictures[0]))
    told = opened.page.locator("body").aria_snapshot()
    for line in (
        'button "Choose an image"',
        'button "Start webcam"',
        'slider "Person score above"',
        'checkbox "Boxes" [checked]',
        f"status: {people} people found in",
        f'img "{people} people. Person 1:',
        'list "People found"',
    ):
        assert line in told, told
    assert opened.page.locator("#people li").count() == people
    assert opened.page.locator("#status").get_attribute("aria-live") == "polite"


def test_a_plain_server_is_enough(folder, browser, model, pictures):
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    handler = functools.partial(Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        opened = Opened(browser, f"http://127.0.0.1:{server.server_address[1]}/index.html?backend=wasm")
        assert_same_people(opened.choose(pictures[3]), best(model, pictures[3]))
        assert "CPU, 1 thread" in opened.page.locator("#model").inner_text()
        opened.page.close()
        server.shutdown()


def test_a_page_that_was_opened_as_a_file(folder, browser):
    opened = Opened(browser, (folder / "index.html").as_uri(), ready="python serve.py")
    assert opened.page.locator("#file").is_disabled()
    opened.page.close()


@pytest.mark.slow
@pytest.mark.parametrize("right", [True, False], ids=["right", "wrong"])
def test_webgpu(playwright, checkpoint_n, pictures, model, tmp_path, monkeypatch, right):
    """A GPU that a CPU plays; with the groups that its kernel mixes up, the page must see that and go back."""
    monkeypatch.setattr(web, "align_groups", web.align_groups if right else lambda _: None)
    made = tmp_path / "made"
    export_web(load_checkpoint(checkpoint_n), made, ExportOptions(imgsz=(128, 128)), ort=RUNTIME, verify=False)
    command = [sys.executable, str(made / "serve.py"), "0"]
    with (
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as server,
        chromium(playwright, tmp_path, flags=WEBGPU) as browser,
    ):
        opened = Opened(browser, server.stdout.readline().strip())
        facts = opened.page.locator("#model")
        if "WebGPU" not in facts.inner_text():
            pytest.skip("Chromium has no WebGPU here")
        drop(opened, [pictures[1], pictures[0]])  # two at once: runs side by side would hang
        (result,) = opened.results(1, seconds=120)
        assert_same_people(result, RTMO(made / web.MODEL)(pictures[0], score_thr=THRESHOLD))
        assert ("WebGPU" in facts.inner_text()) == right
        assert opened.page.locator("#note").is_visible() != right
        server.kill()
