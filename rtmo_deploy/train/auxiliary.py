"""An auxiliary task for short trainings from nothing: where are keypoints, whoever's they are?

RTMO learns from a handful of grid cells a person, through features that know nothing at first; with a pretrained
backbone and some ten million pictures that is no matter. A training of some hundred thousand pictures spends most of
them before the first limb is recognised. So here the neck's features of stride 8, which RTMO computes and drops, also
learn heatmaps of all keypoints, as the bottom-up methods do (CenterNet, arXiv 1904.07850, equation 1). The layer that
reads them is thrown away: the model that comes out is a plain RTMO.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

if TYPE_CHECKING:
    from rtmo_deploy.model import RTMO
    from rtmo_deploy.train.targets import Targets

STRIDE = 8
#: A spot's deviation is this share of the square root of the person's area, and at least ``LEAST`` cells.
SPREAD = 0.04
LEAST = 0.7
#: Logits start at the probability 0.02, about the share of cells with a keypoint.
PRIOR_LOGIT = -3.9


class KeypointHeatmaps(nn.Module):
    """Heatmaps from the features of stride 8, and their loss.

    Args:
        model: The network; its neck is listened to.
        seed: Seed of the layer's weights.
    """

    def __init__(self, model: RTMO, seed: int) -> None:
        super().__init__()
        joints = model.spec.num_keypoints
        self.predict = nn.Conv2d(model.spec.hidden_dim, joints, 1)
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            self.predict.weight.normal_(std=0.01, generator=generator)
            nn.init.constant_(self.predict.get_parameter("bias"), PRIOR_LOGIT)
        self._features: Tensor | None = None
        model.neck.fpn_blocks[-1].register_forward_hook(self._listen)

    def _listen(self, _module: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> None:
        self._features = output if self.training else None

    def forward(self, targets: Targets) -> Tensor:
        """Loss of the batch that the network saw last, a scalar."""
        if self._features is None:
            raise RuntimeError("the network has not seen a batch in training mode")
        logits = self.predict(self._features.float())
        self._features = None
        height, width = logits.shape[-2:]
        wanted = draw_heatmaps(targets, (height, width))
        return focal_heatmap_loss(logits, wanted, float(targets.visible.sum()))


@torch.no_grad()
def draw_heatmaps(targets: Targets, hw: tuple[int, int]) -> Tensor:
    """Gaussian spots at the labelled keypoints, the strongest of several.

    Args:
        targets: People in network-input pixels.
        hw: Cells of stride 8.

    Returns:
        ``(B, K, h, w)`` in 0..1, exactly 1 in the cell that a keypoint lies in.
    """
    cells = targets.keypoints / STRIDE  # pixel 0 lies in cell 0
    deviation = (targets.areas.sqrt() * SPREAD / STRIDE).clamp(min=LEAST)[..., None]
    shown = targets.visible * targets.present[..., None]
    rows = []
    for axis, size in ((1, hw[0]), (0, hw[1])):
        position = cells[..., axis].floor()
        inside = (position >= 0) & (position < size)
        shown = shown * inside
        offset = torch.arange(size, device=cells.device) - position[..., None]
        rows.append((offset / deviation[..., None]).square() / -2)
    y, x = (row.exp() for row in rows)
    spots = torch.einsum("bgky,bgkx->bgkyx", y * shown[..., None], x)
    return spots.amax(dim=1)


def focal_heatmap_loss(logits: Tensor, wanted: Tensor, count: float) -> Tensor:
    """CenterNet's focal loss, summed and divided by the number of keypoints."""
    probability = logits.sigmoid()
    hit = wanted > 1 - 1e-4
    found = F.logsigmoid(logits) * (1 - probability).square() * hit
    missed = F.logsigmoid(-logits) * probability.square() * (1 - wanted).pow(4) * ~hit
    return -(found + missed).sum() / max(count, 1.0)
