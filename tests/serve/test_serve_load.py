"""Many clients, and many damaged images: short runs always, long ones with ``-m long``."""

from __future__ import annotations

import io
import random
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image
from serving import PATIENCE_S, Served, run_server

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "fuzz"))
from mutators import mutate


def ask(served: Served, image: bytes, seconds: float, least: int, told: Counter[Any], times: list[float]) -> None:
    """One client that asks again as soon as it has an answer; after a 503 it waits a little.

    It goes on for longer where all have not yet had ``least`` good answers, as on a machine that stood still.
    """
    end = time.monotonic() + seconds
    with httpx.Client(timeout=PATIENCE_S, verify=False) as client:
        while time.monotonic() < end or (told[200] < least and time.monotonic() < end + PATIENCE_S):
            start = time.monotonic()
            try:
                status: Any = client.post(f"{served.url}/predict", content=image).status_code
            except httpx.HTTPError as error:
                status = repr(error)
            told[status] += 1
            if status == 200:
                times.append(time.monotonic() - start)
            else:
                time.sleep(0.2)


def under_load(
    served: Served, image: bytes, clients: int, seconds: float
) -> tuple[Counter[Any], list[float], list[int]]:
    """Statuses, seconds of the good answers, and the server's memory over time."""
    told: Counter[Any] = Counter({200: 0, 503: 0})
    times: list[float] = []
    threads = [
        threading.Thread(target=ask, args=(served, image, seconds, clients + 1, told, times)) for _ in range(clients)
    ]
    memory = []
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        memory.append(served.rss())
        time.sleep(seconds / 20)
    for thread in threads:
        thread.join()
    return told, times, memory


def quantile(served: Served, share: float) -> float:
    """The upper bound of the bucket of ``/predict``'s whole time that this share of the answers is below."""
    count = served.metric("rtmo_stage_seconds_count", stage="total")
    bounds = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
    buckets = [served.metric("rtmo_stage_seconds_bucket", stage="total", le=str(bound)) for bound in bounds]
    return next((bound for bound, below in zip(bounds, buckets, strict=True) if below >= share * count), float("inf"))


def judge(served: Served, image: bytes, clients: int, seconds: float, queue: int) -> str:
    told, times, memory = under_load(served, image, clients, seconds)
    batch_s = served.metric("rtmo_stage_seconds_sum", stage="inference") / served.metric(
        "rtmo_stage_seconds_count", stage="inference"
    )
    each = served.metric("rtmo_batch_size_sum") / served.metric("rtmo_batch_size_count")
    p50, p99 = np.quantile(times, [0.5, 0.99])
    served_s = quantile(served, 0.99)
    # A full queue in batches as they were, and as much again for reading images on a machine that has other work.
    bound = 2 * batch_s * (queue / each + 2) + 1
    slow = sum(seconds > bound for seconds in times)
    figures = (
        f"{clients} clients, {seconds:.0f} s: {dict(told)}, p50 {p50:.3f} s, "
        f"p99 {p99:.3f} s, {slow} above {bound:.2f} s (in the server at most {served_s} s); a batch of {each:.1f} "
        f"took {batch_s:.3f} s; memory {memory[len(memory) // 4] >> 20} to {memory[-1] >> 20} MiB"
    )
    assert set(told) <= {200, 503}, figures
    assert told[200] > clients, figures
    # A machine that stands still for seconds, or a connection that is tried again, makes each client wait once.
    assert slow <= clients, figures
    assert p50 < bound, figures
    assert memory[-1] - memory[len(memory) // 4] < 40 * 2**20, figures
    assert served.metric("rtmo_requests_total", route="/predict") == sum(told.values())
    assert served.metric("rtmo_rejections_total") == told[503]
    served.is_well(image)
    assert "Traceback" not in served.log()
    return figures


def test_short_load(onnx_n: Path, images: list[bytes], tmp_path: Path) -> None:
    with run_server(onnx_n, tmp_path, "--queue", "8", "--max-batch", "4") as served:
        judge(served, images[0], 16, 4, 8)


@pytest.mark.long
def test_two_minutes_of_64_clients(onnx_n: Path, images: list[bytes], tmp_path: Path) -> None:
    with run_server(onnx_n, tmp_path, "--queue", "48") as served:
        print(judge(served, images[0], 64, 120, 48))


def samples() -> list[bytes]:
    """A small image in every format."""
    pixels = Image.fromarray(np.random.default_rng(3).integers(0, 255, (40, 56, 3), np.uint8))
    made = []
    kinds = [(kind, {}) for kind in ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "JPEG2000")]
    for kind, more in (*kinds, ("JPEG", {"progressive": True}), ("TIFF", {"compression": "tiff_lzw"})):
        with io.BytesIO() as stream:
            pixels.save(stream, kind, **more)
            made.append(stream.getvalue())
    return made


def fuzz(served: Served, good: bytes, count: int) -> str:
    """Send damaged images by eight clients."""
    originals = samples()

    def send(number: int) -> tuple[int, int, str]:
        rng = random.Random(number)
        data = mutate(rng.choice(originals), rng, originals)
        answer = served.post("/predict?draw=1" if number % 7 == 0 else "/predict", data)
        return number, answer.status_code, "" if answer.status_code < 500 else answer.text

    first = served.rss()
    with ThreadPoolExecutor(8) as pool:
        done = [*pool.map(send, range(count // 5))]
        before = served.rss()
        done += pool.map(send, range(count // 5, count))
    statuses = Counter(status for _, status, _ in done)
    figures = f"{count} images: {dict(statuses)}; memory {first >> 20}, {before >> 20}, {served.rss() >> 20} MiB"
    assert statuses.keys() <= {200, 400, 413}, [one for one in done if one[1] >= 500]
    assert {200, 400} <= statuses.keys()
    assert served.rss() - before < 60 * 2**20, figures
    served.is_well(good)
    assert not [line for line in served.lines() if "error" in line]  # a traceback
    return figures


def test_damaged_images(server: Served, images: list[bytes]) -> None:
    fuzz(server, images[0], 200)


@pytest.mark.long
def test_ten_thousand_damaged_images(onnx_n: Path, images: list[bytes], tmp_path: Path) -> None:
    with run_server(onnx_n, tmp_path) as served:
        print(fuzz(served, images[0], 10_000))
