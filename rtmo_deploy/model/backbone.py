"""CSPDarknet, the backbone of YOLOX (arXiv 2107.08430), as RTMO uses it: outputs of strides 8, 16 and 32."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from rtmo_deploy.model.layers import conv
from rtmo_deploy.model.spec import Settings

if TYPE_CHECKING:
    from rtmo_deploy.model.spec import NetworkSpec

_PUBLISHED = Settings()


class Focus(nn.Module):
    """Space to depth by 2, then a 3x3 convolution. Order of the patches: TL, BL, TR, BR."""

    def __init__(self, out_channels: int, settings: Settings = _PUBLISHED) -> None:
        super().__init__()
        self.conv = conv(settings, "backbone", 12, out_channels, 3)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, 3, H, W)`` to ``(B, out, H / 2, W / 2)``."""
        patches = [x[..., ::2, ::2], x[..., 1::2, ::2], x[..., ::2, 1::2], x[..., 1::2, 1::2]]
        result: Tensor = self.conv(torch.cat(patches, dim=1))
        return result


class DarknetBottleneck(nn.Module):
    """1x1 and 3x3 convolution at full width, with an identity shortcut or without."""

    def __init__(self, channels: int, settings: Settings = _PUBLISHED, *, shortcut: bool) -> None:
        super().__init__()
        self.conv1 = conv(settings, "backbone", channels, channels, 1)
        self.conv2 = conv(settings, "backbone", channels, channels, 3)
        self.shortcut = shortcut

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C, H, W)`` to the same shape."""
        out: Tensor = self.conv2(self.conv1(x))
        return out + x if self.shortcut else out


class CSPLayer(nn.Module):
    """Cross-stage-partial layer: half of the channels pass through the blocks, the other half goes around."""

    def __init__(self, channels: int, blocks: int, settings: Settings = _PUBLISHED, *, shortcut: bool) -> None:
        super().__init__()
        half = channels // 2
        self.main_conv = conv(settings, "backbone", channels, half, 1)
        self.short_conv = conv(settings, "backbone", channels, half, 1)
        self.final_conv = conv(settings, "backbone", 2 * half, channels, 1)
        self.blocks = nn.Sequential(*(DarknetBottleneck(half, settings, shortcut=shortcut) for _ in range(blocks)))

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C, H, W)`` to the same shape."""
        short = self.short_conv(x)
        main = self.blocks(self.main_conv(x))
        result: Tensor = self.final_conv(torch.cat([main, short], dim=1))
        return result


class SPPBottleneck(nn.Module):
    """Spatial pyramid pooling: the input beside its maxima over 5x5, 9x9 and 13x13 windows.

    The maximum over 9x9 is that over 5x5 of that over 5x5, and 13x13 once more: the same numbers for less work.
    """

    def __init__(self, channels: int, settings: Settings = _PUBLISHED) -> None:
        super().__init__()
        half = channels // 2
        self.conv1 = conv(settings, "backbone", channels, half, 1)
        self.pool = nn.MaxPool2d(5, stride=1, padding=2)
        self.conv2 = conv(settings, "backbone", 4 * half, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C, H, W)`` to the same shape."""
        maxima = [self.conv1(x)]
        for _ in range(3):
            maxima.append(self.pool(maxima[-1]))
        result: Tensor = self.conv2(torch.cat(maxima, dim=1))
        return result


class CSPDarknet(nn.Module):
    """The backbone."""

    def __init__(self, spec: NetworkSpec) -> None:
        super().__init__()
        channels, blocks = spec.stage_channels, spec.stage_blocks
        settings = spec.settings
        self.stem = Focus(channels[0], settings)
        for i in range(4):
            last = i == 3
            layers: list[nn.Module] = [conv(settings, "backbone", channels[i], channels[i + 1], 3, stride=2)]
            if last:
                layers.append(SPPBottleneck(channels[i + 1], settings))
            layers.append(CSPLayer(channels[i + 1], blocks[i], settings, shortcut=not last))
            self.add_module(f"stage{i + 1}", nn.Sequential(*layers))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """``(B, 3, H, W)``, BGR 0..255, to the feature maps of strides 8, 16 and 32."""
        x = self.get_submodule("stage1")(self.stem(x))
        stride8 = self.get_submodule("stage2")(x)
        stride16 = self.get_submodule("stage3")(stride8)
        stride32 = self.get_submodule("stage4")(stride16)
        return stride8, stride16, stride32
