"""Network and loss as one module."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

if TYPE_CHECKING:
    from collections.abc import Callable

    from rtmo_deploy.model import RTMO
    from rtmo_deploy.train.auxiliary import KeypointHeatmaps
    from rtmo_deploy.train.criterion import Criterion
    from rtmo_deploy.train.targets import Targets


class LossModule(nn.Module):
    """Network and loss in one module, as ``DistributedDataParallel`` needs them.

    Args:
        model: The network.
        criterion: Its loss.
        autocast: Gives the context of the network's forward pass.
        auxiliary: What is learned along, if anything.
    """

    def __init__(
        self,
        model: RTMO,
        criterion: Criterion,
        autocast: Callable[[], Any],
        auxiliary: KeypointHeatmaps | None = None,
    ) -> None:
        super().__init__()
        self.model, self.criterion, self.autocast = model, criterion, autocast
        self.auxiliary = auxiliary
        self.terms: dict[str, Tensor] = {}

    def forward(self, images: Tensor, targets: Targets) -> Tensor:
        """``(B, 3, H, W)`` and their people to the scalar loss; its weighted terms are in ``terms`` then."""
        with self.autocast():
            outputs = self.model(images, proxy=True)
        result = self.criterion(outputs, targets)
        self.terms = dict(result.terms)
        if self.auxiliary is None:
            return result.total
        heatmap: Tensor = self.criterion.options.heatmap * self.auxiliary(targets)
        self.terms["heatmap"] = heatmap.detach()
        return result.total + heatmap
