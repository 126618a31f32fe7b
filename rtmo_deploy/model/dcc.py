"""Dynamic Coordinate Classifier: pose vectors and boxes to keypoints (RTMO paper, section 3.2).

Each keypoint gets a probability over bins along x and one over bins along y; the bins span the person's own box,
enlarged by 1.25, and each is represented by a sine encoding of its position relative to the grid cell. The keypoint
is the expectation over the bins.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rtmo_deploy.model.layers import SinePositionalEncoding

if TYPE_CHECKING:
    from rtmo_deploy.model.spec import NetworkSpec

#: Bins span this much of the box, so that keypoints just outside it can be told.
BOX_PADDING = 1.25
KEYPOINT_CHANNELS = 128


def boxes_to_center_scale(boxes: Tensor, padding: float = BOX_PADDING) -> Tensor:
    """``(..., 4)`` x1, y1, x2, y2 to cx, cy, w * padding, h * padding."""
    low, high = boxes[..., :2], boxes[..., 2:]
    return torch.cat([(low + high) / 2, (high - low) * padding], dim=-1)


class Scale(nn.Module):
    """Multiplication by a learnable scale: one number, or one a channel."""

    def __init__(self, scale: Tensor) -> None:
        super().__init__()
        self.scale = nn.Parameter(scale)

    def forward(self, x: Tensor) -> Tensor:
        """``(..., C)`` to the same shape."""
        return x * self.scale


class ScaleNorm(nn.Module):
    """``x / max(rms(x), 1e-5) * g`` over the last axis, ``g`` one number."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.factor = channels**-0.5
        self.g = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        """``(..., C)`` to the same shape."""
        norm = torch.linalg.norm(x, dim=-1, keepdim=True) * self.factor
        result: Tensor = x / norm.clamp(min=1e-5) * self.g
        return result


class GAU(nn.Module):
    """Gated attention unit (arXiv 2202.10447) among the keypoints of one person, with its residual.

    The attention is a squared ReLU, without softmax and without division by the number of tokens.
    """

    def __init__(self, channels: int = KEYPOINT_CHANNELS, expansion: int = 2, key_channels: int = 128) -> None:
        super().__init__()
        self.key_channels = key_channels
        self.expanded = channels * expansion
        self.gamma = nn.Parameter(torch.rand(2, key_channels))
        self.beta = nn.Parameter(torch.rand(2, key_channels))
        self.o = nn.Linear(self.expanded, channels, bias=False)
        self.uv = nn.Linear(channels, 2 * self.expanded + key_channels, bias=False)
        self.ln = ScaleNorm(channels)
        self.res_scale = Scale(torch.ones(channels))

    def forward(self, x: Tensor, pos_enc: Tensor) -> Tensor:
        """``(..., K, C)`` and ``(K, key_channels)`` to ``(..., K, C)``."""
        gates = F.silu(self.uv(self.ln(x)))
        u, v, base = torch.tensor_split(gates, (self.expanded, 2 * self.expanded), dim=-1)
        query = base * self.gamma[0] + self.beta[0] + pos_enc
        key = base * self.gamma[1] + self.beta[1] + pos_enc
        kernel = F.relu(query @ key.transpose(-1, -2) / self.key_channels**0.5).square()
        out: Tensor = self.res_scale(x) + self.o(u * (kernel @ v))
        return out


