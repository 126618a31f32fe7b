"""The contract with TensorRT's Python API: every attribute that this project touches is in one table, and exists."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

import rtmo_deploy
from rtmo_deploy.errors import MissingDependencyError, SetupError, UsageError
from rtmo_deploy.runtime import trt_api
from rtmo_deploy.runtime.trt_api import TRT_VARIANTS, TrtApi, choose_variant, installed_backends, load_api

PACKAGE = Path(rtmo_deploy.__file__).parent
RTX = TRT_VARIANTS["tensorrt-rtx"]
#: Release in the table: bindings that stand for it.
BINDINGS = {"10.0": "10.0.1", "10.4": "10.4.0", "10.13": "10.13.3.9", "11.4": "11.4.0.106"}
#: A folder with wheels ``tensorrt_cu12_bindings-*.whl``; without it they are downloaded.
WHEELS = os.environ.get("RTMO_DEPLOY_TENSORRT_BINDINGS")

#: Releases whose bindings the table is checked against. ``rtx`` is tensorrt_rtx 1.7.
RELEASES = ("10.0", "10.4", "10.13", "11.4", "rtx")
_CLASSIC = ("10.0", "10.4", "10.13", "11.4")

#: Attribute, under the module: releases that lack it.
API: dict[str, tuple[str, ...]] = {
    "__version__": (),
    "Builder.create_network": (),
    "Builder.create_builder_config": (),
    "Builder.create_optimization_profile": (),
    "Builder.build_serialized_network": (),
    "NetworkDefinitionCreationFlag.STRONGLY_TYPED": (),
    "OnnxParser.parse_from_file": (),
    "OnnxParser.num_errors": (),
    "OnnxParser.get_error": (),
    "ParserError.desc": (),
    "ParserError.node_name": (),
    "ParserError.node_operator": (),
    "INetworkDefinition.num_inputs": (),
    "INetworkDefinition.get_input": (),
    "INetworkDefinition.num_outputs": (),
    "INetworkDefinition.get_output": (),
    "INetworkDefinition.num_layers": (),
    "INetworkDefinition.get_layer": (),
    "ITensor.name": (),
    "ITensor.shape": (),
    "ITensor.dtype": (),
    "ILayer.name": (),
    "ILayer.type": (),
    "ILayer.num_inputs": (),
    "ILayer.num_outputs": (),
    "ILayer.get_input": (),
    "ILayer.get_output": (),
    "IOptimizationProfile.set_shape": (),
    "IBuilderConfig.add_optimization_profile": (),
    "IBuilderConfig.profiling_verbosity": (),
    "IBuilderConfig.progress_monitor": (),
    "IBuilderConfig.builder_optimization_level": (),
    "IBuilderConfig.set_memory_pool_limit": (),
    "IBuilderConfig.set_flag": (),
    "IBuilderConfig.clear_flag": (),
    "IBuilderConfig.create_timing_cache": (),
    "IBuilderConfig.set_timing_cache": (),
    "IBuilderConfig.get_timing_cache": (),
    "IBuilderConfig.hardware_compatibility_level": (),
    "IBuilderConfig.num_compute_capabilities": _CLASSIC,
    "IBuilderConfig.set_compute_capability": _CLASSIC,
    "ComputeCapability.__members__": _CLASSIC,
    "ITimingCache.serialize": (),
    "IProgressMonitor.__init__": (),
    "ProfilingVerbosity.DETAILED": (),
    "MemoryPoolType.WORKSPACE": (),
    "HardwareCompatibilityLevel.AMPERE_PLUS": (),
    "BuilderFlag.TF32": (),
    "BuilderFlag.VERSION_COMPATIBLE": (),
    "ILogger.__init__": (),
    "ILogger.Severity": (),
    "Runtime.deserialize_cuda_engine": (),
    "Runtime.engine_host_code_allowed": (),
    "Runtime.get_engine_validity": _CLASSIC,
    "ICudaEngine.num_io_tensors": (),
    "ICudaEngine.num_optimization_profiles": (),
    "ICudaEngine.get_tensor_name": (),
    "ICudaEngine.get_tensor_mode": (),
    "ICudaEngine.get_tensor_dtype": (),
    "ICudaEngine.get_tensor_shape": (),
    "ICudaEngine.get_tensor_profile_shape": (),
    "ICudaEngine.create_execution_context": (),
    "ICudaEngine.create_engine_inspector": (),
    "EngineInspector.get_engine_information": (),
    "LayerInformationFormat.JSON": (),
    "TensorIOMode.INPUT": (),
    "IExecutionContext.set_optimization_profile_async": (),
    "IExecutionContext.set_input_shape": (),
    "IExecutionContext.get_tensor_shape": (),
    "IExecutionContext.set_tensor_address": (),
    "IExecutionContext.execute_async_v3": (),
    "IExecutionContext.is_stream_capturable": _CLASSIC,
}

#: What the variables of the code that drives TensorRT are.
CLASSES = {
    "builder": "Builder",
    "network": "INetworkDefinition",
    "parser": "OnnxParser",
    "error": "ParserError",
    "config": "IBuilderConfig",
    "profile": "IOptimizationProfile",
    "layer": "ILayer",
    "source": "ITensor",
    "cache": "ITimingCache",
    "runtime": "Runtime",
    "engine": "ICudaEngine",
    "_engine": "ICudaEngine",
    "inspector": "EngineInspector",
    "_context": "IExecutionContext",
}
DRIVERS = (
    "convert/trt/child.py",
    "measure/validate_engine.py",
    "runtime/tensorrt_backend.py",
    "runtime/trt_api.py",
)
#: Of the code's own objects of those names.
OURS = {("error", "event"), ("error", "finding"), ("error", "remedy"), ("error", "strerror"), ("source", "dtype")}


def touched(source: str) -> set[str]:
    """Attributes of TensorRT that a module touches."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Attribute):
            continue
        chain, place = [node.attr], node.value
        while isinstance(place, ast.Attribute) and place.attr not in {*CLASSES, "trt"}:
            chain.insert(0, place.attr)
            place = place.value
        base = place.id if isinstance(place, ast.Name) else getattr(place, "attr", "")
        if base == "trt" and len(chain) <= 2:
            found.add(".".join(chain))
        elif base in CLASSES and len(chain) == 1 and (base, chain[0]) not in OURS:
            found.add(f"{CLASSES[base]}.{chain[0]}")
    return found


