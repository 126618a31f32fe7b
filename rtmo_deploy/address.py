"""Addresses of files: what is one, the path of ``file://``, the hash behind ``#sha256=``, and none of their secrets."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit
from urllib.request import url2pathname

from rtmo_deploy.errors import UsageError

if TYPE_CHECKING:
    from rtmo_deploy.errors import RtmoDeployError

#: How the address of a model begins.
_MODEL = re.compile("(https?|hf|file)://", re.IGNORECASE)
_FILE = re.compile("file://", re.IGNORECASE)
#: User and password that hold what separates the parts of an address; a port is digits.
_UNQUOTED = re.compile(r"(?<=://)(?!\[)[^/?#@:]*:(?!\d*([/?#]|$)).*@")
#: A secret in the query of an address, behind its name.
_SECRET = re.compile("([?&][^=&#]*(?:pass|pwd|token|secret|key|sig|auth)[^=&#]*=)[^&#]+", re.IGNORECASE)


def without_credentials(url: str) -> str:
    """``https://user:secret@host/path?token=secret`` -> ``https://host/path?token=***``, fit for a message or a log."""
    return _SECRET.sub(r"\1***", _UNQUOTED.sub("", without_user(url)))


def without_user(url: str) -> str:
    """``https://user:secret@host/path?token=secret`` -> ``https://host/path?token=secret``."""
    return re.sub("(?<=//)[^/?#]*@", "", url, count=1)


def is_address(name: str | os.PathLike[str]) -> bool:
    """Whether it is an address of a model: ``http://``, ``https://``, ``hf://`` or ``file://``."""
    return isinstance(name, str) and _MODEL.match(name) is not None


def is_remote(name: str | os.PathLike[str]) -> bool:
    """Whether it is an address of a model that is not a file on this computer."""
    return is_address(name) and not is_file_address(name)


def is_file_address(name: str | os.PathLike[str]) -> bool:
    """Whether it is a ``file://`` address."""
    return isinstance(name, str) and _FILE.match(name) is not None


def local_path(name: str | os.PathLike[str], error: type[RtmoDeployError] = UsageError) -> Path:
    """A path as it is, or the path that a ``file://`` address names; ``error`` where it names another computer's."""
    if not is_file_address(name):
        return Path(name)
    text, _ = split_hash(os.fspath(name))
    shown = without_credentials(text)
    try:
        parts = urlsplit(text)
    except ValueError as cause:
        raise error("The address cannot be understood.", remedy="Write file:///folder/name.", where=shown) from cause
    if parts.netloc.lower() not in {"", "localhost"}:
        raise error(
            f"A file:// address names a file on this computer, and this one is on the host '{parts.hostname}'.",
            remedy="Write file:///folder/name, with three slashes.",
            where=shown,
        )
    if parts.query or parts.fragment or not parts.path.strip("/"):
        raise error(
            "It is not the address of a file.",
            remedy="Write file:///folder/name; in names, ? is %3F and # is %23.",
            where=shown,
        )
    return Path(url2pathname(parts.path))


def split_hash(address: str) -> tuple[str, str | None]:
    """An address, and the SHA-256 that its file must have where it ends in ``#sha256=``; UsageError for another."""
    address, mark, fragment = address.partition("#")
    if not mark:
        return address, None
    key, _, digits = fragment.partition("=")
    digits = digits.lower()
    if key.lower() != "sha256" or not re.fullmatch("[0-9a-f]{64}", digits):
        raise UsageError(
            f"'#{fragment}' is not a hash.",
            remedy="Write #sha256= and the 64 hex digits, or leave it away.",
            where=without_credentials(address),
        )
    return address, digits


def is_prefix(url: str) -> bool:
    """Whether it is an http(s) address that a path can be appended to."""
    try:
        parts = urlsplit(url)
        _ = parts.port  # raises where it is not a number
    except ValueError:
        return False
    return parts.scheme in {"http", "https"} and bool(parts.hostname) and not (parts.query or parts.fragment)
