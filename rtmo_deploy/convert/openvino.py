"""Converts an ONNX model to OpenVINO, compared with its source before it is written."""

from __future__ import annotations

import hashlib
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from rtmo_deploy.artifact import Artifact, write_companion
from rtmo_deploy.convert.bias_shift import (
    case_images,
    choose_shift,
    classifier_nodes,
    decoded,
    executor,
    shift_logits,
)
from rtmo_deploy.convert.graph import copy_of
from rtmo_deploy.convert.step import ExportResult, Source, derived, read_source, require_onnxruntime, require_parity
from rtmo_deploy.errors import SetupError, UsageError
from rtmo_deploy.file_kind import Kind
from rtmo_deploy.files import atomic_write, temporary_folder
from rtmo_deploy.measure.bounds import CASTS, EXACT, ROUNDED
from rtmo_deploy.measure.verify import VerificationReport, verify
from rtmo_deploy.runtime.openvino_backend import compile_model, import_openvino, parse_model, require_no_plugin
from rtmo_deploy.runtime.openvino_file import SECTION, metadata_fields, weights_path

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

#: Precision of a float32 graph whose weights are kept in 16 bits; it is computed in float32.
COMPRESSED = "fp16-weights"
_PURPOSE = "Converting to OpenVINO"


def convert_openvino(
    source: Path,
    output: Path,
    *,
    compress_fp16: bool = False,
    verify: bool = True,
    progress: Callable[[str], None] = lambda _: None,
) -> ExportResult:
    """Convert an ONNX model, compare both, and only then write it.

    The .bin file is written beside the .xml file; a ``raw`` model's companion, which stays ONNX, is copied there.
    Nothing appears under its name before everything is on disk. If the machine stops between the renames, the pair
    does not fit together, which is noticed when it is read.

    Args:
        source: An ONNX model of this project or of MMDeploy.
        output: The .xml file to write.
        compress_fp16: Keep the weights in 16 bits: half the size, a little less exact, not faster.
        verify: Compare both models in float32 (needs ONNX Runtime).
        progress: Told of each step.

    Raises:
        UsageError: The output is not called .xml; 16-bit weights are asked for and it is not a float32 model; or
            another model's companion lies where its own goes.
        ArtifactError: The source cannot be read, or OpenVINO does not accept it.
        ParityError: OpenVINO finds other detections than ONNX Runtime. Nothing is written.
        MissingDependencyError: OpenVINO or ONNX Runtime is not installed.
        SetupError: The files cannot be written.
    """
    started = time.monotonic()
    if output.suffix.lower() != ".xml":
        raise UsageError(f"The output is called {output.name}.", remedy="Give it the suffix .xml.")
    import_openvino(_PURPOSE)
    if verify:
        require_onnxruntime("conversion")
    progress("reading the ONNX model")
    read = read_source(source, output)
    precision = read.artifact.precision
    require_no_plugin(read.artifact)
    if compress_fp16 and precision != "fp32":
        raise UsageError(
            f"Its precision is {precision}; only a float32 model's weights can be kept in 16 bits.",
            remedy="Leave it away.",
            where=source,
        )
    artifact = derived(
        read.artifact,
        output,
        *("openvino", "onnx", "onnxruntime", "onnxruntime-gpu"),
        kind=Kind.OPENVINO,
        precision=COMPRESSED if compress_fp16 else precision,
    )
    progress("converting")
    bare = copy_of(read.model)
    del bare.metadata_props[:]  # OpenVINO would carry over the metadata of the ONNX file
    graph = parse_model(bare.SerializeToString(), where=source)
    files = _save(graph, compress_fp16=compress_fp16)
    report = None
    if verify:
        report = verify_openvino(read, files, artifact, progress)
        require_parity(
            report.failures(),
            "The OpenVINO model does not find what the ONNX model finds",
            remedy="Convert with --no-verify to look at the files, and please report it.",
            where=artifact.path,
        )
        artifact = replace(artifact, verified={"parity": report.to_dict()})
    for key, value in metadata_fields(artifact, hashlib.sha256(files[1]).hexdigest()).items():
        graph.set_rt_info(value, [SECTION, key])
    described = _save(graph, compress_fp16=compress_fp16)
    if described[1] != files[1]:
        raise AssertionError("OpenVINO wrote other weights the second time")
    progress("writing")
    _write(output, described, artifact, read.companion)
    others = (output.with_name(artifact.companion.name),) if artifact.companion else ()
    return ExportResult(
        artifact=artifact,
        files=(output, weights_path(output), *others),
        size=sum(map(len, described)),
        seconds=time.monotonic() - started,
        verification=report,
    )


