"""The plugin's classes against TensorRT's real bindings, and its launch through a stand-in for the CUDA driver.

No engine is built or run here, and no GPU is needed.
"""

from __future__ import annotations

from types import ModuleType, SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from tensorrt_stub import WHEELS, build_driver, run_child, unpack, wheels

from rtmo_deploy.errors import ArtifactError, SetupError
from rtmo_deploy.runtime.plugins import register_plugin, registration
from rtmo_deploy.runtime.plugins.kernel import DecodeFields
from rtmo_deploy.runtime.plugins.registration import read_fields

if TYPE_CHECKING:
    from pathlib import Path

VERSIONS = [pytest.param(version, id=version) for version in wheels()] or [
    pytest.param(
        "", id="none", marks=pytest.mark.skip(reason=f"needs wheels of TensorRT's bindings in the folder ${WHEELS}")
    )
]

SETUP = """
import gc, json, sys
import numpy as np
import tensorrt_bindings as trt
trt.__name__ = "tensorrt"
sys.modules["tensorrt"] = trt

class Registry:
    def __init__(self):
        self.creators = {}
    def register_creator(self, creator, namespace):
        key = (creator.name, creator.plugin_version, namespace)
        new = key not in self.creators
        self.creators.setdefault(key, creator)
        return new
    def get_creator(self, name, version, namespace):
        return self.creators.get((name, version, namespace))

registry = Registry()
trt.get_plugin_registry = lambda: registry
from rtmo_deploy.runtime.plugins import register_plugin, PluginForm, network_flags
from rtmo_deploy.runtime.plugins.kernel import DecodeFields
"""

PYTHON_FORM = (
    SETUP
    + """
import ctypes
from test_plugin_kernel import make_scene
from plugin_host import run_host
assert register_plugin(trt, PluginForm.PYTHON) is PluginForm.PYTHON
assert register_plugin(trt, PluginForm.PYTHON) is register_plugin(trt) is PluginForm.PYTHON
assert network_flags(trt, PluginForm.PYTHON) == 0
(key, creator), = registry.creators.items()
assert key == ("RTMODecode", "1", "rtmo"), key
assert isinstance(creator, trt.IPluginCreatorV3One)
declared = {f.name: f.type for f in creator.field_names}
whole, real = trt.PluginFieldType.INT32, trt.PluginFieldType.FLOAT32
assert declared == {"max_dets": whole, "nms_thr": real, "pre_topk": whole, "score_thr": real}, declared

def collection(**given):
    arrays = {k: np.array([v], np.int32 if isinstance(v, int) else np.float32) for k, v in given.items()}
    kinds = {np.dtype("int32"): whole, np.dtype("float32"): real}
    return arrays, trt.PluginFieldCollection([trt.PluginField(k, v, kinds[v.dtype]) for k, v in arrays.items()])

fields = DecodeFields(max_dets=7, score_thr=0.25, nms_thr=0.5, pre_topk=40)
alive, given = collection(max_dets=7, nms_thr=0.5, pre_topk=40, score_thr=0.25)
plugin = creator.create_plugin("decode", given, trt.TensorRTPhase.BUILD)
del alive, given
gc.collect()
assert isinstance(plugin, trt.IPluginV3)
assert plugin.fields == fields
assert (plugin.plugin_name, plugin.plugin_version, plugin.plugin_namespace, plugin.num_outputs) == (*key, 5)
for kind in (trt.PluginCapabilityType.CORE, trt.PluginCapabilityType.BUILD, trt.PluginCapabilityType.RUNTIME):
    assert plugin.get_capability_interface(kind) is plugin
copy = plugin.clone()
assert copy is not plugin and copy.fields == fields and copy.plugin_namespace == "rtmo"

# What is serialized makes the same plugin again, garbage collected in between or not.
stored = copy.get_fields_to_serialize()
gc.collect()
junk = [np.full(1, 9, np.int32) for _ in range(1000)]
assert creator.create_plugin("decode", stored, trt.TensorRTPhase.RUNTIME).fields == fields

alive, given = collection(max_dets=7, nms_thr=0.5)
try:
    creator.create_plugin("decode", given, trt.TensorRTPhase.BUILD)
    raise SystemExit("created without its fields")
except Exception as error:
    assert "pre_topk, score_thr" in str(error), error

floats, ints = trt.float32, trt.int32
assert plugin.get_output_data_types([floats] * 3) == [ints, floats, floats, ints, floats]
try:
    plugin.get_output_data_types([trt.float16] * 3)
    raise SystemExit("took half floats")
except Exception as error:
    assert "float32" in str(error)

types = [floats] * 3 + [ints, floats, floats, ints, floats]
def described(kinds, formats):
    result = []
    for kind, layout in zip(kinds, formats):
        one = trt.DynamicPluginTensorDesc()
        desc = trt.PluginTensorDesc()
        desc.type, desc.format = kind, layout
        one.desc = desc
        result.append(one)
    return result
linear = [trt.TensorFormat.LINEAR] * 8
assert all(plugin.supports_format_combination(i, described(types, linear), 3) for i in range(8))
wrong = described([trt.float16 if k == floats else floats for k in types], linear)
assert not any(plugin.supports_format_combination(i, wrong, 3) for i in range(8))
packed = described(types, [trt.TensorFormat.CHW4] * 8)
assert not any(plugin.supports_format_combination(i, packed, 3) for i in range(8))
plugin.configure_plugin([], []); plugin.on_shape_change([], []); plugin.set_tactic(0)

# Enqueue, through the stand-in driver, on host memory.
driver = ctypes.CDLL("libcuda.so.1")
attached = plugin.attach_to_context(None)
assert attached is not plugin and attached.fields == fields
assert (driver.loads_so_far(), driver.launches_so_far()) == (1, 0)
for seed, cells in ((0, 80), (1, 700)):
    logits, boxes, priors = make_scene(["crowd", "empty", "together"], cells, seed)
    expected = run_host(logits, boxes, priors, fields)
    wanted = (expected.num_dets, expected.boxes, expected.scores, expected.kept)
    outputs = [np.full_like(x, -3) for x in (*wanted, expected.work)]
    inputs = [logits, boxes, priors]
    descs = []
    for array in (*inputs, *outputs):
        desc = trt.PluginTensorDesc()
        desc.dims = trt.Dims(array.shape)
        descs.append(desc)
    addresses = [[a.ctypes.data for a in arrays] for arrays in (inputs, outputs)]
    attached.enqueue(descs[:3], descs[3:], *addresses, 0, 0x1234)
    assert expected.num_dets.sum() > 3
    assert all(np.array_equal(*pair) for pair in zip(outputs, wanted))
assert (driver.loads_so_far(), driver.launches_so_far()) == (1, 2)
driver.set_context(2)
attached.enqueue(descs[:3], descs[3:], *addresses, 0, 0x1234)
assert (driver.loads_so_far(), driver.launches_so_far()) == (2, 3)
print(json.dumps({"version": trt.__version__, "aot": hasattr(trt, "QuickPluginCreationRequest")}))
"""
)

