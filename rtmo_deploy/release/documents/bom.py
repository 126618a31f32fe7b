"""bom.json: the machine learning bill of materials of a release, CycloneDX 1.6.

The library has no model cards; they are put into its document as the schema has them.
"""

from __future__ import annotations

import hashlib
import json
from datetime import datetime
from itertools import starmap
from typing import TYPE_CHECKING, Any
from uuid import NAMESPACE_URL, uuid5

from cyclonedx.model import ExternalReference, ExternalReferenceType, HashAlgorithm, HashType, Property, XsUri
from cyclonedx.model.bom import Bom, BomMetaData
from cyclonedx.model.component import Component, ComponentScope, ComponentType, Pedigree
from cyclonedx.model.contact import OrganizationalContact, OrganizationalEntity
from cyclonedx.model.license import DisjunctiveLicense, LicenseExpression
from cyclonedx.model.tool import ToolRepository
from cyclonedx.output.json import JsonV1Dot6
from cyclonedx.spdx import fixup_id, is_expression
from packageurl import PackageURL

from rtmo_deploy._version import __version__
from rtmo_deploy.release.documents import facts
from rtmo_deploy.release.documents.facts import clean
from rtmo_deploy.release.recipe import SOURCE
from rtmo_deploy.zoo.records import Variant

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from rtmo_deploy.release.documents.facts import Model
    from rtmo_deploy.release.record import Release, ReleaseFile, StepRecord

#: Of the properties that CycloneDX has no field for.
PREFIX = "rtmo-deploy:"
_LICENSE = "Apache-2.0"


def bom_json(release: Release, files: Sequence[ReleaseFile]) -> str:
    """The bill of materials, with ``files``, which the steps made.

    The same release gives the same bytes; the serial number is derived from them.
    """
    models = facts.models_of(release, files)
    parts = {release.source.name: _source(release)} if release.source.good else {}
    parts |= {model.result.name: _model(release, model) for model in models}
    companions = {file.path: _file(file, ComponentType.FILE) for model in models for file in model.files[1:]}
    packages, used = _packages(release)
    tools = [package for package in packages.values() if package.name == "rtmo-deploy"]
    root = _root(release)
    bom = Bom(
        components=[*parts.values(), *companions.values(), *packages.values()],
        metadata=BomMetaData(
            component=root,
            timestamp=datetime.fromisoformat(release.started),
            tools=ToolRepository(components=[_package("rtmo-deploy", __version__, "tool:rtmo-deploy")]),
        ),
    )
    bom.register_dependency(root, [*parts.values(), *tools])
    for model in models:
        needed = [companions[file.path] for file in model.files[1:]]
        bom.register_dependency(parts[model.result.name], [*(parts[one.name] for one in model.parents), *needed])
    for tool in tools:
        bom.register_dependency(tool, [packages[one] for one in sorted(used[tool.version or ""])])
    document: dict[str, Any] = json.loads(JsonV1Dot6(bom).output_as_string())
    cards = {part.bom_ref.value: _model_card(release, release.results[name]) for name, part in parts.items()}
    for component in document["components"]:
        if component["bom-ref"] in cards:
            component["modelCard"] = cards[component["bom-ref"]]
    del document["serialNumber"]
    digest = hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()
    document["serialNumber"] = f"urn:uuid:{uuid5(NAMESPACE_URL, digest)}"
    return json.dumps(document, indent=2, allow_nan=False) + "\n"


def _root(release: Release) -> Component:
    card = release.recipe.card
    links = [
        ExternalReference(type=ExternalReferenceType.OTHER, url=XsUri(url), comment=clean(title))
        for title, url in card.links.items()
    ]
    own = ExternalReference(type=ExternalReferenceType.MODEL_CARD, url=XsUri("MODEL_CARD.md"))
    return Component(
        name=release.recipe.name,
        type=ComponentType.DATA,
        bom_ref="release",
        description=f"Release of an RTMO pose estimation model. {clean(release.sentence)}",
        authors=[OrganizationalContact(name=clean(name)) for name in card.authors],
        supplier=OrganizationalEntity(name=clean(card.organization)) if card.organization else None,
        licenses=_licenses(release),
        external_references=[own, *links],
        properties=_properties(verdict=release.verdict),
    )


def _source(release: Release) -> Component:
    """The checkpoint, which is no file of the release."""
    source, origin, base = release.source.facts, facts.origin_of(release), release.recipe.card.base_model
    where = []
    if isinstance(origin, Variant):
        where = [ExternalReference(type=ExternalReferenceType.DISTRIBUTION, url=XsUri(origin.url))]
    ancestor = Component(name=base or "", type=ComponentType.MACHINE_LEARNING_MODEL, bom_ref="base-model")
    return Component(
        name=clean(source["name"]),
        type=ComponentType.MACHINE_LEARNING_MODEL,
        bom_ref=SOURCE,
        description="The checkpoint that the models were made of; it is not part of the release.",
        hashes=_hashes(source["sha256"]),
        licenses=_licenses(release),
        external_references=where,
        pedigree=Pedigree(ancestors=[ancestor]) if base else None,
        properties=_properties(size=source["size"], published_as=origin.name if origin else None),
    )


def _model(release: Release, model: Model) -> Component:
    file = model.files[0]
    ancestors = [
        Component(
            name=_name(parent),
            type=ComponentType.MACHINE_LEARNING_MODEL,
            bom_ref=f"{file.path}#made-of-{parent.name}",
            hashes=_hashes(parent.sha256),
        )
        for parent in model.parents
    ]
    made_with = ", ".join(f"{name} {version}" for name, version in sorted(model.artifact["versions"].items()))
    step = {"artifact": model.result.name, "made_by": model.result.step.action, "made_with": made_with}
    component = _file(file, ComponentType.MACHINE_LEARNING_MODEL, **step)
    component.licenses, component.pedigree = _licenses(release), Pedigree(ancestors=ancestors)
    return component


