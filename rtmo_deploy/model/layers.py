"""Building blocks that backbone, neck and head share. Attribute names are those of the official state dict."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from rtmo_deploy.model.spec import activation

if TYPE_CHECKING:
    from collections.abc import Callable

    from rtmo_deploy.model.spec import Settings

#: ``eps`` and ``momentum`` of the BatchNorm of the backbone and of the head.
YOLOX_BN = {"eps": 1e-3, "momentum": 0.03}
#: Those of the neck: torch's defaults.
NECK_BN = {"eps": 1e-5, "momentum": 0.1}


class ConvModule(nn.Module):
    """Convolution without bias, padded so that the size stays (before the stride), BatchNorm, and an activation.

    ``bn`` is ``eps`` and ``momentum`` of the BatchNorm, ``act`` the factory of the activation.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        *,
        groups: int = 1,
        bn: dict[str, float] = YOLOX_BN,
        act: Callable[[], nn.Module] | None = nn.SiLU,
    ) -> None:
        super().__init__()
        padding = kernel_size // 2
        self.conv = nn.Conv2d(in_channels, out_channels, kernel_size, stride, padding, groups=groups, bias=False)
        self.bn = nn.BatchNorm2d(out_channels, eps=bn["eps"], momentum=bn["momentum"])
        self.activate: nn.Module = act() if act else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """``(B, in, H, W)`` to ``(B, out, H / stride, W / stride)``."""
        result: Tensor = self.activate(self.bn(self.conv(x)))
        return result


def conv(
    settings: Settings,
    part: str,
    in_channels: int,
    out_channels: int,
    kernel: int,
    stride: int = 1,
    *,
    groups: int = 1,
    act: bool = True,
) -> ConvModule:
    """A convolution of ``backbone``, ``neck`` or ``head``, with the BatchNorm and the activation of that part."""
    factory = partial(activation, getattr(settings, f"{part}_act")) if act else None
    bn = settings.norm(part)
    return ConvModule(in_channels, out_channels, kernel, stride, groups=groups, bn=bn, act=factory)


class SinePositionalEncoding(nn.Module):
    """Sine encoding of positions, cosines before sines, with the frequencies ``temperature ** (-i / n)``.

    Unlike the encoding of "Attention is all you need" the exponent has no factor 2, and the positions are raw
    numbers (grid indices or pixels), not normalised ones.
    """

    dim_t: Tensor

    def __init__(self, channels: int, temperature: float) -> None:
        super().__init__()
        half = channels // 2
        self.register_buffer("dim_t", temperature ** (torch.arange(half, dtype=torch.float32) / half))

    def forward(self, positions: Tensor) -> Tensor:
        """``(...)`` positions to ``(..., channels)``."""
        angle = positions.unsqueeze(-1) / self.dim_t
        return torch.cat([angle.cos(), angle.sin()], dim=-1)

    def grid(self, height: int, width: int) -> Tensor:
        """``(height * width, 2 * channels)``: encoding of the row index, then of the column index, row-major."""
        rows = self(torch.arange(height, dtype=torch.float32, device=self.dim_t.device))
        columns = self(torch.arange(width, dtype=torch.float32, device=self.dim_t.device))
        both = torch.cat([rows[:, None].expand(-1, width, -1), columns[None].expand(height, -1, -1)], dim=-1)
        return both.flatten(0, 1)
