"""Downloads against a server on the loopback interface that misbehaves as it is told to."""

from __future__ import annotations

import concurrent.futures
import hashlib
import http.server
import io
import json
import logging
import os
import subprocess
import sys
import threading
import zipfile
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from toy_variant import toy_variant

import rtmo_deploy.zoo
from rtmo_deploy.address import without_credentials
from rtmo_deploy.errors import CheckpointError, DownloadError, SetupError, UsageError
from rtmo_deploy.zoo import COCO_17, EMBEDDED, VARIANTS, EmbeddedModel, architecture, records
from rtmo_deploy.zoo.cache import (
    cache_dir,
    cached_path,
    identify_published,
    is_offline,
    record_path,
)
from rtmo_deploy.zoo.download import fetch
from rtmo_deploy.zoo.locate import cfg_is_ignored, locate_model, resolve_checkpoint
from rtmo_deploy.zoo.records import published
from rtmo_deploy.zoo.sources import published_sources

PAYLOAD = b"".join(hashlib.sha256(bytes([i % 256, i // 256])).digest() for i in range(40_000))  # 1.28 MB
DIGITS = hashlib.sha256(PAYLOAD).hexdigest()[:8]
CHUNK = 1 << 16
OTHER = bytes(reversed(PAYLOAD))


@dataclass
class Server:
    """What the server does, and what it was asked for."""

    payload: bytes = PAYLOAD
    ranges: bool = True
    shift: int = 0
    length: bool = True
    etag: str | None = '"one"'
    statuses: list[int] = field(default_factory=list)
    cuts: list[int] = field(default_factory=list)
    gate: threading.Event | None = None
    asked: threading.Event = field(default_factory=threading.Event)
    requests: list[tuple[str, str | None, str | None]] = field(default_factory=list)
    url: str = ""
    after_first: dict[str, object] = field(default_factory=dict)

    def paths(self):
        return [path for path, _, _ in self.requests]

    def range_headers(self):
        return [asked for _, asked, _ in self.requests]


def _handler(server):
    class Handler(http.server.BaseHTTPRequestHandler):
        def log_message(self, *args):
            pass

        def do_GET(self):
            asked, condition = self.headers.get("Range"), self.headers.get("If-Range")
            server.requests.append((self.path, asked, condition))
            server.asked.set()
            if server.gate is not None:
                server.gate.wait(60)
            status = server.statuses.pop(0) if server.statuses else 200
            if status != 200:
                self.send_error(status)
                return
            self._send(asked, condition)
            for name, value in server.after_first.items():
                setattr(server, name, value)

        def _send(self, asked, condition):
            body, total = server.payload, len(server.payload)
            start = 0
            if asked and server.ranges and condition in {None, server.etag}:
                start = int(asked.removeprefix("bytes=").removesuffix("-")) - server.shift
                if start >= total:
                    self.send_response(416)
                    self.send_header("Content-Range", f"bytes */{total}")
                    self.end_headers()
                    return
                self.send_response(206)
                self.send_header("Content-Range", f"bytes {start}-{total - 1}/{total}")
            else:
                self.send_response(200)
            body = body[start:]
            if server.length:
                self.send_header("Content-Length", str(len(body)))
            if server.etag:
                self.send_header("ETag", server.etag)
            self.end_headers()
            self.wfile.write(body[: server.cuts.pop(0)] if server.cuts else body)

    return Handler


@pytest.fixture
def server():
    state = Server()
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _handler(state)) as httpd:
        state.url = f"http://127.0.0.1:{httpd.server_address[1]}/"
        thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield state
        httpd.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path):
    for name in list(os.environ):
        if name.lower().endswith("_proxy") or name.startswith("RTMO_DEPLOY_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("RTMO_DEPLOY_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("rtmo_deploy.zoo.transfer._FIRST_PAUSE_S", 0.0)
    return tmp_path / "cache"


def toy(base, digits=DIGITS):
    return toy_variant(f"{base}toy_1xb1-1e_body7-256x256-{digits}_20260101.pth", ("toy",))


def visible(folder):
    return sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))


def test_a_good_download(server, cache):
    seen = []
    record = toy(server.url)
    path = fetch(record, progress=lambda done, total: seen.append((done, total)))
    assert path == cached_path(record) == cache / record.file_name
    assert path.read_bytes() == PAYLOAD
    assert seen[-1] == (len(PAYLOAD), len(PAYLOAD))
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert visible(cache) == [record.file_name]
    assert path.stat().st_mode & 0o777 == 0o666 & ~umask()


def umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_a_good_cached_file_costs_no_request_and_writes_only_its_record(server, cache):
    record = toy(server.url)
    cache.mkdir()
    (cache / record.file_name).write_bytes(PAYLOAD)
    before = (cache / record.file_name).stat().st_mtime_ns
    assert fetch(record, progress=lambda *_: pytest.fail("no download was due")) == cache / record.file_name
    assert not server.requests
    assert {path.name for path in cache.iterdir()} == {record.file_name, record_path(cache / record.file_name).name}
    assert (cache / record.file_name).stat().st_mtime_ns == before


def test_force_downloads_again(server):
    record = toy(server.url)
    fetch(record)
    fetch(record, force=True)
    assert len(server.requests) == 2


def test_a_damaged_cached_file_is_fetched_again_and_that_is_said(server, cache, caplog):
    record = toy(server.url)
    cache.mkdir()
    (cache / record.file_name).write_bytes(PAYLOAD[:-1])
    with caplog.at_level(logging.WARNING, logger="rtmo_deploy"):
        assert fetch(record).read_bytes() == PAYLOAD
    assert "damaged" in caplog.text
    assert DIGITS in caplog.text
    assert len(server.requests) == 1


def test_a_wrong_hash_leaves_nothing(server, cache):
    server.payload = OTHER
    with pytest.raises(DownloadError) as caught:
        fetch(toy(server.url))
    assert DIGITS in str(caught.value)
    assert hashlib.sha256(OTHER).hexdigest()[:8] in str(caught.value)
    assert len(server.requests) == 1
    assert visible(cache) == []


def test_a_wrong_download_does_not_replace_what_is_there(server, cache):
    record = toy(server.url)
    fetch(record)
    server.payload = OTHER
    with pytest.raises(DownloadError):
        fetch(record, force=True)
    assert (cache / record.file_name).read_bytes() == PAYLOAD
    assert visible(cache) == [record.file_name]


@pytest.mark.parametrize("status", [403, 404, 410])
def test_a_refusal_is_final_and_names_the_url_and_the_way_out(server, cache, status):
    server.statuses = [status]
    record = toy(server.url)
    with pytest.raises(DownloadError) as caught:
        fetch(record)
    text = str(caught.value)
    assert record.url in text
    assert str(status) in text
    assert "RTMO_DEPLOY_MIRROR" in text
    assert str(cache / record.file_name) in text
    assert len(server.requests) == 1
    assert visible(cache) == []


def test_a_passing_failure_is_tried_again(server, caplog):
    server.statuses = [503, 500]
    with caplog.at_level(logging.WARNING, logger="rtmo_deploy"):
        assert fetch(toy(server.url)).read_bytes() == PAYLOAD
    assert len(server.requests) == 3
    assert "503" in caplog.text


def test_a_lasting_failure_is_given_up(server, cache):
    server.statuses = [503] * 20
    with pytest.raises(DownloadError, match="503"):
        fetch(toy(server.url))
    assert len(server.requests) == 4
    assert visible(cache) == []


def test_a_server_that_is_not_there():
    with pytest.raises(DownloadError, match="could not be reached"):
        fetch(toy("http://127.0.0.1:1/"))


@pytest.mark.parametrize("etag", ['"one"', None, 'W/"weak"'])
def test_a_cut_connection_is_resumed_where_it_was_cut(server, etag):
    server.etag = etag
    server.cuts = [10 * CHUNK, 5 * CHUNK]
    seen = []
    path = fetch(toy(server.url), progress=lambda done, total: seen.append((done, total)))
    assert path.read_bytes() == PAYLOAD
    assert server.range_headers() == [None, f"bytes={10 * CHUNK}-", f"bytes={15 * CHUNK}-"]
    strong = '"one"' if etag == '"one"' else None
    assert [condition for _, _, condition in server.requests] == [None, strong, strong]
    assert {total for _, total in seen} == {len(PAYLOAD)}
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)


