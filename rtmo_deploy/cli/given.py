"""What a command is given: files that are checked before any work, by their first and last bytes.

Help pages do not import this module: it loads the readers of files.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from rtmo_deploy.address import local_path, without_credentials
from rtmo_deploy.cli.console import stderr
from rtmo_deploy.cli.progress import download_bar
from rtmo_deploy.errors import InputDataError, SetupError
from rtmo_deploy.file_kind import ANNOTATIONS, CHECKPOINT, MODEL, Kind, Wanted, described, likely_kind, require

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from rtmo_deploy.cli.options import OpenOptions


def find_model(text: str | Path, by: str, wanted: Wanted = MODEL, *, opening: OpenOptions | None = None) -> Path:
    """The file of a model that is given as a path, an address or by name; a bar shows its download.

    With ``opening``, also that a runtime can be had that opens it so.
    """
    device = "cpu" if opening is None or opening.device == "auto" else opening.device
    require_device(device)
    from rtmo_deploy.zoo.locate import locate_model

    with download_bar(without_credentials(os.fspath(text))) as fetched:
        path = locate_model(text, wanted=wanted, by=by, progress=fetched)
    if opening is not None:
        from rtmo_deploy.runtime.backends import choose_backend
        from rtmo_deploy.runtime.choice import is_measured

        kind = likely_kind(path)
        known = Kind.CHECKPOINT if kind in CHECKPOINT.kinds else kind
        measured = opening.precision == "auto" or is_measured(known, opening.backend, opening.precision)
        precision = None if measured else opening.precision
        choose_backend(known, device, backend=opening.backend, precision=precision, what=path.name)
    return path


def beside(given: str | Path, path: Path) -> Path:
    """The path after which outputs are named: beside the file that was given, an archive's too; else in this directory.

    ``path`` is what :func:`find_model` found, which may lie in the cache.
    """
    file = local_path(given)
    return file.with_name(path.name) if file.is_file() else Path(path.name)


def newest_model(kinds: Collection[Kind] | None = None) -> Path:
    """The newest file of these kinds that was made in this directory; stderr says which."""
    from rtmo_deploy.cli.workspace import Workspace

    path, entry = Workspace().last(kinds)
    stderr().print(f"MODEL is {path}, made here by {entry.command} on {entry.made}.")
    return path


def require_device(device: str) -> None:
    """Check that there is such a device, as far as that can be seen without a runtime: a GPU needs its driver."""
    from rtmo_deploy.runtime.backends import parse_device

    if parse_device(device) == "cpu":
        return
    import ctypes

    library = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
    try:
        ctypes.CDLL(library)
    except OSError:
        raise SetupError(
            f"{device} cannot be used: the NVIDIA driver ({library}) is not installed.",
            remedy="Use --device cpu, or install the driver.",
        ) from None


def require_data(by: str, *, ann: Iterable[Path | None] = (), images: Iterable[Path | None] = ()) -> None:
    """Check that annotation files are such, and that folders of images are folders; None is no file."""
    for file in ann:
        if file is not None:
            require(file, ANNOTATIONS, by)
    for folder in images:
        if folder is not None and not folder.is_dir():
            what = "There is no such folder."
            if folder.exists():
                what = f"It is {described(folder)}, and '{by}' takes a folder of images here."
            raise InputDataError(what, remedy="Name the folder that holds the images.", where=folder)
