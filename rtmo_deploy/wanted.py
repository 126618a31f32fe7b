"""What a file must be where one is taken, and the error that names what it is instead."""

from __future__ import annotations

import os
import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rtmo_deploy.errors import ArtifactError, CheckpointError, InputDataError, RtmoDeployError, UsageError
from rtmo_deploy.file_kind import FORMATS, FileKind, kind_of

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True)
class Wanted:
    """A kind of file that is taken.

    Attributes:
        words: How a sentence names it.
        kinds: What a file's bytes may be.
        error: What is raised for any other.
        remedy: What to do where nothing better is known.
    """

    words: str
    kinds: frozenset[FileKind]
    error: type[RtmoDeployError]
    remedy: str = "Check the path and the order of the arguments."


# What no checkpoint holds, such as a program or a foreign pickle, is explained by the checkpoint's reader.
_CHECKPOINTS = frozenset(
    {FileKind.TORCH, FileKind.TORCH_LEGACY, FileKind.SAFETENSORS, FileKind.TORCHSCRIPT, FileKind.PICKLE}
)
_EXPORTED = frozenset(FORMATS)
_EXPORT = "Make one with: rtmo-deploy export CKPT"

CHECKPOINT = Wanted("a checkpoint (.pth, .safetensors)", _CHECKPOINTS, CheckpointError)
ONNX = Wanted("an ONNX model", frozenset({FileKind.ONNX}), ArtifactError, _EXPORT)
EXPORTED = Wanted("an ONNX model, an OpenVINO model (.xml) or a TensorRT engine", _EXPORTED, ArtifactError, _EXPORT)
MODEL = Wanted("a checkpoint, an ONNX or OpenVINO (.xml) model or an engine", _CHECKPOINTS | _EXPORTED, ArtifactError)
BUILDABLE = Wanted("an ONNX model or a checkpoint", _CHECKPOINTS | {FileKind.ONNX}, ArtifactError)
# Of a file in no known format, the reader of text says what is wrong.
ANNOTATIONS = Wanted(
    "an annotation file (JSON in COCO's format)",
    frozenset({FileKind.ANNOTATION, FileKind.JSON, FileKind.UNKNOWN}),
    InputDataError,
)
CALIBRATION = Wanted(
    "a calibration file (JSON)", frozenset({FileKind.JSON, FileKind.UNKNOWN, FileKind.TEXT}), InputDataError
)
OPENVINO = Wanted(
    "an OpenVINO model (.xml)", frozenset({FileKind.OPENVINO}), ArtifactError, _EXPORT + " --format openvino"
)
RECIPE = Wanted(
    "a recipe (YAML)",
    frozenset({FileKind.RECIPE, FileKind.YAML, FileKind.TEXT, FileKind.JSON, FileKind.UNKNOWN}),
    UsageError,
    "Recipes to begin with are in the folder recipes of the repository.",
)

_BY_SUFFIX = {
    **{suffix: kind for kind, known in FORMATS.items() for suffix in known.suffixes},
    ".safetensors": FileKind.SAFETENSORS,
    **dict.fromkeys((".pth", ".pt", ".ckpt"), FileKind.TORCH),
}
_UNSURE = {
    (FileKind.ZIP, FileKind.TORCH),
    (FileKind.XML, FileKind.OPENVINO),
    (FileKind.TEXT, FileKind.ENGINE),
}
_REMEDIES = {
    FileKind.EMPTY: "Copy or download it again.",
    FileKind.LFS_POINTER: "Fetch the file itself with: git lfs pull",
    FileKind.HTML: "A web page was saved in place of the download: fetch the file itself.",
    FileKind.SPECIAL: "Name a regular file.",
    FileKind.ENGINE_RECORD: "Name the engine that it lies beside.",
    **dict.fromkeys(
        (
            *(FileKind.ZIP, FileKind.TAR, FileKind.GZIP, FileKind.BZIP2, FileKind.XZ, FileKind.ZSTD),
            FileKind.SEVEN_ZIP,
        ),
        "Unpack it first.",
    ),
}


def kind_of_suffix(path: Path, otherwise: FileKind = FileKind.UNKNOWN) -> FileKind:
    """What a model file is by its suffix alone."""
    return _BY_SUFFIX.get(path.suffix.lower(), otherwise)


def likely_kind(path: Path) -> FileKind:
    """What a file is by its bytes; by its suffix where they do not tell, or where there is no file."""
    try:
        kind = kind_of(path)
    except OSError:
        kind = FileKind.UNKNOWN
    named = kind_of_suffix(path, kind)
    # What was cut short begins as any archive or XML does, and what an engine begins with is NVIDIA's affair.
    tells = kind is not FileKind.UNKNOWN and (kind, named) not in _UNSURE
    return kind if tells else named


def described(path: Path) -> str:
    """How a sentence names what a file is, with its article."""
    kind = likely_kind(path)
    if kind is FileKind.UNKNOWN and path.suffix.lower() == ".bin" and path.with_suffix(".xml").is_file():
        return "the weights of an OpenVINO model"
    return kind.article


def require(path: Path, wanted: Wanted, by: str = "") -> FileKind:
    """Check, from a file's first and last bytes, that it is what is wanted.

    Args:
        path: The file.
        wanted: What it must be. Its reader finds out whether it is whole.
        by: The command that takes it, for the message.

    Returns:
        What it is: one of ``wanted.kinds``.

    Raises:
        RtmoDeployError: ``wanted.error``: it is something else, does not exist or cannot be read.
    """
    if not os.path.exists(path):  # noqa: PTH110 - a name that no file can have is none
        raise wanted.error("There is no such file.", remedy="Check the path.", where=path)
    kind = likely_kind(path)
    if kind in wanted.kinds:
        return kind
    taken = f"and '{by}' takes {wanted.words}" if by else f"not {wanted.words}"
    raise wanted.error(f"It is {described(path)}, {taken}.", remedy=_remedy(path, kind, wanted), where=path)


def _remedy(path: Path, kind: FileKind, wanted: Wanted) -> str:
    if described(path) != kind.article:
        return f"Name the model itself: {path.with_suffix('.xml')}"
    if kind in _CHECKPOINTS and FileKind.ONNX in wanted.kinds:
        return f"Export it first: rtmo-deploy export {shlex.quote(str(path))}"
    if kind in _EXPORTED and wanted.kinds & {*_CHECKPOINTS, FileKind.ONNX}:
        return "Name the model that it was made from."
    if kind is FileKind.FOLDER and wanted is not RECIPE:
        return "Name a file in it."
    return _REMEDIES.get(kind, wanted.remedy)
