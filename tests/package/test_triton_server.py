"""Repositories in a real Triton; needs the environment of a tritonserver, named by RTMO_DEPLOY_TRITON.

Made with: python3 -m venv V; V/bin/pip install nvidia-pytriton==0.7.0 "numpy<2" onnxruntime
"opencv-python-headless>=4.10,<5" pillow
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
import zlib
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton_http
from google.protobuf import json_format, text_format
from PIL import Image
from triton_server import Server, serving
from tritonclient.grpc.model_config_pb2 import ModelConfig
from tritonclient.utils import InferenceServerException

from rtmo_deploy import RTMO
from rtmo_deploy.convert import ExportOptions, export_onnx
from rtmo_deploy.convert.openvino import convert_openvino
from rtmo_deploy.model import load_checkpoint
from rtmo_deploy.package.triton import TritonOptions, write_triton

sys.path.insert(0, str(Path(__file__).parent.parent / "cli"))
from model_files import write_engine, write_openvino

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rtmo_deploy.poses import Poses

VENV = os.environ.get("RTMO_DEPLOY_TRITON", "")
pytestmark = pytest.mark.skipif(not VENV, reason="needs a tritonserver's environment: RTMO_DEPLOY_TRITON")
REQUESTS, THREADS, SIZE = 1000, 16, (128, 160)
#: Float32 noise of other batch sizes.
PIXELS, SCORE = 0.01, 1e-4


@pytest.fixture(scope="module")
def repository(onnx_n: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("triton") / "models"
    options = TritonOptions(backend="python", threads=1, max_queue=64, queue_delay_us=20_000, timeout_ms=0, imgsz=SIZE)
    write_triton(onnx_n, folder, options)
    return folder


@pytest.fixture(scope="module")
def server(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(Path(VENV), repository, tmp_path_factory.mktemp("server")) as running:
        yield running


@pytest.fixture(scope="module")
def model(onnx_n: Path) -> RTMO:
    return RTMO(onnx_n, device="cpu", threads=1, input_hw=SIZE)


def given(triton: Any, value: np.ndarray) -> Any:
    """An input of the pipeline: bytes of files (object), or pixels."""
    name, kind = ("image", "BYTES") if value.dtype == object else ("pixels", "UINT8")
    tensor = triton.InferInput(name, list(value.shape), kind)
    tensor.set_data_from_numpy(value)
    return tensor


def exported(checkpoint: Path, folder: Path, **options: Any) -> Path:
    path = folder / "model.onnx"
    export_onnx(load_checkpoint(checkpoint), path, ExportOptions(**options), verify=False)
    return path


def of_files(*files: bytes) -> np.ndarray:
    return np.array([[data] for data in files], dtype=object)


def check(answer: Any, *expected: Poses) -> None:
    """An answer has the people of each image, in their order."""
    assert answer.as_numpy("num_people").ravel().tolist() == [len(poses) for poses in expected]
    bounds = {"boxes": PIXELS, "scores": SCORE, "keypoints": PIXELS, "keypoint_scores": SCORE}
    for name, bound in bounds.items():
        values = answer.as_numpy(name)
        assert values.dtype == np.float32
        for rows, poses in zip(values, expected, strict=True):
            np.testing.assert_allclose(rows[: len(poses)], getattr(poses, name), atol=bound, rtol=0)
            assert not rows[len(poses) :].any()


def ask(server: Server, *values: np.ndarray) -> Any:
    """The pipeline's answer by HTTP. A client that is not closed would keep the server from ending."""
    with closing(triton_http.InferenceServerClient(server.http, network_timeout=60)) as client:
        return client.infer("rtmo_pipeline", [given(triton_http, value) for value in values])


def executions(server: Server, name: str) -> dict[int, int]:
    """Runs of a model by batch size."""
    (found,) = server.get(f"models/{name}/stats")["model_stats"]
    return {int(one["batch_size"]): int(one["compute_infer"]["count"]) for one in found["batch_stats"]}


