"""An ONNX model becomes an OpenVINO model, compared with it before it is written."""

from __future__ import annotations

import hashlib
import tempfile
import time
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnx

from rtmo_deploy.artifact import Artifact, Kind, Parent, made_with
from rtmo_deploy.companion import read_companion, refuse_companion, write_companion
from rtmo_deploy.errors import MissingDependencyError, ParityError, SetupError, UsageError
from rtmo_deploy.files import atomic_write, sha256_of
from rtmo_deploy.runtime.onnx_file import load_onnx, onnx_artifact
from rtmo_deploy.runtime.openvino_backend import import_openvino, parse_model, require_no_plugin
from rtmo_deploy.runtime.openvino_file import metadata_fields, weights_path
from rtmo_deploy.runtime.openvino_ir import SECTION

if TYPE_CHECKING:
    from collections.abc import Callable

    from rtmo_deploy.measure.verify import VerificationReport

#: Precision of a float32 graph whose weights are kept in 16 bits; it is computed in float32.
COMPRESSED = "fp16-weights"


@dataclass(frozen=True)
class OpenvinoResult:
    """What a conversion made.

    Attributes:
        artifact: The .xml file and what it knows of itself.
        weights: The .bin file.
        size: Bytes of both.
        seconds: Time taken.
        verification: Comparison with ONNX Runtime; None if it was not verified.
    """

    artifact: Artifact
    weights: Path
    size: int
    seconds: float
    verification: VerificationReport | None


def convert_openvino(
    source: Path,
    output: Path,
    *,
    compress_fp16: bool = False,
    verify: bool = True,
    progress: Callable[[str], None] = lambda _: None,
) -> OpenvinoResult:
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
    _need_packages(verify=verify)
    progress("reading the ONNX model")
    model = load_onnx(source)
    parent = onnx_artifact(source, model)
    require_no_plugin(parent)
    if compress_fp16 and parent.precision != "fp32":
        raise UsageError(
            f"Its precision is {parent.precision}; only a float32 model's weights can be kept in 16 bits.",
            remedy="Leave it away.",
            where=source,
        )
    companion = read_companion(parent)
    refuse_companion(parent, output)
    artifact = _describe(parent, output, compress_fp16=compress_fp16)
    progress("converting")
    graph = parse_model(_without_metadata(model), where=source)
    files = _serialise(graph, artifact, compress_fp16=compress_fp16)
    report = None
    if verify:
        from rtmo_deploy.convert.openvino_verify import verify_openvino

        report = verify_openvino(model, files, artifact, companion=companion, progress=progress)
        _require_parity(report, output)
        artifact = replace(artifact, verified={"parity": report.to_dict()})
        weights = files[1]
        files = _serialise(graph, artifact, compress_fp16=compress_fp16)
        if files[1] != weights:
            raise AssertionError("OpenVINO wrote other weights the second time")
    progress("writing")
    _write(output, files, artifact, companion)
    return OpenvinoResult(
        artifact=artifact,
        weights=weights_path(output),
        size=sum(map(len, files)),
        seconds=time.monotonic() - started,
        verification=report,
    )


def _need_packages(*, verify: bool) -> None:
    import_openvino("Converting to OpenVINO")
    if verify and find_spec("onnxruntime") is None:
        purpose = "Verifying the conversion (--no-verify skips it)"
        raise MissingDependencyError("onnxruntime", purpose=purpose, extra="cpu")


def _describe(parent: Artifact, output: Path, *, compress_fp16: bool) -> Artifact:
    return replace(
        parent,
        path=output,
        kind=Kind.OPENVINO,
        precision=COMPRESSED if compress_fp16 else parent.precision,
        parents=(Parent(parent.path.name, sha256_of(parent.path)),),
        versions=made_with("openvino", "onnx", "onnxruntime", "onnxruntime-gpu"),
        verified=None,
    )


def _without_metadata(model: onnx.ModelProto) -> bytes:
    """The model's bytes; OpenVINO would carry over what the ONNX file says of itself, which is not true of the new."""
    bare = onnx.ModelProto()
    bare.CopyFrom(model)
    del bare.metadata_props[:]
    return bare.SerializeToString()


def _serialise(graph: Any, artifact: Artifact, *, compress_fp16: bool) -> tuple[bytes, bytes]:
    """Content of the .xml and of the .bin file; the .xml file holds the hash of the other, so it is made twice."""
    files = _save(graph, compress_fp16=compress_fp16)
    digest = hashlib.sha256(files[1]).hexdigest()
    for key, value in metadata_fields(artifact, digest).items():
        graph.set_rt_info(value, [SECTION, key])
    files = _save(graph, compress_fp16=compress_fp16)
    if hashlib.sha256(files[1]).hexdigest() != digest:
        raise AssertionError("OpenVINO wrote other weights the second time")
    return files


def _save(graph: Any, *, compress_fp16: bool) -> tuple[bytes, bytes]:
    ov = import_openvino("Converting to OpenVINO")
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


def _require_parity(report: VerificationReport, output: Path) -> None:
    failures = report.failures()
    if failures:
        more = f" (and {len(failures) - 3} more)" if len(failures) > 3 else ""
        raise ParityError(
            f"The OpenVINO model does not find what the ONNX model finds: {'; '.join(failures[:3])}{more}.",
            remedy="Nothing was written. Convert with --no-verify to look at the files, and please report it.",
            where=output,
        )


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
