"""Requests that no honest client sends: answered with a status of 4xx, and nothing is left behind."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import socket
import struct
import threading
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING
from unittest.mock import Mock

import pytest
from serving import PATIENCE_S, Served, read_answer, run_server, status_of, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

INFER = "/v2/models/rtmo/infer"
JSON = {"content-type": "application/json"}
UPGRADE = (
    b"Upgrade: websocket\r\nConnection: upgrade\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
)


def tensor(data: object = None, shape: object = (1, 3, 32, 32), **more: object) -> bytes:
    values = [0] * 3072 if data is None else data
    return json.dumps(
        {"inputs": [{"name": "input", "datatype": "FP32", "shape": shape, "data": values}], **more}
    ).encode()


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, pixels: bytes | None = None) -> bytes:
    """A grey PNG of any size, or with any compressed data."""
    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    rows = zlib.compress(b"\0" * ((width + 1) * height), 9) if pixels is None else pixels
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def form(*parts: bytes, boundary: bytes = b"x", end: bytes = b"--x--\r\n") -> bytes:
    return b"".join(b"--" + boundary + b"\r\n" + part + b"\r\n" for part in parts) + end


FILE = b'Content-Disposition: form-data; name="image"; filename="a.png"\r\n\r\n'
FIELD = b'Content-Disposition: form-data; name="a"\r\n\r\n'


@pytest.fixture(autouse=True)
def _well(server: Served, images: list[bytes]) -> Iterator[None]:
    """After each attack, the server is as before."""
    before = server.rss()
    yield
    server.is_well(images[0])
    assert server.rss() - before < 300 * 2**20


def wait_until_well(hasty: Served, image: bytes) -> None:
    """Nothing is left behind; a good request is late where a machine stands still for the short time limit."""
    wait_until(lambda: hasty.metric("rtmo_requests_in_flight") == hasty.metric("rtmo_queue_depth") == 0)
    wait_until(lambda: hasty.post("/predict", image).status_code == 200)


HEADS = {
    "length of 5000 digits": b"Content-Length: " + b"9" * 5000,
    "negative length": b"Content-Length: -1",
    "length with a sign": b"Content-Length: +1",
    "length in hexadecimal": b"Content-Length: 0x10",
    "two lengths": b"Content-Length: 1\r\nContent-Length: 2",
    "length that is a list": b"Content-Length: 1, 2",
    "unknown coding": b"Transfer-Encoding: gzip, chunked",
    "two hosts": b"Host: b\r\nContent-Length: 1",
    "name with a space": b"Bad Name: 1",
    "folded line": b"A: 1\r\n  Transfer-Encoding: chunked\r\nTransfer-Encoding: x",
    "nul": b"A: \0",
    "bare line feeds in a value": b"A: 1\rB: 2",
    "endless value": b"A: " + b"a" * 200_000,
    "endless headers": b"\r\n".join(b"A%d: 1" % number for number in range(20_000)),
}


@pytest.mark.parametrize("head", HEADS.values(), ids=HEADS)
def test_bad_heads(server: Served, head: bytes) -> None:
    answer = server.raw(b"POST /predict HTTP/1.1\r\nHost: a\r\n" + head + b"\r\n\r\nx")
    assert status_of(answer) == 400
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"]


@pytest.mark.parametrize(
    "start",
    [b"GET /\xc3\xa9 HTTP/1.1", b"GET / HTTP/9.99", b"GET /", b"\x16\x03\x01\x02\0\x01\0", b"GET / HTTP/1.1\r\n: x"],
    ids=["bytes in the path", "version", "no version", "TLS", "no name"],
)
def test_what_is_no_http(server: Served, start: bytes) -> None:
    answer = server.raw(start + b"\r\nHost: a\r\n\r\n")
    assert status_of(answer) in {400, 505}, answer


@pytest.mark.parametrize(
    "path", ["/%ff%00%0a", "/v2/models/%ed%a0%80", "/v2/models/a%0d%0ab/ready", "/../../etc", "/" * 500]
)
@pytest.mark.parametrize("host", [b"[", b"a b", b"a:99999999", b"\xff"])
def test_bad_paths_and_hosts(server: Served, path: str, host: bytes) -> None:
    answer = server.raw(b"GET " + path.encode() + b" HTTP/1.1\r\nHost: " + host + b"\r\n\r\n")
    assert status_of(answer) in {400, 404}
    assert b"location:" not in answer.lower()


def test_length_that_promises_more(hasty: Served, images: list[bytes]) -> None:
    answer = hasty.raw(
        b"POST /predict HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % (len(images[0]) + 5) + images[0]
    )
    assert status_of(answer) == 408
    wait_until_well(hasty, images[0])


def test_length_that_promises_less(server: Served, images: list[bytes]) -> None:
    answer = server.raw(b"POST /predict HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\n" + images[0])
    assert status_of(answer) == 400


@pytest.mark.parametrize("length", [2**26 + 1, 10**19])
@pytest.mark.parametrize("more", [b"", b"Expect: 100-continue\r\n"])
def test_huge_length_is_refused_before_a_byte_is_read(server: Served, length: int, more: bytes) -> None:
    head = b"POST /predict HTTP/1.1\r\nHost: a\r\n" + more + b"Content-Length: %d\r\n\r\n" % length
    answer = server.raw(head)
    assert status_of(answer) == 413
    assert b"connection: close" in answer.lower()


@pytest.mark.parametrize(
    ("body", "status"),
    [(b"zz\r\n", 400), (b"-1\r\nabc", 400), (b"ffffffffffffffff\r\nabc", 408), (b"5\r\nabc", 408), (b"0\r\n\r\n", 400)],
)
def test_bad_chunks(server: Served, hasty: Served, images: list[bytes], body: bytes, status: int) -> None:
    asked = hasty if status == 408 else server
    answer = asked.raw(b"POST /predict HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" + body)
    assert status_of(answer) == status
    wait_until_well(asked, images[0])


def test_chunks_without_end_are_counted(server: Served) -> None:
    with socket.create_connection(("127.0.0.1", server.port)) as sock:
        sock.settimeout(PATIENCE_S)
        sock.sendall(b"POST /predict HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
        piece = b"100000\r\n" + b"x" * 2**20 + b"\r\n"
        sent = 0
        with contextlib.suppress(OSError):
            for _ in range(200):
                sock.sendall(piece)
                sent += 2**20
        assert status_of(read_answer(sock)) in {0, 413}  # 0: the connection was closed while we wrote
        assert sent < 150 * 2**20


@contextlib.contextmanager
def dripping(port: int) -> Iterator[list[socket.socket]]:
    """Connections of clients that send one byte at a time."""
    starts = (b"", b"POST /predict HT", b"POST /predict HTTP/1.1\r\nHost: a\r\nContent-Length: 900\r\n\r\n")
    socks = [socket.create_connection(("127.0.0.1", port)) for _ in range(8 * len(starts))]
    ended = threading.Event()

    def drip() -> None:
        while not ended.wait(0.5):
            for sock in socks:
                with contextlib.suppress(OSError):
                    sock.send(b"X")

    for sock, start in zip(socks, starts * 8, strict=True):
        sock.sendall(start)
    thread = threading.Thread(target=drip)
    thread.start()
    try:
        yield socks
    finally:
        ended.set()
        thread.join()
        for sock in socks:
            sock.close()


def test_silence_and_drip(server: Served, hasty: Served, images: list[bytes]) -> None:
    """Clients that send one byte at a time hold nobody up, and are let go."""
    with dripping(hasty.port) as socks:
        with dripping(server.port):
            assert server.post("/predict", images[0]).status_code == 200
        deadline = time.monotonic() + PATIENCE_S
        for sock in socks:
            sock.settimeout(max(0.1, deadline - time.monotonic()))
            answer = read_answer(sock)
            assert status_of(answer) in {0, 400, 408}, answer
        assert time.monotonic() < deadline  # the server has closed them all
    wait_until_well(hasty, images[0])


def test_idle_connections(server: Served, images: list[bytes]) -> None:
    """As many as there may be: the next ones are told so, and later there is room again."""
    socks = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(1080)]
    try:
        time.sleep(1)
        answer = server.raw(b"GET /v2 HTTP/1.1\r\nHost: a\r\n\r\n")
        assert status_of(answer) == 503
        assert b"retry-after" in answer.lower()
    finally:
        for sock in socks:
            sock.close()
    wait_until(lambda: status_of(server.raw(b"GET /v2 HTTP/1.1\r\nHost: a\r\n\r\n")) == 200)


def test_half_closed_client_gets_its_answer(server: Served, images: list[bytes]) -> None:
    with socket.create_connection(("127.0.0.1", server.port)) as sock:
        sock.settimeout(PATIENCE_S)
        sock.sendall(b"POST /predict HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % len(images[0]) + images[0])
        sock.shutdown(socket.SHUT_WR)
        answer = read_answer(sock)
        assert status_of(answer) == 200
        assert sock.recv(1) == b""


def test_pipelined_requests_are_answered_in_order(server: Served, images: list[bytes]) -> None:
    one = b"POST /predict HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % len(images[0]) + images[0]
    bad = b"POST /predict HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc"
    with socket.create_connection(("127.0.0.1", server.port)) as sock:
        sock.settimeout(PATIENCE_S)
        sock.sendall(one + bad + one)
        data = b""
        while data.count(b"HTTP/1.1 ") < 3:
            data += sock.recv(65536)
    assert [part[:3] for part in data.split(b"HTTP/1.1 ")[1:]] == [b"200", b"400", b"200"]


# -- bodies


def bomb(size: int) -> bytes:
    """Compressed zeros."""
    packer = zlib.compressobj(9)
    block = b"\0" * 2**20
    return b"".join(packer.compress(block) for _ in range(size // 2**20)) + packer.flush()


BAD_IMAGES = {
    "nothing": b"",
    "text": b"not an image",
    "PDF": b"%PDF-1.4\n",
    "SVG": b"<svg xmlns='http://www.w3.org/2000/svg'/>",
    "MP4": b"\0\0\0\x18ftypmp42" + b"\0" * 50,
    "gzip": b"\x1f\x8b\x08\0" + b"\0" * 50,
    "head of a PNG": b"\x89PNG\r\n\x1a\n",
    "cut PNG": png(64, 64)[:-20],
    "cut JPEG": b"\xff\xd8\xff\xe0" + b"\0" * 30,
    "no side": png(0, 5, b""),
}


@pytest.mark.parametrize("data", BAD_IMAGES.values(), ids=BAD_IMAGES)
def test_what_is_no_image(server: Served, data: bytes) -> None:
    answer = server.post("/predict", data)
    assert answer.status_code == 400
    assert answer.json()["error"]["message"]


@pytest.mark.parametrize(("width", "height"), [(1001, 1000), (999_999, 2), (50_000, 50_000), (2**31 - 1, 2**31 - 1)])
def test_pixel_bombs(server: Served, width: int, height: int) -> None:
    assert server.post("/predict", png(width, height, zlib.compress(b"\0" * 1000))).status_code in {400, 413}


def test_many_large_images_at_once(onnx_n: Path, images: list[bytes], tmp_path: Path) -> None:
    """Images of as many pixels as are read are not kept while they wait: 24 of them would be 2.4 GB."""
    data, peak = png(8192, 4090), []
    with run_server(onnx_n, tmp_path, "--timeout-s", "60") as served, ThreadPoolExecutor(24) as pool:
        before = served.rss()
        answers = [pool.submit(served.post, "/predict", data) for _ in range(24)]
        while not all(answer.done() for answer in answers):
            peak.append(served.rss())
            time.sleep(0.02)
        assert {answer.result().status_code for answer in answers} == {200}
        assert max(peak) - before < 800 * 2**20
        assert max(peak) - before > 2**25  # it was seen


def test_who_reads_nothing_is_let_go() -> None:
    """Only where nothing went out for a whole time limit, and something waits that nobody adds to."""
    from rtmo_deploy.serve.connection import _Read

    class Connection(_Read, asyncio.Protocol):
        pass

    def aborted(*looks: int, paused: bool = True, closing: bool = False) -> bool:
        connection = Connection()
        connection.transport, connection.loop = Mock(), Mock()
        connection.transport.get_protocol.return_value = connection
        connection.transport.is_closing.return_value = closing
        if paused:
            connection.pause_writing()
        for waiting in looks:
            connection.transport.get_write_buffer_size.return_value = waiting
            connection._look()
        return bool(connection.transport.abort.called)

    assert aborted(900_000, 900_000)
    assert aborted(10, 10, paused=False, closing=True)
    assert not aborted(900_000, 800_000, 700_000)
    assert not aborted(10, 10, 10, paused=False)
    assert not aborted(0, 0, closing=True)


def test_zip_bomb_in_a_png(server: Served) -> None:
    """What is too much is not unpacked, or thrown away; it takes no memory."""
    before = server.rss()
    assert server.post("/predict", png(16, 16, bomb(2**28))).status_code in {200, 400}
    assert server.rss() - before < 2**26


@pytest.mark.parametrize("coding", ["gzip", "deflate", "br", "gzip, gzip", "x"])
@pytest.mark.parametrize("path", ["/predict", INFER])
def test_compressed_requests(server: Served, coding: str, path: str) -> None:
    assert server.post(path, b"\0" * 1000, headers={"content-encoding": coding}).status_code == 415


@pytest.mark.parametrize(("width", "height"), [(1, 1), (1, 20_000), (20_000, 1), (2, 9000)])
def test_extreme_sides(server: Served, width: int, height: int) -> None:
    answer = server.post("/predict?draw=1", png(width, height))
    assert answer.status_code == 200
    assert answer.content[:4] == b"\x89PNG"


FORMS = {
    "no boundary": ("multipart/form-data", b"abc"),
    "empty boundary": ("multipart/form-data; boundary=", form(FILE)),
    "long boundary": ("multipart/form-data; boundary=" + "x" * 5000, form(FILE, boundary=b"x" * 5000)),
    "no end": ("multipart/form-data; boundary=x", form(FILE + b"1", end=b"")[:-2]),
    "no file": ("multipart/form-data; boundary=x", form(FIELD + b"1")),
    "two files": ("multipart/form-data; boundary=x", form(FILE, FILE)),
    "no name": ("multipart/form-data; boundary=x", form(b"Content-Disposition: form-data\r\n\r\n1")),
    "thousands of parts": ("multipart/form-data; boundary=x", form(*[FIELD] * 5000)),
    "huge field": ("multipart/form-data; boundary=x", form(FIELD + b"a" * 2**22)),
    "huge header": ("multipart/form-data; boundary=x", form(b"X: " + b"a" * 100_000 + b"\r\n" + FILE)),
    "thousands of headers": ("multipart/form-data; boundary=x", form(b"X: a\r\n" * 50_000 + FILE)),
    "charset that is none": ("multipart/form-data; boundary=x; charset=zlib", form(FIELD + b"\xff")),
    "charset of 16 bits": ("multipart/form-data; boundary=x; charset=utf-16", form(FIELD + b"\xff\xfe\xff")),
    "name in no charset": ("multipart/form-data; boundary=x", form(FIELD.replace(b'"a"', b'"\xff"'))),
    "almost boundaries": ("multipart/form-data; boundary=x", form(FILE + b"\r\n--" * 2**20)),
    "returns": ("multipart/form-data; boundary=x", form(FILE + b"\r" * 2**22)),
    "binary type": ("multipart/form-data; boundary=\xff", form(FILE)),
    "nothing": ("multipart/form-data; boundary=x", b""),
}  # fmt: skip


@pytest.mark.parametrize(("kind", "body"), FORMS.values(), ids=FORMS)
def test_bad_forms(server: Served, kind: str, body: bytes) -> None:
    before = server.processor_s()
    answer = server.post("/predict", body, headers={"content-type": kind.encode("latin-1")})  # type: ignore[dict-item]
    assert answer.status_code == 400, answer.text
    assert server.processor_s() - before < 10


BASE64 = {
    "nothing": b"{}",
    "null": b'{"image": null}',
    "a list": b"[]",
    "letters": b'{"image": "!!!!"}',
    "padding": b'{"image": "QQ=A"}',
    "not ASCII": '{"image": "é"}'.encode(),
    "surrogate": b'{"image": "\\ud800"}',
    "no image": json.dumps({"image": base64.b64encode(b"hello").decode()}).encode(),
    "data URL of text": b'{"image": "data:text/plain;base64,aGVsbG8="}',
    "data URL without base64": b'{"image": "data:,hello"}',
    "twice": b'{"image": "QQ==", "image": 5}',
    "no JSON": b'{"image": ',
    "not UTF-8": b'{"image": "\xff"}',
}


@pytest.mark.parametrize("body", BASE64.values(), ids=BASE64)
def test_bad_base64(server: Served, body: bytes) -> None:
    assert server.post("/predict", body, headers=JSON).status_code == 400


def test_large_json_is_refused(server: Served) -> None:
    assert server.post("/predict", b" " * (2**24 + 1), headers=JSON).status_code == 413
    assert server.post(INFER, b" " * (2**24 + 1), headers=JSON).status_code == 400


TENSORS = {
    "no JSON": b"{",
    "deep list": b'{"inputs":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "deep objects": b'{"a":' * 50_000 + b"1" + b"}" * 50_000,
    "NaN": tensor().replace(b"[0,", b"[NaN,"),
    "infinity": tensor().replace(b"[0,", b"[1e999,"),
    "number of 400 digits": tensor().replace(b"[0,", b"[" + b"9" * 400 + b","),
    "number of 5000 digits": tensor().replace(b"[0,", b"[" + b"9" * 5000 + b","),
    "too large for float32": tensor([1e39] * 3072),
    "one long text": tensor(["a" * 2_000_000] + [0] * 3071),
    "long texts": tensor(["a" * 1000] * 3072),
    "booleans": tensor([True] * 3072),
    "null": tensor([None] * 3072),
    "objects": tensor([{}] * 3072),
    "too few": tensor([0]),
    "none": tensor([]),
    "other nesting": tensor([[0] * 1536] * 2),
    "ragged": tensor([[0] * 5, [0]]),
    "mixed": tensor([[[[0] * 32] * 32] * 2 + [0]]),
    "huge shape": tensor(shape=[10**30, 3, 32, 32]),
    "product of 0": tensor(shape=[0, 3, 32, 32], data=[]),
    "negative": tensor(shape=[-1, 3, 32, 32]),
    "boolean side": tensor(shape=[True, 3, 32, 32]),
    "float side": tensor(shape=[1.0, 3, 32, 32]),
    "odd side": tensor([0] * (3 * 33 * 32), shape=[1, 3, 33, 32]),
    "four channels": tensor([0] * 4096, shape=[1, 4, 32, 32]),
    "duplicated keys": b'{"inputs": [], "inputs": []}',
    "inputs null": b'{"inputs": null}',
    "name not text": tensor().replace(b'"input"', b"5"),
    "name of a surrogate": tensor().replace(b'"input"', b'"\\ud800"'),
    "twice": tensor().replace(b'"inputs": [', b'"inputs": [' + tensor()[12:-2] + b", "),
    "parameters null": tensor(parameters=None),
    "id not text": tensor(id=5),
    "no such output": tensor(outputs=[{"name": "nobody"}]),
    "shared memory": tensor(outputs=[{"name": "dets", "parameters": {"shared_memory_region": "a"}}]),
    "classes": tensor(outputs=[{"name": "dets", "parameters": {"classification": 3}}]),
    "empty": b"",
    "a number": b"1",
}


@pytest.mark.parametrize("body", TENSORS.values(), ids=TENSORS)
def test_bad_tensors(server: Served, body: bytes) -> None:
    answer = server.post(INFER, body, headers=JSON)
    assert answer.status_code == 400, answer.text
    assert isinstance(answer.json()["error"], str)


@pytest.mark.parametrize("length", ["-1", "+5", "x", "", "0" * 5000 + "5", "0" * 20 + "99999", "99999", "²", "1e1"])
def test_bad_lengths_of_json(server: Served, length: str) -> None:
    headers = {"inference-header-content-length": length.encode()}
    assert server.post(INFER, tensor(), headers=headers).status_code == 400  # type: ignore[arg-type]


@pytest.mark.parametrize("size", [-1, 10**30, 12287, 12289, True, "12288", None, 1.5])
def test_bad_sizes_of_bytes(server: Served, size: object) -> None:
    entry = {"name": "input", "datatype": "FP32", "shape": [1, 3, 32, 32], "parameters": {"binary_data_size": size}}
    head = json.dumps({"inputs": [entry]}).encode()
    headers = {"inference-header-content-length": str(len(head))}
    assert server.post(INFER, head + bytes(12288), headers=headers).status_code == 400


@pytest.mark.parametrize(
    "value", [b"\xff\xff\x7f\x7f", b"\0\0\x80\x7f", b"\0\0\xc0\x7f"], ids=["largest", "inf", "nan"]
)
def test_extreme_floats(server: Served, value: bytes) -> None:
    entry = {"name": "input", "datatype": "FP32", "shape": [1, 3, 32, 32], "parameters": {"binary_data_size": 12288}}
    head = json.dumps({"inputs": [entry]}).encode()
    headers = {"inference-header-content-length": str(len(head))}
    answer = server.post(INFER, head + value * 3072, headers=headers)
    assert answer.status_code in ({200, 400} if value == b"\xff\xff\x7f\x7f" else {400})


QUERIES = ["score_thr=2", "score_thr=-1", "score_thr=nan", "score_thr=", "score_thr=a", "score_thr=0.01", "nms_thr=1",
           "nms_thr=inf", "kpt_thr=5", "max_people=0", "max_people=-1", "max_people=1e2", "max_people=100000",
           "max_people=99999999999999999999", "draw=maybe"]  # fmt: skip


@pytest.mark.parametrize("query", QUERIES)
def test_bad_thresholds(server: Served, images: list[bytes], query: str) -> None:
    answer = server.post(f"/predict?{query}", images[0])
    assert answer.status_code == 400
    assert answer.json()["error"]["message"]


# -- WebSocket handshakes


HANDSHAKES = {
    "no key": (b"GET", UPGRADE.replace(b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n", b""), 400),
    "bad key": (b"GET", UPGRADE.replace(b"dGhl", b"!"), 400),
    "version": (b"GET", UPGRADE.replace(b"13", b"99"), 400),
    "POST": (b"POST", UPGRADE + b"Content-Length: 0\r\n", 405),
    "many headers": (b"GET", b"X: a\r\n" * 500 + UPGRADE, 400),
    "long header": (b"GET", b"X: " + b"a" * 20_000 + b"\r\n" + UPGRADE, 400),
    "other site": (b"GET", b"Origin: https://example.com\r\n" + UPGRADE, 403),
    "other host": (b"GET", b"Origin: http://localhost:1\r\n" + UPGRADE, 403),
    "threshold": (b"GET", UPGRADE, 400),
}


@pytest.mark.parametrize("name", HANDSHAKES)
def test_bad_handshakes(server: Served, name: str) -> None:
    method, head, status = HANDSHAKES[name]
    path = b"/stream?score_thr=0.01" if name == "threshold" else b"/stream"
    answer = server.raw(method + b" " + path + b" HTTP/1.1\r\nHost: localhost\r\n" + head + b"\r\n")
    assert status_of(answer) in {status, 404 if name == "POST" else status}, answer


def test_deflate_is_not_agreed_to(server: Served) -> None:
    head = b"Sec-WebSocket-Extensions: permessage-deflate\r\n" + UPGRADE
    answer = server.raw(b"GET /stream HTTP/1.1\r\nHost: localhost\r\n" + head + b"\r\n")
    assert status_of(answer) == 101
    assert b"permessage-deflate" not in answer


# -- what is told of it


def test_log_is_json_without_what_clients_sent(server: Served) -> None:
    secret = b"4e0dSECRETc5a1"
    head = b'X-Request-ID: a b"\r\nX-Forwarded-For: 1.2.3.4 status=200\r\nUser-Agent: ' + secret
    server.raw(
        b"GET /"
        + secret
        + b"%0a%22 HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer "
        + secret
        + b"\r\n"
        + head
        + b"\r\n\r\n"
    )
    server.post("/predict", secret * 100)
    started = server.log().index('{"time"')
    lines = [json.loads(line) for line in server.log()[started:].splitlines()]
    assert len(lines) > 2
    assert secret.decode() not in server.log()
    assert {line["status"] for line in lines if line["message"] == "request"} <= {*range(200, 500), 503}


def test_library_that_prints_is_logged(server: Served) -> None:
    """libjpeg prints what it thinks of a damaged file."""
    import cv2
    import numpy as np

    jpeg = bytearray(
        cv2.imencode(".jpg", np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8))[1].tobytes()
    )
    jpeg[-400:-300] = b"\x5a" * 100
    server.post("/predict", bytes(jpeg))
    started = server.log().index('{"time"')
    assert all(json.loads(line)["level"] for line in server.log()[started:].splitlines())
