"""Where Q/DQ pairs go: each rule on a small graph in which it makes a difference."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from rtmo_deploy.artifact import Target
from rtmo_deploy.convert.graph import GraphView
from rtmo_deploy.convert.quantize.insert import insert
from rtmo_deploy.convert.quantize.placement import RULES, candidates, place, role_of, rule_of
from rtmo_deploy.convert.quantize.ranges import Range
from rtmo_deploy.convert.quantize.source_model import MacCount, blocks_of, count_macs
from rtmo_deploy.runtime.onnxruntime_backend import EXACT

CHANNELS = 4


class Net:
    """A small network, built a node at a time; a tensor is called after the node that makes it."""

    def __init__(self):
        self.nodes, self.weights, self.rng = [], [], np.random.default_rng(0)

    def conv(self, name, source, *, into=CHANNELS, outof=CHANNELS, bias=True, weight=None):
        if weight is None:
            weight = f"{name}.w"
            self.weight(weight, self.rng.normal(size=(into, outof, 1, 1)))
        inputs = [source, weight]
        if bias:
            self.weight(f"{name}.b", self.rng.normal(size=into))
            inputs.append(f"{name}.b")
        return self.node("Conv", name, *inputs)

    def silu(self, name, source):
        return self.node("Mul", f"{name}/Mul", source, self.node("Sigmoid", f"{name}/Sigmoid", source))

    def weight(self, name, values):
        self.weights.append(numpy_helper.from_array(np.asarray(values, np.float32), name))
        return name

    def node(self, operator, name, *inputs, **attributes):
        self.nodes.append(onnx.helper.make_node(operator, list(inputs), [f"{name}:0"], name=name, **attributes))
        return f"{name}:0"

    def model(self, *outputs, rank=4):
        entry = onnx.helper.make_tensor_value_info("input", onnx.TensorProto.FLOAT, [1, CHANNELS, 8, 8])
        made = [onnx.helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, [None] * rank) for n in outputs]
        graph = onnx.helper.make_graph(self.nodes, "net", [entry], made, self.weights)
        return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)


def placed(model, leave=(), target=Target.TENSORRT):
    view = GraphView(model.graph)
    layers = candidates(view)
    whole = place(view, layers, target)
    return view, place(view, [at for at in layers if view.label(at) not in leave], of=whole)


def readers(view, placement, name):
    return {view.label(at) for at, _ in placement.edges[name]}


def test_a_convolution_gets_one_pair_and_silu_none():
    net = Net()
    first = net.silu("act", net.conv("/one", "input"))
    second = net.conv("/two", first)
    view, placement = placed(net.model(second))
    assert [view.label(at) for at in placement.layers] == ["/one", "/two"]
    assert set(placement.edges) == {"input", first}
    assert placement.edges["input"] == ((0, 0),)
    assert readers(view, placement, first) == {"/two"}


def test_a_tensor_has_one_pair_for_all_its_readers_and_others_keep_the_tensor():
    net = Net()
    first = net.silu("act", net.conv("/one", "input"))
    outputs = [net.conv("/two", first), net.conv("/three", first), net.node("Relu", "other", first)]
    model = net.model(*outputs)
    view, placement = placed(model)
    assert readers(view, placement, first) == {"/two", "/three"}
    done = insert(model, placement, dict.fromkeys(placement.edges, Range(-1, 1)))
    assert sum(node.op_type == "QuantizeLinear" for node in done.graph.node) == 2
    relu = next(node for node in done.graph.node if node.name == "other")
    assert relu.input[0] == first


def test_the_skip_branch_of_a_sum_is_quantised_and_the_other_is_not():
    net = Net()
    first = net.silu("act", net.conv("/one", "input"))
    branch = net.silu("act2", net.conv("/two", first))
    total = net.node("Add", "/sum", branch, first)
    view, placement = placed(net.model(net.conv("/three", total)))
    assert set(placement.edges) == {"input", first, total}
    assert readers(view, placement, first) == {"/two", "/sum"}
    assert (next(at for at, node in enumerate(view.nodes) if node.name == "/sum"), 1) in placement.edges[first]


def test_a_sum_that_no_8_bit_layer_reads_is_left_alone():
    net = Net()
    first = net.silu("act", net.conv("/one", "input"))
    total = net.node("Add", "/sum", net.silu("act2", net.conv("/two", first)), first)
    view, placement = placed(net.model(net.conv("/head/out_cls.0", total)))
    assert readers(view, placement, first) == {"/two"}
    assert total not in placement.edges


def test_a_sum_with_a_constant_has_no_skip_branch():
    net = Net()
    total = net.node("Add", "/sum", net.conv("/one", "input"), net.weight("c", np.ones((1, CHANNELS, 1, 1))))
    _, placement = placed(net.model(net.conv("/two", total)))
    assert set(placement.edges) == {"input", total}


def test_a_concat_shares_one_scale_with_its_parts():
    net = Net()
    one, two = net.conv("/one", "input"), net.conv("/two", "input")
    joined = net.node("Concat", "/join", one, two, axis=1)
    _, placement = placed(net.model(net.conv("/three", joined, outof=2 * CHANNELS)))
    assert placement.edges.keys() == {"input", one, two, joined}
    assert placement.sources[one] == placement.sources[two] == placement.sources[joined] == tuple(sorted((one, two)))
    assert placement.sources["input"] == ("input",)


def test_pools_and_nearest_resize_pass_the_scale_through():
    net = Net()
    one = net.conv("/one", "input")
    pool = net.node("MaxPool", "/pool", one, kernel_shape=[3, 3], pads=[1, 1, 1, 1])
    again = net.node("MaxPool", "/again", pool, kernel_shape=[3, 3], pads=[1, 1, 1, 1])
    larger = net.node("Resize", "/larger", again, "", net.weight("sizes", [1, 1, 2, 2]), mode="nearest")
    _, placement = placed(net.model(net.conv("/two", larger)))
    for name in (one, pool, again, larger):
        assert placement.sources[name] == (one,)


def test_other_ways_to_resize_and_average_make_new_values():
    net = Net()
    one = net.conv("/one", "input")
    larger = net.node("Resize", "/larger", one, "", net.weight("sizes", [1, 1, 2, 2]), mode="linear")
    mean = net.node("AveragePool", "/mean", larger, kernel_shape=[2, 2])
    _, placement = placed(net.model(net.conv("/two", larger), net.conv("/three", mean)))
    assert placement.edges.keys() == {"input", larger, mean}
    assert placement.sources[larger] == (larger,)


@pytest.mark.parametrize(
    "name",
    [
        "/head/out_cls.0/Conv",
        "/head/out_bbox.1/Conv",
        "/head/out_dense.0/Conv",
        "/decode/people/dcc/Conv",
        "/neck/encoder/pos_enc/Conv",
        "/head/head_module/out_pose.0/Conv",
        "/neck/encoder.0/layers.0/Conv",
    ],
)
def test_sensitive_convolutions_are_kept(name):
    net = Net()
    first = net.conv("/one", "input")
    _, placement = placed(net.model(net.conv(name, first)))
    assert placement.edges.keys() == {"input"}


@pytest.mark.parametrize("name", ["/head/conv_cls.0/Conv", "/neck/downsample_convs.0/Conv", "/head/layout/Conv", ""])
def test_names_that_only_look_alike_are_quantised(name):
    net = Net()
    _, placement = placed(net.model(net.conv(name, "input")))
    assert placement.edges.keys() == {"input"}


def test_every_rule_bites_somewhere():
    nodes = {
        "decoding": ("MatMul", "/decode/MatMul"),
        "attention": ("MatMul", "/neck/encoder/out/MatMul"),
        "outputs of the head": ("Conv", "/head/out_cls.0/Conv"),
        "convolutions": ("Conv", "/backbone/stem/conv/Conv"),
        "joins": ("Concat", "/neck/Concat"),
        "residual sums": ("Add", "/neck/pan_blocks.0/Add"),
        "activations": ("Mul", "/neck/act/Mul"),
        "matrix products": ("MatMul", "/neck/MatMul"),
        "anything else": ("Transpose", "/neck/Transpose"),
    }
    assert list(nodes) == [rule.name for rule in RULES]
    for name, (operator, label) in nodes.items():
        rule = rule_of(onnx.helper.make_node(operator, ["x"], ["y"], name=label))
        assert rule.name == name
        assert rule.reason
    assert role_of(onnx.helper.make_node("Resize", ["x"], ["y"], mode="cubic")) == "keep"


def test_a_convolution_with_a_computed_or_integer_weight_is_no_candidate():
    net = Net()
    net.weight("raw", np.ones((CHANNELS, CHANNELS, 1, 1)))
    weight = net.node("Relu", "/weight", "raw")
    computed = net.conv("/one", "input", weight=weight, bias=False)
    assert candidates(GraphView(net.model(computed).graph)) == ()


def test_giving_a_layer_back_moves_no_scale_of_another():
    net = Net()
    one, two = net.conv("/one", "input"), net.conv("/two", "input")
    joined = net.node("Concat", "/join", one, two, axis=1)
    model = net.model(net.conv("/three", joined, outof=2 * CHANNELS), net.conv("/four", two))
    _, whole = placed(model)
    view, part = placed(model, leave={"/three", "/one"})
    assert part.edges.keys() == {"input", two}
    assert readers(view, part, "input") == {"/two"}
    assert part.sources[two] == whole.sources[two] == tuple(sorted((one, two)))


FUSING = [Target.TENSORRT, Target.OPENVINO]


@pytest.mark.parametrize("target", FUSING)
def test_runtimes_that_fuse_get_no_pair_in_a_silu_and_one_in_a_sum(target):
    model, names = residual_net()
    _, placement = placed(model, target=target)
    assert placement.target is target
    assert set(placement.edges) == {"input", names["skip"], names["sum"]}


def test_onnx_runtime_gets_pairs_around_silu_and_on_both_sides_of_a_sum():
    model, names = residual_net()
    view, placement = placed(model, target=Target.ONNXRUNTIME)
    assert placement.edges.keys() == {"input", *names.values()}
    at = {node.name: number for number, node in enumerate(view.nodes)}
    for conv, silu in (("one", "act"), ("two", "act2")):
        gate, product = at[f"{silu}/Sigmoid"], at[f"{silu}/Mul"]
        assert placement.edges[names[conv]] == ((gate, 0), (product, 0))
        assert placement.edges[names[f"{conv} gate"]] == ((product, 1),)
    assert placement.edges[names["skip"]] == ((at["/two"], 0), (at["/sum"], 1))
    assert placement.edges[names["branch"]] == ((at["/sum"], 0),)
    assert placement.edges[names["sum"]] == ((at["/three"], 0),)
    assert all(placement.sources[name] == (name,) for name in placement.edges)


def residual_net():
    """A block of the backbone, and its tensors."""
    net = Net()
    one = net.conv("/one", "input")
    skip = net.silu("act", one)
    two = net.conv("/two", skip)
    branch = net.silu("act2", two)
    total = net.node("Add", "/sum", branch, skip)
    names = {"one": one, "one gate": "act/Sigmoid:0", "skip": skip, "two": two, "two gate": "act2/Sigmoid:0"}
    return net.model(net.conv("/three", total)), names | {"branch": branch, "sum": total}


@pytest.mark.parametrize("other", ["Relu", "product", "gate of another"])
def test_what_is_no_silu_gets_no_pairs_inside(other):
    net = Net()
    first = net.conv("/one", "input")
    second = net.conv("/two", "input")
    made = {
        "Relu": lambda: net.node("Relu", "act", first),
        "product": lambda: net.node("Mul", "act", first, second),
        "gate of another": lambda: net.node("Mul", "act", first, net.node("Sigmoid", "gate", second)),
    }[other]()
    _, placement = placed(net.model(net.conv("/three", made)), target=Target.ONNXRUNTIME)
    assert placement.edges.keys() == {"input", made}


@pytest.mark.parametrize("target", Target)
def test_silus_that_are_joined_and_enlarged_share_one_scale(target):
    model, parts, joined = joined_net()
    _, placement = placed(model, target=target)
    assert {*parts, *joined} <= placement.edges.keys()
    sources = {placement.sources[name] for name in (*parts, *joined)}
    assert sources == {tuple(sorted(parts))}
    inside = {name for name in placement.edges if "Sigmoid" in name}
    assert bool(inside) is (target is Target.ONNXRUNTIME)
    assert all(placement.sources[name] == (name,) for name in inside)
    # A layer that reverts to FP32 takes no other layer's scale with it, and the target stays.
    _, part = placed(model, leave={"/last"}, target=target)
    assert part.target is target
    assert part.edges.keys() == {"input"}


def joined_net():
    """Two activations, one of them pooled and enlarged, that are joined for a convolution; the parts, what is moved."""
    net = Net()
    one, two = (net.silu(name, net.conv(f"/{name}", "input")) for name in ("one", "two"))
    pool = net.node("MaxPool", "/pool", two, kernel_shape=[2, 2], strides=[2, 2])
    scales = net.weight("scales", [1, 1, 2, 2])
    how = {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    larger = net.node("Resize", "/larger", pool, "", scales, mode="nearest", **how)
    joined = net.node("Concat", "/join", one, larger, axis=1)
    return net.model(net.conv("/last", joined, outof=2 * CHANNELS)), (one, two), (pool, larger, joined)


def run(model, **feeds):
    ort = pytest.importorskip("onnxruntime")
    options = ort.SessionOptions()
    for key, value in EXACT.items():
        options.add_session_config_entry(key, value)
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, feeds)


def rounded(values, low, high, target):
    """Values as 8 bits hold them, in float64."""
    if target is Target.TENSORRT:
        scale, zero, least, most = max(-low, high) / 127, 0, -128, 127
    else:
        scale = (high - low) / 255
        zero, least, most = np.rint(-low / scale), 0, 255
    return (np.clip(np.rint(values / scale) + zero, least, most) - zero) * scale


def emulate(model, image, target, ranges, edges):
    """The float32 graph in NumPy, in float64, with what the edges say rounded, and weights."""
    known = {tensor.name: numpy_helper.to_array(tensor).astype(np.float64) for tensor in model.graph.initializer}
    known["input"] = image.astype(np.float64)
    for at, node in enumerate(model.graph.node):
        inputs = [
            rounded(known[name], *ranges[name], target) if (at, slot) in edges.get(name, ()) else known.get(name)
            for slot, name in enumerate(node.input)
        ]
        if node.op_type == "Conv":
            weight = inputs[1][:, :, 0, 0]
            scale = np.abs(weight).max(axis=1, keepdims=True) / 127
            value = np.einsum("oi,bihw->bohw", np.rint(weight / scale) * scale, inputs[0]) + inputs[2][:, None, None]
        elif node.op_type == "MaxPool":
            value = inputs[0].reshape(1, CHANNELS, 4, 2, 4, 2).max(axis=(3, 5))
        elif node.op_type == "Resize":
            value = inputs[0].repeat(2, axis=2).repeat(2, axis=3)
        elif node.op_type == "Concat":
            value = np.concatenate(inputs, axis=1)
        elif node.op_type == "Sigmoid":
            value = 1 / (1 + np.exp(-inputs[0]))
        else:
            value = inputs[0] * inputs[1] if node.op_type == "Mul" else inputs[0] + inputs[1]
        known[node.output[0]] = value
    return known


@pytest.mark.parametrize("target", Target)
@pytest.mark.parametrize("net", [lambda: residual_net()[0], lambda: joined_net()[0]], ids=["residual", "joined"])
def test_each_targets_graph_computes_what_its_numbers_say(net, target):
    model, image = net(), np.random.default_rng(2).normal(size=(1, CHANNELS, 8, 8)).astype(np.float32)
    _, placement = placed(model, target=target)
    exact = emulate(model, image, target, {}, {})
    shared = {name: [exact[one] for one in sources if one in exact] for name, sources in placement.sources.items()}
    # A tenth is clipped at each end, so that a wrong end shows.
    ranges = {
        name: Range(min(0.9 * float(min(map(np.min, values))), 0), max(0.9 * float(max(map(np.max, values))), 0))
        for name, values in shared.items()
    }
    done = insert(model, placement, ranges)
    onnx.checker.check_model(done, full_check=True)
    kinds = {np.int8 if target is Target.TENSORRT else np.uint8}
    zeros = [tensor for tensor in done.graph.initializer if tensor.name.endswith("zero_point") and not tensor.dims]
    assert {numpy_helper.to_array(tensor).dtype.type for tensor in zeros} == kinds
    output = model.graph.output[0].name
    expected = emulate(model, image, target, ranges, placement.edges)[output]
    found = run(done, input=image)[0]
    # A value on the border between two steps may fall to either side.
    assert np.mean(np.abs(found - expected) < 1e-4) > 0.95
    assert np.abs(expected - exact[output]).max() > 10 * np.median(np.abs(found - expected))
    assert np.abs(found - expected).max() < 0.1 * np.abs(exact[output]).max()


def test_the_graph_computes_what_the_numbers_say():
    net = Net()
    model = net.model(net.conv("/one", "input"))
    _, placement = placed(model)
    image = np.random.default_rng(1).normal(size=(1, CHANNELS, 8, 8)).astype(np.float32)
    done = insert(model, placement, {"input": Range(-2, 2)}, {"/one": np.arange(CHANNELS, dtype=np.float32)})
    onnx.checker.check_model(done, full_check=True)
    weight, bias = (numpy_helper.to_array(tensor).astype(np.float64) for tensor in model.graph.initializer)
    scales = np.abs(weight).max(axis=(1, 2, 3), keepdims=True) / 127
    rough = np.rint(weight / scales) * scales
    small = np.clip(np.rint(image / (2 / 127)), -128, 127) * (2 / 127)
    expected = np.einsum("oi,bihw->bohw", rough[:, :, 0, 0], small) + (bias + np.arange(CHANNELS))[:, None, None]
    np.testing.assert_allclose(run(done, input=image)[0], expected, atol=1e-5)


def test_the_original_is_untouched_and_names_are_unique_and_telling():
    net = Net()
    model = net.model(net.conv("/two", net.conv("/one", "input", bias=False)))
    before = model.SerializeToString()
    _, placement = placed(model)
    shifts = {"/one": np.ones(CHANNELS, np.float32)}
    done = insert(model, placement, dict.fromkeys(placement.edges, Range(-1, 1)), shifts)
    assert model.SerializeToString() == before
    onnx.checker.check_model(done, full_check=True)
    names = [node.name for node in done.graph.node]
    assert len(set(names)) == len(names)
    assert {"/input/QuantizeLinear", "/one:0/DequantizeLinear", "/two/weight/DequantizeLinear"} <= set(names)
    stored = {tensor.name: tensor for tensor in done.graph.initializer}
    assert stored["/one.w_int8"].data_type == onnx.TensorProto.INT8
    assert "/one.w" not in stored
    assert len(next(node for node in done.graph.node if node.name == "/one").input) == 3


def test_a_shared_weight_stays_shared_and_float_where_a_layer_is_kept():
    net = Net()
    one = net.conv("/one", "input")
    two = net.conv("/two", one, weight="/one.w")
    kept = net.conv("/head/out_cls.0", two, weight="/one.w")
    model = net.model(kept)
    _, placement = placed(model)
    done = insert(model, placement, dict.fromkeys(placement.edges, Range(-1, 1)))
    stored = [tensor.name for tensor in done.graph.initializer]
    assert stored.count("/one.w_int8") == 1
    assert "/one.w" in stored
    inputs = {node.name: node.input[1] for node in done.graph.node if node.op_type == "Conv"}
    assert inputs["/one"] == inputs["/two"] == "/one.w_dequantized"
    assert inputs["/head/out_cls.0"] == "/one.w"


def test_dead_channels_and_tensors_have_a_positive_scale():
    net = Net()
    net.weight("w", np.zeros((CHANNELS, CHANNELS, 1, 1)))
    model = net.model(net.conv("/one", "input", weight="w"))
    _, placement = placed(model)
    done = insert(model, placement, {"input": Range(0, 0)})
    scales = [numpy_helper.to_array(t) for t in done.graph.initializer if t.name.endswith("_scale")]
    assert len(scales) == 2
    assert all((scale > 0).all() for scale in scales)
    assert np.isfinite(run(done, input=np.zeros((1, CHANNELS, 8, 8), np.float32))[0]).all()


def test_macs():
    net = Net()
    one = net.conv("/one", "input")
    grouped = net.node("Conv", "/grouped", one, net.weight("g", np.ones((CHANNELS, 2, 3, 3))), group=2, strides=[2, 2])
    decoded = net.conv("/decode/late", grouped)
    model = net.model(decoded)
    count = count_macs(model, (16, 32))
    assert count.nodes == (4 * 16 * 32 * 4, 4 * 7 * 15 * 18, 4 * 7 * 15 * 4)
    assert count.of([0]) == count.nodes[0] == 8192
    assert count.network == sum(count.nodes[:2]) == 8192 + 7560
    assert count.graph == sum(count.nodes)


def test_macs_of_matrix_products_and_what_cannot_be_counted():
    net = Net()
    flat = net.node("Flatten", "/flat", "input")
    net.node("Gemm", "/gemm", flat, net.weight("m", np.ones((256, 5))))
    found = net.node("NonZero", "/found", flat)
    rows = net.node("Cast", "/rows", found, to=onnx.TensorProto.FLOAT)
    out = net.node("MatMul", "/late", net.weight("r", np.ones((3, 2))), rows)
    model = net.model(out, "/gemm:0", rank=2)
    count = count_macs(model, (8, 8))
    assert count.nodes[1] == 5 * 256
    assert count.nodes[-1] == 0  # its shape depends on the data


def test_blocks_go_by_name():
    net = Net()
    names = [
        "/backbone/stem/conv/Conv",
        "/backbone/stage1/stage1.0/conv/Conv",
        "/backbone/stage1/stage1.1/main_conv/conv/Conv",
        "/backbone/stage1/stage1.1/blocks/blocks.0/conv1/conv/Conv",
        "/neck/projector/cls.0/Conv",
        "/neck/projector/pose.0/Conv",
        "/neck/fpn_blocks.0/conv1/conv/Conv",
        "/head/conv_pose.0/conv_pose.0.0/conv/Conv",
        "/head/conv_pose.0/conv_pose.0.1/conv/Conv",
        "lonely",
        "",
    ]
    for name in names:
        net.nodes.append(onnx.helper.make_node("Conv", ["input", "w"], [f"{name}:0"], name=name))
    view = GraphView(net.model().graph)
    blocks = blocks_of(view, range(len(names)), MacCount(tuple(range(len(names))), frozenset()))
    assert [(block.name, block.layers, block.macs) for block in blocks] == [
        ("/backbone/stem", (0,), 0),
        ("/backbone/stage1/stage1.0", (1,), 1),
        ("/backbone/stage1/stage1.1", (2, 3), 5),
        ("/neck/projector/cls.0", (4,), 4),
        ("/neck/projector/pose.0", (5,), 5),
        ("/neck/fpn_blocks.0", (6,), 6),
        ("/head/conv_pose.0", (7, 8), 15),
        ("lonely", (9,), 9),
        ("node 10 (Conv)", (10,), 10),
    ]
