"""Builds an audited TensorRT engine of an ONNX model, and writes it with its record."""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rtmo_deploy.artifact import Parent, read_companion, refuse_companion, write_companion
from rtmo_deploy.convert.trt.audit import Audit, audit_precision, parse_inspector, parse_layer_table
from rtmo_deploy.convert.trt.child import Job, run_child
from rtmo_deploy.convert.trt.plan import BuildPlan, has_plugin, nodes_of, plan_build
from rtmo_deploy.errors import ArtifactError, SetupError
from rtmo_deploy.file_kind import Kind
from rtmo_deploy.files import atomic_write, sha256_of
from rtmo_deploy.runtime.contract import TensorSpec
from rtmo_deploy.runtime.engine_file import AHEAD_OF_TIME, EngineRecord, sidecar_path
from rtmo_deploy.runtime.plugins.kernel import PLUGIN_NAME, PLUGIN_NAMESPACE, PLUGIN_VERSION, kernel_record

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterator, Mapping, Sequence

    import onnx

    from rtmo_deploy.artifact import InputContract
    from rtmo_deploy.convert.trt.options import BuildOptions
    from rtmo_deploy.convert.trt.proof import EngineProof
    from rtmo_deploy.runtime.engine_file import Profile

#: TensorRT's names of types that NumPy calls otherwise.
_NUMPY_TYPES = {"FLOAT": "float32", "HALF": "float16", "BF16": "bfloat16"}


@dataclass(frozen=True)
class BuildResult:
    """An engine that was built."""

    record: EngineRecord  #: Its artifact's path is the engine.
    sidecar: Path  #: The file with the record.
    audit: Audit
    warnings: tuple[str, ...]  #: Of TensorRT.
    seconds: float  #: Time taken in all.
    proof: EngineProof | None = None  #: Comparison on its GPU; None where it was not run.


def build_engine(
    source: str | os.PathLike[str],
    output: str | os.PathLike[str] | None,
    options: BuildOptions,
    *,
    reference: str | os.PathLike[str] | None = None,
    progress: Callable[[str], None] = lambda _: None,
    command: Sequence[str] | None = None,
) -> BuildResult:
    """Build an engine, audit it, compare it with its reference where it can run, and only then write it.

    Args:
        source: An ONNX model, already of the precision that is asked for.
        output: Where to write; named after what it is, beside the model, if not given.
        options: What is asked for.
        reference: A checkpoint or an ONNX model whose detections the engine must find, if there is a GPU that it was
            built for; not compared if not given.
        progress: Gets each step.
        command: What the child process runs; None for :mod:`rtmo_deploy.convert.trt.child`.

    Raises:
        ArtifactError: The model cannot be built, or the engine is not of the precision that was asked for.
        ParityError: It does not find the reference's detections, or not the same ones in every row of a batch.
        UsageError: An option does not apply, or a profile lies outside the model.
        SetupError: This machine cannot build it, the build was ended from outside, or the file cannot be written.
    """
    source = Path(source)
    output = None if output is None else Path(output)
    reference = None if reference is None else Path(reference)
    started = time.monotonic()
    plan = plan_build(source, output, options)
    assert plan.model is not None
    if plan.problems:
        raise SetupError(plan.problems[0], remedy="--dry-run tells what would be built.")
    companion = read_companion(plan.artifact)
    refuse_companion(plan.artifact, plan.output)
    onnx_sha256 = sha256_of(source)
    with _scratch_beside(plan.output) as folder:
        job = _job(plan, options, folder, plugin=has_plugin(plan.model))
        network, done, warnings = run_child(
            job, where=source, timeout=options.timeout, progress=progress, command=command
        )
        progress("auditing")
        audit = _audit(plan.model, plan.precision, network["layers"], done, source)
        if job.timing_cache_out and options.timing_cache is not None:
            with atomic_write(options.timing_cache) as temporary:
                shutil.copyfile(job.timing_cache_out, temporary)
        engine = Path(job.plan)
        gpu = done["gpu"]
        artifact = replace(
            plan.artifact,
            path=plan.output,
            kind=Kind.ENGINE,
            input=_engine_input(plan.artifact.input, plan.profiles),
            precision=plan.precision,
            parents=(*plan.artifact.parents, Parent.of(source.name, onnx_sha256)),
            versions={**plan.artifact.versions, plan.variant.name: done["version"]},
            verified={"engine": f"{audit.sentence()}, by {audit.how}"},
        )
        record = EngineRecord(
            artifact=artifact,
            backend=plan.variant.name,
            version=done["version"],
            gpu=AHEAD_OF_TIME if gpu is None else gpu["name"],
            compute_capability=None if gpu is None else gpu["compute_capability"],
            targets=options.targets,
            profiles=plan.profiles,
            inputs=tuple(_tensor(*entry) for entry in network["inputs"]),
            outputs=tuple(_tensor(*entry) for entry in network["outputs"]),
            precision=audit.to_dict(),
            layers=audit.layers,
            plugin=_plugin(done["plugin_form"]),
            onnx_sha256=onnx_sha256,
            sha256=sha256_of(engine),
            size=engine.stat().st_size,
            options=options.to_dict(),
            seconds=round(done["seconds"], 3),
            notes=plan.notes,
        )
        proof, not_run = None, _why_not_run(gpu, options)
        if reference is None:
            not_run = "nobody asked for it"
        elif not not_run:
            record, engine, proof = _prove(plan, record, engine, companion, reference, progress)
        if proof is None:
            record = replace(record, notes=(*record.notes, f"The people it finds were not compared: {not_run}."))
        progress("writing")
        write_companion(plan.artifact, companion, plan.output)
        _write_pair(engine, plan.output, record)
    seconds = time.monotonic() - started
    return BuildResult(record, sidecar_path(plan.output), audit, tuple(warnings), seconds, proof)


