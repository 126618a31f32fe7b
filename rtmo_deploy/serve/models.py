"""What the Open Inference Protocol calls models: the network, and the pipeline from images to people around it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from rtmo_deploy.artifact import DecodeMode
from rtmo_deploy.errors import UsageError
from rtmo_deploy.file_kind import Kind
from rtmo_deploy.serve.protocol import Tensor
from rtmo_deploy.serve.service import Wanted

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from rtmo_deploy.poses import Poses
    from rtmo_deploy.serve.batcher import Slot
    from rtmo_deploy.serve.service import Service

    Tensors = Mapping[str, NDArray[Any]]

#: The only version.
VERSION: Final = "1"


class _Model:
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]

    def __init__(self, service: Service) -> None:
        self._service = service

    def metadata(self) -> dict[str, Any]:
        """Platform, inputs and outputs."""
        return {
            "platform": f"rtmo-deploy_{self._service.model.backend.name}",
            "inputs": [one.to_dict() for one in self.inputs],
            "outputs": [one.to_dict() for one in self.outputs],
        }


class TensorModel(_Model):
    """The network as it is: letterboxed images in, rows in pixels of the network's input out."""

    def __init__(self, service: Service) -> None:
        super().__init__(service)
        contract, joints = service.artifact.input, len(service.artifact.skeleton)
        sides = (-1, -1) if contract.dynamic_hw else (contract.height, contract.width)
        self.inputs = (Tensor("input", "FP32", (-1, 3, *sides)),)
        shapes: dict[str, tuple[int, ...]] = {"dets": (5,), "keypoints": (joints, 3)}
        if service.artifact.decode.mode is DecodeMode.RAW and service.artifact.kind is not Kind.CHECKPOINT:
            shapes = {"cls_scores": (1,), "bbox_preds": (4,), "kpt_vis": (joints,), "pose_vecs": (-1,)}
        self.outputs = tuple(Tensor(name, "FP32", (-1, -1, *shape)) for name, shape in shapes.items())

    async def infer(self, slot: Slot, inputs: Tensors) -> tuple[Tensors, int]:
        """Outputs, and how many images or tensors ran together."""
        outputs, done = await self._service.run(slot, inputs["input"])
        return outputs, done.batch


class Pipeline(_Model):
    """Image files or pixels in, people in pixels of the images out; as ``rtmo_pipeline`` of a Triton repository.

    ``num_people`` says how many of an image's rows are people; the others are zero.
    """

    def __init__(self, service: Service) -> None:
        super().__init__(service)
        joints = len(service.artifact.skeleton)
        self.inputs = (Tensor("image", "BYTES", (-1, 1), True), Tensor("pixels", "UINT8", (-1, -1, -1, 3), True))
        shapes: dict[str, tuple[int, ...]] = {"boxes": (4,), "scores": (), "keypoints": (joints, 2)}
        shapes["keypoint_scores"] = (joints,)
        rows = (Tensor(name, "FP32", (-1, -1, *shape)) for name, shape in shapes.items())
        self.outputs = (Tensor("num_people", "INT32", (-1, 1)), *rows)

    async def infer(self, slot: Slot, inputs: Tensors) -> tuple[Tensors, int]:
        """Outputs, and how many images ran together."""
        if len(inputs) != 1:
            raise UsageError("A request has either 'image' or 'pixels'.")
        (given,) = inputs.values()
        if len(given) > self._service.batcher.most:
            finding = f"A request has {len(given)} images; a batch has at most {self._service.batcher.most}."
            raise UsageError(finding, remedy="Send them in several requests, at the same time if you like.")
        images = list(given.ravel()) if given.dtype == object else list(given)
        found = await asyncio.gather(*(self._service.find(slot, image, Wanted()) for image in images))
        poses = [one.poses for one in found]
        most = max(map(len, poses))
        outputs: dict[str, NDArray[Any]] = {"num_people": np.array([[len(one)] for one in poses], np.int32)}
        outputs |= {one.name: _rows(poses, one.name, most) for one in self.outputs[1:]}
        return outputs, found[-1].batch


def _rows(poses: list[Poses], name: str, most: int) -> NDArray[np.float32]:
    """A field of several images, filled up with zeros to as many rows."""
    values = [getattr(one, name) for one in poses]
    filled = np.zeros((len(values), most, *values[0].shape[1:]), np.float32)
    for row, value in zip(filled, values, strict=True):
        row[: len(value)] = value
    return filled
