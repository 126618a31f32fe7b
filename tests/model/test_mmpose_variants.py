"""Checkpoints whose config differs from the published ones, against detections of MMPose 1.3.2 (see ``make.py``)."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from rtmo_deploy.errors import CheckpointError
from rtmo_deploy.model import RTMO, NetworkSpec, load_checkpoint, save_checkpoint
from rtmo_deploy.model.spec import Settings
from rtmo_deploy.runtime.estimator import read_artifact

if TYPE_CHECKING:
    from numpy.typing import NDArray

FOLDER = Path(__file__).parent / "mmpose_variants"
_spec = importlib.util.spec_from_file_location("mmpose_variants_make", FOLDER / "make.py")
assert _spec is not None
assert _spec.loader is not None
make = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(make)

CONFIGS = json.loads((FOLDER / "configs.json").read_text())
SHAPES: dict[str, dict[str, Any]] = {
    "deepen": {"deepen": 0.5},
    "widen": {"widen": 0.33},
    "ffn_width": {"ffn_dim": 96},
    "bins": {"num_bins": (96, 128)},
    "temperature": {"settings": Settings(spe_temperature=150, pe_temperature=500)},
}


@pytest.fixture(scope="module")
def detections() -> dict[str, Any]:
    with np.load(FOLDER / "detections.npz") as file:
        return dict(file)


def written(name: str, path: Path, config: str | None = None) -> Path:
    """The variant as MMEngine would save it."""
    numbers = {"deepen": 0.33, "widen": 0.125, "num_keypoints": 17, "hidden_dim": 64, **SHAPES.get(name, {})}
    state = RTMO(NetworkSpec(**numbers)).state_dict()
    values = make.weights({key: tuple(value.shape) for key, value in state.items()})
    state.update({key: torch.from_numpy(np.asarray(value)) for key, value in values.items()})
    text = CONFIGS[name] if config is None else config
    torch.save({"state_dict": state, "meta": {"cfg": text}}, path)
    return path


def compare(found: Any, expected: dict[str, Any], name: str, *, pixels: float = 0.02) -> None:
    """Scores of all, boxes and keypoints of the ten best."""
    scores = expected[f"{name}.scores"]
    assert len(found.scores) == len(scores)
    np.testing.assert_allclose(np.asarray(found.scores), scores, atol=1e-4)
    np.testing.assert_allclose(
        np.asarray(found.boxes)[:10], expected[f"{name}.boxes"].clip(0, [160, 128] * 2), atol=pixels
    )
    np.testing.assert_allclose(np.asarray(found.keypoints)[:10], expected[f"{name}.keypoints"], atol=pixels)
    np.testing.assert_allclose(np.asarray(found.keypoint_scores)[:10], expected[f"{name}.keypoint_scores"], atol=1e-4)


@pytest.mark.parametrize("name", sorted(CONFIGS))
def test_detections_are_those_of_mmpose(name: str, detections: dict[str, Any], tmp_path: Path) -> None:
    loaded = load_checkpoint(written(name, tmp_path / "v.pth"))
    assert loaded.input_hw == (128, 160)
    assert loaded.taken.notes == ()
    taken = loaded.taken
    with torch.no_grad():
        found = loaded.model.predict(
            torch.from_numpy(make.images()), score_thr=taken.score_thr, nms_thr=taken.nms_thr, pre_topk=taken.pre_topk
        )[0]
    compare(found, detections, name)


def test_without_its_config_a_variant_finds_others(detections: dict[str, Any], tmp_path: Path) -> None:
    loaded = load_checkpoint(written("relu", tmp_path / "v.pth"), ignore_cfg=True)
    assert loaded.spec.settings == Settings()
    with torch.no_grad():
        found = loaded.model.predict(torch.from_numpy(make.images()))[0]
    assert len(found.scores) != len(detections["relu.scores"])


@pytest.mark.parametrize(
    "name",
    [
        "leaky",
        "normalised",
        "thresholds",
        "bins",
        "eps",
        "heads",
        "temperature",
        # These change sizes alone, or are as one of those above.
        *(pytest.param(name, marks=pytest.mark.long) for name in ("relu", "padding", "widen", "deepen", "ffn_width")),
    ],
)
def test_an_export_keeps_it(name: str, detections: dict[str, Any], tmp_path: Path) -> None:
    from rtmo_deploy.convert import export_onnx
    from rtmo_deploy.runtime.backends import open_backend
    from rtmo_deploy.runtime.decode import outputs_to_poses

    result = export_onnx(load_checkpoint(written(name, tmp_path / "v.pth")), tmp_path / "v.onnx", verify=False)
    artifact = read_artifact(result.artifact.path)
    assert (artifact.input.height, artifact.input.width) == (128, 160)
    if name == "thresholds":
        assert (artifact.decode.score_thr, artifact.decode.nms_thr, artifact.decode.pre_topk) == (0.3, 0.3, 20)
    found = outputs_to_poses(open_backend(artifact)(make.images()), (128, 160), artifact)[0]
    compare(found, detections, name, pixels=0.1)


class Scenes:
    """What calibrates."""

    name = "scenes"
    names = ("scene-0", "scene-1")

    def read(self, index: int) -> NDArray[np.uint8]:
        return np.ascontiguousarray(make.images()[0].transpose(1, 2, 0)[:: 1 - 2 * index], np.uint8)

    def identity(self) -> dict[str, Any]:
        return {"name": self.name}


def test_fp16_and_int8_keep_input_normalisation_thresholds_and_skeleton(
    detections: dict[str, Any], tmp_path: Path
) -> None:
    from rtmo_deploy.convert import ExportOptions, export_onnx
    from rtmo_deploy.convert.precision import cast_onnx
    from rtmo_deploy.convert.quantize import calibrate, open_source, quantize_onnx
    from rtmo_deploy.runtime.backends import open_backend
    from rtmo_deploy.runtime.decode import outputs_to_poses

    text = CONFIGS["normalised"].replace("nms_thr=0.65", "nms_thr=0.6, nms_pre=250")
    loaded = load_checkpoint(written("normalised", tmp_path / "v.pth", text))
    options = ExportOptions(decode="fixed")
    source = export_onnx(loaded, tmp_path / "v.onnx", options, verify=False).artifact
    assert (source.decode.nms_thr, source.decode.pre_topk) == (0.6, 250)
    cast_onnx(source.path, tmp_path / "half.onnx", "fp16", verify=False)  # made-up weights amplify any rounding
    model = open_source(source.path)
    quantize_onnx(model, calibrate(model, Scenes(), threads=1), tmp_path / "int8.onnx")
    expected = detections["normalised.scores"]
    for name, atol in (("half", 2e-3), ("int8", 0.1)):
        made = read_artifact(tmp_path / f"{name}.onnx")
        assert (made.decode, made.skeleton, made.input) == (source.decode, source.skeleton, source.input)
        found = outputs_to_poses(open_backend(made)(make.images()), (128, 160), made)[0]
        np.testing.assert_allclose(found.scores[:5], expected[:5], atol=atol)


@pytest.mark.parametrize("mode", ["fixed", "raw"])
def test_other_decoders_keep_thresholds_and_candidates(mode: str, detections: dict[str, Any], tmp_path: Path) -> None:
    from rtmo_deploy.convert import ExportOptions, export_onnx
    from rtmo_deploy.runtime.backends import open_backend
    from rtmo_deploy.runtime.decode import open_coordinates, outputs_to_poses

    loaded = load_checkpoint(written("thresholds", tmp_path / "v.pth"))
    artifact = export_onnx(loaded, tmp_path / "v.onnx", ExportOptions(decode=mode), verify=False).artifact
    assert (artifact.decode.score_thr, artifact.decode.nms_thr, artifact.decode.pre_topk) == (0.3, 0.3, 20)
    companion = artifact.companion and open_coordinates((tmp_path / artifact.companion.name).read_bytes())
    outputs = open_backend(artifact)(make.images())
    compare(outputs_to_poses(outputs, (128, 160), artifact, companion)[0], detections, "thresholds", pixels=0.1)
    asked = ExportOptions(decode="fixed", pre_topk=300)
    assert asked.contract(score_thr=0.1, nms_thr=0.6, pre_topk=20).pre_topk == 300


def test_a_config_of_another_model_is_noticed(tmp_path: Path) -> None:
    text = CONFIGS["published"].replace("num_keypoints=17", "num_keypoints=14")
    notes = load_checkpoint(written("published", tmp_path / "v.pth", text)).taken.notes
    assert notes == ("the config's num_keypoints is 14, and the tensors have 17: is it another model's?",)


@pytest.mark.parametrize("name", ["normalised", "leaky", "eps", "heads", "padding", "thresholds"])
def test_a_checkpoint_written_again_keeps_it(name: str, tmp_path: Path) -> None:
    first = load_checkpoint(written(name, tmp_path / "v.pth"))
    save_checkpoint(
        tmp_path / "w.pth",
        first.model,
        skeleton=first.skeleton,
        input_hw=first.input_hw,
        thresholds=first.taken.thresholds(),
    )
    again = load_checkpoint(tmp_path / "w.pth")
    assert again.spec == first.spec
    assert again.input_hw == first.input_hw
    assert again.taken.thresholds() == first.taken.thresholds()


@pytest.mark.parametrize(
    ("old", "new", "field"),
    [
        ("act_cfg=dict(type='Swish')", "act_cfg=dict(type='PReLU')", "model.backbone.act_cfg.type"),
        ("type='BN', momentum", "type='GN', momentum", "model.backbone.norm_cfg"),
        ("featmap_strides=(16, 32)", "featmap_strides=(8, 16)", "model.head.featmap_strides"),
        ("type='HybridEncoder'", "type='YOLOXPAFPN'", "model.neck.type"),
        ("type='RTMOHead'", "type='YOLOXPoseHead'", "model.head.type"),
        ("centralize_points=True", "centralize_points=False", "model.head.prior_generator.centralize_points"),
        ("num_heads=8", "num_heads=7", "num_heads"),
        ("input_size = (160, 128)", "input_size = (150, 128)", "model.test_cfg.input_size"),
        ("std=[1, 1, 1]", "std=[1, 0, 1]", "model.data_preprocessor.std"),
        ("spp_kernal_sizes=(5, 9, 13)", "spp_kernal_sizes=(3, 5, 7)", "model.backbone.spp_kernal_sizes"),
        ("nms_thr=0.65", "nms_thr=0.65, flip_test=True", "model.test_cfg.flip_test"),
    ],
)
def test_what_cannot_be_followed_is_refused_by_name(old: str, new: str, field: str, tmp_path: Path) -> None:
    text = CONFIGS["published"]
    assert old in text
    path = written("published", tmp_path / "v.pth", text.replace(old, new))
    with pytest.raises(CheckpointError, match="--ignore-cfg") as caught:
        load_checkpoint(path)
    assert field in str(caught.value)
    assert load_checkpoint(path, ignore_cfg=True).spec.settings == Settings()


def test_fine_tuning_starts_with_its_settings(tmp_path: Path) -> None:
    from rtmo_deploy.train.recipe import ModelSection, Recipe
    from rtmo_deploy.train.start import initial_checkpoint, starting_model
    from rtmo_deploy.zoo import COCO_17

    path = written("normalised", tmp_path / "v.pth")
    section = ModelSection(deepen=0.33, widen=0.125, hidden_dim=64, init=str(path))
    recipe = Recipe.model_construct(model=section, seed=0)
    model = starting_model(recipe, COCO_17, initial_checkpoint(recipe))
    loaded = load_checkpoint(path)
    assert model.spec == loaded.spec
    assert torch.equal(model.backbone.stem.conv.conv.weight, loaded.model.backbone.stem.conv.conv.weight)
