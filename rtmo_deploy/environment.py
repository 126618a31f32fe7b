"""Environment variables that readers consult, set for a while."""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rtmo_deploy.errors import SetupError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_YES = frozenset({"1", "true", "yes", "on"})
_NO = frozenset({"", "0", "false", "no", "off"})

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


def is_yes(name: str, what: str, variables: Mapping[str, str] | None = None) -> bool:
    """Whether an environment variable says yes; SetupError where it is neither yes nor no.

    ``what`` is what 1 does, such as ``forbid the network``.
    """
    value = (os.environ if variables is None else variables).get(name, "").strip().lower()
    if value not in _YES | _NO:
        raise SetupError(
            f"'{value}' is neither yes nor no.", remedy=f"Set it to 1 to {what}, or to 0 not to.", where=name
        )
    return value in _YES
