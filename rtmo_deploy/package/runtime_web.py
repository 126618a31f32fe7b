"""ONNX Runtime Web: taken from its npm package, and only as its publisher released it."""

from __future__ import annotations

import base64
import hashlib
import shutil
import subprocess
import tarfile
from pathlib import Path
from typing import TYPE_CHECKING, Final

from rtmo_deploy.errors import SetupError, UsageError
from rtmo_deploy.files import UnreadableError, read_bounded, temporary_folder

if TYPE_CHECKING:
    import os
    from collections.abc import Callable

PACKAGE: Final = "onnxruntime-web"
#: The version that the pages were tried with.
VERSION: Final = "1.30.0"
#: SHA-512 of its package, as npm states it.
INTEGRITY: Final = "sha512-q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ=="
#: What a page loads of it, and the SHA-256 of each file: the builds for the CPU and for WebGPU.
FILES: Final = {
    "ort.wasm.min.mjs": "219e6a1fc8a9938268d18efca3c91d310bd2f4a59bbd13744df5b2b7fc6cee3b",
    "ort-wasm-simd-threaded.mjs": "e13f7f94fc51b4ca72b12faeb1ee95f4ace6dfbc8939bc718aabdc0a27c4299b",
    "ort-wasm-simd-threaded.wasm": "3398c10d07d229bd91b364548e130e0e51a8e5704b88c7c083ebbeb78842dee2",
    "ort.webgpu.min.mjs": "3dffff71811bc13a3a3d9591c57ca5ee5735b8f5f3eaf789510b02bb040ae3a0",
    "ort-wasm-simd-threaded.asyncify.mjs": "3d1c85995364bb643302fc6fd877a0c3ba5ae72401815e0f24828a53d9191e28",
    "ort-wasm-simd-threaded.asyncify.wasm": "39f9f0894d478800487ed9f7dbe92618498db320cf55c8e3d89adff8dce658da",
}
_PACKED, _UNPACKED = 2**26, 2**25
_SPEC = f"{PACKAGE}@{VERSION}"
_BY_HAND = f"Run 'npm pack {_SPEC}' on a machine with npm, and name its file with --ort; or choose --no-page."


def read_runtime(
    source: str | os.PathLike[str] | None, *, progress: Callable[[str], None] = lambda _: None
) -> dict[str, bytes]:
    """The files that a page loads, by name; each is checked against its SHA-256.

    Args:
        source: The package as ``npm pack`` gives it (.tgz), or a folder that has it unpacked, such as
            ``node_modules/onnxruntime-web``. None asks npm for it.
        progress: Told where it comes from.

    Raises:
        UsageError: The source is another version, damaged, or no such package.
        SetupError: npm is not installed or cannot get the package.
    """
    if source is not None:
        source = Path(source)
        return _checked(_from_folder(source) if source.is_dir() else _from_package(source), source)
    progress(f"getting {_SPEC} with npm")
    with temporary_folder() as folder:
        package = _packed_by_npm(folder)
        return _checked(_from_package(package), package)


def _packed_by_npm(folder: Path) -> Path:
    npm = shutil.which("npm")
    if npm is None:
        raise SetupError("npm, which gets ONNX Runtime Web, is not installed.", remedy=_BY_HAND)
    command = [npm, "pack", _SPEC, "--silent", "--pack-destination", str(folder)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300, cwd=folder)  # noqa: S603 - no word of a user's
    except (OSError, subprocess.TimeoutExpired) as error:
        raise SetupError(f"npm could not get {_SPEC}: {error}.", remedy=_BY_HAND) from error
    found = list(folder.glob("*.tgz"))
    if done.returncode or len(found) != 1:
        told = " ".join(done.stderr.split())[-300:] or f"exit code {done.returncode}"
        raise SetupError(f"npm could not get {_SPEC}: {told.rstrip('.')}.", remedy=_BY_HAND)
    return found[0]


def _from_folder(folder: Path) -> dict[str, bytes]:
    places = [folder / "dist", folder / "package" / "dist", folder]
    place = next((place for place in places if (place / next(iter(FILES))).is_file()), None)
    if place is None:
        raise UsageError(f"There is no {PACKAGE} in this folder.", remedy=_BY_HAND, where=folder)
    try:
        return {name: read_bounded(place / name, max_bytes=_UNPACKED) for name in FILES}
    except OSError as error:
        raise UsageError(f"A file of {PACKAGE} cannot be read: {error}.", remedy=_BY_HAND, where=folder) from error


def _from_package(package: Path) -> dict[str, bytes]:
    try:
        content = read_bounded(package, max_bytes=_PACKED)
    except UnreadableError as error:
        raise UsageError(f"It cannot be read: {error}.", remedy=_BY_HAND, where=package) from error
    except OSError as error:
        raise UsageError(f"It cannot be read: {error.strerror}.", remedy=_BY_HAND, where=package) from error
    digest = base64.b64encode(hashlib.sha512(content).digest()).decode()
    if f"sha512-{digest}" != INTEGRITY:
        raise UsageError(
            f"It is not {_SPEC} as npm has it: its SHA-512 is another.",
            remedy=f"{_BY_HAND} Other versions were not tried.",
            where=package,
        )
    with tarfile.open(package) as archive:
        members = {name: archive.extractfile(f"package/dist/{name}") for name in FILES}
        return {name: member.read() for name, member in members.items() if member is not None}


def _checked(files: dict[str, bytes], source: Path) -> dict[str, bytes]:
    for name, sha256 in FILES.items():
        if hashlib.sha256(files[name]).hexdigest() != sha256:
            raise UsageError(f"Its {name} is not that of {_SPEC}.", remedy=_BY_HAND, where=source)
    return files
