"""What is asked of an engine where it can run: its reference's people, and the same ones in every row."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from toy_networks import write_toy

from rtmo_deploy.artifact import Artifact, DecodeContract, DecodeMode, InputContract, Parent
from rtmo_deploy.convert.trt import BuildOptions, build_engine, proof
from rtmo_deploy.convert.trt.proof import prove_engine
from rtmo_deploy.errors import ParityError
from rtmo_deploy.file_kind import Kind
from rtmo_deploy.files import sha256_of
from rtmo_deploy.measure.agreement import ImageSource, Side
from rtmo_deploy.runtime.engine_file import read_record
from rtmo_deploy.runtime.model_files import find_checkpoint
from rtmo_deploy.runtime.trt_api import installed_backends
from rtmo_deploy.zoo import COCO_17, EMBEDDED

SIDE = 128


def people(images, **changes):
    """Two made-up people in every row; the second's place depends on the image."""
    rows = len(images)
    dets = np.zeros((rows, 3, 5), np.float32)
    keypoints = np.zeros((rows, 3, 17, 3), np.float32)
    for row, image in enumerate(images):
        for person, corner in enumerate((10.0, 40.0 + float(image.mean()) / 8)):
            dets[row, person] = (corner, corner, corner + 30, corner + 60, 0.9 - 0.2 * person)
            keypoints[row, person, :, :2] = corner + np.linspace(0, 30, 17)[:, None] * (1.0, 2.0)
            keypoints[row, person, :, 2] = 0.8
    return {"dets": dets, "keypoints": keypoints}


class Made:
    """A backend that makes people up, with a fault of choice."""

    name = "made"
    device = "cpu"

    def __init__(self, fault=lambda outputs: outputs):
        self.fault = fault

    def __call__(self, images):
        return self.fault(people(images))


def side(name, kind, backend, *, batch=None, precision="fp32"):
    artifact = Artifact(
        path=Path(name),
        kind=kind,
        architecture="toy",
        skeleton=COCO_17,
        input=InputContract(SIDE, SIDE, batch=batch),
        decode=DecodeContract(mode=DecodeMode.FIXED, max_dets=3),
        precision=precision,
    )
    return Side(artifact, backend, None, name)


@pytest.fixture
def opened(monkeypatch):
    """Opens made-up sides instead of files; the engine with the fault that is set."""
    faults = {"engine": lambda outputs: outputs, "batch": 4, "precision": "fp32"}

    def open_side(model, *, device="cpu"):
        if model.endswith(".engine"):
            assert device == "cuda:0"
            engine = Made(faults["engine"])
            return side(model, Kind.ENGINE, engine, batch=faults["batch"], precision=faults["precision"])
        assert device == "cpu"
        return side(model, Kind.CHECKPOINT, Made())

    monkeypatch.setattr(proof.Side, "open", open_side)
    return faults


def prove():
    return prove_engine(Path("a.engine"), Path("a.pth"), images=ImageSource.synthetic(3))


def test_an_engine_that_does_the_same_passes(opened):
    found = prove()
    assert found.failures() == []
    assert (found.counts, found.row_px, found.row_score) == ((2, 2, 2, 2), 0.0, 0.0)
    assert found.agreement.people.matched == 6
    assert found.sentence() == "a.pth: 6 people on 3 images, keypoints within 0 px, scores within 0; 4 equal rows"
    assert found.to_dict()["people"]["matched"] == 6


def _moved(outputs):
    outputs["keypoints"][..., 0] += 3.0
    return outputs


def _third_row(outputs):
    if len(outputs["dets"]) > 2:
        outputs["keypoints"][2, 0, 5, 1] += 0.5
    return outputs


def _empty_row(outputs):
    outputs["dets"][1:] = 0
    outputs["keypoints"][1:] = 0
    return outputs


def _nan(outputs):
    outputs["keypoints"][0, 0, 0, 0] = np.nan
    return outputs


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (_moved, r"against a\.pth, .*px"),
        (_empty_row, "people missed"),
        (_nan, "not finite"),
    ],
)
def test_an_engine_that_does_something_else_fails(opened, fault, message):
    opened["engine"] = fault
    with pytest.raises(ParityError, match=message) as caught:
        prove()
    assert caught.value.exit_code == 6
    assert "--no-verify" in str(caught.value.remedy)


def test_rows_that_differ_fail_even_within_the_bounds_of_the_precision(opened):
    opened.update(engine=_third_row, precision="fp16")
    with pytest.raises(ParityError, match=r"the same image in every row gives people up to 0\.5 px"):
        prove()
    opened["batch"] = 1  # one row: nothing to compare, and half a pixel is within what fp16 may do
    assert prove().counts == (2,)


def test_rows_with_other_numbers_of_people_are_counted(opened):
    opened.update(engine=lambda outputs: _empty_row(outputs) if len(outputs["dets"]) > 4 else outputs, batch=5)
    with pytest.raises(ParityError, match="the same image in every row gives 2, 0, 0, 0, 0 people"):
        prove()


