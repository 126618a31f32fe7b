"""The letterbox against the reference's own numbers, rtmlib's code, and a plain NumPy one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from rtmo_deploy.data.images import Decoded
from rtmo_deploy.errors import UsageError
from rtmo_deploy.runtime.letterbox import (
    LetterboxTransform,
    Placement,
    _within_warp_limit,
    letterbox,
    reference_matrix,
    to_tensor,
)

Picture = NDArray[np.uint8]

GOLDEN = np.load(Path(__file__).parent.parent / "data" / "preproc" / "mmpose_letterbox.npz")
PHOTOGRAPHS = sorted({key.split(".")[0] for key in GOLDEN})

canvases = st.tuples(st.integers(1, 6), st.integers(1, 6)).map(lambda size: (size[0] * 32, size[1] * 32))
placements = st.sampled_from(Placement)


def noise(height: int, width: int, seed: int = 0, low: int = 0, high: int = 256) -> Picture:
    return np.random.default_rng(seed).integers(low, high, (height, width, 3), dtype=np.uint8)


def plain_center(image: Picture, size_hw: tuple[int, int]) -> NDArray[np.float64]:
    """Bilinear sampling as a formula: (x, y) shows the original at ((x, y) - offset) / s, outside 114."""
    (rows, columns), (height, width) = image.shape[:2], size_hw
    scale = min(width / columns, height / rows)
    xs = (np.arange(width) - (width - scale * columns) / 2) / scale
    ys = (np.arange(height) - (height - scale * rows) / 2) / scale
    # One ring of 114 suffices: beyond it, everything is 114.
    ringed = np.pad(image.astype(np.float64), ((1, 1), (1, 1), (0, 0)), constant_values=114)
    xs, ys = np.clip(xs, -1, columns) + 1, np.clip(ys, -1, rows) + 1
    x0, y0 = np.minimum(xs.astype(int), columns), np.minimum(ys.astype(int), rows)
    fx, fy = (xs - x0)[None, :, None], (ys - y0)[:, None, None]
    top = ringed[y0][:, x0] * (1 - fx) + ringed[y0][:, x0 + 1] * fx
    bottom = ringed[y0 + 1][:, x0] * (1 - fx) + ringed[y0 + 1][:, x0 + 1] * fx
    return np.asarray(top * (1 - fy) + bottom * fy)


@pytest.mark.parametrize("name", PHOTOGRAPHS)
def test_geometry_is_the_references(name: str) -> None:
    rows, columns = (int(side) for side in GOLDEN[f"{name}.original_hw"])
    _, transform = letterbox(np.zeros((rows, columns, 3), np.uint8), (640, 640))
    assert transform.original_hw == (rows, columns)
    assert transform.input_hw == (640, 640)
    matrix = GOLDEN[f"{name}.warp_mat"]
    np.testing.assert_allclose([transform.scale] * 2, [matrix[0, 0], matrix[1, 1]], rtol=1e-12)
    np.testing.assert_allclose(transform.offset, matrix[:, 2], atol=1e-10)
    np.testing.assert_allclose(reference_matrix(rows, columns, 640, 640), matrix, atol=1e-10)
    inside, original = GOLDEN[f"{name}.kp_in"], GOLDEN[f"{name}.kp_out"]
    np.testing.assert_allclose(transform.to_original(inside), original, atol=1e-4)
    np.testing.assert_allclose(transform.to_input(original), inside, atol=1e-4)


@pytest.mark.parametrize("name", PHOTOGRAPHS)
def test_pixels_are_the_references(name: str, shared: Path) -> None:
    image = cv2.imread(str(shared / "data" / "coco" / f"{name}.jpg"))
    canvas, _ = letterbox(np.asarray(image, np.uint8), (640, 640))
    np.testing.assert_array_equal(to_tensor([canvas])[0].reshape(3, -1)[:, ::401], GOLDEN[f"{name}.sample"])
    np.testing.assert_array_equal(canvas[320].T, GOLDEN[f"{name}.row320"])
    np.testing.assert_array_equal(canvas[:, 320].T, GOLDEN[f"{name}.col320"])
    whole = cv2.imread(str(shared / "golden" / "preproc" / f"{name}_mmpose_640.png"))
    np.testing.assert_array_equal(canvas, whole)


# The grey levels stay near 114, so that the 1/32 pixel to which OpenCV rounds a position is worth at most
# (144 - 84) / 64 in each direction, plus the rounding of the result.
@settings(deadline=None, max_examples=150)
@given(st.integers(1, 90), st.integers(1, 90), canvases, st.integers(0, 99))
def test_center_is_bilinear_sampling(height: int, width: int, size_hw: tuple[int, int], seed: int) -> None:
    image = noise(height, width, seed, 84, 145)
    canvas, _ = letterbox(image, size_hw)
    assert canvas.dtype == np.uint8
    assert np.abs(canvas - plain_center(image, size_hw)).max() <= 2.5


def test_center_matches_thereference_matrix_where_float32_shows() -> None:
    """A wide canvas: with the exact matrix 2 % of these pixels come out otherwise than the reference's."""
    image = noise(847, 1410)
    # The points of mmpose's get_warp_matrix for this size, in its float32.
    reach = -323.85296630859375
    source = np.array([[705, 423.5], [705, reach], [705 - 423.5 + reach, reach]], np.float32)
    target = np.array([[480, 272], [480, -208], [0, -208]], np.float32)
    expected = cv2.warpAffine(image, cv2.getAffineTransform(source, target), (960, 544), borderValue=(114,) * 3)
    np.testing.assert_array_equal(letterbox(image, (544, 960))[0], expected)
    exact = np.array([[544 / 847, 0, (960 - 544 / 847 * 1410) / 2], [0, 544 / 847, 0]])
    assert (cv2.warpAffine(image, exact, (960, 544), borderValue=(114,) * 3) != expected).any()


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 300), st.integers(1, 300), canvases, st.integers(0, 99))
def test_top_left_is_rtmlibs(height: int, width: int, size_hw: tuple[int, int], seed: int) -> None:
    rtmo = pytest.importorskip("rtmlib.tools.pose_estimation.rtmo", reason="rtmlib is not installed")
    if min(int(height * r) for r in [min(size_hw[0] / height, size_hw[1] / width)]) == 0:
        return
    if int(width * min(size_hw[0] / height, size_hw[1] / width)) == 0:
        return
    tool = rtmo.RTMO.__new__(rtmo.RTMO)
    tool.model_input_size, tool.mean, tool.std = size_hw, None, None
    image = noise(height, width, seed)
    expected, ratio = tool.preprocess(image)
    canvas, transform = letterbox(image, size_hw, Placement.TOP_LEFT)
    np.testing.assert_array_equal(canvas, expected)
    points = np.random.default_rng(seed).uniform(-50, 250, (7, 17, 2))
    np.testing.assert_allclose(transform.to_original(points), points / ratio, rtol=1e-12)