def test_a_thousand_requests_of_several_threads(server: Server, model: RTMO, pictures: list[Path]) -> None:
    expected = [model(path) for path in pictures]
    assert all(map(len, expected))
    before = executions(server, "rtmo")
    local, clients, lock = threading.local(), [], threading.Lock()

    def send(number: int) -> None:
        if not hasattr(local, "client"):
            local.client = triton_http.InferenceServerClient(server.http, network_timeout=60)
            with lock:
                clients.append(local.client)
        path = pictures[number % len(pictures)]
        value = of_files(path.read_bytes()) if number % 3 else cv2.imread(str(path))[None]
        check(local.client.infer("rtmo_pipeline", [given(triton_http, value)]), expected[number % len(pictures)])

    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(send, range(REQUESTS)))
    assert len(clients) == THREADS
    for client in clients:
        client.close()
    after = executions(server, "rtmo")
    ran = {size: count - before.get(size, 0) for size, count in after.items()}
    ran = {size: count for size, count in ran.items() if count}
    print(f"runs of the network by batch size: {ran}")
    assert sum(size * count for size, count in ran.items()) == REQUESTS
    assert len(ran) > 1
    assert max(ran) > 1


def test_by_grpc(server: Server, model: RTMO, pictures: list[Path]) -> None:
    client = triton_grpc.InferenceServerClient(server.grpc)
    for path in pictures:
        check(client.infer("rtmo_pipeline", [given(triton_grpc, of_files(path.read_bytes()))]), model(path))
    client.close()


def test_several_images_in_one_request(server: Server, model: RTMO, pictures: list[Path]) -> None:
    grey = cv2.imencode(".png", np.full((99, 200, 3), 114, np.uint8))[1].tobytes()
    value = of_files(*(path.read_bytes() for path in pictures), grey)
    check(ask(server, value), *map(model, pictures), model(grey))
    pixels = np.stack([cv2.imread(str(pictures[0])), np.full((256, 256, 3), 9, np.uint8)])
    check(ask(server, pixels), *model(list(pixels)))


def test_nobody(checkpoint_n: Path, pictures: list[Path], tmp_path: Path) -> None:
    path = exported(checkpoint_n, tmp_path, score_thr=0.99)
    write_triton(path, tmp_path / "models", TritonOptions(backend="python", threads=1))
    alone = RTMO(path, device="cpu", threads=1)
    with serving(Path(VENV), tmp_path / "models", tmp_path / "server") as running:
        for value in (of_files(pictures[0].read_bytes()), np.full((2, 40, 70, 3), 114, np.uint8)):
            answer = ask(running, value)
            check(answer, *[alone(pictures[0])[:0]] * len(value))
            assert len(alone(pictures[0])) == 0
            assert answer.as_numpy("keypoints").shape == (len(value), 0, 17, 2)


def test_formats_and_orientation(server: Server, model: RTMO, pictures: list[Path], tmp_path: Path) -> None:
    source = Image.open(pictures[4])
    turned = Image.Exif()
    turned[0x0112] = 6
    variants = {
        "turned.jpg": {"exif": turned, "quality": 92},
        "a.webp": {"lossless": True},
        "a.bmp": {},
        "a.gif": {},
        "a.tiff": {},
        "a.ppm": {},
        "a.jp2": {},
        "grey.jpg": {},
        "alpha.png": {},
        "sixteen.png": {},
    }
    for name, how in variants.items():
        path = tmp_path / name
        image = {"grey.jpg": source.convert("L"), "alpha.png": source.convert("RGBA")}.get(name, source)
        if name == "sixteen.png":
            cv2.imwrite(str(path), cv2.imread(str(pictures[4])).astype(np.uint16) * 257)
        else:
            image.save(path, **how)
        answer = ask(server, of_files(path.read_bytes()))
        expected = model(path)
        assert len(expected), name
        check(answer, expected)


