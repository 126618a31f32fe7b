"""ONNX files that say that they are INT8: metadata without quantisation, for what looks for such files."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import onnx

from rtmo_deploy.files import sha256_of

if TYPE_CHECKING:
    from pathlib import Path


def stamped_int8(source: Path, output: Path, *, parent: Path, target: str | None = None) -> Path:
    """A copy of a model whose metadata says that it was quantised from ``parent``, for a runtime."""
    model = onnx.load(source)
    said = {entry.key: entry.value for entry in model.metadata_props}
    said["rtmo_deploy.precision"] = json.dumps("int8")
    said["rtmo_deploy.parents"] = json.dumps([{"name": parent.name, "sha256": sha256_of(parent)}])
    del said["rtmo_deploy.target"]  # as files of earlier releases
    if target is not None:
        said["rtmo_deploy.target"] = json.dumps(target)
    onnx.helper.set_model_props(model, said)
    onnx.save(model, output)
    return output