def test_a_server_without_ranges_is_started_over(server):
    server.ranges = False
    server.cuts = [10 * CHUNK]
    assert fetch(toy(server.url)).read_bytes() == PAYLOAD
    assert server.range_headers() == [None, f"bytes={10 * CHUNK}-"]


def test_cut_and_cut_again_is_given_up_and_continued_by_the_next_call(server, cache):
    server.cuts = [2 * CHUNK] * 4
    record = toy(server.url)
    with pytest.raises(DownloadError, match="failed 4 times"):
        fetch(record)
    assert visible(cache) == [f"{record.file_name}.part"]
    server.requests.clear()
    assert fetch(record).read_bytes() == PAYLOAD
    assert server.range_headers() == [f"bytes={8 * CHUNK}-"]
    assert visible(cache) == [record.file_name]


def test_the_file_on_the_server_changed_in_between(server):
    server.payload, server.etag, server.cuts = OTHER, '"old"', [10 * CHUNK]
    server.after_first = {"payload": PAYLOAD, "etag": '"new"'}
    assert fetch(toy(server.url)).read_bytes() == PAYLOAD
    assert server.requests[1][1:] == (f"bytes={10 * CHUNK}-", '"old"')
    assert len(server.requests) == 2


def test_a_size_that_changed_in_between_is_seen_without_a_validator(server, caplog):
    server.payload, server.etag, server.cuts = OTHER + b"longer", None, [10 * CHUNK]
    server.after_first = {"payload": PAYLOAD}
    assert fetch(toy(server.url)).read_bytes() == PAYLOAD
    assert server.range_headers() == [None, f"bytes={10 * CHUNK}-", None]
    assert "another range" in caplog.text
    assert "do not fit" not in caplog.text