def test_bad_images_are_errors_of_their_request_alone(server: Server, model: RTMO, pictures: list[Path]) -> None:
    whole = pictures[0].read_bytes()
    bomb = bytearray(whole)
    bomb[16:24] = (60_000).to_bytes(4, "big") * 2
    bomb[29:33] = zlib.crc32(bytes(bomb[12:29])).to_bytes(4, "big")
    bad = {
        b"": "empty",
        b"no image": "not an image",
        whole[: len(whole) // 2]: "cut off",
        bytes(bomb): "pixels",
        b"%PDF-1.7": "PDF",
    }
    with ThreadPoolExecutor(4) as pool:
        good = [pool.submit(lambda: ask(server, of_files(whole))) for _ in range(8)]
        for data, words in bad.items():
            with pytest.raises(InferenceServerException, match=words) as refused:
                ask(server, of_files(data))
            assert refused.value.status() == "400", refused.value
        for answer in good:
            check(answer.result(), model(pictures[0]))
    both = [of_files(whole), cv2.imread(str(pictures[0]))[None]]
    for inputs in (both, []):
        with pytest.raises(InferenceServerException, match=r"both|neither|expected|input"):
            ask(server, *inputs)
    with pytest.raises(InferenceServerException):
        ask(server, np.zeros((1, 8, 8, 4), np.uint8))
    with pytest.raises(InferenceServerException):
        ask(server, np.zeros((1, 0, 8, 3), np.uint8))
    assert server.status("health/ready") == 200
    check(ask(server, of_files(whole)), model(pictures[0]))


def test_the_network_alone(server: Server) -> None:
    def run(shape: tuple[int, ...]) -> Any:
        tensor = triton_http.InferInput("input", list(shape), "FP32")
        tensor.set_data_from_numpy(np.zeros(shape, np.float32))
        with closing(triton_http.InferenceServerClient(server.http)) as client:
            return client.infer("rtmo", [tensor])

    assert run((2, 3, 96, 64)).as_numpy("dets").shape[2] == 5
    with pytest.raises(InferenceServerException, match="multiples of 32"):
        run((1, 3, 100, 64))


def test_a_full_queue_answers_unavailable(onnx_n: Path, model: RTMO, pictures: list[Path], tmp_path: Path) -> None:
    write_triton(
        onnx_n, tmp_path / "models", TritonOptions(backend="python", threads=1, max_queue=2, max_batch=1, imgsz=SIZE)
    )
    data = pictures[0].read_bytes()
    expected = model(pictures[0])
    with serving(Path(VENV), tmp_path / "models", tmp_path / "server") as running:

        def send(_: int) -> str:
            try:
                check(ask(running, of_files(data)), expected)
            except InferenceServerException as error:
                return f"{error.status()} {error.message()}"
            return "people"

        with ThreadPoolExecutor(32) as pool:
            found = list(pool.map(send, range(200)))
        refused = [one for one in found if one != "people"]
        print(f"{len(refused)} of {len(found)} refused: {set(refused)}")
        assert refused
        assert len(refused) < len(found)
        assert all(one.startswith("503 ") and "queue" in one.lower() for one in refused), set(refused)
        assert send(0) == "people"


def test_a_fixed_batch_is_filled(checkpoint_n: Path, pictures: list[Path], tmp_path: Path) -> None:
    path = exported(checkpoint_n, tmp_path, static=True, batch=4, imgsz=SIZE)
    write_triton(path, tmp_path / "models", TritonOptions(backend="python", threads=1, max_people=3, kpt_thr=0.4))
    alone = RTMO(path, device="cpu", threads=1)
    with serving(Path(VENV), tmp_path / "models", tmp_path / "server") as running:
        expected = [alone(picture, max_people=3, kpt_thr=0.4) for picture in pictures[:3]]
        assert all(0 < len(poses) <= 3 for poses in expected)
        value = of_files(*(picture.read_bytes() for picture in pictures[:3]))
        check(ask(running, value), *expected)


def test_the_client(server: Server, repository: Path, model: RTMO, pictures: list[Path], tmp_path: Path) -> None:
    bad = tmp_path / "bad.jpg"
    bad.write_bytes(b"nothing")
    for more in ([], ["--pixels"]):
        images = [str(pictures[1]), *([] if more else [str(bad)])]
        done = subprocess.run(
            [sys.executable, str(repository / "client.py"), "--url", server.http, *more, *images],
            capture_output=True, text=True, check=True, timeout=60,
        )  # fmt: skip
        first, *rest = map(json.loads, done.stdout.splitlines())
        assert len(first["people"]) == len(model(pictures[1])) > 0
        assert next(iter(first["people"][0]["keypoints"])) == "nose"
        assert all("not an image" in one["error"] for one in rest)


def test_triton_takes_the_configurations_of_other_backends(onnx_n: Path, checkpoint_n: Path, tmp_path: Path) -> None:
    """This server lacks those backends: it reads the configuration, and misses the backend alone."""
    folder = tmp_path / "models"
    write_engine(tmp_path / "m.engine", backend="tensorrt", targets=(), compute_capability="8.9")
    pytest.importorskip("openvino", reason="needs openvino")
    write_openvino(tmp_path / "m.xml")
    models = {
        "onnxruntime": (onnx_n, exported(checkpoint_n, tmp_path, static=True)),
        "openvino": (tmp_path / "m.xml",),
        "tensorrt": (tmp_path / "m.engine",),
    }
    write_triton(onnx_n, folder)
    with serving(Path(VENV), folder, tmp_path / "server", "--model-control-mode=explicit", ready=False) as running:
        for backend, paths in models.items():
            for path in paths:
                write_triton(path, folder, force=True)
                with pytest.raises(AssertionError, match=f"unable to find backend library for backend '{backend}'"):
                    running.load("rtmo")


def test_a_pipeline_that_is_not_batched(onnx_n: Path, pictures: list[Path], tmp_path: Path) -> None:
    """The repository of an OpenVINO model, with the network in the Python backend, as this server has no other."""
    pytest.importorskip("openvino", reason="needs openvino")
    folder, other = tmp_path / "models", tmp_path / "python"
    convert_openvino(onnx_n, tmp_path / "m.xml", verify=False)
    write_triton(tmp_path / "m.xml", folder, TritonOptions(timeout_ms=60_000, imgsz=SIZE))
    write_triton(onnx_n, other, TritonOptions(backend="python", threads=1))
    config = folder / "rtmo" / "config.pbtxt"
    wanted = [line for line in (other / "rtmo/config.pbtxt").read_text().splitlines() if line.startswith("parameters")]
    config.write_text(config.read_text().replace('"openvino"', '"python"') + "\n".join(wanted))
    for name in ("model.py", "model.onnx"):
        shutil.copy(other / "rtmo/1" / name, folder / "rtmo/1" / name)
    alone = RTMO(onnx_n, device="cpu", threads=1, input_hw=SIZE)
    with serving(Path(VENV), folder, tmp_path / "server") as running:
        assert running.get("models/rtmo_pipeline/config")["max_batch_size"] == 0
        for picture in pictures:
            check(ask(running, of_files(picture.read_bytes())), alone(picture))
            check(ask(running, cv2.imread(str(picture))[None]), alone(picture))
        with pytest.raises(InferenceServerException, match="not an image"):
            ask(running, of_files(b"nothing"))


def test_triton_completes_nothing(server: Server, repository: Path) -> None:
    """The configuration that the server works by is the one that was written, beside defaults."""
    for path in repository.glob("*/config.pbtxt"):
        completed = json_format.ParseDict(server.get(f"models/{path.parent.name}/config"), ModelConfig())
        written = text_format.Parse(path.read_text(), ModelConfig())
        for field, value in written.ListFields():
            found = getattr(completed, field.name)
            if field.name == "instance_group":
                found, value = ([(one.count, one.kind) for one in group] for group in (found, value))
            if field.name == "dynamic_batching":
                assert found.preferred_batch_size == value.preferred_batch_size
                assert found.max_queue_delay_microseconds == value.max_queue_delay_microseconds
                found, value = found.default_queue_policy, value.default_queue_policy
            assert found == value, (path.parent.name, field.name)
        added = {field.name for field, _ in completed.ListFields()} - {field.name for field, _ in written.ListFields()}
        assert added <= {*("version_policy", "optimization", "model_transaction_policy", "default_model_filename")}, (
            added
        )
