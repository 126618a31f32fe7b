"""Rewrites a trained network into an equal one with fewer operations, which is exported.

BatchNorm is folded into the convolution before it, the two branches of a RepVGG block become one convolution, and
the Focus layer (four strided slices, a concat and a 3x3 convolution) becomes one 6x6 convolution of stride 2. All
arithmetic on weights is done in float64. Attention and head are written for a small graph. What depends on the input's
size is computed in the graph, from shapes; with a static input the exporter and the simplifier fold it to constants.
"""

from __future__ import annotations

import copy
import math
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import torch
from torch import Tensor, nn

from rtmo_deploy.convert.onnx_ops import arange, reshape, reshape_like, split
from rtmo_deploy.model.backbone import Focus
from rtmo_deploy.model.layers import ConvModule
from rtmo_deploy.model.neck import RepVGGBlock, upsampled
from rtmo_deploy.model.spec import STRIDES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rtmo_deploy.model.head import RTMOHeadModule
    from rtmo_deploy.model.neck import ChannelMapper, HybridEncoder
    from rtmo_deploy.model.rtmo import RTMO


def fuse(model: RTMO) -> RTMO:
    """A fused copy of a network in eval mode; the network itself is untouched."""
    fused = copy.deepcopy(model)
    _replace(fused)
    return fused.eval()


def _replace(parent: nn.Module) -> None:
    for name, child in parent.named_children():
        replacement: nn.Module | None = None
        if isinstance(child, Focus):
            replacement = _fuse_focus(child)
        elif isinstance(child, RepVGGBlock):
            replacement = _fuse_repvgg(child)
        elif isinstance(child, ConvModule):
            replacement = _conv_act(child.conv, *_fold(child), child.activate)
        if replacement is None:
            _replace(child)
        else:
            setattr(parent, name, replacement)


def _fold(module: ConvModule) -> tuple[Tensor, Tensor]:
    """Weight and bias, float64, of convolution and BatchNorm as one."""
    scale, mean = _scale_and_mean(module.bn)
    weight = module.conv.weight.double() * scale[:, None, None, None]
    return weight, module.bn.bias.double() - mean * scale


