"""A graph of MMDeploy's shape, made of any checkpoint, for a machine on which MMDeploy is not installed.

It is not MMDeploy's file. It is what MMDeploy 1.3.1 was seen to export for RTMO, written down again from such files:
a fixed input size, normalisations in parts, pose vectors and visibilities of every cell, boxes that are not clipped,
the 2000 best cells into NonMaxSuppression (200 out), one row that is nobody, 50 rows at most, and a coordinate
classifier that encodes every bin of every person anew and puts each through a linear layer. Two things differ. The
batch size is 1 and baked in; by that it lacks most of MMDeploy's arithmetic on shapes, so a ratio against it says
rather too little than too much. And the opset is 14, not 11, in which today's exporter cannot write the attention.
``onnx_vs_mmdeploy.py`` and ``cpu_end_to_end.py`` take a file of MMDeploy's own where there is one.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from rtmo_deploy.convert import trace as tracing
from rtmo_deploy.convert.network import fold_linear_bn, fuse
from rtmo_deploy.model.dcc import BOX_PADDING, KEYPOINT_CHANNELS
from rtmo_deploy.model.head import decode_boxes, grid_priors, non_maximum_suppression
from rtmo_deploy.model.spec import STRIDES

if TYPE_CHECKING:
    import onnx

    from rtmo_deploy.model import RTMO
    from rtmo_deploy.model.dcc import DCC

__all__ = ["mmdeploy_shape"]

OPSET = 14
CANDIDATES, SURVIVORS, ROWS = 2000, 200, 50


class _Suppress(torch.autograd.Function):
    """NonMaxSuppression on corner boxes ``(1, C, 4)`` and scores ``(1, 1, C)``: the survivors' places, ``(n,)``."""

    @staticmethod
    def forward(_: Any, boxes: Tensor, scores: Tensor, nms_thr: float, score_thr: float) -> Tensor:
        candidates = (scores[0, 0] > score_thr).nonzero()[:, 0]
        kept = non_maximum_suppression(boxes[0, candidates], scores[0, 0, candidates], nms_thr)
        return candidates[kept][:SURVIVORS]

    @staticmethod
    def symbolic(g: Any, boxes: Any, scores: Any, nms_thr: float, score_thr: float) -> Any:
        limits = (torch.tensor([SURVIVORS]), torch.tensor([nms_thr]), torch.tensor([score_thr]))
        kept = g.op("NonMaxSuppression", boxes, scores, *(g.op("Constant", value_t=value) for value in limits))
        return g.op("Gather", kept, g.op("Constant", value_t=torch.tensor(2)), axis_i=1)


class _Best(torch.autograd.Function):
    """Order of the best ``ROWS`` of ``(n,)`` values, or of all where there are fewer, as MMDeploy writes it."""

    @staticmethod
    def forward(_: Any, values: Tensor) -> Tensor:
        return values.topk(min(ROWS, len(values))).indices

    @staticmethod
    def symbolic(g: Any, values: Any) -> Any:
        most, there = g.op("Constant", value_t=torch.tensor([ROWS])), g.op("Shape", values)
        count = g.op("Where", g.op("Less", most, there), most, there)
        return g.op("TopK", values, count, axis_i=0, largest_i=1, sorted_i=1, outputs=2)[1]


def _apply(function: type[torch.autograd.Function], *inputs: Any) -> Any:
    return function.apply(*inputs)  # type: ignore[no-untyped-call]


class _Attention(nn.Module):
    """The neck's attention with its residual, in plain operators."""

    def __init__(self, attn: nn.MultiheadAttention) -> None:
        super().__init__()
        if attn.in_proj_weight is None or attn.in_proj_bias is None:
            raise TypeError("the attention has separate projections or no bias")
        self.heads, self.out = attn.num_heads, attn.out_proj
        self.scale = attn.head_dim**-0.5
        weights, biases = attn.in_proj_weight.detach().chunk(3), attn.in_proj_bias.detach().chunk(3)
        self.projections = nn.ModuleList(map(_linear, weights, biases))

    def forward(self, x: Tensor, position: Tensor) -> Tensor:
        """``(1, T, C)`` and the encoding of the positions ``(T, C)``, to ``(1, T, C)``."""
        shifted = x + position
        query, key, value = (
            layer(source).reshape(1, x.shape[1], self.heads, -1).transpose(1, 2)
            for layer, source in zip(self.projections, (shifted, shifted, x), strict=True)
        )
        mixed = torch.softmax((query * self.scale) @ key.transpose(2, 3), dim=-1) @ value
        result: Tensor = x + self.out(mixed.transpose(1, 2).reshape(x.shape))
        return result


class _Positions(nn.Module):
    """The position encoding as a constant, as in a graph of a fixed input size."""

    encoding: Tensor

    def __init__(self, encoding: Tensor) -> None:
        super().__init__()
        self.register_buffer("encoding", encoding)

    def grid(self, height: int, width: int) -> Tensor:
        """``(height * width, C)``."""
        del height, width
        return self.encoding


def _linear(weight: Tensor, bias: Tensor) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0])
    layer.weight, layer.bias = nn.Parameter(weight.float()), nn.Parameter(bias.float())
    return layer