def _why_not_run(gpu: Mapping[str, Any] | None, options: BuildOptions) -> str:
    if gpu is None:
        return "there is no GPU here to run it"
    if options.targets and gpu["compute_capability"] not in options.targets:
        return f"it is built for other GPUs than the {gpu['name']} that is here"
    return ""


def _prove(
    plan: BuildPlan,
    record: EngineRecord,
    built: Path,
    companion: bytes | None,
    reference: Path,
    progress: Callable[[str], None],
) -> tuple[EngineRecord, Path, EngineProof]:
    """Run the engine where it was built, under its own name, with its record and companion beside it."""
    from rtmo_deploy.convert.trt.proof import prove_engine

    engine = built.parent / "proof" / plan.output.name
    engine.parent.mkdir()
    write_companion(plan.artifact, companion, engine)
    _write_pair(built, engine, record)
    proof = prove_engine(engine, reference, device="cuda:0", progress=progress)
    verified = {**(record.artifact.verified or {}), "parity": proof.to_dict()}
    return replace(record, artifact=replace(record.artifact, verified=verified)), engine, proof


@contextmanager
def _scratch_beside(output: Path) -> Iterator[Path]:
    """A folder beside the output, so that what is in it can be renamed to it; gone after the block."""
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        folder = tempfile.TemporaryDirectory(prefix=f".{output.name}.", suffix=".part", dir=output.parent)
    except OSError as error:
        raise SetupError(
            f"Nothing can be written beside it: {error.strerror or error}.",
            remedy="Check that the folder exists, is writable and has space left; nothing was left behind.",
            where=output,
        ) from error
    with folder as name:
        yield Path(name)


