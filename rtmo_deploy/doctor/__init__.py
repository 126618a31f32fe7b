"""What of this machine can be used, what is broken, and what to do about it.

:func:`collect` probes, :func:`judge` applies the rules to what was found. Whatever may crash, hang or take long to
import is probed in a child process, so that nothing installed can keep the rest from being reported.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rtmo_deploy.lazy import lazy_exports

if TYPE_CHECKING:
    from rtmo_deploy.doctor.collecting import TIMEOUT_S, collect
    from rtmo_deploy.doctor.facts import Facts, Report, Row, Verdict
    from rtmo_deploy.doctor.rules import judge

__all__ = ["TIMEOUT_S", "Facts", "Report", "Row", "Verdict", "collect", "judge"]

_MODULES = {"collecting": ("TIMEOUT_S", "collect"), "facts": ("Facts", "Report", "Row", "Verdict"), "rules": ("judge",)}

__getattr__ = lazy_exports(__name__, _MODULES)