def test_top_left_leaves_an_equal_size_alone() -> None:
    image = noise(64, 96)
    canvas, transform = letterbox(image, (64, 96), Placement.TOP_LEFT)
    np.testing.assert_array_equal(canvas, image)
    assert not np.shares_memory(canvas, image)
    assert (transform.scale, transform.offset) == (1.0, (0.0, 0.0))


@settings(deadline=None)
@given(
    st.integers(1, 40_000),
    st.integers(1, 40_000),
    canvases,
    placements,
    st.lists(st.tuples(st.floats(-1e5, 1e5), st.floats(-1e5, 1e5)), min_size=2, max_size=6),
)
def test_round_trip(
    height: int, width: int, size_hw: tuple[int, int], placement: Placement, points: list[tuple[float, float]]
) -> None:
    scale = min(size_hw[0] / height, size_hw[1] / width)
    offset = ((size_hw[1] - scale * width) / 2, (size_hw[0] - scale * height) / 2)
    transform = LetterboxTransform(
        scale, offset if placement is Placement.CENTER else (0.0, 0.0), (height, width), size_hw
    )
    there = np.array(points)
    np.testing.assert_allclose(transform.to_original(transform.to_input(there)), there, atol=1e-6)
    boxes = np.concatenate([there, there + 1], axis=-1)
    np.testing.assert_allclose(
        transform.boxes_to_original(boxes),
        np.concatenate([transform.to_original(boxes[:, :2]), transform.to_original(boxes[:, 2:])], axis=-1),
    )


@pytest.mark.parametrize(("given_type", "back"), [("f4", "f4"), ("f8", "f8"), ("i4", "f8"), ("f2", "f8")])
def test_types_of_coordinates(given_type: str, back: str) -> None:
    _, transform = letterbox(noise(30, 50), (64, 64))
    points = np.ones((2, 3, 2), given_type)
    for result in (transform.to_original(points), transform.to_input(points)):
        assert result.dtype == back
        assert result.shape == points.shape
    assert transform.boxes_to_original(np.zeros((0, 4), "f4")).shape == (0, 4)
    assert (points == 1).all()


