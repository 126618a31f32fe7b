"""What an MMEngine config says of an RTMO model: settings of the network, input size, thresholds.

A value the network here cannot follow is refused by its field; one that cannot be read is left at its default, and a
note says so. Fields that only training reads are not looked at.
"""

from __future__ import annotations

import math
import reprlib
from collections.abc import Mapping
from typing import Any

from rtmo_deploy.errors import CheckpointError
from rtmo_deploy.model.mmengine_config import HIDDEN, Unreadable, parse_config
from rtmo_deploy.model.spec import ACTIVATIONS
from rtmo_deploy.zoo.records import INPUT_MULTIPLE, MIN_SCORE_THR

IGNORE_CFG = "--ignore-cfg (in Python: ignore_cfg=True) leaves the config aside; results may then be wrong."
#: A value that is not given, or cannot be read.
NO = object()
_LONGEST = 64
#: Bounded, whatever a value holds.
_SHORT = reprlib.Repr()
_SHORT.maxlevel, _SHORT.maxlist, _SHORT.maxstring, _SHORT.maxother = 3, 8, 80, 80
#: Keys that steer how configs are merged and built, and say nothing of a layer.
_OF_MMENGINE = {"_delete_", "_scope_"}
_NORMS = {"BN", "BN2d", "SyncBN", "MMSyncBN"}
_NORM_KEYS = {"type", "eps", "momentum", "affine", "track_running_stats", "requires_grad", *_OF_MMENGINE}
_SYNONYMS = {"Swish": "SiLU", "Hardswish": "HSwish"}
_MAX_SIDE = 16384
_PAD = 114
#: From here on a limit of candidates, such as the reference's default, limits nothing.
NO_LIMIT = 100_000
#: Steps of a test pipeline that change nothing but by the fields that are looked at, or only the annotations.
_STEPS = {"LoadImage", "LoadImageFromFile", "BottomupResize", "PackPoseInputs", "GetBBoxCenterScale"}
_PIPELINES = ("test_dataloader.dataset.pipeline", "test_pipeline", "val_dataloader.dataset.pipeline", "val_pipeline")

