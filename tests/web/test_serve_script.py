"""``serve.py`` of the folder for browsers, as a user runs it."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from importlib.resources import files
from urllib.request import urlopen

import pytest


@pytest.fixture
def script(tmp_path):
    made = tmp_path / "serve.py"
    made.write_text((files("rtmo_deploy.web") / "assets" / "serve.py.txt").read_text(encoding="utf-8"))
    (tmp_path / "runtime.mjs").write_text("1")
    return made


@pytest.fixture
def interruptible():
    """Processes that are started can be interrupted, also where this one runs in a shell's background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_headers_and_an_end_without_a_traceback(script, interruptible):
    command = [sys.executable, str(script), "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as server:
        try:
            address = server.stdout.readline().strip()
            with urlopen(f"{address}runtime.mjs", timeout=60) as answer:
                assert answer.headers["Cross-Origin-Opener-Policy"] == "same-origin"
                assert answer.headers["Cross-Origin-Embedder-Policy"] == "require-corp"
                assert answer.headers["Content-Type"] == "text/javascript"
            server.send_signal(signal.SIGINT)
            _, told = server.communicate(timeout=60)
        finally:
            server.kill()
    assert server.returncode == 0
    assert "Traceback" not in told


def test_a_port_that_cannot_be_had(script):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        for port in (str(taken.getsockname()[1]), "web", "70000"):
            command = [sys.executable, str(script), port]
            done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
            assert done.returncode == 1
            assert "Traceback" not in done.stderr
            assert "python serve.py 8001" in done.stderr
