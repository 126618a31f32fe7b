"""The meaning of a checkpoint's keypoints comes from the file."""

import numpy as np
import pytest
import torch

from rtmo_deploy.artifact import Artifact
from rtmo_deploy.model import RTMO, NetworkSpec
from rtmo_deploy.model.checkpoint import load_checkpoint, save_checkpoint
from rtmo_deploy.zoo import COCO_17

NAMES = ["LEye", "REye", "beak", "kneeL", "kneeR", "tail"]
META = {
    "dataset_name": "bird",
    "keypoint_id2name": dict(enumerate(NAMES)),
    "flip_indices": [1, 0, 2, 4, 3, 5],
    "skeleton_links": [(0, 2), (1, 2), (3, 5)],
    "skeleton_link_colors": np.array([[0, 255, 0], [255, 0, 0], [1, 2, 3]], np.uint8),
    "keypoint_colors": np.arange(18, dtype=np.int64).reshape(6, 3) + 90,
    "sigmas": np.array([0.03, 0.03, 0.04, 0.05, 0.05, 0.06]),
}


def saved(path, count, meta=None, sigmas=None, dtype=torch.float32):
    torch.manual_seed(0)
    state = RTMO(NetworkSpec(0.33, 0.25, count)).state_dict()
    if sigmas is not None:
        state["head.loss_oks.sigmas"] = torch.tensor(sigmas)
    state = {key: value.to(dtype) if value.is_floating_point() else value for key, value in state.items()}
    torch.save({"state_dict": state, "meta": {"dataset_meta": meta} if meta else {}}, path)
    return load_checkpoint(path)


def test_dataset_meta_is_taken_and_survives(tmp_path):
    loaded = saved(tmp_path / "a.pth", 6, META, [0.1, 0.1, 0.2, 0.3, 0.3, 0.4])
    skeleton = loaded.skeleton
    assert skeleton.name == "bird-6"
    assert skeleton.keypoints == tuple(NAMES)
    assert skeleton.edges == ((0, 2), (1, 2), (3, 5))
    assert skeleton.flip_pairs == ((0, 1), (3, 4))
    assert skeleton.edge_colours == ("#00ff00", "#ff0000", "#010203")
    assert skeleton.keypoint_colours[0] == "#5a5b5c"
    assert skeleton.sigmas == (0.1, 0.1, 0.2, 0.3, 0.3, 0.4)  # those that it was trained with
    assert skeleton.source == "dataset_meta"
    for suffix in ("pth", "safetensors"):
        copy = tmp_path / f"copy.{suffix}"
        save_checkpoint(copy, loaded.model, skeleton=skeleton)
        assert load_checkpoint(copy).skeleton.to_dict() == skeleton.to_dict()
    read = Artifact.from_metadata(tmp_path / "a.onnx", loaded.artifact().to_metadata())
    assert read.skeleton.to_dict() == skeleton.to_dict()


def test_the_form_of_a_config(tmp_path):
    meta = {
        "dataset_name": "bird",
        "keypoint_info": {
            0: {"name": "a", "color": [1, 2, 3], "swap": "b"},
            1: {"name": "b", "color": [4, 5, 6], "swap": "a"},
            2: {"name": "c", "color": [7, 8, 9], "swap": ""},
        },
        "skeleton_info": {0: {"link": ("a", "c"), "color": [0, 0, 255]}},
    }
    skeleton = saved(tmp_path / "a.pth", 3, meta).skeleton
    assert skeleton.keypoints == ("a", "b", "c")
    assert skeleton.flip_pairs == ((0, 1),)
    assert skeleton.edges == ((0, 2),)
    assert skeleton.edge_colours == ("#0000ff",)
    assert skeleton.keypoint_colours == ("#010203", "#040506", "#070809")


def test_seventeen_keypoints_of_others_are_not_cocos(tmp_path):
    sigmas = [0.03] * 17
    named = saved(tmp_path / "a.pth", 17, {"keypoint_id2name": {i: f"paw_{i}" for i in range(17)}}, sigmas).skeleton
    assert named.name == "custom-17"
    assert named.edges == ()
    unnamed = saved(tmp_path / "b.pth", 17, None, sigmas).skeleton
    assert unnamed.name == "generic-17"
    assert unnamed.sigmas == tuple(sigmas)
    assert "does not name" in unnamed.label


def test_own_sigmas_survive_half_precision(tmp_path):
    skeleton = saved(tmp_path / "a.pth", 17, None, [0.03] * 17, torch.float16).skeleton
    assert skeleton.sigmas == pytest.approx([0.03] * 17, rel=1e-3)


def test_cocos_are_concluded_from_their_sigmas_and_said(tmp_path):
    skeleton = saved(tmp_path / "a.pth", 17).skeleton
    assert skeleton == COCO_17
    assert skeleton.label == "coco-17 (guessed from its sigmas)"


def test_fourteen_unnamed_keypoints_are_nobodys(tmp_path):
    assert saved(tmp_path / "a.pth", 14).skeleton.name == "generic-14"


@pytest.mark.parametrize(
    "change",
    [
        {"flip_indices": [1, 1, 2, 4, 3, 5]},
        {"skeleton_links": [(0, 9)]},
        {"sigmas": np.array([np.nan] * 6)},
        {"keypoint_colors": [[300, 0, 0]] * 6},
        {"skeleton_links": "x", "flip_pairs": [[0, 1], [0, 2]], "flip_indices": None},
        {"keypoint_id2name": {0: 1}},
    ],
)
def test_what_cannot_be_read_is_left(tmp_path, change):
    skeleton = saved(tmp_path / "a.pth", 6, META | change).skeleton
    assert len(skeleton) == 6


def test_pairs_in_both_directions(tmp_path):
    meta = META | {"flip_indices": None, "flip_pairs": [("REye", "LEye"), ("LEye", "REye"), (4, 3)]}
    assert saved(tmp_path / "a.pth", 6, meta).skeleton.flip_pairs == ((0, 1), (3, 4))
