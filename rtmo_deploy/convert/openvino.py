"""Converts an ONNX model to OpenVINO, compared with its source before it is written."""

from __future__ import annotations

import hashlib
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rtmo_deploy.artifact import Artifact, write_companion
from rtmo_deploy.convert.graph import copy_of
from rtmo_deploy.convert.step import ExportResult, Source, derived, read_source, require_onnxruntime, require_parity
from rtmo_deploy.errors import SetupError, UsageError
from rtmo_deploy.file_kind import Kind
from rtmo_deploy.files import atomic_write
from rtmo_deploy.runtime.openvino_backend import import_openvino, parse_model, require_no_plugin
from rtmo_deploy.runtime.openvino_file import SECTION, metadata_fields, weights_path

if TYPE_CHECKING:
    from collections.abc import Callable

    import onnx

    from rtmo_deploy.measure.verify import VerificationReport

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
        ParityError: OpenVINO finds other people than ONNX Runtime does. Nothing is written.
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
    graph = parse_model(_without_metadata(read.model), where=source)
    bare = _save(graph, compress_fp16=compress_fp16)
    report = None
    if verify:
        report = _verify(read, bare, artifact, progress)
        artifact = replace(artifact, verified={"parity": report.to_dict()})
    files = _with_metadata(graph, artifact, bare[1], compress_fp16=compress_fp16)
    progress("writing")
    weights = weights_path(output)
    _write(output, files, artifact, read.companion)
    others = (output.with_name(artifact.companion.name),) if artifact.companion else ()
    return ExportResult(
        artifact=artifact,
        files=(output, weights, *others),
        size=sum(map(len, files)),
        seconds=time.monotonic() - started,
        verification=report,
    )


def _verify(
    source: Source, files: tuple[bytes, bytes], artifact: Artifact, progress: Callable[[str], None]
) -> VerificationReport:
    from rtmo_deploy.convert.openvino_verify import verify_openvino

    report = verify_openvino(source.model, files, artifact, companion=source.companion, progress=progress)
    require_parity(
        report.failures(),
        "The OpenVINO model does not find what the ONNX model finds",
        remedy="Convert with --no-verify to look at the files, and please report it.",
        where=artifact.path,
    )
    return report


def _without_metadata(model: onnx.ModelProto) -> bytes:
    """The model's bytes; OpenVINO would carry over what the ONNX file says of itself, which is not true of the new."""
    bare = copy_of(model)
    del bare.metadata_props[:]
    return bare.SerializeToString()


def _with_metadata(graph: Any, artifact: Artifact, weights: bytes, *, compress_fp16: bool) -> tuple[bytes, bytes]:
    """Content of both files, with what the model says of itself and the hash of its weights in the .xml file."""
    for key, value in metadata_fields(artifact, hashlib.sha256(weights).hexdigest()).items():
        graph.set_rt_info(value, [SECTION, key])
    files = _save(graph, compress_fp16=compress_fp16)
    if files[1] != weights:
        raise AssertionError("OpenVINO wrote other weights the second time")
    return files


def _save(graph: Any, *, compress_fp16: bool) -> tuple[bytes, bytes]:
    ov = import_openvino(_PURPOSE)
    with tempfile.TemporaryDirectory(prefix="rtmo-deploy-") as folder:
        path = Path(folder) / "model.xml"
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
