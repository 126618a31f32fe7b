"""Whole models cast to half: what stays float32, how far the people are off, what the file says of itself."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import onnx
import pytest

from rtmo_deploy.artifact import Artifact, DecodeMode
from rtmo_deploy.convert import ExportOptions
from rtmo_deploy.convert.graph import element_types
from rtmo_deploy.convert.precision import cast_onnx
from rtmo_deploy.convert.precision.rules import CAST_TYPES, FP32_BLOCKS, fp32_block_of
from rtmo_deploy.convert.precision.verify import AS_IT_IS, EMULATED, emulated
from rtmo_deploy.errors import ArtifactError, ParityError, UsageError
from rtmo_deploy.files import sha256_of
from rtmo_deploy.measure import Bounds, Case, Figures, compare_people, structured_images
from rtmo_deploy.measure.bounds import CASTS
from rtmo_deploy.poses import Poses
from rtmo_deploy.runtime import PoseEstimator
from rtmo_deploy.runtime.decode import outputs_to_poses
from rtmo_deploy.runtime.estimator import read_artifact
from rtmo_deploy.runtime.onnxruntime_backend import open_session, run_session
from rtmo_deploy.zoo import skeleton_for

OPTIONS = {
    "onnx": ExportOptions(decode="onnx"),
    "fixed": ExportOptions(decode="fixed"),
    "raw": ExportOptions(decode="raw"),
}
FLOAT, FLOAT16 = onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16


@pytest.fixture(scope="session")
def cast_file(exported, tmp_path_factory):
    """The small network cast to FP16, unverified; each mode's file is made once."""
    made = {}

    def make(mode):
        if mode not in made:
            folder = tmp_path_factory.mktemp(f"cast_{mode}")
            made[mode] = cast_onnx(exported(OPTIONS[mode]).path, folder / "half.onnx", "fp16", verify=False)
        return made[mode]

    return make


def nodes_by_type(model):
    """The float type each node computes in: of its first floating-point output, else input."""
    types = element_types(model)
    floats = {FLOAT, FLOAT16, onnx.TensorProto.BFLOAT16}
    found = {}
    for node in model.graph.node:
        kinds = [types[name] for name in (*node.output, *node.input) if name and types.get(name) in floats]
        if kinds:
            found[node.name] = (node, kinds[0])
    return found


@pytest.mark.parametrize("mode", OPTIONS)
def test_the_islands_are_float32_and_all_else_is_half(cast_file, mode):
    result = cast_file(mode)
    model = onnx.load(result.artifact.path)
    onnx.checker.check_model(model, full_check=True)
    seen = set()
    for name, (node, kind) in nodes_by_type(model).items():
        if "Cast_to_" in name:
            continue
        island = fp32_block_of(node)
        if island is not None:
            seen.add(island.name)
            assert kind == FLOAT, f"{name} of {island.name}"
        else:
            assert kind == FLOAT16, name
    wanted = {"grid", "position encoding", "box prediction", "class scores", "head maps", "decode"}
    assert seen >= (wanted if mode == "raw" else wanted | {"people"})
    assert set(result.fp32_nodes) >= seen
    assert not result.kept
    scopes = {node.name.split("/")[1] for node, kind in nodes_by_type(model).values() if kind == FLOAT16}
    assert scopes >= {"backbone", "neck", "head"}


def test_every_island_holds_something(cast_file, exported):
    names = {
        island.name
        for mode in OPTIONS
        for node in exported(OPTIONS[mode]).graph.graph.node
        if (island := fp32_block_of(node)) is not None
    }
    # Operators without half kernels stand in other islands already.
    assert names == {island.name for island in FP32_BLOCKS} - {"no half kernel"}
    assert all(len(island.reason) > 30 for island in FP32_BLOCKS)


