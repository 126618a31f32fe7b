"""Models on a Hugging Face Hub: one on the loopback interface, which answers as the real one does."""

from __future__ import annotations

import hashlib
import http.server
import json
import threading

import pytest
from toy_variant import toy_onnx

from rtmo_deploy.errors import DownloadError, SetupError, UsageError
from rtmo_deploy.zoo.cache import record_path
from rtmo_deploy.zoo.download import fetch_address
from rtmo_deploy.zoo.hub import HubFile
from rtmo_deploy.zoo.locate import locate_model

ONNX = toy_onnx(bytes(range(256)) * 500)
SHA256 = hashlib.sha256(ONNX).hexdigest()
COMMITS = ["a" * 40, "b" * 40]
PLACE = "/owner/poses/resolve/main/models/toy.onnx"
TOKEN = "hf_secret"


@pytest.fixture
def cdn():
    """Another host, to which large files are redirected; the headers that it was asked with."""
    asked = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def log_message(self, *args):
            pass

        def do_GET(self):
            asked.append(dict(self.headers))
            self.send_response(200)
            self.send_header("Content-Length", str(len(ONNX)))
            self.send_header("X-Repo-Commit", "c" * 40)  # not the Hub's word
            self.end_headers()
            self.wfile.write(ONNX)

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as httpd:
        thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield f"http://localhost:{httpd.server_address[1]}/blob", asked
        httpd.shutdown()
        thread.join()


