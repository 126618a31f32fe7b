"""Images in: which files are meant, and their pixels.

The reference reads an image with ``cv2.imdecode(..., IMREAD_COLOR)``, and so do we where that is right. It
is not always: it answers None or a half-grey image to a damaged file, prints to stderr, and reads some
formats otherwise than every viewer does. So the formats are shared out:

* JPEG and PNG go to OpenCV, after a check that the file is whole. (JPEG decoders differ in the last bit;
  this one is the reference's. A PNG is handed on without its ancillary chunks, whose faults libpng prints.)
* The others go to Pillow: OpenCV ignores the orientation of AVIF, multiplies the colours of a TIFF by its
  alpha, ignores the maximum value of PGM/PPM, and decodes what it can of a damaged TIFF without telling.

What comes out is what a viewer shows, with these choices: EXIF orientation is applied; alpha is dropped,
not blended; 16 bits become 8 by dropping the low byte; the first image of an animation or a multi-page
file counts; a CMYK JPEG is taken as inverted, as Adobe writes it and browsers read it; colour profiles are
ignored. A JPEG that is whole but has flipped bits inside is shown as far as it decodes, as everywhere;
libjpeg may print a line.
"""

from __future__ import annotations

import contextlib
import glob
import io
import os
import re
import struct
import threading
import warnings
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple, cast

import cv2
import numpy as np

from rtmo_deploy.environment import MAX_PIXELS_VARIABLE
from rtmo_deploy.errors import InputDataError, UsageError
from rtmo_deploy.file_kind import Kind, kind_of
from rtmo_deploy.files import open_regular

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from numpy.typing import NDArray
    from PIL import Image


MAX_SIDE: Final = 1_000_000
#: Pixels that an image may have unless the environment says otherwise; more is refused before anything is decoded.
MAX_PIXELS: Final = 2**26
MAX_BYTES: Final = 2**29
#: Scans of a progressive JPEG; encoders write some ten. Each takes the time of a decode.
MAX_SCANS: Final = 500
_MAX_SCANNED: Final = 2**31  # pixels times scans
_MAX_PARTS: Final = 200_000  # segments of a JPEG, chunks of a PNG
_HEAVY: Final = frozenset(["JPEG2000", "AVIF", "WEBP"])  # decoders that take twice the memory of the others
_PLAIN: Final = 64  # a PNM in decimal text is decoded number by number: so many times fewer pixels are read
_MAX_INFLATED: Final = 2**21  # bytes of a PNG's compressed data whose expansion is not looked at: at most 2 GiB

_READABLE: Final = (
    (rb"\xff\xd8\xff", "JPEG"),
    (rb"\x89PNG\r\n\x1a\n", "PNG"),
    (rb"RIFF....WEBP", "WEBP"),
    (rb"BM", "BMP"),
    (rb"GIF8[79]a", "GIF"),
    (rb"II[*+]\0|MM\0[*+]", "TIFF"),
    (rb"P[1-6]\s", "PPM"),
    (rb"\0\0\0\x0cjP  \r\n\x87\n|\xff\x4f\xff\x51", "JPEG2000"),
    (rb"....ftyp.{0,40}avi[fs]", "AVIF"),
)
_FOREIGN: Final = (
    (rb"#\?R|\x76\x2f\x31\x01|P[Ff]\s", "a high-dynamic-range image, whose values have no fixed white"),
    (rb"....ftyp(hei|hev|mif|msf)", "a HEIC/HEIF photo"),
    (rb"....ftyp|\x1a\x45\xdf\xa3|RIFF....AVI |\0\0\x01\xba", "a video"),
    (rb"%PDF", "a PDF document"),
    (rb"\s*<", "an SVG, XML or HTML text"),
)
_AGAIN: Final = "Copy or download it again, or save it anew as JPEG or PNG."
_CONVERT: Final = "Convert it to JPEG or PNG (8 bits a channel) first."
_EXTRACT: Final = "RTMO.stream and 'rtmo-deploy predict' read videos; for others extract its frames as JPEG or PNG."
_SHRINK: Final = "Shrink it or cut it into pieces first."
_RAISE: Final = f"Shrink it, or allow more with --max-pixels (or {MAX_PIXELS_VARIABLE})."
_FORMATS: Final = "Use JPEG, PNG, WebP, BMP, GIF, TIFF, PBM/PGM/PPM, AVIF or JPEG 2000."
_CUT_OFF: Final = "This {} is cut off: its end is missing."
_HEAD_BYTES: Final = 64
#: Suffixes of images in a folder that is searched; a HEIC is found and then refused by name.
_KNOWN: Final = ".jpg .jpeg .jpe .png .webp .bmp .dib .gif .tif .tiff .avif .pbm .pgm .ppm .pnm .jp2 .j2k .heic .heif"
IMAGE_SUFFIXES: Final = frozenset(_KNOWN.split())

