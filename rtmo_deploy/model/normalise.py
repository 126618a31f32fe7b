"""Normalises the network's input, as the reference's data preprocessor does before the first layer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor, nn

if TYPE_CHECKING:
    from rtmo_deploy.model.settings import Settings


class InputNormalisation(nn.Module):
    """BGR, 0..255, to ``(x - mean) / std`` in the channel order of the first layer; the identity where published.

    It stays an operation of its own: the first convolution pads with zeros after it, so a mean folded into a bias would
    be wrong at the border.
    """

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        self.settings = settings

    def forward(self, images: Tensor) -> Tensor:
        """``(B, 3, H, W)`` to the same shape."""
        settings = self.settings
        if not settings.normalises:
            return images
        if settings.rgb:
            images = images[:, [2, 1, 0]]
        mean, std = (images.new_tensor(values)[:, None, None] for values in (settings.mean, settings.std))
        return (images - mean) / std
