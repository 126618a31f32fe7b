"""HybridEncoder: the neck of RT-DETR (arXiv 2304.08069) with MMPose's settings.

One transformer encoder layer on stride 32, then a top-down and a bottom-up pass through CSP layers of RepVGG
blocks, then a 1x1 projection of strides 16 and 32. Stride 8 takes part in the passes, its output is dropped.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rtmo_deploy.model.layers import NECK_BN, ConvModule, SinePositionalEncoding, conv
from rtmo_deploy.model.spec import Settings, activation

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rtmo_deploy.model.spec import NetworkSpec


class RepVGGBlock(nn.Module):
    """3x3 and 1x1 branches, each with BatchNorm, summed and then activated. There is no identity branch."""

    def __init__(self, channels: int, act: str = "SiLU") -> None:
        super().__init__()
        self.branch_3x3 = ConvModule(channels, channels, 3, bn=NECK_BN, act=None)
        self.branch_1x1 = ConvModule(channels, channels, 1, bn=NECK_BN, act=None)
        self.act = activation(act)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C, H, W)`` to the same shape."""
        result: Tensor = self.act(self.branch_3x3(x) + self.branch_1x1(x))
        return result


class CSPRepLayer(nn.Module):
    """Sum of a 1x1 path and a 1x1 path with RepVGG blocks; widened again unless it already is that wide."""

    def __init__(self, in_channels: int, out_channels: int, hidden: int, blocks: int, act: str = "SiLU") -> None:
        super().__init__()
        # The reference gives these layers torch's BatchNorm, whatever the neck's norm_cfg is.
        settings = Settings(neck_act=act)
        self.conv1 = conv(settings, "neck", in_channels, hidden, 1)
        self.conv2 = conv(settings, "neck", in_channels, hidden, 1)
        self.bottlenecks = nn.Sequential(*(RepVGGBlock(hidden, act) for _ in range(blocks)))
        self.conv3: nn.Module = nn.Identity()
        if hidden != out_channels:
            self.conv3 = conv(settings, "neck", hidden, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, in, H, W)`` to ``(B, out, H, W)``."""
        result: Tensor = self.conv3(self.bottlenecks(self.conv1(x)) + self.conv2(x))
        return result


class SelfAttention(nn.Module):
    """Multi-head self-attention with its residual; the position is added to queries and keys, not to values."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.attn = nn.MultiheadAttention(channels, heads, batch_first=True)

    def forward(self, x: Tensor, position: Tensor) -> Tensor:
        """``(B, T, C)`` and ``(T, C)`` or broadcastable, to ``(B, T, C)``."""
        query = x + position
        out, _ = self.attn(query, query, x, need_weights=False)
        result: Tensor = x + out
        return result


class FFN(nn.Module):
    """Two linear layers with an activation between them (GELU, exact by erf, where published), and the residual."""

    def __init__(self, channels: int, hidden: int, act: str = "GELU") -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Sequential(nn.Linear(channels, hidden), activation(act)), nn.Linear(hidden, channels)
        )

    def forward(self, x: Tensor) -> Tensor:
        """``(B, T, C)`` to the same shape."""
        result: Tensor = x + self.layers(x)
        return result


class EncoderLayer(nn.Module):
    """Post-norm transformer encoder layer."""

    def __init__(self, spec: NetworkSpec) -> None:
        super().__init__()
        channels, settings = spec.hidden_dim, spec.settings
        self.self_attn = SelfAttention(channels, spec.neck_heads)
        self.ffn = FFN(channels, spec.ffn_channels, settings.ffn_act)
        self.norms = nn.ModuleList(nn.LayerNorm(channels, eps=settings.layer_norm_eps) for _ in range(2))

    def forward(self, x: Tensor, position: Tensor) -> Tensor:
        """``(B, T, C)`` and the encoding of the positions, to ``(B, T, C)``."""
        x = self.norms[0](self.self_attn(x, position))
        result: Tensor = self.norms[1](self.ffn(x))
        return result


class Encoder(nn.Module):
    """A stack of encoder layers; RTMO has one."""

    def __init__(self, spec: NetworkSpec) -> None:
        super().__init__()
        self.layers = nn.ModuleList([EncoderLayer(spec)])

    def forward(self, x: Tensor, position: Tensor) -> Tensor:
        """``(B, T, C)`` and the encoding of the positions, to ``(B, T, C)``."""
        result: Tensor = self.layers[0](x, position)
        return result


