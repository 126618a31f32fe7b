"""The shipped PTX is made of the source beside it, and the source compiles for every GPU that is served."""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING

import pytest

from rtmo_deploy.convert.plugins import kernel_build
from rtmo_deploy.errors import ArtifactError, SetupError
from rtmo_deploy.runtime.plugins import kernel
from rtmo_deploy.runtime.plugins.kernel import KERNEL_NAME, PTX_PATH, as_float32, float_bits, kernel_record, load_ptx

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def compiler() -> None:
    try:
        found = kernel_build.nvrtc_version()
    except SetupError:
        pytest.skip(f"needs {kernel_build.WHEEL}")
    if found != kernel_build.COMPILER:
        pytest.skip(f"needs {kernel_build.WHEEL}; NVRTC {found} is installed")


def test_the_shipped_ptx_is_of_this_source() -> None:
    # Without a compiler: a source that was changed and not built again is found all the same.
    record = kernel_record()
    source = hashlib.sha256(kernel_build.SOURCE_PATH.read_bytes()).hexdigest()
    assert source == record.source_sha256, "build the PTX again: python -m rtmo_deploy.convert.plugins"
    assert hashlib.sha256(load_ptx()).hexdigest() == record.ptx_sha256
    assert record.architecture == kernel_build.ARCHITECTURE == "compute_70"
    assert record.options == kernel_build.OPTIONS
    assert record.compiler == "NVRTC 12.1"


@pytest.mark.usefixtures("compiler")
def test_the_shipped_ptx_is_built_byte_for_byte() -> None:
    ptx, record = kernel_build.build_kernel()
    assert ptx == PTX_PATH.read_bytes()
    assert record == kernel_record()


@pytest.mark.usefixtures("compiler")
@pytest.mark.parametrize("architecture", ["sm_70", "sm_75", "sm_80", "sm_86", "sm_89", "sm_90"])
def test_the_source_compiles(architecture: str) -> None:
    source = kernel_build.SOURCE_PATH.read_text(encoding="utf-8")
    cubin = kernel_build.compile_source(source, architecture, "CUBIN")
    assert cubin.startswith(b"\x7fELF")
    assert KERNEL_NAME.encode() in cubin


@pytest.mark.usefixtures("compiler")
def test_a_source_that_does_not_compile() -> None:
    with pytest.raises(SetupError, match="nonsense"):
        kernel_build.compile_source("nonsense", "compute_70")
    with pytest.raises(SetupError, match="compute_999"):
        kernel_build.compile_source("", "compute_999")


def test_another_compiler_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel_build, "nvrtc_version", lambda: (12, 9))
    with pytest.raises(SetupError, match=r"12\.9.*12\.1"):
        kernel_build.build_kernel()


def test_the_ptx_is_what_plugins_launch() -> None:
    ptx = load_ptx().decode("ascii")
    assert ".target sm_70" in ptx
    assert ".version 8.1" in ptx
    # Three inputs, five int32, five outputs: TensorRT's ahead-of-time plugins pass them so.
    signature = re.search(rf"\.visible \.entry {KERNEL_NAME}\((.*?)\)", ptx, re.DOTALL)
    assert signature is not None
    assert re.findall(r"\.param \.(\w+)", signature[1]) == ["u64"] * 3 + ["u32"] * 5 + ["u64"] * 5
    assert f".maxntid {kernel.BLOCK}, 1, 1" in ptx
    # Products and sums are rounded one by one, as in NumPy; nothing is flushed to zero.
    assert not re.search(r"\b(fma|mad)\.\w*\.?f(32|64)", ptx)
    assert not re.search(r"\.(ftz|approx)\.", ptx)


def test_a_damaged_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    damaged = tmp_path / "rtmo_decode.ptx"
    damaged.write_bytes(PTX_PATH.read_bytes().replace(b"512", b"511"))
    monkeypatch.setattr(kernel, "PTX_PATH", damaged)
    load_ptx.cache_clear()
    try:
        with pytest.raises(ArtifactError, match="not the one that was shipped"):
            load_ptx()
        damaged.unlink()
        with pytest.raises(ArtifactError, match="cannot be read"):
            load_ptx()
    finally:
        load_ptx.cache_clear()


def test_bits() -> None:
    assert float_bits(1.0) == 0x3F800000
    assert as_float32(0.1) == 0.10000000149011612
    assert kernel.DecodeFields(7, 0.5, 0.25, 3).scalars(99) == (99, 7, 3, 0x3F000000, 0x3E800000)
