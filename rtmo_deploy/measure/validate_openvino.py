"""Is an OpenVINO model well formed, whole, and does it run? What needs OpenVINO says so where there is none."""

from __future__ import annotations

import importlib.util
import json
from typing import TYPE_CHECKING, Any

from rtmo_deploy.errors import ArtifactError, SetupError
from rtmo_deploy.files import human_size, sha256_of
from rtmo_deploy.measure.contract import companion_finding
from rtmo_deploy.measure.validate import Check, ValidationReport, run_checks, run_shapes, until_failed
from rtmo_deploy.runtime.openvino_file import ir_artifact, read_ir, weights_path

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from rtmo_deploy.artifact import Artifact
    from rtmo_deploy.runtime.openvino_file import OpenvinoIr

#: Inputs that a dynamic model is run on: batch, height, width.
SHAPES = ((1, 160, 160), (2, 96, 192))
QUOTE = '"'
READS, COMPILES, RUNS = "OpenVINO reads it", "OpenVINO compiles it", "runs"


def validate_openvino(path: Path) -> ValidationReport:
    """Check an OpenVINO model, whoever made it.

    The checks: its graph, read without OpenVINO; this project's metadata; the .bin file's length, and its SHA-256
    against the metadata; input and outputs against the metadata; the companion of a ``raw`` model; that OpenVINO reads
    and compiles it for the CPU, in the precision of its graph; and runs as for an ONNX model. What this machine cannot
    check, or a file of another maker does not tell, is not checked, and says why.

    Raises:
        ArtifactError: The .xml file cannot be read as an OpenVINO model at all.
    """
    return until_failed(_steps(path, read_ir(path)))


def openvino_findings(path: Path, ir: OpenvinoIr, artifact: Artifact) -> list[str]:
    """What lies beside or in a model and is not as its metadata says; empty if nothing. OpenVINO is not needed.

    Args:
        path: The .xml file.
        ir: What stands in it.
        artifact: What its metadata says.
    """
    weights, companion = _check_weights(path, ir, artifact), companion_finding(artifact)
    found = [weights.detail] if weights.failed else []
    return [*artifact.corrected, *found, *([companion] if companion else [])]


def _steps(path: Path, ir: OpenvinoIr) -> Iterator[Check]:
    tensors = "; ".join(map(str, (*ir.inputs, *ir.outputs)))
    yield Check("structure", bool(ir.inputs and ir.outputs), f"{sum(ir.layers.values())} layers: {tensors}")
    try:
        artifact = ir_artifact(path, ir)
    except ArtifactError as error:
        yield Check("metadata", False, error.finding)
        return
    if artifact is None:
        yield Check("metadata", None, "another tool made it: what it is, and of which weights, is not recorded")
    else:
        yield Check("metadata", True, f"{artifact.architecture}, {artifact.precision}, decode {artifact.decode.mode}")
    yield _check_weights(path, ir, artifact)
    if artifact is not None:
        yield Check("input and outputs", True, "; ".join(artifact.corrected) or "as the metadata says")
        if artifact.companion is not None:
            wrong = companion_finding(artifact)
            yield Check("companion", wrong is None, wrong or f"{artifact.companion.name} is the one it was made with")
    yield from _check_openvino(path, ir, artifact)


def _check_weights(path: Path, ir: OpenvinoIr, artifact: Artifact | None) -> Check:
    weights = weights_path(path)
    try:
        size = weights.stat().st_size
        found = sha256_of(weights)
    except OSError as error:
        return Check("weights", False, f"{weights.name} cannot be read: {error.strerror or error}")
    if size < ir.weights_end:
        return Check("weights", False, f"{weights.name} is cut short: {size:,} bytes of {ir.weights_end:,} or more")
    recorded = ir.section.get("weights_sha256")
    if recorded is None:
        return Check("weights", None, f"{weights.name} is long enough; no SHA-256 is recorded to compare it with")
    if artifact is not None and artifact.corrected:
        return Check("weights", None, f"{weights.name} is long enough; the model was changed after it was converted")
    if json.dumps(found) != recorded:
        return Check(
            "weights",
            False,
            f"{weights.name} is not the file that it was written with: its SHA-256 begins with {found[:12]}, the "
            f"metadata says {recorded.strip(QUOTE)[:12]}",
        )
    return Check("weights", True, f"{weights.name}, {human_size(size)}, SHA-256 as recorded")


def _check_openvino(path: Path, ir: OpenvinoIr, artifact: Artifact | None) -> Iterator[Check]:
    if importlib.util.find_spec("openvino") is None:
        why = "OpenVINO is not installed: pip install 'rtmo-deploy[openvino]'"
        yield from (Check(name, None, why) for name in (READS, COMPILES, RUNS))
        return
    from rtmo_deploy.runtime.openvino_backend import compile_model, import_openvino, layer_precisions, parse_model

    try:
        model = parse_model(str(path), where=path)
    except ArtifactError as error:
        yield Check(READS, False, error.finding)
        return
    yield Check(READS, True, f"openvino {import_openvino('Validating a model').__version__.split('-')[0]}")
    try:
        compiled = compile_model(model, where=path)
    except ArtifactError as error:
        yield Check(COMPILES, False, error.finding)
        return
    except SetupError as error:
        # The machine's fault, not the model's.
        yield from (Check(name, None, f"not on this machine: {error.finding}") for name in (COMPILES, RUNS))
        return
    layers = layer_precisions(compiled)
    text = ", ".join(f"{count} in {name}" for name, count in layers.items())
    if artifact is not None and "int8" in artifact.precision.split("+") and "int8" not in layers:
        yield Check(COMPILES, False, f"its graph is quantised, and none of its layers would run in 8 bits: {text}")
        return
    yield Check(COMPILES, True, f"for the CPU; convolutions and matrix products: {text}")
    yield from _check_runs(compiled, ir, path)


def _check_runs(compiled: Any, ir: OpenvinoIr, path: Path) -> Iterator[Check]:
    source = ir.inputs[0] if len(ir.inputs) == 1 else None
    if source is None or len(source.shape) != 4 or source.dtype != "float32" or source.shape[1] not in {3, None}:
        yield Check(RUNS, False, f"the inputs are no single picture tensor: {'; '.join(map(str, ir.inputs))}")
        return
    names = [output.get_any_name() for output in compiled.outputs]
    request = compiled.create_infer_request()

    def run(images: NDArray[np.float32]) -> Mapping[str, object]:
        try:
            results = request.infer({0: images})
        except RuntimeError as error:
            raise ArtifactError(f"It does not run: {str(error).strip().splitlines()[-1]}", where=path) from error
        return {name: results[index].copy() for index, name in enumerate(names)}

    yield from run_checks(run, run_shapes(source.shape, SHAPES))
