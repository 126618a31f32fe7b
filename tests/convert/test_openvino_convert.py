"""ONNX to OpenVINO and back to people; pairs of files that do not fit together."""

from __future__ import annotations

import re
import shutil
import sys
from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from rtmo_deploy.artifact import DecodeMode
from rtmo_deploy.convert.options import ExportOptions
from rtmo_deploy.errors import ArtifactError, MissingDependencyError, ParityError, SetupError, UsageError
from rtmo_deploy.file_kind import Kind
from rtmo_deploy.files import sha256_of
from rtmo_deploy.measure import compare_people, structured_images
from rtmo_deploy.measure.bounds import CASTS
from rtmo_deploy.runtime.decode import open_coordinates, outputs_to_poses
from rtmo_deploy.runtime.onnx_file import onnx_artifact
from rtmo_deploy.runtime.onnxruntime_backend import OnnxRuntimeBackend, open_session, run_session
from rtmo_deploy.runtime.openvino_file import openvino_artifact, weights_path

pytest.importorskip("openvino", reason="needs openvino")

from rtmo_deploy.convert import openvino as convert_module
from rtmo_deploy.convert.openvino import convert_openvino
from rtmo_deploy.runtime.openvino_backend import load, saturates

pytestmark = pytest.mark.usefixtures("openvino_compiles")

OPTIONS = {
    "onnx": ExportOptions(decode="onnx"),
    "fixed": ExportOptions(decode="fixed"),
    "raw": ExportOptions(decode="raw"),
}


@pytest.fixture(scope="session")
def converted(exported, tmp_path_factory):
    """Converted and verified, once a mode; in a folder of its own. Do not write to it."""
    made = {}

    def convert(mode):
        if mode not in made:
            source = exported(OPTIONS[mode]).path
            output = tmp_path_factory.mktemp("openvino") / f"{mode}.xml"
            made[mode] = (source, convert_openvino(source, output))
        return made[mode]

    return convert


@pytest.fixture(scope="module")
def little(tmp_path_factory):
    """A model of one convolution that says it is a raw RTMO: quick to convert; not to be verified."""
    folder = tmp_path_factory.mktemp("little")
    return _little(folder / "little.onnx")


@pytest.fixture
def pair(little, tmp_path):
    """A converted model, to spoil."""
    return convert_openvino(little, tmp_path / "pair.xml", verify=False).artifact.path


def _little(path, **changes):
    from rtmo_deploy.artifact import Artifact, DecodeContract, InputContract
    from rtmo_deploy.zoo import COCO_17

    weight = numpy_helper.from_array(np.random.default_rng(0).normal(0, 0.1, (64, 3, 3, 3)).astype(np.float32), "w")
    constants = {
        "last": np.array([3]),
        "five": np.ones((1, 2, 5), np.float32),
        "points": np.ones((1, 2, 17, 3), np.float32),
    }
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["input", "w"], ["out"], pads=[1, 1, 1, 1]),
            helper.make_node("ReduceMax", ["out"], ["top"], axes=[1, 2, 3]),
            helper.make_node("Squeeze", ["top", "last"], ["flat"]),
            helper.make_node("Mul", ["flat", "five"], ["dets"]),
            helper.make_node("Mul", ["top", "points"], ["keypoints"]),
        ],
        "little",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["b", 3, "h", "w"])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("dets", "keypoints", "out")],
        [weight, *(numpy_helper.from_array(value, name) for name, value in constants.items())],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 8
    artifact = Artifact(
        path,
        Kind.ONNX,
        'odd "<&>" näme',
        COCO_17,
        InputContract(32, 32),
        DecodeContract(DecodeMode.FIXED, max_dets=2),
    )
    helper.set_model_props(model, replace(artifact, **changes).to_metadata())
    onnx.save(model, path)
    return path


@pytest.mark.parametrize("mode", OPTIONS)
def test_the_files_find_what_the_source_finds(converted, mode):
    source, result = converted(mode)
    artifact = openvino_artifact(result.artifact.path)
    backend = load(artifact, "cpu", 1)
    reference = OnnxRuntimeBackend(onnx_artifact(source, onnx.load(source)), "cpu", 1)
    coordinates = None
    if mode == "raw":
        coordinates = open_coordinates(artifact.path.with_name(artifact.companion.name))
    for shape in [(1, 128, 128), (2, 96, 160)]:
        images = structured_images(*shape)
        ours, theirs = backend(images), reference(images)
        assert set(ours) == set(theirs)
        one, two = (outputs_to_poses(outputs, shape[1:], artifact, coordinates) for outputs in (theirs, ours))
        people = compare_people(one, two)
        assert (people.missed, people.extra, people.in_order) == (0, 0, True)
        assert people.matched > 0
        assert people.keypoint_px_max < 0.05
        assert people.score_max < 1e-5


