"""Runs a repository's pipeline without Triton, in a process of its own that has no rtmo-deploy.

``python triton_stub.py REPOSITORY OUT.npz FILE...``: each file is a request; its people, or its error, go to OUT.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
from google.protobuf import json_format, text_format
from tritonclient.grpc import model_config_pb2

#: A factor of what crosses into Triton; another one than 1 as with a NumPy that it does not take.
WRONG = os.environ.get("WRONG", "1")


class Tensor:
    def __init__(self, name: str, value: np.ndarray) -> None:
        self._name, self._value = name, value

    def name(self) -> str:
        return self._name

    def as_numpy(self) -> np.ndarray:
        return self._value

    def to_dlpack(self) -> np.ndarray:
        return self._value

    @classmethod
    def from_dlpack(cls, name: str, value: np.ndarray) -> Tensor:
        return cls(name, value * np.float32(WRONG))


class TritonError:
    INVALID_ARG, INTERNAL = "invalid", "internal"

    def __init__(self, message: str, code: str) -> None:
        self.message, self.code = message, code


class InferenceResponse:
    def __init__(self, output_tensors: tuple[Tensor, ...] = (), error: TritonError | None = None) -> None:
        self.tensors, self.error = {tensor.name(): tensor.as_numpy() for tensor in output_tensors}, error


class NoRtmoDeploy:
    """A finder that lets nobody import this project."""

    def find_spec(self, name: str, *_: object) -> None:
        if name.partition(".")[0] == "rtmo_deploy":
            raise ImportError("the server has no rtmo-deploy")


def stub() -> ModuleType:
    module = ModuleType("triton_python_backend_utils")
    module.Tensor, module.TritonError, module.InferenceResponse = Tensor, TritonError, InferenceResponse
    module.TritonModelException = RuntimeError
    module.get_input_tensor_by_name = lambda request, name: request.get(name)
    return module


def loaded(repository: Path, name: str) -> SimpleNamespace:
    """A model of a repository, initialised as Triton does."""
    folder = repository / name / "1"
    config = text_format.Parse((repository / name / "config.pbtxt").read_text(), model_config_pb2.ModelConfig())
    for module in [module for module in sys.modules if module.partition(".")[0] == "rtmo_host"]:
        del sys.modules[module]
    sys.path.insert(0, str(folder))  # each model has a process, and a rtmo_host, of its own
    spec = importlib.util.spec_from_file_location(f"{name}_model", folder / "model.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    sys.path.remove(str(folder))
    model = module.TritonPythonModel()
    where = {"model_repository": str(folder.parent), "model_version": "1"}
    text = json_format.MessageToJson(config, preserving_proto_field_name=True)
    model.initialize({"model_config": text, "model_instance_kind": "CPU", "model_instance_device_id": "0", **where})
    return SimpleNamespace(config=config, execute=model.execute)


def request(**values: np.ndarray) -> dict[str, Tensor]:
    return {name: Tensor(name, value) for name, value in values.items()}


def main(repository: Path, out: Path, files: list[Path]) -> None:
    sys.meta_path.insert(0, NoRtmoDeploy())
    sys.modules["triton_python_backend_utils"] = stub()
    first, network, last = (loaded(repository, name) for name in ("rtmo_preprocess", "rtmo", "rtmo_postprocess"))
    answers = first.execute([request(image=np.array([[path.read_bytes()]], object)) for path in files])
    found, good = {}, []
    for index, answer in enumerate(answers):
        if answer.error is None:
            good.append(index)
        else:
            found[f"{index}.error"] = np.array(f"{answer.error.code}: {answer.error.message}")
    source = network.config.input[0].name
    rows = network.execute([request(**{source: answers[index].tensors["input"]}) for index in good])
    batch = [
        request(
            dets=answer.tensors["dets"],
            network_keypoints=answer.tensors["keypoints"],
            transform=answers[index].tensors["transform"],
        )
        for index, answer in zip(good, rows, strict=True)
    ]
    for index, answer in zip(good, last.execute(batch), strict=True):
        if answer.error is not None:
            found[f"{index}.error"] = np.array(f"{answer.error.code}: {answer.error.message}")
        found |= {f"{index}.{name}": value for name, value in answer.tensors.items()}
    np.savez(out, **found)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), [Path(name) for name in sys.argv[3:]])
