"""CUDA C++ to PTX or cubin by NVRTC, without a GPU, a driver or a CUDA toolkit.

Only who changes the kernel needs this. The library comes from the wheel ``nvidia-cuda-nvrtc-cu12``; its release 12.1
writes PTX that every driver from 530 on takes, and is the last but some that knows ``compute_70`` (CUDA 13 does not).
"""

from __future__ import annotations

import ctypes
import importlib.util
from pathlib import Path

from rtmo_deploy.errors import SetupError

WHEEL = "nvidia-cuda-nvrtc-cu12==12.1.105"
_LIBRARY = "libnvrtc.so.12"
#: No a * b + c in one rounding: comparisons shall fall as in NumPy. The others are NVRTC's defaults, written down.
OPTIONS = ("--fmad=false", "--ftz=false", "--prec-div=true", "--prec-sqrt=true", "--std=c++03")


def nvrtc_version() -> tuple[int, int]:
    """Version of NVRTC that is installed.

    Raises:
        SetupError: There is none.
    """
    major, minor = ctypes.c_int(), ctypes.c_int()
    library = _library()
    _check(library, library.nvrtcVersion(ctypes.byref(major), ctypes.byref(minor)), "nvrtcVersion")
    return major.value, minor.value


def compile_ptx(source: str, architecture: str) -> bytes:
    """PTX text of a CUDA C++ source.

    Args:
        source: CUDA C++.
        architecture: Such as ``compute_70``.

    Raises:
        SetupError: NVRTC is not installed, or it refuses the source; its log is in the message.
    """
    return _compile(source, architecture, "PTX").rstrip(b"\0")


def compile_cubin(source: str, architecture: str) -> bytes:
    """Machine code of a CUDA C++ source for one GPU architecture, such as ``sm_90``.

    Raises:
        SetupError: As :func:`compile_ptx`.
    """
    return _compile(source, architecture, "CUBIN")


def _compile(source: str, architecture: str, kind: str) -> bytes:
    library = _library()
    program = ctypes.c_void_p()
    created = library.nvrtcCreateProgram(ctypes.byref(program), source.encode(), b"rtmo_decode.cu", 0, None, None)
    _check(library, created, "nvrtcCreateProgram")
    try:
        options = [option.encode() for option in (f"--gpu-architecture={architecture}", *OPTIONS)]
        status = library.nvrtcCompileProgram(program, len(options), (ctypes.c_char_p * len(options))(*options))
        if status:
            log = _get(library, program, "ProgramLog").rstrip(b"\0").decode(errors="replace").strip()
            _check(library, status, f"nvrtcCompileProgram for {architecture}", log)
        return _get(library, program, kind)
    finally:
        library.nvrtcDestroyProgram(ctypes.byref(program))


def _get(library: ctypes.CDLL, program: ctypes.c_void_p, what: str) -> bytes:
    size = ctypes.c_size_t()
    _check(library, getattr(library, f"nvrtcGet{what}Size")(program, ctypes.byref(size)), f"nvrtcGet{what}Size")
    buffer = ctypes.create_string_buffer(size.value)
    _check(library, getattr(library, f"nvrtcGet{what}")(program, buffer), f"nvrtcGet{what}")
    return buffer.raw


def _check(library: ctypes.CDLL, status: int, call: str, log: str = "") -> None:
    if status:
        library.nvrtcGetErrorString.restype = ctypes.c_char_p
        reason = library.nvrtcGetErrorString(status).decode()
        raise SetupError(
            f"{call} failed: {reason}{f' ({log})' if log else ''}.",
            remedy=f"The kernel is built with {WHEEL}.",
        )


def _library() -> ctypes.CDLL:
    candidates = []
    try:
        spec = importlib.util.find_spec("nvidia.cuda_nvrtc")
    except ModuleNotFoundError:
        spec = None
    if spec is not None:
        candidates = [str(Path(place) / "lib" / _LIBRARY) for place in spec.submodule_search_locations or ()]
    for name in (*candidates, _LIBRARY):
        try:
            return ctypes.CDLL(name)
        except OSError:
            continue
    raise SetupError(
        "NVRTC, which compiles the decode kernel, is not installed.", remedy=f"Install it with: pip install {WHEEL}"
    )
