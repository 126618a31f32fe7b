"""What a build would make, with what, and whether this machine can: settled before anything is built."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from rtmo_deploy.artifact import DecodeMode
from rtmo_deploy.convert.trt.graph_checks import check_graph
from rtmo_deploy.convert.trt.options import make_profiles
from rtmo_deploy.errors import ArtifactError, MissingDependencyError, SetupError, UsageError
from rtmo_deploy.file_kind import Kind
from rtmo_deploy.runtime.cuda_device import find_gpu
from rtmo_deploy.runtime.onnx_file import load_onnx, onnx_artifact, signature
from rtmo_deploy.runtime.trt_api import FLAVOURS, choose_flavour, load_api
from rtmo_deploy.runtime.trt_gpus import gpu_problem

if TYPE_CHECKING:
    from pathlib import Path

    import onnx

    from rtmo_deploy.artifact import Artifact, InputContract
    from rtmo_deploy.convert.trt.options import BuildOptions
    from rtmo_deploy.runtime.engine_file import Profile
    from rtmo_deploy.runtime.onnx_file import Signature
    from rtmo_deploy.runtime.trt_api import Flavour

SUFFIX = ".engine"


@dataclass(frozen=True)
class BuildPlan:
    """A build that was checked and not begun.

    Attributes:
        source: The ONNX model.
        model: It, parsed.
        artifact: What it is.
        flavour: The backend.
        precision: What the engine will be, and be audited for.
        profiles: Sizes it will take.
        output: The engine's file.
        input_name: The graph's input.
        problems: Why this machine cannot build it; empty if it can.
        notes: What the reader should know.
    """

    source: Path
    model: onnx.ModelProto
    artifact: Artifact
    flavour: Flavour
    precision: str
    profiles: tuple[Profile, ...]
    output: Path
    input_name: str
    problems: tuple[str, ...]
    notes: tuple[str, ...]


def plan_build(source: Path, output: Path | None, options: BuildOptions) -> BuildPlan:
    """Check a build: the model, the options, the profile, the operators, and this machine.

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
    if artifact.kind is not Kind.ONNX:
        raise ArtifactError("It is not an ONNX model by its metadata.", remedy="Export it again.", where=source)
    shape = signature(model)
    flavour, problems = settle_flavour(options)
    precision = _precision(artifact, options.precision)
    contract = _real_contract(artifact, shape)
    profiles = make_profiles(options, contract)
    check_graph(model, artifact, flavour, targets=options.targets, where=source)
    target = output or default_output(source, precision, flavour)
    if target.suffix.lower() != SUFFIX:
        raise UsageError(f"The output is called {target.name}.", remedy=f"Give it the suffix {SUFFIX}.")
    return BuildPlan(
        source=source,
        model=model,
        artifact=replace(artifact, input=contract),
        flavour=flavour,
        precision=precision,
        profiles=profiles,
        output=target,
        input_name=shape.inputs[0].name,
        problems=problems,
        notes=build_notes(flavour, options),
    )


def default_output(source: Path, precision: str, flavour: Flavour) -> Path:
    """``<stem>.<precision>.<backend>.engine`` beside the model; a precision in its name is not repeated."""
    stem = source.name.removesuffix(source.suffix).removesuffix(f".{precision.replace('+', '.')}")
    return source.with_name(f"{stem}.{precision}.{flavour.name}{SUFFIX}")


def settle_flavour(options: BuildOptions) -> tuple[Flavour, tuple[str, ...]]:
    """The backend, and why this machine cannot build with it; empty if it can.

    Raises:
        UsageError: There is no such backend, or an option does not apply to it.
    """
    try:
        flavour = choose_flavour(options.backend)
    except MissingDependencyError as error:
        flavour = FLAVOURS["tensorrt" if options.backend == "auto" else options.backend]
        options.check(flavour)
        return flavour, (f"{error.finding} {error.remedy}",)
    options.check(flavour)
    return flavour, machine_problems(flavour)


def check_plugin_choice(flavour: Flavour, decode: DecodeMode | None, where: Path) -> None:
    """Refuse a plugin for a backend that takes none.

    Raises:
        UsageError: ``decode`` is ``plugin`` and the backend takes none.
    """
    if decode is DecodeMode.PLUGIN and not flavour.plugins:
        raise UsageError(
            f"--decode plugin does not apply to {flavour.name}, which takes no plugins.",
            remedy="Use --decode fixed: it finds the same people without one.",
            where=where,
        )


def machine_problems(flavour: Flavour) -> tuple[str, ...]:
    """Why this machine cannot build with a backend that is installed; empty if it can. The package is imported."""
    try:
        api = load_api(flavour)
    except SetupError as error:
        return (str(error),)
    if flavour.builds_without_gpu:
        return ()
    gpu = find_gpu()
    if isinstance(gpu, str):
        return (f"{flavour.name} builds for the GPU of the machine, and this one has none that it could use: {gpu}",)
    problem = gpu_problem(flavour, api.version, gpu.name, gpu.compute_capability)
    return () if problem is None else (str(problem),)


def _precision(artifact: Artifact, asked: str | None) -> str:
    # int8+fp16 is INT8, with half around it.
    if asked is None or asked in {artifact.precision, artifact.precision.partition("+")[0]}:
        return artifact.precision
    if asked == "int8":
        raise ArtifactError(
            f"int8 was asked for, and the model is {artifact.precision}: an engine has the types of its graph.",
            remedy="Quantise the FP32 model: rtmo-deploy quantize MODEL.onnx --calib SET",
            where=artifact.path,
        )
    if artifact.precision == "fp32":
        raise ArtifactError(
            f"{asked} was asked for, and the model is fp32: an engine has the types of its graph.",
            remedy=f"Cast it first: rtmo-deploy cast MODEL.onnx --{asked}",
            where=artifact.path,
        )
    raise ArtifactError(
        f"{asked} was asked for, and the model is {artifact.precision} already, which cannot be undone.",
        remedy="Export the checkpoint again.",
        where=artifact.path,
    )


def _real_contract(artifact: Artifact, shape: Signature) -> InputContract:
    """The model's input as its graph has it; the metadata must agree."""
    contract = artifact.input
    sides = shape.inputs[0].shape if len(shape.inputs) == 1 else ()
    fixed = [side if isinstance(side, int) else None for side in sides]
    if len(fixed) != 4 or fixed[1] not in {3, None}:
        raise ArtifactError(
            f"Its inputs are {'; '.join(map(str, shape.inputs)) or 'none'}, not one picture of 3 channels.",
            remedy="Export the checkpoint with 'rtmo-deploy export'.",
            where=artifact.path,
        )
    wrong = fixed[2] not in {None, contract.height} or fixed[3] not in {None, contract.width}
    if wrong or (fixed[0] is not None and contract.batch not in {None, fixed[0]}):
        raise ArtifactError(
            f"Its metadata speaks of {contract.height}x{contract.width} pixels, batch {contract.batch or 'dynamic'}, "
            f"and its input is {shape.inputs[0]}.",
            remedy="Export it again.",
            where=artifact.path,
        )
    dynamic = fixed[2] is None and fixed[3] is None and contract.dynamic_hw
    return replace(contract, batch=fixed[0] or contract.batch, dynamic_hw=dynamic)


def build_notes(flavour: Flavour, options: BuildOptions) -> tuple[str, ...]:
    """What the reader of a build should know before it begins."""
    notes = []
    if options.timing_cache is not None and not flavour.timing_cache:
        notes.append(f"{flavour.name} has no timing cache: {options.timing_cache.name} is neither read nor written.")
    return tuple(notes)
