"""Batches are a function of the recipe and the step, and of nothing else."""

import json

import numpy as np
import pytest
import torch
from coco_files import category, document, image, person, write
from toys import synthetic, toy_recipe

from rtmo_deploy.data.coco_writer import write_dataset
from rtmo_deploy.data.synthetic import SyntheticOptions, SyntheticPeople
from rtmo_deploy.errors import InputDataError, UsageError
from rtmo_deploy.poses import Skeleton
from rtmo_deploy.train.feed import ENDLESS, Batches, augment_options, build_feed, loader
from rtmo_deploy.train.recipe import AugmentSection
from rtmo_deploy.zoo import COCO_17, CROWDPOSE_14


def tensors(batch):
    images, targets = batch
    return [images, *(value for value in vars(targets).values() if value is not None)]


def assert_same_batch(first, second):
    first, second = tensors(first), tensors(second)
    assert len(first) == len(second)
    assert all(torch.equal(one, other) for one, other in zip(first, second, strict=True))


def batches(recipe, **options):
    return Batches(recipe, build_feed(recipe), **options)


BUSY = {"preset": "coco", "plain_epochs": 1, "multi_scale": None, "mosaic": 0.5}


@pytest.fixture(scope="module")
def coco(tmp_path_factory):
    folder = tmp_path_factory.mktemp("coco")
    drawn = SyntheticPeople(6, seed=5, options=SyntheticOptions(size=(64, 64), people=(1, 2)))
    write_dataset(folder, drawn)
    return folder


def coco_source(folder, **changes):
    return {
        "type": "coco",
        "annotations": str(folder / "annotations.json"),
        "images": str(folder / "images"),
        **changes,
    }


def test_workers_and_start_change_nothing():
    recipe = toy_recipe(augment=BUSY)
    alone = list(loader(batches(recipe), start=0, workers=0))
    assert len(alone) == 6
    for workers, start in ((0, 3), (2, 0), (1, 5)):
        again = list(loader(batches(recipe), start=start, workers=workers))
        assert len(again) == 6 - start
        for one, other in zip(alone[start:], again, strict=True):
            assert_same_batch(one, other)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_the_rows_of_all_processes_are_the_batch(accumulate):
    recipe = toy_recipe(augment=BUSY, accumulate=accumulate)
    whole = batches(recipe)
    shares = [batches(recipe, rank=rank, world=2) for rank in (0, 1)]
    assert len(whole) == len(shares[0]) == 6 * accumulate
    for number in range(len(whole)):
        images, targets = whole[number]
        parts = [share[number] for share in shares]
        assert torch.equal(torch.cat([part[0] for part in parts]), images)
        for row in range(len(images)):
            mine = parts[row // (len(images) // 2)][1]
            local = row % (len(images) // 2)
            present = targets.present[row]
            assert torch.equal(targets.boxes[row][present], mine.boxes[local][mine.present[local]])


def test_accumulated_parts_are_the_pictures_of_the_step():
    whole, parts = batches(toy_recipe()), batches(toy_recipe(accumulate=2))
    assert torch.equal(whole[3][0], torch.cat([parts[6][0], parts[7][0]]))


def pictures_of(data, epoch):
    per_epoch = data.steps_per_epoch
    found = torch.cat([data[epoch * per_epoch + step][0] for step in range(per_epoch)])
    return [picture.numpy().tobytes() for picture in found]


def test_fresh_pictures_never_come_back():
    data = batches(toy_recipe())
    seen = [picture for epoch in range(3) for picture in pictures_of(data, epoch)]
    assert len(set(seen)) == len(seen) == 24
    assert data.feed.parts[0][1:] == (8, True)
    assert len(data.feed.parts[0][0]) == ENDLESS


def test_other_pictures_come_back_in_another_order():
    data = batches(toy_recipe(data={"train": [synthetic(fresh=False)]}))
    first, second = pictures_of(data, 0), pictures_of(data, 1)
    assert len(set(first)) == 8
    assert set(first) == set(second)
    assert first != second


def test_the_seed_changes_everything():
    recipe = toy_recipe(data={"train": [synthetic(fresh=False)]})
    other = toy_recipe(data={"train": [synthetic(fresh=False)]}, seed=1)
    assert pictures_of(batches(recipe), 0) != pictures_of(batches(other), 0)
    assert not torch.equal(batches(toy_recipe(augment=BUSY))[0][0], batches(toy_recipe(augment=BUSY, seed=1))[0][0])


def test_pictures_grow_with_the_epochs():
    data = batches(toy_recipe(input=[128, 128], grow=[[0, 0.5], [1, 0.75], [2, 1.0]]))
    assert [tuple(data[step][0].shape[2:]) for step in (0, 1, 2, 4)] == [(64, 64), (64, 64), (96, 96), (128, 128)]


def test_a_ratio_takes_a_share_and_another_one_each_epoch(coco):
    recipe = toy_recipe(batch=2, data={"train": [coco_source(coco, ratio=0.5)]})
    data = batches(recipe)
    assert data.feed.epoch_size == 3
    drawn = [tuple(sorted(index for _, index in data.feed.locate(0, epoch))) for epoch in range(12)]
    assert len(set(drawn)) > 1
    for indices in drawn:  # each third of the set lends one
        assert [index // 2 for index in indices] == [0, 1, 2]
    twice = build_feed(toy_recipe(data={"train": [coco_source(coco, ratio=2)]}))
    assert np.bincount([index for _, index in twice.locate(0, 0)], minlength=6).tolist() == [2] * 6


def test_several_sets_are_put_together(coco):
    recipe = toy_recipe(data={"train": [coco_source(coco), synthetic()]})
    feed = build_feed(recipe)
    assert feed.epoch_size == 14
    places = feed.locate(0, 1)
    assert sorted(index for part, index in places if part == 0) == list(range(6))
    assert sorted(index for part, index in places if part == 1) == list(range(8, 16))
    assert [part for part, _ in places] != sorted(part for part, _ in places)


@pytest.mark.parametrize("mapping", [[[0, 12], ["left_shoulder", "left_shoulder"]], "crowdpose"])
def test_keypoints_are_translated(coco, mapping, tmp_path):
    if mapping == "crowdpose":
        people = SyntheticPeople(4, seed=1, options=SyntheticOptions(size=(64, 64), people=(1, 1)))
        write_dataset(tmp_path, people)
        document = json.loads((tmp_path / "annotations.json").read_text())
        names = [f"joint_{i}" for i in range(14)]
        document["categories"][0] |= {"keypoints": names, "skeleton": []}
        for annotation in document["annotations"]:
            annotation["keypoints"] = annotation["keypoints"][: 14 * 3]
            annotation["num_keypoints"] = sum(flag > 0 for flag in annotation["keypoints"][2::3])
        (tmp_path / "annotations.json").write_text(json.dumps(document))
        source, wanted, pairs = coco_source(tmp_path, mapping=mapping), "coco-17", {5: 0, 16: 11}
    else:
        source, wanted = coco_source(coco, mapping=mapping), "crowdpose-14"
        pairs = {12: 0, CROWDPOSE_14.keypoints.index("left_shoulder"): COCO_17.keypoints.index("left_shoulder")}
    plain = build_feed(toy_recipe(data={"train": [coco_source(tmp_path if mapping == "crowdpose" else coco)]}))
    feed = build_feed(toy_recipe(data={"train": [source], "skeleton": wanted}))
    assert len(feed.skeleton) == (17 if mapping == "crowdpose" else 14)
    checked = 0
    for index in range(4):
        before, after = plain.parts[0][0][index].people, feed.parts[0][0][index].people
        if len(before) != len(after):
            continue  # somebody lost all keypoints
        for target, source_index in pairs.items():
            np.testing.assert_array_equal(after.keypoints[:, target], before.keypoints[:, source_index])
            checked += len(before)
    assert checked


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"batch": 16}, "less than the batch"),
        ({"data": {"train": [synthetic()], "skeleton": "crowdpose-14"}}, "17 keypoints, the model 14"),
        ({"data": {"train": [synthetic()], "sigmas": [0.1] * 3}}, "3 sigmas for 17"),
    ],
)
def test_what_does_not_fit_is_said(changes, complaint):
    with pytest.raises(UsageError, match=complaint):
        batches(toy_recipe(**changes))