# A JPEG marker that is none of: stuffed zero, restart marker, fill byte. Such a pattern is searched by memchr.
_JPEG_MARKER: Final = re.compile(rb"\xff([\x01-\xcf\xd8-\xfe])")
_JPEG_FRAMES: Final = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_PNG_ESSENTIAL: Final = frozenset([b"IHDR", b"PLTE", b"tRNS", b"eXIf", b"IDAT", b"IEND"])

# Magic number, width, height and (not in bitmaps) the greatest value, comments before each. Pillow reads byte by byte.
_PNM_FIELD: Final = rb"(?:(?:\s|#[^\r\n]*[\r\n])+\d+)"
_PNM_HEADER: Final = re.compile(rb"P(?:[14]%b{2}|[2356]%b{3})\s" % (_PNM_FIELD, _PNM_FIELD))
_MAX_PNM_HEADER: Final = 4096
# TIFF tags. A photometric interpretation of 0 stands for "white is zero".
_PHOTOMETRIC: Final = 262
_TILE_WIDTH: Final = 322
_TILE_HEIGHT: Final = 323
_PILLOW_LOCK: Final = threading.Lock()  # warnings.catch_warnings changes the whole process
#: By how much libjpeg can shrink while it decodes.
_REDUCED: Final = {8: cv2.IMREAD_REDUCED_COLOR_8, 4: cv2.IMREAD_REDUCED_COLOR_4, 2: cv2.IMREAD_REDUCED_COLOR_2}


class TooManyPixelsError(InputDataError):
    """An image has more pixels than are read."""


class Decoded(NamedTuple):
    """An image, or a smaller one that was decoded instead.

    Pixel i of the smaller one is the mean of pixels ``factor * i`` to ``factor * i + factor - 1``, fewer at the right
    and lower edge.
    """

    pixels: NDArray[np.uint8]  #: ``(h, w, 3)`` uint8, BGR, upright, contiguous.
    factor: int  #: 1, 2, 4 or 8.
    image_hw: tuple[int, int]  #: Height and width of the whole image, upright.


def max_pixels_allowed() -> int:
    """Pixels that an image may have: what ``RTMO_DEPLOY_MAX_PIXELS`` says, or :data:`MAX_PIXELS`."""
    text = os.environ.get(MAX_PIXELS_VARIABLE, "")
    if not text:
        return MAX_PIXELS
    if not (text.isascii() and text.isdigit() and 0 < int(text[:30]) < 2**62):
        raise UsageError(
            f"'{text[:30]}' is not a number of pixels.",
            remedy="Give a positive whole number, such as 100000000.",
            where=MAX_PIXELS_VARIABLE,
        )
    return int(text)


def read_image(path: str | os.PathLike[str], *, max_pixels: int | None = None) -> NDArray[np.uint8]:
    """The pixels of an image file, whatever its suffix says.

    Args:
        path: A JPEG, PNG, WebP, BMP, GIF, TIFF, PBM/PGM/PPM, AVIF or JPEG 2000 file.
        max_pixels: Refuse an image with more pixels, before it is decoded (JPEG 2000, AVIF and WebP: half as many).
            None for :func:`max_pixels_allowed`.

    Returns:
        ``(h, w, 3)`` uint8, BGR, upright (EXIF orientation applied), contiguous; as ``cv2.imread`` gives it
        to the reference, with the exceptions in this module's docstring.

    Raises:
        InputDataError: The file is missing, unreadable, empty, cut off, damaged, too large or no image.
    """
    return decode_image(_contents(path), where=path, max_pixels=max_pixels)


def _contents(path: str | os.PathLike[str]) -> bytes:
    """The bytes of an image file."""
    try:
        with open_regular(Path(path)) as stream:
            _recognise(stream.read(_HEAD_BYTES), path, Path(path))  # before a large file of another kind is read whole
            if stream.seek(0, os.SEEK_END) > MAX_BYTES:
                raise _bad(f"The file has more than {MAX_BYTES >> 20} MiB.", path, _SHRINK)
            stream.seek(0)
            return stream.read(MAX_BYTES)
    except (OSError, ValueError) as error:
        if os.path.isdir(path):  # noqa: PTH112 - False for a name that no file can have
            raise _bad("This is a folder.", path, "Name an image in it.") from error
        reason = getattr(error, "strerror", None) or error
        raise _bad(f"The file cannot be opened: {reason}.", path, "Check the name and the permissions.") from error


