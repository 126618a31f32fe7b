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


class Kind(StrEnum):
    """What a file is, and with its article how a sentence names it. An artifact is CHECKPOINT or one of FORMATS."""

    article: str

    CHECKPOINT = "checkpoint", "a checkpoint"
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
        member = str.__new__(cls, name)
        member._value_ = name
        member.article = article
        return member

    @property
    def is_image(self) -> bool:
        """Whether it is an image, of pixels; of any format, also one that is not read here."""
        return self.article.endswith(" image")


@dataclass(frozen=True)
class Format:
    """A format of exported models. Functions stand as ``module:name`` and are loaded when they are called for."""

    suffixes: tuple[str, ...]  #: Of its files; an output has the first.
    title: str  #: How the format is called.
    remedy: str  #: What to do with a file that does not pass its validation.
    reader: str  #: What a file is: ``(path) -> Artifact``. Files that are not trusted need more arguments.
    validator: str  #: ``(path) -> ValidationReport``.
    inspector: str  #: What ``inspect`` shows of a file: ``(path) -> dict``.
    #: Makes a file of an ONNX model for ``export --format``: ``(source, output, *, verify, progress) -> ExportResult``.
    #: None where another command makes it.
    exporter: str | None = None
    #: The package that the exporter needs and the extra that installs it; None for none.
    needs: tuple[str, str] | None = None
    beside: tuple[str, ...] = ()  #: Names of files that belong to one, of its ``{stem}`` and ``{name}``.
    magic: bytes = b""  #: Bytes that a file begins with, where that tells; others are told by :func:`kind_of`.

    @staticmethod
    def load(function: str) -> Callable[..., Any]:
        """The function that a field names."""
        module, name = function.split(":")
        found: Callable[..., Any] = getattr(importlib.import_module(f"rtmo_deploy.{module}"), name)
        return found

    def files_beside(self, path: Path) -> list[Path]:
        """The files that belong to a file of this format."""
        return [path.with_name(name.format(stem=path.stem, name=path.name)) for name in self.beside]


