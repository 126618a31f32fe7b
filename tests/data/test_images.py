"""Images of every kind, hostile ones too: what comes out is right, or an InputDataError says why not."""

from __future__ import annotations

import io
import os
import struct
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, ImageOps, features

from rtmo_deploy.data import images as media
from rtmo_deploy.data.images import decode_image, find_images, read_image
from rtmo_deploy.errors import InputDataError, UsageError

Picture = NDArray[np.uint8]

YY, XX = np.mgrid[0:48, 0:64]
RGB = np.stack([XX * 4, YY * 5, XX + YY], axis=-1).astype(np.uint8)
GREY = (XX * 2 + YY).astype(np.uint8)
ALPHA = np.where(YY < 24, 0, 200).astype(np.uint8)
BGR = RGB[..., ::-1]
GREY_BGR = np.repeat(GREY[..., None], 3, axis=2)

needs_avif = pytest.mark.skipif(not features.check("avif"), reason="this Pillow has no AVIF")


def encode(picture: Image.Image, kind: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, kind, **options)
    return stream.getvalue()


def attempt(data: bytes, where: str = "a.file") -> Picture | InputDataError:
    try:
        return decode_image(data, where=where)
    except InputDataError as error:
        return error


def encode_rgb(kind: str, **options: Any) -> bytes:
    return encode(Image.fromarray(RGB), kind, **options)


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(rows: NDArray[Any], colour_type: int, *before: bytes, depth: int = 0) -> bytes:
    """A PNG of (h, w[, channels]) samples, 8 or 16 bits, with extra chunks before the pixels."""
    depth = depth or rows.dtype.itemsize * 8
    header = struct.pack(">IIBBBBB", rows.shape[1], rows.shape[0], depth, colour_type, 0, 0, 0)
    raw = b"".join(b"\0" + row.astype(row.dtype.newbyteorder(">")).tobytes() for row in rows)
    chunks = [
        png_chunk(b"IHDR", header),
        *before,
        png_chunk(b"IDAT", zlib.compress(raw)),
        png_chunk(b"IEND", b""),
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def tiff(samples: NDArray[Any], photometric: int, *, sample_format: int = 1, extra: int | None = None) -> bytes:
    """An uncompressed TIFF of (h, w) or (h, w, n) samples."""
    count = 1 if samples.ndim == 2 else samples.shape[2]
    data = samples.astype(samples.dtype.newbyteorder("<")).tobytes()
    tags: dict[int, tuple[int, ...]] = {
        256: (samples.shape[1],),
        257: (samples.shape[0],),
        258: (samples.dtype.itemsize * 8,) * count,
        259: (1,),
        262: (photometric,),
        273: (0,),
        277: (count,),
        278: (samples.shape[0],),
        279: (len(data),),
        339: (sample_format,) * count,
    }
    if extra is not None:
        tags[338] = (extra,)
    tail_at = 8 + 2 + 12 * len(tags) + 4
    tail = b"".join(struct.pack(f"<{len(v)}I", *v) for v in tags.values() if len(v) > 1)
    tags[273] = (tail_at + len(tail),)
    entries = b""
    for tag, values in sorted(tags.items()):
        entries += struct.pack("<HHII", tag, 4, len(values), values[0] if len(values) == 1 else tail_at)
        tail_at += 4 * len(values) if len(values) > 1 else 0
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + struct.pack("<I", 0) + tail + data


def assert_shows(data: bytes, expected: NDArray[Any], atol: int = 0) -> None:
    image = decode_image(data)
    assert image.dtype == np.uint8
    assert image.flags.c_contiguous
    assert image.shape == expected.shape
    assert np.abs(image.astype(int) - expected).max() <= atol


# --- kinds of images ---


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("PNG", {}),
        ("BMP", {}),
        ("PPM", {}),
        ("TIFF", {}),
        ("TIFF", {"compression": "tiff_lzw"}),
        ("TIFF", {"compression": "tiff_adobe_deflate"}),
        ("TIFF", {"compression": "packbits"}),
        ("WEBP", {"lossless": True}),
        ("JPEG2000", {}),
    ],
)
def test_lossless_kinds(kind: str, options: dict[str, Any]) -> None:
    assert_shows(encode_rgb(kind, **options), BGR)


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("JPEG", {"quality": 95, "subsampling": 0}),
        ("JPEG", {"quality": 95, "progressive": True, "subsampling": 0}),
        ("JPEG", {"quality": 95, "restart_marker_rows": 1, "subsampling": 0}),
        ("TIFF", {"compression": "jpeg", "quality": 95}),
        ("WEBP", {"quality": 95}),
        pytest.param("AVIF", {"quality": 95, "subsampling": "4:4:4"}, marks=needs_avif),
    ],
)
def test_lossy_kinds(kind: str, options: dict[str, Any]) -> None:
    assert_shows(encode_rgb(kind, **options), BGR, atol=12)


