"""TensorRT's real Python bindings on a machine without TensorRT and without a GPU.

The bindings link three libraries, of which nine functions are called at most; a stub of each lets them be imported, and
everything that needs no builder, runtime or registry is the real thing. The CUDA driver is a stand-in, too: its
``cuLaunchKernel`` runs the decode kernel's host build, on addresses of host memory.

The wheels are looked for where ``RTMO_DEPLOY_TENSORRT_BINDINGS`` says: a folder with files
``tensorrt_cu12_bindings-*.whl``, fetched by ``pip download --no-deps tensorrt_cu12_bindings==10.4.0`` and the like.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
from plugin_host import compile_host

WHEELS = "RTMO_DEPLOY_TENSORRT_BINDINGS"

TENSORRT = """
#define F(n) void* n() { return 0; }
F(createInferBuilder_INTERNAL) F(createInferRefitter_INTERNAL) F(createInferRuntime_INTERNAL)
F(createNvOnnxParserRefitter_INTERNAL) F(createNvOnnxParser_INTERNAL)
F(getBuilderPluginRegistry) F(getPluginRegistry) F(initLibNvInferPlugins)
int getNvOnnxParserVersion() { return 0; }
"""

DRIVER = """
#include <string.h>
typedef unsigned long long u64;
int rtmo_decode_host(int, int, void*, void*, void*, int, int, int, int, int, void*, void*, void*, void*, void*);
static int loads, launches, current = 1;
int loads_so_far() { return loads; }
int launches_so_far() { return launches; }
void set_context(int id) { current = id; }
int cuCtxGetCurrent(void** context) { *context = (void*)(u64)current; return 0; }
int cuCtxGetId(void* context, u64* id) { *id = (u64)context; return 0; }
int cuGetErrorString(int status, const char** text) { *text = status == 222 ? "PTX too new" : "odd"; return 0; }
int cuModuleLoadData(void** module, const char* image) {
    if (current == 13) return 222;
    *module = (void*)7; ++loads;
    return strstr(image, ".visible .entry rtmo_decode(") ? 0 : 200;
}
int cuModuleGetFunction(void** function, void* module, const char* name) {
    *function = (void*)9;
    return module == (void*)7 && !strcmp(name, "rtmo_decode") ? 0 : 500;
}
int cuLaunchKernel(void* function, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz,
                   unsigned shared, void* stream, void** a, void** extra) {
    if (function != (void*)9 || gy != 1 || gz != 1 || bx != 512 || by != 1 || bz != 1 || shared || extra) return 1;
    if (stream != (void*)0x1234) return 400;
    ++launches;
#define P(i) (*(void**)a[i])
#define I(i) (*(int*)a[i])
    return rtmo_decode_host(gx, 0, P(0), P(1), P(2), I(3), I(4), I(5), I(6), I(7), P(8), P(9), P(10), P(11), P(12));
}
"""


def wheels() -> dict[str, Path]:
    """Wheels of TensorRT's bindings by version; none where they are not at hand."""
    folder = os.environ.get(WHEELS)
    tag = f"cp{sys.version_info.major}{sys.version_info.minor}"
    found = sorted(Path(folder).glob(f"tensorrt_cu12_bindings-*-{tag}-*.whl")) if folder else []
    return {path.name.split("-")[1]: path for path in found}


def unpack(version: str, folder: Path) -> Path:
    """A wheel's bindings and the stub libraries they need, in a folder for ``sys.path`` and ``LD_LIBRARY_PATH``."""
    if shutil.which("gcc") is None:
        pytest.skip("needs gcc for the stub libraries")
    with zipfile.ZipFile(wheels()[version]) as archive:
        archive.extractall(folder)
    major = version.split(".", maxsplit=1)[0]
    build(TENSORRT, folder / f"libnvinfer.so.{major}")
    for name in ("libnvonnxparser", "libnvinfer_plugin"):
        build("", folder / f"{name}.so.{major}")
    return folder


def build(source: str, path: Path, *libraries: Path) -> None:
    """A C source as a shared library."""
    flags = ["-w", "-x", "c", "-shared", "-fPIC", f"-Wl,-soname,{path.name}", "-"]
    linked = ["-x", "none", *map(str, libraries), f"-Wl,-rpath,{path.parent}"]
    subprocess.run(["gcc", "-o", str(path), *flags, *linked], input=source.encode(), check=True)


def build_driver(folder: Path) -> None:
    """The stand-in for the CUDA driver."""
    if shutil.which("gcc") is None:
        pytest.skip("needs gcc for the stand-in driver")
    build(DRIVER, folder / "libcuda.so.1", compile_host(folder))


def run_child(script: str, folder: Path, *arguments: str, path: tuple[Path, ...] = ()) -> Any:
    """Run a script in a process that loads libraries from a folder; what it prints last, as JSON."""
    here = Path(__file__).resolve()
    places = [*map(str, path), str(here.parent), str(here.parents[2])]
    environment = {**os.environ, "LD_LIBRARY_PATH": str(folder), "PYTHONPATH": os.pathsep.join(places)}
    child = subprocess.run(
        [sys.executable, "-c", script, *arguments],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
        env=environment,
    )
    assert child.returncode == 0, child.stderr[-3000:]
    return json.loads(child.stdout.splitlines()[-1])
