"""Lists the images of a bulk run: from files, folders, patterns and lists, or from a Parquet manifest."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rtmo_deploy.address import is_file_address, local_path
from rtmo_deploy.errors import InputDataError, MissingDependencyError, UsageError
from rtmo_deploy.files import UnreadableError, open_regular
from rtmo_deploy.media.sources import ADDRESS, find_sources
from rtmo_deploy.media.video import title_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pyarrow as pa


def find_images(given: Sequence[str], *, recursive: bool = False) -> tuple[pa.Table, list[InputDataError]]:
    """The images that are meant, each once, and what cannot be used.

    Args:
        given: What :func:`find_sources` takes, or one ``.parquet`` file with the columns ``id`` (text or whole
            numbers, unique) and ``path`` (relative ones start at the file's folder).
        recursive: Whether to search folders in folders.

    Returns:
        A table with ``id`` and ``file``, the name as bytes: an absolute path or an address. Without a manifest the id
        is the name as text, an address without its password. Files that are no images are in the table too: running
        tells why. Videos, streams and what is not there are among the errors.

    Raises:
        InputDataError: The manifest cannot be read, or its ids are not unique.
        UsageError: There is a manifest, and something else.
        MissingDependencyError: pyarrow is not installed.
    """
    import_pyarrow()
    manifests = [name for name in given if name.lower().endswith(".parquet") and not Path(name).is_dir()]
    if not manifests:
        return _searched(given, recursive=recursive)
    if len(given) > 1:
        remedy = "Name the manifest alone; what else is to be read belongs into it."
        raise UsageError("A manifest is read alone.", remedy=remedy, where=manifests[0])
    return _manifest(Path(manifests[0])), []


def import_pyarrow() -> None:
    """MissingDependencyError unless pyarrow is installed."""
    try:
        import pyarrow as pa  # noqa: F401
    except ImportError as error:
        raise MissingDependencyError("pyarrow", purpose="A bulk run", extra="ray") from error


def _searched(given: Sequence[str], *, recursive: bool) -> tuple[pa.Table, list[InputDataError]]:
    sources, errors = find_sources(given, recursive=recursive)
    names, failures = [], []
    for source in sources:
        if source.kind == "image":
            names.append(source.name)
            continue
        finding = "It is a video." if source.kind == "video" else "It is a live source."
        remedy = "Read it without --engine ray, which takes images."
        failures.append(InputDataError(finding, remedy=remedy, where=source.title))
    for error in errors:
        if error.where is not None and os.path.isfile(error.where):  # noqa: PTH113 - False for what no file is called
            names.append(error.where)  # a row with an error
        else:
            failures.append(error)
    files = dict.fromkeys(name if ADDRESS.match(name) else os.path.abspath(name) for name in names)  # noqa: PTH100
    ids = [title_of(file).encode("utf-8", "backslashreplace").decode() for file in files]
    return _table(ids, list(files), "the sources"), failures


def _manifest(path: Path) -> pa.Table:
    import pyarrow as pa
    import pyarrow.parquet as pq

    remedy = "Write a Parquet file with the columns id (text or whole numbers, unique) and path."
    try:
        with open_regular(path) as stream:
            opened = pq.ParquetFile(stream)
            table = opened.read(columns=[name for name in ("id", "path") if name in opened.schema_arrow.names])
    except (UnreadableError, OSError, pa.ArrowException) as error:
        text = str(getattr(error, "strerror", None) or error).rstrip(".")
        raise InputDataError(f"It cannot be read as a manifest: {text}.", remedy=remedy, where=path) from error
    if set(table.column_names) != {"id", "path"}:
        raise InputDataError("It has no columns 'id' and 'path'.", remedy=remedy, where=path)
    ids, files = (table.column(name).combine_chunks() for name in ("id", "path"))
    if ids.null_count or files.null_count:
        raise InputDataError("An id or a path is empty.", remedy=remedy, where=path)
    plain = ids.type.value_type if pa.types.is_dictionary(ids.type) else ids.type
    kind: Any = pa.int64() if pa.types.is_integer(plain) else pa.string()
    try:
        if kind == pa.string():
            ids = ids.cast(plain).cast(pa.binary())  # what is neither text nor numbers has no such cast
        ids, files = ids.cast(kind), files.cast(pa.string()).cast(pa.binary()).to_pylist()
    except pa.ArrowException as error:
        finding = f"Ids of type {ids.type} with paths of type {files.type} are not read."
        raise InputDataError(finding, remedy=remedy, where=path) from error
    folder = os.path.abspath(path.parent)  # noqa: PTH100 - without following links
    names = [os.fsdecode(file) for file in files]
    names = [str(local_path(name, InputDataError)) if is_file_address(name) else name for name in names]
    names = [name if ADDRESS.match(name) else os.path.join(folder, name) for name in names]  # noqa: PTH118
    return _table(ids, names, path)


def _table(ids: Any, files: list[str], where: object) -> pa.Table:
    import pyarrow as pa

    if not isinstance(ids, pa.Array):
        ids = pa.array(ids, pa.string())
    if len(ids.unique()) < len(ids):
        remedy = "Give each image an id of its own."
        raise InputDataError(f"{len(ids) - len(ids.unique())} ids occur twice.", remedy=remedy, where=where)
    return pa.table({"id": ids, "file": pa.array([os.fsencode(file) for file in files], pa.binary())})
