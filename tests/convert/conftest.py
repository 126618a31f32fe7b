"""Exported graphs that many tests look at, made once."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest
from exported_graphs import Exported
from golden import golden_model

from rtmo_deploy.convert import ExportOptions, export_onnx
from rtmo_deploy.model import NetworkSpec, load_checkpoint, save_checkpoint
from rtmo_deploy.poses import Poses
from rtmo_deploy.zoo import ARCHITECTURES, skeleton_for

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch
    from numpy.typing import NDArray

    from rtmo_deploy.model import RTMO, LoadedCheckpoint

#: Added to the classifier's bias: a dozen people on a structured image.
BIAS = (-2, -1)


@pytest.fixture(scope="session")
def model() -> RTMO:
    """The small architecture; 17 keypoints."""
    return golden_model(NetworkSpec.of(ARCHITECTURES["rtmo-n"], 17), bias=BIAS)


@pytest.fixture(scope="session")
def as_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[[RTMO], LoadedCheckpoint]:
    """Writes a network and loads it as a checkpoint."""

    def make(model: RTMO) -> LoadedCheckpoint:
        path = tmp_path_factory.mktemp("checkpoint") / "golden.pth"
        known = model.spec.architecture
        # The sample model's own size may change; these tests have theirs.
        size = (256, 256) if known and known.name == "rtmo-n" else None
        save_checkpoint(path, model, skeleton=skeleton_for(model.spec.num_keypoints), input_hw=size)
        return load_checkpoint(path)

    return make


@pytest.fixture(scope="session")
def checkpoint(model: RTMO, as_checkpoint: Callable[[RTMO], LoadedCheckpoint]) -> LoadedCheckpoint:
    return as_checkpoint(model)


@pytest.fixture(scope="session")
def exported(checkpoint: LoadedCheckpoint, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Exported]:
    """The small network exported with some options, unverified; each options' file is made once."""
    made: dict[ExportOptions, Exported] = {}

    def export(options: ExportOptions | None = None) -> Exported:
        options = options or ExportOptions()
        if options not in made:
            path = tmp_path_factory.mktemp("exported") / "model.onnx"
            result = export_onnx(checkpoint, path, options, verify=False)
            made[options] = Exported(path, onnx.load(path), result)
        return made[options]

    return export


@pytest.fixture(scope="session")
def predict() -> Callable[..., list[Poses]]:
    """What PyTorch finds in network inputs, as poses."""
    import torch

    def run(model: RTMO, images: NDArray[np.float32], **thresholds: float) -> list[Poses]:
        skeleton = skeleton_for(model.spec.num_keypoints)

        def array(tensor: torch.Tensor) -> NDArray[np.float32]:
            return np.asarray(tensor.detach().float().numpy())

        return [
            Poses(array(p.boxes), array(p.scores), array(p.keypoints), array(p.keypoint_scores), skeleton)
            for p in model.predict(torch.from_numpy(images), **thresholds)
        ]

    return run


@pytest.fixture(scope="session")
def recorded_build(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., list[str]]:
    """Commands of a child process that repeats a real build of the toy network, said to be on the GPU that is given."""
    from toy_networks import write_toy

    from rtmo_deploy.child import Child
    from rtmo_deploy.convert.trt.child import COMMAND, Job

    folder = tmp_path_factory.mktemp("recorded")
    source = write_toy(folder / "toy.onnx")
    bounds = [(1, 3, 64, 64), (1, 3, 64, 64), (8, 3, 1280, 1280)]
    with Child(COMMAND) as child:
        child.send(vars(Job("tensorrt-rtx", str(source), str(folder / "plan"), [bounds])))
        events = list(child.messages(300))
    assert events[-1]["event"] == "done"

    def command(gpu: dict[str, str] | None = None) -> list[str]:
        told = [*events[:-1], {**events[-1], "gpu": gpu}]
        record = folder / f"events-{gpu is not None}.json"
        record.write_text("".join(json.dumps(event) + "\n" for event in told))
        code = (
            "import json, shutil, sys; job = json.loads(sys.stdin.readline()); "
            f"shutil.copyfile({str(folder / 'plan')!r}, job['plan']); print(open({str(record)!r}).read())"
        )
        return [sys.executable, "-c", code]

    return command
