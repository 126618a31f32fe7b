"""A server in a process of its own, for tests."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import httpx

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

#: Seconds that a server may take for anything that is not the point of a test.
PATIENCE_S = 60.0


@dataclass
class Served:
    """A server in a process of its own."""

    process: subprocess.Popen[str]
    url: str
    folder: Path
    first: str  #: What it printed first.
    client: httpx.Client

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    def post(self, path: str, content: bytes, **more: Any) -> httpx.Response:
        return self.client.post(self.url + path, content=content, **more)

    def get(self, path: str, **more: Any) -> httpx.Response:
        return self.client.get(self.url + path, **more)

    def raw(self, data: bytes) -> bytes:
        """What the server sends to these bytes, until it closes, is silent, or has sent all that it announced."""
        with socket.create_connection(("127.0.0.1", self.port)) as sock:
            sock.settimeout(PATIENCE_S)
            with contextlib.suppress(OSError):
                sock.sendall(data)
            return read_answer(sock)

    def metric(self, name: str, **labels: str) -> float:
        """The sum of the samples of a metric with these labels."""
        from prometheus_client.parser import text_string_to_metric_families

        samples = [
            one for family in text_string_to_metric_families(self.get("/metrics").text) for one in family.samples
        ]
        return sum(one.value for one in samples if one.name == name and labels.items() <= one.labels.items())

    def rss(self) -> int:
        """Bytes of memory it takes."""
        import psutil

        return int(psutil.Process(self.process.pid).memory_info().rss)

    def processor_s(self) -> float:
        """Seconds of a processor it has taken: other work on the machine does not count."""
        import psutil

        times = psutil.Process(self.process.pid).cpu_times()
        return float(times.user + times.system)

    def log(self) -> str:
        return (self.folder / "stderr").read_text()

    def lines(self) -> list[dict[str, Any]]:
        """The log after the server's start, each line parsed."""
        return [json.loads(line) for line in self.log().splitlines() if line.startswith("{")]

    def is_well(self, image: bytes) -> None:
        """Nothing is left behind, and a good request is answered."""
        wait_until(lambda: self.metric("rtmo_requests_in_flight") == 0)
        assert self.metric("rtmo_queue_depth") == 0
        assert self.post("/predict", image).status_code == 200
        assert self.get("/v2/health/live").status_code == 200

    def stop(self, number: int = signal.SIGTERM) -> int:
        """End it; its exit status."""
        self.process.send_signal(number)
        return self.process.wait(PATIENCE_S)


def wait_until(condition: Callable[[], object]) -> None:
    """Look again and again, however long a machine stands still."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def read_answer(sock: socket.socket) -> bytes:
    data = b""
    with contextlib.suppress(OSError):
        while got := sock.recv(65536):
            data += got
            head, end, body = data.partition(b"\r\n\r\n")
            lengths = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
            if end and (status_of(head) == 101 or (lengths and len(body) >= int(lengths[0].split(b":")[1]))):
                break
    return data


def status_of(answer: bytes) -> int:
    """The status of an answer as it came; 0 of none."""
    return int(answer.split(b" ", 2)[1]) if answer.startswith(b"HTTP/1.1 ") else 0


@contextlib.contextmanager
def run_server(
    model: Path, folder: Path, *arguments: str, program: Sequence[str] = ("-m", "rtmo_deploy"), **environment: str
) -> Iterator[Served]:
    """Serve a model from a process of its own."""
    command = [sys.executable, *program, "serve", str(model), "--port", "0", "--device", "cpu", *arguments]
    with (folder / "stderr").open("w") as stderr:
        process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        )
    assert process.stdout is not None
    with process.stdout:
        try:
            line = process.stdout.readline()
            assert line, (folder / "stderr").read_text()
            url = json.loads(line)["url"] if line.startswith("{") else line.strip()
            with httpx.Client(timeout=PATIENCE_S, verify=False) as client:
                yield Served(process, url, folder, line, client)
        finally:
            if process.poll() is None:
                process.kill()
            process.wait()


def in_loop(work: Any, *, timeout_s: float = PATIENCE_S) -> Any:
    """Run a coroutine, not for ever."""
    return asyncio.run(asyncio.wait_for(work, timeout_s))
