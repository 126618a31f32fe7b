"""Whether a model's tensors and its second file are those that it says of itself.

For formats whose description stands apart from what is run: an engine's record, an OpenVINO model's section. What is
compared is what any client relies on: names, types, ranks and sides of tensors.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rtmo_deploy.artifact import DecodeMode
from rtmo_deploy.files import sha256_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rtmo_deploy.artifact import Artifact
    from rtmo_deploy.runtime.onnx_file import TensorSpec

__all__ = ["companion_finding", "contract_findings"]

INPUT = "input"


def contract_findings(artifact: Artifact, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> list[str]:
    """Where tensors are not what their artifact promises; empty if nowhere.

    Args:
        artifact: What the model says of itself.
        inputs: Its input tensors; a side that is no number, or negative, is dynamic.
        outputs: Its output tensors.
    """
    found = _input_findings(artifact, inputs)
    wanted = _wanted(artifact)
    there = {spec.name: spec for spec in outputs}
    if there.keys() != wanted.keys():
        found.append(
            f"its outputs are {', '.join(sorted(there)) or 'none'}; those of --decode {artifact.decode.mode} are "
            f"{', '.join(wanted)}"
        )
    for name, sides in wanted.items():
        spec = there.get(name)
        if spec is None:
            continue
        if spec.dtype != "float32" or not _fits(spec, sides):
            text = ", ".join("?" if side is None else str(side) for side in sides)
            found.append(f"an output is {_text(spec)}, and by what it is it puts out {name} float32 [{text}]")
    return found


def _input_findings(artifact: Artifact, inputs: Sequence[TensorSpec]) -> list[str]:
    contract = artifact.input
    if len(inputs) != 1:
        return [f"it has {len(inputs)} inputs, not one: {', '.join(map(_text, inputs)) or 'none'}"]
    spec = inputs[0]
    if spec.name != INPUT or spec.dtype != "float32" or len(spec.shape) != 4:
        return [f"its input is {_text(spec)}, not {INPUT} float32 of four sides"]
    batch, channels, height, width = (_fixed(side) for side in spec.shape)
    found = []
    if channels != 3:
        found.append(f"its input {_text(spec)} has no 3 channels")
    if batch is not None and batch != contract.batch:
        found.append(f"its input takes {batch} pictures, and it says {contract.batch or 'any number'}")
    size = f"{contract.height}x{contract.width}"
    if (height is None) != (width is None) or (height is None) < contract.dynamic_hw:
        found.append(f"its input is {_text(spec)}, and it says that its size is {_how(dynamic=contract.dynamic_hw)}")
    elif height is not None and (height, width) != (contract.height, contract.width):
        found.append(f"its input is of {height}x{width} pixels, and it says {size}")
    return found


def _how(*, dynamic: bool) -> str:
    return "dynamic" if dynamic else "fixed"


def _wanted(artifact: Artifact) -> Mapping[str, tuple[int | None, ...]]:
    """Outputs by name; None for a side that may be anything."""
    joints, decode = len(artifact.skeleton), artifact.decode
    if decode.mode is DecodeMode.RAW:
        return {
            "cls_scores": (None, None, 1),
            "bbox_preds": (None, None, 4),
            "kpt_vis": (None, None, joints),
            "pose_vecs": (None, None, None),
        }
    rows = None if decode.mode is DecodeMode.ONNX else decode.max_dets
    return {"dets": (None, rows, 5), "keypoints": (None, rows, joints, 3)}


def _fits(spec: TensorSpec, sides: tuple[int | None, ...]) -> bool:
    if len(spec.shape) != len(sides):
        return False
    real = [_fixed(side) for side in spec.shape]
    return all(mine is None or side in {None, mine} for mine, side in zip(sides, real, strict=True))


def _fixed(side: int | str | None) -> int | None:
    return side if isinstance(side, int) and side >= 0 else None


def _text(spec: TensorSpec) -> str:
    return f"{spec.name} {spec.dtype} [{', '.join('?' if _fixed(s) is None else str(s) for s in spec.shape)}]"


def companion_finding(artifact: Artifact) -> str | None:
    """What is wrong with the second file that a model needs; None if nothing is, or it needs none."""
    companion = artifact.companion
    if companion is None:
        return None
    path = artifact.path.with_name(companion.name)
    try:
        found = sha256_of(path)
    except OSError as error:
        return f"{companion.name}, which it needs beside it, cannot be read: {error.strerror or error}"
    if found != companion.sha256:
        return f"{companion.name} beside it is not the file that it was exported with"
    return None
