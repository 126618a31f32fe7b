"""Finds the image files that files, folders and patterns mean."""

from __future__ import annotations

import glob
import os
from pathlib import Path
from typing import TYPE_CHECKING, Final

from rtmo_deploy.errors import InputDataError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_SUFFIX_LIST: Final = (
    ".jpg .jpeg .jpe .png .webp .bmp .dib .gif .tif .tiff .avif .pbm .pgm .ppm .pnm .jp2 .j2k .heic .heif"
)
IMAGE_SUFFIXES: Final = frozenset(_SUFFIX_LIST.split())
"""Lower-case suffixes that are taken for images when a folder is searched; a HEIC is found and then refused by name."""


def find_images(sources: Sequence[str | Path], *, recursive: bool = False) -> list[Path]:
    """The picture files that are meant, without duplicates, in the order of the sources, each source sorted.

    A source is, in this order of precedence: an existing file, taken whatever its name is; an existing
    folder, of which files with a known picture suffix are taken; a glob pattern (``*``, ``?``, ``[...]``,
    ``**`` for any depth), of which matching files are taken, only those with a known suffix unless the
    pattern ends in a suffix of its own. Hidden files and folders (``.name``) are skipped unless they are
    named.

    Args:
        sources: Files, folders and patterns.
        recursive: Whether to search folders inside folders. Links to folders are not followed.

    Raises:
        InputDataError: A source that exists nowhere or holds no picture; a folder that cannot be read.
    """
    found: dict[str, Path] = {}
    for source in [sources] if isinstance(sources, str | Path) else sources:
        for path in _pictures_of(os.fspath(source), recursive=recursive):
            # Without dots and double slashes, but without following links as resolve() would.
            found.setdefault(os.path.abspath(path), path)  # noqa: PTH100
    return list(found.values())


def _pictures_of(source: str, *, recursive: bool) -> list[Path]:
    path = Path(source)
    pictures: list[Path] = []
    finding, remedy = "There is no such file or folder.", "Check the name."
    try:
        if source and path.exists() and not path.is_dir():
            return [path]  # a FIFO or a device too: its reader says what it is
        if source and path.is_dir():
            finding = "There is no picture in this folder."
            remedy = "Search the folders in it as well, or check the suffixes of the files."
            pictures = _known(_files_in(path, recursive=recursive))
        elif glob.has_magic(source):
            finding, remedy = "No picture matches this pattern.", "Check it; '**' stands for any depth."
            matches = [Path(match) for match in glob.glob(source, recursive=True)]  # noqa: PTH207 - absolute ones too
            pictures = matches if path.suffix and not glob.has_magic(path.suffix) else _known(matches)
        # No folder named x.jpg, no broken link; a FIFO or a device stays, and its reader says what it is.
        pictures = [path for path in pictures if path.exists() and not path.is_dir()]
    except OSError as error:
        remedy = "Check its permissions."
        raise InputDataError(f"It cannot be searched: {error.strerror}.", remedy=remedy, where=source) from error
    if not pictures:
        raise InputDataError(finding, remedy=remedy, where=source or "''")
    return sorted(pictures)


def _known(paths: Iterable[Path]) -> list[Path]:
    return [path for path in paths if path.suffix.lower() in IMAGE_SUFFIXES]


def _files_in(folder: Path, *, recursive: bool) -> Iterable[Path]:
    def stop(error: OSError) -> None:
        raise error

    for root, folders, names in os.walk(folder, onerror=stop):
        folders[:] = [name for name in folders if recursive and not name.startswith(".")]
        yield from (Path(root, name) for name in names if not name.startswith("."))
