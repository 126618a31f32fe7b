"""Config texts: literals are read, code is not run, and no text raises."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rtmo_deploy.errors import CheckpointError
from rtmo_deploy.model.config import read_config
from rtmo_deploy.model.mmengine_config import Unreadable, parse_config


def test_literals_names_and_arithmetic() -> None:
    values = parse_config(
        "a = -0.5\nb = dict(x=(1, 2), **{'y': a})\nc = [a, 4 * 32, 'p' 'q', None, True]\nb['z'] = c[1]\n"
        "d: int = 7 // 2\n"
    )[0]
    assert values["b"] == {"x": [1, 2], "y": -0.5, "z": 128}
    assert values["c"] == [-0.5, 128, "pq", None, True]
    assert values["d"] == 3


@pytest.mark.parametrize(
    "text",
    [
        "a = open('x')",
        "import os\na = os",
        "a = [i for i in range(3)]",
        "a = f'{1}'",
        "a = 1\nfor i in 'xy':\n    a = i",
        "a = 9 ** 9 ** 9",
        "a = 2 ** 65",
        "a = [1] * 10 ** 9",
        "a = 'x' * 9",
        "a, b = 1",
        "a = float('nan')",
        "a = 1 / 0",
        "a = b",
        "a = 1\ndef f():\n    global a\n    a = 2\n",
        "dict = print\na = dict(x=1)",
    ],
)
def test_code_is_not_run_but_told(text: str) -> None:
    assert isinstance(parse_config(text)[0]["a"], Unreadable)


@pytest.mark.parametrize(
    "text",
    [
        "a = " + "[" * 5000 + "]" * 5000,
        "a = " + "-" * 50000 + "1",
        "a = " + "1+" * 50000 + "1",
        "a = " + "9" * 5000,
        "a = '\\d'",
        "a = \0",
        "a = '\ud800'",
        "x" * 3_000_000,
        "a = [" + "1," * 500_000 + "]",
        "a = dict(" * 90 + ")" * 90,
        "a = [0] * 99_999\n" + "a = [a] * 99_999\n" * 9,
    ],
)
def test_hostile_text_is_bounded(text: str) -> None:
    values, notes = parse_config(text)
    assert notes or "a" in values


@pytest.mark.parametrize("line", ["a = [a, a]\n", "a = dict(x=a, y=a)\n", "a = [a] * 99_999\n"])
@pytest.mark.parametrize(
    "where", ["data_preprocessor=dict(mean=a)", "backbone=dict(act_cfg=a)", "test_cfg=dict(input_size=a)"]
)
def test_a_value_that_holds_itself_many_times_is_refused_at_once(line: str, where: str) -> None:
    with pytest.raises(CheckpointError):
        read_config("a = 0\n" + line * 50 + f"model = dict({where})\n")


@given(st.text(max_size=200))
def test_no_text_raises(text: str) -> None:
    parse_config(text)
    parse_config(f"model = dict({text})")


_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["type", "act_cfg", "norm_cfg", "eps", "mean", "std", "input_size"]), inner)
    ),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from(["backbone", "neck", "head", "test_cfg", "data_preprocessor"]), _values))
def test_no_values_crash(model: dict[str, Any]) -> None:
    try:
        values, _, _ = read_config({"model": model, "test_pipeline": [model], "codec": model})
    except CheckpointError as error:
        if "asks for what is not supported: " not in str(error):
            raise
    else:
        assert 0 < values.get("score_thr", 1) <= 1


def test_what_code_changes_is_unknown_and_noted() -> None:
    values, _, notes = read_config("model = dict(backbone=dict(act_cfg=dict(type='ReLU')))\nmodel.update(other)\n")
    assert values == {}
    assert any("line 2" in note for note in notes)


def test_a_base_is_noted() -> None:
    assert any("_base_" in note for note in read_config("_base_ = ['x.py']\nmodel = dict()")[2])
    assert any("read_base" in note for note in read_config("with read_base():\n    from .x import *\nmodel = {}")[2])
    assert read_config("_base_ = None\nmodel = dict()")[2] == []


_RELU = "backbone=dict(act_cfg=dict(type='ReLU'))"


@pytest.mark.parametrize(
    "config",
    [
        f"model = dict({_RELU})",
        f"model = dict({_RELU})".encode(),
        f"\ufeffmodel = dict({_RELU})\r\n",
        {"model": {"backbone": {"act_cfg": {"type": "ReLU"}}}},
        '{"model": {"backbone": {"use_depthwise": false, "conv_cfg": null, "act_cfg": {"type": "ReLU"}}}}',
        "{'model': {'backbone': {'act_cfg': {'type': 'ReLU', 'inplace': True}}}}",
        "model = dict([('backbone', dict(act_cfg=dict(type='ReLU')))])",
        f"model = dict(dict({_RELU}), neck=dict())",
        "act, size = 'ReLU', 64\nmodel = dict(backbone=dict(act_cfg=dict(type=act)))",
        "one = two = dict(type='ReLU')\nmodel = dict(backbone=dict(act_cfg=two))",
        "act = 'Re'\nact += 'LU'\nmodel = dict(backbone=dict(act_cfg=dict(type=act)))",
        "model = dict(backbone=dict(_delete_=True, act_cfg=dict(type='mmcv.ReLU', _scope_='mmpose', _delete_=True)))",
        "from torch.nn import ReLU\nmodel = dict(backbone=dict(act_cfg=dict(type=ReLU)))",
        "import torch.nn as nn\nmodel = dict(backbone=dict(act_cfg=dict(type=nn.modules.ReLU)))",
    ],
)
def test_a_config_is_followed_however_it_is_written(config: Any) -> None:
    assert read_config(config)[0] == {"backbone_act": "ReLU"}


def test_arithmetic_that_configs_have() -> None:
    text = (
        "model = dict(data_preprocessor=dict(mean=[127.5] * 3, std=[58.5]), backbone=dict(norm_cfg=dict(type='SyncBN', "
    )
    values, _, _ = read_config(text + "eps=10**-5)))")
    assert (values["mean"], values["std"]) == ((127.5,) * 3, (58.5,) * 3)
    assert values["backbone_eps"] == pytest.approx(1e-5)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("model = [1]", "model is not a dict"),
        ("model = dict(backbone='CSPDarknet')", "model.backbone is not a dict"),
        ("model:\n  backbone: {type: CSPDarknet}\n", "is not Python that can be parsed"),
        ("", "no 'model' that can be read"),
        ("model = dict(data_preprocessor=dict(mean=[x, 1, 1], std=[x, 1, 1]))", "mean cannot be read (line 1"),
        ("test_pipeline = [dict(type='Normalize')]\nmodel = dict()", "test_pipeline[0] is Normalize"),
        ("model = dict(test_cfg=dict(nms_thr=0.5))", "no score_thr: the reference's default, 0.01"),
    ],
)
def test_what_is_not_followed_is_said(text: str, said: str) -> None:
    assert any(said in note for note in read_config(text)[2])


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ("model = dict(neck=dict(act_cfg=dict(type='Mish')))", "model.neck.act_cfg.type"),
        ("model = dict(neck=dict(act_cfg=dict(type='ReLU' if x else 'SiLU')))", "model.neck.act_cfg"),
        ("model = dict(head=dict(head_module_cfg=dict(norm_cfg=None)))", "model.head.head_module_cfg.norm_cfg"),
        ("model = dict(backbone=dict(norm_cfg=dict(type='BN', num_groups=3)))", "model.backbone.norm_cfg.num_groups"),
        ("model = dict(data_preprocessor=dict(mean=[0, 0, 0], std=[1, -1, 1]))", "model.data_preprocessor.std"),
        ("model = dict(data_preprocessor=dict(mean=0, std=1))", "model.data_preprocessor.mean"),
        ("model = dict(data_preprocessor=dict(mean=[1, 1, 1], std=[1, y, 1]))", "model.data_preprocessor.mean"),
        ("model = dict(data_preprocessor=dict(mean=[1, 1, 1], std=[1, 1e999, 1]))", "model.data_preprocessor.std"),
        ("model = dict(test_cfg=dict(input_size=(3, 640, 640)))", "model.test_cfg.input_size"),
        ("model = dict(test_cfg=dict(input_size='640x640'))", "model.test_cfg.input_size"),
        ("model = dict(test_cfg=dict(score_thr=1.5))", "model.test_cfg.score_thr"),
        ("model = dict(test_cfg=dict(score_thr='0.3'))", "model.test_cfg.score_thr"),
        ("model = dict(test_cfg=dict(score_thr=0.3, nms_pre=-1))", "model.test_cfg.nms_pre"),
        (
            "test_pipeline = [dict(type='LoadImage', color_type='grayscale')]\nmodel = dict()",
            "test_pipeline[0].color_type",
        ),
    ],
)
def test_what_cannot_be_followed_is_refused_by_its_field(text: str, field: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        read_config(text)
    assert f"asks for what is not supported: {field} is " in str(caught.value)


def test_sizes_are_width_then_height_and_the_pipeline_stands_in() -> None:
    assert read_config("model = dict(test_cfg=dict(input_size=(960, 640)))")[0]["input_hw"] == (640, 960)
    pipeline = "p = [dict(type='BottomupResize', input_size=(320, 256), pad_val=(114, 114, 114))]\ntest_pipeline = p\n"
    assert read_config(pipeline + "model = dict()")[0]["input_hw"] == (256, 320)
    assert read_config("codec = dict(input_size=(96, 64))\nmodel = dict()")[0]["input_hw"] == (64, 96)
    with pytest.raises(CheckpointError, match=r"pad_val is 0"):
        read_config("test_pipeline = [dict(type='BottomupResize', input_size=(320, 256), pad_val=0)]\nmodel = dict()")


def test_a_threshold_of_0_is_raised_to_the_lowest() -> None:
    values, _, notes = read_config("model = dict(test_cfg=dict(score_thr=0, nms_thr=0.5))")
    assert (values["score_thr"], values["nms_thr"]) == (0.0001, 0.5)
    assert notes