#: The formats of exported models. A new one is a :class:`Kind` and an entry here, a module that converts to it, and
#: a backend: see docs/explanation/architecture.md.
FORMATS: dict[Kind, Format] = {
    Kind.ONNX: Format(
        suffixes=(".onnx",),
        title="ONNX",
        remedy="Export it again.",
        reader="runtime.onnx_file:read_onnx_artifact",
        validator="measure:validate_onnx",
        inspector="cli.inspect:onnx_facts",
    ),
    Kind.OPENVINO: Format(
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
    Kind.ENGINE: Format(
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

#: What a file of a kind begins with; the first that fits tells.
_SIGNATURES = (
    *((kind, re.escape(known.magic)) for kind, known in FORMATS.items() if known.magic),
    (Kind.JPEG, rb"\xff\xd8\xff"),
    (Kind.PNG, rb"\x89PNG\r\n\x1a\n"),
    (Kind.GIF, rb"GIF8[79]a"),
    (Kind.TIFF, rb"II[*+]\0|MM\0[*+]"),
    (Kind.JPEG_2000, rb"\0\0\0\x0cjP  |\xff\x4f\xff\x51"),
    (Kind.JPEG_XL, rb"\0\0\0\x0cJXL |\xff\x0a"),
    (Kind.WEBP, rb".{8}WEBP"),
    (Kind.HEIC, rb".{4}ftyp(hei[cmsx]|hev[cx]|m[is]f1)"),
    (Kind.AVIF, rb".{4}ftypavi[fs]"),
    (
        Kind.VIDEO,
        rb".{4}(ftyp|moov|mdat|wide)|.{8}AVI |\x1aE\xdf\xa3|\0\0\x01[\xba\xb3]|FLV\x01|OggS|0&\xb2u\x8ef\xcf\x11",
    ),
    (Kind.VIDEO, rb"G.{187}G.{187}G|.{4}G.{191}G.{191}G"),  # MPEG-TS
    (Kind.BMP, rb"BM.{4}\0{4}"),
    (Kind.PNM, rb"P[1-7]\s+[\d#W]"),
    (Kind.NUMPY, rb"\x93NUMPY"),
    (Kind.HDF5, rb"\x89HDF"),
    (Kind.PDF, rb"%PDF"),
    (Kind.TAR, rb".{257}ustar"),
    (Kind.GZIP, rb"\x1f\x8b"),
    (Kind.BZIP2, rb"BZh"),
    (Kind.XZ, rb"\xfd7zXZ"),
    (Kind.ZSTD, rb"\x28\xb5\x2f\xfd"),
    (Kind.SEVEN_ZIP, rb"7z\xbc\xaf"),
    (Kind.LFS_POINTER, rb"version https://git-lfs"),
)
# The number that a legacy file of torch.save begins with, as pickle protocol 2 and newer write it.
_LEGACY_HEAD = b"\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19"
# A protobuf that begins with ir_version (field 1), followed by another field of ModelProto.
_ONNX_HEAD = rb"\x08[\0-\x40][\x12\x1a\x22\x282:B]"
_RECIPE_FIELD = re.compile(r"^(artifacts|data|model|epochs|source):", re.MULTILINE)
_YAML_FIELD = re.compile(r"(---|[\w\"' .-]+:(\s|$)|- \S)")


def kind_of(path: Path) -> Kind:
    """What a file is, by its bytes; its name does not count. At most 128 KiB are read.

    A FIFO, a device or a name that no file can have is :attr:`Kind.SPECIAL`; nothing waits for a writer. OSError where
    there is no such file, or it may not be read.
    """
    if "\0" not in str(path) and path.is_dir():
        return Kind.FOLDER
    try:
        with open_regular(path) as stream:
            head = stream.read(_WINDOW)
            size = stream.seek(0, 2)
            stream.seek(max(size - _WINDOW, 0))
            tail = stream.read(_WINDOW)
    except UnreadableError:
        return Kind.SPECIAL
    if not head:
        return Kind.EMPTY
    by_signature = (kind for kind, signature in _SIGNATURES if re.match(signature, head, re.DOTALL))
    return next(by_signature, None) or _model(head, tail, size) or _text(head, tail) or Kind.UNKNOWN


def _model(head: bytes, tail: bytes, size: int) -> Kind | None:
    if head.startswith(b"PK\x03\x04"):
        if b"/code/" in tail or b"constants.pkl" in tail:
            return Kind.TORCHSCRIPT
        return Kind.TORCH if b"data.pkl" in head[:512] or b"data.pkl" in tail else Kind.ZIP
    if head[8:9] == b"{" and 2 <= int.from_bytes(head[:8], "little") < max(size, 1 << 27):
        return Kind.SAFETENSORS
    if head[:1] == b"\x80":
        return Kind.TORCH_LEGACY if _LEGACY_HEAD in head[:32] else Kind.PICKLE
    return Kind.ONNX if re.match(_ONNX_HEAD, head) else None


def _text(head: bytes, tail: bytes) -> Kind | None:
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
        return Kind.RECIPE if _RECIPE_FIELD.search(text) else Kind.YAML
    return Kind.TEXT


def _markup(text: str) -> Kind:
    if re.match(r"(<\?xml[^>]*>\s*)?(<!--.*?-->\s*)*<net[\s>]", text, re.DOTALL):
        return Kind.OPENVINO
    if re.match(r"\s*(<!doctype html|<html|<head|<body)", text, re.IGNORECASE):
        return Kind.HTML
    if "<svg" in text[:2048]:
        return Kind.SVG
    return Kind.HTML if "<html" in text[:2048].lower() else Kind.XML


def _json(data: bytes) -> Kind:
    if b'"compute_capability"' in data and b'"profiles"' in data:
        return Kind.ENGINE_RECORD
    if b'"images"' in data or b'"annotations"' in data:
        return Kind.ANNOTATION
    return Kind.JSON


@dataclass(frozen=True)
class Wanted:
    """A kind of file that is taken: its name in a sentence, what its bytes may be, and the error for any other."""

    words: str
    kinds: frozenset[Kind]
    error: type[RtmoDeployError]
    remedy: str = "Check the path and the order of the arguments."


# What no checkpoint holds, such as a program or a foreign pickle, is explained by the checkpoint's reader.
_CHECKPOINTS = frozenset({Kind.TORCH, Kind.TORCH_LEGACY, Kind.SAFETENSORS, Kind.TORCHSCRIPT, Kind.PICKLE})
_EXPORTED = frozenset(FORMATS)
_EXPORT = "Make one with: rtmo-deploy export CKPT"

CHECKPOINT = Wanted("a checkpoint (.pth, .safetensors)", _CHECKPOINTS, CheckpointError)
ONNX = Wanted("an ONNX model", frozenset({Kind.ONNX}), ArtifactError, _EXPORT)
EXPORTED = Wanted("an ONNX model, an OpenVINO model (.xml) or a TensorRT engine", _EXPORTED, ArtifactError, _EXPORT)
MODEL = Wanted("a checkpoint, an ONNX or OpenVINO (.xml) model or an engine", _CHECKPOINTS | _EXPORTED, ArtifactError)
BUILDABLE = Wanted("an ONNX model or a checkpoint", _CHECKPOINTS | {Kind.ONNX}, ArtifactError)
# Of a file in no known format, the reader of text says what is wrong.
ANNOTATIONS = Wanted(
    "an annotation file (JSON in COCO's format)",
    frozenset({Kind.ANNOTATION, Kind.JSON, Kind.UNKNOWN}),
    InputDataError,
)
CALIBRATION = Wanted("a calibration file (JSON)", frozenset({Kind.JSON, Kind.UNKNOWN, Kind.TEXT}), InputDataError)
OPENVINO = Wanted("an OpenVINO model (.xml)", frozenset({Kind.OPENVINO}), ArtifactError, _EXPORT + " --format openvino")
GRAPH = Wanted("an ONNX or OpenVINO (.xml) model", frozenset({Kind.ONNX, Kind.OPENVINO}), ArtifactError, _EXPORT)
RECIPE = Wanted(
    "a recipe (YAML)",
    frozenset({Kind.RECIPE, Kind.YAML, Kind.TEXT, Kind.JSON, Kind.UNKNOWN}),
    UsageError,
    "Recipes to begin with are in the folder recipes of the repository.",
)

_BY_SUFFIX = {
    **{suffix: kind for kind, known in FORMATS.items() for suffix in known.suffixes},
    ".safetensors": Kind.SAFETENSORS,
    **dict.fromkeys((".pth", ".pt", ".ckpt"), Kind.TORCH),
}
_UNSURE = {
    (Kind.ZIP, Kind.TORCH),
    (Kind.XML, Kind.OPENVINO),
    (Kind.TEXT, Kind.ENGINE),
}
_REMEDIES = {
    Kind.EMPTY: "Copy or download it again.",
    Kind.LFS_POINTER: "Fetch the file itself with: git lfs pull",
    Kind.HTML: "A web page was saved in place of the download: fetch the file itself.",
    Kind.SPECIAL: "Name a regular file.",
    Kind.ENGINE_RECORD: "Name the engine that it lies beside.",
    **{kind: "Unpack it first." for kind in Kind if kind.article.endswith(" archive")},
}


def kind_of_suffix(path: Path, otherwise: Kind = Kind.UNKNOWN) -> Kind:
    """What a model file is by its suffix alone."""
    return _BY_SUFFIX.get(path.suffix.lower(), otherwise)


def likely_kind(path: Path) -> Kind:
    """What a file is by its bytes; by its suffix where they do not tell, or where there is no file."""
    try:
        kind = kind_of(path)
    except OSError:
        kind = Kind.UNKNOWN
    named = kind_of_suffix(path, kind)
    # What was cut short begins as any archive or XML does, and what an engine begins with is NVIDIA's affair.
    tells = kind is not Kind.UNKNOWN and (kind, named) not in _UNSURE
    return kind if tells else named


def described(path: Path) -> str:
    """How a sentence names what a file is, with its article."""
    kind = likely_kind(path)
    if kind is Kind.UNKNOWN and path.suffix.lower() == ".bin" and path.with_suffix(".xml").is_file():
        return "the weights of an OpenVINO model"
    return kind.article


def require(path: Path, wanted: Wanted, by: str = "") -> Kind:
    """The kind of a file by its first and last bytes, or ``wanted.error`` where it is not what is wanted."""
    if not os.path.exists(path):  # noqa: PTH110 - a name that no file can have is none
        raise wanted.error("There is no such file.", remedy="Check the path.", where=path)
    kind = likely_kind(path)
    if kind in wanted.kinds:
        return kind
    taken = f"and '{by}' takes {wanted.words}" if by else f"not {wanted.words}"
    raise wanted.error(f"It is {described(path)}, {taken}.", remedy=_remedy(path, kind, wanted), where=path)


def _remedy(path: Path, kind: Kind, wanted: Wanted) -> str:
    if described(path) != kind.article:
        return f"Name the model itself: {path.with_suffix('.xml')}"
    if kind in _CHECKPOINTS and Kind.ONNX in wanted.kinds:
        return f"Export it first: rtmo-deploy export {shlex.quote(str(path))}"
    if kind in _EXPORTED and wanted.kinds & {*_CHECKPOINTS, Kind.ONNX}:
        return "Name the model that it was made from."
    if kind is Kind.FOLDER and wanted is not RECIPE:
        return "Name a file in it."
    return _REMEDIES.get(kind, wanted.remedy)