def test_an_unknown_mapping_is_said(coco):
    with pytest.raises(UsageError, match="no keypoint mapping called 'body9'"):
        build_feed(toy_recipe(data={"train": [coco_source(coco, mapping="body9")]}))


def test_a_batch_that_cannot_be_shared_is_said():
    with pytest.raises(UsageError, match="shared evenly by 3"):
        batches(toy_recipe(), world=3)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_damaged_picture_is_our_own_error(coco, tmp_path, workers):
    folder = tmp_path / "copy"
    write_dataset(folder, SyntheticPeople(4, seed=5, options=SyntheticOptions(size=(64, 64), people=(1, 2))))
    next((folder / "images").iterdir()).write_bytes(b"not an image")
    data = batches(toy_recipe(data={"train": [coco_source(folder)]}))
    with pytest.raises(InputDataError) as caught:
        list(loader(data, start=0, workers=workers))
    assert "Traceback" not in str(caught.value)
    assert caught.value.remedy


def test_given_sigmas_are_the_skeletons():
    feed = build_feed(toy_recipe(data={"train": [synthetic()], "sigmas": [0.05] * 17}))
    assert feed.skeleton.sigmas == (0.05,) * 17


def test_single_settings_replace_the_presets():
    section = AugmentSection(preset="coco", mosaic=0.25, flip=0.1, hsv=(1, 2, 3), rotate=5, scale=(0.9, 1.1))
    options = augment_options(section, (64, 64), plain=False)
    assert (options.mosaic, options.flip, options.hsv) == (0.25, 0.1, (1, 2, 3))
    assert (options.affine.rotate, options.affine.scale) == (5, (0.9, 1.1))
    plain = augment_options(section, (64, 64), plain=True)
    assert (plain.mosaic, plain.mixup, plain.affine) == (0, 0, None)
    assert (plain.flip, plain.hsv) == (0.1, (1, 2, 3))
    window = augment_options(section.model_copy(update={"plain_window": True}), (64, 64), plain=True)
    assert window.affine is not None
    bare = augment_options(AugmentSection(preset="none", rotate=5), (64, 64), plain=False)
    assert (bare.affine.rotate, bare.affine.scale, bare.mosaic) == (5, (1.0, 1.0), 0)