def test_jpeg_pixels_are_opencvs(tmp_path: Path) -> None:
    data = encode_rgb("JPEG", quality=60)
    (tmp_path / "a.jpg").write_bytes(data)
    np.testing.assert_array_equal(read_image(tmp_path / "a.jpg"), cv2.imread(str(tmp_path / "a.jpg")))


def test_photographs_are_read_as_the_reference_does(shared: Path) -> None:
    paths = find_images([shared / "data"], recursive=True)
    assert len(paths) >= 9
    for path in paths:
        np.testing.assert_array_equal(read_image(path), cv2.imread(str(path)))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP", "BMP", "GIF", "PPM", "JPEG2000"])
def test_grey_becomes_three_channels(kind: str) -> None:
    options: dict[str, Any] = {"quality": 100} if kind == "JPEG" else {"lossless": True}
    options = options if kind in ("JPEG", "WEBP") else {}
    assert_shows(encode(Image.fromarray(GREY), kind, **options), GREY_BGR, atol=1)


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "BMP", "GIF", "PPM"])
def test_one_bit(kind: str) -> None:
    bits = Image.fromarray(GREY).point(lambda value: 255 * (value > 60)).convert("1", dither=Image.Dither.NONE)
    assert_shows(encode(bits, kind), np.repeat(255 * (GREY > 60)[..., None], 3, axis=2))


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "GIF", "BMP"])
def test_palette(kind: str) -> None:
    indexed = Image.fromarray(RGB).quantize(17)
    assert_shows(encode(indexed, kind), np.asarray(indexed.convert("RGB"))[..., ::-1])


def test_palette_with_a_transparent_colour() -> None:
    indexed = Image.fromarray(RGB).quantize(17)
    assert_shows(encode(indexed, "PNG", transparency=3), np.asarray(indexed.convert("RGB"))[..., ::-1])


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP", "JPEG2000"])
def test_alpha_is_dropped_not_blended(kind: str) -> None:
    options = {"lossless": True, "exact": True} if kind == "WEBP" else {}
    assert_shows(encode(Image.fromarray(np.dstack([RGB, ALPHA])), kind, **options), BGR)


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_grey_with_alpha(kind: str) -> None:
    assert_shows(encode(Image.merge("LA", [Image.fromarray(GREY), Image.fromarray(ALPHA)]), kind), GREY_BGR)


@pytest.mark.parametrize("low_byte", [0, 255])
@pytest.mark.parametrize(("colour_type", "channels"), [(0, 1), (4, 2), (2, 3), (6, 4)])
def test_png_of_16_bits(colour_type: int, channels: int, low_byte: int) -> None:
    planes = np.dstack([GREY, ALPHA] if channels == 2 else [RGB, ALPHA])[..., :channels]
    wide = planes.astype(np.uint16) * 256 + low_byte
    wide = (GREY.astype(np.uint16) * 256 + low_byte)[..., None] if channels == 1 else wide
    assert_shows(png(wide, colour_type), GREY_BGR if channels < 3 else BGR)


def test_png_of_2_bits() -> None:
    levels = (XX % 4).astype(np.uint8)
    packed = (levels[:, ::4] << 6) | (levels[:, 1::4] << 4) | (levels[:, 2::4] << 2) | levels[:, 3::4]
    header = struct.pack(">IIBBBBB", 64, 48, 2, 0, 0, 0, 0)
    raw = b"".join(b"\0" + row.tobytes() for row in packed)
    data = b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", header) + png_chunk(b"IDAT", zlib.compress(raw))
    assert_shows(data + png_chunk(b"IEND", b""), np.repeat(levels[..., None] * 85, 3, axis=2))


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        pytest.param(tiff(GREY, 1), GREY_BGR, id="grey"),
        pytest.param(tiff(255 - GREY, 0), GREY_BGR, id="white-is-zero"),
        pytest.param(tiff(GREY.astype(np.uint16) * 256 + 7, 1), GREY_BGR, id="grey16"),
        pytest.param(tiff(65535 - GREY.astype(np.uint16) * 256, 0), GREY_BGR, id="white-is-zero16"),
        pytest.param(tiff(RGB.astype(np.uint16) * 256 + 7, 2), BGR, id="rgb16"),
        pytest.param(tiff(np.dstack([RGB, ALPHA]), 2, extra=2), BGR, id="alpha"),
        pytest.param(tiff(np.dstack([RGB, ALPHA]), 2, extra=0), BGR, id="fourth-channel"),
        pytest.param(tiff(np.dstack([RGB, ALPHA]).astype(np.uint16) * 257, 2, extra=2), BGR, id="alpha16"),
    ],
)
def test_tiff(data: bytes, expected: Picture) -> None:
    assert_shows(data, expected)


