"""Takes the model out of the .zip archives in which OpenMMLab publishes ONNX exports (MMDeploy's SDK).

Beside ``end2end.onnx`` lie ``deploy.json``, ``pipeline.json`` and ``detail.json``. Nothing else is unpacked, and no
name in an archive becomes the name of a file.
"""

from __future__ import annotations

import contextlib
import shutil
import stat
import zipfile
import zlib
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from rtmo_deploy.errors import ArtifactError, DownloadError
from rtmo_deploy.file_kind import Kind, kind_of
from rtmo_deploy.files import atomic_folder, human_size, is_portable_name, sha256_of
from rtmo_deploy.plain import shorten
from rtmo_deploy.zoo.cache import cache_dir, cache_errors, record_of, trust
from rtmo_deploy.zoo.whole import is_cut

if TYPE_CHECKING:
    from collections.abc import Iterator

SDK_FILES = ("deploy.json", "pipeline.json", "detail.json")
_MODEL = "end2end.onnx"
_MAX_MEMBERS = 10_000
_MAX_MODEL_BYTES = 2**31 - 1  # protobuf reads no larger message
_MAX_JSON_BYTES = 1 << 20
_MAX_RATIO, _FREE_BYTES = 100, 1 << 26  # weights hardly shrink; below so many bytes it does not matter
_REMEDY = "Give the .zip as OpenMMLab publishes it, or unpack it and give the .onnx file."


def unpacked(archive: Path) -> Path:
    """The ONNX model in a .zip archive, unpacked into the cache; its folder has the archive's hash and name.

    Raises:
        ArtifactError: The archive is damaged, encrypted or too large, holds no model or several, or is not to be
            trusted.
        DownloadError: An unpacked file has changed.
        SetupError: The cache cannot be written to.
    """
    with cache_errors(archive):
        sha256 = sha256_of(archive)
        name = archive.stem if is_portable_name(archive.stem, 120) else "model"
        folder = cache_dir("unpacked") / f"{sha256[:32]}-{name}"  # a copy's name leaves the first one's file alone
        path = folder / f"{name}.onnx"
        if not path.is_file():
            with atomic_folder(folder) as made:
                _unpack(archive, made, path.name)
                trust(made / path.name, sha256_of(made / path.name), archive.name, anew=True, **_hashes(made))
        record, found = record_of(path), _hashes(folder) | {"sha256": sha256_of(path)}
    if record and any(found.get(one) != record.get(one) for one in ("sha256", *SDK_FILES)):
        raise DownloadError(
            "A file that was unpacked here has changed since. It is not used.",
            remedy=f"Delete this folder, and {archive.name} is unpacked again.",
            where=folder,
        )
    return path


def _hashes(folder: Path) -> dict[str, str]:
    return {one: sha256_of(folder / one) for one in SDK_FILES if (folder / one).is_file()}


def require_model(archive: Path) -> None:
    """Check that a .zip archive holds one ONNX model, without unpacking it; ArtifactError if it does not."""
    with _opened(archive) as opened:
        _model(_checked(opened, archive), archive)


def is_archive(path: Path) -> bool:
    """Whether a file is a .zip archive, also an empty one; a checkpoint of PyTorch's is none."""
    try:
        kind = kind_of(path)
    except OSError:
        return False
    return kind is Kind.ZIP or (kind is Kind.UNKNOWN and path.suffix.lower() == ".zip")


def _unpack(archive: Path, folder: Path, name: str) -> None:
    with _opened(archive) as opened:
        members = _checked(opened, archive)
        model = _model(members, archive)
        _copy(opened, model, folder / name, _MAX_MODEL_BYTES, archive)
        beside = {_place(model).with_name(one): one for one in SDK_FILES}
        for member in members:
            if (place := _place(member)) in beside:
                _copy(opened, member, folder / beside[place], _MAX_JSON_BYTES, archive)
    deploy, pipeline, _ = (folder / one for one in SDK_FILES)
    if pipeline.exists() and not deploy.exists():  # it would not be followed: deploy.json names the model
        raise _wrong(f"It holds {pipeline.name} without {deploy.name}, which names the model.", archive)
    if kind_of(folder / name) is not Kind.ONNX or is_cut(folder / name, Kind.ONNX):
        raise _wrong(f"'{model.filename}' in it is no ONNX model, or is cut short.", archive)


@contextlib.contextmanager
def _opened(archive: Path) -> Iterator[zipfile.ZipFile]:
    try:
        with zipfile.ZipFile(archive) as opened:
            yield opened
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, ValueError) as error:
        raise _wrong("It is damaged, or is no .zip archive.", archive, "Copy or download it again.") from error


def _checked(opened: zipfile.ZipFile, archive: Path) -> list[zipfile.ZipInfo]:
    # macOS adds a folder of files that have the names of the others.
    members = [one for one in opened.infolist() if not (one.is_dir() or one.filename.startswith("__MACOSX/"))]
    if len(members) > _MAX_MEMBERS:
        raise _wrong(f"It has {len(members)} files.", archive)
    for member in members:
        place = _place(member)
        if place.is_absolute() or ".." in place.parts or ":" in member.filename:
            raise _wrong(f"It holds '{member.filename}', which lies outside of the archive.", archive)
        if stat.S_ISLNK(member.external_attr >> 16):
            raise _wrong(f"It holds '{member.filename}', which is a link.", archive)
    return members


def _place(member: zipfile.ZipInfo) -> PurePosixPath:
    """The path in the archive; programs on Windows have written backslashes."""
    return PurePosixPath(member.filename.replace("\\", "/"))


def _model(members: list[zipfile.ZipInfo], archive: Path) -> zipfile.ZipInfo:
    """The only ONNX model; of several the only one that MMDeploy named."""
    models = [one for one in members if one.filename.lower().endswith(".onnx")]
    named = [one for one in models if _place(one).name == _MODEL]
    found = named if len(named) == 1 else models
    if len(found) == 1:
        return found[0]
    if found:
        raise _wrong(f"It holds {len(found)} ONNX models: {_few(found)}.", archive, "Unpack it and give one of them.")
    nested = [one for one in members if one.filename.lower().endswith(".zip")]
    if nested:
        raise _wrong(
            f"It holds no ONNX model, but other archives: {_few(nested)}.",
            archive,
            "Unpack it and give one of them.",
        )
    raise _wrong("It holds no ONNX model.", archive)


def _few(members: list[zipfile.ZipInfo]) -> str:
    return shorten(f"'{one.filename}'" for one in members)


def _copy(opened: zipfile.ZipFile, member: zipfile.ZipInfo, target: Path, most: int, archive: Path) -> None:
    if member.flag_bits & 1:
        raise _wrong("It is encrypted.", archive, "Unpack it with its password and give the .onnx file.")
    if member.compress_type not in {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}:
        raise _wrong("It is compressed by another method than Deflate.", archive)
    size = member.file_size
    if size > most or (size > _FREE_BYTES and size > _MAX_RATIO * member.compress_size):
        packed_size = human_size(member.compress_size)
        raise _wrong(f"'{member.filename}' in it has {human_size(size)}, packed into {packed_size}.", archive)
    with opened.open(member) as packed, target.open("wb") as stream:
        shutil.copyfileobj(packed, stream)  # zipfile gives no more than file_size bytes


def _wrong(finding: str, archive: Path, remedy: str = _REMEDY) -> ArtifactError:
    return ArtifactError(finding, remedy=remedy, where=archive)
