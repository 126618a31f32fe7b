"""The notes that the restricted unpickler takes of storages and tensors, and the checks they must pass.

A tensor in a pickle is a claim: so many values, in such an order, out of such a run of bytes. It is checked
here, before any memory is asked for, that it lies inside its storage. Whether the file has such a storage is
checked when its bytes are fetched.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from collections.abc import Callable

_MAX_ELEMENTS = 1 << 40
_MAX_DIMS = 16

_DTYPE_NAMES = (
    "float32", "float64", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool",
    "uint16", "uint32", "uint64", "float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz",
    "float8_e8m0fnu", "float4_e2m1fn_x2", "complex32", "complex64", "complex128",
)  # fmt: skip
DTYPES: dict[str, torch.dtype] = {
    f"torch.{name}": getattr(torch, name) for name in _DTYPE_NAMES if hasattr(torch, name)
}
STORAGES: dict[str, torch.dtype] = {
    "torch.FloatStorage": torch.float32,
    "torch.DoubleStorage": torch.float64,
    "torch.HalfStorage": torch.float16,
    "torch.BFloat16Storage": torch.bfloat16,
    "torch.LongStorage": torch.int64,
    "torch.IntStorage": torch.int32,
    "torch.ShortStorage": torch.int16,
    "torch.CharStorage": torch.int8,
    "torch.ByteStorage": torch.uint8,
    "torch.BoolStorage": torch.bool,
    "torch.ComplexFloatStorage": torch.complex64,
    "torch.ComplexDoubleStorage": torch.complex128,
    "torch.QInt8Storage": torch.int8,
    "torch.QUInt8Storage": torch.uint8,
    "torch.QInt32Storage": torch.int32,
    "torch.UntypedStorage": torch.uint8,
    "torch.storage.UntypedStorage": torch.uint8,
}


class RefusedError(Exception):
    """The pickle asks for something that no checkpoint needs; the message names it."""


class DamagedError(Exception):
    """The pickle contradicts itself; the message says how."""


@dataclass(frozen=True, slots=True)
class StorageRef:
    """A flat run of numbers in the checkpoint file, by its key there."""

    key: str
    dtype: torch.dtype
    numel: int

    @property
    def nbytes(self) -> int:
        """Size in bytes."""
        return self.numel * self.dtype.itemsize


@dataclass(frozen=True, slots=True, eq=False)
class TensorRef:
    """A tensor as the pickle describes it; made by :func:`_tensor`, so it lies inside its storage."""

    storage: StorageRef
    dtype: torch.dtype
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Size in bytes of all its values; a broadcast view has more than its storage."""
        return _product(self.size) * self.dtype.itemsize


class Inert:
    """Stands for an object that the pickle describes and nobody builds. It has a name and nothing else."""

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name


@dataclass(frozen=True, slots=True)
class Global:
    """A function or class the pickle names: the name, and nothing behind it."""

    name: str


def quoted(text: str) -> str:
    """A string out of a file, made safe and short enough for an error message."""
    return repr(text if len(text) <= 80 else text[:77] + "...")


def kind_of(value: object) -> str:
    """What an error message calls a value."""
    return value.name if isinstance(value, Inert | Global) else type(value).__name__


_HASHABLE = (str, int, float, bool, bytes, type(None), Inert, Global, torch.dtype)


def hashable(value: Any) -> Any:
    """A dictionary key whose hash is quick; that of deeply nested tuples would overflow the C stack."""
    if type(value) in _HASHABLE or (type(value) is tuple and all(type(item) in _HASHABLE for item in value)):
        return value
    raise DamagedError(f"a {kind_of(value)} is used as a key")


def _product(sizes: tuple[int, ...]) -> int:
    count = 1
    for size in sizes:
        count *= size
    return count


def short_numbers(value: Any) -> tuple[int, ...]:
    """A shape or stride, checked."""
    if type(value) is not tuple or len(value) > _MAX_DIMS:
        raise DamagedError("a tensor's shape is not a short list of numbers")
    if any(type(item) is not int or not 0 <= item <= _MAX_ELEMENTS for item in value):
        raise DamagedError("a tensor's shape has an impossible number")
    return value


