"""Whether a model file is whole, by its own container: a server that names no length may have sent only its beginning.

A checkpoint in PyTorch's legacy format does not tell; its reader finds out.
"""

from __future__ import annotations

import zipfile
import zlib
from typing import TYPE_CHECKING

from rtmo_deploy.file_kind import Kind

if TYPE_CHECKING:
    from pathlib import Path


def is_cut(path: Path, kind: Kind) -> bool:
    """Whether a model file of this kind lacks its end; False where that cannot be told."""
    if kind in {Kind.TORCH, Kind.TORCHSCRIPT, Kind.ZIP}:
        return not _has_directory(path)
    if kind is Kind.SAFETENSORS:
        return not _has_tensors(path)
    return kind is Kind.ONNX and not _has_graph(path)


def _has_directory(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path):
            return True
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, ValueError):
        return False


def _has_tensors(path: Path) -> bool:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy"):
            return True
    except SafetensorError:
        return False


def _has_graph(path: Path) -> bool:
    """Protobuf knows no end: a model without the fields behind its graph is one that was cut there."""
    import onnx
    from google.protobuf.message import DecodeError

    try:
        model = onnx.load_model_from_string(path.read_bytes())
    except DecodeError:
        return False
    return model.HasField("graph") and len(model.opset_import) > 0