def test_a_server_that_sends_another_range_than_asked_for(server, caplog):
    server.cuts, server.shift = [10 * CHUNK], 7
    assert fetch(toy(server.url)).read_bytes() == PAYLOAD
    assert server.range_headers() == [None, f"bytes={10 * CHUNK}-", None]
    assert "another range" in caplog.text
    assert "do not fit" not in caplog.text


def test_parts_that_do_not_fit_are_fetched_again_in_one_go(server, cache, caplog):
    record = toy(server.url)
    cache.mkdir()
    (cache / f"{record.file_name}.part").write_bytes(OTHER[:1000])
    with caplog.at_level(logging.WARNING, logger="rtmo_deploy"):
        assert fetch(record).read_bytes() == PAYLOAD
    assert server.range_headers() == ["bytes=1000-", None]
    assert "do not fit" in caplog.text


@pytest.mark.parametrize("leftover", [OTHER, PAYLOAD + b"more"], ids=["same length", "longer"])
def test_a_leftover_that_is_too_long_is_dropped(server, cache, leftover):
    record = toy(server.url)
    cache.mkdir()
    (cache / f"{record.file_name}.part").write_bytes(leftover)
    assert fetch(record).read_bytes() == PAYLOAD
    assert server.range_headers() == [f"bytes={len(leftover)}-", None]


def test_a_leftover_that_is_whole_is_only_renamed(server, cache):
    record = toy(server.url)
    cache.mkdir()
    (cache / f"{record.file_name}.part").write_bytes(PAYLOAD)
    assert fetch(record).read_bytes() == PAYLOAD
    assert not server.requests
    assert visible(cache) == [record.file_name]


def test_a_server_that_does_not_say_how_long_the_file_is(server):
    server.length = False
    seen = []
    assert fetch(toy(server.url), progress=lambda *now: seen.append(now)).read_bytes() == PAYLOAD
    assert seen[-1] == (len(PAYLOAD), None)


