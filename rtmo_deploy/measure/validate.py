"""Is an ONNX model well formed? Checks that need nothing but the model itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from rtmo_deploy.errors import ArtifactError, MissingDependencyError
from rtmo_deploy.runtime.onnx_file import load_onnx, signature

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import onnx

__all__ = ["Check", "ValidationReport", "validate_model", "validate_onnx"]

#: Inputs a dynamic model is run on: batch, height, width. Square, wide and tall; the smallest there is.
SHAPES = ((1, 160, 160), (2, 96, 192), (5, 192, 64), (1, 32, 32))


@dataclass(frozen=True)
class Check:
    """One check: its name, whether it passed, and what was found."""

    name: str
    ok: bool
    detail: str


@dataclass(frozen=True)
class ValidationReport:
    """All checks of one model, in the order they were made; a check that needs a failed one is not made."""

    checks: tuple[Check, ...]

    @property
    def ok(self) -> bool:
        """Whether every check passed."""
        return all(check.ok for check in self.checks)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form."""
        return {"ok": self.ok, "checks": [dict(vars(check)) for check in self.checks]}


def validate_onnx(path: Path) -> ValidationReport:
    """Check an ONNX file, whoever made it.

    Raises:
        ArtifactError: The file cannot be read as ONNX at all.
        MissingDependencyError: ONNX Runtime is not installed.
    """
    return validate_model(load_onnx(path), path)


def validate_model(model: onnx.ModelProto, path: Path) -> ValidationReport:
    """Check a parsed model; ``path`` is what findings name, and where external weights are looked for.

    The checks: the ONNX checker in full, strict shape inference, a session of ONNX Runtime on the CPU, and runs on
    structured pictures whose outputs must be finite and, twice in a row, the same.

    Raises:
        MissingDependencyError: ONNX Runtime is not installed.
    """
    checks: list[Check] = []
    for check in _steps(model, path):
        checks.append(check)
        if not check.ok:
            break
    return ValidationReport(tuple(checks))


def _steps(model: onnx.ModelProto, path: Path) -> Iterator[Check]:
    yield _check_structure(model)
    yield _check_shapes(model)
    yield from _check_runs(model, path)


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
    from rtmo_deploy.measure.scenes import structured_images

    try:
        import onnxruntime as ort

        from rtmo_deploy.runtime.onnxruntime_backend import open_session, run_session
    except ModuleNotFoundError as error:
        raise MissingDependencyError("onnxruntime", purpose="Validating an ONNX model", extra="cpu") from error
    try:
        session = open_session(model.SerializeToString(), where=path)
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
    for batch, height, width in _shapes(source.shape):
        feeds = {source.name: structured_images(batch, height, width)}
        name = f"run {batch}x3x{height}x{width}"
        try:
            first, again = (run_session(session, feeds, where=path) for _ in range(2))
        except ArtifactError as error:
            yield Check(name, False, error.finding)
            return
        odd = [key for key, value in first.items() if not _is_numeric(value)]
        if odd:
            yield Check(name, False, f"no tensors of numbers: {', '.join(odd)}")
            return
        bad = [key for key, value in first.items() if not np.isfinite(value).all()]
        unsteady = [key for key, value in first.items() if not np.array_equal(value, again[key])]
        sizes = ", ".join(f"{key} {list(value.shape)}" for key, value in first.items())
        if bad:
            yield Check(name, False, f"not finite: {', '.join(bad)}")
        elif unsteady:
            yield Check(name, False, f"two runs differ: {', '.join(unsteady)}")
        else:
            yield Check(name, True, f"finite: {sizes}")


def _is_numeric(value: object) -> bool:
    return isinstance(value, np.ndarray) and value.dtype.kind in "fiub"


def _shapes(shape: tuple[int | str | None, ...]) -> list[tuple[int, int, int]]:
    """The shapes to run on, with the model's fixed sides put in, each once."""
    fixed = [side if isinstance(side, int) else None for side in (shape[0], shape[2], shape[3])]
    wanted = [(fixed[0] or batch, fixed[1] or height, fixed[2] or width) for batch, height, width in SHAPES]
    return list(dict.fromkeys(wanted))


def _short(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines)[:300] or type(error).__name__
