"""What the names in a checkpoint's pickle stand for: the tables of the restricted unpickler.

Nothing here imports or calls what a name says. A name is a key in a table; its value is one of our own
builders, which notes down a tensor or makes a plain value. A name without one becomes an ``Inert``.
"""

from __future__ import annotations

import math
import struct
from collections import OrderedDict
from typing import TYPE_CHECKING, Any

from rtmo_deploy.model._pickle_refs import (
    STORAGES,
    TENSOR_BUILDERS,
    Global,
    Inert,
    RefusedError,
    kind_of,
    short_numbers,
)

if TYPE_CHECKING:
    from collections.abc import Callable

#: Bytes of an array in ``meta`` that are read: colours and sigmas of keypoints are small.
_LARGEST_ARRAY = 16384


class NumpyType:
    """A numpy dtype, as far as a scalar in ``meta`` needs it: its code, or "" for one that is not read."""

    __slots__ = ("code",)

    def __init__(self, code: str) -> None:
        self.code = code

    def restore(self, state: Any) -> None:
        """Take the state numpy gives its dtypes; only the byte order matters."""
        if type(state) is not tuple or len(state) < 2 or state[1] not in ("<", "|"):
            self.code = ""


class NumpyArray(list[Any]):
    """A small numpy array of numbers in ``meta`` as nested lists; empty for one that is not read."""

    def restore(self, state: Any) -> None:
        """Take the state numpy gives its arrays: version, shape, dtype, column-major or not, bytes."""
        if type(state) is not tuple or len(state) != 5:
            return
        _, shape, kind, columns, data = state
        layout = _NUMPY_LAYOUTS.get(kind.code) if type(kind) is NumpyType else None
        if layout is None or columns or type(data) is not bytes or type(shape) is not tuple or len(shape) not in (1, 2):
            return
        if not all(type(side) is int and side > 0 for side in shape):
            return
        if math.prod(shape) * struct.calcsize(layout) != len(data):
            return
        values = [one for (one,) in struct.iter_unpack(layout, data)]
        width = shape[-1]
        rows = [values[at : at + width] for at in range(0, len(values), width)]
        self[:] = values if len(shape) == 1 else rows


def _numpy_array(_arguments: tuple[Any, ...]) -> NumpyArray:
    return NumpyArray()


def _ordered_dict(arguments: tuple[Any, ...]) -> OrderedDict[Any, Any]:
    if arguments:
        raise RefusedError("an OrderedDict made from arguments")
    return OrderedDict()


def _default_dict(_arguments: tuple[Any, ...]) -> dict[Any, Any]:
    return {}


def _size(arguments: tuple[Any, ...]) -> tuple[int, ...]:
    (size,) = arguments
    return short_numbers(size)


def _encode(arguments: tuple[Any, ...]) -> bytes | Inert:
    """Bytes, as protocol 2 writes them. Long ones are the contents of arrays, which nobody asks for."""
    text, encoding = arguments
    if type(text) is not str or encoding != "latin1":
        raise RefusedError("the global '_codecs.encode' with unusual arguments")
    return text.encode("latin-1") if len(text) <= _LARGEST_ARRAY else Inert("bytes")


def _get_attribute(arguments: tuple[Any, ...]) -> Inert:
    """``getattr(HistoryBuffer, "mean")``: how a HistoryBuffer refers to its own methods. Nothing else."""
    owner, name = arguments
    if type(owner) is not Global or not owner.name.startswith("mmengine.") or type(name) is not str:
        raise RefusedError(f"the global 'builtins.getattr' on a {kind_of(owner)}")
    if not name.isidentifier() or name.startswith("_"):
        raise RefusedError("the global 'builtins.getattr' of a private name")
    return Inert(f"{owner.name}.{name}")


def _numpy_type(arguments: tuple[Any, ...]) -> NumpyType:
    code = arguments[0]
    return NumpyType(code if type(code) is str else "")


_NUMPY_LAYOUTS = {
    "f8": "<d", "f4": "<f", "f2": "<e", "i8": "<q", "i4": "<i", "i2": "<h", "i1": "<b",
    "u8": "<Q", "u4": "<I", "u2": "<H", "u1": "<B", "b1": "<?",
}  # fmt: skip


def _numpy_scalar(arguments: tuple[Any, ...]) -> int | float | bool | Inert:
    kind, data = arguments
    layout = _NUMPY_LAYOUTS.get(kind.code) if type(kind) is NumpyType else None
    if layout is None or type(data) is not bytes or len(data) != struct.calcsize(layout):
        return Inert("numpy.generic")
    value: int | float | bool = struct.unpack(layout, data)[0]
    return value


BUILDERS: dict[str, Callable[[tuple[Any, ...]], Any]] = {
    **TENSOR_BUILDERS,
    "torch.Size": _size,
    "collections.OrderedDict": _ordered_dict,
    "collections.defaultdict": _default_dict,
    "_codecs.encode": _encode,
    "builtins.getattr": _get_attribute,
    "numpy.dtype": _numpy_type,
    "numpy.core.multiarray.scalar": _numpy_scalar,
    "numpy._core.multiarray.scalar": _numpy_scalar,
    "numpy.core.multiarray._reconstruct": _numpy_array,
    "numpy._core.multiarray._reconstruct": _numpy_array,
}

_INERT_NAMES: dict[str, str] = {
    "builtins": "set frozenset slice complex bytearray bytes object list dict tuple range int float str bool",
    "collections": "Counter deque",
    "argparse": "Namespace",
    "datetime": "datetime date time timedelta timezone",
    "pathlib": "Path PurePath PosixPath PurePosixPath WindowsPath PureWindowsPath",
    "pathlib._local": "Path PurePath PosixPath PurePosixPath WindowsPath PureWindowsPath",
    "numpy": "ndarray float64 float32 float16 int64 int32 int16 int8 uint64 uint32 uint16 uint8 bool_ str_",
    "numpy.core.numeric": "_frombuffer",
    "numpy._core.numeric": "_frombuffer",
    "numpy.random._pickle": "__randomstate_ctor __generator_ctor __bit_generator_ctor",
    "torch": "device Tensor qint8 quint8 qint32 "
    "per_tensor_affine per_channel_affine per_tensor_symmetric per_channel_symmetric",
    "torch.nn.parameter": "Parameter Buffer",
    "torch.torch_version": "TorchVersion",
}
_KNOWN = {
    *STORAGES,
    *BUILDERS,
    *(f"{module}.{name}" for module, names in _INERT_NAMES.items() for name in names.split()),
}
# Only ever Inert: whatever of these packages a file names, none of it is imported.
_INERT_PACKAGES = frozenset(
    {
        *("mmengine", "mmpose", "mmcv", "mmdet", "mmyolo", "addict"),
        *("lightning", "lightning_fabric", "pytorch_lightning", "omegaconf"),  # hyperparameters beside a state dict
    }
)

_NETWORKS = ("torch.nn.modules.", "rtmo_deploy.model.")


def is_known(module: str, name: str) -> bool:
    """Whether a checkpoint may name this global; a dotted ``name`` never is."""
    full = f"{module}.{name}"
    if not name.isidentifier() or not all(map(str.isidentifier, module.split("."))) or len(full) > 200:
        return False
    return full in _KNOWN or module.partition(".")[0] in _INERT_PACKAGES or module.startswith(_NETWORKS)
