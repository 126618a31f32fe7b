"""A real Triton: the tritonserver in the wheel nvidia-pytriton, which has the Python backend only."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

START_SECONDS = 60


class Server(NamedTuple):
    """A running server."""

    process: subprocess.Popen[bytes]
    http: str  #: host:port
    grpc: str
    log: Path

    def get(self, path: str) -> Any:
        """The JSON that a path answers."""
        with urllib.request.urlopen(f"http://{self.http}/v2/{path}", timeout=60) as answer:
            return json.load(answer)

    def load(self, model: str) -> None:
        """Load a model; AssertionError with what the server says where it cannot."""
        url = f"http://{self.http}/v2/repository/models/{model}/load"
        try:
            with urllib.request.urlopen(urllib.request.Request(url, b"{}"), timeout=60):
                pass
        except urllib.error.HTTPError as error:
            raise AssertionError(error.read().decode()) from error

    def status(self, path: str) -> int:
        """HTTP status of a path."""
        try:
            with urllib.request.urlopen(f"http://{self.http}/v2/{path}", timeout=60) as answer:
                return answer.status
        except urllib.error.HTTPError as error:
            return error.code


def free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


@contextmanager
def serving(venv: Path, repository: Path, folder: Path, *options: str, ready: bool = True) -> Iterator[Server]:
    """Run the tritonserver of a virtual environment on a repository; ``folder`` is for its files."""
    (package,) = venv.glob("lib/python3.*/site-packages/pytriton")
    version = package.parent.parent.name.removeprefix("python")
    server = package / "tritonserver"
    backend = folder / "backends" / "python"
    backend.mkdir(parents=True)
    for path in (server / "backends" / "python").iterdir():
        (backend / path.name).symlink_to(path)
    stub = "triton_python_backend_stub"
    (backend / stub).symlink_to(server / "python_backend_stubs" / version / stub)
    http, grpc = free_ports(2)
    # "activated", as the Python backend finds its interpreter by PATH
    environment = {**os.environ, "PATH": f"{venv / 'bin'}:{os.environ['PATH']}", "VIRTUAL_ENV": str(venv)}
    environment.pop("PYTHONPATH", None)
    command = [
        *(str(server / "bin" / "tritonserver"), f"--model-repository={repository}"),
        *(f"--backend-directory={backend.parent}", "--allow-metrics=false", "--http-address=127.0.0.1"),
        # Regions of shared memory that have to grow crash this server now and then.
        "--backend-config=python,shm-default-byte-size=134217728",
        *(f"--http-port={http}", f"--grpc-port={grpc}", "--grpc-address=127.0.0.1", *options),
    ]
    log = folder / "server.log"
    with log.open("wb") as stream, subprocess.Popen(command, env=environment, stdout=stream, stderr=stream) as process:
        found = Server(process, f"127.0.0.1:{http}", f"127.0.0.1:{grpc}", log)
        try:
            wait_until(found, "health/ready" if ready else "health/live")
            yield found
        finally:
            process.terminate()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()


def wait_until(server: Server, path: str) -> None:
    """Wait until a path answers 200."""
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end:
        if server.process.poll() is not None:
            break
        try:
            if server.status(path) == 200:
                return
        except OSError:
            pass
        time.sleep(0.2)
    raise AssertionError(f"Triton is not ready:\n{server.log.read_text(errors='replace')[-5000:]}")