def _tensor(storage: Any, offset: Any, size: Any, stride: Any, dtype: torch.dtype | None = None) -> TensorRef:
    if type(storage) is not StorageRef:
        raise DamagedError(f"a tensor is made from a {kind_of(storage)}")
    (offset,), size, stride = short_numbers((offset,)), short_numbers(size), short_numbers(stride)
    if len(size) != len(stride):
        raise DamagedError("a tensor has other strides than dimensions")
    if _product(tuple(max(length, 1) for length in size)) > _MAX_ELEMENTS:
        raise DamagedError("a tensor is absurdly large")
    dtype = dtype or storage.dtype
    # A stride along a dimension of one element means nothing and may be anything.
    stride = tuple(step if length > 1 else 1 for length, step in zip(size, stride, strict=True))
    if 0 not in size:
        last = offset + sum((length - 1) * step for length, step in zip(size, stride, strict=True))
        if (last + 1) * dtype.itemsize > storage.nbytes:
            raise DamagedError("a tensor reaches beyond the end of its storage")
    return TensorRef(storage, dtype, offset, size, stride)


def _plain_view(metadata: tuple[Any, ...]) -> None:
    if any(metadata):
        raise RefusedError("a tensor with a pending negation or conjugation")


def _tensor_v1(arguments: tuple[Any, ...]) -> TensorRef:
    storage, offset, size, stride = arguments
    return _tensor(storage, offset, size, stride)


def _tensor_v2(arguments: tuple[Any, ...]) -> TensorRef:
    storage, offset, size, stride, _grad, _hooks, *metadata = arguments
    _plain_view(tuple(metadata))
    return _tensor(storage, offset, size, stride)


def _tensor_v3(arguments: tuple[Any, ...]) -> TensorRef:
    storage, offset, size, stride, _grad, _hooks, dtype, *metadata = arguments
    _plain_view(tuple(metadata))
    if type(dtype) is not torch.dtype:
        raise DamagedError("a tensor has no element type")
    return _tensor(storage, offset, size, stride, dtype)


def _parameter(arguments: tuple[Any, ...]) -> TensorRef:
    if not arguments or type(arguments[0]) is not TensorRef:
        raise DamagedError("a parameter holds no tensor")
    return arguments[0]


def storage_of(reference: Any) -> StorageRef:
    """The storage a persistent id stands for: ``("storage", type, key, location, numel)``.

    The legacy format adds what the storage is a view of, which has been None for years.
    """
    match reference:
        case ("storage", Global(name=kind), str(key), str(), int(numel), *view):
            pass
        case ("module", *_):
            raise RefusedError("a whole model together with its source code")
        case _:
            raise DamagedError("it refers to something outside that is not a tensor's storage")
    if view not in ([], [None]):
        raise RefusedError("a storage that is a view of another, which PyTorch has not written for years")
    if kind not in STORAGES or type(numel) is not int or not 0 <= numel <= _MAX_ELEMENTS:
        raise DamagedError(f"storage {quoted(key)} has an impossible type or size")
    return StorageRef(key, STORAGES[kind], numel)


def _other(kind: str) -> Callable[[tuple[Any, ...]], Inert]:
    return lambda _arguments: Inert(f"{kind} tensor")


TENSOR_BUILDERS: dict[str, Callable[[tuple[Any, ...]], Any]] = {
    "torch._utils._rebuild_qtensor": _other("quantized"),
    "torch._utils._rebuild_sparse_tensor": _other("sparse"),
    "torch._utils._rebuild_meta_tensor_no_storage": _other("meta"),
    "torch._utils._rebuild_nested_tensor": _other("nested"),
    "torch.serialization._get_layout": _other("layout of a sparse"),
    "torch._utils._rebuild_tensor": _tensor_v1,
    "torch._utils._rebuild_tensor_v2": _tensor_v2,
    "torch._utils._rebuild_tensor_v3": _tensor_v3,
    "torch._utils._rebuild_parameter": _parameter,
    "torch._utils._rebuild_parameter_with_state": _parameter,
}
