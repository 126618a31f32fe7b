"""The file that a caller means: a path, or a model by name. And whether the config inside it is followed."""

from __future__ import annotations

import os
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Final

from rtmo_deploy.environment import variable
from rtmo_deploy.errors import CheckpointError, SetupError, UsageError
from rtmo_deploy.file_kind import CHECKPOINT, MODEL, Wanted, require
from rtmo_deploy.files import sha256_of
from rtmo_deploy.zoo.records import EMBEDDED, is_known, published

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from rtmo_deploy.zoo.download import ProgressCallback

#: Set to 1, configs inside checkpoints are not followed: the published models' settings are taken.
IGNORE_CFG: Final = "RTMO_DEPLOY_IGNORE_CFG"


def cfg_is_ignored() -> bool:
    """Whether the environment says that configs inside checkpoints are not followed."""
    return os.environ.get(IGNORE_CFG) == "1"


def ignoring_cfg(ignore: bool = True) -> AbstractContextManager[None]:
    """Within the block, configs inside checkpoints are not followed, in child processes neither."""
    return variable(IGNORE_CFG, "1") if ignore else nullcontext()


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
    named = not os.path.isfile(name) and is_known(name)  # noqa: PTH113
    if not named and (path.suffix or os.path.exists(name) or path.name != name):  # noqa: PTH110
        require(path, wanted, by)
        return path
    if named and not wanted.kinds & CHECKPOINT.kinds:
        raise wanted.error(
            f"It is the name of a checkpoint, and '{by}' takes {wanted.words}.",
            remedy=f"Export it first: rtmo-deploy export {name}",
            where=name,
        )
    return resolve_checkpoint(name, progress=progress)


def resolve_checkpoint(name_or_path: str, *, progress: ProgressCallback | None = None) -> Path:
    """The checkpoint that a caller means.

    A file of theirs, a model that comes with the package, or a published one by name, fetched if need be. A file that
    exists wins over a model of the same name; a folder does not.

    Raises:
        CheckpointError: The argument is a path, and there is no file.
        UsageError: It is neither a file nor the name of a published model.
        DownloadError: It could not be fetched.
        SetupError: The cache cannot be used; a model that comes with the package has changed.
    """
    path = Path(name_or_path)
    try:
        if path.is_file():
            return path
        is_something = bool(name_or_path) and path.exists()
    except OSError as error:
        raise CheckpointError(
            f"The file cannot be reached: {error.strerror or error}.",
            remedy="Check the path and who may read it.",
            where=name_or_path,
        ) from error
    embedded = EMBEDDED.get(name_or_path.lower())
    if embedded is not None:
        if embedded.sha256 is not None and sha256_of(embedded.path) != embedded.sha256:
            raise SetupError(
                f"The file of '{embedded.name}', which comes with the package, has changed or is damaged.",
                remedy="Install the package again.",
                where=embedded.path,
            )
        return embedded.path
    try:
        record = published(name_or_path)
    except UsageError as error:
        if is_something:
            raise CheckpointError(
                "This is not a file.", remedy="Name the checkpoint file itself.", where=name_or_path
            ) from None
        if path.suffix or "/" in name_or_path or "\\" in name_or_path:
            raise CheckpointError(
                "There is no such file.",
                remedy="Check the path, or name a published model: 'rtmo-deploy models' lists them.",
                where=name_or_path,
            ) from None
        raise UsageError(f"'{name_or_path}' is neither a file nor a published model.", remedy=error.remedy) from None
    from rtmo_deploy.zoo.download import fetch

    return fetch(record, progress=progress)
