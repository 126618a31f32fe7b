"""Where each setting of a loaded checkpoint comes from: its record, its config, or the published models."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from rtmo_deploy.errors import CheckpointError
from rtmo_deploy.model.config import IGNORE_CFG, NO_LIMIT, read_config
from rtmo_deploy.model.spec import Settings
from rtmo_deploy.plain import plain
from rtmo_deploy.zoo.records import MIN_SCORE_THR

if TYPE_CHECKING:
    from rtmo_deploy.model.reader import CheckpointContents
    from rtmo_deploy.model.spec import NetworkSpec
    from rtmo_deploy.zoo import Variant

#: Input size of a network of no published shape.
DEFAULT_INPUT_HW = (640, 640)


@dataclass(frozen=True)
class Taken:
    """Settings, input size and thresholds of a checkpoint. The defaults are the published models'."""

    #: What the tensors do not show.
    settings: Settings = field(default_factory=Settings)
    #: Height and width, pixels.
    input_hw: tuple[int, int] = DEFAULT_INPUT_HW
    score_thr: float = 0.1
    nms_thr: float = 0.65
    #: Candidates that enter the suppression, None for all.
    pre_topk: int | None = None
    #: Of each of these by name: ``cfg``, ``record`` (this project's own), or ``default``.
    sources: dict[str, str] = field(default_factory=dict)
    #: What the config has that could not be read or was adapted.
    notes: tuple[str, ...] = ()

    def values(self) -> dict[str, Any]:
        """Every setting by name, of JSON types."""
        more = {name: getattr(self, name) for name in _DECODING}
        found: dict[str, Any] = plain(asdict(self.settings) | more)
        return found

    def listing(self) -> dict[str, dict[str, Any]]:
        """Of every setting its ``value`` and its ``source``."""
        return {
            name: {"value": value, "source": self.sources.get(name, "default")} for name, value in self.values().items()
        }

    def thresholds(self) -> dict[str, float]:
        """The thresholds that are not the published ones, for a record."""
        return {name: getattr(self, name) for name in _THRESHOLDS if getattr(self, name) != getattr(_DEFAULTS, name)}

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


_THRESHOLDS = ("score_thr", "nms_thr", "pre_topk")
_DECODING = ("input_hw", *_THRESHOLDS)
_DEFAULTS = Taken()


def take(contents: CheckpointContents, spec: NetworkSpec, variant: Variant | None, *, ignore_cfg: bool) -> Taken:
    """Decide every setting: this project's record comes first, then the config, then the published models."""
    values: dict[str, Any] = {}
    shape: dict[str, Any] = {}
    notes: list[str] = []
    if contents.config is not None and not ignore_cfg:
        values, shape, notes = read_config(contents.config)
    record = contents.record
    own = record["settings"] if isinstance(record.get("settings"), dict) else {}
    own_decoding = _decoding_of(record)
    try:
        settings = Settings.from_dict({k: v for k, v in values.items() if k not in _DECODING} | own)
    except ValueError as error:
        raise CheckpointError(
            f"Its settings cannot be followed: {error}.", remedy="Write the checkpoint again."
        ) from None
    heads = settings.attention_heads
    if heads and spec.hidden_dim % heads:
        raise CheckpointError(
            f"Its attention_heads (num_heads in a config) are {heads}; they must divide {spec.hidden_dim} channels.",
            remedy=IGNORE_CFG,
        )
    decoding: dict[str, Any] = {"input_hw": spec.architecture.input_hw} if spec.architecture else {}
    if variant:
        decoding |= {"score_thr": variant.score_thr, "nms_thr": variant.nms_thr}
    decoding |= {k: v for k, v in values.items() if k in _DECODING} | own_decoding
    sources = dict.fromkeys(values, "cfg") | dict.fromkeys((*own, *own_decoding), "record")
    for name, given in shape.items():
        found = getattr(spec, name)
        if given != (list(found) if name == "num_bins" else found):
            notes.append(
                f"the config's {name} is {str(given)[:40]}, and the tensors have {found}: is it another model's?"
            )
    return Taken(settings=settings, sources=sources, notes=tuple(notes), **decoding)


def _decoding_of(record: dict[str, Any]) -> dict[str, Any]:
    """Input size and thresholds of this project's record; what makes no sense is left out."""
    found: dict[str, Any] = {}
    size = record.get("input_hw")
    if isinstance(size, list) and len(size) == 2 and all(type(side) is int and side > 0 for side in size):
        found["input_hw"] = (size[0], size[1])
    for name, low in (("score_thr", MIN_SCORE_THR), ("nms_thr", 0.0)):
        value = record.get(name)
        if isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= 1:
            found[name] = float(value)
    most = record.get("pre_topk")
    if type(most) is int and 0 < most < NO_LIMIT:
        found["pre_topk"] = most
    return found