def test_an_interrupted_download_leaves_no_file_under_the_good_name(server, cache):
    def interrupt(done, total):
        raise KeyboardInterrupt

    record = toy(server.url)
    with pytest.raises(KeyboardInterrupt):
        fetch(record, progress=interrupt)
    assert visible(cache) == [f"{record.file_name}.part"]
    assert fetch(record).read_bytes() == PAYLOAD
    assert server.range_headers()[1] is not None


@pytest.mark.parametrize("yes", ["1", "true", "YES", "on"])
def test_offline_with_and_without_the_file(server, cache, monkeypatch, yes):
    monkeypatch.setenv("RTMO_DEPLOY_OFFLINE", yes)
    record = toy(server.url)
    with pytest.raises(DownloadError, match="RTMO_DEPLOY_OFFLINE") as caught:
        fetch(record)
    assert str(cache / record.file_name) in str(caught.value)
    assert record.url in str(caught.value)
    assert not cache.exists()
    cache.mkdir()
    (cache / record.file_name).write_bytes(PAYLOAD)
    assert fetch(record) == cache / record.file_name
    with pytest.raises(DownloadError, match="asked for anew"):
        fetch(record, force=True)
    (cache / record.file_name).write_bytes(OTHER)
    with pytest.raises(DownloadError, match="damaged"):
        fetch(record)
    assert not server.requests


def test_offline_must_be_yes_or_no(monkeypatch):
    for value, expected in {"0": False, "": False, "No": False, "1": True, " on ": True}.items():
        monkeypatch.setenv("RTMO_DEPLOY_OFFLINE", value)
        assert is_offline() is expected
    monkeypatch.setenv("RTMO_DEPLOY_OFFLINE", "perhaps")
    with pytest.raises(SetupError, match="perhaps"):
        fetch(toy("http://127.0.0.1:1/"))


@pytest.mark.parametrize("slash", ["", "/"])
def test_a_mirror_takes_the_place_of_the_published_address(server, monkeypatch, slash):
    monkeypatch.setenv("RTMO_DEPLOY_MIRROR", f"{server.url}a/b{slash}")
    record = toy("http://127.0.0.1:1/published/")
    assert fetch(record).read_bytes() == PAYLOAD
    assert server.paths() == [f"/a/b/{record.file_name}"]


def test_the_published_address_of_a_real_record(monkeypatch):
    record = VARIANTS["rtmo-m-crowdpose"]
    assert [source.url for source in published_sources(record.url)] == [record.url]
    monkeypatch.setenv("RTMO_DEPLOY_MIRROR", "https://mirror.example:8443/rtmo, http://other/")
    assert [source.url for source in published_sources(record.url)] == [
        "https://mirror.example:8443/rtmo/rrtmo-m_16xb16-700e_crowdpose-640x640-0eaf670d_20231211.pth",
        "http://other/rrtmo-m_16xb16-700e_crowdpose-640x640-0eaf670d_20231211.pth",
        record.url,
    ]


@pytest.mark.parametrize("mirror", ["/srv/models", "ftp://host/", "https://", "https://[bad/", "http://h:x/"])
def test_a_mirror_that_is_no_prefix(monkeypatch, mirror):
    monkeypatch.setenv("RTMO_DEPLOY_MIRROR", mirror)
    with pytest.raises(SetupError, match="RTMO_DEPLOY_MIRROR"):
        fetch(toy("http://127.0.0.1:1/"))


