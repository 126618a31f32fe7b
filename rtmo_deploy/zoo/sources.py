"""Where a published file is looked for: mirrors that the user names, OpenMMLab's server, public copies."""

from __future__ import annotations

import os
import re

from rtmo_deploy.address import is_prefix, without_credentials
from rtmo_deploy.errors import SetupError
from rtmo_deploy.zoo.cache import CACHE_VARIABLE
from rtmo_deploy.zoo.hub import HubFile
from rtmo_deploy.zoo.records import BASE_URL
from rtmo_deploy.zoo.transfer import Source

MIRROR_VARIABLE = "RTMO_DEPLOY_MIRROR"
#: What lies below :data:`~rtmo_deploy.zoo.records.BASE_URL`, and public copies of it: rtmlib's author keeps the ONNX
#: exports on the Hugging Face Hub, under the same names.
COPIES = {"onnx_sdk/": ("hf://Tau-J/RTMPose/rtmo/",)}


def sources_of(url: str) -> list[Source]:
    """Where a file is looked for, in this order; an address that is not OpenMMLab's stands for itself.

    Raises:
        SetupError: ``RTMO_DEPLOY_MIRROR`` or ``HF_ENDPOINT`` holds something that is no prefix.
        UsageError: It begins with ``hf://``, and is not the address of a file there.
    """
    if url.lower().startswith("hf://"):
        return [HubFile.parse(url).source()]
    if not url.startswith(BASE_URL):
        return [Source(url)]
    rest = url.removeprefix(BASE_URL)
    copies = [prefix + rest for folder, prefixes in COPIES.items() if rest.startswith(folder) for prefix in prefixes]
    return [*published_sources(url), *(HubFile.parse(one).source() for one in copies)]


def published_sources(url: str) -> list[Source]:
    """The mirrors of a published file, and its own address; errors as :func:`sources_of`."""
    mirrored = [f"{prefix.rstrip('/')}/{url.rsplit('/', 1)[-1]}" for prefix in mirrors()]
    return [Source(one) for one in dict.fromkeys([*mirrored, url])]


def mirrors() -> list[str]:
    """The prefixes in ``RTMO_DEPLOY_MIRROR``, which blanks or commas separate; SetupError if one is none."""
    found = [one for one in re.split(r"[\s,]+", os.environ.get(MIRROR_VARIABLE, "")) if one]
    for one in found:
        if not is_prefix(one):
            raise SetupError(
                f"'{without_credentials(one)}' is not a prefix of the form https://host/path/.",
                remedy=f"Correct or unset it; for a local folder of checkpoints, set {CACHE_VARIABLE} instead.",
                where=MIRROR_VARIABLE,
            )
    return found
