"""8-bit numbers, histograms and thresholds against plain NumPy and ONNX's own operators."""

from __future__ import annotations

import math

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from onnx import numpy_helper

from rtmo_deploy.artifact import Target
from rtmo_deploy.convert.quantize.ranges import (
    BINS,
    LEVELS,
    STEP,
    Histogram,
    Method,
    Range,
    quantize_weight,
    range_of,
    scale_of,
    threshold_of,
)
from rtmo_deploy.errors import ArtifactError

VALUES = st.floats(-1e6, 1e6, width=32, allow_subnormal=False)
ARRAYS = hnp.arrays(np.float32, st.integers(1, 60), elements=VALUES)


#: The zero point of signed numbers.
SIGNED = np.zeros((), np.int8)
CPUS = [target for target in Target if target is not Target.TENSORRT]


def quantize(values, scale, zero=SIGNED):
    limits = np.iinfo(zero.dtype)
    rounded = np.rint(np.asarray(values, np.float32) / scale) + np.float32(zero)
    return np.clip(rounded, limits.min, limits.max).astype(zero.dtype)


def dequantize(values, scale, zero=SIGNED):
    return ((values.astype(np.int32) - np.int32(zero)).astype(np.float32) * scale).astype(np.float32)


def histogram_of(*arrays):
    made = Histogram()
    for array in arrays:
        made.add(np.asarray(array, np.float32))
    return made


def test_known_numbers():
    scale = scale_of(12.7)
    assert scale == np.float32(0.1)
    # Halves go to the even neighbour; the lower end has one number more.
    values = np.array([0, 0.25, 0.35, -0.25, 12.7, 12.8, 99, -12.8, -99], np.float32)
    assert quantize(values, np.float32(0.1)).tolist() == [0, 2, 4, -2, 127, 127, 127, -128, -128]
    assert dequantize(np.array([127, -128, 3], np.int8), np.float32(0.5)).tolist() == [63.5, -64.0, 1.5]


@pytest.mark.parametrize("target", Target)
@given(values=ARRAYS, low=st.floats(-1e6, 0, width=32), high=st.floats(0.125, 1e6, width=32))
@settings(deadline=None, max_examples=40)
def test_what_onnx_computes(target, values, low, high):
    ort = pytest.importorskip("onnxruntime")
    scale, zero = Range(low, high).numbers(target)
    weights = [numpy_helper.from_array(np.asarray(scale), "s"), numpy_helper.from_array(zero, "z")]
    nodes = [
        onnx.helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        onnx.helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"]),
    ]
    entry = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [None])
    outputs = [
        onnx.helper.make_tensor_value_info("q", weights[1].data_type, [None]),
        onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [None]),
    ]
    graph = onnx.helper.make_graph(nodes, "pair", [entry], outputs, weights)
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    small, large = session.run(None, {"x": values})
    np.testing.assert_array_equal(quantize(values, scale, zero), small)
    np.testing.assert_array_equal(dequantize(small, scale, zero), large)


#: One side only, one value only, nothing but zeros, too small for a scale, and nearly all that float32 holds.
EXTREMES = [
    (0, 0),
    (0, 3),
    (-3, 0),
    (1, 2),
    (-2, -1),
    (-0.25, 6),
    (-1e-40, 1e-30),
    (-1e-12, 1e-12),
    (-3e38, 3e38),
    (0, 3.4e38),
    (-1e-6, 1e6),
]


def check_numbers(low, high, target):
    """Scale and zero point against what 8-bit numbers of a range must do, in float64."""
    scale, zero = Range(low, high).numbers(target)
    signed = target is Target.TENSORRT
    assert (scale.shape, scale.dtype, zero.shape, zero.dtype) == ((), np.float32, (), np.int8 if signed else np.uint8)
    assert 0 < scale < np.inf
    below, above = min(low, 0), max(high, 0)
    if signed:
        above = max(-low, high)
        below = -above
    exact = above / 127 if signed else (above - below) / 255
    assert scale == pytest.approx(max(exact, 1e-12), rel=1e-6)
    assert not signed or zero == 0
    assert dequantize(quantize([0.0], scale, zero), scale, zero) == 0
    values = np.linspace(below, above, 1001)
    step = np.float64(scale)
    limits = np.iinfo(zero.dtype)
    error = np.clip(np.rint(values / step) + int(zero), limits.min, limits.max) - int(zero) - values / step
    # Rounding the zero point moves the ends by up to half a step.
    assert np.abs(error).max() < 0.5 + 1e-4


@pytest.mark.parametrize("target", Target)
@pytest.mark.parametrize(("low", "high"), EXTREMES)
def test_numbers_at_the_extremes(low, high, target):
    check_numbers(low, high, target)


