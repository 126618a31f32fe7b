"""The file that a caller means: a path, an address or a name. And whether the config inside it is followed."""

from __future__ import annotations

import os
import re
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Final

from rtmo_deploy.address import is_address, is_file_address, local_path, split_hash, without_credentials
from rtmo_deploy.environment import is_yes, variable
from rtmo_deploy.errors import ArtifactError, CheckpointError, SetupError, UsageError
from rtmo_deploy.file_kind import CHECKPOINT, MODEL, Kind, Wanted, require
from rtmo_deploy.files import reading, sha256_of
from rtmo_deploy.zoo.archive import is_archive, unpacked
from rtmo_deploy.zoo.records import EMBEDDED, is_known, published

if TYPE_CHECKING:
    from collections.abc import Mapping
    from contextlib import AbstractContextManager

    from rtmo_deploy.zoo.transfer import ProgressCallback

#: Set to 1, configs inside checkpoints are not followed: the published models' settings are taken.
IGNORE_CFG: Final = "RTMO_DEPLOY_IGNORE_CFG"


def cfg_is_ignored(variables: Mapping[str, str] | None = None) -> bool:
    """Whether the environment says that configs inside checkpoints are not followed; SetupError as ``is_yes``."""
    return is_yes(IGNORE_CFG, "ignore the config inside checkpoints", variables)


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
    """The file that is meant: a path, an address or a name, fetched if need be. What kind of file it is is checked.

    Args:
        model: A path; an address (``http://``, ``https://``, ``hf://OWNER/REPOSITORY/PATH[@REVISION]``, ``file://``;
            ``#sha256=`` and 64 hex digits may follow); or a name such as ``rtmo-n``. A file of that name is taken
            before a model; a folder is not. Of a ``.zip`` archive around an ONNX model, that model is meant.
        wanted: What the file must be.
        by: The command that takes it, for messages.
        progress: Told how many bytes of a download have come, and how many there are.

    Raises:
        UsageError: It is neither a file nor the name of a model, or not such an address.
        ModelError: It is another kind of file, or an archive that is not one of one ONNX model.
        DownloadError: It could not be fetched.
    """
    name = os.fspath(model)
    if is_address(name):
        return _required(_file_at(name, progress), wanted, by)
    if re.match(r"\w[\w+.-]*://", name):
        raise UsageError(
            f"{name.partition(':')[0]}:// is not an address that models are read from.",
            remedy="Download the file, or give its http://, https://, hf:// or file:// address.",
            where=without_credentials(name),
        )
    path = Path(model)
    # os.path: a name that no file can have is none.
    named = not os.path.isfile(name) and is_known(name)  # noqa: PTH113
    if not named and (path.suffix or os.path.exists(name) or path.name != name):  # noqa: PTH110
        return _required(path, wanted, by)
    if named and not wanted.kinds & CHECKPOINT.kinds:
        raise wanted.error(
            f"It is the name of a checkpoint, and '{by}' takes {wanted.words}.",
            remedy=f"Export it first: rtmo-deploy export {name}",
            where=name,
        )
    return resolve_checkpoint(name, progress=progress)


def _file_at(address: str, progress: ProgressCallback | None) -> Path:
    """The file at an address, fetched if need be."""
    if not is_file_address(address):
        from rtmo_deploy.zoo.download import fetch_address

        return fetch_address(address, progress=progress)
    path, pinned = local_path(address), split_hash(address)[1]
    with reading(path):
        if pinned is not None and path.is_file() and (found := sha256_of(path)) != pinned:
            raise ArtifactError(
                f"It is another file: its SHA-256 is {found}, and #sha256= says {pinned}.",
                remedy="Check the hash and the path.",
                where=path,
            )
    return path


def _required(path: Path, wanted: Wanted, by: str) -> Path:
    """A file of the wanted kind; of a .zip archive the model in it."""
    if is_archive(path):
        if Kind.ONNX in wanted.kinds:
            return unpacked(path)
        takes = f"and '{by}' takes {wanted.words}" if by else f"not {wanted.words}"
        raise wanted.error(
            f"It is a .zip archive, in which exported models are published, {takes}.",
            remedy="It need not be exported: predict, eval and serve take it as it is. FP16, INT8 and engines are made "
            "of the checkpoint; 'rtmo-deploy models' lists the published ones.",
            where=path,
        )
    require(path, wanted, by)
    return path


def resolve_checkpoint(name_or_path: str, *, progress: ProgressCallback | None = None) -> Path:
    """The checkpoint that a caller means.

    A file of theirs, one with an address (see :func:`locate_model`), a model that comes with the package, or a
    published one by name, fetched if need be. A file that exists wins over a model of the same name; a folder does not.

    Raises:
        CheckpointError: The argument is a path, and there is no file.
        UsageError: It is neither a file nor the name of a published model.
        DownloadError: It could not be fetched.
        SetupError: The cache cannot be used; a model that comes with the package has changed.
    """
    if is_address(name_or_path):
        return locate_model(name_or_path, wanted=CHECKPOINT, progress=progress)
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