class DCC(nn.Module):
    """Dynamic Coordinate Classifier."""

    x_bins: Tensor
    y_bins: Tensor

    def __init__(self, spec: NetworkSpec) -> None:
        super().__init__()
        self.num_keypoints = spec.num_keypoints
        self.bbox_padding = spec.settings.bbox_padding
        width, channels = spec.pose_vec_channels, KEYPOINT_CHANNELS
        self.pos_enc = nn.Parameter(torch.randn(spec.num_keypoints, channels))
        self.register_buffer("y_bins", torch.linspace(-0.5, 0.5, spec.num_bins[1]))
        self.register_buffer("x_bins", torch.linspace(-0.5, 0.5, spec.num_bins[0]))
        self.spe = SinePositionalEncoding(channels, temperature=spec.settings.spe_temperature)
        self.gau = GAU(channels)
        self.pose_to_kpts = nn.Sequential(
            nn.Linear(width, channels * spec.num_keypoints), nn.BatchNorm1d(channels * spec.num_keypoints)
        )
        self.x_fc = nn.Linear(channels, channels)
        self.y_fc = nn.Linear(channels, channels)
        self.sigma_fc = nn.Sequential(nn.Linear(width, spec.num_keypoints), nn.Sigmoid(), Scale(torch.tensor(0.1)))

    def keypoint_features(self, pose_vecs: Tensor) -> Tensor:
        """What each keypoint is looked for by: ``(N, pose_vec_channels)`` to ``(N, K, 128)``."""
        features = self.pose_to_kpts(pose_vecs).unflatten(-1, (self.num_keypoints, KEYPOINT_CHANNELS))
        result: Tensor = self.gau(features, self.pos_enc)
        return result

    def heatmaps(self, pose_vecs: Tensor, bbox_cs: Tensor, grids: Tensor) -> tuple[Tensor, Tensor]:
        """Probabilities of the bins.

        Args:
            pose_vecs: ``(N, pose_vec_channels)``.
            bbox_cs: ``(N, 4)`` centre and padded size of the undecoded person's box, input pixels.
            grids: ``(N, 2)`` centre of the grid cell each person was found in, input pixels.

        Returns:
            ``(N, K, 192)`` along x and ``(N, K, 256)`` along y, each row summing to 1.
        """
        features = self.keypoint_features(pose_vecs)
        maps = []
        for axis, (bins, encoder) in enumerate(((self.x_bins, self.x_fc), (self.y_bins, self.y_fc))):
            offset = bbox_cs[:, axis] - grids[:, axis]
            positions = bins * bbox_cs[:, 2 + axis, None] + offset[:, None]
            maps.append(_softmax(_scores(features, self.spe(positions), encoder)))
        return maps[0], maps[1]

    def decode(self, x_hms: Tensor, y_hms: Tensor, bbox_cs: Tensor) -> Tensor:
        """Expectation over the bins: ``(N, K, 2)`` x, y in input pixels."""
        axes = []
        for axis, (hms, bins) in enumerate(((x_hms, self.x_bins), (y_hms, self.y_bins))):
            positions = bins * bbox_cs[:, 2 + axis, None] + bbox_cs[:, axis, None]
            axes.append((hms * positions[:, None]).sum(dim=-1))
        return torch.stack(axes, dim=-1)

    def forward(self, pose_vecs: Tensor, bbox_cs: Tensor, grids: Tensor) -> Tensor:
        """Arguments as of :meth:`heatmaps`, to keypoints ``(N, K, 2)``."""
        return self.decode(*self.heatmaps(pose_vecs, bbox_cs, grids), bbox_cs)

    def sigmas(self, pose_vecs: Tensor) -> Tensor:
        """Predicted uncertainty of each keypoint, ``(N, K)`` in 0..0.1; only the training loss uses it."""
        result: Tensor = self.sigma_fc(pose_vecs)
        return result


def _scores(features: Tensor, encoding: Tensor, encoder: nn.Linear) -> Tensor:
    """Product of each feature ``(N, K, C)`` and each bin's encoded position ``(N, bins, C)``: ``(N, K, bins)``.

    The reference applies the linear layer to ``encoding``. Here it is applied to the few features instead of the
    many bins: a fifth of the arithmetic.
    """
    scores = (features @ encoder.weight) @ encoding.transpose(-1, -2)
    # The bias adds the same to every bin: the softmax does not see it, and its gradient is rounding noise.
    return scores + (features @ encoder.bias)[..., None]


def _softmax(logits: Tensor) -> Tensor:
    """Softmax over the last axis with the reference's guards: clamped logits and 1e-8 in the denominator."""
    logits = logits.clamp(-5e4, 5e4)
    exp = (logits - logits.amax(dim=-1, keepdim=True)).exp()
    return exp / (exp.sum(dim=-1, keepdim=True) + 1e-8)
