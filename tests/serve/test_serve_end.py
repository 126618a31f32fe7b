"""How a server starts and ends."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
from serving import PATIENCE_S, read_answer, run_server, status_of, wait_until

from rtmo_deploy.errors import SetupError, UsageError
from rtmo_deploy.runtime.estimator import RTMO
from rtmo_deploy.serve import ServeOptions, serve
from rtmo_deploy.serve.run import bind


def load(url: str, image: bytes, told: list[Any], *, keep: bool) -> None:
    """Ask until nobody listens; each answer's status, or how it broke."""
    with httpx.Client(timeout=PATIENCE_S, verify=False) as client:
        while True:
            try:
                if keep:
                    told.append(client.post(f"{url}/predict", content=image).status_code)
                else:
                    told.append(
                        httpx.post(f"{url}/predict", content=image, timeout=PATIENCE_S, verify=False).status_code
                    )
            except httpx.ConnectError:
                return
            except httpx.HTTPError as error:
                told.append(repr(error))
                return


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_no_accepted_request_is_lost(onnx_n: Path, images: list[bytes], tmp_path: Path, number: signal.Signals) -> None:
    """Eight clients that keep their connections and eight that make new ones, and one whose body is on its way."""
    told: list[Any] = []
    with run_server(onnx_n, tmp_path, "--json", "--timeout-s", "60") as served:
        threads = [
            threading.Thread(target=load, args=(served.url, images[0], told), kwargs={"keep": client % 2 == 0})
            for client in range(16)
        ]
        for thread in threads:
            thread.start()
        with socket.create_connection(("127.0.0.1", served.port)) as slow:
            slow.settimeout(PATIENCE_S)
            slow.sendall(b"POST /predict HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % len(images[0]))
            wait_until(lambda: told.count(200) >= 30)
            served.process.send_signal(number)
            time.sleep(1)
            slow.sendall(images[0])
            assert status_of(read_answer(slow)) == 200
        assert served.process.wait(PATIENCE_S) == 0
        for thread in threads:
            thread.join()
        assert served.process.stdout is not None
        assert served.process.stdout.read() == ""
        assert json.loads(served.first)["url"] == served.url
    assert set(told) == {200}
    assert told.count(200) >= 30
    assert "Traceback" not in served.log()


def begin(slow: socket.socket) -> None:
    """Send the head of a request; returns when the server reads the body."""
    slow.settimeout(PATIENCE_S)
    slow.sendall(b"POST /predict HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 1000\r\n\r\n")
    assert slow.recv(100).startswith(b"HTTP/1.1 100 ")


def test_second_signal_ends_at_once(onnx_n: Path, images: list[bytes], tmp_path: Path) -> None:
    with (
        run_server(onnx_n, tmp_path, "--timeout-s", "600", "--drain-s", "600") as served,
        socket.create_connection(("127.0.0.1", served.port)) as slow,
    ):
        begin(slow)
        served.process.send_signal(signal.SIGTERM)
        wait_until(lambda: "stopping" in served.log())  # two signals at once would be one
        time.sleep(2)
        assert served.process.poll() is None  # it waits for the body
        assert served.stop() == 0
        assert "Traceback" not in served.log()


def test_who_is_not_answered_in_time_is_told(onnx_n: Path, tmp_path: Path) -> None:
    with (
        run_server(onnx_n, tmp_path, "--drain-s", "1") as served,
        socket.create_connection(("127.0.0.1", served.port)) as slow,
    ):
        begin(slow)
        slow.sendall(b"abc")
        served.process.send_signal(signal.SIGTERM)
        answer = read_answer(slow)
        assert status_of(answer) == 503
        assert b"about to stop" in answer
        assert served.process.wait(PATIENCE_S) == 0
        assert "Traceback" not in served.log()
        (line,) = [line for line in served.lines() if line.get("route") == "/predict"]
        assert (line["status"], line["bytes"]) == (503, 3)


def run(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "rtmo_deploy", "serve", *map(str, arguments)]
    environment = {**os.environ, **environment}
    return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=False, env=environment)


def test_what_cannot_be_served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    missing, empty, binary, pem = (tmp_path / name for name in ("missing", "empty", "binary", "pem"))
    empty.write_text("\n")
    binary.write_bytes(b"\xff\xfe")
    pem.write_text("no certificate")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        cases: list[tuple[dict[str, Any], object]] = [
            ({"port": taken.getsockname()[1]}, f"127.0.0.1:{taken.getsockname()[1]}"),
            ({"port": 0, "host": "192.0.2.1"}, "192.0.2.1:0"),
            ({"port": 0, "host": "no.such.host.invalid"}, "no.such.host.invalid:0"),
            ({"port": 0, "host": "a" * 300}, f"{'a' * 300}:0"),
            *(({"port": 0, "api_key_file": path}, path) for path in (missing, tmp_path, empty, binary)),
            ({"port": 0, "tls_cert": pem, "tls_key": pem}, pem),
        ]
        for options, where in cases:
            with pytest.raises(SetupError) as caught:
                bind(ServeOptions(**options)).close()
            assert ("--port" in caught.value.remedy) == ("host" not in options and len(options) == 1)
            assert (caught.value.where, bool(caught.value.remedy)) == (str(where), True)
    for key in ("", " ", "two words", "\N{SNOWMAN}"):
        monkeypatch.setenv("RTMO_DEPLOY_API_KEY", key)
        with pytest.raises(SetupError, match="no API key"):
            bind(ServeOptions(port=0))
    for origin in ("example.com", "https://example.com/", "https://Example.com", "*", "null", "http://["):
        with pytest.raises(UsageError):
            ServeOptions(allow_origin=(origin,))


