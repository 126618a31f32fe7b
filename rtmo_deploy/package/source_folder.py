"""Writes a folder of a model and of sources that run it: whole, or not at all."""

from __future__ import annotations

import shlex
import shutil
import tempfile
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rtmo_deploy.errors import ArtifactError, SetupError, UsageError
from rtmo_deploy.file_kind import FORMATS, Kind
from rtmo_deploy.files import human_size, sha256_of
from rtmo_deploy.outputs import require_free

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from rtmo_deploy.artifact import Artifact, DecodeMode
    from rtmo_deploy.runtime.engine_file import EngineRecord

_TEMPLATE = ".j2"


@dataclass(frozen=True)
class SourceFolder:
    """A folder that was written."""

    path: Path
    files: tuple[str, ...]  #: Names of its files, sorted.
    artifact: Artifact  #: The model that it runs; its path is that of the copy.
    runtime: str  #: ``onnxruntime`` or ``tensorrt``.

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form."""
        written = [{"name": name, "sha256": sha256_of(self.path / name)} for name in self.files]
        return {"path": str(self.path), "runtime": self.runtime, "files": written, "artifact": self.artifact.to_dict()}

    @property
    def size(self) -> str:
        """Size of all files together."""
        return human_size(sum((self.path / name).stat().st_size for name in self.files))


def rendered(package: str, values: Mapping[str, Any]) -> dict[str, bytes]:
    """The files in ``sources`` of a package by name; names in ``.j2`` are templates, filled with ``values``."""
    from rtmo_deploy.report.template import environment

    found, templates = {}, environment()
    for source in files(package).joinpath("sources").iterdir():
        if not source.is_file():
            continue
        content = source.read_bytes()
        if source.name.endswith(_TEMPLATE):
            content = templates.from_string(content.decode()).render(**values).encode()
        found[source.name.removesuffix(_TEMPLATE)] = content
    return found


def require_decoded(artifact: Artifact, what: str, modes: Iterable[DecodeMode], *options: str) -> None:
    """ArtifactError, with the command that makes a fitting model, unless its graph decodes in one of these modes."""
    modes = tuple(modes)
    decode = artifact.decode
    if artifact.producer != "rtmo-deploy" or decode.junk_rows:
        finding = f"It was exported by MMDeploy, and {what} runs what rtmo-deploy exported."
    elif decode.mode not in modes:
        wanted = " or ".join(f"'{mode}'" for mode in modes)
        finding = f"Its outputs are of mode '{decode.mode}', and {what} takes those of mode {wanted}."
    else:
        return
    raise ArtifactError(
        finding, remedy=f"Export the checkpoint with: {export_command(artifact, *options)}", where=artifact.path
    )


def export_command(artifact: Artifact, *options: str) -> str:
    """The command that makes a model of fixed outputs from the checkpoint that this one comes from."""
    suffixes = (".pth", ".safetensors")
    source = next((parent.name for parent in artifact.parents if parent.name.endswith(suffixes)), "CKPT")
    return " ".join(["rtmo-deploy export", shlex.quote(source), "--decode fixed", *options])


def require_built(artifact: Artifact, record: EngineRecord, what: str) -> None:
    """ArtifactError for an engine with the plugin, which is written in Python."""
    if record.plugin is not None:
        raise ArtifactError(
            f"It has the decode plugin in it, whose creator is Python: {what} cannot load it.",
            remedy=f"Export with '{export_command(artifact)}' and build that with 'rtmo-deploy build-trt'.",
            where=artifact.path,
        )


def model_content(artifact: Artifact) -> bytes:
    """An ONNX model as one file: its own bytes, unless weights lie elsewhere or its graph corrected its metadata."""
    from rtmo_deploy.runtime.onnx_check import external_files
    from rtmo_deploy.runtime.onnx_file import load_onnx, read_graph

    if not artifact.corrected and not external_files(read_graph(artifact.path)):
        return artifact.path.read_bytes()
    model = load_onnx(artifact.path)
    del model.metadata_props[:]
    for key, value in artifact.to_metadata().items():
        model.metadata_props.add(key=key, value=value)
    content: bytes = model.SerializeToString()
    return content


def write_source_folder(
    folder: Path, content: Mapping[str, bytes | Path], inputs: Iterable[Path], *, force: bool
) -> None:
    """Write files, given by their content or as copies, into a new folder or over the same ones in an old one.

    Args:
        folder: Where to.
        content: By name.
        inputs: Files that are never replaced.
        force: Whether files of these names may be replaced. Others in the folder are not touched.

    Raises:
        UsageError: The folder has such files already, or is a file.
        SetupError: It cannot be written.
    """
    if folder.exists() and not folder.is_dir():
        raise UsageError("The output is a file.", remedy="Name a folder.", where=folder)
    strange = {path.name for path in folder.iterdir()} - set(content) if folder.exists() else set()
    if strange and not force:
        raise UsageError(
            f"The folder holds other things ('{min(strange)}' for one).",
            remedy="Name a new or an empty folder, or add the files with --force.",
            where=folder,
        )
    require_free([folder / name for name in content], list(inputs), force=force)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", suffix=".part", dir=folder.parent) as name:
            staged = Path(name, "folder")
            staged.mkdir()
            for file, data in content.items():
                if isinstance(data, Path):
                    shutil.copyfile(data, staged / file)
                else:
                    (staged / file).write_bytes(data)
            if folder.exists():
                for file in content:
                    (staged / file).replace(folder / file)
            else:
                staged.rename(folder)
    except OSError as error:
        raise SetupError(
            f"The folder could not be written: {error.strerror or error}.",
            remedy="Check that it is writable and has space left.",
            where=folder,
        ) from error


def suffix_of(artifact: Artifact) -> str:
    """Suffix of an artifact's copy."""
    return FORMATS[artifact.kind].suffixes[0] if artifact.kind is not Kind.ENGINE else ".engine"
