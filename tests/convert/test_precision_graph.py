"""The pass on small graphs: where casts stand, what types come out, what rounding does."""

from __future__ import annotations

import math

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from rtmo_deploy.convert.graph import element_types
from rtmo_deploy.convert.precision.graph import to_16bit
from rtmo_deploy.convert.precision.rules import CAST_TYPES
from rtmo_deploy.convert.precision.verify import emulated, split_peaks

FP16, BF16 = CAST_TYPES["fp16"], CAST_TYPES["bf16"]


def graph(nodes, weights=(), outputs=("y",), shape=(2, 3), opset=17):
    """A model with one float32 input ``x``; nodes are (operator, inputs, outputs, name, attributes)."""
    made = [helper.make_node(op, ins, outs, name=name, **more) for op, ins, outs, name, more in nodes]
    inside = helper.make_graph(
        made,
        "test",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        [numpy_helper.from_array(np.asarray(value, np.float32), name) for name, value in weights],
    )
    model = helper.make_model(
        inside, opset_imports=[helper.make_opsetid("", opset)], ir_version=8 if opset < 21 else 10
    )
    model = onnx.shape_inference.infer_shapes(model, strict_mode=True)  # fills in the outputs' shapes
    onnx.checker.check_model(model, full_check=True)
    return model


def node(op, ins, out, name, **more):
    return op, ins, [out], name, more


def in_half(*scopes):
    return lambda node: node.name.startswith(scopes)


def types_of(model):
    return {name: onnx.TensorProto.DataType.Name(number) for name, number in element_types(model).items()}


def nodes_of(model, op):
    return [node for node in model.graph.node if node.op_type == op]


def check(model):
    """What must hold of every result."""
    onnx.checker.check_model(model, full_check=True)
    made = {output: node for node in model.graph.node for output in node.output}
    weights = {tensor.name for tensor in model.graph.initializer}
    casts = [node for node in model.graph.node if "Cast_to_" in node.name]
    for cast in casts:
        assert cast.input[0] not in weights
        before = made.get(cast.input[0])
        assert before is None or "Cast_to_" not in before.name
    crossings = [(cast.input[0], cast.attribute[0].i) for cast in casts]
    assert len(set(crossings)) == len(crossings)
    names = [node.name for node in model.graph.node]
    assert len(set(names)) == len(names)
    for value in (*model.graph.input, *model.graph.output):
        assert value.type.tensor_type.elem_type == TensorProto.FLOAT
    return casts


def run(model, x):
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 4
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, {"x": x}), strict=True))


def test_casts_stand_only_where_an_island_begins_and_ends():
    model = graph(
        [
            node("Mul", ["x", "w"], "a", "/half/Mul"),
            node("Relu", ["a"], "b", "/half/Relu"),
            node("Sin", ["b"], "c", "/island/Sin"),
            node("Cos", ["b"], "d", "/island/Cos"),
            node("Add", ["c", "d"], "e", "/island/Add"),
            node("Neg", ["e"], "f", "/half/Neg"),
            node("Abs", ["e"], "g", "/half/Abs"),
            node("Add", ["f", "g"], "y", "/half/Add"),
        ],
        [("w", [1, 2, 3])],
    )
    before = model.SerializeToString()
    made = to_16bit(model, FP16, in_half("/half/"))
    assert model.SerializeToString() == before
    casts = check(made.model)
    assert [cast.name for cast in casts] == [
        "/half/Cast_to_fp16",
        "/island/Cast_to_fp32",
        "/half/Cast_to_fp16_1",
        "/half/Cast_to_fp32",
    ]
    assert (made.half_nodes, made.casts, dict(made.kept)) == (5, 4, {})
    types = types_of(made.model)
    assert [types[name] for name in ("a", "b", "c", "d", "e", "f", "g")] == ["FLOAT16"] * 2 + ["FLOAT"] * 3 + [
        "FLOAT16"
    ] * 2
    (weight,) = made.model.graph.initializer
    assert (weight.name, weight.data_type) == ("w.fp16", TensorProto.FLOAT16)


def test_a_weight_that_both_sides_use_is_stored_in_both_types():
    model = graph(
        [node("Mul", ["x", "w"], "a", "/half/Mul"), node("Add", ["a", "w"], "y", "/island/Add")], [("w", [1, 2, 3])]
    )
    made = to_16bit(model, FP16, in_half("/half/"))
    assert len(check(made.model)) == 2
    assert {t.name: t.data_type for t in made.model.graph.initializer} == {"w": 1, "w.fp16": 10}


