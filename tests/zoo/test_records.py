"""The records against the published page: names, files and figures are copied here as literals."""

from __future__ import annotations

import subprocess
import sys

import pytest

from rtmo_deploy.errors import UsageError
from rtmo_deploy.zoo import (
    ARCHITECTURES,
    COCO_17,
    CROWDPOSE_14,
    VARIANTS,
    PublishedAccuracy,
    architecture,
    skeleton_for,
    variant,
)
from rtmo_deploy.zoo.cache import identify_published

BASE = "https://download.openmmlab.com/mmpose/v1/projects/rtmo/"

# Name, train set, latency, AP, AP50, AP75, AR, AR50.
COCO_ROWS = [
    ("rtmo-s-coco", "COCO", 8.9, 0.677, 0.878, 0.737, 0.715, 0.908),
    ("rtmo-m-coco", "COCO", 12.4, 0.709, 0.890, 0.778, 0.747, 0.920),
    ("rtmo-l-coco", "COCO", 19.1, 0.724, 0.899, 0.788, 0.762, 0.927),
    ("rtmo-t-body7", "body7", None, 0.574, 0.803, 0.613, 0.611, 0.836),
    ("rtmo-s-body7", "body7", 8.9, 0.686, 0.879, 0.744, 0.723, 0.908),
    ("rtmo-m-body7", "body7", 12.4, 0.726, 0.899, 0.790, 0.763, 0.926),
    ("rtmo-l-body7", "body7", 19.1, 0.748, 0.911, 0.813, 0.786, 0.939),
]

# Name, AP, AP50, AP75, AP (E), AP (M), AP (H).
CROWDPOSE_ROWS = [
    ("rtmo-s-crowdpose", 0.673, 0.882, 0.729, 0.737, 0.682, 0.591),
    ("rtmo-m-crowdpose", 0.711, 0.897, 0.771, 0.774, 0.719, 0.634),
    ("rtmo-l-crowdpose", 0.732, 0.907, 0.793, 0.792, 0.741, 0.653),
    ("rtmo-l-body7-crowdpose", 0.838, 0.947, 0.893, 0.888, 0.847, 0.772),
]

FILES = {
    "rtmo-s-coco": "rtmo-s_8xb32-600e_coco-640x640-8db55a59_20231211.pth",
    "rtmo-m-coco": "rtmo-m_16xb16-600e_coco-640x640-6f4e0306_20231211.pth",
    "rtmo-l-coco": "rtmo-l_16xb16-600e_coco-640x640-516a421f_20231211.pth",
    "rtmo-t-body7": "rtmo-t_8xb32-600e_body7-416x416-f48f75cb_20231219.pth",
    "rtmo-s-body7": "rtmo-s_8xb32-600e_body7-640x640-dac2bf74_20231211.pth",
    "rtmo-m-body7": "rtmo-m_16xb16-600e_body7-640x640-39e78cc4_20231211.pth",
    "rtmo-l-body7": "rtmo-l_16xb16-600e_body7-640x640-b37118ce_20231211.pth",
    "rtmo-s-crowdpose": "rtmo-s_8xb32-700e_crowdpose-640x640-79f81c0d_20231211.pth",
    "rtmo-m-crowdpose": "rrtmo-m_16xb16-700e_crowdpose-640x640-0eaf670d_20231211.pth",
    "rtmo-l-crowdpose": "rtmo-l_16xb16-700e_crowdpose-640x640-1008211f_20231211.pth",
    "rtmo-l-body7-crowdpose": "rtmo-l_16xb16-700e_body7-crowdpose-640x640-5bafdc11_20231219.pth",
}

DIGITS = {
    "rtmo-s-coco": "8db55a59",
    "rtmo-m-coco": "6f4e0306",
    "rtmo-l-coco": "516a421f",
    "rtmo-t-body7": "f48f75cb",
    "rtmo-s-body7": "dac2bf74",
    "rtmo-m-body7": "39e78cc4",
    "rtmo-l-body7": "b37118ce",
    "rtmo-s-crowdpose": "79f81c0d",
    "rtmo-m-crowdpose": "0eaf670d",
    "rtmo-l-crowdpose": "1008211f",
    "rtmo-l-body7-crowdpose": "5bafdc11",
}


@pytest.mark.parametrize("row", COCO_ROWS, ids=lambda row: row[0])
def test_coco_records_are_those_of_the_page(row):
    name, train_set, latency, ap, ap50, ap75, ar, ar50 = row
    record = VARIANTS[name]
    assert record.name == name
    assert record.train_set == train_set
    assert record.accuracy == PublishedAccuracy("COCO val2017", ap, ap50, ap75, ar=ar, ar50=ar50)
    assert record.latency_v100_ms == latency
    assert record.skeleton is COCO_17


@pytest.mark.parametrize("row", CROWDPOSE_ROWS, ids=lambda row: row[0])
def test_crowdpose_records_are_those_of_the_page(row):
    name, ap, ap50, ap75, easy, medium, hard = row
    record = VARIANTS[name]
    assert record.name == name
    assert record.accuracy == PublishedAccuracy(
        "CrowdPose test", ap, ap50, ap75, ap_easy=easy, ap_medium=medium, ap_hard=hard
    )
    assert record.latency_v100_ms is None
    assert record.skeleton is CROWDPOSE_14


def test_there_are_eleven_records_and_no_other():
    assert list(VARIANTS) == [row[0] for row in (*COCO_ROWS, *CROWDPOSE_ROWS)]
    assert len(VARIANTS) == 11


def test_files():
    # "rrtmo" is how that file is really called upstream.
    assert {name: record.file_name for name, record in VARIANTS.items()} == FILES
    assert {name: record.url for name, record in VARIANTS.items()} == {k: BASE + v for k, v in FILES.items()}