_ENCODER = "model.neck.encoder_cfg"
#: What the tensors show as well.
_SHAPE = {
    "num_keypoints": "model.head.num_keypoints",
    "hidden_dim": "model.neck.hidden_dim",
    "num_bins": "model.head.dcc_cfg.num_bins",
}
_ACTS = {
    "backbone_act": "model.backbone.act_cfg",
    "neck_act": "model.neck.act_cfg",
    "head_act": "model.head.head_module_cfg.act_cfg",
    "ffn_act": f"{_ENCODER}.ffn_cfg.act_cfg",
}
_NORMS_OF = {
    "backbone": "model.backbone.norm_cfg",
    "neck": "model.neck.norm_cfg",
    "projector": "model.neck.projector.norm_cfg",
    "head": "model.head.head_module_cfg.norm_cfg",
}
#: Numbers, by setting: field, least and greatest value.
_NUMBERS: dict[str, tuple[str, float, float]] = {
    "layer_norm_eps": (f"{_ENCODER}.norm_cfg.eps", 1e-12, 1.0),
    "pe_temperature": ("model.neck.pe_temperature", 1e-3, 1e9),
    "spe_temperature": ("model.head.dcc_cfg.spe_temperature", 1e-3, 1e9),
    "bbox_padding": ("model.head.bbox_padding", 0.01, 100.0),
    "score_thr": ("model.test_cfg.score_thr", 0, 1),
    "nms_thr": ("model.test_cfg.nms_thr", 0, 1),
}
_WHOLE_NUMBERS: dict[str, tuple[str, float, float]] = {
    "attention_heads": (f"{_ENCODER}.self_attn_cfg.num_heads", 1, 4096),
    "pre_topk": ("model.test_cfg.nms_pre", 1, 1e9),
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


def _unsupported(field: str, value: Any, supported: str) -> CheckpointError:
    """The error of a field, such as ``model.backbone.act_cfg.type``, that the network here cannot follow."""
    text = _SHORT.repr(value)
    shown = text if len(text) <= 80 else text[:77] + "..."
    return CheckpointError(
        f"Its config asks for what is not supported: {field} is {shown}. Supported: {supported}.", remedy=IGNORE_CFG
    )


def read_config(config: Any) -> tuple[dict[str, Any], dict[str, Any], list[str]]:
    """Read a config: its text, or the dict that it makes.

    Returns:
        By name, what is given: fields of :class:`~rtmo_deploy.model.spec.Settings`, ``input_hw`` (pixels),
        ``score_thr``, ``nms_thr``, ``pre_topk``. What the tensors show too: ``num_keypoints``, ``hidden_dim``,
        ``num_bins``. And notes on what could not be read or was adapted.

    Raises:
        CheckpointError: The network here cannot follow a field.
    """
    if isinstance(config, bytes):
        config = config.decode(errors="replace")
    if not isinstance(config, str | Mapping):
        return {}, {}, ["the config is neither text nor a dict"]
    values, notes = parse_config(config) if isinstance(config, str) else (dict(config), [])
    if "model" not in values:
        notes.append("the config has no 'model' that can be read")
    fields = _Fields(values)
    for name, allowed in _FIXED:
        fields.fixed(f"model.{name}", allowed)
    found = {**_network(fields), **_normalisation(fields)}
    found |= {"score_thr": _score_thr(fields, found, notes), "input_hw": _input(fields)}
    if found.get("pre_topk", 0) >= NO_LIMIT:
        del found["pre_topk"]
    shape = {name: fields.get(path) for name, path in _SHAPE.items()}
    return (
        {name: value for name, value in found.items() if value is not None},
        {name: value for name, value in shape.items() if value is not NO},
        notes + fields.notes,
    )


def _network(fields: _Fields) -> dict[str, Any]:
    """What single fields say, one a setting; and the BatchNorms."""
    found: dict[str, Any] = {name: fields.act(path) for name, path in _ACTS.items()}
    if found["ffn_act"] is None and isinstance(fields.get(f"{_ENCODER}.ffn_cfg"), dict):
        found["ffn_act"] = "ReLU"  # the reference's default once an encoder is configured
    for part, path in _NORMS_OF.items():
        found |= fields.norm(path, part)
    found |= {name: fields.number(*bounds) for name, bounds in _NUMBERS.items()}
    found |= {name: fields.number(*bounds, whole=True) for name, bounds in _WHOLE_NUMBERS.items()}
    return {name: value for name, value in found.items() if value is not None}


def _normalisation(fields: _Fields) -> dict[str, Any]:
    base = "model.data_preprocessor"
    found: dict[str, Any] = {}
    mean, std = (_channels(fields, f"{base}.{name}") for name in ("mean", "std"))
    if (mean is None) != (std is None):
        raise _unsupported(
            f"{base}.{'mean' if std is None else 'std'}", list(mean or std or ()), "mean and std together, as numbers"
        )
    if mean is not None and std is not None:
        if min(std) <= 0:
            raise _unsupported(f"{base}.std", list(std), "values above 0")
        found |= {"mean": mean, "std": std}
    for name in ("bgr_to_rgb", "rgb_to_bgr"):
        value = fields.get(f"{base}.{name}")
        if value is not NO:
            fields.fixed(f"{base}.{name}", (True, False))
            found["rgb"] = found.get("rgb", False) or value
    return found


def _channels(fields: _Fields, path: str) -> tuple[float, float, float] | None:
    value = fields.get(path)
    if value is NO or value is None:
        return None
    numbers = value if isinstance(value, list) else []
    good = all(type(item) in (int, float) and abs(item) < 1e9 and math.isfinite(item) for item in numbers)
    if len(numbers) not in (1, 3) or not good:
        raise _unsupported(path, value, "three numbers, one a channel")
    first, second, third = (float(item) for item in (numbers * 3 if len(numbers) == 1 else numbers))
    return (first, second, third)


def _score_thr(fields: _Fields, found: Mapping[str, Any], notes: list[str]) -> float | None:
    given = fields.get("model.test_cfg")
    if isinstance(given, dict) and not given.keys() & {"score_thr", HIDDEN}:
        notes.append("model.test_cfg has no score_thr: the reference's default, 0.01, is taken")
        return 0.01
    score_thr: float | None = found.get("score_thr")
    if score_thr is None or score_thr >= MIN_SCORE_THR:
        return score_thr
    notes.append(f"model.test_cfg.score_thr is {score_thr:g}; {MIN_SCORE_THR} is the lowest here")
    return MIN_SCORE_THR


def _input(fields: _Fields) -> tuple[int, int] | None:
    """Height and width, pixels."""
    resize = _resize(fields)
    path = "model.test_cfg.input_size"
    size, other = _size(path, fields.get(path)), None
    if resize is not None:
        name, values = resize
        other = _size(f"{name}.input_size", _plain(values.get("input_size", NO)))
        for key, allowed in (("resize_mode", ("fit",)), ("use_udp", (False,)), ("aug_scales", (None, []))):
            if key in values and values[key] not in allowed and not isinstance(values[key], Unreadable):
                raise _unsupported(f"{name}.{key}", values[key], repr(allowed[0]))
        pad = _plain(values.get("pad_val", 0))
        if not isinstance(pad, Unreadable) and pad not in (_PAD, [_PAD], [_PAD] * 3):
            raise _unsupported(f"{name}.pad_val", pad, f"grey {_PAD}")
    if size is None:
        for path in ("input_size", "codec.input_size"):
            other = other or _size(path, fields.get(path))
    elif other is not None and other != size:
        fields.note(f"the test pipeline resizes to {other[1]}x{other[0]} (W x H); test_cfg's size is taken")
    size = size or other
    divisor = fields.number("model.data_preprocessor.pad_size_divisor", 1, _MAX_SIDE, whole=True)
    if divisor is not None and size is not None and any(side % divisor for side in size):
        raise _unsupported(
            "model.data_preprocessor.pad_size_divisor", divisor, "a divisor of the input's height and width"
        )
    return size


def _resize(fields: _Fields) -> tuple[str, dict[Any, Any]] | None:
    """The BottomupResize of the first pipeline that testing uses; what else changes the image is refused or told."""
    for path in _PIPELINES:
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
                    raise _unsupported(f"{name}.{key}", step[key], repr(allowed))
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
        raise _unsupported(path, value, f"(width, height), both multiples of {INPUT_MULTIPLE} up to {_MAX_SIDE}")
    return (sides[1], sides[0])


def _plain(value: Any, depth: int = 3) -> Any:
    """Tuples as lists; what no field has, long or deep lists, as it is (a list may hold another many times)."""
    if isinstance(value, list | tuple) and len(value) <= _LONGEST and depth:
        return [_plain(item, depth - 1) for item in value]
    return value


class _Fields:
    """Looks fields up by their dotted path; notes those that cannot be read."""

    def __init__(self, root: Mapping[Any, Any]) -> None:
        self.root = root
        self.notes: list[str] = []

    def get(self, path: str) -> Any:
        """The value, or ``NO`` where it is not given or cannot be read."""
        value: Any = self.root
        for key in path.split("."):
            if isinstance(value, Unreadable):
                break
            if not isinstance(value, Mapping):
                if value is not None:
                    self.note(f"{path} cannot be read: {path[: path.index(f'.{key}')]} is not a dict")
                return NO
            if key not in value:
                if HIDDEN not in value:
                    return NO
                value = value[HIDDEN]
                break
            value = value[key]
        if isinstance(value, list | tuple):
            value = next((item for item in value if isinstance(item, Unreadable)), value)
        if isinstance(value, Unreadable):
            if not any(value.reason in known for known in self.notes):
                self.note(f"{path} cannot be read ({value.reason}); its default is taken")
            return NO
        return _plain(value)

    def note(self, text: str) -> None:
        """Tell something, once for all fields below the same one."""
        known = {line.rpartition(": ")[2] for line in self.notes}
        if len(self.notes) < 20 and text.rpartition(": ")[2] not in known:
            self.notes.append(text)

    def fixed(self, path: str, allowed: tuple[Any, ...]) -> None:
        """Refuse a value that is none of these."""
        value = self.get(path)
        if value is NO:
            return
        shown = value.rsplit(".", 1)[-1] if isinstance(value, str) and path.endswith(".type") else value
        if not any(shown == one and isinstance(shown, bool) == isinstance(one, bool) for one in allowed):
            raise _unsupported(path, value, " or ".join(map(repr, allowed)))

    def number(self, path: str, low: float, high: float, *, whole: bool = False) -> float | None:
        """A number within bounds."""
        value = self.get(path)
        if value is NO:
            return None
        kinds = (int,) if whole else (int, float)
        if type(value) not in kinds or not low <= value <= high:
            kind = "a whole number" if whole else "a number"
            raise _unsupported(path, value, f"{kind} from {low:g} to {high:g}")
        return int(value) if whole else float(value)

    def act(self, path: str) -> str | None:
        """An activation's config, as the name of a setting."""
        value = self.get(path)
        if value is NO:
            return None
        names = ", ".join([*ACTIVATIONS, "LeakyReLU"])
        if value is None:
            return "none"
        kind = self.get(f"{path}.type")
        if not isinstance(value, dict) or not isinstance(kind, str):
            raise _unsupported(path, value, f"dict(type=...) with {names}")
        kind = kind.rsplit(".", 1)[-1]
        kind = _SYNONYMS.get(kind, kind)
        known = {"type", "inplace", *_OF_MMENGINE} | ({"negative_slope"} if kind == "LeakyReLU" else set())
        if extra := [key for key in value if key not in known]:
            raise _unsupported(f"{path}.{extra[0]}", value[extra[0]], "its absence")
        if kind == "LeakyReLU":
            slope = self.number(f"{path}.negative_slope", 0, 10)
            return f"LeakyReLU({0.01 if slope is None else slope!r})"
        if kind not in ACTIVATIONS:
            raise _unsupported(f"{path}.type", kind, names)
        return kind

    def norm(self, path: str, part: str) -> dict[str, float]:
        """A BatchNorm's config, as settings of a part."""
        value = self.get(path)
        if value is NO:
            return {}
        kind = self.get(f"{path}.type")
        if not isinstance(kind, str) or kind.rsplit(".", 1)[-1] not in _NORMS:
            raise _unsupported(path, value, "BatchNorm: dict(type='BN', eps=..., momentum=...)")
        if extra := [key for key in value if key not in _NORM_KEYS]:
            raise _unsupported(f"{path}.{extra[0]}", value[extra[0]], "its absence")
        self.fixed(f"{path}.affine", (True,))
        self.fixed(f"{path}.track_running_stats", (True,))
        eps, momentum = self.number(f"{path}.eps", 1e-12, 1), self.number(f"{path}.momentum", 0, 1)
        return {f"{part}_eps": eps or 1e-5, f"{part}_momentum": 0.1 if momentum is None else momentum}
