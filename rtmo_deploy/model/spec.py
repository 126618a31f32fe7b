"""The numbers a network is built from: those that its tensors show, and those that they do not."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any

from torch import nn

from rtmo_deploy.errors import CheckpointError
from rtmo_deploy.zoo import ARCHITECTURES, Architecture

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

#: Feature strides the head predicts on. The neck also computes stride 8, whose output the model drops.
STRIDES = (16, 32)
#: Groups of the pose branch's convolutions.
POSE_GROUPS = 8
#: Factors of width and depth above this are not looked for.
MAX_FACTOR = 16


def _unrecognised(why: str) -> CheckpointError:
    return CheckpointError(
        f"These are not the weights of an RTMO model: {why}.",
        remedy="Give a checkpoint of rtmo-t, -s, -m or -l, or one that was trained from them.",
    )


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
    """A layer by its name; ``LeakyReLU(0.1)`` carries its slope."""
    if name in ACTIVATIONS:
        return ACTIVATIONS[name]()
    if name.startswith("LeakyReLU(") and name.endswith(")"):
        slope = float(name[len("LeakyReLU(") : -1])
        if math.isfinite(slope):
            return nn.LeakyReLU(slope)
    raise ValueError(f"no activation is called {name[:40]!r}")


@dataclass(frozen=True)
class Settings:
    """What the tensors of a network do not show. The defaults are the published models' values."""

    #: Activations of the parts, and of the encoder's feed-forward network.
    backbone_act: str = "SiLU"
    neck_act: str = "SiLU"
    head_act: str = "SiLU"
    ffn_act: str = "GELU"
    #: BatchNorm; the neck's CSP layers always have torch's defaults.
    backbone_eps: float = 1e-3
    backbone_momentum: float = 0.03
    neck_eps: float = 1e-5
    neck_momentum: float = 0.1
    projector_eps: float = 1e-5
    projector_momentum: float = 0.1
    head_eps: float = 1e-3
    head_momentum: float = 0.03
    #: LayerNorm of the encoder.
    layer_norm_eps: float = 1e-5
    #: Heads of the encoder's attention; None for one per 32 channels.
    attention_heads: int | None = None
    #: Temperature of the encoder's position encoding, and of the bins'.
    pe_temperature: float = 10000.0
    spe_temperature: float = 300.0
    #: Factor by which the bins' span exceeds the box.
    bbox_padding: float = 1.25
    #: Input normalisation, a value a channel, in the network's channel order (see ``rgb``), 0..255.
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)
    #: The first layer takes RGB: the channels of the BGR input are reversed before ``mean`` and ``std``.
    rgb: bool = False

    @property
    def normalises(self) -> bool:
        """Whether the input is changed at all before the first layer."""
        return (self.mean, self.std, self.rgb) != ((0, 0, 0), (1, 1, 1), False)

    def norm(self, part: str) -> dict[str, float]:
        """``eps`` and ``momentum`` of the BatchNorm of ``backbone``, ``neck``, ``projector`` or ``head``."""
        return {"eps": getattr(self, f"{part}_eps"), "momentum": getattr(self, f"{part}_momentum")}

    def to_dict(self) -> dict[str, Any]:
        """What differs from the defaults, of JSON types."""
        changed = {key: value for key, value in asdict(self).items() if value != getattr(_DEFAULTS, key)}
        return {key: list(value) if isinstance(value, tuple) else value for key, value in changed.items()}

    @classmethod
    def from_dict(cls, stored: dict[str, Any]) -> Settings:
        """The settings that :meth:`to_dict` gave."""
        for key in stored:
            if key not in {f.name for f in fields(cls)}:
                raise ValueError(f"{key[:40]!r} is no setting")
        return cls(**{key: _checked(key, value) for key, value in stored.items()})


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


