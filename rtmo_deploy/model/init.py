"""Seeded, untrained weights, distributed as the reference's own initialisation distributes them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import nn

from rtmo_deploy.model.layers import ConvModule
from rtmo_deploy.model.neck import CSPRepLayer
from rtmo_deploy.model.rtmo import RTMO
from rtmo_deploy.model.spec import NetworkSpec

if TYPE_CHECKING:
    from pathlib import Path

    from rtmo_deploy.poses import Skeleton
    from rtmo_deploy.zoo import Architecture

#: The classifier's bias starts so that every cell says "a person" with this probability.
PRIOR_PROBABILITY = 0.01


def initialise(model: RTMO, seed: int) -> None:
    """Draw every parameter of ``model`` anew, in place.

    Convolutions of backbone, RepVGG branches and head: uniform within 1 / sqrt(fan_in). The neck's 1x1 and strided
    convolutions: normal, He et al. with fan_out. Projector and attention input: Xavier uniform. Output biases 0,
    but the classifier's, which is -log(99). Norms 1 and 0.

    Args:
        model: The network; left in training mode.
        seed: Same seed, same weights, on any machine (the generator is the CPU's).
    """
    generator = torch.Generator().manual_seed(seed)
    neck = model.neck
    he = {id(c.conv) for c in (*neck.input_proj, *neck.lateral_convs, *neck.downsample_convs)}
    for layer in neck.modules():
        if isinstance(layer, CSPRepLayer):
            parts = (layer.conv1, layer.conv2, layer.conv3)
            he |= {id(part.conv) for part in parts if isinstance(part, ConvModule)}
    xavier = {id(conv.conv) for conv in neck.projector.convs} | {id(model.head.dcc.gau.uv)}
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                weight = module.weight
                if id(module) in he:
                    nn.init.kaiming_normal_(weight, mode="fan_out", nonlinearity="relu", generator=generator)
                elif id(module) in xavier:
                    nn.init.xavier_uniform_(weight, generator=generator)
                else:
                    nn.init.kaiming_uniform_(weight, a=math.sqrt(5), generator=generator)
                _initial_bias(module, generator)
            elif isinstance(module, nn.MultiheadAttention) and module.in_proj_weight is not None:
                nn.init.xavier_uniform_(module.in_proj_weight, generator=generator)
                nn.init.zeros_(module.in_proj_bias)
            elif isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d | nn.LayerNorm):
                module.reset_parameters()
        nn.init.zeros_(neck.encoder_layer.self_attn.attn.out_proj.bias)
        for conv in model.head.head_module.out_cls:
            nn.init.constant_(conv.get_parameter("bias"), -math.log((1 - PRIOR_PROBABILITY) / PRIOR_PROBABILITY))
        dcc = model.head.dcc
        dcc.pos_enc.normal_(generator=generator)
        for values in (dcc.gau.gamma, dcc.gau.beta):
            values.uniform_(generator=generator)
    model.train()


def _initial_bias(module: nn.Conv2d | nn.Linear, generator: torch.Generator) -> None:
    if module.bias is None:
        return
    if isinstance(module, nn.Conv2d):
        nn.init.zeros_(module.bias)
    else:
        bound = 1 / math.sqrt(module.in_features)
        nn.init.uniform_(module.bias, -bound, bound, generator=generator)


def initial_checkpoint(path: Path, architecture: Architecture, *, skeleton: Skeleton, seed: int) -> Path:
    """Write a seeded, untrained checkpoint in the official layout, for trying things and for training from.

    Args:
        path: ``.pth`` or ``.safetensors``.
        architecture: Network to initialise.
        skeleton: Keypoints it shall predict.
        seed: Seed of the weights.

    Returns:
        ``path``.

    Raises:
        UsageError: The suffix is neither of the two.
        SetupError: The file cannot be written.
    """
    from rtmo_deploy.model.checkpoint import save_checkpoint

    model = RTMO(NetworkSpec.of(architecture, len(skeleton)))
    initialise(model, seed)
    save_checkpoint(path, model, skeleton=skeleton, meta={"seed": seed, "trained": False})
    return path