@pytest.mark.parametrize("maximum", [1, 15, 100, 255, 1023, 65535])
def test_pgm_values_are_shares_of_its_maximum(maximum: int) -> None:
    values = (XX + YY) % (maximum + 1)
    raw = values.astype(">u2" if maximum > 255 else "u1").tobytes()
    expected = np.repeat((values * (255 / maximum))[..., None], 3, axis=2)
    assert_shows(b"P5\n# a remark\n64 48\n%d\n" % maximum + raw, np.round(expected).astype(int), atol=1)


def test_cmyk_jpeg_is_inverted_as_adobe_writes_it() -> None:
    for quality in (95, 100):
        assert_shows(encode(Image.fromarray(RGB).convert("CMYK"), "JPEG", quality=quality), BGR, atol=14)
    # And so is one that does not name Adobe, as in browsers.
    data = encode(Image.fromarray(RGB).convert("CMYK"), "JPEG", quality=95)
    at = data.index(b"\xff\xee")
    plain = data[:at] + data[at + 2 + int.from_bytes(data[at + 2 : at + 4]) :]
    assert b"Adobe" not in plain
    assert_shows(plain, BGR, atol=14)


def test_cmyk_tiff() -> None:
    assert_shows(encode(Image.fromarray(RGB).convert("CMYK"), "TIFF"), BGR, atol=1)


def test_animations_give_their_first_picture() -> None:
    first, second = Image.fromarray(RGB), Image.fromarray(RGB).rotate(180)
    for kind, options in (("PNG", {}), ("WEBP", {"lossless": True}), ("TIFF", {})):
        assert_shows(encode(first, kind, save_all=True, append_images=[second], **options), BGR)
    gif = encode(first.quantize(64), "GIF", save_all=True, append_images=[second.quantize(64)])
    assert_shows(gif, np.asarray(first.quantize(64).convert("RGB"))[..., ::-1])
    assert_shows(encode(first, "MPO", save_all=True, append_images=[second], quality=95), BGR, atol=20)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", pytest.param("AVIF", marks=needs_avif)], ids=str.lower)
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_applied(kind: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encode_rgb(kind, exif=exif, **({"quality": 95} if kind in ("JPEG", "AVIF") else {}))
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB")
    assert upright.size == ((48, 64) if orientation > 4 else (64, 48))
    assert_shows(data, np.asarray(upright)[..., ::-1], atol=2)


@pytest.mark.parametrize("shape", [(1, 1), (1, 20_000), (20_000, 3), (3, 40_000)])
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "BMP"])
def test_odd_sizes(shape: tuple[int, int], kind: str) -> None:
    image = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    decoded = decode_image(encode(Image.fromarray(image), kind))
    assert decoded.shape == image.shape
    if kind != "JPEG":
        np.testing.assert_array_equal(decoded, image[..., ::-1])


def test_the_suffix_does_not_matter(tmp_path: Path) -> None:
    (tmp_path / "picture.txt").write_bytes(encode_rgb("PNG"))
    np.testing.assert_array_equal(read_image(tmp_path / "picture.txt"), BGR)
    np.testing.assert_array_equal(read_image(str(tmp_path / "picture.txt")), BGR)


def test_bytes_after_the_end_do_not_matter() -> None:
    for kind in ("JPEG", "PNG", "BMP", "TIFF", "WEBP"):
        data = encode_rgb(kind)
        np.testing.assert_array_equal(decode_image(data + b"more" * 99), decode_image(data))


def test_a_thumbnail_inside_does_not_count_as_the_end() -> None:
    exif = Image.Exif()
    data = encode_rgb("JPEG", exif=exif.tobytes() + encode_rgb("JPEG"))
    assert data.count(b"\xff\xd9") == 2
    assert decode_image(data).shape == BGR.shape
    with pytest.raises(InputDataError, match="cut off"):
        decode_image(data[:-40])