def test_credentials_of_a_mirror_are_not_told(server, monkeypatch, caplog):
    monkeypatch.setenv("RTMO_DEPLOY_MIRROR", server.url.replace("//", "//user:hunter2@"))
    server.payload, server.statuses = OTHER, [503, 404]
    for problem in ("404", "SHA-256"):
        with caplog.at_level(logging.DEBUG), pytest.raises(DownloadError, match=problem) as caught:
            fetch(toy(server.url))
        assert "hunter2" not in str(caught.value)
    assert "503" in caplog.text
    assert "hunter2" not in caplog.text
    assert without_credentials("https://a:b@host:1/x") == "https://host:1/x"
    assert without_credentials("rtsp://a:b@host/x?cam=1&pwd=c%20d&q=e@f#g") == "rtsp://host/x?cam=1&pwd=***&q=e@f#g"
    assert without_credentials("rtsp://a:b@[host/x") == "rtsp://[host/x"


def test_a_cache_folder_that_cannot_be(server, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("RTMO_DEPLOY_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(SetupError, match="RTMO_DEPLOY_CACHE") as caught:
        fetch(toy(server.url))
    assert not isinstance(caught.value, DownloadError)
    assert not server.requests


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_cache(server, cache):
    record = toy(server.url)
    cache.mkdir()
    (cache / record.file_name).write_bytes(PAYLOAD)
    cache.chmod(0o555)
    try:
        assert fetch(record) == cache / record.file_name
        with pytest.raises(SetupError, match="Permission denied"):
            fetch(record, force=True)
    finally:
        cache.chmod(0o755)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk(server, cache):
    record = toy(server.url)
    cache.mkdir()
    (cache / f"{record.file_name}.part").symlink_to("/dev/full")
    with pytest.raises(SetupError, match="No space left") as caught:
        fetch(record)
    assert not isinstance(caught.value, DownloadError)
    assert len(server.requests) == 1
    assert visible(cache) == []


# -- trust on first use: FORGED shares the one digit that "is published" with PAYLOAD

FORGED = next(
    forged
    for forged in (PAYLOAD + bytes([number]) for number in range(256))
    if hashlib.sha256(forged).hexdigest()[0] == DIGITS[0]
)
WHOLE, OF_FORGED = hashlib.sha256(PAYLOAD).hexdigest(), hashlib.sha256(FORGED).hexdigest()


def test_the_whole_hash_is_recorded_at_the_first_download(server, cache):
    record = toy(server.url)
    path = fetch(record)
    stored = json.loads(record_path(path).read_text(encoding="utf-8"))
    assert stored == {"schema_version": 1, "file": record.file_name, "sha256": WHOLE, "url": record.url}
    assert not [name for name in visible(cache) if name != record.file_name]


@pytest.mark.parametrize("offline", [False, True])
@pytest.mark.parametrize("force", [False, True])
def test_a_cached_file_that_was_forged_is_refused(server, cache, monkeypatch, offline, force):
    record = toy(server.url, DIGITS[0])
    path = fetch(record)
    path.write_bytes(FORGED)
    monkeypatch.setenv("RTMO_DEPLOY_OFFLINE", "1" if offline else "0")
    with pytest.raises(DownloadError, match="The cached file has changed") as caught:
        fetch(record, force=force)
    for part in (WHOLE, OF_FORGED, str(record_path(path)), "accept the change"):
        assert part in str(caught.value)
    assert len(server.requests) == 1
    record_path(path).unlink()  # what the remedy says
    monkeypatch.setenv("RTMO_DEPLOY_OFFLINE", "0")
    assert fetch(record).read_bytes() == FORGED
    assert json.loads(record_path(path).read_text(encoding="utf-8"))["sha256"] == OF_FORGED


@pytest.mark.parametrize("cached", [True, False])
def test_a_download_that_was_forged_is_refused(server, cache, cached):
    record = toy(server.url, DIGITS[0])
    path = fetch(record)
    if not cached:
        path.unlink()
    server.payload = FORGED
    with pytest.raises(DownloadError, match="What came has changed"):
        fetch(record, force=True)
    assert visible(cache) == ([record.file_name] if cached else [])
    assert not cached or path.read_bytes() == PAYLOAD
    assert json.loads(record_path(path).read_text(encoding="utf-8"))["sha256"] == WHOLE


def test_a_file_put_there_is_trusted_from_its_first_use(server, cache):
    record = toy(server.url, DIGITS[0])
    cache.mkdir()
    (cache / record.file_name).write_bytes(PAYLOAD)
    fetch(record)
    (cache / record.file_name).write_bytes(FORGED)
    with pytest.raises(DownloadError, match="has changed"):
        fetch(record)


@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b'{"sha256": "12"}', b'{"sha256": 7}', b"\xff", b"[" * 100_000])
def test_a_damaged_record_is_not_taken_for_none(server, cache, content):
    path = fetch(toy(server.url))
    record_path(path).write_bytes(content)
    with pytest.raises(DownloadError, match="record of a downloaded file's SHA-256 is damaged") as caught:
        fetch(toy(server.url))
    assert str(record_path(path)) in str(caught.value)