def test_an_output_that_is_also_used_inside():
    model = graph(
        [
            node("Relu", ["x"], "z", "/half/Relu"),
            node("Neg", ["z"], "y", "/half/Neg"),
            node("Sin", ["z"], "s", "/i/Sin"),
        ],
        outputs=("z", "y", "s"),
    )
    made = to_16bit(model, FP16, in_half("/half/"))
    # One cast in, one out for each half output; the sine takes the output that is float32 already.
    assert len(check(made.model)) == 3
    x = np.array([[0.1, -1, 2], [3, 4, 5]], np.float32)
    rounded = np.maximum(x, 0).astype(np.float16).astype(np.float32)
    got = run(emulated(made.model, FP16, peaks=False), x)
    np.testing.assert_array_equal(got["z"], rounded)
    np.testing.assert_array_equal(got["y"], -rounded)


@pytest.mark.parametrize(
    ("value", "words"),
    [(70000.0, "reaches 7e+04, fp16 ends at 65504"), (math.inf, "is not finite"), (math.nan, "is not finite")],
)
def test_a_weight_out_of_range_keeps_its_node_in_float32_by_name(value, words):
    model = graph(
        [node("Mul", ["x", "w"], "a", "/half/Mul"), node("Relu", ["a"], "y", "/half/Relu")], [("w", [1, value, 3])]
    )
    made = to_16bit(model, FP16, in_half("/half/"))
    check(made.model)
    assert dict(made.kept) == {"/half/Mul": f"w {words}"}
    assert types_of(made.model)["a"] == "FLOAT"
    assert types_of(made.model)["w"] == "FLOAT"


def test_what_fits_is_cast():
    model = graph([node("Add", ["x", "w"], "y", "/half/Add")], [("w", [0, -5e4, 65504])])
    made = to_16bit(model, FP16, in_half("/half/"))
    assert not made.kept
    assert np.isfinite(numpy_helper.to_array(made.model.graph.initializer[0])).all()


def test_a_factor_that_would_vanish_is_kept_and_a_bias_that_would_is_not():
    tiny = [("w", [1e-7, 0, 2e-6])]
    made = to_16bit(graph([node("Mul", ["x", "w"], "y", "/half/Mul")], tiny), FP16, in_half("/half/"))
    assert dict(made.kept) == {"/half/Mul": "w is at most 2e-06, fp16 loses precision below 6.1e-05"}
    assert not to_16bit(
        graph([node("Mul", ["x", "w"], "y", "/half/Mul")], tiny, opset=22), BF16, in_half("/half/")
    ).kept
    assert not to_16bit(graph([node("Add", ["x", "w"], "y", "/half/Add")], tiny), FP16, in_half("/half/")).kept


def test_scales_of_a_resize_stay_float32():
    model = graph(
        [("Resize", ["x", "", "scales"], ["y"], "/half/Resize", {"mode": "nearest"})],
        [("scales", [1, 1, 2, 2])],
        shape=(1, 1, 2, 2),
    )
    made = to_16bit(model, FP16, in_half("/half/"))
    assert len(check(made.model)) == 2
    assert types_of(made.model)["scales"] == "FLOAT"


def test_a_cast_from_whole_numbers_becomes_half_itself():
    model = graph(
        [
            node("Shape", ["x"], "s", "/half/Shape"),
            node("Cast", ["s"], "f", "/half/Cast", to=TensorProto.FLOAT),
            node("Relu", ["f"], "y", "/half/Relu"),
        ]
    )
    made = to_16bit(model, FP16, in_half("/half/"))
    assert [cast.name for cast in check(made.model)] == ["/half/Cast_to_fp32"]
    assert types_of(made.model)["f"] == "FLOAT16"


def test_constants_are_cast_as_weights_are():
    value = numpy_helper.from_array(np.float32([1, 2, 3]))
    model = graph([("Constant", [], ["w"], "/half/C", {"value": value}), node("Mul", ["x", "w"], "y", "/half/Mul")])
    made = to_16bit(model, FP16, in_half("/half/"))
    check(made.model)
    assert [tensor.name for tensor in made.model.graph.initializer] == ["w.fp16"]


