"""Settings of a network that its tensors do not show: activations, norm eps, heads, bins' span, input normalisation."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any

from torch import nn

if TYPE_CHECKING:
    from collections.abc import Callable

    from rtmo_deploy.model.layers import BatchNormSettings

#: Activations by their name in a config: each with the factory it stands for.
ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "SiLU": nn.SiLU,
    "ReLU": nn.ReLU,
    "ReLU6": nn.ReLU6,
    "GELU": nn.GELU,
    "HSwish": nn.Hardswish,
    "none": nn.Identity,
}


def activation(name: str) -> nn.Module:
    """A layer by its name; ``LeakyReLU(0.1)`` carries its slope.

    Raises:
        ValueError: There is none of that name.
    """
    if name in ACTIVATIONS:
        return ACTIVATIONS[name]()
    if name.startswith("LeakyReLU(") and name.endswith(")"):
        slope = float(name[len("LeakyReLU(") : -1])
        if math.isfinite(slope):
            return nn.LeakyReLU(slope)
    raise ValueError(f"no activation is called {name[:40]!r}")


@dataclass(frozen=True)
class Settings:
    """The published models' values are the defaults.

    Attributes:
        backbone_act, neck_act, head_act, ffn_act: Activations of the parts, and of the encoder's feed-forward network.
        backbone_eps, backbone_momentum: BatchNorm of the backbone; likewise of the neck (but for its CSP layers,
            which always have torch's defaults), of its projector, and of the head.
        layer_norm_eps: LayerNorm of the encoder.
        attention_heads: Heads of the encoder's attention; None for one per 32 channels.
        pe_temperature: Temperature of the encoder's position encoding.
        spe_temperature: Temperature of the bins' position encoding.
        bbox_padding: Factor by which the bins' span exceeds the box.
        mean, std: Input normalisation, a value a channel, in the network's channel order (see ``rgb``), 0..255.
        rgb: The first layer takes RGB: the channels of the BGR input are reversed before ``mean`` and ``std``.
    """

    backbone_act: str = "SiLU"
    neck_act: str = "SiLU"
    head_act: str = "SiLU"
    ffn_act: str = "GELU"
    backbone_eps: float = 1e-3
    backbone_momentum: float = 0.03
    neck_eps: float = 1e-5
    neck_momentum: float = 0.1
    projector_eps: float = 1e-5
    projector_momentum: float = 0.1
    head_eps: float = 1e-3
    head_momentum: float = 0.03
    layer_norm_eps: float = 1e-5
    attention_heads: int | None = None
    pe_temperature: float = 10000.0
    spe_temperature: float = 300.0
    bbox_padding: float = 1.25
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)
    rgb: bool = False

    @property
    def normalises(self) -> bool:
        """Whether the input is changed at all before the first layer."""
        return (self.mean, self.std, self.rgb) != ((0, 0, 0), (1, 1, 1), False)

    def norm(self, part: str) -> BatchNormSettings:
        """BatchNorm of ``backbone``, ``neck``, ``projector`` or ``head``."""
        return {"eps": getattr(self, f"{part}_eps"), "momentum": getattr(self, f"{part}_momentum")}

    def to_dict(self) -> dict[str, Any]:
        """What differs from the defaults, of JSON types."""
        changed = {key: value for key, value in asdict(self).items() if value != getattr(_DEFAULTS, key)}
        return {key: list(value) if isinstance(value, tuple) else value for key, value in changed.items()}

    @classmethod
    def from_dict(cls, stored: dict[str, Any]) -> Settings:
        """The settings that :meth:`to_dict` gave.

        Raises:
            ValueError: A name or a value that no settings have.
        """
        checked: dict[str, Any] = {}
        for key, value in stored.items():
            if key not in {f.name for f in fields(cls)}:
                raise ValueError(f"{key[:40]!r} is no setting")
            checked[key] = _checked(key, value)
        return cls(**checked)


_DEFAULTS = Settings()


def _checked(key: str, value: Any) -> Any:
    if key.endswith("_act") and isinstance(value, str):
        activation(value)
        return value
    if key == "rgb" and isinstance(value, bool):
        return value
    if key in {"mean", "std"} and isinstance(value, list | tuple) and len(value) == 3:
        return tuple(_real(key, item, positive=key == "std") for item in value)
    if key == "attention_heads" and type(value) is int and 0 < value <= 4096:
        return value
    if isinstance(value, int | float) and key not in {"mean", "std", "attention_heads", "rgb"}:
        return _real(key, value, positive=True)
    raise ValueError(f"{key} cannot be {str(value)[:60]}")


def _real(key: str, value: Any, *, positive: bool) -> float:
    if type(value) in (int, float) and abs(value) <= 1e18 and math.isfinite(value) and (value > 0 or not positive):
        return float(value)
    raise ValueError(f"{key} cannot be {str(value)[:60]}")