def test_no_code_touches_what_is_not_in_the_table():
    names = set().union(*(touched((PACKAGE / path).read_text(encoding="utf-8")) for path in DRIVERS))
    classes = {name.partition(".")[0] for name in API}
    # A class alone is a constructor, an enumeration, or the beginning of a name in the table.
    strange = {name for name in names - set(API) - classes if name != "shape"}
    assert not strange - {"INetworkDefinition.get_layer"}
    assert {"Builder.build_serialized_network", "IExecutionContext.execute_async_v3", "__version__"} <= names


def test_what_is_asked_for_is_in_the_table():
    asked = [
        name for path in DRIVERS for name in re.findall(r'\.has\("([^"]+)"\)', (PACKAGE / path).read_text("utf-8"))
    ]
    assert set(asked) <= set(API)
    assert "ComputeCapability.__members__" in asked


def test_the_search_finds_what_is_touched():
    code = (
        "def f(api, config):\n    api.trt.BuilderFlag.FP16\n    config.int8_calibrator = 3\n    self._engine.bindings"
    )
    assert {"BuilderFlag.FP16", "IBuilderConfig.int8_calibrator", "ICudaEngine.bindings"} <= touched(code)


def test_only_these_modules_drive_tensorrt():
    for path in PACKAGE.rglob("*.py"):
        name = path.relative_to(PACKAGE).as_posix()
        if name not in DRIVERS and "plugins" not in name:
            assert not re.search(r"\btrt\.[A-Z]", path.read_text(encoding="utf-8")), name


def test_no_weak_typing_and_no_calibrator_anywhere():
    for path in PACKAGE.rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        for gone in ("BuilderFlag.FP16", "BuilderFlag.INT8", "BuilderFlag.BF16", "Int8Calibrator", "int8_calibrator"):
            assert gone not in text, path


def test_the_table_names_releases_that_exist():
    assert {release for absent in API.values() for release in absent} <= set(RELEASES)
    assert set(RELEASES) == {*BINDINGS, "rtx"}


