"""Strings work wherever paths do: no exported function takes only a ``Path``, and those that take both do."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import pkgutil
import re
from pathlib import Path

import pytest

import rtmo_deploy
from rtmo_deploy import ExportOptions, export_onnx, load_checkpoint
from rtmo_deploy.convert.precision import cast_onnx
from rtmo_deploy.convert.quantize import Calibration, open_source
from rtmo_deploy.convert.trt import BuildOptions
from rtmo_deploy.errors import RtmoDeployError
from rtmo_deploy.measure import validate_onnx
from rtmo_deploy.measure.bench import BenchOptions, load_baseline
from rtmo_deploy.model import initial_checkpoint, save_checkpoint
from rtmo_deploy.release.pipeline import plan_release
from rtmo_deploy.release.schema import load_release
from rtmo_deploy.runtime import find_images, read_artifact, read_image
from rtmo_deploy.zoo import ARCHITECTURES, COCO_17


def exported():
    """Functions and methods that packages export, those of the command line and rtmlib's names left out."""
    packages = [one.name for one in pkgutil.walk_packages(rtmo_deploy.__path__, "rtmo_deploy.") if one.ispkg]
    for package in ["rtmo_deploy", *packages]:
        if package.startswith(("rtmo_deploy.cli", "rtmo_deploy.compat")):
            continue
        module = importlib.import_module(package)
        for name in getattr(module, "__all__", []):
            value = getattr(module, name)
            if inspect.isfunction(value):
                yield f"{package}.{name}", value
            # The fields of a record that is a result are what they are.
            for method, function in vars(value).items() if inspect.isclass(value) else ():
                function = getattr(function, "__func__", function)
                hidden = method.startswith("_") and (method != "__init__" or dataclasses.is_dataclass(value))
                if inspect.isfunction(function) and not hidden:
                    yield f"{package}.{name}.{method}", function


def documented():
    """Functions that a page of the Python reference names one by one."""
    pages = Path(__file__).parents[1].glob("docs/reference/python/*.md")
    text = "\n".join(page.read_text(encoding="utf-8") for page in pages)
    for name in re.findall(r"^::: (\S+)", text, re.MULTILINE):
        module, _, function = name.rpartition(".")
        value = getattr(importlib.import_module(module), function)
        if inspect.isfunction(value):
            yield name, value


def test_no_exported_function_takes_only_a_path():
    functions = dict(exported()) | dict(documented())
    assert {"rtmo_deploy.load_checkpoint", "rtmo_deploy.convert.trt.build_engine"} <= set(functions)
    kept = {"rtmo_deploy.Artifact.from_metadata"}
    found = [
        f"{name}({one.name}: {one.annotation})"
        for name, function in functions.items()
        for one in inspect.signature(function).parameters.values()
        if "Path" in str(one.annotation).replace("PathLike", "") and "str" not in str(one.annotation)
    ]
    assert [line for line in found if line.partition("(")[0] not in kept] == []


def test_models_by_string(tmp_path):
    def at(name):
        return str(tmp_path / name)

    recipe = Path(__file__).parents[1] / "recipes" / "quickstart.yaml"
    assert load_release(str(recipe)).name == "quickstart"
    assert plan_release(str(recipe), at("release"), source="rtmo-n")
    initial_checkpoint(at("i.pth"), ARCHITECTURES["rtmo-n"], skeleton=COCO_17, seed=0)
    loaded = load_checkpoint(at("i.pth"))
    assert loaded.path == tmp_path / "i.pth"
    save_checkpoint(at("s.safetensors"), loaded.model, skeleton=COCO_17, input_hw=(64, 64))
    export_onnx(load_checkpoint(at("s.safetensors")), at("m.onnx"), ExportOptions(), verify=False)
    assert read_artifact(at("m.onnx")).path == tmp_path / "m.onnx"
    cast_onnx(at("m.onnx"), at("h.onnx"), "fp16", verify=False)
    assert (tmp_path / "h.onnx").exists()
    assert validate_onnx(at("m.onnx")).checks
    assert open_source(at("m.onnx")).path == tmp_path / "m.onnx"


@pytest.mark.parametrize("kind", [str, Path])
def test_other_files_by_either(kind, tmp_path):
    missing = kind(tmp_path / "missing.json")
    for read in (read_image, load_baseline, Calibration.load):
        with pytest.raises(RtmoDeployError, match=r"missing\.json"):
            read(missing)
    with pytest.raises(RtmoDeployError, match=r"missing\.json"):
        find_images([missing])
    options = BenchOptions(models=(missing,), images=missing, reference=missing)
    assert options.models == (Path(missing),)
    assert options.images == options.reference == Path(missing)
    assert BuildOptions(timing_cache=missing).timing_cache == Path(missing)
