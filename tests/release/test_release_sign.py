"""Signed releases: what is signed, with which keys, and when; and that model-signing's own program agrees."""

from __future__ import annotations

import base64
import io
import json
import os
import shutil
import subprocess
import sys

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from release_keys import Pair, write_pair
from release_toys import ToyActions, make, write_recipe

from rtmo_deploy.errors import ArtifactError, GateFailedError, MissingDependencyError, SetupError, UsageError
from rtmo_deploy.release import SignatureStatus, integrity, sign_release, signer, verify_release
from rtmo_deploy.release.integrity import UNFINISHED
from rtmo_deploy.release.pipeline import plan_release


@pytest.fixture(scope="module")
def pair(tmp_path_factory) -> Pair:
    return write_pair(tmp_path_factory.mktemp("keys"))


@pytest.fixture(scope="module")
def pristine(tmp_path_factory, pair):
    folder = tmp_path_factory.mktemp("pristine")
    make(folder, sign=pair.private)
    return folder


@pytest.fixture
def folder(tmp_path, pristine):
    """A signed release of its own, with its recipe beside it."""
    shutil.copytree(pristine, tmp_path, dirs_exist_ok=True)
    return tmp_path / "out"


def model_signing(*words, cwd=None):
    return subprocess.run(
        [sys.executable, "-m", "model_signing", *map(str, words)], capture_output=True, text=True, check=False, cwd=cwd
    )


def signed_names(folder):
    bundle = json.loads((folder / "model.sig").read_text())
    statement = json.loads(base64.b64decode(bundle["dsseEnvelope"]["payload"]))
    return {one["name"] for one in statement["predicate"]["resources"]}


def test_everything_but_working_files_is_signed(folder, pair):
    present = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    wanted = {name for name in present if not name.startswith((".cache/", ".lock")) and name != "model.sig"}
    assert signed_names(folder) == wanted >= {"manifest.json", "SHA256SUMS", "statement.json"}
    assert any(name.startswith(".cache/") for name in present)
    found = verify_release(str(folder), key=str(pair.public))
    assert found.ok
    assert found.signature.status is SignatureStatus.VALID
    assert found.checked == len(wanted)


def test_model_signing_verifies_it(folder, pair, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy, ignore=shutil.ignore_patterns(".cache", ".lock"))
    words = ("--signature", copy / "model.sig", "--public_key", pair.public)
    done = model_signing("verify", "key", copy, *words)
    assert done.returncode == 0, done.stderr
    assert model_signing("verify", "key", folder, "--signature", folder / "model.sig", *words[2:]).returncode == 0
    (copy / "report.html").write_text("x")
    assert "report.html" in model_signing("verify", "key", copy, *words).stderr


def test_what_model_signing_signed_is_verified(folder, pair):
    words = ["--ignore-paths", folder / ".cache", "--ignore-paths", folder / ".lock", "--private_key", pair.private]
    done = model_signing("sign", "key", folder, "--signature", folder / "model.sig", *words)
    assert done.returncode == 0, done.stderr
    assert verify_release(folder, key=pair.public).ok


@pytest.mark.parametrize("curve", [ec.SECP256R1, ec.SECP384R1, ec.SECP521R1])
@pytest.mark.parametrize(("password", "style"), [(None, "PKCS8"), ("päss", "PKCS8"), ("word", "TraditionalOpenSSL")])
def test_keys_that_sign(folder, tmp_path, curve, password, style):
    keys = write_pair(tmp_path / "keys", key=ec.generate_private_key(curve()), password=password, style=style)
    signed = sign_release(folder, keys.private, password=password)
    assert signed.signature == folder / "model.sig"
    found = verify_release(folder, key=keys.public)
    assert found.ok
    assert found.signature.signer == f"key with SHA-256 {signed.key_sha256}"
    done = subprocess.run(["sha256sum", keys.public], capture_output=True, text=True, check=True)
    assert done.stdout.split()[0] == signed.key_sha256