@pytest.mark.parametrize("placement", Placement)
@pytest.mark.parametrize("shape", [(50, 90), (90, 50), (37, 37), (700, 300), (3, 20_000), (20_000, 3)])
def test_a_mark_lands_where_the_transform_says(shape: tuple[int, int], placement: Placement) -> None:
    image = np.full((*shape, 3), 114, np.uint8)
    centre = np.array([shape[1] * 0.6, shape[0] * 0.7])
    spread = np.array([shape[1], shape[0]]) / 12 + 0.4
    ys, xs = np.mgrid[: shape[0], : shape[1]]
    weight = np.exp(-(((xs - centre[0]) / spread[0]) ** 2 + ((ys - centre[1]) / spread[1]) ** 2))
    image += np.round(140 * weight).astype(np.uint8)[..., None]
    canvas, transform = letterbox(image, (128, 160), placement)
    tolerance = 0.75 if placement is Placement.CENTER else 0.75 + abs(transform.scale - 1) / 2
    assert np.abs(_middle(canvas) - transform.to_input(_middle(image))).max() < tolerance


def _middle(image: Picture) -> NDArray[np.float64]:
    weight = image[..., 0].astype(np.float64) - 114
    ys, xs = np.mgrid[: weight.shape[0], : weight.shape[1]]
    return np.asarray(np.array([(xs * weight).sum(), (ys * weight).sum()]) / weight.sum())


@pytest.mark.parametrize("shape", [(3, 32_766), (3, 32_767), (5, 100_003), (70_001, 2), (1, 40_000)])
@pytest.mark.parametrize("placement", Placement)
def test_sides_beyond_warp_affine(shape: tuple[int, int], placement: Placement) -> None:
    """A ramp along the long side: the canvas shows the ramp's value at the place the transform says."""
    length = max(shape)
    ramp = np.linspace(0, 255, length)
    plane = np.broadcast_to(ramp if shape[1] == length else ramp[:, None], shape)
    image = np.repeat(np.round(plane).astype(np.uint8)[..., None], 3, axis=2)
    canvas, transform = letterbox(image, (640, 640), placement)
    assert transform.scale == 640 / length
    assert transform.original_hw == shape
    # The short side shrinks below a pixel: the line that shows most of it.
    rows = canvas[..., 0].astype(float) if shape[1] == length else canvas[..., 0].T.astype(float)
    line = rows[np.abs(rows - 114).sum(axis=1).argmax()]
    along = np.stack([np.arange(640.0)] * 2, axis=-1)
    expected = np.interp(transform.to_original(along)[:, 0 if shape[1] == length else 1], np.arange(length), ramp)
    if placement is Placement.TOP_LEFT:
        assert np.abs(line - expected).max() < 1.5
        return
    # CENTER blends the thin image with the padding, by one weight along the whole line.
    moved, full = line[1:-1] - 114, expected[1:-1] - 114
    weight = (moved @ full) / (full @ full)
    assert 0.2 < weight <= 1.01
    assert np.abs(moved - weight * full).max() < 1.5


def test_the_factor_is_folded_into_the_matrix() -> None:
    image = np.zeros((4, 65_532, 3), np.uint8)
    matrix = reference_matrix(4, 65_532, 640, 640)
    small, folded = _within_warp_limit(image, matrix)
    assert small.shape == (2, 32_766, 3)
    # Pixel (i, j) of the small image is the mean of original columns 2i, 2i + 1 and rows 2j, 2j + 1.
    for i, j in [(0, 0), (7, 1), (32_765, 1)]:
        np.testing.assert_allclose(folded @ [i, j, 1], matrix @ [2 * i + 0.5, 2 * j + 0.5, 1], atol=1e-9)
    assert _within_warp_limit(image[:, :32_766], matrix)[1] is matrix


@pytest.mark.parametrize("placement", Placement)
@pytest.mark.parametrize("shape", [(1, 1), (1, 20_000), (20_000, 1), (3, 20_000), (1, 640), (2, 3)])
def test_extreme_shapes(shape: tuple[int, int], placement: Placement) -> None:
    canvas, transform = letterbox(noise(*shape), (416, 640), placement)
    assert canvas.shape == (416, 640, 3)
    assert transform.scale == min(416 / shape[0], 640 / shape[1])
    if placement is Placement.TOP_LEFT:
        assert (canvas[0, 0] != 114).any()


@pytest.mark.parametrize("size", [(0, 640), (640, 0), (-32, 640), (640, 650), (16, 32)])
def test_sizes_are_multiples_of_32(size: tuple[int, int]) -> None:
    with pytest.raises(UsageError, match="multiples of 32"):
        letterbox(noise(9, 9), size)


def test_the_error_names_the_next_size() -> None:
    with pytest.raises(UsageError, match="The nearest above is 640x672"):
        letterbox(noise(9, 9), (640, 650))


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((9, 9), np.uint8),
        np.zeros((9, 9, 1), np.uint8),
        np.zeros((9, 9, 4), np.uint8),
        np.zeros((0, 9, 3), np.uint8),
        np.zeros((9, 9, 3), np.float32),
        None,
        [[1]],
    ],
)
def test_other_things_are_refused(image: Any) -> None:
    with pytest.raises(UsageError, match="uint8 array"):
        letterbox(image, (64, 64))
    with pytest.raises(UsageError, match="uint8 array"):
        to_tensor([image])


