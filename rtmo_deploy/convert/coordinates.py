"""The Dynamic Coordinate Classifier as it is exported: fewer operations, the same keypoints.

Three changes to :class:`rtmo_deploy.model.dcc.DCC`, all exact in real arithmetic:

* BatchNorm, the norm's gain and the attention's scale are folded into the linear layers around them.
* The bin encoder is re-associated. The logits are ``kpt @ (W spe + b)^T``; that is ``(kpt W) @ spe^T + kpt b``, and
  the last term is the same for every bin of a keypoint, so it cancels in the softmax.
* The bins lie symmetric around the box centre. With ``A`` the angle of the centre and ``B`` that of a bin relative
  to it, ``c cos(A + B) + s sin(A + B) = (c cos A + s sin A) cos B + (s cos A - c sin A) sin B``. The keypoint's
  coefficients are turned by ``A`` once, and a bin at ``-B`` shares cosine and sine with the one at ``B``: half the
  trigonometry and half the multiplications.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rtmo_deploy.convert.fuse import fold_linear_bn
from rtmo_deploy.convert.onnx_ops import reshape, split
from rtmo_deploy.model.dcc import DCC, KEYPOINT_CHANNELS

#: Logit of a bin that is not there; within FP16's range, and the reference clamps logits to it too.
MASKED = -5e4


class ExportCoordinates(nn.Module):
    """Pose vectors, boxes and grid centres to keypoints.

    Args:
        dcc: The trained classifier; untouched.
    """

    def __init__(self, dcc: DCC) -> None:
        super().__init__()
        self.num_keypoints = dcc.num_keypoints
        gau = dcc.gau
        linear, bn = dcc.pose_to_kpts[0], dcc.pose_to_kpts[1]
        if not isinstance(linear, nn.Linear) or not isinstance(bn, nn.BatchNorm1d):
            raise TypeError("pose_to_kpts is not the layer this exporter knows")
        weight, bias = fold_linear_bn(linear, bn)
        self.to_keypoints = nn.Linear(weight.shape[1], weight.shape[0])
        self.to_keypoints.weight = nn.Parameter(weight.float(), requires_grad=False)
        self.to_keypoints.bias = nn.Parameter(bias.float(), requires_grad=False)
        # ScaleNorm divides by max(|x| * f, 1e-5): by max(|x|, 1e-5 / f), with 1 / f and the gain in the next layer.
        self.min_norm = 1e-5 / gau.ln.factor
        self.uv = _parameter((gau.uv.weight.double() * gau.ln.g.double() / gau.ln.factor).T)
        self.parts = [gau.expanded, gau.expanded, gau.key_channels]
        scale = gau.key_channels**-0.5
        position = dcc.pos_enc.double()
        self.query_gain = _parameter(gau.gamma[0].double() * scale)
        self.query_bias = _parameter((gau.beta[0].double() + position) * scale)
        self.key_gain = _parameter(gau.gamma[1])
        self.key_bias = _parameter(gau.beta[1].double() + position)
        self.out = _parameter(gau.o.weight.T)
        self.shortcut = _parameter(gau.res_scale.scale)
        # Columns: cosines of x, cosines of y, sines of x, sines of y.
        half = len(dcc.spe.dim_t)
        x, y = dcc.x_fc.weight, dcc.y_fc.weight
        self.to_logits = _parameter(torch.cat([x[:, :half], y[:, :half], x[:, half:], y[:, half:]], dim=1))
        frequencies = 1 / dcc.spe.dim_t.double()
        self.frequencies = _parameter(frequencies)
        # x has fewer bins than y: it is padded, and the padding masked out of the softmax.
        bins = [_positive_half(dcc.x_bins), _positive_half(dcc.y_bins)]
        count = max(len(values) for values in bins)
        padded = torch.stack([F.pad(values, (0, count - len(values))) for values in bins])
        mask = torch.stack([torch.arange(count) >= len(values) for values in bins]) * MASKED
        self.angles = _parameter(frequencies[:, None] * padded[:, None].double() * dcc.bbox_padding)
        self.values = _parameter(torch.cat([padded, -padded], dim=1)[:, None] * dcc.bbox_padding)
        self.mask = _parameter(torch.cat([mask, mask], dim=1)[:, None]) if mask.any() else None

    def forward(self, pose_vecs: Tensor, offset: Tensor, boxes: Tensor) -> Tensor:
        """Keypoints of N people.

        Args:
            pose_vecs: ``(N, pose_vec_channels)``.
            offset: ``(N, 2)`` of the box centre from the grid cell's, input pixels.
            boxes: ``(N, 4)`` cx, cy, w, h, unclipped, input pixels.

        Returns:
            ``(N, K, 2)`` x, y in input pixels.
        """
        joints = self.num_keypoints
        features = self._attend(reshape(self.to_keypoints(pose_vecs), (-1, joints, KEYPOINT_CHANNELS)))
        # From here on the axes, x and y, are a batch dimension: (N, 2, ...).
        coefficients = reshape(features @ self.to_logits, (-1, joints, 4, len(self.frequencies)))
        c, s = split(coefficients.transpose(1, 2), [2, 2], dim=1)  # (N, 2, K, 64)
        turn = reshape(offset, (-1, 2, 1, 1)) * self.frequencies
        cosine, sine = turn.cos(), turn.sin()
        centre, size = split(reshape(boxes, (-1, 4, 1, 1)), [2, 2], dim=1)
        angle = size * self.angles  # (N, 2, 64, bins / 2)
        even = (c * cosine + s * sine) @ angle.cos()
        odd = (s * cosine - c * sine) @ angle.sin()
        logits = torch.cat([even + odd, even - odd], dim=3)
        if self.mask is not None:
            logits = logits + self.mask
        # Not a matrix product: ONNX Runtime's cannot broadcast over nobody (N = 0).
        xy = (torch.softmax(logits, dim=3) * self.values).sum(dim=3, keepdim=True) * size + centre
        return reshape(xy, (-1, 2, joints)).transpose(1, 2)

    def _attend(self, x: Tensor) -> Tensor:
        """The gated attention unit, ``(N, K, C)`` to the same shape."""
        normed = x / torch.linalg.vector_norm(x, dim=2, keepdim=True).clamp(min=self.min_norm)
        u, v, base = split(F.silu(normed @ self.uv), self.parts, dim=2)
        query = base * self.query_gain + self.query_bias
        key = base * self.key_gain + self.key_bias
        kernel = (query @ key.transpose(1, 2)).relu()
        return x * self.shortcut + (u * ((kernel * kernel) @ v)) @ self.out


def _parameter(value: Tensor) -> nn.Parameter:
    return nn.Parameter(value.detach().float().clone(memory_format=torch.contiguous_format), requires_grad=False)


def _positive_half(bins: Tensor) -> Tensor:
    half = bins.detach()[len(bins) // 2 :]
    if not torch.allclose(bins.detach(), torch.cat([-half.flip(0), half]), atol=1e-6):
        raise ValueError("the bins are not symmetric around the box centre")
    return half