@pytest.mark.parametrize("mode", OPTIONS)
def test_what_the_model_knows_of_itself_survives(converted, mode):
    source, result = converted(mode)
    read = openvino_artifact(result.artifact.path)
    assert read == result.artifact
    before = onnx_artifact(source, onnx.load(source))
    for name in ("architecture", "skeleton", "input", "decode", "precision", "variant", "companion", "producer"):
        assert getattr(read, name) == getattr(before, name)
    assert read.kind is Kind.OPENVINO
    assert [(parent.name, parent.sha256) for parent in read.parents] == [(source.name, sha256_of(source))]
    assert "openvino" in read.versions
    assert read.verified["parity"]["ok"] is True
    assert result.size == read.path.stat().st_size + result.files[1].stat().st_size


def test_people_were_compared(converted):
    _, result = converted("onnx")
    cases = result.verification.cases
    assert [(case.batch, case.height, case.width) for case in cases] == [(1, 256, 256), (2, 192, 320)]
    assert all(case.people.matched >= 5 for case in cases)
    _, raw = converted("raw")
    assert all(case.people.matched >= 5 and len(case.tensors) == 4 for case in raw.verification.cases)


def test_a_raw_model_takes_its_companion_along(converted):
    source, result = converted("raw")
    companion = result.artifact.companion
    copy = result.artifact.path.with_name(companion.name)
    assert copy.read_bytes() == source.with_name(companion.name).read_bytes()
    assert sha256_of(copy) == companion.sha256


def test_nothing_of_the_source_is_left_in_the_file(converted):
    _, result = converted("onnx")
    text = result.artifact.path.read_text(encoding="utf-8")
    assert "<framework" not in text
    assert text.count("<kind value=") == text.count("<rtmo_deploy>") == 1
    assert "rtmo_deploy.kind" not in text


