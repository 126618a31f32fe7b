"""JSON-ready forms, and long lists in one line."""

import json
from dataclasses import dataclass
from enum import Enum, StrEnum
from pathlib import Path

import numpy as np
import pytest

from rtmo_deploy.plain import plain, shorten


class Colour(Enum):
    RED = "red"


class Text(StrEnum):
    ONE = "one"


@dataclass(frozen=True)
class Inner:
    size: tuple[int, int]
    _cache: int = 0


@dataclass
class Named:
    inner: Inner

    def to_dict(self):
        return {"renamed": self.inner}


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, None),
        (True, True),
        (2**70, 2**70),
        (float("nan"), None),
        (float("-inf"), None),
        (np.float32(0.5), 0.5),
        (np.float64("nan"), None),
        (np.array([[1, 2], [3, 4]]), [[1, 2], [3, 4]]),
        (np.array([1.0, np.inf]), [1.0, None]),
        (Path("a") / "b", str(Path("a/b"))),
        (Colour.RED, "red"),
        (Text.ONE, "one"),
        ({Colour.RED: {1, 0}}, {"red": [0, 1]}),
        ({1: (x for x in "ab")}, {"1": ["a", "b"]}),
        (Inner((3, 4), 9), {"size": [3, 4]}),
        (Named(Inner((3, 4))), {"renamed": {"size": [3, 4]}}),
    ],
)
def test_plain_is_what_json_takes(value, expected):
    found = plain(value)
    assert found == expected
    assert type(found) is type(expected)
    json.dumps(found, allow_nan=False)


def test_what_has_no_json_form_is_named():
    with pytest.raises(TypeError, match="object has no JSON form"):
        plain([object()])


@pytest.mark.parametrize(
    ("items", "shown", "text"),
    [("abc", 3, "a, b, c"), ("abcde", 3, "a, b, c and 2 more"), ([], 3, ""), ([1, 2], 1, "1 and 1 more")],
)
def test_shorten(items, shown, text):
    assert shorten(items, shown) == text
