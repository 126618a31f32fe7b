"""Says what a file is by its bytes, and which functions read, check and make each format of exported models.

Nothing is decoded: the first and the last bytes are compared with the signatures of the formats that users mix up.
A damaged file of a known format is still of that kind; whether it is whole is for its reader to find out.
"""

from __future__ import annotations

import codecs
import importlib
import os
import re
import shlex
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Self

from rtmo_deploy.errors import ArtifactError, CheckpointError, InputDataError, RtmoDeployError, UsageError
from rtmo_deploy.files import UnreadableError, open_regular

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


_WINDOW = 1 << 16


class FileKind(StrEnum):
    """What a file is."""

    #: How a sentence names it, with its article, as in "a JPEG image".
    article: str

    ONNX = "onnx", "an ONNX model"
    OPENVINO = "openvino", "an OpenVINO model"
    ENGINE = "engine", "a TensorRT engine"
    ENGINE_RECORD = "engine-record", "the record of an engine (JSON)"
    TORCH = "torch", "a PyTorch checkpoint"
    TORCH_LEGACY = "torch-legacy", "a PyTorch checkpoint (legacy format)"
    TORCHSCRIPT = "torchscript", "a TorchScript program"
    SAFETENSORS = "safetensors", "a safetensors checkpoint"
    JPEG = "jpeg", "a JPEG image"
    PNG = "png", "a PNG image"
    WEBP = "webp", "a WebP image"
    HEIC = "heic", "a HEIC image"
    AVIF = "avif", "an AVIF image"
    GIF = "gif", "a GIF image"
    BMP = "bmp", "a BMP image"
    TIFF = "tiff", "a TIFF image"
    JPEG_2000 = "jpeg-2000", "a JPEG 2000 image"
    JPEG_XL = "jpeg-xl", "a JPEG XL image"
    PNM = "pnm", "a PNM image"
    SVG = "svg", "an SVG drawing"
    VIDEO = "video", "a video"
    ANNOTATION = "annotation", "an annotation file (JSON)"
    JSON = "json", "a JSON file"
    RECIPE = "recipe", "a recipe (YAML)"
    YAML = "yaml", "a YAML file"
    HTML = "html", "an HTML page"
    XML = "xml", "an XML file"
    LFS_POINTER = "lfs-pointer", "a Git LFS pointer, not the file itself"
    TEXT = "text", "a text file"
    PICKLE = "pickle", "a pickle, but not one that torch.save wrote"
    NUMPY = "numpy", "a NumPy array"
    HDF5 = "hdf5", "an HDF5 file"
    PDF = "pdf", "a PDF document"
    ZIP = "zip", "a ZIP archive"
    TAR = "tar", "a tar archive"
    GZIP = "gzip", "a gzip archive"
    BZIP2 = "bzip2", "a bzip2 archive"
    XZ = "xz", "an xz archive"
    ZSTD = "zstd", "a Zstandard archive"
    SEVEN_ZIP = "7z", "a 7z archive"
    EMPTY = "empty", "an empty file"
    FOLDER = "folder", "a folder"
    SPECIAL = "special", "not a regular file (a FIFO, a device or a socket)"
    UNKNOWN = "unknown", "in no format that is known here"

    def __new__(cls, name: str, article: str = "") -> Self:
        """A kind, and how a sentence names it."""
        member = str.__new__(cls, name)
        member._value_ = name
        member.article = article
        return member

    @property
    def is_image(self) -> bool:
        """Whether it is an image, of pixels; of any format, also one that is not read here."""
        return self in _IMAGES


_IMAGES = frozenset(
    {
        FileKind.JPEG, FileKind.PNG, FileKind.WEBP, FileKind.HEIC, FileKind.AVIF, FileKind.GIF, FileKind.BMP,
        FileKind.TIFF, FileKind.JPEG_2000, FileKind.JPEG_XL, FileKind.PNM,
    }
)  # fmt: skip


class Kind(StrEnum):
    """What kind of file an artifact is: a checkpoint, or in one of :data:`FORMATS`."""

    CHECKPOINT = "checkpoint"
    ONNX = "onnx"
    ENGINE = "engine"
    OPENVINO = "openvino"


