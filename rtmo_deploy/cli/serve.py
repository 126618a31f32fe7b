"""``rtmo-deploy serve``: a model over HTTP."""

from __future__ import annotations

import contextlib
import json
import logging
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from rtmo_deploy.cli.console import log_as_notes
from rtmo_deploy.cli.document import SCHEMA_VERSION
from rtmo_deploy.cli.given import find_model, newest_model
from rtmo_deploy.cli.options import (
    AnyModelArgument,
    IgnoreCfgOption,
    JsonOption,
    MaxPixelsOption,
    OpenOptions,
    options_of,
)
from rtmo_deploy.cli.progress import status
from rtmo_deploy.option import option
from rtmo_deploy.serve.options import ServeOptions

if TYPE_CHECKING:
    from rtmo_deploy.runtime.estimator import RTMO

__all__ = ["Literal", "Path", "serve"]  # types of ServeOptions' fields


@dataclass(frozen=True)
class _Options(ServeOptions, OpenOptions):
    """How the model is opened, and how it is served."""

    device: str = option("auto", "cpu, cuda, cuda:1, ...; auto is a GPU if the runtime can use one.")
    reduce_jpeg: bool = option(
        False, "Decode JPEGs at 1/2, 1/4 or 1/8 of their size where that is enough: faster, results differ slightly."
    )


@options_of(_Options)
def serve(
    model: AnyModelArgument = None,
    *,
    options: _Options,
    max_pixels: MaxPixelsOption = None,  # noqa: ARG001 - its callback has acted
    ignore_cfg: IgnoreCfgOption = False,  # noqa: ARG001 - its callback has acted
    as_json: JsonOption = False,
) -> None:
    """Serve a model over HTTP, until Ctrl-C or SIGTERM; what was accepted is answered first.

    POST an image to /predict; tensors go by KServe's protocol to /v2; open / in a browser.
    """
    path = find_model(newest_model() if model is None else model, "serve", opening=options)
    from rtmo_deploy.runtime.estimator import RTMO
    from rtmo_deploy.serve.run import bind
    from rtmo_deploy.serve.run import serve as run

    opening = {name: getattr(options, name) for name in OpenOptions.__dataclass_fields__}
    with contextlib.closing(bind(options)) as sock:
        with status("opening the model"), log_as_notes("rtmo_deploy", logging.INFO):
            estimator = RTMO(path, reduce=options.reduce_jpeg, **opening)
        with estimator:
            run(estimator, options, sock=sock, on_ready=lambda address: _tell(address, estimator, as_json=as_json))


def _tell(address: str, model: RTMO, *, as_json: bool) -> None:
    """Say on stdout where the server is, as soon as it is there."""
    if as_json:
        head = {"schema_version": SCHEMA_VERSION, "command": "serve"}
        document = {**head, "url": address, "model": str(model.artifact.path)}
        sys.stdout.write(json.dumps(document) + "\n")
    else:
        sys.stdout.write(f"{address}\n")
    sys.stdout.flush()
