"""What an ONNX file says of itself, and files that say nothing or nonsense."""

from __future__ import annotations

import lzma

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from rtmo_deploy.artifact import DecodeMode
from rtmo_deploy.errors import ArtifactError
from rtmo_deploy.file_kind import Kind
from rtmo_deploy.runtime import PoseEstimator, read_artifact
from rtmo_deploy.runtime.contract import TensorSpec
from rtmo_deploy.runtime.onnx_file import load_onnx, onnx_artifact, signature


def graph(inputs, outputs, nodes=None, initializers=()):
    """A model with this signature; what it computes does not matter unless ``nodes`` say."""
    nodes = nodes or [helper.make_node("Identity", [inputs[0][0]], [outputs[0][0]])]
    infos = [
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in specs]
        for specs in (inputs, outputs)
    ]
    made = helper.make_graph(nodes, "g", *infos, initializer=list(initializers))
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)])


def mmdeploy_like(joints=17, columns="Reshapedets_dim_2", sides=(640, 640), thresholds=None):
    nodes, initializers = None, []
    if thresholds is not None:
        nodes = [helper.make_node("NonMaxSuppression", ["b", "s", "most", "iou", "score"], ["kept"])]
        (iou, in_graph), (score, as_node) = thresholds
        assert in_graph == "initializer"
        assert as_node == "node"
        initializers = [onnx.numpy_helper.from_array(np.array([iou], np.float32), "iou")]
        value = onnx.numpy_helper.from_array(np.array([score], np.float32))
        nodes.insert(0, helper.make_node("Constant", [], ["score"], value=value))
    return graph(
        [("input", ["batch", 3, *sides])],
        [("dets", ["batch", "n", columns]), ("keypoints", ["batch", "m", joints, 3])],
        nodes,
        initializers,
    )


class TestDamaged:
    @pytest.mark.parametrize(
        ("content", "finding"),
        [(b"", "It is an empty file"), (b"hello" * 50, "It is a text file"), (b"\x00" * 1000, "not an ONNX model")],
    )
    def test_no_onnx(self, tmp_path, content, finding):
        path = tmp_path / "x.onnx"
        path.write_bytes(content)
        with pytest.raises(ArtifactError, match=finding) as caught:
            read_artifact(path)
        assert caught.value.where == str(path)
        assert caught.value.exit_code == 4

    @pytest.mark.parametrize("share", [0.01, 0.5, 0.999])
    def test_cut_short(self, tmp_path, onnx_n, share):
        content = onnx_n.read_bytes()
        path = tmp_path / "x.onnx"
        path.write_bytes(content[: int(len(content) * share)])
        with pytest.raises(ArtifactError, match="cut short"):
            read_artifact(path)

    def test_missing_folder_and_foreign_suffix(self, tmp_path):
        with pytest.raises(ArtifactError, match="There is no such file"):
            read_artifact(tmp_path / "x.onnx")
        (tmp_path / "x.onnx").mkdir()
        with pytest.raises(ArtifactError, match="It is a folder"):
            read_artifact(tmp_path / "x.onnx")
        (tmp_path / "x.tflite").write_bytes(b"\x1c\0\0\0TFL3")
        with pytest.raises(ArtifactError, match="It is in no format that is known here, not a checkpoint"):
            read_artifact(tmp_path / "x.tflite")

    def test_weights_in_another_file(self, tmp_path, onnx_n, pictures):
        onnx.save(onnx.load(onnx_n), tmp_path / "x.onnx", save_as_external_data=True, location="x.bin")
        found = PoseEstimator.open(tmp_path / "x.onnx")(pictures[0])
        assert np.array_equal(found.scores, PoseEstimator.open(onnx_n)(pictures[0]).scores)
        whole = (tmp_path / "x.bin").read_bytes()
        for broken in (whole[:1000], None):
            (tmp_path / "x.bin").unlink()
            if broken:
                (tmp_path / "x.bin").write_bytes(broken)
            with pytest.raises(ArtifactError, match="kept in another file, which cannot be read"):
                read_artifact(tmp_path / "x.onnx")

    @pytest.mark.parametrize(
        ("key", "value"),
        [
            ("schema_version", "2"),
            ("schema_version", "one"),
            ("kind", '"pancake"'),
            ("skeleton", '{"name": "x", "keypoints": ["a"], "edges": [[0, 5]]}'),
            ("skeleton", '{"name": "x", "keypoints": ["a"], "sigmas": [NaN]}'),
            ("input", '{"height": "tall", "width": 5}'),
            ("input", '{"height": 640, "width": 640, "placement": "somewhere"}'),
            ("input", "[640, 640]"),
            ("decode", '{"mode": "magic"}'),
            ("decode", '{"mode": "onnx", "score_thr": NaN}'),
            ("decode", '{"mode": "onnx", "max_dets": -1}'),
            ("companion", '{"name": "../../secret", "sha256": ""}'),
            ("parents", "5"),
            ("versions", "[1]"),
        ],
    )
    def test_metadata(self, tmp_path, onnx_n, key, value):
        model = load_onnx(onnx_n)
        metadata = {entry.key: entry.value for entry in model.metadata_props} | {f"rtmo_deploy.{key}": value}
        onnx.helper.set_model_props(model, metadata)
        with pytest.raises(ArtifactError, match=r"metadata is damaged|has schema version 2; .* Upgrade"):
            onnx_artifact(tmp_path / "x.onnx", model)

    def test_a_piece_of_metadata_is_missing(self, tmp_path, onnx_n):
        model = load_onnx(onnx_n)
        metadata = {entry.key: entry.value for entry in model.metadata_props}
        # Files of earlier releases do not have the last three.
        optional = {f"rtmo_deploy.{field}" for field in ("schema_version", "domain", "untrained", "target")}
        for key in [key for key in metadata if key.startswith("rtmo_deploy.") and key not in optional]:
            onnx.helper.set_model_props(model, {k: v for k, v in metadata.items() if k != key})
            with pytest.raises(ArtifactError, match="metadata is damaged"):
                onnx_artifact(tmp_path / "x.onnx", model)


