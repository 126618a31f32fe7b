"""What a checkpoint's pickle may describe: the names it may use, and the notes that are taken instead of objects.

Nothing here imports or calls what a name says. A tensor in a pickle is a claim: so many values, in such an order, out
of such a run of bytes. It is checked here, before any memory is asked for, that it lies inside its storage. Whether
the file has such a storage is checked when its bytes are fetched.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from rtmo_deploy.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Callable

_MAX_ELEMENTS = 1 << 40
_MAX_DIMS = 16
# Bytes of an array in ``meta`` that are read: colours and sigmas of keypoints are small.
_LARGEST_ARRAY = 16384


class RefusedError(Exception):
    """The pickle asks for something that no checkpoint needs; the message names it."""


def damaged(why: str) -> CheckpointError:
    """The error of a file that contradicts itself; ``why`` is a clause."""
    return CheckpointError(
        f"The file is damaged or was cut short: {why}.",
        remedy="Fetch or copy the file again, and compare its size or SHA-256 with the source.",
    )


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
    """A tensor as the pickle describes it; it lies inside its storage."""

    storage: StorageRef
    dtype: torch.dtype
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]

    @property
    def numel(self) -> int:
        """Number of its values; a broadcast view has more than its storage."""
        return math.prod(self.size)


@dataclass(slots=True, eq=False)
class Inert:
    """Stands for an object that is not built: its name, and what it would be made from."""

    name: str
    arguments: tuple[Any, ...] = field(default=(), repr=False)
    state: Any = field(default=None, repr=False)


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


def storage_of(reference: Any) -> StorageRef:
    """What a persistent id stands for: ``("storage", type, key, location, numel)``.

    The legacy format adds what the storage is a view of, which has been None for years.
    """
    match reference:
        case ("storage", Global(name=kind), str(key), str(), int(numel), *view):
            pass
        case ("module", *_):
            raise RefusedError("a whole model together with its source code")
        case _:
            raise damaged("it refers to something outside that is not a tensor's storage")
    if view not in ([], [None]):
        raise RefusedError("a storage that is a view of another, which PyTorch has not written for years")
    if kind not in _STORAGES or type(numel) is not int or not 0 <= numel <= _MAX_ELEMENTS:
        raise damaged(f"storage {quoted(key)} has an impossible type or size")
    return StorageRef(key, _STORAGES[kind], numel)


# -- what a call would make


def _numbers(value: Any) -> tuple[int, ...]:
    """A shape or stride, checked."""
    if type(value) is not tuple or len(value) > _MAX_DIMS:
        raise damaged("a tensor's shape is not a short list of numbers")
    if any(type(item) is not int or not 0 <= item <= _MAX_ELEMENTS for item in value):
        raise damaged("a tensor's shape has an impossible number")
    return value


def _tensor(storage: Any, offset: Any, size: Any, stride: Any, dtype: Any = None, pending: Any = None) -> TensorRef:
    if type(storage) is not StorageRef:
        raise damaged(f"a tensor is made from a {kind_of(storage)}")
    if pending:
        raise RefusedError("a tensor with a pending negation or conjugation")
    dtype = storage.dtype if dtype is None else dtype
    if type(dtype) is not torch.dtype:
        raise damaged("a tensor has no element type")
    (offset,), size, stride = _numbers((offset,)), _numbers(size), _numbers(stride)
    if len(size) != len(stride):
        raise damaged("a tensor has other strides than dimensions")
    if math.prod(max(length, 1) for length in size) > _MAX_ELEMENTS:
        raise damaged("a tensor is absurdly large")
    # A stride along a dimension of one element means nothing and may be anything.
    stride = tuple(step if length > 1 else 1 for length, step in zip(size, stride, strict=True))
    if 0 not in size:
        last = offset + sum((length - 1) * step for length, step in zip(size, stride, strict=True))
        if (last + 1) * dtype.itemsize > storage.nbytes:
            raise damaged("a tensor reaches beyond the end of its storage")
    return TensorRef(storage, dtype, offset, size, stride)


def _tensor_v2(
    storage: Any, offset: Any, size: Any, stride: Any, _grad: Any, _hooks: Any, metadata: Any = None
) -> TensorRef:
    return _tensor(storage, offset, size, stride, pending=metadata)


def _tensor_v3(
    storage: Any, offset: Any, size: Any, stride: Any, _grad: Any, _hooks: Any, dtype: Any, metadata: Any = None
) -> TensorRef:
    return _tensor(storage, offset, size, stride, dtype, metadata)


def _parameter(tensor: Any, *_more: Any) -> TensorRef:
    if type(tensor) is not TensorRef:
        raise damaged("a parameter holds no tensor")
    return tensor


def _other_tensor(kind: str, *_arguments: Any) -> Inert:
    return Inert(kind)


def _ordered_dict(*arguments: Any) -> OrderedDict[Any, Any]:
    if arguments:
        raise RefusedError("an OrderedDict made from arguments")
    return OrderedDict()


def _encode(text: Any, encoding: Any) -> bytes | Inert:
    """Bytes, as protocol 2 writes them. Long ones are the contents of arrays, which are not read."""
    if type(text) is not str or encoding != "latin1":
        raise RefusedError("the global '_codecs.encode' with unusual arguments")
    return text.encode("latin-1") if len(text) <= _LARGEST_ARRAY else Inert("bytes")


def _get_attribute(owner: Any, name: Any) -> Inert:
    """``getattr(HistoryBuffer, "mean")``: how a HistoryBuffer refers to its own methods. Nothing else."""
    if type(owner) is not Global or not owner.name.startswith("mmengine.") or type(name) is not str:
        raise RefusedError(f"the global 'builtins.getattr' on a {kind_of(owner)}")
    if not name.isidentifier() or name.startswith("_"):
        raise RefusedError("the global 'builtins.getattr' of a private name")
    return Inert(f"{owner.name}.{name}")


_NUMPY_CODES = frozenset({"f8", "f4", "f2", "i8", "i4", "i2", "i1", "u8", "u4", "u2", "u1", "b1"})


def _numpy_dtype(described: Any) -> np.dtype[Any] | None:
    """A little-endian dtype of plain numbers; None for any other."""
    match described:
        case Inert("numpy.dtype", (str(code), *_), None | (_, "<" | "|", *_)) if code in _NUMPY_CODES:
            return np.dtype("<" + code)
    return None


def _numpy_scalar(described: Any, data: Any) -> int | float | bool | Inert:
    dtype = _numpy_dtype(described)
    if dtype is None or type(data) is not bytes or len(data) != dtype.itemsize:
        return Inert("numpy.generic")
    value: int | float | bool = np.frombuffer(data, dtype)[0].item()
    return value


def array_values(value: Any) -> Any:
    """The values of a small NumPy array of one or two dimensions, as lists; any other value as it is."""
    if type(value) is not Inert or not value.name.endswith("multiarray._reconstruct"):
        return value
    match value.state:
        case (_, tuple(shape), described, False, bytes(data)) if len(shape) in (1, 2):
            dtype = _numpy_dtype(described)
            whole = all(type(side) is int and side > 0 for side in shape)
            if dtype is not None and whole and math.prod(shape) * dtype.itemsize == len(data):
                return np.frombuffer(data, dtype).reshape(shape).tolist()
    return []


# -- what a checkpoint may name. Whatever has no builder becomes an Inert

_DTYPE_NAMES = (
    "float32", "float64", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool",
    "uint16", "uint32", "uint64", "float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz",
    "float8_e8m0fnu", "float4_e2m1fn_x2", "complex32", "complex64", "complex128",
)  # fmt: skip
DTYPES: dict[str, torch.dtype] = {
    f"torch.{name}": getattr(torch, name) for name in _DTYPE_NAMES if hasattr(torch, name)
}
_STORAGES: dict[str, torch.dtype] = {
    f"torch.{name}Storage": getattr(torch, dtype)
    for dtype, names in {
        "float32": "Float", "float64": "Double", "float16": "Half", "bfloat16": "BFloat16", "int64": "Long",
        "int32": "Int QInt32", "int16": "Short", "int8": "Char QInt8", "uint8": "Byte QUInt8 Untyped storage.Untyped",
        "bool": "Bool", "complex64": "ComplexFloat", "complex128": "ComplexDouble",
    }.items()
    for name in names.split()
}  # fmt: skip
#: Tensors that are no dense ones, by what an error calls them.
_OTHER_TENSORS = {
    "torch._utils._rebuild_qtensor": "quantized tensor",
    "torch._utils._rebuild_sparse_tensor": "sparse tensor",
    "torch._utils._rebuild_meta_tensor_no_storage": "meta tensor",
    "torch._utils._rebuild_nested_tensor": "nested tensor",
    "torch.serialization._get_layout": "layout of a sparse tensor",
}
BUILDERS: dict[str, Callable[..., Any]] = {
    **{name: partial(_other_tensor, kind) for name, kind in _OTHER_TENSORS.items()},
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor_v2,
    "torch._utils._rebuild_tensor_v3": _tensor_v3,
    "torch._utils._rebuild_parameter": _parameter,
    "torch._utils._rebuild_parameter_with_state": _parameter,
    "torch.Size": _numbers,
    "collections.OrderedDict": _ordered_dict,
    "collections.defaultdict": lambda *_: {},
    "_codecs.encode": _encode,
    "builtins.getattr": _get_attribute,
    "numpy.core.multiarray.scalar": _numpy_scalar,
    "numpy._core.multiarray.scalar": _numpy_scalar,
}
_INERT_NAMES: dict[str, str] = {
    "builtins": "set frozenset slice complex bytearray bytes object list dict tuple range int float str bool",
    "collections": "Counter deque",
    "argparse": "Namespace",
    "datetime": "datetime date time timedelta timezone",
    "pathlib": "Path PurePath PosixPath PurePosixPath WindowsPath PureWindowsPath",
    "pathlib._local": "Path PurePath PosixPath PurePosixPath WindowsPath PureWindowsPath",
    "numpy": "dtype ndarray float64 float32 float16 int64 int32 int16 int8 uint64 uint32 uint16 uint8 bool_ str_",
    "numpy.core.multiarray": "_reconstruct",
    "numpy._core.multiarray": "_reconstruct",
    "numpy.core.numeric": "_frombuffer",
    "numpy._core.numeric": "_frombuffer",
    "numpy.random._pickle": "__randomstate_ctor __generator_ctor __bit_generator_ctor",
    "torch": "device Tensor qint8 quint8 qint32 "
    "per_tensor_affine per_channel_affine per_tensor_symmetric per_channel_symmetric",
    "torch.nn.parameter": "Parameter Buffer",
    "torch.torch_version": "TorchVersion",
}
_KNOWN = {
    *_STORAGES,
    *BUILDERS,
    *(f"{module}.{name}" for module, names in _INERT_NAMES.items() for name in names.split()),
}
# Whatever of these packages a file names, none of it is imported. The second row: hyperparameters beside weights.
_INERT_PACKAGES = frozenset(
    {
        *("mmengine", "mmpose", "mmcv", "mmdet", "mmyolo", "addict"),
        *("lightning", "lightning_fabric", "pytorch_lightning", "omegaconf"),
    }
)
_NETWORKS = ("torch.nn.modules.", "rtmo_deploy.model.")


def is_known(module: str, name: str) -> bool:
    """Whether a checkpoint may name this global; a dotted ``name`` never is."""
    full = f"{module}.{name}"
    if not name.isidentifier() or not all(map(str.isidentifier, module.split("."))) or len(full) > 200:
        return False
    return full in _KNOWN or module.partition(".")[0] in _INERT_PACKAGES or module.startswith(_NETWORKS)


_HASHABLE = (str, int, float, bool, bytes, type(None), Inert, Global, torch.dtype)


def hashable(value: Any) -> Any:
    """A dictionary key whose hash is quick; that of deeply nested tuples would overflow the C stack."""
    if type(value) in _HASHABLE or (type(value) is tuple and all(type(item) in _HASHABLE for item in value)):
        return value
    raise damaged(f"a {kind_of(value)} is used as a key")