@pytest.mark.parametrize("placement", Placement)
def test_views_and_the_callers_array(placement: Placement) -> None:
    image = noise(40, 60)
    kept = image.copy()
    view = image[::-1, ::2, ::-1]
    expected, _ = letterbox(np.ascontiguousarray(view), (64, 64), placement)
    np.testing.assert_array_equal(letterbox(view, (64, 64), placement)[0], expected)
    np.testing.assert_array_equal(image, kept)


def test_to_tensor() -> None:
    images = [noise(32, 64, seed) for seed in range(3)]
    batch = to_tensor(images)
    assert batch.dtype == np.float32
    assert batch.shape == (3, 3, 32, 64)
    assert batch.flags.c_contiguous
    for index, image in enumerate(images):
        for channel in range(3):
            np.testing.assert_array_equal(batch[index, channel], image[..., channel])


@pytest.mark.parametrize("placement", Placement)
@pytest.mark.parametrize("shape", [(48, 64), (64, 48), (64, 96), (1, 900), (900, 1), (301, 203)])
def test_into_arrays_that_were_used_before(shape: tuple[int, int], placement: Placement) -> None:
    canvas, batch = np.full((64, 96, 3), 7, np.uint8), np.full((2, 3, 64, 96), 7, np.float32)
    expected, transform = letterbox(noise(*shape), (64, 96), placement)
    written, same = letterbox(noise(*shape), (64, 96), placement, out=canvas)
    assert written is canvas
    assert same == transform
    np.testing.assert_array_equal(canvas, expected)
    pair = [canvas, canvas[::-1]]
    assert to_tensor(pair, out=batch) is batch
    np.testing.assert_array_equal(batch, np.stack(pair).transpose(0, 3, 1, 2).astype(np.float32))


@pytest.mark.parametrize("placement", Placement)
@pytest.mark.parametrize("factor", [2, 4, 8])
@pytest.mark.parametrize("shape", [(960, 1280), (1080, 800), (999, 1003)])
def test_a_reduced_image_lies_where_the_whole_one_does(
    shape: tuple[int, int], factor: int, placement: Placement
) -> None:
    y, x = np.mgrid[: shape[0] + factor, : shape[1] + factor]
    wave = np.stack([np.sin(x / 60), np.cos(y / 50), np.sin((x - y) / 70)], axis=-1) * 100 + 120
    image = wave[: shape[0], : shape[1]].round().astype(np.uint8)
    height, width = (-(-side // factor) for side in shape)
    blocks = wave[: height * factor, : width * factor].reshape(height, factor, width, factor, 3)
    reduced = Decoded(blocks.mean(axis=(1, 3)).round().astype(np.uint8), factor, shape)
    expected, transform = letterbox(image, (96, 128), placement)
    canvas, same = letterbox(reduced, (96, 128), placement)
    assert same == transform
    corners = transform.to_input(np.array([[0, 0], [shape[1] - 1, shape[0] - 1]]))
    (left, top), (right, bottom) = np.ceil(corners[0]).astype(int), np.floor(corners[1]).astype(int) + 1
    apart = np.abs(canvas - expected.astype(float))
    # Where 8 pixels' mean is taken for the first of them, it is some 6 levels off.
    assert apart[top:bottom, left:right].mean() < 0.7
    assert np.percentile(apart[top:bottom, left:right], 99) < 3
    outside = np.ones((96, 128), bool)
    outside[max(0, top - 1) : bottom + 1, max(0, left - 1) : right + 1] = False
    assert (canvas[outside] == 114).all()


def test_a_thin_reduced_image() -> None:
    for placement in Placement:
        canvas, _ = letterbox(Decoded(np.zeros((1, 250, 3), np.uint8), 8, (1, 2000)), (64, 96), placement)
        assert 0 < (canvas != 114).any(axis=(1, 2)).sum() <= 2


def test_other_arrays_to_write_into_are_refused() -> None:
    image = noise(64, 64)
    large = np.zeros((128, 64, 3), np.uint8)
    for out in (noise(32, 64), image.astype(np.float32), large[::2], large[:64].tolist()):
        with pytest.raises(UsageError, match="out is not a contiguous uint8 array"):
            letterbox(image, (64, 64), out=out)
    with pytest.raises(UsageError, match="shares memory"):
        letterbox(large[32:96], (64, 64), out=large[:64])
    with pytest.raises(UsageError, match="out is not a contiguous float32 array"):
        to_tensor([image], out=np.zeros((1, 3, 64, 64)))  # type: ignore[arg-type]


def test_to_tensor_refuses() -> None:
    with pytest.raises(UsageError, match="at least one"):
        to_tensor([])
    with pytest.raises(UsageError, match="different sizes"):
        to_tensor([noise(32, 32), noise(32, 64)])