def test_other_models_are_not_let_out(exported, tmp_path, monkeypatch):
    """The bytes that are compared are those that would be written."""
    source = exported(OPTIONS["onnx"]).path
    real = convert_module.parse_model

    def spoilt(xml, weights=None, *, where):
        if weights is None:  # the source
            return real(xml, where=where)
        values = np.frombuffer(weights, np.uint8).copy()
        values[len(values) // 2 : len(values) // 2 + 40000] = 0
        return real(xml, values.tobytes(), where=where)

    monkeypatch.setattr(convert_module, "parse_model", spoilt)
    with pytest.raises(ParityError, match="does not find what the ONNX model finds") as caught:
        convert_openvino(source, tmp_path / "x.xml")
    assert caught.value.exit_code == 6
    assert list(tmp_path.iterdir()) == []


def test_16_bit_weights(tmp_path, little):
    full = convert_openvino(little, tmp_path / "full.xml", verify=False)
    half = convert_openvino(little, tmp_path / "half.xml", compress_fp16=True, verify=False)
    assert half.files[1].stat().st_size < 0.6 * full.files[1].stat().st_size
    assert (full.artifact.precision, half.artifact.precision) == ("fp32", "fp16-weights")
    images = structured_images(1, 32, 64)
    one, two = (load(openvino_artifact(r.artifact.path), "cpu", 1)(images)["out"] for r in (full, half))
    assert 0 < np.abs(one - two).max() < 1e-3 * np.abs(one).max()
    with pytest.raises(UsageError, match="Its precision is int8"):
        convert_openvino(
            _little(tmp_path / "8.onnx", precision="int8"), tmp_path / "8.xml", compress_fp16=True, verify=False
        )


def _with_qdq(model, path):
    """A copy in which the third convolution is 8-bit: its input with one scale, its weights with one a channel."""
    names = {tensor.name: tensor for tensor in model.graph.initializer}
    convs = [node for node in model.graph.node if node.op_type == "Conv" and node.input[1] in names]
    source, weight = convs[2].input[:2]
    tapped = onnx.ModelProto()
    tapped.CopyFrom(model)
    tapped.graph.output.append(onnx.ValueInfoProto(name=source))
    session = open_session(tapped.SerializeToString(), where=path)
    peak = np.abs(run_session(session, {"input": structured_images(1, 256, 256)}, where=path)[source]).max()
    values = numpy_helper.to_array(names[weight])
    scales = np.abs(values).max(axis=(1, 2, 3)) / 127
    small = np.round(values / scales[:, None, None, None]).astype(np.int8)
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    added = {
        "q/scale": np.float32(peak / 127),
        "q/zero": np.int8(0),
        "q/w": small,
        "q/scales": scales.astype(np.float32),
        "q/zeros": np.zeros(len(scales), np.int8),
    }
    copy.graph.initializer.extend(numpy_helper.from_array(np.asarray(value), name) for name, value in added.items())
    nodes = [
        helper.make_node("QuantizeLinear", [source, "q/scale", "q/zero"], ["q/x"]),
        helper.make_node("DequantizeLinear", ["q/x", "q/scale", "q/zero"], ["q/dx"]),
        helper.make_node("DequantizeLinear", ["q/w", "q/scales", "q/zeros"], ["q/dw"], axis=0),
    ]
    at = next(i for i, node in enumerate(copy.graph.node) if node.name == convs[2].name)
    before, after = list(copy.graph.node)[:at], list(copy.graph.node)[at:]
    after[0].input[0], after[0].input[1] = "q/dx", "q/dw"
    ordered = [onnx.NodeProto.FromString(node.SerializeToString()) for node in (*before, *nodes, *after)]
    del copy.graph.node[:]
    copy.graph.node.extend(ordered)
    artifact = replace(onnx_artifact(path, model), precision="int8")
    helper.set_model_props(copy, artifact.to_metadata())
    onnx.save(copy, path)
    return path


def test_a_quantised_model(exported, tmp_path):
    source = _with_qdq(exported(OPTIONS["onnx"]).graph, tmp_path / "int8.onnx")
    result = convert_openvino(source, tmp_path / "int8.xml")
    assert result.artifact.precision == "int8"
    assert all(case.people.matched >= 5 for case in result.verification.cases)
    assert result.verification.bounds == CASTS["int8+fp16"]
    read = openvino_artifact(result.artifact.path)
    emulated = load(read, "cpu", 1, "fp32")
    assert "int8" not in emulated.layers
    if not saturates():
        assert load(read, "cpu", 1).layers["int8"] == 1
    else:
        with pytest.raises(SetupError, match="without VNNI"):
            load(read, "cpu", 1)


def test_odd_characters_survive(tmp_path, little):
    result = convert_openvino(little, tmp_path / "a b é.xml", verify=False)
    assert openvino_artifact(result.artifact.path) == result.artifact
    assert result.artifact.architecture == 'odd "<&>" näme'
    assert result.artifact.verified is None
    load(result.artifact, "cpu", 1)


def test_files_can_be_renamed_together(pair):
    moved = pair.with_name("other.xml")
    weights_path(pair).rename(weights_path(moved))
    pair.rename(moved)
    assert openvino_artifact(moved).path == moved


def test_missing_weights(pair):
    weights_path(pair).unlink()
    with pytest.raises(ArtifactError, match=r"Its weights pair\.bin are not beside it"):
        openvino_artifact(pair)


@pytest.mark.parametrize("spoil", [lambda b: b[:-1], lambda b: bytes([b[0] ^ 1]) + b[1:], lambda b: b * 0])
def test_other_weights(pair, spoil):
    weights = weights_path(pair)
    weights.write_bytes(spoil(weights.read_bytes()))
    with pytest.raises(ArtifactError, match="does not hold the weights that it was written with"):
        openvino_artifact(pair)


@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.999])
def test_a_graph_cut_short(pair, share):
    content = pair.read_bytes()
    pair.write_bytes(content[: int(share * len(content))])
    with pytest.raises(ArtifactError, match=r"cut short|empty") as caught:
        openvino_artifact(pair)
    assert caught.value.where == str(pair)


@pytest.mark.parametrize(
    "text",
    [
        "no xml",
        "<html></html>",
        "<net/><net/>",
        '<!DOCTYPE net [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;&a;">]><net>&b;</net>',
        "\x00\x00",
    ],
)
def test_another_file(tmp_path, text):
    path = tmp_path / "x.xml"
    path.write_text(text)
    with pytest.raises(ArtifactError, match="not an OpenVINO model"):
        openvino_artifact(path)