AOT_FORM = (
    SETUP
    + """
if not hasattr(trt, "QuickPluginCreationRequest"):
    try:
        register_plugin(trt, PluginForm.AOT)
        raise SystemExit("registered")
    except Exception as error:
        assert "no ahead-of-time plugins" in str(error), error
    assert not registry.creators
    assert register_plugin(trt) is PluginForm.PYTHON
    print(json.dumps({"aot": False}))
    raise SystemExit
assert register_plugin(trt) is register_plugin(trt, PluginForm.AOT) is PluginForm.AOT
try:
    register_plugin(trt, PluginForm.PYTHON)
    raise SystemExit("both forms")
except Exception as error:
    assert "another process" in str(error), error
assert network_flags(trt, PluginForm.AOT) == 1 << int(trt.NetworkDefinitionCreationFlag.PREFER_AOT_PYTHON_PLUGINS)
(key, creator), = registry.creators.items()
assert key == ("RTMODecode", "1", "rtmo"), key
whole, real = trt.PluginFieldType.INT32, trt.PluginFieldType.FLOAT32
declared = [(f.name, f.type) for f in creator.field_names]
assert declared == [("max_dets", whole), ("nms_thr", real), ("pre_topk", whole), ("score_thr", real)], declared
alive = [np.array([7], np.int32), np.array([0.5], np.float32), np.array([40], np.int32), np.array([0.25], np.float32)]
given = trt.PluginFieldCollection([trt.PluginField(n, a, t) for (n, t), a in zip(declared, alive)])
wish = trt.QuickPluginCreationRequest.PREFER_AOT
plugin = creator.create_plugin("RTMODecode", "rtmo", given, trt.TensorRTPhase.BUILD, wish)
assert isinstance(plugin, trt.IPluginV3QuickAOTBuild), plugin
floats, ints = trt.float32, trt.int32
assert plugin.get_num_outputs() == 5
assert list(plugin.get_output_data_types([floats] * 3, [2, 3, 2])) == [ints, floats, floats, ints, floats]

# The shapes and launch parameters, with expressions that need no builder.
module = sys.modules["tensorrt.plugin"]
tensor = sys.modules["tensorrt.plugin._tensor"]
class Builder:
    def constant(self, value):
        return value
tensor.SymIntExpr._exprBuilder = Builder()
class Desc:
    shape_expr = (module.ShapeExpr(), module.ShapeExpr())
definition = sys.modules["tensorrt.plugin._lib"].QDP_REGISTRY["rtmo::RTMODecode"]
name, ptx, launch, extra = definition.aot_impl_func(Desc, None, None, *alive, None, 0)
from rtmo_deploy.runtime.plugins.kernel import load_ptx, float_bits
assert (name, ptx) == ("rtmo_decode", load_ptx())
assert all(isinstance(x, module.SymInt32) for x in extra), list(extra)
assert [x._int_expr for x in list(extra)[1:]] == [7, 40, float_bits(0.25), float_bits(0.5)]
assert launch.block_x._int_expr == 512
print(json.dumps({"aot": True}))
"""
)