def test_odd_ancillary_chunks_do_not_matter(capfd: pytest.CaptureFixture[str]) -> None:
    profile = png_chunk(b"iCCP", b"x\0\0" + zlib.compress(b"no profile"))
    broken = png_chunk(b"tEXt", b"key\0value")[:-1] + b"?"
    assert_shows(png(RGB, 2, profile, broken, png_chunk(b"gAMA", struct.pack(">I", 1))), BGR)
    assert capfd.readouterr() == ("", "")


def test_large_text_in_a_png_does_not_matter() -> None:
    assert_shows(png(RGB, 2, png_chunk(b"zTXt", b"key\0\0" + zlib.compress(bytes(9_000_000)))), BGR)


# --- what is no image, or not a whole one ---


def whole_files() -> dict[str, bytes]:
    noise = np.random.default_rng(1).integers(0, 256, (40, 56, 3), dtype=np.uint8)
    picture = Image.fromarray(noise)
    return {
        "jpeg": encode(picture, "JPEG"),
        "progressive jpeg": encode(picture, "JPEG", progressive=True),
        "cmyk jpeg": encode(picture.convert("CMYK"), "JPEG"),
        "png": encode(picture, "PNG"),
        "palette png": encode(picture.quantize(64), "PNG"),
        "webp": encode(picture, "WEBP"),
        "bmp": encode(picture, "BMP"),
        "gif": encode(picture.quantize(64), "GIF"),
        "tiff": encode(picture, "TIFF"),
        "lzw tiff": encode(picture, "TIFF", compression="tiff_lzw"),
        "jpeg tiff": encode(picture, "TIFF", compression="jpeg"),
        "ppm": encode(picture, "PPM"),
        "jpeg2000": encode(picture, "JPEG2000"),
        **({"avif": encode(picture, "AVIF")} if features.check("avif") else {}),
    }


WHOLE = whole_files()


