"""Reading what an ONNX file knows of itself, its own or somebody else's, without running it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from rtmo_deploy.artifact import Artifact, DecodeContract, DecodeMode, InputContract, Kind
from rtmo_deploy.errors import ArtifactError
from rtmo_deploy.zoo import skeleton_for

if TYPE_CHECKING:
    from pathlib import Path

    import onnx

__all__ = ["Signature", "TensorSpec", "load_onnx", "onnx_artifact", "signature"]

#: Input size a file without metadata and with a dynamic input is run at.
DEFAULT_SIDE = 640


@dataclass(frozen=True)
class TensorSpec:
    """An input or output: name, dtype such as ``float32``, and dimensions (a name, or None, where dynamic)."""

    name: str
    dtype: str
    shape: tuple[int | str | None, ...]

    def __str__(self) -> str:
        sides = ", ".join("?" if side is None else str(side) for side in self.shape)
        return f"{self.name} {self.dtype} [{sides}]"


@dataclass(frozen=True)
class Signature:
    """Inputs and outputs of a graph."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


def load_onnx(path: Path) -> onnx.ModelProto:
    """Parse an ONNX file.

    Raises:
        ArtifactError: There is no such file, or it is not ONNX, or is cut short.
    """
    import onnx
    from google.protobuf.message import DecodeError

    try:
        model = onnx.load(path)
    except FileNotFoundError as error:
        missing = path if error.filename is None else error.filename
        raise ArtifactError(f"There is no file {missing}.", remedy="Check the path.", where=path) from error
    except IsADirectoryError as error:
        raise ArtifactError("This is a folder.", remedy="Give an ONNX file.", where=path) from error
    except OSError as error:
        raise ArtifactError(
            f"It cannot be read: {error.strerror or error}.", remedy="Check its permissions.", where=path
        ) from error
    except (DecodeError, ValueError, onnx.checker.ValidationError) as error:
        raise _not_onnx(path) from error
    if not model.graph.node or not model.opset_import:
        raise _not_onnx(path)
    return model


def _not_onnx(path: Path) -> ArtifactError:
    size = path.stat().st_size
    what = "It is empty." if size == 0 else "It is not an ONNX model, or is cut short."
    return ArtifactError(what, remedy="Export or copy it again.", where=path)


def signature(model: onnx.ModelProto) -> Signature:
    """Inputs (weights excluded) and outputs of a parsed model."""
    weights = {tensor.name for tensor in model.graph.initializer}
    return Signature(
        tuple(_spec(value) for value in model.graph.input if value.name not in weights),
        tuple(_spec(value) for value in model.graph.output),
    )


def _spec(value: onnx.ValueInfoProto) -> TensorSpec:
    import onnx

    tensor = value.type.tensor_type
    try:
        dtype = str(onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type))
    except KeyError:
        dtype = "undefined"
    shape = tuple(dim.dim_value if dim.HasField("dim_value") else (dim.dim_param or None) for dim in tensor.shape.dim)
    return TensorSpec(value.name, dtype, shape)


def onnx_artifact(path: Path, model: onnx.ModelProto) -> Artifact:
    """What a parsed ONNX file is: by its metadata, or by its shape if MMDeploy made it.

    Raises:
        ArtifactError: Neither this project's nor MMDeploy's RTMO.
    """
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    known = Artifact.from_metadata(path, metadata)
    if known is not None:
        return known
    shape = signature(model)
    outputs = {spec.name: spec.shape for spec in shape.outputs}
    dets, keypoints = outputs.get("dets", ()), outputs.get("keypoints", ())
    if len(shape.inputs) != 1 or len(dets) != 3 or len(keypoints) != 4 or dets[2] not in {5, None}:
        raise ArtifactError(
            f"It is not an RTMO model: its inputs are {'; '.join(map(str, shape.inputs)) or 'none'} and its outputs "
            f"{'; '.join(map(str, shape.outputs))}.",
            remedy="RTMO models exported by rtmo-deploy or by MMDeploy are understood; export the checkpoint with "
            "rtmo-deploy export.",
            where=path,
        )
    return _mmdeploy_artifact(path, shape.inputs[0], keypoints[2])


def _mmdeploy_artifact(path: Path, source: TensorSpec, joints: int | str | None) -> Artifact:
    sides = source.shape if len(source.shape) == 4 else (None,) * 4
    fixed = [side if isinstance(side, int) else None for side in sides]
    return Artifact(
        path=path,
        kind=Kind.ONNX,
        architecture="unknown",
        skeleton=skeleton_for(joints if isinstance(joints, int) else 17),
        input=InputContract(
            height=fixed[2] or DEFAULT_SIDE,
            width=fixed[3] or DEFAULT_SIDE,
            batch=fixed[0],
            dynamic_hw=fixed[2] is None or fixed[3] is None,
        ),
        # Its thresholds are baked in; it appends rows that are nobody, which fall under the score threshold.
        decode=DecodeContract(DecodeMode.ONNX, junk_rows=True),
        producer="mmdeploy",
    )
