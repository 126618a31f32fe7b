"""Recipes: what is read, what is refused, and in which words."""

from pathlib import Path

import pytest
import yaml
from toys import recipe_values, synthetic, toy_recipe

from rtmo_deploy.errors import UsageError
from rtmo_deploy.train.recipe import (
    Recipe,
    load_recipe,
    parse_recipe,
    published_recipe,
    save_recipe,
    with_init,
    with_settings,
)
from rtmo_deploy.train.start import check_same_recipe

ROOT = Path(__file__).parents[2]
HEAD = "name: toy\nepochs: 3\nmodel: {architecture: rtmo-n}\nschedule: {warmup: 1, switch: null, constant: 0}\n"
DATA = "data:\n  train:\n    - {type: synthetic, images: 8}\n"


def complaint(text):
    with pytest.raises(UsageError) as caught:
        parse_recipe(text, where=Path("/somewhere/r.yaml"))
    assert str(caught.value).startswith("/somewhere/r.yaml: ")
    assert caught.value.remedy
    return caught.value.finding


def test_the_recipes_here_are_valid():
    paths = sorted((ROOT / "recipes" / "train").glob("*.yaml"))
    assert paths
    for path in paths:
        assert load_recipe(path).name


def test_a_recipe_survives_being_saved(tmp_path):
    recipe = toy_recipe(data={"train": [synthetic(), {"type": "coco", "annotations": "a.json", "images": "i"}]})
    save_recipe(tmp_path / "r.yaml", recipe)
    assert load_recipe(tmp_path / "r.yaml") == recipe
    assert yaml.safe_load((tmp_path / "r.yaml").read_text())["schema_version"] == 1


def test_paths_are_meant_from_the_recipes_folder(tmp_path, monkeypatch):
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "start.pth").touch()
    source = "data:\n  train:\n    - {type: coco, annotations: ../a.json, images: /abs}\n"
    head = HEAD.replace("architecture: rtmo-n", "architecture: rtmo-n, init: start.pth")
    (tmp_path / "deep" / "r.yaml").write_text(head + source)
    monkeypatch.chdir(tmp_path)
    recipe = load_recipe(Path("deep/r.yaml"))
    assert recipe.data.train[0].annotations == tmp_path / "deep" / ".." / "a.json"
    assert recipe.data.train[0].images == Path("/abs")
    assert recipe.model.init == str(tmp_path / "deep" / "start.pth")
    save_recipe(tmp_path / "elsewhere.yaml", recipe)
    assert load_recipe(tmp_path / "elsewhere.yaml") == recipe
    named = load_recipe_text(tmp_path, HEAD.replace("rtmo-n}", "rtmo-s, init: rtmo-s}") + DATA)
    assert named.model.init == "rtmo-s"


def load_recipe_text(folder, text):
    return parse_recipe(text, where=folder / "r.yaml")