def verify_openvino(
    source: Source, files: tuple[bytes, bytes], artifact: Artifact, progress: Callable[[str], None]
) -> VerificationReport:
    """Run the bytes that will be written and their source on the same images, both in float32, and compare.

    Each level's logits are shifted on both sides, see :mod:`rtmo_deploy.convert.bias_shift`.
    """
    import onnxruntime as ort

    images = case_images(artifact)
    progress("running ONNX Runtime")
    shift = choose_shift(source.model, images, artifact)
    expected = map(decoded(executor(shift_logits(source.model, shift), artifact), artifact, source.companion), images)
    model = parse_model(*files, where=artifact.path)
    _shift_openvino(
        model, {node.output[0]: own for node, own in zip(classifier_nodes(source.model), shift, strict=True)}
    )
    compiled = compile_model(model, precision="fp32", where=artifact.path)
    names = [output.get_any_name() for output in compiled.outputs]

    def execute(pixels: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
        results = compiled(pixels)
        return {name: results[at] for at, name in enumerate(names)}

    bounds = EXACT if artifact.precision == "fp32" else ROUNDED
    if artifact.precision.startswith("int8"):  # sums in another order move values across a step, as a cast does
        bounds = CASTS["int8+fp16"]
    candidate = decoded(execute, artifact, source.companion)
    cases = verify(images, list(expected), candidate, bounds, progress=progress, name="ONNX Runtime")
    return VerificationReport(f"ONNX Runtime {ort.__version__} on the CPU", tuple(cases), bounds, shift)


def _shift_openvino(model: Any, shifts: Mapping[str, float]) -> None:
    """Add a number to the logits of each level of an ``openvino.Model``, in place, by their names in the source."""
    from openvino import opset13 as ops

    found: set[str] = set()
    for node in model.get_ordered_ops():
        for output in node.outputs():
            own = output.get_names() & shifts.keys()
            if own:
                targets = output.get_target_inputs()
                moved = ops.add(node, ops.constant(shifts[next(iter(own))], dtype=output.get_element_type()))
                for target in targets:
                    target.replace_source_output(moved.output(0))
                found |= own
    if found != shifts.keys():
        raise AssertionError(f"{len(found)} of the graph's {len(shifts)} classifiers were found in the OpenVINO model")


def _save(graph: Any, *, compress_fp16: bool) -> tuple[bytes, bytes]:
    ov = import_openvino(_PURPOSE)
    with temporary_folder() as folder:
        path = folder / "model.xml"
        try:
            ov.save_model(graph, path, compress_to_fp16=compress_fp16)
            return path.read_bytes(), weights_path(path).read_bytes()
        except (RuntimeError, OSError) as error:
            raise SetupError(
                f"OpenVINO could not write the model: {str(error).strip().splitlines()[-1]}",
                remedy="Check that the folder for temporary files (TMPDIR) has space left.",
                where=folder,
            ) from error


def _write(output: Path, files: tuple[bytes, bytes], artifact: Artifact, companion: bytes | None) -> None:
    weights = weights_path(output)
    for path in (output, weights):
        if path.is_dir():
            raise SetupError("This is a folder.", remedy="Give another output.", where=path)
    was_there = weights.exists()
    try:
        # Both are complete on disk before either gets its name; the .xml file, which is what others open, comes last.
        with atomic_write(output) as xml:
            xml.write_bytes(files[0])
            with atomic_write(weights) as binary:
                binary.write_bytes(files[1])
                write_companion(artifact, companion, output)
    except BaseException:
        if not was_there:
            weights.unlink(missing_ok=True)
        raise
