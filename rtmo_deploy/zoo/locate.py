"""The file that a caller means: a path, or a model by name."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from rtmo_deploy.file_kind import CHECKPOINT, MODEL, Wanted, require
from rtmo_deploy.zoo.records import is_known

if TYPE_CHECKING:
    from rtmo_deploy.zoo._transfer import ProgressCallback


def locate_model(
    model: str | os.PathLike[str],
    *,
    wanted: Wanted = MODEL,
    by: str = "",
    progress: ProgressCallback | None = None,
) -> Path:
    """The file that is meant: a path, or a model by name, fetched if need be. What kind of file it is is checked.

    Args:
        model: A path, or a name such as ``rtmo-n``. A file of that name is taken before a model; a folder is not.
        wanted: What the file must be.
        by: The command that takes it, for messages.
        progress: Told how many bytes of a download have come, and how many there are.

    Raises:
        UsageError: It is neither a file nor the name of a model.
        ModelError: It is another kind of file.
        DownloadError: It could not be fetched.
    """
    path, name = Path(model), os.fspath(model)
    # os.path: a name that no file can have is none.
    named = is_known(name) and not os.path.isfile(name)  # noqa: PTH113
    if not named and (path.suffix or os.path.exists(name) or path.name != name):  # noqa: PTH110
        require(path, wanted, by)
        return path
    if named and not wanted.kinds & CHECKPOINT.kinds:
        raise wanted.error(
            f"It is the name of a checkpoint, and '{by}' takes {wanted.words}.",
            remedy=f"Export it first: rtmo-deploy export {name}",
            where=name,
        )
    from rtmo_deploy.zoo.download import resolve_checkpoint

    return resolve_checkpoint(name, progress=progress)[0]
