"""Config texts: literals are read, code is not run, and no text raises."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rtmo_deploy.model.config_facts import UnsupportedConfigError, read_config
from rtmo_deploy.model.mmengine_config import Unreadable, parse_config


def test_literals_names_and_arithmetic() -> None:
    values = parse_config(
        "a = -0.5\nb = dict(x=(1, 2), **{'y': a})\nc = [a, 4 * 32, 'p' 'q', None, True]\nb['z'] = c[1]\n"
        "d: int = 7 // 2\n"
    ).values
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
        "a = 1 / 0",
        "a = b",
        "a = 1\ndef f():\n    global a\n    a = 2\n",
        "dict = print\na = dict(x=1)",
    ],
)
def test_code_is_not_run_but_told(text: str) -> None:
    assert isinstance(parse_config(text).values["a"], Unreadable)


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
    ],
)
def test_hostile_text_is_bounded(text: str) -> None:
    result = parse_config(text)
    assert result.notes or "a" in result.values


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
        facts = read_config({"model": model, "test_pipeline": [model], "codec": model})
    except UnsupportedConfigError as error:
        if not error.field:
            raise
    else:
        assert facts.score_thr is None or 0 < facts.score_thr <= 1


def test_what_code_changes_is_unknown_and_noted() -> None:
    facts = read_config("model = dict(backbone=dict(act_cfg=dict(type='ReLU')))\nmodel.update(other)\n")
    assert facts.settings == {}
    assert any("line 2" in note for note in facts.notes)


def test_a_base_is_noted() -> None:
    assert any("_base_" in note for note in read_config("_base_ = ['x.py']\nmodel = dict()").notes)


def test_sizes_are_width_then_height_and_the_pipeline_stands_in() -> None:
    assert read_config("model = dict(test_cfg=dict(input_size=(960, 640)))").input_hw == (640, 960)
    pipeline = "p = [dict(type='BottomupResize', input_size=(320, 256), pad_val=(114, 114, 114))]\ntest_pipeline = p\n"
    assert read_config(pipeline + "model = dict()").input_hw == (256, 320)
    assert read_config("codec = dict(input_size=(96, 64))\nmodel = dict()").input_hw == (64, 96)
    with pytest.raises(UnsupportedConfigError, match=r"pad_val is 0"):
        read_config("test_pipeline = [dict(type='BottomupResize', input_size=(320, 256), pad_val=0)]\nmodel = dict()")


def test_a_threshold_of_0_is_raised_to_the_lowest() -> None:
    facts = read_config("model = dict(test_cfg=dict(score_thr=0, nms_thr=0.5))")
    assert (facts.score_thr, facts.nms_thr) == (0.0001, 0.5)
    assert facts.notes