@pytest.mark.parametrize("mode", OPTIONS)
def test_casts_are_few_and_named_after_where_they_stand(cast_file, mode):
    result = cast_file(mode)
    model = onnx.load(result.artifact.path)
    casts = [node for node in model.graph.node if "Cast_to_" in node.name]
    assert len(casts) == result.casts <= 12
    assert {node.name.split("/")[1] for node in casts} <= {"backbone", "neck", "head", "decode"}
    made = {output: node for node in model.graph.node for output in node.output}
    weights = {tensor.name for tensor in model.graph.initializer}
    for node in casts:
        assert node.input[0] not in weights
        assert made.get(node.input[0]) not in casts
    assert len({(node.input[0], node.attribute[0].i) for node in casts}) == len(casts)


@pytest.mark.parametrize("mode", OPTIONS)
def test_inputs_outputs_and_whole_numbers_are_untouched(cast_file, exported, mode):
    before, after = exported(OPTIONS[mode]).graph, onnx.load(cast_file(mode).artifact.path)
    assert list(after.graph.input) == list(before.graph.input)
    assert list(after.graph.output) == list(before.graph.output)
    assert after.opset_import == before.opset_import
    whole = {n.name: list(n.input) for n in before.graph.node if n.op_type in {"Range", "Shape", "NonMaxSuppression"}}
    kept = {n.name: list(n.input) for n in after.graph.node if n.name in whole}
    assert kept == whole


@pytest.mark.parametrize(("mode", "share"), [("raw", 0.54), ("fixed", 0.62), ("onnx", 0.6)])
def test_about_half_the_size(cast_file, exported, mode, share):
    result = cast_file(mode)
    assert result.size == result.artifact.path.stat().st_size
    assert 0.45 < result.size / exported(OPTIONS[mode]).path.stat().st_size < share


def people_in(path, images):
    estimator = PoseEstimator.open(path, threads=1)
    outputs = estimator.backend(images)
    assert all(value.dtype == np.float32 and np.isfinite(value).all() for value in outputs.values())
    return outputs_to_poses(outputs, images.shape[2:], estimator.artifact, estimator.coordinates)


@pytest.mark.parametrize("shape", [(1, 128, 128), (2, 96, 160)])
@pytest.mark.parametrize("mode", OPTIONS)
def test_the_same_people_in_other_shapes_and_batches(cast_file, exported, mode, shape):
    images = structured_images(*shape)
    expected = people_in(exported(OPTIONS[mode]).path, images)
    assert sum(map(len, expected)) > 3
    d = compare_people(expected, people_in(cast_file(mode).artifact.path, images), input_hw=shape[1:])
    assert d.unmatched <= 1
    assert d.keypoint_px_mean < 0.1
    assert d.score_max < 2e-3


@pytest.mark.parametrize("value", [0.0, 255.0])
@pytest.mark.parametrize("mode", OPTIONS)
def test_finite_on_black_and_white_with_every_rounding(cast_file, mode, value):
    model = onnx.load(cast_file(mode).artifact.path)
    session = open_session(emulated(model, CAST_TYPES["fp16"], peaks=False).SerializeToString(), where="test")
    outputs = run_session(session, {"input": np.full((1, 3, 96, 128), value, np.float32)}, where="test")
    assert all(np.isfinite(out).all() for out in outputs.values())


@pytest.fixture(scope="session")
def verified(exported, tmp_path_factory):
    """The fixed graph cast and verified, in another folder."""
    return cast_onnx(exported(OPTIONS["fixed"]).path, tmp_path_factory.mktemp("v") / "half.onnx", "fp16")


def test_what_the_file_says_of_itself(verified, exported):
    source = exported(OPTIONS["fixed"])
    artifact = read_artifact(verified.artifact.path)
    assert artifact == replace(verified.artifact, verified=json.loads(json.dumps(verified.artifact.verified)))
    before = source.result.artifact
    assert artifact.precision == "fp16"
    assert [parent.name for parent in artifact.parents] == [*(p.name for p in before.parents), source.path.name]
    assert artifact.parents[-1].sha256 == sha256_of(source.path)
    assert artifact.versions["onnxruntime"]
    same = ("kind", "architecture", "skeleton", "input", "decode", "variant", "companion", "producer")
    assert all(getattr(artifact, name) == getattr(before, name) for name in same)