def test_a_known_whole_hash_stands_above_the_record(server, cache):
    pinned = replace(toy(server.url, DIGITS[0]), sha256=OF_FORGED)
    with pytest.raises(DownloadError, match=f"the known one is {OF_FORGED}"):
        fetch(pinned)
    assert visible(cache) == []
    server.payload = FORGED
    assert fetch(pinned).read_bytes() == FORGED


def test_what_a_file_is_known_by(monkeypatch):
    record = VARIANTS["rtmo-s-coco"]
    digits = record.sha256_prefix.ljust(64, "0")
    assert identify_published(digits) is record
    assert "no proof" in record.known_by
    pinned = replace(record, sha256=record.sha256_prefix.ljust(64, "1"))
    monkeypatch.setitem(VARIANTS, record.name, pinned)
    assert identify_published(digits) is None
    assert identify_published(pinned.sha256) is pinned
    assert pinned.known_by == "its SHA-256"


def test_two_processes_at_once(server, cache):
    code = (
        "import sys, json\n"
        "from rtmo_deploy.zoo import COCO_17, VARIANTS, Variant, architecture\n"
        "from rtmo_deploy.zoo.download import fetch\n"
        "record = Variant('toy', architecture('rtmo-n'), COCO_17, 'body7',\n"
        "                 VARIANTS['rtmo-s'+'-body7'].accuracy, None, sys.argv[1])\n"
        "print(json.dumps(str(fetch(record))))\n"
    )
    record = toy(server.url)
    server.gate = threading.Event()
    command = [sys.executable, "-c", code, record.url]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, **pipes) as first:
        try:
            assert server.asked.wait(60)
            with subprocess.Popen(command, **pipes) as second:
                assert "waiting" in second.stderr.readline()
                assert visible(cache) == []
                server.gate.set()
                results = [first.communicate(timeout=60), second.communicate(timeout=60)]
        finally:
            server.gate.set()
    assert (first.returncode, second.returncode) == (0, 0), results
    assert [Path(json.loads(out)) for out, _ in results] == 2 * [cache / record.file_name]
    assert (cache / record.file_name).read_bytes() == PAYLOAD
    assert len(server.requests) == 1
    assert visible(cache) == [record.file_name]


def test_many_threads_at_once(server, cache):
    record = toy(server.url)
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        paths = list(pool.map(lambda _: fetch(record), range(4)))
    assert paths == [cache / record.file_name] * 4
    assert paths[0].read_bytes() == PAYLOAD
    assert len(server.requests) == 1


def test_the_cache_folder(monkeypatch, tmp_path):
    assert cache_dir() == tmp_path / "cache"
    monkeypatch.setenv("RTMO_DEPLOY_CACHE", "~/models")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    assert cache_dir() == tmp_path / "models"
    monkeypatch.delenv("RTMO_DEPLOY_CACHE")
    assert cache_dir().is_absolute()
    assert "rtmo-deploy" in str(cache_dir())


