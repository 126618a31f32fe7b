"""``/predict`` and ``infer`` give what the library gives, whoever is in the batch."""

from __future__ import annotations

import asyncio
import base64
import io
import itertools
import json
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import pytest
from PIL import Image
from serving import PATIENCE_S, Served, in_loop

from rtmo_deploy.media.results import people_of
from rtmo_deploy.runtime.estimator import RTMO
from rtmo_deploy.serve.batcher import Batcher

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

INFER = "/v2/models/rtmo/infer"


def plain(people: Any) -> Any:
    """As it comes out of JSON."""
    return json.loads(json.dumps(people))


def expected(estimator: RTMO, data: bytes, **thresholds: Any) -> Any:
    return plain(people_of(estimator(data, **thresholds)))


def files(image: bytes) -> dict[str, bytes]:
    """One image in every format."""
    pixels = Image.open(io.BytesIO(image)).convert("RGB")
    made = {}
    for kind in ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "JPEG2000"):
        with io.BytesIO() as stream:
            pixels.save(stream, kind)
            made[kind] = stream.getvalue()
    for turn in (2, 3, 6, 8):
        exif = Image.Exif()
        exif[0x0112] = turn
        with io.BytesIO() as stream:
            pixels.save(stream, "JPEG", exif=exif)
            made[f"EXIF {turn}"] = stream.getvalue()
    return made


def test_formats_and_ways_to_send(server: Served, estimator: RTMO, images: list[bytes]) -> None:
    found = 0
    for name, data in files(images[1]).items():
        wanted = expected(estimator, data)
        found += len(wanted)
        encoded = base64.b64encode(data).decode()
        answers = [
            server.post("/predict", data),
            server.post("/predict", data, headers={"content-type": "image/whatever"}),
            server.client.post(f"{server.url}/predict", files={"image": ("a", data)}, data={"more": "1"}),
            server.client.post(f"{server.url}/predict", json={"image": encoded}),
            server.client.post(f"{server.url}/predict", json={"image": f"data:image/png;base64,{encoded}"}),
        ]
        for answer in answers:
            document = answer.json()
            assert document["people"] == wanted, name
            assert [document["height"], document["width"]] == list(estimator(data).image_hw)
    assert found > 20


@pytest.mark.parametrize("query", ["scorethr=0.5", "score_thr=0.5&score_thr=0.6", "score_thr=0.5&x", "Draw=1"])
def test_parameters_that_nobody_reads_are_refused(server: Served, images: list[bytes], query: str) -> None:
    answer = server.post(f"/predict?{query}", images[0])
    assert answer.status_code == 400
    assert answer.json()["error"]["remedy"]


@pytest.mark.parametrize("name", ["score_thr", "nms_thr", "kpt_thr", "max_people", "draw"])
def test_parameters_in_the_body_are_refused(server: Served, images: list[bytes], name: str) -> None:
    encoded = base64.b64encode(images[0]).decode()
    for body in (
        {"files": {"image": ("a", images[0])}, "data": {name: "1"}},
        {"json": {"image": encoded, name: 1}},
    ):
        error = server.client.post(f"{server.url}/predict", **body).json()["error"]  # type: ignore[arg-type]
        assert name in error["message"]
        assert f"/predict?{name}=" in error["remedy"]


def test_base64_in_lines(server: Served, estimator: RTMO, images: list[bytes]) -> None:
    wanted = expected(estimator, images[0])
    for text in (base64.encodebytes(images[0]).decode(), base64.encodebytes(images[0]).decode().replace("\n", "\r\n")):
        answer = server.client.post(f"{server.url}/predict", json={"image": text})
        assert answer.json()["people"] == wanted
    for text in ("a", base64.urlsafe_b64encode(b"\xff\xfe" * 6).decode(), "\N{SNOWMAN}"):
        assert server.client.post(f"{server.url}/predict", json={"image": text}).status_code == 400