def test_the_report(verified):
    report = verified.verification
    assert report.failures() == []
    assert report.not_run is None
    ways = [EMULATED, AS_IT_IS]
    assert [(case.batch, case.run) for case in report.cases] == [(batch, way) for batch in (1, 2) for way in ways]
    assert all(case.people.people_a >= 3 for case in report.cases)
    # The rounding is really there: what ONNX Runtime leaves out on the CPU makes the smaller errors.
    rounded, plain = (
        np.mean([case.people.keypoint_px_mean for case in report.cases if (case.run == EMULATED) is which])
        for which in (True, False)
    )
    assert rounded > plain > 0
    assert 255 <= report.peak < 65504
    document = verified.artifact.verified["precision"]
    assert document["ok"] is True
    assert document["run"] is True
    json.dumps(document, allow_nan=False)


def test_bfloat16_is_emulated_and_not_said_to_have_run(exported, tmp_path):
    # The made-up weights make attention logits of 6000, where bfloat16 steps by 32: softened here.
    model, _ = scaled(exported(OPTIONS["fixed"]).graph, 0.02, "/neck/encoder/query_key/", "MatMul")
    result = cast_onnx(write(model, tmp_path / "calm.onnx"), tmp_path / "b.onnx", "bf16")
    model = onnx.load(result.artifact.path)
    onnx.checker.check_model(model, full_check=True)
    assert model.opset_import[0].version == 22
    assert onnx.TensorProto.BFLOAT16 in {kind for _, kind in nodes_by_type(model).values()}
    report = result.verification
    assert report.not_run.startswith("ONNX Runtime")
    assert all(case.run == EMULATED for case in report.cases)
    assert report.failures() == []
    document = read_artifact(result.artifact.path).verified["precision"]
    assert document["run"] is False
    assert "bfloat16" in document["not_run"]
    assert read_artifact(result.artifact.path).precision == "bf16"


def test_a_raw_model_takes_its_companion_along(exported, tmp_path):
    source = exported(OPTIONS["raw"]).path
    result = cast_onnx(source, tmp_path / "new" / "r.onnx", "fp16")
    companion = result.artifact.companion
    assert {path.name for path in (tmp_path / "new").iterdir()} == {"r.onnx", companion.name}
    assert sha256_of(tmp_path / "new" / companion.name) == companion.sha256
    assert all(case.people.people_a > 0 for case in result.verification.cases)
    picture = structured_images(1, 96, 128)[0].transpose(1, 2, 0).astype(np.uint8)
    assert len(PoseEstimator.open(tmp_path / "new" / "r.onnx", input_hw=(96, 128))(picture)) > 0


def test_another_models_companion_is_not_overwritten(exported, tmp_path):
    source = exported(OPTIONS["raw"])
    (tmp_path / source.result.artifact.companion.name).write_bytes(b"another model's")
    with pytest.raises(UsageError, match="belongs to another model"):
        cast_onnx(source.path, tmp_path / "r.onnx", "fp16", verify=False)
    assert len(list(tmp_path.iterdir())) == 1
    with pytest.raises(UsageError, match="name of its companion"):
        cast_onnx(source.path, source.path.with_name(source.result.artifact.companion.name), "fp16", verify=False)


@pytest.mark.parametrize("damage", ["missing", "other"])
def test_a_raw_model_without_its_companion(exported, tmp_path, damage):
    source = exported(OPTIONS["raw"])
    (tmp_path / "m.onnx").write_bytes(source.path.read_bytes())
    if damage == "other":
        (tmp_path / source.result.artifact.companion.name).write_bytes(b"x")
    with pytest.raises(ArtifactError, match="which cannot be read" if damage == "missing" else "is not the file"):
        cast_onnx(tmp_path / "m.onnx", tmp_path / "out.onnx", "fp16", verify=False)
    assert not (tmp_path / "out.onnx").exists()


