"""Environment variables that readers consult, set for a while."""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

#: Pixels that an image may have; a command's ``--max-pixels`` sets it.
MAX_PIXELS_VARIABLE = "RTMO_DEPLOY_MAX_PIXELS"


@contextmanager
def variable(name: str, value: str) -> Iterator[None]:
    """Within the block an environment variable has this value, in child processes too."""
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        os.environ.pop(name)
        os.environ.update({} if before is None else {name: before})
