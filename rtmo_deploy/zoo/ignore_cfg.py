"""Whether configs inside checkpoints are followed, or the published models' settings are taken instead."""

from __future__ import annotations

import os
from contextlib import nullcontext
from typing import TYPE_CHECKING, Final

from rtmo_deploy.environment import variable

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

#: Set to 1, configs inside checkpoints are not followed.
IGNORE_CFG: Final = "RTMO_DEPLOY_IGNORE_CFG"


def cfg_is_ignored() -> bool:
    """What the environment says."""
    return os.environ.get(IGNORE_CFG) == "1"


def ignoring_cfg(ignore: bool = True) -> AbstractContextManager[None]:
    """Within the block, configs inside checkpoints are not followed, in child processes neither."""
    return variable(IGNORE_CFG, "1") if ignore else nullcontext()
