"""Looks up and checks the fields of an MMEngine config: numbers, activations, norms."""

from __future__ import annotations

import reprlib
from collections.abc import Mapping
from typing import Any

from rtmo_deploy.model.mmengine_config import HIDDEN, Unreadable
from rtmo_deploy.model.settings import ACTIVATIONS

#: A value that is not given, or cannot be read.
NO = object()
_NORMS = {"BN", "BN2d", "SyncBN", "MMSyncBN"}
_LONGEST = 64
#: Bounded, whatever a value holds.
_SHORT = reprlib.Repr()
_SHORT.maxlevel, _SHORT.maxlist, _SHORT.maxstring, _SHORT.maxother = 3, 8, 80, 80
#: Keys that steer how configs are merged and built, and say nothing of a layer.
_OF_MMENGINE = frozenset({"_delete_", "_scope_"})
_NORM_KEYS = {"type", "eps", "momentum", "affine", "track_running_stats", "requires_grad", *_OF_MMENGINE}
_SYNONYMS = {"Swish": "SiLU", "Hardswish": "HSwish"}


class UnsupportedConfigError(ValueError):
    """A field has a value that the network here cannot follow.

    Attributes:
        field: The field, for example ``model.backbone.act_cfg.type``.
        supported: What is supported instead.
    """

    def __init__(self, field: str, value: Any, supported: str) -> None:
        text = _SHORT.repr(value)
        super().__init__(f"{field} is {text if len(text) <= 80 else text[:77] + '...'}")
        self.field, self.supported = field, supported


def plain(value: Any, depth: int = 3) -> Any:
    """Tuples as lists; what no field has, long or deep lists, as it is (a list may hold another many times)."""
    if isinstance(value, list | tuple) and len(value) <= _LONGEST and depth:
        return [plain(item, depth - 1) for item in value]
    return value


class Fields:
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
        return plain(value)

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
            raise UnsupportedConfigError(path, value, " or ".join(map(repr, allowed)))

    def number(self, path: str, low: float, high: float, *, whole: bool = False) -> float | None:
        """A number within bounds."""
        value = self.get(path)
        if value is NO:
            return None
        kinds = (int,) if whole else (int, float)
        if type(value) not in kinds or not low <= value <= high:
            kind = "a whole number" if whole else "a number"
            raise UnsupportedConfigError(path, value, f"{kind} from {low:g} to {high:g}")
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
            raise UnsupportedConfigError(path, value, f"dict(type=...) with {names}")
        kind = kind.rsplit(".", 1)[-1]
        kind = _SYNONYMS.get(kind, kind)
        known = {"type", "inplace", *_OF_MMENGINE} | ({"negative_slope"} if kind == "LeakyReLU" else set())
        if extra := [key for key in value if key not in known]:
            raise UnsupportedConfigError(f"{path}.{extra[0]}", value[extra[0]], "its absence")
        if kind == "LeakyReLU":
            slope = self.number(f"{path}.negative_slope", 0, 10)
            return f"LeakyReLU({0.01 if slope is None else slope!r})"
        if kind not in ACTIVATIONS:
            raise UnsupportedConfigError(f"{path}.type", kind, names)
        return kind

    def norm(self, path: str, part: str, settings: dict[str, Any]) -> None:
        """A BatchNorm's config."""
        value = self.get(path)
        if value is NO:
            return
        kind = self.get(f"{path}.type")
        if not isinstance(kind, str) or kind.rsplit(".", 1)[-1] not in _NORMS:
            raise UnsupportedConfigError(path, value, "BatchNorm: dict(type='BN', eps=..., momentum=...)")
        if extra := [key for key in value if key not in _NORM_KEYS]:
            raise UnsupportedConfigError(f"{path}.{extra[0]}", value[extra[0]], "its absence")
        self.fixed(f"{path}.affine", (True,))
        self.fixed(f"{path}.track_running_stats", (True,))
        for name, default in (("eps", 1e-5), ("momentum", 0.1)):
            number = self.number(f"{path}.{name}", 1e-12 if name == "eps" else 0, 1)
            settings[f"{part}_{name}"] = default if number is None else number
