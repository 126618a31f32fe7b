"""What is wrong with a signed release is found and named, without a network; and no hostile file passes or crashes."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import shutil
import subprocess
import sys

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from release_keys import write_pair
from release_toys import RECIPE, make
from test_release_output import FILES

from rtmo_deploy.errors import ArtifactError, GateFailedError, UsageError
from rtmo_deploy.release import SignatureStatus, sign_release, verify_release
from rtmo_deploy.release.integrity import UNFINISHED

FIXED, FP16 = "artifacts/toy-fixed.onnx", "artifacts/toy-fp16.onnx"


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    return write_pair(tmp_path_factory.mktemp("keys"))


@pytest.fixture(scope="module")
def pristine(tmp_path_factory, pair):
    folder = tmp_path_factory.mktemp("pristine")
    make(folder, sign=pair.private)
    shutil.rmtree(folder / "out" / ".cache")
    return folder / "out"


@pytest.fixture
def folder(tmp_path, pristine):
    """A signed release of its own, without the cache of its steps."""
    return shutil.copytree(pristine, tmp_path / "out")


def refused(folder, pair):
    """What verify finds with the key, and what it says; exit code 6."""
    found = verify_release(folder, key=pair.public)
    assert not found.ok
    with pytest.raises(GateFailedError) as caught:
        found.require_ok()
    assert caught.value.exit_code == 6
    return found, str(caught.value)


def write(path, data):
    path.unlink()
    path.write_bytes(data)


@pytest.mark.parametrize("name", FILES)
def test_a_flipped_byte(folder, pair, name):
    data = (folder / name).read_bytes()
    for at in (0, len(data) // 2, len(data) - 1):
        write(folder / name, data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
        found, said = refused(folder, pair)
        assert found.changed == (name,)
        assert (found.missing, found.extra, found.swapped) == ((), (), ())
        assert found.signature.status is SignatureStatus.VALID
        assert name in said


@pytest.mark.parametrize("more", ["more", f"{'0' * 64}  report.html", f"{'0' * 64}  report.html\n"])
@pytest.mark.parametrize("first", [False, True])
def test_lines_that_are_added_to_the_sums(folder, pair, more, first):
    text = (folder / "SHA256SUMS").read_text()
    write(folder / "SHA256SUMS", (f"{more}{text}" if first else f"{text}{more}").encode())
    assert verify_release(folder).changed == ("SHA256SUMS",)
    assert "It is not what was signed: changed: SHA256SUMS." in refused(folder, pair)[1]


def test_a_flipped_byte_of_the_signature(folder, pair):
    data = (folder / "model.sig").read_bytes()
    for at in [*range(0, 300, 3), *range(300, len(data) - 250, 97), *range(len(data) - 250, len(data))]:
        write(folder / "model.sig", data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
        found, said = refused(folder, pair)
        assert found.signature.status is SignatureStatus.INVALID, at
        assert "Its signature is not valid: " in said
        assert not found.differences


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file(folder, pair, name):
    (folder / name).unlink()
    assert refused(folder, pair)[0].missing == (name,)


@pytest.mark.parametrize(("a", "b"), [(FIXED, FP16), ("report.html", "manifest.json"), ("SHA256SUMS", FIXED)])
def test_two_files_that_were_swapped(folder, pair, a, b):
    (folder / a).rename(folder / "between")
    (folder / b).rename(folder / a)
    (folder / "between").rename(folder / b)
    found, said = refused(folder, pair)
    assert found.swapped == (tuple(sorted([a, b])),)
    assert found.changed == ()
    assert f"swapped: {min(a, b)} and {max(a, b)}" in said


def test_swapped_files_are_named_without_a_key_too(folder):
    (folder / FIXED).rename(folder / "between")
    (folder / FP16).rename(folder / FIXED)
    (folder / "between").rename(folder / FP16)
    (folder / "report.html").write_text("x")
    found = verify_release(folder)
    assert (found.swapped, found.changed) == (((FIXED, FP16),), ("report.html",))
    assert found.signature.status is SignatureStatus.NOT_CHECKED


def three_round(folder):
    (folder / FIXED).rename(folder / "between")
    (folder / FP16).rename(folder / FIXED)
    (folder / "report.html").rename(folder / FP16)
    (folder / "between").rename(folder / "report.html")


def linked(folder):
    (folder / FIXED).rename(folder.parent / "elsewhere")
    (folder / FIXED).symlink_to(folder.parent / "elsewhere")


def linked_folder(folder):
    (folder / "latency").rename(folder.parent / "elsewhere")
    (folder / "latency").symlink_to(folder.parent / "elsewhere")


def into_a_folder(folder):
    (folder / FIXED).unlink()
    (folder / FIXED).mkdir()
    (folder / FIXED / "x").write_text("x")


def into_a_pipe(folder):
    (folder / FIXED).unlink()
    os.mkfifo(folder / FIXED)


def renamed(folder):
    (folder / FIXED).rename(folder / "artifacts" / "toy-other.onnx")


@pytest.mark.parametrize(
    ("change", "kinds"),
    [
        (lambda folder: (folder / "artifacts" / "more.onnx").write_text("x"), {"extra": ("artifacts/more.onnx",)}),
        (lambda folder: (folder / ".hidden").write_text("x"), {"extra": (".hidden",)}),
        (lambda folder: (folder / "artifacts" / ".cache").write_text("x"), {"extra": ("artifacts/.cache",)}),
        (lambda folder: (folder / "a\x1b[2J\nb").write_text("x"), {"extra": ("a\\x1b[2J\\nb",)}),
        (lambda folder: (folder / ".gitattributes").write_text("x"), {"extra": (".gitattributes",)}),
        (lambda folder: (folder / "a" / "b").mkdir(parents=True), {"extra": ("a/b/",)}),
        (lambda folder: (folder / "more").symlink_to("/"), {"extra": ("more",)}),
        (lambda folder: os.mkfifo(folder / "pipe"), {"extra": ("pipe",)}),
        (three_round, {"changed": (FIXED, FP16, "report.html")}),
        (linked, {"changed": (FIXED,)}),
        (linked_folder, {"changed": ("latency/cpu.json",), "extra": ("latency",)}),
        (into_a_folder, {"changed": (FIXED,), "extra": (f"{FIXED}/x",)}),
        (into_a_pipe, {"changed": (FIXED,)}),
        (renamed, {"missing": (FIXED,), "extra": ("artifacts/toy-other.onnx",)}),
    ],
)
def test_other_changes(folder, pair, change, kinds):
    change(folder)
    assert refused(folder, pair)[0].differences == kinds
    assert verify_release(folder).differences == kinds


def redo(folder, name, data):
    """Exchange a file, and make manifest and SHA256SUMS fit it."""
    write(folder / name, data)
    manifest = json.loads((folder / "manifest.json").read_text())
    for entry in manifest["files"]:
        if entry["path"] == name:
            entry.update(sha256=hashlib.sha256(data).hexdigest(), size=len(data))
    text = (json.dumps(manifest, indent=1) + "\n").encode()
    write(folder / "manifest.json", text)
    sums = {entry["path"]: entry["sha256"] for entry in manifest["files"]}
    sums["manifest.json"] = hashlib.sha256(text).hexdigest()
    write(folder / "SHA256SUMS", "".join(f"{digest}  {name}\n" for name, digest in sorted(sums.items())).encode())


def test_a_report_that_was_edited_with_its_manifest(folder, pair):
    redo(folder, "report.html", b"<p>All is well.</p>")
    assert verify_release(folder).ok
    found, said = refused(folder, pair)
    assert found.changed == ("SHA256SUMS", "manifest.json", "report.html")
    assert "Its files agree with the manifest, but not with what was signed: changed: SHA256SUMS, man" in said


def test_another_key(folder, pair, tmp_path):
    other = write_pair(tmp_path / "keys")
    redo(folder, "report.html", b"<p>All is well.</p>")
    sign_release(folder, other.private)
    assert verify_release(folder, key=other.public).ok
    found, said = refused(folder, pair)
    assert found.signature.status is SignatureStatus.INVALID
    assert "it was made with another key (SHA-256 " in said


def test_the_signature_of_another_release(folder, pair, tmp_path):
    make(tmp_path / "other", RECIPE.replace("name: toy", "name: other"), sign=pair.private)
    shutil.copy(tmp_path / "other" / "out" / "model.sig", folder)
    found, said = refused(folder, pair)
    assert "artifacts/other-fixed.onnx" in found.missing
    assert FIXED in found.extra
    assert "but not with what was signed" in said


def test_without_its_signature(folder, pair):
    (folder / "model.sig").unlink()
    found, said = refused(folder, pair)
    assert found.signature.status is SignatureStatus.MISSING
    assert said.startswith(f"{folder}: It is not signed.")
    (folder / ".hidden").write_text("x")
    assert "It is not signed, and not what its manifest says: extra: .hidden." in refused(folder, pair)[1]


def test_what_lies_in_working_files_is_not_compared_and_named(folder, pair):
    (folder / ".lock").unlink(missing_ok=True)
    assert verify_release(folder, key=pair.public).working == ()
    (folder / ".cache").mkdir()
    (folder / ".cache" / "toy.onnx").write_text("x")
    (folder / ".lock").symlink_to("/nowhere")
    found = verify_release(folder, key=pair.public)
    assert (found.ok, found.working) == (True, (".cache", ".lock"))


def test_a_release_that_is_being_written(folder, pair):
    (folder / UNFINISHED).write_text("[]")
    with pytest.raises(ArtifactError, match="not finished"):
        verify_release(folder, key=pair.public)


def bundle(pair, payload, **changes):
    """A signature whose payload, by a signer who may do so, is what is given; with other fields, as text."""
    key = load_pem_private_key(pair.private.read_bytes(), None)
    kind = b"application/vnd.in-toto+json"
    signed = key.sign(b"DSSEv1 28 %s %d %s" % (kind, len(payload), payload), ec.ECDSA(hashes.SHA256()))
    hint = hashlib.sha256(pair.public.read_bytes()).hexdigest()
    envelope = {
        "payload": base64.b64encode(payload).decode(),
        "payloadType": kind.decode(),
        "signatures": [{"sig": base64.b64encode(signed).decode(), "keyid": ""}],
    }
    return {
        "mediaType": "application/vnd.dev.sigstore.bundle.v0.3+json",
        "verificationMaterial": {"publicKey": {"hint": hint}, "tlogEntries": []},
        "dsseEnvelope": envelope,
    } | changes


def statement(**changes):
    resource = {"name": "report.html", "algorithm": "sha256", "digest": "0" * 64}
    predicate = {"serialization": {"method": "files", "hash_type": "sha256"}, "resources": [resource]}
    return {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [],
        "predicateType": "https://model_signing/signature/v1.0",
        "predicate": predicate | changes,
    }


RESOURCE = {"name": "a", "algorithm": "sha256", "digest": "0" * 64}


@pytest.mark.parametrize(
    ("payload", "said"),
    [
        (b"", "is no list of files"),
        (b"\xff", "is no list of files"),
        (b"[" * 100_000, "is no list of files"),
        (b'{"_type": 1, "_type": 2}', "is no list of files"),
        ({}, "is no list of files"),
        ({"_type": "https://in-toto.io/Statement/v1", "predicateType": "x", "predicate": {}}, "is no list of files"),
        (statement() | {"predicate": []}, "is no list of files"),
        (statement(serialization={"method": "shards", "hash_type": "sha256"}), "other hashes"),
        (statement(serialization={"method": "files", "hash_type": "blake3"}), "other hashes"),
        (statement(resources=[7]), "is no list of files"),
        (statement(resources=[RESOURCE | {"digest": "0"}]), "without its SHA-256"),
        (statement(resources=[RESOURCE | {"algorithm": "md5"}]), "without its SHA-256"),
        (statement(resources=[RESOURCE | {"name": 3}]), "no path within"),
        (statement(resources=[RESOURCE | {"name": "../../etc/passwd"}]), "no path within"),
        (statement(resources=[RESOURCE | {"name": "/etc/passwd"}]), "no path within"),
        (statement(resources=[RESOURCE | {"name": "a\x1b[2Jb"}]), "no path within"),
        (statement(resources=[RESOURCE, RESOURCE]), "a file twice"),
    ],
)
def test_what_is_signed_must_be_a_list_of_files(folder, pair, payload, said):
    data = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
    write(folder / "model.sig", json.dumps(bundle(pair, data)).encode())
    found, told = refused(folder, pair)
    assert found.signature.status is SignatureStatus.INVALID
    assert said in told


def test_an_empty_list_signs_nothing(folder, pair):
    write(folder / "model.sig", json.dumps(bundle(pair, json.dumps(statement(resources=[])).encode())).encode())
    assert set(refused(folder, pair)[0].extra) == {*FILES}


GOOD = json.dumps(statement()).encode()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda _: b"", "it is not JSON"),
        (lambda _: b"\x00" * 100, "it is not JSON"),
        (lambda _: b"[" * 100_000, "nested deeper"),
        (lambda _: b"{}", "no bundle"),
        (lambda _: b"7", "no bundle"),
        (lambda _: b"null", "no bundle"),
        (lambda good: json.dumps(good | {"more": 1}).encode(), "no bundle"),
        (lambda good: json.dumps(good).replace('"payload":', '"payload": "eA==", "payload":').encode(), "key twice"),
        (lambda good: json.dumps(good | {"verificationMaterial": []}).encode(), "no bundle"),
        (lambda good: json.dumps(good | {"verificationMaterial": {"certificate": {}}}).encode(), "not made with a key"),
        (lambda good: json.dumps(good | {"dsseEnvelope": None}).encode(), "no bundle"),
        (lambda good: json.dumps(good | {"mediaType": "application/json"}).encode(), "no bundle"),
        (
            lambda good: json.dumps(good | {"dsseEnvelope": good["dsseEnvelope"] | {"signatures": []}}).encode(),
            "one sig",
        ),
        (
            lambda good: json.dumps(good | {"dsseEnvelope": good["dsseEnvelope"] | {"payload": "é"}}).encode(),
            "no bundle",
        ),
        (lambda good: json.dumps(good | {"dsseEnvelope": good["dsseEnvelope"] | {"payload": 7}}).encode(), "no bundle"),
        (
            lambda good: json.dumps(good | {"dsseEnvelope": good["dsseEnvelope"] | {"payloadType": "x"}}).encode(),
            "no bu",
        ),
    ],
)
def test_hostile_bundles(folder, pair, change, said):
    write(folder / "model.sig", change(bundle(pair, GOOD)))
    found, told = refused(folder, pair)
    assert found.signature.status is SignatureStatus.INVALID
    assert said in told
    assert verify_release(folder).signature.status is SignatureStatus.NOT_CHECKED


def test_a_signature_file_that_is_none(folder, pair):
    path = folder / "model.sig"
    data = path.read_bytes()
    path.unlink()
    (folder.parent / "elsewhere").write_bytes(data)
    path.symlink_to(folder.parent / "elsewhere")
    assert "it is a link" in refused(folder, pair)[1]
    path.unlink()
    os.mkfifo(path)
    assert "it is a FIFO" in refused(folder, pair)[1]
    path.unlink()
    path.mkdir()
    assert "it is a folder" in refused(folder, pair)[1]
    path.rmdir()
    with path.open("wb") as stream:
        stream.truncate(1 << 40)
    assert "at most 16.0 MiB are read" in refused(folder, pair)[1]


def test_keys_and_options_that_check_nothing(folder, pair, tmp_path):
    (tmp_path / "text").write_text("key")
    other = write_pair(tmp_path / "keys")
    (tmp_path / "two").write_text(other.public.read_text() + pair.public.read_text())
    for options, said in [
        ({"key": tmp_path / "two"}, "more than one key"),
        ({"key": pair.private}, "this is a private key"),
        ({"key": tmp_path / "text"}, "this is no key in PEM"),
        ({"key": tmp_path / "nothing"}, "No such file"),
        ({"key": pair.public, "identity": "me", "issuer": "x"}, "Give one of them"),
        ({"identity": "me"}, "together with its issuer"),
        ({"issuer": "https://accounts.google.com"}, "together with its issuer"),
        ({"identity": "", "issuer": ""}, "together with its issuer"),
    ]:
        with pytest.raises(UsageError, match=said):
            verify_release(folder, **options)
    shutil.copy(pair.public, folder / "key.pem")
    with pytest.raises(UsageError, match="proves nothing"):
        verify_release(folder, key=folder / "key.pem")


def test_verifying_with_a_key_needs_no_network(folder, pair):
    """In a namespace of its own, without any network device that is up."""
    if shutil.which("unshare") is None or subprocess.run(["unshare", "-rn", "true"], check=False).returncode:
        pytest.skip("no namespaces of networks here")
    words = ["unshare", "-rn", sys.executable, "-m", "rtmo_deploy", "verify", folder, "--key", pair.public, "--json"]
    done = subprocess.run(list(map(str, words)), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["signature"]["status"] == "valid"
