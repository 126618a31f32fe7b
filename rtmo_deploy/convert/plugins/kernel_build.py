"""The decode kernel's source, and the PTX that is made of it.

The PTX is shipped, so that nobody needs a compiler. NVRTC is deterministic: a test builds it again and compares bytes.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from pathlib import Path

from rtmo_deploy.convert.plugins.nvrtc import OPTIONS, WHEEL, compile_ptx, nvrtc_version
from rtmo_deploy.errors import SetupError
from rtmo_deploy.files import atomic_write
from rtmo_deploy.runtime.plugins.kernel import PTX_PATH, RECORD_PATH, KernelRecord

SOURCE_PATH = Path(__file__).with_name("rtmo_decode.cu")
#: Volta, the oldest GPU that is served; drivers compile its PTX for every later one.
ARCHITECTURE = "compute_70"
COMPILER = (12, 1)


def build_kernel() -> tuple[bytes, KernelRecord]:
    """PTX of the source, and its record.

    Raises:
        SetupError: NVRTC is not installed, or of another version: its PTX would differ.
    """
    found = nvrtc_version()
    if found != COMPILER:
        raise SetupError(
            f"NVRTC is of version {found[0]}.{found[1]}; the shipped kernel is built with {COMPILER[0]}.{COMPILER[1]}.",
            remedy=f"Install it with: pip install {WHEEL}",
        )
    source = SOURCE_PATH.read_bytes()
    ptx = compile_ptx(source.decode("utf-8"), ARCHITECTURE)
    record = KernelRecord(
        source_sha256=hashlib.sha256(source).hexdigest(),
        ptx_sha256=hashlib.sha256(ptx).hexdigest(),
        compiler=f"NVRTC {found[0]}.{found[1]}",
        architecture=ARCHITECTURE,
        options=OPTIONS,
    )
    return ptx, record


def write_kernel() -> KernelRecord:
    """Build the kernel and put PTX and record where they are shipped from.

    Raises:
        SetupError: As :func:`build_kernel`, or the files cannot be written.
    """
    ptx, record = build_kernel()
    with atomic_write(PTX_PATH) as temporary:
        temporary.write_bytes(ptx)
    with atomic_write(RECORD_PATH) as temporary:
        temporary.write_text(json.dumps(asdict(record), indent=2) + "\n", encoding="utf-8")
    return record