def _scale_and_mean(bn: nn.BatchNorm1d | nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    if bn.running_mean is None or bn.running_var is None:
        raise ValueError("BatchNorm without running statistics cannot be folded")
    return bn.weight.double() / (bn.running_var.double() + bn.eps).sqrt(), bn.running_mean.double()


def _conv_act(like: nn.Conv2d, weight: Tensor, bias: Tensor, act: nn.Module, *, stride: int = 0) -> nn.Sequential:
    """A convolution with bias, and the activation; named like the module it replaces."""
    kernel = weight.shape[-1]
    conv = nn.Conv2d(
        weight.shape[1] * like.groups,
        weight.shape[0],
        kernel,
        stride or like.stride[0],
        padding=(kernel - 1) // 2,
        groups=like.groups,
    )
    parts: dict[str, nn.Module] = {"conv": with_weights(conv, weight, bias)}
    if not isinstance(act, nn.Identity):
        parts["act"] = act
    return nn.Sequential(OrderedDict(parts))


_Layer = TypeVar("_Layer", nn.Conv2d, nn.Linear)


def with_weights(layer: _Layer, weight: Tensor, bias: Tensor) -> _Layer:
    """The layer with these weights as float32 constants."""
    layer.weight = nn.Parameter(weight.detach().float(), requires_grad=False)
    layer.bias = nn.Parameter(bias.detach().float(), requires_grad=False)
    return layer


def linear(weight: Tensor, bias: Tensor) -> nn.Linear:
    """The linear layer of weight (out, in) and bias (out,)."""
    return with_weights(nn.Linear(weight.shape[1], weight.shape[0]), weight, bias)


def _pointwise(weight: Tensor, bias: Tensor) -> nn.Conv2d:
    return with_weights(nn.Conv2d(weight.shape[1], weight.shape[0], 1), weight, bias)


def _weights(layer: nn.Module) -> tuple[Tensor, Tensor]:
    weight, bias = (layer.get_parameter(name).detach() for name in ("weight", "bias"))
    return weight, bias


def _fuse_repvgg(block: RepVGGBlock) -> nn.Sequential:
    weight, bias = _fold(block.branch_3x3)
    point, point_bias = _fold(block.branch_1x1)
    weight = weight + nn.functional.pad(point, (1, 1, 1, 1))
    return _conv_act(block.branch_3x3.conv, weight, bias + point_bias, block.act)


def _fuse_focus(focus: Focus) -> nn.Sequential:
    """Patch channel blocks are TL, BL, TR, BR: block ``2 * column + row`` is the pixel (row, column) of a 2x2 cell."""
    weight, bias = _fold(focus.conv)
    out = weight.shape[0]
    blocks = weight.reshape(out, 2, 2, 3, 3, 3)  # out, column, row, colour, ky, kx
    spread = blocks.permute(0, 3, 4, 2, 5, 1).reshape(out, 3, 6, 6)  # out, colour, (ky, row), (kx, column)
    return _conv_act(focus.conv.conv, spread, bias, focus.conv.activate, stride=2)


def fold_linear_bn(layer: nn.Linear, bn: nn.BatchNorm1d) -> tuple[Tensor, Tensor]:
    """Weight (out, in) and bias, float64, of the linear layer that equals ``bn(linear(x))`` in eval mode."""
    scale, mean = _scale_and_mean(bn)
    bias = layer.bias.double() if layer.bias is not None else torch.zeros_like(scale)
    return layer.weight.double() * scale[:, None], (bias - mean) * scale + bn.bias.double()


SQRT2 = math.sqrt(2)


class ExportEncoder(nn.Module):
    """The neck's transformer layer on a feature map: position encoding, attention, FFN, both norms."""

    def __init__(self, neck: HybridEncoder) -> None:
        super().__init__()
        layer = neck.encoder_layer
        attn = layer.self_attn.attn
        if attn.in_proj_weight is None or attn.in_proj_bias is None or attn.out_proj.bias is None:
            raise TypeError("the attention has separate projections or no bias")
        channels, self.heads = attn.embed_dim, attn.num_heads
        self.channels, self.head_dim = channels, channels // attn.num_heads
        weight, bias = attn.in_proj_weight.detach().double(), attn.in_proj_bias.detach().double()
        # The 1 / sqrt(d) of the attention goes into the query's weights.
        scale = torch.ones(2 * channels, dtype=torch.float64)
        scale[:channels] = self.head_dim**-0.5
        self.query_key = linear(weight[: 2 * channels] * scale[:, None], bias[: 2 * channels] * scale)
        # Attention weights sum to 1, so the value's bias passes through and joins the output's.
        out = attn.out_proj.weight.detach().double()
        self.value = nn.Parameter(weight[2 * channels :].T.float().contiguous(), requires_grad=False)
        self.out = linear(out, out @ bias[2 * channels :] + attn.out_proj.bias.detach().double())
        act = layer.ffn.get_submodule("layers.0.1")
        self.act = None if isinstance(act, nn.GELU) else act
        root = SQRT2 if self.act is None else 1.0
        # gelu(x) = x (1 + erf(x / sqrt 2)) / 2, with the square root and the half in the weights around it.
        (weight, bias), (after, after_bias) = (_weights(layer.ffn.get_submodule(n)) for n in ("layers.0.0", "layers.1"))
        self.expand = linear(weight.double() / root, bias.double() / root)
        self.contract = linear(after.double() / root, after_bias)
        self.norms = layer.norms
        self.pos_enc = ExportPositionEncoding(neck)

    def forward(self, x: Tensor, grid: Tensor) -> Tensor:
        """``(B, C, H, W)`` and the pixel positions ``(H, W, 2)`` of its cells, to ``(B, C, H, W)``."""
        tokens = reshape(x, (0, 0, -1)).transpose(1, 2)
        both = self.query_key(tokens + self.pos_enc(grid))
        both = reshape(both, (0, -1, 2 * self.heads, self.head_dim)).transpose(1, 2)
        query, key = split(both, [self.heads, self.heads], dim=1)
        value = reshape(tokens @ self.value, (0, -1, self.heads, self.head_dim)).transpose(1, 2)
        mixed = torch.softmax(query @ key.transpose(2, 3), dim=-1) @ value
        tokens = self.norms[0](tokens + self.out(reshape(mixed.transpose(1, 2), (0, -1, self.channels))))
        hidden = self.expand(tokens)
        hidden = hidden * (hidden.erf() + 1) if self.act is None else self.act(hidden)
        tokens = self.norms[1](tokens + self.contract(hidden))
        return reshape_like(tokens.transpose(1, 2), x)


class ExportPositionEncoding(nn.Module):
    """Sine encoding of the cells of the coarsest level."""

    dim_t: Tensor

    def __init__(self, neck: HybridEncoder) -> None:
        super().__init__()
        # Positions come in pixels; a power of two times dim_t divides them to the very bits of index / dim_t.
        self.register_buffer("dim_t", neck.sincos_pos_enc.dim_t * STRIDES[-1])
        self.channels = 4 * len(neck.sincos_pos_enc.dim_t)

    def forward(self, grid: Tensor) -> Tensor:
        """``(H, W, 2)`` x, y in pixels to ``(H * W, C)``: row encoding, then column encoding."""
        angle = reshape(grid[:, :, [1, 0]], (-1, 2, 1)) / self.dim_t
        return reshape(torch.cat([angle.cos(), angle.sin()], dim=2), (-1, self.channels))


class Grid(nn.Module):
    """Pixel positions of the cells of both levels, computed from the size of the network's input."""

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """``(B, 3, H, W)`` to ``(H / 16, W / 16, 2)`` and ``(H / 32, W / 32, 2)``: x, y of each cell's first pixel."""
        fine, coarse = STRIDES
        x = reshape(arange(images.shape[3], step=fine), (1, -1, 1)) * torch.tensor([1.0, 0.0])
        y = reshape(arange(images.shape[2], step=fine), (-1, 1, 1)) * torch.tensor([0.0, 1.0])
        positions = x + y
        every = coarse // fine
        return positions, positions[::every, ::every]


class ExportNeck(nn.Module):
    """The neck with its encoder and its top-down blocks replaced."""

    def __init__(self, neck: HybridEncoder) -> None:
        super().__init__()
        self.fused = neck
        self.encoder = ExportEncoder(neck)
        self.fpn_blocks = nn.ModuleList(
            TopDownBlock(block, projection)
            for block, projection in zip(neck.fpn_blocks, list(neck.input_proj)[-2::-1], strict=True)
        )
        self.projector = SplitProjector(neck.projector)

    def forward(self, features: Sequence[Tensor], grid: Tensor) -> tuple[tuple[Tensor, Tensor], ...]:
        """Backbone features, and the grid of the coarsest level, to a pair of head inputs a level."""
        inner = [self.encoder(self.fused.input_proj[-1](features[-1]), grid)]
        for lateral, block, fine in zip(self.fused.lateral_convs, self.fpn_blocks, features[-2::-1], strict=True):
            inner[0] = lateral(inner[0])
            inner.insert(0, block(inner[0], fine))
        pairs: tuple[tuple[Tensor, Tensor], ...] = self.projector(self.fused.bottom_up(inner))
        return pairs


class TopDownBlock(nn.Module):
    """A block of the top-down pass with the projection of its finer input, in fewer operations.

    The block begins with two 1x1 convolutions of upsampled coarse features beside projected fine ones. A 1x1
    convolution of upsampled features is the upsampled convolution of the coarse ones, for a quarter of the cells; and a
    projection is one with the convolution behind it, since no activation is in between. Exact in real arithmetic: 8 to
    9 % of the network's multiply-accumulates less, and no concatenation.
    """

    def __init__(self, block: nn.Module, projection: nn.Module) -> None:
        super().__init__()
        conv = projection.get_submodule("conv")
        self.conv1, self.conv2 = (_SplitConv(block.get_submodule(name), conv) for name in ("conv1", "conv2"))
        self.bottlenecks, self.conv3 = block.get_submodule("bottlenecks"), block.get_submodule("conv3")

    def forward(self, coarse: Tensor, fine: Tensor) -> Tensor:
        """``(B, C, H, W)`` and not yet projected ``(B, D, 2H, 2W)`` to ``(B, C, 2H, 2W)``."""
        short = self.conv2(coarse, fine)  # first: quantisers take the later branch's convolution to hold the sum
        result: Tensor = self.conv3(self.bottlenecks(self.conv1(coarse, fine)) + short)
        return result


class _SplitConv(nn.Module):
    def __init__(self, entry: nn.Module, projection: nn.Module) -> None:
        super().__init__()
        (weight, bias), (before, before_bias) = (
            [part.double() for part in _weights(conv)] for conv in (entry.get_submodule("conv"), projection)
        )
        coarse, fine = split(weight.flatten(1), [len(before), weight.shape[1] - len(before)], dim=1)
        # The coarse part has no bias: it would be added for every fine cell again.
        self.coarse = nn.Conv2d(coarse.shape[1], len(coarse), 1, bias=False)
        self.coarse.weight = nn.Parameter(coarse[:, :, None, None].float().contiguous(), requires_grad=False)
        self.fine = _pointwise((fine @ before.flatten(1))[:, :, None, None], fine @ before_bias + bias)
        self.act = entry.get_submodule("act")

    def forward(self, coarse: Tensor, fine: Tensor) -> Tensor:
        result: Tensor = self.act(upsampled(self.coarse(coarse)) + self.fine(fine))
        return result


@dataclass(frozen=True)
class HeadMaps:
    """What the head computes for every cell; P cells: stride 16 first, row by row, then stride 32.

    Of a dense head the box is the raw prediction and the features are visibility logits and pose vectors. Otherwise the
    box is in pixels (offset of the centre from the cell's, logarithm of width and height), and the features are those
    of the pose branch, which two 1x1 convolutions a level turn into visibilities and pose vectors, for survivors only.
    """

    #: ``(B, 1 + 4 + channels, P)``: the logit, the box, the features.
    maps: Tensor
    channels: int
    #: ``maps`` of stride 16 alone: its length tells which level a cell belongs to.
    fine: Tensor
    #: Positions of the cells' first pixels, ``(H, W, 2)`` a level.
    grid: tuple[Tensor, Tensor]


class SplitProjector(nn.Module):
    """The neck's projection, computed as two: one for the classification branch, one for the pose branch."""

    def __init__(self, projector: ChannelMapper) -> None:
        super().__init__()
        parts = [[part.chunk(2) for part in _weights(level.get_submodule("conv"))] for level in projector.convs]
        self.cls, self.pose = (
            nn.ModuleList(_pointwise(weight[half].clone(), bias[half].clone()) for weight, bias in parts)
            for half in (0, 1)
        )

    def forward(self, features: Sequence[Tensor]) -> tuple[tuple[Tensor, Tensor], ...]:
        """A pair of ``(B, head_channels, H, W)`` a level."""
        return tuple((cls(x), pose(x)) for cls, pose, x in zip(self.cls, self.pose, features, strict=True))


class ExportHead(nn.Module):
    """The convolutions of the fused head that every cell needs, and if ``dense`` all that it has.

    Otherwise visibilities and pose vectors are left to the decoder, which computes them for survivors only, and the
    strides are folded into the box predictions. The proxy regression of training is gone.
    """

    def __init__(self, head: RTMOHeadModule, *, dense: bool) -> None:
        super().__init__()
        self.conv_cls, self.out_cls = head.conv_cls, head.out_cls
        self.conv_pose = head.conv_pose
        self.dense = dense
        self.channels: int = head.out_bbox[0].get_parameter("weight").shape[1]
        if dense:
            self.out_bbox = head.out_bbox
            self.out_dense = nn.ModuleList(
                _pointwise(*side_by_side(vis, pose)) for vis, pose in zip(head.out_kpt_vis, head.out_pose, strict=True)
            )
            self.channels = self.out_dense[0].get_parameter("weight").shape[0]
        else:
            self.out_bbox = nn.ModuleList(
                _in_pixels(conv, stride) for conv, stride in zip(head.out_bbox, STRIDES, strict=True)
            )

    def forward(self, features: Sequence[tuple[Tensor, Tensor]], grid: tuple[Tensor, Tensor]) -> HeadMaps:
        """Pairs of feature maps of strides 16 and 32 to the maps of all cells."""
        levels = []
        for i, (cls_feat, reg_feat) in enumerate(features):
            reg_feat = self.conv_pose[i](reg_feat)
            logit, box = self.out_cls[i](self.conv_cls[i](cls_feat)), self.out_bbox[i](reg_feat)
            level = torch.cat([logit, box, self.out_dense[i](reg_feat) if self.dense else reg_feat], dim=1)
            levels.append(reshape(level, (0, 0, -1)))
        return HeadMaps(torch.cat(levels, dim=2), self.channels, levels[0], grid)


def side_by_side(first: nn.Module, second: nn.Module) -> tuple[Tensor, Tensor]:
    """Weight and bias of two 1x1 convolutions of the same input as one, the outputs of ``first`` first."""
    parts = _weights(first), _weights(second)
    return torch.cat([weight for weight, _ in parts]), torch.cat([bias for _, bias in parts])


def _in_pixels(conv: nn.Module, stride: int) -> nn.Conv2d:
    """The box convolution with its stride folded in: ``pred * s`` for the centre, ``pred + log s`` for the size."""
    weight, bias = (part.clone() for part in _weights(conv))
    weight[:2] *= stride
    bias[:2] *= stride
    bias[2:] += math.log(stride)
    return _pointwise(weight, bias)


class ExportNetwork(nn.Module):
    """Fused network and a decoder of ``(HeadMaps, images)``, whose nodes are called ``/decode/...``."""

    def __init__(self, model: RTMO, decode: nn.Module, *, dense: bool = False) -> None:
        super().__init__()
        fused = fuse(model)
        self.normalise = fused.normalise
        self.backbone = fused.backbone
        self.grid = Grid()
        self.neck = ExportNeck(fused.neck)
        self.head = ExportHead(fused.head.head_module, dense=dense)
        self.decode = decode

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """``(B, 3, H, W)`` float32 BGR 0..255 to the decoder's outputs."""
        grid = self.grid(images)
        maps = self.head(self.neck(self.backbone(self.normalise(images)), grid[1]), grid)
        result: tuple[Tensor, ...] = self.decode(maps, images)
        return result
