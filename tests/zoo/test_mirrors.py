"""Mirrors that hang, lie, break off or are not there: the next one is tried, and nothing wrong is kept."""

from __future__ import annotations

import email.utils
import gzip
import hashlib
import json
import logging
import re
import socket
import time
from types import SimpleNamespace

import pytest
from toy_variant import toy_onnx, toy_variant

from rtmo_deploy.errors import DownloadError, SetupError
from rtmo_deploy.zoo import VARIANTS
from rtmo_deploy.zoo.cache import cached_path, record_path
from rtmo_deploy.zoo.download import fetch, fetch_address
from rtmo_deploy.zoo.sources import mirrors, sources_of

PAYLOAD = b"".join(hashlib.sha256(bytes([i % 256, i // 256])).digest() for i in range(20_000))  # 640 kB
NAME = f"toy-256x256-{hashlib.sha256(PAYLOAD).hexdigest()[:8]}_20260101.pth"
ONNX = toy_onnx(PAYLOAD)


@pytest.fixture
def toy(web):
    """A published model; its own server has it."""
    web.gives(f"/own/{NAME}", PAYLOAD)
    return toy_variant(f"{web.url}/own/{NAME}")


@pytest.fixture
def silent():
    """A server that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening


def cut_once(web, path, part, size, then=None, **headers):
    """The first answer at ``path`` announces ``size`` bytes and ends after ``part``; ``then`` gives the next ones."""

    def cut(request):
        request.send_response(200)
        for name, value in {"Content-Length": str(size), **headers}.items():
            request.send_header(name, value)
        request.end_headers()
        request.wfile.write(part)
        if then is None:
            del web.routes[path]
        else:
            web.routes[path] = then

    web.routes[path] = cut


def files(path):
    return sorted(one.name for one in path.parent.iterdir() if not one.name.startswith("."))


def test_mirrors_come_before_the_publisher_in_their_order(web, toy, monkeypatch, caplog):
    web.gives(f"/b/{NAME}", PAYLOAD)
    monkeypatch.setenv("RTMO_DEPLOY_MIRROR", f"{web.url}/a, {web.url}/b/")
    assert fetch(toy).read_bytes() == PAYLOAD
    assert web.asked == [f"/a/{NAME}", f"/b/{NAME}"]
    assert f"{web.url}/a/{NAME}: The server answered 404 (Not Found). Trying {web.url}/b/{NAME}." in caplog.text
    recorded = json.loads(record_path(cached_path(toy)).read_text(encoding="utf-8"))
    assert recorded["url"] == f"{web.url}/b/{NAME}"


@pytest.mark.parametrize(("text", "found"), [("", []), (" https://a/ ,\thttp://b", ["https://a/", "http://b"])])
def test_mirrors_are_separated_by_commas_and_blanks(monkeypatch, text, found):
    monkeypatch.setenv("RTMO_DEPLOY_MIRROR", text)
    assert mirrors() == found


def test_one_mirror_that_is_no_address_is_refused(web, toy, monkeypatch):
    monkeypatch.setenv("RTMO_DEPLOY_MIRROR", f"{web.url}/a ftp://me:hunter2@host/")
    with pytest.raises(SetupError, match=r"RTMO_DEPLOY_MIRROR: 'ftp://host/' is not a prefix"):
        fetch(toy)
    assert web.asked == []


@pytest.mark.parametrize("kind", ["html", "other", "cut", "loop", "file", "gzip of another"])
def test_a_mirror_that_sends_something_else_is_passed_over(web, toy, monkeypatch, caplog, kind):
    path = f"/a/{NAME}"
    if kind == "html":
        web.gives(path, b"<!doctype html><title>Log in first</title>", Content_Type="text/html")
    elif kind == "other":
        web.gives(path, PAYLOAD[::-1])
    elif kind == "cut":
        web.gives(path, PAYLOAD[:100_000], Content_Length=str(len(PAYLOAD)), ETag='"cut"')
    elif kind == "loop":
        web.redirects(path, f"{web.url}{path}")
    elif kind == "file":
        web.redirects(path, "file:///etc/passwd")
    else:
        web.gives(path, gzip.compress(PAYLOAD[::-1]), Content_Encoding="gzip")
    monkeypatch.setenv("RTMO_DEPLOY_MIRROR", f"{web.url}/a")
    assert fetch(toy).read_bytes() == PAYLOAD
    assert files(cached_path(toy)) == [NAME]
    expected = {"loop": "in circles", "file": "not http", "cut": "failed 4 times"}
    assert expected.get(kind, "What came is another file") in caplog.text
    assert web.asked[-1] == f"/own/{NAME}"


def test_a_part_of_one_mirror_is_continued_from_the_next(web, toy, monkeypatch):
    cut_once(web, f"/a/{NAME}", PAYLOAD[:200_000], len(PAYLOAD), ETag='"of a"')
    monkeypatch.setenv("RTMO_DEPLOY_MIRROR", f"{web.url}/a")
    assert fetch(toy).read_bytes() == PAYLOAD
    assert web.headers[-1]["Range"] == "bytes=200000-"
    assert "If-Range" not in web.headers[-1]  # the other server's ETag says nothing here


def test_a_part_of_another_file_is_found_at_the_end(web, toy, monkeypatch, caplog):
    cut_once(web, f"/a/{NAME}", b"<html>" * 10_000, len(PAYLOAD))
    monkeypatch.setenv("RTMO_DEPLOY_MIRROR", f"{web.url}/a")
    assert fetch(toy).read_bytes() == PAYLOAD
    assert "the parts do not fit together" in caplog.text
    assert "Range" in web.headers[-2]
    assert "Range" not in web.headers[-1]


def test_when_all_fail_one_error_names_each_address_and_why(web, toy, monkeypatch):
    web.gives(f"/b/{NAME}", b"<html>", 403)
    web.gives(f"/own/{NAME}", b"", 500)
    monkeypatch.setenv("RTMO_DEPLOY_MIRROR", f"http://127.0.0.1:1/ {web.url.replace('//', '//me:hunter2@')}/b")
    with pytest.raises(DownloadError) as caught:
        fetch(toy)
    text = str(caught.value)
    assert "none of 3 addresses" in text
    assert f"(1) http://127.0.0.1:1/{NAME}: The server could not be reached" in text
    assert f"(2) {web.url}/b/{NAME}: The server answered 403" in text
    assert f"(3) {web.url}/own/{NAME}: The download failed 4 times; the last time, the server answered 500." in text
    assert "hunter2" not in text
    assert web.asked == [f"/b/{NAME}"] + 4 * [f"/own/{NAME}"]  # only the last is asked again


def test_a_silent_mirror_costs_one_short_wait(web, toy, silent, monkeypatch, caplog):
    monkeypatch.setattr("rtmo_deploy.zoo.transfer._SHORT_TIMEOUTS_S", (0.3, 0.3))
    monkeypatch.setenv("RTMO_DEPLOY_MIRROR", f"http://127.0.0.1:{silent.getsockname()[1]}")
    started = time.monotonic()
    assert fetch(toy).read_bytes() == PAYLOAD
    assert time.monotonic() - started < 25  # the timeout of the last address is 30 s
    assert "Nothing came for" in caplog.text
    silent.setblocking(False)
    silent.accept()[0].close()
    with pytest.raises(BlockingIOError):
        silent.accept()  # it was asked once


def test_bytes_that_trickle_are_given_up(web, toy, monkeypatch, caplog):
    def trickle(request):
        request.send_response(200)
        request.send_header("Content-Length", str(len(PAYLOAD)))
        request.end_headers()
        for at in range(200):
            request.wfile.write(PAYLOAD[at : at + 1])
            time.sleep(0.05)

    web.routes[f"/a/{NAME}"] = trickle
    good = web.routes[f"/own/{NAME}"]

    def own(request):
        monkeypatch.setattr("rtmo_deploy.zoo.transfer._SLOW_S", 30.0)
        good(request)

    web.routes[f"/own/{NAME}"] = own
    monkeypatch.setattr("rtmo_deploy.zoo.transfer._SLOW_S", 0.3)
    monkeypatch.setenv("RTMO_DEPLOY_MIRROR", f"{web.url}/a")
    assert fetch(toy).read_bytes() == PAYLOAD
    assert re.search(r"Only \d+ B came in \d+ s", caplog.text)


@pytest.mark.parametrize("form", ["seconds", "date", "too long"])
def test_the_last_address_is_waited_for_as_it_asks(web, toy, monkeypatch, form):
    waited = []
    clock = SimpleNamespace(sleep=waited.append, monotonic=time.monotonic)
    monkeypatch.setattr("rtmo_deploy.zoo.transfer.time", clock)
    after = {"seconds": "7", "date": email.utils.formatdate(time.time() + 50, usegmt=True), "too long": "3600"}[form]
    good = web.routes[f"/own/{NAME}"]

    def busy(request):
        request.send_response(429)
        request.send_header("Retry-After", after)
        request.send_header("Content-Length", "0")
        request.end_headers()
        web.routes[f"/own/{NAME}"] = good

    web.routes[f"/own/{NAME}"] = busy
    if form == "too long":
        with pytest.raises(DownloadError, match="answered 429, and asks to wait for 3600 s"):
            fetch(toy)
        assert waited == []
    else:
        assert fetch(toy).read_bytes() == PAYLOAD
        assert len(waited) == 1
        assert waited[0] == 7 if form == "seconds" else 10 < waited[0] <= 50


# Files of which nothing is known beforehand


def test_what_came_compressed_is_taken_as_what_it_is(web):
    web.gives("/m.onnx", gzip.compress(ONNX), Content_Encoding="gzip")
    assert fetch_address(f"{web.url}/m.onnx").read_bytes() == ONNX


@pytest.mark.parametrize("etag", ['"one"', None])
def test_an_unknown_file_is_continued_only_if_the_server_vouches_for_it(web, etag):
    headers = {"ETag": etag} if etag else {}
    web.gives("/m.onnx", ONNX, **headers)
    cut_once(web, "/m.onnx", ONNX[:300_000], len(ONNX), web.routes["/m.onnx"], **headers)
    assert fetch_address(f"{web.url}/m.onnx").read_bytes() == ONNX
    assert web.headers[-1].get("Range") == ("bytes=300000-" if etag else None)


def test_the_part_of_a_file_that_has_changed_is_not_joined(web):
    changed = toy_onnx(PAYLOAD[::-1])
    assert len(changed) == len(ONNX)

    def ignores_if_range(request):
        start = int(request.headers.get("Range", "bytes=0-")[6:-1])
        request.send_response(206 if start else 200)
        request.send_header("ETag", '"two"')
        request.send_header("Content-Length", str(len(changed) - start))
        if start:
            request.send_header("Content-Range", f"bytes {start}-{len(changed) - 1}/{len(changed)}")
        request.end_headers()
        request.wfile.write(changed[start:])

    cut_once(web, "/m.onnx", ONNX[:300_000], len(ONNX), ignores_if_range, ETag='"one"')
    assert fetch_address(f"{web.url}/m.onnx").read_bytes() == changed


def test_a_pinned_hash_is_checked_and_kept_to(web):
    address, sha256 = f"{web.url}/m.onnx", hashlib.sha256(ONNX).hexdigest()
    web.gives("/m.onnx", ONNX[:-1])
    with pytest.raises(DownloadError, match="What came is another file"):
        fetch_address(f"{address}#sha256={sha256}")
    web.gives("/m.onnx", ONNX)
    path = fetch_address(f"{address}#SHA256={sha256.upper()}")
    assert path == fetch_address(address)
    path.write_bytes(ONNX + b"!")
    web.gives("/m.onnx", ONNX)
    assert fetch_address(f"{address}#sha256={sha256}").read_bytes() == ONNX


def test_secrets_of_an_address_are_in_no_message_and_no_record(web, caplog):
    web.gives("/m.onnx", ONNX)
    address = f"{web.url.replace('//', '//me:hunter2@')}/m.onnx?token=hunter3"
    path = fetch_address(address)
    assert web.headers[-1]["Authorization"].startswith("Basic ")
    assert web.asked == ["/m.onnx?token=hunter3"]
    assert json.loads(record_path(path).read_text(encoding="utf-8"))["url"] == f"{web.url}/m.onnx?token=***"
    with caplog.at_level(logging.DEBUG, logger="rtmo_deploy"), pytest.raises(DownloadError) as caught:
        fetch_address(address.replace("m.onnx", "n.onnx"))
    assert "hunter" not in str(caught.value) + caplog.text


def test_openmmlabs_archives_have_a_copy_on_the_hub(monkeypatch):
    monkeypatch.delenv("RTMO_DEPLOY_MIRROR", raising=False)
    monkeypatch.setenv("HF_ENDPOINT", "https://hub.example/")
    record = VARIANTS["rtmo-s-body7"]
    assert [source.url for source in sources_of(record.onnx_url)] == [
        record.onnx_url,
        f"https://hub.example/Tau-J/RTMPose/resolve/main/rtmo/onnx_sdk/{record.onnx_url.rsplit('/', 1)[1]}",
    ]
    assert [source.url for source in sources_of(record.url)] == [record.url]


@pytest.mark.parametrize("etag", ['"one"', None])
def test_a_part_is_not_taken_for_the_whole(web, etag):
    headers = {"ETag": etag} if etag else {}
    web.gives("/m.onnx", ONNX, **headers)
    good = web.routes["/m.onnx"]

    def part(request):
        request.send_response(206)
        size = {"Content-Length": "1000", "Content-Range": f"bytes 0-999/{len(ONNX)}"}
        for name, value in {**size, **headers}.items():
            request.send_header(name, value)
        request.end_headers()
        request.wfile.write(ONNX[:1000])
        web.routes["/m.onnx"] = good

    web.routes["/m.onnx"] = part
    assert fetch_address(f"{web.url}/m.onnx").read_bytes() == ONNX
    assert web.headers[-1].get("Range") == ("bytes=1000-" if etag else None)


def test_a_query_chooses_the_model(web):
    web.gives("/m.onnx", ONNX)
    first, second = (fetch_address(f"{web.url}/m.onnx?keypoints={number}") for number in (17, 26))
    assert first != second
    assert len(web.asked) == 2


@pytest.mark.parametrize(
    ("address", "variables", "expected"),
    [
        ("http://nothing.invalid/m.onnx", {}, "name of the host is not known"),
        ("http://nothing.invalid/m.onnx", {"http_proxy": "socks5://127.0.0.1:9"}, "needs the package PySocks"),
        ("http://nothing.invalid/m.onnx", {"http_proxy": "http://127.0.0.1:9"}, "HTTP_PROXY and HTTPS_PROXY name it"),
        ("http://nothing.invalid/m.onnx", {"http_proxy": "other://proxy"}, "HTTP_PROXY and HTTPS_PROXY name it"),
        ("https{}/m.onnx", {}, "no TLS connection could be made"),
    ],
)
def test_the_reason_is_told(web, monkeypatch, address, variables, expected):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(DownloadError, match=expected):
        fetch_address(address.format(web.url.removeprefix("http")))


@pytest.mark.parametrize("to", ["/m.onnx", "file:///etc/passwd", "http://[oops/"])
def test_what_cannot_pass_is_not_tried_again(web, to):
    web.redirects("/m.onnx", to)
    with pytest.raises(DownloadError) as caught:
        fetch_address(f"{web.url}/m.onnx")
    assert "failed 4 times" not in str(caught.value)
    assert len(web.asked) == (11 if to == "/m.onnx" else 1)