# --- what is refused ---


def write(model, path, **changes):
    """A model file with other things said of itself."""
    artifact = Artifact.from_metadata(path, {entry.key: entry.value for entry in model.metadata_props})
    copy = onnx.ModelProto.FromString(model.SerializeToString())
    if changes:
        onnx.helper.set_model_props(copy, replace(artifact, **changes).to_metadata())
    path.write_bytes(copy.SerializeToString())
    return path


def refused(source, tmp_path, words, error=ArtifactError, precision="fp16", verify=True):
    output = tmp_path / "out" / "x.onnx"
    with pytest.raises(error, match=words) as caught:
        cast_onnx(source, output, precision, verify=verify)
    assert not output.parent.exists()
    return caught.value


def test_already_cast(verified, tmp_path):
    refused(verified.artifact.path, tmp_path, "It is fp16 already")
    refused(verified.artifact.path, tmp_path, "It is fp16 already", precision="bf16")


def test_cast_but_saying_otherwise(verified, tmp_path):
    liar = write(onnx.load(verified.artifact.path), tmp_path / "l.onnx", precision="fp32")
    refused(liar, tmp_path, "16-bit weights, and says that it is fp32")


def test_quantized(exported, tmp_path):
    model = exported(OPTIONS["fixed"]).graph
    refused(
        write(model, tmp_path / "q.onnx", precision="int8"), tmp_path, "It has no Q/DQ pairs, and says that it is int8"
    )
    copy = onnx.ModelProto.FromString(model.SerializeToString())
    copy.graph.node.append(onnx.helper.make_node("QuantizeLinear", ["input", "s"], ["q"], name="/q"))
    copy.graph.initializer.append(onnx.numpy_helper.from_array(np.float32(1), "s"))
    refused(write(copy, tmp_path / "q2.onnx"), tmp_path, "It has Q/DQ pairs, and says that it is fp32")


def test_subgraphs_are_refused_by_name(exported, tmp_path):
    copy = onnx.ModelProto.FromString(exported(OPTIONS["fixed"]).graph.SerializeToString())
    inner = onnx.helper.make_graph([], "inner", [], [])
    copy.graph.initializer.append(onnx.numpy_helper.from_array(np.bool_(1), "c"))
    copy.graph.node.append(
        onnx.helper.make_node("If", ["c"], ["r"], name="/x/If", then_branch=inner, else_branch=inner)
    )
    refused(write(copy, tmp_path / "s.onnx"), tmp_path, r"subgraph, /x/If \(If\)")


@pytest.mark.parametrize("name", ["", "Conv_0", "same"])
def test_nodes_without_names(exported, tmp_path, name):
    copy = onnx.ModelProto.FromString(exported(OPTIONS["fixed"]).graph.SerializeToString())
    copy.graph.node[5].name = copy.graph.node[6].name if name == "same" else name
    refused(write(copy, tmp_path / "n.onnx"), tmp_path, "Nodes have no names")


def test_a_plugin_cannot_be_compared(exported, tmp_path):
    model = exported(OPTIONS["fixed"]).graph
    contract = replace(exported(OPTIONS["fixed"]).result.artifact.decode, mode=DecodeMode.PLUGIN)
    refused(write(model, tmp_path / "p.onnx", decode=contract), tmp_path, "cannot run its decode plugin")


@pytest.mark.parametrize("keep", [0, 1, 1000, 0.5, 0.999])
def test_a_file_cut_short(exported, tmp_path, keep):
    whole = exported(OPTIONS["fixed"]).path.read_bytes()
    (tmp_path / "t.onnx").write_bytes(whole[: int(keep * len(whole)) if isinstance(keep, float) else keep])
    refused(tmp_path / "t.onnx", tmp_path, r"t\.onnx: It is ")


