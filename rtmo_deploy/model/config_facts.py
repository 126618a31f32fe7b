"""What an MMEngine config says of an RTMO model: settings of the network, input size, thresholds.

A value the network here cannot follow is refused by its field; one that cannot be read is left at its default, and a
note says so. Fields that only training reads are not looked at.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from rtmo_deploy.model.config_fields import NO, Fields, UnsupportedConfigError, plain
from rtmo_deploy.model.mmengine_config import HIDDEN, ParsedConfig, Unreadable, parse_config
from rtmo_deploy.zoo.variant import INPUT_MULTIPLE

#: Lowest score threshold: 0 would make a detection of every cell of the grid.
MIN_SCORE_THR = 0.0001
_MAX_SIDE = 16384
_PAD = 114
#: Steps of a test pipeline that change nothing but by the fields that are looked at, or only the annotations.
_STEPS = {"LoadImage", "LoadImageFromFile", "BottomupResize", "PackPoseInputs", "GetBBoxCenterScale"}
#: What the tensors show as well.
_SHAPE = {
    "num_keypoints": "model.head.num_keypoints",
    "hidden_dim": "model.neck.hidden_dim",
    "num_bins": "model.head.dcc_cfg.num_bins",
}
#: Fields that must have one of these values where they are given. Order of the fields: as in a config.
_FIXED: tuple[tuple[str, tuple[Any, ...]], ...] = (
    ("type", ("BottomupPoseEstimator",)),
    ("data_preprocessor.type", ("PoseDataPreprocessor",)),
    ("backbone.type", ("CSPDarknet",)),
    ("backbone.arch", ("P5",)),
    ("backbone.use_depthwise", (False,)),
    ("backbone.arch_ovewrite", (None,)),
    ("backbone.conv_cfg", (None,)),
    ("backbone.spp_kernal_sizes", ([5, 9, 13],)),
    ("backbone.out_indices", ([2, 3, 4],)),
    ("neck.type", ("HybridEncoder",)),
    ("neck.num_encoder_layers", (1,)),
    ("neck.use_encoder_idx", ([2],)),
    ("neck.output_indices", ([1, 2],)),
    ("neck.spe_learnable", (False,)),
    ("neck.encoder_cfg.self_attn_cfg.batch_first", (True,)),
    ("neck.encoder_cfg.ffn_cfg.num_fcs", (2,)),
    ("neck.encoder_cfg.ffn_cfg.add_identity", (True,)),
    ("neck.encoder_cfg.norm_cfg.type", ("LN",)),
    ("neck.projector.type", ("ChannelMapper",)),
    ("neck.projector.kernel_size", (1,)),
    ("neck.projector.act_cfg", (None,)),
    ("neck.projector.conv_cfg", (None,)),
    ("neck.projector.num_outs", (2,)),
    ("head.type", ("RTMOHead",)),
    ("head.num_classes", (1,)),
    ("head.featmap_strides", ([16, 32],)),
    ("head.head_module_cfg.num_classes", (1,)),
    ("head.head_module_cfg.stacked_convs", (2,)),
    ("head.head_module_cfg.conv_bias", ("auto", False)),
    ("head.head_module_cfg.conv_cfg", (None,)),
    ("head.prior_generator.type", ("MlvlPointGenerator",)),
    ("head.prior_generator.centralize_points", (True,)),
    ("head.prior_generator.strides", ([16, 32],)),
    ("head.dcc_cfg.feat_channels", (128,)),
    ("head.dcc_cfg.spe_channels", (128,)),
    ("head.dcc_cfg.gau_cfg.s", (128,)),
    ("head.dcc_cfg.gau_cfg.expansion_factor", (2,)),
    ("head.dcc_cfg.gau_cfg.act_fn", ("SiLU",)),
    ("head.dcc_cfg.gau_cfg.pos_enc", ("add", True)),
    ("head.dcc_cfg.gau_cfg.use_rel_bias", (False,)),
    ("head.dcc_cfg.gau_cfg.shift", (None,)),
    ("test_cfg.flip_test", (False,)),
    ("test_cfg.multiscale_test", (False,)),
)


@dataclass
class ConfigFacts:
    """What was taken.

    Attributes:
        settings: Values for :class:`~rtmo_deploy.model.settings.Settings`, by name; only what the config gives.
        input_hw: Height and width, pixels.
        score_thr, nms_thr: Thresholds of the decoding.
        pre_topk: Candidates that enter the suppression.
        shape: What the tensors show too: ``num_keypoints``, ``hidden_dim``, ``num_bins``; as far as it is given.
        notes: What could not be read or was adapted.
    """

    settings: dict[str, Any] = field(default_factory=dict)
    input_hw: tuple[int, int] | None = None
    score_thr: float | None = None
    nms_thr: float | None = None
    pre_topk: int | None = None
    shape: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def read_config(config: Any) -> ConfigFacts:
    """Read a config: its text, or the dict that it makes.

    Raises:
        UnsupportedConfigError: It asks for what the network here cannot do.
    """
    if isinstance(config, bytes):
        config = config.decode(errors="replace")
    if isinstance(config, str):
        parsed = parse_config(config)
    elif isinstance(config, Mapping):
        parsed = ParsedConfig(dict(config))
    else:
        return ConfigFacts(notes=["the config is neither text nor a dict"])
    fields = Fields(parsed.values)
    facts = ConfigFacts(notes=parsed.notes)
    if "model" not in parsed.values:
        facts.notes.append("the config has no 'model' that can be read")
    for name, allowed in _FIXED:
        fields.fixed(f"model.{name}", allowed)
    _network(fields, facts.settings)
    shape = {name: fields.get(path) for name, path in _SHAPE.items()}
    facts.shape = {name: value for name, value in shape.items() if value is not NO}
    _normalisation(fields, facts.settings)
    _thresholds(fields, facts)
    _input(fields, facts)
    facts.notes += fields.notes
    return facts


def _network(fields: Fields, settings: dict[str, Any]) -> None:
    encoder = "model.neck.encoder_cfg"
    paths = {
        "backbone_act": "model.backbone.act_cfg",
        "neck_act": "model.neck.act_cfg",
        "head_act": "model.head.head_module_cfg.act_cfg",
        "ffn_act": f"{encoder}.ffn_cfg.act_cfg",
    }
    for name, path in paths.items():
        act = fields.act(path)
        if act is not None:
            settings[name] = act
    if "ffn_act" not in settings and isinstance(fields.get(f"{encoder}.ffn_cfg"), dict):
        settings["ffn_act"] = "ReLU"  # the reference's default once an encoder is configured
    fields.norm("model.backbone.norm_cfg", "backbone", settings)
    fields.norm("model.neck.norm_cfg", "neck", settings)
    fields.norm("model.neck.projector.norm_cfg", "projector", settings)
    fields.norm("model.head.head_module_cfg.norm_cfg", "head", settings)
    numbers = {
        "layer_norm_eps": (f"{encoder}.norm_cfg.eps", 1e-12, 1.0),
        "pe_temperature": ("model.neck.pe_temperature", 1e-3, 1e9),
        "spe_temperature": ("model.head.dcc_cfg.spe_temperature", 1e-3, 1e9),
        "bbox_padding": ("model.head.bbox_padding", 0.01, 100.0),
    }
    for name, (path, low, high) in numbers.items():
        number = fields.number(path, low, high)
        if number is not None:
            settings[name] = number
    heads = fields.number(f"{encoder}.self_attn_cfg.num_heads", 1, 4096, whole=True)
    if heads is not None:
        settings["attention_heads"] = int(heads)


def _normalisation(fields: Fields, settings: dict[str, Any]) -> None:
    base = "model.data_preprocessor"
    mean, std = (_channels(fields, f"{base}.{name}") for name in ("mean", "std"))
    if (mean is None) != (std is None):
        raise UnsupportedConfigError(
            f"{base}.{'mean' if std is None else 'std'}", list(mean or std or ()), "mean and std together, as numbers"
        )
    if mean is not None and std is not None:
        if min(std) <= 0:
            raise UnsupportedConfigError(f"{base}.std", list(std), "values above 0")
        settings["mean"], settings["std"] = mean, std
    for name in ("bgr_to_rgb", "rgb_to_bgr"):
        value = fields.get(f"{base}.{name}")
        if value is not NO:
            fields.fixed(f"{base}.{name}", (True, False))
            settings["rgb"] = settings.get("rgb", False) or value


def _channels(fields: Fields, path: str) -> tuple[float, float, float] | None:
    value = fields.get(path)
    if value is NO or value is None:
        return None
    numbers = value if isinstance(value, list) else []
    good = all(type(item) in (int, float) and abs(item) < 1e9 and math.isfinite(item) for item in numbers)
    if len(numbers) not in (1, 3) or not good:
        raise UnsupportedConfigError(path, value, "three numbers, one a channel")
    first, second, third = (float(item) for item in (numbers * 3 if len(numbers) == 1 else numbers))
    return (first, second, third)


def _thresholds(fields: Fields, facts: ConfigFacts) -> None:
    facts.score_thr = fields.number("model.test_cfg.score_thr", 0, 1)
    if facts.score_thr is not None and facts.score_thr < MIN_SCORE_THR:
        facts.notes.append(f"model.test_cfg.score_thr is {facts.score_thr:g}; {MIN_SCORE_THR} is the lowest here")
        facts.score_thr = MIN_SCORE_THR
    facts.nms_thr = fields.number("model.test_cfg.nms_thr", 0, 1)
    given = fields.get("model.test_cfg")
    if isinstance(given, dict) and not given.keys() & {"score_thr", HIDDEN}:
        facts.notes.append("model.test_cfg has no score_thr: the reference's default, 0.01, is taken")
        facts.score_thr = 0.01
    most = fields.number("model.test_cfg.nms_pre", 1, 1e9, whole=True)
    # The reference's own default, above the number of cells of any usual input, is no limit.
    facts.pre_topk = int(most) if most is not None and most < 100_000 else None


def _input(fields: Fields, facts: ConfigFacts) -> None:
    resize = _resize(fields)
    path = "model.test_cfg.input_size"
    size, other = _size(path, fields.get(path)), None
    if resize is not None:
        name, values = resize
        other = _size(f"{name}.input_size", plain(values.get("input_size", NO)))
        for key, allowed in (("resize_mode", ("fit",)), ("use_udp", (False,)), ("aug_scales", (None, []))):
            if key in values and values[key] not in allowed and not isinstance(values[key], Unreadable):
                raise UnsupportedConfigError(f"{name}.{key}", values[key], repr(allowed[0]))
        pad = plain(values.get("pad_val", 0))
        if not isinstance(pad, Unreadable) and pad not in (_PAD, [_PAD], [_PAD] * 3):
            raise UnsupportedConfigError(f"{name}.pad_val", pad, f"grey {_PAD}")
    if size is None:
        for path in ("input_size", "codec.input_size"):
            other = other or _size(path, fields.get(path))
    elif other is not None and other != size:
        facts.notes.append(f"the test pipeline resizes to {other[1]}x{other[0]} (W x H); test_cfg's size is taken")
    facts.input_hw = size or other
    divisor = fields.number("model.data_preprocessor.pad_size_divisor", 1, _MAX_SIDE, whole=True)
    if divisor is not None and facts.input_hw is not None and any(side % divisor for side in facts.input_hw):
        raise UnsupportedConfigError(
            "model.data_preprocessor.pad_size_divisor", int(divisor), "a divisor of the input's height and width"
        )


def _resize(fields: Fields) -> tuple[str, dict[Any, Any]] | None:
    """The BottomupResize of the first pipeline that testing uses; what else changes the image is refused or told."""
    for path in (
        "test_dataloader.dataset.pipeline",
        "test_pipeline",
        "val_dataloader.dataset.pipeline",
        "val_pipeline",
    ):
        found = None
        steps = fields.get(path)
        for number, step in enumerate(steps if isinstance(steps, list) else []):
            if not isinstance(step, dict):
                continue
            name, kind = f"{path}[{number}]", str(step.get("type")).rsplit(".", 1)[-1]
            if kind == "BottomupResize":
                found = found or (name, step)
            elif kind not in _STEPS:
                fields.note(f"{name} is {kind[:40]}, which is not followed")
            for key, allowed in (("color_type", "color"), ("channel_order", "bgr")):
                if step.get(key, allowed) != allowed:
                    raise UnsupportedConfigError(f"{name}.{key}", step[key], repr(allowed))
        if found:
            return found
    return None


def _size(path: str, value: Any) -> tuple[int, int] | None:
    """(W, H), or one side, to (H, W)."""
    if value is NO or value is None or isinstance(value, Unreadable):
        return None
    sides = [value, value] if type(value) is int else value
    whole = isinstance(sides, list) and len(sides) == 2 and all(type(side) is int for side in sides)
    if not whole or any(not 0 < side <= _MAX_SIDE or side % INPUT_MULTIPLE for side in sides):
        raise UnsupportedConfigError(
            path, value, f"(width, height), both multiples of {INPUT_MULTIPLE} up to {_MAX_SIDE}"
        )
    return (sides[1], sides[0])
