"""The Open Inference Protocol, version 2 (KServe, Triton): tensors in JSON or, as its extension, in bytes behind it."""

from __future__ import annotations

import base64
import contextlib
import json
import math
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from rtmo_deploy.errors import UsageError
from rtmo_deploy.files import UnreadableError
from rtmo_deploy.plain import parse_json

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

#: Header with the length of the JSON part of a body, the rest of which are tensors.
LENGTH_HEADER: Final = "inference-header-content-length"
EXTENSIONS: Final = ("binary_tensor_data",)
_MAX_ELEMENTS: Final = 2**27
_TYPES: Final[dict[str, np.dtype[Any]]] = {
    "FP32": np.dtype("<f4"),
    "INT32": np.dtype("<i4"),
    "UINT8": np.dtype("u1"),
}
#: Types of elements in JSON, and what they are.
_ELEMENTS: Final[dict[str, tuple[set[type], str]]] = {
    "FP32": ({int, float}, "numbers"),
    "UINT8": ({int}, "whole numbers from 0 to 255"),
    "BYTES": ({str}, "texts in base64"),
}


@dataclass(frozen=True)
class Tensor:
    """An input or an output of a model."""

    name: str
    datatype: str  #: ``FP32``, ``INT32``, ``UINT8`` or ``BYTES``, whose elements are base64 in JSON.
    shape: tuple[int, ...]  #: -1 for any.
    optional: bool = False  #: Whether a request may leave it out.

    def to_dict(self) -> dict[str, Any]:
        """Its entry in a model's metadata."""
        return {"name": self.name, "datatype": self.datatype, "shape": list(self.shape)}


@dataclass(frozen=True)
class Inference:
    """A request for an inference."""

    id: str | None
    inputs: Mapping[str, NDArray[Any]]  #: Of BYTES an object array.
    outputs: Mapping[str, bool]  #: Names that are wanted, and whether in bytes.


def parse_inference(
    body: bytes, json_length: str | None, inputs: Sequence[Tensor], outputs: Sequence[Tensor], *, max_json: int
) -> Inference:
    """Read the body of ``POST .../infer``.

    Args:
        body: The body.
        json_length: What the header :data:`LENGTH_HEADER` says; None without one.
        inputs: Those that the model has; all must be there.
        outputs: Those that the model has.
        max_json: Most bytes of the JSON part.

    Raises:
        UsageError: It does not follow the protocol, or is not what the model takes.
    """
    length = len(body)
    if json_length is not None:
        digits = json_length.isascii() and json_length.isdigit() and len(json_length) <= 20
        if not (digits and int(json_length) <= len(body)):
            raise UsageError(f"{LENGTH_HEADER} is '{json_length[:20]}', and the body has {len(body)} bytes.")
        length = int(json_length)
    if length > max_json:
        raise UsageError(
            f"The JSON has {length:,} bytes; at most {max_json:,} are read.",
            remedy="Send tensors in the binary form.",
        )
    try:
        document = parse_json(body[:length])
    except UnreadableError as error:
        raise UsageError(f"The request cannot be read: {error}.") from None
    document = _expect(document, dict, "The request")
    rest = memoryview(body)[length:]
    parameters = _expect(document.get("parameters", {}), dict, "parameters")
    identity = document.get("id")
    if identity is not None:
        _expect(identity, str, "id")
    found: dict[str, NDArray[Any]] = {}
    known = {one.name: one for one in inputs}
    for entry in _expect(document.get("inputs"), list, "inputs"):
        name = _named(entry, known, "input")
        if name in found:
            raise UsageError(f"The input {name} is there twice.")
        found[name], rest = _tensor(entry, known[name], rest)
    for one in inputs:
        if one.name not in found and not one.optional:
            raise UsageError(f"The input {one.name} is missing.")
    if len(rest):
        raise UsageError(f"{len(rest)} bytes of the body belong to no input.")
    return Inference(identity, found, _wanted(document, parameters, {one.name for one in outputs}))


def answer(
    inference: Inference, outputs: Mapping[str, NDArray[Any]], *, model: str, version: str
) -> tuple[bytes, dict[str, str]]:
    """The body and the headers of the response to a request.

    Args:
        inference: The request.
        outputs: Every output of the model, float32 or int32.
        model: Its name.
        version: Its version.

    Raises:
        UsageError: An output that JSON cannot hold.
    """
    entries, blobs = [], []
    for name, binary in inference.outputs.items():
        array = outputs[name]
        datatype = "INT32" if array.dtype.kind == "i" else "FP32"
        entry: dict[str, Any] = {"name": name, "shape": list(array.shape), "datatype": datatype}
        if binary:
            blob = np.ascontiguousarray(array, _TYPES[datatype]).tobytes()
            entry["parameters"] = {"binary_data_size": len(blob)}
            blobs.append(blob)
        elif datatype == "INT32" or np.isfinite(array).all():
            entry["data"] = array.ravel().tolist()
        else:
            raise UsageError(
                f"The output {name} holds numbers that are not finite.", remedy="The input's values are from 0 to 255."
            )
        entries.append(entry)
    document: dict[str, Any] = {"model_name": model, "model_version": version, "outputs": entries}
    if inference.id is not None:
        document["id"] = inference.id
    head = json.dumps(document, separators=(",", ":"), allow_nan=False).encode()
    if not blobs:
        return head, {"content-type": "application/json"}
    return b"".join([head, *blobs]), {"content-type": "application/octet-stream", LENGTH_HEADER: str(len(head))}


