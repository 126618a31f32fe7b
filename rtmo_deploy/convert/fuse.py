"""Rewrites a trained network into an equal one with fewer operations: what leaves for deployment.

BatchNorm is folded into the convolution before it, the two branches of a RepVGG block become one convolution, and
the Focus layer (four strided slices, a concat and a 3x3 convolution) becomes one 6x6 convolution of stride 2. All
arithmetic on weights is done in float64.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from rtmo_deploy.model.backbone import Focus
from rtmo_deploy.model.layers import ConvModule
from rtmo_deploy.model.neck import RepVGGBlock

if TYPE_CHECKING:
    from rtmo_deploy.model.rtmo import RTMO


def fuse(model: RTMO) -> RTMO:
    """A fused copy of ``model`` in eval mode; ``model`` itself is untouched.

    Args:
        model: The network; its BatchNorm statistics are used as they are.
    """
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


class _ConvAct(nn.Sequential):
    """A convolution with bias, and the activation; named like the module it replaces."""

    def __init__(self, conv: nn.Conv2d, act: nn.Module) -> None:
        super().__init__()
        self.add_module("conv", conv)
        if not isinstance(act, nn.Identity):
            self.add_module("act", act)


def _fold(module: ConvModule) -> tuple[Tensor, Tensor]:
    """Weight and bias, float64, of the convolution that equals convolution and BatchNorm."""
    bn = module.bn
    if bn.running_mean is None or bn.running_var is None:
        raise ValueError("BatchNorm without running statistics cannot be folded")
    scale = bn.weight.double() / (bn.running_var.double() + bn.eps).sqrt()
    weight = module.conv.weight.double() * scale[:, None, None, None]
    return weight, bn.bias.double() - bn.running_mean.double() * scale


def _conv_act(like: nn.Conv2d, weight: Tensor, bias: Tensor, act: nn.Module, *, stride: int | None = None) -> _ConvAct:
    kernel = weight.shape[-1]
    strides = like.stride[0] if stride is None else stride
    conv = nn.Conv2d(
        weight.shape[1] * like.groups,
        weight.shape[0],
        kernel,
        strides,
        padding=(kernel - 1) // 2,
        groups=like.groups,
    )
    conv.weight = nn.Parameter(weight.float(), requires_grad=False)
    conv.bias = nn.Parameter(bias.float(), requires_grad=False)
    return _ConvAct(conv, act)


def _fuse_repvgg(block: RepVGGBlock) -> _ConvAct:
    weight, bias = _fold(block.branch_3x3)
    point, point_bias = _fold(block.branch_1x1)
    weight = weight + nn.functional.pad(point, (1, 1, 1, 1))
    return _conv_act(block.branch_3x3.conv, weight, bias + point_bias, block.act)


def _fuse_focus(focus: Focus) -> _ConvAct:
    """Patch channel blocks are TL, BL, TR, BR: block ``2 * column + row`` is the pixel (row, column) of a 2x2 cell."""
    weight, bias = _fold(focus.conv)
    out = weight.shape[0]
    blocks = weight.reshape(out, 2, 2, 3, 3, 3)  # out, column, row, colour, ky, kx
    spread = blocks.permute(0, 3, 4, 2, 5, 1).reshape(out, 3, 6, 6)  # out, colour, (ky, row), (kx, column)
    return _conv_act(focus.conv.conv, spread, bias, focus.conv.activate, stride=2)


def fold_linear_bn(linear: nn.Linear, bn: nn.BatchNorm1d) -> tuple[Tensor, Tensor]:
    """Weight (out, in) and bias, float64, of the linear layer that equals ``bn(linear(x))`` in eval mode."""
    if bn.running_mean is None or bn.running_var is None:
        raise ValueError("BatchNorm without running statistics cannot be folded")
    scale = bn.weight.double() / (bn.running_var.double() + bn.eps).sqrt()
    bias = linear.bias.double() if linear.bias is not None else torch.zeros_like(scale)
    return (
        linear.weight.double() * scale[:, None],
        (bias - bn.running_mean.double()) * scale + bn.bias.double(),
    )