def test_hash_digits():
    assert {name: record.sha256_prefix for name, record in VARIANTS.items()} == DIGITS


def test_input_sizes_and_architectures():
    for name, record in VARIANTS.items():
        assert record.architecture is ARCHITECTURES[name[:6]]
        assert record.input_hw == ((416, 416) if name.startswith("rtmo-t") else (640, 640))
        assert f"{record.input_hw[1]}x{record.input_hw[0]}" in record.file_name
        assert (record.score_thr, record.nms_thr) == (0.1, 0.65)


def test_scaling_factors():
    factors = {name: (arch.deepen, arch.widen, arch.hidden_dim) for name, arch in ARCHITECTURES.items()}
    assert factors == {
        "rtmo-n": (0.33, 0.25, 128),
        "rtmo-t": (0.33, 0.375, 256),
        "rtmo-s": (0.33, 0.5, 256),
        "rtmo-m": (0.67, 0.75, 256),
        "rtmo-l": (1.0, 1.0, 256),
    }


@pytest.mark.parametrize("size", ["t", "s", "m", "l"])
def test_the_bare_name_is_the_body7_model(size):
    assert variant(f"rtmo-{size}") is VARIANTS[f"rtmo-{size}-body7"]
    assert variant(f"RTMO-{size.upper()}") is VARIANTS[f"rtmo-{size}-body7"]
    assert VARIANTS[f"rtmo-{size}-body7"].aliases == (f"rtmo-{size}",)


def test_aliases_are_unique():
    names = [name for record in VARIANTS.values() for name in (record.name, *record.aliases)]
    assert len(names) == len(set(names)) == 15


def test_unknown_names_are_answered_with_the_nearest():
    with pytest.raises(UsageError, match="Did you mean 'rtmo-s-coco'") as caught:
        variant("rtmo-s-cocco")
    assert "rtmo-l-body7-crowdpose" in str(caught.value)
    with pytest.raises(UsageError, match="Did you mean 'rtmo-l'"):
        architecture("rtmo_l")


def test_architecture_takes_names_of_models_too():
    assert architecture("rtmo-l-crowdpose") is ARCHITECTURES["rtmo-l"]
    assert architecture("RTMO-N") is ARCHITECTURES["rtmo-n"]


@pytest.mark.parametrize("name", list(DIGITS))
def test_a_hash_is_recognised_by_its_first_digits(name):
    assert identify_published(DIGITS[name] + 56 * "0") is VARIANTS[name]
    assert identify_published((DIGITS[name] + 56 * "0").upper()) is VARIANTS[name]
    assert identify_published("0" + DIGITS[name] + 55 * "0") is None


@pytest.mark.parametrize("skeleton", [COCO_17, CROWDPOSE_14], ids=lambda skeleton: skeleton.name)
def test_skeletons_hold_together(skeleton):
    assert len(set(skeleton.keypoints)) == len(skeleton) == len(skeleton.sigmas)
    for first, second in skeleton.flip_pairs:
        assert skeleton.keypoints[first].startswith("left_")
        assert skeleton.keypoints[second] == skeleton.keypoints[first].replace("left_", "right_")
        assert skeleton.sigmas[first] == skeleton.sigmas[second]
    paired = {index for pair in skeleton.flip_pairs for index in pair}
    assert len(paired) == 2 * len(skeleton.flip_pairs)
    assert all(skeleton.side(index) == "centre" for index in set(range(len(skeleton))) - paired)
    flip = skeleton.flip_indices()
    assert [flip[index] for index in flip] == list(range(len(skeleton)))


@pytest.mark.parametrize("skeleton", [COCO_17, CROWDPOSE_14], ids=lambda skeleton: skeleton.name)
def test_edges_join_the_whole_body_and_mirror_onto_themselves(skeleton):
    edges = {frozenset(edge) for edge in skeleton.edges}
    assert len(edges) == len(skeleton.edges)
    assert all(len(edge) == 2 for edge in edges)
    flip = skeleton.flip_indices()
    assert {frozenset(flip[index] for index in edge) for edge in edges} == edges
    reached, before = {0}, set()
    while reached != before:
        before = set(reached)
        reached |= {index for edge in edges if edge & before for index in edge}
    assert reached == set(range(len(skeleton)))


def test_sigmas():
    # Those of the COCO keypoint evaluation; in CrowdPose, head and neck have a shoulder's.
    coco = {
        "nose": 0.026,
        "eye": 0.025,
        "ear": 0.035,
        "shoulder": 0.079,
        "elbow": 0.072,
        "wrist": 0.062,
        "hip": 0.107,
        "knee": 0.087,
        "ankle": 0.089,
    }
    for skeleton in (COCO_17, CROWDPOSE_14):
        for name, sigma in zip(skeleton.keypoints, skeleton.sigmas, strict=True):
            assert sigma == coco.get(name.rsplit("_", 1)[-1], 0.079), name


def test_skeleton_for():
    assert skeleton_for(17) is COCO_17
    assert skeleton_for(14) is CROWDPOSE_14
    assert len(skeleton_for(21)) == 21
    assert skeleton_for(21).name == "generic-21"


def test_importing_the_zoo_is_light():
    code = (
        "import sys, rtmo_deploy.zoo, rtmo_deploy.zoo.download, rtmo_deploy.zoo.cache\n"
        "heavy = {'requests', 'pooch', 'torch', 'filelock', 'rich', 'cv2', 'onnx'} & set(sys.modules)\n"
        "sys.exit(f'imported: {heavy}' if heavy else 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