def _wanted(document: Mapping[str, Any], parameters: Mapping[str, Any], known: set[str]) -> dict[str, bool]:
    default = parameters.get("binary_data_output", False) is True
    asked = document.get("outputs")
    if asked is None or asked == []:
        return dict.fromkeys(sorted(known), default)
    wanted = {}
    for entry in _expect(asked, list, "outputs"):
        name = _named(entry, known, "output")
        wanted[name] = _parameters(entry).get("binary_data", default) is True
    return wanted


def _named(entry: object, known: Mapping[str, Any] | set[str], what: str) -> str:
    name = _expect(entry, dict, f"An {what}").get("name")
    if not isinstance(name, str) or name not in known:
        raise UsageError(
            f"There is no {what} called {str(name)[:100]!r}.", remedy=f"It has: {', '.join(sorted(known))}."
        )
    return name


def _parameters(entry: Mapping[str, Any]) -> dict[str, Any]:
    parameters: dict[str, Any] = _expect(entry.get("parameters", {}), dict, "parameters")
    for name in ("shared_memory_region", "classification"):
        if name in parameters:
            raise UsageError(f"The parameter {name} of {entry['name']} is not supported.")
    return parameters


def _expect(value: object, kind: type, what: str) -> Any:
    if not isinstance(value, kind):
        words: dict[type, str] = {dict: "an object", list: "a list", str: "text"}
        raise UsageError(f"{what} must be {words[kind]}.")
    return value


def _tensor(entry: Mapping[str, Any], tensor: Tensor, rest: memoryview) -> tuple[NDArray[Any], memoryview]:
    name = tensor.name
    if entry.get("datatype") != tensor.datatype:
        raise UsageError(f"The input {name} is {tensor.datatype}, not {str(entry.get('datatype'))[:20]}.")
    shape = _expect(entry.get("shape"), list, f"The shape of {name}")
    if len(shape) != len(tensor.shape) or not all(type(side) is int and 0 < side <= _MAX_ELEMENTS for side in shape):
        raise UsageError(f"The shape of {name} is {str(shape)[:100]}.", remedy=f"It has the form {list(tensor.shape)}.")
    count = math.prod(shape)
    if count > _MAX_ELEMENTS or any(want not in {-1, side} for want, side in zip(tensor.shape, shape, strict=True)):
        raise UsageError(f"The shape of {name} is {str(shape)[:100]}.", remedy=f"It has the form {list(tensor.shape)}.")
    size = _parameters(entry).get("binary_data_size")
    if size is None:
        return _of_json(entry.get("data"), tensor, shape), rest
    if "data" in entry:
        raise UsageError(f"The input {name} is in the JSON and in bytes.")
    if type(size) is not int or not 0 <= size <= len(rest):
        raise UsageError(f"The input {name} has {str(size)[:20]} bytes, and {len(rest)} are there.")
    return _of_bytes(rest[:size], tensor, shape), rest[size:]


def _of_bytes(data: memoryview, tensor: Tensor, shape: list[int]) -> NDArray[Any]:
    count = math.prod(shape)
    if tensor.datatype == "BYTES":
        return _objects(_unpacked(data, count, tensor.name), shape)
    kind = _TYPES[tensor.datatype]
    if len(data) != count * kind.itemsize:
        raise UsageError(f"The input {tensor.name} has {len(data)} bytes; its shape needs {count * kind.itemsize}.")
    return np.frombuffer(data, kind).reshape(shape)


def _of_json(data: object, tensor: Tensor, shape: list[int]) -> NDArray[Any]:
    values = _flat(_expect(data, list, f"The data of {tensor.name}"), shape)
    types, what = _ELEMENTS[tensor.datatype]
    # NumPy would make text of a list with one text in it: each element as long as the longest.
    if values is not None and set(map(type, values)) <= types:
        with contextlib.suppress(OverflowError, ValueError), np.errstate(over="ignore"):
            if tensor.datatype == "BYTES":
                return _objects([base64.b64decode(one, validate=True) for one in values], shape)
            if tensor.datatype == "UINT8":
                return np.frombuffer(bytes(values), np.uint8).reshape(shape)
            return np.array(values, np.float64).astype("<f4").reshape(shape)  # what is not finite then is refused
    raise UsageError(f"The data of {tensor.name} must be {math.prod(shape)} {what}, as a flat list or in its shape.")


def _flat(values: list[Any], shape: Sequence[int]) -> list[Any] | None:
    """The elements of a flat list, or of lists in lists of this shape; None of others."""
    if len(values) == math.prod(shape) and type(values[0]) is not list:
        return values
    rows = [values]
    for side in shape:
        if not all(type(row) is list and len(row) == side for row in rows):
            return None
        rows = list(chain.from_iterable(rows))
    return rows


def _objects(values: list[bytes], shape: list[int]) -> NDArray[Any]:
    array = np.empty(len(values), object)
    array[:] = values
    return array.reshape(shape)


def _unpacked(data: memoryview, count: int, name: str) -> list[bytes]:
    """BYTES: each element with its length, four bytes little endian, in front."""
    values: list[bytes] = []
    while len(data) >= 4 and len(values) < count:
        length = int.from_bytes(data[:4], "little")
        if length > len(data) - 4:
            break
        values.append(bytes(data[4 : 4 + length]))
        data = data[4 + length :]
    if len(data) or len(values) != count:
        raise UsageError(f"The bytes of {name} are not {count} elements with their lengths.")
    return values
