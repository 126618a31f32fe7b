"""What an engine computes in: reading TensorRT's tables, and refusing what was not asked for."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rtmo_deploy.convert.trt.audit import (
    EngineLayer,
    LayerTensor,
    audit_precision,
    normal_type,
    parse_inspector,
    parse_layer_table,
)
from rtmo_deploy.errors import ArtifactError

#: Lines as TensorRT-RTX 1.7 writes them, shortened where nothing is read.
TABLE = """Layers:
Name: __mye258_0_myl0_0, LayerType: shape_call, Inputs: [], Constants: [], Outputs: [], TacticName: , StreamId: 0, \
Metadata:
Name: __myl_CorrSilu_myl0_2, LayerType: runtime_fusion, Inputs: [ { Name: arg, Dimensions: [-1,4,-1,-1], Strides: \
[-1,1,-1,4], StrideOrder: [3,0,2,1], Datatype: Half, Format: (NHWC) Channel major format }], Constants: [ { Name: \
w, Dimensions: [16,4,3,3], Strides: [36,1,12,4], StrideOrder: [3,0,2,1], Datatype: Half, Format: (NHWC) Channel \
major format }, { Name: b, Dimensions: [1,16,1,1], Strides: [16,1,16,16], StrideOrder: [3,0,2,1], Datatype: Float, \
Format: (NHWC) Channel major format }], Outputs: [ { Name: out, Dimensions: [-1,16,-1,-1], Strides: [-1,1,-1,16], \
StrideOrder: [3,0,2,1], Datatype: Half, Format: (NHWC) Channel major format }], TacticName: , StreamId: 0, Metadata: \
[ONNX Layer: /b/conv0/Conv][ONNX Layer: /b/act0/Sigmoid]
Bindings:
input
"""


def test_the_table_of_the_log_is_read():
    first, second = parse_layer_table(TABLE)
    assert (first.kind, first.inputs, first.constants, first.outputs, first.onnx) == ("shape_call", (), (), (), ())
    assert second.kind == "runtime_fusion"
    assert second.inputs == (LayerTensor("fp16", (-1, 4, -1, -1)),)
    assert second.constants == (LayerTensor("fp16", (16, 4, 3, 3)), LayerTensor("fp32", (1, 16, 1, 1)))
    assert second.outputs == (LayerTensor("fp16", (-1, 16, -1, -1)),)
    assert second.onnx == ("/b/conv0/Conv", "/b/act0/Sigmoid")
    assert second.inputs[0].volume == 4
    assert second.constants[0].volume == 576


@pytest.mark.parametrize("text", ["", "Layers:", "nothing\nof the kind", "Name: , LayerType"])
def test_text_that_is_no_table_has_no_layers(text):
    assert parse_layer_table(text) == ()


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("DataType.HALF", "fp16"),
        ("DataType.BF16", "bf16"),
        ("DataType.INT8", "int8"),
        ("DataType.UINT8", "uint8"),
        ("DataType.FLOAT", "fp32"),
        ("BFloat16", "bf16"),
        ("Row major linear FP16 format", "fp16"),
        ("Channel major INT8 format where channel % 4 == 0", "int8"),
        ("FP8", "fp8"),
        ("N/A due to dynamic shapes", "unknown"),
        ("", "unknown"),
    ],
)
def test_types_have_one_name(text, kind):
    assert normal_type(text) == kind


def test_the_inspector_is_read():
    text = json.dumps(
        {
            "Layers": [
                {
                    "Name": "conv0",
                    "LayerType": "CaskConvolution",
                    "Inputs": [{"Name": "a", "Dimensions": [1, 4, 8, 8], "Format/Datatype": "Row major linear FP16"}],
                    "Outputs": [{"Name": "b", "Dimensions": [1, 16, 8, 8], "Datatype": "Half"}],
                    "Weights": {"Type": "Half", "Count": 576},
                    "Metadata": "\u001e[ONNX Layer: /b/conv0/Conv]",
                },
                "a name alone",
            ],
            "Bindings": [],
        }
    )
    (layer,) = parse_inspector(text)
    assert layer.inputs == (LayerTensor("fp16", (1, 4, 8, 8)),)
    assert layer.constants == (LayerTensor("fp16", (576,)),)
    assert layer.onnx == ("/b/conv0/Conv",)
    for wrong in ("[]", '{"Layers": 3}', "not json"):
        with pytest.raises(ValueError, match=r"layers|Expecting"):
            parse_inspector(wrong)


def typed(*kinds):
    """A typed network: a convolution of each kind."""
    layers = []
    for index, kind in enumerate(kinds):
        inputs = [f"x{index}", f"w{index}"]
        if kind == "INT8":
            for name in inputs:
                layers.append({"name": name, "kind": "QUANTIZE", "inputs": ["y"], "outputs": [[f"q{name}", "INT8"]]})
                layers.append(
                    {"name": name, "kind": "DEQUANTIZE", "inputs": [f"q{name}"], "outputs": [[name, "FLOAT"]]}
                )
        dtype = "FLOAT" if kind == "INT8" else kind
        layers.append(
            {"name": f"/c{index}", "kind": "CONVOLUTION", "inputs": inputs, "outputs": [[f"o{index}", dtype]]}
        )
    return layers


def built(*kinds):
    """Layers of an engine: a convolution of each kind, which others touch too."""
    layers = []
    for index, kind in enumerate(kinds):
        weights, source = kind if isinstance(kind, tuple) else (kind, kind)
        data = (LayerTensor(source, (-1, 16, -1, -1)),)
        name = (f"/c{index}",)
        layers.append(EngineLayer("kgen", (LayerTensor("fp32", (-1, 16, -1, -1)),), (), data, name))
        layers.append(EngineLayer("correlation", data, (LayerTensor(weights, (16, 16, 3, 3)),), data, name))
        small = (LayerTensor("fp32", (1, 16, 1, 1)),)
        layers.append(EngineLayer("kgen", data, small, data, name))
    return layers


def audit(asked, network, layers, count):
    operators = {f"/c{index}": "Conv" for index in range(count)}
    return audit_precision(asked, operators, network, layers, source="a table", where=Path("m.onnx"))


@pytest.mark.parametrize("kind", ["fp32", "fp16", "bf16", "int8"])
def test_what_was_asked_for_is_counted(kind):
    names = {"fp32": "FLOAT", "fp16": "HALF", "bf16": "BF16", "int8": "INT8"}
    found = audit(kind, typed(*[names[kind]] * 3), built(kind, kind, kind), 3)
    assert found.how == "a table"
    assert found.network["convolutions"] == found.engine["convolutions"] == {kind: 3}
    assert found.sentence() == f"3 of 3 convolutions in {kind}"
    assert found.layers["correlation"] == {kind: 3}


def test_half_around_eight_bits_is_counted_and_kept():
    network = typed("INT8", "INT8", "HALF", "FLOAT")
    found = audit("int8+fp16", network, built("int8", "int8", "fp16", "fp32"), 4)
    assert found.engine["convolutions"] == {"fp16": 1, "fp32": 1, "int8": 2}
    assert found.sentence() == "2 of 4 convolutions in int8, 1 in fp16"
    with pytest.raises(ArtifactError, match="of fp16, and only 1 of the engine: /c2 computes in fp32"):
        audit("int8+fp16", typed("INT8", "HALF", "HALF"), built("int8", "fp16", "fp32"), 3)
    with pytest.raises(ArtifactError, match="of int8, and only 1 of the engine: /c1 computes in fp16"):
        audit("int8+fp16", network, built("int8", "fp16", "fp16", "fp32"), 4)
    with pytest.raises(ArtifactError, match="of the network 2 compute in it"):
        audit("int8+fp16", typed("INT8", "INT8", "FLOAT"), [], 3)


def test_without_a_table_the_typed_network_is_what_there_is():
    found = audit("fp16", typed("HALF", "HALF", "FLOAT"), [], 3)
    assert found.how == "typed network before the build"
    assert found.engine == {}
    assert found.network["convolutions"] == {"fp16": 2, "fp32": 1}
    assert found.layers == {"CONVOLUTION": {"fp16": 2, "fp32": 1}}
    assert found.sentence() == "2 of 3 convolutions in fp16"


@pytest.mark.parametrize(
    ("asked", "network", "layers", "said"),
    [
        ("fp16", typed("FLOAT", "FLOAT"), built("fp32", "fp32"), "2 convolutions of the network 0 compute in it"),
        ("fp16", typed("HALF", "FLOAT", "FLOAT"), built("fp16", "fp32", "fp32"), "of the network 1 compute in it"),
        ("int8", typed("FLOAT", "HALF"), [], "1 in fp16, 1 in fp32"),
        ("fp32", typed("FLOAT", "HALF"), [], "1 in fp16"),
        ("bf16", typed("HALF", "HALF"), [], "2 in fp16"),
        # The network is right, and the engine is not what it says.
        ("fp16", typed("HALF", "HALF"), built("fp32", "fp32"), "of the engine 0 compute in it"),
        ("fp32", typed("FLOAT", "FLOAT"), built("fp32", "fp16"), "of the engine 1 compute in it"),
        ("int8", typed("INT8", "INT8"), built("int8", "fp32"), "only 1 of the engine: /c1 computes in fp32"),
        ("int8", typed("INT8", "INT8"), built("int8", ("int8", "fp16")), "/c1 computes in mixed fp16/int8"),
        ("fp16", typed("HALF", "HALF", "HALF"), built("fp16", "fp16", "fp32"), "/c2 computes in fp32"),
    ],
)
def test_another_engine_than_was_asked_for_is_refused(asked, network, layers, said):
    count = sum(layer["kind"] == "CONVOLUTION" for layer in network)
    with pytest.raises(ArtifactError) as caught:
        audit(asked, network, layers, count)
    assert said in str(caught.value)
    assert "not written" in str(caught.value)
    assert caught.value.exit_code == 4


def test_a_cast_may_be_part_of_a_convolution():
    found = audit("fp16", typed("HALF", "HALF"), built("fp16", ("fp16", "fp32")), 2)
    assert found.engine["convolutions"] == {"fp16": 2}


def test_every_profile_counts():
    layers = [*built("fp16", "fp16"), *built("fp16", "fp32")]
    with pytest.raises(ArtifactError, match="/c1 computes in mixed fp16/fp32"):
        audit("fp16", typed("HALF", "HALF"), layers, 2)


def test_channels_that_pad_the_input_are_no_weights():
    """TensorRT-RTX pads 3 channels of a static input to 4 with a constant that is larger than the weights."""
    name, weights = ("/c0",), LayerTensor("int8", (16, 4, 6, 6))
    zeros = LayerTensor("int8", (1, 1, 256, 256))
    picture, padded = LayerTensor("fp32", (1, 3, 256, 256)), LayerTensor("int8", (1, 4, 256, 256))
    pad = EngineLayer("kgen", (picture,), (zeros,), (padded,), name)
    network = typed("INT8")

    def computed(source):
        layers = [pad, EngineLayer("correlation", (source,), (weights,), (), name)]
        given = {"/c0": (16, 3, 6, 6)}
        return audit_precision(
            "int8", {"/c0": "Conv"}, network, layers, source="a table", where=Path("m"), weights=given
        )

    assert computed(padded).engine["convolutions"] == {"int8": 1}
    with pytest.raises(ArtifactError, match="1 in mixed fp32/int8"):
        computed(picture)


def test_layers_that_no_table_names_are_counted_as_unseen():
    found = audit("fp16", typed("HALF", "HALF", "HALF"), built("fp16", "fp16"), 3)
    assert found.engine["convolutions"] == {"fp16": 2, "unseen": 1}
    # With most of them unseen a table says nothing.
    found = audit("fp16", typed("HALF", "HALF", "HALF"), built("fp16"), 3)
    assert found.how == "typed network before the build"


def test_a_network_without_convolutions_is_nothing():
    with pytest.raises(ArtifactError, match="0 convolutions"):
        audit("fp32", [], [], 0)
