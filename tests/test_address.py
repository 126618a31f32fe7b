"""Addresses of files on this computer, hashes behind addresses, secrets."""

from __future__ import annotations

import hashlib
from pathlib import Path

import cv2
import numpy as np
import pytest

from rtmo_deploy.address import is_address, is_remote, local_path, split_hash, without_credentials
from rtmo_deploy.errors import ArtifactError, InputDataError, UsageError
from rtmo_deploy.media import find_sources
from rtmo_deploy.runtime.inputs import to_bgr
from rtmo_deploy.runtime.model_files import files_of
from rtmo_deploy.zoo.locate import locate_model, resolve_checkpoint

ONNX = b"\x08\x08\x12\x04toy!" + bytes(1000)


@pytest.fixture
def model(tmp_path):
    path = tmp_path / "my models#1?" / "ü 100%.onnx"
    path.parent.mkdir()
    path.write_bytes(ONNX)
    return path


def test_a_file_address_is_its_path(model):
    address = model.as_uri()
    assert "%20" in address
    for one in (address, address.replace("file://", "FILE://"), address.replace("file://", "file://localhost")):
        assert local_path(one) == model
        assert locate_model(one) == model
        assert is_address(one)
        assert not is_remote(one)
    assert list(files_of(address)) == [model]
    assert list(files_of("https://host/m.onnx", "hf://o/r/m.onnx")) == []


def test_a_checkpoint_by_its_address(embedded_n):
    assert resolve_checkpoint(embedded_n.as_uri()) == embedded_n


@pytest.fixture
def embedded_n():
    from rtmo_deploy.zoo import EMBEDDED

    return EMBEDDED["rtmo-n"].path


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("file://otherhost/m.onnx", "on the host 'otherhost'"),
        ("file://me:hunter2@otherhost/m.onnx", "on the host 'otherhost'"),
        ("file://m.onnx", "on the host 'm.onnx'"),
        ("file:///", "not the address of a file"),
        ("file:///a/m.onnx?x=1", "not the address of a file"),
        ("file:///a/m.onnx#two", "'#two' is not a hash"),
        ("file://[bad/m.onnx", "cannot be understood"),
    ],
)
def test_a_file_address_that_names_no_file_here(address, expected):
    with pytest.raises(UsageError, match=expected) as caught:
        locate_model(address)
    assert "hunter2" not in str(caught.value)


def test_a_hash_behind_a_file_address(model):
    digest = hashlib.sha256(ONNX).hexdigest()
    assert locate_model(f"{model.as_uri()}#sha256={digest}") == model
    with pytest.raises(ArtifactError, match=f"its SHA-256 is {digest}, and #sha256= says 000"):
        locate_model(f"{model.as_uri()}#sha256={'0' * 64}")
    assert split_hash("https://h/x") == ("https://h/x", None)
    for wrong in ("#sha256=12", "#md5=" + "0" * 64, "#"):
        with pytest.raises(UsageError, match="not a hash"):
            split_hash(f"https://h/x{wrong}")


@pytest.mark.parametrize("address", ["https://", "https:///m.onnx", "https://[h/m.onnx", "https://h:x/m.onnx"])
def test_an_address_without_a_host(address):
    with pytest.raises(UsageError, match="cannot be understood"):
        locate_model(address)


def test_images_have_file_addresses(tmp_path):
    image = tmp_path / "a b.png"
    cv2.imwrite(str(image), np.full((4, 6, 3), 7, np.uint8))
    (tmp_path / "list.txt").write_text(f"{image.as_uri()}\n", encoding="utf-8")
    assert to_bgr(image.as_uri()).shape == (4, 6, 3)
    for given in (image.as_uri(), tmp_path / "list.txt"):
        sources, failures = find_sources(given)
        assert ([source.name for source in sources], failures) == ([str(image)], [])
    for call in (lambda: to_bgr("file://other/a.png"), lambda: to_bgr("file:///no/such.png")):
        with pytest.raises(InputDataError):
            call()
    _, failures = find_sources(["file://other/a.png", image.as_uri()])
    assert "on the host 'other'" in str(failures[0])


def test_what_is_no_address():
    assert not is_address("m.onnx")
    assert not is_address(Path("https:/h/m.onnx"))
    assert not is_address("rtsp://h/x")
    assert without_credentials("hf://o/r/m.onnx@main") == "hf://o/r/m.onnx@main"


@pytest.mark.parametrize("password", ["ab/cd==", "a#b", "a?b", "a/b@c", "a:b/c"])
def test_passwords_that_are_not_quoted_are_not_shown(password):
    assert without_credentials(f"https://me:{password}@host/m.onnx") == "https://host/m.onnx"


@pytest.mark.parametrize("address", ["http://h:80/a@b", "http://[::1]:80/a@b", "http://h:/a@b", "https://h/a:b@c"])
def test_an_at_sign_in_the_path_is_no_password(address):
    assert without_credentials(address) == address


def test_an_address_of_another_kind_is_told_from_a_path():
    with pytest.raises(UsageError, match="s3:// is not an address that models are read from"):
        locate_model("s3://bucket/m.onnx")