@pytest.fixture
def wrong_keys(tmp_path, pair, pristine):
    """Files that are no key to sign with, and what is said of each."""
    keys = tmp_path / "keys"
    encrypted = write_pair(keys, "encrypted", password="word").private
    (keys / "text.pem").write_text("key")
    (keys / "certificate.pem").write_text("-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n")
    (keys / "damaged.pem").write_text(pair.private.read_text().replace("M", "N"))
    (keys / "huge.pem").write_bytes(b"-----BEGIN PRIVATE KEY-----\n" + bytes(1 << 20))
    os.mkfifo(keys / "pipe.pem")
    inside = tmp_path / "out" / ".cache"
    inside.parent.mkdir()
    inside.write_bytes(pair.private.read_bytes())
    return {
        "there is no password": encrypted,
        "of the kind RSA": write_pair(keys, "rsa", key=rsa.generate_private_key(65537, 2048)).private,
        "of the kind Ed25519": write_pair(keys, "ed", key=ed25519.Ed25519PrivateKey.generate()).private,
        "of the curve secp256k1": write_pair(keys, "k1", key=ec.generate_private_key(ec.SECP256K1())).private,
        "this is a public key": pair.public,
        "this is a certificate": keys / "certificate.pem",
        "no key in PEM": keys / "text.pem",
        "The key is damaged": keys / "damaged.pem",
        "at most 64.0 KiB": keys / "huge.pem",
        "it is a FIFO": keys / "pipe.pem",
        "it is a folder": keys,
        "No such file": keys / "nothing.pem",
        "lies in the release's folder": inside,
    }


def test_a_wrong_key_is_refused_before_anything_is_made(tmp_path, wrong_keys):
    actions, recipe = ToyActions(), write_recipe(tmp_path)
    for said, path in wrong_keys.items():
        with pytest.raises(UsageError, match=said):
            make(tmp_path, actions=actions, sign=path)
        with pytest.raises(UsageError, match=said):
            plan_release(recipe, tmp_path / "out", actions=actions, sign=path)
    assert not actions.ran
    with pytest.raises(UsageError, match="not encrypted"):
        make(tmp_path, actions=actions, sign=write_pair(tmp_path / "keys").private, password="word")
    with pytest.raises(UsageError, match="does not open the key"):
        make(tmp_path, actions=actions, sign=wrong_keys["there is no password"], password="wrong")
    assert not actions.ran


def test_running_again_signs_again_and_without_sign_nothing_is_signed(folder, pair):
    actions = ToyActions()
    make(folder.parent, actions=actions, sign=pair.private)
    assert not actions.ran
    assert verify_release(folder, key=pair.public).ok
    make(folder.parent, actions=actions)
    assert not (folder / "model.sig").exists()
    found = verify_release(folder, key=pair.public)
    assert found.signature.status is SignatureStatus.MISSING
    with pytest.raises(GateFailedError, match="It is not signed"):
        found.require_ok()
    assert verify_release(folder).ok
    sign_release(folder, pair.private)
    assert verify_release(folder, key=pair.public).ok


def test_a_release_that_failed_is_not_signed(tmp_path, pair):
    made = make(tmp_path, actions=ToyActions(ap={"fp16": 0.01}), sign=pair.private)
    assert made.verdict == "failed"
    assert verify_release(made.folder).signature.status is SignatureStatus.NONE
    with pytest.raises(GateFailedError, match="failed is not signed"):
        sign_release(made.folder, pair.private)


def test_only_a_whole_release_is_signed(folder, pair, tmp_path):
    before = (folder / "model.sig").read_bytes()
    (folder / "artifacts" / "more.onnx").write_text("x")
    with pytest.raises(GateFailedError, match=r"extra: artifacts/more\.onnx"):
        sign_release(folder, pair.private)
    (folder / "artifacts" / "more.onnx").unlink()
    (folder / UNFINISHED).write_text("[]")
    with pytest.raises(ArtifactError, match="not finished"):
        sign_release(folder, pair.private)
    with pytest.raises(ArtifactError, match="no release's folder"):
        sign_release(tmp_path, pair.private)
    assert (folder / "model.sig").read_bytes() == before


def test_a_file_that_changes_while_it_is_signed(folder, pair, monkeypatch):
    from model_signing.hashing import Config

    hash_files = Config.hash

    def changed(self, model_path, **options):
        (folder / "report.html").write_text("changed")
        return hash_files(self, model_path, **options)

    before = (folder / "model.sig").read_bytes()
    monkeypatch.setattr(Config, "hash", changed)
    with pytest.raises(ArtifactError, match="changed while the release was signed"):
        sign_release(folder, pair.private)
    assert (folder / "model.sig").read_bytes() == before
    assert not list(folder.glob(".*.part"))


