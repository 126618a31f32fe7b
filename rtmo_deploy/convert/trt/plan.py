"""What a build would make, with what, and whether this machine and this backend can.

A graph that a backend cannot build is refused here by the name of its node: TensorRT's own answer would be an internal
error of its optimiser, or a crash.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from rtmo_deploy.artifact import DecodeMode, Target
from rtmo_deploy.convert.options import MAX_TOPK
from rtmo_deploy.convert.trt.options import make_profiles
from rtmo_deploy.errors import ArtifactError, MissingDependencyError, SetupError, UsageError
from rtmo_deploy.file_kind import Kind
from rtmo_deploy.runtime.cuda import find_gpu
from rtmo_deploy.runtime.onnx_file import load_onnx, onnx_artifact
from rtmo_deploy.runtime.plugins.kernel import PLUGIN_NAME
from rtmo_deploy.runtime.trt_api import TRT_VARIANTS, choose_variant, gpu_problem, load_api

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator, Sequence

    import onnx

    from rtmo_deploy.artifact import Artifact
    from rtmo_deploy.convert.trt.options import BuildOptions
    from rtmo_deploy.runtime.engine_file import Profile
    from rtmo_deploy.runtime.trt_api import TrtVariant

SUFFIX = ".engine"
CAST_TYPES = ("fp16", "bf16")
_STANDARD = frozenset({"", "ai.onnx", "ai.onnx.ml"})
_FIXED = "Export the model with: rtmo-deploy export --decode fixed"


@dataclass(frozen=True)
class BuildPlan:
    """The way from a model to an engine, checked and not begun."""

    source: Path
    artifact: Artifact  #: What the source is.
    model: onnx.ModelProto | None  #: The source, parsed; None where it is a checkpoint.
    variant: TrtVariant
    precision: str  #: What the engine will be, and be audited for.
    profiles: tuple[Profile, ...]
    output: Path  #: The engine's file.
    problems: tuple[str, ...]  #: Why this machine cannot build it; empty if it can.
    notes: tuple[str, ...]  #: What the reader should know.
    export: Literal["fixed", "raw"] | None = None  #: How a checkpoint is exported; None for an ONNX model.
    quantise: bool = False
    cast: str | None = None  #: ``fp16`` or ``bf16``.
    add_plugin: bool = False

    def steps(self) -> list[str]:
        """What would be done, in order and in words."""
        steps = {
            f"export --decode {self.export}": self.export,
            "quantise to int8 and judge it": self.quantise,
            f"cast {'the rest ' if self.precision.startswith('int8') else ''}to {self.cast}": self.cast,
            "put the decode plugin in": self.add_plugin,
            f"build with {self.variant.name}, audit, write": True,
        }
        return [step for step, taken in steps.items() if taken]


def plan_build(
    source: str | os.PathLike[str], output: str | os.PathLike[str] | None, options: BuildOptions
) -> BuildPlan:
    """Check the build of an ONNX model: the model, the options, the profiles, the operators, and this machine.

    ``output`` is the engine's file; named after what it is, beside the model, if not given.

    Raises:
        ArtifactError: The model is damaged, is of another precision, or holds what the backend cannot build.
        UsageError: An option does not apply, or a profile lies outside the model.
    """
    source = Path(source)
    output = None if output is None else Path(output)
    model = load_onnx(source)
    artifact = onnx_artifact(source, model)
    if artifact.target not in {None, Target.TENSORRT}:
        raise ArtifactError(
            f"It was quantised for {artifact.target}; TensorRT takes signed 8-bit numbers without a zero point only.",
            remedy="Quantise the float32 model with --target tensorrt.",
            where=source,
        )
    variant, problems = settle_variant(options)
    precision = _precision(artifact, options.precision)
    profiles = make_profiles(options, artifact.input)
    check_graph(model, artifact, variant, targets=options.targets, where=source)
    target = output or default_output(source, precision, variant)
    require_suffix(target)
    return BuildPlan(
        source, artifact, model, variant, precision, profiles, target, problems, build_notes(variant, options)
    )


def plan_chain(
    source: Path,
    artifact: Artifact,
    output: Path | None,
    options: BuildOptions,
    *,
    decode: DecodeMode | None = None,
    around: str | None = None,
) -> BuildPlan:
    """Check as much as can be checked before anything is made of a checkpoint or of a model of another precision.

    ``decode`` is where the graph decodes, None for where it does. ``around`` is the precision of the rest of an INT8
    network; None for ``fp16`` where the model is quantised here, else for what it is.

    Raises:
        ArtifactError: The model cannot be built.
        UsageError: An option does not apply, or the model was exported with another ``--decode``.
    """
    quantise = options.precision == "int8" and artifact.precision == "fp32"
    cast = _target_cast(artifact.precision, options.precision, around)
    precision = f"int8+{cast}" if cast and options.precision == "int8" else options.precision or "fp32"
    if artifact.kind is Kind.CHECKPOINT:
        variant, problems = settle_variant(options)
        plan = BuildPlan(
            source=source,
            artifact=artifact,
            model=None,
            variant=variant,
            precision=precision,
            profiles=make_profiles(options, artifact.input),
            output=output or default_output(source, precision, variant),
            problems=problems,
            notes=build_notes(variant, options),
            export="raw" if decode is DecodeMode.RAW else "fixed",
        )
    elif cast or quantise:
        plan = plan_build(source, output, replace(options, precision=None))
        target = output or default_output(source, precision, plan.variant)
        plan = replace(plan, precision=precision, output=target)
    else:
        plan = plan_build(source, output, options)
    mode, variant = artifact.decode.mode, plan.variant
    if decode is DecodeMode.PLUGIN and not variant.plugins:
        raise UsageError(
            f"--decode plugin does not apply to {variant.name}, which takes no plugins.",
            remedy="Use --decode fixed: it finds the same detections without one.",
            where=source,
        )
    if plan.export is None and decode not in {None, mode} and (decode, mode) != (DecodeMode.PLUGIN, DecodeMode.FIXED):
        raise UsageError(
            f"--decode {decode} was asked for, and {source.name} was exported with --decode {mode}.",
            remedy="Leave it away, or give the checkpoint.",
        )
    # The plugin runs on no CPU, where the new model is judged, so it goes in afterwards.
    if mode is DecodeMode.PLUGIN and (quantise or cast):
        raise ArtifactError(
            f"A model with the plugin in it cannot be {'quantised' if quantise else 'cast'}: no runtime on the CPU "
            "could compare it with its source.",
            remedy="Give the model with --decode fixed; --decode plugin puts the plugin in afterwards.",
            where=source,
        )
    add_plugin = decode is DecodeMode.PLUGIN and mode is not DecodeMode.PLUGIN
    return replace(plan, quantise=quantise, cast=cast, add_plugin=add_plugin)


def _target_cast(precision: str, asked: str | None, around: str | None) -> str | None:
    """What a model of a precision is cast to on its way to an engine; None for nothing."""
    if asked == "int8":
        rest = around or ("fp16" if precision == "fp32" else None)
        return rest if rest in CAST_TYPES and precision != f"int8+{rest}" else None
    return asked if asked in CAST_TYPES and precision == "fp32" else None


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

    A UsageError where there is no such backend, or an option does not apply to it.
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
    api.compute_capabilities(options.targets)
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
        count = _candidates(node, constants)
        if count > MAX_TOPK:
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


def _candidates(node: onnx.NodeProto, constants: dict[str, onnx.TensorProto]) -> int:
    """How many rows a TopK takes, if that is a constant; else 0."""
    import onnx

    if node.op_type != "TopK" or len(node.input) < 2 or node.input[1] not in constants:
        return 0
    value = onnx.numpy_helper.to_array(constants[node.input[1]])
    return int(value.flat[0]) if value.size == 1 else 0


def _refused(node: onnx.NodeProto, where: Path, why: str, remedy: str) -> ArtifactError:
    name = node.name or ", ".join(node.output)
    return ArtifactError(f"Its node {name} ({node.op_type}) cannot be built: {why}", remedy=remedy, where=where)
