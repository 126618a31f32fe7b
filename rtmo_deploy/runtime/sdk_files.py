"""Reads what MMDeploy's SDK is told of a model by the files beside it: ``deploy.json`` and ``pipeline.json``.

They are followed only where ``deploy.json`` names the model. The graph decides over sizes, and these files over
thresholds. A network that wants other colours than BGR from 0 to 255 is refused.
"""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rtmo_deploy.errors import ArtifactError
from rtmo_deploy.files import reading
from rtmo_deploy.plain import read_json

if TYPE_CHECKING:
    from rtmo_deploy.artifact import Artifact

_MAX_BYTES = 1 << 20
_DAMAGED = "what MMDeploy writes"
_REMEDY = "To go by the model alone, copy it into a folder without this file. Or fetch both anew."


def follow_sdk_files(artifact: Artifact) -> Artifact:
    """What an ONNX model is, with the thresholds, size and grey level that its ``pipeline.json`` names.

    Raises:
        ArtifactError: The files are damaged, or the network wants RGB or other values than 0 to 255.
    """
    if not _is_of(artifact.path):
        return artifact
    path = artifact.path.with_name("pipeline.json")
    if not path.is_file():
        return artifact
    with reading(path, damaged=_DAMAGED, remedy=_REMEDY):
        tasks = read_json(path, max_bytes=_MAX_BYTES)["pipeline"]["tasks"]
        steps = {step["type"]: step for task in tasks for step in task.get("transforms", ())}
        parameters = [task["params"] for task in tasks if task.get("component") == "YOLOXPose"]
        _require_bgr(steps.get("Normalize", {}), path)
        contract, decode = artifact.input, artifact.decode
        if contract.dynamic_hw and "size" in steps.get("Resize", {}):
            height, width = map(int, steps["Resize"]["size"])
            if height > 0 and width > 0 and not (height % contract.multiple or width % contract.multiple):
                contract = replace(contract, height=height, width=width)
        grey = {float(value) for value in steps.get("Pad", {}).get("pad_val", {}).get("img", ())}
        if len(grey) == 1 and 0 <= min(grey) <= 255:
            contract = replace(contract, pad=int(min(grey)))
        if parameters:
            score_thr, nms_thr = (parameters[0].get(name) for name in ("score_thr", "nms_thr"))
            decode = replace(
                decode,
                score_thr=decode.score_thr if score_thr is None else _share(score_thr),
                nms_thr=decode.nms_thr if nms_thr is None else _share(nms_thr),
            )
    return replace(artifact, input=contract, decode=decode)


def _is_of(path: Path) -> bool:
    """Whether ``deploy.json`` is about this model: by its name, or as the only one where none has the name."""
    deploy = path.with_name("deploy.json")
    if not deploy.is_file():
        return False
    with reading(deploy, damaged=_DAMAGED, remedy=_REMEDY):
        nets = [Path(str(model["net"])).name for model in read_json(deploy, max_bytes=_MAX_BYTES)["models"]]
    alone = len(nets) == 1 and not path.with_name(nets[0]).exists() and len([*path.parent.glob("*.onnx")]) == 1
    return path.name in nets or alone


def _require_bgr(step: dict[str, Any], path: Path) -> None:
    mean, std = (list(map(float, step.get(key, ()))) for key in ("mean", "std"))
    if step.get("to_rgb", False) or any(mean) or any(value != 1 for value in std):
        raise ArtifactError(
            "Its network wants RGB or normalised values; networks here take BGR from 0 to 255.",
            remedy="Export the checkpoint, which 'rtmo-deploy export' writes for BGR.",
            where=path,
        )


def _share(value: Any) -> float:
    if isinstance(value, bool) or not (math.isfinite(float(value)) and 0 <= float(value) <= 1):
        raise ValueError(f"a threshold is {value!r}")
    return float(value)
