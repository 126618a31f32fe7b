"""A float32 graph, or one quantised to 8 bits, becomes a half one, compared with it before it is written."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import onnx

from rtmo_deploy.artifact import Artifact, Parent, made_with
from rtmo_deploy.companion import read_companion, write_companion
from rtmo_deploy.convert.metadata import write_metadata
from rtmo_deploy.convert.precision.graph import HALF_TYPES, HalfGraph, HalfType, to_half
from rtmo_deploy.convert.precision.islands import island_of
from rtmo_deploy.convert.precision.refuse import refuse_output, refuse_source
from rtmo_deploy.errors import ArtifactError, MissingDependencyError, ParityError, UsageError
from rtmo_deploy.files import atomic_write, sha256_of
from rtmo_deploy.runtime.onnx_file import load_onnx, onnx_artifact

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from rtmo_deploy.convert.precision.verify import CastReport


@dataclass(frozen=True)
class CastResult:
    """What a cast made.

    Attributes:
        artifact: The new file and what it knows of itself.
        source: The file it was made from.
        half_nodes: Nodes that compute in half.
        casts: Cast nodes that were put in.
        islands: How many nodes stay in float32, by island.
        kept: Nodes that stay in float32 because a weight does not fit, and why.
        size: Bytes.
        source_size: Bytes of the source.
        seconds: Time taken.
        verification: Comparison with the source; None if it was not verified.
    """

    artifact: Artifact
    source: Path
    half_nodes: int
    casts: int
    islands: Mapping[str, int]
    kept: Mapping[str, str]
    size: int
    source_size: int
    seconds: float
    verification: CastReport | None


def cast_onnx(
    source: Path,
    output: Path,
    precision: str,
    *,
    verify: bool = True,
    progress: Callable[[str], None] = lambda _: None,
) -> CastResult:
    """Cast an ONNX model to half, compare it with its source, and only then write it.

    Inputs and outputs stay float32, and so do the islands of :mod:`rtmo_deploy.convert.precision.islands`. Of a
    quantised model the 8-bit numbers stay, and what is float32 around them becomes half. A ``raw`` model's companion
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
    if precision not in HALF_TYPES:
        raise UsageError(f"There is no precision '{precision}'.", remedy=f"Choose {' or '.join(HALF_TYPES)}.")
    half = HALF_TYPES[precision]
    progress("reading the model")
    model = load_onnx(source)
    artifact = onnx_artifact(source, model)
    refuse_source(model, artifact, half, verify=verify)
    companion = read_companion(artifact)
    refuse_output(output, artifact)
    if verify:
        _need_onnxruntime()
    progress(f"casting to {half.name}")
    cast, islands = _cast(model, half, source)
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
        _require_parity(report, half, artifact)
        quantization = {key: value for key, value in (artifact.verified or {}).items() if key == "quantization"}
        new = replace(new, verified={"precision": report.to_dict(), **quantization})
    write_metadata(cast.model, new)
    progress("writing")
    write_companion(new, companion, output)
    with atomic_write(output) as temporary:
        temporary.write_bytes(cast.model.SerializeToString())
    return CastResult(
        artifact=new,
        source=source,
        half_nodes=cast.half_nodes,
        casts=cast.casts,
        islands=islands,
        kept=cast.kept,
        size=output.stat().st_size,
        source_size=source.stat().st_size,
        seconds=time.monotonic() - started,
        verification=report,
    )


def _cast(model: onnx.ModelProto, half: HalfType, source: Path) -> tuple[HalfGraph, dict[str, int]]:
    counts: Counter[str] = Counter()

    def wanted(node: onnx.NodeProto) -> bool:
        island = island_of(node)
        if island is not None:
            counts[island.name] += 1
        return island is None

    try:
        cast = to_half(model, half, wanted)
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
    half: HalfType,
    artifact: Artifact,
    companion: bytes | None,
    progress: Callable[[str], None],
) -> CastReport:
    from rtmo_deploy.convert.precision.verify import verify_half
    from rtmo_deploy.runtime.estimator import open_coordinates

    coordinates = open_coordinates(companion, where=artifact.path) if companion is not None else None
    return verify_half(model, cast, half, artifact, coordinates=coordinates, progress=progress)


def _require_parity(report: CastReport, half: HalfType, artifact: Artifact) -> None:
    failures = report.failures()
    if failures:
        before = "float32" if artifact.precision == "fp32" else artifact.precision
        more = f" (and {len(failures) - 3} more)" if len(failures) > 3 else ""
        raise ParityError(
            f"In {half.name} it does not find what it finds in {before}: {'; '.join(failures[:3])}{more}.",
            remedy="Nothing was written. Its weights may need more range or precision than that type has; stay with "
            "the source, or try the other one. --no-verify writes the file to look at.",
            where=artifact.path,
        )


def _need_onnxruntime() -> None:
    import importlib.util

    if importlib.util.find_spec("onnxruntime") is None:
        raise MissingDependencyError("onnxruntime", purpose="Verifying the cast (--no-verify skips it)", extra="cpu")
