"""The recipes of the published models against a table of what MMPose 1.3.2 was configured with.

The table was read from the files of ``configs/body_2d_keypoint/rtmo``, the learning rates come from MMEngine 0.10.7
running the schedulers of those files, 20 steps an epoch.
"""

import itertools
import math
import shlex
from pathlib import Path
from typing import NamedTuple

import pytest

from rtmo_deploy.train.feed import augment_options
from rtmo_deploy.train.optimize import learning_rate
from rtmo_deploy.train.recipe import load_recipe, with_settings
from rtmo_deploy.zoo import VARIANTS

FOLDER = Path(__file__).parents[2] / "recipes" / "train"
STEPS = 20
COCO, WIDE = "coco", "wide"


class Facts(NamedTuple):
    """What differs from one published model to another."""

    config: str
    epochs: int
    switch: int
    plain: int
    val_interval: int
    affine: str
    mixup: float
    multi_scale: tuple[int, int]
    plain_window: bool
    keypoint_center: bool
    mle: float
    second_cls: float | None
    second_power: float | None
    backbone: str


SMALL = ((480, 800), False, True, 1.0, None, None)
LARGE = ((480, 800), True, False, 1e-2, 2.0, 1.0)
CROWD = ((480, 800), False, False, 1e-3, 2.0, 1.0)
YOLOX = {
    "t": "yolox_tiny_8x8_300e_coco_20211124_171234-b4047906.pth",
    "s": "yolox_s_8x8_300e_coco_20211121_095711-4592a793.pth",
    "m": "yolox_m_8x8_300e_coco_20230829.pth",
    "l": "yolox_l_8x8_300e_coco_20211126_140236-d3bd2b23.pth",
}
FACTS = {
    "rtmo-s-coco": Facts("coco/rtmo-s_8xb32-600e_coco-640x640.py", 600, 280, 20, 20, COCO, 1.0, *SMALL, YOLOX["s"]),
    "rtmo-m-coco": Facts("coco/rtmo-m_16xb16-600e_coco-640x640.py", 600, 280, 20, 20, COCO, 1.0, *LARGE, YOLOX["m"]),
    "rtmo-l-coco": Facts("coco/rtmo-l_16xb16-600e_coco-640x640.py", 600, 280, 20, 20, COCO, 1.0, *LARGE, YOLOX["l"]),
    "rtmo-t-body7": Facts(
        "body7/rtmo-t_8xb32-600e_body7-416x416.py", 600, 280, 20, 20, COCO, 0.0, (320, 640), *SMALL[1:], YOLOX["t"]
    ),
    "rtmo-s-body7": Facts("body7/rtmo-s_8xb32-600e_body7-640x640.py", 600, 280, 20, 20, COCO, 1.0, *SMALL, YOLOX["s"]),
    "rtmo-m-body7": Facts("body7/rtmo-m_16xb16-600e_body7-640x640.py", 600, 280, 20, 20, COCO, 1.0, *LARGE, YOLOX["m"]),
    "rtmo-l-body7": Facts("body7/rtmo-l_16xb16-600e_body7-640x640.py", 600, 280, 20, 20, COCO, 1.0, *LARGE, YOLOX["l"]),
    "rtmo-s-crowdpose": Facts(
        "crowdpose/rtmo-s_8xb32-700e_crowdpose-640x640.py", 700, 350, 30, 50, WIDE, 1.0, *CROWD, YOLOX["s"]
    ),
    "rtmo-m-crowdpose": Facts(
        "crowdpose/rtmo-m_16xb16-700e_crowdpose-640x640.py", 700, 350, 30, 50, WIDE, 1.0, *CROWD, YOLOX["m"]
    ),
    "rtmo-l-crowdpose": Facts(
        "crowdpose/rtmo-l_16xb16-700e_crowdpose-640x640.py", 700, 350, 30, 50, WIDE, 1.0, *CROWD, YOLOX["l"]
    ),
    "rtmo-l-body7-crowdpose": Facts(
        "crowdpose/rtmo-l_16xb16-700e_body7-crowdpose-640x640.py", 700, 350, 30, 50, COCO, 1.0, *CROWD, YOLOX["l"]
    ),
}
AFFINE = {COCO: (0.1, 10, (0.75, 1.0), (0.8, 1.6)), WIDE: (0.2, 30, (0.5, 1.5), (0.6, 1.6))}
BODY7_FILES = {
    "coco": ("coco/annotations/person_keypoints_train2017.json", "coco/train2017"),
    "aic": (
        "aic/annotations/aic_train.json",
        "pose/ai_challenge/ai_challenger_keypoint_train_20170902/keypoint_train_images_20170902",
    ),
    "crowdpose": ("crowdpose/annotations/mmpose_crowdpose_trainval.json", "pose/CrowdPose/images"),
    "mpii": ("mpii/annotations/mpii_train.json", "pose/MPI/images"),
    "jhmdb": ("jhmdb/annotations/Sub1_train.json", "pose/JHMDB"),
    "halpe": ("halpe/annotations/halpe_train_v1.json", "pose/Halpe/hico_20160224_det/images/train2015"),
    "posetrack18": ("posetrack18/annotations/posetrack18_train.json", "pose/PoseChallenge2018"),
}
RATIOS = (1, 0.3, 0.5, 0.3, 0.3, 0.4, 0.3)
CROWD_RATIOS = (1, 0.3, 1, 0.3, 0.3, 0.4, 0.3)
#: For each of CrowdPose's 14 keypoints, the one of the set; None where it has none.
LIMBS = (5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16)
CROWD_SOURCES = {
    "coco": (*LIMBS, None, None),
    "aic": (3, 0, 4, 1, 5, 2, 9, 6, 10, 7, 11, 8, 12, 13),
    "mpii": (13, 12, 14, 11, 15, 10, 3, 2, 4, 1, 5, 0, 9, 7),
    "jhmdb": (4, 3, 8, 7, 12, 11, 6, 5, 10, 9, 14, 13, 2, 0),
    "halpe": (*LIMBS, None, None),
    "posetrack18": (*LIMBS, 2, 1),
}
#: Epoch: learning rate of most parameters, of the encoder.
RATES = {
    280: {
        0: (4e-07, 2e-08),
        1: (0.0001764, 8.82e-06),
        3: (0.0014884, 7.442e-05),
        5: (0.004, 0.0002),
        50: (0.0037629245, 0.0002),
        100: (0.00301906589, 0.0002),
        150: (0.00199346615, 0.0002),
        200: (0.00100052454, 0.0002),
        240: (0.000437075498, 0.0002),
        260: (0.000274257088, 0.0002),
        279: (0.000204303737, 0.0002),
        280: (0.000507622788, 0.0005),
        281: (0.000507622788, 0.0005),
        300: (0.00050458827, 0.000497040676),
        350: (0.000469187024, 0.00046251666),
        400: (0.00040287097, 0.000397843896),
        450: (0.000323409443, 0.000320351399),
        500: (0.000252094094, 0.00025080322),
        550: (0.000208033814, 0.000207834738),
        570: (0.000201019344, 0.000200994085),
        580: (0.000200009298, 0.000200009068),
        599: (0.000200009298, 0.000200009068),
    },
    350: {
        0: (4e-07, 2e-08),
        1: (0.0001764, 8.82e-06),
        3: (0.0014884, 7.442e-05),
        5: (0.004, 0.0002),
        50: (0.00384710277, 0.0002),
        100: (0.00335008358, 0.0002),
        150: (0.00260547001, 0.0002),
        200: (0.0017607419, 0.0002),
        250: (0.000983208021, 0.0002),
        300: (0.000426868489, 0.0002),
        330: (0.000247636967, 0.0002),
        348: (0.000203749216, 0.0002),
        350: (0.000507002148, 0.0005),
        360: (0.000506262998, 0.000499277709),
        400: (0.000488876935, 0.00048228819),
        450: (0.000438781701, 0.000433335535),
        500: (0.00036854681, 0.000364702571),
        550: (0.000294758756, 0.000292597485),
        600: (0.000234843139, 0.000234048432),
        650: (0.00020294948, 0.000202882208),
        670: (0.000200000018, 0.000200000018),
        699: (0.000200000018, 0.000200000018),
    },
}


