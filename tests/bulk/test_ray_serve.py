"""The example for Ray Serve answers as it says."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pytest

from rtmo_deploy import RTMO

RUN = """
import sys, ray
from ray import serve
ray.init(address="local", num_cpus=3, include_dashboard=False, log_to_driver=False, object_store_memory=2**27,
         _temp_dir=sys.argv[1], _node_ip_address="127.0.0.1")
serve.start(http_options={"host": "127.0.0.1", "port": int(sys.argv[2])})
sys.path.insert(0, sys.argv[3])
import ray_serve
ray.cloudpickle.register_pickle_by_value(ray_serve)
serve.run(ray_serve.app, route_prefix="/predict")
print("ready", flush=True)
sys.stdin.read()
serve.shutdown()
"""


def post(url: str, data: bytes) -> tuple[int, dict]:
    try:
        with urllib.request.urlopen(urllib.request.Request(url, data=data), timeout=60) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)


@pytest.mark.slow
def test_the_example_answers(onnx_n, pictures):
    if subprocess.run([sys.executable, "-c", "import ray.serve"], capture_output=True, check=False).returncode:
        pytest.skip("needs ray[serve]")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    examples = Path(__file__).parents[2] / "docs" / "examples"
    environment = {**os.environ, "RTMO_MODEL": str(onnx_n), "RAY_USAGE_STATS_ENABLED": "0", "OMP_NUM_THREADS": "1"}
    environment |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "5" * 64}
    with tempfile.TemporaryDirectory(prefix="r", dir="/tmp") as short:
        words = [sys.executable, "-c", RUN, short, str(port), str(examples)]
        with subprocess.Popen(words, stdin=-1, stdout=-1, stderr=-1, text=True, env=environment) as server:
            try:
                assert server.stdout is not None
                while (line := server.stdout.readline()) != "ready\n":
                    assert line, server.communicate()[1][-2000:]
                url = f"http://127.0.0.1:{port}/predict"
                expected = RTMO(onnx_n, device="cpu").predict(pictures)
                bodies = [*(picture.read_bytes() for picture in pictures), b"no image"]
                with ThreadPoolExecutor(6) as pool:  # a batch with a bad one in it
                    *answers, (status, bad) = pool.map(lambda body: post(url, body), bodies)
                assert status == 400
                assert set(bad["error"]) == {"type", "message", "remedy"}
                large = cv2.imencode(".png", np.zeros((8193, 8193), np.uint8))[1].tobytes()
                assert post(url, large)[0] == 413
                for (status, document), poses in zip(answers, expected, strict=True):
                    assert status == 200
                    assert (document["schema_version"], document["model"]) == (1, onnx_n.stem)
                    assert (document["skeleton"], document["height"], document["width"]) == ("coco-17", *poses.image_hw)
                    assert len(document["people"]) == len(poses) > 0
                    assert np.allclose([one["box"] for one in document["people"]], poses.boxes, atol=0.05)
                    assert set(document["people"][0]) == {"box", "score", "keypoints"}
            finally:
                server.communicate()
                time.sleep(0.1)
