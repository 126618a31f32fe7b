"""The network against the reference: keys, parameters, norms, every tap, raw head outputs, people, DCC alone."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import golden
import numpy as np
import pytest
import torch
from torch import nn

from rtmo_deploy.errors import CheckpointError, UsageError
from rtmo_deploy.model import RTMO, NetworkSpec, recognise
from rtmo_deploy.model.head import grid_priors
from rtmo_deploy.zoo import ARCHITECTURES

DATA = Path(__file__).parent.parent / "data" / "golden"
STATE_DICTS = json.loads((DATA / "state_dicts.json").read_text())
STORED = ("rtmo-t", "rtmo-s", "rtmo-s-crowdpose")


def architecture_of(name: str) -> str:
    return name[: len("rtmo-x")]


def spec_of(name: str) -> NetworkSpec:
    return NetworkSpec.of(ARCHITECTURES[architecture_of(name)], 14 if "crowdpose" in name else 17)


def on_meta(spec: NetworkSpec) -> RTMO:
    with torch.device("meta"):
        return RTMO(spec)


def digest(lines: list[str]) -> str:
    return hashlib.sha256("".join(f"{line}\n" for line in lines).encode()).hexdigest()


@pytest.mark.parametrize("config", STATE_DICTS)
def test_state_dict_is_the_official_one_key_for_key(config: str) -> None:
    expected = STATE_DICTS[config]
    model = on_meta(NetworkSpec.of(ARCHITECTURES[architecture_of(config)], expected["keypoints"]))
    state = model.state_dict()
    assert len(state) == expected["keys"]
    lines = [f"{key} {tuple(t.shape)} {str(t.dtype).removeprefix('torch.')}" for key, t in state.items()]
    assert digest(lines) == expected["sha256"]
    assert sum(p.numel() for p in model.parameters()) == expected["params"]


@pytest.mark.parametrize("config", STATE_DICTS)
def test_norm_layers_have_the_reference_settings(config: str) -> None:
    expected = STATE_DICTS[config]
    model = on_meta(NetworkSpec.of(ARCHITECTURES[architecture_of(config)], expected["keypoints"]))
    lines = [
        f"{name} {type(module).__name__} {module.eps:g} {getattr(module, 'momentum', None)}"
        for name, module in model.named_modules()
        if isinstance(module, nn.BatchNorm2d | nn.BatchNorm1d | nn.LayerNorm)
    ]
    assert digest(lines) == expected["norms_sha256"]


def test_norm_settings_differ_between_neck_and_the_rest() -> None:
    model = on_meta(spec_of("rtmo-s"))
    for part, eps, momentum in (
        (model.backbone, 1e-3, 0.03),
        (model.neck, 1e-5, 0.1),
        (model.head.head_module, 1e-3, 0.03),
    ):
        norms = [m for m in part.modules() if isinstance(m, nn.BatchNorm2d)]
        assert norms
        assert {(m.eps, m.momentum) for m in norms} == {(eps, momentum)}


@pytest.mark.parametrize("name", ["rtmo-n", "rtmo-t", "rtmo-s", "rtmo-m", "rtmo-l"])
@pytest.mark.parametrize("keypoints", [1, 5, 14, 17, 26, 133])
def test_spec_is_recognised_from_shapes(name: str, keypoints: int) -> None:
    spec = NetworkSpec.of(ARCHITECTURES[name], keypoints)
    shapes = {key: tuple(t.shape) for key, t in on_meta(spec).state_dict().items()}
    assert recognise(shapes) == spec
    assert recognise(shapes).architecture is ARCHITECTURES[name]


@pytest.mark.parametrize(("deepen", "widen", "hidden"), [(1.33, 1.25, 256), (0.33, 0.125, 64), (2.0, 0.5, 128)])
def test_spec_of_a_shape_of_ones_own_is_recognised(deepen: float, widen: float, hidden: int) -> None:
    spec = NetworkSpec(deepen, widen, 17, hidden)
    found = recognise({key: tuple(t.shape) for key, t in on_meta(spec).state_dict().items()})
    assert (found.stage_blocks, found.neck_blocks, found.widen, found.hidden_dim) == (
        spec.stage_blocks,
        spec.neck_blocks,
        widen,
        hidden,
    )
    assert found.architecture is None


def test_rtmo_n_is_small() -> None:
    assert 2e6 <= sum(p.numel() for p in on_meta(spec_of("rtmo-n")).parameters()) <= 3e6


@pytest.mark.parametrize("size", [(640, 650), (31, 64), (0, 64)])
def test_sizes_that_are_no_multiples_of_32_are_refused(size: tuple[int, int]) -> None:
    with pytest.raises(UsageError, match="multiples of 32"):
        on_meta(spec_of("rtmo-n"))(torch.zeros(1, 3, *size, device="meta"))


@pytest.mark.parametrize(("height", "width"), [(32, 32), (32, 320), (416, 64), (96, 160)])
def test_any_multiple_of_32_works(height: int, width: int) -> None:
    model = golden.golden_model(spec_of("rtmo-n"), (-2, -1))
    outputs = model(torch.from_numpy(golden.noise(2, height, width)))
    assert outputs.cls_scores[0].shape == (2, 1, height // 16, width // 16)
    assert outputs.pose_vecs[1].shape[2:] == (height // 32, width // 32)
    assert outputs.kpt_offsets == ()


def test_a_batch_is_the_pictures_one_by_one() -> None:
    # In float32 these weights make 0.014 px of rounding, some 200,000 times its epsilon; in float64 2e-11 are left.
    model = golden.golden_model(spec_of("rtmo-n"), (-2, -1)).double()
    images = torch.from_numpy(golden.noise(3, 128, 192)).double()
    together = model.predict(images)
    for i, one in enumerate(together):
        alone = model.predict(images[i : i + 1])[0]
        assert torch.equal(one.indices, alone.indices)
        assert torch.allclose(one.keypoints, alone.keypoints, rtol=0, atol=1e-6)


@pytest.fixture(scope="module", params=STORED)
def stored(request: pytest.FixtureRequest) -> tuple[str, RTMO, dict[str, np.ndarray]]:
    name = request.param
    model = golden.golden_model(spec_of(name), golden.CLS_BIAS[architecture_of(name)])
    return name, model, dict(np.load(DATA / f"{name}.npz"))


def side_of(name: str) -> int:
    return 416 if name.startswith("rtmo-t") else 640


def check_people(found: list, expected: dict[str, np.ndarray], which: str, keypoint_px: float) -> None:
    for i, one in enumerate(found):
        want = {
            key: expected[f"{which}.pred.{i}.{key}"] for key in ("scores", "bboxes", "keypoints", "keypoint_scores")
        }
        assert len(one.scores) == len(want["scores"])
        np.testing.assert_allclose(one.scores.numpy(), want["scores"], atol=1e-5)
        np.testing.assert_allclose(one.boxes.numpy(), want["bboxes"], atol=2e-3)
        np.testing.assert_allclose(one.keypoints.numpy(), want["keypoints"], atol=keypoint_px)
        np.testing.assert_allclose(one.keypoint_scores.numpy(), want["keypoint_scores"], atol=1e-5)


@pytest.mark.parametrize("which", ["sq", "rect"])
def test_people_are_the_references_in_its_order(stored: tuple, which: str) -> None:
    name, model, expected = stored
    side = side_of(name)
    images = golden.noise(2, side, side) if which == "sq" else golden.noise(1, 384, 640)
    check_people(model.predict(torch.from_numpy(images)), expected, which, 0.03)


def test_coordinate_classifier_alone(stored: tuple) -> None:
    _, model, expected = stored
    rng = np.random.default_rng(4321)
    vecs = rng.standard_normal((7, model.spec.pose_vec_channels))
    centre, size = rng.uniform(50, 550, (7, 2)), rng.uniform(40, 400, (7, 2))
    grids = centre + rng.uniform(-20, 20, (7, 2))
    inputs = [torch.from_numpy(a.astype(np.float32)) for a in (vecs, np.concatenate([centre, size], 1), grids)]
    with torch.no_grad():
        keypoints = model.head.dcc(*inputs)
        sigmas = model.head.dcc.sigmas(inputs[0])
    np.testing.assert_allclose(keypoints.numpy(), expected["dcc.keypoints"], atol=5e-3)
    np.testing.assert_allclose(sigmas.numpy().ravel(), expected["dcc.train_sigmas"].ravel(), atol=1e-6)


def test_priors_and_position_encoding(stored: tuple) -> None:
    name, model, expected = stored
    side = side_of(name)
    priors = grid_priors([(side // s, side // s) for s in (16, 32)]).numpy()
    fine = (side // 16) ** 2
    for level, rows in enumerate((priors[:fine], priors[fine:])):
        np.testing.assert_array_equal(rows[:3, :2], expected["priors_first3_per_level"][level])
        np.testing.assert_array_equal(rows[-1, :2], expected["priors_last_per_level"][level])
    encoding = model.neck.sincos_pos_enc.grid(side // 32, side // 32)[[0, 1, 17]]
    np.testing.assert_allclose(encoding.numpy(), expected["neck.pos_enc.rows0_1_17"], atol=1e-6)


@pytest.mark.parametrize("which", ["sq", "rect"])
def test_features_and_raw_outputs_of_rtmo_t(which: str) -> None:
    expected = dict(np.load(DATA / "rtmo-t.npz"))
    model = golden.golden_model(spec_of("rtmo-t"), golden.CLS_BIAS["rtmo-t"])
    images = golden.noise(2, 416, 416) if which == "sq" else golden.noise(1, 384, 640)
    compare_stages(model, images, expected, which, thinned=True)


def compare_stages(
    model: RTMO, images: np.ndarray, expected: dict[str, np.ndarray], which: str, *, thinned: bool
) -> None:
    large = model.spec.widen == 1.0
    with torch.no_grad():
        features = model.backbone(torch.from_numpy(images))
        neck = model.neck(features)
        outputs = model.head(neck, proxy=True)
    tolerance = 5e-3 if large else 1e-3
    stages = {f"backbone.{i}": (t, tolerance) for i, t in enumerate(features)}
    stages |= {f"neck.{i}": (t, tolerance) for i, t in enumerate(neck)}
    for name in ("cls_scores", "bbox_preds", "kpt_vis", "pose_vecs", "kpt_offsets"):
        bound = 2e-5 if name == "bbox_preds" else (3e-4 if large else 1e-4)
        stages |= {f"head.{name}.{i}": (t, bound) for i, t in enumerate(getattr(outputs, name))}
    compared = 0
    for name, (tensor, bound) in stages.items():
        flat = tensor.flatten(1).numpy()
        for kind, step in ((".full", 1), (".sample", -(-flat.shape[1] // 512))):
            key = f"{which}.{name}{kind}"
            if key in expected:
                thin = {".full": 2, ".sample": 4}[kind] if thinned else 1
                want = expected[key].reshape(flat.shape[0], -1)
                np.testing.assert_allclose(flat[:, ::step][:, ::thin], want, atol=bound, err_msg=key)
                compared += 1
    assert compared == len(stages)


def golden_files(folder: Path) -> list[Path]:
    return sorted(path for path in (folder / "golden").glob("rtmo-*.npz") if ".taps" not in path.name)


def test_every_golden_file_and_tap(shared: Path) -> None:
    files = golden_files(shared)
    assert files
    for path in files:
        name = path.stem
        model = golden.golden_model(spec_of(name), golden.CLS_BIAS[architecture_of(name)])
        side, large = side_of(name), model.spec.widen == 1.0
        expected = dict(np.load(path))
        for which, images in (("sq", golden.noise(2, side, side)), ("rect", golden.noise(1, 384, 640))):
            compare_stages(model, images, expected, which, thinned=False)
            check_people(model.predict(torch.from_numpy(images)), expected, which, 0.8 if large else 0.03)
        check_taps(model, golden.noise(2, side, side), path.with_suffix(".taps.npz"), large=large)


def check_taps(model: RTMO, images: np.ndarray, path: Path, *, large: bool) -> None:
    taps = dict(np.load(path))
    wanted = {key.removesuffix(".shape") for key in taps if key.endswith(".shape")}
    got: dict[str, torch.Tensor] = {}
    modules = dict(model.named_modules())
    for name in wanted:
        modules[name].register_forward_hook(lambda _, __, out, name=name: got.__setitem__(name, out))
    with torch.no_grad():
        model(torch.from_numpy(images))
    assert got.keys() == wanted
    for name, tensor in got.items():
        assert tuple(tensor.shape) == tuple(taps[f"{name}.shape"]), name
        flat = tensor.flatten().numpy()
        # Between modules the softmax of the attention magnifies float noise: 2e-5 of the tap's magnitude.
        bound = (5e-3 if large else 1e-3) + 2e-5 * taps[f"{name}.stats"][2]
        sample = flat[:: max(1, -(-flat.size // 64))]
        np.testing.assert_allclose(sample, taps[f"{name}.sample64"], atol=bound, err_msg=name)


def own_widths() -> list[NetworkSpec]:
    return [
        NetworkSpec(0.5, 0.5, 17),
        NetworkSpec(0.33, 0.33, 17),
        NetworkSpec(0.2, 0.7, 5, 192),
        NetworkSpec(0.33, 0.25, 17, 128, neck_deepen=1.0, neck_widen=0.5, head_widen=0.375),
        NetworkSpec(1.33, 1.25, 17, 256),
    ]


@pytest.mark.parametrize("spec", own_widths(), ids=str)
def test_own_widths_are_solved(spec: NetworkSpec) -> None:
    shapes = {key: tuple(t.shape) for key, t in on_meta(spec).state_dict().items()}
    found = recognise(shapes)
    assert {key: tuple(t.shape) for key, t in on_meta(found).state_dict().items()} == shapes


def test_widths_that_no_factor_gives_are_refused() -> None:
    shapes = {key: tuple(t.shape) for key, t in on_meta(NetworkSpec(0.33, 0.5, 17)).state_dict().items()}
    shapes["backbone.stage2.0.conv.weight"] = (130, 64, 3, 3)
    with pytest.raises(CheckpointError, match="fit no one factor"):
        recognise(shapes)