@dataclass(frozen=True)
class Format:
    """A format of exported models. Functions stand as ``module:name`` and are loaded when they are called for.

    Attributes:
        suffixes: Of its files; an output has the first.
        title: How the format is called.
        remedy: What to do with a file that does not pass its validation.
        reader: What a file is: ``(path) -> Artifact``. Files that are not trusted need more arguments.
        validator: ``(path) -> ValidationReport``.
        inspector: What ``inspect`` shows of a file: ``(path) -> dict``.
        exporter: Makes a file of an ONNX model for ``export --format``:
            ``(source, output, *, verify, progress) -> ExportResult``. None where another command makes it.
        needs: The package that the exporter needs and the extra that installs it; None for none.
        beside: Names of files that belong to one, of its ``{stem}`` and ``{name}``.
        magic: Bytes that a file begins with, where that tells; others are told by :func:`kind_of`.
    """

    suffixes: tuple[str, ...]
    title: str
    remedy: str
    reader: str
    validator: str
    inspector: str
    exporter: str | None = None
    needs: tuple[str, str] | None = None
    beside: tuple[str, ...] = ()
    magic: bytes = b""

    @staticmethod
    def load(function: str) -> Callable[..., Any]:
        """The function that a field names."""
        module, name = function.split(":")
        found: Callable[..., Any] = getattr(importlib.import_module(f"rtmo_deploy.{module}"), name)
        return found

    def files_beside(self, path: Path) -> list[Path]:
        """The files that belong to a file of this format."""
        return [path.with_name(name.format(stem=path.stem, name=path.name)) for name in self.beside]


#: The formats of exported models. A new one is a :class:`FileKind`, a :class:`Kind` and an entry here, a module that
#: converts to it, and a backend: see docs/architecture.md.
FORMATS: dict[FileKind, Format] = {
    FileKind.ONNX: Format(
        suffixes=(".onnx",),
        title="ONNX",
        remedy="Export it again.",
        reader="runtime.onnx_file:read_onnx_artifact",
        validator="measure:validate_onnx",
        inspector="cli.inspect:onnx_facts",
    ),
    FileKind.OPENVINO: Format(
        suffixes=(".xml",),
        title="OpenVINO",
        remedy="Copy both files again, or convert the ONNX model again.",
        reader="runtime.openvino_file:openvino_artifact",
        validator="measure.validate:validate_openvino",
        inspector="cli.inspect:openvino_facts",
        exporter="convert.openvino:convert_openvino",
        needs=("openvino", "openvino"),
        beside=("{stem}.bin",),
    ),
    FileKind.ENGINE: Format(
        suffixes=(".engine", ".plan"),
        title="TensorRT",
        remedy="Copy the engine and its record again, or build it again with 'rtmo-deploy build-trt'.",
        reader="runtime.engine_file:engine_artifact",
        validator="measure.validate_engine:validate_engine",
        inspector="cli.inspect:engine_facts",
        beside=("{name}.json",),
        magic=b"ftrt",
    ),
}

