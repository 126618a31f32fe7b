"""rtmlib's classes of other networks than RTMO: they can be imported, and are refused when they are made."""

from __future__ import annotations

from typing import Any

from rtmo_deploy.errors import UsageError


def only_in_rtmlib(what: str) -> UsageError:
    """The error for what rtmlib has and this package has not."""
    return UsageError(
        f"{what} is not RTMO, and only RTMO runs here.",
        remedy="Import it from rtmlib itself, which can be used beside this package: pip install --no-deps rtmlib tqdm",
    )


class _Elsewhere:
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        raise only_in_rtmlib(type(self).__name__)


_NAMES = (
    *("YOLOX", "RTMDet", "RFDETR", "RTMPose", "RTMPose3d", "ViTPose"),
    *("Wholebody", "Wholebody3d", "Hand", "BodyWithFeet", "Animal"),
)
YOLOX, RTMDet, RFDETR, RTMPose, RTMPose3d, ViTPose, Wholebody, Wholebody3d, Hand, BodyWithFeet, Animal = (
    type(name, (_Elsewhere,), {"__module__": __name__, "__doc__": f"rtmlib's {name}: refused when it is made."})
    for name in _NAMES
)
