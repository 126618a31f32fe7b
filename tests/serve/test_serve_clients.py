"""Other people's clients and checkers, unchanged: tritonclient, KServe's client, schemathesis."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from serving import PATIENCE_S, Served

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from rtmo_deploy.runtime.estimator import RTMO


def tensor_of(batch: int, height: int, width: int, seed: int = 0) -> NDArray[np.float32]:
    from rtmo_deploy.measure import structured_images

    return np.ascontiguousarray(structured_images(batch, height, width, seed=seed), np.float32)


@pytest.fixture
def triton(server: Served) -> Iterator[Any]:
    http = pytest.importorskip("tritonclient.http")
    with http.InferenceServerClient(f"127.0.0.1:{server.port}", concurrency=6, network_timeout=PATIENCE_S) as client:
        yield client


def inputs_of(tensor: NDArray[np.float32], *, binary: bool = True) -> list[Any]:
    from tritonclient.http import InferInput

    one = InferInput("input", list(tensor.shape), "FP32")
    one.set_data_from_numpy(tensor, binary_data=binary)
    return [one]


def test_triton_asks_what_there_is(triton: Any) -> None:
    assert triton.is_server_live()
    assert triton.is_server_ready()
    assert triton.is_model_ready("rtmo")
    assert triton.is_model_ready("rtmo", "1")
    assert not triton.is_model_ready("rtmo", "2")
    assert not triton.is_model_ready("other")
    assert "binary_tensor_data" in triton.get_server_metadata()["extensions"]
    metadata = triton.get_model_metadata("rtmo")
    assert [(one["name"], one["datatype"], one["shape"]) for one in metadata["inputs"]] == [
        ("input", "FP32", [-1, 3, -1, -1])
    ]
    assert {one["name"] for one in metadata["outputs"]} == {"dets", "keypoints"}


@pytest.mark.parametrize("binary_input", [True, False])
@pytest.mark.parametrize("binary_outputs", [(True, True), (True, False), (False, False)])
def test_triton_in_bytes_and_json(
    triton: Any,
    estimator: RTMO,
    binary_input: bool,
    binary_outputs: tuple[bool, bool],
) -> None:
    from tritonclient.http import InferRequestedOutput

    tensor = tensor_of(1, 64, 96)
    wanted = estimator.backend(tensor)
    outputs = [
        InferRequestedOutput(name, binary_data=binary)
        for name, binary in zip(("keypoints", "dets"), binary_outputs, strict=True)
    ]
    result = triton.infer(
        "rtmo", inputs_of(tensor, binary=binary_input), outputs=outputs, request_id="7", model_version="1"
    )
    assert result.get_response()["id"] == "7"
    assert [one["name"] for one in result.get_response()["outputs"]] == ["keypoints", "dets"]
    for name, value in wanted.items():
        assert value.size
        np.testing.assert_array_equal(result.as_numpy(name).reshape(value.shape), value)


def test_triton_chooses_outputs(triton: Any) -> None:
    from tritonclient.http import InferRequestedOutput

    tensor = tensor_of(1, 64, 64)
    result = triton.infer("rtmo", inputs_of(tensor), outputs=[InferRequestedOutput("dets")])
    assert result.as_numpy("keypoints") is None
    assert result.as_numpy("dets").ndim == 3
    assert triton.infer("rtmo", inputs_of(tensor)).as_numpy("keypoints").ndim == 4


def test_triton_asks_for_many_at_once(triton: Any, estimator: RTMO) -> None:
    shapes = [(1, 64, 64), (3, 64, 64), (1, 128, 96), (9, 64, 64), (2, 128, 96), (1, 256, 256)] * 2
    tensors = [tensor_of(*shape, seed) for seed, shape in enumerate(shapes)]
    asked = [triton.async_infer("rtmo", inputs_of(one), request_id=str(number)) for number, one in enumerate(tensors)]
    for number, (request, tensor) in enumerate(zip(asked, tensors, strict=True)):
        result, wanted = request.get_result(timeout=PATIENCE_S), estimator.backend(tensor)
        assert result.get_response()["id"] == str(number)
        for name, value in wanted.items():
            np.testing.assert_array_equal(result.as_numpy(name), value)


def test_triton_is_told_what_is_wrong(triton: Any) -> None:
    from tritonclient.http import InferInput, InferRequestedOutput
    from tritonclient.utils import InferenceServerException

    tensor = tensor_of(1, 64, 64)
    half = InferInput("input", [1, 3, 64, 64], "FP16")
    half.set_data_from_numpy(tensor.astype(np.float16))
    text = InferInput("input", [1], "BYTES")
    text.set_data_from_numpy(np.array([b"a"], object))
    named = InferInput("image", list(tensor.shape), "FP32")
    named.set_data_from_numpy(tensor)
    shared = InferInput("input", list(tensor.shape), "FP32")
    shared.set_shared_memory("region", tensor.nbytes)
    classes = [InferRequestedOutput("dets", class_count=2)]
    good = inputs_of(tensor)
    for inputs, more, words in (
        ([half], {}, "FP32, not FP16"),
        ([text], {}, "FP32, not BYTES"),
        ([named], {}, "no input called 'image'"),
        ([shared], {}, "shared_memory_region"),
        ([], {}, "input is missing"),
        (good * 2, {}, "there twice"),
        (inputs_of(tensor_of(1, 40, 64)), {}, "multiples of 32"),
        (good, {"outputs": classes}, "classification"),
        (good, {"model_version": "3"}, "no version '3'"),
        (good, {"request_compression_algorithm": "gzip"}, "Compressed"),
        (good, {"request_compression_algorithm": "deflate"}, "Compressed"),
    ):
        with pytest.raises(InferenceServerException, match=words):
            triton.infer("rtmo", inputs, **more)
    assert triton.infer("rtmo", good, response_compression_algorithm="gzip").as_numpy("dets").ndim == 3


_KSERVE = """
import asyncio, json, sys
import numpy as np
from kserve import InferenceRESTClient, InferInput, InferRequest, RESTConfig