@pytest.mark.parametrize("name", WHOLE)
def test_cut_anywhere(name: str, capfd: pytest.CaptureFixture[str]) -> None:
    data = WHOLE[name]
    # GIF and the directory at the end of a compressed TIFF: the pixels may be whole without the last bytes.
    spare = {"gif": 3, "lzw tiff": 300, "jpeg tiff": 300}.get(name, 0)
    points = sorted({*range(len(data) - 40, len(data)), *range(0, len(data), max(1, len(data) // 60)), 1, 2, 3, 20})
    for point in points:
        outcome = attempt(data[:point], "cut.file")
        if isinstance(outcome, InputDataError):
            assert str(outcome).startswith("cut.file: ")
            assert outcome.remedy
        else:
            assert point >= len(data) - spare, f"{point} of {len(data)} bytes were enough"
    if "tiff" not in name:  # Pillow's libtiff prints what it thinks of a broken file
        assert capfd.readouterr() == ("", "")


def test_a_cut_jpeg_or_png_says_so() -> None:
    for kind in ("JPEG", "PNG"):
        with pytest.raises(InputDataError, match=f"^a: This {kind} is cut off: its end is missing"):
            decode_image(encode_rgb(kind)[:-5], where="a")


def test_a_flipped_bit_in_a_png_is_found(capfd: pytest.CaptureFixture[str]) -> None:
    data = bytearray(encode_rgb("PNG"))
    data[data.index(b"IDAT") + 30] ^= 1
    with pytest.raises(InputDataError, match="checksum of its b'IDAT' chunk is wrong"):
        decode_image(bytes(data))
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    "chunks",
    [
        [(b"IEND", b"")],
        [(b"IDAT", b""), (b"IEND", b"")],
        [(b"IHDR", struct.pack(">IIBBBBB", 4, 4, 8, 2, 0, 0, 0)), (b"IEND", b"")],
        [(b"IHDR", struct.pack(">IIBBBBB", 4, 4, 8, 3, 0, 0, 0)), (b"IDAT", b""), (b"IEND", b"")],
        [
            (b"CgBI", b""),
            (b"IHDR", struct.pack(">IIBBBBB", 4, 4, 8, 2, 0, 0, 0)),
            (b"IDAT", b""),
            (b"IEND", b""),
        ],
    ],
    ids=["nothing", "no header", "no pixels", "no palette", "Apple's own"],
)
def test_a_png_of_the_wrong_chunks(chunks: list[tuple[bytes, bytes]], capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(InputDataError, match="its chunks make no image"):
        decode_image(b"\x89PNG\r\n\x1a\n" + b"".join(png_chunk(*chunk) for chunk in chunks))
    assert capfd.readouterr() == ("", "")


def test_a_broken_compressed_tiff_is_found() -> None:
    """OpenCV decodes the half of this and says nothing."""
    data = bytearray(WHOLE["lzw tiff"])
    data[2000:2400] = bytes(400)
    with pytest.raises(InputDataError, match="TIFF is damaged"):
        decode_image(bytes(data))


@settings(deadline=None, max_examples=200)
@given(
    st.sampled_from(sorted(WHOLE)),
    st.lists(st.tuples(st.integers(0, 2**16), st.binary(max_size=6), st.integers(0, 6)), max_size=6),
    st.integers(0, 400),
)
def test_fuzzed_bytes(name: str, edits: list[tuple[int, bytes, int]], cut: int) -> None:
    data = bytearray(WHOLE[name])
    for position, replacement, removed in edits:
        at = position % len(data)
        data[at : at + removed] = replacement
    with pytest.MonkeyPatch.context() as patch:  # no gigapixels in a test
        patch.setattr(media, "MAX_PIXELS", 2**22)
        patch.setattr(Image, "MAX_IMAGE_PIXELS", 2**21)
        outcome = attempt(bytes(data[: len(data) - cut]))
    if isinstance(outcome, InputDataError):
        assert outcome.finding
        assert outcome.remedy
    else:
        assert outcome.dtype == np.uint8
        assert outcome.ndim == 3
        assert outcome.shape[2] == 3


@settings(deadline=None, max_examples=200)
@given(
    st.sampled_from([whole[:12] for whole in WHOLE.values()] + [b"\0\0\0\x20ftyp", b""]),
    st.binary(max_size=300),
)
def test_nonsense_after_a_true_start(start: bytes, rest: bytes) -> None:
    with pytest.raises(InputDataError):
        decode_image(start + rest)


@pytest.mark.parametrize(
    ("data", "finding"),
    [
        (b"", "The file is empty"),
        (b"hello, world", "It is a text file, not an image"),
        (b"\0" * 500, "not an image in a format that can be read here"),
        (b'{"images": []}', "It is an annotation file .JSON., not an image"),
        (b"%PDF-1.7", "a PDF document"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "an SVG, XML or HTML text"),
        (b"  <!DOCTYPE html>", "an SVG, XML or HTML text"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "a HEIC/HEIF photo"),
        (b"\0\0\0\x20ftypisom\0\0\x02\0", "a video"),
        (b"#?RADIANCE\nFORMAT=32-bit_rle_rgbe\n\n-Y 4 +X 4\n", "high-dynamic-range"),
        (b"\x76\x2f\x31\x01\x02\0\0\0", "high-dynamic-range"),
        (b"PF\n4 4\n-1.0\n", "high-dynamic-range"),
        (tiff(GREY.astype(np.float32), 1, sample_format=3), "not unsigned numbers of 8 or 16 bits"),
        (tiff(GREY.astype(np.uint32), 1), "not unsigned numbers of 8 or 16 bits"),
        (tiff(GREY.astype(np.int16), 1, sample_format=2), "not unsigned numbers of 8 or 16 bits"),
        (tiff(RGB.astype(np.float32), 2, sample_format=3), "its layout is unknown"),
    ],
)
def test_other_files(data: bytes, finding: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "picture.jpg"
    path.write_bytes(data)
    with pytest.raises(InputDataError, match=finding) as caught:
        read_image(path)
    assert caught.value.where == str(path)
    assert caught.value.remedy
    assert capfd.readouterr() == ("", "")


def test_too_many_pixels(capfd: pytest.CaptureFixture[str]) -> None:
    jpeg = bytearray(encode_rgb("JPEG"))
    at = jpeg.index(b"\xff\xc0")
    jpeg[at + 5 : at + 9] = b"\xff\xff\xff\xff"
    bmp = bytearray(encode_rgb("BMP"))
    bmp[18:26] = struct.pack("<ii", 50_000, 50_000)
    line = np.zeros((1, 8), np.uint8)
    wide = png(line, 0).replace(struct.pack(">II", 8, 1), struct.pack(">II", 2_000_000, 1))
    tall = png(line, 0).replace(struct.pack(">II", 8, 1), struct.pack(">II", 60_000, 60_000))
    for data in (bytes(jpeg), bytes(bmp), *(_with_header_checksum(item) for item in (wide, tall))):
        with pytest.raises(InputDataError, match=r"at most [\d,]+ (are|is) read.*Shrink it"):
            decode_image(data)
    with pytest.raises(InputDataError, match="It has 60000x60000 = 3,600,000,000 pixels"):
        decode_image(_with_header_checksum(tall))
    assert capfd.readouterr() == ("", "")


def _with_header_checksum(data: bytes) -> bytes:
    return data[:29] + struct.pack(">I", zlib.crc32(data[12:29])) + data[33:]


def test_missing_folder_and_unreadable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputDataError, match=r"no\.png: The file cannot be opened: No such file"):
        read_image(tmp_path / "no.png")
    with pytest.raises(InputDataError, match="This is a folder"):
        read_image(tmp_path)
    with pytest.raises(InputDataError, match="its name is not a file name"):
        read_image("a\0b.png")

    def refuse(*args: object, **kwargs: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(media, "open_regular", refuse)
    with pytest.raises(InputDataError, match="cannot be opened: Permission denied"):
        read_image(tmp_path / "secret.png")


def test_a_large_file_of_another_kind_is_not_read_whole(tmp_path: Path) -> None:
    path = tmp_path / "film.mp4"
    with path.open("wb") as stream:
        stream.write(b"\0\0\0\x20ftypisom")
        stream.truncate(1 << 36)  # 64 GiB of nothing
    with pytest.raises(InputDataError, match="a video"):
        read_image(path)


def test_pillow_is_imported_only_where_it_is_needed() -> None:
    code = "import sys, rtmo_deploy.data.images; sys.exit('PIL' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# --- find_images ---


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in (
        *("b.jpg", "a.PNG", "c.jpeg", "notes.txt", "labels.json", ".hidden.jpg", "raw.dat"),
        *("sub/d.webp", "sub/deep/e.tif", "sub/.cache/f.png", ".git/g.png", "empty/readme.md"),
    ):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    (tmp_path / "folder.jpg").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def names(sources: list[str | Path], **options: Any) -> list[str]:
    return [path.as_posix() for path in find_images(sources, **options)]


def test_a_folder(tree: Path) -> None:
    assert names(["."]) == ["a.PNG", "b.jpg", "c.jpeg"]
    assert find_images([tree]) == [tree / "a.PNG", tree / "b.jpg", tree / "c.jpeg"]
    assert names(["."], recursive=True) == ["a.PNG", "b.jpg", "c.jpeg", "sub/d.webp", "sub/deep/e.tif"]


def test_patterns(tree: Path) -> None:
    assert names(["*.jp*g"]) == ["b.jpg", "c.jpeg"]
    assert names(["*"]) == ["a.PNG", "b.jpg", "c.jpeg"]
    assert names(["[ab].*"]) == ["a.PNG", "b.jpg"]
    assert names(["*.dat"]) == ["raw.dat"]
    assert names(["**/*.tif"]) == ["sub/deep/e.tif"]
    assert names(["**"]) == ["a.PNG", "b.jpg", "c.jpeg", "sub/d.webp", "sub/deep/e.tif"]
    assert find_images([f"{tree}/sub/*"]) == [tree / "sub" / "d.webp"]


def test_files_are_taken_as_they_are(tree: Path) -> None:
    assert names(["raw.dat", ".hidden.jpg"]) == ["raw.dat", ".hidden.jpg"]
    assert names([".git"]) == [".git/g.png"]


def test_a_name_with_pattern_characters_is_a_name(tree: Path) -> None:
    (tree / "x[1].jpg").write_bytes(b"")
    (tree / "x1.jpg").write_bytes(b"")
    assert names(["x[1].jpg"]) == ["x[1].jpg"]
    (tree / "set [a]").mkdir()
    (tree / "set [a]" / "y.png").write_bytes(b"")
    assert names(["set [a]"]) == ["set [a]/y.png"]


def test_the_order_is_the_sources_and_nothing_comes_twice(tree: Path) -> None:
    assert names(["sub", "c.jpeg", "*.jp*g", "./b.jpg", str(tree / "a.PNG"), "sub/../c.jpeg", "."]) == [
        "sub/d.webp",
        "c.jpeg",
        "b.jpg",
        (tree / "a.PNG").as_posix(),
    ]


def test_links(tree: Path) -> None:
    (tree / "link.jpg").symlink_to(tree / "b.jpg")
    (tree / "broken.jpg").symlink_to(tree / "nothing.jpg")
    (tree / "sub" / "loop").symlink_to(tree)
    assert names(["."]) == ["a.PNG", "b.jpg", "c.jpeg", "link.jpg"]
    assert names(["sub"], recursive=True) == ["sub/d.webp", "sub/deep/e.tif"]


@pytest.mark.parametrize(
    ("source", "finding"),
    [
        ("nothing.jpg", "no such file or folder"),
        ("broken/nothing.jpg", "no such file or folder"),
        ("", "no such file or folder"),
        ("a\0b", "no such file or folder"),
        ("*.gif", "No image matches this pattern"),
        ("*.tx?", "No image matches this pattern"),
        ("empty", "no image in this folder"),
        ("folder.jpg", "no image in this folder"),
        ("x" * 5000, "cannot be searched"),
    ],
)
def test_a_source_of_nothing(tree: Path, source: str, finding: str) -> None:
    with pytest.raises(InputDataError, match=finding) as caught:
        find_images(["b.jpg", source])
    assert caught.value.where == (source or "''")


def test_a_folder_without_images_says_where_to_look(tree: Path) -> None:
    with pytest.raises(InputDataError, match=r"Name the folder in it that holds them.*--recursive"):
        find_images(["empty"])
    with pytest.raises(InputDataError) as caught:
        find_images(["empty"], recursive=True)
    assert "--recursive" not in str(caught.value)


def test_a_closed_folder(tree: Path) -> None:
    closed = tree / "sub" / "deep"
    closed.chmod(0)
    try:
        if os.access(closed, os.R_OK):
            pytest.skip("this user may read everything")
        with pytest.raises(InputDataError, match="cannot be searched: Permission denied"):
            find_images(["sub"], recursive=True)
        with pytest.raises(InputDataError, match="cannot be searched: Permission denied"):
            find_images(["sub/deep/e.tif"])
        with pytest.raises(InputDataError, match="cannot be opened: Permission denied"):
            read_image(closed / "e.tif")
    finally:
        closed.chmod(0o755)


def test_an_unsearchable_folder(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(InputDataError, match="cannot be searched: Permission denied"):
        find_images(["sub"])


def test_nothing_and_a_single_source(tree: Path) -> None:
    assert find_images([]) == []
    assert find_images("b.jpg") == find_images([Path("b.jpg")]) == [Path("b.jpg")]


def _png_header(width: int, height: int) -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return len(body).to_bytes(4, "big") + kind + body + zlib.crc32(kind + body).to_bytes(4, "big")

    head = width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes([8, 0, 0, 0, 0])
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


class TestBounds:
    def test_a_png_with_too_many_pixels_is_not_decoded(self) -> None:
        message = r"It has 32000x32000 = 1,024,000,000 pixels; at most 67,108,864 are read\..* --max-pixels"
        with pytest.raises(InputDataError, match=message):
            decode_image(_png_header(32000, 32000))

    @pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF", "PPM", "JPEG2000"])
    def test_the_bound_is_the_callers(self, kind: str) -> None:
        stream = io.BytesIO()
        Image.new("RGB", (40, 30), (1, 2, 3)).save(stream, kind)
        assert decode_image(stream.getvalue(), max_pixels=2400).shape == (30, 40, 3)
        with pytest.raises(InputDataError, match="It has 40x30 = 1,200 pixels"):
            decode_image(stream.getvalue(), max_pixels=1199)

    @pytest.mark.parametrize("lossless", [True, False])
    def test_the_size_of_a_webp(self, lossless: bool) -> None:
        stream = io.BytesIO()
        Image.new("RGBA" if lossless else "RGB", (40, 30)).save(stream, "WEBP", lossless=lossless)
        with pytest.raises(InputDataError, match="It has 40x30 = 1,200 pixels"):
            decode_image(stream.getvalue(), max_pixels=1199)

    def test_a_jpeg_of_a_thousand_scans(self) -> None:
        stream = io.BytesIO()
        Image.new("L", (16, 16)).save(stream, "JPEG", progressive=True)
        whole = stream.getvalue()
        scan = whole.rindex(b"\xff\xda")
        with pytest.raises(InputDataError, match="scans of 16x16 pixels: it takes too long"):
            decode_image(whole[:scan] + whole[scan:-2] * 1000 + b"\xff\xd9")

    @pytest.mark.parametrize("kind", ["PNG", "TIFF"])
    def test_the_environment_sets_the_bound(self, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
        data = encode_rgb(kind)
        monkeypatch.setenv("RTMO_DEPLOY_MAX_PIXELS", str(RGB.shape[0] * RGB.shape[1]))
        assert decode_image(data).shape == RGB.shape
        monkeypatch.setenv("RTMO_DEPLOY_MAX_PIXELS", "100")
        with pytest.raises(InputDataError, match="at most 100 are read"):
            decode_image(data)

    @pytest.mark.parametrize("text", ["x", "-1", "0", "1e9", "9" * 5000, "\u0663"])
    def test_a_bound_that_is_no_number(self, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("RTMO_DEPLOY_MAX_PIXELS", text)
        with pytest.raises(UsageError, match="is not a number of pixels"):
            decode_image(encode_rgb("PNG"))

    def test_a_png_with_more_rows_than_it_says(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(media, "_MAX_INFLATED", 1000)
        size = struct.pack(">IIBBBBB", 10, 10, 8, 0, 0, 0, 0)

        def made(rows: int) -> bytes:
            body = zlib.compress(bytes(11 * 10 + rows))
            chunks = [(b"IHDR", size), (b"IDAT", body), (b"IEND", b"")]
            return b"\x89PNG\r\n\x1a\n" + b"".join(png_chunk(*chunk) for chunk in chunks)

        with pytest.raises(InputDataError, match="more rows than its header says"):
            decode_image(made(2**22))
        assert decode_image(made(0)).shape == (10, 10, 3)

    def test_a_large_png_is_read_as_before(self, monkeypatch: pytest.MonkeyPatch) -> None:
        noise = np.random.default_rng(0).integers(0, 255, (80, 60, 3), np.uint8)
        for data in (encode(Image.fromarray(noise), "PNG"), png(noise[..., :1].repeat(4, 2), 6)):
            before = decode_image(data)
            monkeypatch.setattr(media, "_MAX_INFLATED", 10)
            np.testing.assert_array_equal(decode_image(data), before)

    def test_a_tile_larger_than_the_image(self) -> None:
        data = tiff(GREY, 1)
        for old, new in ((339, 322), (278, 323)):  # two tags become the size of a tile
            at = data.index(struct.pack("<HH", old, 4))
            data = data[:at] + struct.pack("<HHII", new, 4, 1, 30_000) + data[at + 12 :]
        with pytest.raises(InputDataError, match="It has 30000x30000 = 900,000,000 pixels"):
            decode_image(data)

    @pytest.mark.parametrize("magic", [b"P3", b"P2", b"P1"])
    def test_plain_text_pixels_have_a_bound_of_their_own(self, magic: bytes) -> None:
        with pytest.raises(InputDataError, match="at most 1,048,576 are read"):
            decode_image(magic + b"\n8000 8000\n255\n" + b"1 " * 1000)

    @pytest.mark.parametrize("start", [b"P6\n#", b"P6\n3 #", b"P6\n3 3\n#", b"P6\n" + b" " * 100])
    def test_a_pnm_with_an_endless_header(self, start: bytes) -> None:
        with pytest.raises(InputDataError, match="no size in its beginning"):
            decode_image(start + b"x" * 10_000)

    @pytest.mark.parametrize("name", ["x" * 5000, "\ud800.png", "a\0.png"])
    def test_a_name_that_no_file_has(self, tmp_path: Path, name: str) -> None:
        with pytest.raises(InputDataError, match="cannot be opened"):
            read_image(tmp_path / name)

    def test_a_large_file_is_not_read(self, tmp_path: Path) -> None:
        with (tmp_path / "x.tif").open("wb") as stream:
            stream.write(tiff(GREY, 1))
            stream.truncate(media.MAX_BYTES + 1)
        with pytest.raises(InputDataError, match="more than 512 MiB"):
            read_image(tmp_path / "x.tif")

    def test_a_fifo_is_not_waited_for(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "x.png")
        assert find_images([tmp_path / "x.png"]) == [tmp_path / "x.png"]
        with pytest.raises(InputDataError, match="it is a FIFO, not a regular file"):
            read_image(tmp_path / "x.png")

    def test_a_heic_in_a_folder_is_named(self, tmp_path: Path) -> None:
        (tmp_path / "x.HEIC").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic")
        with pytest.raises(InputDataError, match="This is a HEIC/HEIF photo"):
            read_image(find_images([tmp_path])[0])