def _file(file: ReleaseFile, kind: ComponentType, **properties: str) -> Component:
    return Component(
        name=file.path.rpartition("/")[2],
        type=kind,
        bom_ref=file.path,
        hashes=_hashes(file.sha256),
        external_references=[ExternalReference(type=ExternalReferenceType.DISTRIBUTION, url=XsUri(file.path))],
        properties=_properties(size=file.size, **properties),
    )


def _packages(release: Release) -> tuple[dict[str, Component], dict[str, set[str]]]:
    """Packages that the steps used, by reference; and by version of rtmo-deploy, the references that went with it."""
    found: dict[str, Component] = {}
    used: dict[str, set[str]] = {}
    for installed in ({}, *(result.versions for result in release.results.values())):
        versions = {"rtmo-deploy": __version__, **installed}
        components = {str(one.purl): one for one in starmap(_package, versions.items())}
        found |= components
        others = {reference for reference, one in components.items() if one.name != "rtmo-deploy"}
        used.setdefault(versions["rtmo-deploy"], set()).update(others)
    return dict(sorted(found.items())), used


def _package(name: str, version: str, reference: str | None = None) -> Component:
    purl = PackageURL("pypi", name=name, version=version)
    return Component(
        name=name,
        version=version,
        type=ComponentType.LIBRARY,
        bom_ref=reference or purl.to_string(),
        purl=purl,
        scope=None if reference else ComponentScope.EXCLUDED,  # it made the release, and is not needed to run it
        licenses=[DisjunctiveLicense(id=_LICENSE)] if name == "rtmo-deploy" else [],
    )


def _licenses(release: Release) -> list[DisjunctiveLicense | LicenseExpression]:
    """Of the weights; empty where nobody has stated one."""
    found = facts.license_of(release)
    if found is None:
        return []
    known = fixup_id(found.name)
    if known is not None:
        return [DisjunctiveLicense(id=known)]
    return [LicenseExpression(found.name) if is_expression(found.name) else DisjunctiveLicense(name=found.name)]


def _hashes(sha256: str | None) -> list[HashType]:
    return [HashType(alg=HashAlgorithm.SHA_256, content=sha256)] if sha256 else []


def _name(result: StepRecord) -> str:
    return result.files[0].name if result.files else clean(str(result.facts["name"]))


def _properties(**values: Any) -> list[Property]:
    known = {name.replace("_", "-"): value for name, value in values.items() if value not in (None, "")}
    return [Property(name=f"{PREFIX}{name}", value=str(value)) for name, value in known.items()]


def _model_card(release: Release, result: StepRecord) -> dict[str, Any]:
    artifact = result.facts["artifact"]
    data, use = facts.training_data_of(release), release.recipe.card.intended_use
    considerations: dict[str, Any] = {"useCases": [clean(use)]} if use else {}
    considerations["technicalLimitations"] = facts.limitations_of(release)
    parameters = {
        "approach": {"type": "supervised"},
        "task": "pose estimation",
        "architectureFamily": "RTMO",
        "modelArchitecture": clean(artifact["architecture"]),
        "datasets": [{"type": "dataset", "name": "training data", "description": data}] if data else [],
        **_inputs_and_outputs(artifact),
    }
    more = {
        "precision": facts.precision_of(result),
        "keypoints": ", ".join(map(clean, artifact["skeleton"]["keypoints"])),
        "score-threshold": artifact["decode"]["score_thr"],
        "nms-threshold": artifact["decode"]["nms_thr"],
    }
    return {
        "modelParameters": parameters,
        "quantitativeAnalysis": {"performanceMetrics": [*_accuracy(release, result), *_parity(release, result)]},
        "considerations": considerations,
        "properties": [{"name": f"{PREFIX}{name}", "value": str(value)} for name, value in more.items()],
    }


def _inputs_and_outputs(artifact: Mapping[str, Any]) -> dict[str, list[dict[str, str]]]:
    contract, count = artifact["input"], len(artifact["skeleton"]["keypoints"])
    size = f"({contract['batch'] or 'B'}, 3, {contract['height']}, {contract['width']})"
    inputs = [f"input: float32 {size}, BGR, 0 to 255, letterboxed ({contract['placement']}, grey {contract['pad']})"]
    outputs = [
        "dets: float32 (B, N, 5), x1, y1, x2, y2, score, in pixels of the input",
        f"keypoints: float32 (B, N, {count}, 3), x, y, score, in pixels of the input",
    ]
    if artifact["decode"]["mode"] == "raw":
        outputs = ["head tensors, not decoded"]
    return {"inputs": [{"format": text} for text in inputs], "outputs": [{"format": text} for text in outputs]}


def _accuracy(release: Release, result: StepRecord) -> Iterable[dict[str, str]]:
    for one in facts.accuracies_of(release):
        if one.model == result.name:
            for name, value in one.metrics.items():
                yield {"type": name, "value": f"{value:.4f}", "slice": f"{one.data} ({one.scope})"}


def _parity(release: Release, result: StepRecord) -> Iterable[dict[str, str]]:
    names = {"oks_mean": "mean OKS", "keypoint_px_p99": "keypoint distance, 99th percentile, px"}
    for one in release.of("parity"):
        other = next((name for name in one.step.inputs.values() if name != result.name), "")
        if one.good and result.name in one.step.inputs.values():
            for key, title in names.items():
                value = one.facts["people"].get(key)
                if value is not None:
                    where = clean(str(one.facts["source"]))
                    yield {"type": f"{title}, compared with {other}", "value": f"{value:.4g}", "slice": where}
