"""Writes a Triton model repository: configurations and scripts from templates, the model, and what the scripts import.

The scripts import copies of this package's own modules that read images, letterbox them and select rows, so the server
finds what ``predict`` finds and needs no rtmo-deploy.
"""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from rtmo_deploy._version import __version__
from rtmo_deploy.errors import SetupError, UsageError
from rtmo_deploy.file_kind import EXPORTED, FORMATS, require
from rtmo_deploy.files import atomic_folder, reading, sha256_of
from rtmo_deploy.package.triton.options import TritonOptions
from rtmo_deploy.package.triton.plan import Plan, facts, plan_for
from rtmo_deploy.plain import read_json
from rtmo_deploy.runtime.estimator import read_artifact
from rtmo_deploy.runtime.model_files import files_of
from rtmo_deploy.zoo.records import INPUT_MULTIPLE

if TYPE_CHECKING:
    import os

    import jinja2

#: What a folder was made of; a folder without it is somebody else's.
MANIFEST: Final = "rtmo-deploy.json"
_MAX_MANIFEST: Final = 2**22
#: Files from templates.
_FILES: Final = {
    "rtmo/config.pbtxt": "network.pbtxt.jinja",
    "rtmo_preprocess/config.pbtxt": "preprocess.pbtxt.jinja",
    "rtmo_preprocess/1/model.py": "preprocess.py.jinja",
    "rtmo_postprocess/config.pbtxt": "postprocess.pbtxt.jinja",
    "rtmo_postprocess/1/model.py": "postprocess.py.jinja",
    "rtmo_pipeline/config.pbtxt": "pipeline.pbtxt.jinja",
    "client.py": "client.py.jinja",
    "requirements.txt": "requirements.txt.jinja",
    "README.md": "README.md.jinja",
}
#: Modules of this package that the scripts import.
_HOST: Final = {
    "rtmo_preprocess": (
        *("errors.py", "environment.py", "files.py", "file_kind.py"),
        *("data/images.py", "runtime/letterbox.py"),
    ),
    "rtmo_postprocess": ("runtime/rows.py",),
}


@dataclass(frozen=True)
class TritonRepository:
    """A model repository that was written."""

    folder: Path
    plan: Plan
    files: tuple[str, ...]  #: Paths in the folder.

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form."""
        return {"path": str(self.folder), **facts(self.plan), "files": list(self.files)}


def write_triton(
    model: str | os.PathLike[str],
    folder: str | os.PathLike[str],
    options: TritonOptions | None = None,
    *,
    force: bool = False,
) -> TritonRepository:
    """Write a model repository, whole or not at all.

    Args:
        model: An ONNX model, an OpenVINO ``.xml`` or a TensorRT engine.
        folder: The repository: a new or empty folder; with ``force`` also one that this function wrote.
        options: How Triton runs it.
        force: Replace a repository.

    Raises:
        ModelError: Triton cannot run this model.
        UsageError: An option does not fit the model, or the folder holds other things.
        SetupError: The folder cannot be written.
    """
    folder = Path(folder)
    require(Path(model), EXPORTED)
    artifact = read_artifact(model)
    plan = plan_for(artifact, options or TritonOptions())
    sources = list(files_of(artifact.path))
    require_own_folder(folder, sources, force=force)
    with atomic_folder(folder) as made:
        _write(made, plan, sources)
        names = sorted(path.relative_to(made).as_posix() for path in made.rglob("*") if path.is_file())
        hashes = {name: sha256_of(made / name) for name in names}
        manifest = {"kind": "triton", "version": __version__, **facts(plan), "files": hashes}
        (made / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
    return TritonRepository(folder, plan, (*names, MANIFEST))


def require_own_folder(folder: Path, inputs: list[Path], *, force: bool) -> None:
    """UsageError where a folder holds an input or what nobody may replace."""
    if any(path.resolve().is_relative_to(folder.resolve()) for path in inputs):
        raise UsageError("The model lies in this folder.", remedy="Name another folder.", where=folder)
    if folder.exists() and not folder.is_dir():
        raise UsageError("This is a file.", remedy="Name a folder.", where=folder)
    try:
        there = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir()}
    except OSError as error:
        raise SetupError(f"It cannot be looked into: {error.strerror}.", where=folder) from error
    if not there:
        return
    ours: set[str] = set()
    if MANIFEST in there:
        with reading(folder / MANIFEST, UsageError, remedy="Name another folder.", damaged="a package's manifest"):
            manifest = read_json(folder / MANIFEST, max_bytes=_MAX_MANIFEST)
            ours = {MANIFEST, *manifest["files"]} if manifest["kind"] == "triton" else ours
    other = min((name for name in there - ours if "__pycache__" not in name.split("/")), default=None)
    if other is not None:
        raise UsageError(
            f"The folder holds other things ('{other}' for one).", remedy="Name an empty or a new folder.", where=folder
        )
    if not force:
        remedy = "Choose another folder, or replace it with --force."
        raise UsageError("There is a repository already.", remedy=remedy, where=folder)


def _write(folder: Path, plan: Plan, sources: list[Path]) -> None:
    for name, template in _FILES.items():
        _put(folder / name, _environment().get_template(template).render(plan=plan, version=__version__))
    version = folder / "rtmo" / "1"
    version.mkdir()
    if plan.backend == "python":
        script = _environment().get_template("network.py.jinja").render(plan=plan, version=__version__)
        _put(version / "model.py", script)
    (folder / "rtmo_pipeline" / "1").mkdir()  # Triton wants a version of every model
    _put(folder / "rtmo_pipeline" / "1" / "ensemble.txt", "The steps are in config.pbtxt.\n")
    model = plan.artifact.path
    # The model and what belongs to it get Triton's names; other files keep theirs.
    known, renamed = FORMATS[plan.artifact.kind], version / plan.file_name
    named = {model: renamed, **dict(zip(known.files_beside(model), known.files_beside(renamed), strict=True))}
    for path in dict.fromkeys(sources):
        target = named.get(path) or version / path.relative_to(model.parent)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
    for place, modules in _HOST.items():
        _put_host(folder / place / "1" / "rtmo_host", modules)


def _put_host(folder: Path, modules: tuple[str, ...]) -> None:
    """Copy modules of this package, their imports turned to the copies."""
    for name in modules:
        text = files("rtmo_deploy").joinpath(name).read_text(encoding="utf-8")
        text = re.sub(r"^(\s*(?:from|import) )rtmo_deploy\.", r"\1rtmo_host.", text, flags=re.MULTILINE)
        _put(folder / name, f"# Copied by rtmo-deploy {__version__} from its {name}.\n{text}")
        for parent in (folder / name).parents[: name.count("/") + 1]:
            _put(parent / "__init__.py", "")
    if "runtime/letterbox.py" in modules:
        _put(folder / "zoo" / "__init__.py", "")
        _put(folder / "zoo" / "records.py", f"INPUT_MULTIPLE = {INPUT_MULTIPLE}\n")


def _put(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


@lru_cache(maxsize=1)
def _environment() -> jinja2.Environment:
    from rtmo_deploy.report.template import environment

    made = environment("rtmo_deploy.package.triton")
    made.filters["quoted"] = json.dumps  # as text format of protobuf, too, writes a string
    made.filters["line"] = lambda text: " ".join(str(text).split())
    return made
