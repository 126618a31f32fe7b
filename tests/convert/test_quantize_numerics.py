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

from rtmo_deploy.convert.quantize.ranges import (
    BINS,
    LEVELS,
    STEP,
    Histogram,
    Method,
    quantize_weight,
    scale_of,
    threshold_of,
)
from rtmo_deploy.errors import ArtifactError

VALUES = st.floats(-1e6, 1e6, width=32, allow_subnormal=False)
ARRAYS = hnp.arrays(np.float32, st.integers(1, 60), elements=VALUES)


def quantize(values, scale):
    return np.clip(np.rint(np.asarray(values, np.float32) / scale), -128, 127).astype(np.int8)


def dequantize(values, scale):
    return (values.astype(np.float32) * scale).astype(np.float32)


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


@given(ARRAYS, st.floats(0.0625, 1e6, width=32))
@settings(deadline=None, max_examples=50)
def test_what_onnx_computes(values, threshold):
    ort = pytest.importorskip("onnxruntime")
    scale = scale_of(threshold)
    weights = [numpy_helper.from_array(np.asarray(scale), "s"), numpy_helper.from_array(np.zeros((), np.int8), "z")]
    nodes = [
        onnx.helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        onnx.helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"]),
    ]
    entry = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [None])
    outputs = [
        onnx.helper.make_tensor_value_info("q", onnx.TensorProto.INT8, [None]),
        onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [None]),
    ]
    graph = onnx.helper.make_graph(nodes, "pair", [entry], outputs, weights)
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    small, large = session.run(None, {"x": values})
    np.testing.assert_array_equal(quantize(values, scale), small)
    np.testing.assert_array_equal(dequantize(small, scale), large)


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