@pytest.mark.parametrize("target", Target)
@given(low=VALUES, high=VALUES)
@settings(deadline=None)
def test_numbers_reach_all_of_a_range(target, low, high):
    check_numbers(min(low, high), max(low, high), target)


def test_numbers_that_are_known():
    scale, zero = Range(-0.28, 5).numbers(Target.OPENVINO)
    assert scale == np.float32(5.28 / 255)
    assert zero == 14
    # The network's input keeps its values.
    assert [float(one) for one in Range(0, 255).numbers(Target.ONNXRUNTIME)] == [1, 0]


@given(hnp.arrays(np.float32, st.tuples(st.integers(1, 4), st.integers(1, 3), st.just(2), st.just(2)), elements=VALUES))
def test_weights_are_symmetric_and_near(weight):
    small, scales = quantize_weight(weight)
    assert small.dtype == np.int8
    assert scales.shape == (len(weight),)
    assert (scales > 0).all()
    assert np.abs(small.astype(int)).max() <= 127
    error = np.abs(small * scales[:, None, None, None] - weight)
    assert (error <= 0.5001 * scales[:, None, None, None]).all()
    for channel, scale in zip(weight, scales, strict=True):
        assert scale == max(np.float32(np.abs(channel).max()) / np.float32(127), np.float32(1e-12))


@given(st.lists(ARRAYS, min_size=1, max_size=6), st.randoms())
def test_the_histogram_is_that_of_all_values_in_any_order(arrays, random):
    together = np.abs(np.concatenate(arrays))
    made = histogram_of(*arrays)
    limit = 2.0**made.exponent
    expected = np.histogram(together.astype(np.float64), bins=BINS, range=(0, limit))[0]
    np.testing.assert_array_equal(made.counts, expected)
    assert made.greatest == together.max()
    assert made.low == min(a.min() for a in arrays)
    assert made.high == max(a.max() for a in arrays)
    if together.max() > 1e-20:
        assert limit / 2 <= together.max() < limit
    random.shuffle(arrays)
    again = histogram_of(*arrays)
    assert again.exponent == made.exponent
    np.testing.assert_array_equal(again.counts, made.counts)


@given(ARRAYS, ARRAYS)
def test_merging_is_counting_both(one, two):
    merged = histogram_of(one)
    merged.merge(histogram_of(two))
    both = histogram_of(one, two)
    np.testing.assert_array_equal(merged.counts, both.counts)
    assert (merged.exponent, merged.low, merged.high) == (both.exponent, both.low, both.high)


def test_merging_leaves_the_other_one_as_it_is():
    made = histogram_of([1.0, 2.0])
    before = made.counts.copy()
    larger = histogram_of([1000.0])
    larger.merge(made)
    assert larger.counts.sum() == 3
    assert made.greatest == 2
    np.testing.assert_array_equal(made.counts, before)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_no_range(bad):
    with pytest.raises(ArtifactError, match="tensor x: A tensor of it holds values that are not finite"):
        Histogram().add(np.array([1, bad], np.float32), where="tensor x")


def test_the_memory_of_a_histogram_does_not_grow():
    made = Histogram()
    size = made.counts.nbytes
    for exponent in range(-40, 40):
        made.add(np.full(100, 2.0**exponent, np.float32))
    assert made.counts.nbytes == size
    assert made.counts.sum() == 8000


@pytest.mark.parametrize("method", Method)
def test_nothing_but_zeros_and_one_value(method):
    assert threshold_of(histogram_of(np.zeros(10)), method) == 0
    assert threshold_of(Histogram(), method) == 0
    assert threshold_of(histogram_of([3.0] * 10), method) == pytest.approx(3.0, rel=0.1)


@given(ARRAYS)
def test_minmax(values):
    assert threshold_of(histogram_of(values), Method.MINMAX) == np.abs(values).max()


@given(hnp.arrays(np.float32, st.integers(2, 400), elements=st.floats(-100, 100, width=32)), st.floats(50, 100))
def test_percentile(values, percentile):
    made = histogram_of(values)
    found = threshold_of(made, Method.PERCENTILE, percentile=percentile)
    magnitudes = np.sort(np.abs(values))
    at = magnitudes[max(math.ceil(round(len(values) * percentile / 100, 6)) - 1, 0)]
    assert at <= found * (1 + 1e-6) or found == made.greatest
    assert found <= max(at + 1.001 * made.width, made.width) or found == made.greatest


def mse_of(values, threshold):
    scale = threshold / 127
    return np.square(values - np.clip(np.rint(values / scale), -127, 127) * scale).mean()


@pytest.mark.parametrize("seed", range(4))
def test_mse_is_the_least_of_all_thresholds(seed):
    rng = np.random.default_rng(seed)
    values = np.abs(rng.standard_t(3, 20000)).astype(np.float32)
    made = histogram_of(values)
    found = threshold_of(made, Method.MSE)
    tried = np.arange(LEVELS, BINS + 1, STEP) * made.width
    errors = [mse_of(values.astype(np.float64), one) for one in tried[tried <= made.greatest]]
    assert mse_of(values.astype(np.float64), found) <= 1.01 * min(errors)
    assert found < made.greatest


