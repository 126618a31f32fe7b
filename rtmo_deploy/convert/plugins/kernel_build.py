"""Builds the PTX of the decode kernel from its source by NVRTC, without a GPU, a driver or a CUDA toolkit.

The PTX is shipped, so that only who changes the kernel needs a compiler. NVRTC is deterministic: a test builds it again
and compares bytes. Release 12.1 writes PTX that every driver from 530 on takes, and still knows ``compute_70``.
"""

from __future__ import annotations

import ctypes
import hashlib
import importlib.util
import json
from dataclasses import asdict
from pathlib import Path

from rtmo_deploy.errors import SetupError
from rtmo_deploy.files import write_whole
from rtmo_deploy.runtime.plugins.kernel import PTX_PATH, RECORD_PATH, KernelRecord

SOURCE_PATH = Path(__file__).with_name("rtmo_decode.cu")
#: Volta, the oldest GPU that is served; drivers compile its PTX for every later one.
ARCHITECTURE = "compute_70"
COMPILER = (12, 1)
WHEEL = "nvidia-cuda-nvrtc-cu12==12.1.105"
_LIBRARY = "libnvrtc.so.12"
#: No a * b + c in one rounding: comparisons shall fall as in NumPy. The others are NVRTC's defaults, written down.
OPTIONS = ("--fmad=false", "--ftz=false", "--prec-div=true", "--prec-sqrt=true", "--std=c++03")


def build_kernel() -> tuple[bytes, KernelRecord]:
    """PTX of the source, and its record."""
    found = nvrtc_version()
    if found != COMPILER:
        raise SetupError(
            f"NVRTC is of version {found[0]}.{found[1]}; the shipped kernel is built with {COMPILER[0]}.{COMPILER[1]}.",
            remedy=f"Install it with: pip install {WHEEL}",
        )
    source = SOURCE_PATH.read_bytes()
    ptx = compile_source(source.decode("utf-8"), ARCHITECTURE).rstrip(b"\0")
    record = KernelRecord(
        source_sha256=hashlib.sha256(source).hexdigest(),
        ptx_sha256=hashlib.sha256(ptx).hexdigest(),
        compiler=f"NVRTC {found[0]}.{found[1]}",
        architecture=ARCHITECTURE,
        options=OPTIONS,
    )
    return ptx, record


def write_kernel() -> KernelRecord:
    """Build the kernel and put PTX and record where they are shipped from."""
    ptx, record = build_kernel()
    text = json.dumps(asdict(record), indent=2) + "\n"
    for path, content in ((PTX_PATH, ptx), (RECORD_PATH, text.encode())):
        write_whole(path, content)
    return record


def nvrtc_version() -> tuple[int, int]:
    """Version of NVRTC that is installed."""
    major, minor = ctypes.c_int(), ctypes.c_int()
    library = _library()
    _check(library, library.nvrtcVersion(ctypes.byref(major), ctypes.byref(minor)), "nvrtcVersion")
    return major.value, minor.value


def compile_source(source: str, architecture: str, kind: str = "PTX") -> bytes:
    """``PTX`` (text that ends with a zero byte) or ``CUBIN`` (machine code) of a CUDA C++ source."""
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
    try:
        spec = importlib.util.find_spec("nvidia.cuda_nvrtc")
    except ModuleNotFoundError:
        spec = None
    folders = [] if spec is None else [Path(place) / "lib" for place in spec.submodule_search_locations or ()]
    for name in (*(str(folder / _LIBRARY) for folder in folders), _LIBRARY):
        try:
            return ctypes.CDLL(name)
        except OSError:
            continue
    raise SetupError(
        "NVRTC, which compiles the decode kernel, is not installed.", remedy=f"Install it with: pip install {WHEEL}"
    )
