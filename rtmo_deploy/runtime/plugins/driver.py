"""Loading and launching a kernel through the CUDA driver, by ctypes: the driver is all that has to be there."""

from __future__ import annotations

import ctypes
import sys
from functools import cache
from typing import TYPE_CHECKING

from rtmo_deploy.errors import SetupError

if TYPE_CHECKING:
    from collections.abc import Sequence

_LIBRARY = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
_UNSUPPORTED_PTX = 222


class DriverKernel:
    """A kernel of a PTX module, in whatever CUDA context is current.

    Args:
        ptx: The module.
        name: The kernel's name in it.
    """

    def __init__(self, ptx: bytes, name: str) -> None:
        self._ptx, self._name = ptx, name
        # By the id of the context: an address may come back, with another context at it.
        self._functions: dict[int, ctypes.c_void_p] = {}

    def prepare(self) -> ctypes.c_void_p:
        """The kernel in the current context, loaded on first use there. Not while a stream is captured.

        Raises:
            SetupError: There is no driver or no context, or the driver cannot compile the PTX for its GPU.
        """
        context = _context_id()
        if context not in self._functions:
            module, function = ctypes.c_void_p(), ctypes.c_void_p()
            _call("cuModuleLoadData", ctypes.byref(module), ctypes.c_char_p(self._ptx))
            _call("cuModuleGetFunction", ctypes.byref(function), module, ctypes.c_char_p(self._name.encode()))
            self._functions[context] = function
        return self._functions[context]

    def launch(
        self,
        blocks: int,
        threads: int,
        inputs: Sequence[int],
        scalars: Sequence[int],
        outputs: Sequence[int],
        stream: int,
    ) -> None:
        """Launch on a stream; does not wait. The kernel's arguments are inputs, scalars, outputs, in that order.

        Args:
            blocks: Of the grid.
            threads: Of a block.
            inputs: Device addresses.
            scalars: int32 values.
            outputs: Device addresses.
            stream: The stream's handle.

        Raises:
            SetupError: As :meth:`prepare`, or the launch is refused.
        """
        function = self.prepare()
        values: list[ctypes.c_void_p | ctypes.c_int] = [ctypes.c_void_p(address) for address in inputs]
        values += [ctypes.c_int(scalar) for scalar in scalars]
        values += [ctypes.c_void_p(address) for address in outputs]
        # The driver reads the arguments before it returns: they need not live longer.
        arguments = (ctypes.c_void_p * len(values))(*(ctypes.addressof(value) for value in values))
        grid = (ctypes.c_uint(blocks), ctypes.c_uint(1), ctypes.c_uint(1))
        block = (ctypes.c_uint(threads), ctypes.c_uint(1), ctypes.c_uint(1))
        _call("cuLaunchKernel", function, *grid, *block, ctypes.c_uint(0), ctypes.c_void_p(stream), arguments, None)


def _context_id() -> int:
    context, number = ctypes.c_void_p(), ctypes.c_ulonglong()
    _call("cuCtxGetCurrent", ctypes.byref(context))
    if not context.value:
        raise SetupError(
            "No CUDA context is current in this thread.", remedy="Create or push one before the engine is opened."
        )
    _call("cuCtxGetId", context, ctypes.byref(number))
    return number.value


@cache
def _library() -> ctypes.CDLL:
    try:
        return ctypes.CDLL(_LIBRARY)
    except OSError as error:
        raise SetupError(
            f"The CUDA driver is not installed ({error}).", remedy="Run engines on a machine with an NVIDIA GPU."
        ) from error


def _call(name: str, *arguments: object) -> None:
    status = getattr(_library(), name)(*arguments)
    if status:
        text = ctypes.c_char_p()
        _library().cuGetErrorString(ctypes.c_int(status), ctypes.byref(text))
        reason = (text.value or b"unknown error").decode(errors="replace")
        remedy = "Update the NVIDIA driver to 530 or later." if status == _UNSUPPORTED_PTX else ""
        raise SetupError(f"{name} failed: {reason} (CUDA error {status}).", remedy=remedy)
