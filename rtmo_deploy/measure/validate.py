"""Is an ONNX model well formed? Checks that need nothing but the model itself.

What a check is, and how runs are judged, is shared with the checks of OpenVINO models and of engines beside this.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any, TypeGuard

import numpy as np

from rtmo_deploy.artifact import PREFIX
from rtmo_deploy.errors import ArtifactError, MissingDependencyError
from rtmo_deploy.runtime.onnx_file import load_onnx, onnx_artifact, signature

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    import onnx
    from numpy.typing import NDArray

#: Inputs a dynamic model is run on: batch, height, width. Square, wide and tall; the smallest there is.
SHAPES = ((1, 160, 160), (2, 96, 192), (5, 192, 64), (1, 32, 32))


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

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form."""
        return {"ok": self.ok, "checks": [dict(vars(check)) for check in self.checks]}


def validate_onnx(path: Path) -> ValidationReport:
    """Check an ONNX file, whoever made it: this project's metadata, if it has any, and as :func:`validate_model`.

    Raises:
        ArtifactError: The file cannot be read as ONNX at all.
        MissingDependencyError: ONNX Runtime is not installed.
    """
    model = load_onnx(path)
    return until_failed(chain(_check_metadata(model, path), _steps(model, path)))


def validate_model(model: onnx.ModelProto, path: Path) -> ValidationReport:
    """Check a parsed model; ``path`` is what findings name, and where external weights are looked for.

    The checks: the ONNX checker in full, strict shape inference, a session of ONNX Runtime on the CPU, and runs on
    structured pictures whose outputs must be finite and, twice in a row, the same.

    Raises:
        MissingDependencyError: ONNX Runtime is not installed.
    """
    return until_failed(_steps(model, path))


def until_failed(steps: Iterator[Check]) -> ValidationReport:
    """Make checks one by one, up to the first that fails."""
    checks: list[Check] = []
    for check in steps:
        checks.append(check)
        if check.failed:
            break
    return ValidationReport(tuple(checks))


def _steps(model: onnx.ModelProto, path: Path) -> Iterator[Check]:
    yield _check_structure(model)
    yield _check_shapes(model)
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


def _check_structure(model: onnx.ModelProto) -> Check:
    import onnx

    opsets = ", ".join(f"{entry.domain or 'ai.onnx'} {entry.version}" for entry in model.opset_import)
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        return Check("onnx.checker", False, _short(error))
    return Check("onnx.checker", True, f"{len(model.graph.node)} nodes, opset {opsets}, IR {model.ir_version}")


def _check_shapes(model: onnx.ModelProto) -> Check:
    import onnx

    try:
        inferred = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True)
    except onnx.shape_inference.InferenceError as error:
        return Check("shape inference", False, _short(error))
    known = len(inferred.graph.value_info) + len(inferred.graph.output)
    return Check("shape inference", True, f"strict; {known} tensors typed")


def _check_runs(model: onnx.ModelProto, path: Path) -> Iterator[Check]:
    try:
        import onnxruntime as ort

        from rtmo_deploy.runtime.onnxruntime_backend import open_session, run_session
        from rtmo_deploy.runtime.onnxruntime_int8 import EXACT
    except ModuleNotFoundError as error:
        raise MissingDependencyError("onnxruntime", purpose="Validating an ONNX model", extra="cpu") from error
    try:
        session = open_session(model.SerializeToString(), where=path, config=EXACT if _has_half_pairs(model) else None)
    except ArtifactError as error:
        yield Check("ONNX Runtime session", False, error.finding)
        return
    shape = signature(model)
    outputs = "; ".join(map(str, shape.outputs))
    yield Check("ONNX Runtime session", True, f"onnxruntime {ort.__version__}: {outputs}")
    source = shape.inputs[0] if len(shape.inputs) == 1 else None
    if source is None or len(source.shape) != 4 or source.dtype != "float32" or source.shape[1] not in {3, None}:
        yield Check("runs", False, f"the inputs are no single picture tensor: {'; '.join(map(str, shape.inputs))}")
        return

    def run(images: NDArray[np.float32]) -> Mapping[str, object]:
        return run_session(session, {source.name: images}, where=path)

    yield from run_checks(run, run_shapes(source.shape))


def _has_half_pairs(model: onnx.ModelProto) -> bool:
    """Whether scales of Q/DQ pairs are half: ONNX Runtime 1.31 fuses such pairs into operators that it then refuses."""
    import onnx

    halves = {onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16}
    scales = {tensor.name for tensor in model.graph.initializer if tensor.data_type in halves}
    return any(node.op_type == "DequantizeLinear" and node.input[1] in scales for node in model.graph.node)


def run_checks(
    run: Callable[[NDArray[np.float32]], Mapping[str, object]], shapes: list[tuple[int, int, int]]
) -> Iterator[Check]:
    """Run something twice on structured pictures of each size: outputs must be finite and both times the same.

    Args:
        run: From ``(B, 3, H, W)`` float32 to outputs by name; what it raises as an ArtifactError is a failed check.
        shapes: Batch, height, width.
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
    odd = first.keys() - numbers.keys()
    if odd:
        return Check(name, False, f"no tensors of numbers: {', '.join(sorted(odd))}")
    bad = [key for key, value in numbers.items() if not np.isfinite(value).all()]
    if bad:
        return Check(name, False, f"not finite: {', '.join(bad)}")
    unsteady = [key for key, value in numbers.items() if not np.array_equal(value, np.asarray(again[key]))]
    if unsteady:
        return Check(name, False, f"two runs differ: {', '.join(unsteady)}")
    return Check(name, True, "finite: " + ", ".join(f"{key} {list(value.shape)}" for key, value in numbers.items()))


def _is_numeric(value: object) -> TypeGuard[NDArray[Any]]:
    return isinstance(value, np.ndarray) and value.dtype.kind in "fiub"


def run_shapes(
    sides: tuple[int | str | None, ...], wanted: tuple[tuple[int, int, int], ...] = SHAPES
) -> list[tuple[int, int, int]]:
    """Shapes to run on: batch, height, width, each once, with an input's fixed sides put in.

    Args:
        sides: The input's four; a number where fixed.
        wanted: What a wholly dynamic input is run on.
    """
    fixed = [side if isinstance(side, int) else None for side in (sides[0], sides[2], sides[3])]
    return list(dict.fromkeys((fixed[0] or b, fixed[1] or h, fixed[2] or w) for b, h, w in wanted))


def _short(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines)[:300] or type(error).__name__