def test_a_model_of_somebody_else(tmp_path):
    path = tmp_path / "x.xml"
    layer = '<layer id="0" name="x" type="Parameter" version="opset1"/>'
    path.write_text(f'<net name="x" version="11"><layers>{layer}</layers><rt_info><framework/></rt_info></net>')
    with pytest.raises(ArtifactError, match="without this project's metadata"):
        openvino_artifact(path)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('<schema_version value="1"', '<schema_version value="99"', "schema version 99"),
        ('<decode value="', '<decode value="!', "metadata is damaged"),
        ("&quot;openvino&quot;", "&quot;onnx&quot;", "a file of kind onnx"),
        ("<weights_sha256 ", "<weights_md5 ", "without this project's metadata"),
    ],
)
def test_spoilt_metadata(tmp_path, little, old, new, message):
    path = tmp_path / "x.xml"
    convert_openvino(little, path, verify=False)
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(re.sub(re.escape(old), new, text, count=1), encoding="utf-8")
    with pytest.raises(ArtifactError, match=message):
        openvino_artifact(path)


def test_no_file_or_a_folder(tmp_path):
    with pytest.raises(ArtifactError, match="There is no such file"):
        openvino_artifact(tmp_path / "x.xml")
    with pytest.raises(ArtifactError, match="It is a folder"):
        openvino_artifact(tmp_path)


def test_the_output_must_be_xml(tmp_path, little):
    with pytest.raises(UsageError, match=r"Give it the suffix \.xml"):
        convert_openvino(little, tmp_path / "x.bin", verify=False)


@pytest.mark.parametrize("content", [b"", b"junk" * 50])
def test_a_source_that_is_no_model(tmp_path, content):
    source = tmp_path / "x.onnx"
    source.write_bytes(content)
    with pytest.raises(ArtifactError):
        convert_openvino(source, tmp_path / "x.xml")
    assert list(tmp_path.iterdir()) == [source]


def test_a_raw_source_without_its_companion(exported, tmp_path):
    source = exported(OPTIONS["raw"]).path
    alone = shutil.copy(source, tmp_path / "raw.onnx")
    with pytest.raises(ArtifactError, match="beside it, which cannot be read"):
        convert_openvino(alone, tmp_path / "x.xml")
    companion = next(source.parent.glob("*.dcc.onnx"))
    (tmp_path / companion.name).write_bytes(companion.read_bytes()[:-1])
    with pytest.raises(ArtifactError, match="not the file it was exported with"):
        convert_openvino(alone, tmp_path / "x.xml")
    assert not (tmp_path / "x.xml").exists()


@pytest.mark.parametrize("package", ["openvino", "onnxruntime"])
def test_a_missing_package(tmp_path, little, monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingDependencyError) as caught:
        convert_openvino(little, tmp_path / "x.xml")
    assert caught.value.package == package
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("failing", ["x.xml", "x.bin"])
def test_both_files_or_none(tmp_path, little, monkeypatch, failing):
    import contextlib

    real = convert_module.atomic_write

    @contextlib.contextmanager
    def write(path):
        with real(path) as temporary:
            yield temporary
            if path.name == failing:
                raise OSError(28, "No space left on device")

    monkeypatch.setattr(convert_module, "atomic_write", write)
    with pytest.raises(SetupError, match="No space left"):
        convert_openvino(little, tmp_path / "x.xml", verify=False)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_in_the_way(tmp_path, little):
    (tmp_path / "x.bin").mkdir()
    with pytest.raises(SetupError, match="This is a folder"):
        convert_openvino(little, tmp_path / "x.xml", verify=False)
    assert [path.name for path in tmp_path.iterdir()] == ["x.bin"]


def test_no_room_for_temporary_files(tmp_path, little, monkeypatch):
    import openvino

    def full(*_, **__):
        raise RuntimeError("Exception from somewhere\nCould not write\n\n")

    monkeypatch.setattr(openvino, "save_model", full)
    with pytest.raises(SetupError, match=r"could not write the model: Could not write .*TMPDIR"):
        convert_openvino(little, tmp_path / "x.xml", verify=False)
    assert list(tmp_path.iterdir()) == []