@dataclass(frozen=True)
class NetworkSpec:
    """Shape of an RTMO network (paper: arXiv 2312.07526; MMPose configs ``body_2d_keypoint/rtmo``)."""

    #: Depth factor: blocks a stage are ``max(round(n * deepen), 1)``.
    deepen: float
    #: Width factor of backbone and head.
    widen: float
    #: Keypoints a person.
    num_keypoints: int
    #: Channels inside the hybrid encoder; a head of its attention has 32.
    hidden_dim: int = 256
    #: Factors of the neck's CSP layers; None for those of the backbone.
    neck_deepen: float | None = None
    neck_widen: float | None = None
    #: Width factor of the head; None for the backbone's.
    head_widen: float | None = None
    #: Channels inside the encoder's feed-forward network; None for four times ``hidden_dim``.
    ffn_dim: int | None = None
    #: Channels of a pose vector; None for twice the head's.
    pose_vec_dim: int | None = None
    #: Bins along x and along y.
    num_bins: tuple[int, int] = (192, 256)
    settings: Settings = field(default_factory=Settings)

    @classmethod
    def of(cls, architecture: Architecture, num_keypoints: int) -> NetworkSpec:
        """Spec of a zoo architecture with this many keypoints."""
        return cls(architecture.deepen, architecture.widen, num_keypoints, architecture.hidden_dim)

    @property
    def stage_channels(self) -> tuple[int, int, int, int, int]:
        """Output channels of the backbone's stem and of its four stages."""
        first, *rest = (int(c * self.widen) for c in (64, 128, 256, 512, 1024))
        return (first, rest[0], rest[1], rest[2], rest[3])

    @property
    def stage_blocks(self) -> tuple[int, int, int, int]:
        """Residual blocks in each of the backbone's four stages."""
        one, nine = self._depth(3), self._depth(9)
        return (one, nine, nine, one)

    @property
    def neck_blocks(self) -> int:
        """RepVGG blocks in each CSP layer of the neck."""
        return self._depth(3) if self.neck_deepen is None else round(3 * self.neck_deepen)

    @property
    def neck_heads(self) -> int:
        """Attention heads of the encoder layer (8 at 256 channels)."""
        return self.settings.attention_heads or max(self.hidden_dim // 32, 1)

    @property
    def csp_hidden(self) -> int:
        """Channels inside each CSP layer of the neck."""
        return int(self.hidden_dim * (self.widen if self.neck_widen is None else self.neck_widen))

    @property
    def ffn_channels(self) -> int:
        """Channels inside the encoder's feed-forward network."""
        return self.ffn_dim or 4 * self.hidden_dim

    @property
    def head_channels(self) -> int:
        """Input channels of each of the head's two branches."""
        return int(256 * self._head_widen)

    @property
    def pose_channels(self) -> int:
        """Channels of the pose branch."""
        return POSE_GROUPS * int(36 * self._head_widen)

    @property
    def pose_vec_channels(self) -> int:
        """Channels of a pose vector, which is what the coordinate classifier is fed with."""
        return self.pose_vec_dim or 2 * self.head_channels

    @property
    def architecture(self) -> Architecture | None:
        """The zoo's architecture of this shape, None for any other shape."""
        for known in ARCHITECTURES.values():
            if NetworkSpec.of(known, self.num_keypoints) == replace(self, settings=Settings()):
                return known
        return None

    @property
    def _head_widen(self) -> float:
        return self.widen if self.head_widen is None else self.head_widen

    def _depth(self, blocks: int) -> int:
        return max(round(blocks * self.deepen), 1)


def recognise(shapes: Mapping[str, Sequence[int]]) -> NetworkSpec:
    """Recognise the spec from the shapes of a state dict's tensors, by their official keys.

    Raises:
        CheckpointError: A tensor that tells a number of the spec is not there or contradicts the others. Whether
            all the other tensors fit is not checked here.
    """

    def shape(key: str, rank: int) -> Sequence[int]:
        if key not in shapes:
            raise _unrecognised(f"the tensor '{key}' is missing")
        if len(shapes[key]) != rank:
            raise _unrecognised(f"the tensor '{key}' has {len(shapes[key])} dimensions instead of {rank}")
        return shapes[key]

    def count(prefix: str) -> int:
        return len({key[len(prefix) :].split(".", 1)[0] for key in shapes if key.startswith(prefix)})

    def channels(key: str) -> int:
        return shape(key, 4)[0]

    stem = shape("backbone.stem.conv.conv.weight", 4)
    if stem[1] != 12:
        raise _unrecognised(f"the stem convolution takes {stem[1]} channels instead of the 12 of a Focus layer")
    stages = [channels(f"backbone.stage{n}.0.conv.weight") for n in range(1, 5)]
    blocks = [count(f"backbone.stage{n}.{2 if n == 4 else 1}.blocks.") for n in range(1, 5)]
    published = list(ARCHITECTURES.values())
    widen = _factor(
        "the backbone's channels",
        dict(zip((64, 128, 256, 512, 1024), [stem[0], *stages], strict=True)),
        int,
        [a.widen for a in published],
    )
    deepen = _factor(
        "the backbone's blocks",
        {3: blocks[0], 9: blocks[1]},
        lambda value: max(round(value), 1),
        [a.deepen for a in published],
    )
    if blocks != [blocks[0], blocks[1], blocks[1], blocks[0]]:
        raise _unrecognised(f"the blocks of the backbone's stages, {blocks}, fit no one depth factor")
    hidden = channels("neck.input_proj.0.conv.weight")
    csp, csp_blocks = channels("neck.fpn_blocks.0.conv1.conv.weight"), count("neck.fpn_blocks.0.bottlenecks.")
    neck_widen = _factor("the neck's channels", {hidden: csp}, int, [widen])
    neck_deepen = _factor("the neck's blocks", {3: csp_blocks}, round, [deepen])
    head, pose = (channels(f"head.head_module.conv_{part}.0.0.conv.weight") for part in ("cls", "pose"))
    head_widen = _factor("the head's channels", {256: head, 36: pose // 8}, int, [widen, neck_widen])
    vector = channels("head.head_module.out_pose.0.weight")
    ffn = shape("neck.encoder.0.layers.0.ffn.layers.0.0.weight", 2)[0]
    bins = tuple(shape(f"head.dcc.{axis}_bins", 1)[0] for axis in "xy")
    if any(number % 2 for number in bins):
        raise _unrecognised(f"it has {bins[0]} and {bins[1]} bins; an even number is supported")
    return NetworkSpec(
        deepen,
        widen,
        shape("head.dcc.pos_enc", 2)[0],
        hidden,
        neck_deepen=None if neck_deepen == deepen else neck_deepen,
        neck_widen=None if neck_widen == widen else neck_widen,
        head_widen=None if head_widen == widen else head_widen,
        ffn_dim=None if ffn == 4 * hidden else ffn,
        pose_vec_dim=None if vector == 2 * head else vector,
        num_bins=(bins[0], bins[1]),
    )


def _factor(
    what: str, counts: Mapping[int, int], rounding: Callable[[float], int], preferred: Sequence[float]
) -> float:
    """A factor that takes every base number to its count: a preferred one, else the one with the fewest decimals."""

    def fits(factor: float) -> bool:
        return all(rounding(base * factor) == number for base, number in counts.items())

    for factor in preferred:
        if fits(factor):
            return factor
    # Rounded to the nearest or cut off: the factor lies within one step of each ratio.
    low = max((number - 1) / base for base, number in counts.items())
    high = min((number + 1) / base for base, number in counts.items())
    if low + 1 >= 0 and high <= MAX_FACTOR:
        for decimals in range(1, 6):
            scale = 10**decimals
            span = range(max(int(low * scale), 0), int(high * scale) + 2)
            for step in span[: 10 * scale]:
                if fits(step / scale):
                    return float(step / scale)
    numbers = ", ".join(map(str, counts.values()))
    raise _unrecognised(f"{what}, {numbers}, fit no one factor on {', '.join(map(str, counts))}")
