"""The RTMO network in plain PyTorch: an official state dict loads into it key for key."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from rtmo_deploy.errors import UsageError
from rtmo_deploy.model.backbone import CSPDarknet
from rtmo_deploy.model.head import Detections, HeadOutputs, RTMOHead
from rtmo_deploy.model.neck import HybridEncoder
from rtmo_deploy.model.normalise import InputNormalisation
from rtmo_deploy.zoo.variant import INPUT_MULTIPLE

if TYPE_CHECKING:
    from rtmo_deploy.model.spec import NetworkSpec


class RTMO(nn.Module):
    """One-stage multi-person pose estimator (arXiv 2312.07526; behaviour of MMPose 1.3.2).

    Args:
        spec: The network's numbers.
    """

    def __init__(self, spec: NetworkSpec) -> None:
        super().__init__()
        self.spec = spec
        self.normalise = InputNormalisation(spec.settings)
        self.backbone = CSPDarknet(spec)
        self.neck = HybridEncoder(spec)
        self.head = RTMOHead(spec)

    def forward(self, images: Tensor, *, proxy: bool = False) -> HeadOutputs:
        """Raw head outputs.

        Args:
            images: ``(B, 3, H, W)`` float32, BGR, 0..255; H and W multiples of 32.
            proxy: Compute the proxy keypoint offsets too, which only training needs.

        Raises:
            UsageError: H or W is not a multiple of 32.
        """
        height, width = images.shape[-2:]
        if height % INPUT_MULTIPLE or width % INPUT_MULTIPLE or 0 in (height, width):
            raise UsageError(
                f"The network input is {height}x{width} pixels.",
                remedy=f"Height and width must be multiples of {INPUT_MULTIPLE}.",
            )
        result: HeadOutputs = self.head(self.features(images), proxy=proxy)
        return result

    def features(self, images: Tensor) -> tuple[Tensor, ...]:
        """What the head is given: ``(B, 2 * head_channels, H, W)`` of strides 16 and 32."""
        result: tuple[Tensor, ...] = self.neck(self.backbone(self.normalise(images)))
        return result

    @torch.no_grad()
    def predict(
        self, images: Tensor, *, score_thr: float = 0.1, nms_thr: float = 0.65, pre_topk: int | None = None
    ) -> list[Detections]:
        """People in each picture of ``(B, 3, H, W)``; see :meth:`RTMOHead.decode`. Call it in eval mode."""
        height, width = images.shape[-2:]
        return self.head.decode(
            self(images), (int(height), int(width)), score_thr=score_thr, nms_thr=nms_thr, pre_topk=pre_topk
        )