class TestForeign:
    @pytest.mark.parametrize(
        "model",
        [
            graph([("x", [1, 3, 224, 224])], [("y", [1, 1000])]),
            graph([("input", [1, 3, 640, 640])], [("dets", [1, 100, 5]), ("labels", [1, 100])]),
            graph([("input", [1, 3, 640, 640])], [("dets", [1, 100, 6]), ("keypoints", [1, 100, 17, 3])]),
            graph([("input", [1, 3, 640, 640])], [("dets", [1, 5]), ("keypoints", [1, 100, 17, 3])]),
            graph([("a", [1]), ("b", [1])], [("dets", [1, 100, 5]), ("keypoints", [1, 100, 17, 3])]),
        ],
    )
    def test_another_model_is_refused_with_its_signature(self, tmp_path, model):
        with pytest.raises(ArtifactError, match=r"It is not an RTMO model: its inputs are .* float32") as caught:
            onnx_artifact(tmp_path / "x.onnx", model)
        assert "dets" in str(caught.value) or "y float32 [1, 1000]" in str(caught.value)

    def test_a_signature(self, onnx_n):
        model = load_onnx(onnx_n)
        shape = signature(model)
        assert shape.inputs == (TensorSpec("input", "float32", ("batch", 3, "height", "width")),)
        assert [str(spec) for spec in shape.outputs] == [
            "dets float32 [batch, people, 5]",
            "keypoints float32 [batch, people, 17, 3]",
        ]
        # Old exporters list the weights among the inputs.
        model.graph.input.append(helper.make_tensor_value_info(model.graph.initializer[0].name, TensorProto.FLOAT, [1]))
        assert signature(model) == shape


class TestMMDeploy:
    @pytest.mark.parametrize("columns", [5, "Reshapedets_dim_2", None])
    def test_is_known_by_its_shape(self, tmp_path, columns):
        artifact = onnx_artifact(tmp_path / "x.onnx", mmdeploy_like(columns=columns))
        assert (artifact.producer, artifact.kind, artifact.decode.mode) == ("mmdeploy", Kind.ONNX, DecodeMode.ONNX)
        assert artifact.decode.junk_rows
        assert artifact.skeleton.label == "coco-17 (guessed from their number)"
        assert (artifact.input.height, artifact.input.width) == (640, 640)
        assert (artifact.input.batch, artifact.input.dynamic_hw) == (None, False)

    def test_keypoints_and_sizes(self, tmp_path):
        artifact = onnx_artifact(tmp_path / "x.onnx", mmdeploy_like(joints=14, sides=(384, 640)))
        assert artifact.skeleton.name == "generic-14"  # CrowdPose has 14, and AI Challenger has
        assert (artifact.input.height, artifact.input.width) == (384, 640)
        artifact = onnx_artifact(tmp_path / "x.onnx", mmdeploy_like(joints=5, sides=("h", "w")))
        assert artifact.skeleton.name == "generic-5"
        assert artifact.input.dynamic_hw

    def test_its_thresholds_are_read_from_the_graph(self, tmp_path):
        model = mmdeploy_like(thresholds=((0.5, "initializer"), (0.3, "node")))
        decode = onnx_artifact(tmp_path / "x.onnx", model).decode
        assert (decode.nms_thr, decode.score_thr) == (0.5, 0.3)
        decode = onnx_artifact(tmp_path / "x.onnx", mmdeploy_like()).decode
        assert (decode.nms_thr, decode.score_thr) == (0.65, 0.1)

    def test_a_real_one_finds_the_people_of_its_checkpoint(self, shared, tmp_path):
        from rtmo_deploy.measure import compare_people

        for packed, name in (("mmdeploy-rtmo-t.onnx", "peer.onnx"), ("rtmo-t-same-weights.pth", "same.pth")):
            (tmp_path / name).write_bytes(lzma.decompress((shared / "peers" / f"{packed}.xz").read_bytes()))
        peer, own = PoseEstimator.open(tmp_path / "peer.onnx"), PoseEstimator.open(tmp_path / "same.pth")
        assert peer.artifact.producer == "mmdeploy"
        assert peer.input_hw == own.input_hw == (416, 416)
        photographs = sorted((shared / "data" / "coco").glob("*.jpg"))[1:3]
        expected = [own(photograph)[:50] for photograph in photographs]  # MMDeploy's files keep 50 rows
        for found in (peer.predict(photographs), [peer(photograph) for photograph in photographs]):
            errors = compare_people(expected, found)
            assert (errors.missed, errors.extra, errors.in_order) == (0, 0, True)
            assert errors.matched > 40
            assert errors.keypoint_px_max < 0.05
            assert max(errors.score_max, errors.keypoint_score_max) < 1e-4
