"""Left and right in keypoint names."""

import pytest

from rtmo_deploy.sides import mirror_of, side_of


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ("left_eye", "right_eye"),
        ("eye_left", "eye_right"),
        ("LEye", "REye"),
        ("lshoulder", "rshoulder"),
        ("l_knee_1", "r_knee_1"),
        ("L.Elbow", "R.Elbow"),
        ("kneeL", "kneeR"),
        ("kneeL1", "kneeR1"),
        ("left eye", "right eye"),
        ("leftEye", "rightEye"),
        ("EyeLeft", "EyeRight"),
        ("l-wrist", "r-wrist"),
        ("LEFT_HIP", "RIGHT_HIP"),
        ("LHIP", "RHIP"),
        ("leftankle", "rightankle"),
        ("ankleleft", "ankleright"),
        ("L_Eye", "R_Eye"),
        ("Lefteye", "Righteye"),
        ("L1", "R1"),
        ("front_left_paw", "front_right_paw"),
        ("lear", "rear"),
    ],
)
def test_pairs(left, right):
    if left != "lear":
        assert (side_of(left), side_of(right)) == ("left", "right")
    found = mirror_of([right, "nose", left])
    if left == "lear":
        assert found.pairs == ()  # the rear is not the right ear
    else:
        assert found.pairs == ((2, 0),)
        assert found.sided == found.unknown == ()
        assert found.central == (1,)


@pytest.mark.parametrize(
    "name", ["lip", "rib", "leg", "rear", "lower", "root", "lips", "ribs", "ring", "heel", "label", "nose", "tail"]
)
def test_a_word_that_begins_with_l_or_r_is_no_side(name):
    assert side_of(name) == "centre"
    assert mirror_of([name, "l" + name[1:], "r" + name[1:]]).pairs == ()


def test_mixed_styles_do_not_pair():
    found = mirror_of(["shoulder_l", "shoulderR", "shoulder_left", "neck"])
    assert found.pairs == ()
    assert found.sided == (0, 1, 2)
    assert found.central == (3,)


def test_rest_is_unknown_or_central():
    found = mirror_of(["keypoint_0", "nose", "root_of_tail", "bottle_cap"])
    assert found.pairs == found.sided == ()
    assert found.central == (1, 2)
    assert found.unknown == (0, 3)


def test_two_sides_in_a_name():
    found = mirror_of(["left_eye_right_corner", "right_eye_left_corner", "left_eye_left_corner"])
    assert found.pairs == ((0, 1),)
    assert found.sided == (2,)
