"""What a build would make, with what, and whether this machine and this backend can.

A graph that a backend cannot build is refused here by the name of its node: TensorRT's own answer would be an internal
error of its optimiser, or a crash.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from rtmo_deploy.artifact import DecodeMode
from rtmo_deploy.convert.options import MAX_TOPK
from rtmo_deploy.convert.trt.options import make_profiles
from rtmo_deploy.errors import ArtifactError, MissingDependencyError, SetupError, UsageError
from rtmo_deploy.runtime.cuda import find_gpu
from rtmo_deploy.runtime.onnx_file import load_onnx, onnx_artifact
from rtmo_deploy.runtime.plugins.kernel import PLUGIN_NAME
from rtmo_deploy.runtime.trt_api import TRT_VARIANTS, choose_variant, gpu_problem, load_api

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    import onnx

    from rtmo_deploy.artifact import Artifact
    from rtmo_deploy.convert.trt.options import BuildOptions
    from rtmo_deploy.runtime.engine_file import Profile
    from rtmo_deploy.runtime.trt_api import TrtVariant

SUFFIX = ".engine"
_STANDARD = frozenset({"", "ai.onnx", "ai.onnx.ml"})
_FIXED = "Export the model with: rtmo-deploy export --decode fixed"


@dataclass(frozen=True)
class BuildPlan:
    """A build that was checked and not begun."""

    #: The ONNX model, and parsed.
    source: Path
    model: onnx.ModelProto
    artifact: Artifact
    variant: TrtVariant
    #: What the engine will be, and be audited for.
    precision: str
    profiles: tuple[Profile, ...]
    #: The engine's file.
    output: Path
    #: Why this machine cannot build it; empty if it can.
    problems: tuple[str, ...]
    #: What the reader should know.
    notes: tuple[str, ...]


def plan_build(source: Path, output: Path | None, options: BuildOptions) -> BuildPlan:
    """Check a build: the model, the options, the profiles, the operators, and this machine.

    Args:
        source: An ONNX model.
        output: The engine's file; named after what it is, beside the model, if not given.
        options: What is asked for.

    Raises:
        ArtifactError: The model is damaged, is of another precision, or holds what the backend cannot build.
        UsageError: An option does not apply, or a profile lies outside the model.
    """
    model = load_onnx(source)
    artifact = onnx_artifact(source, model)
    variant, problems = settle_variant(options)
    precision = _precision(artifact, options.precision)
    profiles = make_profiles(options, artifact.input)
    check_graph(model, artifact, variant, targets=options.targets, where=source)
    target = output or default_output(source, precision, variant)
    require_suffix(target)
    notes = build_notes(variant, options)
    return BuildPlan(source, model, artifact, variant, precision, profiles, target, problems, notes)


def require_suffix(output: Path | None) -> None:
    """Refuse an output that is not called ``.engine``."""
    if output is not None and output.suffix.lower() != SUFFIX:
        raise UsageError(f"The output is called {output.name}.", remedy=f"Give it the suffix {SUFFIX}.")


def default_output(source: Path, precision: str, variant: TrtVariant) -> Path:
    """``<stem>.<precision>.<backend>.engine`` beside the model; a precision in its name is not repeated."""
    stem = source.name.removesuffix(source.suffix).removesuffix(f".{precision.replace('+', '.')}")
    return source.with_name(f"{stem}.{precision}.{variant.name}{SUFFIX}")


def build_notes(variant: TrtVariant, options: BuildOptions) -> tuple[str, ...]:
    """What the reader of a build should know before it begins."""
    if options.timing_cache is None or variant.timing_cache:
        return ()
    return (f"{variant.name} has no timing cache: {options.timing_cache.name} is neither read nor written.",)


def settle_variant(options: BuildOptions) -> tuple[TrtVariant, tuple[str, ...]]:
    """The backend, and why this machine cannot build with it; empty if it can. The backend's package is imported.

    Raises:
        UsageError: There is no such backend, or an option does not apply to it.
    """
    try:
        variant = choose_variant(options.backend)
    except MissingDependencyError as error:
        variant = TRT_VARIANTS["tensorrt" if options.backend == "auto" else options.backend]
        options.check(variant)
        return variant, (str(error),)
    options.check(variant)
    try:
        api = load_api(variant)
    except SetupError as error:
        return variant, (str(error),)
    if variant.builds_without_gpu:
        return variant, ()
    gpu = find_gpu()
    if isinstance(gpu, str):
        problem = f"{variant.name} builds for the GPU of the machine, and this one has none that it could use: {gpu}"
        return variant, (problem,)
    unusable = gpu_problem(variant, api.version, gpu.name, gpu.compute_capability)
    return variant, () if unusable is None else (str(unusable),)


def _precision(artifact: Artifact, asked: str | None) -> str:
    # int8+fp16 is INT8, in mixed precision.
    if asked is None or asked in {artifact.precision, artifact.precision.partition("+")[0]}:
        return artifact.precision
    if asked == "int8" or artifact.precision == "fp32":
        remedy = f"Cast it first: rtmo-deploy cast MODEL.onnx --{asked}"
        if asked == "int8":
            remedy = "Quantise the FP32 model: rtmo-deploy quantize MODEL.onnx --calib SET"
        raise ArtifactError(
            f"{asked} was asked for, and the model is {artifact.precision}: an engine has the types of its graph.",
            remedy=remedy,
            where=artifact.path,
        )
    raise ArtifactError(
        f"{asked} was asked for, and the model is {artifact.precision} already, which cannot be undone.",
        remedy="Export the checkpoint again.",
        where=artifact.path,
    )


def nodes_of(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """All nodes of a graph, those in the branches of If and the bodies of Loop included."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from nodes_of(attribute.g)


