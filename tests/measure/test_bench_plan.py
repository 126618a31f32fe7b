"""From the files that were named to the contenders, and how the reference is found."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import onnx
import pytest
import torch

from rtmo_deploy.artifact import Artifact, DecodeContract, DecodeMode, InputContract, Parent
from rtmo_deploy.errors import ArtifactError, ModelError, UsageError
from rtmo_deploy.file_kind import Kind
from rtmo_deploy.files import sha256_of
from rtmo_deploy.measure.bench import BenchOptions
from rtmo_deploy.measure.bench.plan import plan_contenders
from rtmo_deploy.zoo import COCO_17


def write_onnx(path, *parents, **changes):
    """A file that says what it is, and does nothing."""
    contract = changes.get("input", InputContract(64, 96))
    batch = contract.batch or "batch"
    sides = ["height", "width"] if contract.dynamic_hw else [64, 96]
    outputs = {"dets": [batch, "people", 5], "keypoints": [batch, "people", 17, 3]}
    value, *others = (
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)
        for name, shape in {"input": [batch, 3, *sides], **outputs}.items()
    )
    nodes = [onnx.helper.make_node("Identity", ["input"], [name]) for name in outputs]
    graph = onnx.helper.make_graph(nodes, "g", [value], others)
    model = onnx.helper.make_model(graph)
    artifact = Artifact(
        path,
        Kind.ONNX,
        "rtmo-n",
        COCO_17,
        InputContract(64, 96),
        DecodeContract(DecodeMode.ONNX, 0.2, 0.5),
        parents=tuple(Parent(parent.name, sha256_of(parent)) for parent in parents),
    )
    onnx.helper.set_model_props(model, replace(artifact, **changes).to_metadata())
    onnx.save(model, path)
    return path


@pytest.fixture
def checkpoint(tmp_path):
    path = tmp_path / "n.pth"
    torch.save({"weights": 1}, path)
    return path


def plan_of(*models, **options):
    return plan_contenders(BenchOptions(models=models, **options))


def labels(plan):
    return [contender.label for contender in plan[0]]


def test_the_reference_is_found_beside_the_model_and_does_the_same_work(tmp_path, checkpoint):
    model = write_onnx(tmp_path / "n.onnx", checkpoint)
    plan = plan_of(model)
    assert labels(plan) == ["PyTorch (n.pth)", "n.onnx (onnxruntime)"]
    (first, second), batches, notes = plan
    assert (first.reference, second.reference) == (True, False)
    assert (first.thresholds, first.placement, first.input_hw) == ((0.2, 0.5), "center", (64, 96))
    assert (second.thresholds, second.placement, second.input_hw) == (None, None, (64, 96))
    assert (batches, notes) == ((1,), [])


def test_it_is_found_through_generations(tmp_path, checkpoint):
    plain = write_onnx(tmp_path / "n.onnx", checkpoint)
    half = write_onnx(tmp_path / "n-fp16.onnx", plain, precision="fp16")
    assert labels(plan_of(write_onnx(tmp_path / "n-both.onnx", half))) == [
        "PyTorch (n.pth)",
        "n-both.onnx (onnxruntime)",
    ]


def test_another_file_of_that_name_is_not_it(tmp_path, checkpoint):
    model = write_onnx(tmp_path / "n.onnx", checkpoint)
    torch.save({"weights": 2}, checkpoint)
    plan = plan_of(model)
    assert labels(plan) == ["n.onnx (onnxruntime)"]
    contenders, _, notes = plan
    assert "--reference FILE" in notes[0]
    assert not contenders[0].reference
    assert labels(plan_of(model, reference=checkpoint))[0] == "PyTorch (n.pth)"
    assert plan_of(model, no_reference=True)[2] == []


def test_a_circle_of_parents_ends(tmp_path):
    model = tmp_path / "a.onnx"
    write_onnx(model)
    other = write_onnx(tmp_path / "b.onnx", model)
    assert labels(plan_of(other)) == ["b.onnx (onnxruntime)"]


def test_checkpoints_that_are_named_are_the_reference(tmp_path, checkpoint):
    model = write_onnx(tmp_path / "n.onnx")
    plan = plan_of(model, checkpoint, compiled=True)
    assert labels(plan) == ["PyTorch (n.pth)", "PyTorch compiled (n.pth)", "n.onnx (onnxruntime)"]
    assert [one.compiled for one in plan[0]] == [False, True, False]
    assert labels(plan_of(checkpoint)) == ["PyTorch (n.pth)"]


def test_without_a_reference_the_first_model_is_it(tmp_path, checkpoint):
    models = [write_onnx(tmp_path / name, checkpoint) for name in ("a.onnx", "b.onnx")]
    plan = plan_of(*models, no_reference=True)
    assert [(one.label, one.reference) for one in plan[0]] == [
        ("a.onnx (onnxruntime)", True),
        ("b.onnx (onnxruntime)", False),
    ]


def test_same_names_are_told_apart(tmp_path):
    paths = [tmp_path / folder / "m.onnx" for folder in ("a", "b")]
    for path in paths:
        path.parent.mkdir()
        write_onnx(path)
    assert labels(plan_of(*paths)) == ["m.onnx (onnxruntime)", "m.onnx (onnxruntime) #2"]


def test_a_fixed_batch_is_the_default(tmp_path):
    contract = InputContract(64, 96, batch=4, dynamic_hw=False)
    assert plan_of(write_onnx(tmp_path / "m.onnx", input=contract))[1] == (4,)
    assert plan_of(write_onnx(tmp_path / "m.onnx", input=contract), batches=(1, 2))[1] == (1, 2)


def test_a_runtime_that_runs_none_of_them(tmp_path):
    with pytest.raises(UsageError, match="No model here runs with 'magic'"):
        plan_of(write_onnx(tmp_path / "m.onnx"), backends=("onnxruntime", "magic"))


def test_what_is_not_there(tmp_path):
    with pytest.raises(ArtifactError, match="no such file"):
        plan_of(tmp_path / "m.onnx")
    with pytest.raises(ModelError, match="no such file"):
        plan_of(tmp_path / "m.pth")
    with pytest.raises(ModelError, match="no such file"):
        plan_of(write_onnx(tmp_path / "n.onnx"), reference=tmp_path / "nowhere.pth")
    with pytest.raises(UsageError, match="is no checkpoint"):
        plan_of(write_onnx(tmp_path / "n.onnx"), reference=Path("n.onnx"))


def test_a_device_that_has_no_name(tmp_path):
    with pytest.raises(UsageError, match="no device 'tpu'"):
        plan_of(write_onnx(tmp_path / "n.onnx"), device="tpu")
