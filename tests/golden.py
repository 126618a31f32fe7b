"""The weights and inputs behind the golden numbers: drawn from each tensor's own name, so anybody can make them.

The numbers themselves are outputs of the reference implementation under these weights.
"""

from __future__ import annotations

import math
import zlib
from typing import TYPE_CHECKING

import numpy as np
import torch

from rtmo_deploy.model import RTMO, NetworkSpec

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: Added to the classifier's bias, strides 16 and 32, so that a few dozen cells of a noise image pass 0.1.
CLS_BIAS = {
    "rtmo-t": (-4.84, -1.29),
    "rtmo-s": (-4.39, -2.59),
    "rtmo-m": (-7.72, -3.12),
    "rtmo-l": (-4.92, -3.05),
    "rtmo-n": (-4.0, -1.5),
}
_CONSTANTS = {"dim_t", "x_bins", "y_bins", "sigmas"}
#: Part of the key -> factor on the weight; the first that fits counts.
_FACTORS = (
    (lambda key: key == "backbone.stem.conv.conv.weight", 1 / 16),
    (lambda key: key.startswith("backbone.") and ".blocks." in key and ".conv2." in key, 0.3),
    (lambda key: ".branch_3x3." in key or ".branch_1x1." in key, 0.7),
    (lambda key: key.startswith("neck.input_proj."), 0.5),
    (lambda key: key.startswith("neck.projector."), 0.1),
    (lambda key: ".out_bbox." in key, 0.03),
    (lambda key: ".out_cls." in key, 0.3),
    (lambda key: ".out_kpt_vis." in key or ".out_kpt_reg." in key, 0.1),
    (lambda key: ".x_fc." in key or ".y_fc." in key, 0.1),
    (lambda key: ".gau.uv." in key, 0.6),
    (lambda key: ".gau.o." in key or ".pose_to_kpts." in key, 0.5),
    (lambda key: ".out_pose." in key or ".sigma_fc." in key, 0.2),
)


def golden_value(key: str, shape: tuple[int, ...]) -> NDArray[np.generic] | None:
    """The tensor called ``key``, None for a constant of the network."""
    leaf = key.rsplit(".", 1)[-1]
    if leaf in _CONSTANTS:
        return None
    if leaf == "num_batches_tracked":
        return np.zeros(shape, np.int64)
    rng = np.random.default_rng(zlib.crc32(key.encode()))
    if leaf in {"running_mean", "pos_enc", "beta"}:
        value = 0.1 * rng.standard_normal(shape)
    elif leaf in {"running_var", "gamma"} or (leaf == "weight" and len(shape) == 1):
        value = rng.uniform(0.5, 1.5, shape)
    elif leaf == "g":
        value = 1 + 0.1 * rng.standard_normal(shape)
    elif leaf == "scale":
        value = rng.uniform(0.5, 1.5, shape) * (1.0 if shape else 0.1)
    elif leaf.endswith("bias"):
        value = 0.1 * rng.standard_normal(shape)
        if ".out_bbox." in key:
            value = value + np.array([0, 0, 1.8, 1.8])
    else:
        factor = next((factor for fits, factor in _FACTORS if fits(key)), 1.0)
        value = rng.standard_normal(shape) * math.sqrt(1.8 / math.prod(shape[1:])) * factor
    return np.asarray(value, np.float64).astype(np.float32)


#: The reference has no network with another one, so no golden number depends on what follows: under these weights
#: such a network's boxes are many times as large as the image, and rounding moves keypoints by pixels.
PUBLISHED_HIDDEN_DIM = 256
CALM = 0.5
CALMED = tuple(f".{name}.{level}.weight" for name in ("out_bbox", "out_cls") for level in (0, 1))


def golden_model(spec: NetworkSpec, bias: tuple[float, float]) -> RTMO:
    """A network with these weights, in eval mode."""
    model = RTMO(spec)
    state = model.state_dict()
    for key, old in state.items():
        value = golden_value(key, tuple(old.shape))
        if value is None:
            continue
        if ".out_cls." in key and key.endswith(".bias"):
            value = value + np.float32(bias[int(key.split(".")[-2])])
        if spec.hidden_dim != PUBLISHED_HIDDEN_DIM and key.endswith(CALMED):
            value = value * np.float32(CALM)
        state[key] = torch.from_numpy(np.asarray(value))
    model.load_state_dict(state, strict=True)
    return model.eval()


def noise(batch: int, height: int, width: int) -> NDArray[np.float32]:
    """The input of the golden numbers."""
    return np.random.default_rng(1234).uniform(0, 255, (batch, 3, height, width)).astype(np.float32)
