"""What a model takes and puts out, by its graph: metadata that says otherwise is corrected, or the model refused.

A graph can be changed after it was exported (sizes fixed or made dynamic), and its metadata stays. For ONNX and
OpenVINO models, and for engines by the tensors in their record.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from rtmo_deploy.artifact import MODEL_LOG, Artifact, DecodeMode, InputContract, check_contracts
from rtmo_deploy.errors import ArtifactError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


@dataclass(frozen=True)
class TensorSpec:
    """An input or output: name, dtype such as ``float32``, and dimensions (a name, or None, where dynamic)."""

    name: str
    dtype: str
    shape: tuple[int | str | None, ...]

    def __str__(self) -> str:
        sides = ", ".join("?" if side is None else str(side) for side in self.shape)
        return f"{self.name} {self.dtype} [{sides}]"


def by_graph(artifact: Artifact, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> Artifact:
    """The artifact with the sizes of its graph's tensors.

    ArtifactError where the graph is of another model, or takes what nothing here can feed.
    """
    real, wrong = compare(artifact, inputs, outputs)
    if wrong:
        raise ArtifactError(
            f"Its graph is not that of the RTMO model it says it is: {'; '.join(wrong)[:1000]}.",
            remedy="Export the model again, or copy it again from where it was made.",
            where=artifact.path,
        )
    return real


def noted(said: Artifact, real: Artifact) -> Artifact:
    """The artifact by its graph, with what its metadata said otherwise; that is also logged for the user."""
    differs = differences(said, real)
    if differs:
        MODEL_LOG.warning("%s: %s. The graph decides.", real.path.name, "; ".join(differs))
    return replace(real, corrected=tuple(differs))


def differences(said: Artifact, real: Artifact) -> list[str]:
    """What differs between an artifact by its metadata and by its graph."""
    found = []
    if said.input != real.input:
        found.append(f"its graph takes {_takes(real.input)}, and its metadata says {_takes(said.input)}")
    if said.decode != real.decode:
        found.append(f"its graph puts out {real.decode.max_dets} rows, and its metadata says {said.decode.max_dets}")
    return found


def _takes(contract: InputContract) -> str:
    other = f" or any multiple of {contract.multiple}" if contract.dynamic_hw else ""
    return f"batch {contract.batch or 'dynamic'}, {contract.height}x{contract.width}{other}"


def compare(
    artifact: Artifact, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]
) -> tuple[Artifact, list[str]]:
    """The artifact with the sizes of its graph, and what is wrong with the graph beyond sizes."""
    wrong = [*_input_findings(inputs), *_output_findings(artifact, outputs)]
    if wrong:
        return artifact, wrong
    said, sides = artifact.input, [fixed(side) for side in inputs[0].shape]
    # A batch that a graph has baked in shows in its outputs even where its input is declared dynamic.
    named = [spec for spec in outputs if spec.name in _wanted(artifact)]
    batches = {side for spec in named if (side := _side(spec, 0)) is not None} | ({sides[0]} - {None})
    rows = {side for spec in named if (side := _side(spec, 1)) is not None}
    if len(batches) > 1 or len(rows) > 1:
        tensors = ", ".join(map(_text, (*inputs, *outputs)))
        return artifact, [f"its tensors do not fit together: {tensors}"]
    contract = replace(
        said,
        batch=next(iter(batches), None),
        height=said.height if sides[2] is None else sides[2],
        width=said.width if sides[3] is None else sides[3],
        dynamic_hw=sides[2] is None and sides[3] is None,
    )
    decode = artifact.decode
    if decode.mode in {DecodeMode.FIXED, DecodeMode.PLUGIN} and rows:
        decode = replace(decode, max_dets=rows.pop())
    real = replace(artifact, input=contract, decode=decode)
    if any(side % contract.multiple for side in (contract.height, contract.width)):
        return real, [f"its input is {_text(inputs[0])}, whose sides are not multiples of {contract.multiple}"]
    try:
        check_contracts(contract, decode)
    except ValueError as error:
        return real, [str(error)]
    return real, []


def _input_findings(inputs: Sequence[TensorSpec]) -> list[str]:
    if len(inputs) != 1:
        return [f"it has {len(inputs)} inputs, not one: {', '.join(map(_text, inputs)) or 'none'}"]
    spec = inputs[0]
    if spec.dtype != "float32" or len(spec.shape) != 4:
        return [f"its input is {_text(spec)}, not float32 of four sides"]
    return [] if fixed(spec.shape[1]) in {3, None} else [f"its input {_text(spec)} has no 3 channels"]


def _output_findings(artifact: Artifact, outputs: Sequence[TensorSpec]) -> list[str]:
    wanted, there = _wanted(artifact), {spec.name: spec for spec in outputs}
    found = []
    if not wanted.keys() <= there.keys() or len(there) != len(outputs):
        found.append(
            f"its outputs are {', '.join(sorted(there)) or 'none'}; those of --decode {artifact.decode.mode} are "
            f"{', '.join(wanted)}"
        )
    for name, sides in wanted.items():
        spec = there.get(name)
        if spec is not None and (spec.dtype != "float32" or not _fits(spec, sides)):
            text = ", ".join("?" if side is None else str(side) for side in sides)
            found.append(f"an output is {_text(spec)}, and by its metadata it puts out {name} float32 [{text}]")
    return found


def _wanted(artifact: Artifact) -> Mapping[str, tuple[int | None, ...]]:
    """Outputs by name; None for a side that may be anything."""
    joints = len(artifact.skeleton)
    if artifact.decode.mode is DecodeMode.RAW:
        return {
            "cls_scores": (None, None, 1),
            "bbox_preds": (None, None, 4),
            "kpt_vis": (None, None, joints),
            "pose_vecs": (None, None, None),
        }
    return {"dets": (None, None, 5), "keypoints": (None, None, joints, 3)}


def _fits(spec: TensorSpec, sides: tuple[int | None, ...]) -> bool:
    """A tensor without any shape may be anything; what comes out is looked at when it is run."""
    real = [fixed(side) for side in spec.shape]
    return not real or (
        len(real) == len(sides)
        and all(mine is None or side in {None, mine} for mine, side in zip(sides, real, strict=True))
    )


def _side(spec: TensorSpec, index: int) -> int | None:
    return fixed(spec.shape[index]) if len(spec.shape) > index else None


def fixed(side: int | str | None) -> int | None:
    """A side's length; None where it is dynamic, which engines write as -1."""
    return side if isinstance(side, int) and side >= 0 else None


def _text(spec: TensorSpec) -> str:
    return f"{spec.name} {spec.dtype} [{', '.join('?' if fixed(s) is None else str(s) for s in spec.shape)}]"[:200]
