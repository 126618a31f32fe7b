"""``/stream``: a camera's frames over a WebSocket."""

from __future__ import annotations

import base64
import contextlib
import json
import signal
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import pytest
from golden import golden_model
from serving import PATIENCE_S, Served, run_server, status_of, wait_until
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from rtmo_deploy.media.results import people_of
from rtmo_deploy.model import NetworkSpec, save_checkpoint
from rtmo_deploy.runtime.estimator import RTMO
from rtmo_deploy.track import Tracker
from rtmo_deploy.zoo import ARCHITECTURES, COCO_17

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def opened(served: Served, query: str = "", **more: Any) -> ClientConnection:
    address = f"ws://127.0.0.1:{served.port}/stream{query}"
    return connect(address, max_size=None, compression=None, open_timeout=PATIENCE_S, **more)


def ask(socket: ClientConnection, frame: bytes | str) -> dict[str, Any]:
    socket.send(frame)
    return json.loads(socket.recv(PATIENCE_S))


def frames(image: bytes, count: int) -> list[bytes]:
    """A camera that moves to the right."""
    pixels = cv2.imdecode(np.frombuffer(image, np.uint8), cv2.IMREAD_COLOR)
    return [cv2.imencode(".png", np.roll(pixels, 2 * number, axis=1))[1].tobytes() for number in range(count)]


def test_answers_are_those_of_the_library_in_order(server: Served, estimator: RTMO, images: list[bytes]) -> None:
    with opened(server, "?score_thr=0.3") as socket:
        for image in images * 2:
            socket.send(image)
        answers = [json.loads(socket.recv(PATIENCE_S)) for _ in images * 2]
    assert [answer["frame"] for answer in answers] == list(range(10))
    for answer, image in zip(answers, images * 2, strict=True):
        assert answer["people"] == json.loads(json.dumps(people_of(estimator(image, score_thr=0.3))))


#: A server whose cameras see the time that stands in a file, in seconds.
CLOCKED = """
import time
from pathlib import Path
from types import SimpleNamespace
from rtmo_deploy.cli import main
from rtmo_deploy.serve import stream
clock = lambda: float(Path({clock!r}).read_text())
stream.time = SimpleNamespace(monotonic=clock, perf_counter=time.perf_counter)
main()
"""


@dataclass
class Clocked:
    """A server of a model that is sure enough to give ids."""

    served: Served
    model: Path
    clock: Path

    def set(self, seconds: float) -> None:
        """Make it this time. The server may read it at any moment: the file is whole at each."""
        part = self.clock.with_name("part")
        part.write_text(str(seconds))
        part.replace(self.clock)

    def ask(self, socket: ClientConnection, frame: bytes, seconds: float) -> Any:
        """The people of a frame at this time."""
        self.set(seconds)
        return ask(socket, frame)["people"]


@pytest.fixture(scope="module")
def clocked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Clocked]:
    folder = tmp_path_factory.mktemp("clocked")
    model, clock = folder / "sure.pth", folder / "clock"
    network = golden_model(NetworkSpec.of(ARCHITECTURES["rtmo-n"], 17), bias=(0, 0))
    save_checkpoint(model, network, skeleton=COCO_17, input_hw=(256, 256))
    clock.write_text("0")
    with run_server(model, folder, program=("-c", CLOCKED.format(clock=str(clock)))) as served:
        yield Clocked(served, model, clock)


def test_ids_are_those_of_the_tracker(clocked: Clocked, images: list[bytes]) -> None:
    """The same frames, a twentieth of a second apart."""
    sent, tracker, wanted = frames(images[4], 12), Tracker(), []
    with RTMO(clocked.model, device="cpu") as estimator:
        for number, frame in enumerate(sent):
            pixels = cv2.imdecode(np.frombuffer(frame, np.uint8), cv2.IMREAD_COLOR)
            wanted.append(people_of(tracker.update(estimator(frame), number / 20, pixels)))
    clocked.set(0)
    with opened(clocked.served, "?track=1") as socket:
        answers = [clocked.ask(socket, frame, number / 20) for number, frame in enumerate(sent)]
    ids = [[person.get("track_id") for person in people] for people in answers]
    assert ids == [[person.get("track_id") for person in people] for people in wanted]
    assert len({one for people in ids for one in people if one is not None}) > 2