def test_the_reference_is_the_checkpoint_that_lies_beside(tmp_path):
    checkpoint, model = tmp_path / "a.pth", tmp_path / "a.onnx"
    torch.save({"weights": 1}, checkpoint)
    artifact = side(str(model), Kind.ONNX, Made()).artifact
    artifact = replace(artifact, parents=(Parent("a.pth", sha256_of(checkpoint)),))
    assert find_checkpoint(artifact) == checkpoint
    torch.save({"weights": 2}, checkpoint)
    assert find_checkpoint(artifact) is None
    checkpoint.unlink()
    assert find_checkpoint(artifact) is None


def test_the_embedded_checkpoint_is_found(tmp_path):
    embedded = EMBEDDED["rtmo-n"].path
    artifact = side(str(tmp_path / "a.onnx"), Kind.ONNX, Made()).artifact
    artifact = replace(artifact, parents=(Parent(embedded.name, sha256_of(embedded)),))
    assert find_checkpoint(artifact) == embedded
    artifact = replace(artifact, parents=(Parent(embedded.name, "0" * 64),))
    assert find_checkpoint(artifact) is None


rtx = pytest.mark.skipif("tensorrt-rtx" not in installed_backends(), reason="needs tensorrt_rtx")
RTX = BuildOptions(backend="tensorrt-rtx")
#: What a build's child says of the GPU that it found.
GPU = {"index": 0, "name": "NVIDIA Made-up", "compute_capability": "8.9", "cuda_driver": "12.8"}


def _names(folder):
    return sorted(path.name for path in folder.iterdir())


@rtx
def test_an_engine_is_proven_before_it_is_put_where_it_was_asked_for(tmp_path, monkeypatch, opened, recorded_build):
    source, seen = write_toy(tmp_path / "toy.onnx"), []

    def prove_it(engine, reference, *, device, progress):
        seen.append((engine.name, reference, device, _names(tmp_path), read_record(engine).sha256 == sha256_of(engine)))
        return prove()

    monkeypatch.setattr(proof, "prove_engine", prove_it)
    result = build_engine(source, tmp_path / "a.engine", RTX, reference=tmp_path / "a.pth", command=recorded_build(GPU))
    ((name, reference, device, beside, whole),) = seen
    assert (name, reference, device, whole) == ("a.engine", tmp_path / "a.pth", "cuda:0", True)
    assert "a.engine" not in beside
    assert _names(tmp_path) == ["a.engine", "a.engine.json", "toy.onnx"]
    assert result.record == read_record(tmp_path / "a.engine")
    assert result.record.artifact.verified["parity"]["people"]["matched"] == 6
    assert result.record.gpu == "NVIDIA Made-up"
    assert result.proof is not None
    assert not any("not compared" in note for note in result.record.notes)


@rtx
def test_an_engine_that_fails_is_not_written(tmp_path, opened, recorded_build):
    source, old = write_toy(tmp_path / "toy.onnx"), tmp_path / "a.engine"
    old.write_bytes(b"the old engine")
    opened["engine"] = _moved
    with pytest.raises(ParityError):
        build_engine(source, old, RTX, reference=tmp_path / "a.pth", command=recorded_build(GPU))
    assert _names(tmp_path) == ["a.engine", "toy.onnx"]
    assert old.read_bytes() == b"the old engine"


@rtx
@pytest.mark.parametrize(
    ("gpu", "targets", "asked", "why"),
    [
        (None, (), True, "there is no GPU here to run it"),
        (GPU, ("12.0",), True, "it is built for other GPUs than the NVIDIA Made-up that is here"),
        (GPU, (), False, "nobody asked for it"),
    ],
)
def test_an_engine_that_was_not_run_says_so(tmp_path, recorded_build, gpu, targets, asked, why):
    source, options = write_toy(tmp_path / "toy.onnx"), replace(RTX, targets=targets)
    reference = tmp_path / "a.pth" if asked else None
    result = build_engine(source, None, options, reference=reference, command=recorded_build(gpu))
    assert result.proof is None
    assert f"The people it finds were not compared: {why}." in result.record.notes
    assert "parity" not in (result.record.artifact.verified or {})


def _has_gpu():
    from rtmo_deploy.runtime.cuda import find_gpu

    return not isinstance(find_gpu(), str)


@pytest.mark.gpu
@pytest.mark.skipif(not _has_gpu(), reason="needs a CUDA GPU")
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_on_a_gpu_the_sample_model_is_proven(tmp_path, precision):
    from rtmo_deploy.convert.trt.chain import make_onnx
    from rtmo_deploy.convert.trt.plan import plan_chain
    from rtmo_deploy.runtime.estimator import locate_model, read_artifact

    checkpoint, options = locate_model("rtmo-n"), BuildOptions(precision=precision)
    plan = plan_chain(checkpoint, read_artifact(checkpoint), tmp_path / "n.engine", options)
    model, _ = make_onnx(plan, tmp_path, progress=print)
    result = build_engine(model, plan.output, options, reference=checkpoint)
    assert result.proof is not None
    assert result.proof.agreement.people.matched > 10
    assert len(result.proof.counts) == 8