@pytest.fixture
def hub(web, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", f"{web.url}/")
    return web


def large(hub, cdn, commit=COMMITS[0], sha256=SHA256):
    headers = {"X_Repo_Commit": commit, "X_Linked_ETag": f'"{sha256}"', "X_Linked_Size": str(len(ONNX))}
    hub.redirects(PLACE, cdn, **headers)


def test_a_large_file_is_fetched_once_and_its_commit_recorded(hub, cdn, monkeypatch):
    url, asked = cdn
    large(hub, url)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    address = "hf://owner/poses/models/toy.onnx"
    path = locate_model(address)
    assert path.name == "toy.onnx"
    assert path.read_bytes() == ONNX
    assert json.loads(record_path(path).read_text(encoding="utf-8")) == {
        "schema_version": 1,
        "file": "toy.onnx",
        "sha256": SHA256,
        "url": hub.url + PLACE,
        "commit": COMMITS[0],
    }
    assert hub.headers[0]["Authorization"] == f"Bearer {TOKEN}"
    assert "Authorization" not in asked[0]
    monkeypatch.setenv("RTMO_DEPLOY_OFFLINE", "1")
    assert locate_model(address) == path
    assert len(hub.asked) == 1


def test_another_hash_than_the_hubs_is_refused(hub, cdn):
    large(hub, cdn[0], sha256="0" * 64)
    with pytest.raises(DownloadError, match=f"What came is damaged: its SHA-256 is {SHA256}, and the Hub's is 000"):
        fetch_address("hf://owner/poses/models/toy.onnx")


def test_a_branch_that_went_on_is_taken_when_asked_for(hub, cdn):
    address = "hf://owner/poses/models/toy.onnx"
    large(hub, cdn[0])
    path = fetch_address(address)
    newer = toy_onnx(b"newer")
    hub.gives(PLACE, newer, X_Repo_Commit=COMMITS[1])
    assert fetch_address(address).read_bytes() == ONNX
    assert fetch_address(address, force=True).read_bytes() == newer
    recorded = json.loads(record_path(path).read_text(encoding="utf-8"))
    assert (recorded["commit"], recorded["sha256"]) == (COMMITS[1], hashlib.sha256(newer).hexdigest())
    hub.gives(PLACE, ONNX, X_Repo_Commit=COMMITS[1])
    with pytest.raises(DownloadError, match="has changed"):  # the same commit has one content
        fetch_address(address, force=True)


def test_another_hub_may_have_another_file_of_that_name(hub, monkeypatch):
    address = "hf://owner/poses/models/toy.onnx"
    hub.gives(PLACE, ONNX)
    hub.gives(f"/company{PLACE}", toy_onnx(b"the company's"))
    path = fetch_address(address)
    assert fetch_address(f"{address}@main") == path
    monkeypatch.setenv("HF_ENDPOINT", f"{hub.url}/company")
    assert fetch_address(address).read_bytes() == toy_onnx(b"the company's")
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    assert fetch_address(address).read_bytes() == ONNX
    assert hub.asked == [PLACE, f"/company{PLACE}"]


def test_the_token_goes_to_no_other_host_and_into_no_message(hub, web, monkeypatch, caplog):
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    hub.redirects(PLACE, web.url.replace("127.0.0.1", "localhost") + "/elsewhere")
    hub.gives("/elsewhere", b"", 403)
    with pytest.raises(DownloadError) as caught:
        fetch_address("hf://owner/poses/models/toy.onnx")
    assert ["Authorization" in headers for headers in hub.headers] == [True, False]
    assert TOKEN not in str(caught.value) + caplog.text


@pytest.mark.parametrize(
    ("status", "code", "token", "expected"),
    [
        (
            401,
            "RepoNotFound",
            "",
            "no such repository, or it is private; for one that you may read, set HF_TOKEN",
        ),
        (401, "GatedRepo", "", "the repository is gated: its owner must grant access; for one"),
        (403, "GatedRepo", TOKEN, "the repository is gated.*the token in HF_TOKEN does not open it"),
        (401, "", "", "no such repository, or it is private or gated; for one"),
        (404, "EntryNotFound", "", r"404: the repository has no such file\."),
        (404, "RevisionNotFound", TOKEN, r"404: the repository has no such revision\."),
        (404, "", "", r"404: there is no such file, revision or repository\."),
        (451, "", "", "the server answered 451|The server answered 451"),
    ],
)
def test_refusals_are_explained(hub, monkeypatch, status, code, token, expected):
    monkeypatch.setenv("HF_TOKEN", token)
    hub.gives(PLACE, b"", status, **({"X_Error_Code": code} if code else {}))
    with pytest.raises(DownloadError, match=expected) as caught:
        fetch_address("hf://owner/poses/models/toy.onnx")
    assert len(hub.asked) == 1
    assert not token or token not in str(caught.value)


def test_the_form_of_an_address():
    assert HubFile.parse("hf://o/r/a/b.pth") == HubFile("o/r", "a/b.pth", "main")
    assert HubFile.parse("hf://o/r/b.pth@v1.0") == HubFile("o/r", "b.pth", "v1.0")
    assert HubFile.parse("hf://o/r/b%40x%20y.pth@refs/pr/1") == HubFile("o/r", "b@x y.pth", "refs/pr/1")
    assert HubFile.parse("hf://datasets/o/r/b.zip") == HubFile("datasets/o/r", "b.zip", "main")
    assert HubFile.parse("hf://spaces/o/r/b.zip") == HubFile("spaces/o/r", "b.zip", "main")
    place = HubFile("o/r", "b@x y.pth", "refs/pr/1").source().url
    assert place == "https://huggingface.co/o/r/resolve/refs%2Fpr%2F1/b%40x%20y.pth"


@pytest.mark.parametrize(
    "address",
    [
        *("hf://o/r", "hf://o", "hf://", "hf://o//b.pth", "hf://o/r/../b.pth", "hf://o/r/b.pth@"),
        *("hf://o/r@main/b.pth", "hf://../r/b.pth", "hf://o/r/b.pth@a?b", "hf://datasets/o/b.zip"),
    ],
)
def test_an_address_of_another_form_is_refused(address):
    with pytest.raises(UsageError, match="OWNER/REPOSITORY/PATH"):
        locate_model(address)


def test_an_endpoint_that_is_no_address(monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "hub.example")
    with pytest.raises(SetupError, match="HF_ENDPOINT"):
        HubFile("o/r", "b.pth").source()


@pytest.mark.parametrize("token", ["hf_one\nhf_two", "hf_é", "hf one"])
def test_a_token_that_is_none_is_refused_and_not_told(hub, monkeypatch, token):
    monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(SetupError, match="HF_TOKEN") as caught:
        fetch_address("hf://a/b/c.onnx")
    assert token not in str(caught.value)
    assert not hub.asked
