"""Releases that an identity signed: accepted are those of a Sigstore that is trusted, by this identity and issuer."""

from __future__ import annotations

import base64
import json
import shutil

import pytest
from release_keys import write_pair
from release_sigstore import Sigstore
from release_toys import make

from rtmo_deploy.errors import SetupError
from rtmo_deploy.release import SignatureStatus, verify_release

WHO = {"identity": "me@example.com", "issuer": "https://accounts.google.com"}


@pytest.fixture(scope="module")
def sigstore():
    return Sigstore()


@pytest.fixture(scope="module")
def signed(tmp_path_factory):
    """A release that a key signed, and the key."""
    folder = tmp_path_factory.mktemp("signed")
    pair = write_pair(folder / "keys")
    return make(folder, sign=pair.private).folder, pair


@pytest.fixture
def payload(signed):
    """What is signed of the release."""
    by_key = json.loads((signed[0] / "model.sig").read_text())
    return base64.b64decode(by_key["dsseEnvelope"]["payload"])


@pytest.fixture
def folder(signed, payload, sigstore, tmp_path, monkeypatch):
    """A copy of the release, signed by an identity instead; this Sigstore is the one that is trusted."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("RTMO_DEPLOY_OFFLINE", "1")
    sigstore.trust(tmp_path / "cache")
    copy = shutil.copytree(signed[0], tmp_path / "out", ignore=shutil.ignore_patterns(".cache", ".lock"))
    (copy / "model.sig").write_text(sigstore.bundle(payload, WHO["identity"], WHO["issuer"]))
    return copy


def test_an_identity_that_signed(folder):
    found = verify_release(folder, **WHO)
    assert found.ok, found.signature
    assert found.signature.signer == "me@example.com (https://accounts.google.com)"
    assert "RTMO_DEPLOY_OFFLINE is set" in found.signature.finding


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (WHO | {"identity": "you@example.com"}, "me@example.com"),
        (WHO | {"issuer": "https://github.com/login/oauth"}, "accounts.google.com"),
    ],
)
def test_another_identity_or_issuer(folder, options, said):
    found = verify_release(folder, **options)
    assert found.signature.status is SignatureStatus.INVALID
    assert said in found.signature.finding


def test_another_sigstore(folder, payload):
    (folder / "model.sig").write_text(Sigstore().bundle(payload, WHO["identity"], WHO["issuer"]))
    found = verify_release(folder, **WHO)
    assert found.signature.status is SignatureStatus.INVALID
    assert "Sigstore does not accept it" in found.signature.finding


def test_a_changed_payload_and_other_damage(folder, payload):
    text = (folder / "model.sig").read_text()
    other = base64.b64encode(payload.replace(b"report.html", b"report.htmm")).decode()
    bundle = json.loads(text)
    for changed in (
        bundle | {"dsseEnvelope": bundle["dsseEnvelope"] | {"payload": other}},
        bundle | {"verificationMaterial": bundle["verificationMaterial"] | {"tlogEntries": []}},
        bundle | {"verificationMaterial": bundle["verificationMaterial"] | {"certificate": {"rawBytes": "AAAA"}}},
        bundle | {"mediaType": 7},
        bundle | {"dsseEnvelope": bundle["dsseEnvelope"] | {"signatures": []}},
        {},
        [],
        "x",
    ):
        (folder / "model.sig").write_text(json.dumps(changed))
        found = verify_release(folder, **WHO)
        assert found.signature.status is SignatureStatus.INVALID, changed


def test_keys_and_identities_are_not_mixed_up(folder, signed):
    found = verify_release(folder, key=signed[1].public)
    assert found.signature.finding == "it was not made with a key; check it with --identity and --issuer"
    found = verify_release(signed[0], **WHO)
    assert found.signature.finding == "it was made with a key; check it with --key"


def test_files_are_compared_with_what_an_identity_signed(folder):
    (folder / "report.html").write_text("x")
    found = verify_release(folder, **WHO)
    assert found.signature.status is SignatureStatus.VALID
    assert found.changed == ("report.html",)


def test_keys_of_sigstore_that_are_damaged(folder, tmp_path):
    next((tmp_path / "cache").rglob("trusted_root.json")).write_text("{")
    with pytest.raises(SetupError, match="keys of Sigstore cannot be used"):
        verify_release(folder, **WHO)