def test_other_files(tmp_path):
    refused(tmp_path / "nowhere.onnx", tmp_path, "no such file")
    refused(tmp_path, tmp_path, "folder")
    (tmp_path / "g.onnx").write_bytes(b"garbage" * 99)
    refused(tmp_path / "g.onnx", tmp_path, "not an ONNX model")


def test_another_makers_model(exported, tmp_path):
    copy = onnx.ModelProto.FromString(exported(OPTIONS["onnx"]).graph.SerializeToString())
    del copy.metadata_props[:]
    (tmp_path / "m.onnx").write_bytes(copy.SerializeToString())
    refused(tmp_path / "m.onnx", tmp_path, "made by mmdeploy")


def test_a_companion_is_no_model(exported, tmp_path):
    source = exported(OPTIONS["raw"])
    refused(source.path.with_name(source.result.artifact.companion.name), tmp_path, "not an RTMO model")


def test_another_precision(exported, tmp_path):
    refused(exported(OPTIONS["fixed"]).path, tmp_path, "no precision 'fp8'", UsageError, precision="fp8")


def test_the_source_is_never_overwritten(exported, tmp_path):
    path = tmp_path / "m.onnx"
    path.write_bytes(exported(OPTIONS["fixed"]).path.read_bytes())
    (tmp_path / "link.onnx").symlink_to(path)
    for output in (path, tmp_path / "link.onnx", tmp_path / ".." / tmp_path.name / "m.onnx"):
        with pytest.raises(UsageError, match="is the model that it is made from"):
            cast_onnx(path, output, "fp16", verify=False)
    assert path.read_bytes() == exported(OPTIONS["fixed"]).path.read_bytes()


# --- a cast that went wrong is noticed ---


def scaled(model, factor, first="/backbone/stage4/", operator="Conv"):
    """The model with the weights of the first such node larger, and the node's name."""
    copy = onnx.ModelProto.FromString(model.SerializeToString())
    weights = {tensor.name: tensor for tensor in copy.graph.initializer}
    conv = next(n for n in copy.graph.node if n.op_type == operator and n.name.startswith(first))
    old = onnx.numpy_helper.to_array(weights[conv.input[1]])
    new = onnx.numpy_helper.from_array(np.clip(old * np.float32(factor), -6e4, 6e4), conv.input[1])
    weights[conv.input[1]].CopyFrom(new)
    return copy, conv.name


def test_an_overflow_names_the_node_and_nothing_is_written(exported, tmp_path):
    model, name = scaled(exported(OPTIONS["fixed"]).graph, 1e6)
    error = refused(write(model, tmp_path / "o.onnx"), tmp_path, "leaves the range of fp16", ParityError)
    assert name.rpartition("/")[0].rpartition("/")[0] in str(error)
    assert "Nothing was written" in str(error)


def test_without_the_islands_it_is_refused(exported, tmp_path, monkeypatch):
    def only_what_must(node):
        return FP32_BLOCKS[0] if node.op_type in {"Range", "ConstantOfShape"} else None

    monkeypatch.setattr("rtmo_deploy.convert.precision.cast.fp32_block_of", only_what_must)
    # Areas of boxes, for the overlaps: more than 65504 square pixels.
    refused(exported(OPTIONS["fixed"]).path, tmp_path, "/decode/Mul leaves the range of fp16", ParityError)


def poses(keypoints, scores=None):
    keypoints = np.asarray(keypoints, np.float32)
    count = len(keypoints)
    boxes = np.tile(np.float32([10, 10, 90, 90]), (count, 1))
    scores = np.full(count, 0.9, np.float32) if scores is None else np.float32(scores)
    return Poses(boxes, scores, keypoints, np.full(keypoints.shape[:2], 0.5, np.float32), skeleton_for(17))


HW = (100, 100)