#: Offset, bytes there, kind.
_SIGNATURES = (
    (0, b"\xff\xd8\xff", FileKind.JPEG),
    (0, b"\x89PNG\r\n\x1a\n", FileKind.PNG),
    (0, b"GIF87a", FileKind.GIF),
    (0, b"GIF89a", FileKind.GIF),
    (0, b"II*\0", FileKind.TIFF),
    (0, b"MM\0*", FileKind.TIFF),
    (0, b"II+\0", FileKind.TIFF),
    (0, b"MM\0+", FileKind.TIFF),
    (0, b"\0\0\0\x0cjP  ", FileKind.JPEG_2000),
    (0, b"\xff\x4f\xff\x51", FileKind.JPEG_2000),
    (0, b"\0\0\0\x0cJXL ", FileKind.JPEG_XL),
    (0, b"\xff\x0a", FileKind.JPEG_XL),
    (8, b"WEBP", FileKind.WEBP),
    (8, b"AVI ", FileKind.VIDEO),
    (0, b"\x1aE\xdf\xa3", FileKind.VIDEO),
    (0, b"\0\0\x01\xba", FileKind.VIDEO),
    (0, b"\x93NUMPY", FileKind.NUMPY),
    (0, b"\x89HDF", FileKind.HDF5),
    (0, b"%PDF", FileKind.PDF),
    (257, b"ustar", FileKind.TAR),
    (0, b"\x1f\x8b", FileKind.GZIP),
    (0, b"BZh", FileKind.BZIP2),
    (0, b"\xfd7zXZ", FileKind.XZ),
    (0, b"\x28\xb5\x2f\xfd", FileKind.ZSTD),
    (0, b"7z\xbc\xaf", FileKind.SEVEN_ZIP),
    (0, b"version https://git-lfs", FileKind.LFS_POINTER),
)
# The number that a legacy file of torch.save begins with, as pickle protocol 2 and newer write it.
_LEGACY_HEAD = b"\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19"
_BRANDS = {
    **dict.fromkeys((b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1"), FileKind.HEIC),
    **dict.fromkeys((b"avif", b"avis"), FileKind.AVIF),
}
_RECIPE_FIELD = re.compile(r"^(artifacts|data|model|epochs|source):", re.MULTILINE)
_YAML_FIELD = re.compile(r"(---|[\w\"' .-]+:(\s|$)|- \S)")


def kind_of(path: Path) -> FileKind:
    """What a file is, by its bytes; its name does not count. At most 128 KiB are read.

    A folder is :attr:`FileKind.FOLDER`; a FIFO, a device or a name that no file can have is
    :attr:`FileKind.SPECIAL`. Nothing waits for a writer.

    Raises:
        OSError: There is no such file, or it may not be read.
    """
    if "\0" not in str(path) and path.is_dir():
        return FileKind.FOLDER
    try:
        with open_regular(path) as stream:
            head = stream.read(_WINDOW)
            size = stream.seek(0, 2)
            stream.seek(max(size - _WINDOW, 0))
            tail = stream.read(_WINDOW)
    except UnreadableError:
        return FileKind.SPECIAL
    if not head:
        return FileKind.EMPTY
    return _by_signature(head) or _model(head, tail, size) or _text(head, tail) or FileKind.UNKNOWN


def _by_signature(head: bytes) -> FileKind | None:
    for kind, known in FORMATS.items():
        if known.magic and head.startswith(known.magic):
            return kind
    for offset, signature, kind in _SIGNATURES:
        if head.startswith(signature, offset):
            return kind
    if head[4:8] == b"ftyp":
        return _BRANDS.get(head[8:12], FileKind.VIDEO)
    if head[:2] == b"BM" and head[6:10] == b"\0\0\0\0":
        return FileKind.BMP
    if re.match(rb"P[1-7]\s+[\d#W]", head):
        return FileKind.PNM
    return None


def _model(head: bytes, tail: bytes, size: int) -> FileKind | None:
    if head.startswith(b"PK\x03\x04"):
        if b"/code/" in tail or b"constants.pkl" in tail:
            return FileKind.TORCHSCRIPT
        return FileKind.TORCH if b"data.pkl" in head[:512] or b"data.pkl" in tail else FileKind.ZIP
    if head[8:9] == b"{" and 2 <= int.from_bytes(head[:8], "little") < max(size, 1 << 27):
        return FileKind.SAFETENSORS
    if head[:1] == b"\x80":
        return FileKind.TORCH_LEGACY if _LEGACY_HEAD in head[:32] else FileKind.PICKLE
    # A protobuf that begins with ir_version (field 1), followed by another field of ModelProto.
    if (
        head[:1] == b"\x08"
        and head[1:2] <= b"\x40"
        and head[2:3] in (b"\x12", b"\x1a", b"\x22", b"\x28", b"2", b":", b"B")
    ):
        return FileKind.ONNX
    return None


def _text(head: bytes, tail: bytes) -> FileKind | None:
    try:  # incremental, for the window may end within a character
        text = codecs.getincrementaldecoder("utf-8-sig")().decode(head).lstrip()
    except UnicodeDecodeError:
        return None
    if any(ord(letter) < 32 and letter not in "\t\n\r\f" for letter in text[:4096]):
        return None
    if text.startswith("<"):
        return _markup(text)
    if text[:1] in {"{", "["}:
        return _json(head + tail)
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    if lines and _YAML_FIELD.match(lines[0]):
        return FileKind.RECIPE if _RECIPE_FIELD.search(text) else FileKind.YAML
    return FileKind.TEXT


def _markup(text: str) -> FileKind:
    if re.match(r"(<\?xml[^>]*>\s*)?(<!--.*?-->\s*)*<net[\s>]", text, re.DOTALL):
        return FileKind.OPENVINO
    if re.match(r"\s*(<!doctype html|<html|<head|<body)", text, re.IGNORECASE):
        return FileKind.HTML
    if "<svg" in text[:2048]:
        return FileKind.SVG
    return FileKind.HTML if "<html" in text[:2048].lower() else FileKind.XML


def _json(data: bytes) -> FileKind:
    if b'"compute_capability"' in data and b'"profiles"' in data:
        return FileKind.ENGINE_RECORD
    if b'"images"' in data or b'"annotations"' in data:
        return FileKind.ANNOTATION
    return FileKind.JSON


@dataclass(frozen=True)
class Wanted:
    """A kind of file that is taken: its name in a sentence, what its bytes may be, and the error for any other."""

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
    """The kind of a file by its first and last bytes, or ``wanted.error`` where it is not what is wanted."""
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