@pytest.mark.parametrize(
    ("text", "finding"),
    [
        (HEAD + DATA + "optimzer: {}\n", "line 8, column 1: optimzer: there is no such field; perhaps 'optimizer'"),
        (
            HEAD + DATA + "optimizer:\n  lrr: 1\n",
            "line 9, column 3: optimizer.lrr: there is no such field; perhaps 'lr'",
        ),
        (
            HEAD + DATA + "loss: {mosiac: 1}\n",
            "column 8: loss.mosiac: there is no such field; perhaps 'augment.mosaic'",
        ),
        (HEAD + DATA + "epoch: x\n", "line 8, column 1: epoch: there is no such field; perhaps 'epochs'"),
        (HEAD + DATA + "batch: many\n", "line 8, column 1: batch: Input should be a valid integer"),
        (
            HEAD + DATA + "input: [100, 64]\n",
            "line 8, column 1: input: height and width must be positive multiples of 32",
        ),
        (HEAD + DATA + "augment: {mosaic: 1.5}\n", "augment.mosaic: Input should be less than or equal to 1"),
        (HEAD + DATA + "augment: {flip: -0.1}\n", "augment.flip: Input should be greater than or equal to 0"),
        (HEAD + DATA + "augment: {mixup: .nan}\n", "a number must be finite"),
        (HEAD + DATA + "augment: {scale: [1.0, 0.5]}\n", "the first must not be greater than the second"),
        (HEAD + DATA + "augment: {hsv: [181, 30, 30]}\n", "Input should be less than or equal to 180"),
        (HEAD + DATA + "augment: {hsv: [5, 30, 256]}\n", "Input should be less than or equal to 255"),
        (HEAD + DATA + "seed: 1\nseed: 2\n", "line 9, column 1: seed: this field is given twice"),
        (HEAD + "data: {train: []}\n", "line 5, column 8: data.train: Tuple should have at least 1 item"),
        (HEAD, "line 1, column 1: data: this field is missing"),
        (HEAD + DATA + "optimizer: {lr: [1\n", "This is not YAML: line"),
        ("- 1\n", "no mapping of fields"),
        ("", "no mapping of fields"),
        (HEAD.replace("rtmo-n", "rtmo-x") + DATA, "there is no architecture 'rtmo-x'; there are rtmo-"),
        (
            HEAD.replace("architecture: rtmo-n", "widen: 1") + DATA,
            "give either 'architecture', or 'deepen' and 'widen'",
        ),
        (HEAD.replace("switch: null", "switch: 3") + DATA, "'schedule.switch' is 3, but there are 3 epochs"),
        (HEAD + DATA + "batch: 5\naccumulate: 2\n", "'batch' 5 is not a multiple of 'accumulate' 2"),
        (HEAD + DATA + "grow: [[0, 0.51]]\n", "'grow' [0, 0.51] gives no size"),
        (HEAD + DATA + "  sigmas: [0.1, 0]\n", "data.sigmas: sigmas must be above 0"),
        (HEAD + DATA + "  val: {type: coco, annotations: a, images: b, ratio: 0.5}\n", "takes no 'ratio'"),
    ],
)
def test_complaints_say_where_and_what(text, finding):
    assert finding in complaint(text)


@pytest.mark.parametrize(
    ("source", "finding"),
    [
        ("{type: synthetic, images: 8, sead: 3}", "data.train.0.sead: there is no such field; perhaps 'seed' is meant"),
        ("{type: synthetic, images: many}", "data.train.0.images: Input should be a valid integer"),
        ("{type: coco, annotations: a}", "data.train.0.images: this field is missing"),
        ("{type: cocoa, images: a}", "data.train.0: 'type' must be one of synthetic, coco"),
        ("{images: 8}", "data.train.0: 'type' must be one of synthetic, coco"),
        ("{type: coco, annotations: a, images: b, mapping: [[0, 1.5]]}", "mapping: give the name of a set of body7"),
        ("{type: coco, annotations: a, images: b, mapping: 3}", "mapping: give the name of a set of body7"),
    ],
)
def test_a_wrong_source_is_one_complaint_about_its_own_kind(source, finding):
    found = complaint(HEAD + f"data:\n  train:\n    - {source}\n")
    assert finding in found
    assert found.startswith("The recipe is wrong: line 7, column ")
    assert ";" not in found.replace("; perhaps", "")


def test_all_complaints_come_at_once():
    found = complaint(HEAD + DATA + "batch: x\nloss: {oks: -1}\n")
    assert "batch:" in found
    assert "loss.oks: Input should be greater than or equal to 0" in found


def test_a_file_that_cannot_be_read(tmp_path):
    with pytest.raises(UsageError, match="There is no such file"):
        load_recipe(tmp_path / "none.yaml")
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UsageError, match="not UTF-8"):
        load_recipe(tmp_path / "binary.yaml")


def test_settings_change_fields():
    recipe = toy_recipe()
    changed = with_settings(
        recipe, ["optimizer.lr=1e-3", "input=[96, 64]", "data.train.0.images=12", "model.init=null", "seed = 7"]
    )
    assert changed.optimizer.lr == 1e-3
    assert changed.input == (96, 64)
    assert changed.data.train[0].images == 12
    assert changed.seed == 7
    assert changed.data.train[0].seed == 1
    assert with_settings(recipe, []) is recipe
    assert with_init(recipe, "we: #1.pth").model.init == "we: #1.pth"


