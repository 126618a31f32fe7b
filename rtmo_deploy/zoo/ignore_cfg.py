"""Whether configs inside checkpoints are followed, or the published models' settings are taken instead."""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["IGNORE_CFG", "cfg_is_ignored", "ignoring_cfg"]

#: Set to 1, configs inside checkpoints are not followed.
IGNORE_CFG: Final = "RTMO_DEPLOY_IGNORE_CFG"


def cfg_is_ignored() -> bool:
    """What the environment says."""
    return os.environ.get(IGNORE_CFG) == "1"


@contextmanager
def ignoring_cfg(ignore: bool = True) -> Iterator[None]:
    """Within the block, configs inside checkpoints are not followed, in child processes neither."""
    before = os.environ.get(IGNORE_CFG)
    if ignore:
        os.environ[IGNORE_CFG] = "1"
    try:
        yield
    finally:
        if ignore:
            os.environ.pop(IGNORE_CFG)
            os.environ.update({} if before is None else {IGNORE_CFG: before})
