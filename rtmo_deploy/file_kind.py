"""Says what a file is by its bytes, so that a command can name what it was given instead of what it wants.

Nothing is decoded: the first and the last bytes are compared with the signatures of the formats that users mix up.
A damaged file of a known format is still of that kind; whether it is whole is for its reader to find out.
"""

from __future__ import annotations

import codecs
import os
import re
import shlex
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from rtmo_deploy.errors import ArtifactError, CheckpointError, InputDataError, RtmoDeployError, UsageError
from rtmo_deploy.files import UnreadableError, open_regular

if TYPE_CHECKING:
    from pathlib import Path


_WINDOW = 1 << 16


class FileKind(StrEnum):
    """What a file is. The value is a short name; :attr:`article` is how a sentence names it."""

    ONNX = "onnx"
    OPENVINO = "openvino"
    ENGINE = "engine"
    ENGINE_RECORD = "engine-record"
    TORCH = "torch"
    TORCH_LEGACY = "torch-legacy"
    TORCHSCRIPT = "torchscript"
    SAFETENSORS = "safetensors"
    JPEG = "jpeg"
    PNG = "png"
    WEBP = "webp"
    HEIC = "heic"
    AVIF = "avif"
    GIF = "gif"
    BMP = "bmp"
    TIFF = "tiff"
    JPEG_2000 = "jpeg-2000"
    JPEG_XL = "jpeg-xl"
    PNM = "pnm"
    SVG = "svg"
    VIDEO = "video"
    ANNOTATION = "annotation"
    JSON = "json"
    RECIPE = "recipe"
    YAML = "yaml"
    HTML = "html"
    XML = "xml"
    LFS_POINTER = "lfs-pointer"
    TEXT = "text"
    PICKLE = "pickle"
    NUMPY = "numpy"
    HDF5 = "hdf5"
    PDF = "pdf"
    ZIP = "zip"
    TAR = "tar"
    GZIP = "gzip"
    BZIP2 = "bzip2"
    XZ = "xz"
    ZSTD = "zstd"
    SEVEN_ZIP = "7z"
    EMPTY = "empty"
    FOLDER = "folder"
    SPECIAL = "special"
    UNKNOWN = "unknown"

    @property
    def article(self) -> str:
        """The kind with its article, as in "a JPEG image"."""
        return _ARTICLES[self]

    @property
    def is_image(self) -> bool:
        """Whether it is an image, of pixels; of any format, also one that is not read here."""
        return self in _IMAGES

    @property
    def is_checkpoint(self) -> bool:
        """Whether it is in a format of checkpoints."""
        return self in {FileKind.TORCH, FileKind.TORCH_LEGACY, FileKind.SAFETENSORS}

    @property
    def is_exported(self) -> bool:
        """Whether it is in a format of exported models: ONNX, OpenVINO or an engine."""
        return self in {FileKind.ONNX, FileKind.OPENVINO, FileKind.ENGINE}


_IMAGES = frozenset(
    {
        FileKind.JPEG, FileKind.PNG, FileKind.WEBP, FileKind.HEIC, FileKind.AVIF, FileKind.GIF, FileKind.BMP,
        FileKind.TIFF, FileKind.JPEG_2000, FileKind.JPEG_XL, FileKind.PNM,
    }
)  # fmt: skip

_ARTICLES = {
    FileKind.ONNX: "an ONNX model",
    FileKind.OPENVINO: "an OpenVINO model",
    FileKind.ENGINE: "a TensorRT engine",
    FileKind.ENGINE_RECORD: "the record of an engine (JSON)",
    FileKind.TORCH: "a PyTorch checkpoint",
    FileKind.TORCH_LEGACY: "a PyTorch checkpoint (legacy format)",
    FileKind.TORCHSCRIPT: "a TorchScript program",
    FileKind.SAFETENSORS: "a safetensors checkpoint",
    FileKind.JPEG: "a JPEG image",
    FileKind.PNG: "a PNG image",
    FileKind.WEBP: "a WebP image",
    FileKind.HEIC: "a HEIC image",
    FileKind.AVIF: "an AVIF image",
    FileKind.GIF: "a GIF image",
    FileKind.BMP: "a BMP image",
    FileKind.TIFF: "a TIFF image",
    FileKind.JPEG_2000: "a JPEG 2000 image",
    FileKind.JPEG_XL: "a JPEG XL image",
    FileKind.PNM: "a PNM image",
    FileKind.SVG: "an SVG drawing",
    FileKind.VIDEO: "a video",
    FileKind.ANNOTATION: "an annotation file (JSON)",
    FileKind.JSON: "a JSON file",
    FileKind.RECIPE: "a recipe (YAML)",
    FileKind.YAML: "a YAML file",
    FileKind.HTML: "an HTML page",
    FileKind.XML: "an XML file",
    FileKind.LFS_POINTER: "a Git LFS pointer, not the file itself",
    FileKind.TEXT: "a text file",
    FileKind.PICKLE: "a pickle, but not one that torch.save wrote",
    FileKind.NUMPY: "a NumPy array",
    FileKind.HDF5: "an HDF5 file",
    FileKind.PDF: "a PDF document",
    FileKind.ZIP: "a ZIP archive",
    FileKind.TAR: "a tar archive",
    FileKind.GZIP: "a gzip archive",
    FileKind.BZIP2: "a bzip2 archive",
    FileKind.XZ: "an xz archive",
    FileKind.ZSTD: "a Zstandard archive",
    FileKind.SEVEN_ZIP: "a 7z archive",
    FileKind.EMPTY: "an empty file",
    FileKind.FOLDER: "a folder",
    FileKind.SPECIAL: "not a regular file (a FIFO, a device or a socket)",
    FileKind.UNKNOWN: "in no format that is known here",
}

#: Offset, bytes there, kind.
_SIGNATURES = (
    (0, b"ftrt", FileKind.ENGINE),
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
    if head[:1] == b"\x80":
        return FileKind.TORCH_LEGACY if _LEGACY_HEAD in head[:32] else FileKind.PICKLE
    if head[8:9] == b"{" and 2 <= int.from_bytes(head[:8], "little") < max(size, 1 << 27):
        return FileKind.SAFETENSORS
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
_EXPORTED = frozenset({FileKind.ONNX, FileKind.OPENVINO, FileKind.ENGINE})
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
    ".onnx": FileKind.ONNX,
    ".xml": FileKind.OPENVINO,
    ".engine": FileKind.ENGINE,
    ".plan": FileKind.ENGINE,
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


def likely_kind(path: Path) -> FileKind:
    """What a file is by its bytes; by its suffix where they do not tell, or where there is no file."""
    try:
        kind = kind_of(path)
    except OSError:
        kind = FileKind.UNKNOWN
    named = _BY_SUFFIX.get(path.suffix.lower(), kind)
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