def recipe_of(name):
    return load_recipe(FOLDER / f"{name}.yaml")


def place_of(path):
    return path.resolve().relative_to((FOLDER / "../../data").resolve()).as_posix()


def test_every_published_model_has_a_recipe_and_a_row():
    assert {path.stem for path in FOLDER.glob("*.yaml")} == {*VARIANTS, "rtmo-n-synthetic"}
    assert set(FACTS) == set(VARIANTS)


@pytest.mark.parametrize("name", FACTS)
def test_what_is_trained_and_for_how_long(name):
    recipe, facts, variant = recipe_of(name), FACTS[name], VARIANTS[name]
    assert recipe.name == name
    assert recipe.model.architecture == variant.architecture.name
    assert recipe.input == variant.input_hw
    assert (recipe.epochs, recipe.val_interval) == (facts.epochs, facts.val_interval)
    assert recipe.batch == recipe.optimizer.base_batch == 256
    assert (recipe.ema, recipe.precision, recipe.sync_norms) == (2e-4, "fp32", False)
    text = (FOLDER / f"{name}.yaml").read_text(encoding="utf-8")
    assert f"rtmo/{facts.config}\n" in text
    assert facts.backbone in text
    assert f"AP {variant.accuracy.ap:.3f} on {variant.accuracy.dataset}" in text
    processes, each = (8, 32) if "_8xb32" in facts.config else (16, 16)
    assert f"batch: 256   # {processes} GPUs with {each} each" in text


