"""What the Open Inference Protocol calls models: the network, tensors in and out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from rtmo_deploy.artifact import DecodeMode
from rtmo_deploy.serve.protocol import Tensor

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from rtmo_deploy.serve.batcher import Slot
    from rtmo_deploy.serve.service import Service

#: The only version.
VERSION: Final = "1"


class TensorModel:
    """The network as it is: letterboxed images in, rows in pixels of the network's input out."""

    def __init__(self, service: Service) -> None:
        self._service = service
        artifact = service.artifact
        contract, joints = artifact.input, len(artifact.skeleton)
        sides = (-1, -1) if contract.dynamic_hw else (contract.height, contract.width)
        self.inputs = (Tensor("input", "FP32", (-1, 3, *sides)),)
        self.outputs: tuple[Tensor, ...] = (
            Tensor("dets", "FP32", (-1, -1, 5)),
            Tensor("keypoints", "FP32", (-1, -1, joints, 3)),
        )
        if artifact.decode.mode is DecodeMode.RAW:
            heads = {"cls_scores": (1,), "bbox_preds": (4,), "kpt_vis": (joints,), "pose_vecs": (-1,)}
            self.outputs = tuple(Tensor(name, "FP32", (-1, -1, *shape)) for name, shape in heads.items())

    def metadata(self) -> dict[str, Any]:
        """Platform, inputs and outputs."""
        facts = self._service.facts(self._service.model)
        return {
            "platform": f"rtmo-deploy_{facts['backend']}",
            "inputs": [one.to_dict() for one in self.inputs],
            "outputs": [one.to_dict() for one in self.outputs],
        }

    async def infer(self, slot: Slot, inputs: Mapping[str, NDArray[Any]]) -> tuple[Mapping[str, NDArray[Any]], Any]:
        """Outputs, and how they came about."""
        return await self._service.run(slot, inputs["input"])
