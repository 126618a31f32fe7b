"""Fetches the file of an image over HTTP, bounded in size and time."""

from __future__ import annotations

import time
from typing import Final

from rtmo_deploy.address import without_credentials
from rtmo_deploy.data.images import MAX_BYTES
from rtmo_deploy.errors import InputDataError
from rtmo_deploy.zoo.cache import OFFLINE_VARIABLE, is_offline
from rtmo_deploy.zoo.transfer import failure_of

_WAIT_S: Final = 10.0  # for the connection, and between two parts
_WHOLE_S: Final = 120.0


def fetch_image(address: str) -> bytes:
    """The file at an http(s) address, not decoded.

    Raises:
        InputDataError: It cannot be had, is too large or too slow, or the network is forbidden.
    """
    import requests

    shown = without_credentials(address)
    if is_offline():
        finding = f"It is on the network, which {OFFLINE_VARIABLE} forbids."
        raise InputDataError(finding, remedy=f"Unset {OFFLINE_VARIABLE}, or save the image first.", where=shown)
    data, started = bytearray(), time.monotonic()
    try:
        with requests.get(address, stream=True, timeout=_WAIT_S) as answer:
            answer.raise_for_status()
            for part in answer.iter_content(2**16):
                data += part
                if len(data) > MAX_BYTES or time.monotonic() - started > _WHOLE_S:
                    finding = f"It has more than {MAX_BYTES >> 20} MiB, or takes more than {_WHOLE_S:g} s to come."
                    raise InputDataError(finding, remedy="Download it first.", where=shown)
    except requests.HTTPError as error:
        answered = f"the server answers {answer.status_code} {answer.reason}"
        raise InputDataError(f"It cannot be fetched: {answered}.", remedy="Check the address.", where=shown) from error
    except (requests.RequestException, OSError, ValueError) as error:
        reason = failure_of(error)
        raise InputDataError(f"It cannot be fetched: {reason}.", remedy="Check the address.", where=shown) from error
    return bytes(data)
