"""Small exported models that need no network: an engine with its record, and an OpenVINO model that runs."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from rtmo_deploy.artifact import Artifact, DecodeContract, DecodeMode, InputContract, Parent
from rtmo_deploy.file_kind import Kind
from rtmo_deploy.runtime.contract import TensorSpec
from rtmo_deploy.runtime.engine_file import AHEAD_OF_TIME, EngineRecord, Profile, Shape, sidecar_path
from rtmo_deploy.runtime.openvino_file import SECTION, metadata_fields
from rtmo_deploy.zoo import COCO_17

if TYPE_CHECKING:
    from pathlib import Path

ROWS = 2
PLAN = b"ftrt and what a plan looks like to nobody"


def profile(*texts: str) -> Profile:
    return Profile(*(Shape.parse(text) for text in texts))


def engine_record(path: Path, **changes: Any) -> EngineRecord:
    """A record whose parts fit together; ``artifact`` among the changes is a mapping of its own changes."""
    artifact = Artifact(
        path,
        Kind.ENGINE,
        "rtmo-n",
        COCO_17,
        InputContract(192, 192),
        DecodeContract(DecodeMode.FIXED, max_dets=100),
        precision="fp16",
        parents=(Parent("m.onnx", "0" * 64),),
        versions={"tensorrt-rtx": "1.7.1.116"},
        verified={"engine": "70 of 78 convolutions in fp16"},
    )
    record = EngineRecord(
        artifact=replace(artifact, **changes.pop("artifact", {})),
        backend="tensorrt-rtx",
        version="1.7.1.116",
        gpu=AHEAD_OF_TIME,
        compute_capability=None,
        targets=("8.6", "12.0"),
        profiles=(profile("1x192x192", "1x192x192", "8x1280x1280"),),
        inputs=(TensorSpec("input", "float32", (-1, 3, -1, -1)),),
        outputs=(
            TensorSpec("dets", "float32", (-1, 100, 5)),
            TensorSpec("keypoints", "float32", (-1, 100, 17, 3)),
        ),
        precision={
            "asked": "fp16",
            "how": "layer table of the build log",
            "network": {"convolutions": {"fp16": 70, "fp32": 8}},
            "engine": {"convolutions": {"fp16": 70, "fp32": 8}},
        },
        layers={"correlation": {"fp16": 70, "fp32": 8}},
        plugin=None,
        onnx_sha256="0" * 64,
        sha256=hashlib.sha256(PLAN).hexdigest(),
        size=len(PLAN),
        options={"version_compatible": False},
        seconds=1.5,
        notes=("a note",),
    )
    return replace(record, **changes)


def write_engine(path: Path, **changes: Any) -> EngineRecord:
    """An engine that nothing could load, and its record."""
    record = engine_record(path, **changes)
    path.write_bytes(PLAN)
    sidecar_path(path).write_text(json.dumps(record.to_dict()))
    return record


def write_openvino(path: Path, *, described: bool = True, nan: bool = False, **changes: Any) -> Artifact:
    """An OpenVINO model that puts the brightest pixel into every row; with ``described=False`` somebody else's."""
    import openvino as ov
    from openvino import opset13 as ops

    source = ops.parameter([-1, 3, -1, -1], np.float32, name="input")
    source.output(0).set_names({"input"})
    top = ops.reduce_max(source, np.array([1, 2, 3]), keep_dims=True)
    factor = np.full((1, ROWS, 5), np.nan if nan else 0.5, np.float32)
    dets = ops.multiply(ops.squeeze(top, np.array([3])), ops.constant(factor))
    keypoints = ops.multiply(top, ops.constant(np.ones((1, ROWS, 17, 3), np.float32)))
    for node, name in ((dets, "dets"), (keypoints, "keypoints")):
        node.output(0).set_names({name})
    model = ov.Model([dets, keypoints], [source], "little")
    artifact = Artifact(
        path,
        Kind.OPENVINO,
        "little",
        COCO_17,
        InputContract(64, 64),
        DecodeContract(DecodeMode.FIXED, max_dets=ROWS),
        parents=(Parent("little.onnx", "1" * 64),),
        versions={"openvino": "2026.4.1"},
    )
    artifact = replace(artifact, **changes)
    ov.save_model(model, path, compress_to_fp16=False)
    if described:
        digest = hashlib.sha256(path.with_suffix(".bin").read_bytes()).hexdigest()
        for key, value in metadata_fields(artifact, digest).items():
            model.set_rt_info(value, [SECTION, key])
        ov.save_model(model, path, compress_to_fp16=False)
    return artifact