def decode_image(data: bytes, *, where: object = "image", max_pixels: int | None = None) -> NDArray[np.uint8]:
    """The pixels of an image file's bytes; as :func:`read_image`, with ``where`` as its name in errors."""
    return _decode(data, where, max_pixels, None).pixels


def read_to_fit(
    source: str | os.PathLike[str] | bytes, fit_hw: tuple[int, int] | None, *, where: object = "image"
) -> Decoded:
    """An image, but of a large JPEG one of 1/2, 1/4 or 1/8 of the size, which is faster to decode.

    Args:
        source: An image file, or its bytes; read and checked as by :func:`read_image`.
        fit_hw: Height and width of the box that the image is to fill, its aspect kept: what is decoded is no smaller
            than that. None to decode all of every image. A JPEG that EXIF may turn is decoded smaller only where the
            factor divides both sides.
        where: Name of the bytes in errors.

    Raises:
        InputDataError: As of :func:`read_image`.
    """
    if isinstance(source, bytes):
        return _decode(source, where, None, fit_hw)
    return _decode(_contents(source), source, None, fit_hw)


def _decode(data: bytes, where: object, max_pixels: int | None, fit_hw: tuple[int, int] | None) -> Decoded:
    if len(data) > MAX_BYTES:
        raise _bad(f"It has more than {MAX_BYTES >> 20} MiB.", where, _SHRINK)
    if max_pixels is None:
        max_pixels = max_pixels_allowed()
    kind = _recognise(data[:_HEAD_BYTES], where)
    if kind not in ("JPEG", "PNG"):
        image = _decode_with_pillow(data, kind, where, max_pixels)
        return Decoded(image, 1, (image.shape[0], image.shape[1]))
    factor = 1
    if kind == "JPEG":
        height, width, turns = _whole_jpeg(data, where)
        _require_size(width, height, kind, where, max_pixels)
        if fit_hw and height and width:
            factor = _factor(height, width, fit_hw, turns=turns)
    else:
        data, height, width = _whole_png(data, where)
        _require_size(width, height, kind, where, max_pixels)
        _require_no_more_data(data, height, width, where)
    try:
        how = _REDUCED.get(factor, cv2.IMREAD_COLOR)
        image = cast("NDArray[np.uint8]", cv2.imdecode(np.frombuffer(data, np.uint8), how))
    except (cv2.error, MemoryError) as error:
        raise _bad(f"This {kind} cannot be decoded: {getattr(error, 'err', error)}.", where) from error
    if image is None:
        raise _bad(f"This {kind} is damaged or of a rare kind.", where)
    if factor == 1:
        return Decoded(image, 1, (image.shape[0], image.shape[1]))
    turned = image.shape[0] != -(-height // factor)
    return Decoded(image, factor, (width, height) if turned else (height, width))


def _factor(height: int, width: int, fit_hw: tuple[int, int], *, turns: bool) -> int:
    """The greatest factor by which a JPEG can be decoded smaller and still be no smaller than it is to become.

    OpenCV does not tell whether EXIF turns it. If it may, the blocks that are cut off at an edge may be the first ones.
    """
    scale = min(fit_hw[0] / height, fit_hw[1] / width)
    if turns:
        scale = max(scale, min(fit_hw[0] / width, fit_hw[1] / height))
    wanted = [factor for factor in _REDUCED if factor * scale <= 1]
    return next((factor for factor in wanted if not (turns and (height % factor or width % factor))), 1)


def _require_size(width: int, height: int, kind: str, where: object, max_pixels: int) -> None:
    most = max_pixels // (2 if kind in _HEAVY else _PLAIN if kind == "plain PNM" else 1)
    if max(width, height) > MAX_SIDE:
        raise _bad(f"It has {width}x{height} pixels; a side of at most {MAX_SIDE:,} is read.", where, _SHRINK)
    if width * height > most:
        finding = f"It has {width}x{height} = {width * height:,} pixels; at most {most:,} are read."
        raise TooManyPixelsError(finding, remedy=_RAISE, where=where)


def _bad(finding: str, where: object, remedy: str = _AGAIN) -> InputDataError:
    return InputDataError(finding, remedy=remedy, where=where)


def require_image(path: str | os.PathLike[str]) -> None:
    """Check, by its first bytes, that a file is an image that can be read here, else raise InputDataError."""
    with contextlib.suppress(OSError, ValueError), open_regular(Path(path)) as stream:  # read_image says why
        _recognise(stream.read(_HEAD_BYTES), path, Path(path))


def _recognise(head: bytes, where: object, path: Path | None = None) -> str:
    """The format of an image, by its first bytes; else InputDataError, by the whole file where there is one."""
    if not head:
        raise _bad("The file is empty.", where)
    for pattern, kind in _READABLE:
        if re.match(pattern, head, re.DOTALL):
            return kind
    for pattern, what in _FOREIGN:
        if re.match(pattern, head, re.DOTALL):
            raise _bad(f"This is {what}.", where, _EXTRACT if what == "a video" else _CONVERT)
    other = Kind.UNKNOWN if path is None else kind_of(path)
    if other is not Kind.UNKNOWN:
        raise _bad(f"It is {other.article}, not an image.", where, "Name an image, or a folder of images.")
    raise _bad("This is not an image in a format that can be read here.", where, _FORMATS)


def _whole_jpeg(data: bytes, where: object) -> tuple[int, int, bool]:
    """Height and width of a JPEG that has its end-of-image marker, and whether it has a segment that EXIF may be in."""
    at, height, width, scans, parts, exif = 2, 0, 0, 0, 0, False
    while marker := _JPEG_MARKER.search(data, at):
        code, at = marker[1][0], marker.end()
        parts += 1
        scans += code == 0xDA
        if parts > _MAX_PARTS or scans > MAX_SCANS or (scans > 20 and scans * height * width > _MAX_SCANNED):
            raise _bad(f"This JPEG has {scans} or more scans of {width}x{height} pixels: it takes too long.", where)
        if code == 0xD9:
            return height, width, exif
        exif |= code == 0xE1
        if code in _JPEG_FRAMES:
            height, width = int.from_bytes(data[at + 3 : at + 5]), int.from_bytes(data[at + 5 : at + 7])
        if code not in (0x01, 0xD8):  # the two that carry no length
            at += max(2, int.from_bytes(data[at : at + 2]))
    raise _bad(_CUT_OFF.format("JPEG"), where)


def _whole_png(data: bytes, where: object) -> tuple[bytes, int, int]:
    """The essential chunks, height and width of a PNG whose essential chunks are whole."""
    view, at, kept, kinds = memoryview(data), 8, [data[:8]], [b""]
    while kinds[-1] != b"IEND":
        end = at + 12 + int.from_bytes(view[at : at + 4])
        if end > len(data):
            raise _bad(_CUT_OFF.format("PNG"), where)
        kind = bytes(view[at + 4 : at + 8])
        if len(kinds) > _MAX_PARTS:
            raise _bad("This PNG is damaged: it is in too many chunks.", where)
        sound = zlib.crc32(view[at + 4 : end - 4]) == int.from_bytes(view[end - 4 : end])
        if not kind[0] & 0x20:  # an upper-case letter: a decoder needs to understand this chunk
            kinds.append(kind)
            if not sound:
                raise _bad(f"This PNG is damaged: the checksum of its {kind!r} chunk is wrong.", where)
        if sound and kind in _PNG_ESSENTIAL:
            kept.append(bytes(view[at:end]))
        at = end
    needed = {b"IDAT", b"PLTE"} if data[25:26] == b"\3" else {b"IDAT"}
    if kinds[1] != b"IHDR" or not needed <= set(kinds[1:]) <= _PNG_ESSENTIAL:
        raise _bad("This PNG is damaged: its chunks make no image.", where)
    return b"".join(kept), int.from_bytes(data[20:24]), int.from_bytes(data[16:20])


def _require_no_more_data(data: bytes, height: int, width: int, where: object) -> None:
    """Refuse a PNG (essential chunks) that holds far more rows than its header says: libpng inflates them all."""
    if len(data) <= _MAX_INFLATED:
        return
    channels = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}.get(data[25], 4)
    left = 2 * height * (width * channels * data[24] // 8 + 8)  # interlaced rows have more ends
    inflate, view, at = zlib.decompressobj(), memoryview(data), 8
    while at < len(data):
        end = at + 12 + int.from_bytes(view[at : at + 4])
        part: bytes | memoryview = view[at + 8 : end - 4] if bytes(view[at + 4 : at + 8]) == b"IDAT" else b""
        try:
            while part and not inflate.eof:
                left -= len(inflate.decompress(part, 2**20))
                part = inflate.unconsumed_tail
                if left < 0:
                    raise _bad("This PNG is damaged: it holds more rows than its header says.", where)
        except zlib.error as error:
            raise _bad(f"This PNG is damaged: {error}.", where) from error
        at = end


def _webp_size(data: bytes) -> tuple[int, int]:
    """Width and height by the header: Pillow allocates the canvas of a WebP before it tells its size."""
    if data[12:16] == b"VP8X":
        return 1 + int.from_bytes(data[24:27], "little"), 1 + int.from_bytes(data[27:30], "little")
    if data[12:16] == b"VP8L":
        bits = int.from_bytes(data[21:25], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    return int.from_bytes(data[26:28], "little") & 0x3FFF, int.from_bytes(data[28:30], "little") & 0x3FFF


def _decode_with_pillow(data: bytes, kind: str, where: object, max_pixels: int) -> NDArray[np.uint8]:
    with _pillow(kind, where):
        if kind == "WEBP":
            _require_size(*_webp_size(data), kind, where, max_pixels)
        if kind == "PPM" and not _PNM_HEADER.match(data[:_MAX_PNM_HEADER]):
            raise _bad("This PNM is damaged: it has no size in its beginning.", where)
        source = _opened(data, kind)
        plain = kind == "PPM" and data[1:2] in b"123"
        _require_size(*source.size, "plain PNM" if plain else kind, where, max_pixels)
        if kind == "TIFF":
            tags = source.getexif()
            _require_size(tags.get(_TILE_WIDTH, 1), tags.get(_TILE_HEIGHT, 1), kind, where, max_pixels)
        return _upright(source, kind, where)


def pillow_pixels(image: Image.Image, *, where: object = "image") -> NDArray[np.uint8]:
    """The pixels of a Pillow image, which is not changed; as :func:`read_image`."""
    kind = image.format or "image"
    with _pillow(kind, where):
        _require_size(*image.size, kind, where, max_pixels_allowed())
        return _upright(image.copy(), kind, where)


@contextlib.contextmanager
def _pillow(kind: str, where: object) -> Iterator[None]:
    """Quiet warnings, and Pillow's errors as InputDataError."""
    from PIL import UnidentifiedImageError

    try:
        with _PILLOW_LOCK, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # odd metadata and sizes; what matters is an error
            yield
    except (
        *(OSError, SyntaxError, ValueError, TypeError, LookupError, AttributeError, ArithmeticError),
        *(RuntimeError, MemoryError, struct.error),
    ) as error:  # Pillow's readers raise each of these for damaged files
        unknown = isinstance(error, UnidentifiedImageError)
        reason = "its layout is unknown" if unknown else str(error) or repr(error)
        raise _bad(f"This {kind} is damaged or of a rare kind: {reason}.", where) from error


def _upright(source: Image.Image, kind: str, where: object) -> NDArray[np.uint8]:
    from PIL import ImageOps

    white_is_zero = kind == "TIFF" and source.getexif().get(_PHOTOMETRIC) == 0
    ImageOps.exif_transpose(source, in_place=True)
    if source.mode == "F" or (source.mode == "I" and kind != "PPM"):
        finding = f"The samples of this {kind} are not unsigned numbers of 8 or 16 bits."
        raise _bad(finding, where, _CONVERT)
    if source.mode.startswith("I"):  # I;16 and its kin; Pillow brings PGM to 16 bits in mode I
        grey = (np.asarray(source) >> 8).astype(np.uint8)
        return np.repeat((255 - grey if white_is_zero else grey)[..., None], 3, axis=2)
    return _bgr(source)


def _opened(data: bytes, kind: str) -> Image.Image:
    """An image of which the header is read. Pillow's own bound is set aside: ours comes next."""
    from PIL import Image

    own, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    try:
        return Image.open(io.BytesIO(data), formats=[kind])
    finally:
        Image.MAX_IMAGE_PIXELS = own


def _bgr(source: Image.Image) -> NDArray[np.uint8]:
    """In strips: converted as a whole, a large image would be in memory four times."""
    image = np.empty((source.height, source.width, 3), np.uint8)
    rows = max(1, 2**22 // source.width)
    for top in range(0, source.height, rows):
        strip = source.crop((0, top, source.width, min(top + rows, source.height)))
        image[top : top + rows] = np.asarray(strip.convert("RGB"))[..., ::-1]
    return image


def find_images(sources: Sequence[str | Path], *, recursive: bool = False) -> list[Path]:
    """The image files that are meant, without duplicates, in the order of the sources, each source sorted.

    A source is, in this order of precedence: an existing file, taken whatever its name is; an existing
    folder, of which files with a known image suffix are taken; a glob pattern (``*``, ``?``, ``[...]``,
    ``**`` for any depth), of which matching files are taken, only those with a known suffix unless the
    pattern ends in a suffix of its own. Hidden files and folders (``.name``) are skipped unless they are
    named.

    Args:
        sources: Files, folders and patterns.
        recursive: Whether to search folders inside folders. Links to folders are not followed.

    Raises:
        InputDataError: A source that exists nowhere or holds no image; a folder that cannot be read.
    """
    found: dict[str, Path] = {}
    for source in [sources] if isinstance(sources, str | Path) else sources:
        images = [path for path in find_files(os.fspath(source), recursive=recursive) if path.exists()]
        if not images:
            raise _bad("There is no image but broken links.", source, "Check the links.")
        for path in images:
            # Without dots and double slashes, but without following links as resolve() would.
            found.setdefault(os.path.abspath(path), path)  # noqa: PTH100
    return list(found.values())


def find_files(
    source: str,
    *,
    recursive: bool,
    suffixes: frozenset[str] = IMAGE_SUFFIXES,
    what: str = "image",
    failures: list[InputDataError] | None = None,
) -> list[Path]:
    """The files that one source means, as in :func:`find_images`, broken links too; with other suffixes, if given.

    A folder in a folder that cannot be read is added to ``failures`` where there is a list, and the search goes on.
    """
    path = Path(source)
    files: list[Path] = []
    finding, remedy = "There is no such file or folder.", "Check the name."
    before = len(failures or ())

    def unreadable(error: OSError, where: object) -> InputDataError:
        return InputDataError(f"It cannot be searched: {error.strerror}.", remedy="Check its permissions.", where=where)

    def on_error(error: OSError) -> None:
        if failures is None:
            raise error
        failures.append(unreadable(error, error.filename))

    try:
        if source and path.exists() and not path.is_dir():
            return [path]  # a FIFO or a device too: its reader says what it is
        if source and path.is_dir():
            finding = f"There is no {what} in this folder."
            remedy = "Check the suffixes of the files."
            if not recursive:
                remedy = (
                    "Name the folder in it that holds them, or check the suffixes of the files; with 'predict', "
                    "--recursive looks into folders in it."
                )
            files = _known(_files_in(path, on_error, recursive=recursive), suffixes)
        elif glob.has_magic(source):
            finding, remedy = f"No {what} matches this pattern.", "Check it; '**' stands for any depth."
            matches = _matches(source)
            files = matches if path.suffix and not glob.has_magic(path.suffix) else _known(matches, suffixes)
        # No folder named x.jpg; a FIFO or a device stays, and its reader says what it is.
        files = [path for path in files if not path.is_dir()]
    except OSError as error:
        raise unreadable(error, source) from error
    if not files and len(failures or ()) == before:
        raise InputDataError(finding, remedy=remedy, where=source or "''")
    return sorted(files)


def _matches(pattern: str) -> list[Path]:
    parts = Path(pattern).parts
    if "**" not in parts:
        return [Path(match) for match in glob.glob(pattern)]  # noqa: PTH207 - absolute ones too
    at = next(number for number, part in enumerate(parts) if glob.has_magic(part))
    base, rest = Path(*parts[:at]), [*parts[at:], *(["*"] if parts[-1] == "**" else [])]
    found = base.glob("/".join(rest))  # '**' of glob.glob follows links, round and round
    if any(part.startswith(".") for part in rest):
        return list(found)
    return [path for path in found if not any(part.startswith(".") for part in path.relative_to(base).parts)]


def _known(paths: Iterable[Path], suffixes: frozenset[str]) -> list[Path]:
    return [path for path in paths if path.suffix.lower() in suffixes]


def _files_in(folder: Path, on_error: Callable[[OSError], None], *, recursive: bool) -> Iterable[Path]:
    for root, folders, names in os.walk(folder, onerror=on_error):
        folders[:] = [name for name in folders if recursive and not name.startswith(".")]
        yield from (Path(root, name) for name in names if not name.startswith("."))
