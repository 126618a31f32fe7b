"""The coordinate classifier in plain NumPy, in double precision, as the paper and MMPose write it.

Slow and without any of the exporter's re-association: what exported decoders are compared with.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from rtmo_deploy.model.dcc import BOX_PADDING, KEYPOINT_CHANNELS

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import nn

    from rtmo_deploy.model.dcc import DCC

    Array = NDArray[np.float32]
    Double = NDArray[np.float64]


def linear(layer: nn.Module) -> tuple[Array, Array]:
    """Weight ``(out, in)`` and bias of a linear layer or a 1x1 convolution."""
    weight, bias = (layer.get_parameter(name).detach().numpy() for name in ("weight", "bias"))
    return weight.reshape(len(weight), -1), bias


class NumpyDcc:
    """Pose vectors ``(n, V)``, unclipped boxes ``(n, 4)`` and cell centres ``(n, 2)`` to keypoints ``(n, K, 2)``."""

    def __init__(self, dcc: DCC) -> None:
        self.weights = {name: value.numpy().astype(np.float64) for name, value in dcc.state_dict().items()}
        self.num_keypoints = dcc.num_keypoints

    def __call__(self, pose_vecs: Array, boxes: Array, priors: Array) -> Array:
        corners, cells = boxes.astype(np.float64), priors.astype(np.float64)
        features = self._attend(self._features(pose_vecs.astype(np.float64)))
        axes = []
        for axis, name in enumerate("xy"):
            centre = (corners[:, axis] + corners[:, axis + 2]) / 2
            size = (corners[:, axis + 2] - corners[:, axis]) * BOX_PADDING
            bins = self.weights[f"{name}_bins"]
            positions = bins * size[:, None] + (centre - cells[:, axis])[:, None]
            angle = positions[..., None] / self.weights["spe.dim_t"]
            encoding = np.concatenate([np.cos(angle), np.sin(angle)], axis=-1)
            encoded = encoding @ self.weights[f"{name}_fc.weight"].T + self.weights[f"{name}_fc.bias"]
            logits = features @ encoded.transpose(0, 2, 1)
            heat = np.exp(logits - logits.max(axis=2, keepdims=True))
            heat /= heat.sum(axis=2, keepdims=True)
            axes.append((heat @ bins) * size[:, None] + centre[:, None])
        return np.stack(axes, axis=-1).astype(np.float32)

    def _features(self, pose_vecs: Double) -> Double:
        """Linear layer and batch normalisation, ``(n, K, C)``."""
        w = self.weights
        x = pose_vecs @ w["pose_to_kpts.0.weight"].T + w["pose_to_kpts.0.bias"]
        x = (x - w["pose_to_kpts.1.running_mean"]) / np.sqrt(w["pose_to_kpts.1.running_var"] + 1e-5)
        x = x * w["pose_to_kpts.1.weight"] + w["pose_to_kpts.1.bias"]
        return x.reshape(-1, self.num_keypoints, KEYPOINT_CHANNELS)

    def _attend(self, x: Double) -> Double:
        """The gated attention unit with its residual."""
        w = self.weights
        rms = np.sqrt((x * x).mean(axis=2, keepdims=True))
        gates = (x / np.maximum(rms, 1e-5) * w["gau.ln.g"]) @ w["gau.uv.weight"].T
        gates = gates / (1 + np.exp(-gates))
        wide = w["gau.o.weight"].shape[1]
        u, v, base = gates[..., :wide], gates[..., wide : 2 * wide], gates[..., 2 * wide :]
        query, key = (base * w["gau.gamma"][i] + w["gau.beta"][i] + w["pos_enc"] for i in (0, 1))
        kernel = np.maximum(query @ key.transpose(0, 2, 1) / np.sqrt(base.shape[-1]), 0) ** 2
        result: Double = x * w["gau.res_scale.scale"] + (u * (kernel @ v)) @ w["gau.o.weight"].T
        return result
