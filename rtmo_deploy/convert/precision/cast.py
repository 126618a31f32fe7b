"""Casts a float32 or INT8 model to FP16 or BF16, and compares the two before the new one is written."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import onnx

from rtmo_deploy.artifact import Artifact, DecodeMode
from rtmo_deploy.convert.precision.graph import CastGraph, is_quantized, to_16bit
from rtmo_deploy.convert.precision.rules import CAST_TYPES, CastType, fp32_block_of
from rtmo_deploy.convert.step import Source, derived, read_source, require_onnxruntime, require_parity, write_model
from rtmo_deploy.errors import ArtifactError, UsageError
from rtmo_deploy.file_kind import Kind

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Mapping

    from rtmo_deploy.convert.precision.verify import CastReport


@dataclass(frozen=True)
class CastResult:
    """What a cast made."""

    artifact: Artifact  #: The new file.
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
    source: str | os.PathLike[str],
    output: str | os.PathLike[str],
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
    source = Path(source)
    output = Path(output)
    started = time.monotonic()
    if precision not in CAST_TYPES:
        raise UsageError(f"There is no precision '{precision}'.", remedy=f"Choose {' or '.join(CAST_TYPES)}.")
    cast_type = CAST_TYPES[precision]
    progress("reading the model")
    read = read_source(source, output)
    _refuse_source(read, cast_type, verify=verify)
    if verify:
        require_onnxruntime("cast")
    progress(f"casting to {cast_type.name}")
    cast, fp32_nodes = _cast(read.model, cast_type, source)
    before = read.artifact
    new = derived(
        before,
        output,
        *("onnx", "onnxruntime", "onnxruntime-gpu"),
        precision=cast_type.name if before.precision == "fp32" else f"{before.precision}+{cast_type.name}",
    )
    new = replace(new, parents=(*before.parents, *new.parents), versions={**before.versions, **new.versions})
    report = None
    if verify:
        from rtmo_deploy.convert.precision.verify import verify_cast

        report = verify_cast(read, cast.model, cast_type, new.precision, progress=progress)
        require_parity(
            report.failures(),
            f"In {cast_type.name} it does not find what it finds in {read.precision_words}",
            remedy="Its weights may need more range or precision than that type has; stay with the source, or try the "
            "other one. --no-verify writes the file to look at.",
            where=source,
        )
        quantization = {key: value for key, value in (before.verified or {}).items() if key == "quantization"}
        new = replace(new, verified={"precision": report.to_dict(), **quantization})
    progress("writing")
    size = write_model(cast.model, new, read.companion)
    return CastResult(
        artifact=new,
        source=source,
        half_nodes=cast.half_nodes,
        casts=cast.casts,
        fp32_nodes=dict(fp32_nodes),
        kept=cast.kept,
        size=size,
        source_size=source.stat().st_size,
        seconds=time.monotonic() - started,
        verification=report,
    )


def _refuse_source(source: Source, cast_type: CastType, *, verify: bool) -> None:
    """Refuse what cannot be cast or compared, before anything is computed."""
    model, artifact = source.model, source.artifact
    as_exported = "Cast the model as 'rtmo-deploy export' wrote it."
    precision, quantized, names = artifact.precision, is_quantized(model), [node.name for node in model.graph.node]
    bits16 = {half_type.onnx for half_type in CAST_TYPES.values()}
    kinds = {onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS}
    inside = [f"{n.name} ({n.op_type})" for n in model.graph.node if any(one.type in kinds for one in n.attribute)]
    nested = [*inside, *(f"function {function.name}" for function in model.functions)]
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
        (nested, f"It has a subgraph, {''.join(nested[:1])}, which this pass does not look into.", as_exported),
        (
            not all(name.startswith("/") for name in names) or len(set(names)) != len(names),
            "Nodes have no names, or one name twice; their names tell what must stay in float32.",
            f"Another tool has taken them away: {as_exported[0].lower()}{as_exported[1:]}",
        ),
        (
            verify and artifact.decode.mode is DecodeMode.PLUGIN,
            f"ONNX Runtime cannot run its decode plugin, so its {cast_type.name} form cannot be compared with it.",
            "Cast with --no-verify, or cast the model before the plugin is put in.",
        ),
    )
    for wrong, finding, remedy in refusals:
        if wrong:
            raise ArtifactError(finding, remedy=remedy, where=artifact.path)


def _cast(model: onnx.ModelProto, cast_type: CastType, source: Path) -> tuple[CastGraph, Counter[str]]:
    """The cast graph, and how many nodes stay in FP32 by their block."""
    counts: Counter[str] = Counter()

    def wanted(node: onnx.NodeProto) -> bool:
        block = fp32_block_of(node)
        counts.update([] if block is None else [block.name])
        return block is None

    try:
        cast = to_16bit(model, cast_type, wanted)
        onnx.checker.check_model(cast.model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ArtifactError(
            f"Its {cast_type.name} form is not well formed: {' '.join(str(error).split())[:300]}",
            remedy="If 'rtmo-deploy validate' finds nothing wrong with it, please report this.",
            where=source,
        ) from error
    if not cast.half_nodes:
        raise ArtifactError(
            "Nothing in it can be cast.", remedy="Cast a model as 'rtmo-deploy export' wrote it.", where=source
        )
    return cast, counts