def test_smooth_is_smoother(clocked: Clocked, images: list[bytes]) -> None:
    clocked.set(0)
    with opened(clocked.served, "?smooth=1") as smooth, opened(clocked.served, "?track=1") as plain:
        for number in range(4):
            one = clocked.ask(smooth, images[0], number / 20)
            other = clocked.ask(plain, images[0], number / 20)
        assert [person["track_id"] for person in one] == [person["track_id"] for person in other]


def test_bad_frames_do_not_end_a_stream(server: Served, images: list[bytes]) -> None:
    with opened(server, "?track=1") as socket:
        bad = [b"", b"no image", images[0][:-30], "text", json.dumps({"image": 1}), b"\x89PNG\r\n\x1a\n"]
        for number, frame in enumerate(bad):
            answer = ask(socket, frame)
            assert (answer["frame"], bool(answer["error"]["message"])) == (number, True)
        answer = ask(socket, images[0])
        assert answer["frame"] == len(bad)
        assert answer["people"]
    server.is_well(images[0])


def test_messages_larger_than_allowed_end_it(server: Served, images: list[bytes]) -> None:
    with opened(server) as socket, pytest.raises(ConnectionClosed) as caught:
        ask(socket, b"x" * 2**25)
    assert caught.value.rcvd is not None
    assert caught.value.rcvd.code == 1009
    with opened(server) as socket:  # the same in pieces
        with contextlib.suppress(ConnectionClosed):
            socket.send([b"x" * 2**20] * 32)
        with pytest.raises(ConnectionClosed):
            socket.recv(PATIENCE_S)
    server.is_well(images[0])
    assert server.metric("rtmo_streams") == 0


def test_pings_without_a_reader_take_no_memory(server: Served, images: list[bytes]) -> None:
    """A client that sends pings and reads no answer: the server reads no more of it."""
    import socket

    before = server.rss()
    handshake = (
        b"GET /stream HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: upgrade\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", server.port)) as sock:
        sock.sendall(handshake)
        sock.settimeout(PATIENCE_S)
        assert status_of(sock.recv(1000)) == 101
        sock.settimeout(3)
        sent = 0
        with contextlib.suppress(TimeoutError):
            for _ in range(400):
                sock.sendall((b"\x89\xfd\0\0\0\0" + b"x" * 125) * 1000)
                sent += 1
        assert sent < 400
        assert server.post("/predict", images[0]).status_code == 200
        assert server.rss() - before < 30 * 2**20


def test_too_many_streams(onnx_n: Path, images: list[bytes], tmp_path: Path) -> None:
    with run_server(onnx_n, tmp_path, "--max-streams", "1") as served:
        with opened(served) as first, opened(served) as second:
            answer = json.loads(second.recv(PATIENCE_S))
            assert answer["error"]["type"] == "BusyError"
            with pytest.raises(ConnectionClosed) as caught:
                second.recv(PATIENCE_S)
            assert caught.value.rcvd is not None
            assert caught.value.rcvd.code == 1013
            assert ask(first, images[0])["people"]
        wait_until(lambda: served.metric("rtmo_streams") == 0)
        with opened(served) as again:
            assert ask(again, images[0])["people"]
        assert served.metric("rtmo_rejections_total", reason="streams") == 1


def test_end_of_the_server(onnx_n: Path, images: list[bytes], tmp_path: Path) -> None:
    """Frames that came are answered, then it is said; an idle stream is closed too."""
    answers: list[dict[str, Any]] = []
    codes: list[int | None] = []

    def run(served: Served, *, busy: bool) -> None:
        with opened(served) as socket:
            with contextlib.suppress(ConnectionClosed):
                while True:
                    if busy:
                        socket.send(images[0])
                    answers.append(json.loads(socket.recv(PATIENCE_S)))
            codes.append(socket.protocol.close_code)

    with run_server(onnx_n, tmp_path, "--drain-s", "600") as served:
        threads = [threading.Thread(target=run, args=(served,), kwargs={"busy": number < 3}) for number in range(4)]
        for thread in threads:
            thread.start()
        wait_until(lambda: len(answers) >= 6)
        assert served.stop(signal.SIGTERM) == 0
        for thread in threads:
            thread.join()
    assert codes == [1012] * 4
    assert all("people" in answer for answer in answers)
    assert "Traceback" not in served.log()