class ChannelMapper(nn.Module):
    """A 1x1 convolution with BatchNorm and no activation for each level."""

    def __init__(self, levels: int, in_channels: int, out_channels: int, bn: dict[str, float] = NECK_BN) -> None:
        super().__init__()
        self.convs = nn.ModuleList(ConvModule(in_channels, out_channels, 1, bn=bn, act=None) for _ in range(levels))

    def forward(self, features: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Each ``(B, in, H, W)`` to ``(B, out, H, W)``."""
        return tuple(conv(x) for conv, x in zip(self.convs, features, strict=True))


class HybridEncoder(nn.Module):
    """The neck."""

    def __init__(self, spec: NetworkSpec) -> None:
        super().__init__()
        dim, hidden, blocks = spec.hidden_dim, spec.csp_hidden, spec.neck_blocks
        inputs, settings = spec.stage_channels[2:], spec.settings
        self.input_proj = nn.ModuleList(conv(settings, "neck", c, dim, 1, act=False) for c in inputs)
        self.encoder = nn.ModuleList([Encoder(spec)])
        self.sincos_pos_enc = SinePositionalEncoding(dim // 2, temperature=settings.pe_temperature)
        self.lateral_convs = nn.ModuleList(conv(settings, "neck", dim, dim, 1) for _ in inputs[1:])
        self.fpn_blocks = nn.ModuleList(
            CSPRepLayer(2 * dim, dim, hidden, blocks, settings.neck_act) for _ in inputs[1:]
        )
        self.downsample_convs = nn.ModuleList(conv(settings, "neck", dim, dim, 3, stride=2) for _ in inputs[1:])
        self.pan_blocks = nn.ModuleList(
            CSPRepLayer(2 * dim, dim, hidden, blocks, settings.neck_act) for _ in inputs[1:]
        )
        self.projector = ChannelMapper(2, dim, 2 * spec.head_channels, settings.norm("projector"))

    def forward(self, features: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Backbone features of strides 8, 16, 32 to ``(B, 2 * head_channels, H, W)`` of strides 16 and 32."""
        projected = self.project(features)
        projected[-1] = self.encode(projected[-1])
        result: tuple[Tensor, ...] = self.projector(self.merge(projected))
        return result

    @property
    def encoder_layer(self) -> EncoderLayer:
        """The one transformer layer."""
        layer = self.encoder.get_submodule("0.layers.0")
        if not isinstance(layer, EncoderLayer):
            raise TypeError(f"the neck's encoder layer is a {type(layer).__name__}")
        return layer

    def project(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Each backbone feature to ``hidden_dim`` channels."""
        return [proj(x) for proj, x in zip(self.input_proj, features, strict=True)]

    def encode(self, x: Tensor) -> Tensor:
        """Self-attention over all cells of the coarsest level, ``(B, hidden_dim, H, W)`` to the same shape."""
        position = self.sincos_pos_enc.grid(x.shape[-2], x.shape[-1])
        tokens: Tensor = self.encoder[0](x.flatten(2).transpose(1, 2), position)
        return tokens.transpose(1, 2).reshape(x.shape)

    def merge(self, projected: Sequence[Tensor]) -> list[Tensor]:
        """Top-down and bottom-up pass; strides 16 and 32 of what comes out."""
        inner = [projected[-1]]
        for i, low in enumerate(reversed(projected[:-1])):
            # The lateral convolution's output feeds both the upsampling and, later, the bottom-up pass.
            inner[0] = self.lateral_convs[i](inner[0])
            inner.insert(0, self.fpn_blocks[i](torch.cat([upsampled(inner[0]), low], dim=1)))
        return self.bottom_up(inner)

    def bottom_up(self, inner: Sequence[Tensor]) -> list[Tensor]:
        """The second pass over what the first leaves of each level; strides 16 and 32 of what comes out."""
        outs = [inner[0]]
        for i, high in enumerate(inner[1:]):
            downsampled = self.downsample_convs[i](outs[-1])
            outs.append(self.pan_blocks[i](torch.cat([downsampled, high], dim=1)))
        return outs[1:]


def upsampled(x: Tensor) -> Tensor:
    """``(B, C, H, W)`` to ``(B, C, 2H, 2W)``, each cell four times."""
    return F.interpolate(x, scale_factor=2.0, mode="nearest")
