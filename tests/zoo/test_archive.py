"""OpenMMLab's .zip archives: the model inside is found, and what is no such archive is refused."""

from __future__ import annotations

import shutil
import stat
import struct
import zipfile

import pytest
from toy_variant import toy_onnx

from rtmo_deploy.errors import ArtifactError, CheckpointError, DownloadError
from rtmo_deploy.file_kind import CHECKPOINT
from rtmo_deploy.zoo.cache import cache_dir
from rtmo_deploy.zoo.locate import locate_model

ONNX = toy_onnx(bytes(1000))


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path):
    monkeypatch.setenv("RTMO_DEPLOY_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def pack(tmp_path):
    def packed(members, name="rtmo-s.zip", method=zipfile.ZIP_DEFLATED):
        path = tmp_path / name
        with zipfile.ZipFile(path, "w", method) as archive:
            for member, content in members:
                archive.writestr(member, content)
        return path

    return packed


def test_the_model_and_its_settings_are_unpacked_once(pack):
    archive = pack([("sdk/", b""), ("sdk/deploy.json", b"{}"), ("sdk/end2end.onnx", ONNX), ("deploy.json", b"[]")])
    path = locate_model(archive)
    assert path.name == "rtmo-s.onnx"
    assert path.read_bytes() == ONNX
    assert path.is_relative_to(cache_dir("unpacked"))
    assert (path.parent / "deploy.json").read_bytes() == b"{}"
    assert sorted(one.name for one in path.parent.iterdir() if not one.name.startswith(".")) == [
        "deploy.json",
        "rtmo-s.onnx",
    ]
    before = path.stat().st_mtime_ns
    assert locate_model(str(archive)) == path
    assert path.stat().st_mtime_ns == before
    for file, change in (
        (path, ONNX + b"!"),
        (path.with_name("deploy.json"), b"[]"),
        (path.with_name("detail.json"), b""),
    ):
        file.write_bytes(change)
        with pytest.raises(DownloadError, match=r"has changed since.* Delete this folder"):
            locate_model(archive)
        shutil.rmtree(path.parent)
        assert locate_model(archive).read_bytes() == ONNX


@pytest.mark.parametrize("name", ["sdk\\{}", "./sdk/{}", "{}"])
def test_settings_are_found_as_windows_and_others_write_paths(pack, name):
    members = [("deploy.json", b"{}"), ("end2end.onnx", ONNX), ("other.onnx", b"x")]
    path = locate_model(pack([(name.format(member), content) for member, content in members]))
    assert path.read_bytes() == ONNX
    assert (path.parent / "deploy.json").read_bytes() == b"{}"


def test_copies_of_an_archive_keep_their_files(pack):
    paths = [locate_model(pack([("end2end.onnx", ONNX)], name)) for name in ("one.zip", "two.zip")]
    assert [path.name for path in paths] == ["one.onnx", "two.onnx"]
    assert all(path.read_bytes() == ONNX for path in paths)


def test_what_macos_adds_is_no_model(pack):
    assert locate_model(pack([("m.onnx", ONNX), ("__MACOSX/._m.onnx", b"x")])).read_bytes() == ONNX


def test_of_several_models_mmdeploys_is_taken(pack):
    assert locate_model(pack([("a.onnx", b"x"), ("end2end.onnx", ONNX)])).read_bytes() == ONNX


@pytest.mark.parametrize(
    ("members", "expected"),
    [
        ([("a.onnx", ONNX), ("b.onnx", ONNX)], "It holds 2 ONNX models: 'a.onnx', 'b.onnx'"),
        ([("a/end2end.onnx", ONNX), ("b/end2end.onnx", ONNX)], "It holds 2 ONNX models"),
        ([("readme.txt", b"")], "It holds no ONNX model"),
        ([], "It holds no ONNX model"),
        ([("inner.zip", b"PK")], "It holds no ONNX model, but other archives: 'inner.zip'"),
        ([("end2end.onnx", b"<html>")], "'end2end.onnx' in it is no ONNX model"),
        ([("end2end.onnx", ONNX[:-100])], "'end2end.onnx' in it is no ONNX model, or is cut short"),
        ([("end2end.onnx", ONNX), ("pipeline.json", b"{}")], r"It holds pipeline\.json without deploy\.json"),
        ([("../../evil.onnx", ONNX)], r"It holds '\.\./\.\./evil\.onnx', which lies outside"),
        ([("/etc/evil.onnx", ONNX)], "which lies outside"),
        ([("C:\\evil.onnx", ONNX)], "which lies outside"),
        ([("end2end.onnx", ONNX), ("..\\evil.txt", b"")], "which lies outside"),
        ([("end2end.onnx", bytes(80 << 20))], r"has 80\.0 MiB, packed into"),
        ([(f"{n}.txt", b"") for n in range(10_001)], "It has 10001 files"),
    ],
    ids=str.split("several twice no empty nested html cut half up absolute drive backslash bomb many"),
)
def test_what_is_no_archive_of_one_model_is_refused_and_leaves_nothing(pack, members, expected):
    with pytest.raises(ArtifactError, match=expected):
        locate_model(pack(members))
    assert not [*cache_dir("unpacked").rglob("*")]


def test_a_link_an_encrypted_and_a_damaged_archive(pack):
    link = zipfile.ZipInfo("end2end.onnx")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with pytest.raises(ArtifactError, match="which is a link"):
        locate_model(pack([(link, b"/etc/passwd")]))
    archive = pack([("end2end.onnx", ONNX)])
    content = bytearray(archive.read_bytes())
    whole = bytes(content)
    at = content.index(b"PK\x01\x02")
    content[6] |= 1
    content[at + 8] |= 1
    archive.write_bytes(content)
    with pytest.raises(ArtifactError, match="It is encrypted"):
        locate_model(archive)
    flipped = bytearray(whole)
    flipped[50] ^= 255
    for damaged in (whole[:60], whole[:-4], bytes(flipped)):
        archive.write_bytes(damaged)
        with pytest.raises(ArtifactError, match="It is damaged"):
            locate_model(archive)
    lying = bytearray(whole)
    struct.pack_into("<I", lying, at + 24, 10)  # more comes out than the directory says
    archive.write_bytes(lying)
    with pytest.raises(ArtifactError):
        locate_model(archive)
    with pytest.raises(ArtifactError, match="another method"):
        locate_model(pack([("end2end.onnx", ONNX)], method=zipfile.ZIP_BZIP2))


def test_a_checkpoint_is_wanted(pack):
    with pytest.raises(CheckpointError, match=r"a \.zip archive.*'export' takes a checkpoint.*It need not be exported"):
        locate_model(pack([("end2end.onnx", ONNX)]), wanted=CHECKPOINT, by="export")
