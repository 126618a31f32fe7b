"""The C++ letterbox is the Python one, pixel for pixel."""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING

import numpy as np
import pytest
from cpp_host import compile_library

import rtmo_deploy.package.cpp
from rtmo_deploy.runtime.letterbox import Placement, letterbox

if TYPE_CHECKING:
    from pathlib import Path

SHIM = """
#include <algorithm>
#include "letterbox.h"
extern "C" int place(const std::uint8_t* pixels, int columns, int rows, int width, int height, int top_left,
                     int pad, std::uint8_t* canvas, double* transform) {
    const auto placement = top_left ? rtmo::Placement::top_left : rtmo::Placement::center;
    const rtmo::Image image{columns, rows, {pixels, pixels + static_cast<std::size_t>(columns) * rows * 3}};
    const rtmo::Transform t = rtmo::transform_of(columns, rows, width, height, placement);
    transform[0] = t.scale, transform[1] = t.offset_x, transform[2] = t.offset_y;
    try {
        const rtmo::Image placed = rtmo::letterbox(image, width, height, placement, static_cast<std::uint8_t>(pad));
        std::copy(placed.bgr.begin(), placed.bgr.end(), canvas);
        return 0;
    } catch (const rtmo::Error& error) {
        return static_cast<int>(error.code);
    }
}
"""
CANVASES = [(256, 256), (352, 352), (416, 416), (480, 640), (640, 640), (96, 544)]


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    folder = tmp_path_factory.mktemp("letterbox")
    sources = _sources()
    shim = folder / "shim.cpp"
    shim.write_text(SHIM)
    return ctypes.CDLL(str(compile_library(folder / "lib.so", shim, sources / "letterbox.cpp", include=sources)))


def _sources() -> Path:
    from pathlib import Path

    return Path(rtmo_deploy.package.cpp.__file__).parent / "sources"


def placed(
    library: ctypes.CDLL, image: np.ndarray, size: tuple[int, int], placement: Placement
) -> tuple[int, np.ndarray, list]:
    canvas, transform = np.zeros((*size, 3), np.uint8), (ctypes.c_double * 3)()
    pointers = image.ctypes.data_as(ctypes.c_void_p), canvas.ctypes.data_as(ctypes.c_void_p)
    rows, columns = image.shape[:2]
    sizes = (columns, rows, size[1], size[0])
    code = library.place(pointers[0], *sizes, placement is Placement.TOP_LEFT, 114, pointers[1], transform)
    return code, canvas, list(transform)


@pytest.mark.parametrize("placement", list(Placement))
def test_equal_on_images_of_every_size(library: ctypes.CDLL, placement: Placement) -> None:
    rng = np.random.default_rng(7)
    sizes = [(1, 1), (2, 3), (1, 900), (900, 1), (480, 640), (720, 1280), (427, 640), (640, 426), (33, 31)]
    sizes += [(2 * height, 2 * width) for height, width in CANVASES] + CANVASES  # half and equal sizes: other code
    sizes += [tuple(rng.integers(1, 1300, 2)) for _ in range(120)]
    for number, (rows, columns) in enumerate(sizes):
        image = rng.integers(0, 256, (rows, columns, 3), dtype=np.uint8)
        for size in (CANVASES[number % len(CANVASES)], CANVASES[(number // 2) % len(CANVASES)]):
            expected, transform = letterbox(image, size, placement)
            code, canvas, numbers = placed(library, image, size, placement)
            assert code == 0
            assert (canvas == expected).all(), (image.shape, size, placement)
            assert numbers == [transform.scale, *transform.offset]


def test_sides_beyond_the_limit_are_refused(library: ctypes.CDLL) -> None:
    for shape in ((1, 32767, 3), (32767, 1, 3)):
        assert placed(library, np.zeros(shape, np.uint8), (256, 256), Placement.CENTER)[0] == 3
    image = np.full((1, 32766, 3), 9, np.uint8)
    assert (placed(library, image, (256, 256), Placement.CENTER)[1] == letterbox(image, (256, 256))[0]).all()
