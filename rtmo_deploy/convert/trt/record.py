"""An engine and its record appear together: whole or not at all, the record last."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from rtmo_deploy.errors import SetupError
from rtmo_deploy.files import atomic_write
from rtmo_deploy.runtime.engine_file import sidecar_path

if TYPE_CHECKING:
    from pathlib import Path

    from rtmo_deploy.runtime.engine_file import EngineRecord


def write_pair(plan: Path, engine: Path, record: EngineRecord) -> None:
    """Move a finished plan to where the engine goes, and write its record beside it.

    Args:
        plan: The finished plan, on the same disk; it is gone afterwards.
        engine: Where it goes.
        record: What is written to ``<engine>.json``.

    Raises:
        SetupError: One of them cannot be written; then neither is there.
    """
    text = json.dumps(record.to_dict(), indent=2, allow_nan=False) + "\n"
    moved = False
    try:
        # The record is on the disk before the engine appears, and appears after it.
        with atomic_write(sidecar_path(engine)) as temporary:
            temporary.write_text(text, encoding="utf-8")
            with atomic_write(engine) as place:
                plan.replace(place)
            moved = True
    except SetupError:
        if moved:
            engine.unlink(missing_ok=True)
        raise
