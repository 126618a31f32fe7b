"""Sentences that several rules share."""

from __future__ import annotations

from rtmo_deploy.measure.doctor.parts import Capability, Trouble, TroubleKind
from rtmo_deploy.measure.doctor.report import Row, Verdict

GIB = 2**30

#: What to do where a look was stopped.
MORE_TIME = "The machine may be busy; give it more time: rtmo-deploy doctor --timeout 300"


def troubled(area: str, name: str, trouble: Trouble, remedy: str) -> Row:
    """The row of something that could not be looked at to the end: not known if it was slow, else broken."""
    if trouble.kind is TroubleKind.SLOW:
        return Row(area, name, Verdict.WARNING, trouble.text, MORE_TIME)
    return Row(area, name, Verdict.BROKEN, trouble.text, remedy)


def dotted(version: Capability) -> str:
    """(9, 0) -> ``9.0``."""
    return ".".join(str(part) for part in version)


def gib(size: int) -> str:
    """Bytes in words."""
    return f"{size / GIB:.1f} GiB" if size >= GIB else f"{size / 2**20:.1f} MiB"


def bad_pair(name: str, finding: str, remedy: str, *, broken: bool = True) -> Row:
    """The row of two things that do not go together."""
    return Row("pairs", name, Verdict.BROKEN if broken else Verdict.WARNING, finding, remedy)
