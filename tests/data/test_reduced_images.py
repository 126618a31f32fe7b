"""JPEGs decoded at a reduced scale: which one is taken, where its pixels lie, and that every check stays."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from rtmo_deploy.data.images import TooManyPixelsError, decode_image, read_image, read_to_fit
from rtmo_deploy.errors import InputDataError


def waves(height: int, width: int) -> Image.Image:
    """An image of which a reduced one keeps all there is, and that no turn or flip leaves the same."""
    y, x = np.mgrid[:height, :width]
    planes = [np.sin(x / 41 + 0.2) + y / height, np.cos(y / 53) + x / width, np.sin((x + 2 * y) / 97)]
    pixels = np.stack([60 * plane + 100 for plane in planes], axis=-1)
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def encode(image: Image.Image, kind: str = "JPEG", *, orientation: int = 0, **options: Any) -> bytes:
    exif = Image.Exif()
    if orientation:
        exif[0x0112] = orientation
        options["exif"] = exif
    stream = io.BytesIO()
    image.save(stream, kind, **({"quality": 97, "subsampling": 0} if kind == "JPEG" else {}), **options)
    return stream.getvalue()


@pytest.mark.parametrize(
    ("size", "fit_hw", "factor"),
    [
        ((320, 640), (320, 320), 2),
        ((320, 640), (352, 352), 1),
        ((320, 638), (320, 320), 1),
        ((640, 480), (352, 352), 1),
        ((720, 1280), (320, 320), 4),
        ((720, 1279), (320, 320), 2),
        ((720, 1280), (96, 192), 4),
        ((720, 1280), (90, 160), 8),
        ((2000, 2000), (32, 32), 8),
        ((33, 2000), (64, 96), 8),
    ],
)
def test_the_smallest_that_is_large_enough(size: tuple[int, int], fit_hw: tuple[int, int], factor: int) -> None:
    decoded = read_to_fit(encode(waves(*size)), fit_hw)
    assert (decoded.factor, decoded.image_hw) == (factor, size)
    assert decoded.pixels.shape == (-(-size[0] // factor), -(-size[1] // factor), 3)
    assert decoded.pixels.flags.c_contiguous
    fill = min(fit_hw[0] / size[0], fit_hw[1] / size[1])
    assert decoded.pixels.shape[0] >= int(fill * size[0])


@pytest.mark.parametrize("subsampling", [0, 2])
@pytest.mark.parametrize("orientation", range(9))
@pytest.mark.parametrize(("size", "factor"), [((640, 480), 8), ((643, 475), 8), ((644, 476), 4), ((642, 480), 2)])
def test_where_pixels_lie(size: tuple[int, int], factor: int, orientation: int, subsampling: int) -> None:
    data = encode(waves(*size), orientation=orientation) if subsampling == 0 else _subsampled(size, orientation)
    whole = decode_image(data)
    decoded = read_to_fit(data, (640 // factor, 640 // factor))
    upright = size[::-1] if orientation > 4 else size
    assert decoded.image_hw == whole.shape[:2] == upright
    if orientation and (size[0] % factor or size[1] % factor):
        assert decoded.factor == 1  # which end of a side has the block that is cut off is not known
        np.testing.assert_array_equal(decoded.pixels, whole)
        return
    assert decoded.factor == factor
    height, width = upright[0] // factor, upright[1] // factor
    blocks = whole[: height * factor, : width * factor].reshape(height, factor, width, factor, 3)
    apart = np.abs(decoded.pixels[:height, :width] - blocks.mean(axis=(1, 3)))
    assert apart.mean() < 0.7
    assert apart.max() < 6


def _subsampled(size: tuple[int, int], orientation: int) -> bytes:
    stream = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = orientation or 1
    waves(*size).save(stream, "JPEG", quality=97, subsampling=2, **({"exif": exif} if orientation else {}))
    return stream.getvalue()


def test_a_size_that_exif_may_turn_is_reduced_for_both_ways() -> None:
    # 640x320 pixels fill half of 640x320, and turned a quarter.
    assert read_to_fit(encode(waves(640, 1280)), (640, 320)).factor == 4
    turned = read_to_fit(encode(waves(640, 1280), orientation=6), (640, 320))
    assert (turned.factor, turned.image_hw) == (2, (1280, 640))


def test_a_side_that_a_smaller_factor_divides() -> None:
    assert read_to_fit(encode(waves(1004, 1012), orientation=3), (64, 64)).factor == 4


@pytest.mark.parametrize(
    "options", [{"progressive": True}, {"restart_marker_rows": 1}], ids=lambda one: next(iter(one))
)
def test_other_ways_to_code(options: dict[str, Any]) -> None:
    image = waves(480, 640)
    plain, other = read_to_fit(encode(image), (64, 64)), read_to_fit(encode(image, **options), (64, 64))
    assert other.factor == 8
    np.testing.assert_array_equal(other.pixels, plain.pixels)


@pytest.mark.parametrize("mode", ["L", "CMYK"])
def test_grey_and_cmyk(mode: str) -> None:
    data = encode(waves(480, 640).convert(mode))
    decoded = read_to_fit(data, (64, 64))
    assert decoded.pixels.shape == (60, 80, 3)
    assert np.abs(decoded.pixels - decode_image(data).reshape(60, 8, 80, 8, 3).mean(axis=(1, 3))).mean() < 1


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "BMP", "TIFF"])
def test_other_formats_are_decoded_whole(kind: str) -> None:
    data = encode(waves(480, 640), kind)
    decoded = read_to_fit(data, (64, 64))
    assert (decoded.factor, decoded.image_hw) == (1, (480, 640))
    np.testing.assert_array_equal(decoded.pixels, decode_image(data))


def test_without_a_size_all_is_decoded(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(encode(waves(480, 640)))
    for source in (path, str(path), path.read_bytes()):
        assert read_to_fit(source, None).factor == 1
        np.testing.assert_array_equal(read_to_fit(source, None).pixels, read_image(path))
        assert read_to_fit(source, (64, 64)).factor == 8


def test_the_checks_are_those_of_the_whole_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = encode(waves(480, 640))
    for wrong, finding in (
        (data[:-40], "cut off"),
        (b"", "empty"),
        (b"%PDF", "a PDF document"),
        (b"\xff\xd8\xff\xd9", "damaged"),
        (b"\xff\xd8\xff" + bytes(99), "cut off"),
    ):
        with pytest.raises(InputDataError, match=finding) as caught:
            read_to_fit(wrong, (64, 64), where="a name")
        assert caught.value.where == "a name"
    with pytest.raises(InputDataError, match="cannot be opened"):
        read_to_fit(tmp_path / "missing.jpg", (64, 64))
    monkeypatch.setenv("RTMO_DEPLOY_MAX_PIXELS", str(480 * 640 - 1))
    with pytest.raises(TooManyPixelsError, match="640x480"):
        read_to_fit(data, (64, 64))