def test_head_is_get_without_a_body(server: Served) -> None:
    for path in ("/", "/model", "/metrics", "/v2/health/live", "/nothing", "/predict"):
        got, head = server.get(path), server.client.head(server.url + path)
        assert (head.status_code, head.headers["content-type"], head.content) == (
            got.status_code,
            got.headers["content-type"],
            b"",
        )


THRESHOLDS = [
    {}, {"score_thr": 0.5}, {"score_thr": 1.0}, {"kpt_thr": 0.4}, {"max_people": 2}, {"nms_thr": 0.3},
    {"score_thr": 0.2, "nms_thr": 0.0, "kpt_thr": 0.9, "max_people": 1},
]  # fmt: skip


def test_thresholds_in_one_batch(
    within: Callable[..., Any], estimator: RTMO, images: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Images of all sizes, each with other thresholds, and all at once."""
    wishes = list(itertools.product(images, THRESHOLDS))
    wanted = [expected(estimator, image, **thresholds) for image, thresholds in wishes]

    async def ask() -> list[Any]:
        async with within(max_delay_ms=1000, queue=100, max_batch=8, timeout_s=60) as here:
            sent = [
                here.client.post("/predict", content=image, params=more, timeout=PATIENCE_S) for image, more in wishes
            ]
            return [(answer.status_code, answer.json()) for answer in await asyncio.gather(*sent)]

    answers = in_loop(ask())
    assert [document["people"] for _, document in answers] == wanted
    assert max(document["batch"] for _, document in answers) > 3
    assert len({len(people) for people in wanted}) > 3


def test_drawing(server: Served, estimator: RTMO, images: list[bytes]) -> None:
    answer = server.post("/predict?draw=1", images[1])
    assert answer.headers["content-type"] == "image/png"
    drawn = cv2.imdecode(np.frombuffer(answer.content, np.uint8), cv2.IMREAD_COLOR)
    poses = estimator(images[1])
    np.testing.assert_array_equal(drawn, poses.plot(images[1], score_thr=0.5, kpt_thr=0.3))
    without = server.post("/predict?draw=1&score_thr=1", images[1]).content
    np.testing.assert_array_equal(
        cv2.imdecode(np.frombuffer(without, np.uint8), cv2.IMREAD_COLOR),
        cv2.imdecode(np.frombuffer(images[1], np.uint8), cv2.IMREAD_COLOR),
    )
    assert (drawn != cv2.imdecode(np.frombuffer(without, np.uint8), cv2.IMREAD_COLOR)).any()


def tensor_of(shape: tuple[int, ...], seed: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    from rtmo_deploy.measure import structured_images

    batch, _, height, width = shape
    return np.ascontiguousarray(structured_images(batch, height, width, seed=seed), np.float32)


def test_tensors_of_a_checkpoint(within: Callable[..., Any], checkpoint_n: Path) -> None:
    """PyTorch's last bits depend on the size of a batch; the number of rows does not."""
    tensors = [tensor_of((batch, 3, 128, 128), batch) for batch in (1, 2, 1, 3)]
    with RTMO(checkpoint_n, device="cpu", threads=1) as model:
        wanted = [model.backend(tensor) for tensor in tensors]
        assert len({one["dets"].shape[1] for one in wanted}) > 1

        async def ask() -> list[Any]:
            async with within(model=model, max_delay_ms=500, timeout_s=60) as here:
                outputs = (await here.client.get("/v2/models/rtmo")).json()["outputs"]
                assert {one["name"] for one in outputs} == {"dets", "keypoints"}
                sent = []
                for tensor in tensors:
                    entry = {
                        "name": "input",
                        "datatype": "FP32",
                        "shape": tensor.shape,
                        "data": tensor.ravel().tolist(),
                    }
                    sent.append(here.client.post(INFER, json={"inputs": [entry]}, timeout=PATIENCE_S))
                answers = await asyncio.gather(*sent)
                assert here.service.metrics.batches._sum.get() == 7
                return answers

        for answer, one in zip(in_loop(ask()), wanted, strict=True):
            for entry in answer.json()["outputs"]:
                assert tuple(entry["shape"]) == one[entry["name"]].shape
                got = np.array(entry["data"], np.float32).reshape(entry["shape"])
                np.testing.assert_allclose(got, one[entry["name"]], atol=1e-2)


def test_tensors_of_many_sizes_at_once(within: Callable[..., Any], estimator: RTMO) -> None:
    """Each answer is the backend's for that tensor alone, in values and in shape."""
    shapes = [(1, 3, 256, 256), (2, 3, 256, 256), (1, 3, 128, 192), (3, 3, 128, 192), (1, 3, 64, 64), (9, 3, 64, 64)]
    tensors = [tensor_of(shape, seed) for seed, shape in enumerate(shapes * 2)]
    wanted = [estimator.backend(tensor) for tensor in tensors]
    assert len({one["dets"].shape for one in wanted}) > 4

    def body(tensor: Any) -> tuple[bytes, dict[str, str]]:
        parameters = {"binary_data_size": tensor.nbytes}
        entry = {"name": "input", "datatype": "FP32", "shape": list(tensor.shape), "parameters": parameters}
        head = json.dumps({"inputs": [entry], "parameters": {"binary_data_output": True}}).encode()
        return head + tensor.tobytes(), {"inference-header-content-length": str(len(head))}

    async def ask() -> list[Any]:
        async with within(max_delay_ms=500, timeout_s=60) as here:
            sent = []
            for content, headers in map(body, tensors):
                sent.append(here.client.post(INFER, content=content, headers=headers, timeout=PATIENCE_S))
            return await asyncio.gather(*sent)

    for answer, one in zip(in_loop(ask()), wanted, strict=True):
        length = int(answer.headers["inference-header-content-length"])
        rest = answer.content[length:]
        for entry in json.loads(answer.content[:length])["outputs"]:
            size = entry["parameters"]["binary_data_size"]
            np.testing.assert_array_equal(np.frombuffer(rest[:size], "<f4").reshape(entry["shape"]), one[entry["name"]])
            rest = rest[size:]
        assert not rest


def test_failure_of_one_image_is_its_own(
    within: Callable[..., Any], estimator: RTMO, images: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The network fails on one image, as a batch and alone: the others of the batch are answered."""
    from rtmo_deploy.serve.service import Service

    run = Service._run

    def failing(self: Service, key: Any, payloads: Any) -> Any:
        if any(placed.transform.original_hw == (120, 160) for placed in payloads):
            raise SystemExit("the network fails")
        return run(self, key, payloads)

    monkeypatch.setattr(Service, "_run", failing)

    async def ask() -> tuple[list[Any], int, float]:
        async with within(max_delay_ms=500) as here:
            answers = await asyncio.gather(*[here.client.post("/predict", content=image) for image in images])
            live = await here.client.get("/v2/health/live")
            return answers, live.status_code, here.service.batcher.taken

    answers, live, taken = in_loop(ask())
    assert [answer.status_code for answer in answers] == [200, 200, 200, 500, 200]
    assert "the network fails" not in answers[3].text
    for answer, image in zip(answers, images, strict=True):
        if answer.status_code == 200:
            assert answer.json()["people"] == expected(estimator, image)
    assert (live, taken) == (200, 0)


def test_dead_worker_is_told(within: Callable[..., Any], images: list[bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    async def killed() -> list[int]:
        async with within(timeout_s=0.2) as here:
            paths = ("/v2/health/live", "/v2/health/ready", "/v2/models/rtmo/ready")
            states = [(await here.client.get(path)).status_code for path in paths]
            here.service._work.cancel()
            await asyncio.sleep(0)
            states += [(await here.client.get(path)).status_code for path in paths]
            return [*states, (await here.client.post("/predict", content=images[0])).status_code]

    assert in_loop(killed()) == [200, 200, 200, 503, 503, 503, 503]
    monkeypatch.setattr(Batcher, "stuck", True)

    async def stuck() -> int:
        async with within() as here:
            return int((await here.client.get("/v2/health/live")).status_code)

    assert in_loop(stuck()) == 503


def test_full_queue_and_late_answers(
    within: Callable[..., Any], images: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """There are as many at a time as there are places; who waits too long is told as well."""
    import threading

    from rtmo_deploy.serve.service import Service

    runs, gate, run = threading.Event(), threading.Event(), Service._run

    def held(self: Service, key: Any, payloads: Any) -> Any:
        runs.set()
        assert gate.wait(PATIENCE_S)
        return run(self, key, payloads)

    monkeypatch.setattr(Service, "_run", held)

    async def ask() -> tuple[list[Any], str]:
        async with within(queue=3, max_batch=1, timeout_s=PATIENCE_S) as here:
            first = asyncio.create_task(here.client.post("/predict", content=images[0]))
            while not runs.is_set():
                await asyncio.sleep(0.01)
            here.service.batcher.timeout_s = 0.5
            answers = await asyncio.gather(*[here.client.post("/predict", content=images[0]) for _ in range(7)])
            assert not first.done()
            here.service.batcher.timeout_s = PATIENCE_S
            gate.set()
            answers.append(await first)
            answers.append(await here.client.post("/predict", content=images[0]))
            return answers, (await here.client.get("/metrics")).text

    answers, metrics = in_loop(ask())
    assert sorted(answer.status_code for answer in answers) == [200, 200, *[503] * 7]
    assert answers[-1].status_code == 200
    busy = [answer for answer in answers if answer.status_code == 503]
    assert all(int(answer.headers["retry-after"]) >= 1 for answer in busy)
    assert 'rtmo_rejections_total{reason="queue"} 5.0' in metrics
    assert 'rtmo_rejections_total{reason="timeout"} 2.0' in metrics
    assert 'rtmo_requests_total{route="/predict",status="503"} 7.0' in metrics
    assert "rtmo_requests_in_flight 0.0" in metrics


def test_metrics_are_true(within: Callable[..., Any], estimator: RTMO, images: list[bytes]) -> None:
    from prometheus_client.parser import text_string_to_metric_families

    people = sum(len(estimator(image)) for image in images)

    async def ask() -> str:
        async with within(max_delay_ms=300) as here:
            await asyncio.gather(*[here.client.post("/predict", content=image) for image in images])
            await here.client.post("/predict", content=b"no image")
            await here.client.get("/nowhere")
            return str((await here.client.get("/metrics")).text)

    samples = [one for family in text_string_to_metric_families(in_loop(ask())) for one in family.samples]
    figures = {(one.name, *sorted(one.labels.values())): one.value for one in samples}
    assert figures["rtmo_requests_total", "/predict", "200"] == len(images)
    assert figures["rtmo_requests_total", "/predict", "400"] == 1
    assert figures["rtmo_requests_total", "404", "other"] == 1
    assert figures["rtmo_people_total",] == people
    assert figures["rtmo_batch_size_sum",] == len(images)
    assert figures["rtmo_batch_size_count",] < len(images)
    for stage in ("receive", "decode", "queue", "inference", "total"):
        assert figures["rtmo_stage_seconds_count", stage] == len(images)


def test_answers_count_as_memory(within: Callable[..., Any], images: list[bytes]) -> None:
    """An answer that does not fit is one of status 503, not a broken one."""

    async def ask() -> list[int]:
        async with within() as here:
            gate = here.client._transport.app
            gate._held = here.service.options.memory - len(images[1]) - 100
            full = await here.client.post("/predict?draw=1", content=images[1])
            more = await here.client.post("/predict", content=images[4])
            gate._held = 0
            return [
                full.status_code,
                more.status_code,
                (await here.client.post("/predict", content=images[1])).status_code,
                gate._held,
            ]

    assert in_loop(ask()) == [503, 503, 200, 0]
