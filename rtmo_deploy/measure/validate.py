"""Is an ONNX or OpenVINO model well formed, and does it run? Checks that need nothing but the model itself.

What needs OpenVINO says so where there is none. Engines, which are checked beside this, share what a check is.
"""

from __future__ import annotations

import importlib.util
import json
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard

import numpy as np

from rtmo_deploy.artifact import PREFIX, read_companion
from rtmo_deploy.errors import ArtifactError, SetupError
from rtmo_deploy.files import human_size, sha256_of
from rtmo_deploy.packages import require_onnxruntime
from rtmo_deploy.runtime.contract import compare, differences
from rtmo_deploy.runtime.onnx_file import load_onnx, onnx_artifact, signature
from rtmo_deploy.runtime.openvino_file import ir_artifact, read_ir, weights_path

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    import onnx
    from numpy.typing import NDArray

    from rtmo_deploy.artifact import Artifact
    from rtmo_deploy.runtime.contract import TensorSpec
    from rtmo_deploy.runtime.openvino_file import OpenvinoIr


#: Inputs a dynamic model is run on: batch, height, width. Square, wide and tall; the smallest there is.
SHAPES = ((1, 160, 160), (2, 96, 192), (5, 192, 64), (1, 32, 32))
OPENVINO_SHAPES = SHAPES[:2]
QUOTE = '"'
#: Names of checks.
READS, COMPILES, RUNS = "OpenVINO reads it", "OpenVINO compiles it", "runs"


@dataclass(frozen=True)
class Check:
    """One check.

    Attributes:
        name: What is checked.
        ok: Whether it passed; None if it was not checked, because this machine cannot.
        detail: What was found, or why it was not checked.
    """

    name: str
    ok: bool | None
    detail: str

    @property
    def failed(self) -> bool:
        """Whether it was checked and did not pass."""
        return self.ok is False

    @property
    def result(self) -> str:
        """``ok``, ``failed`` or ``not checked``."""
        return {True: "ok", False: "failed", None: "not checked"}[self.ok]


@dataclass(frozen=True)
class ValidationReport:
    """All checks of one model, in the order they were made; a check that needs a failed one is not made."""

    checks: tuple[Check, ...]

    @property
    def ok(self) -> bool:
        """Whether no check failed; those that were not checked say so themselves."""
        return not any(check.failed for check in self.checks)

    @classmethod
    def of(cls, steps: Iterable[Check]) -> ValidationReport:
        """Make checks one by one, up to the first that fails."""
        checks: list[Check] = []
        for check in steps:
            checks.append(check)
            if check.failed:
                break
        return cls(tuple(checks))

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form."""
        return {"ok": self.ok, "checks": [dict(vars(check)) for check in self.checks]}


def validate_onnx(path: str | os.PathLike[str]) -> ValidationReport:
    """Check an ONNX file, whoever made it: this project's metadata, if it has any, and as :func:`validate_model`.

    Raises:
        ArtifactError: The file cannot be read as ONNX at all.
        MissingDependencyError: ONNX Runtime is not installed.
    """
    path = Path(path)
    model = load_onnx(path)
    return ValidationReport.of(chain(_check_metadata(model, path), _steps(model, path)))


def validate_model(model: onnx.ModelProto, path: str | os.PathLike[str]) -> ValidationReport:
    """Check a parsed model; ``path`` is what findings name, and where external weights are looked for.

    The checks: the ONNX checker in full, strict shape inference, a session of ONNX Runtime on the CPU, and runs on
    structured images whose outputs must be finite and, twice in a row, the same.

    Raises:
        MissingDependencyError: ONNX Runtime is not installed.
    """
    path = Path(path)
    return ValidationReport.of(_steps(model, path))


def _steps(model: onnx.ModelProto, path: Path) -> Iterator[Check]:
    yield from _check_structure(model)
    yield from _check_runs(model, path)


def _check_metadata(model: onnx.ModelProto, path: Path) -> Iterator[Check]:
    if not any(entry.key.startswith(PREFIX) for entry in model.metadata_props):
        return
    try:
        artifact = onnx_artifact(path, model)
    except ArtifactError as error:
        yield Check("metadata", False, error.finding)
        return
    yield Check("metadata", True, "; ".join(artifact.corrected) or f"{artifact.architecture}, {artifact.precision}")


def _check_structure(model: onnx.ModelProto) -> Iterator[Check]:
    import onnx

    name = "onnx.checker"
    opsets = ", ".join(f"{entry.domain or 'ai.onnx'} {entry.version}" for entry in model.opset_import)
    try:
        onnx.checker.check_model(model, full_check=True)
        yield Check(name, True, f"{len(model.graph.node)} nodes, opset {opsets}, IR {model.ir_version}")
        name = "shape inference"
        inferred = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True).graph
        yield Check(name, True, f"strict; {len(inferred.value_info) + len(inferred.output)} tensors typed")
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        yield Check(name, False, " ".join(lines)[:300] or type(error).__name__)


def _check_runs(model: onnx.ModelProto, path: Path) -> Iterator[Check]:
    require_onnxruntime("Validating an ONNX model")
    import onnxruntime as ort

    from rtmo_deploy.runtime.onnxruntime_backend import EXACT, open_session, run_session

    try:
        session = open_session(
            model.SerializeToString(), where=path, config=EXACT if _has_16_bit_scales(model) else None
        )
    except ArtifactError as error:
        yield Check("ONNX Runtime session", False, error.finding)
        return
    shape = signature(model)
    outputs = "; ".join(map(str, shape.outputs))
    yield Check("ONNX Runtime session", True, f"onnxruntime {ort.__version__}: {outputs}")

    def run(images: NDArray[np.float32]) -> Mapping[str, object]:
        return run_session(session, {shape.inputs[0].name: images}, where=path)

    yield from _check_images(run, shape.inputs, SHAPES)


def _check_images(
    run: Callable[[NDArray[np.float32]], Mapping[str, object]],
    inputs: Sequence[TensorSpec],
    wanted: tuple[tuple[int, int, int], ...],
) -> Iterator[Check]:
    """:func:`run_checks` on these shapes, with the input's fixed sides put in, if the only input takes images."""
    source = inputs[0] if len(inputs) == 1 else None
    if source is None or len(source.shape) != 4 or source.dtype != "float32" or source.shape[1] not in {3, None}:
        yield Check(RUNS, False, f"the inputs are no single image tensor: {'; '.join(map(str, inputs))}")
        return
    batch, height, width = (side if isinstance(side, int) else None for side in (source.shape[0], *source.shape[2:]))
    yield from run_checks(run, list(dict.fromkeys((batch or b, height or h, width or w) for b, h, w in wanted)))


