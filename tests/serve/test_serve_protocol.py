"""The Open Inference Protocol, against a plain reading of its specification."""

from __future__ import annotations

import base64
import contextlib
import json
import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as nps

from rtmo_deploy.errors import UsageError
from rtmo_deploy.serve.protocol import Inference, Tensor, answer, parse_inference

pytest.importorskip("tritonclient.http")

KINDS = {"FP32": np.dtype("<f4"), "UINT8": np.dtype("u1"), "BYTES": np.dtype(object)}
OUTPUTS = (Tensor("scores", "FP32", (-1,)), Tensor("counts", "INT32", (-1,)))
MAX = 2**20

shapes = st.lists(st.integers(1, 4), min_size=1, max_size=4)


@st.composite
def tensors(draw: st.DrawFn) -> tuple[Tensor, np.ndarray[Any, Any]]:
    kind, shape = draw(st.sampled_from(sorted(KINDS))), draw(shapes)
    elements: dict[str, st.SearchStrategy[Any]] = {
        "FP32": st.floats(width=32, allow_nan=False, allow_infinity=False),
        "UINT8": st.integers(0, 255),
        "BYTES": st.binary(max_size=9),
    }
    array = draw(nps.arrays(KINDS[kind], tuple(shape), elements=elements[kind]))
    free = [-1 if draw(st.booleans()) else side for side in shape]
    return Tensor(f"in{draw(st.integers(0, 99))}", kind, tuple(free)), array


def packed(array: np.ndarray[Any, Any]) -> bytes:
    if array.dtype == object:
        return b"".join(struct.pack("<I", len(one)) + one for one in array.ravel())
    return array.tobytes()


def nested(array: np.ndarray[Any, Any], *, flat: bool) -> list[Any]:
    if array.dtype == object:
        array = np.vectorize(lambda one: base64.b64encode(one).decode(), otypes=[object])(array)
    return array.ravel().tolist() if flat else array.tolist()


@settings(deadline=None)
@given(st.lists(tensors(), min_size=1, max_size=3, unique_by=lambda one: one[0].name), st.data())
def test_tensors_come_as_they_were_sent(given_tensors: list[Any], data: st.DataObject) -> None:
    entries, blobs = [], []
    for tensor, array in given_tensors:
        entry: dict[str, Any] = {"name": tensor.name, "datatype": tensor.datatype, "shape": list(array.shape)}
        if data.draw(st.booleans()):
            blobs.append(packed(array))
            entry["parameters"] = {"binary_data_size": len(blobs[-1])}
        else:
            entry["data"] = nested(array, flat=data.draw(st.booleans()))
        entries.append((entry, tensor, array))
    head = json.dumps({"inputs": [entry for entry, _, _ in entries]}).encode()
    length = str(len(head)) if blobs else None
    found = parse_inference(head + b"".join(blobs), length, [one for one, _ in given_tensors], OUTPUTS, max_json=MAX)
    for _, tensor, array in entries:
        got = found.inputs[tensor.name]
        assert (got.dtype, got.shape) == (array.dtype, array.shape)
        np.testing.assert_array_equal(got, array)
    assert found.outputs == {"scores": False, "counts": False}


@settings(deadline=None)
@given(tensors(), st.data())
def test_any_change_of_the_size_is_refused(one: Any, data: st.DataObject) -> None:
    tensor, array = one
    blob = packed(array)
    cut = data.draw(st.integers(0, len(blob) - 1)) if blob else 0
    changed = data.draw(st.sampled_from([blob[:cut], blob + b"\0"])) if blob else b"\0"
    entry = {"name": tensor.name, "datatype": tensor.datatype, "shape": list(array.shape)}
    entry["parameters"] = {"binary_data_size": len(changed)}
    head = json.dumps({"inputs": [entry]}).encode()
    with pytest.raises(UsageError):
        parse_inference(head + changed, str(len(head)), [tensor], OUTPUTS, max_json=MAX)


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=12,
)
KEYS = ["name", "shape", "datatype", "data", "parameters", "binary_data_size", "outputs", "inputs", "id", "binary_data",
        "binary_data_output"]  # fmt: skip


@settings(deadline=None, max_examples=300)
@given(st.data())
def test_nothing_but_usage_errors(data: st.DataObject) -> None:
    """A good request of which some parts are something else."""
    request: Any = {
        "id": "a",
        "inputs": [{"name": "in", "datatype": "FP32", "shape": [2, 2], "data": [1, 2, 3, 4]}],
        "outputs": [{"name": "scores", "parameters": {"binary_data": True}}],
    }
    for _ in range(data.draw(st.integers(1, 3))):
        at: Any = request
        while isinstance(at, dict | list) and at:
            key = data.draw(st.sampled_from(sorted(at, key=str) if isinstance(at, dict) else range(len(at))))
            if not isinstance(at[key], dict | list) or data.draw(st.booleans()):
                at[key] = data.draw(anything)
                break
            at = at[key]
    body = json.dumps(request).encode() + data.draw(st.binary(max_size=8))
    length = data.draw(st.none() | st.integers(-2, len(body) + 2).map(str) | st.text(max_size=4))
    with contextlib.suppress(UsageError):
        found = parse_inference(body, length, [Tensor("in", "FP32", (-1, 2))], OUTPUTS, max_json=MAX)
        assert found.inputs["in"].dtype == np.float32
        assert found.inputs["in"].shape[1:] == (2,)
        assert set(found.outputs) <= {"scores", "counts"}


@given(
    nps.arrays(
        "<f4",
        nps.array_shapes(max_side=4, min_side=0),
        elements=st.floats(width=32, allow_nan=False, allow_infinity=False),
    ),
    nps.arrays(np.int32, st.integers(0, 5)),
    st.booleans(),
    st.booleans(),
)
def test_tritonclient_reads_what_is_answered(scores: Any, counts: Any, one: bool, other: bool) -> None:
    from tritonclient.http import InferResult

    wanted = Inference("me", {}, {"scores": one, "counts": other})
    body, headers = answer(wanted, {"scores": scores, "counts": counts}, model="m", version="1")
    length = headers.get("inference-header-content-length")
    result = InferResult.from_response_body(body, header_length=None if length is None else int(length))
    np.testing.assert_array_equal(result.as_numpy("scores"), scores)
    np.testing.assert_array_equal(result.as_numpy("counts"), counts)
    assert result.as_numpy("counts").dtype == np.int32
    assert (result.get_response()["id"], result.get_response()["model_version"]) == ("me", "1")


def test_what_json_cannot_hold_is_refused() -> None:
    values = {"scores": np.array([1, np.inf], np.float32)}
    with pytest.raises(UsageError, match="not finite"):
        answer(Inference(None, {}, {"scores": False}), values, model="m", version="1")
    body, headers = answer(Inference(None, {}, {"scores": True}), values, model="m", version="1")
    assert body[int(headers["inference-header-content-length"]) :] == values["scores"].tobytes()