def reference_divergence(counts, threshold):
    """The loop that TensorRT's talk shows, bin by bin."""
    reference = counts[:threshold].astype(np.float64)
    kept = reference.copy()
    reference[-1] += counts[threshold:].sum()
    spread = np.zeros(threshold)
    for level in range(LEVELS):
        first, last = level * threshold // LEVELS, (level + 1) * threshold // LEVELS
        filled = np.count_nonzero(kept[first:last])
        for place in range(first, last):
            if kept[place]:
                spread[place] = kept[first:last].sum() / filled
    p, q = reference / reference.sum(), spread / kept.sum()
    floor = 1 / (kept.sum() * threshold)
    return sum(a * math.log(a / max(b, floor)) for a, b in zip(p, q, strict=True) if a > 0)


@pytest.mark.parametrize("seed", range(2))
def test_entropy_is_the_reference(seed):
    rng = np.random.default_rng(seed)
    values = rng.laplace(size=30000).astype(np.float32)
    made = histogram_of(values, np.zeros(50000))
    found = threshold_of(made, Method.ENTROPY)
    counts = made.counts.copy()
    counts[0] = counts[1]
    last = int(np.flatnonzero(counts)[-1]) + 1
    tried = [*range(LEVELS, last, 16 * STEP), last, round(found / made.width)]
    losses = {threshold: reference_divergence(counts, threshold) for threshold in tried}
    assert min(losses, key=losses.get) == round(found / made.width)


def test_entropy_clips_an_outlier_and_minmax_does_not():
    values = np.append(np.random.default_rng(0).normal(size=100_000), 60.0)
    made = histogram_of(values)
    assert threshold_of(made, Method.MINMAX) == 60
    for method in (Method.ENTROPY, Method.PERCENTILE, Method.MSE):
        assert 2.5 < threshold_of(made, method) < 45


@pytest.mark.parametrize("method", Method)
@pytest.mark.parametrize("target", Target)
@given(values=ARRAYS)
@settings(deadline=None, max_examples=50)
def test_a_range_lies_within_the_values_and_holds_most(target, method, values):
    made = histogram_of(values)
    low, high = range_of(made, method, target)
    least, most = min(values.min(), 0), max(values.max(), 0)
    if target is Target.TENSORRT:
        assert -low == high == threshold_of(made, method)
        return
    assert least <= low <= 0 <= high <= most
    assert method is not Method.MINMAX or (low, high) == (least, most)
    assert max(-low, high) > 0.03 * max(-least, most) or max(-least, most) == 0  # 128 of 4096 bins at least


@pytest.mark.parametrize("method", Method)
@pytest.mark.parametrize("target", CPUS)
def test_ranges_of_one_side_or_value(method, target):
    assert range_of(Histogram(), method, target) == range_of(histogram_of(np.zeros(9)), method, target) == (0, 0)
    assert range_of(histogram_of([3.0] * 10), method, target) == pytest.approx((0, 3), rel=0.1)
    assert range_of(histogram_of([-3.0] * 10), method, target) == pytest.approx((-3, 0), rel=0.1)
    assert range_of(histogram_of([-1e-35, 1e-36]), method, target) == pytest.approx((-1e-35, 1e-36))
    low, high = range_of(histogram_of([-1e38, 3e38]), method, target)
    assert (low, high) == pytest.approx((-1e38, 3e38), rel=0.1)


def squared_error(values, low, high, target):
    scale, zero = Range(low, high).numbers(target)
    return np.square(dequantize(quantize(values, scale, zero), scale, zero).astype(np.float64) - values).mean()


def silu(x):
    return x / (1 + np.exp(-x))


@pytest.mark.parametrize("target", Target)
@pytest.mark.parametrize(
    "shape", [silu, lambda x: x, lambda x: -silu(x), lambda x: np.minimum(x, 0.3)], ids=["silu", "both", "low", "cut"]
)
def test_mse_is_the_least_of_all_ranges(target, shape):
    values = shape(2 * np.random.default_rng(5).standard_t(3, 20000)).astype(np.float32)
    made = histogram_of(values)
    found = squared_error(values, *range_of(made, Method.MSE, target), target)
    signed, low, high = target is Target.TENSORRT, float(values.min()), float(values.max())
    tried = np.append(np.arange(LEVELS, BINS + 1, STEP) * made.width, made.greatest)
    errors = [
        squared_error(values, -one if signed else max(low, -one), one if signed else min(high, one), target)
        for one in tried[tried <= made.greatest]
    ]
    assert found <= 1.01 * min(errors)