def test_detections_far_outside_are_left_out_of_the_pixels():
    points = np.full((2, 17, 2), 50, np.float32)
    points[1] = 5000  # far outside: left out of the pixels
    other = points.copy()
    other[0, 3] += (3, 4)
    d = compare_people([poses(points)], [poses(other)], input_hw=HW)
    assert (d.people_a, d.unmatched, d.wild) == (2, 0, 1)
    assert d.keypoint_px_max == 5
    assert d.keypoint_px_mean == pytest.approx(5 / 17)
    one_less = compare_people([poses(points)], [poses(other[:1])], input_hw=HW)
    assert (one_less.people_a, one_less.unmatched) == (2, 1)
    assert compare_people([poses(points[:0])], [poses(points[:0])], input_hw=HW).keypoint_px_max is None


def test_the_worst_of_several():
    points = np.full((1, 17, 2), 50, np.float32)
    near, far = (compare_people([poses(points)], [poses(points + by)], input_hw=HW) for by in (3, 4))
    nobody = compare_people([poses(points)], [poses(points[:0])], input_hw=HW)
    worst = Figures.largest([near, far, nobody])
    assert (worst.keypoint_px_max, worst.people_a, worst.unmatched) == (far.keypoint_px_max, 1, 1)


def test_a_score_that_is_not_a_number_never_passes():
    points = np.full((1, 17, 2), 50, np.float32)
    broken = poses(points, [0.9])
    object.__setattr__(broken, "keypoint_scores", np.full((1, 17), np.nan, np.float32))
    d = compare_people([poses(points, [0.9])], [broken], input_hw=HW)
    assert d.keypoint_score_max == np.inf
    assert d.to_dict()["keypoint_score_max"] is None
    exact = compare_people([poses(points)], [poses(points)], input_hw=HW)
    case = Case(1, *HW, d, rounding=exact, run=EMULATED)
    words = "the worst keypoint score is off by inf, bound 0.003 (input 1x3x100x100, emulated)"
    mean = "keypoint scores are off on average by inf, bound 1 (input 1x3x100x100, emulated)"
    assert case.failures(CASTS["fp16"]) == [words, mean]
    # Infinitely far is too far even where the weights alone are.
    assert replace(case, rounding=d).failures(CASTS["fp16"]) == [
        words.replace("0.003", "inf"),
        mean.replace("bound 1", "bound inf"),
    ]


def test_a_flipped_keypoint_score_is_rounding_around_eight_bits_and_many_are_not():
    points = np.full((1, 17, 2), 50, np.float32)

    def from_half(*scores):  # the keypoints' scores in the reference are 0.5
        other = poses(points)
        object.__setattr__(other, "keypoint_scores", np.array([scores], np.float32))
        return compare_people([poses(points)], [other], input_hw=HW)

    exact, flipped, shifted = from_half(*[0.5] * 17), from_half(1.2, *[0.5] * 16), from_half(*[0.8] * 17)

    def failures(found):
        case = Case(1, *HW, found, rounding=exact)
        return [text.split(",")[0] for text in case.failures(CASTS["int8+fp16"])]

    assert failures(flipped) == []
    assert failures(shifted) == ["keypoint scores are off on average by 0.3"]


def test_an_ill_conditioned_network_may_be_further_off():
    points = np.full((1, 17, 2), 50, np.float32)
    off = [compare_people([poses(points)], [poses(points + by)], input_hw=HW) for by in (0, 3, 10, 14)]
    bounds = Bounds(keypoint_mean_px=0.1, keypoint_max_px=1)

    def failures(weights, half):
        return Case(1, *HW, off[half], rounding=off[weights]).failures(bounds)

    assert failures(0, 1) == [
        "keypoints are off on average by 4.24 px, bound 0.1 px (input 1x3x100x100)",
        "the worst keypoint is off by 4.24 px, bound 1 px (input 1x3x100x100)",
    ]
    assert failures(1, 2) == []
    assert len(failures(1, 3)) == 2
