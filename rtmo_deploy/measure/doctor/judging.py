"""All rules over the facts of a machine."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rtmo_deploy.measure.doctor.extras import extras_rows
from rtmo_deploy.measure.doctor.gpu import gpu_rows
from rtmo_deploy.measure.doctor.machine import machine_rows
from rtmo_deploy.measure.doctor.pairs import pairs_rows
from rtmo_deploy.measure.doctor.report import Report
from rtmo_deploy.measure.doctor.software import software_rows

if TYPE_CHECKING:
    from rtmo_deploy.measure.doctor.facts import Facts


def judge(facts: Facts) -> Report:
    """Judge what was found; nothing but the facts is looked at.

    Args:
        facts: Of any machine, this one or a made-up one.
    """
    rows = [
        *software_rows(facts),
        *gpu_rows(facts),
        *pairs_rows(facts),
        *machine_rows(facts),
        *extras_rows(facts),
    ]
    return Report(tuple(rows), facts)
