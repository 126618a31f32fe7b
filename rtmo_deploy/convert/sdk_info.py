"""The three JSON files that MMDeploy's SDK reads beside a model: deploy.json, pipeline.json, detail.json.

Their layout follows what MMDeploy 1.3.1 writes, and what the ``YOLOXPose`` post-processor of its SDK reads: ``dets``
and ``keypoints`` divided by a scale factor. That post-processor knows no offset, so the pipeline puts the image into
the top left corner.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from rtmo_deploy._version import __version__
from rtmo_deploy.artifact import DecodeMode
from rtmo_deploy.errors import UsageError
from rtmo_deploy.files import write_whole

if TYPE_CHECKING:
    from pathlib import Path

    from rtmo_deploy.artifact import Artifact

#: The release of MMDeploy whose layout is written; its SDK compares it with its own.
LAYOUT_VERSION = "1.3.1"


def dump_sdk_info(artifact: Artifact) -> list[Path]:
    """Write the three files into the folder of an ONNX model, replacing what stood there; UsageError for a raw one."""
    if artifact.decode.mode is DecodeMode.RAW:
        raise UsageError(
            "MMDeploy's SDK cannot decode a raw graph.",
            remedy="Choose --decode onnx or fixed.",
            where=artifact.path,
        )
    contents = {"deploy": _deploy(artifact), "pipeline": _pipeline(artifact), "detail": _detail(artifact)}
    written = [artifact.path.with_name(f"{name}.json") for name in contents]
    for path, content in zip(written, contents.values(), strict=True):
        write_whole(path, json.dumps(content, indent=4) + "\n")
    return written


def _deploy(artifact: Artifact) -> dict[str, Any]:
    model = {
        "name": artifact.architecture,
        "net": artifact.path.name,
        "weights": "",
        "backend": "onnxruntime",
        "precision": artifact.precision.upper(),
        "batch_size": artifact.input.batch or 1,
        "dynamic_shape": artifact.input.batch is None,
    }
    return {"version": LAYOUT_VERSION, "task": "PoseDetector", "models": [model], "customs": []}


def _pipeline(artifact: Artifact) -> dict[str, Any]:
    size = [artifact.input.height, artifact.input.width]
    meta_keys = ["img_shape", "ori_shape", "pad_shape", "scale_factor", "img_norm_cfg"]
    preprocess = {
        "type": "Task",
        "module": "Transform",
        "name": "Preprocess",
        "input": ["img"],
        "output": ["prep_output"],
        "transforms": [
            {"type": "LoadImageFromFile"},
            {"type": "Resize", "size": size, "keep_ratio": True},
            {"type": "Pad", "size": size, "pad_val": {"img": [artifact.input.pad] * 3}},
            {"type": "Normalize", "mean": [0, 0, 0], "std": [1, 1, 1], "to_rgb": False},
            {"type": "DefaultFormatBundle"},
            {"type": "Collect", "keys": ["img"], "meta_keys": meta_keys},
        ],
    }
    network = {
        "name": artifact.architecture,
        "type": "Task",
        "module": "Net",
        "input": ["prep_output"],
        "output": ["infer_output"],
        "input_map": {"img": "input"},
    }
    postprocess = {
        "type": "Task",
        "module": "mmpose",
        "name": "postprocess",
        "component": "YOLOXPose",
        "params": {"score_thr": artifact.decode.score_thr, "nms_thr": artifact.decode.nms_thr},
        "output": ["post_output"],
        "input": ["prep_output", "infer_output"],
    }
    return {"pipeline": {"input": ["img"], "output": ["post_output"], "tasks": [preprocess, network, postprocess]}}


def _detail(artifact: Artifact) -> dict[str, Any]:
    contract, decode = artifact.input, artifact.decode
    batch = {"0": "batch"} if contract.batch is None else {}
    sides = {"2": "height", "3": "width"} if contract.dynamic_hw else {}
    rows = {"1": "people"} if decode.mode is DecodeMode.ONNX else {}
    axes = {"input": batch | sides, "dets": batch | rows, "keypoints": batch | rows}
    return {
        "version": LAYOUT_VERSION,
        "codebase": {
            "task": "PoseDetection",
            "codebase": "mmpose",
            "version": "1.3.2",
            "pth": artifact.parents[0].name if artifact.parents else "",
            "config": artifact.variant or artifact.architecture,
        },
        "codebase_config": {
            "type": "mmpose",
            "task": "PoseDetection",
            "post_processing": {
                "score_threshold": decode.score_thr,
                "iou_threshold": decode.nms_thr,
                "max_output_boxes_per_class": decode.max_dets,
                "pre_top_k": decode.pre_topk,
                "keep_top_k": decode.max_dets,
            },
        },
        "onnx_config": {
            "type": "onnx",
            "export_params": True,
            "save_file": artifact.path.name,
            "input_names": ["input"],
            "output_names": ["dets", "keypoints"],
            "input_shape": None if contract.dynamic_hw else [contract.width, contract.height],
            "dynamic_axes": axes,
            "producer": f"rtmo-deploy {__version__}",
        },
        "backend_config": {"type": "onnxruntime"},
        "calib_config": {},
    }