def check_graph(
    model: onnx.ModelProto, artifact: Artifact, variant: TrtVariant, *, targets: Sequence[str], where: Path
) -> None:
    """Refuse a graph that a backend cannot build, for one of the compute capabilities ``targets``."""
    _check_opset(model, where)
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in nodes_of(model.graph):
        if node.op_type in variant.no_operators and node.domain in _STANDARD:
            raise _refused(node, where, f"{variant.name} has no kernel for it.", _FIXED)
        if node.domain not in _STANDARD and not variant.plugins:
            raise _refused(
                node, where, f"it is a plugin, and {variant.name} takes none.", f"{_FIXED}, which needs no plugin."
            )
        count = _constant(node, 1, constants) if node.op_type == "TopK" else None
        if count is not None and count > MAX_TOPK:
            raise _refused(
                node,
                where,
                f"it takes the best {count} of its candidates, and TensorRT's limit is {MAX_TOPK}.",
                f"Export the model with --pre-topk {MAX_TOPK} or less.",
            )
    if has_plugin(model):
        from rtmo_deploy.convert.plugins.rewrite import check_plugin_node

        check_plugin_node(model)
    if artifact.decode.mode is DecodeMode.ONNX:
        raise ArtifactError(
            "It was exported with --decode onnx, whose number of rows depends on the image: fixed buffers and CUDA "
            "graphs cannot take that.",
            remedy=_FIXED,
            where=where,
        )
    if "7.5" in targets:
        _check_turing(model, artifact, variant, where)


def has_plugin(model: onnx.ModelProto) -> bool:
    """Whether the decode plugin is in a graph."""
    return any(node.op_type == PLUGIN_NAME for node in nodes_of(model.graph))


def _check_opset(model: onnx.ModelProto, where: Path) -> None:
    """TensorRT's parser accepts any number, and reads the operators as it knows them."""
    import onnx

    newest = onnx.defs.onnx_opset_version()
    opset = max((entry.version for entry in model.opset_import if entry.domain in _STANDARD), default=0)
    if opset > newest:
        raise ArtifactError(
            f"It is of opset {opset}; the installed onnx {onnx.__version__} knows up to {newest}.",
            remedy="Export it with --opset 17, or upgrade onnx.",
            where=where,
        )


def _check_turing(model: onnx.ModelProto, artifact: Artifact, variant: TrtVariant, where: Path) -> None:
    """Turing has no FP32 matrix products in TensorRT-RTX, and no BF16 at all."""
    import onnx

    remedy = "Leave compute capability 7.5 away, or use --backend tensorrt on the Turing machine itself."
    if artifact.precision == "bf16":
        raise ArtifactError("It is of bf16, which compute capability 7.5 does not have.", remedy=remedy, where=where)
    typed = onnx.shape_inference.infer_shapes(model, data_prop=False).graph
    values = [*typed.value_info, *typed.input]
    floats = {value.name for value in values if value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT}
    for node in nodes_of(typed):
        if node.op_type in {"MatMul", "Gemm"} and node.input[0] in floats:
            raise _refused(
                node, where, f"{variant.name} has no FP32 matrix product for compute capability 7.5.", remedy
            )


def _constant(node: onnx.NodeProto, index: int, constants: dict[str, onnx.TensorProto]) -> int | None:
    import onnx

    if len(node.input) <= index or node.input[index] not in constants:
        return None
    value = onnx.numpy_helper.to_array(constants[node.input[index]])
    return int(value.flat[0]) if value.size == 1 else None


def _refused(node: onnx.NodeProto, where: Path, why: str, remedy: str) -> ArtifactError:
    name = node.name or ", ".join(node.output)
    return ArtifactError(f"Its node {name} ({node.op_type}) cannot be built: {why}", remedy=remedy, where=where)