async def main(url, path):
    tensor = np.load(path)
    client = InferenceRESTClient(RESTConfig(protocol="v2", timeout=60))
    told = {"live": await client.is_server_live(url), "ready": await client.is_server_ready(url),
            "model": await client.is_model_ready(url, "rtmo")}
    for binary in (False, True):
        one = InferInput("input", list(tensor.shape), "FP32")
        one.set_data_from_numpy(tensor, binary_data=binary)
        request = InferRequest("rtmo", [one], request_id="a1", parameters={"binary_data_output": binary})
        done = await client.infer(url, request, model_name="rtmo")
        told[str(binary)] = {"id": done.id, "dets": done.outputs[0].as_numpy().tolist(), "name": done.outputs[0].name}
    print(json.dumps(told))

asyncio.run(main(*sys.argv[1:]))
"""


def test_kserve_client(server: Served, estimator: RTMO, tmp_path: Path) -> None:
    python = os.environ.get("RTMO_DEPLOY_KSERVE")
    if not python:
        pytest.skip("RTMO_DEPLOY_KSERVE does not name a Python with kserve")
    tensor = tensor_of(2, 64, 64)
    np.save(tmp_path / "tensor.npy", tensor)
    command = [python, "-c", _KSERVE, server.url, str(tmp_path / "tensor.npy")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    told = json.loads(done.stdout.splitlines()[-1])
    assert (told["live"], told["ready"], told["model"]) == (True, True, True)
    wanted = estimator.backend(tensor)["dets"]
    for binary in ("False", "True"):
        assert (told[binary]["id"], told[binary]["name"]) == ("a1", "dets")
        np.testing.assert_array_equal(np.array(told[binary]["dets"], np.float32).reshape(wanted.shape), wanted)


def check(schema: str, url: str, folder: Path, *arguments: str) -> int:
    """Run schemathesis on a description of the server, from a folder; how many requests it made."""
    pytest.importorskip("schemathesis")
    program = str(Path(sys.executable).with_name("schemathesis"))
    command = [program, "run", schema, "--url", url, "--no-color", "--generation-deterministic",
               "--request-timeout", "30", *arguments]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False, cwd=folder)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-3000:]
    selected, tested, cases = re.findall(r"Selected: (\d+)/|Tested: (\d+)|(\d+) generated", done.stdout)
    assert selected[0] == tested[1]
    return int(cases[2])


def test_schemathesis_with_our_own_description(server: Served, images: list[bytes], tmp_path: Path) -> None:
    checks = "not_a_server_error,status_code_conformance,content_type_conformance,response_headers_conformance"
    assert check(f"{server.url}/openapi.json", server.url, tmp_path, "--max-examples", "15", "--checks", checks) > 100
    server.is_well(images[0])


def test_schemathesis_with_the_official_description(
    server: Served, images: list[bytes], shared: Path, tmp_path: Path
) -> None:
    """The official file writes ``${MODEL_NAME}`` where OpenAPI wants ``{MODEL_NAME}``; the names are filled in."""
    official = shared / "spec" / "open_inference_rest.yaml"
    if not official.exists():
        pytest.skip(f"{official} is not there")
    text = official.read_text().replace("${MODEL_NAME}", "rtmo").replace("${MODEL_VERSION}", "1")
    filled = tmp_path / "spec.yaml"
    filled.write_text(without_path_parameters(text))
    checks = "not_a_server_error,response_schema_conformance,content_type_conformance"
    assert check(str(filled), server.url, tmp_path, "--max-examples", "25", "--checks", checks) > 30
    server.is_well(images[0])


def without_path_parameters(text: str) -> str:
    import yaml

    document = yaml.safe_load(text)
    for path in document["paths"].values():
        path.pop("parameters", None)
    return yaml.safe_dump(document)
