"""Fixtures that several floors share."""

from __future__ import annotations

import gc
import os
from collections import Counter
from pathlib import Path

# Two workers of pytest-xdist on two cores: their threads, and those of their children, must not wait for each other.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import cv2
import numpy as np
import pytest
from golden import golden_model
from hypothesis import HealthCheck, settings

from rtmo_deploy.measure import structured_images
from rtmo_deploy.model import NetworkSpec, load_checkpoint, save_checkpoint
from rtmo_deploy.zoo import ARCHITECTURES, COCO_17

# The same examples in every run; HYPOTHESIS_PROFILE=search looks for new ones. No time counts: a machine stands still
# now and then.
settings.register_profile("search", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("steady", settings.get_profile("search"), derandomize=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "steady"))

_CHECKOUT = Path(__file__).resolve().parent.parent


def pytest_collection_finish() -> None:
    """Modules and tests live as long as the run: the collector need not walk them again and again."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder beside the checkout with photographs and reference results too large for the repository."""
    folder = _CHECKOUT.parent / "shared"
    if not (folder / "data").is_dir():
        pytest.skip(f"needs the photographs and reference results in {folder}, which is not there")
    return folder


@pytest.fixture(scope="session")
def checkpoint_n(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of rtmo-n that finds some ten people in a structured image of 256x256."""
    path = tmp_path_factory.mktemp("checkpoint_n") / "n.pth"
    model = golden_model(NetworkSpec.of(ARCHITECTURES["rtmo-n"], 17), bias=(-2, -1))
    save_checkpoint(path, model, skeleton=COCO_17, input_hw=(256, 256))
    return path


@pytest.fixture(scope="session")
def onnx_n(checkpoint_n: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``checkpoint_n`` exported: every size dynamic, NonMaxSuppression in the graph. Do not write to it."""
    from rtmo_deploy.convert import export_onnx

    path = tmp_path_factory.mktemp("onnx_n") / "n.onnx"
    export_onnx(load_checkpoint(checkpoint_n), path, verify=False)
    return path


@pytest.fixture(scope="session")
def openvino_compiles(request: pytest.FixtureRequest) -> None:
    """Skips where a limit of the instruction set leaves OpenVINO too little to compile a network."""
    if not {"ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA"} & set(os.environ):
        return
    from rtmo_deploy.errors import SetupError
    from rtmo_deploy.runtime.backends import open_backend
    from rtmo_deploy.runtime.estimator import read_artifact

    try:
        open_backend(read_artifact(request.getfixturevalue("onnx_n")), "cpu", backend="openvino")
    except SetupError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Five PNG files of different sizes, each with somebody in it for ``checkpoint_n``."""
    folder = tmp_path_factory.mktemp("pictures")
    paths = []
    for number, (height, width) in enumerate([(256, 256), (200, 320), (300, 180), (120, 160), (500, 480)]):
        image = structured_images(1, height, width)[0].transpose(1, 2, 0).astype(np.uint8)
        path = folder / f"picture_{number}.png"
        assert cv2.imwrite(str(path), image)
        paths.append(path)
    return paths


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Files with slow tests come first, so that no worker ends alone; long tests run when asked for by their mark."""
    slow = Counter(item.path for item in items if item.get_closest_marker("slow"))
    items.sort(key=lambda item: -slow[item.path])  # stable: the order within a file stays
    if "long" in config.getoption("markexpr"):
        return
    for item in items:
        if item.get_closest_marker("long"):
            item.add_marker(pytest.mark.skip(reason="repeats others at length; run it with -m long"))