@pytest.fixture(scope="module")
def bindings(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {version: unpack(version, tmp_path_factory.mktemp(f"trt_{version}")) for version in wheels()}


@pytest.mark.parametrize("version", VERSIONS)
def test_python_form(bindings: dict[str, Path], version: str) -> None:
    folder = bindings[version]
    build_driver(folder)
    found = run_child(PYTHON_FORM, folder, path=(folder,))
    assert found["version"].startswith(version)
    assert found["aot"] == (tuple(map(int, version.split(".")[:2])) >= (10, 13))


@pytest.mark.parametrize("version", VERSIONS)
def test_aot_form(bindings: dict[str, Path], version: str) -> None:
    found = run_child(AOT_FORM, bindings[version], path=(bindings[version],))
    assert found["aot"] == (tuple(map(int, version.split(".")[:2])) >= (10, 13))


def test_the_driver_is_called_as_the_kernel_wants(tmp_path: Path) -> None:
    build_driver(tmp_path)
    script = """
import ctypes, json
import numpy as np
from plugin_host import run_host
from test_plugin_kernel import DEFAULT, make_scene
from rtmo_deploy.errors import SetupError
from rtmo_deploy.runtime.plugins.kernel import DriverKernel
from rtmo_deploy.runtime.plugins.kernel import BLOCK, KERNEL_NAME, load_ptx
kernel = DriverKernel(load_ptx(), KERNEL_NAME)
scene = make_scene(["crowd", "few"], 320, 1)
rows = run_host(*scene, DEFAULT)
expected = [rows.num_dets, rows.boxes, rows.scores, rows.kept]
outputs = [np.full_like(x, -3) for x in (*expected, rows.work)]
kernel.launch(2, BLOCK, [x.ctypes.data for x in scene], DEFAULT.scalars(320), [x.ctypes.data for x in outputs], 0x1234)
same = all(np.array_equal(a, b) for a, b in zip(outputs, expected))
driver = ctypes.CDLL("libcuda.so.1")
errors = []
for act in (
    lambda: kernel.launch(2, BLOCK, [0] * 3, DEFAULT.scalars(320), [0] * 5, 99),
    lambda: (driver.set_context(0), kernel.prepare()),
    lambda: (driver.set_context(13), kernel.prepare()),
    lambda: (driver.set_context(3), DriverKernel(b"rubbish", KERNEL_NAME).prepare()),
    lambda: DriverKernel(load_ptx(), "another").prepare(),
):
    try:
        act()
        errors.append("")
    except SetupError as error:
        errors.append(str(error))
print(json.dumps([same, errors]))
"""
    same, errors = run_child(script, tmp_path)
    assert same
    for text, error in zip(
        ("cuLaunchKernel failed: odd (CUDA error 400)", "No CUDA context", "driver to 530", "CUDA error 200", "500"),
        errors,
        strict=True,
    ):
        assert text in error


def test_no_driver(tmp_path: Path) -> None:
    script = """
import ctypes, json
real = ctypes.CDLL
def without(name, *args):
    if "cuda" in name:
        raise OSError(f"{name}: cannot open shared object file")
    return real(name, *args)
ctypes.CDLL = without
from rtmo_deploy.errors import SetupError
from rtmo_deploy.runtime.plugins.kernel import DriverKernel
try:
    DriverKernel(b"", "x").prepare()
except SetupError as error:
    print(json.dumps(str(error)))
"""
    assert "The CUDA driver is not installed" in run_child(script, tmp_path)


def test_rtx_has_no_plugins() -> None:
    with pytest.raises(SetupError, match="--decode fixed"):
        register_plugin(ModuleType("tensorrt_rtx"))


@pytest.mark.parametrize("module", [ModuleType("tensorrt"), SimpleNamespace(__name__="tensorrt", __version__="8.6.1")])
def test_an_old_or_hollow_tensorrt(module: Any) -> None:
    # A folder of type stubs alone is importable as a namespace package, too.
    with pytest.raises(SetupError, match="has no IPluginV3"):
        register_plugin(module)


def test_the_registry_may_refuse(monkeypatch: pytest.MonkeyPatch) -> None:
    class Base:
        pass

    taken = SimpleNamespace(register_creator=lambda *_: False)
    names = ("IPluginV3", "IPluginV3OneCore", "IPluginV3OneBuild", "IPluginV3OneRuntime", "IPluginCreatorV3One")
    module = ModuleType("tensorrt_of_another")
    module.__version__ = "10.4.0"  # type: ignore[attr-defined]
    for name in names:
        setattr(module, name, type(name, (Base,), {}))
    module.get_plugin_registry = lambda: taken  # type: ignore[attr-defined]
    module.float32, module.int32 = "float32", "int32"  # type: ignore[attr-defined]
    module.PluginFieldType = SimpleNamespace(INT32=0, FLOAT32=1)  # type: ignore[attr-defined]
    module.PluginField = module.PluginFieldCollection = lambda *_: None  # type: ignore[attr-defined]
    monkeypatch.setattr(registration, "_registered", {})
    with pytest.raises(SetupError, match="registry refuses"):
        register_plugin(module)
    assert registration._registered == {}


def field(name: str, value: float) -> SimpleNamespace:
    return SimpleNamespace(name=name, data=np.array([value]))


def test_fields_are_read() -> None:
    good = [field("max_dets", 7), field("nms_thr", 0.5), field("pre_topk", 0), field("score_thr", 0.25)]
    assert read_fields([*good, field("plugin_version", 49)]) == DecodeFields(7, 0.25, 0.5, 0)
    for missing in range(4):
        with pytest.raises(ArtifactError, match=good[missing].name):
            read_fields(good[:missing] + good[missing + 1 :])
    with pytest.raises(ArtifactError, match="max_dets of the plugin RTMODecode is 1056964608"):
        read_fields([field("max_dets", 1056964608), *good[1:]])


@pytest.mark.parametrize(
    "values",
    [
        {"max_dets": 0},
        {"max_dets": -1},
        {"max_dets": 2**30},
        {"score_thr": 0.0},
        {"score_thr": 0.00001},
        {"score_thr": 1.1},
        {"score_thr": float("nan")},
        {"nms_thr": -0.1},
        {"nms_thr": 1.5},
        {"nms_thr": float("nan")},
        {"pre_topk": -1},
        {"pre_topk": 2**31},
    ],
)
def test_fields_out_of_range(values: dict[str, Any]) -> None:
    with pytest.raises(ArtifactError, match=next(iter(values))):
        DecodeFields(**{"max_dets": 7, "score_thr": 0.1, "nms_thr": 0.5, "pre_topk": 0, **values})


def test_shapes_of_outputs_follow_from_the_inputs() -> None:
    trt = SimpleNamespace(DimsExprs=lambda count: [None] * count)
    builder = SimpleNamespace(constant=lambda value: f"constant {value}")
    shapes = registration._output_shapes("batch", "cells", 7)
    assert [registration._dims(trt, shape, builder) for shape in shapes] == [  # type: ignore[arg-type]
        ["batch", "constant 1"],
        ["batch", "constant 7", "constant 4"],
        ["batch", "constant 7"],
        ["batch", "constant 7"],
        ["batch", "constant 5", "cells"],
    ]