def test_refused_streams_are_counted_and_logged(onnx_n: Path, images: list[bytes], tmp_path: Path) -> None:
    cases = {"?score_thr=2": 400, "?nms_thr=0.5": 400, "?track=1&track=1": 400}
    with run_server(onnx_n, tmp_path) as served:
        for query, status in cases.items():
            with pytest.raises(InvalidStatus) as caught, opened(served, query):
                pass
            assert caught.value.response.status_code == status
        with pytest.raises(InvalidStatus), opened(served, origin="https://evil.example"):  # type: ignore[arg-type]
            pass
        with opened(served) as socket:
            assert ask(socket, images[0])["people"]
        assert served.metric("rtmo_requests_total", route="/stream", status="400") == len(cases)
        assert served.metric("rtmo_requests_total", status="403") == 1
        assert served.metric("rtmo_requests_total", route="/stream", status="101") == 1
        assert [line["status"] for line in served.lines() if "status" in line] == [400, 400, 400, 403]
        assert {line["level"] for line in served.lines()} == {"info"}


def test_key_and_origin(onnx_n: Path, images: list[bytes], tmp_path: Path) -> None:
    key = "k3y_4f9a/+"
    (tmp_path / "key").write_text(key)
    coded = base64.urlsafe_b64encode(key.encode()).decode().rstrip("=")
    arguments = ("--api-key-file", str(tmp_path / "key"), "--allow-origin", "https://page.example")
    with run_server(onnx_n, tmp_path, *arguments) as served:
        for more in (
            {},
            {"subprotocols": ["rtmo", "key.QUJD"]},
            {"subprotocols": ["key.!"]},
            {"subprotocols": ["key."]},
        ):
            with pytest.raises(InvalidStatus) as caught, opened(served, **more):
                pass
            assert caught.value.response.status_code == 401
        good: dict[str, Any] = {"subprotocols": ["rtmo", f"key.{coded}"]}
        with opened(served, **good) as socket:
            assert socket.subprotocol == "rtmo"
            assert ask(socket, images[0])["people"]
        with opened(served, additional_headers={"Authorization": f"Bearer {key}"}) as socket:
            assert ask(socket, images[0])["people"]
        with opened(served, origin="https://page.example", **good) as socket:  # type: ignore[arg-type]
            assert ask(socket, images[0])["people"]
        for origin in (
            "https://evil.example",
            "http://page.example",
            "null",
            f"http://localhost:{served.port}",
            "http://[",
        ):
            with pytest.raises(InvalidStatus) as caught, opened(served, origin=origin, **good):  # type: ignore[arg-type]
                pass
            assert caught.value.response.status_code == 403

        bearer = {"authorization": f"Bearer {key}"}
        asked = {"access-control-request-method": "POST", "access-control-request-headers": "authorization"}
        page = {"origin": "https://page.example"}
        preflight = served.client.options(f"{served.url}/predict", headers={**page, **asked})
        assert preflight.status_code == 204
        assert "authorization" in preflight.headers["access-control-allow-headers"]
        answer = served.post("/predict", images[0], headers={**bearer, **page})
        assert answer.status_code == 200
        assert answer.headers["access-control-allow-origin"] == "https://page.example"
        refused = served.post("/predict", images[0], headers=page)
        assert (refused.status_code, refused.headers["access-control-allow-origin"]) == (401, page["origin"])
        evil = {"origin": "https://evil.example"}
        assert served.post("/predict", images[0], headers={**bearer, **evil}).status_code == 403
        assert (
            "access-control-allow-origin"
            not in served.client.options(f"{served.url}/predict", headers={**evil, **asked}).headers
        )
        # Behind a proxy that keeps the host, the public name is the server's own.
        own = {"origin": "https://pose.example", "host": "pose.example"}
        assert served.post("/predict", images[0], headers={**bearer, **own}).status_code == 200
        assert served.stop() == 0
        assert key not in served.log()
        assert coded not in served.log()


@pytest.mark.parametrize(
    ("origin", "host", "status"),
    [
        ("http://localhost:8000", "localhost:8000", 200),
        ("http://127.0.0.1:8000", "127.0.0.1:8000", 200),
        ("http://[::1]:8000", "[::1]:8000", 200),
        ("http://page.localhost:8000", "page.localhost:8000", 200),
        ("http://rebound.example:8000", "rebound.example:8000", 403),
        ("http://localhost:8000", "localhost:8001", 403),
        ("http://localhost.example", "localhost.example", 403),
        ("null", "localhost", 403),
    ],
)
def test_origins_without_a_key(server: Served, images: list[bytes], origin: str, host: str, status: int) -> None:
    """A name that somebody pointed at this machine is not this machine's."""
    assert server.post("/predict", images[0], headers={"origin": origin, "host": host}).status_code == status
