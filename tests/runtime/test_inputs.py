"""Whatever holds an image, to its pixels."""

from __future__ import annotations

import io
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from rtmo_deploy.errors import InputDataError, UsageError
from rtmo_deploy.runtime import to_bgr
from rtmo_deploy.runtime.inputs import kept_of

BGR = np.random.default_rng(0).integers(0, 256, (6, 9, 3), dtype=np.uint8)
PNG = cv2.imencode(".png", BGR)[1].tobytes()


@pytest.fixture(scope="module")
def server():
    """Serves BGR as /a.png, and the path's code as an error."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            good = self.path.endswith("a.png")
            self.send_response(200 if good else 404)
            self.end_headers()
            self.wfile.write(PNG if good else b"no")

        def log_message(self, *_):
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as running:
        thread = threading.Thread(target=running.serve_forever, daemon=True)
        thread.start()
        yield f"127.0.0.1:{running.server_port}"
        running.shutdown()
        thread.join()


def tensor(array=BGR):
    return torch.from_numpy(array[..., ::-1].transpose(2, 0, 1).copy())


def forms(folder):
    path = folder / "a.png"
    path.write_bytes(PNG)
    yield from (path, str(path), PNG, bytearray(PNG), memoryview(PNG), io.BytesIO(PNG))
    yield Image.fromarray(BGR[..., ::-1])
    yield from (BGR, np.dstack([BGR, BGR[..., 0]]), np.asfortranarray(BGR), BGR[::-1][::-1])
    yield from (tensor(), tensor().float() / 255, tensor().double() / 255, tensor().float().div(255).requires_grad_())


def test_every_form_has_the_same_pixels(tmp_path):
    for form in forms(tmp_path):
        found = to_bgr(form)
        assert found.dtype == np.uint8
        assert np.array_equal(found, BGR), type(form)


def test_an_address(server, monkeypatch):
    assert np.array_equal(to_bgr(f"http://{server}/a.png"), BGR)
    assert kept_of(f"HTTP://{server}/a.png") == PNG  # what was seen can be drawn on, whatever the address shows next
    missing = r"http://127.*/b\.png: It cannot be fetched: the server answers 404"
    with pytest.raises(InputDataError, match=missing) as error:
        to_bgr(f"http://me:secret@{server}/b.png")
    assert "secret" not in str(error.value)
    with pytest.raises(InputDataError, match="It cannot be fetched"):
        to_bgr("http://127.0.0.1:1/a.png")
    monkeypatch.setenv("RTMO_DEPLOY_OFFLINE", "1")
    with pytest.raises(InputDataError, match="RTMO_DEPLOY_OFFLINE forbids"):
        to_bgr(f"http://{server}/a.png")


@pytest.mark.parametrize("color", ["bgr", "rgb", None])
@pytest.mark.parametrize("channels", [0, 1, 3, 4])
def test_the_order_of_channels(color, channels):
    image = np.random.default_rng(channels).integers(0, 256, (4, 5, max(1, channels)), dtype=np.uint8)
    shown = np.broadcast_to(image, (4, 5, 3)) if channels < 2 else image[..., :3]
    of_array = to_bgr(image if channels else image[..., 0], color)
    assert np.array_equal(of_array, shown[..., ::-1] if color == "rgb" else shown)
    if channels in {1, 3}:
        of_tensor = to_bgr(torch.from_numpy(image.transpose(2, 0, 1)), color)
        assert np.array_equal(of_tensor, shown if color == "bgr" else shown[..., ::-1])


def test_an_array_is_not_copied():
    assert np.shares_memory(to_bgr(BGR), BGR)
    assert np.shares_memory(to_bgr(BGR, "rgb"), BGR)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "HSV", "I;16"])
def test_modes_of_pillow(mode):
    if mode == "I;16":
        wide = np.array([[0, 256, 65535]], np.uint16)
        image, shown = Image.fromarray(wide), np.repeat((wide >> 8).astype(np.uint8)[..., None], 3, axis=2)
    else:
        image = Image.fromarray(BGR[..., ::-1]).convert(mode)
        shown = np.asarray(image.convert("RGB"))[..., ::-1]
    before = image.tobytes()
    assert np.array_equal(to_bgr(image), shown)
    assert image.tobytes() == before


@pytest.mark.parametrize("mode", ["F", "I"])
def test_modes_of_pillow_without_a_meaning(mode):
    with pytest.raises(InputDataError, match="8 or 16 bits"):
        to_bgr(Image.new(mode, (3, 2)))


def test_orientation_of_a_pillow_image():
    stream = io.BytesIO()
    exif = Image.Exif()
    exif[274] = 6
    Image.fromarray(BGR[..., ::-1]).save(stream, "PNG", exif=exif)
    image = Image.open(io.BytesIO(stream.getvalue()))
    assert np.array_equal(to_bgr(image), np.rot90(BGR, -1))
    assert image.size == (9, 6)  # the caller's is as it was


@pytest.mark.parametrize("what", ["cut", "bomb"])
def test_pillow_images_that_are_not_read(what, monkeypatch):
    stream = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (99, 99, 3), dtype=np.uint8)).save(stream, "BMP")
    image = Image.open(io.BytesIO(stream.getvalue()[: 1000 if what == "cut" else None]))
    if what == "bomb":
        monkeypatch.setenv("RTMO_DEPLOY_MAX_PIXELS", "9800")
    with pytest.raises(InputDataError, match="9,801 pixels" if what == "bomb" else "damaged"):
        to_bgr(image)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (BGR.astype(np.float32) / 255, r"float32.*array \* 255"),
        (BGR.astype(np.uint16), "uint16"),
        (BGR.transpose(2, 0, 1), r"transpose\(1, 2, 0\)"),
        (BGR[:0], "an image is"),
        (BGR[..., :2], "an image is"),
        (BGR[None, None], "Give one image"),
        (np.array(None), "object"),
        (tensor().permute(1, 2, 0), r"permute\(2, 0, 1\)"),
        (tensor().float(), r"floats outside 0 to 1"),
        (tensor() / 255 * np.nan, "floats outside 0 to 1"),
        (tensor().int(), "int32"),
        (tensor()[:, :0], "an image is"),
        (io.StringIO("x"), "binary mode"),
        (None, "NoneType is not an image"),
        (3, "int is not an image"),
        ([BGR], "list is not an image"),
        (tensor().to_sparse(), "torch.sparse_coo"),
        (tensor().to("meta"), "on the meta device"),
        (tensor().to(torch.complex64), "complex64"),
        ((tensor() / 255).to(torch.bfloat16) + 1, "floats outside 0 to 1"),
    ],
)
def test_what_is_no_image(given, says):
    with pytest.raises(UsageError, match=says):
        to_bgr(given)


@pytest.mark.parametrize("given", [b"", b"x" * 99, PNG[:-9], io.BytesIO(b"")])
def test_bytes_that_are_no_image(given):
    with pytest.raises(InputDataError):
        to_bgr(given)


def test_a_file_opened_as_text(tmp_path):
    (tmp_path / "a.png").write_bytes(PNG)
    with (tmp_path / "a.png").open(encoding="utf-8") as file, pytest.raises(UsageError, match="binary mode"):
        to_bgr(file)


def test_a_closed_file(tmp_path):
    (tmp_path / "a.png").write_bytes(PNG)
    with (tmp_path / "a.png").open("rb") as file:
        pass
    with pytest.raises(InputDataError, match="closed"):
        to_bgr(file)


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float64])
def test_floats_of_other_widths(kind):
    half = torch.full((3, 2, 2), 0.5, dtype=kind)
    assert np.array_equal(to_bgr(half), np.full((2, 2, 3), 128, np.uint8))


def test_an_order_that_is_none():
    with pytest.raises(UsageError, match="'bgr' or 'rgb'"):
        to_bgr(BGR, "grb")


@settings(deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 2**32 - 1))
def test_floats_of_bytes_are_the_bytes(height, width, seed):
    image = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    for dtype in (torch.float32, torch.float64):
        assert np.array_equal(to_bgr(tensor(image).to(dtype) / 255), image)


def test_a_path_is_kept_as_it_is(tmp_path):
    (tmp_path / "a.png").write_bytes(PNG)
    path = tmp_path / "a.png"
    assert kept_of(path) is path
    assert kept_of(str(path)) == str(path)
    with pytest.raises(InputDataError, match="cannot be opened"):
        to_bgr(Path("missing.png"))