@pytest.mark.parametrize("name", FACTS)
def test_optimizer_schedule_and_loss(name):
    recipe, facts = recipe_of(name), FACTS[name]
    optimizer = recipe.optimizer
    assert (optimizer.lr, optimizer.weight_decay, optimizer.clip, optimizer.encoder_lr) == (0.004, 0.05, 0.1, 0.05)
    schedule = recipe.schedule
    assert (schedule.warmup, schedule.min_lr, schedule.second_lr) == (5, 2e-4, 5e-4)
    assert (schedule.switch, schedule.constant) == (facts.switch, facts.plain)
    loss = recipe.loss
    assert (loss.cls, loss.bbox, loss.oks, loss.vis, loss.bbox_aux) == (1, 5, 30, 1, 1)
    assert (loss.mle, loss.overlaps_power, loss.keypoint_center) == (facts.mle, 0.5, facts.keypoint_center)
    second = recipe.second_stage
    assert (second.mle, second.oks) == (5, 10)
    assert (second.cls, second.overlaps_power) == (facts.second_cls, facts.second_power)


@pytest.mark.parametrize("name", FACTS)
def test_augmentation(name):
    recipe, facts = recipe_of(name), FACTS[name]
    assert recipe.augment.plain_epochs == facts.plain
    assert recipe.augment.multi_scale == facts.multi_scale
    main = augment_options(recipe.augment, recipe.input, plain=False)
    shift, rotate, scale, mixup_scale = AFFINE[facts.affine]
    assert (main.affine.shift, main.affine.rotate, main.affine.scale) == (shift, rotate, scale)
    assert (main.mosaic, main.mixup, main.flip, main.hsv) == (1.0, facts.mixup, 0.5, (5, 30, 30))
    assert not main.mixup or main.mixup_scale == mixup_scale
    plain = augment_options(recipe.augment, recipe.input, plain=True)
    assert (plain.mosaic, plain.mixup, plain.flip, plain.hsv) == (0.0, 0.0, 0.5, (5, 30, 30))
    assert (plain.affine is not None) == facts.plain_window


