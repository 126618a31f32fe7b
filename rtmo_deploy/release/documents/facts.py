"""What the bill of materials and the model card both say: origin, licence, training data, accuracy, limitations."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rtmo_deploy.artifact import model_note
from rtmo_deploy.zoo import EMBEDDED, VARIANTS
from rtmo_deploy.zoo.records import EmbeddedModel, Variant

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rtmo_deploy.release.record import Release, ReleaseFile, StepRecord

#: Control characters but line breaks and tabs, half surrogates, and what reorders the text around it.
_UNSAFE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\u2028-\u202e\u2066-\u2069\ufffe\uffff]")


def clean(text: str) -> str:
    """The text with U+FFFD for characters that a document cannot hold, or that hide what it says."""
    return _UNSAFE.sub("�", text)


@dataclass(frozen=True)
class Model:
    """An artifact of a release."""

    result: StepRecord
    #: The model, then the files that belong to it.
    files: tuple[ReleaseFile, ...]
    #: What it was made of.
    parents: tuple[StepRecord, ...]

    @property
    def artifact(self) -> Mapping[str, Any]:
        """Its description, as ``Artifact.to_dict`` gives it."""
        described: Mapping[str, Any] = self.result.facts["artifact"]
        return described


@dataclass(frozen=True)
class Accuracy:
    """Measured accuracy of one model; fractions of 1."""

    model: str
    metrics: Mapping[str, float]
    #: Name of the data set, and how much of it.
    data: str
    scope: str
    synthetic: bool


@dataclass(frozen=True)
class License:
    """Licence of the weights, and who says so."""

    name: str
    by: str


def models_of(release: Release, files: Sequence[ReleaseFile]) -> list[Model]:
    """The artifacts that were made, in the recipe's order."""
    known = {file.path.rpartition("/")[2]: file for file in files if file.path.startswith("artifacts/")}
    found = []
    for result in release.results.values():
        if result.step.kind == "artifact" and result.good:
            made = [release.results[name] for name in result.step.inputs.values()]
            parents = tuple(one for one in made if one.step.kind in {"source", "artifact"})
            found.append(Model(result, tuple(known[file.name] for file in result.files), parents))
    return found


def precision_of(result: StepRecord) -> str:
    """``fp16``, or ``int8 for onnxruntime``."""
    artifact = result.facts["artifact"]
    return str(artifact["precision"]) + (f" for {artifact['target']}" if artifact["target"] else "")


def origin_of(release: Release) -> Variant | EmbeddedModel | None:
    """The published or embedded model that the source is; None for any other checkpoint."""
    facts = release.source.facts
    for embedded in EMBEDDED.values():
        if embedded.sha256 is not None and embedded.sha256 == facts.get("sha256"):
            return embedded
    return VARIANTS.get(facts["artifact"]["variant"] or "") if release.source.good else None


def license_of(release: Release) -> License | None:
    """Licence of the weights; None where nobody has stated one."""
    if release.recipe.card.license is not None:
        return License(clean(release.recipe.card.license), "stated in the recipe")
    origin = origin_of(release)
    if isinstance(origin, EmbeddedModel):
        return License(origin.license, "the weights come with rtmo-deploy")
    if origin is not None:
        return License(origin.license, f"published by MMPose; recognised by {origin.known_by}")
    return None


def training_data_of(release: Release) -> str | None:
    """What the checkpoint was trained on; None where nothing is known."""
    if release.recipe.card.training_data is not None:
        return clean(release.recipe.card.training_data)
    origin = origin_of(release)
    if origin is not None:
        return origin.train_set
    artifact = release.source.facts.get("artifact", {})
    if artifact.get("untrained"):
        return "none: the weights are random"
    return "synthetic people" if artifact.get("domain") == "synthetic" else None


def accuracies_of(release: Release) -> list[Accuracy]:
    """What was measured; figures that could not be (nobody to find) are left out."""
    found = []
    for result in release.of("accuracy"):
        if result.good:
            facts, data = result.facts, release.results[result.step.inputs["data"]]
            most = data.facts.get("max_images")
            found.append(
                Accuracy(
                    model=result.step.inputs["model"],
                    metrics={name: value for name, value in facts["metrics"].items() if value is not None},
                    data=clean(data.facts["source"]),
                    scope=f"{'the first ' if most else ''}{facts['images']} images, {facts['people']} people",
                    synthetic=data.step.action == "draw" or facts["domain"] == "synthetic",
                )
            )
    return found


def limitations_of(release: Release) -> list[str]:
    """Sentences about what the models cannot do, and what was not shown."""
    artifact = release.source.facts.get("artifact", {})
    note = model_note(untrained=artifact.get("untrained", False), domain=artifact.get("domain"))
    found = [note] if note else []
    measured = accuracies_of(release)
    if not measured:
        found.append("The accuracy of these models was not measured.")
    elif all(one.synthetic for one in measured):
        found.append("AP was measured on synthetic images only. It says nothing about photographs.")
    return found
