"""Where each setting of a loaded checkpoint comes from: its record, its config, or the published models."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from rtmo_deploy.errors import CheckpointError
from rtmo_deploy.model.config_facts import MIN_SCORE_THR, ConfigFacts, read_config
from rtmo_deploy.model.config_fields import UnsupportedConfigError
from rtmo_deploy.model.settings import Settings

if TYPE_CHECKING:
    from pathlib import Path

    from rtmo_deploy.model.reader import CheckpointContents
    from rtmo_deploy.model.spec import NetworkSpec
    from rtmo_deploy.zoo import Variant

#: Input size of a network whose shape is nobody's published one.
DEFAULT_INPUT_HW = (640, 640)
DEFAULT_SCORE_THR, DEFAULT_NMS_THR = 0.1, 0.65


@dataclass(frozen=True)
class Taken:
    """Settings, input size and thresholds of a checkpoint.

    Attributes:
        settings: What the tensors do not show.
        input_hw: Height and width, pixels.
        score_thr, nms_thr: Thresholds of the decoding.
        pre_topk: Candidates that enter the suppression, None for all.
        sources: Of each of these by name: ``cfg``, ``record`` (this project's own), or ``default``.
        notes: What the config has that could not be read or was adapted.
    """

    settings: Settings = field(default_factory=Settings)
    input_hw: tuple[int, int] = DEFAULT_INPUT_HW
    score_thr: float = DEFAULT_SCORE_THR
    nms_thr: float = DEFAULT_NMS_THR
    pre_topk: int | None = None
    sources: dict[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def values(self) -> dict[str, Any]:
        """Every setting by name, of JSON types."""
        found = {
            **asdict(self.settings),
            "input_hw": self.input_hw,
            "score_thr": self.score_thr,
            "nms_thr": self.nms_thr,
            "pre_topk": self.pre_topk,
        }
        return {name: list(value) if isinstance(value, tuple) else value for name, value in found.items()}

    def listing(self) -> dict[str, dict[str, Any]]:
        """Of every setting its ``value`` and its ``source``."""
        return {
            name: {"value": value, "source": self.sources.get(name, "default")} for name, value in self.values().items()
        }

    def thresholds(self) -> dict[str, float]:
        """The thresholds that are not the published ones, for a record."""
        known = {"score_thr": DEFAULT_SCORE_THR, "nms_thr": DEFAULT_NMS_THR, "pre_topk": None}
        return {name: getattr(self, name) for name, value in known.items() if getattr(self, name) != value}

    def differing(self, input_hw: tuple[int, int] | None = None) -> dict[str, Any]:
        """What the config set to something else than the published models have (``input_hw``: their size)."""
        usual = Taken(input_hw=input_hw or DEFAULT_INPUT_HW).values()
        return {
            name: value
            for name, value in self.values().items()
            if self.sources.get(name) == "cfg"
            and value != usual[name]
            and not (name == "attention_heads" and value == 8)
        }


def take(
    path: Path, contents: CheckpointContents, spec: NetworkSpec, variant: Variant | None, *, ignore_cfg: bool
) -> Taken:
    """Decide every setting: this project's record comes first, then the config, then the published models.

    Raises:
        CheckpointError: The config, or the record, asks for what the network here cannot do.
    """
    facts = ConfigFacts()
    if contents.config is not None and not ignore_cfg:
        try:
            facts = read_config(contents.config)
        except UnsupportedConfigError as error:
            raise CheckpointError(
                f"Its config asks for what is not supported: {error}. Supported: {error.supported}.",
                remedy="--ignore-cfg (in Python: ignore_cfg=True) leaves the config aside; results may then be wrong.",
                where=path,
            ) from None
    stored = contents.meta.get("rtmo_deploy")
    record = stored if isinstance(stored, dict) else {}
    known = spec.architecture
    found: dict[str, Any] = {
        "input_hw": known.input_hw if known else DEFAULT_INPUT_HW,
        "score_thr": variant.score_thr if variant else DEFAULT_SCORE_THR,
        "nms_thr": variant.nms_thr if variant else DEFAULT_NMS_THR,
        "pre_topk": None,
    }
    sources: dict[str, str] = {}
    for source, values in (("cfg", _of_config(facts)), ("record", _of_record(record))):
        for name, value in values.items():
            found[name], sources[name] = value, source
    settings = dict(facts.settings)
    sources.update(dict.fromkeys(settings, "cfg"))
    own = record.get("settings")
    if isinstance(own, dict):
        settings |= own
        sources.update(dict.fromkeys(own, "record"))
    try:
        checked = Settings.from_dict(settings)
    except ValueError as error:
        raise CheckpointError(
            f"Its settings cannot be followed: {error}.", remedy="Write the checkpoint again.", where=path
        ) from None
    heads = checked.attention_heads
    if heads and spec.hidden_dim % heads:
        raise CheckpointError(
            f"Its attention_heads (num_heads in a config) are {heads}; they must divide {spec.hidden_dim} channels.",
            remedy="--ignore-cfg (in Python: ignore_cfg=True) leaves the config aside; results may then be wrong.",
            where=path,
        )
    shape = {name: getattr(spec, name) for name in facts.shape}
    notes = [
        f"the config's {name} is {str(given)[:40]}, and the tensors have {shape[name]}: is it another model's?"
        for name, given in facts.shape.items()
        if given != (list(shape[name]) if name == "num_bins" else shape[name])
    ]
    return Taken(settings=checked, sources=sources, notes=(*facts.notes, *notes), **found)


def _of_config(facts: ConfigFacts) -> dict[str, Any]:
    names = ("input_hw", "score_thr", "nms_thr", "pre_topk")
    return {name: getattr(facts, name) for name in names if getattr(facts, name) is not None}


def _of_record(record: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    size = record.get("input_hw")
    if isinstance(size, list) and len(size) == 2 and all(type(side) is int and side > 0 for side in size):
        found["input_hw"] = (size[0], size[1])
    for name, low in (("score_thr", MIN_SCORE_THR), ("nms_thr", 0.0)):
        value = record.get(name)
        if isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= 1:
            found[name] = float(value)
    most = record.get("pre_topk")
    if type(most) is int and 0 < most < 100_000:
        found["pre_topk"] = most
    return found
