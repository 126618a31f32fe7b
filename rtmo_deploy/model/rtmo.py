"""The RTMO network in plain PyTorch, into which an official state dict loads key for key; and its initial weights."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from rtmo_deploy.model.backbone import CSPDarknet
from rtmo_deploy.model.head import Detections, HeadOutputs, RTMOHead
from rtmo_deploy.model.layers import ConvModule
from rtmo_deploy.model.neck import CSPRepLayer, HybridEncoder
from rtmo_deploy.zoo.records import require_input_size

if TYPE_CHECKING:
    from rtmo_deploy.model.spec import NetworkSpec, Settings


class InputNormalisation(nn.Module):
    """BGR, 0..255, to ``(x - mean) / std`` in the channel order of the first layer; the identity where published.

    It stays an operation of its own: the first convolution pads with zeros after it, so a mean folded into a bias would
    be wrong at the border.
    """

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        self.settings = settings

    def forward(self, images: Tensor) -> Tensor:
        """``(B, 3, H, W)`` to the same shape."""
        settings = self.settings
        if not settings.normalises:
            return images
        if settings.rgb:
            images = images[:, [2, 1, 0]]
        mean, std = (images.new_tensor(values)[:, None, None] for values in (settings.mean, settings.std))
        return (images - mean) / std


class RTMO(nn.Module):
    """One-stage multi-person pose estimator (arXiv 2312.07526; behaviour of MMPose 1.3.2)."""

    def __init__(self, spec: NetworkSpec) -> None:
        super().__init__()
        self.spec = spec
        self.normalise = InputNormalisation(spec.settings)
        self.backbone = CSPDarknet(spec)
        self.neck = HybridEncoder(spec)
        self.head = RTMOHead(spec)

    def forward(self, images: Tensor, *, proxy: bool = False) -> HeadOutputs:
        """Raw head outputs.

        Args:
            images: ``(B, 3, H, W)`` float32, BGR, 0..255; H and W multiples of 32.
            proxy: Compute the proxy keypoint offsets too, which only training needs.

        Raises:
            UsageError: H or W is not a multiple of 32.
        """
        height, width = images.shape[-2:]
        require_input_size((height, width))
        result: HeadOutputs = self.head(self.features(images), proxy=proxy)
        return result

    def features(self, images: Tensor) -> tuple[Tensor, ...]:
        """What the head is given: ``(B, 2 * head_channels, H, W)`` of strides 16 and 32."""
        result: tuple[Tensor, ...] = self.neck(self.backbone(self.normalise(images)))
        return result

    @torch.no_grad()
    def predict(
        self, images: Tensor, *, score_thr: float = 0.1, nms_thr: float = 0.65, pre_topk: int | None = None
    ) -> list[Detections]:
        """Detections in each image of ``(B, 3, H, W)``; see :meth:`RTMOHead.decode`. Call it in eval mode."""
        height, width = images.shape[-2:]
        return self.head.decode(
            self(images), (int(height), int(width)), score_thr=score_thr, nms_thr=nms_thr, pre_topk=pre_topk
        )


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