class TestResolve:
    @pytest.fixture(autouse=True)
    def _known(self, server, monkeypatch, tmp_path):
        self.record = toy(server.url)
        for name in ("toy-body7", "toy"):
            monkeypatch.setitem(records._BY_NAME, name, self.record)
        (tmp_path / "work").mkdir()
        monkeypatch.chdir(tmp_path / "work")

    @pytest.mark.parametrize("name", ["toy", "TOY-body7"])
    def test_a_name_is_fetched(self, name):
        assert resolve_checkpoint(name).read_bytes() == PAYLOAD

    def test_a_file_wins_over_a_name(self, server):
        Path("toy").write_bytes(b"mine")
        assert resolve_checkpoint("toy") == Path("toy")
        assert not server.requests

    def test_a_folder_does_not(self):
        Path("toy").mkdir()
        assert resolve_checkpoint("toy").read_bytes() == PAYLOAD

    @pytest.mark.parametrize("name", ["nope.pth", "./toys", "runs/toy", "runs\\toy"])
    def test_a_path_to_nothing(self, name):
        with pytest.raises(CheckpointError, match="no such file"):
            resolve_checkpoint(name)

    @pytest.mark.parametrize("name", ["runs", "./runs", "."])
    def test_a_folder_that_is_no_name(self, name):
        Path("runs").mkdir()
        with pytest.raises(CheckpointError, match="not a file"):
            resolve_checkpoint(name)

    def test_a_word_that_is_neither(self):
        with pytest.raises(UsageError, match=r"neither a file nor .*Did you mean 'rtmo-s-coco'"):
            resolve_checkpoint("rtmo-s-coc")
        with pytest.raises(UsageError, match="neither"):
            resolve_checkpoint("")

    def test_an_architecture_that_nobody_published(self, monkeypatch):
        monkeypatch.delitem(EMBEDDED, "rtmo-n")
        with pytest.raises(UsageError, match="models init rtmo-n"):
            resolve_checkpoint("rtmo-n")

    def test_a_model_that_comes_with_the_package(self, tmp_path, monkeypatch):
        toy = EmbeddedModel("rtmo-n", architecture("rtmo-n"), COCO_17, "toys", ap=0.5, ap50=0.7)
        monkeypatch.setitem(EMBEDDED, "rtmo-n", toy)
        path = resolve_checkpoint("RTMO-n")
        assert path == EMBEDDED["rtmo-n"].path
        assert path.parent.parent == Path(rtmo_deploy.zoo.__file__).parent
        with pytest.raises(UsageError, match="comes with the package"):
            published("rtmo-n")
        monkeypatch.chdir(tmp_path)
        (tmp_path / "rtmo-n").write_bytes(b"mine")
        assert resolve_checkpoint("rtmo-n") == Path("rtmo-n")

    def test_a_packed_model_that_was_changed(self, monkeypatch):
        monkeypatch.setitem(EMBEDDED, "rtmo-n", replace(EMBEDDED["rtmo-n"], sha256="0" * 64))
        with pytest.raises(SetupError, match=r"has changed or is damaged\. Install the package again"):
            resolve_checkpoint("rtmo-n")

    def test_a_path_that_cannot_be_looked_at(self):
        with pytest.raises(CheckpointError):
            resolve_checkpoint(5000 * "x")


# ONNX files at an address


@pytest.fixture
def onnx_bytes(onnx_n):
    return onnx_n.read_bytes()


def zipped(**files):
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name.replace("__", "/").replace("_", "."), content)
    return packed.getvalue()


def test_an_onnx_file_is_fetched_once(server, onnx_bytes, cache):
    server.payload = onnx_bytes
    path = locate_model(f"{server.url}models/small.onnx")
    assert path.name == "small.onnx"
    assert path.is_relative_to(cache)
    assert path.read_bytes() == onnx_bytes
    assert locate_model(f"{server.url}models/small.onnx") == path
    assert server.paths() == ["/models/small.onnx"]
    # Another model of the same name is another file.
    assert locate_model(f"{server.url}other/small.onnx") != path


def test_the_model_inside_a_zip(server, onnx_bytes):
    server.payload = zipped(sdk__detail_json=b"{}", sdk__other_onnx=b"other", sdk__end2end_onnx=onnx_bytes)
    path = locate_model(f"{server.url}rtmo.zip?version=2")
    assert path.read_bytes() == onnx_bytes
    assert visible(path.parent) == ["detail.json", "rtmo.onnx"]