@pytest.mark.parametrize(
    ("setting", "finding"),
    [
        ("optimizer.lrr=1", "names no field of the recipe. Is 'optimizer.lr' meant?"),
        ("zebra=1", "names no field of the recipe. Write"),
        ("epochs", "names no field"),
        ("data.train.3.images=1", "names no field"),
        ("epochs.x=1", "names no field"),
        ("epochs=[", "is not YAML"),
        ("epochs=few", "epochs: Input should be a valid integer"),
    ],
)
def test_wrong_settings(setting, finding):
    with pytest.raises(UsageError) as caught:
        with_settings(toy_recipe(), [setting])
    assert finding in str(caught.value)


def test_the_published_way(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    small = published_recipe("rtmo-s", Path("a.json"), Path("i"))
    assert small.data.train[0].annotations == tmp_path / "a.json"
    assert (small.epochs, small.batch, small.input, small.data.val) == (600, 256, (640, 640), None)
    assert small.augment.multi_scale == (480, 800)
    large = published_recipe("rtmo-l", Path("a"), Path("i"), Path("v"))
    assert large.data.val.images == large.data.train[0].images
    assert (large.loss.mle, large.second_stage.cls, large.second_stage.overlaps_power) == (0.01, 2.0, 1.0)
    assert large.augment.plain_window
    tiny = published_recipe("rtmo-t", Path("a"), Path("i"))
    assert (tiny.augment.mixup, tiny.augment.multi_scale, tiny.input) == (0.0, (320, 640), (416, 416))
    with pytest.raises(UsageError, match="no architecture 'rtmo-z'"):
        published_recipe("rtmo-z", Path("a"), Path("i"))


def test_a_recipe_from_before_a_field_was_there_is_the_same():
    recipe = toy_recipe()
    stored = recipe.model_dump(mode="json")
    del stored["data"]["sigmas"], stored["loss"]["least_cells"], stored["sync_norms"]
    check_same_recipe(stored, recipe, Path("last.pth"))
    check_same_recipe({**stored, "val_interval": 77}, recipe, Path("last.pth"))
    with pytest.raises(UsageError, match="another recipe: loss, seed differ"):
        check_same_recipe(stored, toy_recipe(seed=4, loss={"least_cells": 3}), Path("last.pth"))
    with pytest.raises(UsageError, match=r"later_field.* differ"):
        check_same_recipe({**stored, "later_field": 1}, recipe, Path("last.pth"))


def test_stages_of_the_loss():
    recipe = toy_recipe(epochs=10, schedule={"switch": 5, "constant": 0, "warmup": 0}, augment={"plain_epochs": 2})
    first, second, plain = (recipe.loss_at(epoch) for epoch in (4, 5, 8))
    assert (first.oks, first.mle, first.cls, first.bbox_aux, recipe.in_second_stage(4)) == (30, 1, 1, 0, False)
    assert (second.oks, second.mle, second.cls, second.bbox_aux, recipe.in_second_stage(5)) == (10, 5, 1, 0, True)
    assert (plain.bbox_aux, recipe.loss_at(7).bbox_aux) == (1, 0)
    given = recipe.model_copy(update={"second_stage": recipe.second_stage.model_copy(update={"cls": 2.0})})
    assert given.loss_at(5).cls == 2
    assert given.loss_at(4).cls == 1


def test_epochs_that_are_judged():
    values = recipe_values(
        epochs=10, val_interval=3, augment={"plain_epochs": 2}, schedule={"switch": None, "constant": 0}
    )
    values["data"] = {"train": [synthetic()], "val": synthetic()}
    recipe = Recipe.model_validate(values)
    assert [epoch for epoch in range(10) if recipe.is_judged(epoch)] == [2, 5, 8, 9]
    assert not any(toy_recipe().is_judged(epoch) for epoch in range(3))


def test_sizes_grow():
    recipe = toy_recipe(input=[128, 64], grow=[[2, 1.0], [0, 0.5]])
    assert [recipe.input_at(epoch) for epoch in range(3)] == [(64, 32), (64, 32), (128, 64)]