class _Classifier(nn.Module):
    """The coordinate classifier as the reference writes it: every bin of every person through the linear layer."""

    def __init__(self, dcc: DCC) -> None:
        super().__init__()
        self.dcc, self.gau = dcc, dcc.gau
        linear, bn = dcc.pose_to_kpts
        if not isinstance(linear, nn.Linear) or not isinstance(bn, nn.BatchNorm1d):
            raise TypeError("pose_to_kpts is not the layer that is known here")
        self.to_keypoints = _linear(*fold_linear_bn(linear, bn))
        self.parts = [self.gau.expanded, self.gau.expanded, self.gau.key_channels]
        self.shifts = (self.gau.beta + dcc.pos_enc[:, None]).detach().transpose(0, 1)

    def features(self, pose_vecs: Tensor) -> Tensor:
        """``(n, V)`` to ``(n, K, C)``."""
        gau = self.gau
        x = self.to_keypoints(pose_vecs).reshape(-1, self.dcc.num_keypoints, KEYPOINT_CHANNELS)
        u, v, base = torch.split(nn.functional.silu(gau.uv(gau.ln(x))), self.parts, dim=2)
        query, key = (base * gau.gamma[i] + self.shifts[i] for i in (0, 1))
        kernel = (query @ key.transpose(1, 2) / gau.key_channels**0.5).relu()
        result: Tensor = gau.res_scale(x) + gau.o(u * ((kernel * kernel) @ v))
        return result

    def forward(self, pose_vecs: Tensor, boxes: Tensor, cells: Tensor) -> Tensor:
        """``(n, V)``, unclipped corners ``(n, 4)`` and cell centres ``(n, 2)`` to ``(n, K, 2)``."""
        dcc, features = self.dcc, self.features(pose_vecs)
        size = (boxes[:, 2:] - boxes[:, :2]) * BOX_PADDING
        offset = (boxes[:, 2:] + boxes[:, :2]) * 0.5 - cells
        axes = []
        for axis, (bins, layer) in enumerate(((dcc.x_bins, dcc.x_fc), (dcc.y_bins, dcc.y_fc))):
            positions = bins * size[:, axis, None] + offset[:, axis, None]
            logits = (features @ layer(dcc.spe(positions)).transpose(1, 2)).clamp(-5e4, 5e4)
            heat = (logits - logits.amax(dim=-1, keepdim=True)).exp()
            heat = heat / (heat.sum(dim=-1, keepdim=True) + 1e-8)
            axes.append((heat * positions[:, None]).sum(dim=-1) + cells[:, axis, None])
        return torch.stack(axes, dim=-1)


class _Shape(nn.Module):
    def __init__(self, model: RTMO, input_hw: tuple[int, int], score_thr: float, nms_thr: float) -> None:
        super().__init__()
        self.network = fuse(model)
        # MMDeploy leaves the strided slices of the stem as they are; the exporter folds its BatchNorm.
        self.network.backbone.stem = copy.deepcopy(model.backbone.stem).eval()
        neck = self.network.neck
        neck.encoder_layer.add_module("self_attn", _Attention(neck.encoder_layer.self_attn.attn))
        height, width = (side // STRIDES[-1] for side in input_hw)
        neck.add_module("sincos_pos_enc", _Positions(neck.sincos_pos_enc.grid(height, width)))
        self.classify = _Classifier(copy.deepcopy(model.head.dcc).eval())
        self.score_thr, self.nms_thr = score_thr, nms_thr
        self.priors = grid_priors([(input_hw[0] // stride, input_hw[1] // stride) for stride in STRIDES])

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        network = self.network
        maps = network.head.head_module(network.neck(network.backbone(images)))
        scores = _joined(maps.cls_scores).sigmoid()
        boxes = decode_boxes(_joined(maps.bbox_preds), self.priors)
        pose_vecs, visible = _joined(maps.pose_vecs), _joined(maps.kpt_vis).sigmoid()
        best, cells = scores[..., 0].topk(min(CANDIDATES, len(self.priors)), dim=1)
        candidates = boxes[0][cells[0]]
        kept = _apply(_Suppress, candidates[None], best[:, None], self.nms_thr, self.score_thr)
        # A row that is nobody: a score of 0 here, and cell -1 below, the last one with its real score.
        order = _apply(_Best, torch.cat([best[0][kept], torch.zeros(1)]))
        keep = torch.cat([cells[0][kept], torch.tensor([-1])])[order]
        dets = torch.cat([boxes, scores], dim=2)[:, keep]
        xy = self.classify(pose_vecs[0][keep], dets[0, :, :4], self.priors[:, :2][keep])
        return dets, torch.cat([xy, visible[0][keep][..., None]], dim=-1)[None]


def _joined(levels: tuple[Tensor, ...]) -> Tensor:
    """``(1, C, H, W)`` a level to ``(1, P, C)``."""
    return torch.cat([level.permute(0, 2, 3, 1).reshape(1, -1, level.shape[1]) for level in levels], dim=1)


def mmdeploy_shape(
    model: RTMO, input_hw: tuple[int, int], *, score_thr: float = 0.1, nms_thr: float = 0.65
) -> onnx.ModelProto:
    """Trace it.

    Args:
        model: The network; untouched.
        input_hw: Height and width of its input, pixels; baked in.
        score_thr: Scores must be above this.
        nms_thr: Overlaps above this IoU are suppressed.
    """
    joints = model.spec.num_keypoints
    shapes: dict[str, tuple[int | str, ...]] = {
        "input": (1, 3, *input_hw),
        "dets": (1, "num_dets", 5),
        "keypoints": (1, "num_dets", joints, 3),
    }
    module = _Shape(model, input_hw, score_thr, nms_thr)
    traced = tracing._trace(module, (torch.zeros(1, 3, *input_hw),), ("input",), shapes, OPSET)
    # As in MMDeploy's files; and not what the exporter guesses, which is partly wrong.
    for value in traced.graph.output:
        sides = value.type.tensor_type.shape.dim
        for side, length in zip(sides, shapes[value.name], strict=True):
            if isinstance(length, int):
                side.dim_value = length
            else:
                side.dim_param = length
    return traced
