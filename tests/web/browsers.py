"""A headless Chromium, and what the tests of both pages do with it."""

from __future__ import annotations

import os
import shutil
import time
from contextlib import contextmanager
from pathlib import Path

import cv2
import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
#: ONNX Runtime Web as ``npm pack`` gives it.
RUNTIME = os.environ.get("RTMO_DEPLOY_ORT_WEB")
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-quic", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync", "--disable-gpu"),
    *("--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream"),
)
WEBGPU = ("--enable-unsafe-webgpu", "--use-webgpu-adapter=swiftshader")

needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: apt-get install chromium")
needs_runtime = pytest.mark.skipif(
    RUNTIME is None, reason="needs ONNX Runtime Web: npm pack onnxruntime-web, and RTMO_DEPLOY_ORT_WEB naming its file"
)


@contextmanager
def chromium(playwright, folder, *, frames=(), flags=(), **how):
    """A browser with an empty profile; its webcam shows these images, over and over."""
    given = [*FLAGS, *flags]
    if frames:
        video = Path(folder) / "webcam.mjpeg"
        # JPEG as webcams send it: the fake one reads 4:2:0 only.
        video.write_bytes(b"".join(cv2.imencode(".jpg", frame)[1].tobytes() for frame in frames))
        given.append(f"--use-file-for-fake-video-capture={video}")
    context = playwright.chromium.launch_persistent_context(
        Path(folder) / "profile", executable_path=CHROMIUM, args=given, **how
    )
    context.set_default_timeout(60_000)
    context.add_init_script(
        "window.found = []; document.addEventListener('people', event => window.found.push(event.detail));"
    )
    try:
        yield context
    finally:
        context.close()


class Opened:
    """A page that is open, and all that went wrong in it."""

    def __init__(self, context, address, *, ready="Ready"):
        self.page = context.new_page()
        self.problems = []
        self.requests = []
        self.page.on("console", lambda line: self.problems.append(line.text) if line.type == "error" else None)
        self.page.on("pageerror", lambda error: self.problems.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(address)
        if ready:
            self.wait_for_status(ready)

    @property
    def status(self):
        return self.page.locator("#status").inner_text()

    def wait_for_status(self, beginning, seconds=60):
        # Not wait_for_function: the page's policy forbids what it does.
        self.wait(lambda: beginning in self.status, seconds, lambda: f"status: {self.status}, {self.problems}")

    def wait(self, condition, seconds=60, told=lambda: ""):
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, told()
            self.page.wait_for_timeout(50)

    def results(self, count, seconds=60):
        """The results from the last call on, at least so many."""
        self.wait(
            lambda: self.page.evaluate("found.length") >= count, seconds, lambda: f"{self.status} {self.problems}"
        )
        return self.page.evaluate("found.splice(0)")

    def choose(self, path, seconds=60):
        self.page.evaluate("found.length = 0")  # what a webcam has left
        self.page.set_input_files("#file", path)
        return self.results(1, seconds)[-1]

    def set_range(self, name, value):
        self.page.locator(f"#{name}").evaluate(
            "(range, value) => { range.value = value; range.dispatchEvent(new Event('input')); "
            "range.dispatchEvent(new Event('change')); }",
            value,
        )


def assert_same_people(result, poses, *, pixels=0.5, score=0.01):
    """Person by person."""
    assert len(poses) > 0
    assert len(result["people"]) == len(poses)
    for person, box, known, points, visible in zip(
        result["people"], poses.boxes, poses.scores, poses.keypoints, poses.keypoint_scores, strict=True
    ):
        assert person["score"] == pytest.approx(known, abs=score)
        assert person["box"] == pytest.approx(box.tolist(), abs=pixels)
        for found, point, likely in zip(person["keypoints"], points, visible, strict=True):
            assert found[:2] == pytest.approx(point.tolist(), abs=pixels)
            assert found[2] == pytest.approx(likely, abs=score)