@pytest.mark.parametrize(
    "payload",
    [b"<html>Log in first</html>", zipped(readme_txt=b"no model"), zipped(a_onnx=b"x")[:60], zipped()],
    ids=["page", "no model", "cut off", "empty"],
)
@pytest.mark.parametrize("suffix", ["zip", "onnx"])
def test_what_is_no_onnx_model_is_not_kept(server, onnx_bytes, payload, suffix):
    server.payload = payload
    with pytest.raises(DownloadError, match=r"no ONNX model|not a checkpoint|damaged"):
        locate_model(f"{server.url}m.{suffix}")
    server.payload = zipped(a_onnx=onnx_bytes) if suffix == "zip" else onnx_bytes
    assert locate_model(f"{server.url}m.{suffix}").read_bytes() == onnx_bytes


def test_the_address_of_a_page_is_told_from_that_of_the_file(server):
    server.payload = b"<!DOCTYPE html><html>"
    with pytest.raises(DownloadError, match=r"HTML page.* Give the address of the file itself"):
        locate_model(f"{server.url}blob/main/m.onnx")


def test_a_changed_onnx_file_is_refused(server, onnx_bytes):
    server.payload = onnx_bytes
    path = locate_model(f"{server.url}m.onnx")
    path.write_bytes(onnx_bytes + b"\0")
    with pytest.raises(DownloadError, match="has changed"):
        locate_model(f"{server.url}m.onnx")


def test_an_address_offline_or_of_something_else(server, onnx_bytes, monkeypatch):
    server.payload = onnx_bytes
    path = locate_model(f"{server.url}m.onnx")
    monkeypatch.setenv("RTMO_DEPLOY_OFFLINE", "1")
    assert locate_model(f"{server.url}m.onnx") == path
    with pytest.raises(DownloadError, match="forbids the network"):
        locate_model(f"http://user:secret@{server.url.removeprefix('http://')}n.onnx")
    assert len(server.requests) == 1


def test_openmmlabs_onnx_files_come_from_the_mirror(server, onnx_bytes, monkeypatch):
    monkeypatch.setenv("RTMO_DEPLOY_MIRROR", f"{server.url}mirror")
    server.payload = zipped(end2end_onnx=onnx_bytes)
    record = published("rtmo-s")
    assert locate_model(record.onnx_url).read_bytes() == onnx_bytes
    assert server.paths() == [f"/mirror/{Path(record.file_name).stem}.zip"]


def test_the_copy_is_fetched_where_openmmlab_has_none(server, onnx_bytes, monkeypatch, caplog):
    for module in ("sources", "download"):
        monkeypatch.setattr(f"rtmo_deploy.zoo.{module}.BASE_URL", f"{server.url}openmmlab/")
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    server.payload = zipped(end2end_onnx=onnx_bytes)
    server.statuses = [404]
    assert locate_model(f"{server.url}openmmlab/onnx_sdk/m.zip").read_bytes() == onnx_bytes
    assert server.paths() == ["/openmmlab/onnx_sdk/m.zip", "/Tau-J/RTMPose/resolve/main/rtmo/onnx_sdk/m.zip"]
    assert "Trying" in caplog.text
    server.statuses = [404, 403]
    with pytest.raises(DownloadError, match=r"none of 2 addresses.*404.*403"):
        locate_model(f"{server.url}openmmlab/onnx_sdk/n.zip")


@pytest.mark.parametrize(("value", "expected"), [("1", True), ("TRUE", True), ("0", False), ("", False)])
def test_whether_configs_are_ignored(monkeypatch, value, expected):
    monkeypatch.setenv("RTMO_DEPLOY_IGNORE_CFG", value)
    assert cfg_is_ignored() is expected
    with pytest.raises(SetupError, match="RTMO_DEPLOY_IGNORE_CFG: 'perhaps' is neither"):
        cfg_is_ignored({"RTMO_DEPLOY_IGNORE_CFG": "perhaps"})