def test_bfloat16_raises_the_operator_set_where_it_must():
    weights = [("w", np.ones((1, 1, 1, 1)))]
    model = graph([node("Conv", ["x", "w"], "y", "/half/Conv")], weights, shape=(1, 1, 2, 2))
    made = to_16bit(model, BF16, in_half("/half/"))
    check(made.model)
    assert [entry.version for entry in made.model.opset_import] == [22]
    assert made.model.ir_version >= 10
    assert [node.name for node in nodes_of(made.model, "Conv")] == ["/half/Conv"]


@pytest.mark.parametrize("op", ["Add", "Mul", "Min", "Sum", "Concat"])
def test_operands_of_two_types_would_be_noticed(op):
    # The cast relies on ONNX's checker for this: TensorRT refuses such a graph when it is strongly typed.
    model = graph([node("Cast", ["x"], "h", "/c", to=TensorProto.FLOAT16), node("Cast", ["h"], "y", "/d", to=1)])
    more = {"axis": 0} if op == "Concat" else {}
    model.graph.node.append(helper.make_node(op, ["x", "h"], ["z"], name="/bad", **more))
    with pytest.raises(onnx.shape_inference.InferenceError, match=r"/bad.*inconsistent type"):
        onnx.checker.check_model(model, full_check=True)


def test_an_overflow_is_told_by_the_name_of_its_node():
    model = graph(
        [node("Mul", ["x", "w"], "a", "/half/Mul"), node("Min", ["a", "m"], "y", "/half/Min")],
        [("w", [300.0]), ("m", [7.0])],
    )
    made = to_16bit(model, FP16, in_half("/half/"))
    own, peaks = split_peaks(run(emulated(made.model, FP16), np.full((2, 3), 255, np.float32)))
    assert (own["y"] == 7).all()  # nothing to be seen of it in the output
    assert peaks == {"/half/Cast_to_fp16": 255, "/half/Mul": 76500, "/half/Min": 7}
    # Of nothing it is 0: some ONNX Runtimes say -inf, others fail.
    for value in (*made.model.graph.input, *made.model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "n"
    del made.model.graph.value_info[:]
    _, peaks = split_peaks(run(emulated(made.model, FP16), np.zeros((0, 3), np.float32)))
    assert set(peaks.values()) == {0}


BINARY = {"Add": np.add, "Sub": np.subtract, "Mul": np.multiply}
UNARY = {"Neg": np.negative, "Relu": lambda v: np.maximum(v, np.float32(0)), "Abs": np.abs}


@st.composite
def programs(draw):
    """Steps (operator, operands as numbers of earlier values, whether in half); value 0 is the input, 1 a weight."""
    steps = []
    for number in range(2, 2 + draw(st.integers(1, 12))):
        op = draw(st.sampled_from([*BINARY, *UNARY]))
        count = 2 if op in BINARY else 1
        operands = [draw(st.integers(0, number - 1)) for _ in range(count)]
        steps.append((op, operands, draw(st.booleans())))
    outputs = draw(st.sets(st.integers(2, 1 + len(steps)), min_size=1)) | {1 + len(steps)}
    return steps, sorted(outputs)


@settings(deadline=None, max_examples=60)
@given(programs(), st.sampled_from([FP16, BF16]), st.integers(0, 1000))
def test_any_graph_is_well_typed_and_rounds_where_it_says(program, half, seed):
    steps, outputs = program
    rng = np.random.default_rng(seed)
    x, w = (rng.uniform(-2, 2, (2, 3)).astype(np.float32) for _ in range(2))

    def name(number):
        return ("x", "w")[number] if number < 2 else f"v{number}"

    nodes = [
        node(op, [name(i) for i in operands], name(number), f"/{'half' if half_ else 'full'}/{op}_{number}")
        for number, (op, operands, half_) in enumerate(steps, 2)
    ]
    model = graph(nodes, [("w", w)], outputs=[name(i) for i in outputs], opset=22)
    made = to_16bit(model, half, in_half("/half/"))
    check(made.model)

    def rounded(value):
        return value.astype(half.numpy).astype(np.float32)

    values = [x, w]
    with np.errstate(over="ignore", invalid="ignore"):
        for op, operands, half_ in steps:
            given_ = [rounded(values[i]) if half_ else values[i] for i in operands]
            result = (BINARY | UNARY)[op](*given_)
            values.append(rounded(result) if half_ else result)
    got = run(emulated(made.model, half, peaks=False), x)
    for number in outputs:
        np.testing.assert_array_equal(got[name(number)], values[number])
