"""What a file is, by its bytes."""

from __future__ import annotations

import json
import os
import pickle
import zipfile

import cv2
import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from rtmo_deploy.file_kind import Kind, kind_of

BYTES = {
    Kind.HEIC: b"\0\0\0\x18ftypheic\0\0\0\0mif1heic",
    Kind.AVIF: b"\0\0\0\x1cftypavif\0\0\0\0avifmif1",
    Kind.VIDEO: b"\0\0\0\x20ftypisom\0\0\2\0isomiso2avc1mp41",
    Kind.GIF: b"GIF89a\x01\0\x01\0\0\0\0;",
    Kind.JPEG_XL: b"\0\0\0\x0cJXL \r\n\x87\n",
    Kind.ENGINE: b"ftrt\xe2\0\0\0" + bytes(64),
    Kind.HTML: b"\n<!DOCTYPE html>\n<html><body>Sign in</body></html>",
    Kind.OPENVINO: b'<?xml version="1.0"?>\n<net name="Model0" version="11">\n<layers/></net>',
    Kind.XML: b'<?xml version="1.0"?><config/>',
    Kind.SVG: b'<svg xmlns="http://www.w3.org/2000/svg"/>',
    Kind.LFS_POINTER: b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n",
    Kind.JSON: b'{"a": 1}',
    Kind.ANNOTATION: b'\xef\xbb\xbf {"info": {}, "images": [], "annotations": []}',
    Kind.RECIPE: b"# a release\nname: x\nsource: rtmo-n\nartifacts: {}\n",
    Kind.YAML: b"---\na: 1\n",
    Kind.TEXT: b"hello there, this is prose\n",
    Kind.PDF: b"%PDF-1.7\n",
    Kind.GZIP: b"\x1f\x8b\x08\0",
    Kind.PICKLE: pickle.dumps({"a": 1}),
    Kind.EMPTY: b"",
    Kind.UNKNOWN: b"\xfe\xdc\xba\x98" * 100,
    Kind.PNM: b"P6\n2 2\n255\n" + bytes(12),
}


@pytest.mark.parametrize("kind", BYTES)
def test_by_bytes(tmp_path, kind):
    path = tmp_path / "x.onnx"  # the name does not count
    path.write_bytes(BYTES[kind])
    assert kind_of(path) is kind


@pytest.mark.parametrize(
    ("suffix", "kind"),
    [
        (".jpg", Kind.JPEG), (".png", Kind.PNG), (".bmp", Kind.BMP), (".webp", Kind.WEBP),
        (".tiff", Kind.TIFF), (".jp2", Kind.JPEG_2000), (".ppm", Kind.PNM),
    ],
)  # fmt: skip
def test_images(tmp_path, suffix, kind):
    path = tmp_path / f"x{suffix}"
    cv2.imwrite(str(path), np.zeros((32, 32, 3), np.uint8))
    assert kind_of(path) is kind
    assert kind.is_image


@pytest.mark.parametrize(("new", "kind"), [(True, Kind.TORCH), (False, Kind.TORCH_LEGACY)])
def test_torch_save(tmp_path, new, kind):
    torch.save({"state_dict": {"a": torch.zeros(3)}}, tmp_path / "x.png", _use_new_zipfile_serialization=new)
    assert kind_of(tmp_path / "x.png") is kind


def test_safetensors(tmp_path):
    save_file({"a": torch.zeros(3)}, tmp_path / "x")
    assert kind_of(tmp_path / "x") is Kind.SAFETENSORS


def test_zip_archives(tmp_path):
    with zipfile.ZipFile(tmp_path / "x", "w") as archive:
        archive.writestr("hello.txt", "hello")
    assert kind_of(tmp_path / "x") is Kind.ZIP
    with zipfile.ZipFile(tmp_path / "y", "w") as archive:
        for name in ("y/data.pkl", "y/code/__torch__.py", "y/constants.pkl"):
            archive.writestr(name, b"")
    assert kind_of(tmp_path / "y") is Kind.TORCHSCRIPT


def test_onnx(tmp_path):
    from onnx import TensorProto, helper

    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", [value], [value])
    for settings in ({}, {"producer_name": "pytorch"}):
        (tmp_path / "x").write_bytes(helper.make_model(graph, **settings).SerializeToString())
        assert kind_of(tmp_path / "x") is Kind.ONNX


def test_an_engines_record(tmp_path):
    (tmp_path / "x").write_text(json.dumps({"backend": "tensorrt", "compute_capability": None, "profiles": []}))
    assert kind_of(tmp_path / "x") is Kind.ENGINE_RECORD


def test_folders_fifos_and_names(tmp_path):
    assert kind_of(tmp_path) is Kind.FOLDER
    os.mkfifo(tmp_path / "fifo")
    assert kind_of(tmp_path / "fifo") is Kind.SPECIAL
    assert kind_of(tmp_path / "a\0b") is Kind.SPECIAL
    with pytest.raises(FileNotFoundError):
        kind_of(tmp_path / "missing")


def test_every_kind_has_a_name():
    for kind in Kind:
        assert kind.article