def test_a_run_that_dies_before_it_signs_is_unfinished(folder, pair, monkeypatch):
    """Everything is written but the signature: no release that lacks it, but one to be finished."""

    def die(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(signer.Signer, "sign", die)
        with pytest.raises(KeyboardInterrupt):
            make(folder.parent, sign=pair.private)
    assert (folder / "manifest.json").exists()
    assert not (folder / "model.sig").exists()
    with pytest.raises(ArtifactError, match="not finished"):
        verify_release(folder, key=pair.public)
    make(folder.parent, sign=pair.private)
    assert verify_release(folder, key=pair.public).ok


def test_a_copy_is_signed_without_a_lock_being_left(folder, pair, tmp_path, monkeypatch):
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy, ignore=shutil.ignore_patterns(".cache", ".lock", "model.sig"))
    (copy / ".model.sig.abc.part").write_text("of a kill")
    monkeypatch.chdir(copy)
    assert sign_release(".", pair.private).files == len(signed_names(folder))
    assert {path.name for path in copy.iterdir() if path.name.startswith(".")} == set()
    assert verify_release(copy, key=pair.public).ok


def test_signing_that_is_killed_leaves_the_release_as_it_was(folder, pair, tmp_path, monkeypatch):
    before = sorted(path.relative_to(folder) for path in folder.rglob("*"))
    other = write_pair(tmp_path / "keys", "other")
    seen = []

    def killed(self, config, place, target):
        seen.append(sorted(path.relative_to(folder) for path in folder.rglob("*")))
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(signer.Signer, "_write", killed)
        with pytest.raises(KeyboardInterrupt):
            sign_release(folder, other.private)
    assert seen == [before]
    assert verify_release(folder, key=pair.public).ok


def test_what_is_left_of_interrupted_signing_is_called_that(folder, pair):
    (folder / ".model.sig.abc.part").write_text("{")
    for key in (None, pair.public):
        with pytest.raises(GateFailedError, match="Signing it was interrupted"):
            verify_release(folder, key=key).require_ok()
    (folder / "notes.txt").write_text("x")
    with pytest.raises(GateFailedError, match="Do not use it; get it again"):
        verify_release(folder).require_ok()
    (folder / "notes.txt").unlink()
    sign_release(folder, pair.private)
    assert verify_release(folder, key=pair.public).ok


def test_signing_that_ends_while_files_are_compared_is_no_difference(folder, pair, monkeypatch):
    part = folder / ".model.sig.abc.part"
    part.write_text("{")
    digests = integrity._digests

    def ended(*given):
        part.unlink()
        return digests(*given)

    monkeypatch.setattr(integrity, "_digests", ended)
    assert verify_release(folder, key=pair.public).ok


def test_a_release_at_work_is_not_signed(folder, pair):
    from filelock import FileLock

    with FileLock(folder / ".lock"), pytest.raises(SetupError, match="at work"):
        sign_release(folder, pair.private)


@pytest.mark.parametrize("module", ["model_signing.signing", "OpenSSL", "cryptography.exceptions"])
def test_a_missing_package_names_the_extra(tmp_path, pair, module):
    code = (
        "import sys\n"
        f"sys.modules[{module!r}] = None\n"
        "from rtmo_deploy.errors import MissingDependencyError\n"
        "from rtmo_deploy.release.signer import open_signer\n"
        "from pathlib import Path\n"
        "try: open_signer(sys.argv[1], None, folder=Path('nothing'))\n"
        "except MissingDependencyError as error: print(error.package, error.extra)\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code, pair.private], capture_output=True, text=True, check=False
    )
    assert done.stdout.split() == [module.partition(".")[0], "sign"], done.stderr


def test_without_the_extra_a_release_still_compares(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "cryptography.exceptions", None)
    assert verify_release(folder).ok
    with pytest.raises(MissingDependencyError, match=r"rtmo-deploy\[sign\]"):
        verify_release(folder, key=write_pair(folder.parent / "keys").public)


def test_sigstore_signs_neither_offline_nor_without_an_identity(tmp_path, monkeypatch):
    actions = ToyActions()
    monkeypatch.setenv("RTMO_DEPLOY_OFFLINE", "1")
    with pytest.raises(SetupError, match="RTMO_DEPLOY_OFFLINE is set"):
        make(tmp_path, actions=actions, sign="sigstore")
    monkeypatch.delenv("RTMO_DEPLOY_OFFLINE")
    for name in [name for name in os.environ if name.startswith(("GITHUB_", "GITLAB", "BUILDKITE", "CIRCLE"))]:
        monkeypatch.delenv(name)
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    with pytest.raises(SetupError, match="no token of a CI job, and no terminal"):
        make(tmp_path, actions=actions, sign="sigstore")
    monkeypatch.setenv("GITLAB_CI", "true")
    with pytest.raises(SetupError, match="SIGSTORE_ID_TOKEN not found"):
        make(tmp_path, actions=actions, sign="sigstore")
    assert not actions.ran
