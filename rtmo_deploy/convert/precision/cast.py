"""Casts a float32 or INT8 model to FP16 or BF16, and compares the two before the new one is written."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import onnx

from rtmo_deploy.artifact import (
    Artifact,
    DecodeMode,
    Parent,
    made_with,
    read_companion,
    refuse_companion,
    write_companion,
)
from rtmo_deploy.convert.precision.graph import CastGraph, is_quantized, to_16bit
from rtmo_deploy.convert.precision.rules import CAST_TYPES, CastType, fp32_block_of
from rtmo_deploy.convert.step import require_onnxruntime, require_parity, write_bytes, write_metadata
from rtmo_deploy.errors import ArtifactError, UsageError
from rtmo_deploy.file_kind import Kind
from rtmo_deploy.files import sha256_of
from rtmo_deploy.runtime.onnx_file import load_onnx, onnx_artifact

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from rtmo_deploy.convert.precision.verify import CastReport


@dataclass(frozen=True)
class CastResult:
    """What a cast made."""

    artifact: Artifact  #: The new file and what it knows of itself.
    source: Path  #: The file it was made from.
    half_nodes: int  #: Nodes that compute in 16 bits.
    casts: int  #: Cast nodes that were put in.
    fp32_nodes: Mapping[str, int]  #: How many nodes stay in FP32, by the block of :data:`FP32_BLOCKS`.
    kept: Mapping[str, str]  #: Nodes that stay in FP32 because a weight does not fit, and why.
    size: int  #: Bytes.
    source_size: int
    seconds: float
    verification: CastReport | None  #: Comparison with the source; None if it was not verified.


def cast_onnx(
    source: Path,
    output: Path,
    precision: str,
    *,
    verify: bool = True,
    progress: Callable[[str], None] = lambda _: None,
) -> CastResult:
    """Cast an ONNX model to FP16 or BF16, compare it with its source, and only then write it.

    Inputs and outputs stay float32, and so do the blocks of :mod:`rtmo_deploy.convert.precision.rules`. Of a
    quantised model the 8-bit numbers stay, and what is float32 around them becomes 16-bit. A ``raw`` model's companion
    stays as it is; it is copied where the new file lies in another folder.

    Args:
        source: A float32 or INT8 model of this project.
        output: Where to write.
        precision: ``fp16`` or ``bf16``.
        verify: Compare with the source (needs ONNX Runtime).
        progress: Told of each step.

    Raises:
        ArtifactError: The source is damaged, not this project's, neither float32 nor INT8, or has parts that cannot be
            cast.
        UsageError: No such precision, or the output would overwrite the source or its companion.
        ParityError: The new model does not find what the source finds. Nothing is written.
        MissingDependencyError: ONNX Runtime is not installed.
        SetupError: The file cannot be written.
    """
    started = time.monotonic()
    if precision not in CAST_TYPES:
        raise UsageError(f"There is no precision '{precision}'.", remedy=f"Choose {' or '.join(CAST_TYPES)}.")
    half = CAST_TYPES[precision]
    progress("reading the model")
    model = load_onnx(source)
    artifact = onnx_artifact(source, model)
    _refuse_source(model, artifact, half, verify=verify)
    companion = read_companion(artifact)
    if output.exists() and output.samefile(source):
        raise UsageError(
            f"{output} is the model that is to be cast.", remedy="Give another name with -o: it is never overwritten."
        )
    refuse_companion(artifact, output)
    if verify:
        require_onnxruntime("cast")
    progress(f"casting to {half.name}")
    cast, fp32_nodes = _cast(model, half, source)
    new = replace(
        artifact,
        path=output,
        precision=half.name if artifact.precision == "fp32" else f"{artifact.precision}+{half.name}",
        parents=(*artifact.parents, Parent(source.name, sha256_of(source))),
        versions={**artifact.versions, **made_with("onnx", "onnxruntime", "onnxruntime-gpu")},
        verified=None,
    )
    report = None
    if verify:
        report = _verify(model, cast.model, half, artifact, companion, progress)
        quantization = {key: value for key, value in (artifact.verified or {}).items() if key == "quantization"}
        new = replace(new, verified={"precision": report.to_dict(), **quantization})
    write_metadata(cast.model, new)
    progress("writing")
    write_companion(new, companion, output)
    write_bytes(output, cast.model.SerializeToString())
    return CastResult(
        artifact=new,
        source=source,
        half_nodes=cast.half_nodes,
        casts=cast.casts,
        fp32_nodes=fp32_nodes,
        kept=cast.kept,
        size=output.stat().st_size,
        source_size=source.stat().st_size,
        seconds=time.monotonic() - started,
        verification=report,
    )


def _refuse_source(model: onnx.ModelProto, artifact: Artifact, half: CastType, *, verify: bool) -> None:
    """Refuse what cannot be cast or compared, before anything is computed."""
    as_exported = "Cast the model as 'rtmo-deploy export' wrote it."
    precision, quantized, names = artifact.precision, is_quantized(model), [node.name for node in model.graph.node]
    bits16 = {half_type.onnx for half_type in CAST_TYPES.values()}
    nested = _subgraph(model)
    refusals = (
        (
            artifact.producer != "rtmo-deploy" or artifact.kind is not Kind.ONNX,
            f"It was made by {artifact.producer}; only this project's node names tell what must stay in float32.",
            "Export the checkpoint with 'rtmo-deploy export', and cast that.",
        ),
        (
            precision not in {"fp32", "int8"},
            f"It is {precision} already.",
            "Cast the float32 or INT8 model it was made from.",
        ),
        (
            quantized != (precision == "int8"),
            f"It has {'' if quantized else 'no '}Q/DQ pairs, and says that it is {precision}.",
            "Another tool has changed it: cast what 'rtmo-deploy export' or 'rtmo-deploy quantize' wrote.",
        ),
        (
            any(tensor.data_type in bits16 for tensor in model.graph.initializer),
            f"It has 16-bit weights, and says that it is {precision}.",
            "Cast the float32 model it was made from.",
        ),
        (nested, f"It has a subgraph, {nested}, which this pass does not look into.", as_exported),
        (
            not all(name.startswith("/") for name in names) or len(set(names)) != len(names),
            "Nodes have no names, or one name twice; their names tell what must stay in float32.",
            f"Another tool has taken them away: {as_exported[0].lower()}{as_exported[1:]}",
        ),
        (
            verify and artifact.decode.mode is DecodeMode.PLUGIN,
            f"ONNX Runtime cannot run its decode plugin, so its {half.name} form cannot be compared with it.",
            "Cast with --no-verify, or cast the model before the plugin is put in.",
        ),
    )
    for wrong, finding, remedy in refusals:
        if wrong:
            raise ArtifactError(finding, remedy=remedy, where=artifact.path)


def _subgraph(model: onnx.ModelProto) -> str:
    """The first node with a subgraph, or the first function; empty if there is none."""
    kinds = {onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS}
    for node in model.graph.node:
        if any(one.type in kinds for one in node.attribute):
            return f"{node.name} ({node.op_type})"
    return f"function {model.functions[0].name}" if model.functions else ""


def _cast(model: onnx.ModelProto, half: CastType, source: Path) -> tuple[CastGraph, dict[str, int]]:
    counts: Counter[str] = Counter()

    def wanted(node: onnx.NodeProto) -> bool:
        block = fp32_block_of(node)
        if block is not None:
            counts[block.name] += 1
        return block is None

    try:
        cast = to_16bit(model, half, wanted)
        onnx.checker.check_model(cast.model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ArtifactError(
            f"Its {half.name} form is not well formed: {' '.join(str(error).split())[:300]}",
            remedy="If 'rtmo-deploy validate' finds nothing wrong with it, please report this.",
            where=source,
        ) from error
    if not cast.half_nodes:
        raise ArtifactError(
            "Nothing in it can be cast.", remedy="Cast a model as 'rtmo-deploy export' wrote it.", where=source
        )
    return cast, dict(counts)


def _verify(
    model: onnx.ModelProto,
    cast: onnx.ModelProto,
    half: CastType,
    artifact: Artifact,
    companion: bytes | None,
    progress: Callable[[str], None],
) -> CastReport:
    """Compare a cast with its source; a ParityError where they find different people."""
    from rtmo_deploy.convert.precision.verify import verify_cast
    from rtmo_deploy.runtime.estimator import open_coordinates

    coordinates = open_coordinates(companion, where=artifact.path) if companion is not None else None
    report = verify_cast(model, cast, half, artifact, coordinates=coordinates, progress=progress)
    before = "float32" if artifact.precision == "fp32" else artifact.precision
    require_parity(
        report.failures(),
        f"In {half.name} it does not find what it finds in {before}",
        remedy="Its weights may need more range or precision than that type has; stay with the source, or try the "
        "other one. --no-verify writes the file to look at.",
        where=artifact.path,
    )
    return report