@pytest.mark.parametrize("name", FACTS)
def test_data(name):
    recipe, variant = recipe_of(name), VARIANTS[name]
    crowd = variant.accuracy.dataset == "CrowdPose test"
    assert recipe.data.metric == ("crowdpose" if crowd else "coco")
    val = ("crowdpose/annotations/mmpose_crowdpose_test.json", "pose/CrowdPose/images")
    if not crowd:
        val = ("coco/annotations/person_keypoints_val2017.json", "coco/val2017")
    assert (place_of(recipe.data.val.annotations), place_of(recipe.data.val.images)) == val
    sets = list(BODY7_FILES)
    if "body7" not in name:
        sets = [name.rpartition("-")[2]]
    found = [(place_of(source.annotations), place_of(source.images)) for source in recipe.data.train]
    assert found == [BODY7_FILES[one] for one in sets]
    if len(sets) == 1:
        assert (recipe.data.train[0].ratio, recipe.data.train[0].mapping) == (None, None)
        return
    assert recipe.data.skeleton == variant.skeleton.name
    assert tuple(source.ratio for source in recipe.data.train) == (CROWD_RATIOS if crowd else RATIOS)
    for one, source in zip(sets, recipe.data.train, strict=True):
        if not crowd:
            assert source.mapping == one
        elif one == "crowdpose":
            assert source.mapping is None
        else:
            wanted = {(origin, target) for target, origin in enumerate(CROWD_SOURCES[one]) if origin is not None}
            assert len(source.mapping) == len(wanted)
            assert set(source.mapping) == wanted


@pytest.mark.parametrize("name", FACTS)
def test_learning_rate_follows_the_reference(name):
    recipe, facts = recipe_of(name), FACTS[name]
    for epoch, expected in RATES[facts.switch].items():
        rates = [learning_rate(recipe, STEPS, epoch * STEPS, factor) for factor in (1.0, recipe.optimizer.encoder_lr)]
        assert rates == pytest.approx(expected, rel=5e-4), epoch


def commands():
    text = (FOLDER.parent / "README.md").read_text(encoding="utf-8")
    blocks = text.split("```")[1::2]
    return [shlex.split(block.replace("\\\n", " ")) for block in blocks]


@pytest.mark.parametrize("command", commands(), ids=lambda command: " ".join(command)[:40])
def test_the_commands_of_the_readme_fit_the_recipes(command):
    (path,) = [word for word in command if word.endswith(".yaml")]
    settings = [value for flag, value in itertools.pairwise(command) if flag == "--set"]
    recipe = with_settings(load_recipe(FOLDER.parents[1] / path), settings)
    processes = int(command[command.index("--nproc-per-node") + 1]) if "--nproc-per-node" in command else 1
    assert recipe.batch // recipe.accumulate // processes == 32
    assert all(source.annotations.is_absolute() for source in recipe.data.train)


def test_the_table_of_the_readme_names_every_recipe():
    lines = (FOLDER.parent / "README.md").read_text(encoding="utf-8").splitlines()
    rows = [[cell.strip(" `") for cell in line.split("|")[1:-1]] for line in lines if line.startswith("| `")]
    assert {row[0] for row in rows} == {path.stem for path in FOLDER.glob("*.yaml")}
    for name, _, epochs, size, pictures, ap in rows:
        recipe = recipe_of(name)
        assert int(epochs) == recipe.epochs
        assert size == f"{recipe.input[0]}x{recipe.input[1]}"
        assert math.prod(int(part) for part in pictures.split("x")) == recipe.batch
        if name in VARIANTS:
            accuracy = VARIANTS[name].accuracy
            assert ap == f"{accuracy.ap:.3f} {accuracy.dataset.split()[0]}"
