"""Arrays that live on a GPU and belong to somebody else: read without a copy, and handed out without one.

Whoever speaks ``__cuda_array_interface__`` (PyCUDA's ``gpuarray``, CuPy, Numba, torch) or DLPack is understood. Only
addresses and shapes are looked at; nothing of CUDA is called.
"""

from __future__ import annotations

import ctypes
import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from rtmo_deploy.errors import UsageError

_CUDA_DEVICE = 2  # kDLCUDA; 13 is kDLCUDAManaged
_CUDA_MANAGED = 13
_CODES = {0: "i", 1: "u", 2: "f"}


@dataclass(frozen=True)
class DeviceArray:
    """A contiguous array on a GPU, not owned.

    It speaks ``__cuda_array_interface__`` itself, so that CuPy, Numba, PyCUDA and torch take it without a copy.

    Attributes:
        pointer: Address on the device.
        shape: Elements along each side.
        dtype: Of an element.
        owner: What must live as long as this array is used.
    """

    pointer: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    owner: Any = field(default=None, repr=False, compare=False)

    @property
    def nbytes(self) -> int:
        """Bytes."""
        return math.prod(self.shape) * self.dtype.itemsize

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        """Version 3 of Numba's specification; no stream, for the caller's own orders what it does."""
        return {
            "shape": self.shape,
            "typestr": self.dtype.str,
            "data": (self.pointer, False),
            "strides": None,
            "version": 3,
            "stream": None,
        }


def as_device_array(value: Any, *, stream: int, what: str = "input") -> DeviceArray:
    """Read an array on the GPU.

    Args:
        value: It.
        stream: CUDA stream that it will be used on; a DLPack producer makes that wait for what fills the array.
        what: What errors call it.

    Raises:
        UsageError: It is not on a GPU, has gaps between its elements, or speaks neither protocol.
    """
    if isinstance(value, DeviceArray):
        return value
    # torch raises from the attribute itself when a tensor is on the CPU or needs a gradient.
    try:
        interface = getattr(value, "__cuda_array_interface__", None)
    except (TypeError, RuntimeError) as error:
        raise UsageError(f"The {what} cannot be used on the GPU: {error}") from error
    if interface is not None:
        return _from_interface(value, interface, what)
    if hasattr(value, "__dlpack__"):
        return _from_dlpack(value, stream, what)
    raise UsageError(
        f"The {what} is a {type(value).__name__}, which is no array on a GPU.",
        remedy="Give something with __cuda_array_interface__ or __dlpack__: PyCUDA's gpuarray, CuPy, torch. "
        "A NumPy array goes to the backend itself.",
    )


def _from_interface(value: Any, interface: dict[str, Any], what: str) -> DeviceArray:
    shape, dtype = tuple(int(side) for side in interface["shape"]), np.dtype(interface["typestr"])
    _require_contiguous(shape, interface.get("strides"), dtype.itemsize, what)
    if interface.get("mask") is not None:
        raise UsageError(f"The {what} has a mask.", remedy="Give a plain array.")
    return DeviceArray(int(interface["data"][0]), shape, dtype, owner=value)


def _require_contiguous(shape: tuple[int, ...], strides: Any, step: int, what: str) -> None:
    if strides is None:
        return
    for side, stride in zip(reversed(shape), reversed(tuple(strides)), strict=True):
        if side != 1 and stride != step:
            raise UsageError(
                f"The {what} is not contiguous: its shape is {shape} and its strides are {tuple(strides)}.",
                remedy="Make a contiguous copy first.",
            )
        step *= side


class _Device(ctypes.Structure):
    _fields_ = (("kind", ctypes.c_int32), ("index", ctypes.c_int32))


class _Type(ctypes.Structure):
    _fields_ = (("code", ctypes.c_uint8), ("bits", ctypes.c_uint8), ("lanes", ctypes.c_uint16))


class _Tensor(ctypes.Structure):
    """``DLTensor`` of dlpack.h; a ``DLManagedTensor`` begins with it."""

    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device", _Device),
        ("ndim", ctypes.c_int32),
        ("dtype", _Type),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    )


def _from_dlpack(value: Any, stream: int, what: str) -> DeviceArray:
    kind = int(value.__dlpack_device__()[0])
    if kind not in {_CUDA_DEVICE, _CUDA_MANAGED}:
        raise UsageError(
            f"The {what} is not on a CUDA GPU: DLPack says device type {kind}.",
            remedy="Move it to the GPU; a NumPy array goes to the backend itself.",
        )
    # The capsule is kept, never consumed: its own destructor then gives the memory back.
    capsule = value.__dlpack__(stream=stream or 1)
    return read_capsule(capsule, (value, capsule), what)


def read_capsule(capsule: Any, owner: Any, what: str) -> DeviceArray:
    """What a DLPack capsule points to; see dlpack.h.

    Raises:
        UsageError: Its elements are no plain numbers, or have gaps between them.
    """
    get_pointer = ctypes.pythonapi.PyCapsule_GetPointer
    get_pointer.restype, get_pointer.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
    tensor = _Tensor.from_address(get_pointer(capsule, b"dltensor"))
    code = _CODES.get(tensor.dtype.code)
    if code is None or tensor.dtype.lanes != 1:
        raise UsageError(f"The {what} is of a type that NumPy does not have.", remedy="Give float32.")
    dtype = np.dtype(f"{code}{tensor.dtype.bits // 8}")
    shape = tuple(tensor.shape[axis] for axis in range(tensor.ndim))
    strides = None
    if tensor.strides:
        strides = tuple(tensor.strides[axis] * dtype.itemsize for axis in range(tensor.ndim))
    _require_contiguous(shape, strides, dtype.itemsize, what)
    return DeviceArray((tensor.data or 0) + tensor.byte_offset, shape, dtype, owner=owner)