# Left and right


def test_synthetic_annotation_files_make_a_synthetic_model(coco, tmp_path):
    made = SyntheticPeople(4, seed=1, options=SyntheticOptions(size=(64, 64), people=(1, 1)))
    write_dataset(tmp_path / "made", made, info={"domain": "synthetic"})
    mine, drawn = coco_source(tmp_path / "made"), {"type": "synthetic", "images": 4, "size": [64, 64]}
    for sources, domain in (([mine], "synthetic"), ([mine, drawn], "synthetic"), ([mine, coco_source(coco)], None)):
        assert build_feed(toy_recipe(data={"train": sources})).domain == domain


def named(folder, names, **fields):
    """A source whose category has these keypoints."""
    folder.mkdir(exist_ok=True)
    people = [person(number, 1, joints=len(names)) for number in range(1, 5)]
    write(folder, document([image(number) for number in range(1, 5)], people, [category(names, **fields)]))
    return {"type": "coco", "annotations": str(folder / "people.json"), "images": str(folder / "pictures")}


def mirrored(source, initial=None, *, flip=0.5, preset="none", **data):
    recipe = toy_recipe(data={"train": [source], **data}, augment={"preset": preset, "flip": flip, "multi_scale": None})
    return build_feed(recipe, initial).skeleton.flip_pairs


@pytest.mark.parametrize(
    "names",
    [
        ["LEye", "REye", "nose"],
        ["lshoulder", "rshoulder", "neck"],
        ["l_knee_1", "r_knee_1", "x"],
        ["kneeL", "kneeR", "x"],
    ],
)
def test_pairs_are_understood_from_names(tmp_path, names):
    assert mirrored(named(tmp_path, names)) == ((0, 1),)


@pytest.mark.parametrize(
    ("names", "which"),
    [
        (["shoulder_l", "shoulderR", "neck"], "shoulder_l, shoulderR"),
        (["left_eye", "right_eye", "left_paw"], "left_paw"),
        (["a", "b", "nose"], "a, b, nose"),
    ],
)
def test_unknown_pairs_are_refused(tmp_path, names, which):
    source = named(tmp_path, names)
    with pytest.raises(UsageError, match=rf"{which}\. .*data\.flip_pairs.*augment\.flip to 0"):
        mirrored(source)
    assert mirrored(source, flip=0.0) is not None
    assert mirrored(source, flip_pairs=[]) == ()
    assert mirrored(source, flip_pairs=[[0, names[1]]]) == ((0, 1),)


def test_a_preset_that_mirrors_is_noticed(tmp_path):
    with pytest.raises(UsageError, match="mirrored"):
        mirrored(named(tmp_path, ["a", "b"]), flip=None, preset="coco")


def test_points_in_the_middle_need_no_pairs(tmp_path):
    assert mirrored(named(tmp_path, ["nose", "neck"])) == ()
    assert mirrored(named(tmp_path / "one", ["anything"])) == ()


@pytest.mark.parametrize("pairs", [[["a", "x"]], [[0, 9]], [[0, 1], [1, 2]]])
def test_wrong_pairs_of_a_recipe(tmp_path, pairs):
    with pytest.raises(UsageError, match=r"data\.flip_pairs"):
        mirrored(named(tmp_path, ["a", "b", "c"]), flip_pairs=pairs)


def test_pairs_of_the_annotation_file_govern_names(tmp_path):
    assert mirrored(named(tmp_path, ["a", "b", "c"], flip_pairs=[["a", "c"]])) == ((0, 2),)


def test_the_models_skeleton_governs_order_and_mirror(tmp_path):
    model = Skeleton("mine", ("a", "b", "c"), flip_pairs=((0, 1),))
    source = named(tmp_path, ["c", "a", "b"])
    feed = build_feed(toy_recipe(data={"train": [source]}, augment={"flip": 0.5}), model)
    assert (feed.skeleton, feed.skeleton.flip_pairs) == (model, ((0, 1),))
    own = build_feed(toy_recipe(data={"train": [source]}, augment={"flip": 0.0})).parts[0][0].people(0).keypoints
    np.testing.assert_array_equal(feed.parts[0][0].people(0).keypoints, own[:, [1, 2, 0]])
    other = Skeleton("other", ("x", "y", "z"), flip_pairs=((0, 1),))
    with pytest.raises(UsageError, match="mirrored"):
        mirrored(source, other)


def test_sets_with_other_keypoints_need_a_mapping(tmp_path):
    sources = [named(tmp_path / name, names) for name, names in (("a", ["a", "b"]), ("b", ["a", "z"]))]
    with pytest.raises(UsageError, match=r"other keypoints .*a, z against a, b.*'mapping'"):
        build_feed(toy_recipe(data={"train": sources}, augment={"flip": 0.0}))
