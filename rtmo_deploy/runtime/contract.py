"""What a model takes and puts out, by its graph: metadata that says otherwise is corrected, or the model refused.

A graph can be changed after it was exported (sizes fixed or made dynamic), and its metadata stays. For ONNX and
OpenVINO models, and for engines by the tensors in their record.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from rtmo_deploy.artifact import MODEL_LOG, Artifact, DecodeMode, check_contracts
from rtmo_deploy.errors import ArtifactError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


#: Height and width that a model without metadata and of dynamic size is run at.
DEFAULT_SIDE = 640


@dataclass(frozen=True)
class TensorSpec:
    """An input or output: name, dtype such as ``float32``, and dimensions (a name, or None, where dynamic)."""

    name: str
    dtype: str
    shape: tuple[int | str | None, ...]

    def __str__(self) -> str:
        return f"{self.name} {self.dtype} {_sides(self.shape)}"

    @property
    def fixed(self) -> tuple[int | None, ...]:
        """Its sides; None where they are dynamic, which engines write as -1."""
        return tuple(side if isinstance(side, int) and side >= 0 else None for side in self.shape)


def _sides(shape: Sequence[int | str | None]) -> str:
    return f"[{', '.join('?' if side is None else str(side) for side in shape)}]"


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
        graph, metadata = (
            f"batch {one.batch or 'dynamic'}, {one.height}x{one.width}"
            + (f" or any multiple of {one.multiple}" if one.dynamic_hw else "")
            for one in (real.input, said.input)
        )
        found.append(f"its graph takes {graph}, and its metadata says {metadata}")
    if said.decode != real.decode:
        found.append(f"its graph puts out {real.decode.max_dets} rows, and its metadata says {said.decode.max_dets}")
    return found


def compare(
    artifact: Artifact, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]
) -> tuple[Artifact, list[str]]:
    """The artifact with the sizes of its graph, and what is wrong with the graph beyond sizes."""
    wanted = _wanted(artifact)
    wrong = [*_input_findings(inputs), *_output_findings(artifact, wanted, outputs)]
    if wrong:
        return artifact, wrong
    said, sides = artifact.input, inputs[0].fixed
    # A batch that a graph has baked in shows in its outputs even where its input is declared dynamic.
    named = [spec.fixed for spec in outputs if spec.name in wanted and spec.fixed]
    batches = {shape[0] for shape in (sides, *named) if shape[0] is not None}
    rows = {shape[1] for shape in named if shape[1] is not None}
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
    return [] if spec.fixed[1] in {3, None} else [f"its input {_text(spec)} has no 3 channels"]


def _output_findings(
    artifact: Artifact, wanted: Mapping[str, tuple[int | None, ...]], outputs: Sequence[TensorSpec]
) -> list[str]:
    there = {spec.name: spec for spec in outputs}
    found = []
    if not wanted.keys() <= there.keys() or len(there) != len(outputs):
        found.append(
            f"its outputs are {', '.join(sorted(there)) or 'none'}; those of --decode {artifact.decode.mode} are "
            f"{', '.join(wanted)}"
        )
    for name, sides in wanted.items():
        spec = there.get(name)
        if spec is not None and (spec.dtype != "float32" or not _fits(spec.fixed, sides)):
            found.append(f"an output is {_text(spec)}, and by its metadata it puts out {name} float32 {_sides(sides)}")
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


def _fits(real: tuple[int | None, ...], sides: tuple[int | None, ...]) -> bool:
    """A tensor without any shape may be anything; what comes out is looked at when it is run."""
    if len(real) not in {0, len(sides)}:
        return False
    return all(wanted is None or side in {None, wanted} for side, wanted in zip(real, sides, strict=False))


def _text(spec: TensorSpec) -> str:
    return f"{spec.name} {spec.dtype} {_sides(spec.fixed)}"[:200]
