"""What of this machine can be used, what is broken, and what to do about it.

Three steps: ``collect`` looks, ``judge`` applies rules that see nothing but what was found, ``report`` adds up.
Whatever may crash, hang or take long to import is looked at in child processes, so that nothing that is installed can
keep the rest from being told.
"""

from __future__ import annotations

from rtmo_deploy.measure.doctor.collecting import TIMEOUT_S, collect
from rtmo_deploy.measure.doctor.facts import Facts
from rtmo_deploy.measure.doctor.judging import judge
from rtmo_deploy.measure.doctor.report import Report, Row, Verdict

__all__ = ["TIMEOUT_S", "Facts", "Report", "Row", "Verdict", "collect", "judge"]
