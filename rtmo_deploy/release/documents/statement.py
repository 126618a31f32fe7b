"""statement.json: what was measured and judged of the artifacts, as a statement of in-toto (Statement v1)."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any, Final

from rtmo_deploy._version import __version__
from rtmo_deploy.plain import plain

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from rtmo_deploy.release.record import Release, ReleaseFile

STATEMENT_TYPE: Final = "https://in-toto.io/Statement/v1"
#: docs/reference/statement.md describes the predicate. A field that goes or changes its meaning makes a new version.
PREDICATE_TYPE: Final = "urn:rtmo-deploy:release:v1"


def statement_json(release: Release, files: Sequence[ReleaseFile]) -> str:
    """The statement; its subjects are the artifacts among ``files``, or the recipe if nothing was made."""
    recipe = hashlib.sha256(release.recipe_text).hexdigest()
    artifacts = [file for file in files if file.path.startswith("artifacts/")]
    subjects = [(file.path, file.sha256) for file in artifacts] or [("recipe.yaml", recipe)]
    source = release.source.facts
    predicate = {
        "release": release.recipe.name,
        "verdict": release.verdict,
        "strict": release.strict,
        "made": release.started,
        "rtmo_deploy": __version__,
        "recipe": {"name": "recipe.yaml", "sha256": recipe},
        "source": {
            "given": release.recipe.source,
            **{name: source.get(name) for name in ("name", "sha256", "architecture")},
        },
        "artifacts": [
            {
                "name": file.path,
                "step": file.step,
                "kind": file.kind,
                "sha256": file.sha256,
                "made_of": file.parents,
                "versions": file.versions,
            }
            for file in artifacts
        ],
        "gates": [
            {name: getattr(gate, name) for name in ("name", "kind", "status", "bound", "measured", "value", "message")}
            for gate in release.gates
        ],
        "accuracy": list(_accuracy(release)),
        "parity": list(_parity(release)),
    }
    statement = {
        "_type": STATEMENT_TYPE,
        "subject": [{"name": name, "digest": {"sha256": sha256}} for name, sha256 in subjects],
        "predicateType": PREDICATE_TYPE,
        "predicate": plain(predicate),
    }
    return json.dumps(statement, indent=1, allow_nan=False) + "\n"


def _accuracy(release: Release) -> Iterator[dict[str, Any]]:
    for result in release.of("accuracy"):
        if result.good:
            data = release.results[result.step.inputs["data"]].facts["source"]
            figures = {name: result.facts[name] for name in ("ap", "metrics", "protocol", "images", "people")}
            yield {"model": result.step.inputs["model"], "data": data, **figures}


def _parity(release: Release) -> Iterator[dict[str, Any]]:
    for result in release.of("parity"):
        if result.good:
            figures = {name: result.facts[name] for name in ("verdict", "people", "checks")}
            yield {"a": result.step.inputs["a"], "b": result.step.inputs["b"], **figures}
