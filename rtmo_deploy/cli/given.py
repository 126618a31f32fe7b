"""What a command is given: files that are checked before any work, by their first and last bytes."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from rtmo_deploy.errors import InputDataError
from rtmo_deploy.wanted import ANNOTATIONS, MODEL, Wanted, require

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["find_model", "require_data"]


def find_model(text: str | Path, by: str, wanted: Wanted = MODEL) -> Path:
    """The file of a model that is given as a path or by name; a bar shows its download.

    Raises:
        RtmoDeployError: As :func:`rtmo_deploy.zoo.locate.locate_model`.
    """
    from rtmo_deploy.cli.console import download_bar
    from rtmo_deploy.zoo.locate import locate_model

    with download_bar(os.fspath(text)) as fetched:
        return locate_model(text, wanted=wanted, by=by, progress=fetched)


def require_data(by: str, *, ann: Iterable[Path | None] = (), images: Iterable[Path | None] = ()) -> None:
    """Check that annotation files are such, and that folders of images are folders; None is no file.

    Raises:
        InputDataError: One is not.
    """
    for file in ann:
        if file is not None:
            require(file, ANNOTATIONS, by)
    for folder in images:
        if folder is not None and not folder.is_dir():
            what = "This is not a folder." if folder.exists() else "There is no such folder."
            raise InputDataError(what, remedy="Name the folder that holds the images.", where=folder)