def mistakes(present: dict[str, bool], release: str) -> list[str]:
    """Where the table and a release disagree, in either direction."""
    return [name for name, there in present.items() if there == (release in API[name])]


PROBE = """
import importlib, json, sys
trt = importlib.import_module(sys.argv[1])
def has(name):
    place = trt
    for part in name.split("."):
        if not hasattr(place, part):
            return False
        place = getattr(place, part)
    return True
result = {name: has(name) for name in json.loads(sys.argv[2])}
flag = int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
print(json.dumps({"version": trt.__version__, "has": result, "flag": flag}))
"""


def probe(module: str, **environment: str) -> dict:
    child = subprocess.run(
        [sys.executable, "-c", PROBE, module, json.dumps(list(API))],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **environment},
    )
    assert child.returncode == 0, child.stderr[-2000:]
    return json.loads(child.stdout.splitlines()[-1])


@pytest.mark.skipif("tensorrt-rtx" not in installed_backends(), reason="needs tensorrt_rtx")
def test_tensorrt_rtx_has_what_the_table_says():
    answer = probe("tensorrt_rtx")
    assert not mistakes(answer["has"], "rtx")
    assert sum(answer["has"].values()) > 60


def stub_names(folder: Path) -> set[str]:
    """Dotted names that a .pyi defines, those that a class inherits included."""
    # Some signatures in it are no Python: arguments without a default after those with one.
    text = re.sub(
        r"^(\s*def \w+)\(.*$", r"\1():", (folder / "tensorrt.pyi").read_text(encoding="utf-8"), flags=re.MULTILINE
    )
    tree = ast.parse(text)
    classes = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}
    names = {"__version__"}

    def members(node: ast.ClassDef) -> set[str]:
        own = {"__members__"}
        for item in node.body:
            if isinstance(item, ast.FunctionDef | ast.ClassDef):
                own.add(item.name)
            elif isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name):
                own.add(item.target.id)
        for base in node.bases:
            if isinstance(base, ast.Name) and base.id in classes:
                own |= members(classes[base.id])
        return own

    for name, node in classes.items():
        names |= {f"{name}.{member}" for member in members(node)}
    return names


def test_the_type_stubs_have_what_the_table_says():
    found = importlib.util.find_spec("tensorrt_bindings")
    places = list(found.submodule_search_locations or []) if found is not None else []
    folders = [Path(place) for place in places if (Path(place) / "tensorrt.pyi").is_file()]
    if not folders:
        pytest.skip("needs the type stubs: pip install tensorrt-stubs==10.13.0.35.1")
    names = stub_names(folders[0])
    assert not mistakes({name: name in names for name in API}, "10.13")


STUB = """
#define F(n) void* n() { return 0; }
F(createInferBuilder_INTERNAL) F(createInferRefitter_INTERNAL) F(createInferRuntime_INTERNAL)
F(createNvOnnxParserRefitter_INTERNAL) F(createNvOnnxParser_INTERNAL)
F(getBuilderPluginRegistry) F(getPluginRegistry) F(initLibNvInferPlugins)
int getNvOnnxParserVersion() { return 0; }
"""


def fetch(version: str, folder: Path) -> Path:
    """A wheel of the real bindings; skips where it cannot be had."""
    if WHEELS is not None:
        here = sorted(
            Path(WHEELS).glob(f"tensorrt_cu12_bindings-{version}-cp{sys.version_info.major}{sys.version_info.minor}-*")
        )
        if not here:
            pytest.skip(f"no tensorrt_cu12_bindings {version} in {WHEELS}")
        return here[0]
    command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary=:all:", "-d", str(folder)]
    done = subprocess.run([*command, f"tensorrt_cu12_bindings=={version}"], capture_output=True, text=True, check=False)
    found = list(folder.glob("*.whl"))
    if done.returncode or not found:
        pytest.skip(f"tensorrt_cu12_bindings {version} cannot be fetched here")
    return found[0]