def _has_16_bit_scales(model: onnx.ModelProto) -> bool:
    """Whether Q/DQ pairs have 16-bit scales: ONNX Runtime 1.31 fuses such pairs into operators that it then refuses."""
    import onnx

    halves = {onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16}
    scales = {tensor.name for tensor in model.graph.initializer if tensor.data_type in halves}
    return any(node.op_type == "DequantizeLinear" and node.input[1] in scales for node in model.graph.node)


def run_checks(
    run: Callable[[NDArray[np.float32]], Mapping[str, object]], shapes: list[tuple[int, int, int]]
) -> Iterator[Check]:
    """Run something twice on structured images of each shape: outputs must be finite and both times the same.

    ``run`` takes ``(B, 3, H, W)`` float32 and gives outputs by name; an ArtifactError is a failed check.
    """
    from rtmo_deploy.measure.verify import structured_images

    for batch, height, width in shapes:
        images = structured_images(batch, height, width)
        name = f"run {batch}x3x{height}x{width}"
        try:
            first, again = (run(images) for _ in range(2))
        except ArtifactError as error:
            yield Check(name, False, error.finding)
            return
        yield _outputs_check(name, first, again)


def _outputs_check(name: str, first: Mapping[str, object], again: Mapping[str, object]) -> Check:
    numbers = {key: value for key, value in first.items() if _is_numeric(value)}
    bad = [key for key, value in numbers.items() if not np.isfinite(value).all()]
    unsteady = [key for key, value in numbers.items() if not np.array_equal(value, np.asarray(again[key]))]
    for fault, keys in (
        ("no tensors of numbers", sorted(first.keys() - numbers.keys())),
        ("not finite", bad),
        ("two runs differ", unsteady),
    ):
        if keys:
            return Check(name, False, f"{fault}: {', '.join(keys)}")
    return Check(name, True, "finite: " + ", ".join(f"{key} {list(value.shape)}" for key, value in numbers.items()))


def _is_numeric(value: object) -> TypeGuard[NDArray[Any]]:
    return isinstance(value, np.ndarray) and value.dtype.kind in "fiub"


def contract_findings(artifact: Artifact, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> list[str]:
    """Where the tensors in an engine's record are not what its artifact promises; empty if nowhere."""
    real, wrong = compare(artifact, inputs, outputs)
    if len(inputs) == 1 and inputs[0].name != "input":
        wrong.append(f"its input is called {inputs[0].name}, not input")
    return [*wrong, *differences(artifact, real)]


def companion_check(artifact: Artifact) -> Iterator[Check]:
    """Whether the second file of a model is the one it was made with; nothing where it needs none."""
    if artifact.companion is None:
        return
    try:
        read_companion(artifact)
    except ArtifactError as error:
        yield Check("companion", False, error.finding)
        return
    yield Check("companion", True, f"{artifact.companion.name} is the one it was made with")


def validate_openvino(path: Path) -> ValidationReport:
    """Check an OpenVINO model, whoever made it.

    The checks: its graph, read without OpenVINO; this project's metadata; the .bin file's length, and its SHA-256
    against the metadata; input and outputs against the metadata; the companion of a ``raw`` model; that OpenVINO reads
    and compiles it for the CPU, in the precision of its graph; and runs as for an ONNX model. What this machine cannot
    check, or a file of another maker does not tell, is not checked, and says why.
    """
    return ValidationReport.of(_openvino_steps(path, read_ir(path)))


def openvino_findings(path: Path, ir: OpenvinoIr, artifact: Artifact) -> list[str]:
    """What lies beside or in a model and is not as its metadata says; empty if nothing. OpenVINO is not needed."""
    checks = (_check_weights(path, ir, artifact), *companion_check(artifact))
    return [*artifact.corrected, *(check.detail for check in checks if check.failed)]


def _openvino_steps(path: Path, ir: OpenvinoIr) -> Iterator[Check]:
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
        yield from companion_check(artifact)
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
    request = compiled.create_infer_request()
    names = [output.get_any_name() for output in compiled.outputs]

    def run(images: NDArray[np.float32]) -> Mapping[str, object]:
        try:
            results = request.infer({0: images})
        except RuntimeError as error:
            raise ArtifactError(f"It does not run: {str(error).strip().splitlines()[-1]}", where=path) from error
        return {name: results[index].copy() for index, name in enumerate(names)}

    yield from _check_images(run, ir.inputs, OPENVINO_SHAPES)