def _job(plan: BuildPlan, options: BuildOptions, folder: Path, *, plugin: bool) -> Job:
    cache = options.timing_cache if plan.variant.timing_cache else None
    bounds = [(profile.min, profile.opt, profile.max) for profile in plan.profiles]
    return Job(
        backend=plan.variant.name,
        onnx=str(plan.source),
        plan=str(folder / "plan"),
        profiles=[[(shape.batch, 3, shape.height, shape.width) for shape in shapes] for shapes in bounds],
        targets=options.targets,
        timing_cache_in=str(cache) if cache is not None and cache.exists() else None,
        timing_cache_out=str(folder / "timing.cache") if cache is not None else None,
        version_compatible=options.version_compatible,
        hardware_compatible=options.hardware_compatible,
        opt_level=options.opt_level,
        workspace=options.workspace,
        plugin=plugin,
    )


def _audit(
    model: onnx.ModelProto, precision: str, network: Sequence[Mapping[str, Any]], done: Mapping[str, Any], where: Path
) -> Audit:
    """Audit by the engine inspector's layers, or by the build log's where no engine could be loaded."""
    how, layers = "layer table of the build log", parse_layer_table(done["table"])
    if done["inspector"]:
        try:
            inspected = parse_inspector(done["inspector"])
        except ValueError as error:
            raise ArtifactError(
                f"The engine inspector's answer cannot be read: {error}.",
                remedy="The engine is not written; please report it with the TensorRT version.",
                where=where,
            ) from error
        if inspected:
            how, layers = "engine inspector", inspected
    operators = {node.name: node.op_type for node in nodes_of(model.graph) if node.name}
    weights = _weights_of(model)
    return audit_precision(precision, operators, network, layers, source=how, where=where, weights=weights)


def _weights_of(model: onnx.ModelProto) -> dict[str, tuple[int, ...]]:
    """Shape of each named convolution's fixed weights; 8-bit ones are behind a DequantizeLinear."""
    shapes = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type in {"DequantizeLinear", "Cast"} and node.input[0] in shapes:
            shapes[node.output[0]] = shapes[node.input[0]]
    return {
        node.name: shapes[node.input[1]]
        for node in nodes_of(model.graph)
        if node.op_type == "Conv" and len(node.input) > 1 and node.input[1] in shapes
    }


def _engine_input(contract: InputContract, profiles: Sequence[Profile]) -> InputContract:
    """What the engine takes: no more than its profiles hold."""
    bounds = [shape for profile in profiles for shape in (profile.min, profile.max)]
    batches = {shape.batch for shape in bounds}
    height, width = contract.height, contract.width
    if not any(profile.holds(height, width) for profile in profiles):
        height, width = profiles[0].opt.height, profiles[0].opt.width
    return replace(
        contract,
        height=height,
        width=width,
        dynamic_hw=contract.dynamic_hw and len({(shape.height, shape.width) for shape in bounds}) > 1,
        batch=batches.pop() if len(batches) == 1 else None,
    )


def _tensor(name: str, dtype: str, shape: Sequence[int]) -> TensorSpec:
    kind = dtype.rpartition(".")[2]
    return TensorSpec(name, _NUMPY_TYPES.get(kind, kind.lower()), tuple(shape))


def _plugin(form: str | None) -> Mapping[str, str] | None:
    """What the plugin in an engine is; None without one."""
    if form is None:
        return None
    return {
        "name": PLUGIN_NAME,
        "version": PLUGIN_VERSION,
        "namespace": PLUGIN_NAMESPACE,
        "form": form,
        "kernel_sha256": kernel_record().ptx_sha256,
    }


def _write_pair(plan: Path, engine: Path, record: EngineRecord) -> None:
    """Move a finished plan, of the same disk, to where the engine goes, and write its record beside it, or neither."""
    text = json.dumps(record.to_dict(), indent=2, allow_nan=False) + "\n"
    moved = False
    try:
        # The record is on the disk before the engine appears, and appears after it.
        with atomic_write(sidecar_path(engine)) as temporary:
            temporary.write_text(text, encoding="utf-8")
            with atomic_write(engine) as place:
                plan.replace(place)
            moved = True
    except SetupError:
        if moved:
            engine.unlink(missing_ok=True)
        raise