BAD_OPTIONS = [
    {"port": -1}, {"port": 65536}, {"port": "8000"}, {"port": None}, {"queue": 0}, {"max_batch": 1.5}, {"host": None},
    {"timeout_s": 0}, {"timeout_s": float("nan")}, {"max_bytes": 10}, {"max_streams": -1}, {"drain_s": -1},
    {"log_format": "xml"}, {"name": 5}, {"name": ""},
]  # fmt: skip


@pytest.mark.parametrize("options", BAD_OPTIONS, ids=str)
def test_options_in_python_are_checked_as_on_the_command_line(options: dict[str, Any]) -> None:
    (name,) = options
    with pytest.raises(UsageError) as caught:
        ServeOptions(**options)
    assert caught.value.where == f"--{name.replace('_', '-')}"
    assert caught.value.remedy


def test_one_origin_and_a_list_of_them() -> None:
    origin = "https://a.example"
    for given in (origin, [origin], (origin,)):
        assert ServeOptions(allow_origin=given).allow_origin == (origin,)  # type: ignore[arg-type]


def test_where_the_server_cannot_run(onnx_n: Path) -> None:
    caught: list[BaseException] = []

    def fail(*arguments: Any) -> None:
        with pytest.raises(UsageError) as error:
            serve(*arguments)
        caught.append(error.value)

    async def within() -> None:
        fail(model, ServeOptions(port=0))

    with RTMO(onnx_n) as model:
        fail(onnx_n)
        fail(model, {"port": 0})
        thread = threading.Thread(target=fail, args=(model, ServeOptions(port=0)))
        thread.start()
        thread.join()
        asyncio.run(within())
    fail(model, ServeOptions(port=0))
    words = ["takes an RTMO", "not RTMO and dict", "main thread", "no event loop", "closed"]
    assert [word for word, error in zip(words, caught, strict=True) if word not in str(error)] == []


def test_errors_come_before_the_model_is_opened(tmp_path: Path, onnx_n: Path) -> None:
    model = tmp_path / "model.onnx"  # it would take an error of its own
    model.write_bytes(onnx_n.read_bytes()[:5000])
    with socket.create_server(("127.0.0.1", 0)) as taken:
        done = run(model, "--port", taken.getsockname()[1])
    assert done.returncode not in {0, 1}
    assert (done.stdout, "Traceback" in done.stderr, "model.onnx" in done.stderr) == ("", False, False)
    assert "--port" in done.stderr


def test_two_servers_that_start_at_once(onnx_n: Path, tmp_path: Path) -> None:
    """Both bind the port; the one that listens later is told."""
    options = ServeOptions(port=0)
    with (
        bind(options) as first,
        bind(ServeOptions(port=first.getsockname()[1])) as second,
        RTMO(onnx_n, device="cpu") as model,
    ):
        first.listen()
        with pytest.raises(SetupError, match="listened on"):
            serve(model, options, sock=second)


def test_missing_packages_are_named(onnx_n: Path, tmp_path: Path) -> None:
    for package in ("fastapi", "python_multipart"):
        (tmp_path / f"{package}.py").write_text("raise ImportError('not here')\n")
        done = run(onnx_n, "--port", 0, PYTHONPATH=str(tmp_path))
        (tmp_path / f"{package}.py").unlink()
        assert done.returncode not in {0, 1}
        assert "rtmo-deploy[serve]" in done.stderr
        assert "Traceback" not in done.stderr


def test_key_is_asked_for_and_never_told(onnx_n: Path, images: list[bytes], tmp_path: Path) -> None:
    key = "k3y-4f9a"
    (tmp_path / "key").write_text(f"{key}\n")
    with run_server(onnx_n, tmp_path, "--api-key-file", str(tmp_path / "key"), "--log-format", "text") as served:
        bearer = {"authorization": f"Bearer {key}"}
        for path in (
            "/model",
            "/metrics",
            "/v2",
            "/openapi.json",
            "/nowhere",
            "/v2/models/rtmo",
            "//",
            "/v2/health/live/",
        ):
            answer = served.get(path)
            assert answer.status_code == 401, path
            assert answer.headers["www-authenticate"] == "Bearer"
        assert [served.get(path).status_code for path in ("/", "/v2/health/live", "/v2/health/ready")] == [200] * 3
        for wrong in ("", "Bearer", f"Bearer {key}x", f"Basic {key}", key, f"Bearer {key[:-1]}", "Bearer \xff"):
            headers = {"authorization": wrong.encode("latin-1")}
            assert served.post("/predict", images[0], headers=headers).status_code == 401  # type: ignore[arg-type]
        assert served.post("/predict", images[0], headers=bearer).status_code == 200
        assert served.post("/predict", images[0], headers={"authorization": f"bearer  {key}"}).status_code == 200
        assert served.stop() == 0
        assert key not in served.log()
        assert "Traceback" not in served.log()
        requests = [line for line in served.log().splitlines() if " request " in line]
        assert all("status=" in line for line in requests)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_log_on_a_full_disk_ends_nothing() -> None:
    script = """
import logging, os, sys
from rtmo_deploy.serve import ServeOptions
from rtmo_deploy.serve.log import LOG, logging_to_stderr
with logging_to_stderr(ServeOptions(log_format="json")):
    LOG.error("one")
    os.write(2, b"of a library\\n")
"""
    with open("/dev/full", "w") as full:  # noqa: PTH123
        done = subprocess.run([sys.executable, "-c", script], stderr=full, check=False, timeout=PATIENCE_S)
    assert done.returncode == 0