@pytest.mark.slow
@pytest.mark.parametrize("release", BINDINGS)
def test_the_real_bindings_have_what_the_table_says(tmp_path, release):
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None or not sys.platform.startswith("linux"):
        pytest.skip("needs a C compiler, on Linux, for stubs of TensorRT's libraries")
    version = BINDINGS[release]
    with zipfile.ZipFile(fetch(version, tmp_path)) as archive:
        archive.extractall(tmp_path / "site")
    major = version.partition(".")[0]
    for name, source in (("nvinfer", STUB), ("nvonnxparser", ""), ("nvinfer_plugin", "")):
        library = f"lib{name}.so.{major}"
        flags = ["-w", "-x", "c", "-shared", "-fPIC", f"-Wl,-soname,{library}", "-o", str(tmp_path / library), "-"]
        subprocess.run([compiler, *flags], input=source.encode(), check=True)
    answer = probe("tensorrt_bindings", LD_LIBRARY_PATH=str(tmp_path), PYTHONPATH=str(tmp_path / "site"))
    assert answer["version"].startswith(release)
    assert not mistakes(answer["has"], release)
    # The bit of a strongly typed network is not the same everywhere: it is asked for, never written down.
    assert answer["flag"] == (0 if major == "11" else 1)


def test_the_comparison_can_fail():
    present = dict.fromkeys(API, True)
    assert mistakes(present, "10.0")
    assert mistakes(dict.fromkeys(API, False), "rtx")


def test_a_folder_of_type_stubs_is_no_tensorrt(tmp_path, monkeypatch):
    (tmp_path / "tensorrt").mkdir()
    (tmp_path / "tensorrt" / "__init__.pyi").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "tensorrt", raising=False)
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    importlib.invalidate_caches()
    assert importlib.util.find_spec("tensorrt") is not None
    assert "tensorrt" not in installed_backends()
    with pytest.raises(MissingDependencyError, match=r"rtmo-deploy\[trt\]"):
        choose_variant("tensorrt")


def test_a_real_package_is_found_and_preferred(tmp_path, monkeypatch):
    for name in ("tensorrt", "tensorrt_rtx"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("__version__ = '10.4.0'\n")
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    importlib.invalidate_caches()
    assert installed_backends() == ("tensorrt", "tensorrt-rtx")
    assert choose_variant("auto").name == "tensorrt"
    try:
        assert load_api(TRT_VARIANTS["tensorrt"]).version == "10.4.0"
    finally:
        sys.modules.pop("tensorrt", None)


def test_nothing_installed(monkeypatch):
    for variant in TRT_VARIANTS.values():
        monkeypatch.setitem(sys.modules, variant.module, None)
    assert installed_backends() == ()
    for choice in ("auto", "tensorrt", "tensorrt-rtx"):
        with pytest.raises(MissingDependencyError):
            choose_variant(choice)
    with pytest.raises(MissingDependencyError):
        load_api(RTX)
    with pytest.raises(UsageError):
        choose_variant("trt")


def test_a_package_that_does_not_load(monkeypatch):
    def broken(name):
        raise ImportError("libnvinfer.so.10: cannot open shared object file")

    monkeypatch.setattr(trt_api, "_installed", lambda *_: True)
    monkeypatch.setattr(trt_api.importlib, "import_module", broken)
    with pytest.raises(SetupError, match="cannot open shared object file") as caught:
        load_api(TRT_VARIANTS["tensorrt"])
    assert not isinstance(caught.value, MissingDependencyError)


class FakeLogger:
    def __init__(self):
        self.begun = True


def test_what_an_api_offers():
    module = ModuleType("tensorrt")
    module.__version__ = "10.4.0"
    module.ILogger = FakeLogger
    module.NetworkDefinitionCreationFlag = SimpleNamespace(STRONGLY_TYPED=1)
    api = TrtApi(TRT_VARIANTS["tensorrt"], module)
    assert api.network_flags() == 2
    assert api.has("NetworkDefinitionCreationFlag.STRONGLY_TYPED")
    assert not api.has("IBuilderConfig.set_compute_capability")
    assert not api.has("BuilderFlag.FP16")
    told = []
    logger = api.logger(lambda *what: told.append(what))
    assert logger.begun
    for severity in ("Severity.INTERNAL_ERROR", "Severity.ERROR", "Severity.WARNING", "Severity.INFO", "VERBOSE"):
        logger.log(severity, "text")
    assert [severity for severity, _ in told] == ["error", "error", "warning", "info", "verbose"]
